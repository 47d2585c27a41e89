"""The cell: a small graph of operations, which the search shrinks; pure data, without Keras."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_autoshrink import files

if TYPE_CHECKING:
    import networkx as nx


INPUT = "input"
"""The op of node 0."""

Edge = tuple[int, int]

_FORMAT = "keras_autoshrink.cell"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """A DAG of operations (Zhang et al., AAAI 2020, arXiv 1911.09251).

    Nodes are in topological order and node 0 is the input. Node `j` has its op and reads the
    outputs of all nodes `i` with an edge `(i, j)`; the cell's output is that of its `leaves`.
    `apply_cell` in networks/cnn.py and `ShrinkRNNCell` in networks/rnn.py build the layers.
    Nodes that cannot be reached from node 0 are allowed and mean nothing: `prune` drops them.
    Cells are compared as they are written; two that are the *same network* under another numbering
    of their nodes have the same `key`. Whether there is code for an op is not the cell's business:
    it is said when the cell's network is built.

    Args:
        ops: the op of each node, node 0's being `"input"`; length N >= 2. The names of ops are
            made of letters, digits and `_.+-`.
        edges: pairs `(i, j)` with `0 <= i < j < N`, in any order; kept sorted.

    Raises:
        ValueError: the ops or edges do not describe a cell; the message names the culprit.

    Example:
        >>> cell = Cell.dense(("input", "sepconv3x3", "conv1x1"))
        >>> cell.edges, cell.leaves, cell.predecessors(2)
        (((0, 1), (0, 2), (1, 2)), (2,), (0, 1))
        >>> cell.without_edge((1, 2)).leaves
        (1, 2)
        >>> other = cell.without_edge((0, 1))  # nothing leads to node 1 any more
        >>> other.num_nodes, other.reachable, other.live_edges
        (3, (0, 2), ((0, 2),))
        >>> other.prune(), other.key
        (Cell(ops=('input', 'conv1x1'), edges=((0, 1),)), 'input,conv1x1:0>1')
        >>> cell.save("cell.json")
        >>> Cell.load("cell.json") == Cell.from_networkx(cell.to_networkx()) == cell
        True
    """

    ops: tuple[str, ...]
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        ops = _checked_ops(self.ops)
        object.__setattr__(self, "ops", ops)
        object.__setattr__(self, "edges", _checked_edges(self.edges, ops))

    @classmethod
    def dense(cls, ops: Iterable[str]) -> Cell:
        """Returns the complete DAG: every edge `(i, j)` with i < j, N(N-1)/2 of them.

        Args:
            ops: the op of each of the N nodes, two or more; node 0's is `"input"`.

        Raises:
            ValueError: `ops` are not those of a cell; the message names the culprit.
        """
        ops = _checked_ops(ops)
        return cls(ops, tuple((i, j) for j in range(len(ops)) for i in range(j)))

    @property
    def num_nodes(self) -> int:
        """N, the input included, reachable or not."""
        return len(self.ops)

    @functools.cached_property
    def reachable(self) -> tuple[int, ...]:
        """The nodes with a path from node 0, node 0 included, ascending."""
        found = {0}
        for i, j in self.edges:  # sorted by i: when (i, j) comes, all edges into i have been
            if i in found:
                found.add(j)
        return tuple(sorted(found))

    @functools.cached_property
    def live_edges(self) -> tuple[Edge, ...]:
        """The edges that pruning keeps, whose source can be reached from node 0."""
        return tuple(edge for edge in self.edges if edge[0] in self.reachable)

    @functools.cached_property
    def leaves(self) -> tuple[int, ...]:
        """The reachable nodes without an outgoing edge; their outputs are the cell's output."""
        sources = {i for i, _ in self.edges}
        return tuple(node for node in self.reachable if node not in sources)

    def predecessors(self, node: int) -> tuple[int, ...]:
        """Returns the reachable nodes with an edge into `node`, ascending."""
        return tuple(i for i, j in self.live_edges if j == node)

    def without_edge(self, edge: Edge) -> Cell:
        """Returns the cell that lacks `edge`, unpruned: same nodes, same numbers.

        Raises:
            ValueError: `edge` is not an edge of the cell, or the cell's last way out of node 0.
        """
        edge = (edge[0], edge[1])
        if edge not in self.edges:
            raise ValueError(f"edge {edge}: not an edge of this cell, which has {self.edges}")
        left = tuple(other for other in self.edges if other != edge)
        return dataclasses.replace(self, edges=left)

    def prune(self) -> Cell:
        """Returns the cell without its unreachable nodes, the others renumbered."""
        number = {node: index for index, node in enumerate(self.reachable)}
        return Cell(
            tuple(self.ops[node] for node in self.reachable),
            tuple((number[i], number[j]) for i, j in self.live_edges),
        )

    @functools.cached_property
    def key(self) -> str:
        """A string that two cells share if and only if they are the same network.

        Same means: equal, once pruned, up to a renumbering of nodes that keeps ops and edges.
        The key spells out the whole canonical cell, so it cannot collide.
        """
        pruned = self.prune()
        order = canonical_order(pruned.ops, pruned.edges)
        position = {node: index for index, node in enumerate(order)}
        ops = ",".join(pruned.ops[node] for node in order)
        edges = sorted((position[i], position[j]) for i, j in pruned.edges)
        return ops + ":" + ",".join(f"{i}>{j}" for i, j in edges)

    def to_json(self) -> dict[str, Any]:
        """Returns the cell as plain values, for `json.dump`."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "ops": list(self.ops),
            "edges": [list(edge) for edge in self.edges],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """Reads the cell that `to_json` wrote as `data`.

        Raises:
            ValueError: not a cell, or one that another version of this library wrote.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise ValueError(f"not a cell: expected a JSON object with format {_FORMAT!r}")
        if data.get("version") != _VERSION:
            raise ValueError(
                f"cell of version {data.get('version')!r}: this library reads version {_VERSION}"
            )
        if missing := [name for name in ("ops", "edges") if not isinstance(data.get(name), list)]:
            raise ValueError(f"cell without a list of {missing[0]!r}")
        return cls(tuple(data["ops"]), tuple(data["edges"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the cell to the JSON file `path`, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        files.write_text(path, json.dumps(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cell:
        """Reads a cell from the JSON file `path`.

        Raises:
            ValueError: the file is no cell; the message names the file and what is wrong.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # broken JSON and broken UTF-8 are ValueErrors too
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def to_networkx(self) -> nx.DiGraph:
        """Returns the cell as a `networkx.DiGraph`, each node's op as its attribute `op`."""
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from((node, {"op": op}) for node, op in enumerate(self.ops))
        graph.add_edges_from(self.edges)
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> Cell:
        """Reads a cell from a `networkx.DiGraph` whose nodes carry an attribute `op`.

        Nodes may have any names; one of them has the op `"input"`. Numbers that are in
        topological order already are kept.

        Raises:
            ValueError: the graph has a cycle, a node without `op`, no input or several.
        """
        import networkx as nx

        if not graph.is_directed() or graph.is_multigraph():
            raise ValueError("graph: a cell is a networkx.DiGraph, without parallel edges")
        if anonymous := [node for node, op in graph.nodes(data="op") if op is None]:
            raise ValueError(f"node {anonymous[0]!r}: has no attribute 'op'")
        inputs = [node for node, op in graph.nodes(data="op") if op == INPUT]
        if len(inputs) != 1:
            raise ValueError(f"graph: one node has the op {INPUT!r}, not {len(inputs)}: {inputs}")
        if not nx.is_directed_acyclic_graph(graph):
            cycle = [edge[:2] for edge in nx.find_cycle(graph)]
            raise ValueError(f"graph: has the cycle {cycle}")
        if into := list(graph.predecessors(inputs[0])):
            raise ValueError(f"edge {(into[0], inputs[0])}: leads into the input")
        given = {node: index for index, node in enumerate(graph.nodes)}
        if all(isinstance(node, int) for node in graph.nodes):
            given = {node: node for node in graph.nodes}
        given[inputs[0]] = -1  # nothing leads into the input, so it can come first
        order = list(nx.lexicographical_topological_sort(graph, key=given.__getitem__))
        number = {node: index for index, node in enumerate(order)}
        return cls(
            tuple(graph.nodes[node]["op"] for node in order),
            tuple((number[i], number[j]) for i, j in graph.edges),
        )


def is_op_name(name: object) -> bool:
    """Whether a node other than the input may carry an op of this name."""
    return isinstance(name, str) and name != INPUT and bool(re.fullmatch(r"[\w.+-]+", name))


def _checked_ops(ops: Iterable[str]) -> tuple[str, ...]:
    """Returns the ops of a cell, or raises the ValueError that names the wrong one."""
    if isinstance(ops, str):
        raise ValueError(f"ops {ops!r}: give a sequence of op names, one for each node")
    ops = tuple(ops)
    if len(ops) < 2:
        raise ValueError(f"ops {ops}: a cell has the input and at least one other node")
    if ops[0] != INPUT:
        raise ValueError(f"op {ops[0]!r} of node 0: node 0 is the cell's input, its op {INPUT!r}")
    for node, op in enumerate(ops[1:], start=1):
        if op == INPUT:
            raise ValueError(f"op {INPUT!r} of node {node}: only node 0 is the input")
        if not is_op_name(op):
            raise ValueError(f"op {op!r} of node {node}: use letters, digits and _.+-")
    return ops


def _checked_edges(edges: Iterable[Iterable[int]], ops: tuple[str, ...]) -> tuple[Edge, ...]:
    """Returns the edges of a cell, sorted, or raises the ValueError that names the wrong one."""
    checked: set[Edge] = set()
    for edge in edges:
        try:
            i, j = (operator.index(node) for node in edge)
        except (TypeError, ValueError):
            raise ValueError(f"edge {edge!r}: an edge is a pair (i, j) of node numbers") from None
        for node in (i, j):
            if not 0 <= node < len(ops):
                raise ValueError(f"edge {(i, j)}: node {node} is not one of 0..{len(ops) - 1}")
        if i >= j:
            raise ValueError(f"edge {(i, j)}: edges lead from a smaller to a larger node number")
        if (i, j) in checked:
            raise ValueError(f"edge {(i, j)}: given twice")
        checked.add((i, j))
    if not checked:
        raise ValueError("edges (): a cell needs at least one edge")
    if not any(i == 0 for i, _ in checked):
        raise ValueError(f"edges {tuple(sorted(checked))}: no edge leaves node 0, the input")
    return tuple(sorted(checked))


def canonical_order(ops: Sequence[str], edges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Sorts the nodes of a DAG in an order that does not depend on how they are numbered.

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
        """Finds the order compatible with `colours` whose edge list is smallest: (list, order)."""
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
    """Returns each value's place among the distinct values, from 0."""
    rank = {value: place for place, value in enumerate(sorted(set(values)))}
    return [rank[value] for value in values]


SHRINKCNN_CELL = Cell(
    ops=(INPUT, "sepconv3x3", "sepconv3x3", "sepconv3x3", "conv1x1"),
    edges=((0, 1), (0, 2), (0, 3), (1, 3), (0, 4), (2, 4)),
)
"""The published ShrinkCNN cell: 384M multiply-accumulates at width 1.4 (arXiv 1911.09251)."""

SHRINKRNN_CELL = Cell(
    ops=(INPUT, "identity", "sigmoid", "sigmoid", "tanh", "identity"),
    edges=(
        *((0, 1), (0, 2), (0, 3), (0, 4), (0, 5)),
        *((1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 4), (3, 5)),
    ),
)
"""The published ShrinkRNN cell: 23.0M parameters at 745 units, with Penn Treebank's 10,000 words.

Node 0 is `tanh(g)`, gated, of the cell's input and state (arXiv 1911.09251).
"""
