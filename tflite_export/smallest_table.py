"""A choice among files laid out for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tflite_export.describe_table import float_table
from tflite_export.smallest import Mode, Smallest

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def choice_tables(
    modes: Sequence[Mode], max_accuracy_drop: float, smallest: Smallest | None = None
) -> Iterator[RenderableType]:
    """Lays out the modes that were tried, within 80 characters.

    Args:
        modes: All of them.
        max_accuracy_drop: What the choice was made by.
        smallest: What was chosen; None if nothing was.

    Yields:
        What to print with ``rich``: a table of the modes, a line for each that gave no file, and,
        where a file of integers was chosen, its operators that stayed float32.
    """
    from rich.text import Text

    chosen = None if smallest is None else smallest.chosen
    yield _modes_table(modes, max_accuracy_drop, chosen)
    for mode in modes:
        if mode.agreement is None:
            yield Text(f"{mode.quantization}: {mode.objection}")
    if smallest is not None and smallest.float_operators:
        yield float_table(smallest.float_operators)


def _modes_table(modes: Sequence[Mode], max_accuracy_drop: float, chosen: Mode | None) -> Table:
    from rich import box
    from rich.table import Table

    tried = [mode.agreement for mode in modes if mode.agreement is not None]
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"drop: the model's accuracy, {tried[0].model_accuracy:.4f}, less the file's, on "
        f"{tried[0].num_samples:,} samples; at most {max_accuracy_drop:g} is allowed. "
        "+-: its standard error.",
        caption_justify="left",
    )
    table.add_column("mode", no_wrap=True)
    for heading in ("bytes", "accuracy", "drop", "+-", "same\nargmax"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for mode in modes:
        agreement = mode.agreement
        if agreement is None:
            table.add_row(mode.quantization, *[""] * 5, "not possible")
            continue
        verdict = mode.objection or ("CHOSEN" if mode is chosen else "holds")
        table.add_row(
            mode.quantization,
            f"{mode.num_bytes:,}",
            f"{agreement.file_accuracy:.4f}",
            f"{agreement.accuracy_drop:.4f}",
            f"{agreement.accuracy_drop_error:.4f}",
            f"{agreement.argmax_agreement:.4f}",
            verdict,
        )
    return table
