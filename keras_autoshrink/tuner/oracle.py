"""AutoShrinkOracle: a search of cells behind KerasTuner's Oracle interface."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import ANOTHER_SEARCH, check_same, positive
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.search import STRATEGIES
from keras_autoshrink.search.final import choose_rungs
from keras_autoshrink.search.points import EPOCHS
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch, check_settings
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.costs import CandidateCosts
from keras_autoshrink.tuner.project import raised
from keras_autoshrink.tuner.state import (
    ENDED,
    State,
    metric_of,
    metrics_of,
    outcome_of,
    state_from,
    untrained,
)

_log = logging.getLogger(__name__)


class AutoShrinkOracle(keras_tuner.Oracle):
    """Shrinks the cell of a search space (after arXiv 1911.09251, figure 2).

    For use with any `keras_tuner.Tuner` whose HyperModel declares a cell's edges as Booleans
    named `<cell>/edge_i_j`. All declared edges make the first cell; "evolution" searches all other
    hyperparameters too, the other strategies leave them at their defaults. `AutoShrink` is the
    tuner that goes with it and adds the score; with another tuner the objective is the score.

    A trial whose objective is not finite has failed. When all of a round have failed ("paper"), or
    no network has a score, or ten or more in a row have none ("bayesian"), asking for another trial
    raises a RuntimeError that quotes the last error; a reload tries the last round again.

    Args:
        objective: name or `keras_tuner.Objective`; by default the "score" of `AutoShrink`, to
            be maximised. The trajectory's score is what is maximised: for an objective to be
            minimised, its negative.
        metric: name or `keras_tuner.Objective` of the metric behind it, for the record; by default
            the objective itself. Of a name KerasTuner says whether less or more is better; of one
            that it does not know more is.
        num_candidates: k, how many cells are tried in a round, 1 or more.
        keep_fraction: the share of the initial edges, 0 to 1, at which "paper" stops; the others
            try no smaller cells.
        seed: integer, 0 included; every random choice comes from it.
        max_seconds_per_trial: when a worker has not answered for so many seconds (and a few
            more), an idle one gets its candidate, and a late answer does not count. `AutoShrink`
            ends such a trial itself.
        hyperparameters: as in `keras_tuner.Oracle`.
        allow_new_entries: as in `keras_tuner.Oracle`.
        tune_new_entries: as in `keras_tuner.Oracle`.
        max_retries_per_trial: as in `keras_tuner.Oracle`.
        strategy: "bayesian", "evolution" or "paper", as `AutoShrink` describes them.
        max_candidates: how many networks are trained; as for `AutoShrink`.
        max_minutes: how long the search may take; as for `AutoShrink`.

    Attributes:
        first: values of hyperparameters by name, of each point that a search of the whole space is
            to begin with. To be set before the search begins, as the next two.
        epochs: the most that a candidate is trained. Of so many a search of the whole space trains
            most candidates for half; None to train all alike.
        costs: counts and measures candidates before they are handed out; None to hand them out as
            they are proposed. To be set before the search begins.
        on_begin: called with each trial that is handed out.
        on_end: called with each trial that has ended, once the search knows.
        shutdown: its event `finished` is set once every worker knows of the end; then a chief, the
            process that serves the workers, may end.

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
        metric: str | keras_tuner.Objective | None = None,
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
        max_minutes: float | None = None,
    ) -> None:
        if isinstance(objective, (list, tuple)):
            raise ValueError("objective: one objective; weigh several in a score of your own")
        if max_seconds_per_trial is not None:
            max_seconds_per_trial = positive("max_seconds_per_trial", max_seconds_per_trial)
        self.settings = check_settings(
            num_candidates=num_candidates,
            keep_fraction=keep_fraction,
            seed=seed,
            strategy=strategy,
            max_candidates=max_candidates,
            max_minutes=max_minutes,
        )
        super().__init__(
            objective=objective or keras_tuner.Objective("score", "max"),
            seed=self.settings["seed"],
            # A limit would cut a round in two.
            max_trials=None,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            # The round counts its failures; KerasTuner's limit would raise with its lock held.
            max_consecutive_failed_trials=None,
        )
        self.seed = self.settings["seed"]  # KerasTuner replaces 0 by a random seed
        self.metric = _with_direction(metric) if metric else self.objective
        self.first: Sequence[Mapping[str, Any]] = ()
        self.without_effect: Callable[[dict[str, Any]], Iterable[str]] = lambda _: ()
        self.epochs: int | None = None
        self.folds = 1
        self.costs: CandidateCosts | None = None
        self.on_begin: Callable[[Trial], None] = lambda trial: None
        self.on_end: Callable[[Trial], None] = lambda trial: None
        self.shutdown = service.Shutdown(self)
        # Tells this search from one that was in its folder before, or will be.
        self.token = secrets.token_hex(8)
        self._space: CellSpace | None = None
        # The hyperparameters beside the cell that are searched, None before a search has begun:
        # what a HyperModel declares later, in its `fit`, is not.
        self._searched: Sequence[str] | None = None
        self._search: ShrinkSearch | None = None
        self._started: float | None = None  # on the clock, had it never been interrupted
        # Of each network that has been handed out, the trial that counts.
        self._trial_ids: dict[str, str] = {}
        self._attempts = service.Attempts(max_seconds_per_trial)
        self._may_reopen = False
        self._screened: set[str] = set()
        self._screening = threading.Lock()

    @property
    def search(self) -> ShrinkSearch:
        """The state of the search; it starts when the search space is known.

        Raises:
            ValueError: the search space does not declare the edges of one cell.
        """
        if self._search is None:
            self._search = self._new_search()
        return self._search

    @property
    def space(self) -> CellSpace:
        """The cell that the hyperparameters declare.

        Raises:
            ValueError: they do not declare the edges of one cell.
        """
        if self._space is None:
            space = self.hyperparameters.space
            rungs = choose_rungs(self.epochs or 0, self.settings["max_candidates"])
            self._space = CellSpace(
                space,
                self.whole_space,
                self._searched,
                self.first,
                rungs,
                self.folds,
                self.without_effect,
            )
        return self._space

    @property
    def whole_space(self) -> bool:
        """Whether more than edges is searched."""
        return STRATEGIES[self.settings["strategy"]].whole_space

    def cell_of(self, trial: Trial) -> Cell:
        """Returns the cell that a trial trains, numbered as the complete DAG."""
        return self.space.sub_cell(trial.hyperparameters.values)

    # ---- trials -------------------------------------------------------------------------------

    def create_trial(self, tuner_id: str) -> Trial:
        """Hands out the next trial; see `keras_tuner.Oracle.create_trial`.

        A worker that asks while it has a trial has died and come back: it gets that one again,
        unless it has cost three workers; then the trial has failed.

        Raises:
            RuntimeError: too many candidates failed. (Not of a chief: its workers hear that the
                search is over.)
            ValueError: the search space does not declare the edges of one cell, or `max_minutes`
                is too short.
        """
        # Not synchronized: what raises with KerasTuner's lock held would never release it.
        if self._started is None:
            self._started = time.monotonic()
        if self.search.error and self._may_reopen:
            self._reopen()
        self._may_reopen = False
        self._screen()
        if self.search.error and service.role() != "chief":
            raise RuntimeError(f"the search cannot go on: {self.search.error}")
        if (reason := self.search.too_short()) and service.role() != "chief":
            raise ValueError(reason)
        trial = self._next_trial(tuner_id)
        if service.role() != "chief":
            return trial
        return service.pack_values(trial, self.token)

    @keras_tuner.synchronized
    def _next_trial(self, tuner_id: str) -> Trial:
        if self.shutdown.finished.is_set():  # KerasTuner's server lives on for a while
            return Trial(self.get_space(), status=TrialStatus.IDLE)
        given = self.ongoing_trials.get(tuner_id)
        if given is not None and given.status == TrialStatus.STOPPED:  # another took it over
            del self.ongoing_trials[tuner_id]
        elif given is not None and self._attempts.begin_again(given.trial_id):
            trial = untrained(given, TrialStatus.RUNNING)
            self.trials[given.trial_id] = self.ongoing_trials[tuner_id] = trial
            return trial
        elif given is not None:
            lost = untrained(given, TrialStatus.FAILED)
            lost.message = "its workers died, three times: out of memory, or killed"
            self.end_trial(lost)
        self._stop_overdue()
        trial = super().create_trial(tuner_id)
        if trial.status == TrialStatus.RUNNING:
            self._attempts.begin(trial.trial_id)
            self.on_begin(trial)
        elif trial.status == TrialStatus.STOPPED and service.role() == "chief":
            self.shutdown.begin()
        return trial

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Hands out a candidate of the round that nobody trains yet; see `keras_tuner.Oracle`."""
        if self.search.done:
            return {"status": TrialStatus.STOPPED}
        pending = [c.cell for c in self.search.pending()]
        if self.costs:
            pending = [cell for cell in pending if cell.key in self._screened]
        new = [cell for cell in pending if cell.key not in self._trial_ids]
        # Only who would be idle repeats what may be trained already; the first answer counts.
        again = [c for c in pending if self._attempts.unheard(self._trial_ids.get(c.key, ""))]
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

        KerasTuner's own `end_trial` writes the trial's file and then the state, by `_save_trial`
        and `save`.

        The end of a trial that is not out, such as one that was taken over, changes nothing.
        """
        report = service.unpack_report(trial)
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
            self.shutdown.begin()

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """Returns the best trials, the search's own choice before others of the same score."""
        best = self.search.best()
        adopted = [c for c in best["candidates"] if c["status"] == "adopted"] if best else []
        chosen = adopted[0]["trial_id"] if adopted else None
        trials = super().get_best_trials(len(self.trials))
        completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
        rest = [trial for trial in trials if trial.status != TrialStatus.COMPLETED]
        completed.sort(
            key=lambda trial: (
                chosen is not None and self._epochs(trial) > 0 and trial.trial_id != chosen,
                -self._epochs(trial),
                -self._sign * trial.score,
                trial.trial_id != chosen,
            )
        )
        return (completed + rest)[:num_trials]

    def is_final(self, trial: Trial) -> bool:
        """Tells whether a trial is trained for all epochs, others being trained for fewer."""
        return self._epochs(trial) > 0 and self._epochs(trial) == max(self.space.space.rungs)

    @staticmethod
    def _epochs(trial: Trial) -> int:
        return int(trial.hyperparameters.values.get(EPOCHS, 0))

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
                late = untrained(late, TrialStatus.FAILED)
                late.message = "no answer in time from three workers"
                self.end_trial(late)

    def _settle(self, trial: Trial) -> None:
        """Tells the search what came of a trial, if it has ended and that is news."""
        cell = self.cell_of(trial)
        if trial.status not in ENDED or not self.search.is_pending(cell):
            return
        for other in self.trials.values():
            open_ = other is not trial and other.status not in ENDED
            if open_ and self.cell_of(other).key == cell.key:
                self._stop(other, f"trial {trial.trial_id} has answered before")
        self._trial_ids[cell.key] = trial.trial_id
        self._look_at_clock()
        self.search.tell(cell, outcome_of(trial, self._sign, self.metric.name))

    def _look_at_clock(self) -> None:
        if self._started is not None:
            self.search.elapsed_seconds = time.monotonic() - self._started

    def _stop(self, trial: Trial, message: str) -> None:
        """Ends a trial that does not count."""
        trial.status, trial.message = TrialStatus.STOPPED, message
        self._attempts.end(trial.trial_id)
        self._retry_queue = [i for i in self._retry_queue if i != trial.trial_id]
        self._save_trial(trial)

    # ---- costs, before anything is trained ------------------------------------------------------

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
        outcomes = {cell: outcome for cell, outcome in found.items() if outcome is not None}
        for cell, outcome in outcomes.items():
            if not self.search.is_pending(cell):
                continue  # a worker of an earlier run has answered meanwhile
            self._look_at_clock()
            self.search.tell(cell, outcome)
            # Of an earlier run, which measured it otherwise.
            given = self.trials.get(self._trial_ids.pop(cell.key, ""))
            if given is not None:
                self._stop(given, str(outcome.over_limit or outcome.error))
        if outcomes:
            self.save()

    def _examine(self, cells: list[Cell]) -> Mapping[Cell, Outcome | None]:
        return self.costs.examine(cells, self._hyperparameters) if self.costs else {}

    # ---- files, and going on from them ----------------------------------------------------------

    def save(self) -> None:
        """Writes the state, whole or not at all."""
        self._files.write(self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        self._files.write_trial(trial)

    @property
    def _files(self) -> State:
        return State(Path(self._project_dir))

    def get_state(self) -> dict[str, Any]:
        """Returns KerasTuner's state, the search's, and what reports say of it besides."""
        about = {
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "max_seconds_per_trial": self._attempts.max_seconds,
        }
        return {
            **super().get_state(),
            "search": self._search.to_json() if self._search else None,
            "elapsed_seconds": self._search.elapsed_seconds if self._search else 0.0,
            "trial_ids": self._trial_ids,
            "token": self.token,
            "about": about,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned, and from the trials.

        Raises:
            ValueError: the state is of a search with other settings.
        """
        folder = self._project_dir
        if "search" not in state:
            raise ValueError(f"{folder} holds the search of another oracle; {ANOTHER_SEARCH}")
        searched = state["search"] or {}
        theirs = raised(searched, self.settings) if searched else self.settings
        check_same(theirs, self.settings, f"{folder} holds a search")
        super().set_state({**state, "ongoing_trials": {}, "retry_queue": []})
        self.seed = self.settings["seed"]
        self.token = state["token"]
        # Not of a trial that was stopped when a kill came: nobody has its candidate.
        stopped = {i for i, t in self.trials.items() if t.status == TrialStatus.STOPPED}
        self._trial_ids = {k: i for k, i in state["trial_ids"].items() if i not in stopped}
        self._space = None
        self._searched = searched["space"]["choices"] if searched else None
        if searched:
            self.epochs = max(searched["space"]["rungs"], default=None)
            self.folds = searched["space"]["folds"]
        self._search = self._new_search(searched.get("proposals", ())) if searched else None
        self._started = time.monotonic() - state["elapsed_seconds"]
        if self._search is not None:
            self._search.elapsed_seconds = state["elapsed_seconds"]
        self._attempts.restore(())
        self._replay(searched.get("outcomes", {}))
        self._hand_out_again(state["ongoing_trials"])
        self._may_reopen = True

    def reload(self) -> None:
        """Goes on from the files of an earlier run; see `keras_tuner.Oracle.reload`.

        A file that is damaged is written again from the others, and the log says so. A round
        that nothing survived is tried again.

        Raises:
            ValueError: the files are of another search, or too much of them is damaged; the
                message names them.
        """
        state, self.trials, damaged = self._files.read()
        try:
            self.set_state(state or state_from(self.trials, self.get_state()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self._files.path}: damaged: {error!r}; restore it, use another project_name, or "
                "overwrite=True to start anew"
            ) from error
        for trial_id in dict.fromkeys((*damaged, *self.start_order)):
            if trial_id not in self.trials:
                # Only keeps the number, which another trial would take: nobody needs the rest.
                self._restore(self.search.cell, trial_id, TrialStatus.STOPPED)
        if damaged or state is None:
            self.save()

    def _new_search(self, proposals: Any = ()) -> ShrinkSearch:
        limits = self.costs.limits if self.costs else None
        return ShrinkSearch(
            self.space.cell,
            **self.settings,
            limits=limits,
            proposals=proposals,
            space=self.space.space,
        )

    def _replay(self, saved: dict[str, dict[str, Any]]) -> None:
        """Tells the search what the trials know, and what the state knows of lost trials.

        Args:
            saved: the outcomes in the state, by `Cell.key`.
        """
        counted: dict[str, Trial] = {}
        for trial in self.trials.values():
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED):
                key = self.cell_of(trial).key
                if key not in counted or trial.status == TrialStatus.COMPLETED:
                    counted[key] = trial
        outcomes = {key: Outcome(**outcome) for key, outcome in saved.items()}
        for key, trial in counted.items():
            outcomes[key] = outcome_of(trial, self._sign, self.metric.name)
        cells, strange = self.search.replay(outcomes, self._examine)
        if strange:
            trial_id = min(str(outcome.trial_id) for outcome in strange.values())
            raise ValueError(
                f"trial {trial_id} is of another search: with this seed and these settings it "
                "would not have been trained; use those of that search, another project_name "
                "(--project-name), or overwrite=True (--overwrite) to delete it"
            )
        self._trial_ids.update({key: trial.trial_id for key, trial in counted.items()})
        for cell in cells:
            outcome = outcomes[cell.key]
            if cell.key not in counted and outcome.trial_id is not None:
                status = TrialStatus.FAILED if outcome.score is None else TrialStatus.COMPLETED
                self._restore(cell, outcome.trial_id, status, outcome)

    def _hand_out_again(self, ongoing: dict[str, str]) -> None:
        """Queues the trials that were under way, or leaves them to workers that live on."""
        pending = {candidate.cell.key: candidate.cell for candidate in self.search.pending()}
        for key, cell in pending.items():
            if self._trial_ids.get(key, "") not in ("", *self.trials):
                self._restore(cell, self._trial_ids[key], TrialStatus.INVALID)
        workers = {trial_id: tuner_id for tuner_id, trial_id in ongoing.items()}
        for trial_id, trial in self.trials.items():
            if trial.status in ENDED:
                continue
            key = self.cell_of(trial).key
            if key not in pending or self._trial_ids.setdefault(key, trial_id) != trial_id:
                trial.status = TrialStatus.STOPPED
            elif service.role() == "chief" and trial_id in workers:
                self.ongoing_trials[workers[trial_id]] = trial
            else:
                # From the start: metrics of the first time would be averaged in.
                self.trials[trial_id] = untrained(trial, TrialStatus.INVALID)
                self._retry_queue.append(trial_id)
        self._attempts.restore(trial.trial_id for trial in self.ongoing_trials.values())

    def _restore(
        self, cell: Cell, trial_id: str, status: str, outcome: Outcome | None = None
    ) -> None:
        """Writes a trial's file again."""
        trial = self.trials[trial_id] = Trial(self._hyperparameters(cell), trial_id, status)
        if status == TrialStatus.COMPLETED:
            metrics = metrics_of(outcome, self._sign, self.metric.name, self.objective.name)
            super().update_trial(trial_id, metrics)
            self.score_trial(trial)
        elif outcome is not None and outcome.over_limit is not None:
            trial.message = f"{OverBudgetError.__name__}: {outcome.over_limit}"
        elif outcome is not None:
            trial.message = outcome.error
        self._save_trial(trial)
        if status == TrialStatus.INVALID:
            what = "its candidate is trained again"
        else:
            what = "written again from oracle.json"
        _log.warning("trial_%s/trial.json: damaged or missing; %s", trial_id, what)

    def _reopen(self) -> None:
        """Tries the candidates of a round again that nothing survived."""
        self._screened.clear()
        for trial_id in filter(None, self.search.reopen()):  # one that was not trained has none
            self.trials[trial_id] = untrained(self.trials[trial_id], TrialStatus.INVALID)
            self._run_times[trial_id] = 0
            self._retry_queue.append(trial_id)
            # Or a kill before the last of them has ended would count the others' old failures.
            self._save_trial(self.trials[trial_id])

    # ---- hyperparameters ------------------------------------------------------------------------

    @property
    def _sign(self) -> int:
        return 1 if self.objective.direction == "max" else -1

    def _hyperparameters(self, cell: Cell) -> keras_tuner.HyperParameters:
        found = self.get_space()
        found.values = self._values(cell)
        return found

    def _values(self, cell: Cell) -> dict[str, Any]:
        """The hyperparameters of a cell; those that are not its own keep their defaults."""
        defaults = {p.name: p.default for p in self.hyperparameters.space}
        measured = self.costs.values(cell) if self.costs else {}
        return {**defaults, **self.space.values(cell), **measured}


def _with_direction(metric: str | keras_tuner.Objective) -> keras_tuner.Objective:
    if not isinstance(metric, str):
        return metric
    try:
        return keras_tuner.Oracle(objective=metric, seed=1).objective
    except ValueError:  # KerasTuner does not know it
        return keras_tuner.Objective(metric, "max")
