"""Measures how fast a machine's CPUs train a small network, and where a training step's time goes.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --first-step
    python benchmarks/training_speed.py --profile

The network is of separable convolutions, with up to 4.5M multiply-accumulates for an image of
32x32x3. "Ours" is the same Keras model after `accelerate` of `keras_autoshrink.training.step`;
"PyTorch" is the same network with the same weights. The script fails if their losses differ.

Without an option it counts the images that the whole machine trains in a second. `--first-step`
times the first training step of the complete cell in a search of scikit-learn's digits, most of
which goes into tracing. `--profile` divides a step on one thread into its operations, and compares
their speed with that of a large matrix product. What is compared runs by turns, in fresh processes.

Images per second are those of whole calls of `fit`, with what lies between epochs: the iterator of
tf.data that an epoch leaves may wait for the thread that tunes it, for as long as the epoch took.
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
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

CPUS = os.cpu_count() or 1
BATCH_SIZE = 128
# By which losses may differ: each kernel adds up in an order of its own.
TOLERANCE = 1e-4
# Rows of a profile before the rest; what is no part of a step.
TOP = 14
BETWEEN = "between epochs, for each step"

KERAS, OURS, TORCH = "Keras fit", "ours", "PyTorch"

# Trains on the first so many images for so many epochs; returns the mean loss of the first epoch.
Train = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How the CPUs are put to work.

    Args:
        trainer: `KERAS`, `OURS` or `TORCH`.
        processes: that train at the same time.
        models: that a process trains at the same time, each in a Python thread.
        threads: of one operation; 0 leaves their number to the framework.
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
    mode.add_argument("--profile", action="store_true", help="divide a step into its operations")
    parser.add_argument("--turns", type=int, default=5, help="of each row; a profile takes one")
    parser.add_argument("--images", type=int, default=2560, help="of an epoch; a multiple of 128")
    parser.add_argument("--epochs", type=int, default=3, help="to measure, after one to warm up")
    parser.add_argument("--skip-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("turns", "images", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected 1 or more")
    if options.images % BATCH_SIZE:  # TensorFlow would trace a smaller last batch by itself
        parser.error(f"--images {options.images}: expected a multiple of {BATCH_SIZE}")
    # TensorFlow and Keras read them at their import, in the processes that inherit them.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if options.first_step:
        return one_first_step(options) if options.one else compare_first_steps(options, given)
    if options.profile:
        return one_profile(options) if options.one else compare_profiles(given)
    return one_training(options) if options.one else compare_speeds(options, given)


def _start(name: str, given: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a process that measures for one row."""
    command = [sys.executable, __file__, *given, "--one", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> Any:
    """Waits for the next line that a process prints."""
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the benchmark failed with status {process.wait()}")
    return json.loads(line)


def _print_medians(title: str, unit: str, form: str, rows: dict[str, list[float]]) -> None:
    """Prints each row's median and range, and the ratio of its median to the first row's."""
    table = Table("", box=box.SIMPLE_HEAD, title=f"{title}, {CPUS} CPUs; median (range)")
    table.add_column(unit, justify="right")
    table.add_column("to the first", justify="right")
    medians = {name: statistics.median(values) for name, values in rows.items()}
    for name, values in rows.items():
        spread = f"{medians[name]:{form}} ({min(values):{form}} to {max(values):{form}})"
        table.add_row(name, spread, f"{medians[name] / next(iter(medians.values())):.2f}")
    Console(width=120, highlight=False).print(table)


# ---- images per second --------------------------------------------------------------------------


def compare_speeds(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Prints how many images a second each arrangement trains; returns the exit status."""
    names = list(ARRANGEMENTS)
    if options.skip_torch or importlib.util.find_spec("torch") is None:
        names = [name for name in names if ARRANGEMENTS[name].trainer != TORCH]
        if not options.skip_torch:
            print("PyTorch is not installed here: its rows are left out")
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.turns):
        losses: dict[str, float] = {}
        for name in names:
            speed, loss = _measure_speed(name, options, given)
            speeds[name].append(speed)
            losses.setdefault(ARRANGEMENTS[name].trainer, loss)
        if turn == 0:
            listed = ", ".join(f"{trainer} {loss:.6f}" for trainer, loss in losses.items())
            print(f"loss of the first step: {listed}")
            # Not by `any` and `>`, which let NaN pass.
            if not all(abs(loss - losses[KERAS]) <= TOLERANCE for loss in losses.values()):
                print(f"THE LOSSES DIFFER by more than {TOLERANCE}")
                return 1
    title = f"{options.turns} turns of {options.epochs} epochs of {options.images} images"
    _print_medians(title, "images/s", ",.0f", speeds)
    return 0


def _measure_speed(
    name: str, options: argparse.Namespace, given: Sequence[str]
) -> tuple[float, float]:
    """Returns the images per second of all processes together, and the loss of the first step."""
    arrangement = ARRANGEMENTS[name]
    with contextlib.ExitStack() as stack:
        started = (_start(name, given) for _ in range(arrangement.processes))
        processes = [stack.enter_context(process) for process in started]
        losses = [_answer(process) for process in processes]  # all have warmed up
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        speeds = [_answer(process) for process in processes]
    return sum(speeds), losses[0]


def one_training(options: argparse.Namespace) -> int:
    """Warms up, prints the loss of the first step, waits for a line, trains, prints images/s.

    Then trains on until its input ends, or other processes had its core while they are measured.
    """
    arrangement = ARRANGEMENTS[options.one]
    _load_tensorflow(arrangement.threads, arrangement.models)
    x, y = _random_images(options.images, (32, 32, 3))
    trainings: list[Train] = []
    for _ in range(arrangement.models):  # not at the same time: Keras traces in one thread
        if arrangement.trainer == TORCH:
            training = _torch_training(x, y, arrangement.threads)
        else:
            training = _keras_training(_compiled_model(arrangement.trainer), x, y)
        loss = training(BATCH_SIZE, 1)
        training(options.images, 1)
        trainings.append(training)
    print(json.dumps(loss), flush=True)
    if not sys.stdin.readline():
        return 1  # who waits for the speed has ended
    speeds: list[float] = []

    def measure(training: Train) -> None:
        started = time.monotonic()
        training(options.images, options.epochs)
        speeds.append(options.images * options.epochs / (time.monotonic() - started))
        while len(speeds) < arrangement.models:
            training(options.images, 1)

    with concurrent.futures.ThreadPoolExecutor(arrangement.models) as pool:
        list(pool.map(measure, trainings))
    print(json.dumps(sum(speeds)), flush=True)
    ended = threading.Thread(target=sys.stdin.read)
    ended.start()
    while ended.is_alive():
        trainings[0](BATCH_SIZE, 1)
    return 0


def _load_tensorflow(threads: int, models: int = 1) -> None:
    """Loads TensorFlow for CPUs alone; `threads` and `models` are those of an `Arrangement`."""
    from tflite_export.runtime import native_output_silenced

    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import tensorflow as tf

        import keras_autoshrink  # noqa: F401 - what it imports announces them again
    tf.config.set_visible_devices([], "GPU")
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # One for each model's operations, or the models would wait for each other.
        tf.config.threading.set_inter_op_parallelism_threads(models)


def _random_images(count: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of noise, and labels of 10 classes, the same ones every time."""
    generator = np.random.default_rng(0)
    return generator.random((count, *shape), np.float32), generator.integers(10, size=count)


def _network() -> Any:
    """Builds the network, a chain of layers, with the same weights every time."""
    import keras

    import keras_autoshrink as kas

    cell = kas.Cell(("input", "sepconv3x3", "sepconv3x3"), ((0, 1), (1, 2)))
    # What a search on CIFAR-10 trains: three stages of one cell each.
    architecture = {
        **kas.CNNCellHyperModel((32, 32, 3), classes=10).architecture,
        "head_filters": None,
        "residual": False,
    }
    width = kas.width_for_macs(4_500_000, cell, **architecture)
    keras.utils.set_random_seed(0)
    return kas.ShrinkCNN(cell, width=width, **architecture)


def _compiled_model(trainer: str) -> Any:
    """Builds the network and compiles it as a search does, for Keras's step or for ours."""
    import keras

    from keras_autoshrink.training.classifier import compile_classifier
    from keras_autoshrink.training.step import accelerate

    model = _network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_classifier(model, keras.optimizers.Adam(4e-3), loss)
    if trainer == OURS:
        accelerate(model)
    return model


def _keras_training(model: Any, x: np.ndarray, y: np.ndarray, **settings: Any) -> Train:
    def fit(count: int, epochs: int) -> float:
        settings.update(batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        return model.fit(x[:count], y[:count], **settings).history["loss"][0]

    return fit


def _step_clock() -> tuple[Any, list[float], list[float]]:
    """Returns a Keras callback, and the times at which it has seen steps begin and end."""
    import keras

    begins: list[float] = []
    ends: list[float] = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begins.append(time.monotonic()),
        on_train_batch_end=lambda batch, logs: ends.append(time.monotonic()),
    )
    return callback, begins, ends


def _torch_training(x: np.ndarray, y: np.ndarray, threads: int) -> Train:
    import torch

    if threads:
        torch.set_num_threads(threads)
    network = _torch_network(_network()).to(memory_format=torch.channels_last)
    # Fused is its fastest Adam on CPUs.
    adam = torch.optim.Adam(network.parameters(), 4e-3, eps=1e-7, fused=True)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def fit(count: int, epochs: int) -> float:
        losses = []
        for _ in range(epochs):
            for batch in torch.randperm(count).split(BATCH_SIZE):
                # The channels come second by name, and stay last in memory.
                logits = network(images[batch].permute(0, 3, 1, 2))
                loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                adam.zero_grad()
                loss.backward()
                adam.step()
                losses.append(loss.item())
        return statistics.fmean(losses[: count // BATCH_SIZE])

    return fit


def _torch_network(model: Any) -> Any:
    """Copies a Keras model, a chain of layers whose convolutions have stride 1, to PyTorch."""
    import torch
    from keras import layers
    from torch import nn

    modules: list[nn.Module] = []
    for layer in model.layers[1:]:  # the first is the input
        weights = [torch.from_numpy(weight) for weight in layer.get_weights()]
        match layer:
            case layers.Conv2D() | layers.DepthwiseConv2D():
                depthwise = isinstance(layer, layers.DepthwiseConv2D)
                weights[0] = weights[0].permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
                filters, channels, *size = weights[0].shape
                groups = filters if depthwise else 1
                module = nn.Conv2d(
                    channels * groups, filters, size, padding="same", groups=groups, bias=False
                )
            case layers.BatchNormalization():  # PyTorch's momentum is the share of the new
                module = nn.BatchNorm2d(len(weights[0]), layer.epsilon, 1 - layer.momentum)
            case layers.Activation():
                module = nn.ReLU(inplace=True)
            case layers.MaxPooling2D():
                module = nn.MaxPool2d(layer.pool_size, layer.strides, ceil_mode=True)
            case layers.GlobalAveragePooling2D():
                module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            case layers.Dense():
                weights[0] = weights[0].T
                module = nn.Linear(*layer.kernel.shape)
            case _:
                raise TypeError(f"{layer.name}: no copy of a {type(layer).__name__}")
        # Both list them in one order; PyTorch's BatchNorm has one more, which counts the batches.
        for copy, weight in zip(module.state_dict().values(), weights, strict=False):
            copy.copy_(weight)
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
    title = f"{options.turns} first steps of a complete cell of 5 nodes, 8x8x1 images"
    _print_medians(title, "seconds", ".2f", seconds)
    return 0


def one_first_step(options: argparse.Namespace) -> int:
    """Prints the seconds from the call of `fit` to the end of the first step."""
    _load_tensorflow(threads=0)
    import keras_tuner

    import keras_autoshrink as kas
    from keras_autoshrink.training.step import accelerate

    hypermodel = kas.CNNCellHyperModel((8, 8, 1), 10, num_nodes=5)
    model = hypermodel.build(keras_tuner.HyperParameters())
    x, y = _random_images(BATCH_SIZE, (8, 8, 1))
    clock, _, ends = _step_clock()
    started = time.monotonic()
    if options.one == OURS:
        accelerate(model)  # it makes the optimizer's variables, which Keras makes within fit
    model.fit(x, y, BATCH_SIZE, verbose=0, callbacks=[clock])
    print(json.dumps(ends[0] - started), flush=True)
    return 0


# ---- the parts of a step ------------------------------------------------------------------------


def compare_profiles(given: Sequence[str]) -> int:
    """Prints where the time of a step goes, in Keras's and in ours; returns the exit status."""
    profiles = {}
    for name in (KERAS, OURS):
        with _start(name, given) as process:
            profiles[name] = _answer(process)
    product = max(profile["product"] for profile in profiles.values())
    unprofiled = (f"{profile['ms']:.1f} ms ({name})" for name, profile in profiles.items())
    table = Table(
        "",
        box=box.SIMPLE_HEAD,
        title=f"a step of {BATCH_SIZE} images on one thread",
        caption="lost: the milliseconds beyond those that it would take at the "
        f"{product:.0f} GFLOP/s of a large matrix product.\nBatchNorm and ReLU: all of their "
        "operations together.\n"
        f"The steps alone, without the profiler: {' and '.join(unprofiled)}.",
        caption_justify="left",
    )
    for name in profiles:
        for heading in (f"{name}: ms", "GFLOP/s", "lost"):
            table.add_column(heading, justify="right")
    all_parts = [profile["parts"] for profile in profiles.values()]
    labels = sorted(
        {label for parts in all_parts for label in parts} - {BETWEEN},
        key=lambda label: -max(parts.get(label, (0, 0))[0] for parts in all_parts),
    )
    rows = [(label, [label]) for label in labels[:TOP]]
    rows += [("the rest", labels[TOP:]), ("a step", labels), (BETWEEN, [BETWEEN])]
    for title, added in rows:
        cells = []
        for parts in all_parts:
            ms, gflop = np.sum([parts.get(label, (0, 0)) for label in added], axis=0)
            fastest = gflop / product * 1000
            speed = f"{gflop / ms * 1000:.0f}" if fastest >= 0.1 else ""
            cells += [f"{ms:.1f}", speed, f"{ms - fastest:.1f}"]
        table.add_row(title, *cells)
    Console(width=120, highlight=False).print(table)
    return 0


def one_profile(options: argparse.Namespace) -> int:
    """Prints the parts of a step, its unprofiled time, and the GFLOP/s of a matrix product."""
    _load_tensorflow(threads=1)
    import tensorflow as tf

    product = _measure_product()
    model = _compiled_model(options.one)
    clock, begins, ends = _step_clock()
    x, y = _random_images(options.images, (32, 32, 3))
    fit = _keras_training(model, x, y, callbacks=[clock])
    fit(options.images, 1)
    steps = options.images // BATCH_SIZE * options.epochs

    def timed_fit() -> tuple[float, float]:
        """Trains; returns the milliseconds for each step, of `fit` and of the steps alone."""
        begins.clear()
        ends.clear()
        started = time.monotonic()
        fit(options.images, options.epochs)
        fit_ms = (time.monotonic() - started) * 1000 / steps
        return fit_ms, (sum(ends) - sum(begins)) * 1000 / steps

    _, ms = timed_fit()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        fit_ms, step_ms = timed_fit()
        tf.profiler.experimental.stop()
        parts = _read_profile(Path(folder), model, steps)
    inside = sum(part_ms for part_ms, _ in parts.values())
    parts["in a step, outside of operations"] = (step_ms - inside, 0)
    parts[BETWEEN] = (fit_ms - step_ms, 0)
    print(json.dumps({"product": product, "ms": ms, "parts": parts}), flush=True)
    return 0


def _measure_product(size: int = 2048, repeats: int = 5) -> float:
    """Returns the GFLOP/s of a large float32 matrix product, the fastest of some."""
    import tensorflow as tf

    matrix = tf.random.normal((size, size))
    seconds = []
    for _ in range(repeats):
        started = time.monotonic()
        tf.linalg.matmul(matrix, matrix)
        seconds.append(time.monotonic() - started)
    return 2 * size**3 / min(seconds) / 1e9


def _read_profile(folder: Path, model: Any, steps: int) -> dict[str, tuple[float, float]]:
    """Reads a profile of some steps; returns of each part of one its milliseconds and GFLOP."""
    # Not public: TensorFlow has no reader of what its profiler writes; TensorBoard's is a plug-in.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    layers = {layer.name: layer for layer in model.layers}
    picoseconds: collections.Counter[str] = collections.Counter()
    macs: collections.Counter[str] = collections.Counter()
    (file,) = folder.rglob("*.xplane.pb")
    for plane in xplane_pb2.XSpace.FromString(file.read_bytes()).planes:
        for event in (event for line in plane.lines for event in line.events):
            described = plane.event_metadata[event.metadata_id]
            path, _, operation = described.name.rpartition(":")
            if path and operation == described.display_name:  # others are no operations of a graph
                label, macs_of_image = _part(path, operation, layers)
                picoseconds[label] += event.duration_ps
                macs[label] += macs_of_image * BATCH_SIZE
    if not picoseconds:
        raise RuntimeError("TensorFlow's profiler has recorded no operations")
    return {
        label: (total / 1e9 / steps, 2 * macs[label] / 1e9 / steps)
        for label, total in picoseconds.items()
    }


def _part(path: str, operation: str, layers: dict[str, Any]) -> tuple[str, int]:
    """Returns the part of a step that an operation belongs to, and its MACs for one image.

    Convolutions and matrix products are named by their layer, whatever kernel computes them;
    the operations of BatchNorm and ReLU, and those of Adam, make one part; others are named by
    their type.

    Args:
        path: of the operation in the graph, such as "gradient_tape/shrinkcnn_1/stem_1/convolution".
        operation: its type, such as "_MklNativeConv2D" for a kernel of oneDNN.
        layers: the model's, by name.
    """
    import keras

    # TensorFlow numbers a layer's scope when it traces it again.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in path.split("/")]
    layer = next((layers[scope] for scope in scopes if scope in layers), None)
    way = "gradient" if "gradient_tape" in scopes else "forward"
    if layer is not None and re.search("Conv2[dD]|MatMul", operation):
        if way == "gradient":
            # Of a matrix product the gradient of its first argument is made first.
            first = "Input" in operation or path.endswith("/MatMul")
            way = f"{'input' if first else 'filter'} gradient"
        # A gradient has as many as the way forward.
        macs = math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        if isinstance(layer, keras.layers.Dense):
            return f"classifier, {way}", macs
        name = "{}x{} convolution".format(*layer.kernel_size)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        return f"{'depthwise ' if depthwise else ''}{name}, {way}", macs
    if operation.startswith("FusedBatchNormGrad"):  # that of groups has no layer's name
        return "BatchNorm and ReLU, gradient", 0
    if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Activation)):
        return f"BatchNorm and ReLU, {way}", 0
    return ("Adam" if "adam" in scopes else re.sub("^_(Mkl(Native)?)?", "", operation)), 0


if __name__ == "__main__":
    sys.exit(main())
