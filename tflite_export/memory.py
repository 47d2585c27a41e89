"""Measures the memory that a ``.tflite`` file takes on a microcontroller."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from tflite_export.runtime import (
    TIME_LIMIT,
    cause_of,
    check_survives,
    python_command,
    python_environment,
)

# Bytes of the arena that a file is given to plan in. What is not used is never touched, so that it
# costs nothing; what does not fit is no network for a microcontroller.
_ROOM = 2**30


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """Holds the memory of a file's tensor arena, in bytes, as LiteRT for Microcontrollers plans it.

    Attributes:
        num_bytes: The whole arena.
        activation_bytes: Of it, tensors and the kernels' scratch buffers; those that are not
            needed at the same time share their bytes. They are the same on every processor, but
            for scratch buffers, which a processor's own kernels can want more of.
        persistent_bytes: Of it, what the runtime keeps of the graph beside them. Here pointers
            have 64 bits; on a microcontroller of 32 bits it is less.

    Example:
        >>> memory = PeakMemory(num_bytes=4856, activation_bytes=3072, persistent_bytes=1784)
        >>> memory.num_bytes == memory.activation_bytes + memory.persistent_bytes
        True
    """

    num_bytes: int
    activation_bytes: int
    persistent_bytes: int


def peak_memory(path: str | os.PathLike[str]) -> PeakMemory:
    """Measures the tensor arena of a file with LiteRT for Microcontrollers.

    The figures are those that its ``RecordingMicroAllocator`` prints once the tensors are
    allocated (tensorflow/lite/micro/docs/memory_management.md of
    https://github.com/tensorflow/tflite-micro). The weights are not among them: they stay in the
    file.

    Args:
        path: The ``.tflite`` file.

    Returns:
        The arena's bytes.

    Raises:
        ModuleNotFoundError: The package tflite-micro is not installed.
        ValueError: The file is not a ``.tflite`` file, or LiteRT for Microcontrollers cannot run
            it: it has no kernels for some operators, nor for quantization "dynamic" and "float16".

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(8, 3)])
        >>> peak_memory(convert(model, "model.tflite")).activation_bytes  # 8 x 8 x 4, 6 x 6 x 8
        2176
    """
    check_survives(path, "read")
    if importlib.util.find_spec("tflite_micro") is None:
        raise ModuleNotFoundError(
            "peak_memory needs tflite-micro, not installed here: pip install tflite-micro (there "
            "is one for Linux on x86-64)",
            name="tflite_micro",
        )
    try:
        # The figures come from C++, on standard error; and a crash there is no end of this process.
        ended = subprocess.run(
            python_command(__name__, os.fspath(path)),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        ended = None
    runtime = f"{Path(path)}: LiteRT for Microcontrollers"
    if ended is None:
        raise ValueError(f"{runtime} does not come to an end with it in {TIME_LIMIT:.0f} s")
    figures = dict(re.findall(r"Arena allocation (\w+) (\d+) bytes", ended.stderr))
    if ended.returncode or figures.keys() != {"total", "head", "tail"}:
        raise ValueError(f"{runtime} cannot run it: {_why(ended)}")
    return PeakMemory(int(figures["total"]), int(figures["head"]), int(figures["tail"]))


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    """Returns what the runtime said before the process ended, without the lines of its source."""
    said = ended.stderr.partition("Traceback")[0].splitlines()
    reasons = [re.sub(r"^tensorflow/\S+ ", "", line) for line in said if line.strip()]
    return "; ".join(reasons) or cause_of(ended.returncode)


def main() -> None:
    """Prints the allocations of the file of the command line: a measurement's process."""
    from tflite_micro import runtime

    runtime.Interpreter.from_file(sys.argv[1], arena_size=_ROOM).print_allocations()
