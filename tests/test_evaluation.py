"""Perplexity, in batches and of whole texts, against sums in float64."""

import math

import keras
import numpy as np
import pytest
from reading import cross_entropies, losses_of, perplexity_of

import keras_autoshrink as kas
from keras_autoshrink.data.windows import training_windows
from keras_autoshrink.networks.language_model import ShrinkRNN, carrying
from keras_autoshrink.networks.perplexity import (
    Perplexity,
    PerplexityCallback,
    PerplexityEvaluation,
)
from keras_autoshrink.training.averaged_sgd import AveragedSGD
from keras_autoshrink.training.step import accelerate

CELL = kas.Cell(("input", "tanh", "sigmoid"), ((0, 1), (0, 2), (1, 2)))
VOCABULARY, UNITS = 11, 6
TEXT = np.random.default_rng(1).integers(0, VOCABULARY, 137)
BATCH, STEPS = 3, 7  # of trainings


def sharp(limit=1.0, **regularization):
    """A model with weights large enough that the next token depends on those before."""
    keras.utils.set_random_seed(3)  # which dropout draws from
    model = ShrinkRNN(CELL, VOCABULARY, UNITS, **regularization)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-limit, limit, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    return sharp()


# The metric


def batches():
    """Three of different sizes, one much harder than the others."""
    rng = np.random.default_rng(2)
    for size, scale in ((3, 1.0), (28, 0.1), (2, 6.0)):
        targets = rng.integers(0, VOCABULARY, (size, 5))
        weights = rng.uniform(0.1, 2, targets.shape)
        yield targets, scale * rng.normal(size=(*targets.shape, VOCABULARY)), weights


def test_the_metric_is_exp_of_the_mean_of_all_tokens():
    metric = Perplexity()
    all_losses, all_weights, of_batches = [], [], []
    for targets, logits, weights in batches():
        metric.update_state(targets, logits, weights)
        of_batch = cross_entropies(logits, targets)
        of_batches.append(math.exp(np.average(of_batch, weights=weights)))
        all_losses.append(of_batch.ravel())
        all_weights.append(weights.ravel())
    mean = np.average(np.concatenate(all_losses), weights=np.concatenate(all_weights))
    result = float(metric.result())
    assert result == pytest.approx(math.exp(mean), rel=1e-5)
    # Neither of these, which a metric could take for it.
    assert np.mean(of_batches) > 1.2 * result
    assert math.exp(np.mean(np.log(of_batches))) > 1.2 * result


def test_a_weight_of_0_leaves_a_token_out():
    targets, logits, weights = next(batches())
    nonsense = np.zeros_like(weights)
    nonsense[1, 2:] = 1
    changed = np.where(nonsense[..., None], 1e3 * logits, logits)
    metric = Perplexity()
    metric.update_state(targets, changed, weights * (1 - nonsense))
    expected = np.average(cross_entropies(logits, targets), weights=weights * (1 - nonsense))
    assert float(metric.result()) == pytest.approx(math.exp(expected), rel=1e-5)
    metric.update_state(targets, changed, weights)
    assert float(metric.result()) > 10 * math.exp(expected)


def test_beyond_float32_it_is_infinity():
    metric = Perplexity()
    metric.update_state(np.array([1]), np.array([[200.0, 0.0, 0.0]], "float32"))
    assert float(metric.result()) == math.inf


def test_a_reset_forgets_and_a_config_makes_it_again():
    first, second, _ = batches()
    metric = Perplexity(name="ppl")
    again = Perplexity.from_config(metric.get_config())
    for each in (metric, again):
        each.update_state(*first)
    before = float(metric.result())
    assert (again.name, float(again.result())) == ("ppl", before)
    metric.update_state(*second)
    assert float(metric.result()) != pytest.approx(before, rel=0.01)
    metric.reset_state()
    metric.update_state(*first)
    assert float(metric.result()) == before


# Of a text


def test_one_stream_is_the_text_from_end_to_end(model):
    measured = PerplexityEvaluation(model, TEXT, batch_size=1, steps=7)()
    assert measured == pytest.approx(perplexity_of(model, TEXT), rel=1e-5)


def in_streams(model, batch_size, steps, warm):
    """By definition: each stream reads from its beginning, of the model itself."""
    in_text = math.ceil((len(TEXT) - 1) / steps)
    own = math.ceil((in_text - 1) / batch_size)  # windows that count, of all streams but one
    found = [losses_of(model, TEXT[: (own + 1) * steps + 1])]
    for stream in range(1, batch_size):
        begin, end = ((stream + offset) * own * steps for offset in (0, 1))
        unread = 0 if warm else steps
        found.append(losses_of(model, TEXT[begin + unread : end + steps + 1])[steps - unread :])
    found = np.concatenate(found)
    assert len(found) == len(TEXT) - 1
    return math.exp(found.mean())


def test_several_streams_start_warm(model):
    batch_size, steps = 4, 10
    measured = PerplexityEvaluation(model, TEXT, batch_size, steps)()
    assert measured == pytest.approx(in_streams(model, batch_size, steps, warm=True), rel=1e-5)
    assert measured == pytest.approx(perplexity_of(model, TEXT), rel=3e-3)
    # As close as that they would not be without.
    cold = in_streams(model, batch_size, steps, warm=False)
    assert abs(cold / perplexity_of(model, TEXT) - 1) > 3 * abs(
        measured / perplexity_of(model, TEXT) - 1
    )


def test_it_measures_the_weights_of_now_and_the_same_again():
    model = sharp()
    evaluate = PerplexityEvaluation(model, TEXT, batch_size=4, steps=10)
    first = evaluate()
    assert evaluate() == first
    model.set_weights([0.1 * weight for weight in model.get_weights()])
    second = evaluate()
    assert second == pytest.approx(perplexity_of(model, TEXT), rel=0.01)
    assert abs(second / first - 1) > 0.05


def test_a_carrying_model_and_the_shortest_text_are_measured_too(model):
    two = np.array([3, 7])
    measured = PerplexityEvaluation(carrying(model, 5, 9), two)()
    assert measured == pytest.approx(perplexity_of(model, two), rel=1e-5)


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="1 tokens: expected 2 or more"):
        PerplexityEvaluation(model, TEXT[:1])
    with pytest.raises(ValueError, match="those of a model of 11 words are 0 to 10"):
        PerplexityEvaluation(model, TEXT + 1)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="is no language model of this library"):
        PerplexityEvaluation(dense, TEXT)


# In a training


class Recorder(keras.callbacks.Callback):
    """Notes what a callback in its place sees."""

    def __init__(self):
        super().__init__()
        self.logs, self.states_at_begin, self.states_at_end = [], [], []

    def states(self):
        carried = self.model.get_layer("carried_state").states
        return [keras.ops.convert_to_numpy(state) for state in carried]

    def on_epoch_begin(self, epoch, logs=None):
        self.states_at_begin.append(self.states())

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.states_at_end.append(self.states())


def fit(model, *callbacks, epochs=2, learning_rate=1.0, optimizer=None, metrics=()):
    """Trains a model for a moment."""
    network = carrying(model, BATCH, STEPS)
    network.compile(
        optimizer or keras.optimizers.SGD(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
        jit_compile=False,
    )
    accelerate(network)  # as a search does: Keras's own step takes longer to be traced
    x, y = training_windows(TEXT, BATCH, STEPS)
    history = network.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )
    return network, history.history


VALIDATION = np.random.default_rng(5).integers(0, VOCABULARY, 60)


def test_the_logs_hold_perplexities_for_the_callbacks_after_it():
    class Starts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.start_averaging()

        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())

    weights = []
    model, before, after, optimizer = sharp(), Recorder(), Recorder(), AveragedSGD(2.0)
    callbacks = (before, PerplexityCallback(VALIDATION, 2, 5), after, Starts())
    network, history = fit(model, *callbacks, optimizer=optimizer)
    assert [set(logs) for logs in before.logs] == [{"loss"}] * 2
    names = {"loss", "perplexity", "val_perplexity", "val_loss"}
    assert [set(logs) for logs in after.logs] == [names] * 2
    assert history == {name: [logs[name] for logs in after.logs] for name in names}
    assert history["perplexity"] == pytest.approx(np.exp(history["loss"]))
    assert history["val_loss"] == pytest.approx(np.log(history["val_perplexity"]))
    # In the second epoch of the averages, after which training goes on from the weights.
    evaluate = PerplexityEvaluation(network, VALIDATION, 2, 5)
    of_last = evaluate()
    for weight, last in zip(network.get_weights(), weights[-1], strict=True):
        np.testing.assert_array_equal(weight, last)
    with optimizer.averaged():
        assert history["val_perplexity"][1] == evaluate()
        assert history["val_perplexity"][1] == pytest.approx(
            perplexity_of(model, VALIDATION), rel=0.02
        )
    assert abs(history["val_perplexity"][1] / of_last - 1) > 1e-4
    assert abs(history["val_perplexity"][1] / history["val_perplexity"][0] - 1) > 1e-4


def test_a_perplexity_that_was_measured_stays():
    # The loss has a penalty in it, which is no part of the perplexity.
    model = sharp(activation_regularization=2.0)
    _, history = fit(
        model, PerplexityCallback(None), epochs=1, learning_rate=0.0, metrics=[Perplexity()]
    )
    assert set(history) == {"loss", "perplexity"}
    length = (len(TEXT) - 1) // BATCH
    read = length // STEPS * STEPS
    streams = [losses_of(model, TEXT[stream * length :][: read + 1]) for stream in range(BATCH)]
    assert history["perplexity"][0] == pytest.approx(math.exp(np.mean(streams)), rel=1e-5)
    assert math.exp(history["loss"][0]) > 1.02 * history["perplexity"][0]


def test_each_epoch_begins_with_the_text():
    recorder = Recorder()
    # Nothing is learnt: epochs that begin alike are alike.
    _, history = fit(sharp(), PerplexityCallback(None), recorder, epochs=3, learning_rate=0.0)
    assert [np.abs(states).max() for states in recorder.states_at_begin] == [0, 0, 0]
    assert min(np.abs(states).max() for states in recorder.states_at_end) > 0.01
    assert history["loss"] == [history["loss"][0]] * 3


def test_to_measure_disturbs_no_training():
    """Neither weights nor the state that is carried on, nor what dropout of layers draws.

    (Of a recurrent cell Keras draws masks even where nothing is dropped.)
    """

    class Measures(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.evaluate = PerplexityEvaluation(self.model, VALIDATION, 2, 5)

        def on_train_batch_end(self, batch, logs=None):
            if batch % 3 == 0:
                measured.append(self.evaluate())

    measured = []
    ends = []
    for callbacks in ((), (Measures(),)):
        model = sharp(embedding_dropout=0.3, word_dropout=0.1, output_dropout=0.2)
        network, history = fit(model, PerplexityCallback(None), *callbacks)
        state = [*network.variables, *network.optimizer.variables]
        ends.append((history, [keras.ops.convert_to_numpy(variable) for variable in state]))
    assert len(set(measured)) == len(measured) == 4
    (history, undisturbed), (disturbed_history, disturbed) = ends
    assert disturbed_history == history
    assert len(undisturbed) > 6
    for expected, actual in zip(undisturbed, disturbed, strict=True):
        np.testing.assert_array_equal(actual, expected)
