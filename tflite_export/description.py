"""What a ``.tflite`` file is, from the file alone."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

from tflite_export import flatbuffer
from tflite_export.macs import macs_of
from tflite_export.metadata import Metadata, metadata_of
from tflite_export.quantization import has_quantized_activations, quantization_of


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a file.

    Attributes:
        name: As in the file.
        shape: -1 for an axis of any size.
        dtype: In lower case, as NumPy calls it, such as ``float32``.
        scale: The real number is scale x (stored number - zero_point); None if it is not
            quantized, or has a scale for each channel.
        zero_point: The stored number that stands for 0; None where ``scale`` is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """An operator of an int8 file that takes or gives float32.

    Attributes:
        operator: Its name in the schema, such as ``CONV_2D``.
        output: The name of the tensor that it makes.
        why: Why it is one, as far as the file tells.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> images = keras.random.uniform((20, 4, 4, 1), seed=0).numpy()
        >>> for operator in float_operators(convert(model, "model.tflite", "int8", images)):
        ...     print(operator.operator, operator.why)
        QUANTIZE border: takes the file's float32 input
        DEQUANTIZE border: gives the file's float32 output
    """

    operator: str
    output: str
    why: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file is.

    Attributes:
        path: The file.
        num_bytes: Its size in bytes.
        gzip_bytes: Its size in bytes after ``gzip``, as it is sent.
        metadata: What it says of itself; None if it says nothing.
        inputs: In the file's order.
        outputs: In the file's order.
        quantization: How its convolutions, dense layers and matrix products are quantized: "int8"
            if all compute in 8 bits; "int16x8" if all have 8-bit weights and compute in 16;
            "dynamic" if some have 8-bit weights and all compute in float; "float16" if some have
            16-bit weights; "float32"; "mixed" if they differ otherwise, such as where some layers
            of an 8-bit file stayed float.
        macs: Multiply-accumulates for one sample (1 MAC = 2 FLOPs); None if they cannot be counted.
        macs_unknown: Why they cannot.
        operators: How often each operator is in the file, most often first.
        float_operators: Those of a file with quantized activations that have a float32 tensor,
            also the two that only convert the file's input and output.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> description = describe(convert(model, "model.tflite"))
        >>> description.inputs[0].shape, description.inputs[0].dtype, description.outputs[0].shape
        ((1, 4, 4, 1), 'float32', (1, 2, 2, 2))
    """

    path: Path
    num_bytes: int
    gzip_bytes: int
    metadata: Metadata | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    quantization: str
    macs: int | None
    macs_unknown: str | None
    operators: dict[str, int]
    float_operators: tuple[FloatOperator, ...]


def describe(path: str | os.PathLike[str]) -> Description:
    """Reads what a file is; it is not run.

    Args:
        path: The ``.tflite`` file.

    Returns:
        Its inputs and outputs, sizes, quantization, operators and multiply-accumulates.

    Raises:
        ValueError: The file is not a ``.tflite`` file, or its metadata are damaged.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> description = describe(convert(model, "model.tflite"))
        >>> description.quantization, description.macs, description.operators
        ('float32', 72, {'CONV_2D': 1})
    """
    data = flatbuffer.read(path)
    model = flatbuffer.parse(data, path)
    metadata = metadata_of(model, data, path)
    graph = model.subgraphs[0]
    with flatbuffer.damage_named(path):
        macs, unknown = _macs(model)
        operators = Counter(
            flatbuffer.operator_name(model, operator)
            for graph in model.subgraphs
            for operator in graph.operators or []
        )
        return Description(
            path=Path(path),
            num_bytes=len(data),
            gzip_bytes=gzip_size(data),
            metadata=metadata,
            inputs=tuple(_tensor(graph.tensors[index]) for index in graph.inputs),
            outputs=tuple(_tensor(graph.tensors[index]) for index in graph.outputs),
            quantization=quantization_of(model),
            macs=macs,
            macs_unknown=unknown,
            operators=dict(operators.most_common()),
            float_operators=tuple(
                found for graph in model.subgraphs for found in _float_operators(model, graph)
            ),
        )


def gzip_size(data: bytes) -> int:
    """How many bytes of a file are sent or stored in an app, where it is compressed."""
    return len(gzip.compress(data, compresslevel=6))


def float_operators(path: str | os.PathLike[str]) -> tuple[FloatOperator, ...]:
    """The operators of an int8 file that stayed float32, see `describe`.

    Args:
        path: The ``.tflite`` file.

    Returns:
        One for each, in the file's order; none if the file is not quantized to integers.

    Raises:
        ValueError: As `describe` raises it.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> float_operators(convert(model, "model.tflite"))  # no int8 file
        ()
    """
    return describe(path).float_operators


def _macs(model: Any) -> tuple[int | None, str | None]:
    try:
        return macs_of(model), None
    except ValueError as error:
        return None, str(error)


def _tensor(tensor: Any) -> Tensor:
    signature = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    quantized = tensor.quantization
    one = quantized is not None and quantized.scale is not None and len(quantized.scale) == 1
    return Tensor(
        name=(tensor.name or b"").decode(errors="replace"),
        shape=tuple(int(size) for size in (() if signature is None else signature)),
        dtype=_dtype(tensor),
        scale=float(quantized.scale[0]) if one else None,
        zero_point=int(quantized.zeroPoint[0]) if one else None,
    )


def _dtype(tensor: Any) -> str:
    return flatbuffer.names("TensorType").get(tensor.type, str(tensor.type)).lower()


def _float_operators(model: Any, graph: Any) -> list[FloatOperator]:
    tensors = graph.tensors or []
    operators = graph.operators or []
    dtypes = [_dtype(tensor) for tensor in tensors]
    if not has_quantized_activations(model, graph):
        return []
    constant = {
        index
        for index, tensor in enumerate(tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
    }
    for operator in operators:  # weights of 16 bits are widened by an operator of their own
        if {*operator.inputs} <= constant:
            constant.update(operator.outputs)

    def activations(operator: Any) -> list[int]:
        return [index for index in operator.inputs if index >= 0 and index not in constant]

    found = []
    for operator in operators:
        kinds = {dtypes[index] for index in activations(operator)}
        kinds |= {dtypes[index] for index in operator.outputs if index not in constant}
        if "float32" in kinds:
            name = flatbuffer.operator_name(model, operator)
            weights = [dtypes[index] for index in operator.inputs if index in constant]
            output = (tensors[operator.outputs[0]].name or b"").decode(errors="replace")
            found.append(FloatOperator(name, output, _why(name, operator, graph, weights)))
    return found


def _why(name: str, operator: Any, graph: Any, weights: list[str]) -> str:
    if name == "QUANTIZE":
        at_border = operator.inputs[0] in graph.inputs
        return "border: takes the file's float32 input" if at_border else "after a float32 operator"
    if name == "DEQUANTIZE":
        at_border = operator.outputs[0] in graph.outputs
        return (
            "border: gives the file's float32 output" if at_border else "before a float32 operator"
        )
    if "int8" in weights:
        return "its weights are int8, its activations have no range"
    if "float32" in weights:
        return "neither its weights nor its activations were quantized"
    return "its activations were not quantized"
