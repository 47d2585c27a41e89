"""The canonical numbering of a labelled DAG: which small graphs are the same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def canonical_order(ops: Sequence[str], edges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The nodes of a DAG in an order that does not depend on how they are numbered.

    Two DAGs are isomorphic, ops included, if and only if they read the same (ops, and edges
    as pairs of positions) in this order. Exact: colour refinement, and where that leaves nodes
    alike, a search over which of them comes first (individualisation-refinement: McKay,
    "Practical graph isomorphism", 1981). Fast for the dozen nodes of a cell.

    Args:
        ops: the label of each node, length N.
        edges: pairs of node numbers `(i, j)` with i < j.

    Returns:
        The N node numbers, sources before targets.
    """
    nodes = range(len(ops))
    before: list[list[int]] = [[] for _ in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    depth = [0] * len(ops)
    for i, j in sorted(edges):
        before[j].append(i)
        after[i].append(j)
        depth[j] = max(depth[j], depth[i] + 1)

    def refine(colours: list[int]) -> list[int]:
        """Splits the colours by those of the neighbours until nothing splits any more."""
        while True:
            signatures = [
                (
                    colours[node],
                    tuple(sorted(colours[i] for i in before[node])),
                    tuple(sorted(colours[j] for j in after[node])),
                )
                for node in nodes
            ]
            refined = _ranks(signatures)
            if max(refined) == max(colours):
                return refined
            colours = refined

    def smallest(colours: list[int]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        """The smallest edge list that any order compatible with `colours` gives, and that order."""
        groups: dict[int, list[int]] = {}
        for node, colour in enumerate(colours):
            groups.setdefault(colour, []).append(node)
        alike = [groups[colour] for colour in sorted(groups) if len(groups[colour]) > 1]
        if not alike:
            order = tuple(sorted(nodes, key=colours.__getitem__))
            return sorted((colours[i], colours[j]) for i, j in edges), order
        found = []
        tried = set()
        for node in alike[0]:
            # Nodes of one colour with the same neighbours are interchangeable: try one of them.
            twins = (tuple(before[node]), tuple(after[node]))
            if twins not in tried:
                tried.add(twins)
                # The chosen node gets a colour of its own, just below that of its group.
                split = [2 * colour - (other == node) for other, colour in enumerate(colours)]
                found.append(smallest(refine(_ranks(split))))
        return min(found)

    # Depth comes first in the colour: this makes the order a topological one.
    return smallest(refine(_ranks(list(zip(depth, ops, strict=True)))))[1]


def _ranks(values: Sequence[Any]) -> list[int]:
    """Each value's place among the distinct values, from 0."""
    rank = {value: place for place, value in enumerate(sorted(set(values)))}
    return [rank[value] for value in values]
