"""The files of a search, whole at any moment, and what KerasTuner's trials say in its terms.

`oracle.json` holds the state of the search, `trial_<id>/trial.json` a trial each; a trial's file
is written first. Each of the two has what it takes to write the other again. Files written by
`files.write_text` are never torn by a kill; a disk that fails, or a copy cut short, can do it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import files
from keras_autoshrink.checks import reason_of
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.score import RECORDED_COSTS
from keras_autoshrink.search.records import Outcome

_log = logging.getLogger(__name__)

# A stopped trial has ended without an outcome: another trial has its candidate.
ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED, TrialStatus.STOPPED)

# What KerasTuner's own state of an oracle has, and of what kind it is.
_KINDS = {
    "ongoing_trials": dict,
    "hyperparameters": dict,
    "start_order": list,
    "end_order": list,
    "run_times": dict,
    "retry_queue": list,
}


class State:
    """What a search has on the disk.

    Args:
        folder: of the search.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "oracle.json"

    def write(self, state: Mapping[str, Any]) -> None:
        """Writes the state of the oracle; KerasTuner's own way can be killed halfway."""
        files.write_text(self.path, json.dumps(state))

    def write_trial(self, trial: Trial) -> None:
        """Writes a trial's file."""
        path = self.folder / f"trial_{trial.trial_id}" / "trial.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(trial.get_state()))

    def read(self) -> tuple[dict[str, Any] | None, dict[str, Trial], list[str]]:
        """Reads the files.

        The state is read first. Who only looks at a search that is under way then finds trials
        newer than it, as after a kill, and takes none for lost that has ended in between.

        Returns:
            The state, None if it has to follow from the trials; the trials by their ids; the ids
            of those that are damaged.

        Raises:
            ValueError: the state is damaged, and so is a trial, or there are none.
        """
        state, problem = self._read_state()
        trials, damaged = self._read_trials()
        if state is not None:
            return state, trials, damaged
        if not trials:
            raise ValueError(
                f"{problem}; no trial has been trained, so nothing is lost: use overwrite=True to "
                "start anew, or another project_name"
            )
        if damaged:
            raise ValueError(
                f"{problem}; and so is trial_{damaged[0]}/trial.json: restore one of the two, or "
                "use another project_name, or overwrite=True to start anew"
            )
        _log.warning("%s; the search goes on from its %d trials", problem, len(trials))
        return None, trials, damaged

    def _read_state(self) -> tuple[dict[str, Any] | None, str]:
        """The state, or None and what is wrong with its file."""
        try:
            state = files.read_json(self.path)
        except FileNotFoundError:
            return None, f"{self.path}: missing"
        except ValueError as error:
            return None, str(error)
        for name, kind in _KINDS.items():
            if not isinstance(state.get(name), kind):
                return None, f"{self.path}: damaged: has no {name}"
        return state, ""

    def _read_trials(self) -> tuple[dict[str, Trial], list[str]]:
        """The trials by their ids, and the ids of those that are damaged."""
        trials, damaged = {}, []
        for path in sorted(self.folder.glob("trial_*/trial.json")):
            trial_id = path.parent.name.removeprefix("trial_")
            try:
                trials[trial_id] = Trial.from_state(files.read_json(path))
            except (ValueError, KeyError, TypeError, AttributeError):
                damaged.append(trial_id)
        return trials, damaged


def state_from(trials: Mapping[str, Trial], blank: dict[str, Any]) -> dict[str, Any]:
    """Makes the state of an oracle from its trials, at least one.

    Args:
        trials: by their ids.
        blank: the state of a search that has not begun.
    """
    ids = sorted(trials)
    space = trials[ids[-1]].hyperparameters.get_config()
    return {**blank, "hyperparameters": space, "start_order": ids}


def outcome_of(trial: Trial, sign: int, metric: str) -> Outcome:
    """Returns what came of a trial that has ended.

    Args:
        trial: completed, or failed for good.
        sign: 1 if its score is to be maximised, -1 if minimised.
        metric: the metric behind the score.
    """
    if trial.status != TrialStatus.COMPLETED:
        error = error_line(trial.message)
        kind, _, said = error.partition(": ")
        if kind.endswith(OverBudgetError.__name__):  # no network of the space, and no failure
            return Outcome(None, trial_id=trial.trial_id, over_limit=said)
        return Outcome(None, trial_id=trial.trial_id, error=error)
    found = {cost: metric_of(trial, cost.name) for cost in RECORDED_COSTS}
    objective = metric_of(trial, metric)
    return Outcome(
        score=sign * float(trial.score),
        # A HyperModel's own `fit` may return the score alone.
        objective=float(trial.score) if objective is None else objective,
        costs={c.name: round(v) if c.whole else v for c, v in found.items() if v is not None},
        seconds=metric_of(trial, "seconds") or 0.0,
        trial_id=trial.trial_id,
    )


def metrics_of(outcome: Outcome, sign: int, metric: str, objective: str) -> dict[str, float]:
    """Returns the metrics of the completed trial that an outcome came of: `outcome_of` undone.

    Args:
        outcome: one with a score.
        sign: 1 if the trial's score is to be maximised, -1 if minimised.
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


def untrained(trial: Trial, status: str) -> Trial:
    """Returns a trial as it was before it was trained, with another status."""
    return Trial(trial.hyperparameters, trial.trial_id, status)


def metric_of(trial: Trial, name: str) -> float | None:
    """Returns a metric of a trial; None if it has none of this name, or one that is not finite."""
    if not trial.metrics.exists(name):
        return None
    value = float(trial.metrics.get_best_value(name))
    return value if math.isfinite(value) else None


def error_line(message: str | None) -> str:
    """Returns in one line what a traceback says was wrong: what stands after the last frame."""
    lines = (message or "no error message").strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith("Traceback (")), default=-1)
    start = next((i for i in range(last + 1, len(lines)) if lines[i][:1].strip()), -1)
    kind, separator, said = "\n".join(lines[start:]).partition(": ")
    if not separator or not kind.isprintable() or " " in kind:  # no class and its message
        return reason_of("\n".join(lines[start:]))
    return f"{kind.rpartition('.')[2]}: {reason_of(said)}"
