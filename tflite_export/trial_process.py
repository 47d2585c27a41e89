"""What the process of ``tflite_export.trial`` does with the file; nothing else imports it."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import numpy as np

from tflite_export import flatbuffer
from tflite_export.metadata import read_metadata
from tflite_export.runtime import open_interpreter
from tflite_export.trial import READY, REFUSED


def main() -> None:
    """Reads or runs the file of the command line.

    Its arguments are the file's path, its name in messages, how far to go, and the seconds after
    which whoever started it gives it up.
    """
    path, name, depth, limit = sys.argv[1:]
    _limit_time(float(limit))
    _load_libraries(depth)
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    _limit_memory()
    try:
        flatbuffer.load(path)
        if depth == "run":
            _run(path)
        else:
            with contextlib.suppress(ValueError):  # not all readers read the metadata
                read_metadata(path)
    except MemoryError:
        _refuse(f"{name}: takes more memory than this machine has: the file is damaged")
    except ValueError as error:
        _refuse(str(error).replace(path, name))


def _refuse(why: str) -> None:
    print(why, flush=True)
    # Past the end of Python, where LiteRT's memory is taken apart: it may be in no good state.
    os._exit(REFUSED)


def _load_libraries(depth: str) -> None:
    from ai_edge_litert import schema_py_generated  # noqa: F401

    if depth == "run":
        from ai_edge_litert import interpreter  # noqa: F401


def _limit_time(seconds: float) -> None:
    """Ends a process that is left behind, where whoever started it was killed meanwhile."""
    with contextlib.suppress(AttributeError):  # Windows has no alarms
        # In the middle of a kernel too: what it does is the system's default.
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _limit_memory() -> None:
    """Keeps a damaged size from taking the memory of others, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Linux: of all processes, this one dies first.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _run(path: str) -> None:
    interpreter = open_interpreter(path)
    for tensor in interpreter.get_input_details():
        # Zero is an index into every table.
        interpreter.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    with contextlib.suppress(RuntimeError):  # a kernel that refuses the inputs is in good order
        interpreter.invoke()
        for tensor in interpreter.get_output_details():
            interpreter.get_tensor(tensor["index"])
