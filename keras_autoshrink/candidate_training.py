"""Trains candidates by a program that serves them all, each as `fit` would train it by itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_autoshrink.cell import Cell
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.masked_training import Program
from keras_autoshrink.seeds import training_seed
from keras_autoshrink.shuffling import draw_seed, order_of_epoch
from keras_autoshrink.trainee import Recipe, Trained, Trainee


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

    Attributes:
        cells: as given.
        trainees: of each cell how far it has come.
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
        self.trainees = [Trainee(program, cell, recipe, len(cells)) for cell in cells]
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
                if all(trainee.ended for trainee in self.trainees):
                    break
                self._train(epoch, started)
        except SearchEndedError:
            raise
        except Exception as error:
            self._training = None
            for trainee in self.trainees:
                trainee.fail(error)
        self._seconds = time.monotonic() - started

    def _train(self, epoch: int, started: float) -> None:
        """Trains for an epoch, as one that would have begun then without any waiting."""
        if self._training is None:
            self._begin()
        orders = [order_of_epoch(seed, epoch, self._recipe.images) for seed in self._seeds]
        self._training, logs = self._program.epoch(self._training, np.stack(orders))
        self._seconds = time.monotonic() - started
        for trainee, values in zip(self.trainees, logs, strict=False):
            if not trainee.ended:
                trainee.take(epoch, values, self._training, self._seconds)
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

    def results(self) -> dict[Cell, Trained | Exception]:
        """Of each cell what came of it, or what it failed with."""
        return {
            trainee.cell: trainee.result(self._program, place)
            for place, trainee in enumerate(self.trainees)
        }
