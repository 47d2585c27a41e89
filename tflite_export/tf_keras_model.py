"""A ``LayerGraph`` as a model of ``tf_keras``, for processes that may load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.layer_graph import LayerGraph, weight_key

# What the variables of a layer are called, in the order of `get_weights` of both Keras.
_VARIABLES = {
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "DepthwiseConv2D": ("depthwise_kernel", "bias"),
}


def build(graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Builds a ``tf_keras.Model`` with the names of the graph's nodes, and sets its weights."""
    import tf_keras

    source = tf_keras.Input(graph.input_shape, name=graph.input)
    tensors = {graph.input: source}
    for node in graph.nodes:
        layer = getattr(tf_keras.layers, node.kind)(name=node.name, **node.arguments)
        inputs = [tensors[name] for name in node.inputs]
        tensors[node.name] = layer(inputs if len(inputs) > 1 else inputs[0])
    model = tf_keras.Model(source, tensors[graph.output])
    set_weights(model, graph, weights)
    return model


def set_weights(model: Any, graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Gives a model of ``build`` weights, in the form of ``layer_graph.weights_of``."""
    for position, node in enumerate(graph.nodes):
        layer = model.get_layer(node.name)
        layer.set_weights(
            [weights[weight_key(position, index)] for index in range(len(node.sources))]
        )


def weights_of(layers: Mapping[str, Any], graph: LayerGraph) -> dict[str, npt.NDArray[Any]]:
    """The weights of layers, by the names of their nodes, in the form of ``set_weights``.

    Args:
        layers: By the nodes' names; they may have more variables than those of the node, and the
            names of theirs end in the usual ones.
        graph: Of the nodes.

    Returns:
        Arrays by ``weight_key``.
    """
    weights = {}
    for position, node in enumerate(graph.nodes):
        if not node.sources:
            continue
        found = {
            variable.name.split(":")[0].rsplit("/", 1)[-1]: variable
            for variable in layers[node.name].weights
        }
        names = [name for name in _VARIABLES[node.kind] if name in found]
        if len(names) != len(node.sources):
            raise ValueError(f"layer {node.name!r} ({node.kind}) has the weights {[*found]}")
        for index, name in enumerate(names):
            weights[weight_key(position, index)] = np.asarray(found[name])
    return weights
