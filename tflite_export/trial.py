"""Trying a foreign file in a process of its own, which a damaged one may kill.

A file whose indices are all in range can still have LiteRT read past the end of its weights, run
without end or take all memory: LiteRT does not check what it is given.
"""

import functools
import os
import subprocess
from pathlib import Path
from typing import Literal

from tflite_export import child_python, flatbuffer

# How far to go: read the file whole, or run it once.
Depth = Literal["read", "run"]

# Seconds. Networks for phones take less than one, and starting LiteRT a fifth of one.
TIME_LIMIT = 60.0

# What the process ends with if the file is refused in one line, and writes once it has begun. The
# loading of libraries is over by then: what fails before it is no fault of the file's.
REFUSED = 3
READY = b"ready\n"


def check_survives(path: str | os.PathLike[str], depth: Depth) -> None:
    """Has a process of its own read or run a file, and looks whether it lives.

    A file that has passed is not tried again while its size and time of change stay the same.

    Args:
        path: The ``.tflite`` file.
        depth: "read" for what its graph and metadata are read from, "run" for LiteRT.

    Raises:
        ValueError: "PATH: why", if the file is none, or the process was killed by a signal, took
            longer than ``TIME_LIMIT`` or ran out of memory.
    """
    path = Path(path)
    flatbuffer.check_head(path)  # most of what is no such file, without a process
    status = path.stat()
    _try(path.resolve(), str(path), depth, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=256)
def _try(path: Path, name: str, depth: Depth, *_: int) -> None:
    """Starts the process; what is raised is not cached."""
    what = "LiteRT" if depth == "run" else "the reader"
    try:
        # A pipe for its answer; the rest of what LiteRT and a dying Python write is not wanted.
        ended = subprocess.run(
            child_python.command("trial_process", os.fspath(path), name, depth, str(TIME_LIMIT)),
            env=child_python.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT,
            check=False,
        )
        begun, status = ended.stdout.startswith(READY), ended.returncode
    except OSError:
        begun = False
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{name}: {what} does not come to an end with it in {TIME_LIMIT:.0f} s: the file is "
            "damaged, or too large for this machine"
        ) from None
    if not begun:
        # Where there is no interpreter to start, as in a program that embeds Python.
        flatbuffer.load(path)
    elif status == REFUSED:
        raise ValueError(ended.stdout.removeprefix(READY).decode(errors="replace").strip())
    elif status:
        cause = child_python.cause(status)
        raise ValueError(f"{name}: {what} crashes on it ({cause}): the file is damaged")
