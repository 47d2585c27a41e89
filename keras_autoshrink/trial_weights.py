"""Where the weights of a search's trials lie, which of them are kept, and what comes of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.trials import ENDED


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
