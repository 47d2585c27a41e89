"""Chooses the smallest ``.tflite`` file of a model that is accurate enough."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from tflite_export.convert import (
    Quantization,
    check_model,
    check_path,
    checked_array,
    convert,
    representative_batches,
)
from tflite_export.file.description import FloatOperator, float_operators, float_table
from tflite_export.verify import Agreement, checked_labels, verify

if TYPE_CHECKING:
    import keras
    from rich.console import RenderableType
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Mode:
    """Holds what was measured of a model in one quantization.

    Attributes:
        quantization: See `convert`.
        num_bytes: Size of the file in bytes; None if there is none.
        agreement: The file's outputs against the model's; None if there is no file.
        objection: Why the file was not taken, or why there is none; empty if it holds.

    Example:
        >>> mode = Mode("int8", num_bytes=1348, agreement=None, objection="accuracy drops")
        >>> mode.quantization, mode.num_bytes
        ('int8', 1348)
    """

    quantization: Quantization
    num_bytes: int | None
    agreement: Agreement | None
    objection: str


@dataclasses.dataclass(frozen=True)
class Smallest:
    """Holds a choice among a model's files.

    Attributes:
        path: The file.
        chosen: Its mode.
        modes: All modes, the smallest file first; those that gave no file last.
        max_accuracy_drop: By how much accuracy was allowed to fall, a share.
        float_operators: The operators of a file of integers that stayed float32.

    Example:
        >>> import keras
        >>> layer = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> smallest = convert_smallest(model, "model.tflite", [[1, 0], [0, 1]], [0, 1])
        >>> smallest.path.name, smallest.chosen == smallest.modes[0], smallest.float_operators
        ('model.tflite', True, ())
    """

    path: Path
    chosen: Mode
    modes: tuple[Mode, ...]
    max_accuracy_drop: float
    float_operators: tuple[FloatOperator, ...]


class NoModeHoldsError(ValueError):
    """Signals that no file of a model is accurate enough.

    Args:
        message: Why each file was not taken.
        modes: All modes, the smallest file first.

    Attributes:
        modes: All modes, the smallest file first.

    Example:
        >>> modes = (Mode("float32", 1348, None, "outputs are NaN"),)
        >>> try:
        ...     raise NoModeHoldsError("no file is as accurate as the model", modes)
        ... except NoModeHoldsError as error:
        ...     print(error, "--", error.modes[0].objection)
        no file is as accurate as the model -- outputs are NaN
    """

    def __init__(self, message: str, modes: tuple[Mode, ...]) -> None:
        super().__init__(message)
        self.modes = modes


def convert_smallest(
    model: keras.Model,
    path: str | os.PathLike[str],
    inputs: npt.ArrayLike,
    labels: npt.ArrayLike,
    max_accuracy_drop: float = 0.01,
    representative_data: Any = None,
) -> Smallest:
    """Converts a model in every quantization, and keeps the smallest file that is accurate enough.

    A file holds if its accuracy on the samples is at most ``max_accuracy_drop`` below the model's,
    no output is NaN, and at least 95% of its predictions are the model's. Of files of equal size
    the more exact comes first. The samples that a choice was made by flatter what was chosen:
    measure its accuracy on others.

    The file appears whole or not at all, and a file that was there before stays if none holds.

    Args:
        model: A Keras model of one input and one output, classes.
        path: Where to write, ending in ``.tflite``, in a folder that exists.
        inputs: Samples to choose by, (n, ...) as the model takes them.
        labels: The right class of each, integers, see `verify`.
        max_accuracy_drop: By how much accuracy may fall, a share from 0 to below 1: 0.01 is one
            percentage point. One of n samples weighs 1 / n.
        representative_data: See `convert`; without it there is no int8 and no int16x8. Not the
            samples to choose by.

    Returns:
        The file, and all modes.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``, ``representative_data`` not arrays.
        NoModeHoldsError: No file holds; a ValueError.
        ValueError: An argument does not fit, or the model can be converted in no way.
        OSError: The file cannot be written.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        >>> images = np.random.default_rng(0).random((20, 4, 4, 1), dtype="float32")
        >>> labels = model(images).numpy().argmax(axis=1)
        >>> smallest = convert_smallest(model, "model.tflite", images, labels)
        >>> smallest.chosen.quantization  # of so few weights none takes 8 bits
        'float32'
        >>> [mode.quantization for mode in smallest.modes if mode.num_bytes]
        ['float32', 'dynamic', 'float16']
    """
    path = Path(path)
    check_model(model)
    check_path(path)
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"max_accuracy_drop must be a share from 0 to below 1, not {max_accuracy_drop}: 0.01 "
            "is one percentage point"
        )
    samples, truth = _checked_samples(model, inputs, labels)
    if representative_data is not None:
        # Once for all modes: an iterable may not begin again.
        representative_data = representative_batches(model, representative_data, 1)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as name:
        folder = Path(name)
        modes = [
            _tried(model, folder, quantization, samples, truth, max_accuracy_drop)
            if not (why := _converted(model, folder, quantization, representative_data))
            else Mode(quantization, None, None, why)
            for quantization in get_args(Quantization)
        ]
        # Sorting keeps the order of equals: from the most exact to the least.
        modes.sort(key=lambda mode: math.inf if mode.num_bytes is None else mode.num_bytes)
        chosen = next((mode for mode in modes if not mode.objection), None)
        if chosen is None:
            raise _no_mode(tuple(modes), max_accuracy_drop)
        _file(folder, chosen.quantization).replace(path)
    return Smallest(path, chosen, tuple(modes), max_accuracy_drop, float_operators(path))


def _checked_samples(
    model: keras.Model, inputs: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Checks samples and labels as `verify` does, but before the conversions."""
    tensors = model.inputs, model.outputs
    if [len(each) for each in tensors] != [1, 1]:
        raise ValueError(
            f"model has {len(tensors[0])} inputs and {len(tensors[1])} outputs; a choice by "
            "accuracy takes one of each"
        )
    samples = checked_array(inputs, model.inputs[0], "inputs")
    if not len(samples):
        raise ValueError("inputs hold no sample")
    shape = (len(samples), *model.outputs[0].shape[1:])
    if len(shape) < 2 or shape[-1] < 2:
        raise ValueError(f"model gives {shape}; accuracy is that of at least 2 classes")
    return samples, checked_labels(labels, shape)


def _file(folder: Path, quantization: Quantization) -> Path:
    return folder / f"{quantization}.tflite"


def _converted(
    model: keras.Model, folder: Path, quantization: Quantization, representative_data: Any
) -> str:
    """Writes a mode's file; returns why there is none, or nothing."""
    try:
        convert(model, _file(folder, quantization), quantization, representative_data)
    except ValueError as error:
        return str(error)
    return ""


def _tried(
    model: keras.Model,
    folder: Path,
    quantization: Quantization,
    samples: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    max_accuracy_drop: float,
) -> Mode:
    path = _file(folder, quantization)
    agreement = verify(model, path, samples, truth)
    objection = ""
    if np.isnan(agreement.max_abs_difference):
        objection = "outputs are NaN"
    elif agreement.accuracy_drop is None or agreement.accuracy_drop > max_accuracy_drop:
        objection = "accuracy drops"
    elif not agreement.predicts_as_model:
        objection = "argmax differs"
    return Mode(quantization, path.stat().st_size, agreement, objection)


def _no_mode(modes: tuple[Mode, ...], max_accuracy_drop: float) -> ValueError:
    tried = [mode for mode in modes if mode.agreement is not None]
    if not tried:
        return ValueError(modes[0].objection)  # float32's, which the others have as well
    reasons = "; ".join(f"{mode.quantization}: {mode.objection}" for mode in tried)
    return NoModeHoldsError(
        f"no file is as accurate as the model, to within {max_accuracy_drop:g}: {reasons}", modes
    )


def choice_tables(
    modes: Sequence[Mode], max_accuracy_drop: float, smallest: Smallest | None = None
) -> Iterator[RenderableType]:
    """Lays out the modes of a choice in tables, within 80 characters.

    Args:
        modes: All modes.
        max_accuracy_drop: By how much accuracy was allowed to fall, a share.
        smallest: The choice; None if no file was taken.

    Yields:
        Renderables of ``rich``: a table of the modes, a line for each that gave no file, and,
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
