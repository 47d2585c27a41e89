"""What a search's HTML page draws of its cells, as plain values; the page itself draws them.

Its nodes keep their identity from round to round, so that they can move where they move; a
picture of each round would have to be another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_autoshrink import op_colours
from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.cell_layout import bend, control, layered

# The page's nodes are wider than they are high; an edge may pass halfway between two of them.
_ROOM = 0.48


def drawing(cells: Sequence[Cell], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cells of the rounds, each beside what it has lost and won.

    Args:
        cells: of the rounds, numbered as the complete DAG.
        records: of the same rounds.

    Returns:
        `box`, the least and the greatest x and y of all rounds, where neighbouring columns, and
        neighbours in a column, are 1 apart; `colours`, of each op; and `rounds`, of each `nodes`
        and `edges`. A node has an `id`, an `op`, an `x`, a `y` and a `kind`: "input", "leaf",
        "node", or "gone" of one that the round has cut off. An edge has its `ends`, the control
        `x` and `y` of a quadratic curve between them, and a `kind`: "kept", "added", "removed", or
        "dead" of one that was cut off by that.
    """
    before: Cell | None = None
    rounds = []
    for cell, record in zip(cells, records, strict=True):
        rounds.append(_round(cell, before or cell, record))
        before = cell
    points = [(p["x"], p["y"]) for each in rounds for p in each["nodes"]]
    for each in rounds:
        place = {node["id"]: (node["x"], node["y"]) for node in each["nodes"]}
        for edge in each["edges"]:
            # The middle of the curve, its farthest from the line between its ends.
            (x, y), (x_end, y_end) = (place[node] for node in edge["ends"])
            points.append(((x + x_end + 2 * edge["x"]) / 4, (y + y_end + 2 * edge["y"]) / 4))
    xs, ys = zip(*points, strict=True)
    colours = op_colours.colours(op for cell in cells for op in cell.ops)
    return {"box": [min(xs), min(ys), max(xs), max(ys)], "colours": colours, "rounds": rounds}


def _round(cell: Cell, before: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[Edge, str] = dict.fromkeys(cell.live_edges, "kept")
    removed = {
        tuple(edge) for edge in record.get("removed_edges", [record["removed_edge"]]) if edge
    }
    for edge in set(before.live_edges) - set(cell.live_edges):
        kinds[edge] = "removed" if edge in removed else "dead"
    for edge in set(cell.live_edges) - set(before.live_edges):
        kinds[edge] = "added"
    # With the edges that it has lost: these are drawn as well, and lead to the right like others.
    both = Cell(cell.ops, tuple(kinds))
    place = layered(both.to_networkx().subgraph(both.reachable))
    middle = max(x for x, _ in place.values()) / 2
    place = {node: (x - middle, y) for node, (x, y) in place.items()}
    edges = []
    for (i, j), kind in sorted(kinds.items()):
        others = [point for node, point in place.items() if node not in (i, j)]
        x, y = control(place[i], place[j], bend(place[i], place[j], others, _ROOM))
        edges.append({"ends": [i, j], "x": round(x, 3), "y": round(y, 3), "kind": kind})
    nodes = [
        {"id": node, "op": cell.ops[node], "x": x, "y": y, "kind": _kind(cell, node)}
        for node, (x, y) in sorted(place.items())
    ]
    return {"nodes": nodes, "edges": edges}


def _kind(cell: Cell, node: int) -> str:
    if node not in cell.reachable:
        return "gone"
    if node in cell.leaves:
        return "leaf"
    return "input" if node == 0 else "node"
