"""Measures the latency of ``.tflite`` files on this machine's CPU."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.runtime import invoke, load_interpreter

_MIN_WARMUP_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Latency:
    """Holds the latency of one run of a file at its own batch size, in milliseconds.

    Attributes:
        median_ms: Half of the runs took at most this long.
        p95_ms: 95 of 100 runs took at most this long.
        num_threads: CPU threads that the kernels could use.
        runs: Number of timed runs.
        measured_by: The runtime, its threads, whether XNNPACK ran any of it, and the processor.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> latency = benchmark(convert(model, "model.tflite"), num_threads=2, runs=10)
        >>> latency.measured_by  # doctest: +ELLIPSIS
        'LiteRT ... interpreter, 2 threads, ...'
    """

    median_ms: float
    p95_ms: float
    num_threads: int
    runs: int
    measured_by: str


# ai-edge-litert has a command for this, litert-benchmark. It does not serve here (2.3.0): it rounds
# its results to 0.01 ms, which is about all that a small network takes, and it fills integer inputs
# with -128..127, indices that a table of fewer than 128 rows does not have. Where both work they
# agree.
def benchmark(path: str | os.PathLike[str], num_threads: int = 1, runs: int = 100) -> Latency:
    """Measures a file's latency with LiteRT's interpreter and its default kernels (XNNPACK).

    Args:
        path: The ``.tflite`` file.
        num_threads: CPU threads, at least 1.
        runs: Timed runs, at least 1. A tenth as many, at least 5, run before them to warm up.

    Returns:
        Median and 95th percentile in milliseconds.

    Raises:
        ValueError: The file is not a ``.tflite`` file or LiteRT cannot run it; ``num_threads`` or
            ``runs`` is below 1.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> path = convert(model, "model.tflite")
        >>> latency = benchmark(path, runs=10)
        >>> latency.runs, latency.num_threads, 0 < latency.median_ms <= latency.p95_ms
        (10, 1, True)
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    interpreter = load_interpreter(path, num_threads)
    generator = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], sample_input(tensor, generator))
    for _ in range(max(_MIN_WARMUP_RUNS, runs // 10)):
        invoke(interpreter)
    seconds = np.empty(runs)
    for run in range(runs):
        start = time.perf_counter()
        interpreter.invoke()
        seconds[run] = time.perf_counter() - start
    median, p95 = np.percentile(seconds * 1000, [50, 95])
    version = importlib.metadata.version("ai-edge-litert")
    return Latency(
        median_ms=float(median),
        p95_ms=float(p95),
        num_threads=num_threads,
        runs=runs,
        measured_by=(
            f"LiteRT {version} interpreter, {num_threads} thread{'s' * (num_threads > 1)}, "
            f"{'XNNPACK' if _delegated(interpreter) else 'no XNNPACK'}, {_processor()}"
        ),
    )


def _processor() -> str:
    """Names this machine's processor, as far as the system does, and its architecture."""
    model = platform.processor()
    # Linux leaves it empty, or repeats the architecture.
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    machine = platform.machine()
    return f"{model}, {machine}" if model and model != machine else machine


def _delegated(interpreter: Any) -> bool:
    """Returns whether XNNPACK, the only delegate that LiteRT adds itself, runs part of a file."""
    # There is no public name for it.
    return any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())


def sample_input(tensor: dict[str, Any], generator: np.random.Generator) -> npt.NDArray[Any]:
    """Draws an input for a tensor: zeros for integers, uniform from 0 to 1 for floats."""
    # Zero is the one integer that is an index into every table.
    sample: npt.NDArray[Any] = np.zeros(tensor["shape"], tensor["dtype"])
    if np.issubdtype(sample.dtype, np.floating):
        sample[...] = generator.random(sample.shape)
    return sample
