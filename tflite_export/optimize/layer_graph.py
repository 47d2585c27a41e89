"""Describes functional Keras models as plain data, from which another Keras can build them.

Layers that do two things are divided: an activation stands by itself, and a separable convolution
is a depthwise and a pointwise one. Layers of sequences are those of images one pixel wide, models
within the model are spread out, and what only augments images is left out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
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

# Layers of sequences, and what they are of images.
_SEQUENCES = {
    "AveragePooling1D": "AveragePooling2D",
    "Conv1D": "Conv2D",
    "DepthwiseConv1D": "DepthwiseConv2D",
    "GlobalAveragePooling1D": "GlobalAveragePooling2D",
    "GlobalMaxPooling1D": "GlobalMaxPooling2D",
    "MaxPooling1D": "MaxPooling2D",
    "SeparableConv1D": "SeparableConv2D",
    "SpatialDropout1D": "SpatialDropout2D",
    "ZeroPadding1D": "ZeroPadding2D",
}
# Those that may come between, on images one pixel wide as on sequences.
_EITHER = ("Activation", "BatchNormalization", "Dropout", "ReLU")

# Layers that leave their input as it is but for in training; other names begin with "Random".
_AUGMENTING = (
    "ActivityRegularization",
    "AlphaDropout",
    "AugMix",
    "CutMix",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "MixUp",
    "RandAugment",
)
_NOT_AUGMENTING = ("RandomCrop",)  # it crops at inference, too

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
    """Reads the graph of a functional or Sequential model of one input and one output.

    Args:
        model: A model of layers of ``_ARGUMENTS``, channels last, each of them called once, and of
            such models.

    Raises:
        ValueError: The model is of another kind, or has a layer that is not among these or is
            called more than once; the message names it.
    """
    nodes: list[Node] = []
    source = model.inputs[0].name if hasattr(model, "inputs") else ""
    output = _spread(model, "", source, nodes, {})
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    nodes = [node for node in nodes if node.name in needed]
    graph = LayerGraph(source, tuple(model.inputs[0].shape[1:]), output, tuple(nodes))
    _check_weights(model, graph)
    return graph


def _spread(
    model: keras.Model, prefix: str, source: str, nodes: list[Node], wide: dict[str, str]
) -> str:
    """Adds the nodes of a model to those of the model that it is in.

    Args:
        model: A model of one input and one output.
        prefix: What the names of its nodes begin with.
        source: The node that gives its input.
        nodes: The nodes before it, to which its own are added.
        wide: Of each sequence that comes from an image one pixel wide, the node of that image.

    Returns:
        The node that gives its output.
    """
    import keras

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
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
    outputs = {graph_input: source}  # the node that gives the output of each layer
    for layer in layers:
        if layer["class_name"] == "InputLayer":
            continue
        name, kind = layer["name"], layer["class_name"]
        inputs = [outputs[one] for one in _inputs(layer)]
        # That of an operation of keras.ops is no layer.
        own = next((one for one in model.layers if one.name == name), None)
        if isinstance(own, keras.Model):
            outputs[name] = _spread(own, f"{prefix}{name}/", inputs[0], nodes, wide)
            continue
        if layer.get("module") == "keras.layers" and _only_augments(kind):
            added = []
        elif kind == "Normalization" and layer.get("module") == "keras.layers":
            added = [_rescaling(f"{prefix}{name}", own, inputs)]
        else:
            named = {**layer, "name": f"{prefix}{name}"}
            if kind in _SEQUENCES or (kind in _EITHER and inputs[0] in wide):
                added = [*_nodes_of_sequence(named, inputs, wide)]
            else:
                added = [*_nodes_of(named, inputs)]
        nodes.extend(added)
        outputs[name] = added[-1].name if added else inputs[0]
    return outputs[output]


def _only_augments(kind: str) -> bool:
    begins = kind.startswith("Random") and kind not in _NOT_AUGMENTING
    return begins or kind in _AUGMENTING


def _rescaling(name: str, layer: Any, inputs: Sequence[str]) -> Node:
    """Describes a Normalization layer by the numbers that it has been adapted to."""
    import keras

    mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, offset = 1 / deviation, -mean / deviation
    if layer.invert:
        scale, offset = deviation, mean
    arguments = {"scale": scale.tolist(), "offset": offset.tolist()}
    return Node(name, "Rescaling", arguments, tuple(inputs), ())


def _nodes_of_sequence(
    layer: dict[str, Any], inputs: Sequence[str], wide: dict[str, str]
) -> Iterator[Node]:
    """Divides a layer of sequences, (steps, channels), as one of images, (steps, 1, channels)."""
    name, kind, config = layer["name"], layer["class_name"], dict(layer["config"])
    channels = layer["inbound_nodes"][0]["args"][0]["config"]["shape"][-1]
    source = wide.get(inputs[0])
    if source is None:
        source = f"{name}/wide"
        yield Node(source, "Reshape", {"target_shape": (-1, 1, channels)}, (inputs[0],), ())
    for key in ("kernel_size", "dilation_rate", "pool_size"):
        if key in config:
            config[key] = (*config[key], 1)
    if config.get("strides"):
        # Of an image one pixel wide, whatever its stride; depthwise kernels take equal ones.
        config["strides"] = (*config["strides"], *config["strides"])
    if kind == "ZeroPadding1D":
        config["padding"] = (tuple(config["padding"]), (0, 0))
    elif config.get("padding") == "causal":
        before = (config["kernel_size"][0] - 1) * config["dilation_rate"][0]
        padding = {"padding": ((before, 0), (0, 0))}
        yield Node(f"{name}/causal", "ZeroPadding2D", padding, (source,), ())
        source, config["padding"] = f"{name}/causal", "valid"
    if kind == "BatchNormalization":
        config["axis"] = -1 if config["axis"] in (-1, 2) else config["axis"]
    image = {**layer, "class_name": _SEQUENCES.get(kind, kind), "config": config}
    added = [*_nodes_of(image, [source])]
    yield from added
    # A pool over all steps leaves no sequence.
    if kind.startswith("Global") and not config["keepdims"]:
        return
    if kind in ("Conv1D", "SeparableConv1D"):
        channels = config["filters"]
    elif kind == "DepthwiseConv1D":
        channels *= config["depth_multiplier"]
    wide[f"{name}/narrow"] = added[-1].name
    narrow = {"target_shape": (-1, channels)}
    yield Node(f"{name}/narrow", "Reshape", narrow, (added[-1].name,), ())


def weights_of(model: keras.Model, graph: LayerGraph) -> dict[str, npt.NDArray[Any]]:
    """Returns the weights of a model, by ``weight_key`` of the graph's nodes."""
    values = {name: layer.get_weights() for name, layer in _layers(model)}
    return {
        weight_key(position, index): values[layer][place]
        for position, node in enumerate(graph.nodes)
        for index, (layer, place) in enumerate(node.sources)
    }


def set_weights(
    model: keras.Model, graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Sets the weights of a model, in the form of ``weights_of``."""
    values = {name: layer.get_weights() for name, layer in _layers(model)}
    for position, node in enumerate(graph.nodes):
        for index, (layer, place) in enumerate(node.sources):
            array = weights[weight_key(position, index)]
            values[layer][place] = array.reshape(values[layer][place].shape)
    for name, layer in _layers(model):
        layer.set_weights(values[name])
        if hasattr(layer, "finalize_state"):  # Normalization computes by copies of its weights
            layer.finalize_state()


def _layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the layers of a model and of those in it, each with the name of its node."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer, f"{prefix}{layer.name}/")
        else:
            yield f"{prefix}{layer.name}", layer


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
    for name, layer in _layers(model):
        if len(layer.weights) != taken[name] and type(layer).__name__ != "Normalization":
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) has {len(layer.weights)} weights, "
                f"expected {taken[name]}"
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
            f"{where} cannot be optimised: known are Normalization, SeparableConv2D, "
            f"{', '.join([*_ARGUMENTS, *_SEQUENCES])}, and layers that augment"
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
