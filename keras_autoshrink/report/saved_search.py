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
from keras_autoshrink.networks import architecture
from keras_autoshrink.networks.operations import is_activation
from keras_autoshrink.search.shrink import ShrinkSearch

# What to write in the place of a path for the published cells.
PUBLISHED = {"shrinkcnn": SHRINKCNN_CELL, "shrinkrnn": SHRINKRNN_CELL}

# Of the best network, where a command searched images, and of the best reference of its final.
ARCHITECTURE, REFERENCE = "architecture.json", "reference.json"
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
        ValueError: there is neither, or the best of the search is a reference, which has no cell.
    """
    if str(path) in PUBLISHED:
        return PUBLISHED[str(path)]
    if path.is_dir():
        return searched_cell(path).prune()
    try:
        return Cell.load(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def searched_cell(folder: Path) -> Cell:
    """Reads the best cell of a search, its nodes numbered as in the rounds.

    Raises:
        ValueError: as `read_cell`.
    """
    best = read_search(folder).best()
    if best is None:
        raise ValueError(f"{folder}: the search in it has no network with a score yet")
    if "reference" in best:
        raise ValueError(
            f"{folder}: the best network of the search in it is the reference "
            f"{best['reference']}, which has no cell; once the search has ended, "
            f"{ARCHITECTURE} has that network"
        )
    return Cell.from_json(best["cell"])


def best_reference(folder: Path) -> str | None:
    """Returns the name of the best network of the search in a folder; None if it has a cell.

    Raises:
        ValueError: there is no search, or its file is damaged.
    """
    best = read_search(folder).best()
    return best.get("reference") if best else None


def read_architecture(path: Path) -> architecture.Architecture | None:
    """Reads the architecture in a file, or the best one of the folder of a search at a budget.

    Returns:
        None for all else that `read_cell` reads, and for a search at a budget without the file.

    Raises:
        ValueError: it is damaged.
    """
    of_search = path.is_dir() and _is_at_budget(path)
    if of_search:
        path = path / ARCHITECTURE
    data = files.read_json(path) if of_search and path.is_file() else _architecture_data(path)
    try:
        return None if data is None else architecture.Architecture.from_json(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_network(path: Path) -> Cell | architecture.Architecture:
    """Reads what to train: an architecture, see `read_architecture`, else a cell.

    Raises:
        ValueError: there is neither, or the search is one at a budget and has left no architecture:
            a cell is not all that it looks for.
    """
    found = read_architecture(path)
    if found is None and path.is_dir() and _is_at_budget(path):
        raise ValueError(
            f"{path}: has no {ARCHITECTURE}; `autoshrink search` writes it when a search at a "
            "budget ends: run that again, without --overwrite, to go on"
        )
    return read_cell(path) if found is None else found


def is_architecture(path: Path) -> bool:
    """Whether what `read_network` reads there is a whole network, found at a budget, and no cell.

    (To read it takes Keras.)
    """
    return _architecture_data(path) is not None or (path.is_dir() and _is_at_budget(path))


def task_of(path: Path) -> str:
    """Returns `"text"` for a recurrent cell or a language model, else `"images"`.

    Args:
        path: of what `read_network` reads.

    Raises:
        ValueError: there is no cell, or the architecture is damaged.
    """
    if found := read_architecture(path):
        return found.task
    if is_architecture(path):  # of a search that has not ended
        return str(read_settings(path).get("task", "images"))
    return "text" if all(map(is_activation, read_cell(path).ops[1:])) else "images"


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


def write_results(
    folder: Path,
    objective: str,
    best: architecture.Architecture | None = None,
    reference: architecture.Architecture | None = None,
) -> list[Path]:
    """Writes the best cell, the trajectory and the pictures of both beside a search.

    Where the best network is a reference, there is no cell.

    Args:
        folder: the search's.
        objective: what to call the metric behind the score.
        best: the best network, to be written, too.
        reference: the best of the references that the final had, too.

    Returns:
        The files.
    """
    from keras_autoshrink.report import plots  # takes longer to load than the rest of a command

    records = read_search(folder).trajectory()
    written = []
    if best_reference(folder) is None and (best is None or best.reference is None):
        cell = searched_cell(folder)
        written = [folder / name for name in ("cell.json", "cell.png")]
        cell.prune().save(written[0])
        plots.plot_cell(cell, written[1])
    written += [folder / name for name in ("trajectory.json", "trajectory.png")]
    files.write_text(written[-2], json.dumps(records, indent=1) + "\n")
    plots.plot_trajectory(records, written[-1], objective)
    for name, network in ((ARCHITECTURE, best), (REFERENCE, reference)):
        if network is not None:
            written.append(folder / name)
            files.write_text(written[-1], json.dumps(network.to_json(), indent=1) + "\n")
    return written


def _is_at_budget(folder: Path) -> bool:
    """Whether the search in a folder, a command's or a script's, is one at a budget."""
    hypermodel = read_tuner_settings(folder).get("hypermodel")
    config = hypermodel.get("config") if isinstance(hypermodel, dict) else None
    return isinstance(config, dict) and any(name.startswith("target_") for name in config)


def _architecture_data(path: Path) -> dict[str, Any] | None:
    """Reads a file that says that it holds an architecture; None for all others."""
    try:
        data = files.read_json(path)
    except (OSError, ValueError):  # what is wrong with it, who reads a cell says
        return None
    return data if data.get("format") == architecture.FORMAT else None


def _state(folder: Path) -> dict[str, Any]:
    try:
        return files.read_json(folder / _STATE)
    except OSError:
        raise ValueError(f"{folder}: holds no search (no {_STATE})") from None


def _facts_path(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")
