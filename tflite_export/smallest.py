"""The smallest ``.tflite`` file of a model that is as accurate as it has to be."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from tflite_export.calibration import checked_array, representative_batches
from tflite_export.convert import Quantization, convert
from tflite_export.convertible import check_model, check_path
from tflite_export.description import FloatOperator, float_operators
from tflite_export.verify import Agreement, checked_labels, verify

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Mode:
    """A quantization of a model, and what came of it.

    Attributes:
        quantization: As `convert` takes it.
        num_bytes: Size of the file in bytes; None if there is none.
        agreement: Its outputs against the model's; None if there is no file.
        objection: Why the file was not taken, or why there is none; empty if nothing is against it.

    Example:
        >>> import keras
        >>> layer = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> smallest = convert_smallest(model, "model.tflite", [[1, 0], [0, 1]], [0, 1])
        >>> mode = smallest.modes[0]
        >>> mode.quantization, mode.agreement.file_accuracy, mode.objection
        ('float32', 1.0, '')
    """

    quantization: Quantization
    num_bytes: int | None
    agreement: Agreement | None
    objection: str


@dataclasses.dataclass(frozen=True)
class Smallest:
    """The file that was taken, and all that were tried.

    Attributes:
        path: The file.
        chosen: Its mode.
        modes: All modes, the smallest file first; those that gave no file last.
        max_accuracy_drop: The share by which the accuracy was allowed to fall.
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
    """No file is as accurate as it has to be.

    Args:
        message: What the error says.

    Attributes:
        modes: All modes, as in `Smallest`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> layer = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(np.nan))
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> try:
        ...     convert_smallest(model, "model.tflite", [[1, 0], [0, 1]], [0, 1])
        ... except NoModeHoldsError as error:
        ...     print(error.modes[0].objection)
        outputs are NaN
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
    """Converts a model in every way that is possible, and keeps the smallest file that holds.

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
        TypeError: As `convert` raises it.
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
    """Refuses at once what `verify` would only after the conversions."""
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
