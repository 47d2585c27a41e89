"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone; give this one the usual rights.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
