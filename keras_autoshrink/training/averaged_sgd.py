"""Averaged SGD, and the trigger that decides when averaging starts (NT-ASGD).

Merity et al., arXiv 1708.02182, section 4 and algorithm 1. Late in a training the
weights of SGD move around a minimum; their mean is closer to it than they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

_NOT_YET = -1


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class AveragedSGD(keras.optimizers.SGD):
    """SGD that keeps the mean of the weights after each step, from `start_averaging` on.

    The averages are kept beside the weights, which go on as if there were none. What is averaged
    are the weights after the whole step, weight decay and clipping included; a constraint that a
    variable has is applied later. All of its state is in `variables`, so that it is found again
    in what is saved.

    Args:
        *args: of `keras.optimizers.SGD`.
        **kwargs: of `keras.optimizers.SGD`.
    """

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Adds the averages, one for each variable, and the step that they begin with."""
        if self.built:
            return
        super().build(variables)
        self._averages = self.add_optimizer_variables(variables, "mean_since_start")
        self._start = self.add_variable(
            (), keras.initializers.Constant(_NOT_YET), dtype="int", name="averaging_start"
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable, and its average."""
        super().update_step(gradient, variable, learning_rate)
        average = self._averages[self._get_variable_index(variable)]
        # The number of steps in the average, this one included. Arithmetic and no branch, which
        # not all backends allow in here; a share of 0 leaves the average as it is, and one of 1
        # in the first step makes it the weights, as it has been 0.
        steps = keras.ops.maximum(self.iterations - self._start + 1, 1)
        started = keras.ops.cast(self._start > _NOT_YET, variable.dtype)
        share = started / keras.ops.cast(steps, variable.dtype)
        change = keras.ops.subtract(variable, average)
        self.assign_add(average, keras.ops.multiply(change, share))

    @property
    def averaging(self) -> bool:
        """Whether `start_averaging` was called, in this process or before a state was saved."""
        return self.built and int(self._start) != _NOT_YET

    def start_averaging(self) -> None:
        """Starts averaging with the next step, once built; to be called between two steps."""
        if not self.averaging:
            self._start.assign(int(self.iterations))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the variables their averages within, and afterwards exactly what they held.

        As long as nothing is averaged they stay as they are.
        """
        if not self.averaging or int(self.iterations) == int(self._start):
            yield
            return
        before, means = _copies(self._trainable_variables), _copies(self._averages)
        try:
            _assign(self._trainable_variables, means)
            yield
        finally:
            _assign(self._trainable_variables, before)


def _copies(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies the values of variables into memory that is not theirs.

    Backends share it otherwise, between an array and a variable (PyTorch) or between two
    variables of which one is assigned to the other (JAX, which then refuses to train them).
    """
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class NonMonotonicTrigger(keras.callbacks.Callback):
    """A callback that starts averaging in `AveragedSGD` once the validation loss stops falling.

    That is after the first epoch with a `val_loss` above the lowest of all epochs before it but
    the last `window` (algorithm 1). Its place is after the callback that puts `val_loss` into the
    logs, and before what saves the optimizer's state.

    Args:
        window: n, the number of epochs that do not count.
        history: `val_loss` of the epochs before this training, if it goes on with an earlier one.
    """

    def __init__(self, window: int, history: Sequence[float] = ()) -> None:
        super().__init__()
        self.window = window
        self.history = list(history)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Compares the validation loss with those of earlier epochs; `epoch` counts from 0."""
        loss = logs["val_loss"]
        if loss > min(self.history[: -self.window], default=math.inf):
            self.model.optimizer.start_averaging()
        # An epoch that overflowed is no lowest one, and nothing is less than NaN.
        self.history.append(loss if math.isfinite(loss) else math.inf)
