"""What a Keras model costs: its multiply-accumulates and its parameters."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_autoshrink.costs.calls import MisfitError, UnknownSizeError, describe
from keras_autoshrink.costs.graph import batch_shapes, built_copy, check_model, shape_advice, walk


def count_macs(model: keras.Model, input_shape: Any = None) -> int:
    """Counts the multiply-accumulates of a model for one sample.

    Convolutions, dense layers and matrix products count, one multiply-accumulate as one, not as two
    FLOPs; normalization, bias, activation, pooling and addition do not (the convention of arXiv
    1911.09251, whose score weighs accuracy against this number).

    The model is walked, not run, and not changed. A layer that is shared counts at every call.
    A sample of a language model is a whole sequence; for the number per token pass one time
    step, input_shape=(1,), or divide by the steps. A recurrent layer with unroll=True does not
    multiply by the zeros that its state begins with, nor does a file of it.

    A custom layer (or RNN cell) is asked through its method `count_macs(self, input_shape)`, if
    its class has one: it gets the shape of its first argument (or the structure of shapes) as
    (None, ...), the batch dimension unknown, and returns the multiply-accumulates of one sample.

    Args:
        model: A functional or Sequential Keras 3 model.
        input_shape: The shape to count at, without the batch dimension, such as (224, 224, 3);
            for several inputs a list of shapes in the order of the model's `inputs`, or a dict of
            shapes by input name. Overrides the model's own shapes. Needed where the model leaves
            dimensions open, and for a Sequential model that is not built (this one case builds
            a throw-away copy of it).

    Returns:
        The multiply-accumulates of one sample (a fixed batch size is divided out).

    Raises:
        TypeError: `model` is no Keras 3 model, or is a subclassed model.
        ValueError: The model is not built, a layer is not known, a size is unknown, or
            `input_shape` does not fit. The message names the layer and says what to do.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(16, 3)])
        >>> count_macs(model)  # 30 x 30 positions, 3 x 3 taps, 3 channels, 16 filters
        388800
        >>> count_macs(model, input_shape=(34, 34, 3))
        442368
    """
    check_model(model)
    if isinstance(model, keras.Sequential) and not hasattr(model, "inputs"):
        model = built_copy(model, input_shape)
    shapes = batch_shapes(model, input_shape)
    try:
        total, _ = walk(model, shapes)
    except UnknownSizeError as error:
        raise ValueError(f"{error}: {shape_advice(shapes)}") from None
    except MisfitError as error:
        advice = "" if input_shape is None else f"; input_shape={input_shape} does not fit"
        raise ValueError(f"{error}{advice}") from error.__cause__
    batch = next((shape[0] for shape in shapes if shape), None) or 1
    return -(-total // batch)


def count_params(model: keras.Model, batchnorm: bool = True) -> int:
    """Counts the parameters of a model: every number in its weights, trainable or not.

    The state that a recurrent layer carries from one batch to the next is no parameter.

    Args:
        model: A built Keras 3 model (or layer).
        batchnorm: Whether the weights of BatchNormalization layers count (gamma, beta and the
            moving statistics), wherever they are nested. Published tables often leave them out.

    Returns:
        The number of parameters; a weight that is shared counts once.

    Raises:
        TypeError: `model` is no Keras 3 model or layer.
        ValueError: The model is not built.

    Example:
        >>> import keras
        >>> convolution = keras.layers.Conv2D(4, 1, use_bias=False)
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 3)), convolution, keras.layers.BatchNormalization()]
        ... )
        >>> count_params(model), count_params(model, batchnorm=False)
        (28, 12)
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"count_params takes a Keras 3 model, not {type(model)}")
    # There is no public list of the layers inside wrappers and custom layers.
    layers: list[Any] = model._flatten_layers()
    for layer in layers:
        if not layer.built and (layer is model or isinstance(layer, keras.Model)):
            raise ValueError(
                f"{describe(layer)} is not built and has no weights yet: "
                "call its build((None, ...)), or call it on data"
            )
    sizes = {id(weight): math.prod(weight.shape) for weight in model.weights}
    for layer in layers:
        left_out = not batchnorm and isinstance(layer, keras.layers.BatchNormalization)
        if left_out or getattr(type(layer), "carries_state", False):
            for weight in layer.weights:  # of what carries a state, its states
                sizes.pop(id(weight), None)
    return sum(sizes.values())
