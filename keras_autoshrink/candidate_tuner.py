"""A tuner that trains candidates: each from scratch, by its own seed, within its time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
import traceback
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import masked_search, service, weights_file
from keras_autoshrink.callbacks import ScoreCallback
from keras_autoshrink.candidate_costs import CandidateCosts
from keras_autoshrink.limits import Deadline, killed_after
from keras_autoshrink.memory import graphs_released
from keras_autoshrink.round_training import RoundTraining
from keras_autoshrink.score import Score
from keras_autoshrink.seeds import training_seed
from keras_autoshrink.trial_weights import TrialWeights

_log = logging.getLogger(__name__)


class CandidateTuner(TrialWeights):
    """Trains what an `AutoShrinkOracle` hands out; `AutoShrink` searches by it.

    Args:
        *args: as for `keras_tuner.Tuner`.
        score: callable `score(logs, macs)`.
        max_seconds_per_trial: a candidate that takes longer has failed; None for no limit. The
            clock is looked at between two epochs where candidates share a program, between two
            batches elsewhere.
        race: whether of a round's candidates the worse half stops after a quarter of the epochs,
            and half of the others after one half; see `racing`.
        inherit: whether candidates begin with the weights of the round's cell, as far as it has
            them, and train for a quarter of the epochs.
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
        race: bool = False,
        inherit: bool = False,
        **kwargs: Any,
    ) -> None:
        self._race = race
        self.score = score
        self._costs = costs
        self.max_seconds_per_trial = max_seconds_per_trial
        self._fit_verbose = 0
        self._rounds: RoundTraining | None = None  # while a search can use it
        super().__init__(*args, inherit=inherit, devices=devices, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Trains candidates until the oracle has no more; see `keras_tuner.Tuner.search`."""
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_rounds", None)
            self._rounds = self._together(args, kwargs)
            if self._rounds is not None:
                stack.enter_context(self._rounds)
                if service.role() == "worker" and self.max_seconds_per_trial is not None:
                    # Before it is given a candidate: the clocks of both sides run from then on.
                    self._rounds.prepare()
            super().search(*args, **kwargs)

    def _together(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RoundTraining | None:
        """What trains the candidates of a round together; None if they have to be apart.

        Raises:
            ValueError: they have to be, and a race or inherited weights are asked for.
        """
        rounds, apart = None, ""
        try:
            self._check_plain()
            rounds = masked_search.round_training(
                self.hypermodel,
                args,
                kwargs,
                score=self.score,
                seed=self.oracle.seed,
                max_seconds=self.max_seconds_per_trial,
                race=self._race,
                parent=self._parent if self._inherit else None,
                measured=self._costs.measured,
            )
        except masked_search.ApartError as error:
            apart = str(error)
            self._trained_apart(apart)
        cheaper = [n for n in ("race", "inherit") if getattr(self, f"_{n}")]
        if service.role() != "alone":
            apart = "several workers search"
        if cheaper and apart:
            raise ValueError(
                f"{cheaper[0]}=True: the candidates of a round have to be trained together, "
                f"by one process, which they cannot: {apart}"
            )
        return rounds

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> list[Any]:
        """Trains a candidate; see `keras_tuner.Tuner.run_trial`."""
        for path in self._weights_files(trial):
            path.unlink(missing_ok=True)  # of a try that was killed, perhaps of the other kind
        if self._rounds is not None:
            return [self._trained_in_rounds(trial)]
        with graphs_released():
            return self._trained_alone(trial, *args, **kwargs)

    def _trained_in_rounds(self, trial: Trial) -> keras.callbacks.History:
        cell = self.oracle.cell_of(trial)
        cell = dataclasses.replace(cell, edges=cell.live_edges)
        alone = service.role() == "alone"
        trained = self._rounds.trained(cell, self.oracle.search if alone else None)
        history = keras.callbacks.History()
        history.history = trained.history
        best = self.oracle.get_best_trials(1) if alone else []
        if (
            self._inherit
            or not best
            or best[0].score is None
            or max(history.history["score"]) >= best[0].score
        ):
            weights_file.write(self._weights_files(trial)[1], trained.arrays)
        return history

    def _trained_alone(self, trial: Trial, *args: Any, **kwargs: Any) -> list[Any]:
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

    def _check_plain(self) -> None:
        """Raises if something is asked for that KerasTuner or Keras does with a model."""
        for name in ("distribution_strategy", "max_model_size", "optimizer", "loss", "metrics"):
            if getattr(self, name):
                raise masked_search.ApartError(f"{name} is given")
        if self._fit_verbose:
            raise masked_search.ApartError(f"verbose={self._fit_verbose} is given")
        if self.executions_per_trial != 1:
            executions = self.executions_per_trial
            raise masked_search.ApartError(f"executions_per_trial={executions} is given")
        for name in _HOOKS:
            if getattr(type(self), name) is not getattr(CandidateTuner, name):
                raise masked_search.ApartError(f"{type(self).__name__} has a {name}() of its own")

    def _trained_apart(self, reason: str) -> None:
        """Called once a search if each candidate has to be built and fitted by itself."""
        _log.info("each candidate is built and fitted by itself: %s", reason)

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        build = functools.partial(super()._build_hypermodel, hp)
        return self._devices.build(build) if self._devices else build()

    def _run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        with self._devices.together() if self._devices else contextlib.nullcontext():
            super()._run_and_update_trial(trial, *args, **kwargs)

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


# Methods of KerasTuner's that are called while a model of Keras is trained.
_HOOKS = (
    *("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end"),
    *("_build_hypermodel", "_build_and_fit_model"),
)
