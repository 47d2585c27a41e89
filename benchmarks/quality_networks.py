"""Search spaces, and tables of small ones in which all networks are trained.

A table is a JSON object with a `task`, the `settings` of the training, the most `epochs` that a
network trained, and `networks`: each with the `key` of its cell, the cell's `edges` (numbered as
the complete DAG's), `macs`, `params`, and the `val_accuracy` of each epoch by training seed.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import keras_tuner
import numpy as np
from networkx.algorithms.isomorphism import DiGraphMatcher, categorical_node_match

from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.search import points

# What `CNNCellHyperModel(num_nodes=5, seed=0)` searches.
OPS = ("input", "sepconv3x3", "sepconv3x3", "conv1x1", "conv1x1")


def distinct_networks(cell: Cell) -> list[Cell]:
    """Lists one cell for each distinct network that a part of `cell`'s edges makes.

    Args:
        cell: of few edges: all 2^|E| parts are tried.

    Returns:
        The cells without dead edges, numbered as `cell`, as `all_parts` comes upon them.
    """
    found: dict[str, Cell] = {}
    for part in all_parts(cell):
        found.setdefault(part.key, Cell(part.ops, part.live_edges))
    return list(found.values())


def all_parts(cell: Cell) -> Iterator[Cell]:
    """Yields every part of `cell`'s edges that is a cell, those of most edges first."""
    for count in range(len(cell.edges), 0, -1):
        for edges in itertools.combinations(cell.edges, count):
            if any(i == 0 for i, _ in edges):
                yield Cell(cell.ops, edges)


class Space:
    """The networks that are parts of a complete DAG.

    Attributes:
        dense: the complete DAG.
        space: None, which says to a search that it is that of the edges of `dense`.

    Args:
        ops: of its nodes.
    """

    space = None

    def __init__(self, ops: tuple[str, ...]) -> None:
        self.dense = Cell.dense(ops)
        self._graph = self.dense.to_networkx()

    @functools.cache  # noqa: B019 - a benchmark has few spaces, and keeps them
    def neighbours(self, cell: Cell) -> list[Cell]:
        """Finds the other networks that one edge more or less makes of a cell, each once."""
        found, tried = {}, set()
        for edges in self._written(cell):
            for edge in self.dense.edges:
                part = edges ^ {edge}
                if any(i == 0 for i, _ in part):
                    live = Cell(self.dense.ops, tuple(part)).live_edges
                    if live not in tried:
                        other = Cell(self.dense.ops, live)
                        found.setdefault(other.key, other)
                    tried.add(live)
        found.pop(cell.key, None)
        return list(found.values())

    def declare(self, hp: keras_tuner.HyperParameters) -> None:
        """Declares each edge as a Boolean."""
        for i, j in self.dense.edges:
            hp.Boolean(f"cell/edge_{i}_{j}")

    def of_values(self, values: dict[str, Any]) -> Cell | None:
        """Finds the cell that such Booleans say; None if no edge leaves node 0."""
        edges = tuple((i, j) for i, j in self.dense.edges if values[f"cell/edge_{i}_{j}"])
        return Cell(self.dense.ops, edges) if any(i == 0 for i, _ in edges) else None

    def _written(self, cell: Cell) -> list[frozenset[Edge]]:
        """Finds the sets of edges of the complete DAG that are the same network as a cell."""
        small = cell.prune().to_networkx()
        alike = categorical_node_match("op", None)
        found = set()
        for nodes in DiGraphMatcher(self._graph, small, alike).subgraph_monomorphisms_iter():
            place = {node: number for number, node in nodes.items()}
            found.add(tuple(sorted((place[i], place[j]) for i, j in small.edges)))
        return [frozenset(edges) for edges in sorted(found)]


class Table(Protocol):
    """Networks that have all been trained, and the space that they are.

    Attributes:
        task: what they were trained on.
        dense: what a search of the space begins with.
        space: the space, None for that of the edges of `dense`.
        cells: one for each network.
        scores: shape (networks, seeds): of the best epoch, as a search takes it.
        curves: of each network and seed, the score after each epoch if training ended there.
        true: shape (networks,): the mean score over the seeds.
        epochs: the most that a network trained.
    """

    task: str
    dense: Cell
    space: points.Space | None
    cells: list[Cell]
    scores: np.ndarray
    curves: list[list[list[float]]]
    true: np.ndarray
    epochs: int

    def index(self, cell: Cell) -> int:
        """Finds the index of a cell's network."""

    def count_macs(self, cell: Cell) -> int:
        """Returns the multiply-accumulates of a network for one image."""

    def draw(self, generator: random.Random, count: int | None = None) -> list[Cell]:
        """Draws so many distinct networks, by default all, all equally likely."""

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Finds the networks that differ from one in one place."""

    def declare(self, hp: keras_tuner.HyperParameters) -> None:
        """Declares the space for KerasTuner's own searches."""

    def of_values(self, values: dict[str, Any]) -> Cell | None:
        """Finds the cell that values of these hyperparameters say; None if they say none."""


class Networks(Space):
    """The trained networks of a table, see `Table`.

    Args:
        path: of the table.
        weight: accuracy that ten times the MACs have to buy, see `AccuracyScore`.

    Raises:
        ValueError: it is not a table of all networks of the space.
    """

    def __init__(self, path: str | os.PathLike[str], weight: float = 0.1) -> None:
        super().__init__(OPS)
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        self.task, self.epochs = table["task"], table["epochs"]
        self.cells = [
            Cell(OPS, tuple((i, j) for i, j in network["edges"])) for network in table["networks"]
        ]
        self._index = {cell.key: index for index, cell in enumerate(self.cells)}
        missing = {cell.key for cell in distinct_networks(self.dense)} - self._index.keys()
        if missing or len(self._index) < len(self.cells):
            raise ValueError(f"{path}: not a table of each network once: {sorted(missing)[:1]}")
        score = AccuracyScore(weight)
        self.curves = [
            [
                list(
                    itertools.accumulate((score({"val_accuracy": a}, n["macs"]) for a in run), max)
                )
                for run in n["val_accuracy"].values()
            ]
            for n in table["networks"]
        ]
        self.scores = np.array([[run[-1] for run in runs] for runs in self.curves])
        self.true = self.scores.mean(axis=1)
        self._macs = [network["macs"] for network in table["networks"]]

    def index(self, cell: Cell) -> int:
        """Finds the index of a cell's network."""
        return self._index[cell.key]

    def count_macs(self, cell: Cell) -> int:
        """Returns the multiply-accumulates of a network for one image."""
        return self._macs[self.index(cell)]

    def draw(self, generator: random.Random, count: int | None = None) -> list[Cell]:
        """Draws so many distinct networks, by default all, all equally likely."""
        return generator.sample(self.cells, len(self.cells) if count is None else count)

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Finds the neighbours in a space, as the table has them."""
        return [self.cells[self.index(other)] for other in super().neighbours(cell)]


class SpentError(Exception):
    """The budget of a search is spent."""


class Session:
    """The trainings of one search: it sees one seed's score of each network that it pays for.

    Which seed's is drawn by the search's own, the same for all methods.

    Attributes:
        seen: of each network by its index, the scores that the search has seen.
        answer: the index of the network that the search would return now, by default the
            one with the best score of all seen.
        regrets: by how many networks have been trained, 0 to the budget.

    Args:
        networks: the table.
        seed: of the search.
        budget: how many networks it may train.
    """

    def __init__(self, networks: Table, seed: int, budget: int) -> None:
        self.networks = networks
        self.budget = budget
        self.spent = 0.0
        self.seen: dict[int, list[float]] = {}
        self.answer: Callable[[], int] = self.best_seen
        self.regrets = [math.nan] * (budget + 1)
        generator = random.Random(f"session/{seed}")
        seeds = range(networks.scores.shape[1])
        self._order = [generator.sample(seeds, len(seeds)) for _ in networks.cells]
        self._depth: dict[int, int] = {}

    def best_seen(self) -> int:
        """Returns the network with the best score of all seen."""
        return max(self.seen, key=lambda index: max(self.seen[index]))

    def train(self, cell: Cell) -> float:
        """Returns the score of a network; a new one costs 1, one of before nothing."""
        index = self.networks.index(cell)
        if index not in self.seen:
            self._pay(1.0)
            self.seen[index] = [self.networks.scores[index, self._order[index][0]]]
        return self.seen[index][0]

    def train_until(self, cell: Cell, epochs: int) -> float:
        """Returns the score of a network after so many epochs; those that are new cost."""
        index = self.networks.index(cell)
        curve = self.networks.curves[index][self._order[index][0]]
        epochs = min(epochs, len(curve))
        new = epochs - self._depth.get(index, 0)
        if new > 0:
            self._pay(new / len(curve))
            self._depth[index] = epochs
            self.seen[index] = [curve[epochs - 1]]
        return curve[epochs - 1]

    def finish(self) -> list[float]:
        """Returns the regrets; a search that ended before its budget keeps its answer."""
        self._note(self.budget + 1.0)
        return self.regrets

    def _pay(self, cost: float) -> None:
        self._note(self.spent + cost)
        if self.spent + cost > self.budget + 1e-9:
            raise SpentError
        self.spent += cost

    def _note(self, until: float) -> None:
        """Notes the regret at the numbers of networks that are passed now."""
        if self.seen:
            answer = None
            for count in range(math.ceil(self.spent - 1e-9), self.budget + 1):
                if count < until - 1e-9 and math.isnan(self.regrets[count]):
                    answer = self.answer() if answer is None else answer
                    self.regrets[count] = self.networks.true.max() - self.networks.true[answer]
