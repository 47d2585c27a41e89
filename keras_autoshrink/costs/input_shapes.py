"""The shapes that a model is counted at: what the user passes as `input_shape`, checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_autoshrink.costs.calls import REMEDY, Shape


def built_copy(model: keras.Sequential, input_shape: Any) -> keras.Sequential:
    """A built copy of a Sequential model that has no input yet; the original stays unbuilt."""
    if input_shape is None:
        raise ValueError(
            f"Sequential model {model.name!r} is not built: pass input_shape=(224, 224, 3), "
            "say, or start the model with a keras.Input"
        )
    shape = _sample_shape(input_shape)
    try:
        # Not clone_model: it would compile the copy of a compiled model.
        copies = {id(x): x.__class__.from_config(x.get_config()) for x in model.layers}
        copy = keras.Sequential([copies[id(x)] for x in model.layers], name=model.name)
        copy.build((None, *shape))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Sequential model {model.name!r} cannot be built with input_shape={shape}: {reason}"
        ) from error
    if not hasattr(copy, "inputs"):
        raise ValueError(
            f"Sequential model {model.name!r} has a layer whose output shape Keras cannot infer: "
            "give that layer a compute_output_shape"
        )
    return copy


def batch_shapes(model: Any, input_shape: Any) -> list[tuple[int | None, ...]]:
    """The shapes, (batch, ...) each, to count a model at, in the order of `model.inputs`.

    Args:
        model: A functional or built Sequential model.
        input_shape: As for `count_macs`.

    Raises:
        ValueError: `input_shape` does not fit, or fixed batch sizes differ.
    """
    shapes = [tuple(x.shape) for x in model.inputs]
    fixed = sorted({shape[0] for shape in shapes if shape and shape[0] is not None})
    if len(fixed) > 1:
        raise ValueError(
            f"the inputs of model {model.name!r} have different fixed batch sizes {fixed}: "
            "build it without"
        )
    # One sample and no less: where the graph folds positions into the batch axis, as in
    # reshape(x, (-1, units)), that axis then is the number of positions.
    batch = fixed[0] if fixed else 1
    if input_shape is not None:
        return [(batch, *shape) for shape in _sample_shapes(model, input_shape)]
    return [(batch, *shape[1:]) if shape else shape for shape in shapes]


def shape_advice(shapes: Sequence[Sequence[int | None]]) -> str:
    """What to pass as input_shape, with plausible sizes in the place of None."""
    if all(size is not None for shape in shapes for size in shape):
        return f"it depends on the data; put it into a layer of its own and {REMEDY}"
    examples = [
        tuple((224 if len(shape) == 4 else 32) if size is None else size for size in shape[1:])
        for shape in shapes
    ]
    return f"pass input_shape={examples[0] if len(examples) == 1 else examples}"


def _sample_shapes(model: Any, input_shape: Any) -> list[Shape]:
    """The user's shapes in the order of `model.inputs`, checked for number and rank."""
    names = [x.name for x in model.inputs]
    if not isinstance(model, keras.Sequential) and isinstance(model.input, dict):
        names = sorted(model.input)  # The order in which Keras flattens a dict.
    if isinstance(input_shape, Mapping):
        if set(input_shape) != set(names):
            raise ValueError(
                f"input_shape names the inputs {sorted(input_shape)}, "
                f"model {model.name!r} has {sorted(names)}"
            )
        values = [input_shape[name] for name in names]
    elif isinstance(input_shape, (list, tuple)) and any(
        isinstance(x, (list, tuple)) for x in input_shape
    ):
        values = list(input_shape)
    else:
        values = [input_shape]
    if len(values) != len(names):
        raise ValueError(
            f"input_shape has {len(values)} shape(s), model {model.name!r} has {len(names)} "
            f"inputs: pass a list of shapes in the order {names}"
        )
    shapes = [_sample_shape(value) for value in values]
    for shape, tensor, name in zip(shapes, model.inputs, names, strict=True):
        if len(shape) != len(tensor.shape) - 1:
            raise ValueError(
                f"input_shape={shape} has {len(shape)} dimension(s), input {name!r} of model "
                f"{model.name!r} takes {tuple(tensor.shape[1:])}: pass it without the batch "
                "dimension"
            )
    return shapes


def _sample_shape(value: Any) -> Shape:
    """One shape without the batch dimension, checked."""
    try:
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        shape = (0,)
    if min(shape, default=1) < 1:
        raise ValueError(
            f"input_shape={value!r} is no shape: pass positive whole numbers without the batch "
            "dimension, such as (224, 224, 3)"
        )
    return shape
