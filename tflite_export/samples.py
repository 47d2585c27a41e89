"""Arranges samples by a model's inputs, from the forms that Keras and TensorFlow take them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

# One array for each input, by the input's name.
Samples = dict[str, npt.NDArray[Any]]


def samples_of(
    data: Any,
    tensors: Sequence[Any],
    name: str,
    check: Callable[[Any, Any, str], npt.NDArray[Any]],
) -> Samples:
    """Arranges samples by the inputs that they are for.

    Args:
        data: An array (n, ...); of several inputs a list of arrays in their order, or a dict of
            arrays by their names; a tuple of such inputs and their labels, which are left out; a
            finite iterable of such batches or of single samples, such as a ``tf.data.Dataset``, a
            ``keras.utils.PyDataset`` or a generator; or a function without arguments that
            returns one of these.
        tensors: The inputs, each with a ``name`` and a ``shape`` (batch, ...).
        name: What errors call the samples.
        check: Checks and casts the samples of one input, an array (n, ...), like `checked_array`.

    Returns:
        Arrays (n, ...), maybe of no sample.

    Raises:
        TypeError: ``data`` is not arrays.
        ValueError: It is endless, or has not the same number of samples for each of the inputs.
    """
    if callable(data):
        data = data()
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise TypeError(f"{name} must be arrays, not {type(data).__name__}")
    # -1 is tf.data.INFINITE_CARDINALITY: the loop below would never end.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError(f"{name} never ends; take(n) batches of it")
    if _is_batch(data, tensors):
        parts = [_checked_part(data, tensors, name, check)]
    else:
        parts = [_checked_part(part, tensors, name, check, may_be_sample=True) for part in data]
    return {
        tensor.name: np.concatenate([part[tensor.name] for part in parts] or [np.empty(0)])
        for tensor in tensors
    }


def _is_batch(data: Any, tensors: Sequence[Any]) -> bool:
    """Returns whether data are one batch of all inputs, with or without labels, and not several."""
    if hasattr(data, "shape") or isinstance(data, Mapping) or _is_for_each(data, tensors):
        return True
    if not isinstance(data, tuple) or not data:
        return False
    inputs = data[0]
    return (
        isinstance(inputs, Mapping)
        or _is_for_each(inputs, tensors)
        or (len(tensors) == 1 and _fits(inputs, tensors[0]))
    )


def _is_for_each(value: Any, tensors: Sequence[Any]) -> bool:
    """Returns whether a value is a list or tuple of a batch for each input."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == len(tensors)
        and all(map(_fits, value, tensors))
    )


def _fits(value: Any, tensor: Any) -> bool:
    """Returns whether a value has the shape of a batch of an input."""
    shape = _shape(value)
    return len(shape) == len(tensor.shape) and _same(shape[1:], tensor.shape[1:])


def _same(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (None, have) for have, size in zip(shape, wanted, strict=True)
    )


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(value.shape)
    try:
        return np.shape(value)
    except ValueError:  # arrays of several shapes
        return ()


def _checked_part(
    part: Any,
    tensors: Sequence[Any],
    name: str,
    check: Callable[[Any, Any, str], npt.NDArray[Any]],
    may_be_sample: bool = False,
) -> Samples:
    """Returns the array of each input, from a batch or, maybe, a single sample."""
    if isinstance(part, tuple) and part and not _is_for_each(part, tensors):
        part = part[0]  # before its labels
    names = [tensor.name for tensor in tensors]
    if isinstance(part, Mapping):
        for one in names:
            if one not in part:
                raise ValueError(f"{name} has nothing for the input {one!r}")
        for one in part:
            if one not in names:
                raise ValueError(
                    f"{name} is for {one!r}, but the model's inputs are "
                    f"{', '.join(map(repr, names))}"
                )
    elif _is_for_each(part, tensors):
        part = dict(zip(names, part, strict=True))
    elif len(names) > 1:
        raise ValueError(
            f"model has {len(names)} inputs; {name} must be a dict of arrays, for "
            f"{', '.join(map(repr, names))}, or a list of arrays (n, ...) in this order"
        )
    else:
        part = {names[0]: part}
    samples = {}
    for tensor in tensors:
        values = part[tensor.name]
        if may_be_sample and _same(_shape(values), tensor.shape[1:]):
            values = as_array(values)[np.newaxis]
        # The name of an input says something only where there are several.
        label = f"{name}[{tensor.name!r}]" if len(names) > 1 else name
        samples[tensor.name] = check(values, tensor, label)
    first = names[0]
    for one, values in samples.items():
        if len(values) != len(samples[first]):
            raise ValueError(
                f"{name} has {len(samples[first])} samples for {first!r}, but {len(values)} for "
                f"{one!r}"
            )
    return samples


def as_array(values: Any) -> npt.NDArray[Any]:
    """Converts a tensor of any library, or numbers in lists, to an array of NumPy."""
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values)


def checked_array(values: Any, tensor: Any, name: str) -> npt.NDArray[Any]:
    """Checks samples for an input of a model, and casts them to the input's dtype.

    Args:
        values: The samples, (n, ...).
        tensor: The input.
        name: What errors call the samples.

    Raises:
        ValueError: They do not fit the input in shape or dtype, or are not finite.
    """
    array = as_array(values)
    if array.shape[1:] != tuple(tensor.shape[1:]) or array.ndim == 0:
        raise ValueError(f"{name} has shape {array.shape}, but the model takes {tensor.shape}")
    if array.dtype.kind not in ("iu" if "int" in tensor.dtype else "fiub"):
        raise ValueError(f"{name} is {array.dtype}, but the model takes {tensor.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array.astype(tensor.dtype)


def representative_batches(model: keras.Model, data: Any, batch_size: int) -> list[Samples]:
    """Checks representative data and cuts it to the batch of the file.

    Args:
        model: A Keras model with inputs of fixed shapes.
        data: As ``convert`` takes it.
        batch_size: The number of samples that the file takes at a time.

    Returns:
        The batches, at least one: arrays (batch_size, ...) of the model's dtypes.

    Raises:
        TypeError: ``data`` is not arrays.
        ValueError: ``data`` is missing, empty, endless, not finite, or does not fit the inputs
            in its names, numbers of samples, shapes or dtypes.
    """
    if data is None:
        raise ValueError(
            "representative_data is missing (--representative-data): int8 and int16x8 need samples "
            "to measure ranges on"
        )
    samples = samples_of(data, model.inputs, "representative_data", checked_array)
    available = len(samples[model.inputs[0].name])
    if not available:
        raise ValueError("representative_data holds no sample")
    # Samples from the start fill up the last batch: twice the same does not change a range.
    count = -(-available // batch_size) * batch_size
    return [
        {name: values[rows % available] for name, values in samples.items()}
        for rows in np.arange(count).reshape(-1, batch_size)
    ]
