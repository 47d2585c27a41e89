"""A Keras model to a ``.tflite`` file that LiteRT runs with its built-in operators alone."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tflite_export.runtime import native_output_silenced

if TYPE_CHECKING:
    import keras

Quantization = Literal["float32", "float16", "dynamic", "int8"]


def convert(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: Quantization = "float32",
    representative_data: Any = None,
    batch_size: int = 1,
) -> Path:
    """Converts a Keras model of the TensorFlow backend.

    The file appears whole or not at all, and a file that was there before stays if the conversion
    fails. Its inputs and outputs have the model's dtypes, whatever the quantization. Meanwhile the
    process's standard output and error are discarded: the converter is talkative.

    Args:
        model: A model whose input shapes are fixed but for the batch.
        path: Where to write, ending in ``.tflite``, in a folder that exists.
        quantization: "float32"; "float16" (weights only); "dynamic" (8-bit weights, where a layer
            has at least 1,024, and float activations); "int8" (8-bit integers throughout).
        representative_data: For "int8", from which the ranges of activations are measured: an
            array (n, ...) of samples as the model takes them, or a finite iterable of such
            batches, such as a ``tf.data.Dataset``, with or without labels. Some 100 samples do.
        batch_size: The number of samples that the file takes at a time.

    Returns:
        The path of the file.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``, ``representative_data`` not arrays.
        ValueError: One of the arguments does not fit (the message names it), or TensorFlow Lite
            cannot convert the model.
        OSError: The file cannot be written.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"model runs on the {keras.backend.backend()} backend; load it with "
            "KERAS_BACKEND=tensorflow to convert it"
        )
    path = _checked_path(path)
    if quantization not in get_args(Quantization):
        raise ValueError(
            f"quantization must be one of {', '.join(get_args(Quantization))}, not {quantization!r}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    _check_model(model, batch_size)
    options = _converter_options(model, quantization, representative_data, batch_size)
    signature = keras.tree.map_structure(
        lambda tensor: keras.InputSpec(
            shape=(batch_size, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        ),
        # A Sequential has one input, and no structure of it until it is first called.
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )
    # A folder of its own rather than a temporary file, which would be readable by its owner only.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        try:
            with native_output_silenced():
                model.export(
                    unfinished,
                    format="litert",
                    input_signature=[signature],
                    verbose=False,
                    **options,
                )
        except OSError:
            raise
        except Exception as error:  # the converter has no common base class for its errors
            raise ValueError(f"model: TensorFlow Lite cannot convert it: {_why(error)}") from error
        unfinished.replace(path)
    return path


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a Keras model for conversion, without its optimizer.

    Args:
        path: A ``.keras`` file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: There is no such file, or it holds no model that can be loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    # Keras reports one as "File not found".
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a .keras file: it is cut off, damaged or of another format")
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import keras

        try:
            return keras.saving.load_model(path, compile=False)
        # A damaged file is a zip, HDF5, JSON, key or value error, depending on where.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: not a Keras model that can be loaded: {reason}") from error


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"path must end in .tflite: {path}")
    if path.is_dir():
        raise ValueError(f"path is a folder: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"path is in a folder that does not exist; create it first: {path}")
    return path


def _check_model(model: keras.Model, batch_size: int) -> None:
    # A model that was never given an input shape has no ``inputs``, or none in it.
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError("model has no fixed input shape; build it from keras.Input(shape)")
    for tensor in inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"model has an input of shape {tuple(tensor.shape)}; a .tflite file needs every "
                "axis but the batch fixed, so build it with a full input shape"
            )
        if tensor.shape[0] not in (None, batch_size):
            raise ValueError(f"batch_size is {batch_size}, but the model's is {tensor.shape[0]}")
    # TFLite has no kernels for it: it would only say that it has none for Conv2D.
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            "model computes in 16 bits (mixed precision); build it with the float32 policy and "
            "copy the weights with set_weights(), then convert that"
        )


def _converter_options(
    model: keras.Model, quantization: Quantization, representative_data: Any, batch_size: int
) -> dict[str, Any]:
    """Attributes of ``tf.lite.TFLiteConverter``, as ``Model.export`` takes them."""
    import tensorflow as tf

    # Keras allows TensorFlow's own operators too, which the LiteRT of phones and browsers lacks.
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {"target_spec": target}
    if quantization != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        target["supported_types"] = [tf.float16]
    if quantization == "int8":
        batches = _representative_batches(model, representative_data, batch_size)
        _check_no_loop(model, batches[0])

        def representative_dataset() -> Iterator[list[npt.NDArray[Any]]]:
            return ([batch] for batch in batches)

        # Operators without an 8-bit kernel are an error now, instead of staying float.
        target["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        options["representative_dataset"] = representative_dataset
    return options


def _representative_batches(model: keras.Model, data: Any, batch_size: int) -> npt.NDArray[Any]:
    """Checks the data and cuts it to the file's batch: (batches, batch_size, ...)."""
    if data is None:
        raise ValueError("representative_data is missing; int8 needs samples to measure ranges")
    if len(model.inputs) != 1:
        raise ValueError(f"model has {len(model.inputs)} inputs; int8 needs a model of one")
    if not isinstance(data, Iterable):
        raise TypeError(f"representative_data must be arrays, not {type(data).__name__}")
    # -1 is tf.data.INFINITE_CARDINALITY: the loop below would never end.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError("representative_data never ends; take(n) batches of it")
    parts = []
    for part in [data] if hasattr(data, "shape") else data:
        part = part[0] if isinstance(part, tuple) else part
        parts.append(np.asarray(part.numpy() if hasattr(part, "numpy") else part))
    (tensor,) = model.inputs
    for part in parts:
        if part.shape[1:] != tuple(tensor.shape[1:]) or part.ndim == 0:
            raise ValueError(
                f"representative_data has shape {part.shape}, but the model takes {tensor.shape}"
            )
        if part.dtype.kind not in ("iu" if "int" in tensor.dtype else "fiub"):
            raise ValueError(
                f"representative_data is {part.dtype}, but the model takes {tensor.dtype}"
            )
        if not np.isfinite(part).all():
            raise ValueError("representative_data holds NaN or infinity")
    samples = np.concatenate(parts).astype(tensor.dtype) if parts else np.empty(0)
    if not len(samples):
        raise ValueError("representative_data holds no sample")
    # Samples from the start fill up the last batch: twice the same does not change a range.
    count = -(-len(samples) // batch_size) * batch_size
    return samples[np.arange(count) % len(samples)].reshape(-1, batch_size, *samples.shape[1:])


def _check_no_loop(model: keras.Model, batch: npt.NDArray[Any]) -> None:
    """Raises ValueError for a model with a loop, on which int8 calibration ends the process."""
    import tensorflow as tf

    function = tf.function(lambda inputs: model(inputs, training=False))
    specification = tf.TensorSpec(batch.shape, batch.dtype)
    graph = function.get_concrete_function(specification).graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    if any(node.op in ("While", "StatelessWhile") for node in nodes):
        raise ValueError(
            "model runs a loop, which TensorFlow Lite cannot convert to int8; build its recurrent "
            "layers with unroll=True"
        )


def _why(error: Exception) -> str:
    """One line from the converter's many."""
    missing = re.search(r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.MULTILINE)
    if missing:
        return f"it has no built-in operator for {missing[1]}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
