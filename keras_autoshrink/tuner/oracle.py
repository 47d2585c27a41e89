"""AutoShrinkOracle: the search behind KerasTuner's Oracle interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import positive
from keras_autoshrink.search.records import CostLimits, Outcome
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.costs import CandidateCosts
from keras_autoshrink.tuner.state import ENDED, PersistentOracle, fresh, metric_of, outcome_of


class ScreeningOracle(PersistentOracle):
    """An Oracle that knows what a candidate costs before it hands it out.

    Attributes:
        costs: what counts and measures; None where candidates are handed out as they are
            proposed. To be set before the search begins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.costs: CandidateCosts | None = None
        self._screened: set[str] = set()
        self._screening = threading.Lock()

    @property
    def _limits(self) -> CostLimits | None:
        return self.costs.limits if self.costs else None

    def _examine(self, cells: list[Cell]) -> Mapping[Cell, Outcome | None]:
        return self.costs.examine(cells, self._hyperparameters) if self.costs else {}

    def _passed(self, cell: Cell) -> bool:
        """Whether a pending candidate may be handed out."""
        return not self.costs or cell.key in self._screened

    def _screen(self) -> None:
        """Looks at what the candidates of a round cost before any of them is handed out.

        So nothing of this search trains while latencies are measured. Not synchronized: what
        raises with KerasTuner's lock held would never release it.
        """
        with self._screening:
            while self.costs:
                pending = [c.cell for c in self.search.pending()]
                unknown = [cell for cell in pending if cell.key not in self._screened]
                if not unknown:
                    break
                self._take_screened(self._examine(unknown))

    @keras_tuner.synchronized
    def _take_screened(self, found: Mapping[Cell, Outcome | None]) -> None:
        self._screened.update(cell.key for cell in found)
        told = {cell: outcome for cell, outcome in found.items() if outcome is not None}
        for cell, outcome in told.items():
            if all(candidate.cell.key != cell.key for candidate in self.search.pending()):
                continue  # a worker of an earlier run has answered meanwhile
            self.search.tell(cell, outcome)
            # Of an earlier run, which measured it otherwise.
            given = self.trials.get(self._trial_ids.pop(cell.key, ""))
            if given is not None:
                self._stop(given, str(outcome.over_limit or outcome.error))
        if told:
            self.save()

    def _stop(self, trial: Trial, message: str) -> None:
        """Ends a trial that does not count."""
        trial.status, trial.message = TrialStatus.STOPPED, message
        self._attempts.end(trial.trial_id)
        self._retry_queue = [i for i in self._retry_queue if i != trial.trial_id]
        self._save_trial(trial)

    def _reopen(self) -> None:
        self._screened.clear()
        super()._reopen()


class AutoShrinkOracle(ScreeningOracle):
    """Shrinks the cell of a search space (after arXiv 1911.09251, figure 2).

    For use with any `keras_tuner.Tuner` whose HyperModel declares a cell's edges as Booleans
    named `<cell>/edge_i_j`. All declared edges make the first cell; other hyperparameters keep
    their defaults. `AutoShrink` is the tuner that goes with it and adds the score; with
    another tuner the objective is the score.

    A trial whose objective is not finite has failed. When all of a round have failed ("paper"), or
    no network has a score, or ten or more in a row have none ("bayesian"), asking for another trial
    raises a RuntimeError that quotes the last error; a reload tries the last round again.

    Args:
        objective: name or `keras_tuner.Objective`; by default the "score" of `AutoShrink`, to
            be maximised. The trajectory's score is what is maximised: for an objective to be
            minimised, its negative.
        metric: name of the metric behind it, for the record; by default the objective itself.
        num_candidates: k, how many cells are tried in a round, 1 or more.
        keep_fraction: the share of the initial edges, 0 to 1, at which "paper" stops; "bayesian"
            tries no smaller cells.
        seed: integer, 0 included; every random choice comes from it.
        max_seconds_per_trial: when a worker has not answered for so many seconds (and a few
            more), an idle one gets its candidate, and a late answer does not count. `AutoShrink`
            ends such a trial itself.
        hyperparameters: as in `keras_tuner.Oracle`.
        allow_new_entries: as in `keras_tuner.Oracle`.
        tune_new_entries: as in `keras_tuner.Oracle`.
        max_retries_per_trial: as in `keras_tuner.Oracle`.
        strategy: "bayesian" tries any parts of the first cell, those likely to score best by all
            scores so far; "paper" cells that lack one edge of the current one. `AutoShrink` says
            what is known of which is better.
        max_candidates: how many networks "bayesian" trains; by default as many as "paper" would
            train at most. ("paper" ends by itself.)

    Attributes:
        on_begin: called with each trial that is handed out.
        on_end: called with each trial that has ended, once the search knows.
        farewell: its event `finished` is set once no worker is left to be told of the end; then
            a chief, the process that serves the workers, may end.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.

    Example:
        >>> import keras_tuner
        >>> from keras_autoshrink import Cell, declare_cell
        >>> def build(hp):
        ...     return declare_cell(hp, Cell.dense(("input", "tanh", "relu")))
        >>> class Edges(keras_tuner.Tuner):  # any tuner; what it minimises is a number of edges
        ...     def run_trial(self, trial, **fit_arguments):
        ...         return {"edges": len(build(trial.hyperparameters).edges)}
        >>> oracle = AutoShrinkOracle(keras_tuner.Objective("edges", "min"))
        >>> Edges(oracle, build, directory="runs").search(verbose=0)
        >>> int(oracle.get_best_trials()[0].score)
        1
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective | None = None,
        metric: str | None = None,
        num_candidates: int = 10,
        keep_fraction: float = 0.01,
        seed: int = 0,
        max_seconds_per_trial: float | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        strategy: str = "bayesian",
        max_candidates: int | None = None,
    ) -> None:
        if isinstance(objective, (list, tuple)):
            raise ValueError("objective: one objective; weigh several in a score of your own")
        if max_seconds_per_trial is not None:
            max_seconds_per_trial = positive("max_seconds_per_trial", max_seconds_per_trial)
        super().__init__(
            objective or keras_tuner.Objective("score", "max"),
            metric,
            num_candidates,
            keep_fraction,
            seed,
            max_seconds_per_trial,
            strategy,
            max_candidates,
            # A limit would cut a round in two.
            max_trials=None,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            # The round counts its failures; KerasTuner's limit would raise with its lock held.
            max_consecutive_failed_trials=None,
        )
        self.on_begin: Callable[[Trial], None] = lambda trial: None
        self.on_end: Callable[[Trial], None] = lambda trial: None
        self.farewell = service.Farewell(self)

    def create_trial(self, tuner_id: str) -> Trial:
        """Hands out the next trial; see `keras_tuner.Oracle.create_trial`.

        A worker that asks while it has a trial has died and come back: it gets that one again,
        unless it has cost three workers; then the trial has failed.

        Raises:
            RuntimeError: too many candidates failed. (Not of a chief: its workers are told that
                the search is over.)
            ValueError: the search space does not declare the edges of one cell.
        """
        # Not synchronized: what raises with KerasTuner's lock held would never release it.
        if self.search.error and self._may_reopen:
            self._reopen()
        self._may_reopen = False
        self._screen()
        if self.search.error and service.role() != "chief":
            raise RuntimeError(f"the search cannot go on: {self.search.error}")
        trial = self._next_trial(tuner_id)
        if service.role() != "chief":
            return trial
        return service.with_exact_values(trial, self.token)

    @keras_tuner.synchronized
    def _next_trial(self, tuner_id: str) -> Trial:
        if self.farewell.finished.is_set():  # KerasTuner's server lives on for a while
            return Trial(self.get_space(), status=TrialStatus.IDLE)
        given = self.ongoing_trials.get(tuner_id)
        if given is not None and given.status == TrialStatus.STOPPED:  # another took it over
            del self.ongoing_trials[tuner_id]
        elif given is not None and self._attempts.begin_again(given.trial_id):
            trial = fresh(given, TrialStatus.RUNNING)
            self.trials[given.trial_id] = self.ongoing_trials[tuner_id] = trial
            return trial
        elif given is not None:
            lost = fresh(given, TrialStatus.FAILED)
            lost.message = "its workers died, three times: out of memory, or killed"
            self.end_trial(lost)
        self._stop_overdue()
        trial = super().create_trial(tuner_id)
        if trial.status == TrialStatus.RUNNING:
            self._attempts.begin(trial.trial_id)
            self.on_begin(trial)
        elif trial.status == TrialStatus.STOPPED and service.role() == "chief":
            self.farewell.begin()
        return trial

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next candidate that nobody trains yet, or word to wait, or to stop."""
        if self.search.done:
            return {"status": TrialStatus.STOPPED}
        pending = [c for c in self.search.pending() if self._passed(c.cell)]
        new = [c.cell for c in pending if c.cell.key not in self._trial_ids]
        # Only who would be idle repeats what may be trained already; the first answer counts.
        again = [
            c.cell for c in pending if self._attempts.unheard(self._trial_ids.get(c.cell.key, ""))
        ]
        for cell in (*new, *again):
            self._trial_ids[cell.key] = trial_id
            return {"status": TrialStatus.RUNNING, "values": self._values(cell)}
        return {"status": TrialStatus.IDLE}

    @keras_tuner.synchronized
    def update_trial(self, trial_id: str, metrics: dict[str, Any], step: int = 0) -> Trial:
        """Takes a trial's metrics; see `keras_tuner.Oracle.update_trial`."""
        if not self._attempts.is_out(trial_id):
            return self.trials[trial_id]
        return super().update_trial(trial_id, metrics, step)

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes a trial's end; the last one of a round makes the search go on.

        The end of a trial that is not out, such as one that was taken over, changes nothing.
        """
        report = service.take_report(trial)
        if report.get("token", self.token) != self.token:
            return  # of another search, which was here before
        ours = self.trials.get(trial.trial_id)
        if self._attempts.is_out(trial.trial_id):
            if "metrics" in report:
                self.update_trial(trial.trial_id, report["metrics"], report["step"])
            if trial.status == TrialStatus.COMPLETED and (
                metric_of(ours, self.objective.name) is None
            ):
                # KerasTuner would queue it again and then never run it.
                trial.status = TrialStatus.FAILED
                trial.message = f"the objective {self.objective.name!r} is not a finite number"
            super().end_trial(trial)
            # Not saved again at once: what the trial's own file says is settled at a reload too.
            self._settle(ours)
        self._attempts.end(trial.trial_id)
        for tuner_id in [t for t, out in self.ongoing_trials.items() if out is ours]:
            del self.ongoing_trials[tuner_id]
        if ours is not None:
            self.on_end(ours)
        if self.search.done and service.role() == "chief":
            self.farewell.begin()

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best trials, the search's own choice before others of the same score."""
        best = self.search.best()
        adopted = [c for c in best["candidates"] if c["status"] == "adopted"] if best else []
        chosen = adopted[0]["trial_id"] if adopted else None
        trials = super().get_best_trials(len(self.trials))
        completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
        rest = [trial for trial in trials if trial.status != TrialStatus.COMPLETED]
        completed.sort(key=lambda trial: (-self._sign * trial.score, trial.trial_id != chosen))
        return (completed + rest)[:num_trials]

    def _stop_overdue(self) -> None:
        """Takes candidates from workers that have not answered in time."""
        for candidate in self.search.pending():
            key = candidate.cell.key
            late = self.trials.get(self._trial_ids.get(key, ""))
            if late is None or not self._attempts.overdue(late.trial_id):
                continue
            if self._attempts.take_from(key):
                self._stop(late, "no answer in time; another worker has its candidate")
                del self._trial_ids[key]
            else:
                late = fresh(late, TrialStatus.FAILED)
                late.message = "no answer in time from three workers"
                self.end_trial(late)

    def _settle(self, trial: Trial) -> None:
        """Tells the search what came of a trial, if it has ended and that is news."""
        cell = self.cell_of(trial)
        if trial.status not in ENDED or all(c.cell.key != cell.key for c in self.search.pending()):
            return
        for other in self.trials.values():
            open_ = other is not trial and other.status not in ENDED
            if open_ and self.cell_of(other).key == cell.key:
                self._stop(other, f"trial {trial.trial_id} has answered before")
        self._trial_ids[cell.key] = trial.trial_id
        self.search.tell(cell, outcome_of(trial, self._sign, self.metric))
