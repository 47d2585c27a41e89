"""The parts of a cell as rows of Booleans, and the features that a surrogate learns from."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.surrogate import Array

Masks = npt.NDArray[np.bool_]

_PERMUTATIONS = 1000  # of alike nodes, to be tried at most


class Parts:
    """The parts of a cell, each a row of Booleans: which of the cell's edges it has.

    Args:
        cell: usually the complete DAG.
        least_edges: a part has this many at least.
    """

    def __init__(self, cell: Cell, least_edges: int = 1) -> None:
        self.cell = cell
        self._least = least_edges
        self._place = {edge: index for index, edge in enumerate(cell.edges)}
        # Of a node's edges those that lead to it come first.
        self._by_target = sorted(range(len(cell.edges)), key=lambda index: cell.edges[index][1])
        self._renumberings = self._find_renumberings()

    def masks(self, cells: Sequence[Cell]) -> Masks:
        """Returns the canonical rows of parts, shape (len(cells), edges)."""
        rows = np.zeros((len(cells), len(self.cell.edges)), bool)
        for row, cell in zip(rows, cells, strict=True):
            row[[self._place[edge] for edge in cell.live_edges]] = True
        return self._renumbered(rows)

    def part(self, mask: Masks) -> Cell:
        """Returns the part of a row, its nodes numbered as the whole."""
        edges = (edge for edge, there in zip(self.cell.edges, mask, strict=True) if there)
        return dataclasses.replace(self.cell, edges=tuple(edges))

    def canonical(self, masks: Masks) -> Masks:
        """Returns the parts of enough edges among some, without dead edges, each network once."""
        masks = self._live(masks)
        masks = masks[masks.sum(axis=1) >= max(1, self._least)]
        return distinct(self._renumbered(masks))

    def _renumbered(self, masks: Masks) -> Masks:
        """Alike nodes numbered in one way, where there are not too many."""
        orders, legal = self._renumberings
        # A row as a binary number, the smallest of which counts: of all exchanges at once.
        powers = np.zeros(orders.shape)
        np.put_along_axis(powers, orders, 2.0 ** np.arange(orders.shape[1])[None], axis=1)
        rows = masks.astype(float)
        codes = np.where(rows @ ~legal.T > 0, np.inf, rows @ powers.T)
        return np.take_along_axis(masks, orders[codes.argmin(axis=1)], axis=1)

    def features(self, masks: Masks) -> Array:
        """Computes what a score may depend on: the edges, and a summary that counts double.

        The summary has the longest path, the numbers of edges and leaves, the mean and the least
        depth of a leaf, and of each op of several nodes how many there are and the most on a
        path; each as a share of what the complete DAG could have.

        Args:
            masks: canonical, shape (m, edges).

        Returns:
            Shape (m, edges + 5 + 2 * ops); edges from 0 to 1, the summary from -0.5 to 1.5.
        """
        nodes = self.cell.num_nodes - 1
        depths = self._longest_paths(masks, np.ones(nodes + 1))
        there = depths > 0
        leaves = there.copy()
        for index, (i, _) in enumerate(self.cell.edges):
            leaves[:, i] &= ~masks[:, index]
        count = leaves.sum(axis=1)
        summary = [
            depths.max(axis=1) / nodes,
            masks.mean(axis=1),
            count / nodes,
            (depths * leaves).sum(axis=1) / (count * nodes),
            np.where(leaves, depths, nodes).min(axis=1) / nodes,
        ]
        for op in dict.fromkeys(self.cell.ops[1:]):
            alike = np.array([other == op for other in self.cell.ops])
            if (total := alike.sum()) > 1:
                summary.append((there & alike).sum(axis=1) / total)
                summary.append(self._longest_paths(masks, alike).max(axis=1) / total)
        return np.concatenate([masks, 2 * np.stack(summary, axis=1) - 0.5], axis=1)

    def _longest_paths(self, masks: Masks, weights: npt.NDArray[np.generic]) -> Array:
        """The most that the nodes on a path from node 0 weigh; 0 for nodes that are not there."""
        longest = np.zeros((len(masks), self.cell.num_nodes))
        for index in self._by_target:
            i, j = self.cell.edges[index]
            path = masks[:, index] * (longest[:, i] + weights[j])
            longest[:, j] = np.maximum(longest[:, j], path)
        return longest

    def at_random(self, count: int, generator: random.Random) -> Masks:
        """Draws distinct parts; before dead edges go, all numbers of edges are equally likely."""
        edges = len(self.cell.edges)
        # Python promises the same numbers from random() in all its versions; NumPy does not.
        drawn = np.array([[generator.random() for _ in range(edges + 1)] for _ in range(count)])
        ranks = drawn[:, 1:].argsort(axis=1).argsort(axis=1)
        return self.canonical(ranks <= np.floor(drawn[:, :1] * edges))

    def neighbours(self, masks: Masks) -> Masks:
        """Returns the parts that one edge more or less makes of some."""
        flips = np.eye(masks.shape[1], dtype=bool)
        return self.canonical((masks[:, None] ^ flips).reshape(-1, masks.shape[1]))

    def _live(self, masks: Masks) -> Masks:
        """Without the edges that cannot be reached from node 0."""
        masks = masks.copy()
        reached = np.zeros((len(masks), self.cell.num_nodes), bool)
        reached[:, 0] = True
        for index, (i, j) in enumerate(self.cell.edges):  # sorted by i
            masks[:, index] &= reached[:, i]
            reached[:, j] |= masks[:, index]
        return masks

    def _find_renumberings(self) -> tuple[npt.NDArray[np.int_], Masks]:
        """For each exchange of alike nodes which edge comes where, and which ones still can.

        Returns:
            Two arrays of shape (exchanges, edges); in the first exchange nothing moves.
        """
        groups: dict[str, list[int]] = {}
        for node, op in enumerate(self.cell.ops):
            groups.setdefault(op, []).append(node)
        nothing_moves = np.arange(len(self._place))[None], np.ones((1, len(self._place)), bool)
        if math.prod(math.factorial(len(group)) for group in groups.values()) > _PERMUTATIONS:
            return nothing_moves
        orders, all_legal = [], []
        for nodes in itertools.product(*map(itertools.permutations, groups.values())):
            to: dict[int, int] = {}
            for group, exchanged in zip(groups.values(), nodes, strict=True):
                to.update(zip(group, exchanged, strict=True))
            moved = {(to[i], to[j]): place for (i, j), place in self._place.items()}
            # Edges that would run backwards or leave the cell cannot be exchanged; their
            # place is taken by any other, for no part that has them is renumbered.
            legal = np.zeros(len(self._place), bool)
            legal[[place for edge, place in moved.items() if edge in self._place]] = True
            spare = iter(np.flatnonzero(~legal).tolist())
            orders.append([moved[e] if e in moved else next(spare) for e in self.cell.edges])
            all_legal.append(legal)
        return np.array(orders), np.array(all_legal)


def distinct(masks: Masks) -> Masks:
    """Returns each row once, in the order in which they come."""
    return masks[np.sort(np.unique(masks, axis=0, return_index=True)[1])]


def without(masks: Masks, others: Masks) -> Masks:
    """Returns the rows that are not among others."""
    seen = {row.tobytes() for row in others}
    return masks[[row.tobytes() not in seen for row in masks]]
