"""The gated network on TensorFlow: an epoch of any candidate is one call of one graph.

What a gate closes has no channels here. So a candidate costs what it costs when it is built by
itself, and its arrays have the same shapes: on one device the same numbers come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_layout import Weight
from keras_autoshrink.masked_network import Gates, MaskedNetwork
from keras_autoshrink.masked_training import State, losses_and_hits, updated


class TensorFlowProgram:
    """Trains sub-cells one at a time; several threads may do so at once.

    See `masked_training.Program`.
    """

    stack = 1

    def __init__(
        self,
        network: MaskedNetwork,
        data: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        batch_size: int,
        learning_rate: float,
        momentum: float,
    ) -> None:
        self.network = network
        self._data, self._validation = (
            tuple(tf.constant(array) for array in arrays) for arrays in (data, validation)
        )
        self._batch_size = batch_size
        self._rates = (learning_rate, momentum)
        flat = tf.TensorSpec([None], tf.float32)
        whole = tf.TensorSpec([None], tf.int32)
        signature = (State(flat, flat, flat, flat, tf.TensorSpec([])), whole, whole, whole)
        gates = Gates(whole, whole, whole)
        # Traced at once: the time is nobody's own.
        epoch = tf.function(self._trace, input_signature=(*signature, gates), autograph=False)
        self._epoch = epoch.get_concrete_function()

    def begin(
        self,
        cells: Sequence[Cell],
        weights: Sequence[np.ndarray],
        statistics: Sequence[np.ndarray],
    ) -> Any:
        """The training of sub-cells, before its first epoch; see `masked_training.Program`."""
        (cell,), (initial,), (moving,) = cells, weights, statistics
        sizes = []
        for whole, made in zip(
            (self.network.weights, self.network.statistics), self.network.layout(cell), strict=True
        ):
            has = {(weight.layer, weight.name): weight.size for weight in made}
            found = [has.get((weight.layer, weight.name), 0) for weight in whole]
            sizes.append(tf.constant(found, tf.int32))
        nothing = tf.zeros(initial.shape)
        state = State(tf.constant(initial), nothing, nothing, tf.constant(moving), tf.constant(0.0))
        gates = Gates(*(tf.constant(gate) for gate in self.network.gates(cell)))
        return state, tuple(sizes), gates

    def epoch(self, training: Any, orders: np.ndarray) -> tuple[Any, np.ndarray]:
        """Trains for an epoch and validates; see `masked_training.Program`."""
        state, sizes, gates = training
        state, sums = self._epoch(state, tf.constant(orders[0]), *sizes, gates)
        # Not in the graph, where TensorFlow multiplies by the reciprocal: that rounds twice.
        images = np.array([orders.shape[1]] * 2 + [len(self._validation[1])] * 2, np.float32)
        return (state, sizes, gates), sums.numpy()[np.newaxis] / images

    def weights(self, training: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each sub-cell the weights and statistics; see `masked_training.Program`."""
        return [(training[0].weights.numpy(), training[0].statistics.numpy())]

    def _trace(
        self, state: State, order: tf.Tensor, sizes: tf.Tensor, statistics: tf.Tensor, gates: Gates
    ) -> tuple[State, tf.Tensor]:
        shapes = [_any_channels(weight) for weight in self.network.weights]

        def logits(images: tf.Tensor, flat: tf.Tensor, given: Any) -> tuple[tf.Tensor, list[Any]]:
            parts = tf.split(flat, sizes, num=len(shapes))
            weights = [tf.reshape(*pair) for pair in zip(parts, shapes, strict=True)]
            if given is not None:
                given = tf.split(given, statistics, num=len(self.network.statistics))
            return self.network.logits(_Primitives(), images, weights, gates, given)

        def train(state: State, images: tf.Tensor, labels: tf.Tensor) -> tuple[State, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(state.weights)
                outputs, moments = logits(images, state.weights, None)
                losses, hits = losses_and_hits(labels, outputs)
                loss = tf.reduce_mean(losses)
            gradient = tape.gradient(loss, state.weights)
            count = tf.cast(tf.shape(labels)[0], tf.float32)
            state = updated(state, gradient, tf.concat(moments, 0), *self._rates)
            return state, tf.stack([loss * count, tf.reduce_sum(hits)])

        def validate(state: State, images: tf.Tensor, labels: tf.Tensor) -> tuple[State, tf.Tensor]:
            outputs, _ = logits(images, state.weights, state.statistics)
            losses, hits = losses_and_hits(labels, outputs)
            count = tf.cast(tf.shape(labels)[0], tf.float32)
            return state, tf.stack([tf.reduce_mean(losses) * count, tf.reduce_sum(hits)])

        def over(step: Any, state: State, data: Any, order: tf.Tensor) -> tuple[State, tf.Tensor]:
            count = tf.shape(order)[0]

            def body(start: tf.Tensor, state: State, sums: tf.Tensor) -> Any:
                places = order[start : start + self._batch_size]
                state, sum_ = step(state, *(tf.gather(array, places) for array in data))
                return start + self._batch_size, state, sums + sum_

            flat = tf.TensorShape([None])
            _, state, sums = tf.while_loop(
                lambda start, *_: start < count,
                body,
                (tf.constant(0), state, tf.zeros(2)),
                shape_invariants=(
                    tf.TensorShape([]),
                    State(flat, flat, flat, flat, tf.TensorShape([])),
                    tf.TensorShape([2]),
                ),
                parallel_iterations=1,
            )
            return state, sums

        state, trained = over(train, state, self._data, order)
        places = tf.range(len(self._validation[1]))
        _, validated = over(validate, state, self._validation, places)
        return state, tf.concat([trained, validated], 0)


class _Primitives:
    """Channels that are closed are not there."""

    def gate(self, x: tf.Tensor, opened: tf.Tensor) -> tf.Tensor:
        return x[..., : tf.shape(x)[-1] * opened]

    def apart(self, x: tf.Tensor, opened: tf.Tensor) -> tf.Tensor:
        # What it can tell to be an identity TensorFlow removes, and then makes one sum of all
        # that it kept apart. That `opened` is 1 here it cannot tell.
        _, height, width, channels = tf.unstack(tf.shape(x))
        return tf.reshape(x, (-1, height, width, channels * opened))

    def node(
        self, alive: tf.Tensor, x: tf.Tensor, compute: Callable[[], Any]
    ) -> tuple[tf.Tensor, ...]:
        # Without channels there is nothing that a convolution could be applied to.
        return tf.cond(alive > 0, compute, lambda: (x[..., :0], tf.zeros(0), tf.zeros(0)))

    def convolve(self, x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
        return keras.ops.conv(x, kernel, stride, padding="same")

    def pool(self, x: tf.Tensor, stride: int) -> tf.Tensor:
        return keras.ops.max_pool(x, stride, padding="same")

    def depthwise(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.depthwise_conv(x, kernel, padding="same")

    def pointwise(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.conv(x, kernel, padding="same")


def _any_channels(weight: Weight) -> Sequence[int]:
    """The shape of a weight for `tf.reshape`, whichever channels it lacks."""
    if weight.name in ("gamma", "beta"):
        return [-1]
    shape = list(weight.shape)
    if weight.axis is not None:
        shape[weight.axis] = -1
    return shape
