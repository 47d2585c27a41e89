"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in one step, as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file in one step: a reader or a crash never sees half of it.

    The content goes to a temporary file beside `path`, is flushed to the disk, and takes the
    name `path` by a rename, which the file system does at once or not at all.

    Args:
        path: where to write; its folder must exist. An older file is replaced.
        content: the whole of it.

    Raises:
        OSError: the folder does not exist or cannot be written. `path` is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    # Not the tempfile module, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Deletes what kills left of this module's writes in a folder and the folders in it.

    Only for who alone writes there.
    """
    for kind in ("json", "npz"):
        for pattern in (f".*.{kind}.????????", f"*/.*.{kind}.????????"):
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
