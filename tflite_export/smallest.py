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

from tflite_export.convert import (
    Quantization,
    check_model,
    check_path,
    convert,
    with_fixed_inputs,
)
from tflite_export.file.description import FloatOperator, float_operators, float_table
from tflite_export.samples import Samples, checked_array, representative_batches, samples_of
from tflite_export.verify import (
    MAX_DIFFERENCE,
    MIN_ARGMAX_AGREEMENT,
    Agreement,
    kind_of,
    labels_by_output,
    output_names,
    verify,
)

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
    inputs: Any,
    labels: Any = None,
    max_accuracy_drop: float = 0.01,
    representative_data: Any = None,
    max_difference: float = MAX_DIFFERENCE,
) -> Smallest:
    """Converts a model in every quantization, and keeps the smallest file that is accurate enough.

    A file holds if its accuracy on the samples is at most ``max_accuracy_drop`` below the model's,
    no output is NaN, and at least 95% of its predictions are the model's. Outputs that are no
    classes, such as a regression's, have no accuracy: they may differ by ``max_difference``. Of
    several outputs each has to hold. Of files of equal size the more exact comes first. The samples
    that a choice was made by flatter what was chosen: measure its accuracy on others.

    The file appears whole or not at all, and a file that was there before stays if none holds.

    Args:
        model: A Keras model. The files take the batch that it was built with, or 1.
        path: Where to write, ending in ``.tflite``, in a folder that exists.
        inputs: Samples to choose by, see `verify`.
        labels: The right classes, see `verify`; of outputs that are no classes nothing is needed.
        max_accuracy_drop: By how much accuracy may fall, a share from 0 to below 1: 0.01 is one
            percentage point. One of n samples weighs 1 / n.
        representative_data: See `convert`; without it there is no int8 and no int16x8. Not the
            samples to choose by.
        max_difference: By how much outputs that are no classes may differ on average, a share of
            the standard deviation of the model's.

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
    model = with_fixed_inputs(model)
    batch_size = (getattr(model, "inputs", None) and model.inputs[0].shape[0]) or 1
    check_model(model, batch_size)
    check_path(path)
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"max_accuracy_drop must be a share from 0 to below 1, not {max_accuracy_drop}: 0.01 "
            "is one percentage point"
        )
    if not max_difference > 0:
        raise ValueError(f"max_difference must be more than 0, not {max_difference}")
    samples = samples_of(inputs, model.inputs, "inputs", checked_array)
    labels = _checked_labels(model, samples, labels)
    if representative_data is not None:
        # Once for all modes: an iterable may not begin again.
        representative_data = representative_batches(model, representative_data, batch_size)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as name:
        folder = Path(name)
        modes = [
            _tried(model, folder, quantization, samples, labels, max_accuracy_drop, max_difference)
            if not (why := _converted(model, folder, quantization, representative_data, batch_size))
            else Mode(quantization, None, None, why)
            for quantization in get_args(Quantization)
        ]
        # Sorting keeps the order of equals: from the most exact to the least.
        modes.sort(key=lambda mode: math.inf if mode.num_bytes is None else mode.num_bytes)
        chosen = next((mode for mode in modes if not mode.objection), None)
        if chosen is None:
            raise _no_mode(tuple(modes), max_accuracy_drop, max_difference)
        _file(folder, chosen.quantization).replace(path)
    return Smallest(path, chosen, tuple(modes), max_accuracy_drop, float_operators(path))


def _checked_labels(model: keras.Model, samples: Samples, labels: Any) -> Any:
    """Checks samples and labels as `verify` does, but before the conversions."""
    total = len(samples[model.inputs[0].name])
    if not total:
        raise ValueError("inputs hold no sample")
    names = output_names(model)
    truths = labels_by_output(labels, names)
    for index, (name, tensor) in enumerate(zip(names, model.outputs, strict=True)):
        kind, _ = kind_of(model, index, (total, *tensor.shape[1:]), truths[name])
        if kind != "values" and truths[name] is None:
            which = f" for the output {name!r}" if len(names) > 1 else ""
            raise ValueError(f"labels are missing{which}, whose classes an accuracy is of")
    return truths


def _file(folder: Path, quantization: Quantization) -> Path:
    return folder / f"{quantization}.tflite"


def _converted(
    model: keras.Model,
    folder: Path,
    quantization: Quantization,
    representative_data: Any,
    batch_size: int,
) -> str:
    """Writes a mode's file; returns why there is none, or nothing."""
    try:
        convert(model, _file(folder, quantization), quantization, representative_data, batch_size)
    except ValueError as error:
        return str(error)
    return ""


def _tried(
    model: keras.Model,
    folder: Path,
    quantization: Quantization,
    samples: Samples,
    labels: Any,
    max_accuracy_drop: float,
    max_difference: float,
) -> Mode:
    path = _file(folder, quantization)
    try:
        agreement = verify(model, path, samples, labels)
    except ValueError as error:  # LiteRT cannot run this one
        return Mode(quantization, None, None, str(error))
    objection = ""
    if np.isnan(agreement.max_abs_difference):
        objection = "outputs are NaN"
    elif agreement.accuracy_drop is not None and agreement.accuracy_drop > max_accuracy_drop:
        objection = "accuracy drops"
    elif (same := agreement.argmax_agreement) is not None and same < MIN_ARGMAX_AGREEMENT:
        objection = "argmax differs"
    elif (share := agreement.difference_share) is not None and share > max_difference:
        objection = "outputs differ"
    return Mode(quantization, path.stat().st_size, agreement, objection)


def _no_mode(
    modes: tuple[Mode, ...], max_accuracy_drop: float, max_difference: float
) -> ValueError:
    tried = [mode for mode in modes if mode.agreement is not None]
    if not tried:
        return ValueError(modes[0].objection)  # float32's, which the others have as well
    reasons = "; ".join(f"{mode.quantization}: {mode.objection}" for mode in tried)
    classes = any(mode.agreement.accuracy_drop is not None for mode in tried if mode.agreement)
    within = max_accuracy_drop if classes else max_difference
    return NoModeHoldsError(
        f"no file is as accurate as the model, to within {within:g}: {reasons}", modes
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

    first = next(mode.agreement for mode in modes if mode.agreement is not None)
    captions = []
    columns = {}
    if first.model_accuracy is not None:
        captions.append(
            f"drop: the model's accuracy, {first.model_accuracy:.4f}, less the file's, on "
            f"{first.num_samples:,} samples; at most {max_accuracy_drop:g} is allowed. "
            "+-: its standard error."
        )
        columns = {
            "accuracy": "file_accuracy",
            "drop": "accuracy_drop",
            "+-": "accuracy_drop_error",
            "same\nargmax": "argmax_agreement",
        }
    if first.difference_share is not None:
        captions.append(
            "share: the mean difference of the model's outputs and the file's, of the standard "
            f"deviation of the model's, on {first.num_samples:,} samples."
        )
        columns["share"] = "difference_share"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=" ".join(captions), caption_justify="left"
    )
    table.add_column("mode", no_wrap=True)
    for heading in ("bytes", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for mode in modes:
        if mode.agreement is None:
            table.add_row(mode.quantization, *[""] * (1 + len(columns)), "not possible")
            continue
        table.add_row(
            mode.quantization,
            f"{mode.num_bytes:,}",
            *(f"{getattr(mode.agreement, name):.4f}" for name in columns.values()),
            mode.objection or ("CHOSEN" if mode is chosen else "holds"),
        )
    return table
