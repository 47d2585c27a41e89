"""A layer of a Keras model, by its configuration, as plain data that another Keras can read.

Layers that do two things are divided: an activation stands by itself, and a separable convolution
is a depthwise and a pointwise one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

# The arguments that decide what a layer computes once it has its weights. Initialisers play no
# part then.
_POOLING = ("pool_size", "strides", "padding")
_CONVOLUTION = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", *_CONVOLUTION),
    "Dense": ("units", "use_bias"),
    "DepthwiseConv2D": ("depth_multiplier", *_CONVOLUTION),
    "Dropout": ("rate", "noise_shape"),
    "Flatten": (),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "MaxPooling2D": _POOLING,
    "Maximum": (),
    "Minimum": (),
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "Softmax": ("axis",),
    "SpatialDropout2D": ("rate",),
    "Subtract": (),
    "ZeroPadding2D": ("padding",),
}
# Those that both Keras define alike; of `hard_sigmoid`, for one, each has its own.
_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "swish",
    "softmax": "softmax",
    "swish": "swish",
    "tanh": "tanh",
}


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer.

    Attributes:
        name: Unique in the graph.
        kind: Its class, one of ``keras.layers``.
        arguments: Of the class, plain values.
        inputs: Names of the nodes whose outputs it takes, or of the graph's input.
        sources: Its weights, in its own order: the name of the model's layer that each belongs
            to, and the place there.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    inputs: tuple[str, ...]
    sources: tuple[tuple[str, int], ...]


def nodes_of(layer: dict[str, Any], inputs: Sequence[str]) -> Iterator[Node]:
    """The nodes of a layer, in a chain; none for what leaves its input as it is.

    Where there are several, they are called ``<layer>/...``: no layer of Keras 3 has a slash in its
    name, so that the names stay unique.

    Args:
        layer: Its entry in the configuration of a functional model.
        inputs: Names of the nodes that it takes its inputs from.

    Raises:
        ValueError: The layer is not among those above; the message names it.
    """
    name, kind, config = layer["name"], layer["class_name"], layer["config"]
    where = f"layer {name!r} ({kind})"
    if config.get("data_format", "channels_last") != "channels_last":
        raise ValueError(f"{where} has its channels first; only channels last can be optimised")
    separable = kind == "SeparableConv2D"
    if kind == "Reshape" and "newshape" in config:  # keras.ops.reshape
        before = layer["inbound_nodes"][0]["args"][0]["config"]["shape"]
        if list(config["newshape"][1:]) != list(before[1:]):
            yield Node(name, kind, {"target_shape": config["newshape"][1:]}, (inputs[0],), ())
        return
    if (kind not in _ARGUMENTS and not separable) or layer.get("module") != "keras.layers":
        raise ValueError(
            f"{where} cannot be optimised: known are SeparableConv2D, {', '.join(_ARGUMENTS)}"
        )
    activation = _activation(config, where)
    if separable:
        yield from _separable(name, config, inputs)
    elif kind != "Activation":
        arguments = {key: config[key] for key in _ARGUMENTS[kind]}
        weights = tuple((name, place) for place in range(_num_weights(kind, config)))
        yield Node(name, kind, arguments, tuple(inputs), weights)
    if activation != "linear":
        alone = kind == "Activation"
        last = f"{name}/pointwise" if separable else name
        yield Node(
            name if alone else f"{name}/activation",
            "Activation",
            {"activation": activation},
            tuple(inputs) if alone else (last,),
            (),
        )


def _activation(config: dict[str, Any], where: str) -> str:
    activation = config.get("activation") or "linear"
    if activation != "linear" and (
        not isinstance(activation, str) or activation not in _ACTIVATIONS
    ):
        name = activation["config"] if isinstance(activation, dict) else activation
        raise ValueError(
            f"{where} has the activation {name!r}; known are linear, {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS.get(activation, "linear")


def _separable(name: str, config: dict[str, Any], inputs: Sequence[str]) -> Iterator[Node]:
    depthwise = {key: config[key] for key in _ARGUMENTS["DepthwiseConv2D"]}
    yield Node(
        f"{name}/depthwise",
        "DepthwiseConv2D",
        {**depthwise, "use_bias": False},
        tuple(inputs),
        ((name, 0),),
    )
    pointwise = {"filters": config["filters"], "kernel_size": 1, "use_bias": config["use_bias"]}
    weights = tuple((name, place) for place in range(1, 2 + config["use_bias"]))
    yield Node(f"{name}/pointwise", "Conv2D", pointwise, (f"{name}/depthwise",), weights)


def _num_weights(kind: str, config: dict[str, Any]) -> int:
    if kind == "BatchNormalization":
        return 2 + int(config["center"]) + int(config["scale"])
    return 1 + int(config["use_bias"]) if "use_bias" in _ARGUMENTS[kind] else 0
