"""Counts the multiply-accumulates of ``.tflite`` files.

What counts are convolutions, dense layers and matrix products, as in the papers that compare
networks by them. One multiply-accumulate (MAC) is one, not two FLOPs. Taps on the padding count:
they are part of "kernel size x channels for each output position".
"""

import copy
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from tflite_export.file import flatbuffer

_Shape = tuple[int, ...]

# Operators without a multiply-accumulate by the convention above. One that is neither here nor
# counted below is an error, so that nothing is a zero by mistake.
# fmt: off
_FREE = frozenset((
    # move, select, compare or cast
    "BATCH_TO_SPACE_ND", "BITCAST", "BROADCAST_ARGS", "BROADCAST_TO", "CAST", "CONCATENATION",
    "DENSIFY", "DEPTH_TO_SPACE", "DEQUANTIZE", "DILATE", "DYNAMIC_UPDATE_SLICE",
    "EMBEDDING_LOOKUP", "EQUAL", "EXPAND_DIMS", "FAKE_QUANT", "FILL", "GATHER", "GATHER_ND",
    "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR",
    "MIRROR_PAD", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PADV2", "QUANTIZE", "RANGE", "RANK",
    "RESHAPE", "REVERSE_SEQUENCE", "REVERSE_V2", "SCATTER_ND", "SELECT", "SELECT_V2", "SHAPE",
    "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPARSE_TO_DENSE", "SPLIT", "SPLIT_V",
    "SQUEEZE", "STRIDED_SLICE", "TILE", "TOPK_V2", "TRANSPOSE", "UNPACK", "WHERE", "ZEROS_LIKE",
    # a state that is kept from one run to the next; CALL_ONCE sets it before the first
    "ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE",
    # element by element
    "ABS", "ADD", "ADD_N", "ATAN2", "CEIL", "COS", "DIV", "EXP", "FLOOR", "FLOOR_DIV",
    "FLOOR_MOD", "LOG", "MAXIMUM", "MINIMUM", "MUL", "NEG", "POW", "ROUND", "RSQRT", "SIGN",
    "SIN", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB",
    # activations and normalizations
    "ELU", "GELU", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LOCAL_RESPONSE_NORMALIZATION",
    "LOGISTIC", "LOG_SOFTMAX", "PRELU", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1",
    "SOFTMAX", "TANH",
    # pooling, resizing and reductions
    "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "CUMSUM", "L2_POOL_2D", "MAX_POOL_2D", "MEAN",
    "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "SUM",
))
# fmt: on


def count_macs(path: str | os.PathLike[str]) -> int:
    """Counts the multiply-accumulates of a file for one sample, from its shapes.

    Convolution: output positions x kernel size x input channels / groups x output channels.
    Transposed convolution: input positions x kernel size x input x output channels. Dense layers
    and matrix products: outputs x the length that is summed over. Normalization, bias, activation,
    pooling and addition count nothing. The body of a WHILE counts as often as it runs.

    Args:
        path: The ``.tflite`` file.

    Returns:
        Multiply-accumulates (1 MAC = 2 FLOPs) for one sample, the file's total over the leading
        axis of its first input, the batch; of a file that leaves the batch open, those at a batch
        of 1. A sample of a language model is a whole sequence.

    Raises:
        ValueError: The file is not a ``.tflite`` file, leaves more than the batch open, has several
            signatures, or holds an operator whose multiply-accumulates are not known; the message
            names it.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> path = convert(model, "model.tflite")
        >>> count_macs(path)  # 2 x 2 positions, 3 x 3 taps, 1 channel, 2 filters
        72
    """
    model = flatbuffer.load(path)
    with flatbuffer.damage_named(path):
        return macs_of(model)


def macs_of(model: Any) -> int:
    """Counts the multiply-accumulates of a file's ``ModelT``, see `count_macs`."""
    model = _at_batch_of_one(model)
    graph = model.subgraphs[0]
    total = _count_graph(model, graph)
    _check_one_entry(model)
    shape = flatbuffer.tensor_shape(graph, graph.inputs[0]) if len(graph.inputs) else ()
    batch = shape[0] if shape else 1
    if batch < 1 or total % batch:
        raise ValueError(f"{total} multiply-accumulates are not a multiple of a batch of {batch}")
    return total // batch


def _at_batch_of_one(model: Any) -> Any:
    """Copies a ``ModelT``, its open batch closed at 1; any other open axis stays open."""
    closed = copy.copy(model)
    closed.subgraphs = [
        _graph_at_batch_of_one(model, graph, is_body=bool(number))
        for number, graph in enumerate(model.subgraphs)
    ]
    return closed


def _graph_at_batch_of_one(model: Any, graph: Any, is_body: bool) -> Any:
    """Copies a graph, its open axes closed in the order in which its operators run.

    A file stores every open axis as 1, also one that other axes were folded into, as in a dense
    layer of sequences: what is reshaped has as many elements as before.
    """
    opened = {
        index: axes
        for index, tensor in enumerate(graph.tensors or [])
        if tensor.shapeSignature is not None
        and (axes := [axis for axis, size in enumerate(tensor.shapeSignature) if size < 0])
    }
    entries = [index for index in graph.inputs if index in opened]
    if not opened or any(
        opened[index] != [0] and not (is_body and len(opened[index]) == 1) for index in entries
    ):
        return graph
    graph = copy.copy(graph)
    graph.tensors = [copy.copy(tensor) for tensor in graph.tensors or []]
    sizes: dict[int, int] = {}

    def close(index: int, size: int) -> None:
        tensor = graph.tensors[index]
        shape = list(tensor.shape)
        for axis in opened[index]:
            shape[axis] = 1
        shape[opened[index][0]] = sizes[index] = size
        tensor.shape, tensor.shapeSignature = shape, None

    for index in entries:
        close(index, 1)
    for operator in graph.operators or []:
        sources = [index for index in operator.inputs if index >= 0]
        if any(index in opened and index not in sizes for index in sources):
            continue
        name = flatbuffer.operator_name(model, operator)
        found = {sizes[index] for index in sources if index in sizes}
        for index in operator.outputs:
            if index not in opened:
                continue
            if name in ("RESHAPE", "FULLY_CONNECTED"):
                elements = math.prod(flatbuffer.tensor_shape(graph, sources[0]))
                if name == "FULLY_CONNECTED":
                    units, in_features = flatbuffer.tensor_shape(graph, sources[1])
                    elements = elements // in_features * units
                shape = enumerate(graph.tensors[index].shape)
                close(
                    index,
                    elements
                    // math.prod(size for axis, size in shape if axis not in opened[index]),
                )
            elif len(found) < 2 and len(opened[index]) == 1:
                close(index, *(found or {1}))
    return graph


def _check_one_entry(model: Any) -> None:
    """Checks that every subgraph but the first belongs to a WHILE or a CALL_ONCE.

    To call after the count, which refuses the other operators that have subgraphs by name.

    Raises:
        ValueError: Another subgraph can be called from outside.
    """
    entries = dict(enumerate(graph.name for graph in model.subgraphs))
    entries |= {x.subgraphIndex: x.signatureKey for x in model.signatureDefs or []}
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            name = flatbuffer.operator_name(model, operator)
            if name == "CALL_ONCE":
                entries.pop(operator.builtinOptions.initSubgraphIndex, None)
            elif name == "WHILE":
                entries.pop(operator.builtinOptions.condSubgraphIndex, None)
                entries.pop(operator.builtinOptions.bodySubgraphIndex, None)
    if len(entries) > 1:
        names = ", ".join(repr((x or b"").decode(errors="replace")) for x in entries.values())
        raise ValueError(f"has several signatures: {names}; export each to a file of its own")


def _count_graph(model: Any, graph: Any) -> int:
    return sum(_count_operator(model, graph, operator) for operator in graph.operators or [])


def _count_operator(model: Any, graph: Any, operator: Any) -> int:
    name = flatbuffer.operator_name(model, operator)
    if name in _FREE:
        return 0
    if name == "WHILE":
        trips = _trip_count(model, graph, operator)
        condition, body = (
            _count_graph(model, model.subgraphs[index])
            for index in (
                operator.builtinOptions.condSubgraphIndex,
                operator.builtinOptions.bodySubgraphIndex,
            )
        )
        return trips * body + (trips + 1) * condition
    if name not in COUNTED:
        raise ValueError(f"cannot count the multiply-accumulates of operator {name}")
    # An optional input that is not there has index -1.
    inputs = [
        flatbuffer.tensor_shape(graph, index) if index >= 0 else () for index in operator.inputs
    ]
    output = flatbuffer.tensor_shape(graph, operator.outputs[0])
    try:
        return COUNTED[name](operator.builtinOptions, inputs, output)
    except (IndexError, ValueError) as error:  # the wrong number of inputs or of axes
        raise ValueError(f"operator {name} has shapes {inputs} -> {output}") from error


# Each takes the operator's options, the shapes of its inputs and that of its output. Unpacking a
# shape is also the check that it has that many axes.


def _conv_2d(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    batch, out_height, out_width, out_channels = output
    _, height, width, channels_per_group = inputs[1]
    positions = batch * out_height * out_width
    return positions * height * width * channels_per_group * out_channels


def _depthwise_conv_2d(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    batch, out_height, out_width, out_channels = output
    _, height, width, _ = inputs[1]
    return batch * out_height * out_width * height * width * out_channels


def _transpose_conv(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    # Inputs: the output's shape, the filter, the images.
    out_channels, height, width, _ = inputs[1]
    batch, in_height, in_width, in_channels = inputs[2]
    return batch * in_height * in_width * height * width * in_channels * out_channels


def _conv_3d(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    batch, out_depth, out_height, out_width, out_channels = output
    depth, height, width, in_channels, _ = inputs[1]
    positions = batch * out_depth * out_height * out_width
    return positions * depth * height * width * in_channels * out_channels


def _conv_3d_transpose(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    # Inputs: the output's shape, the filter, the images.
    depth, height, width, out_channels, in_channels = inputs[1]
    batch, in_depth, in_height, in_width, _ = inputs[2]
    positions = batch * in_depth * in_height * in_width
    return positions * depth * height * width * in_channels * out_channels


def _fully_connected(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    # The input may have any number of axes, and its rows may be spread over several.
    units, in_features = inputs[1]
    if math.prod(inputs[0]) * units != math.prod(output) * in_features:
        raise ValueError("input and output have different numbers of rows")
    return math.prod(inputs[0]) * units


def _batch_matmul(options: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    *_, rows, columns = inputs[0]
    return math.prod(output) * (rows if options.adjX else columns)


def _sequence_rnn(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    # Inputs: the sequence, (batch, time, features) or (time, batch, features), then the weights
    # of the input and of the state.
    batch, time, features = inputs[0]
    units, state = inputs[2]
    return batch * time * units * (features + state)


def _sequence_lstm(_: Any, inputs: Sequence[_Shape], output: _Shape) -> int:
    # Inputs: the sequence, four weights of the input and four of the state (the first of each is
    # absent where input and forget gate are coupled), three peepholes (element-wise, so they do
    # not count), four biases, the optional projection.
    batch, time, _ = inputs[0]
    weights = [*inputs[1:9], *inputs[16:17]]
    return batch * time * sum(math.prod(shape) for shape in weights if shape)


# The operators that have multiply-accumulates: convolutions, dense layers and matrix products.
COUNTED: dict[str, Callable[[Any, Sequence[_Shape], _Shape], int]] = {
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv_2d,
    "CONV_3D": _conv_3d,
    "CONV_3D_TRANSPOSE": _conv_3d_transpose,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _sequence_lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _sequence_rnn,
}


def _trip_count(model: Any, graph: Any, loop: Any) -> int:
    """Counts how often the body of a WHILE runs, from its constants.

    Known are loops whose condition is ``counter < bound``, or several of these joined by "and",
    where the counter starts at a constant, the body adds a constant to it, and the bound is a
    constant. Keras' RNN layers and ``keras.ops.fori_loop`` become such loops.

    Args:
        model: The file's ``ModelT``.
        graph: The ``SubGraphT`` that the loop is in.
        loop: The WHILE's ``OperatorT``.

    Returns:
        How often the body runs.

    Raises:
        ValueError: The loop is of another kind.
    """
    condition = model.subgraphs[loop.builtinOptions.condSubgraphIndex]
    body = model.subgraphs[loop.builtinOptions.bodySubgraphIndex]
    name = (condition.name or b"").decode(errors="replace")

    def unknown(why: str) -> ValueError:
        return ValueError(f"cannot tell how often WHILE runs (condition {name!r}): {why}")

    def initial(position: int) -> int | None:
        return flatbuffer.scalar_constant(model, graph, loop.inputs[position])

    def bound(tensor: int) -> int | None:
        """Returns the value of a tensor of the condition that never changes."""
        if tensor not in condition.inputs:
            return flatbuffer.scalar_constant(model, condition, tensor)
        position = list(condition.inputs).index(tensor)
        passed_on = body.outputs[position] == body.inputs[position]
        return initial(position) if passed_on else None

    def runs(tensor: int) -> int:
        """Counts how often the body runs until a boolean of the condition is false."""
        test = _producer(condition, tensor)
        if test is None:
            raise unknown("it is no comparison")
        operator = flatbuffer.operator_name(model, test)
        if operator == "LOGICAL_AND":
            return min(runs(part) for part in test.inputs)
        if operator not in ("LESS", "GREATER"):
            raise unknown(f"it is made by {operator}, not by counter < bound")
        counter, limit = test.inputs if operator == "LESS" else reversed(test.inputs)
        stop = bound(limit)
        if stop is None:
            raise unknown("the bound is not a constant")
        if counter not in condition.inputs:
            raise unknown("what is compared with the bound is not a loop variable")
        position = list(condition.inputs).index(counter)
        start, step = initial(position), _increment(model, body, position)
        if start is None or step is None or step < 1:
            raise unknown("its counter does not go up by a constant from a constant")
        return max(0, math.ceil((stop - start) / step))

    return runs(condition.outputs[0])


def _producer(graph: Any, tensor: int) -> Any | None:
    """Finds the operator that makes a tensor; None for inputs and constants."""
    for operator in graph.operators or []:
        if tensor in operator.outputs:
            return operator
    return None


def _increment(model: Any, body: Any, position: int) -> int | None:
    """Returns the constant that a body adds to its variable at ``position``, or None."""
    addition = _producer(body, body.outputs[position])
    if addition is None or flatbuffer.operator_name(model, addition) != "ADD":
        return None
    terms = list(addition.inputs)
    if body.inputs[position] not in terms:
        return None
    terms.remove(body.inputs[position])
    return flatbuffer.scalar_constant(model, body, terms[0])
