"""The hand-made networks: their published counts, and their widths at a budget."""

import functools
import math
import random

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

import keras_autoshrink as kas
from keras_autoshrink.networks import references
from keras_autoshrink.networks.budget import solve_filters
from keras_autoshrink.networks.references import (
    REFERENCES,
    reference_labels,
    reference_models,
    solve_reference,
)

CIFAR = (32, 32, 3)


def published(name, classes, input_shape=(224, 224, 3), stem_stride=2):
    reference = REFERENCES[name]
    return reference.build(input_shape, classes, reference.base, stem_stride=stem_stride)


def test_mobilenetv2_is_that_of_keras_applications():
    ours = published("mobilenetv2", 1000)
    theirs = keras.applications.MobileNetV2(weights=None)
    assert kas.count_params(ours) == kas.count_params(theirs) == 3_538_984
    assert kas.count_macs(ours) == kas.count_macs(theirs) == 300_774_272  # published: 300M

    def kinds(model):
        named = (x for x in model.layers if not isinstance(x, keras.layers.ZeroPadding2D))
        return [type(x).__name__.replace("ReLU", "Activation") for x in named]

    assert kinds(ours) == kinds(theirs)


def test_the_published_networks_have_the_published_counts():
    mobilenetv4 = published("mobilenetv4", 1000)
    assert round(kas.count_macs(mobilenetv4) / 1e9, 1) == 0.2
    assert round(kas.count_params(mobilenetv4) / 1e6, 1) == 3.8
    # timm's mobilenetv4_conv_small; it does not count the moving statistics.
    assert sum(math.prod(weight.shape) for weight in mobilenetv4.trainable_weights) == 3_774_024

    resnet8 = published("resnet8", 10, CIFAR, stem_stride=1)
    assert kas.count_params(resnet8) == 78_666
    assert round(kas.count_macs(resnet8) / 1e6, 1) == 12.5


@pytest.mark.parametrize("name", ["chain", "separable-residual"])
def test_what_has_no_publication_has_a_total_stride_of_32_for_large_images(name):
    model = published(name, 10, (96, 96, 1))
    assert model.layers[-3].output.shape[1:3] == (3, 3)


def test_each_costs_what_the_budget_allows():
    labels = reference_labels()
    assert {*labels} == {*REFERENCES, *(f"{name}-stride2" for name in REFERENCES)}
    strides = len(labels) // 2
    # Of every other one the stem of stride 2.
    for name in (*labels[:strides:2], *labels[strides + 1 :: 2]):
        solved = solve_reference(name, CIFAR, 10, 4_000_000, kas.count_macs, "target_macs")
        model = REFERENCES[solved[0]].build(**solved[1], batchnorm_momentum=0.8)
        assert 3_800_000 <= kas.count_macs(model) <= 4_000_000, name
        assert (model.name, model.output_shape, model.compiled) == (name, (None, 10), False)
        assert model.layers[-1].activation is keras.activations.linear
        maps = [layer.output.shape for layer in model.layers if len(layer.output.shape) == 4]
        assert maps[1][1:3] == ((16, 16) if name.endswith("-stride2") else (32, 32))
        assert min(maps[-1][1:3]) >= 4
        norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert {norm.momentum for norm in norms} == {0.8}
        assert all(width % 4 == 0 for _, *_, width in maps[1:])


def test_the_narrowest_network_may_cost_too_much():
    build = functools.partial(REFERENCES["shrinkcnn"].build, CIFAR, 10, stem_stride=1)
    assert "the smallest network of this kind has 1,095,248 MACs" in refusal(
        solve_filters, build, REFERENCES["shrinkcnn"].small_base, 1_000_000
    )


def only(monkeypatch, *names):
    chosen = {name: REFERENCES[name] for name in names}
    monkeypatch.setattr(references, "REFERENCES", chosen)


def test_parameters_can_be_the_budget(monkeypatch):
    only(monkeypatch, "chain", "resnet8")
    models = reference_models((12, 9, 1), 2, target_params=9_000)
    assert [*models] == ["chain", "resnet8", "chain-stride2", "resnet8-stride2"]
    for model in models.values():
        assert 0.95 * 9_000 <= kas.count_params(model) <= 9_000


def test_what_cannot_be_built_is_left_out_by_name(monkeypatch, caplog):
    only(monkeypatch, "resnet8")
    models = reference_models((5, 4, 1), 2, target_macs=30_000)
    assert [*models] == ["resnet8"]
    # A stride that would leave two pixels is none.
    sums = [models["resnet8"].get_layer(f"stack{i}_add") for i in (1, 2, 3)]
    assert {layer.output.shape[1:3] for layer in sums} == {(5, 4)}
    assert caplog.messages == [
        "reference resnet8-stride2 is left out: input_shape=(5, 4, 1): a stem of stride 2 leaves "
        "2 pixels of height or width, expected 3 or more"
    ]
    assert refusal(reference_models, (2, 9, 1), 2, target_macs=30_000) == (
        "input_shape=(2, 9, 1): a stem of stride 1 leaves 2 pixels of height or width, expected "
        "3 or more (resnet8; nor can another reference be built)"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "target_macs=None, target_params=None, target_kb=None: expected one of the three"),
        (
            {"target_macs": 1, "target_params": 2},
            "target_macs=1, target_params=2, target_kb=None: expected one of the three",
        ),
        ({"target_macs": 0}, "target_macs=0: expected a whole number of 1 or more"),
        ({"target_params": 1.5}, "target_params=1.5: expected a whole number of 1 or more"),
        ({"target_kb": -1}, "target_kb=-1: expected a number greater than 0"),
        (
            {"target_kb": 2.5},
            "target_kb=2.5: the smallest network of this kind has 11.1 KB, the widest 319,367.7 "
            "(resnet8; nor can another reference be built)",
        ),
        ({"target_macs": 9, "classes": 0}, "classes=0: expected a whole number of 1 or more"),
        (
            {"target_macs": 9, "input_shape": (8, None, 1)},
            "input_shape=None: expected a whole number of 1 or more",
        ),
        (
            {"target_macs": 9, "input_shape": (8, 8)},
            "input_shape=(8, 8): expected (height, width, channels)",
        ),
        (
            {"target_macs": 9_000},
            "target_macs=9,000: the smallest network of this kind has 14,408 MACs, the widest "
            "4,999,766,016 (resnet8; nor can another reference be built)",
        ),
        (
            {"target_params": 900},
            "target_params=900: the smallest network of this kind has 1,050 parameters, the "
            "widest 312,576,002 (resnet8; nor can another reference be built)",
        ),
    ],
)
def test_bad_arguments_are_named(monkeypatch, arguments, line):
    only(monkeypatch, "resnet8")
    valid = {"input_shape": (4, 4, 1), "classes": 2}
    assert refusal(reference_models, **{**valid, **arguments}) == line


def test_to_solve_takes_few_builds_and_no_randomness():
    built, drawn = [], []

    def initializer(shape, dtype=None):
        drawn.append(shape)
        return keras.ops.zeros(shape, dtype)

    def build(filters):
        built.append(filters)
        model = REFERENCES["chain"].build(CIFAR, 10, filters)
        outputs = keras.layers.Dense(2, kernel_initializer=initializer)(model.output)
        return keras.Model(model.inputs, outputs)

    random.seed(3)
    state = random.getstate()
    filters = solve_filters(build, (32, 16, 32, 64), 3_000_000)
    assert random.getstate() == state
    assert len(built) == len({*built}) <= 10
    assert filters == solve_filters(build, (32, 16, 32, 64), 3_000_000)
    with keras.StatelessScope():
        pass  # at whose end variables that wait for their values get them
    assert not drawn


# A network of these tests is its filters, its cost a sum of a linear and a quadratic part.
widths = st.lists(st.floats(8, 300), min_size=1, max_size=7)


@settings(max_examples=50)
@given(widths, st.data())
def test_no_step_of_a_width_would_fit_any_more(base, data):
    shares = st.floats(0, 100)
    linear = [data.draw(shares) + 1 for _ in base]
    quadratic = [data.draw(shares) for _ in base]
    target = data.draw(st.integers(200_000, 50_000_000))
    built = []

    def cost(filters):
        built.append(filters)
        pairs = zip(filters, (3, *filters), strict=False)
        products = (b * one * other for b, (one, other) in zip(quadratic, pairs, strict=True))
        return int(sum(products) + sum(map(math.prod, zip(linear, filters, strict=True))))

    solve = functools.partial(solve_filters, lambda filters: filters, base, target, cost)
    try:
        filters = solve()
    except ValueError as error:
        assert "the smallest network" in str(error)  # noqa: PT017 - most targets can be met
        return
    looks = len(built)
    assert looks <= 40
    assert cost(filters) <= target
    steps = [(*filters[:i], filters[i] + 4, *filters[i + 1 :]) for i in range(len(filters))]
    assert cost(filters) >= 0.99 * target or all(cost(each) > target for each in steps)
    assert solve() == filters


@pytest.mark.parametrize("target", [7, 6_500])
def test_a_target_out_of_reach_is_named_with_both_ends(target):
    arguments = (lambda filters: filters, (1, 2), target, sum, "target_units")
    assert refusal(solve_filters, *arguments) == (
        f"target_units={target:,}: the smallest network of this kind has 8 units, the widest 6,144"
    )


def test_widths_without_proportion_are_named():
    for base, line in (
        ((), "base=(): expected at least one width"),
        ((1, 0), "base=0: expected a number greater than 0"),
    ):
        assert refusal(solve_filters, lambda filters: filters, base, 10) == line
