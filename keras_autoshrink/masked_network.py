"""One network for all sub-cells of a cell: its edges are gated instead of built.

What a candidate lacks is closed by gates that are data, not structure, so that one compiled
program trains every candidate. A gated candidate is the candidate: same weights, same outputs,
nothing comes from what is closed.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from keras import ops

from keras_autoshrink.cell import CNN_OPERATIONS, Cell
from keras_autoshrink.networks import round_filters

# BatchNorm's epsilon, Keras's own.
_EPSILON = 1e-3

# A part of the channels that a kernel reads: which output they are, and how many.
Block = tuple[Any, int]


class Gates(NamedTuple):
    """What of the cell a candidate has: integers 0 or 1.

    Attributes:
        edges: shape (edges,), in the order of `Cell.edges`.
        nodes: shape (nodes,): whether node 0 leads to it.
        leaves: shape (nodes,): whether it is an output of the candidate's cell.
    """

    edges: Any
    nodes: Any
    leaves: Any


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


class Primitives(Protocol):
    """How a backend closes gates and computes what depends on them."""

    def gate(self, x: Any, opened: Any) -> Any:
        """What is open of x, of shape (..., channels): closed channels are zeros, or not there."""

    def apart(self, x: Any, opened: Any) -> Any:
        """x, as a tensor with a gradient of its own; see `CellStyle.chained`.

        Args:
            x: shape (batch, height, width, channels).
            opened: a gate that is open.
        """

    def node(self, alive: Any, x: Any, compute: Callable[[], Any]) -> tuple[Any, ...]:
        """What `compute` returns, or nothing in the shape of x if the node is not alive."""

    def convolve(self, x: Any, kernel: Any, stride: int) -> Any:
        """A convolution with same padding; kernel of shape (3, 3, channels, filters)."""

    def pool(self, x: Any, stride: int) -> Any:
        """The largest of stride x stride values, with same padding."""

    def depthwise(self, x: Any, kernel: Any) -> Any:
        """A depthwise convolution with same padding; kernel of shape (3, 3, channels, 1)."""

    def pointwise(self, x: Any, kernel: Any) -> Any:
        """A 1x1 convolution; kernel of shape (1, 1, channels, filters)."""


class MaskedNetwork:
    """The network that `ShrinkCNN` makes of a cell, for any of its sub-cells.

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
        activation: its name.

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
        activation: str,
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
        self._activate = keras.activations.get(activation)
        self.weights, self.statistics = self._layout(self.cell, self.cell.reachable[1:])

    @staticmethod
    def knows(cell: Cell) -> bool:
        """Whether all ops of a cell are among those that can be gated."""
        return set(cell.ops[1:]) <= set(CNN_OPERATIONS)

    def gates(self, cell: Cell) -> Gates:
        """The gates that leave a sub-cell of the whole cell, as arrays of int32."""
        nodes = range(self.cell.num_nodes)
        return Gates(
            np.array([edge in cell.live_edges for edge in self.cell.edges], np.int32),
            np.array([node in cell.reachable for node in nodes], np.int32),
            np.array([node in cell.leaves for node in nodes], np.int32),
        )

    def layout(self, cell: Cell) -> tuple[list[Weight], list[Weight]]:
        """The weights and the statistics of a sub-cell's network; layers as in `weights`."""
        return self._layout(cell, cell.leaves)

    def places(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """Where the weights and the statistics of a sub-cell are among those of the whole cell.

        Returns:
            For each element, flat as in `initial_weights`, its place; integers.
        """
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

    def logits(
        self,
        primitives: Primitives,
        images: Any,
        weights: Sequence[Any],
        gates: Gates,
        statistics: Sequence[Any] | None = None,
    ) -> tuple[Any, list[Any]]:
        """Applies the network of the sub-cell that the gates leave.

        Args:
            primitives: of the backend.
            images: shape (batch, height, width, channels).
            weights: the arrays of `weights`, which may lack the channels of closed gates if
                the primitives do.
            gates: of the sub-cell.
            statistics: the arrays of `statistics`; without them those of the batch are taken,
                as in training.

        Returns:
            Logits of shape (batch, classes), and the mean and variance that each BatchNorm took.
        """
        weight, taken = iter(weights), []
        given = None if statistics is None else iter(statistics)

        def normalised(y: Any, gamma: Any, beta: Any, moments: Any) -> tuple[Any, Any, Any]:
            mean, variance = moments or ops.moments(y, (0, 1, 2))
            y = ops.batch_normalization(y, mean, variance, -1, beta, gamma, _EPSILON)
            return self._activate(y), mean, variance

        def moments() -> Any:
            return None if given is None else (next(given), next(given))

        y = primitives.convolve(images, next(weight), self._stem[1])
        x, *used = normalised(y, next(weight), next(weight), moments())
        taken += used
        for _, _, stride in self._cells:
            if stride > 1:
                x = primitives.pool(x, stride)
            outputs = {0: x}
            for node in self.cell.reachable[1:]:
                kernels = [next(weight) for _ in range(self._kernels(node))]
                rest = (next(weight), next(weight), moments())

                inputs = []
                for number, (source, target) in enumerate(self.cell.edges):
                    if target == node:
                        inputs.append((outputs[source], gates.edges[number]))
                        outputs[source] = primitives.apart(outputs[source], gates.nodes[0])

                def compute(inputs: Any = inputs, kernels: Any = kernels, rest: Any = rest) -> Any:
                    y = _joined(primitives.gate(*pair) for pair in inputs)
                    if len(kernels) == 2:
                        y = primitives.depthwise(y, kernels[0])
                    return normalised(primitives.pointwise(y, kernels[-1]), *rest)

                outputs[node], *used = primitives.node(gates.nodes[node], outputs[0], compute)
                taken += used
            x = _joined(
                primitives.gate(outputs[node], gates.leaves[node])
                for node in self.cell.reachable[1:]
            )
        x = ops.mean(x, axis=(1, 2))
        return ops.add(ops.matmul(x, next(weight)), next(weight)), taken

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


def _joined(parts: Iterable[Any]) -> Any:
    tensors = list(parts)
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors, axis=-1)
