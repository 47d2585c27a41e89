"""Points of a search space: a cell, and the values of the hyperparameters beside it."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell, Edge

# Values that say how a network is trained, not what it is: for how many epochs, by KerasTuner's own
# name, and how often it has been trained for so many before. Each training has a seed of its own.
EPOCHS, REPEAT = "tuner/epochs", "tuner/repeat"


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

    @property
    def epochs(self) -> int:
        """How long it is trained; 0 for as long as the search is told to."""
        return int(dict(self.values).get(EPOCHS, 0))

    @property
    def repeat(self) -> int:
        """The number of this training among those of so many epochs, from 0."""
        return int(dict(self.values).get(REPEAT, 0))

    @property
    def network(self) -> str:
        """The key of all trainings of one network, whatever they differ in."""
        return self.trained_for(0).key

    def trained_for(self, epochs: int, repeat: int = 0) -> Point:
        """Returns the point of another training of the network.

        Args:
            epochs: of the training.
            repeat: its number among those of so many epochs.
        """
        return dataclasses.replace(self, values=with_fidelity(self.values, epochs, repeat))

    def to_json(self) -> dict[str, Any]:
        """Returns the cell as plain values, and the others; `Cell.from_json` reads the cell."""
        return {**super().to_json(), "values": dict(self.values)}


def with_fidelity(
    values: Iterable[tuple[str, Any]], epochs: int, repeat: int = 0
) -> tuple[tuple[str, Any], ...]:
    """Returns the values of a point that is trained for so many epochs."""
    return tuple({**dict(values), EPOCHS: epochs, REPEAT: repeat}.items())


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search may choose: the edges of a cell, the ops of its nodes, and other values.

    Args:
        start: the complete DAG; its ops and values are those that a search begins with. A `Point`
            if there are other hyperparameters.
        ops: the ops that each node may have, the input's included.
        choices: the values that each other hyperparameter may have.
        first: points that a search begins with in place of the start. They may have values that
            are no choices, such as a reference's name: see `likeness`.
        rungs: for how many epochs networks are trained, and those of the search's final; none where
            all are trained alike.
        folds: on how many parts of the data a network may be scored, each in a training of its own.
        without_effect: names the values of a point that change nothing of its network. They are the
            start's in all points but the first, so that no network is trained twice. By default it
            names none.

    Example:
        >>> start = Point(("input", "conv1x1"), ((0, 1),), (("stem_stride", 2),))
        >>> space = Space(start, (("input",), ("conv1x1",)), {"stem_stride": (1, 2)})
        >>> [point.values for point in space.neighbours(start, least_edges=1)]
        [(('stem_stride', 1),)]
    """

    start: Cell
    ops: tuple[tuple[str, ...], ...]
    choices: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    first: tuple[Cell, ...] = ()
    rungs: tuple[int, ...] = ()
    folds: int = 1
    without_effect: Callable[[Point], Iterable[str]] = dataclasses.field(
        default=lambda _: (), compare=False, repr=False
    )

    @classmethod
    def of_edges(cls, cell: Cell) -> Space:
        """Makes the space of a cell's parts."""
        return cls(cell, tuple((op,) for op in cell.ops))

    def contains(self, point: Cell) -> bool:
        """Tells whether a point's values are choices, but for those of its training."""
        values = dict(point.values) if isinstance(point, Point) else {}
        return all(values[n] in choices for n, choices in self.choices.items() if n in values)

    def reference(self, point: Cell) -> str | None:
        """Names a point that the space does not contain by its values that are no choices.

        Such a point is a network that was made by hand, which a search begins with. Its ops, edges
        and other values say at most what it is like.

        Returns:
            None for a point of the space.
        """
        if not isinstance(point, Point) or self.contains(point):
            return None
        return ", ".join(str(v) for n, v in point.values if v not in self.choices.get(n, (v,)))

    def likeness(self, point: Cell) -> Cell | None:
        """Finds the point of the space that a reference is like: what it says but for its name.

        Returns:
            A point of the space itself; None of a reference that is like none, and so says no more
            than the start does.
        """
        if not isinstance(point, Point) or self.contains(point):
            return point
        plain = dict(self.start.values) if isinstance(self.start, Point) else {}
        values = {n: v if v in self.choices.get(n, (v,)) else plain[n] for n, v in point.values}
        found = dataclasses.replace(point, values=tuple(values.items()))
        is_start = isinstance(self.start, Point) and found.network == self.start.network
        return None if is_start else found

    def neighbours(self, point: Cell, least_edges: int) -> Iterator[Cell]:
        """Yields all points that differ in one edge, one node's op or one value.

        Args:
            point: of this space, or a reference: then they differ from what it is like.
            least_edges: that a point has.
        """
        if (like := self.likeness(point)) is None:
            return
        point = like
        seen = {self._canonical(point).key}
        for changed in self._changed(point, least_edges):
            found = self._canonical(changed)
            if found.key not in seen:
                seen.add(found.key)
                yield found

    def _changed(self, point: Cell, least_edges: int) -> Iterator[Cell]:
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
                drawn = {n: each[int(draw() * len(each))] for n, each in self.choices.items()}
                values = dict(start.values) if isinstance(start, Point) else {}
                changed["values"] = tuple({**values, **drawn}.items())
            if any(i == 0 for i, _ in edges):
                found = _live(dataclasses.replace(start, **changed))
                if len(found.edges) >= least_edges:
                    return self._canonical(found)

    def _canonical(self, point: Cell) -> Cell:
        """Gives the values without effect those of the start."""
        if not isinstance(point, Point) or not isinstance(self.start, Point):
            return point
        plain = dict(self.start.values)
        changed = {name: plain[name] for name in self.without_effect(point)}
        return dataclasses.replace(point, values=tuple({**dict(point.values), **changed}.items()))

    def to_json(self) -> dict[str, Any]:
        """Returns what is to be chosen beside edges as plain values."""
        return {
            "ops": [list(each) for each in self.ops],
            "choices": {name: list(each) for name, each in self.choices.items()},
            "first": [written(point) for point in self.first],
            "rungs": list(self.rungs),
            "folds": self.folds,
        }

    @classmethod
    def from_json(cls, start: Cell, data: Mapping[str, Any]) -> Space:
        """Makes the space that `to_json` wrote, of a start that is written elsewhere.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        ops = tuple(tuple(each) for each in data["ops"])
        first = tuple(read(start, each) for each in data["first"])
        return cls(start, ops, data["choices"], first, tuple(data["rungs"]), data["folds"])


def written(cell: Cell) -> Any:
    """Returns a cell of a search as plain values: its edges; of a point its ops and values too."""
    if not isinstance(cell, Point):
        return cell.edges
    return {"ops": cell.ops, "edges": cell.edges, "values": dict(cell.values)}


def read(whole: Cell, written: Any) -> Cell:
    """Reads what `written` returned of a part of a cell.

    Raises:
        ValueError: it has other edges, or none from the input.
    """
    if isinstance(written, Mapping):
        edges = tuple((i, j) for i, j in written["edges"])
        found: Cell = Point(tuple(written["ops"]), edges, tuple(written["values"].items()))
    else:
        found = dataclasses.replace(whole, edges=tuple((i, j) for i, j in written))
    if strange := set(found.edges) - set(whole.edges):
        raise ValueError(f"proposals: edge {min(strange)} is none of the complete cell's")
    return found


def _live(point: Cell) -> Cell:
    """Leaves out the edges that cannot be reached from node 0."""
    return dataclasses.replace(point, edges=point.live_edges)
