"""What a Keras model costs: its multiply-accumulates and its parameters.

One multiply-accumulate is one, not two FLOPs. Convolutions, dense layers and matrix products
count; normalization, bias, activation, pooling and addition do not (the convention of
arXiv 1911.09251, whose score weighs accuracy against this number). What each kind of layer
costs is in `layer_macs.py`; this module finds the calls of a model and refuses what it cannot
see into.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_autoshrink.layer_macs import (
    LAYER_RULES,
    OPERATION_RULES,
    UNCOUNTABLE_OPERATIONS,
    ZERO_LAYERS,
    ZERO_OPERATION_MODULES,
    ZERO_OPERATIONS,
    ZERO_PRIVATE_LAYERS,
    Call,
    MisfitError,
    UnknownSizeError,
    describe,
    shape_of,
)

_REMEDY = "give its class a method count_macs(self, input_shape) -> int"

# What a subclass of a known layer may define without a change to what the layer computes.
_HARMLESS_NAMES = """
    get_config from_config get_build_config build_from_config compute_mask supports_masking
    save_own_variables load_own_variables save_assets load_assets add_loss losses metrics
"""
_HARMLESS_OVERRIDES = frozenset(_HARMLESS_NAMES.split())
# What makes a model a subclassed one; a train_step of its own does not.
_CALL_METHODS = frozenset({"call", "__call__", "symbolic_call", "compute_output_spec"})


def count_macs(model: keras.Model, input_shape: Any = None) -> int:
    """Counts the multiply-accumulates of a model for one sample.

    The model is walked, not run, and not changed. A layer that is shared counts at every call.
    A sample of a language model is a whole sequence; for the number per token pass one time
    step, input_shape=(1,), or divide by the steps.

    A custom layer (or RNN cell) is asked through its method `count_macs(self, input_shape)`, if
    its class has one: it gets the shape of its first argument (or the structure of shapes) as
    (None, ...), the batch dimension unknown, and returns the multiply-accumulates of one sample.

    Args:
        model: A functional or Sequential Keras 3 model.
        input_shape: The shape to count at, without the batch dimension, such as (224, 224, 3);
            for several inputs a list of shapes in the order of `model.inputs`, or a dict of
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
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(16, 3)])
        >>> count_macs(model)  # 30 x 30 positions, 3 x 3 taps, 3 channels, 16 filters
        388800
        >>> count_macs(model, input_shape=(34, 34, 3))
        442368
    """
    _check_model(model)
    if isinstance(model, keras.Sequential) and not hasattr(model, "inputs"):
        model = _built_copy(model, input_shape)
    shapes = [tuple(x.shape) for x in model.inputs]
    if input_shape is not None:
        samples = _input_shapes(model, input_shape)
        shapes = [shape[:1] + sample for shape, sample in zip(shapes, samples, strict=True)]
    fixed = sorted({shape[0] for shape in shapes if shape and shape[0] is not None})
    if len(fixed) > 1:
        raise ValueError(
            f"the inputs of model {model.name!r} have different fixed batch sizes {fixed}: "
            "build it without"
        )
    # One sample and no less: where the graph folds positions into the batch axis, as in
    # reshape(x, (-1, units)), that axis then is the number of positions.
    batch = fixed[0] if fixed else 1
    shapes = [(batch, *shape[1:]) if shape else shape for shape in shapes]
    try:
        total, _ = _walk(model, shapes)
    except UnknownSizeError as error:
        raise ValueError(f"{error}: {_shape_advice(shapes)}") from None
    except MisfitError as error:
        advice = "" if input_shape is None else f"; input_shape={input_shape} does not fit"
        raise ValueError(f"{error}{advice}") from error.__cause__
    return -(-total // batch)


def count_params(model: keras.Model, batchnorm: bool = True) -> int:
    """Counts the parameters of a model: every number in its weights, trainable or not.

    Args:
        model: A built Keras 3 model (or layer).
        batchnorm: Whether the weights of BatchNormalization layers count (gamma, beta and the
            moving statistics), wherever they are nested. Published tables often leave them out.

    Returns:
        The number of parameters; a weight that is shared counts once.

    Raises:
        TypeError: `model` is no Keras 3 model or layer.
        ValueError: The model is not built.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"count_params takes a Keras 3 model, not {_type_name(model)}")
    # There is no public list of the layers inside wrappers and custom layers.
    layers: list[Any] = model._flatten_layers()
    for layer in layers:
        if not layer.built and (layer is model or isinstance(layer, keras.Model)):
            raise ValueError(
                f"{describe(layer)} is not built and has no weights yet: "
                "call its build((None, ...)), or call it on data"
            )
    sizes = {id(weight): math.prod(weight.shape) for weight in model.weights}
    if not batchnorm:
        for layer in layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                for weight in layer.weights:
                    sizes.pop(id(weight), None)
    return sum(sizes.values())


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


def _check_model(model: Any) -> None:
    """Raises TypeError for all but functional and Sequential models."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"count_macs takes a Keras 3 model, not {_type_name(model)}")
    overridden = next(_overrides(type(model), _CALL_METHODS), None)
    if overridden or not isinstance(model, (keras.Function, keras.Sequential)):
        raise TypeError(
            f"{describe(model)} is a subclassed model, whose call cannot be looked into: build it "
            f"with the functional API, or, to use it inside such a model, {_REMEDY}"
        )


def _built_copy(model: keras.Sequential, input_shape: Any) -> keras.Sequential:
    """A built copy of a Sequential model that has no input yet; the original stays unbuilt."""
    if input_shape is None:
        raise ValueError(
            f"Sequential model {model.name!r} is not built: pass input_shape=(224, 224, 3), "
            "say, or start the model with a keras.Input"
        )
    shape = _shape(input_shape)
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


def _shape(value: Any) -> tuple[int, ...]:
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


def _input_shapes(model: Any, input_shape: Any) -> list[tuple[int, ...]]:
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
    shapes = [_shape(value) for value in values]
    for shape, tensor, name in zip(shapes, model.inputs, names, strict=True):
        if len(shape) != len(tensor.shape) - 1:
            raise ValueError(
                f"input_shape={shape} has {len(shape)} dimension(s), input {name!r} of model "
                f"{model.name!r} takes {tuple(tensor.shape[1:])}: pass it without the batch "
                "dimension"
            )
    return shapes


def _shape_advice(shapes: Sequence[Sequence[int | None]]) -> str:
    """What to pass as input_shape, with plausible sizes in the place of None."""
    if all(size is not None for shape in shapes for size in shape):
        return f"it depends on the data; put it into a layer of its own and {_REMEDY}"
    examples = [
        tuple((224 if len(shape) == 4 else 32) if size is None else size for size in shape[1:])
        for shape in shapes
    ]
    return f"pass input_shape={examples[0] if len(examples) == 1 else examples}"


def _walk(model: Any, shapes: Sequence[Sequence[int | None]]) -> tuple[int, list[Any]]:
    """Counts a functional or built Sequential model.

    `clone_model` is the public way to see every call of the graph: it replays the graph on new
    inputs and asks `call_function` to make each call. Ours makes none: it counts, infers the
    shapes, and puts a stand-in without weights into the copy. The original gets no new node.

    Args:
        model: The model.
        shapes: The inputs' shapes, (batch, ...) each.

    Returns:
        The multiply-accumulates of the whole batch; the outputs, KerasTensors of shape
        (batch, ...), flattened.
    """
    total = calls = 0

    def record(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal total, calls
        call = Call(operation, args, kwargs)
        if _is_graph(operation):
            macs, outputs = _walk(operation, _nested_shapes(call))
        else:
            macs, outputs = _count(call), call.outputs
        total += macs
        calls += 1
        # A shared layer gets a stub a call: their names must differ.
        return _Stub(f"call_{calls}", outputs)(*args, **kwargs)

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


class _Stub(keras.Operation):  # type: ignore[misc]
    """Stands for one call of an operation: has its outputs' shapes and computes nothing."""

    def __init__(self, name: str, outputs: Any) -> None:
        super().__init__(name=name)
        self._specs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype, sparse=x.sparse), outputs
        )

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self._specs


def _is_graph(operation: Any) -> bool:
    """Whether to walk into an operation: a nested model that is not asked for its count."""
    return isinstance(operation, keras.Model) and not hasattr(type(operation), "count_macs")


def _nested_shapes(call: Call) -> list[tuple[int | None, ...]]:
    """The shapes that a nested model is called with, in the order of its inputs."""
    model, value = call.operation, call.first
    _check_model(model)
    if isinstance(value, dict) and not isinstance(model.input, dict):
        value = [value[x.name] for x in model.inputs]
    tensors = keras.tree.flatten(value)
    if len(tensors) != len(model.inputs) or any(x is None for x in tensors):
        raise ValueError(f"{describe(model)} is called without one of its inputs: pass them all")
    shapes = [shape_of(x) for x in tensors]
    for i, x in enumerate(model.inputs):  # As Keras does: a last axis of 1 may come or go.
        if len(shapes[i]) == len(x.shape) + 1 and shapes[i][-1] == 1:
            shapes[i] = shapes[i][:-1]
        elif len(shapes[i]) == len(x.shape) - 1 and x.shape[-1] == 1:
            shapes[i] = (*shapes[i], 1)
    return shapes


def _overrides(cls: type, names: frozenset[str] | None = None) -> Iterator[str]:
    """Yields what a user's class overrides of the Keras class under it.

    Args:
        cls: The class of a layer, model or operation.
        names: What to look for; None looks for everything that can change the computation. A
            name that Keras's class does not have cannot: its code does not use it.
    """
    base = _keras_class(cls)
    for owner in cls.__mro__[: cls.__mro__.index(base)]:
        for name in vars(owner):
            if names is not None:
                if name in names:
                    yield name
            elif hasattr(base, name) and name not in _HARMLESS_OVERRIDES:
                dunder = name.startswith("__") and name.endswith("__")
                if not dunder or name in ("__call__", "__getattribute__", "__setattr__"):
                    yield name


def _keras_class(cls: type) -> type:
    """The first class of Keras's own among a class and its bases, or object."""
    return next((x for x in cls.__mro__ if x.__module__.split(".")[0] == "keras"), object)


def _count(call: Call) -> int:
    """Counts one call, over the whole batch."""
    operation = call.operation
    if hasattr(type(operation), "count_macs"):
        return _ask(call)
    if _is_graph(operation):
        return _walk(operation, _nested_shapes(call))[0]
    kind = _keras_class(type(operation))
    overridden = next(_overrides(type(operation)), None)
    if "call" in getattr(operation, "__dict__", {}):  # Replaced on this one object.
        overridden = "call"
    rule = LAYER_RULES.get(kind) or _WRAPPERS.get(kind)
    zero = kind in ZERO_LAYERS or f"{kind.__module__}.{kind.__name__}" in ZERO_PRIVATE_LAYERS
    package, _, module = kind.__module__.rpartition(".")
    if package == "keras.src.ops":
        key = f"{module}.{kind.__name__}"
        rule = OPERATION_RULES.get(key)
        zero = module in ZERO_OPERATION_MODULES and key not in UNCOUNTABLE_OPERATIONS
        zero = zero or key in ZERO_OPERATIONS
    if kind is keras.layers.Lambda:
        reason = "a Lambda hides what it computes"
        remedy = f"use keras.ops on the tensors themselves, or write a layer and {_REMEDY}"
    elif rule is None and not zero:
        reason, remedy = "count_macs does not know this class", _REMEDY
        if isinstance(operation, keras.Operation) and not isinstance(operation, keras.layers.Layer):
            remedy = f"put it into a layer of its own and {_REMEDY}"
    elif overridden:
        reason, remedy = f"it overrides {kind.__name__}.{overridden}", _REMEDY
    else:
        _check_input(call)
        return rule(call) if rule else 0
    raise ValueError(
        f"cannot count the multiply-accumulates of {describe(operation)}: {reason}; {remedy}"
    )


def _ask(call: Call) -> int:
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


def _check_input(call: Call) -> None:
    """Raises MisfitError where an input contradicts the layer's `input_spec`."""
    # Keras does this check in the layer's __call__, which the walk does not use.
    specs = keras.tree.flatten(getattr(call.operation, "input_spec", None) or [])
    for x, spec in zip(keras.tree.flatten(call.first), specs, strict=False):
        if spec is None or x is None:
            continue
        shape = shape_of(x)
        axes = dict(spec.axes or {})
        axes.update(enumerate((spec.shape or ())[1:], start=1))
        fits = spec.ndim in (None, len(shape)) and len(shape) >= (spec.min_ndim or 0)
        fits = fits and all(
            None in (size, shape[axis]) or shape[axis] == size for axis, size in axes.items()
        )
        if not fits:
            raise MisfitError(f"{describe(call.operation)} takes {spec}, not a shape {shape}")


def _step(call: Call) -> Any:
    """What one layer or cell sees of a sequence (batch, steps, ...): (batch x steps, ...)."""
    batch, steps, *rest = call.known(call.first)
    return keras.KerasTensor((batch * steps, *rest), dtype=call.first.dtype)


def _rnn(call: Call) -> int:
    return _count(Call(call.operation.cell, (_step(call),), {}))


def _stacked_cells(call: Call) -> int:
    total, inputs = 0, call.first
    for cell in call.operation.cells:
        total += _count(Call(cell, (inputs,), {}))
        size = getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]
        inputs = keras.KerasTensor((inputs.shape[0], size), dtype=inputs.dtype)
    return total


def _time_distributed(call: Call) -> int:
    return _count(Call(call.operation.layer, (_step(call),), {}))


def _bidirectional(call: Call) -> int:
    layers = (call.operation.forward_layer, call.operation.backward_layer)
    return sum(_count(Call(layer, (call.first,), {})) for layer in layers)


def _spectral_normalization(call: Call) -> int:
    # At inference the wrapped layer alone runs; the power iterations belong to training.
    return _count(Call(call.operation.layer, (call.first,), {}))


_WRAPPERS = {
    keras.layers.RNN: _rnn,
    keras.layers.SimpleRNN: _rnn,
    keras.layers.LSTM: _rnn,
    keras.layers.GRU: _rnn,
    keras.layers.StackedRNNCells: _stacked_cells,
    keras.layers.TimeDistributed: _time_distributed,
    keras.layers.Bidirectional: _bidirectional,
    keras.layers.SpectralNormalization: _spectral_normalization,
}
