"""Verifies ``.tflite`` files against their Keras models."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tflite_export.convert import check_is_model, input_structure
from tflite_export.file.description import signature_names
from tflite_export.runtime import dequantize, invoke, load_interpreter, quantize
from tflite_export.samples import Samples, as_array, samples_of

if TYPE_CHECKING:
    import keras

# Eight-bit files move a few predictions of samples that the model itself is unsure of; a file of
# other weights moves most of them.
MIN_ARGMAX_AGREEMENT = 0.95
MAX_ACCURACY_LOSS = 0.02
# Of outputs that are no classes: a mean difference of a tenth of their standard deviation leaves
# the file some 98% of their variance.
MAX_DIFFERENCE = 0.1

# What an output is compared by: the argmax of classes, which side of 0.5 a probability is on, or
# the numbers themselves.
Kind = Literal["classes", "binary", "values"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Compares a model's outputs with those of its file, on the same samples.

    Outputs of at least 2 classes are compared by the argmax over the last axis, one sigmoid by
    whether it is above 0.5, and all others, those of a regression or an autoencoder for two, by
    their mean difference.

    Attributes:
        num_samples: How many samples ran through both.
        argmax_agreement: Share of predictions that are the same, 0 to 1. One with a NaN in either
            output is not the same. None of outputs that are no classes.
        max_abs_difference: The largest difference of two outputs; NaN if there is a NaN in any.
        model_accuracy: Share of the model's predictions that equal the labels; None without
            labels. A prediction from a NaN is wrong.
        file_accuracy: The same for the file.
        accuracy_drop_error: The standard error of ``accuracy_drop`` over samples like these, from
            the predictions that are right in one and wrong in the other. None without labels.
        mean_abs_difference: The mean difference of two outputs; NaN if there is a NaN in any.
        difference_share: The mean difference as a share of the standard deviation of the model's
            outputs. None of classes.
        model_error: The mean difference of the model's outputs from the labels, in their unit; None
            without labels, and of classes.
        file_error: The same for the file.
        outputs: Of a model of several outputs, the agreement of each by its name. What is above is
            then that of the output where it is worst. Empty for a model of one.

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
    argmax_agreement: float | None
    max_abs_difference: float
    model_accuracy: float | None
    file_accuracy: float | None
    accuracy_drop_error: float | None
    mean_abs_difference: float = 0.0
    difference_share: float | None = None
    model_error: float | None = None
    file_error: float | None = None
    outputs: Mapping[str, Agreement] = dataclasses.field(default_factory=dict)

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
        """Returns whether the file's outputs are the model's, but for rounding.

        No output is NaN, at least 95% of the predictions are the same, and outputs that are no
        classes differ by at most a tenth of their standard deviation, on average.
        """
        has_nan = bool(np.isnan(self.max_abs_difference))
        same = self.argmax_agreement is None or self.argmax_agreement >= MIN_ARGMAX_AGREEMENT
        near = self.difference_share is None or self.difference_share <= MAX_DIFFERENCE
        return not has_nan and same and near

    @property
    def agrees(self) -> bool:
        """Returns whether the file can stand in for the model.

        Its outputs are the model's, see ``predicts_as_model``, and the file's accuracy is at most
        0.02 below the model's. Both matter: two networks that give everything the same class agree
        fully.
        """
        return self.predicts_as_model and (
            self.accuracy_drop is None or self.accuracy_drop <= MAX_ACCURACY_LOSS
        )


def verify(
    model: keras.Model,
    path: str | os.PathLike[str],
    inputs: Any,
    labels: Any = None,
) -> Agreement:
    """Runs a model and its file on the same samples and compares the outputs.

    What an output is, its last activation and the labels tell: softmax and, of at least 2 units,
    linear are classes; one sigmoid is the probability of one class against another; the rest are
    numbers. Linear outputs that have the shape of an input, or whose labels have theirs, are
    numbers too. Several inputs and outputs are told apart by their names in the file's signature.

    Args:
        model: A Keras model.
        path: Its ``.tflite`` file. It runs at the batch size that it was converted with.
        inputs: Samples, (n, ...) as the model takes them; of several inputs a dict of arrays by
            their names, or a list of arrays in their order. A ``tf.data.Dataset`` or another finite
            iterable of batches does as well; labels in it are not used.
        labels: The right class of each prediction, integers: (n,) for outputs (n, classes);
            (n, time) for outputs (n, time, classes); 0 or 1 for a sigmoid. For outputs that are
            numbers, the right numbers, of the outputs' shape. Of several outputs a dict by their
            names or a list in their order, None or nothing for those without labels.

    Returns:
        Agreement of the predictions, largest and mean difference, and the accuracy of both.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``, or ``inputs`` are no arrays.
        ValueError: The file is not a ``.tflite`` file or has other inputs, outputs or shapes than
            the model; ``inputs`` are empty, not finite or of another shape; ``labels`` are of
            another kind or shape, or out of range.

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
    check_is_model(model)
    file = _File(path)
    samples = file.samples(model, inputs)
    # The file first: it says in one line what is wrong with an input such as a token too large.
    actual = file.run(samples)
    expected = _run_model(model, samples)
    truths = labels_by_output(labels, [*expected])
    names = output_names(model) if getattr(model, "outputs", None) else [*expected]
    found = {}
    for name, outputs in expected.items():
        here = file.output_of(name, [*expected], actual)
        if outputs.shape != here.shape:
            which = f" for {name!r}" if len(expected) > 1 else ""
            raise ValueError(
                f"{file.path}: gives {here.shape}{which}, but the model gives {outputs.shape}"
            )
        kind, truth = kind_of(model, names.index(name), outputs.shape, truths[name])
        found[name] = _compare(outputs, here, kind, truth)
    return next(iter(found.values())) if len(found) == 1 else _worst(found)


class _File:
    """A file that runs.

    Attributes:
        path: Its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._interpreter = load_interpreter(path)
        self.path = Path(path)
        names = signature_names(path)
        self._sources, self._targets = (
            {names_.get(detail["index"], detail["name"]): detail for detail in details}
            for names_, details in zip(
                names,
                (self._interpreter.get_input_details(), self._interpreter.get_output_details()),
                strict=True,
            )
        )

    def samples(self, model: keras.Model, inputs: Any) -> Samples:
        """Checks samples, and arranges them by the names of the model's inputs, in their order."""
        import keras

        tensors = getattr(model, "inputs", None) or []
        names = [tensor.name for tensor in tensors] or [*self._sources]
        if len(names) == 1 == len(self._sources):
            self._sources = dict(zip(names, self._sources.values(), strict=True))
        elif {*names} != {*self._sources}:
            raise ValueError(
                f"{self.path}: its inputs are {', '.join(map(repr, self._sources))}, the model's "
                f"{', '.join(map(repr, names))}"
            )
        wanted = [
            keras.KerasTensor((None, *self._sources[name]["shape"][1:].tolist()), name=name)
            for name in names
        ]
        samples = samples_of(inputs, wanted, "inputs", self._checked)
        if not len(samples[names[0]]):
            raise ValueError("inputs hold no sample")
        # Without static shapes there is nothing to compare: the model itself will say.
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
        taken = [values.shape[1:] for values in samples.values()]
        if tensors and any(
            None not in shape and shape != other for shape, other in zip(shapes, taken, strict=True)
        ):
            raise ValueError(f"model takes inputs of shapes {shapes}, not {taken}")
        return samples

    def _checked(self, values: Any, tensor: Any, name: str) -> npt.NDArray[Any]:
        samples = as_array(values)
        if samples.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numbers, not {samples.dtype}")
        if not np.isfinite(samples).all():
            raise ValueError(f"{name} hold NaN or infinity")
        if samples.dtype.kind == "f" and _takes_integers(self._sources[tensor.name]):
            raise ValueError(f"{name} must be integers for {self.path}, not {samples.dtype}")
        if samples.shape[1:] != tensor.shape[1:]:
            takes = ", ".join(map(str, ("n", *tensor.shape[1:])))
            raise ValueError(f"{name} have shape {samples.shape}, but {self.path} takes ({takes})")
        return samples

    def run(self, samples: Samples) -> dict[str, npt.NDArray[np.float32]]:
        """Runs the file on samples by input; returns its outputs by their names."""
        batch_size = int(next(iter(self._sources.values()))["shape"][0])  # 1 if it is open
        outputs: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in self._targets}
        for batch, count in _batches(samples, batch_size):
            for name, values in batch.items():
                source = self._sources[name]
                self._interpreter.set_tensor(source["index"], quantize(values, source))
            invoke(self._interpreter)
            for name, target in self._targets.items():
                result = dequantize(self._interpreter.get_tensor(target["index"]), target)
                outputs[name].append(result[:count])
        return {name: np.concatenate(parts) for name, parts in outputs.items()}

    def output_of(
        self, name: str, names: Sequence[str], outputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """Finds the output that the model calls so."""
        if len(names) == 1 == len(outputs):
            return next(iter(outputs.values()))
        if {*names} != {*outputs}:
            raise ValueError(
                f"{self.path}: its outputs are {', '.join(map(repr, outputs))}, the model's "
                f"{', '.join(map(repr, names))}"
            )
        return outputs[name]


def _batches(samples: Samples, batch_size: int) -> Iterator[tuple[Samples, int]]:
    """Cuts samples to batches of one size; yields each with the number of samples that count."""
    total = len(next(iter(samples.values())))
    for start in range(0, total, batch_size):
        # Copies of the last sample fill up the last batch.
        rows = np.minimum(np.arange(start, start + batch_size), total - 1)
        yield {name: values[rows] for name, values in samples.items()}, total - start


def _takes_integers(tensor: dict[str, Any]) -> bool:
    """Returns whether a tensor holds indices or counts, not reals in 8 bits with a scale."""
    return np.issubdtype(tensor["dtype"], np.integer) and not tensor["quantization"][0]


def _run_model(model: keras.Model, samples: Samples) -> dict[str, npt.NDArray[np.float32]]:
    """Runs a model on samples by input; returns its outputs by their names in a signature."""
    import keras

    tensors = getattr(model, "inputs", None)
    fixed = tensors[0].shape[0] if tensors else None
    total = len(next(iter(samples.values())))
    missing = -total % (fixed or 1)
    # A model of a fixed batch, too, takes copies of the last sample to fill up its last.
    rows = np.minimum(np.arange(total + missing), total - 1)
    filled = {name: values[rows] for name, values in samples.items()} if missing else samples
    if tensors:
        arranged = keras.tree.map_structure(
            lambda tensor: filled[tensor.name], input_structure(model)
        )
    else:
        arranged = next(iter(filled.values())) if len(filled) == 1 else filled
    with _state_kept(model):
        outputs = model.predict(arranged, batch_size=fixed, verbose=0)
    if not isinstance(outputs, Mapping):
        listed = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        outputs = {f"output_{number}": one for number, one in enumerate(listed)}
    return {name: np.asarray(one)[:total].astype(np.float32) for name, one in outputs.items()}


@contextlib.contextmanager
def _state_kept(model: keras.Model) -> Iterator[None]:
    """Sets the states of stateful layers back after a ``with`` block."""
    # There is no public list of the layers inside nested models and wrappers.
    states = [
        (variable, variable.numpy())
        for layer in model._flatten_layers()
        if getattr(layer, "stateful", False)
        for variable in getattr(layer, "states", None) or ()
    ]
    try:
        yield
    finally:
        for variable, value in states:
            variable.assign(value)


def output_names(model: keras.Model) -> list[str]:
    """Returns what a file's signature calls the outputs of a model, in the order of ``outputs``."""
    import keras

    structure = None if isinstance(model, keras.Sequential) else model.output
    if isinstance(structure, Mapping):
        return sorted(structure)  # the order in which Keras flattens a dict
    return [f"output_{number}" for number in range(len(model.outputs))]


def labels_by_output(labels: Any, names: Sequence[str]) -> dict[str, npt.NDArray[Any] | None]:
    """Arranges labels by the outputs that they are for, None for those without.

    Raises:
        ValueError: They are not for these outputs.
    """
    if isinstance(labels, Mapping):
        for name in labels:
            if name not in names:
                raise ValueError(
                    f"labels are for {name!r}, but the model's outputs are "
                    f"{', '.join(map(repr, names))}"
                )
        given = [labels.get(name) for name in names]
    elif len(names) == 1:
        given = [labels]
    elif labels is None:
        given = [None] * len(names)
    elif isinstance(labels, (list, tuple)) and len(labels) == len(names):
        given = [*labels]
    else:
        raise ValueError(
            f"model has {len(names)} outputs; labels must be a dict of arrays, for "
            f"{', '.join(map(repr, names))}, or a list of arrays in this order"
        )
    return {
        name: None if one is None else as_array(one) for name, one in zip(names, given, strict=True)
    }


def kind_of(
    model: keras.Model,
    index: int,
    shape: tuple[int, ...],
    truth: npt.NDArray[Any] | None,
) -> tuple[Kind, npt.NDArray[Any] | None]:
    """Tells what an output of a model is to be compared by, and checks its labels.

    Args:
        model: A Keras model.
        index: The number of the output.
        shape: The output's shape, (n, ...).
        truth: Its labels, or None.

    Returns:
        The kind; the labels in the shape of the predictions, which is the output's but for the
        axis of the classes.

    Raises:
        ValueError: The labels do not fit the output.
    """
    outputs = getattr(model, "outputs", None)
    activation = _activation(outputs[index]) if outputs else ""
    units = shape[-1] if len(shape) > 1 else 1
    if truth is None:
        if activation == "sigmoid":
            return ("binary" if len(shape) == 2 and units == 1 else "values"), None
        mirrors = shape[1:] in [
            tuple(one.shape[1:]) for one in getattr(model, "inputs", None) or ()
        ]
        linear = activation in ("", "linear") and not (mirrors and len(shape) > 2)
        classes = units > 1 and (linear or activation in ("softmax", "log_softmax"))
        return ("classes" if classes else "values"), None
    if units == 1 and truth.shape == shape[:-1] != shape:
        truth = truth.reshape(shape)
    if truth.shape != shape or truth.dtype.kind not in "fiub":
        if units > 1:
            return "classes", checked_labels(truth, shape)
        if truth.dtype.kind not in "fiub":
            raise ValueError(f"labels must be numbers, not {truth.dtype}")
        raise ValueError(f"labels have shape {truth.shape}, but there are {shape} outputs")
    is_truth = bool(np.isin(truth, (0, 1)).all())
    if activation == "sigmoid" and not is_truth and truth.dtype.kind in "iu":
        raise ValueError(
            f"labels go from {truth.min()} to {truth.max()}, but those of a sigmoid are 0 and 1"
        )
    if is_truth and (activation == "sigmoid" or (activation == "" and units == 1)):
        return "binary", truth
    if is_truth and units > 1 and (truth.sum(axis=-1) == 1).all():
        raise ValueError(f"labels of shape {truth.shape} are one-hot; give labels.argmax(-1)")
    if activation in ("softmax", "log_softmax"):
        return "classes", checked_labels(truth, shape)
    return "values", truth


def _activation(tensor: Any) -> str:
    """Names the activation that an output of a model comes from; "" where it cannot be told."""
    # There is no public way from a tensor to the layer that gives it.
    operation, _, index = tensor._keras_history
    while hasattr(operation, "layer"):  # TimeDistributed
        operation = operation.layer
    activation = getattr(operation, "activation", None)
    if name := getattr(activation, "__name__", None):
        return str(name)
    kind = type(operation if activation is None else activation).__name__
    if kind in ("Softmax", "Sigmoid", "LogSoftmax"):
        return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(kind, "log_softmax")
    if hasattr(operation, "layers"):  # a nested model; a subclassed one does not tell
        inner = getattr(operation, "outputs", None)
        return _activation(inner[index]) if inner else ""
    if kind in ("Reshape", "Flatten", "Dropout", "Identity", "Permute", "Squeeze"):
        return _activation(operation.input)
    return "linear"


def _compare(
    expected: npt.NDArray[np.float32],
    actual: npt.NDArray[np.float32],
    kind: Kind,
    truth: npt.NDArray[Any] | None,
) -> Agreement:
    with np.errstate(invalid="ignore"):  # the inf - inf of equal outputs, which is not used
        differences = np.abs(np.where(expected == actual, 0, expected - actual))
    agreement = Agreement(
        num_samples=len(expected),
        argmax_agreement=None,
        max_abs_difference=float(np.max(differences)),
        model_accuracy=None,
        file_accuracy=None,
        accuracy_drop_error=None,
        mean_abs_difference=float(np.mean(differences)),
    )
    if kind == "values":
        share = _share(agreement.mean_abs_difference, expected)
        agreement = dataclasses.replace(agreement, difference_share=share)
        if truth is None:
            return agreement
        errors = [float(np.mean(np.abs(outputs - truth))) for outputs in (expected, actual)]
        return dataclasses.replace(agreement, model_error=errors[0], file_error=errors[1])
    predictions = [_predictions(outputs, kind) for outputs in (expected, actual)]
    same = (predictions[0] == predictions[1]) & (predictions[0] >= 0)
    agreement = dataclasses.replace(agreement, argmax_agreement=float(np.mean(same)))
    if truth is None:
        return agreement
    right, still_right = (one == truth for one in predictions)
    return dataclasses.replace(
        agreement,
        model_accuracy=float(np.mean(right)),
        file_accuracy=float(np.mean(still_right)),
        accuracy_drop_error=_paired_error(right, still_right),
    )


def _share(difference: float, outputs: npt.NDArray[np.float32]) -> float:
    """Returns a difference as a share of the outputs' standard deviation."""
    # Of outputs that are all the same, the rounding of float32 is no difference.
    spread = max(float(np.std(outputs)), 1e-4 * float(np.max(np.abs(outputs))))
    return difference / spread if spread else float("inf") if difference else 0.0


def _worst(found: Mapping[str, Agreement]) -> Agreement:
    """Sums up the agreements of several outputs, each by its worst."""

    def of_all(choose: Any, name: str) -> Any:
        values = [getattr(one, name) for one in found.values()]
        values = [value for value in values if value is not None]
        return float(choose(values)) if values else None

    def drop(one: Agreement) -> float:
        return -np.inf if one.accuracy_drop is None else one.accuracy_drop

    return dataclasses.replace(
        max(found.values(), key=drop),
        argmax_agreement=of_all(np.min, "argmax_agreement"),
        max_abs_difference=of_all(np.max, "max_abs_difference"),
        mean_abs_difference=of_all(np.max, "mean_abs_difference"),
        difference_share=of_all(np.max, "difference_share"),
        model_error=None,
        file_error=None,
        outputs=dict(found),
    )


def _predictions(outputs: npt.NDArray[np.float32], kind: Kind) -> npt.NDArray[np.int64]:
    """Takes the argmax of the last axis, or 1 above 0.5; -1, which is no class, at a NaN."""
    if kind == "binary":
        return np.where(np.isnan(outputs), -1, (outputs > 0.5).astype(np.int64))
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
