"""Running a ``.tflite`` file with LiteRT."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.trial import check_survives


@contextlib.contextmanager
def native_output_silenced() -> Iterator[None]:
    """Discards what the process writes to its standard streams meanwhile.

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
    """Makes a file ready to run, once a process of its own has run it and lived.

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
    # For Python's callers as for the commands: a trial takes some 0.2 s, once for each state
    # of a file, and a service that is handed a damaged file goes on.
    check_survives(path, "run")
    return open_interpreter(path, num_threads)


def open_interpreter(path: str | os.PathLike[str], num_threads: int = 1) -> Any:
    """Makes a file ready to run, as ``load_interpreter``, without a trial."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        with native_output_silenced():
            interpreter = Interpreter(model_path=os.fspath(path), num_threads=num_threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{Path(path)}: LiteRT cannot run it: {error}") from error
    return interpreter


def invoke(interpreter: Any) -> None:
    """Runs the file once on the inputs that were set.

    Raises:
        ValueError: A kernel refuses them, such as an embedding an index that it does not have.
    """
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise ValueError(f"LiteRT cannot run the file on these inputs: {error}") from error


def quantize(values: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """Casts an input to what a tensor holds, by its scale and zero point where it has them.

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
    """The real numbers that an output stands for; see ``quantize``."""
    scale, zero_point = tensor["quantization"]
    numbers = values.astype(np.float32)
    return (numbers - zero_point) * np.float32(scale) if scale else numbers
