"""The time that a ``.tflite`` file takes on an Android device."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_export.adb import Device
from tflite_export.benchmark_model import DeviceLatency, parse
from tflite_export.latency import Latency

if TYPE_CHECKING:
    from rich.table import Table

# Where adb's user may write, and run programs from.
FOLDER = "/data/local/tmp/tflite_export"

# Seconds. benchmark_model stops warming up after 150, and measuring after another 150.
RUN_LIMIT = 420.0

_MIN_WARMUP_RUNS = 5  # as on this machine


def measure(
    device: Device,
    program: Path,
    path: str | os.PathLike[str],
    threads: Sequence[int] = (1,),
    runs: int = 100,
    gpu: bool = False,
) -> list[DeviceLatency]:
    """Measures a file's latency on a device, and leaves nothing there, nor anything running.

    Args:
        device: The device.
        program: A ``benchmark_model`` for its architecture; see ``program_for``.
        path: The ``.tflite`` file.
        threads: Numbers of CPU threads, each measured.
        runs: Timed runs. A tenth as many, at least 5, run before them to warm up.
        gpu: Whether to measure with the GPU too; what it does not take runs with the first
            number of threads.

    Returns:
        A result for each number of threads, then one for the GPU.

    Raises:
        OSError: The device is full, refuses, or is gone; ``benchmark_model`` fails or does not
            come to an end.
        ValueError: Its output cannot be read.
    """
    # Names of their own: two commands may use a device at once.
    name = uuid.uuid4().hex[:12]
    remote_program, remote_model = f"{FOLDER}/{name}", f"{FOLDER}/{name}.tflite"

    def remove() -> None:
        device.shell(["rm", "-f", remote_program, remote_model])
        with contextlib.suppress(OSError):  # another command's files are in it
            device.shell(["rmdir", FOLDER])

    device.shell(["mkdir", "-p", FOLDER])
    try:
        device.push(program, remote_program)
        device.push(path, remote_model)
        device.shell(["chmod", "755", remote_program])
        results = [
            _run(device, [remote_program, f"--graph={remote_model}"], number, runs, use_gpu)
            for number, use_gpu in [
                *((number, False) for number in threads),
                *([(threads[0], True)] if gpu else []),
            ]
        ]
    except BaseException as error:
        # The end of adb here is not the end of the program there, which nothing may answer any
        # more. Its name is no other's; toybox has pkill since Android 6.
        if isinstance(error, (KeyboardInterrupt, TimeoutError)):
            with contextlib.suppress(OSError):
                device.shell(["pkill", "-KILL", "-x", name])
        with contextlib.suppress(OSError):  # the first error says more
            remove()
        raise
    remove()
    return results


def _run(device: Device, command: list[str], threads: int, runs: int, gpu: bool) -> DeviceLatency:
    output = device.shell(
        [
            *command,
            f"--num_threads={threads}",
            f"--warmup_runs={max(_MIN_WARMUP_RUNS, runs // 10)}",
            f"--num_runs={runs}",
            f"--use_gpu={str(gpu).lower()}",
            "--enable_op_profiling=false",
        ],
        RUN_LIMIT,
    )
    return parse(output, threads, gpu)


def latency_table(name: str, results: Sequence[DeviceLatency], host: Sequence[Latency]) -> Table:
    """Lays out a device's latency beside this machine's.

    Args:
        name: The device's model.
        results: What the device gave.
        host: What this machine gave.

    Returns:
        A table to print with ``rich``, in milliseconds.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("ran on", no_wrap=True)
    for column in ("threads", "runs", "median ms", "p95 ms", "mean ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in results:
        figures = [one.median_ms, one.p95_ms, one.mean_ms]
        _add(table, [name, one.ran_on, str(one.num_threads), str(one.runs)], figures)
    for other in host:
        cells = ["this machine", "CPU", str(other.num_threads), str(other.runs)]
        _add(table, cells, [other.median_ms, other.p95_ms])
    return table


def _add(table: Table, cells: Sequence[str], figures: Sequence[float | None]) -> None:
    table.add_row(*cells, *("" if figure is None else f"{figure:.3f}" for figure in figures))
