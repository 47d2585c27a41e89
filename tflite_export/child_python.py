"""How to start another Python process that imports what this one can, and what ended it."""

from __future__ import annotations

import os
import signal
import sys


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a process that calls ``main`` of a module of this package."""
    # Without the folder that a process is started in, which -c puts first: its files are not ours.
    code = (
        "import sys; sys.path[:] = filter(None, sys.path); "
        f"from tflite_export import {module}; {module}.main()"
    )
    return [sys.executable or "", "-c", code, *arguments]


def environment() -> dict[str, str]:
    """This process's, by which the other one finds the same modules in the same order."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def cause(status: int) -> str:
    """The name of the signal that ended a process, as ``Popen.returncode`` says it."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"
