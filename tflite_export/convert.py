"""Converts Keras models to ``.tflite`` files of LiteRT's built-in operators alone."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tflite_export.file.description import floats_inside
from tflite_export.file.macs import COUNTED
from tflite_export.runtime import native_output_silenced
from tflite_export.samples import Samples, representative_batches

if TYPE_CHECKING:
    import keras

_UNKNOWN_CLASS = re.compile(r"Could not locate (?:class|function|module) '(?P<name>\w+)'")

Quantization = Literal["float32", "float16", "dynamic", "int8", "int16x8"]

# What an int8 file takes and gives.
IOType = Literal["float32", "int8", "uint8"]

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
    io_type: IOType = "float32",
    input_shape: Any = None,
) -> Path:
    """Converts a Keras model of the TensorFlow backend to a ``.tflite`` file.

    The file appears whole or not at all, and a file that was there before stays if the conversion
    fails. Its inputs and outputs have the model's dtypes, whatever the quantization, unless
    ``io_type`` says otherwise. Meanwhile the process's standard output and error are discarded: the
    converter is talkative.

    Some operators have no integer kernel. Where such a one is a convolution, a dense layer or a
    matrix product, there is no file of integers; where others stay float32 inside of one, a
    UserWarning names them.

    Args:
        model: A model whose input shapes are fixed but for the batch. A subclassed one has to have
            been called or built, and keeps the shape of that.
        path: Where to write, ending in ``.tflite``, in a folder that exists.
        quantization: "float32"; "float16" (weights only); "dynamic" (8-bit weights, where a layer
            has at least 1,024, and float activations); "int8" (8-bit integers throughout);
            "int16x8" (8-bit weights, 16-bit activations).
        representative_data: For "int8" and "int16x8", from which the ranges of activations are
            measured: an array (n, ...) of samples as the model takes them, or a finite iterable of
            such batches, such as a ``tf.data.Dataset``, with or without labels, or a function that
            returns one. For a model of several inputs, a dict of arrays by input name for each
            array, or a list of arrays in the inputs' order. Some 100 samples do.
        batch_size: The number of samples that the file takes at a time.
        io_type: Of an "int8" file, the dtype of the inputs and outputs that are float32 in the
            model: "float32"; "int8" or "uint8" for microcontrollers and accelerators that have no
            floats. `describe` gives their scale and zero point. Inputs of integers stay as they
            are.
        input_shape: The shape of a sample, such as (224, 224, 3), for a model that leaves it open;
            of several inputs a dict of shapes by input name.

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
    model = with_fixed_inputs(model, input_shape)
    check_model(model, batch_size)
    check_path(path)
    check_kind(quantization, io_type)
    options = _converter_options(model, quantization, representative_data, batch_size, io_type)
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
        if quantization in _INTEGERS:
            _check_integers(unfinished, quantization)
        unfinished.replace(path)
    return path


def _check_integers(path: Path, quantization: Quantization) -> None:
    """Raises ValueError, or warns, if operators of a file of integers stayed float32."""
    inside = [one.operator for one in floats_inside(path)]
    weighted = [name for name in inside if name in COUNTED]
    names = ", ".join(dict.fromkeys(weighted or inside))
    if weighted:
        raise ValueError(
            f"model: cannot be {quantization} throughout: {names} would stay float32, as "
            "TensorFlow Lite has no integer kernel for it; convert it as dynamic or float16, or "
            "build it of other layers"
        )
    if inside:
        warnings.warn(
            f"{quantization}: {names} stayed float32 inside the file, which hardware without "
            "floats cannot run; float_operators(path) tells why",
            stacklevel=3,
        )


def load_model(
    path: str | os.PathLike[str], custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Loads a Keras model from a file, without its optimizer.

    Args:
        path: A ``.keras`` file.
        custom_objects: Classes and functions by name that the model is made of and that are not
            registered with Keras.

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
    check_model_file(path)
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import keras

        try:
            return keras.saving.load_model(path, custom_objects, compile=False)
        # A damaged file is a zip, HDF5, JSON, key or value error, depending on where.
        except Exception as error:
            unknown = _UNKNOWN_CLASS.search(str(error))
            if unknown:
                raise ValueError(
                    f"{path}: needs {unknown['name']!r}, which Keras does not know yet; import "
                    f"{_module_of(unknown['name'], str(error))} before you load the model "
                    "(--import MODULE)"
                ) from error
            if "enable_unsafe_deserialization" in str(error):
                raise ValueError(
                    f"{path}: holds Python code, of a Lambda layer; if you trust it, call "
                    "keras.config.enable_unsafe_deserialization() before you load the model, or in "
                    "a MODULE for --import"
                ) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: not a Keras model that can be loaded: {reason}") from error


def check_model_file(path: Path) -> None:
    """Raises ValueError for a path where ``load_model`` finds no file, or none of a model."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}")
    if path.suffix == ".tflite":
        raise ValueError(f"{path}: a .tflite file; give the .keras file that it was made from")
    # Keras reports one as "File not found".
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a .keras file: it is cut off, damaged or of another format")


def _module_of(class_name: str, message: str) -> str:
    """Returns the module that defines a class, as Keras's message names it."""
    module = re.search(rf"'module': '([\w.]+)', 'class_name': '{class_name}'", message)
    known = module and module[1] not in ("__main__", "builtins")
    return module[1] if module and known else "the library that defines it"


def _converter_options(
    model: keras.Model,
    quantization: Quantization,
    representative_data: Any,
    batch_size: int,
    io_type: IOType,
) -> dict[str, Any]:
    """Returns attributes of ``tf.lite.TFLiteConverter``, as ``Model.export`` takes them."""
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

        # Without this, more operators stay float; some do all the same, see `_check_integers`.
        target["supported_ops"] = [getattr(tf.lite.OpsSet, _INTEGERS[quantization])]
        # By name the converter finds the order of several inputs, which is its own.
        options["representative_dataset"] = lambda: (
            batch if len(batch) > 1 else list(batch.values()) for batch in batches
        )
    if io_type != "float32":
        options["inference_input_type"] = getattr(tf, io_type)
        options["inference_output_type"] = getattr(tf, io_type)
    return options


def _why(error: Exception) -> str:
    """Summarises a converter's error in one line."""
    missing = re.search(r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.MULTILINE)
    if missing:
        return f"it has no built-in operator for {missing[1]}"
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # Of errors in Python the reason comes last, after the code.
    return lines[-1].strip() if lines[0].startswith("in user code") else lines[0]


def check_path(path: Path) -> None:
    """Raises ValueError for a path where ``convert`` can write no file."""
    if path.suffix != ".tflite":
        raise ValueError(f"path must end in .tflite: {path}")
    if path.is_dir():
        raise ValueError(f"path is a folder: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"path is in a folder that does not exist; create it first: {path}")


def check_kind(quantization: str, io_type: str) -> None:
    """Raises ValueError for a quantization or an io_type that there is not, or not together."""
    if quantization not in get_args(Quantization):
        raise ValueError(
            f"quantization must be one of {', '.join(get_args(Quantization))}, not {quantization!r}"
        )
    if io_type not in get_args(IOType):
        raise ValueError(f"io_type must be one of {', '.join(get_args(IOType))}, not {io_type!r}")
    if io_type != "float32" and quantization != "int8":
        raise ValueError(
            f"io_type {io_type} is for quantization int8, not {quantization}: other files compute "
            "with float32 or int16 inputs and outputs"
        )


def check_is_model(model: Any) -> None:
    """Raises TypeError for what is no ``keras.Model``, such as a model of Keras 2."""
    import keras

    if isinstance(model, keras.Model):
        return
    # Its classes have the same names, and tf.keras is it where TF_USE_LEGACY_KERAS is set.
    is_older = any(kind.__module__.startswith("tf_keras.") for kind in type(model).__mro__)
    remedy = (
        " of Keras 2 (tf_keras): build it with Keras 3 and give it the weights by "
        "set_weights(model.get_weights())"
    )
    raise TypeError(f"model must be a keras.Model, not {type(model).__name__}{remedy * is_older}")


def check_backend(model: keras.Model, purpose: str) -> None:
    """Checks that a Keras model runs on TensorFlow.

    Args:
        model: The model.
        purpose: What TensorFlow is needed for, such as "convert it".

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It runs on another backend.
    """
    import keras

    check_is_model(model)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"model runs on the {keras.backend.backend()} backend; load it with "
            f"KERAS_BACKEND=tensorflow to {purpose}"
        )


def with_fixed_inputs(model: keras.Model, input_shape: Any = None) -> keras.Model:
    """Returns a functional model around one that leaves its inputs' shapes open, or has no inputs.

    Args:
        model: A Keras model; one whose inputs are there is returned as it is.
        input_shape: The shape of a sample; of several inputs a dict by their names. None for the
            shape that a subclassed model was built with.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: The model does not take inputs of that shape.
    """
    import keras

    check_backend(model, "convert it")
    tensors = getattr(model, "inputs", None)
    if input_shape is None:
        if tensors or isinstance(model, keras.Sequential) or not model.built:
            return model  # what is missing, `check_model` says
        input_shape = (model.get_build_config() or {}).get("input_shape")
        if input_shape is None:
            return model
        input_shape = keras.tree.map_shape_structure(lambda shape: tuple(shape[1:]), input_shape)
    try:
        if tensors:
            shapes = input_shape if isinstance(input_shape, Mapping) else {None: input_shape}
            inputs = keras.tree.map_structure(
                lambda tensor: keras.Input(
                    tuple(shapes[tensor.name if isinstance(input_shape, Mapping) else None]),
                    dtype=tensor.dtype,
                    name=tensor.name,
                ),
                input_structure(model),
            )
        else:
            inputs = keras.tree.map_shape_structure(keras.Input, input_shape)
        return keras.Model(inputs, model(inputs), name=model.name)
    except Exception as error:  # of any layer
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"input_shape={input_shape} does not fit the model: {reason}") from error


def check_model(model: keras.Model, batch_size: int = 1) -> None:
    """Checks that a model can be converted, in whatever quantization.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It does not fit, or ``batch_size`` does not.
    """
    check_backend(model, "convert it")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    # A model that was never given an input shape has no ``inputs``, or none in it.
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError(
            "model has no fixed input shape; build it from keras.Input(shape), call it once, or "
            "give input_shape"
        )
    for tensor in inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"model has an input of shape {tuple(tensor.shape)}; a .tflite file needs every "
                "axis but the batch fixed, so build it with a full input shape or give input_shape"
            )
        if tensor.shape[0] not in (None, batch_size):
            raise ValueError(f"batch_size is {batch_size}, but the model's is {tensor.shape[0]}")
    # There is no public list of the layers inside nested models and wrappers.
    for layer in model._flatten_layers():
        if mode := getattr(layer, "quantization_mode", None):
            raise ValueError(
                f"model is quantized by Keras (layer {layer.name!r} to {mode}), which has no "
                'operator in a file; convert the float model, with quantization="int8"'
            )
    # TFLite has no kernels for it: it would only say that it has none for Conv2D.
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            "model computes in 16 bits (mixed precision); build it with the float32 policy and "
            "copy the weights with set_weights(), then convert that"
        )


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
    """Returns a model's inputs as ``call`` takes them: a tensor, or a list or dict of tensors."""
    import keras

    # A Sequential has one input, and no structure of it until it is first called.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
