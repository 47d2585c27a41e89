"""The folder of a search: whether there may be one, whose it is, and who searches there now."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from keras_autoshrink import files

_log = logging.getLogger(__name__)


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
def alone(folder: Path) -> Iterator[None]:
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
        with alone(path.parent):
            return
    if not path.exists() and _holds_search(path.parent):
        # Without it KerasTuner would begin anew over what is there.
        _log.warning("%s: missing; taking it that the script is the one that began it", path)
        files.write_text(path, json.dumps(settings))


def _holds_search(folder: Path) -> bool:
    """Whether a folder has what is left of a search of ours, and not of another oracle."""
    try:
        return "search" in files.read_json(folder / "oracle.json")
    except (OSError, ValueError):
        return any(folder.glob("trial_*/trial.json"))
