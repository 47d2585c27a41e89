"""A tuner that trains candidates: each from scratch, by its own seed, within its time."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import service
from keras_autoshrink.callbacks import ScoreCallback
from keras_autoshrink.candidate_costs import CandidateCosts
from keras_autoshrink.limits import Deadline, killed_after
from keras_autoshrink.memory import graphs_released
from keras_autoshrink.score import Score
from keras_autoshrink.seeds import training_seed
from keras_autoshrink.trial_weights import TrialWeights


class CandidateTuner(TrialWeights):
    """Trains what an `AutoShrinkOracle` hands out; `AutoShrink` searches by it.

    Args:
        *args: as for `keras_tuner.Tuner`.
        score: callable `score(logs, macs)`.
        max_seconds_per_trial: a candidate that takes longer has failed; None for no limit. The
            clock is looked at between two batches.
        devices: `SearchDevices` of a distribution strategy, or None.
        costs: what candidates cost.
        **kwargs: as for `keras_tuner.Tuner`.
    """

    def __init__(
        self,
        *args: Any,
        score: Score,
        max_seconds_per_trial: float | None,
        devices: Any,
        costs: CandidateCosts,
        **kwargs: Any,
    ) -> None:
        self.score = score
        self._costs = costs
        self.max_seconds_per_trial = max_seconds_per_trial
        self._fit_verbose = 0
        super().__init__(*args, devices=devices, **kwargs)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> list[Any]:
        """Trains a candidate; see `keras_tuner.Tuner.run_trial`."""
        self._weights_file(trial).unlink(missing_ok=True)  # of a try that was killed
        with graphs_released():
            return self._train(trial, *args, **kwargs)

    def _train(self, trial: Trial, *args: Any, **kwargs: Any) -> list[Any]:
        cell = self.oracle.cell_of(trial)
        seed = training_seed(self.oracle.seed, cell)
        keras.utils.set_random_seed(seed)
        if self._devices:
            self._devices.candidate(seed)
        # First of all callbacks: those behind it may look at the score.
        score = ScoreCallback(self.score, self._costs.measured(cell))
        callbacks = [score, *(kwargs.pop("callbacks", None) or ())]
        if self.max_seconds_per_trial is not None:
            callbacks.insert(0, Deadline(self.max_seconds_per_trial))
        started = time.monotonic()
        kwargs = {**kwargs, "callbacks": callbacks, "verbose": self._fit_verbose}
        results = super().run_trial(trial, *args, **kwargs)
        for result in results:
            if isinstance(result, keras.callbacks.History):
                if "score" not in result.history:
                    raise keras_tuner.errors.FatalValueError(
                        "HyperModel.fit() has to pass its callbacks on to model.fit() and to train "
                        "for one epoch or more: the history it returned has no score"
                    )
                epochs = len(result.history["score"])
                result.history["seconds"] = [time.monotonic() - started] * epochs
        return results

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        build = functools.partial(super()._build_hypermodel, hp)
        return self._devices.build(build) if self._devices else build()

    def _try_run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        # As KerasTuner's, but that one prints the traceback; it is in the trial's file anyway.
        hanging = contextlib.nullcontext()
        if service.role() == "worker" and self.max_seconds_per_trial is not None:
            hanging = killed_after(self.max_seconds_per_trial)
        try:
            with hanging:
                self._run_and_update_trial(trial, *args, **kwargs)
            trial.status = TrialStatus.COMPLETED
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            failed = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = TrialStatus.FAILED if failed else TrialStatus.INVALID
            trial.message = traceback.format_exc()
