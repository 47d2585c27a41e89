"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# A write takes seconds at most: a temporary file as old as this, in seconds, is of a killed one.
_ABANDONED = 300


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in one step, as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(
    path: str | os.PathLike[str], content: bytes, unfinished: str | None = None
) -> None:
    """Writes a file in one step: a reader or a crash never sees half of it.

    The content goes to a temporary file beside `path`, is flushed to the disk, and takes the
    name `path` by a rename, which the file system does at once or not at all. Temporary files that
    killed writes of `path` left are deleted.

    Args:
        path: where to write; its folder must exist. An older file is replaced.
        content: the whole of it.
        unfinished: what the temporary file's name begins with, by default the name of `path`: for
            files that somebody finds by a part of their name.

    Raises:
        OSError: the folder does not exist or cannot be written. `path` is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    # Not the tempfile module, whose files only their owner may read.
    begins = f".{unfinished or path.name}."
    temporary = path.with_name(f"{begins}{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # another process may have replaced it already
        # Its own time as the file system has it: that may have another clock than this machine.
        now = path.stat().st_mtime
        remove_abandoned(path.parent.glob(glob.escape(begins) + "[0-9a-f]" * 8), now)


def remove_abandoned(temporary: Iterable[Path], now: float) -> None:
    """Deletes the temporary files that nobody writes to any more.

    Args:
        temporary: files, each of one write.
        now: the time in seconds since 1970, by the clock of the files' times.
    """
    for path in temporary:
        with contextlib.suppress(OSError):  # it has just become whole, or another one deletes it
            if now - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Deletes the temporary files of killed writes in a folder and the folders in it.

    Only for a process that alone writes there: it deletes those of writes under way, too.
    """
    for pattern in (".*.json.????????", "*/.*.json.????????"):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


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
