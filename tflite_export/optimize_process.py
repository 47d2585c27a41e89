"""What the process of ``tflite_export.optimize`` does; nothing else imports it."""

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

from tflite_export import quantized_training, tf_keras_model
from tflite_export.optimize_job import DIVERGED, REFUSED, Job, close, outputs_of, save_arrays

# Samples on which the file's ranges, and those that training begins with, are measured.
CALIBRATION = 200

_PRUNED = ("Conv2D", "Dense")

Weights = Mapping[str, npt.NDArray[Any]]


def main() -> None:
    """Does the job of the folder of the command line, and leaves the results there."""
    folder = Path(sys.argv[1])
    # What libraries print goes to the errors: the output is for the progress alone.
    progress = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_starter, args=(folder,), daemon=True).start()
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
    model = tf_keras_model.build(job.graph, weights)
    few = x[: len(expected)]
    if not close(outputs_of(model, few), expected):
        _end(REFUSED, "model: tf_keras computes other outputs than Keras 3 with its weights")
    fit = _fit_function(job, x, y, progress)
    if job.task == "prune":
        optimised = _prune(job, model, len(x), fit)
    else:
        samples = np.array(x[:CALIBRATION])
        quantized = quantized_training.quantize(job.graph, model, samples)
        fit(quantized)
        optimised = quantized_training.float_weights(job.graph, quantized)
        try:
            content = quantized_training.convert(job.graph, quantized, samples)
        except ValueError as error:
            _end(REFUSED, str(error))
        (folder / "model.tflite").write_bytes(content)
    tf_keras_model.set_weights(model, job.graph, optimised)
    np.save(folder / "optimised_outputs.npy", outputs_of(model, few))
    save_arrays(folder / "optimised.npz", optimised)


def _end_with_starter(folder: Path) -> None:
    """Waits for the end of whoever started this process; leaves no copy of the data behind."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _end(status: int, why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    sys.exit(status)


def _fit_function(job: Job, x: npt.NDArray[Any], y: npt.NDArray[Any], progress: Any) -> Any:
    """Training that the tasks share, as a function of a model and further callbacks."""
    import tf_keras

    class Report(tf_keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            # A ReLU, or rounding, hides from the loss that a weight is NaN.
            values = (logs["loss"], *self.model.weights)
            if not all(np.isfinite(value).all() for value in values):
                _end(
                    DIVERGED,
                    f"{job.task}: the loss or a weight became infinite or NaN in epoch "
                    f"{epoch + 1}; lower learning_rate",
                )
            print(
                f"{job.task}: epoch {epoch + 1}/{job.epochs}: loss {logs['loss']:.4f}, "
                f"accuracy {logs['accuracy']:.4f}",
                file=progress,
            )

    def fit(model: Any, *callbacks: Any) -> None:
        model.compile(
            optimizer=tf_keras.optimizers.Adam(job.learning_rate),
            loss=tf_keras.losses.SparseCategoricalCrossentropy(
                from_logits=job.graph.output_activation != "softmax"
            ),
            metrics=["accuracy"],
        )
        model.fit(
            x,
            y,
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
    return tf_keras_model.weights_of({layer.name: layer for layer in stripped.layers}, job.graph)
