"""From the name of an op to the Keras layers that compute it.

An operation is a function `operation(x, filters, name)`: it applies Keras layers to `x` and
returns a tensor of the same height and width with `filters` channels. Normalisation and
activation are not its business: the network adds them to every node alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_autoshrink.cell import CNN_OPERATIONS, RNN_OPERATIONS, declare_operation

Operation = Callable[[Any, int, str], Any]

_registry: dict[str, Operation] = {}


def register_operation(name: str) -> Callable[[Operation], Operation]:
    """Makes a function an op that cells can carry and searches can use.

    Args:
        name: the op's name in cells. Registering it again replaces the function, so that a
            notebook's cell can be run twice; the built-in names cannot be replaced.

    Returns:
        A decorator for a function `operation(x, filters, name)`, with `x` a tensor of shape
        (batch, height, width, channels), that returns one of shape
        (batch, height, width, filters). `name` is a prefix, unique in the network, for the
        names of its layers. (A HyperModel of your own that builds its cells itself may take
        tensors of other shapes: cells only need the name.)

    Raises:
        ValueError: `name` is a built-in's, or cannot be an op's name.

    Example:
        >>> import keras
        >>> @register_operation("conv5x5")
        ... def conv5x5(x, filters, name):
        ...     return keras.layers.Conv2D(filters, 5, padding="same", use_bias=False, name=name)(x)
        >>> from keras_autoshrink import CNNCellHyperModel
        >>> CNNCellHyperModel(num_nodes=3, operations=["conv5x5"]).cell.ops
        ('input', 'conv5x5', 'conv5x5')
    """
    if name in CNN_OPERATIONS or name in RNN_OPERATIONS:
        raise ValueError(f"op name {name!r}: is built in; choose another name")
    declare_operation(name)

    def register(operation: Operation) -> Operation:
        _registry[name] = operation
        return operation

    return register


def get_operation(name: str) -> Operation:
    """The function registered under `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in _registry:
        known = ", ".join(sorted(_registry))
        raise ValueError(
            f"op {name!r}: no convolutional operation has this name (there are {known}); "
            "add it with register_operation"
        )
    return _registry[name]


def _sepconv3x3(x: Any, filters: int, name: str) -> Any:
    # Two layers rather than one SeparableConv2D: that is what the file for the phone holds.
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    return keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)


def _conv1x1(x: Any, filters: int, name: str) -> Any:
    return keras.layers.Conv2D(filters, 1, use_bias=False, name=name)(x)


_registry.update(sepconv3x3=_sepconv3x3, conv1x1=_conv1x1)
