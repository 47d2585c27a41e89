"""Models and layers that the tests of the costs share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers


def model_of(layer: Any, *shapes: tuple[int | None, ...], **kwargs: Any) -> keras.Model:
    """A functional model of one layer (or function), called on its inputs."""
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(inputs[0] if len(inputs) == 1 else inputs, **kwargs))


class Doubler(layers.Layer):
    """A custom layer that says what it costs: one product per feature."""

    def call(self, x: Any) -> Any:
        return x * 2.0

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        assert input_shape[0] is None
        return int(np.prod(input_shape[1:]))


class Mystery(layers.Layer):
    """A custom layer that does not say what it costs."""

    def call(self, x: Any) -> Any:
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)
