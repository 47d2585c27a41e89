"""Prunes or trains a ``tf_keras`` copy of a network, in the process that ``job.run`` starts."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tflite_export.optimize.job import DIVERGED, REFUSED, Job, close, outputs_of, save_arrays
from tflite_export.optimize.layer_graph import LayerGraph, Node, weight_key

# Samples on which the file's ranges, and those that training begins with, are measured.
CALIBRATION = 200

_PRUNED = ("Conv2D", "Dense")

_REMEDY = "lower learning_rate"

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

# What the variables of a layer are called, in the order of `get_weights` of both Keras.
_VARIABLES = {
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "DepthwiseConv2D": ("depthwise_kernel", "bias"),
}

Weights = Mapping[str, npt.NDArray[Any]]
Samples = npt.NDArray[np.float32]


def main() -> None:
    """Does the job in the folder of the command line, and writes the results there."""
    folder = Path(sys.argv[1])
    # What libraries print goes to the errors: the output is for the progress alone.
    progress = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    job = Job.from_json((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    expected = np.load(folder / "outputs.npy")

    import tensorflow as tf
    import tf_keras

    if not tf.config.list_physical_devices("GPU"):  # which lack some operators of that kind
        tf.config.experimental.enable_op_determinism()
    tf_keras.utils.set_random_seed(job.seed)
    model = _build(job.graph, weights)
    few = x[: len(expected)]
    if not close(outputs_of(model, few), expected):
        _end(REFUSED, "model: tf_keras computes other outputs than Keras 3 with its weights")
    fit = _fit_function(job, x, y, progress)
    if job.task == "prune":
        optimised = _prune(job, model, len(x), fit)
    else:
        samples = np.array(x[:CALIBRATION])
        quantized = _quantize(job.graph, model, samples)
        fit(quantized, _keep_zeros(quantized))
        optimised = _float_weights(job.graph, quantized)
        try:
            content = _convert(job.graph, quantized, samples)
        except ValueError as error:
            _end(REFUSED, str(error))
        (folder / "model.tflite").write_bytes(content)
    _set_weights(model, job.graph, optimised)
    outputs = outputs_of(model, few)
    if not np.isfinite(outputs).all():  # of weights that are finite, but far too large
        _end(DIVERGED, f"{job.task}: the trained network gives NaN or infinity; {_REMEDY}")
    np.save(folder / "optimised_outputs.npy", outputs)
    save_arrays(folder / "optimised.npz", optimised)


def _end_with_parent(folder: Path) -> None:
    """Ends this process with the one that started it, and removes the copy of the data."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _end(status: int, why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    sys.exit(status)


def _fit_function(job: Job, x: npt.NDArray[Any], y: npt.NDArray[Any], progress: Any) -> Any:
    """Makes the training of both tasks, a function of a model and further callbacks."""
    import tf_keras

    class Report(tf_keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            # A ReLU, or rounding, hides from the loss that a weight is NaN.
            values = (logs["loss"], *self.model.weights)
            if not all(np.isfinite(value).all() for value in values):
                _end(
                    DIVERGED,
                    f"{job.task}: the loss or a weight became infinite or NaN in epoch "
                    f"{epoch + 1}; {_REMEDY}",
                )
            print(
                f"{job.task}: epoch {epoch + 1}/{job.epochs}: loss {logs['loss']:.4f}, "
                f"accuracy {logs['accuracy']:.4f}",
                file=progress,
            )

    def fit(model: Any, *callbacks: Any) -> None:
        if job.graph.output_activation == "sigmoid":
            loss = tf_keras.losses.BinaryCrossentropy()
        else:
            loss = tf_keras.losses.SparseCategoricalCrossentropy(
                from_logits=job.graph.output_activation != "softmax"
            )
        model.compile(
            optimizer=tf_keras.optimizers.Adam(job.learning_rate), loss=loss, metrics=["accuracy"]
        )
        model.fit(
            x,
            y[:, np.newaxis],
            batch_size=job.batch_size,
            epochs=job.epochs,
            callbacks=[*callbacks, Report()],
            verbose=0,
        )

    return fit


def _prune(job: Job, model: Any, num_samples: int, fit: Any) -> Weights:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    steps = -(-num_samples // job.batch_size) * job.epochs
    half = max(1, steps // 2)
    # Sorting all weights takes time: not at every step. The schedule ends with the last one.
    every = max(1, half // 50)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=job.sparsity,
        begin_step=0,
        end_step=half - half % every,
        frequency=every,
    )

    def wrapped(layer: Any) -> Any:
        if type(layer).__name__ not in _PRUNED:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    pruned = tf_keras.models.clone_model(model, clone_function=wrapped)
    fit(pruned, tfmot.sparsity.keras.UpdatePruningStep())
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    return _weights_of({layer.name: layer for layer in stripped.layers}, job.graph)


def _quantize(graph: LayerGraph, model: Any, samples: Samples) -> Any:
    """Copies a model with weights and activations rounded to 8 bits, for training.

    Args:
        graph: The model's graph.
        model: The model, see ``_build``.
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
            tf_keras.models.clone_model(model, clone_function=annotated)
        )
    _measure_ranges(quantized, samples)
    return quantized


def _keep_zeros(quantized: Any) -> Any:
    """Makes a callback by which what is zero in a kernel stays zero in a training.

    TFMOT's scheme for pruned networks forgets the kernels of convolutions that a ReLU follows.
    """
    import tf_keras

    masks = [
        (weight, mask)
        for weight in quantized.trainable_weights
        if "kernel" in weight.name and not (mask := weight.numpy() != 0).all()
    ]

    def apply(*_: Any) -> None:
        for weight, mask in masks:
            weight.assign(weight * mask)

    return tf_keras.callbacks.LambdaCallback(on_train_batch_end=apply)


def _float_weights(graph: LayerGraph, quantized: Any) -> dict[str, npt.NDArray[Any]]:
    """Returns the float weights of a copy that rounds them, for ``_set_weights``."""
    layers = {layer.name.removeprefix("quant_"): layer for layer in quantized.layers}
    return _weights_of(layers, graph)


def _has_rule(nodes: Mapping[str, Node], name: str) -> bool:
    """Returns whether TFMOT can quantise a node; BatchNorm only where it folds into a kernel."""
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
    """Sets the output ranges of layers that keep the scale to those of their inputs."""
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


def _convert(graph: LayerGraph, quantized: Any, samples: Samples) -> bytes:
    """Converts a trained copy to an int8 file for one sample at a time, with float32 ends.

    Args:
        graph: The graph of the model that ``quantized`` was made from.
        quantized: The trained copy.
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


def _build(graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Builds a ``tf_keras.Model`` with the names of the graph's nodes, and sets its weights."""
    import tf_keras

    source = tf_keras.Input(graph.input_shape, name=graph.input)
    tensors = {graph.input: source}
    for node in graph.nodes:
        layer = getattr(tf_keras.layers, node.kind)(name=node.name, **node.arguments)
        inputs = [tensors[name] for name in node.inputs]
        tensors[node.name] = layer(inputs if len(inputs) > 1 else inputs[0])
    model = tf_keras.Model(source, tensors[graph.output])
    _set_weights(model, graph, weights)
    return model


def _set_weights(model: Any, graph: LayerGraph, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Sets the weights of a model of ``_build``, in the form of ``layer_graph.weights_of``."""
    for position, node in enumerate(graph.nodes):
        layer = model.get_layer(node.name)
        shapes = [weight.shape for weight in layer.get_weights()]
        layer.set_weights(
            [
                weights[weight_key(position, index)].reshape(shape)  # of a sequence's, one wide
                for index, shape in enumerate(shapes)
            ]
        )


def _weights_of(layers: Mapping[str, Any], graph: LayerGraph) -> dict[str, npt.NDArray[Any]]:
    """Collects the weights of layers, in the form of ``_set_weights``.

    Args:
        layers: The layers by the names of their nodes; they may have further variables.
        graph: The nodes' graph.

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
