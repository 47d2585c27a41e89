"""Prunes trained image networks and trains them quantization-aware, with TFMOT.

TensorFlow Model Optimization takes models of ``tf_keras`` (Keras 2) alone, and importing it
switches the process that does so, and all that it starts, to Keras 2. So it works in a process of
its own, on a copy of the network whose outputs are held against the model's before and after.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.convert import check_model, check_path
from tflite_export.file.description import float_operators
from tflite_export.optimize.job import Job, run
from tflite_export.optimize.layer_graph import LayerGraph, graph_of
from tflite_export.samples import checked_array

if TYPE_CHECKING:
    import keras

_PACKAGES = {
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "tf_keras": "tf_keras",
}


def prune(
    model: keras.Model,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    sparsity: float = 0.5,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    verbose: bool = False,
) -> keras.Model:
    """Prunes a trained network by magnitude while it trains on.

    Pruned are the kernels of Conv2D and Dense layers, and the pointwise ones of SeparableConv2D:
    each gets the same share of zeros, those of its weights with the smallest magnitudes. So do
    layers of sequences, such as Conv1D. Depthwise kernels, which have few weights, biases and
    BatchNorm stay dense. The share rises in the first
    half of the training, fast and then slowly (Zhu and Gupta, arXiv 1710.01878), so that the
    network adapts to it; in the second half it stays.

    A file of the network is no smaller and no faster for it: zeros are stored and multiplied like
    other weights. It becomes smaller when it is compressed.

    Args:
        model: A functional or Sequential classifier of the TensorFlow backend, trained, maybe with
            such models in it. It ends in logits, a softmax or one sigmoid, and is left as it is.
        x: Training samples (n, ...), as the model takes them. Layers that augment them, such as
            RandomFlip, do nothing here.
        y: Their classes, integers (n,).
        sparsity: Share of zeros, more than 0 and less than 1, in each kernel to the nearest weight.
        epochs: Passes over the samples.
        batch_size: Samples of a training step.
        learning_rate: Learning rate of Adam. The loss is the cross-entropy; regularisers and
            constraints play no part, and layers that were frozen (``trainable=False``) are trained
            as well.
        seed: Seed of all random choices. On a CPU the same seed gives the same weights.
        verbose: Whether to print a line for each epoch.

    Returns:
        A new model with the pruned weights, for `convert`.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ModuleNotFoundError: TFMOT or tf_keras is not installed.
        ValueError: An argument does not fit, or the network has a layer that cannot be
            optimised; the message names it.
        RuntimeError: The loss is not finite, or the process that trains dies.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> pixels = keras.Input((4, 4, 1))
        >>> outputs = keras.layers.Dense(2)(keras.layers.Flatten()(pixels))
        >>> model = keras.Model(pixels, outputs)
        >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)
        >>> pruned = prune(model, x, y, sparsity=0.5, epochs=1)
        >>> kernel, bias = pruned.get_weights()
        >>> float((kernel == 0).mean())
        0.5
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be more than 0 and less than 1, not {sparsity}")
    job = _job("prune", model, epochs, batch_size, learning_rate, seed, sparsity)
    samples, labels = _checked_data(model, x, y)
    with tempfile.TemporaryDirectory(prefix="tflite_export-") as folder:
        return run(job, model, samples, labels, Path(folder), verbose)


def train_quantized(
    model: keras.Model,
    path: str | os.PathLike[str],
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    seed: int = 0,
    verbose: bool = False,
) -> keras.Model:
    """Trains a network quantization-aware, with its numbers rounded to 8 bits, and writes the file.

    The network learns to be right in spite of the rounding. Zeros in
    kernels stay zeros, so a network that `prune` returned stays pruned. The file computes in
    8-bit integers throughout; its input and output are float32, the input also of a model that
    takes integers.

    Args:
        model: A classifier of the TensorFlow backend as `prune` takes it, trained, and pruned or
            not. It is left as it is.
        path: Where to write, ending in ``.tflite``, in a folder that exists. The file appears
            whole or not at all, and one that was there before stays if this fails.
        x: Training samples (n, ...); the first 200 are the representative data, too.
        y: Their classes, integers (n,).
        epochs: Passes over the samples.
        batch_size: Samples of a training step.
        learning_rate: Learning rate of Adam. The loss and the layers that are trained are those
            of `prune`.
        seed: Seed of all random choices. On a CPU the same seed gives the same weights.
        verbose: Whether to print a line for each epoch.

    Returns:
        A new model with the trained float weights, the network that the file was made from, to
        `verify` the file against, or to write a float file of.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ModuleNotFoundError: TFMOT or tf_keras is not installed.
        ValueError: An argument or layer does not fit, or an operator of the file stayed float.
        RuntimeError: The loss is not finite, or the process that trains dies.
        OSError: The file cannot be written.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> pixels = keras.Input((4, 4, 1))
        >>> outputs = keras.layers.Dense(2)(keras.layers.Flatten()(pixels))
        >>> model = keras.Model(pixels, outputs)
        >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)
        >>> from tflite_export import describe
        >>> path = "model.int8.tflite"
        >>> trained = train_quantized(model, path, x, y, epochs=1)
        >>> trained.output_shape, describe(path).quantization
        ((None, 2), 'int8')
    """
    path = Path(path)
    check_path(path)
    job = _job("quantize", model, epochs, batch_size, learning_rate, seed)
    samples, labels = _checked_data(model, x, y)
    # Beside the file, which only so can take its place in one step.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        trained = run(job, model, samples, labels, Path(folder), verbose)
        unfinished = Path(folder) / "model.tflite"
        inside = [one for one in float_operators(unfinished) if not one.why.startswith("border")]
        if inside:
            raise ValueError(
                f"model: cannot be quantized throughout: {inside[0].operator} "
                f"({inside[0].output}) stays float32: {inside[0].why}"
            )
        unfinished.replace(path)
    return trained


def check_optimisable(model: keras.Model) -> LayerGraph:
    """Checks that a model can be pruned and trained in 8 bits, and returns its graph.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ModuleNotFoundError: TFMOT or tf_keras is not installed.
        ValueError: The model cannot be converted, or has a layer or an output that cannot be
            optimised.
    """
    check_model(model)
    for module in _PACKAGES:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"pruning and quantisation-aware training need {_PACKAGES[module]}, not installed "
                f"here: pip install {' '.join(_PACKAGES.values())}",
                name=module,
            )
    graph = graph_of(model)
    classes = model.output_shape[-1] > 1 and graph.output_activation in ("linear", "softmax")
    binary = model.output_shape[-1] == 1 and graph.output_activation == "sigmoid"
    if len(model.output_shape) != 2 or not (classes or binary):
        raise ValueError(
            f"model must end in logits or a softmax, (batch, classes), or in one sigmoid: it gives "
            f"{model.output_shape} after {graph.output_activation}"
        )
    return graph


def _job(
    task: str,
    model: keras.Model,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    sparsity: float = 0.0,
) -> Job:
    graph = check_optimisable(model)
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be more than 0, not {learning_rate}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1, not {seed}")
    return Job(task, graph, epochs, batch_size, learning_rate, seed, sparsity)


def _checked_data(
    model: keras.Model, x: npt.ArrayLike, y: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    samples, labels = checked_array(x, model.inputs[0], "x"), np.asarray(y)
    classes = max(2, model.output_shape[-1])  # one sigmoid tells two apart
    if labels.shape == (*samples.shape[:1], 1) and model.output_shape[-1] == 1:
        labels = labels[:, 0]
    if not len(samples):
        raise ValueError("x holds no sample")
    if labels.shape != samples.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"y must be one integer for each of {len(samples)} samples, not {labels.dtype} of "
            f"shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"y goes from {labels.min()} to {labels.max()}, classes from 0 to {classes - 1}"
        )
    return samples.astype(np.float32, copy=False), labels
