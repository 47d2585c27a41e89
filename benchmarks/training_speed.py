"""Measures how fast a machine's CPUs train a small network, and where a training step's time goes.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --first-step
    python benchmarks/training_speed.py --profile

The network is of separable convolutions, up to 4.5M multiply-accumulates for an image of 32x32x3.
"Ours" is the same Keras model after `accelerate` (see `keras_autoshrink/training/step.py`), and
"PyTorch" the same network with the same weights: the script fails if the losses of the first step
differ.

Without an option, it counts the images that the whole machine trains in a second: by one process
that uses all CPUs, and by one model for each CPU at the same time. `--first-step` times the first
training step of the complete cell in a search of scikit-learn's digits, most of which TensorFlow
spends on tracing. `--profile` splits a step on one thread into its operations, and compares their
speed with that of a large matrix product. All arrangements run by turns, each in fresh processes.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

KERAS, OURS, TORCH = "Keras fit", "ours", "PyTorch"
CPUS = os.cpu_count() or 1

TARGET_MACS = 4_500_000
BATCH_SIZE = 128
LEARNING_RATE = 4e-3
# By which losses of the first step may differ: each kernel adds up in an order of its own.
LOSS_TOLERANCE = 1e-4
# Rows of a profile before the rest.
TOP = 14

# Trains on the first so many images for so many epochs; returns the mean loss of the first epoch.
Train = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How a machine's CPUs are put to work.

    Args:
        trainer: `KERAS`, `OURS` or `TORCH`.
        processes: that train at the same time.
        models: that each process trains at the same time, each in a Python thread.
        threads: of one operation; 0 leaves them to the framework, which takes all CPUs.
    """

    trainer: str
    processes: int = 1
    models: int = 1
    threads: int = 0


ARRANGEMENTS = {
    "Keras fit": Arrangement(KERAS),
    "ours, one process": Arrangement(OURS),
    "ours, one candidate per core": Arrangement(OURS, processes=CPUS, threads=1),
    "ours, one candidate per core, in threads": Arrangement(OURS, models=CPUS, threads=1),
    "PyTorch float32, one process": Arrangement(TORCH),
    "PyTorch float32, one process per core": Arrangement(TORCH, processes=CPUS, threads=1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if the losses of the first step differ."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/training_speed.py --turns 1 --images 256 --epochs 1",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--first-step", action="store_true", help="time the first training step")
    mode.add_argument("--profile", action="store_true", help="split a step into its operations")
    parser.add_argument("--turns", type=int, default=5, help="of each arrangement; a profile has 1")
    parser.add_argument("--images", type=int, default=2560, help="in an epoch; a multiple of 128")
    parser.add_argument("--epochs", type=int, default=3, help="measured, after one to warm up")
    parser.add_argument("--skip-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("turns", "images", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected 1 or more")
    if options.images % BATCH_SIZE:  # TensorFlow would trace a smaller last batch by itself
        parser.error(f"--images {options.images}: expected a multiple of {BATCH_SIZE}")
    # The processes that this one starts inherit them; TensorFlow and Keras read them when imported.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if options.first_step:
        return time_first_step(options) if options.one else compare_first_steps(options, given)
    if options.profile:
        return profile_step(options) if options.one else compare_profiles(given)
    return train(options) if options.one else compare_speeds(options, given)


# ---- images per second --------------------------------------------------------------------------


def compare_speeds(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Prints how many images a second each arrangement trains; returns the exit status."""
    console = Console(width=110, highlight=False)
    without_torch = options.skip_torch
    if not without_torch and importlib.util.find_spec("torch") is None:
        console.print("PyTorch is not installed here: its rows are left out.")
        without_torch = True
    names = [n for n, a in ARRANGEMENTS.items() if not (without_torch and a.trainer == TORCH)]
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.turns):
        losses = {}
        for name in names:
            speed, loss = _measure_speed(name, options, given)
            speeds[name].append(speed)
            losses.setdefault(ARRANGEMENTS[name].trainer, loss)
        if turn == 0:
            listed = ", ".join(f"{trainer} {loss:.6f}" for trainer, loss in losses.items())
            console.print(f"Loss of the first step: {listed}")
            if not max(losses.values()) - min(losses.values()) <= LOSS_TOLERANCE:  # nor NaN
                console.print(f"THE LOSSES DIFFER by more than {LOSS_TOLERANCE}")
                return 1
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{CPUS} CPUs, batches of {BATCH_SIZE}, {options.epochs} epochs of {options.images} "
        f"images; median (range) of {options.turns} turns",
    )
    for heading in ("", "images/s", "to the first"):
        table.add_column(heading, justify="right" if heading else "left")
    first = statistics.median(speeds[names[0]])
    for name in names:
        ratio = statistics.median(speeds[name]) / first
        table.add_row(name, _spread(speeds[name], ",.0f"), f"{ratio:.2f}")
    console.print(table)
    return 0


def _measure_speed(
    name: str, options: argparse.Namespace, given: Sequence[str]
) -> tuple[float, float]:
    """Returns an arrangement's images per second, all processes together, and its first loss."""
    arrangement = ARRANGEMENTS[name]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_start(name, given)) for _ in range(arrangement.processes)
        ]
        losses = [_answer(process) for process in processes]  # all have warmed up
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        seconds = [_answer(process) for process in processes]
    trained = options.images * options.epochs * arrangement.processes * arrangement.models
    return trained / max(seconds), losses[0]


def train(options: argparse.Namespace) -> int:
    """Trains as one process of an arrangement.

    Warms up, prints the loss of the first step, waits for a line, trains, and prints the seconds.
    """
    arrangement = ARRANGEMENTS[options.one]
    x, y = _random_images(options.images, (32, 32, 3))
    # Each model of several needs a thread that runs its operations.
    _import_tensorflow(arrangement.threads, arrangement.models)
    trainings: list[Train] = []
    for _ in range(arrangement.models):  # one after the other: Keras builds in one thread
        if arrangement.trainer == TORCH:
            trainings.append(_torch_training(x, y, arrangement.threads))
        else:
            trainings.append(_keras_training(_compiled_model(arrangement.trainer), x, y))
        first_loss = trainings[-1](BATCH_SIZE, 1)
        trainings[-1](options.images, 1)
    print(json.dumps(first_loss), flush=True)
    if not sys.stdin.readline():
        return 1  # who started this process has ended
    started = time.monotonic()
    main_training, *others = trainings
    with concurrent.futures.ThreadPoolExecutor(max(len(others), 1)) as pool:
        running = [pool.submit(other, options.images, options.epochs) for other in others]
        main_training(options.images, options.epochs)
        for future in running:
            future.result()
    print(json.dumps(time.monotonic() - started), flush=True)
    return 0


def _random_images(count: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of noise and labels of 10 classes, the same ones every time."""
    generator = np.random.default_rng(0)
    return generator.random((count, *shape), dtype=np.float32), generator.integers(10, size=count)


def _import_tensorflow(threads: int, models: int = 1) -> Any:
    """Imports TensorFlow for CPUs; `threads` and `models` are those of an `Arrangement`."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(models)
    return tf


def _build_network() -> Any:
    """Builds the Keras model, a chain of layers, with the same weights every time."""
    import keras

    import keras_autoshrink as kas

    cell = kas.Cell(("input", "sepconv3x3", "sepconv3x3"), ((0, 1), (1, 2)))
    architecture = {
        "input_shape": (32, 32, 3),
        "classes": 10,
        "stem_stride": 1,
        "stage_scales": (1, 2, 4),
        "stage_strides": (1, 2, 2),
        "stage_repeats": (1, 1, 1),
        "head_filters": None,
        "residual": False,
    }
    width = kas.width_for_macs(TARGET_MACS, cell, **architecture)
    keras.utils.set_random_seed(0)
    return kas.ShrinkCNN(cell, width=width, **architecture)


def _compiled_model(trainer: str) -> Any:
    """Builds the network and compiles it as a search does, for Keras's step or for ours."""
    import keras

    from keras_autoshrink.training.classifier import compile_classifier
    from keras_autoshrink.training.step import accelerate

    model = _build_network()
    compile_classifier(
        model,
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    if trainer == OURS and (reason := accelerate(model)):
        raise RuntimeError(f"the model cannot have our step: {reason}")
    return model


def _keras_training(model: Any, x: np.ndarray, y: np.ndarray) -> Train:
    def fit(count: int, epochs: int) -> float:
        history = model.fit(
            x[:count], y[:count], batch_size=BATCH_SIZE, epochs=epochs, verbose=0
        ).history
        return history["loss"][0]

    return fit


def _torch_training(x: np.ndarray, y: np.ndarray, threads: int) -> Train:
    import torch

    if threads:
        torch.set_num_threads(threads)
    network = _torch_copy(_build_network()).to(memory_format=torch.channels_last)
    # Its fastest Adam on CPUs.
    adam = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-7, fused=True)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def fit(count: int, epochs: int) -> float:
        means = []
        for _ in range(epochs):
            losses = []
            for batch in torch.randperm(count).split(BATCH_SIZE):
                # Channels last in memory, as Keras has them, and second in name.
                logits = network(images[batch].permute(0, 3, 1, 2))
                loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                adam.zero_grad()
                loss.backward()
                adam.step()
                losses.append(loss.item())
            means.append(statistics.fmean(losses))
        return means[0]

    return fit


def _torch_copy(model: Any) -> Any:
    """Copies a Keras model that is a chain of layers, with its weights, to a PyTorch module.

    Its convolutions have stride 1; PyTorch refuses "same" with others.
    """
    import keras
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for layer in model.layers:
        weights = [torch.from_numpy(weight) for weight in layer.get_weights()]
        match layer:
            case keras.layers.Conv2D():
                weights = [weights[0].permute(3, 2, 0, 1)]
                filters, channels, *size = weights[0].shape
                module = nn.Conv2d(channels, filters, size, padding="same", bias=False)
            case keras.layers.DepthwiseConv2D():
                weights = [weights[0].permute(2, 3, 0, 1)]
                filters, _, *size = weights[0].shape
                module = nn.Conv2d(
                    filters, filters, size, padding="same", groups=filters, bias=False
                )
            case keras.layers.BatchNormalization():
                # PyTorch's momentum is the share of the new.
                module = nn.BatchNorm2d(len(weights[0]), layer.epsilon, 1 - layer.momentum)
            case keras.layers.Activation():
                module = nn.ReLU(inplace=True)
            case keras.layers.MaxPooling2D():
                module = nn.MaxPool2d(layer.pool_size, layer.strides, ceil_mode=True)
            case keras.layers.GlobalAveragePooling2D():
                module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            case keras.layers.Dense():
                weights[0] = weights[0].T
                module = nn.Linear(*reversed(weights[0].shape))
            case keras.layers.InputLayer():
                continue
            case _:
                raise TypeError(f"{layer.name}: a {type(layer).__name__} has no copy in PyTorch")
        # Both have kernel, bias; scale, offset, mean, variance. PyTorch also counts batches.
        for own, weight in zip(module.state_dict().values(), weights, strict=False):
            own.copy_(weight)
        modules.append(module)
    return nn.Sequential(*modules)


# ---- the first step -----------------------------------------------------------------------------


def compare_first_steps(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Prints the seconds of the first training step; returns the exit status."""
    seconds: dict[str, list[float]] = {KERAS: [], OURS: []}
    for _ in range(options.turns):
        for name, measured in seconds.items():
            with _start(name, given) as process:
                measured.append(_answer(process))
    table = Table(
        box=box.SIMPLE_HEAD,
        title="the first training step of a complete cell of 5 nodes, 8x8x1 images, "
        f"{CPUS} CPUs; median (range) of {options.turns} turns",
    )
    for heading in ("", "seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, measured in seconds.items():
        table.add_row(name, _spread(measured, ".2f"))
    Console(width=110, highlight=False).print(table)
    return 0


def time_first_step(options: argparse.Namespace) -> int:
    """Prints the seconds from the call of `fit` to the end of its first batch."""
    _import_tensorflow(threads=0)
    import keras
    import keras_tuner

    import keras_autoshrink as kas
    from keras_autoshrink.training.step import accelerate

    hypermodel = kas.CNNCellHyperModel((8, 8, 1), 10, num_nodes=5)
    model = hypermodel.build(keras_tuner.HyperParameters())
    x, y = _random_images(BATCH_SIZE, (8, 8, 1))
    ends: list[float] = []
    stop_clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.monotonic())
    )
    started = time.monotonic()
    if options.one == OURS:
        accelerate(model)  # counts: it makes the optimizer's variables, which Keras makes in fit
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[stop_clock])
    print(json.dumps(ends[0] - started), flush=True)
    return 0


# ---- the parts of a step ------------------------------------------------------------------------


def compare_profiles(given: Sequence[str]) -> int:
    """Prints where a step's time goes, for Keras and for ours; returns the exit status."""
    profiles = {}
    for name in (KERAS, OURS):
        with _start(name, given) as process:
            profiles[name] = _answer(process)
    product = max(profile["product"] for profile in profiles.values())
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"a training step on one thread, a batch of {BATCH_SIZE}\n"
        f"lost: what it takes longer than at the {product:.0f} GFLOP/s of a large matrix product",
        caption="Without the profiler a step takes "
        + ", ".join(f"{profile['unprofiled_ms']:.1f} ms ({n})" for n, profile in profiles.items())
        + ".\nBatchNorm: TensorFlow's fused kernel in ours, which takes in the ReLU forward; "
        "its parts in Keras fit.",
    )
    table.add_column("")
    for name in profiles:
        for heading in (f"{name}: ms", "GFLOP/s", "lost ms"):
            table.add_column(heading, justify="right")

    def add(label: str, shares: Sequence[tuple[float, float]], end_section: bool = False) -> None:
        """Adds a row of milliseconds and GFLOP, two for each profile."""
        cells = []
        for ms, gflop in shares:
            speed = f"{gflop / ms * 1000:.0f}" if gflop and ms else ""
            cells += [f"{ms:.1f}", speed, f"{ms - gflop / product * 1000:.1f}"]
        table.add_row(label, *cells, end_section=end_section)

    all_parts = [profile["parts"] for profile in profiles.values()]
    labels = sorted(
        {label for parts in all_parts for label in parts},
        key=lambda label: -max(parts.get(label, (0, 0))[0] for parts in all_parts),
    )
    for label in labels[:TOP]:
        add(label, [parts.get(label, (0, 0)) for parts in all_parts])
    add("other operations", [_total(parts, labels[TOP:]) for parts in all_parts])
    operations = [_total(parts, labels) for parts in all_parts]
    steps = [profile["ms"] for profile in profiles.values()]
    outside = [(step - ms, 0.0) for step, (ms, _) in zip(steps, operations, strict=True)]
    add("outside operations", outside, end_section=True)
    add("a step", [(step, gflop) for step, (_, gflop) in zip(steps, operations, strict=True)])
    Console(width=110, highlight=False).print(table)
    return 0


def _total(parts: dict[str, tuple[float, float]], labels: Sequence[str]) -> tuple[float, float]:
    shares = [parts[label] for label in labels if label in parts]
    return sum(ms for ms, _ in shares), sum(gflop for _, gflop in shares)


def profile_step(options: argparse.Namespace) -> int:
    """Prints a step's milliseconds and its parts, and the GFLOP/s of a matrix product."""
    tf = _import_tensorflow(threads=1)
    product = _measure_product(tf)
    model = _compiled_model(options.one)
    fit = _keras_training(model, *_random_images(options.images, (32, 32, 3)))
    fit(options.images, 1)
    steps = options.images // BATCH_SIZE * options.epochs

    def step_ms() -> float:
        started = time.monotonic()
        fit(options.images, options.epochs)
        return (time.monotonic() - started) * 1000 / steps

    unprofiled_ms = step_ms()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        ms = step_ms()
        tf.profiler.experimental.stop()
        parts = _read_profile(Path(folder), model, steps)
    result = {"product": product, "unprofiled_ms": unprofiled_ms, "ms": ms, "parts": parts}
    print(json.dumps(result), flush=True)
    return 0


def _measure_product(tf: Any, size: int = 2048, repeats: int = 5) -> float:
    """Returns the GFLOP/s of a large float32 matrix product, the fastest of some."""
    matrix = tf.random.normal((size, size))
    speeds = []
    for _ in range(repeats):
        started = time.monotonic()
        tf.linalg.matmul(matrix, matrix).numpy()
        speeds.append(2 * size**3 / (time.monotonic() - started) / 1e9)
    return max(speeds)


def _read_profile(folder: Path, model: Any, steps: int) -> dict[str, tuple[float, float]]:
    """Reads a profile of some training steps; returns the milliseconds and GFLOP of one by part."""
    # No public module: TensorFlow itself only writes these files, for TensorBoard's plug-in.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    layers = {layer.name: layer for layer in model.layers}
    picoseconds: dict[str, int] = collections.Counter()
    macs: dict[str, int] = collections.Counter()
    for file in folder.rglob("*.xplane.pb"):
        for plane in xplane_pb2.XSpace.FromString(file.read_bytes()).planes:
            for event in (event for line in plane.lines for event in line.events):
                metadata = plane.event_metadata[event.metadata_id]
                path, _, operation = metadata.name.rpartition(":")
                if path and operation == metadata.display_name:  # else no operation of a graph
                    label, image_macs = _part(path, operation, layers)
                    picoseconds[label] += event.duration_ps
                    macs[label] += image_macs * BATCH_SIZE
    if not picoseconds:
        raise RuntimeError("TensorFlow's profiler has recorded no operation")
    return {
        label: (picoseconds[label] / 1e9 / steps, 2 * macs[label] / 1e9 / steps)
        for label in picoseconds
    }


def _part(path: str, operation: str, layers: dict[str, Any]) -> tuple[str, int]:
    """Returns the part of a step that an operation belongs to, and its MACs for one image.

    Convolutions and matrix products are named by their layer, whatever kernel computes them, and
    BatchNorm's and the optimizer's operations are taken together; others keep their type.

    Args:
        path: of the operation in the graph, such as "gradient_tape/shrinkcnn_1/stem_1/convolution".
        operation: its type, such as "_MklNativeConv2D"; oneDNN's begin with "_Mkl".
        layers: of the model, by name.
    """
    import keras

    operation = re.sub("^_(Mkl(Native)?)?", "", operation)
    # TensorFlow numbers the scopes of a layer that it traces again.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in path.split("/")]
    layer = next((layers[scope] for scope in scopes if scope in layers), None)
    if "BackpropInput" in operation:
        direction = "input gradient"
    elif "BackpropFilter" in operation:
        direction = "filter gradient"
    else:
        direction = "gradient" if "gradient_tape" in scopes else "forward"
    if re.search("Conv2[dD]|MatMul", operation):
        if isinstance(layer, keras.layers.Dense):
            kind = "classifier"
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            kind = "depthwise 3x3 convolution"
        else:
            kind = "{}x{} convolution".format(*layer.kernel_size)
        # A gradient has as many as the way forward.
        macs = math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        return f"{kind}, {direction}", macs
    if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Activation)):
        return f"BatchNorm and ReLU, {direction}", 0
    return ("Adam" if "adam" in scopes else operation), 0


# ---- processes and figures ----------------------------------------------------------------------


def _start(name: str, given: Sequence[str]) -> subprocess.Popen[str]:
    """Starts this script in a process of its own, for one row of the table."""
    command = [sys.executable, __file__, *given, "--one", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> Any:
    """Reads the next line that a process prints."""
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the benchmark failed, with status {process.wait()}")
    return json.loads(line)


def _spread(values: Sequence[float], form: str) -> str:
    median = format(statistics.median(values), form)
    return f"{median} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    sys.exit(main())
