"""The search space: a cell as KerasTuner hyperparameters, and back.

An edge is a Boolean named `<cell>/edge_i_j`, an op is a string named `<cell>/op_i`. Any
HyperModel that declares such Booleans can be searched; `declare_cell` declares them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_autoshrink.cell import INPUT, Cell, Edge
from keras_autoshrink.search.points import EPOCHS, REPEAT, Point, Space, with_fidelity

if TYPE_CHECKING:
    import keras_tuner


# What the hyperparameter "network" of a search at a budget is, unless it names a reference.
CELL = "cell"

_EDGE = re.compile(r"(?P<cell>.+)/edge_(?P<i>\d+)_(?P<j>\d+)")


def declare_cell(
    hp: keras_tuner.HyperParameters,
    cell: Cell,
    name: str = "cell",
    operations: Sequence[str] | None = None,
) -> Cell:
    """Declares a cell as hyperparameters and returns the one that `hp` holds.

    Args:
        hp: what `keras_tuner.HyperModel.build` gets.
        cell: the cell to be shrunk, usually `Cell.dense(ops)`.
        name: the prefix of the hyperparameters.
        operations: that each node chooses from, those of `cell` at first; None for those of `cell`.

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
    ops = [INPUT]
    for node, op in enumerate(cell.ops[1:], start=1):
        label = f"{name}/op_{node}"
        ops.append(hp.Choice(label, operations, default=op) if operations else hp.Fixed(label, op))
    chosen = [(i, j) for i, j in cell.edges if hp.Boolean(f"{name}/edge_{i}_{j}", default=True)]
    return Cell(tuple(ops), tuple(chosen))


class CellSpace:
    """The cell that a search space declares, and what else there is to choose.

    Args:
        space: the hyperparameters, `HyperParameters.space`.
        whole: whether ops and other hyperparameters are searched too, or keep their defaults.
            Those of a conditional scope always keep them.
        names: of the other hyperparameters that are searched; by default all.
        first: values of hyperparameters by name, those that differ from the defaults, of each point
            that a search is to begin with.
        rungs: for how many epochs its points are trained, see `Space`.
        folds: on how many parts of the data they may be scored.
        without_effect: names the hyperparameters among values that change nothing of the network,
            where others are as they are.

    Attributes:
        name: the prefix of the cell's hyperparameters.
        kept: names of those hyperparameters of several values that keep their defaults.
        space: its start has all declared edges, and the default of each other hyperparameter; an op
            that is not declared has a name of its own, so that no two nodes count as alike.

    Raises:
        ValueError: the edges of no cell are declared, or those of several, or they are no cell's.
    """

    def __init__(
        self,
        space: Iterable[Any],
        whole: bool = False,
        names: Iterable[str] | None = None,
        first: Iterable[Mapping[str, Any]] = (),
        rungs: tuple[int, ...] = (),
        folds: int = 1,
        without_effect: Callable[[dict[str, Any]], Iterable[str]] = lambda _: (),
    ) -> None:
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
        edges = tuple((int(match["i"]), int(match["j"])) for match in found)
        ops, node_ops = [INPUT], [(INPUT,)]
        of_cell = {match[0] for match in found}
        for node in range(1, max(max(edge) for edge in edges) + 1):
            parameter = declared.get(name := f"{self.name}/op_{node}")
            ops.append(f"node{node}" if parameter is None else parameter.default)
            node_ops.append((ops[-1],) if parameter is None else _values(parameter))
            of_cell.add(name)
        others = declared.keys() - of_cell if names is None else {*names}
        others -= {name for name in others if declared[name].conditions}
        choices = {name: _values(p) for name, p in declared.items() if name in others}
        try:
            cell = Cell(tuple(ops), edges)
        except ValueError as error:
            raise ValueError(f"search space of the cell {self.name!r}: {error}") from error
        self.space = Space.of_edges(cell)
        if whole and (choices or rungs or any(len(each) > 1 for each in node_ops)):
            defaults = tuple((name, declared[name].default) for name in choices)
            if rungs:
                defaults = with_fidelity(defaults, rungs[0])
            cell = Point(cell.ops, cell.edges, defaults)
            self.space = Space(
                cell,
                tuple(node_ops),
                choices,
                rungs=rungs,
                folds=folds,
                without_effect=lambda point: choices.keys() & without_effect(self.values(point)),
            )
            # A mistake in a function of the user's shows here, and not when a round has ended.
            self.space.without_effect(cell)
            at_first = {**self.values(cell), **{n: p.default for n, p in declared.items()}}
            points = tuple(self.sub_cell({**at_first, **values}) for values in first)
            self.space = dataclasses.replace(self.space, first=points)
        searched = {*others, *of_cell} if whole else {match[0] for match in found}
        self.kept = tuple(
            name for name, p in declared.items() if name not in searched and len(_values(p)) > 1
        )
        self._declared = frozenset(declared)

    def declared_later(self, space: Iterable[Any]) -> list[str]:
        """Names hyperparameters of several values that this space does not know of.

        Args:
            space: the hyperparameters, `HyperParameters.space`, after networks have been trained.
        """
        return [p.name for p in space if p.name not in self._declared and len(_values(p)) > 1]

    @property
    def cell(self) -> Cell:
        """The start of the space."""
        return self.space.start

    def values(self, cell: Cell) -> dict[str, Any]:
        """Returns the hyperparameter values of a cell; of a point its ops and values too."""
        found: dict[str, Any] = {
            self._edge_name(edge): edge in cell.edges for edge in self.cell.edges
        }
        if isinstance(cell, Point):
            found |= {f"{self.name}/op_{node}": cell.ops[node] for node in range(1, cell.num_nodes)}
            found |= dict(cell.values)
        return found

    def sub_cell(self, values: dict[str, Any]) -> Cell:
        """Returns the point that hyperparameter values describe."""
        edges = tuple(edge for edge in self.cell.edges if values[self._edge_name(edge)])
        start = self.cell
        if not isinstance(start, Point):
            return Cell(start.ops, edges)
        nodes = range(1, start.num_nodes)
        ops = (INPUT, *(values.get(f"{self.name}/op_{n}", start.ops[n]) for n in nodes))
        names = [*self.space.choices, *(n for n in (EPOCHS, REPEAT) if n in values)]
        return Point(ops, edges, tuple((name, values[name]) for name in names))

    def _edge_name(self, edge: Edge) -> str:
        return f"{self.name}/edge_{edge[0]}_{edge[1]}"


# Of a range of more values than the first number so many are tried as the second says.
_MANY, _OF_RANGE = 10, 5


def _values(parameter: Any) -> tuple[Any, ...]:
    """Returns values that a hyperparameter may have, the default first, then numbers ascending."""
    values = [*getattr(parameter, "values", ())]
    if hasattr(parameter, "max_value") and not 0 < len(values) <= _MANY:
        values = [parameter.prob_to_value((n + 0.5) / _OF_RANGE) for n in range(_OF_RANGE)]
    if all(isinstance(value, (int, float)) for value in values):
        values.sort()  # KerasTuner has those of some ranges in the order of a set
    return tuple(dict.fromkeys([parameter.default, *values]))
