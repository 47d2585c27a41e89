"""Checks ``.tflite`` files, and lays out the results in a table."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.file.description import gzip_size, quantization
from tflite_export.file.macs import count_macs
from tflite_export.latency import Latency, benchmark
from tflite_export.memory import PeakMemory, peak_memory
from tflite_export.verify import Agreement, verify
from tflite_export.verify_language import TextAgreement, verify_language_model

if TYPE_CHECKING:
    import keras
    from rich.table import Table


_PROMPT_LENGTH = 20  # tokens of a text whose continuation is compared


@dataclasses.dataclass(frozen=True)
class Check:
    """Holds what was counted, verified and measured of a file.

    Attributes:
        path: The file.
        quantization: The file's quantization, see `Description`.
        model_macs: Multiply-accumulates of the model for one sample, which for a language model
            is a token; None if not known.
        file_macs: Multiply-accumulates counted in the file for one sample (1 MAC = 2 FLOPs).
        num_bytes: The file's size in bytes.
        gzip_bytes: Its size after ``gzip``, as it is sent: zeros of a pruned network take no less
            room in the file itself.
        agreement: Its outputs against the model's.
        latencies: One for each number of threads.
        peak_memory: Its tensor arena on a microcontroller; None if not known, as of a file that
            has operators which run on none.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> path = convert(model, "model.tflite")
        >>> checked = check(model, path, np.ones((3, 4, 4, 1)), model_macs=73, threads=[1])
        >>> checked.quantization, checked.file_macs, checked.macs_equal
        ('float32', 72, False)
    """

    path: Path
    quantization: str
    model_macs: int | None
    file_macs: int
    num_bytes: int
    gzip_bytes: int
    agreement: Agreement | TextAgreement
    latencies: tuple[Latency, ...]
    peak_memory: PeakMemory | None = None

    @property
    def macs_equal(self) -> bool | None:
        """Returns whether model and file have the same multiply-accumulates; None if not known."""
        return None if self.model_macs is None else self.model_macs == self.file_macs


def check(
    model: keras.Model,
    path: str | os.PathLike[str],
    inputs: Any,
    labels: Any = None,
    model_macs: int | None = None,
    threads: Sequence[int] = (1, 2),
) -> Check:
    """Counts the MACs of a file, verifies it and measures its latency.

    Args:
        model: The Keras model that the file was converted from.
        path: The ``.tflite`` file.
        inputs: Samples, see `verify`.
        labels: Their classes or the right numbers, see `verify`.
        model_macs: Multiply-accumulates of the model for one sample, to hold the file against.
        threads: The numbers of threads to measure the latency at.

    Returns:
        The results.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: See `count_macs`, `verify` and `benchmark`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> path = convert(model, "model.tflite")
        >>> images = np.zeros((3, 4, 4, 1), "float32")
        >>> checked = check(model, path, images, model_macs=72, threads=[1])
        >>> checked.macs_equal, checked.agreement.num_samples, len(checked.latencies)
        (True, 3, 1)
    """
    return _check(path, verify(model, path, inputs, labels), model_macs, threads)


def check_language_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    tokens: npt.ArrayLike,
    model_macs: int | None = None,
    threads: Sequence[int] = (1, 2),
) -> Check:
    """Counts the MACs of a language model's file, verifies it and measures its latency.

    Args:
        model: The Keras model that the file was converted from.
        path: The ``.tflite`` file.
        tokens: A text, see `verify_language_model`; both continue its first 20 tokens, or what
            it has, by 50.
        model_macs: Multiply-accumulates of the model for one token, to hold the file against.
        threads: The numbers of threads to measure the latency at.

    Returns:
        The results. The latencies are those of one token.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: See `count_macs`, `verify_language_model` and `benchmark`.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> from tflite_export import convert
        >>> path = convert(model, "words.tflite")
        >>> checked = check_language_model(model, path, [1, 2, 3, 4], threads=[1])
        >>> checked.quantization, checked.agreement.file_continuation[:3]
        ('float32', (0, 0, 0))
    """
    prompt_length = max(1, min(_PROMPT_LENGTH, np.size(tokens)))
    agreement = verify_language_model(model, path, tokens, prompt_length)
    return _check(path, agreement, model_macs, threads)


def _check(
    path: str | os.PathLike[str],
    agreement: Agreement | TextAgreement,
    model_macs: int | None,
    threads: Sequence[int],
) -> Check:
    path = Path(path)
    return Check(
        path=path,
        quantization=quantization(path),
        model_macs=model_macs,
        file_macs=count_macs(path),
        num_bytes=path.stat().st_size,
        gzip_bytes=gzip_size(path.read_bytes()),
        agreement=agreement,
        latencies=tuple(benchmark(path, num_threads) for num_threads in threads),
        peak_memory=_peak_memory(path),
    )


def _peak_memory(path: Path) -> PeakMemory | None:
    # Phones run what microcontrollers cannot, and the package for these is not needed for those.
    with contextlib.suppress(ModuleNotFoundError, ValueError):
        return peak_memory(path)
    return None


def render_table(checks: Sequence[Check]) -> Table:
    """Lays out checks in a table, a column for each file: four fit into 80 characters.

    Args:
        checks: One for each file, all with latencies at the same numbers of threads.

    Returns:
        A table to print with ``rich``.

    Raises:
        ValueError: The files' latencies are at different numbers of threads.

    Example:
        >>> from pathlib import Path
        >>> import rich
        >>> agreement = Agreement(100, 1.0, 0.0, None, None, None)
        >>> latency = Latency(0.5, 0.75, num_threads=1, runs=100, measured_by="LiteRT, 1 thread")
        >>> path = Path("model.tflite")
        >>> checked = Check(path, "float32", 72, 72, 1348, 780, agreement, (latency,))
        >>> rich.print(render_table([checked]))  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
        <BLANKLINE>
          file                  model.tflite
         ────────────────────────────────────
          quantization               float32
          MACs in model                   72
          MACs in file                    72
          MACs equal                     yes
          bytes                        1,348
        ...
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    texts = [isinstance(one.agreement, TextAgreement) for one in checks]
    sample = "token" if all(texts) else "sample or token" if any(texts) else "sample"
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"MACs: multiply-accumulates for one {sample} (1 MAC = 2 FLOPs)",
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
    add_row("bytes by gzip", lambda one: f"{one.gzip_bytes:,}")
    if any(one.peak_memory for one in checks):
        add_row(
            "peak memory, bytes",
            lambda one: f"{one.peak_memory.num_bytes:,}" if one.peak_memory else "?",
        )
    agreements = [_agreement_cells(one.agreement) for one in checks]
    # The rows of all files, in the order of the first that has them.
    for heading in dict.fromkeys(heading for cells in agreements for heading in cells):
        table.add_row(heading, *(cells.get(heading, "") for cells in agreements))
    for latencies in zip(*(one.latencies for one in checks), strict=True):
        threads = f"{latencies[0].num_threads} thread" + "s" * (latencies[0].num_threads > 1)
        table.add_row(f"median ms, {threads}", *(f"{one.median_ms:.3f}" for one in latencies))
        table.add_row(f"p95 ms, {threads}", *(f"{one.p95_ms:.3f}" for one in latencies))
    return table


def _agreement_cells(agreement: Agreement | TextAgreement) -> dict[str, str]:
    """Formats an agreement as cells by the headings of their rows."""
    if isinstance(agreement, TextAgreement):
        return {
            "same argmax": f"{agreement.argmax_agreement:.4f}",
            "same continuation": f"{agreement.continuation_agreement:.4f}",
            "model perplexity": f"{agreement.model_perplexity:,.2f}",
            "file perplexity": f"{agreement.file_perplexity:,.2f}",
        }
    if agreement.outputs:
        return {
            f"{name}: {heading}": cell
            for name, one in agreement.outputs.items()
            for heading, cell in _agreement_cells(one).items()
        }
    if agreement.argmax_agreement is not None:
        return {
            "same argmax": f"{agreement.argmax_agreement:.4f}",
            "model accuracy": _or_unknown(agreement.model_accuracy, ".4f"),
            "file accuracy": _or_unknown(agreement.file_accuracy, ".4f"),
        }
    cells = {
        "largest difference": f"{agreement.max_abs_difference:.3g}",
        "mean difference": f"{agreement.mean_abs_difference:.3g}",
        "share of deviation": _or_unknown(agreement.difference_share, ".4f"),
    }
    if agreement.model_error is not None:
        cells["model error"] = f"{agreement.model_error:.3g}"
        cells["file error"] = _or_unknown(agreement.file_error, ".3g")
    return cells


def _or_unknown(value: float | None, format_: str) -> str:
    return "?" if value is None else format(value, format_)
