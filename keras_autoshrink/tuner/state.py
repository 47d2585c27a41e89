"""What KerasTuner's trials say, in the terms of the search, and the other way round."""

from __future__ import annotations

import json
import logging
import math
import operator
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import files
from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.score import RECORDED_COSTS
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import CostLimits, Outcome
from keras_autoshrink.search.shrink import ShrinkSearch
from keras_autoshrink.search.strategies import check_settings
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.service import Attempts

# A stopped trial has ended without an outcome: another trial has its candidate.
ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED, TrialStatus.STOPPED)


def outcome_of(trial: Trial, sign: int, metric: str) -> Outcome:
    """What came of a trial that has ended.

    Args:
        trial: completed, or failed for good.
        sign: 1 if its score is to be maximised, -1 if minimised.
        metric: the metric behind the score.
    """
    if trial.status != TrialStatus.COMPLETED:
        return Outcome(None, trial_id=trial.trial_id, error=error_line(trial.message))
    found = {cost: metric_of(trial, cost.name) for cost in RECORDED_COSTS}
    return Outcome(
        score=sign * float(trial.score),
        objective=metric_of(trial, metric),
        costs={c.name: round(v) if c.whole else v for c, v in found.items() if v is not None},
        seconds=metric_of(trial, "seconds") or 0.0,
        trial_id=trial.trial_id,
    )


def metrics_of(outcome: Outcome, sign: int, metric: str, objective: str) -> dict[str, float]:
    """The metrics of a completed trial that this came of, for KerasTuner: `outcome_of` undone.

    Args:
        outcome: one with a score.
        sign: as of `outcome_of`; so is the next.
        metric: the metric behind the score.
        objective: name of the trial's score.
    """
    metrics = {
        **outcome.costs,
        "seconds": outcome.seconds,
        metric: outcome.objective,
        objective: sign * outcome.score,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def fresh(trial: Trial, status: str) -> Trial:
    """The trial as it was before it was trained."""
    return Trial(trial.hyperparameters, trial.trial_id, status)


def metric_of(trial: Trial, name: str) -> float | None:
    """A metric of a trial; None if it has none of this name, or one that is not finite."""
    if not trial.metrics.exists(name):
        return None
    value = float(trial.metrics.get_best_value(name))
    return value if math.isfinite(value) else None


def error_line(message: str | None) -> str:
    """The line of a traceback that says what was wrong: the first after the last frame."""
    lines = (message or "no error message").strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith("Traceback (")), default=-1)
    return next((line for line in lines[last + 1 :] if line[:1].strip()), lines[-1])


_log = logging.getLogger(__name__)

_KINDS = {
    "ongoing_trials": dict,
    "hyperparameters": dict,
    "start_order": list,
    "end_order": list,
    "run_times": dict,
    "retry_queue": list,
}


def read(path: Path) -> tuple[dict[str, Any] | None, dict[str, Trial], list[str]]:
    """The files of a search.

    The state is read first. Who only looks at a search that is under way then finds trials newer
    than it, as after a kill, and takes none for lost that has ended in between.

    Args:
        path: of `oracle.json`.

    Returns:
        The state, or None if it has to follow from the trials; the trials by their ids; the ids
        of those that are damaged.

    Raises:
        ValueError: the state is damaged, and so is a trial, or there are none.
    """
    state, problem = _read_state(path)
    trials, damaged = _read_trials(path.parent)
    if state is not None:
        return state, trials, damaged
    if not trials:
        raise ValueError(
            f"{problem}; no trial has been trained, so nothing is lost: use overwrite=True to "
            "start anew, or another project_name"
        )
    if damaged:
        raise ValueError(
            f"{problem}; and so is trial_{damaged[0]}/trial.json: restore one of the two, or use "
            "another project_name, or overwrite=True to start anew"
        )
    _log.warning("%s; the search goes on from its %d trials", problem, len(trials))
    return None, trials, damaged


def _read_state(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state, or None and what is wrong with its file."""
    try:
        state = files.read_json(path)
    except FileNotFoundError:
        return None, f"{path}: missing"
    except ValueError as error:
        return None, str(error)
    for name, kind in _KINDS.items():
        if not isinstance(state.get(name), kind):
            return None, f"{path}: damaged: has no {name}"
    return state, ""


def _read_trials(folder: Path) -> tuple[dict[str, Trial], list[str]]:
    """The trials in a search's folder by their ids, and the ids of those that are damaged."""
    trials, damaged = {}, []
    for path in sorted(folder.glob("trial_*/trial.json")):
        trial_id = path.parent.name.removeprefix("trial_")
        try:
            trials[trial_id] = Trial.from_state(files.read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged.append(trial_id)
    return trials, damaged


def state_of(trials: Mapping[str, Trial], blank: dict[str, Any]) -> dict[str, Any]:
    """The state of a search as its trials have it.

    Args:
        trials: at least one.
        blank: of a search that has not begun.
    """
    ids = sorted(trials)
    return {
        **blank,
        "hyperparameters": trials[ids[-1]].hyperparameters.get_config(),
        "start_order": ids,
    }


def replay(
    search: ShrinkSearch,
    outcomes: Mapping[str, Outcome],
    spare: Mapping[str, Outcome],
    examine: Callable[[list[Cell]], Mapping[Cell, Outcome | None]],
) -> list[tuple[Cell, Outcome]]:
    """Tells a search that begins all that is known of its networks.

    Args:
        search: to be told.
        outcomes: what the trials' own files say, by `Cell.key`.
        spare: what the state of the search says, for trials whose files are lost, and of
            networks that have none.
        examine: as of `search_state.replay`.

    Returns:
        The networks of trials that were known from `spare` alone, and their outcomes.

    Raises:
        ValueError: there is an outcome of a network that this search would not propose.
    """
    told, strange = shrink.replay(search, {**spare, **outcomes}, examine)
    if strange:
        trial_id = min(str(outcome.trial_id) for outcome in strange.values())
        raise ValueError(
            f"trial {trial_id} is of another search: with this seed and these settings it would "
            "not have been trained; use those of that search, another project_name "
            "(--project-name), or overwrite=True (--overwrite) to delete it"
        )
    lost = [(cell, spare[cell.key]) for cell in told if cell.key not in outcomes]
    return [(cell, outcome) for cell, outcome in lost if outcome.trial_id is not None]


_log_persistence = logging.getLogger(__name__)


class PersistentOracle(keras_tuner.Oracle):
    """An Oracle of a shrinking search whose files are whole at any moment.

    What is trained, and in which order, is the business of `AutoShrinkOracle`, which documents
    the arguments.
    """

    _limits: CostLimits | None = None  # see `ScreeningOracle` for this and the next
    _examine: Any = staticmethod(lambda cells: {})

    def __init__(
        self,
        objective: str | keras_tuner.Objective,
        metric: str | None,
        num_candidates: int,
        keep_fraction: float,
        seed: int,
        max_seconds_per_trial: float | None,
        strategy: str,
        max_candidates: int | None,
        **kwargs: Any,
    ) -> None:
        check_settings(num_candidates, keep_fraction, seed, strategy, max_candidates)
        super().__init__(objective=objective, seed=operator.index(seed), **kwargs)
        self.seed = operator.index(seed)  # KerasTuner replaces 0 by a random seed
        self.metric = metric or self.objective.name
        self.num_candidates = operator.index(num_candidates)
        self.keep_fraction = float(keep_fraction)
        self.strategy = strategy
        self.max_candidates = None if max_candidates is None else operator.index(max_candidates)
        self._space: CellSpace | None = None
        self._search: ShrinkSearch | None = None
        # Of each network that has been given out, the trial that counts.
        self._trial_ids: dict[str, str] = {}
        self._attempts = Attempts(max_seconds_per_trial)
        self._may_reopen = False
        # Tells this search from one that was in its folder before, or will be.
        self.token = secrets.token_hex(8)

    @property
    def search(self) -> ShrinkSearch:
        """The state of the search; it starts when the search space is known.

        Raises:
            ValueError: the search space does not declare the edges of one cell.
        """
        if self._search is None:
            settings = {name: getattr(self, name) for name in shrink.SETTINGS}
            self._search = ShrinkSearch(self.space.cell, **settings, limits=self._limits)
        return self._search

    @property
    def space(self) -> CellSpace:
        """The cell that the hyperparameters declare.

        Raises:
            ValueError: they do not declare the edges of one cell.
        """
        if self._space is None:
            self._space = CellSpace(self.hyperparameters.space)
        return self._space

    def cell_of(self, trial: Trial) -> Cell:
        """The cell that a trial trains, numbered as the complete DAG."""
        return self.space.sub_cell(trial.hyperparameters.values)

    def save(self) -> None:
        """Writes the state, whole or not at all; KerasTuner's own way can be killed halfway."""
        files.write_text(self._get_oracle_fname(), json.dumps(self.get_state()))

    def _save_trial(self, trial: Trial) -> None:
        path = Path(self._get_trial_dir(trial.trial_id)) / "trial.json"
        files.write_text(path, json.dumps(trial.get_state()))

    def get_state(self) -> dict[str, Any]:
        """KerasTuner's state, and the search's."""
        search = shrink.to_json(self._search) if self._search else None
        about = shrink.about(self.metric, self.objective, self._attempts.max_seconds)
        ours = {"search": search, "trial_ids": self._trial_ids, "token": self.token, "about": about}
        return {**super().get_state(), **ours}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned, and from the trials.

        Raises:
            ValueError: the state is of a search with other settings.
        """
        if "search" not in state:
            raise ValueError(
                f"{self._project_dir} holds the search of another oracle; use another "
                "project_name (--project-name), or overwrite=True (--overwrite) to delete it"
            )
        settings = {name: getattr(self, name) for name in shrink.SETTINGS}
        theirs = shrink.with_unsaid(state["search"]) if state["search"] else settings
        for name, value in settings.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{name}={value}: the search in {self._project_dir} has "
                    f"{name}={theirs.get(name)}; use the same value, another "
                    "project_name, or overwrite=True"
                )
        super().set_state({**state, "ongoing_trials": {}, "retry_queue": []})
        self.seed = settings["seed"]
        self.token = state.get("token", self.token)
        # Not of a trial that was stopped when a kill came: nobody has its candidate.
        stopped = {i for i, t in self.trials.items() if t.status == TrialStatus.STOPPED}
        trial_ids = state.get("trial_ids", {})
        self._trial_ids = {key: i for key, i in trial_ids.items() if i not in stopped}
        self._space = None
        settings["proposals"] = (state["search"] or {}).get("proposals", ())
        self._search = ShrinkSearch(self.space.cell, **settings, limits=self._limits)
        self._attempts.restore(())
        self._replay((state["search"] or {}).get("outcomes", {}))
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
        path = Path(self._get_oracle_fname())
        state, self.trials, damaged = read(path)
        try:
            self.set_state(state or state_of(self.trials, self.get_state()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: damaged: {error!r}; restore it, use another project_name, or "
                "overwrite=True to start anew"
            ) from error
        for trial_id in dict.fromkeys((*damaged, *self.start_order)):
            if trial_id not in self.trials:
                # Only keeps the number, which another trial would take: nobody needs the rest.
                self._restore(self.search.cell, trial_id, TrialStatus.STOPPED)
        if damaged or state is None:
            self.save()

    def _replay(self, outcomes: dict[str, dict[str, Any]]) -> None:
        """Tells the search what the trials know, and what the state knows of lost trials."""
        counted: dict[str, Trial] = {}
        for trial in self.trials.values():
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED):
                key = self.cell_of(trial).key
                if key not in counted or trial.status == TrialStatus.COMPLETED:
                    counted[key] = trial
        lost = replay(
            self.search,
            {key: outcome_of(trial, self._sign, self.metric) for key, trial in counted.items()},
            {key: Outcome(**outcome) for key, outcome in outcomes.items()},
            self._examine,
        )
        self._trial_ids.update({key: trial.trial_id for key, trial in counted.items()})
        for cell, outcome in lost:
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
                self.trials[trial_id] = fresh(trial, TrialStatus.INVALID)
                self._retry_queue.append(trial_id)
        self._attempts.restore(trial.trial_id for trial in self.ongoing_trials.values())

    def _restore(
        self, cell: Cell, trial_id: str, status: str, outcome: Outcome | None = None
    ) -> None:
        """Writes a trial's file again."""
        trial = self.trials[trial_id] = Trial(self._hyperparameters(cell), trial_id, status)
        if status == TrialStatus.COMPLETED:
            metrics = metrics_of(outcome, self._sign, self.metric, self.objective.name)
            super().update_trial(trial_id, metrics)
            self.score_trial(trial)
        elif outcome is not None:
            trial.message = outcome.error
        self._save_trial(trial)
        if status == TrialStatus.INVALID:
            what = "its candidate is trained again"
        else:
            what = "written again from oracle.json"
        _log_persistence.warning("trial_%s/trial.json: damaged or missing; %s", trial_id, what)

    def _reopen(self) -> None:
        """Tries the candidates of a round again that nothing survived."""
        for trial_id in filter(None, self.search.reopen()):  # one that was not trained has none
            self.trials[trial_id] = fresh(self.trials[trial_id], TrialStatus.INVALID)
            self._run_times[trial_id] = 0
            self._retry_queue.append(trial_id)
            # Or a kill before the last of them has ended would count the others' old failures.
            self._save_trial(self.trials[trial_id])

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
        return {**defaults, **self.space.values(cell)}
