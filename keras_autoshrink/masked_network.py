"""One network for all sub-cells of a cell: its edges are gated instead of built.

What a candidate lacks is closed by gates that are data, not structure, so that one compiled
program trains every candidate. A gated candidate is the candidate: same weights, same outputs,
nothing comes from what is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from keras import ops

from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_layout import MaskedLayout

# BatchNorm's epsilon, Keras's own.
_EPSILON = 1e-3


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


class MaskedNetwork(MaskedLayout):
    """The network that `ShrinkCNN` makes of a cell, for any of its sub-cells.

    Args:
        cell: the largest; sub-cells have its numbers of nodes.
        activation: its name.
        **architecture: as of `MaskedLayout`.
    """

    def __init__(self, cell: Cell, *, activation: str, **architecture: Any) -> None:
        super().__init__(cell, **architecture)
        self._activate = keras.activations.get(activation)

    def gates(self, cell: Cell) -> Gates:
        """The gates that leave a sub-cell of the whole cell, as arrays of int32.

        Raises:
            ValueError: the cell is no sub-cell of the whole one.
        """
        self.check_part(cell)
        nodes = range(self.cell.num_nodes)
        return Gates(
            np.array([edge in cell.live_edges for edge in self.cell.edges], np.int32),
            np.array([node in cell.reachable for node in nodes], np.int32),
            np.array([node in cell.leaves for node in nodes], np.int32),
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


def _joined(parts: Iterable[Any]) -> Any:
    tensors = list(parts)
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors, axis=-1)
