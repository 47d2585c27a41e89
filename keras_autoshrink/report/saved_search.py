"""The files that searches and trainings leave on the disk, read and written without Keras."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from keras_autoshrink import files
from keras_autoshrink.cell import SHRINKCNN_CELL, SHRINKRNN_CELL, Cell
from keras_autoshrink.networks.operations import is_activation
from keras_autoshrink.search.shrink import ShrinkSearch

# What to write in the place of a path for the published cells.
PUBLISHED = {"shrinkcnn": SHRINKCNN_CELL, "shrinkrnn": SHRINKRNN_CELL}

COSTS = "costs.json"  # what networks cost that had to be built for it, by `Cell.key`
_SETTINGS = "settings.json"  # of a command that searches
_STATE = "oracle.json"
_TUNER = "tuner0.json"  # the settings of `AutoShrink`, written once


class Searched(Protocol):
    """A tuner, as far as its folder goes."""

    project_dir: str


def open_search(
    search: Searched | str | os.PathLike[str], objective: str | None
) -> tuple[Path, ShrinkSearch, str]:
    """Reads a search that somebody asks to see.

    Args:
        search: a tuner, or the folder.
        objective: what to call the metric behind the score; None for its own name, without
            "val_", as all that a search goes by is of validation data.

    Returns:
        Its folder, its state, and the name of its metric; "objective" where the score itself
        stands for a metric.

    Raises:
        ValueError: there is no search, or its file is damaged.
    """
    project = search if isinstance(search, (str, os.PathLike)) else search.project_dir
    folder = Path(project)
    found = read_search(folder)
    if objective is None:
        metric = read_about(folder).get("metric", "score")
        objective = "objective" if metric == "score" else str(metric).removeprefix("val_")
    return folder, found, objective


def read_about(folder: Path) -> dict[str, Any]:
    """Reads what a search notes of itself beside its state.

    Returns:
        Among others `metric`, the name of the metric behind the score, and `direction`: "min"
        where less of it is better, else "max".

    Raises:
        ValueError: there is no search, or its file is damaged.
    """
    about = _state(folder).get("about", {})
    if not isinstance(about, dict):
        raise ValueError(f"{folder / _STATE}: damaged: about={about!r}")
    return about


def read_tuner_settings(folder: Path) -> dict[str, Any]:
    """Reads the settings of the `AutoShrink` of a search; none if another tuner ran it.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _TUNER
    return files.read_json(path) if path.is_file() else {}


def begun(folder: Path) -> float:
    """Returns when the search in a folder began, in seconds since 1970."""
    first = folder / _TUNER
    return (first if first.is_file() else folder / _STATE).stat().st_mtime


def read_search(folder: Path) -> ShrinkSearch:
    """Reads the state of the search in a folder, finished or not.

    Raises:
        ValueError: there is none, or its file is damaged.
    """
    state = _state(folder).get("search")
    if state is None:
        raise ValueError(f"{folder}: holds a search that has not begun, or another tuner's")
    try:
        return ShrinkSearch.from_json(state)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _STATE}: damaged: {error}") from error


def read_cell(path: Path) -> Cell:
    """Reads the cell in a file, the best one of a search's folder, pruned, or a published one.

    Raises:
        ValueError: there is neither.
    """
    if str(path) in PUBLISHED:
        return PUBLISHED[str(path)]
    if path.is_dir():
        best = read_search(path).best()
        if best is None:
            raise ValueError(f"{path}: the search in it has no network with a score yet")
        return Cell.from_json(best["cell"]).prune()
    try:
        return Cell.load(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def task_of(cell: Cell) -> str:
    """Returns `"text"` for a recurrent cell, else `"images"`."""
    return "text" if all(map(is_activation, cell.ops[1:])) else "images"


def settings_of(cell: str) -> dict[str, Any]:
    """Reads the settings of the search that a cell comes from, if it lies in one's folder.

    Args:
        cell: as on the command line, see `read_cell`.
    """
    path = Path(cell)
    return {} if cell in PUBLISHED else read_settings(path if path.is_dir() else path.parent)


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads the settings that `write_settings` noted in a folder; none if it did not.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _SETTINGS
    try:
        return files.read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(
            f"{error}; restore it, or delete it if the options are still those of the search"
        ) from error


def read_facts(model: Path) -> dict[str, Any]:
    """Reads what `write_facts` noted beside a model file; nothing if it did not.

    Raises:
        ValueError: the file is damaged.
    """
    path = _facts_path(model)
    return files.read_json(path) if path.is_file() else {}


def write_facts(model: Path, facts: dict[str, Any]) -> None:
    """Writes beside a model file what its user has to know."""
    files.write_text(_facts_path(model), json.dumps(facts, indent=1) + "\n")


def read_costs(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads what networks of the search in a folder cost, by `Cell.key`.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / COSTS
    try:
        return files.read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or delete it to measure anew") from error


def describe_costs(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says by what latencies were measured and how far apart blocks of runs were, in lines.

    Args:
        costs: of networks, by `Cell.key`.
    """
    spreads: dict[str, list[float]] = {}
    for each in costs.values():
        if "measured_by" in each:
            spreads.setdefault(each["measured_by"], []).append(each["spread"])
    return [
        f"Latency: {by}; blocks of runs of a file differ by {statistics.median(found):.0%} "
        f"(median of {len(found)})"
        for by, found in spreads.items()
    ]


def write_settings(folder: Path, settings: dict[str, Any], argv: Sequence[str]) -> None:
    """Writes the settings of a search, and the command line that began it if none is there."""
    folder.mkdir(parents=True, exist_ok=True)  # KerasTuner leaves none after overwrite=True
    settings = {**settings, "argv": read_settings(folder).get("argv", [*argv])}
    files.write_text(folder / _SETTINGS, json.dumps(settings, indent=1) + "\n")


def write_results(folder: Path, objective: str) -> list[Path]:
    """Writes the best cell, the trajectory and the pictures of both beside a search.

    Args:
        folder: the search's.
        objective: what to call the metric behind the score.

    Returns:
        The files.
    """
    from keras_autoshrink.report import plots  # takes longer to load than the rest of a command

    records = read_search(folder).trajectory()
    cell = read_cell(folder)
    written = [
        folder / name for name in ("cell.json", "cell.png", "trajectory.json", "trajectory.png")
    ]
    cell.save(written[0])
    plots.plot_cell(cell, written[1])
    files.write_text(written[2], json.dumps(records, indent=1) + "\n")
    plots.plot_trajectory(records, written[3], objective)
    return written


def _state(folder: Path) -> dict[str, Any]:
    try:
        return files.read_json(folder / _STATE)
    except OSError:
        raise ValueError(f"{folder}: holds no search (no {_STATE})") from None


def _facts_path(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")
