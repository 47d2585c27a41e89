"""Describes a ``.tflite`` file from its content: tensors, operators, quantization, metadata."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite_export.command_line import printable
from tflite_export.file import flatbuffer
from tflite_export.file.macs import COUNTED, macs_of
from tflite_export.file.metadata import Metadata, metadata_of

if TYPE_CHECKING:
    from rich.table import Table

_FEW = 5  # labels that are printed; an ImageNet file has a thousand


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Describes an input or output of a file.

    Attributes:
        name: What the file's signature calls it: an input by the name of the model's input, an
            output by its key in the model's dict of outputs, or ``output_0``, ``output_1`` ... in
            the model's order, which need not be the file's. The tensor's own if there is no
            signature.
        tensor: The tensor's own name, as the converter made it up.
        shape: -1 for an axis of any size.
        dtype: In lower case, as NumPy calls it, such as ``float32``.
        scale: The real number is scale x (stored number - zero_point); None if it is not
            quantized, or has a scale for each channel.
        zero_point: The stored number that stands for 0; None where ``scale`` is.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """Describes an operator of an int8 file that takes or gives float32.

    Attributes:
        operator: Its name in the schema, such as ``CONV_2D``.
        output: The name of its output tensor.
        why: Why it stayed float32, as far as the file shows.

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
    """Describes a file.

    Attributes:
        path: The file.
        num_bytes: Its size in bytes.
        gzip_bytes: Its size in bytes after ``gzip``, as it is sent.
        metadata: Its metadata; None if it has none.
        inputs: In the file's order.
        outputs: In the file's order, which may be another than the model's; their names tell.
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
        >>> description.inputs[0].shape, description.inputs[0].dtype
        ((1, 4, 4, 1), 'float32')
        >>> description.outputs[0].name, description.outputs[0].shape
        ('output_0', (1, 2, 2, 2))
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
    """Describes a file without running it.

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
        inputs, outputs = _signature(model)
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
            inputs=tuple(_tensor(graph, index, inputs) for index in graph.inputs),
            outputs=tuple(_tensor(graph, index, outputs) for index in graph.outputs),
            quantization=_quantization_of(model),
            macs=macs,
            macs_unknown=unknown,
            operators=dict(operators.most_common()),
            float_operators=tuple(
                found for graph in model.subgraphs for found in _float_operators(model, graph)
            ),
        )


def gzip_size(data: bytes) -> int:
    """Measures the size of a file as it is sent or stored in an app, compressed, in bytes."""
    return len(gzip.compress(data, compresslevel=6))


def float_operators(path: str | os.PathLike[str]) -> tuple[FloatOperator, ...]:
    """Lists the operators of an int8 file that stayed float32.

    Args:
        path: The ``.tflite`` file.

    Returns:
        One for each, in the file's order; none if the file is not quantized to integers.

    Raises:
        ValueError: The file is not a ``.tflite`` file, or its metadata are damaged.

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


def signature_names(path: str | os.PathLike[str]) -> tuple[dict[int, str], dict[int, str]]:
    """Returns what a file's signature calls its inputs and its outputs, by the tensors' numbers."""
    return _signature(flatbuffer.load(path))


def _signature(model: Any) -> tuple[dict[int, str], dict[int, str]]:
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            inputs, outputs = (
                {end.tensorIndex: (end.name or b"").decode(errors="replace") for end in ends or []}
                for ends in (signature.inputs, signature.outputs)
            )
            return inputs, outputs
    return {}, {}


def _tensor(graph: Any, index: int, names: Mapping[int, str]) -> Tensor:
    tensor = graph.tensors[index]
    own = (tensor.name or b"").decode(errors="replace")
    signature = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    quantized = tensor.quantization
    one = quantized is not None and quantized.scale is not None and len(quantized.scale) == 1
    return Tensor(
        name=names.get(index, own),
        tensor=own,
        shape=tuple(int(size) for size in (() if signature is None else signature)),
        dtype=_dtype(tensor),
        scale=float(quantized.scale[0]) if one else None,
        zero_point=int(quantized.zeroPoint[0]) if one else None,
    )


def _dtype(tensor: Any) -> str:
    return flatbuffer.names("TensorType").get(tensor.type, str(tensor.type)).lower()


def floats_inside(path: str | os.PathLike[str]) -> tuple[FloatOperator, ...]:
    """Lists the operators that compute in float32, of a file that should in integers throughout.

    Not those that convert: at the file's border, or before and after another that is listed.
    """
    model = flatbuffer.load(path)
    with flatbuffer.damage_named(path):
        return tuple(
            one
            for graph in model.subgraphs
            for one in _with_floats(model, graph)
            if one.operator not in ("QUANTIZE", "DEQUANTIZE") and not one.why.startswith("border")
        )


def _float_operators(model: Any, graph: Any) -> list[FloatOperator]:
    return _with_floats(model, graph) if _has_quantized_activations(model, graph) else []


def _with_floats(model: Any, graph: Any) -> list[FloatOperator]:
    tensors = graph.tensors or []
    operators = graph.operators or []
    dtypes = [_dtype(tensor) for tensor in tensors]
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

    # Pixels of integers become float32 before they are quantized.
    casts = {
        operator.outputs[0]
        for operator in operators
        if flatbuffer.operator_name(model, operator) == "CAST"
        and operator.inputs[0] in graph.inputs
    }
    found = []
    for operator in operators:
        kinds = {dtypes[index] for index in activations(operator)}
        kinds |= {dtypes[index] for index in operator.outputs if index not in constant}
        if "float32" in kinds:
            name = flatbuffer.operator_name(model, operator)
            weights = [dtypes[index] for index in operator.inputs if index in constant]
            output = (tensors[operator.outputs[0]].name or b"").decode(errors="replace")
            if casts & {*operator.inputs, *operator.outputs} and name in ("CAST", "QUANTIZE"):
                why = "border: converts the file's input"
            else:
                why = _why(name, operator, graph, weights)
            found.append(FloatOperator(name, output, why))
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


def quantization(path: str | os.PathLike[str]) -> str:
    """Finds how the convolutions, dense layers and matrix products of a file are quantized.

    Args:
        path: The ``.tflite`` file.

    Returns:
        The attribute ``quantization`` of `Description`.

    Raises:
        ValueError: It is not a ``.tflite`` file.
    """
    model = flatbuffer.load(path)
    with flatbuffer.damage_named(path):
        return _quantization_of(model)


def _quantization_of(model: Any) -> str:
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
            if flatbuffer.operator_name(model, operator) not in COUNTED:
                continue
            # Of an LSTM's weights the first may be absent, which is index -1.
            weights = next(index for index in operator.inputs[1:] if index >= 0)
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


def _has_quantized_activations(model: Any, graph: Any) -> bool:
    """Returns whether a graph computes in integers.

    An integer alone says nothing: images come as uint8 to networks that compute in float32, and a
    table of int8 weights gives int8 rows to files of quantization "dynamic".
    """
    tensor_type = flatbuffer.schema().TensorType
    kinds = (tensor_type.INT8, tensor_type.INT16, tensor_type.UINT8)
    integers = [tensor.type in kinds for tensor in graph.tensors or []]
    makers = (
        operator
        for operator in graph.operators or []
        if flatbuffer.operator_name(model, operator) in {*COUNTED, "QUANTIZE"}
    )
    return any(integers[index] for operator in makers for index in operator.outputs) or any(
        integers[index] and _is_scaled(graph.tensors[index]) for index in graph.inputs
    )


def _is_scaled(tensor: Any) -> bool:
    """Returns whether a tensor has one scale, as activations have."""
    quantized = tensor.quantization
    return quantized is not None and quantized.scale is not None and len(quantized.scale) == 1


def describe_tables(description: Description, memory: str) -> Iterator[Table]:
    """Lays out a description in tables.

    Args:
        description: A file's.
        memory: What to say of its peak memory.

    Yields:
        Tables of ``rich``: facts, inputs and outputs, operators, and, where an int8
        file has some, the operators that stayed float32.
    """
    facts = [*_facts(description), ("peak memory", memory)]
    yield _table((str(description.path), ""), facts)
    yield _table(
        ("", "name", "shape", "dtype", "scale", "zero point"),
        [
            (
                kind,
                tensor.name,
                str(tensor.shape),
                tensor.dtype,
                "" if tensor.scale is None else f"{tensor.scale:.6g}",
                "" if tensor.zero_point is None else str(tensor.zero_point),
            )
            for kind, tensors in (("input", description.inputs), ("output", description.outputs))
            for tensor in tensors
        ],
    )
    yield _table(
        ("operator", "count"),
        [(name, f"{count:,}") for name, count in description.operators.items()],
    )
    if description.float_operators:
        yield float_table(description.float_operators)


def float_table(operators: Sequence[FloatOperator]) -> Table:
    """Lays out the operators that stayed float32 in a table of ``rich``."""
    return _table(
        ("stayed float32", "output", "why"),
        # An operator that the converter made of several has the names of all, joined by semicolons.
        [(one.operator, one.output.partition(";")[0], one.why) for one in operators],
    )


def _facts(description: Description) -> Iterator[tuple[str, str]]:
    if description.metadata is not None:
        yield from _metadata(description.metadata)
    yield "bytes", f"{description.num_bytes:,} ({description.gzip_bytes:,} by gzip)"
    yield "quantization", description.quantization
    if description.macs is None:
        yield "MACs", f"unknown: {description.macs_unknown}"
    else:
        yield "MACs", f"{description.macs:,} for one sample (1 MAC = 2 FLOPs)"


def _metadata(metadata: Metadata) -> Iterator[tuple[str, str]]:
    for name in ("name", "description", "license"):
        if text := getattr(metadata, name):
            yield name, text
    if metadata.labels:
        more = ", ..." * (len(metadata.labels) > _FEW)
        yield "labels", f"{len(metadata.labels):,}: {', '.join(metadata.labels[:_FEW])}{more}"
    if metadata.mean:
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values)
            for values in (metadata.mean, metadata.std)
        )
        yield "takes", f"(pixel - mean) / std, mean {mean}, std {std}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(Text(printable(heading)), overflow="fold")
    for row in rows:
        # Text, because rich would read a name with brackets as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
