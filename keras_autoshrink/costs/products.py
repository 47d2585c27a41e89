"""The multiply-accumulates of matrix products: einsum, attention and the products of keras.ops.

A product costs output elements x contracted size. A product without a sum is no
multiply-accumulate: `Multiply` and `einsum("bi,bi->bi")` cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_autoshrink.costs.calls import Call, MisfitError, Rule, Shape, describe


def _einsum_macs(call: Call, equation: str, tensors: Sequence[Any]) -> int:
    """Multiply-accumulates of an einsum, `...` included.

    Args:
        call: The call, for the errors.
        equation: As for `keras.ops.einsum`, such as "bij,jk->bik".
        tensors: The operands.

    Returns:
        The product of the sizes of the labels, but for those that one operand alone has and that
        are summed before; 0 if no label that both operands share is summed.

    Raises:
        MisfitError: A label has two sizes.
        ValueError: There are three operands or more: the count depends on the order in which
            a backend contracts them.
    """
    name = f"{describe(call.operation)}: einsum {equation!r}"
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) > 2:
        raise ValueError(
            f"{name} of {len(terms)} operands has no single count: "
            "write it as einsums of two operands"
        )
    summed = set(left) - set(output) - set(",.")
    if not arrow:  # Implicit output: the labels that occur once, and the ellipsis.
        summed = {label for label in summed if left.count(label) > 1}
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        shape = call.known(tensor)
        head, dots, tail = term.partition("...")
        extra = len(shape) - len(head) - len(tail)
        if extra < 0 or (extra and not dots):
            raise MisfitError(f"{name} does not take an input of shape {shape}")
        # Broadcasting aligns the axes under an ellipsis at their end.
        labels = [*head, *(f"...{i}" for i in range(extra, 0, -1)), *tail]
        for label, size in zip(labels, shape, strict=True):
            other = sizes.get(label, size)
            if size != other and 1 not in (size, other):
                raise MisfitError(f"{name} has {other} and {size} for {label!r}")
            sizes[label] = max(size, other)
    contracted = {x for x in summed if len(terms) == 2 and x in terms[0] and x in terms[1]}
    kept = [size for label, size in sizes.items() if label in contracted or label not in summed]
    return math.prod(kept) if contracted else 0


def _einsum_dense(call: Call) -> int:
    layer = call.operation
    return _einsum_macs(call, layer.equation, [call.arguments["inputs"], layer.kernel])


def _einsum(call: Call) -> int:
    return _einsum_macs(call, call.operation.subscripts, call.args)


def _query_key_value(call: Call) -> tuple[Shape, Shape, Shape]:
    """The shapes, (batch, ..., features); a key that is left out is the value."""
    value = call.arguments["value"]
    key = call.arguments.get("key")
    return call.shape("query"), call.known(value if key is None else key), call.known(value)


def _multi_head_attention(call: Call) -> int:
    layer = call.operation
    query, key, value = _query_key_value(call)
    call.check_features(query, layer.query_dense.kernel.shape[0])
    keys = math.prod(value[axis] for axis in layer.attention_axes)
    gates = layer.value_dim if layer.get_config().get("use_gate") else 0
    per_head = (
        math.prod(query) * (layer.key_dim + gates)
        + math.prod(key) * layer.key_dim
        + math.prod(value) * layer.value_dim
        + math.prod(query[:-1]) * keys * (layer.key_dim + layer.value_dim)
        + math.prod(call.output_shape) * layer.value_dim
    )
    return int(per_head * layer.num_heads)


def _group_query_attention(call: Call) -> int:
    # Keys and values are projected once per group, then every query head attends to a group.
    layer = call.operation
    query, key, value = _query_key_value(call)
    call.check_features(query, layer.feature_dim)
    gates = 1 if layer.get_config().get("use_gate") else 0
    per_query_head = (
        math.prod(query) * (1 + gates)
        + math.prod(query[:-1]) * value[1] * 2
        + math.prod(call.output_shape)
    )
    per_group = math.prod(key) + math.prod(value)
    heads = layer.num_query_heads * per_query_head + layer.num_key_value_heads * per_group
    return int(heads * layer.head_dim)


def _attention(call: Call) -> int:
    layer = call.operation
    query, value, *rest = (call.known(x) for x in call.first)
    keys = (rest[0] if rest else value)[-2]
    # A score is a dot product with the key, or of tanh(query + key) with the learned scale;
    # without such a vector it is a plain sum.
    if isinstance(layer, keras.layers.AdditiveAttention):
        multiplies = layer.use_scale
    else:
        multiplies = layer.score_mode == "dot"
    scores = math.prod(query) * keys if multiplies else 0
    return scores + math.prod(query[:-1]) * keys * value[-1]


def _dot_product_attention(call: Call) -> int:
    batch, queries, heads, features = call.shape("query")
    keys, values = call.shape("key")[1], call.shape("value")[-1]
    return batch * heads * queries * keys * (features + values)


def _dot_layer(call: Call) -> int:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return math.prod(call.output_shape) * call.known(call.first[0])[axis]


def _matrix_product(call: Call) -> int:
    x1, x2 = call.shape("x1"), call.shape("x2")
    if not x1 or not x2:
        return 0  # A number times an array.
    return math.prod(call.output_shape) * x1[-1]


def _vdot(call: Call) -> int:
    return math.prod(call.shape("x1"))


def _tensordot(call: Call) -> int:
    x1, axes = call.shape("x1"), call.operation.axes
    if isinstance(axes, int):
        contracted = x1[len(x1) - axes :]
    else:
        first = [axes[0]] if isinstance(axes[0], int) else axes[0]
        contracted = tuple(x1[axis] for axis in first)
    return math.prod(call.output_shape) * math.prod(contracted) if contracted else 0


# By `Call.kind`; keras.layers exports GroupedQueryAttention as GroupQueryAttention.
PRODUCT_RULES: dict[str, Rule] = {
    "EinsumDense": _einsum_dense,
    "ops.numpy.Einsum": _einsum,
    "MultiHeadAttention": _multi_head_attention,
    "GroupedQueryAttention": _group_query_attention,
    "Attention": _attention,
    "AdditiveAttention": _attention,
    "ops.nn.DotProductAttention": _dot_product_attention,
    "Dot": _dot_layer,
    "ops.numpy.Matmul": _matrix_product,
    "ops.numpy.Dot": _matrix_product,
    "ops.numpy.Inner": _matrix_product,
    "ops.numpy.Vdot": _vdot,
    "ops.numpy.Tensordot": _tensordot,
}
