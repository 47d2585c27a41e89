"""What quantisation-aware training and pruning buy over training on in float32 for as long.

Each network is trained on from the same weights, on the same images without augmentation, and
converted to int8. What a file gains over the model's own int8 file can come from the epochs alone;
the row `float32` has them and nothing else. Accuracies are of all test images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from tflite_export.file.description import describe
from tflite_export.runtime import native_output_silenced

_CALIBRATION = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains on, converts and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/training_on.py shrinkcnn.keras --epochs 3 --seeds 0 1 2",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="trained on CIFAR-10")
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps its data")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        from keras_autoshrink.data.images import load_images

        data = load_images("cifar10", purpose="train", data_dir=options.data_dir)
    model = tflite_export.load_model(options.model)
    x, y, calibration = data.train.x, data.train.y, data.train.x[:_CALIBRATION]
    more: dict[str, Any] = {"epochs": options.epochs, "verbose": True}

    def post_training(trained: Any, path: Path) -> Any:
        tflite_export.convert(trained, path, "int8", calibration)
        return trained

    def quantized(trained: Any, path: Path, seed: int) -> Any:
        return tflite_export.train_quantized(trained, path, x, y, seed=seed, **more)

    def pruned(seed: int) -> Any:
        return tflite_export.prune(model, x, y, options.sparsity, seed=seed, **more)

    share = f"{options.sparsity:.0%} pruned"
    runs: dict[str, Callable[[Path, int], Any]] = {
        "the model": lambda path, seed: post_training(model, path),
        "float32, Adam 1e-4": lambda path, seed: post_training(
            train_on(model, x, y, 1e-4, options.epochs, seed), path
        ),
        "QAT, Adam 1e-4": lambda path, seed: quantized(model, path, seed),
        "float32, Adam 1e-3": lambda path, seed: post_training(
            train_on(model, x, y, 1e-3, options.epochs, seed), path
        ),
        f"{share}, Adam 1e-3": lambda path, seed: post_training(pruned(seed), path),
    }
    table = Table(box=box.SIMPLE_HEAD, title=f"{options.epochs} more epochs, seeds {options.seeds}")
    for heading in ("trained on in", "accuracy, float32", "accuracy, int8", "bytes by gzip"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        for name, run in runs.items():
            results = []
            for seed in options.seeds[: 1 if name == "the model" else None]:
                trained = run(path, seed)
                agreement = tflite_export.verify(trained, path, data.test.x, data.test.y)
                size = describe(path).gzip_bytes
                results.append((agreement.model_accuracy, agreement.file_accuracy, size))
                print(f"{name}, seed {seed}: {results[-1]}", flush=True)
            floats, ints, sizes = zip(*results, strict=True)
            table.add_row(name, _spread(floats), _spread(ints), f"{statistics.mean(sizes):,.0f}")
    Console(width=100, highlight=False).print(table)
    return 0


def train_on(model: Any, x: Any, y: Any, learning_rate: float, epochs: int, seed: int) -> Any:
    """A copy of a model, trained on as `tflite_export.prune` trains, without the pruning."""
    import keras

    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    copy.compile(keras.optimizers.Adam(learning_rate), loss)
    copy.fit(x, y, batch_size=32, epochs=epochs, verbose=2)
    return copy


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
