"""The weights of a trained candidate in one small file, by the names of Keras's layers."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_autoshrink import files
from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_layout import MaskedLayout, Weight

_NODE = re.compile(r"(?<=_node)\d+")


def by_name(
    network: MaskedLayout, cell: Cell, weights: np.ndarray, statistics: np.ndarray
) -> dict[str, np.ndarray]:
    """The arrays of a sub-cell's network as the Keras model of that sub-cell has them.

    Args:
        network: of the whole cell.
        cell: the sub-cell.
        weights: flat, as `network.layout(cell)` has them.
        statistics: likewise.

    Returns:
        Arrays by `layer/weight`. A Keras model is built of the pruned cell: in the layers' names
        the nodes have their numbers there.
    """
    named = {}
    for part, values in enumerate((weights, statistics)):
        end = 0
        for name, weight in _named(network, cell, part):
            start, end = end, end + weight.size
            named[name] = values[start:end].reshape(weight.shape)
    return named


def flat(
    network: MaskedLayout, cell: Cell, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The weights and statistics that `by_name` was given; arguments as there."""
    weights, statistics = (
        np.concatenate([arrays[name].ravel() for name, _ in _named(network, cell, part)])
        for part in (0, 1)
    )
    return weights, statistics


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by their names, whole or not at all; see `files.write_bytes`."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write_bytes(path, content.getvalue())


def load(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Gives a model the weights that a file holds.

    Raises:
        ValueError: the file is damaged, or of another network.
    """
    given = read(path)
    try:
        for layer in model.layers:
            for weight in layer.weights:
                weight.assign(given.pop(f"{layer.name}/{weight.name}"))
        if given:
            raise KeyError(next(iter(given)))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: the weights of another network: {error!r}") from error


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that a file holds, by their names.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)}: damaged: {error!r}") from error


def _named(network: MaskedLayout, cell: Cell, part: int) -> Iterator[tuple[str, Weight]]:
    """The weights (part 0) or statistics (1) of a sub-cell and their names in its Keras model."""
    number = {node: index for index, node in enumerate(cell.reachable)}
    for weight in network.layout(cell)[part]:
        layer = _NODE.sub(lambda found: str(number[int(found[0])]), weight.layer)
        yield f"{layer}/{weight.name}", weight
