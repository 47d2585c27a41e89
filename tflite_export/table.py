"""All that is known about a file, and a table of several."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt

from tflite_export.flatbuffer import quantization
from tflite_export.latency import Latency, benchmark
from tflite_export.macs import count_macs
from tflite_export.verify import Agreement, verify

if TYPE_CHECKING:
    import keras
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Check:
    """What was measured of one file.

    Attributes:
        path: The file.
        quantization: What the file holds: "float32", "float16", "dynamic", "int8" or "mixed".
        model_macs: Multiply-accumulates of the model for one sample; None if not known.
        file_macs: Multiply-accumulates counted in the file for one sample (1 MAC = 2 FLOPs).
        num_bytes: The file's size.
        agreement: Its outputs against the model's.
        latencies: One for each number of threads.
    """

    path: Path
    quantization: str
    model_macs: int | None
    file_macs: int
    num_bytes: int
    agreement: Agreement
    latencies: tuple[Latency, ...]

    @property
    def macs_equal(self) -> bool | None:
        """Whether model and file have the same multiply-accumulates; None if not known."""
        return None if self.model_macs is None else self.model_macs == self.file_macs


def check(
    model: keras.Model,
    path: str | os.PathLike[str],
    inputs: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    model_macs: int | None = None,
    threads: Sequence[int] = (1, 2),
) -> Check:
    """Counts, verifies and measures a file.

    Args:
        model: The Keras model that the file was converted from.
        path: The ``.tflite`` file.
        inputs: Samples, see ``verify``.
        labels: Their classes, see ``verify``.
        model_macs: Multiply-accumulates of the model for one sample, to hold the file against.
        threads: The numbers of threads to measure the latency at.

    Returns:
        The results.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: As ``count_macs``, ``verify`` and ``benchmark`` raise it.
    """
    path = Path(path)
    return Check(
        path=path,
        quantization=quantization(path),
        model_macs=model_macs,
        file_macs=count_macs(path),
        num_bytes=path.stat().st_size,
        agreement=verify(model, path, inputs, labels),
        latencies=tuple(benchmark(path, num_threads) for num_threads in threads),
    )


def render_table(checks: Sequence[Check]) -> Table:
    """Lays out checks, a column for each file: so four fit into the usual 80 characters.

    Args:
        checks: Their latencies are at the same numbers of threads.

    Returns:
        A table to print with ``rich``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="MACs: multiply-accumulates for one sample (1 MAC = 2 FLOPs)",
        caption_justify="left",
    )
    table.add_column("file", no_wrap=True)
    for one in checks:
        # Text, because rich would read a name with brackets as markup.
        table.add_column(Text(one.path.name), justify="right", overflow="fold")

    def add_row(heading: str, cell: Callable[[Check], str]) -> None:
        table.add_row(heading, *map(cell, checks))

    add_row("quantization", lambda one: one.quantization)
    add_row("MACs in model", lambda one: _or_unknown(one.model_macs, ","))
    add_row("MACs in file", lambda one: f"{one.file_macs:,}")
    add_row("MACs equal", lambda one: {None: "?", True: "yes", False: "NO"}[one.macs_equal])
    add_row("bytes", lambda one: f"{one.num_bytes:,}")
    add_row("same argmax", lambda one: f"{one.agreement.argmax_agreement:.4f}")
    add_row("model accuracy", lambda one: _or_unknown(one.agreement.model_accuracy, ".4f"))
    add_row("file accuracy", lambda one: _or_unknown(one.agreement.file_accuracy, ".4f"))
    for latencies in zip(*(one.latencies for one in checks), strict=True):
        threads = f"{latencies[0].num_threads} thread" + "s" * (latencies[0].num_threads > 1)
        table.add_row(f"median ms, {threads}", *(f"{one.median_ms:.3f}" for one in latencies))
        table.add_row(f"p95 ms, {threads}", *(f"{one.p95_ms:.3f}" for one in latencies))
    return table


def _or_unknown(value: float | None, format_: str) -> str:
    return "?" if value is None else format(value, format_)
