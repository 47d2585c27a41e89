"""A Keras model to a ``.tflite`` file that LiteRT runs with its built-in operators alone."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tflite_export.calibration import check_no_loop, input_structure, representative_batches
from tflite_export.convertible import check_model, check_path
from tflite_export.runtime import native_output_silenced

if TYPE_CHECKING:
    import keras

_UNKNOWN_CLASS = re.compile(r"Could not locate (?:class|function|module) '(?P<name>\w+)'")

Quantization = Literal["float32", "float16", "dynamic", "int8", "int16x8"]

# Kinds that compute in integers, and TensorFlow's names of their kernels.
_INTEGERS = {
    "int8": "TFLITE_BUILTINS_INT8",
    "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}


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
            has at least 1,024, and float activations); "int8" (8-bit integers throughout);
            "int16x8" (8-bit weights, 16-bit activations).
        representative_data: For "int8" and "int16x8", from which the ranges of activations are
            measured: an array (n, ...) of samples as the model takes them, or a finite iterable of
            such batches, such as a ``tf.data.Dataset``, with or without labels. For a model of
            several inputs, a dict of arrays by input name for each array. Some 100 samples do.
        batch_size: The number of samples that the file takes at a time.

    Returns:
        The path of the file.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``, ``representative_data`` not arrays.
        ValueError: One of the arguments does not fit (the message names it), or TensorFlow Lite
            cannot convert the model.
        OSError: The file cannot be written.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> path = convert(model, "model.tflite")
        >>> images = keras.random.uniform((20, 4, 4, 1), seed=0).numpy()
        >>> path_int8 = convert(model, "model.int8.tflite", "int8", representative_data=images)
        >>> from tflite_export import describe
        >>> describe(path).quantization, describe(path).operators
        ('float32', {'CONV_2D': 1})
        >>> describe(path_int8).quantization, describe(path_int8).operators
        ('int8', {'QUANTIZE': 1, 'CONV_2D': 1, 'DEQUANTIZE': 1})
    """
    import keras

    path = Path(path)
    check_model(model, batch_size)
    check_path(path)
    if quantization not in get_args(Quantization):
        raise ValueError(
            f"quantization must be one of {', '.join(get_args(Quantization))}, not {quantization!r}"
        )
    options = _converter_options(model, quantization, representative_data, batch_size)
    signature = keras.tree.map_structure(
        lambda tensor: keras.InputSpec(
            shape=(batch_size, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        ),
        input_structure(model),
    )
    # A folder of its own rather than a temporary file, which would be readable by its owner only.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        try:
            with native_output_silenced(), warnings.catch_warnings():
                # The converter itself makes one, to see the order of the inputs.
                warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
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

    Example:
        >>> import keras
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("model.keras")
        >>> load_model("model.keras").output_shape
        (None, 2)
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}")
    if path.suffix == ".tflite":
        raise ValueError(f"{path}: a .tflite file; give the .keras file that it was made from")
    # Keras reports one as "File not found".
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a .keras file: it is cut off, damaged or of another format")
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import keras

        try:
            return keras.saving.load_model(path, compile=False)
        # A damaged file is a zip, HDF5, JSON, key or value error, depending on where.
        except Exception as error:
            unknown = _UNKNOWN_CLASS.search(str(error))
            if unknown:
                raise ValueError(
                    f"{path}: needs {unknown['name']!r}, which Keras does not know yet; import "
                    f"{_module_of(unknown['name'], str(error))} before you load the model"
                ) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: not a Keras model that can be loaded: {reason}") from error


def _module_of(class_name: str, message: str) -> str:
    """The module that defines a class, where Keras's message has it."""
    module = re.search(rf"'module': '([\w.]+)', 'class_name': '{class_name}'", message)
    known = module and module[1] not in ("__main__", "builtins")
    return module[1] if module and known else "the library that defines it"


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
    if quantization in _INTEGERS:
        if quantization == "int16x8" and any("int" in str(tensor.dtype) for tensor in model.inputs):
            raise ValueError(
                "quantization int16x8 is for models of float inputs: TensorFlow Lite measures no "
                "ranges of integers, such as a language model's tokens; take int8"
            )
        batches = representative_batches(model, representative_data, batch_size)
        check_no_loop(model, batches[0])

        # Operators without an integer kernel are an error now, instead of staying float.
        target["supported_ops"] = [getattr(tf.lite.OpsSet, _INTEGERS[quantization])]
        # By name the converter finds the order of several inputs, which is its own.
        options["representative_dataset"] = lambda: (
            batch if len(batch) > 1 else list(batch.values()) for batch in batches
        )
    return options


def _why(error: Exception) -> str:
    """One line from the converter's many."""
    missing = re.search(r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.MULTILINE)
    if missing:
        return f"it has no built-in operator for {missing[1]}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
