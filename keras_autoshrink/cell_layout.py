"""Where the nodes of a cell's drawing stand, and how its edges curve between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

Point = tuple[float, float]


def layered(graph: nx.DiGraph) -> dict[Any, Point]:
    """Places nodes in columns, so that all edges lead to the right.

    Args:
        graph: acyclic.

    Returns:
        Of each node its x, the number of its column, and its y; neighbours in a column are 1
        apart, around 0.
    """
    columns = list(nx.topological_generations(graph))
    # One node in each column would put all edges on one line: let such a chain wave.
    wave = 0.5 if len(columns) == len(graph) else 0.0
    return {
        node: (float(x), row - (len(nodes) - 1) / 2 + wave * (-1) ** x)
        for x, nodes in enumerate(columns)
        for row, node in enumerate(sorted(nodes, key=list(graph).index))
    }


def bend(source: Point, target: Point, others: Sequence[Point], room: float = 0.4) -> float:
    """The flattest curve from source to target that keeps clear of the other nodes.

    Args:
        source: where it begins.
        target: where it ends.
        others: the places of the other nodes.
        room: how far to keep from these; by default a node's radius in `plot_cell` and a little
            air.

    Returns:
        The `rad` of matplotlib's connection style `arc3`; see `control`.
    """
    if not others:
        return 0.0
    start, end, obstacles = (np.array(points, ndmin=2) for points in (source, target, others))
    time = np.linspace(0, 1, 21)[:, None]
    clearances = {}
    for rad in (0.0, 0.2, -0.2, 0.35, -0.35, 0.5, -0.5):
        middle = np.array(control(source, target, rad))
        curve = (1 - time) ** 2 * start + 2 * time * (1 - time) * middle + time**2 * end
        clearances[rad] = np.linalg.norm(curve[:, None] - obstacles, axis=-1).min()
    clear = [rad for rad, clearance in clearances.items() if clearance > room]
    return clear[0] if clear else max(clearances, key=lambda rad: clearances[rad])


def control(source: Point, target: Point, rad: float) -> Point:
    """The control point of matplotlib's connection style `arc3`, a quadratic Bezier curve."""
    (x, y), (x_end, y_end) = source, target
    return (x + x_end) / 2 + rad * (y_end - y), (y + y_end) / 2 - rad * (x_end - x)
