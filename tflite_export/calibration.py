"""Samples from which the ranges of a model's activations are measured, for 8-bit files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

# One array for each input, by the input's name.
Samples = dict[str, npt.NDArray[Any]]


def representative_batches(model: keras.Model, data: Any, batch_size: int) -> list[Samples]:
    """Checks representative data and cuts it to the batch of the file.

    Args:
        model: A Keras model with inputs of fixed shapes.
        data: As ``tflite_export.convert`` takes it.
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
    if not isinstance(data, Iterable):
        raise TypeError(f"representative_data must be arrays, not {type(data).__name__}")
    # -1 is tf.data.INFINITE_CARDINALITY: the loop below would never end.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError("representative_data never ends; take(n) batches of it")
    whole = hasattr(data, "shape") or isinstance(data, Mapping)
    parts = [_checked_part(model, part) for part in ([data] if whole else data)]
    samples = {
        tensor.name: np.concatenate([part[tensor.name] for part in parts] or [np.empty(0)])
        for tensor in model.inputs
    }
    available = len(samples[model.inputs[0].name])
    if not available:
        raise ValueError("representative_data holds no sample")
    # Samples from the start fill up the last batch: twice the same does not change a range.
    count = -(-available // batch_size) * batch_size
    return [
        {name: values[rows % available] for name, values in samples.items()}
        for rows in np.arange(count).reshape(-1, batch_size)
    ]


def _checked_part(model: keras.Model, part: Any) -> Samples:
    """The array of each input, from one array, a dict of them, or a tuple of these and labels."""
    part = part[0] if isinstance(part, tuple) else part
    names = [tensor.name for tensor in model.inputs]
    if isinstance(part, Mapping):
        for name in names:
            if name not in part:
                raise ValueError(f"representative_data has nothing for the input {name!r}")
        for name in part:
            if name not in names:
                raise ValueError(
                    f"representative_data is for {name!r}, but the model's inputs are "
                    f"{', '.join(map(repr, names))}"
                )
    elif len(names) > 1:
        raise ValueError(
            f"model has {len(names)} inputs; representative_data must be a dict of arrays, for "
            f"{', '.join(map(repr, names))}"
        )
    else:
        part = {names[0]: part}
    # The name says something only where there are several.
    samples = {
        tensor.name: checked_array(
            part[tensor.name],
            tensor,
            f"representative_data[{tensor.name!r}]" if len(names) > 1 else "representative_data",
        )
        for tensor in model.inputs
    }
    first = names[0]
    for name, values in samples.items():
        if len(values) != len(samples[first]):
            raise ValueError(
                f"representative_data has {len(samples[first])} samples for {first!r}, but "
                f"{len(values)} for {name!r}"
            )
    return samples


def checked_array(values: Any, tensor: Any, name: str) -> npt.NDArray[Any]:
    """Samples (n, ...) for an input of a model, of the input's dtype.

    Args:
        values: The samples.
        tensor: The input.
        name: What to call the samples in errors.

    Raises:
        ValueError: They do not fit the input in shape or dtype, or are not finite.
    """
    array = np.asarray(values.numpy() if hasattr(values, "numpy") else values)
    if array.shape[1:] != tuple(tensor.shape[1:]) or array.ndim == 0:
        raise ValueError(f"{name} has shape {array.shape}, but the model takes {tensor.shape}")
    if array.dtype.kind not in ("iu" if "int" in tensor.dtype else "fiub"):
        raise ValueError(f"{name} is {array.dtype}, but the model takes {tensor.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array.astype(tensor.dtype)


def check_no_loop(model: keras.Model, batch: Samples) -> None:
    """Raises ValueError for a model with a loop, on which int8 calibration ends the process.

    Args:
        model: A Keras model.
        batch: Samples as ``representative_batches`` returns them.
    """
    import keras
    import tensorflow as tf

    function = tf.function(lambda inputs: model(inputs, training=False))
    specification = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(batch[tensor.name].shape, batch[tensor.name].dtype),
        input_structure(model),
    )
    graph = function.get_concrete_function(specification).graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    if any(node.op in ("While", "StatelessWhile") for node in nodes):
        raise ValueError(
            "model runs a loop, which TensorFlow Lite cannot convert to int8; build its recurrent "
            "layers with unroll=True"
        )


def input_structure(model: keras.Model) -> Any:
    """A model's inputs as it is called on them: a tensor, or a list or dict of tensors."""
    import keras

    # A Sequential has one input, and no structure of it until it is first called.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
