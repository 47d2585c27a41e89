"""Points of a search space: a cell, and the values of the hyperparameters beside it."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell, Edge


@dataclasses.dataclass(frozen=True)
class Point(Cell):
    """A cell together with the values of a search's other hyperparameters.

    Args:
        ops: as of a `Cell`.
        edges: as of a `Cell`.
        values: pairs of a hyperparameter's name and its value, in the order of the space.

    Example:
        >>> point = Point(("input", "conv1x1"), ((0, 1),), (("stem_stride", 2),))
        >>> point.key
        'input,conv1x1:0>1;stem_stride=2'
        >>> point.prune()
        Cell(ops=('input', 'conv1x1'), edges=((0, 1),))
    """

    values: tuple[tuple[str, Any], ...] = ()

    @functools.cached_property
    def key(self) -> str:
        """A string that two points share if they are the same network with the same values."""
        cell = Cell(self.ops, self.edges).key
        return ";".join((cell, *(f"{name}={value!r}" for name, value in self.values)))

    def to_json(self) -> dict[str, Any]:
        """Returns the cell as plain values, and the others; `Cell.from_json` reads the cell."""
        return {**super().to_json(), "values": dict(self.values)}


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search may choose: the edges of a cell, the ops of its nodes, and other values.

    Args:
        start: the complete DAG; its ops and values are those that a search begins with. A `Point`
            if there are other hyperparameters.
        ops: the ops that each node may have, the input's included.
        choices: the values that each other hyperparameter may have.

    Example:
        >>> start = Point(("input", "conv1x1"), ((0, 1),), (("stem_stride", 2),))
        >>> space = Space(start, (("input",), ("conv1x1",)), {"stem_stride": (1, 2)})
        >>> [point.values for point in space.neighbours(start, least_edges=1)]
        [(('stem_stride', 1),)]
    """

    start: Cell
    ops: tuple[tuple[str, ...], ...]
    choices: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_edges(cls, cell: Cell) -> Space:
        """Makes the space of a cell's parts."""
        return cls(cell, tuple((op,) for op in cell.ops))

    def neighbours(self, point: Cell, least_edges: int) -> Iterator[Cell]:
        """Yields all points that differ in one edge, one node's op or one value.

        Args:
            point: of this space.
            least_edges: that a point has.
        """
        for edge in self.start.edges:
            edges = {*point.edges} ^ {edge}
            if any(i == 0 for i, _ in edges):
                found = _live(dataclasses.replace(point, edges=tuple(edges)))
                if found.edges != point.edges and len(found.edges) >= least_edges:
                    yield found
        for node in point.reachable[1:]:
            for op in self.ops[node]:
                if op != point.ops[node]:
                    ops = (*point.ops[:node], op, *point.ops[node + 1 :])
                    yield dataclasses.replace(point, ops=ops)
        if not isinstance(point, Point):
            return
        values = dict(point.values)
        for name, choices in self.choices.items():
            for value in choices:
                if value != values[name]:
                    changed = tuple({**values, name: value}.items())
                    yield dataclasses.replace(point, values=changed)

    def at_random(self, generator: random.Random, least_edges: int) -> Cell:
        """Draws a point: first a number of edges, then which; all ops and values are as likely.

        Args:
            generator: whose `random()` alone is asked: Python promises its numbers.
            least_edges: that a point has.
        """
        start, draw = self.start, generator.random
        while True:
            count = least_edges + int(draw() * (len(start.edges) - least_edges + 1))
            edges: list[Edge] = sorted(start.edges, key=lambda _: draw())[:count]
            ops = tuple(each[int(draw() * len(each))] for each in self.ops)
            changed: dict[str, Any] = {"ops": ops, "edges": tuple(edges)}
            if self.choices:
                drawn = ((n, each[int(draw() * len(each))]) for n, each in self.choices.items())
                changed["values"] = tuple(drawn)
            if any(i == 0 for i, _ in edges):
                found = _live(dataclasses.replace(start, **changed))
                if len(found.edges) >= least_edges:
                    return found

    def to_json(self) -> dict[str, Any]:
        """Returns what is to be chosen beside edges as plain values."""
        return {
            "ops": [list(each) for each in self.ops],
            "choices": {name: list(each) for name, each in self.choices.items()},
        }


def _live(point: Cell) -> Cell:
    """Leaves out the edges that cannot be reached from node 0."""
    return dataclasses.replace(point, edges=point.live_edges)
