"""Reading a ``.tflite`` flatbuffer without TensorFlow.

The tables are those of TensorFlow Lite's ``schema.fbs``, as the object classes that
``ai_edge_litert.schema_py_generated`` has for them: ``ModelT``, ``SubGraphT``, ``OperatorT``,
``TensorT``. That module has no types, hence ``Any``.
"""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"
_WEIGHTED = frozenset(
    ("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
)


@functools.cache
def _schema() -> Any:
    """LiteRT's module, when a file is read: searching and training need no LiteRT."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def _op_names() -> dict[int, str]:
    operators = vars(_schema().BuiltinOperator)
    return {code: name for name, code in operators.items() if isinstance(code, int)}


def load(path: str | os.PathLike[str]) -> Any:
    """Reads all of a ``.tflite`` file.

    Args:
        path: The file.

    Returns:
        The file's ``ModelT``. All indices in it (of operators, tensors, buffers, subgraphs) are
        known to be in range.

    Raises:
        ValueError: "PATH: not a .tflite file: why", if it is missing, a folder, empty, of another
            format, cut off or inconsistent.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if not data:
            raise ValueError("it is empty")
        if data[4:8] != _IDENTIFIER:
            raise ValueError(f"bytes 4 to 7 are {data[4:8]!r}, not {_IDENTIFIER!r}")
        model = _unpack(data)
        _check_references(model)
    except OSError as error:
        raise ValueError(f"{path}: not a .tflite file: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a .tflite file: {error}") from error
    return model


def _unpack(data: bytes) -> Any:
    schema = _schema()  # not in the try: that it is missing is no fault of the file's
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    # Generated code that follows offsets into garbage raises whatever comes of it: struct.error,
    # IndexError, TypeError, UnicodeDecodeError, AttributeError, MemoryError and more.
    except Exception as error:
        raise ValueError("it is cut off or damaged") from error


def _check_references(model: Any) -> None:
    """Checks what unpacking cannot: that every index points at something."""
    if not model.subgraphs or not model.operatorCodes or not model.buffers:
        raise ValueError("it holds no graph")

    def check(kind: str, indices: Iterable[int] | None, count: int, lowest: int = 0) -> None:
        for index in () if indices is None else indices:
            if not lowest <= index < count:
                raise ValueError(f"it refers to {kind} {index} of {count}")

    for graph in model.subgraphs:
        tensors = graph.tensors or []
        check("tensor", graph.inputs, len(tensors))
        check("tensor", graph.outputs, len(tensors))
        check("buffer", (tensor.buffer for tensor in tensors), len(model.buffers))
        for operator in graph.operators or []:
            check("operator code", [operator.opcodeIndex], len(model.operatorCodes))
            check("tensor", operator.inputs, len(tensors), lowest=-1)  # -1: an optional input
            check("tensor", operator.outputs, len(tensors))
            if isinstance(operator.builtinOptions, _schema().WhileOptionsT):
                options = operator.builtinOptions
                called = [options.condSubgraphIndex, options.bodySubgraphIndex]
                check("subgraph", called, len(model.subgraphs), lowest=1)


def operator_name(model: Any, operator: Any) -> str:
    """The operator's name in the schema, such as ``CONV_2D``; a custom one with its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes below 127 lived in a byte-sized field first, and old files have them only there.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == _schema().BuiltinOperator.CUSTOM:
        return f"CUSTOM {(code.customCode or b'').decode(errors='replace')!r}"
    return _op_names().get(number, str(number))


def tensor_shape(graph: Any, index: int) -> tuple[int, ...]:
    """The static shape of a tensor.

    Raises:
        ValueError: The shape has dynamic axes. The file stores those as 1, so that anything
            computed from them would be too small.
    """
    tensor = graph.tensors[index]
    signature = () if tensor.shapeSignature is None else tensor.shapeSignature
    shape = () if tensor.shape is None else tensor.shape
    if min((*signature, *shape), default=0) < 0:
        name = (tensor.name or b"").decode(errors="replace")
        raise ValueError(
            f"tensor {name!r} has a dynamic shape; convert the model with a fixed batch and shape"
        )
    return tuple(int(size) for size in shape)


def scalar_constant(model: Any, graph: Any, index: int) -> int | None:
    """The value of a constant integer tensor of one element; None for any other tensor."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    types = _schema().TensorType
    dtype = {types.INT32: np.int32, types.INT64: np.int64}.get(tensor.type)
    if dtype is None or data is None or len(data) != np.dtype(dtype).itemsize:
        return None
    return int(np.frombuffer(bytes(data), dtype)[0])


def quantization(path: str | os.PathLike[str]) -> str:
    """How the convolutions, dense layers and matrix products of a file are quantized.

    Args:
        path: The ``.tflite`` file.

    Returns:
        "int8" if all compute in 8 bits; "dynamic" if some have 8-bit weights and all compute in
        float; "float16" if some have 16-bit weights; "float32"; "mixed" if they differ otherwise,
        such as where some layers of an 8-bit file stayed float.

    Raises:
        ValueError: It is not a ``.tflite`` file.
    """
    model = load(path)
    tensor_type = _schema().TensorType
    kinds = set()
    for graph in model.subgraphs:
        operators = graph.operators or []
        types = [tensor.type for tensor in graph.tensors or []]
        # Weights of 16 bits are stored as such and widened by an operator of their own.
        widened = {
            operator.outputs[0]
            for operator in operators
            if operator_name(model, operator) == "DEQUANTIZE"
            and types[operator.inputs[0]] == tensor_type.FLOAT16
        }
        for operator in operators:
            if operator_name(model, operator) not in _WEIGHTED:
                continue
            weights = operator.inputs[1]
            if types[operator.outputs[0]] != tensor_type.FLOAT32:
                kinds.add("int8" if types[weights] == tensor_type.INT8 else "mixed")
            elif types[weights] == tensor_type.INT8:
                kinds.add("dynamic")
            else:
                kinds.add("float16" if weights in widened else "float32")
    if kinds in ({"dynamic", "float32"}, {"float16", "float32"}):
        kinds.remove("float32")  # layers of few weights stay as they are
    if len(kinds) > 1:
        return "mixed"
    return kinds.pop() if kinds else "float32"
