"""The training of one candidate: from scratch, by its own seed, within its time, scored."""

from __future__ import annotations

import contextlib
import numbers
import reprlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.backend import graphs_released
from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.callbacks import (
    OUT_OF_DATA,
    Deadline,
    ScoreCallback,
    killed_after,
    score_of,
)
from keras_autoshrink.hypermodels.seeding import training_seed
from keras_autoshrink.score import Score
from keras_autoshrink.training.step import accelerate
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.costs import CandidateCosts, count_costs
from keras_autoshrink.tuner.state import ENDED

# KerasTuner's name for a number that `fit` returns: an objective that nobody named, minimised.
NUMBER = "default_objective"


# What Keras warns of at each `fit` on a `tf.data.Dataset`, whatever that is; where data do end too
# early, `DataEnd` says so.
_OF_EVERY_DATASET = ("`shuffle=True` was passed, but will be ignored", OUT_OF_DATA)


class Trainer:
    """The way in which the candidates of a search are built and trained.

    Args:
        score: callable `score(logs, macs)`.
        costs: what candidates cost.
        max_seconds: a candidate that takes longer has failed; None for no limit. The clock is
            looked at between two batches.
        devices: `SearchDevices` of a distribution strategy, or None.
        has_own_score: whether somebody gave the score, rather than left it at its default.
        has_own_fit: whether the HyperModel trains by a `fit` that is not KerasTuner's or ours.
        scores_last_epoch: whether a candidate is what it is at its end, rather than at its best
            epoch: its history counts as the metrics of the last epoch.

    Attributes:
        verbose: of `keras.Model.fit`.
        is_started_again: whether somebody starts this process again when it is killed.
        scores_last_epoch: as it was given.
    """

    def __init__(
        self,
        score: Score,
        costs: CandidateCosts,
        max_seconds: float | None,
        devices: Any,
        has_own_score: bool = False,
        has_own_fit: bool = False,
        scores_last_epoch: bool = False,
    ) -> None:
        self.verbose = 0
        self.is_started_again = service.role() == "worker"
        self.scores_last_epoch = scores_last_epoch
        self._score = score
        self._costs = costs
        self._max_seconds = max_seconds
        self._devices = devices
        self._has_own_score = has_own_score
        self._has_own_fit = has_own_fit
        self._as_declared = False

    def train(
        self, cell: Cell, seed: int, fit: Callable[..., list[Any]], callbacks: list[Any]
    ) -> list[Any]:
        """Trains a candidate.

        Args:
            cell: of the candidate.
            seed: of the search.
            fit: builds and fits the candidate with the `callbacks` and `verbose` that it is given;
                returns what came of each execution.
            callbacks: the user's.

        Returns:
            What `fit` returned; a `keras.callbacks.History` has `score`, `seconds` and the costs.

        Raises:
            keras_tuner.errors.FatalValueError: the HyperModel's `fit` took no notice of its
                callbacks.
        """
        seed = training_seed(seed, cell)
        if self._devices:
            self._devices.candidate(seed)
        # First of all callbacks: those behind it may look at the score.
        measured = self._costs.measured(cell)
        ours: list[Any] = [
            # What such a `fit` returns may have metrics that its epochs lack.
            ScoreCallback(self._score, measured, count_costs, may_lack=self._has_own_fit)
        ]
        if self._max_seconds is not None:
            ours.insert(0, Deadline(self._max_seconds))
        started = time.monotonic()
        with graphs_released(), warnings.catch_warnings():
            for said in _OF_EVERY_DATASET:
                warnings.filterwarnings("ignore", said)
            keras.utils.set_random_seed(seed)
            results = fit(callbacks=[*ours, *callbacks], verbose=self.verbose)
        seconds = time.monotonic() - started
        for result in results:
            if isinstance(result, dict):
                result["seconds"] = seconds
            if isinstance(result, keras.callbacks.History):
                if "score" not in result.history:
                    raise keras_tuner.errors.FatalValueError(
                        "HyperModel.fit() has to pass its callbacks on to model.fit() and to train "
                        "for one epoch or more: the history it returned has no score"
                    )
                epochs = len(result.history["score"])
                result.history["seconds"] = [seconds] * epochs
        return results

    def scored(self, result: Any, model: keras.Model, cell: Cell) -> Any:
        """Scores what a HyperModel's `fit` returned, where its history does not say all.

        Args:
            result: as KerasTuner documents it: a `keras.callbacks.History`, which has a score; a
                dict of metrics; a number, which is minimised, where nobody gave a score; or a list
                of these, of several trainings, whose mean counts.
            model: trained.
            cell: of the candidate.

        Returns:
            The history, or a dict of metrics, `score` and the costs among them.

        Raises:
            keras_tuner.errors.FatalError: it is none of these, or lacks what the score needs.
        """
        if isinstance(result, keras.callbacks.History):
            if result.epoch and "score" not in result.history:  # says what it lacks, if it does
                last = {name: values[-1] for name, values in result.history.items()}
                costs = {**self._costs.measured(cell), **count_costs(model)}
                score_of(self._score, last, costs)
            if self.scores_last_epoch and "score" in result.history:
                return {name: float(values[-1]) for name, values in result.history.items()}
            return result
        if isinstance(result, list) and result:
            each = [self.scored(one, model, cell) for one in result]
            if all(isinstance(one, dict) for one in each):
                return {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        costs = {**self._costs.measured(cell), **count_costs(model)}
        if isinstance(result, numbers.Real) and not isinstance(result, bool):
            if self._has_own_score:
                raise keras_tuner.errors.FatalValueError(
                    f"HyperModel.fit() returned the number {result:g}, which score= cannot score; "
                    "return the history of model.fit(), or a dict of the metrics that it needs"
                )
            return {NUMBER: float(result), "score": -float(result), **costs}
        if isinstance(result, Mapping):
            metrics = {name: float(value) for name, value in result.items()}
            if self._has_own_score or "score" not in metrics:
                metrics["score"] = score_of(
                    self._score, metrics, costs, "HyperModel.fit() returned", "return it, too"
                )
            return {**metrics, **costs}
        raise keras_tuner.errors.FatalTypeError(
            f"HyperModel.fit() returned {reprlib.repr(result)}; return the history of model.fit(), "
            "a dict of metrics, or a number to be minimised"
        )

    def build(self, build: Callable[[], keras.Model]) -> keras.Model:
        """Builds a candidate, on the devices of the search where it has some.

        Args:
            build: makes a compiled model.
        """
        if self._as_declared:
            return build()
        if self._devices:
            return self._devices.build(build)
        model = build()
        if getattr(model, "compiled", False):
            accelerate(model)
        return model

    @contextlib.contextmanager
    def as_declared(self) -> Iterator[None]:
        """Builds models, within, as the HyperModel does: for no training, on the default device."""
        self._as_declared = True
        try:
            yield
        finally:
            self._as_declared = False

    def killed_when_hanging(self) -> contextlib.AbstractContextManager[None]:
        """Kills a worker, within, whose candidate hangs; it is started again with another."""
        if self.is_started_again and self._max_seconds is not None:
            return killed_after(self._max_seconds)
        return contextlib.nullcontext()


def drop_weights(oracle: Any, weights_of: Callable[[Trial], Path]) -> None:
    """Deletes the weights that nobody needs; until the search ends those stay that may be best.

    Args:
        oracle: an `AutoShrinkOracle`.
        weights_of: where a trial's weights lie.
    """
    search = oracle.search
    over = search.done and not search.error  # a round that failed may be tried again
    best = oracle.get_best_trials(1)
    for trial in oracle.trials.values():
        # Among equals the search decides when the round ends: until then, keep them all.
        # Nor is the mean of a network that is trained several times known before.
        open_ = not over and (oracle.is_final(trial) or (best and trial.score == best[0].score))
        wanted = trial in best or open_
        if trial.status in ENDED and not (trial.status == TrialStatus.COMPLETED and wanted):
            weights_of(trial).unlink(missing_ok=True)
