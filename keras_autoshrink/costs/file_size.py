"""The size of a network's int8 `.tflite` file, from its layers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

# Bytes of a file's tables, fitted to converted networks: of the whole, of a constant tensor, and of
# one between operators with the operator that makes it; both without names and numbers.
_FILE, _CONSTANT, _BETWEEN = 270, 112, 141
_ENDS = 4 * _BETWEEN + 90  # input and output, and what they are in 8 bits
_SPREAD = 1.02  # how many times the estimate a single file may have
_CHANNEL = 12  # the scale of a channel (float32) and its zero point (int64)

# Layers with a kernel, and what TensorFlow calls what they compute.
_KERNELS = {"Conv2D": "convolution", "DepthwiseConv2D": "depthwise", "Dense": "MatMul"}
# How many operators an activation becomes; ReLU is a part of the operator in front of it.
_OPERATORS = {"linear": 0, "relu": 0, "relu6": 0, "silu": 2, "hard_sigmoid": 2}
_NAME = 6  # characters of what other operators are called, such as "mul_1"


def count_file_bytes(model: keras.Model) -> int:
    """Estimates, from above, the bytes of a trained network's int8 `.tflite` file by its layers.

    Kernels are a byte a number. Most of a small file are the biases, the scales of channels, the
    tables of tensors and operators, and the names of tensors, which are made of the layers' names.
    Labels and the scale of pixels, which `autoshrink export` adds, are not counted.

    Args:
        model: a functional model of the layers that this library's convolutional networks have.

    Returns:
        The bytes of what `tflite_export.convert` writes, mostly 1% to 3% more than it has. (Where
        all biases are 0, as before a training, the file is smaller.)

    Example:
        >>> inputs = keras.Input((8, 8, 1), name="image")
        >>> x = keras.layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
        >>> x = keras.layers.BatchNormalization(name="stem_bn")(x)
        >>> x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        >>> outputs = keras.layers.Dense(2, name="classes")(x)
        >>> count_file_bytes(keras.Model(inputs, outputs, name="small"))
        2581
    """
    # The axes of all means are one constant, as are the zeros in place of biases of one width.
    total = _FILE + _ENDS + _CONSTANT
    widths_of_zeros: set[int] = set()
    for layer, parts in _operators(model):
        kind, path = type(layer).__name__, _path(model, layer)
        activation = _operators_of(getattr(layer, "activation", None))
        total += activation * (_BETWEEN + path + _NAME)
        if kind in _KERNELS:
            shape = layer.kernel.shape
            channels = math.prod(shape[2:]) if kind == "DepthwiseConv2D" else shape[-1]
            kernel_name, name = _kernel_names(model, layer, parts)
            total += 2 * (_CONSTANT + _CHANNEL * channels) + math.prod(shape) + kernel_name
            if layer.use_bias or any(map(_is_norm, parts)):
                total += 4 * channels + name
            else:
                total += len("arith.constant10")
                total += 0 if channels in widths_of_zeros else 4 * channels
                widths_of_zeros.add(channels)
            total += _BETWEEN + name
        elif kind not in ("Activation", "Dropout"):
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            number = len(inputs) - 1 if kind in ("Add", "Multiply") else 1
            name = path + _NAME + sum(_path(model, part) + len("Relu;") for part in parts)
            total += number * (_BETWEEN + name)
    return math.ceil(_SPREAD * total)


def _kernel_names(model: keras.Model, layer: Any, parts: list[Any]) -> tuple[int, int]:
    """Returns how long the names of a layer's kernel and of its bias are.

    BatchNorm and ReLU that become part of the layer are in them; the operator's output is called as
    the bias.
    """
    path, operator = _path(model, layer), _KERNELS[type(layer).__name__]
    kernel, bias = path + len(operator), path + len(f"{operator};")
    if layer.use_bias:
        bias += 2 * path + len("Squeeze;BiasAdd;")
    for part in parts:
        of_part = _path(model, part)
        if not _is_norm(part):
            bias += of_part + len("Relu;")
            continue
        bias += 2 * of_part + len("batchnorm/add_1;batchnorm/sub;")
        scaled = 2 * of_part + len("batchnorm/mul_1;batchnorm/mul;")
        if operator == "depthwise":
            kernel, bias = kernel + scaled, bias + scaled
        elif layer.use_bias:
            bias += scaled
    return kernel, bias


def _path(model: keras.Model, layer: Any) -> int:
    """Returns how long what stands in front of the name of a layer's tensor is."""
    return len(f"{model.name}_1/{layer.name}_1/")


def _operators(model: keras.Model) -> Iterator[tuple[Any, list[Any]]]:
    """Yields each layer that becomes an operator, with those behind it that become part of it."""
    operators: dict[int, tuple[Any, list[Any]]] = {}  # by the tensor that comes out
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        in_front = operators.get(id(layer.input))
        is_part = _is_norm(layer) or (
            type(layer).__name__ == "Activation" and not _operators_of(layer.activation)
        )
        if in_front and is_part:
            in_front[1].append(layer)
            operators[id(layer.output)] = in_front
        else:
            operators[id(layer.output)] = (layer, [])
    yield from {id(layer): (layer, parts) for layer, parts in operators.values()}.values()


def _is_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _operators_of(activation: Any) -> int:
    """Returns how many operators an activation becomes beside the one in front of it."""
    return 0 if activation is None else _OPERATORS.get(keras.activations.serialize(activation), 1)
