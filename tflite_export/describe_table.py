"""A description laid out for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tflite_export.command_line import printable
from tflite_export.description import Description, FloatOperator
from tflite_export.metadata import Metadata

if TYPE_CHECKING:
    from rich.table import Table

_FEW = 5  # labels that are printed; an ImageNet file has a thousand


def describe_tables(description: Description) -> Iterator[Table]:
    """Lays out a description.

    Args:
        description: Of a file.

    Yields:
        Tables to print with ``rich``: facts, inputs and outputs, operators, and, where an int8
        file has some, the operators that stayed float32.
    """
    facts = [*_facts(description)]
    yield _table((str(description.path), ""), facts)
    yield _table(
        ("", "name", "shape", "dtype", "scale", "zero point"),
        [
            (
                kind,
                tensor.name,
                str(tensor.shape),
                tensor.dtype,
                "" if tensor.scale is None else f"{tensor.scale:.6g}",
                "" if tensor.zero_point is None else str(tensor.zero_point),
            )
            for kind, tensors in (("input", description.inputs), ("output", description.outputs))
            for tensor in tensors
        ],
    )
    yield _table(
        ("operator", "count"),
        [(name, f"{count:,}") for name, count in description.operators.items()],
    )
    if description.float_operators:
        yield float_table(description.float_operators)


def float_table(operators: Sequence[FloatOperator]) -> Table:
    """Lays out the operators that stayed float32, to print with ``rich``."""
    return _table(
        ("stayed float32", "output", "why"),
        # An operator that the converter made of several has the names of all, joined by semicolons.
        [(one.operator, one.output.partition(";")[0], one.why) for one in operators],
    )


def _facts(description: Description) -> Iterator[tuple[str, str]]:
    if description.metadata is not None:
        yield from _metadata(description.metadata)
    yield "bytes", f"{description.num_bytes:,} ({description.gzip_bytes:,} by gzip)"
    yield "quantization", description.quantization
    if description.macs is None:
        yield "MACs", f"unknown: {description.macs_unknown}"
    else:
        yield "MACs", f"{description.macs:,} for one sample (1 MAC = 2 FLOPs)"


def _metadata(metadata: Metadata) -> Iterator[tuple[str, str]]:
    for name in ("name", "description", "license"):
        if text := getattr(metadata, name):
            yield name, text
    if metadata.labels:
        more = ", ..." * (len(metadata.labels) > _FEW)
        yield "labels", f"{len(metadata.labels):,}: {', '.join(metadata.labels[:_FEW])}{more}"
    if metadata.mean:
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values)
            for values in (metadata.mean, metadata.std)
        )
        yield "takes", f"(pixel - mean) / std, mean {mean}, std {std}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(Text(printable(heading)), overflow="fold")
    for row in rows:
        # Text, because rich would read a name with brackets as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
