"""Describes functional Keras models as plain data, from which another Keras can build them.

Layers that do two things are divided: an activation stands by itself, and a separable convolution
is a depthwise and a pointwise one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    import keras

# The layers that are known, and the arguments that decide what each computes once it has its
# weights, as initialisers do not.
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

# Layers after which probabilities are still probabilities.
_KEEPING = (
    "Average",
    "AveragePooling2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Reshape",
    "SpatialDropout2D",
)


@dataclasses.dataclass(frozen=True)
class Node:
    """Describes a layer, or one of the two that it is divided into.

    Attributes:
        name: Unique in the graph.
        kind: Its class, one of ``keras.layers``.
        arguments: The arguments of the class, plain values.
        inputs: Names of the nodes whose outputs it takes, or of the graph's input.
        sources: Its weights, in its own order: the name of the model's layer that each belongs
            to, and the place there.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    inputs: tuple[str, ...]
    sources: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class LayerGraph:
    """Describes a model of one input and one output.

    Attributes:
        input: Name of the input.
        input_shape: The input's shape without the batch.
        output: Name of the node whose output is the model's.
        nodes: The layers, each after those that it takes its inputs from.
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    nodes: tuple[Node, ...]

    @property
    def output_activation(self) -> str:
        """Names the last activation before the output: "softmax", "linear" or another."""
        nodes = {node.name: node for node in self.nodes}
        last = before = nodes[self.output]
        while before.kind in _KEEPING and before.inputs[0] in nodes:
            before = nodes[before.inputs[0]]
        return "softmax" if _gone_through(before) == "softmax" else _gone_through(last)


def graph_of(model: keras.Model) -> LayerGraph:
    """Reads the graph of a functional model of one input and one output.

    Args:
        model: A model of layers of ``_ARGUMENTS``, channels last, each of them called once.

    Raises:
        ValueError: The model is not functional, or has a layer that is not among these or is
            called more than once; the message names it.
    """
    config = model.get_config() if hasattr(model, "inputs") and model.built else {}
    layers = config.get("layers", [])
    if "input_layers" not in config:
        raise ValueError(
            f"model {model.name!r} is not functional: build it with keras.Model(inputs, outputs)"
        )
    ends = [_names(config[f"{end}_layers"]) for end in ("input", "output")]
    if [len(names) for names in ends] != [1, 1]:
        raise ValueError(
            f"model {model.name!r} has {len(ends[0])} inputs and {len(ends[1])} outputs; "
            "expected one of each"
        )
    ((graph_input,), (output,)) = ends
    nodes: list[Node] = []
    outputs = {graph_input: graph_input}  # the node that gives the output of each layer
    for layer in layers:
        if layer["class_name"] == "InputLayer":
            continue
        name = layer["name"]
        inputs = [outputs[source] for source in _inputs(layer)]
        added = [*_nodes_of(layer, inputs)]
        nodes.extend(added)
        outputs[name] = added[-1].name if added else inputs[0]
    graph = LayerGraph(graph_input, tuple(model.inputs[0].shape[1:]), outputs[output], tuple(nodes))
    _check_weights(model, graph)
    return graph


def weights_of(model: keras.Model, graph: LayerGraph) -> dict[str, npt.NDArray[Any]]:
    """Returns the weights of a model, by ``weight_key`` of the graph's nodes."""
    values = {layer.name: layer.get_weights() for layer in model.layers}
    return {
        weight_key(position, index): values[layer][place]
        for position, node in enumerate(graph.nodes)
        for index, (layer, place) in enumerate(node.sources)
    }


def set_weights(
    model: keras.Model, graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Sets the weights of a model, in the form of ``weights_of``."""
    values = {layer.name: layer.get_weights() for layer in model.layers}
    for position, node in enumerate(graph.nodes):
        for index, (layer, place) in enumerate(node.sources):
            array = weights[weight_key(position, index)]
            values[layer][place] = array.reshape(values[layer][place].shape)
    for layer in model.layers:
        layer.set_weights(values[layer.name])


def weight_key(position: int, index: int) -> str:
    """Names a node's weight among those of a graph: layers may share a name's ending."""
    return f"{position}_{index}"


def _gone_through(node: Node) -> str:
    if node.kind == "Activation":
        return str(node.arguments["activation"])
    return {"Softmax": "softmax", "ReLU": "relu"}.get(node.kind, "linear")


def _names(ends: Any) -> list[str]:
    """Lists the inputs or outputs of a configuration, which has a single one without a list."""
    single = bool(ends) and isinstance(ends[0], str)
    return [end[0] for end in ([ends] if single else ends)]


def _inputs(layer: dict[str, Any]) -> list[str]:
    calls = layer["inbound_nodes"]
    if len(calls) != 1:
        raise ValueError(
            f"layer {layer['name']!r} ({layer['class_name']}) is called {len(calls)} times; only "
            "models whose layers are called once can be optimised"
        )
    return [*_tensors(calls[0]["args"])]


def _tensors(value: Any) -> Iterator[str]:
    """Finds the names of the layers that arguments come from, whatever lists they are in."""
    if isinstance(value, Mapping):
        yield value["config"]["keras_history"][0]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)


def _check_weights(model: keras.Model, graph: LayerGraph) -> None:
    """Raises ValueError for a layer with weights that no node takes, such as those of LoRA."""
    taken = Counter(layer for node in graph.nodes for layer, _ in node.sources)
    for layer in model.layers:
        if len(layer.weights) != taken[layer.name]:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) has {len(layer.weights)} weights, "
                f"expected {taken[layer.name]}"
            )


def _nodes_of(layer: dict[str, Any], inputs: Sequence[str]) -> Iterator[Node]:
    """Divides a layer into a chain of nodes; none for what leaves its input as it is.

    Where there are several, they are called ``<layer>/...``: no layer of Keras 3 has a slash in its
    name, so that the names stay unique.

    Args:
        layer: Its entry in the configuration of a functional model.
        inputs: Names of the nodes that it takes its inputs from.

    Raises:
        ValueError: The layer is not of ``_ARGUMENTS``; the message names it.
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
