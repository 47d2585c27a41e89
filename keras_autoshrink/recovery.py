"""A search's files after a crash: what is whole, and what follows from it.

`oracle.json` holds the state of the search, `trial_<id>/trial.json` a trial each; a trial's file
is written first. Each of the two has what it takes to write the other again. Files written by
`files.write_text` are never torn by a kill; a disk that fails, or a copy cut short, can do it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import Trial

from keras_autoshrink import files, search_state
from keras_autoshrink.cell import Cell
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trajectory import Outcome

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
    told, strange = search_state.replay(search, {**spare, **outcomes}, examine)
    if strange:
        trial_id = min(str(outcome.trial_id) for outcome in strange.values())
        raise ValueError(
            f"trial {trial_id} is of another search: with this seed and these settings it would "
            "not have been trained; use those of that search, another project_name "
            "(--project-name), or overwrite=True (--overwrite) to delete it"
        )
    lost = [(cell, spare[cell.key]) for cell in told if cell.key not in outcomes]
    return [(cell, outcome) for cell, outcome in lost if outcome.trial_id is not None]
