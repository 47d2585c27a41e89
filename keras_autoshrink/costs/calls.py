"""One call of a layer or operation in a Keras model's graph, as the counting rules see it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]

# What a user can do about a layer that cannot be counted; it ends the messages.
REMEDY = "give its class a method count_macs(self, input_shape) -> int"


class UnknownSizeError(ValueError):
    """A count needs a dimension that is None."""


class MisfitError(ValueError):
    """A layer is given an input that it or its weights do not fit."""


def describe(operation: Any) -> str:
    """Names an operation in an error message: its kind, its own name, its class."""
    kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
    name = getattr(operation, "name", None)
    return f"{kind} {name!r} ({type(operation).__name__})"


def shape_of(value: Any) -> tuple[int | None, ...]:
    """Returns the shape of a KerasTensor, variable, array, list or number."""
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def keras_class(cls: type) -> type:
    """Returns the first class of Keras's own among a class and its bases, or object."""
    return next((x for x in cls.__mro__ if x.__module__.split(".")[0] == "keras"), object)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation in a model's graph.

    Args:
        operation: A Keras layer or operation.
        args: Its positional arguments; tensors are KerasTensors of shape (batch, ...).
        kwargs: Its keyword arguments.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The Keras class of the operation: "Conv2D" for layers, "ops.nn.Conv" for keras.ops."""
        # Keras exports its operations as functions only: their classes go by module and name.
        cls = keras_class(type(self.operation))
        if cls.__module__.startswith("keras.src.layers."):
            return cls.__name__
        return f"{cls.__module__.removeprefix('keras.src.')}.{cls.__name__}"

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments by their names in `operation.call`."""
        signature = inspect.signature(self.operation.call)
        return dict(signature.bind(*self.args, **self.kwargs).arguments)

    @property
    def first(self) -> Any:
        """The first argument: a tensor or a structure of tensors."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @functools.cached_property
    def outputs(self) -> Any:
        """What the operation returns, as KerasTensors: shapes are inferred, nothing is run."""
        try:
            return self.operation.compute_output_spec(*self.args, **self.kwargs)
        except Exception as error:
            shapes = [shape_of(x) for x in keras.tree.flatten(self.first) if x is not None]
            reason = " ".join(str(error).split())[:300]
            raise MisfitError(
                f"{describe(self.operation)} does not take an input of shape "
                f"{', '.join(map(str, shapes))}: {reason}"
            ) from error

    @property
    def output_shape(self) -> Shape:
        """The shape of the (first) output."""
        return self.known(keras.tree.flatten(self.outputs)[0])

    def shape(self, name: str) -> Shape:
        """Returns the shape of the argument of that name."""
        return self.known(self.arguments[name])

    def known(self, tensor: Any) -> Shape:
        """Returns the shape of a tensor, or raises UnknownSizeError if a dimension is None."""
        shape = shape_of(tensor)
        if any(size is None for size in shape):
            raise UnknownSizeError(
                f"{describe(self.operation)} has a tensor of unknown size {shape}"
            )
        return tuple(int(size) for size in shape if size is not None)

    def check_features(self, shape: Shape, features: int) -> None:
        """Raises MisfitError if the last axis does not have the size of the layer's weights."""
        if shape[-1] != features:
            raise MisfitError(
                f"{describe(self.operation)} takes {features} features, not {shape[-1]}"
            )

    def check_input_spec(self) -> None:
        """Raises MisfitError if an input contradicts the layer's `input_spec`."""
        # Keras does this check in the layer's __call__, which counting does not use.
        specs = keras.tree.flatten(getattr(self.operation, "input_spec", None) or [])
        for x, spec in zip(keras.tree.flatten(self.first), specs, strict=False):
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
                raise MisfitError(f"{describe(self.operation)} takes {spec}, not a shape {shape}")


Rule = Callable[[Call], int]
