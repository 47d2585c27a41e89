"""The walk through a model's graph that counts every call, and the shapes to count it at."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_autoshrink.costs.calls import REMEDY, Call, Shape, describe, keras_class, shape_of
from keras_autoshrink.costs.rules import RULES, WRAPPERS, costs_nothing, function_costs_nothing


def check_model(model: Any) -> None:
    """Raises TypeError if a model is neither functional nor Sequential."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"count_macs takes a Keras 3 model, not {type(model)}")
    # A train_step of its own does not make a subclassed model of it.
    own_call = not type(model).call.__module__.startswith("keras.src.")
    if own_call or not isinstance(model, (keras.Function, keras.Sequential)):
        raise TypeError(
            f"{describe(model)} is a subclassed model, whose call cannot be looked into: build it "
            f"with the functional API, or, to use it inside such a model, {REMEDY}"
        )


def walk(model: Any, shapes: Sequence[Sequence[int | None]]) -> tuple[int, list[Any]]:
    """Counts the multiply-accumulates of a functional or built Sequential model.

    `clone_model` is the public way to see every call of the graph: it replays the graph on new
    inputs and asks `call_function` to make each call. Ours makes none: it counts, infers the
    shapes, and puts a stand-in without weights into the copy. The original gets no new node.

    Args:
        model: The model.
        shapes: The inputs' shapes, (batch, ...) each.

    Returns:
        The multiply-accumulates of the whole batch; the outputs, KerasTensors, flattened.
    """
    total = 0

    def record(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal total
        call = Call(operation, args, kwargs)
        if _is_graph(operation):
            # Its own shape inference would insist on the input sizes that it was built with.
            macs, outputs = walk(operation, _nested_shapes(call))
        else:
            macs, outputs = _call_macs(call), call.outputs
        total += macs
        return _StandIn(outputs)(*args, **kwargs)

    # A fresh functional model over the same tensors: clone_model takes a call_function for
    # functional models only, and would compile the copy of a compiled model.
    graph = keras.Model(model.inputs, model.outputs, name=model.name)
    inputs = [
        keras.Input(batch_shape=tuple(shape), dtype=x.dtype, sparse=x.sparse, name=f"input_{i}")
        for i, (x, shape) in enumerate(zip(graph.inputs, shapes, strict=True))
    ]
    clone = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=lambda layer: layer, call_function=record
    )
    return total, list(clone.outputs)


class _StandIn(keras.Operation):  # type: ignore[misc]
    """A stand-in for one call of an operation, with its outputs' shapes and no computation."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._specs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype, sparse=x.sparse), outputs
        )

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self._specs


def _is_graph(operation: Any) -> bool:
    """Whether to walk into an operation: a nested model that is not asked for its count."""
    return isinstance(operation, keras.Model) and not hasattr(type(operation), "count_macs")


def _call_macs(call: Call) -> int:
    """Counts one call, over the whole batch."""
    operation, kind = call.operation, call.kind
    if hasattr(type(operation), "count_macs"):
        return _answer(call)
    if _is_graph(operation):
        return walk(operation, _nested_shapes(call))[0]
    if kind == "Lambda":
        reason = "a Lambda hides what it computes"
        remedy = f"use keras.ops on the tensors themselves, or write a layer and {REMEDY}"
    elif kind not in RULES and kind not in WRAPPERS and not costs_nothing(kind):
        reason, remedy = "count_macs does not know this class", REMEDY
        if not isinstance(operation, keras.layers.Layer):
            remedy = f"put it into a layer of its own and {REMEDY}"
    elif overridden := _overridden(type(operation)):
        reason, remedy = f"it overrides {kind}.{overridden}", REMEDY
    elif name := _unknown_activation(operation):
        reason = f"its {name} is not one of Keras's own that cost nothing"
        remedy = f"put it into a layer (or cell) of its own and {REMEDY}"
    else:
        call.check_input_spec()
        if kind in WRAPPERS:
            return sum(_call_macs(inner) for inner in WRAPPERS[kind](call))
        return RULES[kind](call) if kind in RULES else 0
    raise ValueError(
        f"cannot count the multiply-accumulates of {describe(operation)}: {reason}; {remedy}"
    )


def _answer(call: Call) -> int:
    """Asks a custom layer for its multiply-accumulates."""
    layer = call.operation
    shapes = keras.tree.map_structure(call.known, call.first)
    batch = keras.tree.flatten(call.first)[0].shape[0]
    answer = layer.count_macs(
        keras.tree.map_shape_structure(lambda shape: (None, *shape[1:]), shapes)
    )
    try:
        macs = operator.index(answer)
    except TypeError:
        macs = -1
    if macs < 0:
        raise TypeError(
            f"count_macs of {describe(layer)} returned {answer!r}, not a whole number >= 0"
        )
    return macs * int(batch)


def _nested_shapes(call: Call) -> list[tuple[int | None, ...]]:
    """Returns the shapes that a nested model is called with, in the order of its inputs."""
    model, value = call.operation, call.first
    check_model(model)
    if isinstance(value, dict) and not isinstance(model.input, dict):
        value = [value[x.name] for x in model.inputs]
    tensors = keras.tree.flatten(value)
    if len(tensors) != len(model.inputs) or any(x is None for x in tensors):
        raise ValueError(f"{describe(model)} is called without one of its inputs: pass them all")
    return [shape_of(x) for x in tensors]


def _unknown_activation(layer: Any) -> str | None:
    """Returns the name of the activation of a known layer whose cost is not known, if any."""
    for name in ("activation", "recurrent_activation"):
        activation = getattr(layer, name, None)
        if isinstance(activation, keras.layers.Layer):
            cls = type(activation)
            known = costs_nothing(Call(activation, ()).kind) and not hasattr(cls, "count_macs")
            free = known and not _overridden(cls) and not _unknown_activation(activation)
        else:
            free = activation is None or function_costs_nothing(activation)
        if not free:
            return name
    return None


# What a subclass of a known layer may define without a change to what the layer computes.
_HARMLESS_NAMES = """
    get_config from_config get_build_config build_from_config compute_mask supports_masking
    save_own_variables load_own_variables save_assets load_assets add_loss losses metrics
"""
_HARMLESS_OVERRIDES = frozenset(_HARMLESS_NAMES.split())


def _overridden(cls: type) -> str | None:
    """Returns what a user's class overrides of its Keras class that can change its result."""
    base = keras_class(cls)
    for owner in cls.__mro__[: cls.__mro__.index(base)]:
        for name in vars(owner):
            # A name that Keras's class does not have changes nothing: its code does not use it.
            private = name.startswith("__") and name != "__call__"
            if hasattr(base, name) and name not in _HARMLESS_OVERRIDES and not private:
                return name
    return None


def batch_shapes(model: Any, input_shape: Any) -> list[tuple[int | None, ...]]:
    """Returns the shapes to count a model at, (batch, ...) each, in the order of its inputs."""
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
    """Says what to pass as input_shape, with plausible sizes in the place of None."""
    if all(size is not None for shape in shapes for size in shape):
        return f"it depends on the data; put it into a layer of its own and {REMEDY}"
    examples = [
        tuple((224 if len(shape) == 4 else 32) if size is None else size for size in shape[1:])
        for shape in shapes
    ]
    return f"pass input_shape={examples[0] if len(examples) == 1 else examples}"


def _sample_shapes(model: Any, input_shape: Any) -> list[Shape]:
    """Returns the user's shapes in the order of `model.inputs`, checked for number and rank."""
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
    """Returns one shape without the batch dimension, checked."""
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


def built_copy(model: keras.Sequential, input_shape: Any) -> keras.Sequential:
    """Builds a copy of a Sequential model that has no input yet; the original stays unbuilt."""
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
