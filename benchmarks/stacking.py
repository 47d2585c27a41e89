"""What it gains to train several small networks in one program, stacked, and to compile one anew.

    KERAS_BACKEND=jax python benchmarks/stacking.py
    KERAS_BACKEND=tensorflow python benchmarks/stacking.py

On JAX: an epoch of the search's own program, for stacks of several sizes, beside a stack of one.
On TensorFlow, whose program trains one network: a separable convolution, forward and backward, for
k networks one after the other, and stacked (depthwise over k times the channels, pointwise as a
batched product of matrices). Times are the best of several, for one network.

JAX also computes what gates close. So for sub-cells with fewer and fewer edges: an epoch in the
program of the whole cell, in one of their own, and the epochs after which the latter's compilation
has paid.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.shuffling import order_of_epoch


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stacks", type=int, nargs="+", default=[1, 2, 5, 10], metavar="K")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--size", type=int, default=16, help="height and width of an image")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    backend = keras.backend.backend()
    rows = of_programs(options) if backend == "jax" else of_convolutions(options)
    table = Table(box=box.SIMPLE_HEAD, title=f"{backend}: milliseconds for one of k networks")
    for heading in ("k", "one by one", "stacked", "ratio"):
        table.add_column(heading, justify="right")
    for k, alone, stacked in rows:
        table.add_row(
            f"{k}", f"{1e3 * alone:.1f}", f"{1e3 * stacked:.1f}", f"{alone / stacked:.2f}"
        )
    console = Console(highlight=False)
    console.print(table)
    if backend == "jax":
        table = Table(box=box.SIMPLE_HEAD, title="an epoch of a sub-cell, milliseconds")
        for heading in ("edges", "gated", "its own", "to compile, s", "pays after epochs"):
            table.add_column(heading, justify="right")
        for edges, gated, own, compiling in of_sub_cells(options):
            after = f"{compiling / (gated - own):.0f}" if gated > own else "never"
            table.add_row(
                f"{edges}", f"{1e3 * gated:.0f}", f"{1e3 * own:.0f}", f"{compiling:.1f}", after
            )
        console.print(table)
    return 0


def of_programs(options: argparse.Namespace) -> Iterator[tuple[int, float, float]]:
    """An epoch of the JAX program: k, seconds for one network alone, and in a stack of k."""
    network, data = _network(options)
    alone = 0.0
    for k in options.stacks:
        each = best_of(_epochs(network, network.cell, data, k), options.repeats) / k
        alone = alone or each
        yield k, alone, each


def of_sub_cells(options: argparse.Namespace) -> Iterator[tuple[int, float, float, float]]:
    """Edges of a sub-cell; seconds of an epoch in the whole program and its own, and to compile."""
    network, data = _network(options)
    cell = network.cell
    for share in (0.75, 0.5, 0.25):
        while len(cell.edges) > max(1, share * len(network.cell.edges)):
            # Those out of the input last, or else there would soon be nothing left.
            smaller = cell.without_edge(max(cell.edges, key=lambda edge: edge[0]))
            cell = dataclasses.replace(smaller, edges=smaller.live_edges)
        own = MaskedNetwork(cell, **_hypermodel(options).architecture)
        gated = best_of(_epochs(network, cell, data), options.repeats)
        started = time.perf_counter()
        epoch = _epochs(own, cell, data)
        epoch()
        first = time.perf_counter() - started
        alone = best_of(epoch, options.repeats)
        yield len(cell.edges), gated, alone, first - alone


def _hypermodel(options: argparse.Namespace) -> kas.CNNCellHyperModel:
    shape = (options.size, options.size, 3)
    return kas.CNNCellHyperModel(input_shape=shape, num_nodes=options.nodes)


def _network(options: argparse.Namespace) -> tuple[MaskedNetwork, tuple[Any, Any]]:
    hypermodel = _hypermodel(options)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(options.images, options.size, options.size, 3)).astype("float32")
    data = x, generator.integers(0, 10, len(x)).astype("int32")
    return MaskedNetwork(hypermodel.cell, **hypermodel.architecture), data


def _epochs(network: MaskedNetwork, cell: kas.Cell, data: Any, k: int = 1) -> Callable[[], None]:
    """What trains a cell k times, stacked, for an epoch, in the program of a network."""
    from keras_autoshrink.masked_jax import JaxProgram

    x, y = data
    program = JaxProgram(network, data, (x[:128], y[:128]), 128, 4e-3, 0.9, stack=k)
    weights = network.initial_weights(cell, random.Random(0))
    training = program.begin([cell] * k, [weights] * k, [network.initial_statistics(cell)] * k)
    orders = np.stack([order_of_epoch(seed, 0, len(x)) for seed in range(k)])

    def epoch() -> None:
        program.epoch(training, orders)

    return epoch


def of_convolutions(options: argparse.Namespace) -> Iterator[tuple[int, float, float]]:
    """A separable convolution on TensorFlow: k, seconds one by one, and stacked."""
    import tensorflow as tf

    size, batch, channels, filters = options.size, 128, 48, 16

    @tf.function
    def alone(x: Any, depthwise: Any, pointwise: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((x, depthwise, pointwise))
            y = tf.nn.depthwise_conv2d(x, depthwise, (1, 1, 1, 1), "SAME")
            loss = tf.reduce_sum(tf.nn.conv2d(y, pointwise, 1, "SAME"))
        return tape.gradient(loss, (x, depthwise, pointwise))

    @tf.function
    def stacked(x: Any, depthwise: Any, pointwise: Any) -> Any:
        k = pointwise.shape[0]
        with tf.GradientTape() as tape:
            tape.watch((x, depthwise, pointwise))
            y = tf.nn.depthwise_conv2d(x, depthwise, (1, 1, 1, 1), "SAME")
            y = tf.transpose(tf.reshape(y, (-1, k, channels)), (1, 0, 2))
            loss = tf.reduce_sum(tf.matmul(y, pointwise))
        return tape.gradient(loss, (x, depthwise, pointwise))

    for k in options.stacks:
        x = tf.random.normal((batch, size, size, k * channels))
        depthwise = tf.random.normal((3, 3, k * channels, 1))
        pointwise = tf.random.normal((k, channels, filters))
        parts = [
            (tf.identity(a), tf.identity(b), c[None, None])
            for a, b, c in zip(
                tf.split(x, k, -1), tf.split(depthwise, k, 2), tf.unstack(pointwise), strict=True
            )
        ]

        def one_by_one(parts: Any = parts) -> None:
            for part in parts:
                alone(*part)

        def together(x: Any = x, depthwise: Any = depthwise, pointwise: Any = pointwise) -> None:
            stacked(x, depthwise, pointwise)

        yield k, *(best_of(function, options.repeats) / k for function in (one_by_one, together))


def best_of(function: Callable[[], None], repeats: int) -> float:
    """The least of several times, in seconds, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
