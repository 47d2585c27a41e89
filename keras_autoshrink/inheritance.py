"""The trained weights that a candidate may begin with: those of the cell before it."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_autoshrink import weights_file
from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_layout import MaskedLayout


@dataclasses.dataclass(frozen=True)
class Parent:
    """A trained network whose weights those that lack some of its edges begin with.

    Attributes:
        cell: its cell.
        arrays: its weights, by name; see `weights_file.by_name`.
    """

    cell: Cell
    arrays: dict[str, np.ndarray]

    def inherited(
        self, network: MaskedLayout, cell: Cell, weights: np.ndarray, statistics: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights and statistics that a sub-cell begins with, flat.

        Args:
            network: of the whole cell.
            cell: a sub-cell of the parent's.
            weights: its initial ones, of which those stay that the parent has not: a node that
                has become an output feeds channels into the next cell that had no kernel yet.
            statistics: likewise.
        """
        theirs = weights_file.flat(network, self.cell, self.arrays)
        results = []
        for own, values, places, whole in zip(
            (weights, statistics),
            theirs,
            zip(network.places(cell), network.places(self.cell), strict=True),
            (network.weights, network.statistics),
            strict=True,
        ):
            full = np.full(sum(weight.size for weight in whole), np.nan, np.float32)
            full[places[1]] = values
            taken = full[places[0]]
            results.append(np.where(np.isnan(taken), own, taken))
        return results[0], results[1]
