"""The recurrent cell against a second implementation of its formulas, in NumPy and float64."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_autoshrink as kas
from keras_autoshrink.cell import SHRINKRNN_CELL
from keras_autoshrink.networks.operations import RNN_OPERATIONS
from keras_autoshrink.networks.rnn import ShrinkRNNCell

CHAIN = kas.Cell(("input", "identity"), ((0, 1),))
BOTH = {"dropout": 0.5, "recurrent_dropout": 0.5}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "identity": lambda x: x,
}


def reference_step(cell, weights, x, h, x_mask=1, h_mask=1):
    """One step, edge by edge: the state after x, from the state h.

    `weights` is one pair of matrices, (for the gate c, for the value g), for each edge that can
    be reached from node 0, and under "input" that of W0.
    """

    def gated(old, arguments, pair, function):
        gate, value = (arguments @ matrix for matrix in pair)
        return old + sigmoid(gate) * (function(value) - old)

    arguments = np.concatenate([x * x_mask, h * h_mask], axis=-1)
    s = {0: gated(h, arguments, weights["input"], np.tanh)}
    for j in range(1, len(cell.ops)):
        contributions = [
            gated(s[i], s[i] * h_mask, weights[i, j], FUNCTIONS[cell.ops[j]])
            for i in range(j)
            if i in s and (i, j) in cell.edges
        ]
        if contributions:
            s[j] = np.mean(contributions, axis=0)
    leaves = [s[i] for i in s if not any(edge[0] == i for edge in cell.edges)]
    return np.mean(leaves, axis=0)


def reference(cell, weights, x, h, **masks):
    """The states after all steps: x is (batch, steps, features), the result (batch, steps, units).

    Computed in float64 if the weights are.
    """
    states = []
    for step in range(x.shape[1]):
        h = reference_step(cell, weights, x[:, step], h, **masks)
        states.append(h)
    return np.stack(states, axis=1)


def per_edge(cell, units, kernels):
    """Slices the layer's kernels into the weights of `reference_step`.

    `kernels` are W0's rows for x, those for h, and then the kernels of the nodes that have edges,
    as in `layer.weights`. Columns of W0: c, then g. Columns of a node's kernel: c of all its
    edges, in the order of the nodes that they lead to, then g of all its edges in the same order.
    """
    kernels = [np.asarray(kernel, "float64") for kernel in kernels]
    weights = {"input": np.split(np.concatenate(kernels[:2]), 2, axis=1)}
    edges = sorted(cell.live_edges)
    nodes = sorted({i for i, _ in edges})
    for i, kernel in zip(nodes, kernels[2:], strict=True):
        successors = [j for source, j in edges if source == i]
        assert kernel.shape == (units, 2 * units * len(successors))
        blocks = np.split(kernel, 2 * len(successors), axis=1)
        for position, j in enumerate(successors):
            weights[i, j] = blocks[position], blocks[len(successors) + position]
    return weights


def random_cell(rng):
    """2 to 8 nodes, any ops, any edges; at least one leaves node 0."""
    nodes = int(rng.integers(2, 9))
    edges = {(i, j) for j in range(nodes) for i in range(j) if rng.random() < 0.4}
    edges.add((0, int(rng.integers(1, nodes))))
    return kas.Cell(("input", *rng.choice(RNN_OPERATIONS, nodes - 1).tolist()), tuple(edges))


def case(cell, seed=0, *, batch=3, steps=6, features=3, units=5, rates=None, **options):
    """A layer of `cell` with weights of decent scale, an input and a state, all random.

    The input and the state are float64 and exact in float32.
    """
    rng = np.random.default_rng(seed)
    recurrent_cell = ShrinkRNNCell(cell, units, seed=seed, **(rates or {}))
    options = {"return_sequences": True, "return_state": True, **options}
    layer = keras.layers.RNN(recurrent_cell, **options)
    layer.build((batch, steps, features))
    layer.set_weights([rng.uniform(-0.5, 0.5, w.shape) for w in layer.weights])
    return SimpleNamespace(
        cell=cell,
        layer=layer,
        weights=per_edge(cell, units, layer.get_weights()),
        x=rng.normal(size=(batch, steps, features)).astype("float32").astype("float64"),
        h=rng.uniform(-1, 1, (batch, units)).astype("float32").astype("float64"),
    )


def run(c, **kwargs):
    """Outputs and last state of a case's layer, as arrays."""
    sequence, state = c.layer(c.x.astype("float32"), initial_state=c.h.astype("float32"), **kwargs)
    return np.array(sequence), np.array(state)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_outputs_and_states_are_those_of_the_formulas():
    cells = [random_cell(np.random.default_rng(seed)) for seed in range(12)]
    for seed, cell in enumerate(cells):
        c = case(cell, seed)
        expected = reference(c.cell, c.weights, c.x, c.h)
        outputs, state = run(c)
        assert np.ptp(outputs) > 0.1  # Something happens.
        assert_close(outputs, expected)
        assert_close(state, expected[:, -1])
    # Among these cells are all kinds.
    assert any(len(cell.reachable) < cell.num_nodes for cell in cells)
    assert any(len(cell.leaves) > 1 for cell in cells)
    assert {op for cell in cells for op in cell.prune().ops} == {"input", *RNN_OPERATIONS}


# Nodes 1 and 3 are unreachable.
PRUNED = kas.Cell(
    ("input", "tanh", "sigmoid", "relu", "identity"), ((0, 2), (1, 2), (1, 3), (2, 4), (0, 4))
)
RELU = kas.Cell(("input", "relu", "tanh", "relu"), ((0, 1), (0, 2), (1, 2), (0, 3)))


@pytest.mark.parametrize("cell", [SHRINKRNN_CELL, RELU])
def test_gradients_are_those_of_finite_differences(cell):
    c = case(cell, 1, batch=2, steps=3, features=3, units=4)
    inputs = tf.constant(c.x, "float32")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs, _ = c.layer(inputs, initial_state=tf.constant(c.h, "float32"))
        loss = tf.reduce_sum(outputs**2)
    actual = tape.gradient(loss, [*c.layer.trainable_weights, inputs])

    *kernels, x = parameters = [np.array(w, "float64") for w in (*c.layer.get_weights(), c.x)]

    def reference_loss():
        return np.sum(reference(c.cell, per_edge(c.cell, 4, kernels), x, c.h) ** 2)

    assert len(actual) == len(parameters)
    for parameter, gradient in zip(parameters, actual, strict=True):
        expected = np.zeros_like(parameter)
        for index, value in np.ndenumerate(parameter):
            losses = []
            for change in (1e-5, -1e-5):
                parameter[index] = value + change
                losses.append(reference_loss())
            parameter[index] = value
            expected[index] = (losses[0] - losses[1]) / 2e-5
        assert np.abs(expected).max() > 1e-3
        assert_close(gradient, expected, 1e-4)


def test_unrolled_it_computes_the_same():
    looped, unrolled = (case(SHRINKRNN_CELL, unroll=unroll) for unroll in (False, True))
    for one, other in zip(run(looped), run(unrolled), strict=True):
        assert_close(one, other, 1e-6)


def test_a_masked_step_keeps_output_and_state():
    c = case(SHRINKRNN_CELL)
    mask = np.ones((3, 6), bool)
    mask[0, 2:4] = mask[1, 5] = False
    outputs, state = run(c, mask=tf.constant(mask))
    for row in range(3):
        kept = np.flatnonzero(mask[row])
        short = reference(c.cell, c.weights, c.x[row : row + 1, kept], c.h[row : row + 1])[0]
        assert_close(outputs[row, kept], short)
        assert_close(state[row], short[-1])
    np.testing.assert_array_equal(outputs[0, 2:4], outputs[0, [1, 1]])
    np.testing.assert_array_equal(outputs[1, 5], outputs[1, 4])


def masks_of(c):
    """The masks that the next call of a new case will draw, found by drawing them elsewhere."""
    cell = ShrinkRNNCell.from_config(c.layer.cell.get_config())
    x_mask = cell.get_dropout_mask(c.x[:, 0].astype("float32"))
    h_mask = cell.get_recurrent_dropout_mask(c.h.astype("float32"))
    masks = {"x_mask": x_mask, "h_mask": h_mask}
    return {name: np.array(mask) for name, mask in masks.items() if mask is not None}


def test_one_dropout_mask_for_all_steps_and_nodes():
    c = case(SHRINKRNN_CELL, rates=BOTH)
    masks = masks_of(c)
    outputs, state = run(c, training=True)
    # One mask of x and one of h in all 6 steps, and that of h on every node.
    expected = reference(c.cell, c.weights, c.x, c.h, **masks)
    assert_close(outputs, expected)
    assert_close(state, expected[:, -1])
    # The reference would notice if it were otherwise: each of the masks matters in each step.
    for left_out in masks:
        other = reference(c.cell, c.weights, c.x, c.h, **{**masks, left_out: 1})
        assert (np.abs(other - expected).max(axis=(0, 2)) > 1e-3).all()


def test_dropout_in_a_graph_is_the_same():
    c = case(SHRINKRNN_CELL, rates=BOTH)
    masks = masks_of(c)
    x, h = tf.constant(c.x, "float32"), tf.constant(c.h, "float32")
    outputs, _ = tf.function(lambda x, h: c.layer(x, initial_state=h, training=True))(x, h)
    assert_close(outputs, reference(c.cell, c.weights, c.x, c.h, **masks))


def test_masks_differ_between_calls_and_between_sequences():
    c = case(SHRINKRNN_CELL, rates=BOTH)
    c.x[:], c.h[:] = c.x[:1], c.h[:1]
    first, second = (run(c, training=True)[0] for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_nothing_is_dropped_but_in_training():
    c = case(SHRINKRNN_CELL, rates=BOTH)
    assert_close(run(c)[0], reference(c.cell, c.weights, c.x, c.h))


def test_each_rate_drops_its_own():
    for rate, mask in (("dropout", "x_mask"), ("recurrent_dropout", "h_mask")):
        c = case(SHRINKRNN_CELL, rates={rate: 0.5})
        masks = masks_of(c)
        assert set(masks) == {mask}
        outputs, _ = run(c, training=True)
        assert_close(outputs, reference(c.cell, c.weights, c.x, c.h, **masks))


def test_weights_begin_uniform_within_the_inverse_root_of_the_units():
    layer = keras.layers.RNN(ShrinkRNNCell(CHAIN, 64))
    layer.build((1, 1, 40))
    assert [w.shape for w in layer.get_weights()] == [(40, 128), (64, 128), (64, 128)]
    assert not np.array_equal(*layer.get_weights()[1:])
    for values in layer.get_weights():
        assert 0.99 / 8 < np.abs(values).max() <= 1 / 8
        assert abs(values.mean()) < 0.01
        assert values.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": kas.Cell(("input", "tanh", "conv1x1"), ((0, 1), (1, 2)))}, "op 'conv1x1'"),
        ({"cell": {"format": "something else"}}, "not a cell"),
        ({"units": 0}, "units=0: expected a whole number"),
        ({"dropout": 1}, "^dropout=1: expected"),
        ({"recurrent_dropout": -1}, "recurrent_dropout=-1: expected"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShrinkRNNCell(**{"cell": CHAIN, "units": 4, **arguments})


def test_counts_by_hand():
    c = case(PRUNED, features=3, units=5, return_state=False)
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, c.layer(inputs))
    # W0 and the edges 0-2, 0-4, 2-4.
    one_step = (3 + 5) * 2 * 5 + 3 * 5 * 2 * 5
    assert kas.count_params(model) == one_step
    assert kas.count_macs(model) == 6 * one_step
    assert kas.count_macs(model, input_shape=(1, 3)) == one_step
    # An op that pruning drops is no error.
    assert ShrinkRNNCell(kas.Cell(("input", "conv1x1", "tanh"), ((0, 2), (1, 2))), 4)
