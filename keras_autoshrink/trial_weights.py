"""Where the weights of a search's trials lie, which of them are kept, and what comes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import weights_file
from keras_autoshrink.cell import Cell
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trials import ENDED


class TrialWeights(keras_tuner.Tuner):
    """A tuner that keeps the weights of the best trial, and such as others begin with.

    Args:
        *args: as for `keras_tuner.Tuner`.
        inherit: whether candidates begin with the weights of the round's cell.
        devices: `SearchDevices` of a distribution strategy, or None.
        **kwargs: as for `keras_tuner.Tuner`.
    """

    def __init__(self, *args: Any, inherit: bool, devices: Any, **kwargs: Any) -> None:
        self._inherit = inherit
        self._devices = devices
        super().__init__(*args, **kwargs)

    def _weights_files(self, trial: Trial) -> tuple[Path, Path]:
        """Where a trial's weights lie: of a model that Keras has trained, or of one in rounds."""
        keras_file = Path(self._get_checkpoint_fname(trial.trial_id))
        return keras_file, keras_file.with_name("checkpoint.weights.npz")

    def load_model(self, trial: Trial) -> keras.Model:
        """The trained model of a trial, on the default device.

        Raises:
            ValueError: it was not the best one, and its weights are gone.
        """
        of_keras, of_rounds = self._weights_files(trial)
        if of_rounds.exists():
            with self._without_devices():
                model = self._try_build(trial.hyperparameters)
            weights_file.load(of_rounds, model)
            return model
        if not of_keras.exists():
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

    def _parent(self, search: ShrinkSearch) -> Parent | None:
        """What the candidates of the round under way inherit from.

        Returns:
            None in round 0, and where the round's cell was trained before the last round, whose
            weights are not kept, or never.
        """
        records = search.trajectory()
        if not records:
            return None
        adopted = _adopted(records[-1])
        last = [c["trial_id"] for c in records[-1]["candidates"] if not c["reused"]]
        if adopted is None or adopted not in last:  # of a round that was over the limits
            return None
        trial = self.oracle.trials[adopted]
        cell = self.oracle.cell_of(trial)
        cell = dataclasses.replace(cell, edges=cell.live_edges)
        if cell != Cell.from_json(records[-1]["cell"]):
            return None  # the same network, trained by other numbers
        try:
            return Parent(cell, weights_file.read(self._weights_files(trial)[1]))
        except (ValueError, OSError) as error:
            raise keras_tuner.errors.FatalValueError(
                f"the weights to inherit are gone: {error}; use overwrite=True to start anew"
            ) from error

    def _drop_checkpoints(self) -> None:
        """Deletes the weights that nobody needs any more.

        Until the search has ended, those stay that may be the best, and of one that inherits
        those that the candidates of this round or the next may begin with.
        """
        search = self.oracle.search
        over = search.done and not search.error  # a round that failed may be tried again
        best = self.oracle.get_best_trials(1)[:1]
        heirlooms: set[str | None] = set()
        if self._inherit and not over:
            fresh = [c.cell.key for c in search.round.candidates if not c.reused]
            known = (search.outcomes.get(key) for key in fresh)
            heirlooms = {outcome.trial_id for outcome in known if outcome is not None}
            heirlooms |= {_adopted(record) for record in search.trajectory()[-1:]}
        for trial in self.oracle.trials.values():
            # Among equals the search decides when the round ends: until then, keep them all.
            tied = trial.score == best[0].score and not over
            wanted = trial in best or tied or trial.trial_id in heirlooms
            if trial.status in ENDED and not (trial.status == TrialStatus.COMPLETED and wanted):
                for path in self._weights_files(trial):
                    path.unlink(missing_ok=True)


def _adopted(record: dict[str, Any]) -> str | None:
    """The id of the trial that a finished round adopted; None if that was not trained."""
    (adopted,) = (c for c in record["candidates"] if c["status"] == "adopted")
    return adopted["trial_id"]
