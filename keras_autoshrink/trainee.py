"""A candidate in training: how it is trained, how far it has come, and what came of it."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_autoshrink import weights_file
from keras_autoshrink.callbacks import add_score
from keras_autoshrink.cell import Cell
from keras_autoshrink.limits import out_of_time
from keras_autoshrink.masked_training import Program
from keras_autoshrink.score import Score

# Of the epochs of a candidate that begins from scratch.
_HEIRS_SHARE = 0.25

_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each candidate of a search is trained.

    Attributes:
        images: number of training images.
        steps: of an epoch.
        epochs: at most.
        seed: of the search.
        score: callable `score(logs, macs)`.
        stopping_rules: makes the callbacks that may stop a candidate.
        max_seconds: a candidate whose training takes longer has failed, once the epoch under way
            is over; None for no limit. Waiting for others, as in a race, does not count.
        race: whether the worse half of a round's candidates stops early, and again; see
            `racing.race`.
        measured: what a candidate costs besides MACs and parameters, for the score; of that which
            was measured before.
    """

    images: int
    steps: int
    epochs: int
    seed: int
    score: Score
    stopping_rules: Callable[[], Sequence[keras.callbacks.Callback]]
    max_seconds: float | None = None
    race: bool = False
    measured: Callable[[Cell], Mapping[str, float]] = lambda cell: {}

    @property
    def epochs_of_heirs(self) -> int:
        """How long a candidate trains whose weights are trained already."""
        return max(1, round(_HEIRS_SHARE * self.epochs))


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of a candidate.

    Attributes:
        history: values by epoch of the metrics, `score`, `macs`, `params`, and `seconds` (of
            the whole training, without what it waited for others between the parts of a race).
        arrays: the weights after the epoch with the best score, the first of equals; see
            `weights_file.by_name`.
    """

    history: dict[str, list[float]]
    arrays: dict[str, np.ndarray]


class Trainee:
    """One of those that are trained together.

    Args:
        program: that trains it.
        cell: its own.
        recipe: how it is trained.
        together: number of candidates that share the time.
    """

    def __init__(self, program: Program, cell: Cell, recipe: Recipe, together: int) -> None:
        self.cell = cell
        self._score, self._together = recipe.score, together
        self._costs = {
            "macs": program.network.count_macs(cell),
            "params": program.network.count_params(cell),
            **recipe.measured(cell),
        }
        self._history: dict[str, list[float]] = collections.defaultdict(list)
        self._best: Any = None
        self._error: Exception | None = None
        self._rules = recipe.stopping_rules()
        # All that these callbacks want of a model.
        self._model = types.SimpleNamespace(stop_training=False)
        for rule in self._rules:
            rule.set_model(self._model)
            rule.set_params({"epochs": recipe.epochs, "steps": recipe.steps})
            rule.on_train_begin()
        self._max_seconds = recipe.max_seconds
        self._seconds = 0.0

    @property
    def best_score(self) -> float:
        """So far; of who has failed, the worst there is."""
        if self._error is not None:
            return float("-inf")
        return max(self._history["score"], default=float("-inf"))

    @property
    def ended(self) -> bool:
        """Whether it has failed, or was stopped."""
        return self._error is not None or self._model.stop_training

    def take(self, epoch: int, values: np.ndarray, training: Any, seconds: float) -> None:
        """Takes an epoch.

        Args:
            epoch: counted from 0.
            values: the epoch's `_METRICS`.
            training: the state after it.
            seconds: that all of them have trained so far.
        """
        self._seconds = seconds / self._together
        # Floats of 32 bits, as Keras reports them.
        logs = {name: float(value) for name, value in zip(_METRICS, values, strict=True)}
        try:
            if self._max_seconds is not None and self._seconds > self._max_seconds:
                raise out_of_time(self._max_seconds)
            add_score(logs, self._score, self._costs, epoch)
            for rule in self._rules:
                rule.on_epoch_end(epoch, logs)
        except Exception as error:
            self._error = error
            return
        if logs["score"] > self.best_score:
            self._best = training
        for name, value in logs.items():
            self._history[name].append(value)

    def stop(self) -> None:
        """Ends it with what it has come to."""
        self._model.stop_training = True

    def fail(self, error: Exception) -> None:
        """Ends it with an error, unless it has ended already."""
        if not self.ended:
            self._error = error

    def result(self, program: Program, place: int) -> Trained | Exception:
        """What came of it; `place` is its own in the stack."""
        if self._error is not None:
            return self._error
        seconds = [self._seconds] * len(self._history["score"])
        try:
            flat = program.weights(self._best)[place]
            arrays = weights_file.by_name(program.network, self.cell, *flat)
        except Exception as error:
            return error
        return Trained({**self._history, "seconds": seconds}, arrays)
