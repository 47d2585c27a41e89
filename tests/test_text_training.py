"""Trainings of small language models: killed, averaged, jittered; and their recipes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pytest

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
from keras_autoshrink.training import language_model as text_training
from keras_autoshrink.training.averaged_sgd import AveragedSGD
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.language_model import train_language_model, train_model
from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe

CELL = kas.Cell(("input", "tanh"), ((0, 1),))
UNITS = 24

# Everything that a training can have.
ALL = TextRecipe(
    learning_rate=2.0,
    batch_size=4,
    epochs=6,
    steps=12,
    jitter=True,
    clip_norm=0.5,
    weight_decay=1e-5,
    output_dropout=0.3,
    recurrent_dropout=0.2,
    dropout=0.3,
    embedding_dropout=0.1,
    word_dropout=0.1,
    activation_regularization=0.1,
    averaging_window=1,
)
PLAIN = TextRecipe(learning_rate=4.0, batch_size=4, epochs=3, steps=12)


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


def train(data, recipe=ALL, **options):
    return train_language_model(CELL, data, recipe, units=UNITS, **options)


class _KilledError(Exception):
    pass


class _Recorder(TrainingCheckpoint):
    """A checkpoint that remembers what it saw, and dies after an epoch."""

    def __init__(self, folder=None, dies_after=None):
        super().__init__(folder, {})
        self.dies_after = dies_after
        self.rates, self.states, self.averaging, self.averaged = [], [], [], None

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append([])
        states = self.model.get_layer("carried_state").states
        self.states.append([np.abs(keras.ops.convert_to_numpy(state)).max() for state in states])

    def on_train_batch_begin(self, batch, logs=None):
        self.rates[-1].append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.rates[-1].append(float(self.model.optimizer.learning_rate))
        self.averaging.append(self.model.optimizer.averaging)
        with self.model.optimizer.averaged():
            self.averaged = [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]
        self.last = [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]
        if epoch + 1 == self.dies_after:
            raise _KilledError


@pytest.fixture(scope="module")
def seen():
    """What the training `whole` saw of itself."""
    return _Recorder()


@pytest.fixture(scope="module")
def whole(data, seen):
    """A training that nothing interrupts."""
    return train(data, checkpoint=seen)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def perplexity(model, tokens):
    """Of a text that is read from end to end, computed here."""
    logits = keras.ops.convert_to_numpy(model(tokens[None, :-1]))[0].astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.exp(-log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].mean())


# What comes of a training


def test_the_perplexities_are_those_of_the_model(data, whole):
    assert whole.validation_perplexity == pytest.approx(perplexity(whole.model, data.validation))
    assert whole.test_perplexity == pytest.approx(perplexity(whole.model, data.test))


def test_it_learns(data, whole):
    # With 8 in 10 words known and 2 drawn from 10, the text itself has a perplexity of 2.4.
    assert 2.2 < whole.test_perplexity < 0.5 * unigram_perplexity(data, "test")
    assert set(whole.history) == {"loss", "perplexity", "val_perplexity", "val_loss"}
    assert {len(values) for values in whole.history.values()} == {ALL.epochs}


def test_the_network_is_the_average(whole, seen):
    assert seen.averaging == [False, False, True, True, True, True]
    trained = zip(whole.model.get_weights(), seen.averaged, seen.last, strict=True)
    for weights, averaged, last in trained:
        np.testing.assert_array_equal(weights, averaged)
        assert np.abs(averaged - last).max() > 1e-4


def test_the_validation_while_averaging_is_of_the_average(data, whole):
    # In another number of streams, whose beginnings differ a little.
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


# Windows


@pytest.mark.usefixtures("whole")
def test_each_window_has_the_rate_of_its_length(seen):
    assert len(seen.rates) == ALL.epochs
    for epoch, (*rates, after) in enumerate(seen.rates):
        lengths = jittered_lengths(249, ALL.steps, np.random.default_rng((0, epoch)))
        expected = [ALL.learning_rate * length / ALL.steps for length in lengths]
        assert rates == pytest.approx(expected)
        assert after == ALL.learning_rate
    assert seen.rates[0] != seen.rates[1]


def test_each_batch_is_trained_on_at_the_rate_of_its_own_length(data, monkeypatch):
    metrics, steps = [], []

    class Width(Perplexity):
        """Remembers the length of the windows that came last: what was trained on, not read."""

        def __init__(self):
            super().__init__()
            self.width = self.add_variable((), "zeros", dtype="int32", name="width")
            metrics.append(self)

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.width.assign(keras.ops.shape(y_true)[1])
            super().update_state(y_true, y_pred, sample_weight)

    class Steps(TrainingCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            rate = float(self.model.optimizer.learning_rate)
            steps.append((len(self.history.get("loss", [])), int(metrics[0].width), rate))

    monkeypatch.setattr(text_training, "Perplexity", Width)
    recipe = dataclasses.replace(ALL, epochs=3, word_dropout=0, activation_regularization=0)
    train(data, recipe, checkpoint=Steps(None, {}))
    assert len(metrics) == 1
    for _, width, rate in steps:
        assert rate == pytest.approx(ALL.learning_rate * width / ALL.steps)
    widths = [[width for e, width, _ in steps if e == epoch] for epoch in range(recipe.epochs)]
    for of_epoch in widths:
        assert sum(of_epoch) == (len(data.train) - 1) // ALL.batch_size
        assert len(set(of_epoch)) > 3
    assert len({tuple(of_epoch) for of_epoch in widths}) == recipe.epochs


@pytest.mark.usefixtures("whole")
def test_each_epoch_begins_with_a_state_of_zeros(seen):
    assert seen.states == [[0.0]] * ALL.epochs


# Killed


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(data, whole, seen, tmp_path):
    folder = tmp_path / "state"
    # After epochs of plain SGD, as soon as averaging began, and while it went on.
    for after in (2, 3, 4):
        with pytest.raises(_KilledError):
            train(data, checkpoint=_Recorder(folder, after))
    resumed = train(data, checkpoint=TrainingCheckpoint(folder, {}))
    assert resumed.history == whole.history
    assert same_weights(resumed.model, whole.model)
    assert resumed.validation_perplexity == whole.validation_perplexity
    assert resumed.test_perplexity == whole.test_perplexity
    # Killed after the last epoch, but before its model was written.
    again = train(data, checkpoint=TrainingCheckpoint(folder, {}))
    assert again.history == whole.history
    assert same_weights(again.model, whole.model)


def test_a_training_that_diverges_says_so(data, tmp_path):
    recipe = dataclasses.replace(PLAIN, learning_rate=1e38, clip_norm=1e3)
    with pytest.raises(RuntimeError, match=r"the loss of epoch 1 is (nan|inf); a lower learning"):
        train(data, recipe, checkpoint=TrainingCheckpoint(tmp_path / "state", {}))
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_perplexity_beyond_all_numbers_names_the_text(data, part):
    # The network is certain of word 2, which is all that there is, but for one part.
    parts = {name: np.full(200, 2, np.int32) for name in ("train", "validation", "test")}
    parts[part] = np.full(200, 3, np.int32)

    def build(recipe):
        model = language_model(keras.layers.LSTMCell(4), len(data.vocabulary))
        model.get_layer("embedding").bias.assign([1000.0 * (n == 2) for n in range(10)])
        return model

    recipe = dataclasses.replace(PLAIN, epochs=1, learning_rate=1e-3)
    with pytest.raises(RuntimeError, match=rf"^the perplexity of the {part} text is inf; a lower"):
        train_model(build, dataclasses.replace(data, **parts), recipe)


# Other networks


def test_an_lstm_is_trained_the_same_way(data, tmp_path):
    recipes = []

    def build(recipe):
        recipes.append(recipe)
        cell = keras.layers.LSTMCell(UNITS, **recipe.cell_dropouts())
        return language_model(cell, len(data.vocabulary), **recipe.regularization())

    recipe = dataclasses.replace(PLAIN, dropout=0.1, activation_regularization=0.5)
    trained = train_model(build, data, recipe, seed=1, log_dir=tmp_path / "logs")
    assert recipes == [recipe, PLAIN]
    assert trained.test_perplexity == pytest.approx(perplexity(trained.model, data.test))
    losses = trained.history["loss"]
    assert losses[-1] < losses[0]
    # The perplexity has no penalty in it.
    for loss, of_text in zip(losses, trained.history["perplexity"], strict=True):
        assert 1e-4 < loss - math.log(of_text) < 0.5
    assert list((tmp_path / "logs").rglob("events.*"))


def test_the_seed_decides(data, whole):
    other = train(data, dataclasses.replace(ALL, epochs=1), seed=1)
    assert other.history["loss"] != whole.history["loss"][:1]


# Refusals


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        (("tanh", None, PLAIN), {}, "cell='tanh': expected a Cell"),
        ((CELL, "pydoc", PLAIN), {}, "data: is a str; load it with load_text"),
        ((CELL, None, "small"), {}, "recipe='small': expected a TextRecipe"),
        ((CELL, None, PLAIN), {"units": 0}, "units=0: expected a whole number of 1 or more"),
        ((CELL, None, PLAIN), {"units": 2.5}, "units=2.5: expected a whole number of 1 or more"),
        ((CELL, None, PLAIN), {"seed": -1}, "seed=-1: expected a whole number of 0 or more"),
        (
            (CELL, None, dataclasses.replace(PLAIN, batch_size=100)),
            {},
            r"1,000 tokens: one window of 12 steps in each of 100 streams takes 1,201; lower",
        ),
    ],
)
def test_what_is_refused(data, arguments, options, problem):
    cell, text, recipe = arguments
    with pytest.raises((TypeError, ValueError), match=problem):
        train_language_model(cell, data if text is None else text, recipe, **options)


def test_a_network_of_another_number_of_words_is_refused(data):
    def build(recipe):
        return language_model(keras.layers.LSTMCell(4), 9)

    with pytest.raises(ValueError, match=r"^build: its model has 9 words, the vocabulary 10$"):
        train_model(build, data, PLAIN)


def test_a_text_for_a_search_is_refused():
    with pytest.raises(ValueError, match="part='test': was not read; load_text with purpose='tra"):
        train(load_text("pydoc", purpose="search"))


# Recipes

COUNT = "a whole number of 1 or more"
SHARE = "0 or more and less than 1"
REFUSED: list[tuple[str, Any, str]] = [
    *(("learning_rate", value, "more than 0") for value in (0, -1, math.inf, math.nan)),
    *(("clip_norm", value, "more than 0") for value in (0, -1, math.inf, math.nan)),
    *((name, v, COUNT) for name in ("batch_size", "epochs", "steps") for v in (0, 2.5, True)),
    ("jitter", 1, "True or False"),
    *(("weight_decay", value, "0 or more") for value in (-1, math.inf, math.nan)),
    *(
        (name, value, SHARE)
        for name in (
            *("output_dropout", "recurrent_dropout", "dropout"),
            *("embedding_dropout", "word_dropout"),
        )
        for value in (-0.1, 1, math.nan)
    ),
    *(("activation_regularization", value, "0 or more") for value in (-1, math.inf, math.nan)),
    *(("averaging_window", value, f"{COUNT}, or None") for value in (0, 2.5, False)),
]


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_values_refused(name, value, expected):
    with pytest.raises(ValueError, match=name) as caught:
        dataclasses.replace(TEXT_RECIPES["ptb"], **{name: value})
    assert str(caught.value) == f"{name}={value!r}: expected {expected}"


def test_the_published_recipe():
    values = dataclasses.asdict(TEXT_RECIPES["ptb"])
    assert values.pop("epochs") >= 1000  # the paper does not say
    assert values == {
        "learning_rate": 20,
        "batch_size": 64,
        "steps": 35,
        "jitter": True,
        "clip_norm": 0.25,
        "weight_decay": 8e-7,
        "output_dropout": 0.75,
        "recurrent_dropout": 0.25,
        "dropout": 0.75,
        "embedding_dropout": 0.2,
        "word_dropout": 0.1,
        "activation_regularization": 1e-3,
        "averaging_window": 5,
    }


@pytest.mark.parametrize(
    ("recipe", "kind", "decay"), [(ALL, AveragedSGD, 1e-5), (PLAIN, keras.optimizers.SGD, None)]
)
def test_optimizers(recipe, kind, decay):
    optimizer = recipe.build_optimizer()
    assert type(optimizer) is kind
    config = optimizer.get_config()
    expected = {
        "global_clipnorm": recipe.clip_norm,
        "weight_decay": decay,
        "momentum": 0,
        "use_ema": False,
        "clipnorm": None,
        "clipvalue": None,
    }
    assert {name: config[name] for name in expected} == expected
    assert float(optimizer.learning_rate) == recipe.learning_rate


def test_without_regularization_only_that_is_left_out():
    bare = ALL.without_regularization()
    assert set({**bare.cell_dropouts(), **bare.regularization()}.values()) == {0}
    regularised = {**ALL.cell_dropouts(), **ALL.regularization()}
    assert 0 not in regularised.values()
    assert dataclasses.replace(bare, **regularised) == ALL
