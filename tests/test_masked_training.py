"""A candidate trained by the graph for all candidates, and by Keras in a graph of its own."""

import random

import keras
import keras_tuner
import numpy as np
import pytest
from searches import TWO_STAGES

import keras_autoshrink as kas
from keras_autoshrink import weights_file
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_tensorflow import TensorFlowProgram
from keras_autoshrink.shuffling import ShuffledBatches, draw_seed, order_of_epoch

NUMBERS = np.random.default_rng(0)
X = NUMBERS.random((150, 8, 8, 1), np.float32)
Y = (np.arange(150) % 4).astype(np.int32)
VALIDATION = (X[:50], Y[:50])
MODEL = kas.CNNCellHyperModel(
    input_shape=(8, 8, 1),
    classes=4,
    num_nodes=5,
    filters=4,
    stem_filters=4,
    batch_size=64,
    **TWO_STAGES,
)
EPOCHS = 6
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@pytest.fixture(scope="module")
def program():
    network = MaskedNetwork(MODEL.cell, **MODEL.architecture)
    return TensorFlowProgram(network, (X, Y), VALIDATION, 64, MODEL.learning_rate, 0.9)


def trained_alone(edges):
    hp = keras_tuner.HyperParameters()
    hp.values = {f"cell/edge_{i}_{j}": (i, j) in edges for i, j in MODEL.cell.edges}
    keras.utils.set_random_seed(7)
    model = MODEL.build(hp)
    history = MODEL.fit(hp, model, X, Y, validation_data=VALIDATION, epochs=EPOCHS, verbose=0)
    return model, history.history


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param(MODEL.cell.edges, marks=pytest.mark.slow),
        ((0, 1), (0, 3), (1, 3), (1, 4)),  # node 2 is dead, both leaves are late
        pytest.param(((0, 2),), marks=pytest.mark.slow),
    ],
)
def test_it_trains_as_keras_does(program, edges):
    cell = kas.Cell(MODEL.cell.ops, edges)
    model, history = trained_alone(edges)
    generator = random.Random(7)
    initial = program.network.initial_weights(cell, generator)
    begun = program.begin([cell], [initial], [program.network.initial_statistics(cell)])
    training, seed = begun, draw_seed(generator)
    for epoch in range(EPOCHS):
        training, logs = program.epoch(training, order_of_epoch(seed, epoch, len(X))[None])
        # To the last bit: an order of sums that is not Keras's shows after some steps.
        assert [float(v) for v in logs[0]] == [history[name][epoch] for name in METRICS], epoch
    ((weights, statistics),) = program.weights(training)
    arrays = weights_file.by_name(program.network, cell, weights, statistics)
    for layer in model.layers:
        for weight in layer.weights:
            np.testing.assert_allclose(
                arrays[f"{layer.name}/{weight.name}"], weight.numpy(), rtol=1e-3, atol=1e-4
            )
    # A state stays what it was.
    ((weights, _),) = program.weights(begun)
    np.testing.assert_array_equal(weights, initial)


def test_batches_are_shuffled_by_seed_and_epoch_alone():
    batches = ShuffledBatches(X.astype("float64"), Y, 64, seed=5)
    assert batches.x.dtype == "float32"
    seen = []
    for epoch in (0, 1, 0):
        batches.begin(epoch)
        parts = [batches[index] for index in range(len(batches))]
        assert [len(labels) for _, labels in parts] == [64, 64, 22]
        seen.append(np.concatenate([images for images, _ in parts]))
        np.testing.assert_array_equal(seen[-1], X[order_of_epoch(5, epoch, len(X))])
    assert (seen[0] == seen[2]).all()
    assert (seen[0] != seen[1]).any()
    assert (order_of_epoch(6, 0, 150) != order_of_epoch(5, 0, 150)).any()


@pytest.mark.parametrize(
    "asked",
    [
        {"shuffle": False},
        {"validation_split": 0.2},
        {"steps_per_epoch": 2},
        {"sample_weight": np.ones(150)},
    ],
)
def test_what_else_fit_does_with_arrays_it_does_itself(asked):
    class Model:
        """Notes what it is given."""

        def fit(self, **given):
            self.given = given

    model = Model()
    MODEL.fit(None, model, X, Y, **asked)
    assert model.given["x"] is X
    assert model.given["batch_size"] == 64
    MODEL.fit(None, model, X, Y)
    assert isinstance(model.given["x"], ShuffledBatches)
    assert model.given["validation_batch_size"] == 64
    assert "y" not in model.given
