"""Which weights a gated network has, and where those of a sub-cell are among them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_autoshrink.cell import Cell
from keras_autoshrink.networks import round_filters
from keras_autoshrink.op_names import CNN_OPERATIONS

# A part of the channels that a kernel reads: which output they are, and how many.
Block = tuple[Any, int]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One array of a network's weights.

    Attributes:
        layer: name of the Keras layer in a network of the whole cell.
        name: of the array in its layer.
        shape: of the array.
        positions: how many times a kernel is multiplied for one image.
        axis: of the channels that the layer reads; None if there is no such.
        blocks: what these channels are.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    positions: int = 0
    axis: int | None = None
    blocks: tuple[Block, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class MaskedLayout:
    """The weights of the networks that `ShrinkCNN` makes of a cell and of its sub-cells.

    Args:
        cell: the largest; sub-cells have its numbers of nodes.
        input_shape: (height, width, channels).
        classes: number of classes.
        filters: base number of filters; like the next four as of `ShrinkCNN`.
        stage_scales: of the filters of each stage.
        stage_strides: of each stage.
        stage_repeats: cells of each stage.
        stem_filters: of the stem.
        stem_stride: of the stem.

    Attributes:
        weights: of a network of the whole cell, in the order of their layers' creation.
        statistics: the moving mean and variance of each BatchNorm, likewise.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        filters: int,
        stage_scales: Sequence[float],
        stage_strides: Sequence[int],
        stage_repeats: Sequence[int],
        stem_filters: int,
        stem_stride: int,
    ) -> None:
        self.cell = dataclasses.replace(cell, edges=cell.live_edges)
        self._input_shape = input_shape
        self._classes = classes
        self._stem = (round_filters(stem_filters), stem_stride)
        # Of each cell, one after the other: name, filters, stride.
        self._cells = [
            (
                f"stage{stage}_cell{index + 1}",
                round_filters(int(filters * scale)),
                stride if index == 0 else 1,
            )
            for stage, (scale, stride, repeats) in enumerate(
                zip(stage_scales, stage_strides, stage_repeats, strict=True), start=1
            )
            for index in range(repeats)
        ]
        self.weights, self.statistics = self._layout(self.cell, self.cell.reachable[1:])

    @staticmethod
    def knows(cell: Cell) -> bool:
        """Whether all ops of a cell are among those that can be gated."""
        return set(cell.ops[1:]) <= set(CNN_OPERATIONS)

    def check_part(self, cell: Cell) -> None:
        """Checks that a cell is a sub-cell of the whole one.

        Raises:
            ValueError: it has other ops, or an edge that the whole cell lacks.
        """
        if cell.ops != self.cell.ops:
            raise ValueError(f"cell: no part of the network's: its ops are {cell.ops}")
        if missing := sorted(set(cell.live_edges) - set(self.cell.edges)):
            edges = ", ".join(f"{i}-{j}" for i, j in missing)
            raise ValueError(f"cell: no part of the network's, which lacks its edges {edges}")

    def layout(self, cell: Cell) -> tuple[list[Weight], list[Weight]]:
        """The weights and the statistics of a sub-cell's network; layers as in `weights`."""
        return self._layout(cell, cell.leaves)

    def places(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """Where the weights and the statistics of a sub-cell are among those of the whole cell.

        Returns:
            For each element, flat as in `initial_weights`, its place; integers.

        Raises:
            ValueError: the cell is no sub-cell of the whole one.
        """
        self.check_part(cell)
        whole = (self.weights, self.statistics)
        return tuple(  # type: ignore[return-value]
            np.concatenate(list(_places(*pair)))
            for pair in zip(self.layout(cell), whole, strict=True)
        )

    def count_macs(self, cell: Cell) -> int:
        """Multiply-accumulates of a sub-cell's network for one image, as `kas.count_macs`."""
        return sum(weight.positions * weight.size for weight in self.layout(cell)[0])

    def count_params(self, cell: Cell) -> int:
        """Parameters of a sub-cell's network, as `kas.count_params`."""
        return sum(weight.size for weights in self.layout(cell) for weight in weights)

    def initial_weights(self, cell: Cell, generator: random.Random) -> np.ndarray:
        """The initial weights of a sub-cell's network, those that Keras's layers would draw.

        Args:
            cell: a sub-cell.
            generator: as Python's own would be when the network was built.

        Returns:
            All arrays of `layout(cell)`, flat, one behind the other, in float32.
        """
        arrays = []
        for weight in self.layout(cell)[0]:
            if weight.name == "kernel":
                # As Keras seeds an initializer that is given no seed.
                glorot = keras.initializers.GlorotUniform(generator.randint(1, int(1e9)))
                arrays.append(ops.convert_to_numpy(glorot(weight.shape)).ravel())
            else:
                arrays.append(np.full(weight.size, weight.name == "gamma", np.float32))
        return np.concatenate(arrays)

    def initial_statistics(self, cell: Cell) -> np.ndarray:
        """Moving means of 0 and variances of 1, flat."""
        return np.concatenate(
            [
                np.full(weight.shape, weight.name == "moving_variance", np.float32)
                for weight in self.layout(cell)[1]
            ]
        )

    def _kernels(self, node: int) -> int:
        return 2 if self.cell.ops[node] == "sepconv3x3" else 1

    def _layout(self, cell: Cell, leaves: Sequence[int]) -> tuple[list[Weight], list[Weight]]:
        weights, statistics = [], []

        def normalise(layer: str, filters: int) -> None:
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            made = [Weight(f"{layer}_bn", name, (filters,)) for name in names]
            weights.extend(made[:2])
            statistics.extend(made[2:])

        height, width, channels = self._input_shape
        filters, stride = self._stem
        height, width = -(-height // stride), -(-width // stride)
        weights.append(Weight("stem", "kernel", (3, 3, channels, filters), height * width))
        normalise("stem", filters)
        blocks: tuple[Block, ...] = ((0, filters),)
        for name, filters, stride in self._cells:
            height, width = -(-height // stride), -(-width // stride)
            for node in cell.reachable[1:]:
                label = f"{name}_node{node}"
                read = tuple(_read(cell.predecessors(node), blocks, filters))
                size = _size(read)
                op = f"{label}_op"
                if self._kernels(node) == 2:
                    shape: tuple[int, ...] = (3, 3, size, 1)
                    depthwise = f"{op}_depthwise"
                    weights.append(Weight(depthwise, "kernel", shape, height * width, 2, read))
                    op = f"{op}_pointwise"
                shape = (1, 1, size, filters)
                weights.append(Weight(op, "kernel", shape, height * width, 2, read))
                normalise(label, filters)
            blocks = tuple((leaf, filters) for leaf in leaves)
        shape = (_size(blocks), self._classes)
        weights.append(Weight("classes", "kernel", shape, 1, 0, blocks))
        weights.append(Weight("classes", "bias", (self._classes,)))
        return weights, statistics


def _places(part: Sequence[Weight], whole: Sequence[Weight]) -> Iterator[np.ndarray]:
    starts = np.cumsum([0, *(weight.size for weight in whole)])
    found = {(w.layer, w.name): (w, start) for w, start in zip(whole, starts[:-1], strict=True)}
    for weight in part:
        full, start = found[weight.layer, weight.name]
        places = start + np.arange(full.size).reshape(full.shape)
        if weight.axis is not None:
            labels = [label for label, _ in weight.blocks]
            kept = [np.full(channels, label in labels) for label, channels in full.blocks]
            places = places.compress(np.concatenate(kept), weight.axis)
        yield places.ravel()


def _read(nodes: Sequence[int], inputs: Sequence[Block], filters: int) -> Iterator[Block]:
    """What a node reads: of the cell's input each block, of another node all."""
    for node in nodes:
        if node == 0:
            yield from (((0, label), channels) for label, channels in inputs)
        else:
            yield (node, filters)


def _size(blocks: Sequence[Block]) -> int:
    return sum(channels for _, channels in blocks)
