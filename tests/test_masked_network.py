"""The gated network against the Keras networks of the cells that it is gated to."""

import random

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

import keras_autoshrink as kas
from keras_autoshrink import masked_tensorflow, weights_file
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.shuffling import draw_seed

X = np.random.default_rng(0).random((12, 9, 8, 2), np.float32)
Y = np.arange(12, dtype=np.int32) % 3


def hypermodel(nodes):
    return kas.CNNCellHyperModel(
        input_shape=(9, 8, 2),
        classes=3,
        num_nodes=nodes,
        filters=4,
        stem_filters=4,
        stage_scales=(1, 2),
        stage_strides=(1, 2),
        stage_repeats=(2, 1) if nodes == 5 else (1, 1),
        seed=nodes,
    )


def sub_cell(cell, generator):
    """What some random removals leave, unreachable nodes and several leaves among it."""
    for _ in range(generator.randrange(len(cell.edges))):
        edges = [e for e in cell.edges if e[0] or sum(not i for i, _ in cell.edges) > 1]
        if not edges:
            break
        cell = cell.without_edge(generator.choice(edges))
        cell = kas.Cell(cell.ops, cell.live_edges)
    return cell


def build(model, cell):
    hp = keras_tuner.HyperParameters()
    hp.values = {f"cell/edge_{i}_{j}": (i, j) in cell.edges for i, j in model.cell.edges}
    return model.build(hp)


def flat_size(weights):
    return sum(weight.size for weight in weights)


def gated(network, cell, flat, given=None):
    """Logits of the gated network on TensorFlow, step by step."""
    layout = network.layout(cell)

    def arrays(whole, made, values):
        sizes = {(w.layer, w.name): w.size for w in made}
        parts = tf.split(values, [sizes.get((w.layer, w.name), 0) for w in whole])
        return [
            tf.reshape(part, [-1] if len(w.shape) == 1 else shape_of(w))
            for part, w in zip(parts, whole, strict=True)
        ]

    return network.logits(
        masked_tensorflow._Primitives(),
        X,
        arrays(network.weights, layout[0], flat),
        network.gates(cell),
        None if given is None else arrays(network.statistics, layout[1], given),
    )[0]


def shape_of(weight):
    return [-1 if axis == weight.axis else size for axis, size in enumerate(weight.shape)]


CASES = [(5 + number % 4, number) for number in range(50)]


@pytest.mark.parametrize(
    "nodes", [*(pytest.param(nodes, marks=pytest.mark.slow) for nodes in (5, 6, 7)), 8]
)
def test_it_is_the_candidates_own_network(nodes, tmp_path):
    model = hypermodel(nodes)
    network = MaskedNetwork(model.cell, **model.architecture)
    for number in [number for n, number in CASES if n == nodes]:
        generator = random.Random(number)
        numbers = np.random.default_rng(number)
        cell = sub_cell(model.cell, generator)
        keras.utils.set_random_seed(number)
        alone = build(model, cell)
        assert network.count_macs(cell) == kas.count_macs(alone)
        assert network.count_params(cell) == kas.count_params(alone)

        # It starts from the weights that Keras draws, and leaves the generator where Keras does.
        drawn = random.Random(number)
        initial = network.initial_weights(cell, drawn)
        named = weights_file.by_name(network, cell, initial, network.initial_statistics(cell))
        for layer in alone.layers:
            for weight in layer.weights:
                array = named.pop(f"{layer.name}/{weight.name}")
                np.testing.assert_array_equal(array, weight.numpy())
        assert not named
        assert draw_seed(drawn) == draw_seed()

        # From any weights and statistics it computes the same.
        made = network.layout(cell)
        flat = tf.constant(numbers.normal(0.1, 0.4, flat_size(made[0])), tf.float32)
        statistics = tf.constant(numbers.uniform(0.3, 2, flat_size(made[1])), tf.float32)
        arrays = weights_file.by_name(network, cell, flat.numpy(), statistics.numpy())
        weights_file.write(tmp_path / "weights.npz", arrays)
        weights_file.load(tmp_path / "weights.npz", alone)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            trained = gated(network, cell, flat)
            loss = keras.losses.sparse_categorical_crossentropy(Y, trained, from_logits=True)
        with tf.GradientTape() as theirs:
            expected = alone(X, training=True)
            other = keras.losses.sparse_categorical_crossentropy(Y, expected, from_logits=True)
        np.testing.assert_allclose(trained, expected, rtol=1e-5, atol=1e-5)

        # What is closed is not there, so that all of the gradient is the candidate's own.
        if number % 5 == 0:
            gradient = weights_file.by_name(
                network, cell, tape.gradient(loss, flat).numpy(), statistics.numpy()
            )
            own = [(layer.name, w) for layer in alone.layers for w in layer.trainable_weights]
            slopes = theirs.gradient(other, [weight.value for _, weight in own])
            for (layer, weight), slope in zip(own, slopes, strict=True):
                np.testing.assert_allclose(
                    gradient[f"{layer}/{weight.name}"], slope, rtol=1e-4, atol=1e-4
                )
        weights_file.load(tmp_path / "weights.npz", alone)  # training moved the statistics
        inferred = gated(network, cell, flat, statistics)
        np.testing.assert_allclose(inferred, alone(X, training=False), rtol=1e-5, atol=1e-5)


def test_a_cell_that_is_no_part_is_named():
    whole = hypermodel(4).cell
    part = whole.without_edge((0, 2))
    network = MaskedNetwork(part, **hypermodel(4).architecture)
    for of_cell in (network.gates, network.places):
        of_cell(part.without_edge((0, 1)))
        with pytest.raises(ValueError, match="no part of the network's, which lacks its edges 0-2"):
            of_cell(whole)
        with pytest.raises(ValueError, match="no part of the network's: its ops are"):
            of_cell(kas.Cell(whole.ops[:3], [(0, 1)]))


def test_other_ops_are_not_known():
    assert MaskedNetwork.knows(hypermodel(5).cell)
    assert not MaskedNetwork.knows(kas.Cell.dense(("input", "tanh")))
