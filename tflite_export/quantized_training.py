"""Quantisation-aware training of a ``tf_keras`` model by TFMOT, and the int8 file from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export import tf_keras_model
from tflite_export.layer_graph import LayerGraph
from tflite_export.layer_nodes import Node

# By how much, as a share and at all, ranges may still move when their measuring ends.
_STABLE = 0.1
# The share that TFMOT's moving averages of ranges keep at each step.
_DECAY = 0.999

# What TFMOT has good rules for. Of the others, the outputs are rounded.
_KNOWN = {
    "Activation",
    "Add",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "GlobalAveragePooling2D",
    "ReLU",
    "Softmax",
    "SpatialDropout2D",
}
# What TensorFlow Lite computes without a change of scale. Each gets the range of its input: TFMOT
# leaves most of their outputs alone, so that their ranges come from the conversion, which fails
# behind an Add where they are others.
_SAME_SCALE = (
    "AveragePooling2D",
    "Flatten",
    "GlobalMaxPooling2D",
    "MaxPooling2D",
    "Reshape",
    "ZeroPadding2D",
)
# How the names of the variables begin that hold the range of a layer's output.
_RANGES = ("output", "post_activation", "quantize_layer")

Samples = npt.NDArray[np.float32]


def quantize(graph: LayerGraph, model: Any, samples: Samples) -> Any:
    """A copy of a model that rounds weights and activations to 8 bits, for training.

    Zeros in the kernels of Conv2D and Dense layers stay zeros.

    Args:
        graph: Of the model.
        model: As ``tf_keras_model.build`` returns it.
        samples: (n, ...), on which the ranges are measured that training begins with.

    Returns:
        A ``tf_keras.Model``, not compiled.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as configs,
    )

    nodes = {node.name: node for node in graph.nodes}

    def annotated(layer: Any) -> Any:
        if layer.name not in nodes:
            return layer  # the input
        rule = None if _has_rule(nodes, layer.name) else configs.Default8BitOutputQuantizeConfig()
        return tfmot.quantization.keras.quantize_annotate_layer(layer, rule)

    with tfmot.quantization.keras.quantize_scope():
        quantized = tfmot.quantization.keras.quantize_apply(
            tf_keras.models.clone_model(model, clone_function=annotated),
            tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
        )
    _measure_ranges(quantized, samples)
    return quantized


def float_weights(graph: LayerGraph, quantized: Any) -> dict[str, npt.NDArray[Any]]:
    """The weights that rounding starts from, for ``tf_keras_model.set_weights``."""
    layers = {layer.name.removeprefix("quant_"): layer for layer in quantized.layers}
    return tf_keras_model.weights_of(layers, graph)


def _has_rule(nodes: Mapping[str, Node], name: str) -> bool:
    """Whether TFMOT knows how to quantise a node; BatchNorm only where it folds into a kernel."""
    node = nodes[name]
    if node.kind != "BatchNormalization":
        return node.kind in _KNOWN
    source = node.inputs[0]
    readers = sum(source in other.inputs for other in nodes.values())
    foldable = source in nodes and nodes[source].kind in ("Conv2D", "Dense", "DepthwiseConv2D")
    return foldable and readers == 1


def _measure_ranges(quantized: Any, samples: Samples) -> None:
    """Sets the ranges of activations to those of samples.

    TFMOT begins with -6 to 6 and moves by a thousandth at each step: the few hundred steps of a
    short training would end with about the same. Outputs that are clipped narrow the ranges of the
    layers behind: each pass opens one more layer, where values are beyond those of its beginning.
    """
    ends = ("output_min:0", "output_max:0", "activation_min:0", "activation_max:0")
    ranges = [one for one in quantized.weights if one.name.endswith(ends)]
    others = {one.ref() for one in quantized.weights} - {one.ref() for one in ranges}
    saved = [(reference.deref(), reference.deref().numpy()) for reference in others]
    for _ in ranges[::2]:  # each layer has two ends
        before = [one.numpy() for one in ranges]
        quantized(samples, training=True)
        for one, old in zip(ranges, before, strict=True):
            one.assign((one.numpy() - _DECAY * old) / (1 - _DECAY))
        after = [one.numpy() for one in ranges]
        if np.allclose(before, after, rtol=_STABLE, atol=_STABLE):
            break
    for variable, value in saved:  # BatchNorm has moved its statistics
        variable.assign(value)


def _tie_ranges(graph: LayerGraph, quantized: Any) -> None:
    """Gives what computes without a change of scale the range of its input for its output."""
    ranges: dict[str, list[Any]] = {}
    for layer in quantized.layers:
        ends = [
            variable
            for variable in layer.weights
            if variable.name.rsplit("/", 1)[-1].startswith(_RANGES)
        ]
        if ends:  # the least and the largest value, in this order
            is_input = layer.name.startswith("quantize_layer")
            ranges[graph.input if is_input else layer.name.removeprefix("quant_")] = ends
    for node in graph.nodes:
        source = ranges.get(node.inputs[0])
        if node.kind in ("Dropout", "SpatialDropout2D") and source:
            ranges[node.name] = source
        elif node.kind in _SAME_SCALE and source:
            for end, value in zip(ranges[node.name], source, strict=True):
                end.assign(value)


def convert(graph: LayerGraph, quantized: Any, samples: Samples) -> bytes:
    """The content of an int8 file for one sample at a time, with float32 input and output.

    Args:
        graph: Of the model that ``quantized`` was made from.
        quantized: Trained.
        samples: (n, ...), on which the remaining ranges are measured.

    Raises:
        ValueError: TensorFlow Lite has no integer operator for something.
    """
    import tensorflow as tf

    _tie_ranges(graph, quantized)
    signature = tf.TensorSpec((1, *graph.input_shape), tf.float32, name=graph.input)
    function = tf.function(lambda sample: quantized(sample, training=False))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(signature)], quantized
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Training has measured most ranges. Without the others, such as that of a sigmoid inside a
    # swish, operators would stay float.
    converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        content: bytes = converter.convert()
    except Exception as error:  # the converter has no common base class for its errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"model: TensorFlow Lite cannot quantise it throughout: {reason}"
        ) from error
    return content
