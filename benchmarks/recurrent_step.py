"""The time of one training step of a ShrinkRNN: all edges of a node in one product, or one each.

The two models have the same cell and sizes. Their steps take turns, so that whatever else the
machine does hits both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    import keras

    from keras_autoshrink.backend import jit_compile
    from keras_autoshrink.cell import SHRINKRNN_CELL, Cell
    from keras_autoshrink.networks.language_model import carrying, language_model
    from keras_autoshrink.networks.operations import RNN_OPERATIONS
    from keras_autoshrink.networks.rnn import ShrinkRNNCell


class EdgeByEdgeCell(ShrinkRNNCell):
    """The same step as the equations have it: a product for each edge."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes W0 and a W for each edge."""
        units = self.units
        self.input_kernel = self.add_weight((input_shape[-1] + units, 2 * units))
        self.kernels = [self.add_weight((units, 2 * units)) for _ in self.cell.edges]

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """The output and the new state of one step, without dropout."""
        h = states[0]
        c, g = keras.ops.split(
            keras.ops.matmul(keras.ops.concatenate([sequence, h], axis=-1), self.input_kernel),
            2,
            axis=-1,
        )
        values = [h + keras.ops.sigmoid(c) * (keras.ops.tanh(g) - h)]
        for node in range(1, self.cell.num_nodes):
            activation = keras.activations.get(_NAMES.get(self.cell.ops[node]))
            contributions = []
            for source in self.cell.predecessors(node):
                s = values[source]
                c, g = keras.ops.split(
                    keras.ops.matmul(s, self.kernels[self.cell.edges.index((source, node))]),
                    2,
                    axis=-1,
                )
                contributions.append(s + keras.ops.sigmoid(c) * (activation(g) - s))
            values.append(sum(contributions) / len(contributions))
        leaves = [values[leaf] for leaf in self.cell.leaves]
        output = sum(leaves) / len(leaves)
        return output, [output]


_NAMES = {name: "linear" if name == "identity" else name for name in RNN_OPERATIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/recurrent_step.py --steps 20"
    )
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--window", type=int, default=35, help="tokens that gradients go through")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each model")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps {options.steps}: expected 2 or more, for a spread")
    cells = {
        "complete cell, 15 edges": Cell.dense(SHRINKRNN_CELL.ops),
        "published cell, 12 edges": SHRINKRNN_CELL,
    }
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"one training step, {options.units} units, vocabulary {options.vocabulary:,}, "
        f"batch {options.batch_size}, {options.window} tokens; median of {options.steps} steps "
        "(quartiles), ms",
    )
    for heading in ("", "edge by edge", "all edges of a node", "speed-up"):
        table.add_column(heading, justify="right")
    for name, cell in cells.items():
        for vocabulary, what in ((options.vocabulary, ""), (2, ", without the softmax")):
            seconds = _measure(cell, vocabulary, options)
            medians = [statistics.median(values) for values in seconds]
            table.add_row(name + what, *map(_shown, seconds), f"{medians[0] / medians[1]:.2f}")
    Console(width=140, highlight=False).print(table)
    return 0


def _measure(cell: Cell, vocabulary: int, options: argparse.Namespace) -> list[list[float]]:
    """Seconds of each step: edge by edge, and all edges of a node in one product."""
    generator = np.random.default_rng(0)
    shape = (options.batch_size, options.window)
    x, y = (generator.integers(0, vocabulary, shape, dtype=np.int32) for _ in range(2))
    models = []
    for kind in (EdgeByEdgeCell, ShrinkRNNCell):
        keras.utils.set_random_seed(0)
        model = carrying(language_model(kind(cell, options.units), vocabulary), *shape)
        model.compile(
            optimizer=keras.optimizers.SGD(1.0, global_clipnorm=0.25),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile(),
        )
        for _ in range(3):  # traced, and warm
            model.train_on_batch(x, y)
        models.append(model)
    seconds: list[list[float]] = [[], []]
    for step in range(options.steps):
        # Each goes first in every other turn.
        for place in (0, 1) if step % 2 else (1, 0):
            started = time.perf_counter()
            models[place].train_on_batch(x, y)
            seconds[place].append(time.perf_counter() - started)
    return seconds


def _shown(seconds: list[float]) -> str:
    low, middle, high = (1000 * value for value in statistics.quantiles(seconds, n=4))
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    sys.exit(main())
