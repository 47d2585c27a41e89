"""The names of the operations that a cell may carry. What they compute is registered elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

INPUT = "input"
CNN_OPERATIONS = ("sepconv3x3", "conv1x1")
RNN_OPERATIONS = ("tanh", "relu", "sigmoid", "identity")

_known_operations = {*CNN_OPERATIONS, *RNN_OPERATIONS}
# The names that the oracle gives to the nodes of a search space that declares no ops.
_ANONYMOUS = re.compile(r"node\d+")


def declare_operation(name: str) -> None:
    """Makes `name` an op that cells may carry; what it computes is registered elsewhere.

    Args:
        name: the op's name: letters, digits and `_.+-`, not `"input"`.

    Raises:
        ValueError: `name` cannot be an op's name.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name) or name == INPUT:
        raise ValueError(
            f"op name {name!r}: use letters, digits and _.+- (and not {INPUT!r}, which is node 0)"
        )
    _known_operations.add(name)


def checked_ops(ops: Iterable[str]) -> tuple[str, ...]:
    """The ops of a cell, node 0's first, if they are such.

    Raises:
        ValueError: they are not; the message names the culprit.
    """
    if isinstance(ops, str):
        raise ValueError(f"ops {ops!r}: give a sequence of op names, one for each node")
    ops = tuple(ops)
    if len(ops) < 2:
        raise ValueError(f"ops {ops}: a cell has the input and at least one other node")
    if ops[0] != INPUT:
        raise ValueError(f"op {ops[0]!r} of node 0: node 0 is the cell's input, its op {INPUT!r}")
    for node, op in enumerate(ops[1:], start=1):
        if op == INPUT:
            raise ValueError(f"op {INPUT!r} of node {node}: only node 0 is the input")
        if not isinstance(op, str) or (
            op not in _known_operations and not _ANONYMOUS.fullmatch(op)
        ):
            known = ", ".join(sorted(_known_operations))
            raise ValueError(
                f"op {op!r} of node {node}: unknown; register it with register_operation, "
                f"or use one of {known}"
            )
    return ops
