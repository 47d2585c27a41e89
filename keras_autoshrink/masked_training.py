"""What a step of training computes, on any backend: the loss, and Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from keras import ops

from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_network import MaskedNetwork

# Adam's, as Keras has them.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7


class State(NamedTuple):
    """All that training changes, each array flat: one elementwise operation serves all weights.

    Attributes:
        weights: shape (p,), float32.
        momentums: of Adam, shape (p,).
        velocities: of Adam, shape (p,).
        statistics: moving means and variances, shape (s,).
        step: steps done, a float32.
    """

    weights: Any
    momentums: Any
    velocities: Any
    statistics: Any
    step: Any


def updated(
    state: State, gradient: Any, moments: Any, learning_rate: float, momentum: float
) -> State:
    """The state after a step of Adam, operation by operation as in Keras.

    Args:
        state: before it.
        gradient: of the weights, shape (p,).
        moments: mean and variance of each BatchNorm in this batch, shape (s,).
        learning_rate: of Adam.
        momentum: the share that the moving statistics keep.
    """
    step = state.step + 1
    alpha = (
        learning_rate
        * ops.sqrt(1 - ops.power(ops.cast(_BETA_2, "float32"), step))
        / (1 - ops.power(ops.cast(_BETA_1, "float32"), step))
    )
    momentums = state.momentums + (gradient - state.momentums) * (1 - _BETA_1)
    velocities = state.velocities + (ops.square(gradient) - state.velocities) * (1 - _BETA_2)
    return State(
        state.weights - momentums * alpha / (ops.sqrt(velocities) + _EPSILON),
        momentums,
        velocities,
        state.statistics * momentum + moments * (1 - momentum),
        step,
    )


def losses_and_hits(labels: Any, logits: Any) -> tuple[Any, Any]:
    """Of each image the cross-entropy and whether it is recognised, shape (batch,), float32."""
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    hits = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
    return losses, ops.cast(hits, "float32")


class Program(Protocol):
    """Trains sub-cells of one network's cell; compiled once for all of them.

    Args:
        network: of the whole cell.
        data: images (n, height, width, channels) in float32 and labels (n,) in int32.
        validation: likewise.
        batch_size: of training and validation.
        learning_rate: of Adam.
        momentum: the share that BatchNorm's moving statistics keep at a step.

    Attributes:
        network: of the whole cell.
        stack: how many sub-cells are trained together.
    """

    network: MaskedNetwork
    stack: int

    def begin(
        self,
        cells: Sequence[Cell],
        weights: Sequence[np.ndarray],
        statistics: Sequence[np.ndarray],
    ) -> Any:
        """The training of `stack` sub-cells, before its first epoch.

        Args:
            cells: the sub-cells.
            weights: of each, flat, such as its `MaskedNetwork.initial_weights`.
            statistics: likewise, such as its `MaskedNetwork.initial_statistics`.
        """

    def epoch(self, training: Any, orders: np.ndarray) -> tuple[Any, np.ndarray]:
        """Trains for an epoch and validates.

        Args:
            training: what `begin` or the epoch before returned; not changed.
            orders: of each sub-cell the places of its images, shape (stack, n), int32.

        Returns:
            The training, and the mean loss and accuracy of the epoch and of the validation
            (over all images, the loss and accuracy as they were at each step), shape (stack, 4).
        """

    def weights(self, training: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each sub-cell the weights and the statistics, flat, as its `layout` has them."""
