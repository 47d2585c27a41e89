"""Networks of one latency: cells, and a stack of MobileNetV2's blocks, trained alike, compared.

Each network gets the width at which its float32 file is nearest to the latency asked for, with
LiteRT on one thread of this machine. Accuracies are of all test images, measured once, at the end
of a training. Trainings that have ended are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
import tflite_export
from tflite_export.runtime import native_output_silenced

_MOBILENET = "mobilenetv2-style"
_WIDTHS = [hundredths / 100 for hundredths in range(10, 400, 5)]
_PASSES, _RUNS = 9, 50

Build = Callable[[float], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits the widths, trains, measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/equal_latency.py latency=runs/latency macs=runs/macs "
        "--latency-ms 0.3 --epochs 5 --seeds 0 1",
    )
    parser.add_argument(
        "cells", nargs="+", metavar="NAME=CELL", help="a search's folder, a .json, or shrinkcnn"
    )
    parser.add_argument("--latency-ms", type=float, required=True)
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--directory", type=Path, default=Path("runs/equal_latency"))
    options = parser.parse_args(arguments)
    named = dict(cell.partition("=")[::2] for cell in options.cells)
    if len(named) < len(options.cells) or not all(named.values()):
        parser.error("cells: give NAME=CELL, each NAME once")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    options.directory.mkdir(parents=True, exist_ok=True)
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        from keras_autoshrink.data.images import load_images
        from keras_autoshrink.report.saved_search import read_cell
        from keras_autoshrink.training.classifier import architecture

        data = load_images("cifar10", purpose="train", data_dir=options.data_dir)
    builds: dict[str, Build] = {_MOBILENET: mobilenet_stack}
    for name, path in named.items():
        cell = read_cell(Path(path))
        builds[name] = functools.partial(_shrinkcnn, cell, architecture(data))
    with tempfile.TemporaryDirectory() as folder:
        paths, widths = {}, {}
        for name, build in builds.items():
            paths[name], widths[name] = fit_width(build, options.latency_ms, Path(folder) / name)
            print(f"{name}: width {widths[name]}", flush=True)
        latencies = measure(list(paths.values()))
    accuracies: dict[str, list[float]] = {name: [] for name in builds}
    # Seed by seed, so that what there is after an interruption can be compared.
    for seed in options.seeds:
        for name, build in builds.items():
            facts = {"name": name, "width": widths[name], "epochs": options.epochs, "seed": seed}
            path = options.directory / f"{name}-{seed}.json"
            if not path.exists() or json.loads(path.read_text())["training"] != facts:
                started = time.monotonic()
                accuracy = train(functools.partial(build, widths[name]), data, options.epochs, seed)
                path.write_text(json.dumps({"training": facts, "test_accuracy": accuracy}))
                print(f"{name}: {accuracy:.4f}, {time.monotonic() - started:.0f} s", flush=True)
            accuracies[name].append(json.loads(path.read_text())["test_accuracy"])
    models = {name: build(widths[name]) for name, build in builds.items()}
    rows = zip(models, latencies, strict=True)
    Console(width=120, highlight=False).print(
        _table([(name, widths[name], models[name], ms, accuracies[name]) for name, ms in rows])
    )
    return 0


def _shrinkcnn(cell: kas.Cell, architecture: dict[str, Any], width: float) -> Any:
    return kas.ShrinkCNN(cell, width=width, batchnorm_momentum=0.9, **architecture)


def mobilenet_stack(width: float, input_shape: tuple[int, int, int] = (32, 32, 3)) -> Any:
    """Stacks inverted residuals (Sandler et al., arXiv 1801.04381, table 1) in our stages.

    A stem of 32 filters, three stages of two blocks, 16, 32 and 64 filters, strides 1, 2 and 2,
    expansion 6, times the width; no head convolution, as in the ShrinkCNN for small images.
    """
    from keras import Input, Model, layers

    def normed(x: Any, layer: Any, activation: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=0.9)(layer(x))
        return layers.ReLU(6.0)(x) if activation else x

    def convolution(filters: int, size: int) -> Any:
        return layers.Conv2D(filters, size, padding="same", use_bias=False)

    def rounded(filters: float) -> int:
        return 4 * max(1, round(filters * width / 4))

    inputs = Input(input_shape)
    x = normed(inputs, convolution(rounded(32), 3))
    for filters, stage_stride in ((16, 1), (32, 2), (64, 2)):
        for stride in (stage_stride, 1):
            shortcut = x
            x = normed(x, convolution(6 * x.shape[-1], 1))
            depthwise = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)
            x = normed(x, depthwise)
            x = normed(x, convolution(rounded(filters), 1), activation=False)
            if x.shape == shortcut.shape:
                x = layers.Add()([x, shortcut])
    x = layers.GlobalAveragePooling2D()(x)
    return Model(inputs, layers.Dense(10)(x), name="mobilenetv2_style")


def fit_width(build: Build, latency_ms: float, stem: Path) -> tuple[Path, float]:
    """Finds the file, and the width, whose latency is nearest to what is asked for."""
    measured: dict[int, tuple[float, Path]] = {}

    def latency(index: int) -> float:
        if index not in measured:
            path = stem.with_name(f"{stem.name}-{_WIDTHS[index]}.tflite")
            tflite_export.convert(build(_WIDTHS[index]), path)
            measured[index] = measure([path])[0][0], path
        return measured[index][0]

    low, high = 0, len(_WIDTHS) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if latency(middle) < latency_ms else (low, middle)
    latency(low), latency(high)
    best = min(measured, key=lambda index: abs(measured[index][0] - latency_ms))
    return measured[best][1], _WIDTHS[best]


def measure(paths: Sequence[Path]) -> list[tuple[float, float]]:
    """Takes the smallest of each file's medians of passes, in ms, and the median one over it.

    What else a machine does can only add time, so the smallest is the nearest to the file's own;
    in every pass each file has its turn.
    """
    passes: list[list[float]] = [[] for _ in paths]
    for _ in range(_PASSES):
        for medians, path in zip(passes, paths, strict=True):
            medians.append(tflite_export.benchmark(path, runs=_RUNS).median_ms)
    return [(min(medians), statistics.median(medians) / min(medians)) for medians in passes]


def train(build: Callable[[], Any], data: Any, epochs: int, seed: int) -> float:
    """Trains a network by the recipe `cifar10` and returns its test accuracy."""
    import keras

    from keras_autoshrink.data import augmentation, streams
    from keras_autoshrink.training.classifier import compile_classifier
    from keras_autoshrink.training.recipes import RECIPES

    recipe = dataclasses.replace(RECIPES["cifar10"], epochs=epochs)
    keras.utils.set_random_seed(seed)
    model = build()
    recipe.regularise(model)
    steps = len(data.train) // recipe.batch_size
    optimizer = recipe.build_optimizer(epochs * steps)
    compile_classifier(model, optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    images = streams.from_arrays(data)
    batches = augmentation.training_batches(
        images, recipe.augmentation, recipe.batch_size, range(epochs), seed
    )
    model.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=2)
    test = augmentation.evaluation_batches(images, images.test, recipe.batch_size)
    return float(model.evaluate(test, verbose=0, return_dict=True)["accuracy"])


def _table(rows: list[tuple[str, float, Any, tuple[float, float], list[float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="CIFAR-10, 10,000 test images")
    headings = ("network", "width", "MACs", "params", "ms, 1 thread", "median pass", "accuracy")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, width, model, (ms, noise), accuracies in rows:
        spread = f" ± {statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
        table.add_row(
            name,
            f"{width:.2f}",
            f"{kas.count_macs(model):,}",
            f"{kas.count_params(model):,}",
            f"{ms:.3f}",
            f"{noise - 1:+.0%}",
            f"{statistics.mean(accuracies):.4f}{spread}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
