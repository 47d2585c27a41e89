"""Which searches train their candidates by one program for all, and by which."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_autoshrink.cell import Cell
from keras_autoshrink.fit_checks import as_array
from keras_autoshrink.hypermodels import BATCHNORM_MOMENTUM, CNNCellHyperModel
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_training import Program
from keras_autoshrink.round_training import RoundTraining
from keras_autoshrink.score import Score
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trainee import Recipe

# The arguments of `fit` that are understood here; all others are Keras's business.
_KNOWN = {"x", "y", "validation_data", "epochs", "batch_size", "validation_batch_size"}
# Values of others that say nothing, as their defaults do.
_SILENT: dict[str, tuple[Any, ...]] = {"verbose": (0,), "callbacks": ([], ())}
_COMPARABLE = (bool, int, float, str, list, tuple)

# A small network leaves cores idle between its operations, and a second one fills them: see
# benchmarks/search_speed.md. More than two have not been measured; each takes memory.
_MOST_THREADS = 4

# Candidates that JAX trains in one program. On CPUs more gain nothing (benchmarks/stacking.py); on
# a GPU they should, which has not been measured.
_STACK = 1

Examples = tuple[np.ndarray, np.ndarray]


class ApartError(Exception):
    """Each candidate has to be built and fitted by itself; the message says why."""


class _Data(NamedTuple):
    """What a search is given, as a program takes it."""

    train: Examples
    validation: Examples
    batch_size: int
    epochs: int


def round_training(
    hypermodel: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    score: Score,
    seed: int,
    max_seconds: float | None,
    race: bool = False,
    parent: Callable[[ShrinkSearch], Parent | None] | None = None,
    measured: Callable[[Cell], Mapping[str, float]] = lambda cell: {},
) -> RoundTraining:
    """What trains the candidates of a search.

    Args:
        hypermodel: of the search.
        args: of `keras.Model.fit`.
        kwargs: likewise.
        score: callable `score(logs, macs)`.
        seed: of the search.
        max_seconds: a candidate that takes longer has failed; None for no limit.
        race: see `candidate_training.Recipe`.
        parent: what the candidates of a round inherit from, if they are to.
        measured: see `trainee.Recipe`.

    Raises:
        ApartError: each has to be built and fitted by itself.
    """
    _check_hypermodel(hypermodel)
    data = _data(hypermodel.batch_size, args, kwargs)
    backend, on_cpu = keras.backend.backend(), _on_cpu()
    recipe = Recipe(
        images=len(data.train[1]),
        steps=-(-len(data.train[1]) // data.batch_size),
        epochs=data.epochs,
        seed=seed,
        score=score,
        stopping_rules=hypermodel.stopping_rules,
        max_seconds=max_seconds,
        race=race,
        measured=measured,
    )
    return RoundTraining(
        _program_maker(hypermodel, data, backend),
        hypermodel.cell,
        recipe,
        parent=parent,
        threads=min(_cores(), _MOST_THREADS) if on_cpu else 1,
        rebuilds=backend == "jax",
    )


def _check_hypermodel(hypermodel: Any) -> None:
    """Raises unless it builds and trains the networks that a `MaskedNetwork` knows."""
    kind = type(hypermodel).__name__
    if not isinstance(hypermodel, CNNCellHyperModel):
        raise ApartError(f"{kind} is no CNNCellHyperModel")
    for name in ("build", "fit", "stopping_rules"):
        ours = getattr(type(hypermodel), name) is getattr(CNNCellHyperModel, name)
        # KerasTuner sets a method of the HyperModel itself in the place of `build`.
        if not ours or getattr(getattr(hypermodel, name), "__self__", None) is not hypermodel:
            raise ApartError(f"{kind} has a {name}() of its own")
    backend, policy = keras.backend.backend(), keras.config.dtype_policy().name
    if backend not in ("tensorflow", "jax"):
        raise ApartError(f"Keras's backend is {backend}")
    if policy != "float32":
        raise ApartError(f"Keras's dtype policy is {policy}")
    if keras.config.image_data_format() != "channels_last":
        raise ApartError("Keras's image data format is channels_first")
    if not MaskedNetwork.knows(hypermodel.cell):
        raise ApartError("the cell has ops that are not built in")


def _data(batch_size: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Data:
    """The data, if they are arrays and `fit` is to do nothing special with them."""
    signature = inspect.signature(keras.Model.fit)
    try:
        given = signature.bind_partial(None, *args, **kwargs).arguments
    except TypeError as error:
        raise ApartError(str(error)) from error  # Keras says what is wrong
    del given["self"]
    for name in given.keys() - _KNOWN:
        value, parameter = given[name], signature.parameters[name]
        silent = (parameter.default, *_SILENT.get(name, ()))
        if not any(_same(value, each) for each in silent):
            shown = f"={value}" if np.isscalar(value) else ""
            raise ApartError(f"{name}{shown} is given")
    batch_size = given.get("batch_size") or batch_size
    validation = given.get("validation_data")
    of_validation = given.get("validation_batch_size") or batch_size
    if of_validation != batch_size:
        raise ApartError(f"validation_batch_size={of_validation} is not batch_size={batch_size}")
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise ApartError("validation_data is no pair of arrays")
    arrays = [as_array(part) for part in (given.get("x"), given.get("y"), *validation)]
    if not all(isinstance(array, np.ndarray) and len(array) for array in arrays):
        raise ApartError("the data are no arrays")
    x, y, *held_out = arrays
    return _Data(_examples(x, y), _examples(*held_out), batch_size, given.get("epochs", 1))


def _same(value: Any, other: Any) -> bool:
    """Whether an argument says no more than another; arrays and such always do."""
    if value is None or other is None:
        return value is other
    return isinstance(value, _COMPARABLE) and value == other


def _examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    return images.astype(np.float32, copy=False), labels.astype(np.int32).reshape(-1)


def _program_maker(
    hypermodel: CNNCellHyperModel, data: _Data, backend: str
) -> Callable[[Cell], Program]:
    """What makes the program of a cell."""

    def make(cell: Cell) -> Program:
        network = MaskedNetwork(cell, **hypermodel.architecture)
        arguments = (
            network,
            data.train,
            data.validation,
            data.batch_size,
            hypermodel.learning_rate,
            BATCHNORM_MOMENTUM,
        )
        if backend == "tensorflow":
            from keras_autoshrink.masked_tensorflow import TensorFlowProgram

            return TensorFlowProgram(*arguments)
        from keras_autoshrink.masked_jax import JaxProgram

        return JaxProgram(*arguments, stack=_STACK)

    return make


def _on_cpu() -> bool:
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def _cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
