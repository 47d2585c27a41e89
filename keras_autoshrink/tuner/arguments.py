"""Checks of what `AutoShrink` and its `search` are given, before the first candidate is trained.

What is wrong for every candidate alike would else show as so many failures of TensorFlow's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_autoshrink.checks import meant
from keras_autoshrink.data.checks import (
    as_array,
    check_labels,
    first_batch,
    look_through,
)

# What a search gives to `fit` besides what it was given itself.
_OURS = ("callbacks", "epochs", "verbose")

# The losses of which it is known what labels they take, as Keras has them.
_OF_INTEGERS = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_OF_ONE_A_CLASS = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.categorical_focal_crossentropy,
)


def check_constructor(tuner: type, given: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Refuses arguments that neither the class of a tuner nor those above it take.

    Args:
        tuner: the class.
        given: the arguments by name, those that it does not name itself.
        instead: of arguments that others may have, what to give in their place.

    Raises:
        TypeError: it does not take one of them; the message names it.
    """
    names = {n for kind in tuner.__mro__[:-1] for n in _names(vars(kind).get("__init__"))}
    for name in given:
        if name in instead:
            raise TypeError(f"{name}: not an argument of {tuner.__name__}; {instead[name]}")
        if name not in names:
            raise TypeError(
                f"{name}: not an argument of {tuner.__name__}{meant(name, names - {*instead})}"
            )


def check_search(
    hypermodel: keras_tuner.HyperModel,
    hp: keras_tuner.HyperParameters,
    loss: Any,
    args: tuple[Any, ...],
    given: dict[str, Any],
) -> None:
    """Checks what a search is to hand to `fit`.

    Args:
        hypermodel: whose `fit` trains the candidates. Labels are looked at only where all that
            trains is Keras's own, and the hypermodel does not check them itself; it then builds a
            model once more.
        hp: of the search, by which it is built.
        loss: what the tuner compiles candidates with; None for what `build` does.
        args: the positional arguments of the search.
        given: those by name.

    Raises:
        TypeError: `fit` does not take an argument; the message names it.
        ValueError: the data do not fit the networks; the message names the array.
    """
    is_own = has_own_fit(hypermodel)
    model = None
    if not is_own and not hasattr(hypermodel, "check_search_arguments"):
        model = hypermodel.build(hp)
    fit = type(model).fit if isinstance(model, keras.Model) else keras.Model.fit
    _check_names(hypermodel.fit, is_own, fit, args, given)
    if isinstance(model, keras.Model) and _trains_as_keras(model):
        named = inspect.signature(fit).bind(model, *args, **given).arguments
        _check_data(model, loss or model.loss, named)


def has_own_fit(hypermodel: Any) -> bool:
    """Tells whether a HyperModel trains by a `fit` that is not KerasTuner's or ours.

    Args:
        hypermodel: or a function `build(hp)`, which has none.
    """
    fit = getattr(type(hypermodel), "fit", keras_tuner.HyperModel.fit)
    return fit.__module__.partition(".")[0] not in ("keras_tuner", "keras_autoshrink")


def _check_names(
    fit: Callable[..., Any],
    is_own: bool,
    model_fit: Callable[..., Any],
    args: tuple[Any, ...],
    given: Mapping[str, Any],
) -> None:
    """Refuses arguments that neither a HyperModel's `fit` nor that of its models takes."""
    what = "HyperModel.fit()"
    names = _names(fit) - {*list(inspect.signature(fit).parameters)[:2]}  # hp and model
    passes_on = _takes_any(fit)
    if passes_on:
        names |= _names(model_fit) - {"self"}
        what += " or model.fit()"
    # A `fit` of one's own that takes whatever comes may take what no other does, however much its
    # name is like another's: validation_dataset, sample_weights.
    takes_more = passes_on and (is_own or _takes_any(model_fit))
    for name in given:
        if name not in names and not takes_more:
            raise TypeError(f"{name}: not an argument of {what}{meant(name, names)}")
    if missing := [name for name in _OURS if not passes_on and name not in names]:
        raise TypeError(
            f"{missing[0]}: HyperModel.fit() does not take it, and a search gives it; add **kwargs "
            "to it, and hand them to model.fit()"
        )
    called = {**dict.fromkeys(_OURS), **given}
    try:
        inspect.signature(fit).bind(None, None, *args, **called)
        if not is_own:
            inspect.signature(model_fit).bind(None, *args, **called)
    except TypeError as error:
        raise TypeError(
            f"search(): {error}; HyperModel.fit() is called with what search() is given"
        ) from None


def _names(function: Any) -> set[str]:
    """Returns the arguments that a function takes by their names."""
    if function is None:
        return set()
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _takes_any(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _trains_as_keras(model: keras.Model) -> bool:
    """Whether a model gets what its `fit` is given, and holds its outputs against it as Keras."""
    names = ("fit", "train_step", "compute_loss")
    return all(getattr(type(model), name).__module__.startswith("keras.") for name in names)


def _check_data(model: keras.Model, loss: Any, given: Mapping[str, Any]) -> None:
    """Checks the arguments of `keras.Model.fit`, by their names."""
    x, y, weights = (given.get(name) for name in ("x", "y", "sample_weight"))
    _check_part(model, loss, (x, y, weights), "", given.get("steps_per_epoch"))
    held_out = given.get("validation_data")
    if held_out is not None:
        part = held_out if isinstance(held_out, (tuple, list)) else (held_out,)
        part = (*part, None, None)[:3]
        _check_part(model, loss, part, "validation_data: ", given.get("validation_steps"))


def _check_part(
    model: keras.Model, loss: Any, part: tuple[Any, ...], where: str, steps: int | None
) -> None:
    """Checks inputs, labels and weights, or the data set that yields them.

    Args:
        model: built.
        loss: that it is compiled with.
        part: the three.
        where: what messages begin with; empty for the training data.
        steps: how many batches of a data set an epoch reads; None for all.
    """
    x, y, _ = part
    lengths = {}
    for name, value in zip(("x", "y", "sample_weight"), part, strict=True):
        if _is_of_numbers(value):
            raise ValueError(
                f"{where}{name}: Keras takes no list of numbers or strings; give "
                f"numpy.asarray({name})"
            )
        lengths[name] = {*_lengths(value)}
    if len(lengths["x"]) == 1:
        (count,) = lengths["x"]
        for name in ("y", "sample_weight"):
            if other := sorted(lengths[name] - {count}):
                raise ValueError(
                    f"{where}{name}: has length {other[0]}, but x has length {count}; give as many "
                    "as there are samples in x"
                )
    elif lengths["x"]:
        several = " and ".join(map(str, sorted(lengths["x"])))
        raise ValueError(f"{where}x: has arrays of lengths {several}; give as many of each")
    shape = getattr(model, "output_shape", None) if model.built else None
    if y is not None:
        _check_labels(y, shape, loss, "validation_data" if where else "y")
        return
    name = "validation_data" if where else "x"

    def look(batch: Any, what: str) -> None:
        if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
            _check_labels(batch[1], shape, loss, what)

    if _kind(loss) is None or shape is None:
        return
    if hasattr(type(x), "num_batches"):
        look(first_batch(x, name), f"{name}: batch 1")
    elif hasattr(x, "as_numpy_iterator"):
        look_through(x, ("validation_steps" if where else "steps_per_epoch", steps), look, name)


def _is_of_numbers(values: Any) -> bool:
    """Whether lists that are nested hold numbers or strings, instead of arrays."""
    if not isinstance(values, (list, tuple)) or not values:
        return False
    return _is_of_numbers(values[0]) or isinstance(values[0], (int, float, str, np.generic))


def _lengths(values: Any) -> Iterator[int]:
    """Yields the lengths of arrays that are nested in dicts, lists and tuples."""
    if isinstance(values, Mapping):
        values = [*values.values()]
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _lengths(value)
    # What yields batches is no array, and may have a shape.
    elif shape := getattr(values, "shape", ()) if hasattr(values, "__array__") else ():
        yield int(shape[0])


def _kind(loss: Any) -> Any:
    """Returns what a loss is, of those whose labels are known; else None."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None
    # Its classes may be on another axis than the last.
    if getattr(loss, "_fn_kwargs", {}).get("axis", -1) != -1:
        return None
    kind = loss if inspect.isfunction(loss) else type(loss)
    return kind if kind in (*_OF_INTEGERS, *_OF_ONE_A_CLASS) else None


def _check_labels(y: Any, shape: Any, loss: Any, what: str) -> None:
    """Checks labels against the output of a model, as far as its loss is known.

    Args:
        y: an array, or anything else, which is left to Keras.
        shape: of the model's output, (None, ..., classes); or anything else, of several outputs.
        loss: of the model.
        what: names the labels in messages.
    """
    y = as_array(y)
    kind = _kind(loss)
    single = isinstance(shape, tuple) and all(isinstance(n, int) or n is None for n in shape)
    if kind is None or not isinstance(y, np.ndarray) or not single or len(shape) < 2 or not y.ndim:
        return
    classes = shape[-1]
    if classes is None:
        return
    y = y.astype(int) if y.dtype.kind == "b" else y  # as Keras takes them
    if len(shape) > 2:  # a class for each step, or each pixel
        axes = len(shape) - (kind in _OF_INTEGERS)
        if kind in _OF_INTEGERS and y.ndim == len(shape) and y.shape[-1] == 1:
            y = y[..., 0]
        if y.ndim != axes:
            raise ValueError(
                f"{what}: labels of shape {y.shape}, but the model's outputs have shape {shape}, "
                f"and the loss takes labels of {axes} axes"
            )
        y = y.reshape(-1, *([y.shape[-1]] if kind in _OF_ONE_A_CLASS else []))
    way_out = f"; number the classes from 0, or give the model more than {classes} outputs"
    check_labels(y, len(y), classes, what, loss, "samples", way_out)
