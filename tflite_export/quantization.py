"""How a ``.tflite`` file is quantized."""

import os
from typing import Any

from tflite_export import flatbuffer

# The operators of convolutions, dense layers and matrix products.
WEIGHTED = frozenset(
    ("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
)


def quantization(path: str | os.PathLike[str]) -> str:
    """How the convolutions, dense layers and matrix products of a file are quantized.

    Args:
        path: The ``.tflite`` file.

    Returns:
        "int8" if all compute in 8 bits; "int16x8" if all have 8-bit weights and compute in 16;
        "dynamic" if some have 8-bit weights and all compute in float; "float16" if some have
        16-bit weights; "float32"; "mixed" if they differ otherwise, such as where some layers of
        an 8-bit file stayed float.

    Raises:
        ValueError: It is not a ``.tflite`` file.
    """
    model = flatbuffer.load(path)
    with flatbuffer.damage_named(path):
        return quantization_of(model)


def quantization_of(model: Any) -> str:
    """How a file's ``ModelT`` is quantized, see ``quantization``."""
    tensor_type = flatbuffer.schema().TensorType
    kinds = set()
    for graph in model.subgraphs:
        operators = graph.operators or []
        types = [tensor.type for tensor in graph.tensors or []]
        # Weights of 16 bits are stored as such and widened by an operator of their own.
        widened = {
            operator.outputs[0]
            for operator in operators
            if flatbuffer.operator_name(model, operator) == "DEQUANTIZE"
            and types[operator.inputs[0]] == tensor_type.FLOAT16
        }
        for operator in operators:
            if flatbuffer.operator_name(model, operator) not in WEIGHTED:
                continue
            weights = operator.inputs[1]
            computed = types[operator.outputs[0]]
            if computed != tensor_type.FLOAT32:
                kind = {tensor_type.INT8: "int8", tensor_type.INT16: "int16x8"}.get(computed)
                kinds.add(kind if kind and types[weights] == tensor_type.INT8 else "mixed")
            elif types[weights] == tensor_type.INT8:
                kinds.add("dynamic")
            else:
                kinds.add("float16" if weights in widened else "float32")
    if kinds in ({"dynamic", "float32"}, {"float16", "float32"}):
        kinds.remove("float32")  # layers of few weights stay as they are
    if len(kinds) > 1:
        return "mixed"
    return kinds.pop() if kinds else "float32"


def has_quantized_activations(model: Any, graph: Any) -> bool:
    """Whether a graph of a file's ``ModelT`` computes in integers.

    An integer alone says nothing: images come as uint8 to networks that compute in float32, and a
    table of int8 weights gives int8 rows to files of quantization "dynamic".
    """
    tensor_type = flatbuffer.schema().TensorType
    kinds = (tensor_type.INT8, tensor_type.INT16, tensor_type.UINT8)
    integers = [tensor.type in kinds for tensor in graph.tensors or []]
    makers = (
        operator
        for operator in graph.operators or []
        if flatbuffer.operator_name(model, operator) in WEIGHTED | {"QUANTIZE"}
    )
    return any(integers[index] for operator in makers for index in operator.outputs) or any(
        integers[index] and _is_scaled(graph.tensors[index]) for index in graph.inputs
    )


def _is_scaled(tensor: Any) -> bool:
    """Whether a tensor has one scale, as activations have."""
    quantized = tensor.quantization
    return quantized is not None and quantized.scale is not None and len(quantized.scale) == 1
