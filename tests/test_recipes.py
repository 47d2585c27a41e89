"""What recipes are refused for, and the optimizers and penalties that they make."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.training.recipes import OPTIMIZERS, RECIPES, Recipe, default_recipe

VALID: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 8, "epochs": 2}


def recipe(**values: Any) -> Recipe:
    """A recipe, some of whose values do not matter."""
    return Recipe(**{**VALID, **values})


@pytest.mark.parametrize(
    "values",
    [
        {},
        *({"optimizer": name} for name in OPTIMIZERS),
        {"learning_rate": 1e-9, "batch_size": 1, "epochs": 1},
        {"l2": 0, "label_smoothing": 0, "ema": 0, "batchnorm_momentum": 0},
        {"l2": 9.0, "label_smoothing": 0.999, "ema": 0.999, "batchnorm_momentum": 0.999},
        {"ema": None, "augmentation": ("cutout",)},
    ],
)
def test_good_values(values):
    made = dataclasses.asdict(recipe(**values))
    assert made == {**made, **VALID, **values}


SHARE = "0 or more and less than 1"
COUNT = "a whole number of 1 or more"
REFUSED = [
    *(("optimizer", value, "one of adam, rmsprop, sgd") for value in ("", "SGD", "adamw", None)),
    *(("learning_rate", value, "more than 0") for value in (0, -0.1, math.inf, math.nan)),
    *(("batch_size", value, COUNT) for value in (0, -1, math.nan)),
    *(("epochs", value, COUNT) for value in (0, -1, 2.5, math.inf)),
    *(("l2", value, "0 or more") for value in (-1e-9, math.inf, math.nan)),
    *(("label_smoothing", value, SHARE) for value in (-0.1, 1, math.inf, math.nan)),
    *(("ema", value, SHARE) for value in (-0.1, 1, math.inf, math.nan)),
    *(("batchnorm_momentum", value, SHARE) for value in (-0.1, 1, math.inf, math.nan)),
]


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_values_refused(name, value, expected):
    with pytest.raises(ValueError, match=name) as caught:
        recipe(**{name: value})
    assert str(caught.value) == f"{name}={value!r}: expected {expected}"
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(RECIPES["imagenet"], **{name: value})


# Optimizers


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_learning_rate_falls_to_zero_along_a_cosine(name, ema):
    optimizer = recipe(optimizer=name, learning_rate=0.4, ema=ema).build_optimizer(60)
    rates = []
    for step in (0, 15, 20, 30, 40, 60, 61, 100):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    # Halfway 1/2; after a third, where the cosine is 1/2, 3/4.
    expected = [0.4, 0.2 * (1 + 0.5**0.5), 0.3, 0.2, 0.1, 0, 0, 0]
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "kind", "constants"),
    [
        ("rmsprop", keras.optimizers.RMSprop, {"rho": 0.9, "momentum": 0.9, "epsilon": 1}),
        ("sgd", keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", keras.optimizers.Adam, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
    ],
)
def test_optimizers_have_their_constants(name, kind, constants):
    optimizer = recipe(optimizer=name).build_optimizer(10)
    assert type(optimizer) is kind
    config = optimizer.get_config()
    assert {key: config[key] for key in constants} == constants
    for other in ("centered", "amsgrad", "weight_decay", "clipnorm", "clipvalue"):
        assert not config.get(other)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Two steps of gradient 2 from 1, by hand; the learning rate is 0.1 and then 0.05.
        # The velocity is 0.2 and then 0.9 * 0.2 + 0.1 = 0.28; a step is 0.9 times it and 2 rates.
        ("sgd", [1 - 0.38, 1 - 0.38 - 0.352]),
        # The mean square is 0.4 and then 0.76; the first step 0.2 / 1.4^0.5 = 0.16903.
        ("rmsprop", [1 - 0.16903, 1 - 0.16903 - (0.9 * 0.16903 + 0.1 / 1.76**0.5)]),
        ("adam", [0.9, 0.85]),
    ],
)
def test_optimizers_take_these_steps(name, expected):
    optimizer = recipe(optimizer=name, learning_rate=0.1).build_optimizer(2)
    weight = keras.Variable([1.0])
    values = []
    for _ in range(2):
        optimizer.apply([keras.ops.convert_to_tensor([2.0])], [weight])
        values.append(float(weight[0]))
    assert values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.75, 0.999])
def test_the_moving_average_has_its_momentum(name, momentum):
    optimizer = recipe(optimizer=name, ema=momentum).build_optimizer(100)
    assert optimizer.use_ema is True  # also at 0: a callback that swaps the weights asks for it
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    values = []
    for _ in range(2):
        optimizer.apply([keras.ops.convert_to_tensor([2.0])])
        values.append(float(weight[0]))
    # The average begins with the weight after the first step; the weight itself is not it.
    average = momentum * values[0] + (1 - momentum) * values[1]
    optimizer.finalize_variable_values([weight])
    assert float(weight[0]) == pytest.approx(average, rel=1e-6)


def test_without_a_momentum_there_is_no_moving_average():
    for name in OPTIMIZERS:
        assert recipe(optimizer=name).build_optimizer(10).use_ema is False


# Penalties


def small_model() -> keras.Model:
    """A network with all kinds of kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 2),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.SeparableConv2D(4, 2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


# Weights of each kernel: 2*2*2*3, 2*2*3*2, 2*2*6 and 6*4, 3*3*4*3.
KERNELS = (24, 24, 24, 24, 108)


def penalty(model: keras.Model) -> float:
    return float(sum(model.losses))


def test_the_penalty_is_l2_times_the_squares_of_all_kernels():
    model = small_model()
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 100))  # what must not count
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    assert tuple(int(np.prod(v.shape)) for v in kernels) == KERNELS
    for value, kernel in enumerate(kernels, start=1):
        kernel.assign(np.full(kernel.shape, -value))
    assert penalty(model) == 0
    recipe(l2=0.01).regularise(model)
    # 24 * (1 + 4 + 9 + 16) + 108 * 25 = 3420
    assert penalty(model) == pytest.approx(34.2, rel=1e-6)
    assert len(model.losses) == len(KERNELS)
    kernels[0].assign(np.zeros(kernels[0].shape))  # not measured once, but each time
    assert penalty(model) == pytest.approx(33.96, rel=1e-6)


def test_without_l2_there_is_no_penalty():
    model = small_model()
    recipe(l2=0.0).regularise(model)
    assert model.losses == []


def test_no_kernel_of_a_found_network_goes_without_penalty():
    model = kas.ShrinkCNN(
        input_shape=(8, 8, 1),
        classes=3,
        filters=8,
        stage_scales=(1, 2),
        stage_strides=(1, 2),
        stage_repeats=(1, 2),
        stem_filters=8,
        stem_stride=1,
        head_filters=16,
    )
    recipe(l2=0.5).regularise(model)
    squares = [
        float(np.square(v.numpy()).sum()) for v in model.trainable_variables if len(v.shape) > 1
    ]
    assert len(squares) > 20
    assert [float(x) for x in model.losses] == pytest.approx([x / 2 for x in squares], rel=1e-5)


def test_the_penalty_arrives_in_a_training():
    """Images of zeros: the penalty alone moves a kernel, by its learning rate times 2 * l2."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    before = model.layers[0].kernel.numpy()
    recipe(l2=0.25).regularise(model)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(), jit_compile=False)
    history = model.fit(np.zeros((3, 4)), np.zeros((3, 2)), verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), before * 0.95, rtol=1e-5)
    assert history.history["loss"] == pytest.approx([0.25 * np.square(before).sum()], rel=1e-5)


# The recipes there are


def test_imagenet_is_trained_as_published():
    assert RECIPES["imagenet"] == Recipe(
        optimizer="rmsprop",
        learning_rate=0.1,
        batch_size=256,
        epochs=300,
        augmentation=("resized_crop", "horizontal_flip", "colour_jitter", "random_erasing"),
        l2=4e-5,
        label_smoothing=0.1,
        ema=0.999,
        batchnorm_momentum=0.999,
    )


def test_each_data_set_has_a_recipe():
    assert default_recipe("imagenet2012") == "imagenet"
    assert default_recipe("cifar10") == "cifar10"
    for other in ("digits", "/data/flowers", "data.npz", ""):
        assert default_recipe(other) == "plain"
    assert sorted(RECIPES) == ["cifar10", "imagenet", "plain"]


def test_the_plain_recipe_harms_no_image():
    assert RECIPES["plain"].augmentation == ()
