"""Runs ``.tflite`` files with LiteRT, each once in a process of its own before in this one.

LiteRT does not check what it is given: a damaged file whose indices are all in range can still have
it read past the end of its weights, run without end or take all memory.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tflite_export.file import flatbuffer
from tflite_export.file.metadata import read_metadata

# What a trial does with a file: read it whole, or run it once.
Depth = Literal["read", "run"]

# Seconds. Networks for phones take less than one, and starting LiteRT a fifth of one.
TIME_LIMIT = 60.0

# The exit status of a trial that refuses the file in one line, and what it writes once it has
# loaded its libraries: what fails before that is no fault of the file's.
_REFUSED = 3
_READY = b"ready\n"

# What trials have found in order, by the file's place, size, time of change and number: how deep.
_passed: dict[tuple[Path, int, int, int], Depth] = {}


@contextlib.contextmanager
def native_output_silenced() -> Iterator[None]:
    """Discards what the process writes to its standard streams in a ``with`` block.

    TensorFlow, its converter and LiteRT report their progress from C++, straight to the file
    descriptors 1 and 2: neither ``contextlib.redirect_stderr`` nor a log level reaches all of it.
    TensorFlow's Python logger is silenced by itself: in Jupyter it writes to a notebook, which is
    no file descriptor. Failures still arrive as exceptions.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    logger = logging.getLogger("tensorflow")
    disabled, logger.disabled = logger.disabled, True
    try:
        for number, _ in saved:
            os.dup2(null, number)
        yield
    finally:
        logger.disabled = disabled
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


def load_interpreter(path: str | os.PathLike[str], num_threads: int = 1) -> Any:
    """Loads a file into an interpreter, after a process of its own has run it and lived.

    Args:
        path: The ``.tflite`` file.
        num_threads: CPU threads that its kernels may use, at least 1.

    Returns:
        An ``ai_edge_litert.interpreter.Interpreter`` with its tensors allocated.

    Raises:
        ValueError: The file is not a ``.tflite`` file, LiteRT cannot run it or crashes on it, or
            ``num_threads`` is below 1.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")
    # In Python as on the command line: a trial takes some 0.2 s, once for each state of a file,
    # and a service that is handed a damaged file goes on.
    check_survives(path, "run")
    return _open_interpreter(path, num_threads)


def _open_interpreter(path: str | os.PathLike[str], num_threads: int = 1) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        with native_output_silenced():
            interpreter = Interpreter(model_path=os.fspath(path), num_threads=num_threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{Path(path)}: LiteRT cannot run it: {error}") from error
    return interpreter


def invoke(interpreter: Any) -> None:
    """Runs an interpreter once on the inputs that were set.

    Raises:
        ValueError: A kernel refuses them, such as an embedding an index that it does not have.
    """
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise ValueError(f"LiteRT cannot run the file on these inputs: {error}") from error


def quantize(values: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """Quantizes an input to the dtype of a tensor, by its scale and zero point if it has them.

    Args:
        values: Numbers, of any shape.
        tensor: The tensor's entry in ``Interpreter.get_input_details()``.

    Returns:
        An array of the same shape and the tensor's dtype.
    """
    dtype = np.dtype(tensor["dtype"])
    scale, zero_point = tensor["quantization"]
    if scale:
        limits = np.iinfo(dtype)
        values = np.clip(np.round(values / scale) + zero_point, limits.min, limits.max)
    return values.astype(dtype)


def dequantize(values: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Converts an output to the real numbers that it stands for, the inverse of ``quantize``."""
    scale, zero_point = tensor["quantization"]
    numbers = values.astype(np.float32)
    return (numbers - zero_point) * np.float32(scale) if scale else numbers


def check_survives(path: str | os.PathLike[str], depth: Depth) -> None:
    """Reads or runs a file in a process of its own, and raises an error if that dies.

    A file that has passed is not tried again while its size and time of change stay the same; one
    that has been run has been read as well.

    Args:
        path: The ``.tflite`` file.
        depth: "read" its graph and metadata, or "run" it with LiteRT.

    Raises:
        ValueError: "PATH: why", if the file is none, or the process was killed by a signal, took
            longer than ``TIME_LIMIT`` or ran out of memory.
    """
    path = Path(path)
    flatbuffer.check_head(path)  # most of what is no such file, without a process
    status = path.stat()
    state = (path.resolve(), status.st_size, status.st_mtime_ns, status.st_ino)
    if _passed.get(state) not in ("run", depth):
        _try(path, depth)
        _passed[state] = depth


def _try(path: Path, depth: Depth) -> None:
    """Starts a trial."""
    what = "LiteRT" if depth == "run" else "the reader"
    try:
        # A pipe for its answer; the rest of what LiteRT and a dying Python write is not wanted.
        ended = subprocess.run(
            python_command(__name__, os.fspath(path.resolve()), str(path), depth, str(TIME_LIMIT)),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT,
            check=False,
        )
        begun, status = ended.stdout.startswith(_READY), ended.returncode
    except OSError:
        begun = False
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{path}: {what} does not come to an end with it in {TIME_LIMIT:.0f} s: the file is "
            "damaged, or too large for this machine"
        ) from None
    if not begun:
        # Where there is no interpreter to start, as in a program that embeds Python.
        flatbuffer.load(path)
    elif status == _REFUSED:
        raise ValueError(ended.stdout.removeprefix(_READY).decode(errors="replace").strip())
    elif status:
        raise ValueError(f"{path}: {what} crashes on it ({cause_of(status)}): the file is damaged")


def main() -> None:
    """Reads or runs the file of the command line: a trial's process begins here.

    Its arguments are the file's path, its name in messages, the depth, and the time limit in
    seconds.
    """
    path, name, depth, limit = sys.argv[1:]
    _limit_time(float(limit))
    _load_libraries(depth)
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    _limit_memory()
    try:
        flatbuffer.load(path)
        with contextlib.suppress(ValueError):  # not all readers read the metadata
            read_metadata(path)
        if depth == "run":
            _run_on_zeros(path)
    except MemoryError:
        _refuse(f"{name}: takes more memory than this machine has: the file is damaged")
    except ValueError as error:
        _refuse(str(error).replace(path, name))


def _refuse(why: str) -> None:
    print(why, flush=True)
    # Past the end of Python, where LiteRT's memory is taken apart: it may be in no good state.
    os._exit(_REFUSED)


def _load_libraries(depth: str) -> None:
    from ai_edge_litert import schema_py_generated  # noqa: F401

    if depth == "run":
        from ai_edge_litert import interpreter  # noqa: F401


def _limit_time(seconds: float) -> None:
    """Ends this process after a time limit, in seconds: its parent may have been killed."""
    with contextlib.suppress(AttributeError):  # Windows has no alarms
        # In the middle of a kernel too: what it does is the system's default.
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _limit_memory() -> None:
    """Limits the memory of this process, which a damaged size would take from others."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Linux: of all processes, this one dies first.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _run_on_zeros(path: str) -> None:
    interpreter = _open_interpreter(path)
    for tensor in interpreter.get_input_details():
        # Zero is an index into every table.
        interpreter.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    with contextlib.suppress(RuntimeError):  # a kernel that refuses the inputs is in good order
        interpreter.invoke()
        for tensor in interpreter.get_output_details():
            interpreter.get_tensor(tensor["index"])


def python_command(module: str, *arguments: str) -> list[str]:
    """Returns the command line of a Python process that calls ``main`` of a module."""
    # Without the folder that a process is started in, which -c puts first: its files are not ours.
    code = f"import sys; sys.path[:] = filter(None, sys.path); from {module} import main; main()"
    return [sys.executable or "", "-c", code, *arguments]


def python_environment() -> dict[str, str]:
    """Returns an environment by which a Python process finds this one's modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def cause_of(status: int) -> str:
    """Names the signal or exit status of a process, from its ``Popen.returncode``."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"
