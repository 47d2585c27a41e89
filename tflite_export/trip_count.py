"""How often the body of a WHILE runs, read from the file."""

import math
from typing import Any

from tflite_export import flatbuffer


def trip_count(model: Any, graph: Any, loop: Any) -> int:
    """The number of times that a counted loop runs.

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
        """The value of a tensor of the condition that never changes."""
        if tensor not in condition.inputs:
            return flatbuffer.scalar_constant(model, condition, tensor)
        position = list(condition.inputs).index(tensor)
        passed_on = body.outputs[position] == body.inputs[position]
        return initial(position) if passed_on else None

    def runs(tensor: int) -> int:
        """How often the body runs until this boolean of the condition is false."""
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
    """The operator that makes a tensor; None for inputs and constants."""
    for operator in graph.operators or []:
        if tensor in operator.outputs:
            return operator
    return None


def _increment(model: Any, body: Any, position: int) -> int | None:
    """What the body adds to its loop variable at ``position``; None if it does something else."""
    addition = _producer(body, body.outputs[position])
    if addition is None or flatbuffer.operator_name(model, addition) != "ADD":
        return None
    terms = list(addition.inputs)
    if body.inputs[position] not in terms:
        return None
    terms.remove(body.inputs[position])
    return flatbuffer.scalar_constant(model, body, terms[0])
