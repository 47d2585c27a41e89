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
from keras_autoshrink.limits import Deadline
from keras_autoshrink.masked_training import Program
from keras_autoshrink.score import Score
from keras_autoshrink.shrink import training_seed
from keras_autoshrink.shuffling import draw_seed, order_of_epoch

_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each candidate of a search is trained.

    Attributes:
        images: number of training images.
        epochs: at most.
        seed: of the search.
        score: callable `score(logs, macs)`.
        stopping_rules: makes the callbacks that may stop a candidate.
        max_seconds: a candidate that takes longer has failed; None for no limit.
    """

    images: int
    epochs: int
    seed: int
    score: Score
    stopping_rules: Callable[[], Sequence[keras.callbacks.Callback]]
    max_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of a candidate.

    Attributes:
        history: values by epoch of the metrics, `score`, `macs`, `params`, and `seconds` (of
            the whole training).
        arrays: the weights after the epoch with the best score, the first of equals; see
            `weights_file.by_name`.
    """

    history: dict[str, list[float]]
    arrays: dict[str, np.ndarray]


class SearchEndedError(Exception):
    """The search has ended before the training."""


def train(
    program: Program, cells: Sequence[Cell], recipe: Recipe, stopped: threading.Event
) -> dict[Cell, Trained | Exception]:
    """Trains candidates together.

    Args:
        program: trains `program.stack` sub-cells at a time.
        cells: at most so many, all different.
        recipe: how.
        stopped: looked at before each epoch.

    Returns:
        Of each cell what came of it, or what it failed with.

    Raises:
        SearchEndedError: `stopped` was set.
    """
    network = program.network
    # Repeated rather than fewer: what a program has been compiled for has one shape.
    stack = [cells[index % len(cells)] for index in range(program.stack)]
    generators = [random.Random(training_seed(recipe.seed, cell)) for cell in stack]
    # In this order, which is that of Keras when it builds and trains a candidate.
    weights = [network.initial_weights(*pair) for pair in zip(stack, generators, strict=True)]
    seeds = [draw_seed(generator) for generator in generators]
    candidates = [_Candidate(program, cell, recipe, len(cells)) for cell in cells]
    training = program.begin(stack, weights)
    for epoch in range(recipe.epochs):
        if stopped.is_set():
            raise SearchEndedError
        orders = np.stack([order_of_epoch(seed, epoch, recipe.images) for seed in seeds])
        training, logs = program.epoch(training, orders)
        for candidate, values in zip(candidates, logs, strict=False):
            if not candidate.ended:
                candidate.take(epoch, values, training)
        if all(candidate.ended for candidate in candidates):
            break
    return {
        candidate.cell: candidate.result(program, place)
        for place, candidate in enumerate(candidates)
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
            rule.on_train_begin()
        limit = recipe.max_seconds
        self._deadline = None if limit is None else Deadline(limit, together)
        self._started = time.monotonic()
        self._seconds = 0.0

    @property
    def ended(self) -> bool:
        """Whether it has failed, or was stopped."""
        return self._error is not None or self._model.stop_training

    def take(self, epoch: int, values: np.ndarray, training: Any) -> None:
        """Takes an epoch.

        Args:
            epoch: counted from 0.
            values: the epoch's `_METRICS`.
            training: the state after it.
        """
        # Floats of 32 bits, as Keras reports them.
        logs = {name: float(value) for name, value in zip(_METRICS, values, strict=True)}
        try:
            if self._deadline is not None:
                self._deadline.check()
            add_score(logs, self._score, self._costs, epoch)
            for rule in self._rules:
                rule.on_epoch_end(epoch, logs)
        except Exception as error:
            self._error = error
            return
        if logs["score"] > max(self._history["score"], default=float("-inf")):
            self._best = training
        for name, value in logs.items():
            self._history[name].append(value)
        self._seconds = (time.monotonic() - self._started) / self._together

    def result(self, program: Program, place: int) -> Trained | Exception:
        """What came of it; `place` is its own in the stack."""
        if self._error is not None:
            return self._error
        flat = program.weights(self._best)[place]
        seconds = [self._seconds] * len(self._history["score"])
        return Trained(
            {**self._history, "seconds": seconds},
            weights_file.by_name(program.network, self.cell, *flat),
        )
