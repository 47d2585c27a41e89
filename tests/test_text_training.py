"""Trainings of small language models: killed, averaged, jittered."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
from reading import perplexity_of
from test_recipes import TEXT as RECIPE

import keras_autoshrink as kas
from keras_autoshrink.data.text import (
    END,
    UNKNOWN,
    TextData,
    Vocabulary,
    load_text,
    unigram_perplexity,
)
from keras_autoshrink.data.windows import jittered_lengths
from keras_autoshrink.networks.language_model import language_model
from keras_autoshrink.networks.perplexity import Perplexity
from keras_autoshrink.training import language_model as training
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.language_model import train_language_model, train_model

CELL = kas.Cell(("input", "tanh"), ((0, 1),))


@pytest.fixture(scope="module")
def data():
    """A text in which a word mostly follows from the one before it.

    In its validation part another one does: the more is learnt, the worse it is predicted, so
    that averaging begins as early as it can.
    """
    rng = np.random.default_rng(0)
    successors, others = rng.permutation(10), rng.permutation(10)

    def part(length, successors=successors):
        tokens = [0]
        while len(tokens) < length:
            random = rng.random() < 0.2
            tokens.append(int(rng.integers(10)) if random else int(successors[tokens[-1]]))
        return np.array(tokens, np.int32)

    vocabulary = Vocabulary((UNKNOWN, END, *"abcdefgh"))
    return TextData(part(1000), part(200, others), part(150), vocabulary, "made up", {}, {})


def train(data, **options):
    return train_language_model(CELL, data, RECIPE, units=24, **options)


class _KilledError(Exception):
    pass


class _Width(Perplexity):
    """Remembers the length of the windows that came last: what was trained on, not read."""

    made = None

    def __init__(self):
        super().__init__()
        self.width = self.add_variable((), "zeros", dtype="int32", name="width")
        type(self).made = self.made or self

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.width.assign(keras.ops.shape(y_true)[1])
        super().update_state(y_true, y_pred, sample_weight)


class _Recorder(TrainingCheckpoint):
    """A checkpoint that remembers what it saw, and dies after an epoch."""

    def __init__(self, folder, dies_after=None):
        super().__init__(folder, {})
        self.dies_after = dies_after
        self.widths, self.rates, self.states, self.averaging = [], [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append([])
        self.widths.append([])
        states = self.model.get_layer("carried_state").states
        self.states.append([np.abs(keras.ops.convert_to_numpy(state)).max() for state in states])

    def on_train_batch_end(self, batch, logs=None):
        self.rates[-1].append(float(self.model.optimizer.learning_rate))
        if _Width.made:
            self.widths[-1].append(int(_Width.made.width))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.rate = float(self.model.optimizer.learning_rate)
        self.averaging.append(self.model.optimizer.averaging)
        with self.model.optimizer.averaged():
            self.averaged = [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]
        self.last = [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]
        if epoch + 1 == self.dies_after:
            raise _KilledError


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the training `whole` saw of itself."""
    return _Recorder(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole(data, seen):
    """A training that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "Perplexity", _Width)
        return train(data, checkpoint=seen)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_it_learns_and_measures_its_model(data, whole):
    assert whole.validation_perplexity == pytest.approx(perplexity_of(whole.model, data.validation))
    assert whole.test_perplexity == pytest.approx(perplexity_of(whole.model, data.test))
    # With 8 in 10 words known and 2 drawn from 10, the text itself has a perplexity of 2.4.
    assert 2.2 < whole.test_perplexity < 0.5 * unigram_perplexity(data, "test")
    assert set(whole.history) == {"loss", "perplexity", "val_perplexity", "val_loss"}
    assert {len(values) for values in whole.history.values()} == {RECIPE.epochs}


def test_the_network_is_the_average(whole, seen):
    assert seen.averaging == [False, False, True, True, True, True]
    trained = zip(whole.model.get_weights(), seen.averaged, seen.last, strict=True)
    for weights, averaged, last in trained:
        np.testing.assert_array_equal(weights, averaged)
        assert np.abs(averaged - last).max() > 1e-4
    # As is the one that is validated; in another number of streams, whose beginnings differ.
    expected = pytest.approx(whole.validation_perplexity, rel=0.02)
    assert whole.history["val_perplexity"][-1] == expected


def test_the_model_is_saved_and_drops_nothing(data, whole, tmp_path):
    assert whole.model.output_shape == (None, None, len(data.vocabulary))
    cell = whole.model.get_layer("recurrent").cell
    assert (cell.dropout, cell.recurrent_dropout) == (0, 0)
    tokens = data.test[None, :20]
    expected = keras.ops.convert_to_numpy(whole.model(tokens))
    whole.model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for model in (whole.model, loaded):
        logits = keras.ops.convert_to_numpy(model(tokens, training=True))
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.usefixtures("whole")
def test_each_window_is_trained_on_at_the_rate_of_its_own_length(seen):
    assert len(seen.widths) == RECIPE.epochs
    for epoch, (widths, rates) in enumerate(zip(seen.widths, seen.rates, strict=True)):
        assert widths == jittered_lengths(249, RECIPE.steps, np.random.default_rng((0, epoch)))
        expected = [RECIPE.learning_rate * width / RECIPE.steps for width in widths]
        assert rates == pytest.approx(expected)
    assert seen.rate == RECIPE.learning_rate  # after an epoch
    assert len({tuple(widths) for widths in seen.widths}) == RECIPE.epochs
    # Each epoch begins with a state of zeros.
    assert seen.states == [[0.0]] * RECIPE.epochs


def test_a_resumed_training_ends_with_the_same_weights(data, whole, tmp_path):
    folder = tmp_path / "state"
    with pytest.raises(_KilledError):  # after averaging began; before it the command is interrupted
        train(data, checkpoint=_Recorder(folder, 4))
    resumed = train(data, checkpoint=TrainingCheckpoint(folder, {}), log_dir=tmp_path / "logs")
    assert resumed.history == whole.history
    assert same_weights(resumed.model, whole.model)
    assert resumed.test_perplexity == whole.test_perplexity
    assert list((tmp_path / "logs").rglob("events.*"))


def test_a_training_killed_after_its_last_epoch_only_measures(data, whole, seen, monkeypatch):
    again = train(data, checkpoint=TrainingCheckpoint(seen.folder, {}))
    assert again.history == whole.history
    assert same_weights(again.model, whole.model)

    class Hopeless:
        def __init__(self, model, tokens):
            self.result = math.inf if tokens is data.validation else 2.0

        def __call__(self):
            return self.result

    monkeypatch.setattr(training, "PerplexityEvaluation", Hopeless)
    with pytest.raises(RuntimeError, match=r"^the perplexity of the validation text is inf; a l"):
        train(data, checkpoint=TrainingCheckpoint(seen.folder, {}))


# Refusals


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cell": "tanh"}, "cell='tanh': expected a Cell"),
        ({"data": "pydoc"}, "data: is a str; load it with load_text"),
        ({"units": 0}, "units=0: expected a whole number of 1 or more"),
        ({"seed": -1}, "seed=-1: expected a whole number of 0 or more"),
        (
            {"recipe": dataclasses.replace(RECIPE, batch_size=100)},
            r"1,000 tokens: one window of 12 steps in each of 100 streams takes 1,201; lower",
        ),
    ],
)
def test_what_is_refused(data, options, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        train_language_model(**{"cell": CELL, "data": data, "recipe": RECIPE, **options})


def test_a_text_or_a_network_that_does_not_fit_is_refused(data):
    with pytest.raises(ValueError, match="part='test': was not read; load_text with purpose='tra"):
        train(load_text("pydoc", purpose="search"))

    def build(recipe):
        return language_model(keras.layers.LSTMCell(4), 9)

    with pytest.raises(ValueError, match=r"^build: its model has 9 words, the vocabulary 10$"):
        train_model(build, data, RECIPE)
