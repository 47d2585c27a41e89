"""The folder of a search: who searches there, and with which settings."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import numbers
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import keras
import keras_tuner

import keras_autoshrink
from keras_autoshrink import files
from keras_autoshrink.costs import count_params
from keras_autoshrink.hypermodels.search_space import CellSpace

_log = logging.getLogger(__name__)


def describe_hypermodel(hypermodel: Any) -> Any:
    """Describes a search space by plain values that tell it from another.

    Builds the network of all edges, so that what cannot be built raises here.

    Raises:
        ValueError: it declares no cell.
    """
    hp = keras_tuner.HyperParameters()
    model = (hypermodel.build if hasattr(hypermodel, "build") else hypermodel)(hp)
    space = CellSpace(hp.space)
    edges = space.values(space.cell)
    return {
        "cell": space.cell.to_json(),
        "defaults": {p.name: _plain(p.default) for p in hp.space if p.name not in edges},
        "params": count_params(model) if isinstance(model, keras.Model) and model.built else None,
        "config": describe(getattr(hypermodel, "get_config", dict)()),
    }


def describe(value: Any) -> Any:
    """Describes a value as JSON gives it back, equal for what a script makes anew at each run.

    A function is its name with the values that it closes over, a partial its function with
    the arguments, another object its class with its attributes. What these hold is described by
    its value if that is plain and by its kind if not: a model or a data set prints otherwise at
    every run, and may hold itself.
    """
    if isinstance(value, functools.partial):
        held = {"args": value.args, "keywords": value.keywords}
        return ["partial", describe(value.func), _plain(held)]
    if hasattr(value, "__qualname__"):  # a function or a class
        cells = getattr(value, "__closure__", None) or ()
        return [value.__qualname__, *(_plain(cell.cell_contents) for cell in cells)]
    if hasattr(value, "__dict__"):
        held = dict(vars(value))
        if callable(held.get("cost")):  # a score's own
            held["cost"] = describe(held["cost"])
        return [type(value).__qualname__, _plain(held)]
    return _plain(value)


def _plain(value: Any) -> Any:
    """Returns a value that JSON knows; what is not plain becomes the name of its kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, numbers.Real):  # NumPy's
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package, of KerasTuner, and of Keras's backend."""
    found = {"python": platform.python_version(), "keras_autoshrink": keras_autoshrink.__version__}
    backend = keras.backend.backend()
    for name in ("numpy", "keras", "keras_tuner", backend):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def check_place(directory: str | os.PathLike[str] | None, project_name: str | None) -> None:
    """Checks where a search is to live, before KerasTuner writes or deletes there.

    Args:
        directory: folder of searches, which need not exist; None is the working directory.
        project_name: folder of the search in it.

    Raises:
        ValueError: the one cannot be made or written, or the other is no name of a folder.
    """
    # An empty name, "." or ".." would make overwrite=True delete other searches.
    if project_name is not None and (
        project_name in ("", ".", "..") or Path(project_name).name != project_name
    ):
        raise ValueError(f"project_name={project_name!r}: give the name of a folder, not a path")
    path = Path(directory or ".")
    existing = next(
        place for place in (path.absolute(), *path.absolute().parents) if place.exists()
    )
    if not existing.is_dir():
        raise ValueError(f"directory={str(path)!r}: cannot be created: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"directory={str(path)!r}: {existing} cannot be written")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from searching in the same folder.

    Raises:
        ValueError: one does.
    """
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{folder}: another process is searching there; wait for it, or use another "
            "project_name"
        ) from None
    try:
        yield
    finally:
        lock.release()


def prepare(settings_path: str, settings: dict[str, Any], overwrite: bool) -> None:
    """Makes a folder ready for KerasTuner to begin in, or to go on.

    Args:
        settings_path: of the file in it that holds the settings of its search.
        settings: of the search that is to run there.
        overwrite: whether KerasTuner is going to delete what is in it.

    Raises:
        ValueError: it would be deleted under another process.
    """
    path = Path(settings_path)
    if overwrite and path.parent.is_dir():
        with locked(path.parent):
            return
    if not path.exists() and _holds_search(path.parent):
        # Without it KerasTuner would begin anew over what is there.
        _log.warning("%s: missing; taking it that the script is the one that began it", path)
        files.write_text(path, json.dumps(settings))


# How much a search may do; nothing that it has done depends on that.
_BUDGETS = ("max_candidates", "max_minutes")


def raised(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a search on the disk with those budgets of ours that are larger.

    With them it may go on, also when it has ended.
    """
    both = [n for n in _BUDGETS if theirs.get(n) is not None and ours.get(n) is not None]
    return {**theirs, **{name: ours[name] for name in both if ours[name] > theirs[name]}}


def _holds_search(folder: Path) -> bool:
    """Whether a folder has what is left of a search of ours, and not of another oracle."""
    try:
        return "search" in files.read_json(folder / "oracle.json")
    except (OSError, ValueError):
        return any(folder.glob("trial_*/trial.json"))
