"""What two searches in one folder must have in common, and how they differ."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Mapping
from typing import Any

import keras
import keras_tuner

from keras_autoshrink.costs import count_params
from keras_autoshrink.search_space import CellSpace


def of_hypermodel(hypermodel: Any) -> Any:
    """What tells one search space from another, as plain values.

    Builds the network of all edges, so that what cannot be built raises here.

    Raises:
        ValueError: it declares no cell.
    """
    hp = keras_tuner.HyperParameters()
    model = (hypermodel.build if hasattr(hypermodel, "build") else hypermodel)(hp)
    return {
        "cell": CellSpace(hp.space).cell.to_json(),
        "params": count_params(model) if isinstance(model, keras.Model) and model.built else None,
        "config": describe(getattr(hypermodel, "get_config", dict)()),
    }


def describe(value: Any) -> Any:
    """A value as JSON gives it back, equal for what a script makes anew at each run.

    What prints as its contents is its repr; a function is its name with the values that it
    closes over; another object is its class with its attributes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
    if hasattr(value, "__qualname__"):  # a function or a class
        closed_over = [
            describe(cell.cell_contents) for cell in getattr(value, "__closure__", None) or ()
        ]
        return [value.__qualname__, *closed_over]
    if dataclasses.is_dataclass(value):
        return repr(value)
    return [type(value).__qualname__, describe(getattr(value, "__dict__", {}))]


def difference(theirs: Any, ours: Any, name: str = "") -> str:
    """Says in which entries two settings differ: `filters=4, not 8`."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names = [n for n in {**theirs, **ours} if theirs.get(n) != ours.get(n)]
        return "; ".join(difference(theirs.get(n), ours.get(n), n) for n in names)
    shown = [reprlib.repr(value) for value in (theirs, ours)]
    return f"{name}={shown[0]}, not {shown[1]}" if name else f"{shown[0]}, not {shown[1]}"
