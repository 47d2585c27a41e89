"""Trains candidates by a program that serves them all, each as `fit` would train it by itself."""

from __future__ import annotations

import collections
import dataclasses
import random
import threading
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_autoshrink import weights_file
from keras_autoshrink.callbacks import add_score
from keras_autoshrink.cell import Cell
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.limits import out_of_time
from keras_autoshrink.masked_training import Program
from keras_autoshrink.score import Score
from keras_autoshrink.shrink import training_seed
from keras_autoshrink.shuffling import draw_seed, order_of_epoch

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
    """

    images: int
    steps: int
    epochs: int
    seed: int
    score: Score
    stopping_rules: Callable[[], Sequence[keras.callbacks.Callback]]
    max_seconds: float | None = None
    race: bool = False

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


class SearchEndedError(Exception):
    """The search has ended before the training."""


class Stack:
    """Candidates that are trained together.

    Args:
        program: trains `program.stack` sub-cells at a time.
        cells: at most so many, all different.
        recipe: how.
        stopped: looked at before each epoch.
        parent: what they inherit their weights from, if from anything.
    """

    def __init__(
        self,
        program: Program,
        cells: Sequence[Cell],
        recipe: Recipe,
        stopped: threading.Event,
        parent: Parent | None = None,
    ) -> None:
        self._program, self._recipe, self._stopped = program, recipe, stopped
        self.cells = cells
        # Repeated rather than fewer: what a program has been compiled for has one shape.
        self._stack = [cells[index % len(cells)] for index in range(program.stack)]
        self._parent = parent
        self._candidates = [_Candidate(program, cell, recipe, len(cells)) for cell in cells]
        self._epoch = 0
        self._seconds = 0.0  # within `run`, so far
        self._seeds: list[int] = []
        self._training: Any = None

    def run(self, epochs: int) -> None:
        """Trains on, until so many epochs have been done in all, or all have ended.

        What the training raises, those have failed with that it was for.

        Raises:
            SearchEndedError: the search has ended.
        """
        started = time.monotonic() - self._seconds
        try:
            for epoch in range(self._epoch, epochs):
                if self._stopped.is_set():
                    raise SearchEndedError
                if all(candidate.ended for candidate in self._candidates):
                    break
                self._train(epoch, started)
        except SearchEndedError:
            raise
        except Exception as error:
            self._training = None
            for candidate in self._candidates:
                candidate.fail(error)
        self._seconds = time.monotonic() - started

    def _train(self, epoch: int, started: float) -> None:
        """Trains for an epoch, as one that would have begun then without any waiting."""
        if self._training is None:
            self._begin()
        orders = [order_of_epoch(seed, epoch, self._recipe.images) for seed in self._seeds]
        self._training, logs = self._program.epoch(self._training, np.stack(orders))
        self._seconds = time.monotonic() - started
        for candidate, values in zip(self._candidates, logs, strict=False):
            if not candidate.ended:
                candidate.take(epoch, values, self._training, self._seconds)
        self._epoch = epoch + 1

    def _begin(self) -> None:
        network, seed = self._program.network, self._recipe.seed
        generators = [random.Random(training_seed(seed, cell)) for cell in self._stack]
        # In this order, which is that of Keras when it builds and trains a candidate.
        pairs = zip(self._stack, generators, strict=True)
        weights = [network.initial_weights(*pair) for pair in pairs]
        statistics = [network.initial_statistics(cell) for cell in self._stack]
        self._seeds = [draw_seed(generator) for generator in generators]
        if self._parent is not None:
            for number, cell in enumerate(self._stack):
                weights[number], statistics[number] = self._parent.inherited(
                    network, cell, weights[number], statistics[number]
                )
        self._training = self._program.begin(self._stack, weights, statistics)

    @property
    def best_score(self) -> float:
        """The best of all of them, so far."""
        return max(candidate.best_score for candidate in self._candidates)

    def results(self) -> dict[Cell, Trained | Exception]:
        """Of each cell what came of it, or what it failed with."""
        return {
            candidate.cell: candidate.result(self._program, place)
            for place, candidate in enumerate(self._candidates)
        }


class _Candidate:
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
