"""The gated network on JAX: an epoch of several candidates is one call of one program.

Shapes are fixed when a program is compiled. What a gate closes is multiplied by 0 here: it is
computed in vain, but for a GPU, which one small network leaves idle, many at once are what counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_network import Gates, MaskedNetwork
from keras_autoshrink.masked_training import State, losses_and_hits, updated


class JaxProgram:
    """Trains `stack` sub-cells together, each with its own weights and its own order of images.

    See `masked_training.Program`.

    Args:
        network: as of `masked_training.Program`; so are the next five.
        data: likewise.
        validation: likewise.
        batch_size: likewise.
        learning_rate: likewise.
        momentum: likewise.
        stack: how many sub-cells are trained together.
    """

    def __init__(
        self,
        network: MaskedNetwork,
        data: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        batch_size: int,
        learning_rate: float,
        momentum: float,
        stack: int = 1,
    ) -> None:
        self.network = network
        self.stack = stack
        self._data = jax.device_put((data, validation))
        self._batch_size = batch_size
        self._rates = (learning_rate, momentum)
        self._sizes = [sum(w.size for w in ws) for ws in (network.weights, network.statistics)]
        epoch = jax.jit(jax.vmap(self._one_epoch, in_axes=(0, 0, 0, None)))
        # Compiled at once: the time is nobody's own.
        self._epoch = epoch.lower(*self._shapes(len(data[1])), self._data).compile()

    def _shapes(self, images: int) -> tuple[State, Any, Gates]:
        """What an epoch is given, but for the data."""

        def whole(*shape: int, dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct((self.stack, *shape), dtype)

        weights, statistics = self._sizes
        flat = whole(weights)
        edges, nodes = len(self.network.cell.edges), self.network.cell.num_nodes
        return (
            State(flat, flat, flat, whole(statistics), whole()),
            whole(images, dtype=jnp.int32),
            Gates(whole(edges), whole(nodes), whole(nodes)),
        )

    def begin(
        self,
        cells: Sequence[Cell],
        weights: Sequence[np.ndarray],
        statistics: Sequence[np.ndarray],
    ) -> Any:
        """The training of sub-cells, before its first epoch; see `masked_training.Program`."""
        places = [self.network.places(cell) for cell in cells]
        nothing = jnp.zeros((len(cells), self._sizes[0]), jnp.float32)
        state = State(
            _scattered(weights, [where for where, _ in places], self._sizes[0]),
            nothing,
            nothing,
            _scattered(statistics, [where for _, where in places], self._sizes[1]),
            jnp.zeros(len(cells), jnp.float32),
        )
        gates = [self.network.gates(cell) for cell in cells]
        stacked = Gates(
            *(jnp.asarray(np.stack(gate), jnp.float32) for gate in zip(*gates, strict=True))
        )
        return state, stacked, places

    def epoch(self, training: Any, orders: np.ndarray) -> tuple[Any, np.ndarray]:
        """Trains for an epoch and validates; see `masked_training.Program`."""
        state, gates, places = training
        state, sums = self._epoch(state, orders, gates, self._data)
        # Not in the program, where a compiler may multiply by the reciprocal: that rounds twice.
        images = np.array([orders.shape[1]] * 2 + [len(self._data[1][1])] * 2, np.float32)
        return (state, gates, places), np.asarray(sums) / images

    def weights(self, training: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each sub-cell the weights and statistics; see `masked_training.Program`."""
        state, _, places = training
        weights, statistics = np.asarray(state.weights), np.asarray(state.statistics)
        return [
            (weights[number, where], statistics[number, other])
            for number, (where, other) in enumerate(places)
        ]

    def _one_epoch(self, state: State, order: Any, gates: Gates, data: Any) -> tuple[State, Any]:
        def logits(images: Any, flat: Any, given: Any) -> tuple[Any, list[Any]]:
            weights = _split(flat, self.network.weights)
            if given is not None:
                given = _split(given, self.network.statistics)
            return self.network.logits(_Primitives(), images, weights, gates, given)

        def train(state: State, images: Any, labels: Any) -> tuple[State, Any]:
            def loss(flat: Any) -> tuple[Any, tuple[Any, Any]]:
                outputs, moments = logits(images, flat, None)
                losses, hits = losses_and_hits(labels, outputs)
                return jnp.mean(losses), (jnp.concatenate(moments), jnp.sum(hits))

            (mean, (moments, hits)), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.weights
            )
            state = updated(state, gradient, moments, *self._rates)
            return state, jnp.stack([mean * len(labels), hits])

        def validate(state: State, images: Any, labels: Any) -> tuple[State, Any]:
            outputs, _ = logits(images, state.weights, state.statistics)
            losses, hits = losses_and_hits(labels, outputs)
            return state, jnp.stack([jnp.sum(losses), jnp.sum(hits)])

        def over(step: Any, state: State, arrays: Any, order: Any) -> tuple[State, Any]:
            def body(state: State, places: Any) -> tuple[State, Any]:
                return step(state, *(array[places] for array in arrays))

            whole = len(order) // self._batch_size * self._batch_size
            sums = jnp.zeros(2)
            if whole:
                batches = order[:whole].reshape(-1, self._batch_size)
                state, each = jax.lax.scan(body, state, batches)
                sums = sums + jnp.sum(each, 0)
            if whole < len(order):
                state, rest = body(state, order[whole:])
                sums = sums + rest
            return state, sums

        trained_on, validated_on = data
        state, trained = over(train, state, trained_on, order)
        _, validated = over(validate, state, validated_on, jnp.arange(len(validated_on[1])))
        return state, jnp.concatenate([trained, validated])


class _Primitives:
    """Channels that are closed are zeros; convolutions are written so that stacks run fast.

    Under `jax.vmap` a convolution with kernels of its own for each candidate would be a grouped
    convolution, for which there is no fast code; products of matrices and sums of shifted images
    are what they are, only larger.
    """

    def gate(self, x: Any, opened: Any) -> Any:
        return x * opened

    def apart(self, x: Any, opened: Any) -> Any:
        return x

    def node(self, alive: Any, x: Any, compute: Callable[[], Any]) -> Any:
        return compute()

    def convolve(self, x: Any, kernel: Any, stride: int) -> Any:
        patches = jnp.concatenate(list(_shifted(x, stride)), -1)
        return patches @ kernel.reshape(-1, kernel.shape[-1])

    def pool(self, x: Any, stride: int) -> Any:
        height, width = (-(-size // stride) * stride for size in x.shape[1:3])
        missing = (height - x.shape[1], width - x.shape[2])
        padding = [(0, 0), *((pad // 2, pad - pad // 2) for pad in missing), (0, 0)]
        x = jnp.pad(x, padding, constant_values=-jnp.inf)
        parts = [x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)]
        return functools.reduce(jnp.maximum, parts)

    def depthwise(self, x: Any, kernel: Any) -> Any:
        taps = kernel.reshape(9, -1)
        return sum(part * tap for part, tap in zip(_shifted(x, 1), taps, strict=True))

    def pointwise(self, x: Any, kernel: Any) -> Any:
        return x @ kernel[0, 0]


def _shifted(x: Any, stride: int) -> Any:
    """What each of the 3x3 taps of a convolution with same padding sees, in their order."""
    sizes = [-(-size // stride) for size in x.shape[1:3]]
    missing = [
        max((out - 1) * stride + 3 - size, 0) for out, size in zip(sizes, x.shape[1:3], strict=True)
    ]
    padding = [(0, 0), *((pad // 2, pad - pad // 2) for pad in missing), (0, 0)]
    x = jnp.pad(x, padding)
    for row in range(3):
        for column in range(3):
            yield x[
                :,
                row : row + (sizes[0] - 1) * stride + 1 : stride,
                column : column + (sizes[1] - 1) * stride + 1 : stride,
            ]


def _split(flat: Any, weights: Sequence[Any]) -> list[Any]:
    ends = np.cumsum([weight.size for weight in weights])[:-1]
    parts = jnp.split(flat, ends)
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _scattered(values: Sequence[Any], places: Sequence[Any], size: int) -> Any:
    whole = np.zeros((len(values), size), np.float32)
    for row, value, where in zip(whole, values, places, strict=True):
        row[where] = value
    return jnp.asarray(whole)
