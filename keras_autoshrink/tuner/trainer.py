"""Where the weights of a search's trials lie, which of them are kept, and what comes of them."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.backend import graphs_released
from keras_autoshrink.hypermodels.callbacks import Deadline, ScoreCallback, killed_after
from keras_autoshrink.hypermodels.seeding import training_seed
from keras_autoshrink.score import Score
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.costs import CandidateCosts
from keras_autoshrink.tuner.state import ENDED


class TrialWeights(keras_tuner.Tuner):
    """A tuner that keeps the weights of the best trial.

    Args:
        *args: as for `keras_tuner.Tuner`.
        devices: `SearchDevices` of a distribution strategy, or None.
        **kwargs: as for `keras_tuner.Tuner`.
    """

    def __init__(self, *args: Any, devices: Any, **kwargs: Any) -> None:
        self._devices = devices
        super().__init__(*args, **kwargs)

    def _weights_file(self, trial: Trial) -> Path:
        return Path(self._get_checkpoint_fname(trial.trial_id))

    def load_model(self, trial: Trial) -> keras.Model:
        """The trained model of a trial, on the default device.

        Raises:
            ValueError: it was not the best one, and its weights are gone.
        """
        if not self._weights_file(trial).exists():
            raise ValueError(
                f"trial {trial.trial_id}: its weights are gone, only the best cell's are kept; "
                "build it from get_best_hyperparameters() and train it again"
            )
        with warnings.catch_warnings():
            # The checkpoint holds the state of an optimizer that has been used; ours has not.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            with self._without_devices():
                return super().load_model(trial)

    @contextlib.contextmanager
    def _without_devices(self) -> Iterator[None]:
        devices, strategy = self._devices, self.distribution_strategy
        self._devices = self.distribution_strategy = None
        try:
            yield
        finally:
            self._devices, self.distribution_strategy = devices, strategy

    def _drop_checkpoints(self) -> None:
        """Deletes the weights that nobody needs; until the end those stay that may be best."""
        search = self.oracle.search
        over = search.done and not search.error  # a round that failed may be tried again
        best = self.oracle.get_best_trials(1)[:1]
        for trial in self.oracle.trials.values():
            # Among equals the search decides when the round ends: until then, keep them all.
            wanted = trial in best or (trial.score == best[0].score and not over)
            if trial.status in ENDED and not (trial.status == TrialStatus.COMPLETED and wanted):
                self._weights_file(trial).unlink(missing_ok=True)


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
