"""A functional Keras model as plain data: layers, their inputs, and where each weight belongs.

What another Keras than the one that made the model needs to build it again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tflite_export.layer_nodes import Node, nodes_of

if TYPE_CHECKING:
    import keras

# Layers behind which probabilities are probabilities still.
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
class LayerGraph:
    """A model of one input and one output.

    Attributes:
        input: Name of the input.
        input_shape: Without the batch.
        output: Name of the node whose output is the model's.
        nodes: Each behind those that it takes its inputs from.
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    nodes: tuple[Node, ...]

    @property
    def output_activation(self) -> str:
        """What the output has gone through last: "softmax", "linear", or another activation."""
        nodes = {node.name: node for node in self.nodes}
        last = before = nodes[self.output]
        while before.kind in _KEEPING and before.inputs[0] in nodes:
            before = nodes[before.inputs[0]]
        return "softmax" if _activation(before) == "softmax" else _activation(last)


def layer_graph(model: keras.Model) -> LayerGraph:
    """Reads the graph of a functional model of one input and one output.

    Args:
        model: Of the layers of ``layer_nodes``, channels last, each of them called once.

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
        added = [*nodes_of(layer, inputs)]
        nodes.extend(added)
        outputs[name] = added[-1].name if added else inputs[0]
    graph = LayerGraph(graph_input, tuple(model.inputs[0].shape[1:]), outputs[output], tuple(nodes))
    _check_weights(model, graph)
    return graph


def weights_of(model: keras.Model, graph: LayerGraph) -> dict[str, npt.NDArray[Any]]:
    """The weights of a model, by ``weight_key`` of the graph's nodes."""
    values = {layer.name: layer.get_weights() for layer in model.layers}
    return {
        weight_key(position, index): values[layer][place]
        for position, node in enumerate(graph.nodes)
        for index, (layer, place) in enumerate(node.sources)
    }


def set_weights(
    model: keras.Model, graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Gives a model weights, in the form of ``weights_of``."""
    values = {layer.name: layer.get_weights() for layer in model.layers}
    for position, node in enumerate(graph.nodes):
        for index, (layer, place) in enumerate(node.sources):
            array = weights[weight_key(position, index)]
            values[layer][place] = array.reshape(values[layer][place].shape)
    for layer in model.layers:
        layer.set_weights(values[layer.name])


def weight_key(position: int, index: int) -> str:
    """What a node's weight is called among those of a graph: layers may share a name's ending."""
    return f"{position}_{index}"


def _activation(node: Node) -> str:
    if node.kind == "Activation":
        return str(node.arguments["activation"])
    return {"Softmax": "softmax", "ReLU": "relu"}.get(node.kind, "linear")


def _names(ends: Any) -> list[str]:
    """Of the inputs or outputs of a configuration, which gives a single one without its list."""
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
    """The names of the layers that arguments come from, whatever lists they are in."""
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
