"""Verifies ``.tflite`` files against their Keras models."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.runtime import dequantize, invoke, load_interpreter, quantize

if TYPE_CHECKING:
    import keras

# Eight-bit files move a few predictions of samples that the model itself is unsure of; a file of
# other weights moves most of them.
MIN_ARGMAX_AGREEMENT = 0.95
MAX_ACCURACY_LOSS = 0.02


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Compares a model's outputs with those of its file, on the same samples.

    Attributes:
        num_samples: How many samples ran through both.
        argmax_agreement: Share of predictions (argmax over the last axis) that are the same,
            0 to 1. One with a NaN in either output is not the same.
        max_abs_difference: The largest difference of two outputs; NaN if there is a NaN in any.
        model_accuracy: Share of the model's predictions that equal the labels; None without
            labels. A prediction from a NaN is wrong.
        file_accuracy: The same for the file.
        accuracy_drop_error: The standard error of ``accuracy_drop`` over samples like these, from
            the predictions that are right in one and wrong in the other. None without labels.

    Example:
        >>> agreement = Agreement(
        ...     num_samples=1000,
        ...     argmax_agreement=0.97,
        ...     max_abs_difference=0.5,
        ...     model_accuracy=0.75,
        ...     file_accuracy=0.5,
        ...     accuracy_drop_error=0.01,
        ... )
        >>> agreement.predicts_as_model, agreement.accuracy_drop, agreement.agrees
        (True, 0.25, False)
    """

    num_samples: int
    argmax_agreement: float
    max_abs_difference: float
    model_accuracy: float | None
    file_accuracy: float | None
    accuracy_drop_error: float | None

    @property
    def accuracy_drop(self) -> float | None:
        """Computes ``model_accuracy - file_accuracy``, of which 0.01 is one percentage point.

        Below 0 if the file is better; None without labels.
        """
        if self.model_accuracy is None or self.file_accuracy is None:
            return None
        # 0.97 - 0.96 is more than 0.01 in floating point.
        return round(self.model_accuracy - self.file_accuracy, 12)

    @property
    def predicts_as_model(self) -> bool:
        """Returns whether no output is NaN, and at least 95% of the predictions are the same."""
        has_nan = bool(np.isnan(self.max_abs_difference))
        return not has_nan and self.argmax_agreement >= MIN_ARGMAX_AGREEMENT

    @property
    def agrees(self) -> bool:
        """Returns whether the file can stand in for the model.

        No output is NaN, at least 95% of the predictions are the same, and the file's accuracy
        is at most 0.02 below the model's. Both matter: two networks that give everything the
        same class agree fully.
        """
        return self.predicts_as_model and (
            self.accuracy_drop is None or self.accuracy_drop <= MAX_ACCURACY_LOSS
        )


def verify(
    model: keras.Model,
    path: str | os.PathLike[str],
    inputs: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
) -> Agreement:
    """Runs a model and its file on the same samples and compares the outputs.

    Args:
        model: A Keras model of one input and one output.
        path: Its ``.tflite`` file. It runs at the batch size that it was converted with.
        inputs: Samples, (n, ...) as the model takes them.
        labels: The right class of each prediction, integers: (n,) for outputs (n, classes);
            (n, time) for outputs (n, time, classes).

    Returns:
        Agreement of the predictions, largest difference, and the accuracy of both.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: The file is not a ``.tflite`` file or has other shapes than the model;
            ``inputs`` are empty, not finite or of another shape; ``labels`` are not integers, of
            another shape or out of range.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        >>> images = np.random.default_rng(0).random((20, 4, 4, 1), dtype="float32")
        >>> from tflite_export import convert
        >>> agreement = verify(model, convert(model, "model.tflite"), images)
        >>> agreement.num_samples, agreement.argmax_agreement, agreement.max_abs_difference < 1e-5
        (20, 1.0, True)
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}")
    samples = np.asarray(inputs)
    if samples.ndim == 0 or not len(samples):
        raise ValueError("inputs hold no sample")
    if samples.dtype.kind not in "fiub":
        raise ValueError(f"inputs must be numbers, not {samples.dtype}")
    if not np.isfinite(samples).all():
        raise ValueError("inputs hold NaN or infinity")
    interpreter = load_interpreter(path)
    path = Path(path)
    tensors = interpreter.get_input_details(), interpreter.get_output_details()
    if [len(details) for details in tensors] != [1, 1]:
        raise ValueError(
            f"{path}: has {len(tensors[0])} inputs and {len(tensors[1])} outputs; "
            "verify compares files of one each, verify_language_model those of language models"
        )
    if samples.dtype.kind == "f" and _takes_integers(tensors[0][0]):
        raise ValueError(f"inputs must be integers for {path}, not {samples.dtype}")
    sample_shape = tuple(tensors[0][0]["shape"][1:].tolist())
    if samples.shape[1:] != sample_shape:
        takes = ", ".join(map(str, ("n", *sample_shape)))
        raise ValueError(f"inputs have shape {samples.shape}, but {path} takes ({takes})")

    # The file first: it says in one line what is wrong with an input such as a token too large.
    actual = _run_file(interpreter, samples)
    expected = _run_model(model, samples)
    if expected.shape != actual.shape:
        raise ValueError(f"{path}: gives {actual.shape}, but the model gives {expected.shape}")
    if expected.ndim < 2 or expected.shape[-1] < 2:
        raise ValueError(
            f"model gives {expected.shape}; verify compares the argmax of at least 2 classes"
        )
    expected_classes, actual_classes = _predictions(expected), _predictions(actual)
    same = (expected_classes == actual_classes) & (expected_classes >= 0)
    model_accuracy = file_accuracy = error = None
    if labels is not None:
        truth = checked_labels(labels, expected.shape)
        right, still_right = expected_classes == truth, actual_classes == truth
        model_accuracy, file_accuracy = float(np.mean(right)), float(np.mean(still_right))
        error = _paired_error(right, still_right)
    with np.errstate(invalid="ignore"):  # the inf - inf of equal outputs, which is not used
        difference = np.max(np.abs(np.where(expected == actual, 0, expected - actual)))
    return Agreement(
        num_samples=len(samples),
        argmax_agreement=float(np.mean(same)),
        max_abs_difference=float(difference),
        model_accuracy=model_accuracy,
        file_accuracy=file_accuracy,
        accuracy_drop_error=error,
    )


def _takes_integers(tensor: dict[str, Any]) -> bool:
    """Returns whether a tensor holds indices or counts, not reals in 8 bits with a scale."""
    return np.issubdtype(tensor["dtype"], np.integer) and not tensor["quantization"][0]


def _run_model(model: keras.Model, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    inputs = getattr(model, "inputs", None)
    shapes = [tuple(tensor.shape[1:]) for tensor in inputs or ()]
    # Without static shapes there is nothing to compare: the model itself will say.
    if inputs and (len(shapes) != 1 or (None not in shapes[0] and shapes[0] != samples.shape[1:])):
        raise ValueError(f"model takes inputs of shapes {shapes}, not {samples.shape[1:]}")
    outputs = model.predict(samples, verbose=0)
    if not isinstance(outputs, np.ndarray):
        raise ValueError("model has several outputs; verify compares models of one")
    return outputs.astype(np.float32)


def _run_file(interpreter: Any, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch_size = int(source["shape"][0])
    outputs = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        # The file's batch is fixed; copies of the last sample fill it up.
        missing = batch_size - len(batch)
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        interpreter.set_tensor(source["index"], quantize(batch, source))
        invoke(interpreter)
        result = dequantize(interpreter.get_tensor(target["index"]), target)
        outputs.append(result[: batch_size - missing])
    return np.concatenate(outputs)


def _predictions(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Takes the argmax of the last axis; -1, which is no class, where it holds a NaN."""
    # argmax takes a NaN for the largest number, so a file of nothing but NaN always gives class 0.
    return np.where(np.isnan(outputs).any(axis=-1), -1, outputs.argmax(axis=-1))


def _paired_error(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Estimates the standard error of the difference of the shares of True in two paired arrays.

    Source: A. Agresti, Categorical Data Analysis, on the difference of dependent proportions.
    """
    total = first.size
    lost, gained = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    variance = lost + gained - (lost - gained) ** 2 / total
    return float(variance**0.5 / total)


def checked_labels(labels: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Checks the labels, integers (n, ...), of outputs of a shape (n, ..., classes).

    Raises:
        ValueError: They are not integers, of another shape or out of range.
    """
    truth = np.asarray(labels)
    if truth.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, not {truth.dtype}")
    if truth.shape != shape[:-1]:
        raise ValueError(f"labels have shape {truth.shape}, but there are {shape[:-1]} predictions")
    if truth.min() < 0 or truth.max() >= shape[-1]:
        raise ValueError(
            f"labels go from {truth.min()} to {truth.max()}, classes from 0 to {shape[-1] - 1}"
        )
    return truth
