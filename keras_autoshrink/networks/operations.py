"""The ops that a cell's nodes can carry: of each its name, its Keras layers, its colour.

An op is one entry of a registry. A built-in op stands in the table below, a user's is added by
`register_operation`. Keras is imported when an op is applied: reports look colours up without it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras_autoshrink.cell import INPUT, is_op_name

# Of a recurrent cell's node: what comes into it as it is, without a product; a residual path.
SKIP = "skip"

# `layers(x, filters, name)`: a tensor (batch, height, width, channels) becomes one of the same
# height and width with `filters` channels. Normalisation and activation behind it are not its
# business: the network adds them to every node alike.
Layers = Callable[..., Any]
# `normalise(x, name)` applies a BatchNorm, then an activation.
Normalise = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class Operation:
    """An op that a node can carry.

    Args:
        name: the op's name in cells.
        layers: applies its Keras layers to a tensor, see `register_operation`; None for an
            activation of recurrent cells, the function of this name in `keras.ops`, or their skip.
        colour: of its nodes in pictures, as "#RRGGBB"; None to take one that is left.
        strides: whether `layers` takes a `stride` besides.
        normalises: whether it takes `normalise` besides, the network's BatchNorm and activation,
            since its layers have them in between.
    """

    name: str
    layers: Layers | None
    colour: str | None
    strides: bool = False
    normalises: bool = False


def _separable(size: int) -> Layers:
    def layers(x: Any, filters: int, name: str, stride: int = 1) -> Any:
        import keras

        # Two layers rather than one SeparableConv2D: that is what the file for the phone holds.
        depthwise = keras.layers.DepthwiseConv2D(
            size, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        pointwise = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")
        return pointwise(depthwise(x))

    return layers


def _convolution(size: int) -> Layers:
    def layers(x: Any, filters: int, name: str, stride: int = 1) -> Any:
        import keras

        return keras.layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, name=name
        )(x)

    return layers


# What an inverted bottleneck widens its input by.
_EXPANSION = 3


def _inverted_bottleneck(size: int) -> Layers:
    """Makes an inverted bottleneck (MobileNetV2, Sandler et al., arXiv 1801.04381)."""

    def layers(x: Any, filters: int, name: str, normalise: Normalise, stride: int = 1) -> Any:
        import keras

        wide = _EXPANSION * x.shape[-1]
        expand = keras.layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand")
        depthwise = keras.layers.DepthwiseConv2D(
            size, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        x = normalise(expand(x), f"{name}_expand")
        x = normalise(depthwise(x), f"{name}_depthwise")
        return keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)

    return layers


# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BUILT_IN = {
    operation.name: operation
    for operation in (
        Operation("sepconv3x3", _separable(3), colour="#E69F00", strides=True),
        Operation("conv1x1", _convolution(1), colour="#56B4E9"),
        Operation("sepconv5x5", _separable(5), colour="#D55E00", strides=True),
        Operation("conv3x3", _convolution(3), colour="#0072B2", strides=True),
        *(
            Operation(name, _inverted_bottleneck(size), colour, strides=True, normalises=True)
            for name, size, colour in (("mbconv3x3", 3, "#009E73"), ("mbconv5x5", 5, "#CC79A7"))
        ),
        Operation("tanh", None, colour="#F0E442"),
        Operation("relu", None, colour="#E69F00"),
        Operation("sigmoid", None, colour="#009E73"),
        Operation("identity", None, colour="#56B4E9"),
        Operation(SKIP, None, colour="#CC79A7"),
    )
}
_registry = dict(_BUILT_IN)

# Where pixels are few, a larger depthwise kernel costs little beside the 1x1 convolutions.
LARGER = {"sepconv3x3": "sepconv5x5", "mbconv3x3": "mbconv5x5"}

# For ops that have no colour of their own; those that no built-in op has come first.
_PALETTE = ("#CC79A7", "#D55E00", "#0072B2", "#009E73", "#F0E442")

CNN_OPERATIONS = ("sepconv3x3", "conv1x1")
"""The ops of the paper's search for a convolutional cell, the default of `CNNCellHyperModel`."""

BUDGET_OPERATIONS = ("sepconv3x3", "sepconv5x5", "conv3x3", "mbconv3x3", "conv1x1")
"""The ops of a search at a budget, the default of `CNNCellHyperModel` with a target."""

RNN_OPERATIONS = ("tanh", "relu", "sigmoid", "identity")
"""The ops of the paper's search for a recurrent cell, the default of `RNNCellHyperModel`."""

BUDGET_RNN_OPERATIONS = ("tanh", "relu", "sigmoid", "identity", SKIP)
"""The ops of a search at a budget, the default of `RNNCellHyperModel` with a target."""


def register_operation(name: str, colour: str | None = None) -> Callable[[Layers], Layers]:
    """Makes a function an op that cells can carry and searches can use.

    Args:
        name: the op's name in cells. Registering it again replaces the function, so that a
            notebook's cell can be run twice; the built-in names cannot be replaced.
        colour: of its nodes in pictures, as "#RRGGBB"; by default one that is left.

    Returns:
        A decorator for a function `operation(x, filters, name)`, with `x` a tensor of shape
        (batch, height, width, channels), that returns one of shape
        (batch, height, width, filters). `name` is a prefix, unique in the network, for the
        names of its layers. (A HyperModel of your own that builds its cells itself may take
        tensors of other shapes, and ops that are not registered: cells only need the name.)

    Raises:
        ValueError: `name` is a built-in's, or cannot be an op's name, or `colour` is no colour.

    Example:
        >>> import keras
        >>> @register_operation("conv5x5", colour="#0072B2")
        ... def conv5x5(x, filters, name):
        ...     return keras.layers.Conv2D(filters, 5, padding="same", use_bias=False, name=name)(x)
        >>> from keras_autoshrink import CNNCellHyperModel
        >>> CNNCellHyperModel(num_nodes=3, operations=["conv5x5"]).cell.ops
        ('input', 'conv5x5', 'conv5x5')
    """
    if name in _BUILT_IN:
        raise ValueError(f"op name {name!r}: is built in; choose another name")
    if not is_op_name(name):
        raise ValueError(
            f"op name {name!r}: use letters, digits and _.+- (and not {INPUT!r}, which is node 0)"
        )
    if colour is not None and not re.fullmatch("#[0-9A-Fa-f]{6}", colour):
        raise ValueError(f"colour={colour!r}: expected #RRGGBB, such as '#0072B2'")

    def register(layers: Layers) -> Layers:
        _registry[name] = Operation(name, layers, colour)
        return layers

    return register


def registered() -> dict[str, Operation]:
    """Returns the ops that `register_operation` has added, by their names."""
    return {name: op for name, op in _registry.items() if name not in _BUILT_IN}


def register_all(ops: Mapping[str, Operation]) -> None:
    """Registers the ops of another process."""
    _registry.update(ops)


def get_layers(name: str) -> Layers:
    """Returns the function that applies the layers of a convolutional op.

    Raises:
        ValueError: there is no such op; the message names those that there are.
    """
    operation = _registry.get(name)
    if operation is None or operation.layers is None:
        known = ", ".join(sorted(op.name for op in _registry.values() if op.layers))
        raise ValueError(
            f"op {name!r}: no convolutional operation has this name (there are {known}); "
            "add it with register_operation"
        )
    return operation.layers


def apply_operation(
    op: str, x: Any, filters: int, name: str, normalise: Normalise, stride: int = 1
) -> Any:
    """Applies an op; where it has a stride that the op cannot have, behind a max-pool.

    Args:
        op: its name.
        x: tensor of shape (batch, height, width, channels).
        filters: of the result.
        name: unique prefix of the layers' names.
        normalise: applies a BatchNorm and an activation to a tensor, `normalise(x, name)`.
        stride: s; the result has ceil(height / s) by ceil(width / s) pixels.

    Raises:
        ValueError: there is no such op.
    """
    import keras

    layers = get_layers(op)
    more: dict[str, Any] = {"normalise": normalise} if _registry[op].normalises else {}
    if stride > 1 and _registry[op].strides:
        more["stride"] = stride
    elif stride > 1:
        x = keras.layers.MaxPooling2D(stride, padding="same", name=f"{name}_pool")(x)
    return layers(x, filters, name, **more)


def check_activation(name: str) -> None:
    """Raises ValueError, with those that there are, if an op is no activation."""
    if not is_activation(name):
        known = ", ".join(op.name for op in _registry.values() if op.layers is None)
        raise ValueError(f"op {name!r}: a recurrent cell's nodes are activations, {known}")


def is_activation(name: str) -> bool:
    """Tells whether an op is an activation of recurrent cells."""
    return name in _registry and _registry[name].layers is None


def colours(ops: Iterable[str]) -> dict[str, str]:
    """Chooses the colour of each op in pictures, as `#RRGGBB`; the input has none.

    Args:
        ops: of a cell, in any order. Ops of a colour of their own have it whatever stands beside
            them; others share, in the order of their names, what these leave.
    """
    names = sorted({*ops} - {INPUT})
    own = {name: _registry[name].colour for name in names if name in _registry}
    found = {name: colour for name, colour in own.items() if colour is not None}
    left = [colour for colour in _PALETTE if colour not in found.values()] or _PALETTE
    others = (name for name in names if name not in found)
    return {**found, **dict(zip(others, itertools.cycle(left), strict=False))}
