"""The HyperModel of the search for a convolutional cell, without a search."""

import dataclasses
import itertools
import json
import random

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from searches import Eager

import keras_autoshrink as kas
from keras_autoshrink.hypermodels.callbacks import ProxyStopping
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.hypermodels.seeding import ShuffledBatches
from keras_autoshrink.networks.references import REFERENCES
from keras_autoshrink.training.recipes import RECIPES

SMALL = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}


def hypermodel(**arguments):
    defaults = {"input_shape": (4, 4, 1), "classes": 2, "num_nodes": 2, "filters": 4, **SMALL}
    return kas.CNNCellHyperModel(**{**defaults, **arguments})


def test_half_of_the_nodes_have_each_op_in_an_order_of_the_seed():
    cells = [kas.CNNCellHyperModel(seed=seed).cell for seed in range(6)]
    assert cells == [kas.CNNCellHyperModel(seed=seed).cell for seed in range(6)]
    assert len({cell.ops for cell in cells}) > 1
    for cell in cells:
        assert cell == kas.Cell.dense(cell.ops)
        assert sorted((cell.ops.count("sepconv3x3"), cell.ops.count("conv1x1"))) == [3, 4]


def test_the_proxy_is_a_stem_the_stages_and_a_classifier():
    model = hypermodel(operations=["conv1x1"]).build(keras_tuner.HyperParameters())
    assert kas.count_macs(model) == 16 * 9 * 32 + 16 * 32 * 4 + 4 * 2
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}
    assert not [x for x in model.layers if isinstance(x, keras.layers.Add)]


COUNTS = {"target_macs": kas.count_macs, "target_params": kas.count_params}


def drawn(hypermodel, seed):
    """Hyperparameters at random, of a cell whose first edge is there."""
    hp = keras_tuner.HyperParameters()
    hypermodel.network(hp)
    for number, parameter in enumerate(hp.space):
        hp.values[parameter.name] = parameter.random_sample(100 * seed + number)
    hp.values["cell/edge_0_1"] = True
    return hp


@pytest.mark.parametrize(("name", "target"), [("target_macs", 1_000_000), ("target_params", 9_000)])
def test_at_a_budget_every_network_costs_the_same(name, target):
    two_stages = {"stage_strides": (1, 2), "num_nodes": 3, name: target}
    at_budget = kas.CNNCellHyperModel((16, 16, 3), classes=4, **two_stages)
    keys = set()
    for seed in range(2):
        hp = drawn(at_budget, seed)
        model = at_budget.build(hp)
        assert 0.95 * target <= COUNTS[name](model) <= target
        joined = {x.name for x in model.layers if isinstance(x, keras.layers.Concatenate)}
        assert joined <= {"pools"}  # of means, in front of the classifier
        network = at_budget.network(hp).arguments
        assert network["stem_stride"] == hp.get("stem_stride")
        assert network["cell"].ops[1] == hp.get("cell/op_1")
        keys.add(network["cell"].key)
    assert len(keys) > 1
    assert at_budget.default_score({"val_accuracy": 0.5}, macs=123) == 0.5


def test_no_two_neighbours_are_the_same_network(monkeypatch):
    # As wide as they are asked to be: then what is left to differ is what they are made of.
    def as_asked(build, base, *_):
        return tuple(round(16 * each) for each in base)

    monkeypatch.setattr("keras_autoshrink.hypermodels.cnn.solve_filters", as_asked)
    hypermodel = kas.CNNCellHyperModel((16, 16, 3), 4, num_nodes=3, target_macs=1)
    hp = keras_tuner.HyperParameters()
    hypermodel.network(hp)
    space = CellSpace(
        hp.space, True, first=hypermodel.starting_values(), without_effect=hypermodel.without_effect
    )
    *_, dense = (each for each in space.space.first if space.space.contains(each))
    assert dense.prune().ops == ("input", "conv3x3")
    dense = space.sub_cell({**space.values(dense), "stage4_cells": 0})
    networks = []
    for point in (dense, *space.space.neighbours(dense, least_edges=1)):
        point_hp = keras_tuner.HyperParameters()
        point_hp.values = space.values(point)
        networks.append(hypermodel.network(point_hp).build(name="network").get_config())
    changed = {name for name in hp.values if any(c in name for c in ("large", "stage4_growth"))}
    assert changed == set(hypermodel.without_effect(space.values(dense)))
    assert len(networks) > 30
    assert len({repr(each) for each in networks}) == len(networks)


def test_what_references_are_like_is_the_same_network():
    hypermodel = kas.CNNCellHyperModel((32, 32, 3), 4, target_macs=1_000_000)
    liked = [each for each in hypermodel.starting_values() if len(each) > 1 and "network" in each]
    assert len(liked) == 6
    for values in liked:
        hp = keras_tuner.HyperParameters()
        hypermodel.network(hp)
        hp.values.update({**values, "network": "cell"})
        found = hypermodel.network(hp)
        name = values["network"].removesuffix("-stride2")
        filters = [found.arguments["stem_filters"], *found.arguments["stage_filters"]]
        if name == "resnet8":  # whose stem is as wide as the first stage
            del filters[0]
            arguments = {**found.arguments, "stem_filters": filters[0]}
            found = dataclasses.replace(found, arguments=arguments)
        stride = found.arguments["stem_stride"]
        reference = REFERENCES[name].build((32, 32, 3), 4, filters, stem_stride=stride)
        assert kas.count_macs(found.build()) == kas.count_macs(reference)


def test_what_is_given_is_not_searched():
    given = {"stem_stride": 1, "stage_repeats": (2, 1), "stage_strides": (1, 2)}
    at_budget = kas.CNNCellHyperModel((8, 8, 1), target_macs=200_000, **given)
    hp = keras_tuner.HyperParameters()
    network = at_budget.network(hp).arguments
    assert {name: network[name] for name in given} == given
    assert not [name for name in hp.values if "stem_stride" in name or "cells" in name]


def test_a_target_that_no_network_has_is_one_line():
    at_budget = kas.CNNCellHyperModel((8, 8, 1), classes=2, target_macs=100)
    with pytest.raises(ValueError, match=r"^target_macs=100: the smallest .* MACs, .* [\d,]+$"):
        at_budget.build(keras_tuner.HyperParameters())


class Recorder:
    """A model that notes what it is to be trained with."""

    loss = None

    def fit(self, **arguments):
        return arguments


def fitted(*data, **arguments):
    return hypermodel(batch_size=4).fit(None, Recorder(), *data, **arguments)


X, Y = np.zeros((8, 4, 4, 1), "float32"), np.arange(8)


def test_at_a_budget_labels_are_smoothed_in_training_alone():
    small = {"num_nodes": 2, "stage_strides": (1,), "stage_repeats": (1,)}
    hypermodel = Eager((8, 8, 1), classes=3, target_macs=20_000, **small)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    x, y = np.random.default_rng(0).random((12, 8, 8, 1), "float32"), np.arange(12) % 3
    hypermodel.fit(hp, model, x, y, epochs=1, verbose=0)
    logits, one_hot = model(x), np.eye(3)[y]
    for training, smoothing in ((True, RECIPES["short"].label_smoothing), (False, 0)):
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        found = model.compute_loss(y=y, y_pred=logits, training=training)
        assert float(found) == pytest.approx(float(loss(one_hot, logits)), abs=1e-6)


def test_arrays_are_shuffled_by_pythons_seed():
    orders = []
    for seed in (0, 0, 1):
        random.seed(seed)
        mine = keras.callbacks.Callback()
        given = fitted(X, Y, callbacks=[mine], validation_data=(X, Y), epochs=3)
        batches, (begin, *rest) = given["x"], given["callbacks"]
        assert isinstance(batches, ShuffledBatches)
        assert (given["shuffle"], given["validation_batch_size"], given["epochs"]) == (False, 4, 3)
        assert "y" not in given
        assert [type(each) for each in rest[1:]] == [keras.callbacks.EarlyStopping, ProxyStopping]
        assert rest[0] is mine
        order = []
        for epoch in range(2):
            begin.on_epoch_begin(epoch, {})
            order.append([int(y) for number in range(2) for y in batches[number][1]])
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(8))


@pytest.mark.parametrize(
    "asked",
    [{"shuffle": False}, {"sample_weight": np.ones(8)}, {"steps_per_epoch": 2}],
)
def test_what_keras_alone_does_is_left_to_keras(asked):
    given = fitted(X, Y, **asked)
    assert given["x"] is X
    assert given["batch_size"] == 4
    assert fitted(X, Y, batch_size=2, **asked)["batch_size"] == 2


def test_repeated_trainings_hold_out_other_images():
    x, y = np.zeros((23, 1, 1, 1)), np.arange(23)
    hp, held = keras_tuner.HyperParameters(), []
    for repeat in range(5):
        hp.values["tuner/repeat"] = repeat
        given = hypermodel().fit(hp, Recorder(), x, y, validation_split=0.2)
        trained_on = [label for _, labels in given["x"] for label in labels]
        held.append({*given["validation_data"][1]})
        assert sorted([*trained_on, *held[-1]]) == [*y]
    assert held[0] == held[4] == {*y[18:]}  # as Keras splits them
    assert len(set.union(*held)) == sum(map(len, held[:4])) == 20


def test_where_many_images_are_held_out_all_trainings_are_scored_on_the_same():
    # What is said of a final, and its standard error, goes by `count_folds`.
    x, y = np.zeros((10_000, 1, 1, 1)), np.arange(10_000)
    hp = keras_tuner.HyperParameters()
    hp.values["tuner/repeat"] = 1
    for share, parts, are_last in ((0.2, 1, True), (0.1, 2, False)):
        given = hypermodel().fit(hp, Recorder(), x, y, validation_split=share)
        assert hypermodel().count_folds(x, y, validation_split=share) == parts
        assert (min(given["validation_data"][1]) == 10_000 * (1 - share)) == are_last


def test_keras_refuses_to_hold_out_all_images():
    asked = {"validation_split": 0.95}  # of eight
    assert fitted(X, Y, **asked)["validation_split"] == 0.95
    assert hypermodel().count_folds(X, Y, **asked) == 1
    with pytest.raises(ValueError, match="not sufficient to split"):
        hypermodel().build(keras_tuner.HyperParameters()).fit(X, Y, verbose=0, **asked)


def test_a_data_set_shuffles_itself():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    given = fitted(data)
    assert given["x"] is data
    assert given["shuffle"] is False
    assert "batch_size" not in given


def test_photographs_are_shifted_and_mirrored():
    height, width = 16, 33  # to be shifted by 1 row and by 2 columns
    pixels = np.arange(height * width * 2, dtype="float32").reshape(1, height, width, 2)
    images, labels = np.repeat(pixels, 200, axis=0), np.arange(200)
    padded = np.pad(pixels[0], ((1, 1), (2, 2), (0, 0)), "reflect")
    moved = {}
    for down, right in itertools.product(range(3), range(5)):
        part = padded[down : height + down, right : width + right]
        moved[part.tobytes()] = (down, right, False)
        moved[part[:, ::-1].tobytes()] = (down, right, True)
    hypermodel = kas.CNNCellHyperModel((height, width, 2), target_macs=10**6, photographs=True)
    given = hypermodel.fit(None, Recorder(), images, labels)
    batches, (begin, *_) = given["x"], given["callbacks"]
    sides = []
    for epoch in range(2):
        begin.on_epoch_begin(epoch, {})
        found = {y: moved[x.tobytes()] for b in batches for x, y in zip(*b, strict=True)}
        assert {*found.values()} == {*moved.values()}  # all of them, and nothing else
        sides.append([found[y][2] for y in labels])
    assert sides[0] == [not side for side in sides[1]]  # in every second epoch
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(100)
    given = hypermodel.fit(None, Recorder(), data)["x"]
    assert {moved[x.tobytes()] for x, _ in given.unbatch().as_numpy_iterator()} == {*moved.values()}
    with pytest.raises(ValueError, match="photographs=True: is for arrays x and y"):
        hypermodel.fit(None, Recorder(), images, labels, steps_per_epoch=1)


def test_its_config_holds_all_that_a_score_depends_on():
    config = hypermodel().get_config()
    for changed in (
        *({"input_shape": (5, 4, 1)}, {"classes": 3}, {"num_nodes": 3}, {"filters": 8}),
        *({"stage_scales": (2,)}, {"stage_strides": (2,)}, {"stage_repeats": (2,)}),
        *({"stem_filters": 8}, {"stem_stride": 2}, {"activation": "swish"}),
        *({"operations": ["conv1x1"], "num_nodes": 3}, {"learning_rate": 1}, {"batch_size": 8}),
    ):
        assert hypermodel(**changed).get_config() != config
    assert json.loads(json.dumps(config))["cell"] == config["cell"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"num_nodes": 1}, "num_nodes=1: expected"),
        ({"classes": 1}, "classes=1: expected"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"space": "all"}, "space='all': expected"),
        ({"space": "budget"}, "target_kb=None, target_latency_ms=None: expected one target"),
        ({"target_macs": 1, "target_params": 1}, "expected one target"),
        ({"target_macs": 1, "space": "paper"}, "none in the paper's space"),
        ({"target_macs": 1}, "filters=4: follows from the target"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected"),
        ({"operations": ()}, r"operations=\(\): expected"),
        ({"operations": "conv1x1"}, "operations='conv1x1': expected"),
        ({"operations": ["conv1x1", "conv9x9"]}, "op 'conv9x9': .*there are conv1x1, conv3x3"),
    ],
)
def test_bad_hypermodels_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        hypermodel(**arguments)
