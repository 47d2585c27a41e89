"""The search space: a cell as KerasTuner hyperparameters, and back.

An edge is a Boolean named `<cell>/edge_i_j`, an op is a string named `<cell>/op_i`. Any
HyperModel that declares such Booleans can be searched; `declare_cell` declares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_autoshrink.cell import INPUT, Cell, Edge

if TYPE_CHECKING:
    import keras_tuner


_EDGE = re.compile(r"(?P<cell>.+)/edge_(?P<i>\d+)_(?P<j>\d+)")


def declare_cell(hp: keras_tuner.HyperParameters, cell: Cell, name: str = "cell") -> Cell:
    """Declares a cell as hyperparameters and returns the one that `hp` holds.

    Args:
        hp: what `keras_tuner.HyperModel.build` gets.
        cell: the cell to be shrunk, usually `Cell.dense(ops)`.
        name: the prefix of the hyperparameters.

    Returns:
        `cell` with those of its edges that are true in `hp`, its nodes' numbers unchanged.

    Raises:
        ValueError: no edge that is left leaves node 0.

    Example:
        >>> import keras_tuner
        >>> hp = keras_tuner.HyperParameters()
        >>> declare_cell(hp, Cell.dense(("input", "conv1x1", "conv1x1"))).edges
        ((0, 1), (0, 2), (1, 2))
        >>> hp.values["cell/edge_1_2"] = False
        >>> declare_cell(hp, Cell.dense(("input", "conv1x1", "conv1x1"))).leaves
        (1, 2)
    """
    for node, op in enumerate(cell.ops[1:], start=1):
        hp.Fixed(f"{name}/op_{node}", op)
    chosen = [(i, j) for i, j in cell.edges if hp.Boolean(f"{name}/edge_{i}_{j}", default=True)]
    return Cell(cell.ops, tuple(chosen))


class CellSpace:
    """The cell that a search space declares.

    Args:
        space: the hyperparameters, `HyperParameters.space`.

    Attributes:
        name: the prefix of the cell's hyperparameters.
        cell: has all declared edges; its ops are those declared, or else a name of its own for
            each node, so that no two nodes count as alike.

    Raises:
        ValueError: the edges of no cell are declared, or those of several, or they are no cell's.
    """

    def __init__(self, space: Iterable[Any]) -> None:
        declared = {parameter.name: parameter for parameter in space}
        found = [match for name in declared if (match := _EDGE.fullmatch(name))]
        cells = sorted({match["cell"] for match in found})
        if len(cells) != 1:
            raise ValueError(
                "the search space has to declare the edges of one cell, as Booleans named "
                f"'<cell>/edge_i_j'; it declares those of {len(cells)}: {', '.join(cells) or '-'}"
            )
        for match in found:
            if not isinstance(declared[match[0]].default, bool):
                raise ValueError(f"hyperparameter {match[0]!r}: an edge has to be a Boolean")
        self.name = cells[0]
        edges = [(int(match["i"]), int(match["j"])) for match in found]
        ops = [INPUT]
        for node in range(1, max(max(edge) for edge in edges) + 1):
            parameter = declared.get(f"{self.name}/op_{node}")
            ops.append(f"node{node}" if parameter is None else parameter.default)
        try:
            self.cell = Cell(tuple(ops), tuple(edges))
        except ValueError as error:
            raise ValueError(f"search space of the cell {self.name!r}: {error}") from error

    def values(self, cell: Cell) -> dict[str, bool]:
        """Returns the hyperparameter values of a sub-cell: which of the edges it has."""
        return {self._edge_name(edge): edge in cell.edges for edge in self.cell.edges}

    def sub_cell(self, values: dict[str, Any]) -> Cell:
        """Returns the sub-cell that hyperparameter values describe."""
        edges = tuple(edge for edge in self.cell.edges if values[self._edge_name(edge)])
        return Cell(self.cell.ops, edges)

    def _edge_name(self, edge: Edge) -> str:
        return f"{self.name}/edge_{edge[0]}_{edge[1]}"
