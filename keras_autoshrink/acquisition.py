"""Which cells to train next, by what the scores of others let expect: Bayesian optimisation.

Expected improvement (Jones et al., "Efficient global optimization of expensive black-box
functions", 1998); several at a time as if those chosen before had turned out as expected
(Ginsbourger et al., "Kriging is well-suited to parallelize optimization", 2010).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keras_autoshrink.cell import Cell
from keras_autoshrink.surrogate import Array, Outlook, Surrogate

Masks = npt.NDArray[np.bool_]

# Chosen, not tuned: in benchmarks/quality_cifar10.json, 80 searches of k=5, one climb in place of
# ten leaves a regret that cannot be told from this one's. (In larger cells more is to be climbed.)
_POOL = 1000  # parts drawn to choose from
_PERMUTATIONS = 1000  # of alike nodes, to be tried at most
_CLIMBS = 10  # how many of the best parts are varied, and how often


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
        """The canonical rows of parts, shape (len(cells), edges)."""
        rows = np.zeros((len(cells), len(self.cell.edges)), bool)
        for row, cell in zip(rows, cells, strict=True):
            row[[self._place[edge] for edge in cell.live_edges]] = True
        return self._renumbered(rows)

    def part(self, mask: Masks) -> Cell:
        """The part of a row, its nodes numbered as the whole."""
        edges = (edge for edge, there in zip(self.cell.edges, mask, strict=True) if there)
        return Cell(self.cell.ops, tuple(edges))

    def canonical(self, masks: Masks) -> Masks:
        """The parts of enough edges among some, without dead edges, each network once."""
        masks = self._live(masks)
        masks = masks[masks.sum(axis=1) >= max(1, self._least)]
        return _distinct(self._renumbered(masks))

    def _renumbered(self, masks: Masks) -> Masks:
        """Alike nodes numbered in one way, where there are not too many."""
        powers = 2.0 ** np.arange(masks.shape[1])
        best, code = masks, masks @ powers
        for order, legal in self._renumberings:
            other = masks[:, order]
            smaller = (other @ powers < code) & ~masks[:, ~legal].any(axis=1)
            best = np.where(smaller[:, None], other, best)
            code = np.where(smaller, other @ powers, code)
        return best

    def features(self, masks: Masks) -> Array:
        """What the score may depend on: the edges, and a summary of the graph that counts double.

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
        """Distinct parts; before dead edges go, all numbers of edges are equally likely."""
        edges = len(self.cell.edges)
        # Python promises the same numbers from random() in all its versions; NumPy does not.
        drawn = np.array([[generator.random() for _ in range(edges + 1)] for _ in range(count)])
        ranks = drawn[:, 1:].argsort(axis=1).argsort(axis=1)
        return self.canonical(ranks <= np.floor(drawn[:, :1] * edges))

    def neighbours(self, masks: Masks) -> Masks:
        """Those that one edge more or less makes of some."""
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

    def _find_renumberings(self) -> list[tuple[list[int], Masks]]:
        """For each exchange of alike nodes where each edge goes, and which ones still can."""
        groups: dict[str, list[int]] = {}
        for node, op in enumerate(self.cell.ops):
            groups.setdefault(op, []).append(node)
        if math.prod(math.factorial(len(group)) for group in groups.values()) > _PERMUTATIONS:
            return []
        found = []
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
            order = [moved[e] if e in moved else next(spare) for e in self.cell.edges]
            found.append((order, legal))
        return found


def first_parts(parts: Parts, trained: Sequence[Cell], count: int, seed: str) -> list[Cell]:
    """Parts to learn from before there is much to go by: distinct networks, not trained yet.

    Args:
        parts: to choose from.
        trained: with scores or not.
        count: how many; fewer if there are no others.
        seed: of the draw.
    """
    pool = _without(parts.at_random(_POOL, random.Random(seed)), parts.masks(trained))
    return [parts.part(mask) for mask in pool[:count]]


def best_parts(
    parts: Parts, scores: Mapping[Cell, float], failed: Sequence[Cell], count: int, seed: str
) -> list[Cell]:
    """The parts that are expected to improve most on those that have been trained.

    Args:
        parts: to choose from.
        scores: of those that have been trained.
        failed: those that have failed; taken for as bad as the worst of the others.
        count: how many; fewer if there are no others.
        seed: of the draw of the parts that are looked at.
    """
    known = parts.masks((*scores, *failed))
    values = [*scores.values(), *[min(scores.values())] * len(failed)]
    surrogate = Surrogate(parts.features(known), np.array(values))
    means = surrogate.predict(parts.features(known))[0]
    best = float(means.max())

    def improvement(outlook: Outlook) -> Array:
        # Rounded, so that the last bits, in which machines differ, decide nothing.
        found = expected_improvement(*outlook.moments(), best)
        return np.asarray(np.round(found / (found.max() + 1e-300), 9))

    pool = parts.at_random(_POOL, random.Random(seed))
    likely = known[np.argsort(-np.round(means, 9), kind="stable")[:_CLIMBS]]
    for _ in range(_CLIMBS):
        size = len(pool)
        pool = _distinct(np.concatenate([pool, parts.neighbours(likely)]))
        pool = _without(pool, known)
        if not len(pool) or len(pool) == size:
            break
        found = improvement(Outlook(surrogate, parts.features(pool)))
        likely = pool[np.argsort(-found, kind="stable")[:_CLIMBS]]
    if not len(pool):
        return []
    outlook = Outlook(surrogate, parts.features(pool))
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        found = improvement(outlook)
        found[chosen] = -1
        chosen.append(int(found.argmax()))
        outlook.assume(chosen[-1])
    return [parts.part(pool[index]) for index in chosen]


def expected_improvement(means: Array, deviations: Array, best: float) -> Array:
    """How far normal values will exceed `best`, at least 0, in the mean; all of shape (m,)."""
    ratio = (means - best) / deviations
    # Not 1 + erf, of which far below `best` nothing is left but rounding.
    below = 0.5 * np.array([math.erfc(-each / math.sqrt(2)) for each in ratio])
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return np.asarray(deviations * (ratio * below + density))


def _distinct(masks: Masks) -> Masks:
    """Each row once, in the order in which they come."""
    return masks[np.sort(np.unique(masks, axis=0, return_index=True)[1])]


def _without(masks: Masks, others: Masks) -> Masks:
    """The rows that are not among others."""
    seen = {row.tobytes() for row in others}
    return masks[[row.tobytes() not in seen for row in masks]]
