"""Reads the flatbuffer of a ``.tflite`` file without TensorFlow.

The tables are those of TensorFlow Lite's ``schema.fbs``, as the object classes that
``ai_edge_litert.schema_py_generated`` has for them: ``ModelT``, ``SubGraphT``, ``OperatorT``,
``TensorT``. That module has no types, hence ``Any``.
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_IDENTIFIER = b"TFL3"
# The largest offset in a flatbuffer, and as many tables as the official verifier lets one have. A
# damaged length can stand for more: zeros read as tables without end.
_MAX_BYTES = 2**31 - 1
_MAX_TABLES = 1_000_000


@functools.cache
def schema() -> Any:
    """Imports LiteRT's module of the schema, once a file is read: a search needs no LiteRT."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def names(enumeration: str) -> dict[int, str]:
    """Returns the names of an enumeration of the schema, such as ``TensorType``, by number."""
    members = vars(getattr(schema(), enumeration))
    return {number: name for name, number in members.items() if isinstance(number, int)}


def check_head(path: str | os.PathLike[str]) -> None:
    """Checks a file's size and its first bytes, without reading the rest.

    Raises:
        ValueError: "PATH: not a .tflite file: why", if it is missing, a folder, empty, too large or
            of another format.
    """
    _open(path).close()


def read(path: str | os.PathLike[str]) -> bytes:
    """Reads the bytes of a ``.tflite`` file, after the checks of ``check_head``."""
    with _open(path) as file:
        return file.read()


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    path = Path(path)
    try:
        file = path.open("rb")
        try:
            _check_head(file.read(8), os.fstat(file.fileno()).st_size)
            file.seek(0)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise ValueError(f"{path}: not a .tflite file: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a .tflite file: {error}") from error
    return file


def _check_head(head: bytes, num_bytes: int) -> None:
    if not head:
        raise ValueError("it is empty")
    if head[4:] != _IDENTIFIER:
        raise ValueError(f"bytes 4 to 7 are {head[4:]!r}, not {_IDENTIFIER!r}")
    if num_bytes > _MAX_BYTES:
        raise ValueError(f"it has {num_bytes:,} bytes, a flatbuffer at most {_MAX_BYTES:,}")


def load(path: str | os.PathLike[str]) -> Any:
    """Reads and parses a ``.tflite`` file.

    Args:
        path: The file.

    Returns:
        The file's ``ModelT``. All indices in it (of operators, tensors, buffers, subgraphs) are
        known to be in range.

    Raises:
        ValueError: "PATH: not a .tflite file: why", if it is missing, a folder, empty, of another
            format, cut off or inconsistent.
    """
    return parse(read(path), path)


def parse(data: bytes, path: str | os.PathLike[str]) -> Any:
    """Parses the bytes of a file to a ``ModelT``, see ``load``."""
    tables = schema()  # not in the try: that it is missing is no fault of the file's
    try:
        root = tables.Model.GetRootAs(data, 0)
        _check_lengths(root)
        model = tables.ModelT.InitFromObj(root)
    # Generated code that follows offsets into garbage raises whatever comes of it: struct.error,
    # IndexError, TypeError, UnicodeDecodeError, AttributeError, MemoryError and more.
    except Exception as error:
        raise ValueError(f"{Path(path)}: not a .tflite file: it is cut off or damaged") from error
    for graph in model.subgraphs or []:
        for operator in graph.operators or []:  # CALL_ONCE has neither
            operator.inputs = [] if operator.inputs is None else operator.inputs
            operator.outputs = [] if operator.outputs is None else operator.outputs
    try:
        _check_references(model)
    except ValueError as error:
        raise ValueError(f"{Path(path)}: not a .tflite file: {error}") from error
    return model


def _check_lengths(model: Any) -> None:
    """Raises ValueError for more tables than can be meant, before memory is spent on them."""
    lengths = [model.BuffersLength(), model.OperatorCodesLength(), model.MetadataLength()]
    lengths += [model.SignatureDefsLength(), model.SubgraphsLength()]
    if sum(lengths) <= _MAX_TABLES:
        for index in range(model.SubgraphsLength()):
            graph = model.Subgraphs(index)
            lengths += [graph.TensorsLength(), graph.OperatorsLength()]
    if sum(lengths) > _MAX_TABLES:
        raise ValueError(f"{sum(lengths)} tables")


@contextlib.contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors in a ``with`` block that reads a file's graph into one that names the file.

    Raises:
        ValueError: "PATH: why", for a graph that is whole but makes no sense, such as one with an
            operator without inputs, or with a loop in itself.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{Path(path)}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"{Path(path)}: its graph is damaged ({error})") from error


def _check_references(model: Any) -> None:
    """Checks that every index in a ``ModelT`` is in range, which unpacking does not."""
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
            if isinstance(operator.builtinOptions, schema().WhileOptionsT):
                options = operator.builtinOptions
                called = [options.condSubgraphIndex, options.bodySubgraphIndex]
                check("subgraph", called, len(model.subgraphs), lowest=1)
            elif isinstance(operator.builtinOptions, schema().CallOnceOptionsT):
                called = [operator.builtinOptions.initSubgraphIndex]
                check("subgraph", called, len(model.subgraphs), lowest=1)


def operator_name(model: Any, operator: Any) -> str:
    """Names an operator as the schema does, such as ``CONV_2D``; a custom one by its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes below 127 lived in a byte-sized field first, and old files have them only there.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema().BuiltinOperator.CUSTOM:
        return f"CUSTOM {(code.customCode or b'').decode(errors='replace')!r}"
    return names("BuiltinOperator").get(number, str(number))


def tensor_shape(graph: Any, index: int) -> tuple[int, ...]:
    """Returns the static shape of a tensor.

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
            f"tensor {name!r} has a dynamic shape; convert the model with a fixed shape"
        )
    return tuple(int(size) for size in shape)


def scalar_constant(model: Any, graph: Any, index: int) -> int | None:
    """Returns the value of a constant integer tensor of one element; None for other tensors."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    types = schema().TensorType
    dtype = {types.INT32: np.int32, types.INT64: np.int64}.get(tensor.type)
    if dtype is None or data is None or len(data) != np.dtype(dtype).itemsize:
        return None
    return int(np.frombuffer(bytes(data), dtype)[0])
