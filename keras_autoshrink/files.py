"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in one step: a reader or a crash never sees half of it.

    The text goes to a temporary file beside `path`, is flushed to the disk, and takes the
    name `path` by a rename, which the file system does at once or not at all.

    Args:
        path: where to write; its folder must exist. An older file is replaced.
        text: the whole content, written as UTF-8.

    Raises:
        OSError: the folder does not exist or cannot be written. `path` is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    # Not the tempfile module, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: the file holds none; the message names it.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)}: damaged: holds no JSON object")
    return content


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
