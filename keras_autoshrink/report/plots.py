"""Pictures of cells and trajectories, and the table of a trajectory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import networkx as nx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich import box
from rich.table import Table

from keras_autoshrink import files
from keras_autoshrink.cell import INPUT, Cell
from keras_autoshrink.networks.operations import colours
from keras_autoshrink.report import final
from keras_autoshrink.report.quantities import (
    SCORE,
    Quantity,
    Records,
    is_objective,
    known_costs,
    telling_costs,
)
from keras_autoshrink.report.tables import edges_left
from keras_autoshrink.search.records import best_record, changes, described
from keras_autoshrink.search.shrink import ShrinkSearch

Point = tuple[float, float]

_OUTPUT = "output"
_NODE_SIZE = 3000  # points squared: room for the name of an op


def layered(graph: nx.DiGraph) -> dict[Any, Point]:
    """Places nodes in columns, so that all edges lead to the right.

    Args:
        graph: acyclic.

    Returns:
        Of each node its x, the number of its column, and its y; neighbours in a column are 1
        apart, around 0.
    """
    columns = list(nx.topological_generations(graph))
    # One node in each column would put all edges on one line: let a chain that has more than those
    # from node to node wave.
    wave = 0.5 if len(columns) == len(graph) <= graph.number_of_edges() else 0.0
    return {
        node: (float(x), row - (len(nodes) - 1) / 2 + wave * (-1) ** x)
        for x, nodes in enumerate(columns)
        for row, node in enumerate(sorted(nodes, key=list(graph).index))
    }


def bend(source: Point, target: Point, others: Sequence[Point], room: float = 0.4) -> float:
    """Finds the flattest curve from source to target that keeps clear of the other nodes.

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
    """Returns the control point of matplotlib's `arc3`, a quadratic Bezier curve."""
    (x, y), (x_end, y_end) = source, target
    return (x + x_end) / 2 + rad * (y_end - y), (y + y_end) / 2 - rad * (x_end - x)


class _Searched(Protocol):
    def trajectory(self) -> Records: ...


class _Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot has been imported there."""

    def _repr_png_(self) -> bytes:
        return self._drawn(format="png")

    def write(self, path: str | Path) -> None:
        """Saves it as `savefig` does, but whole or not at all."""
        path = Path(path)
        path = path if path.suffix else path.with_name(f"{path.name}.png")
        files.write_bytes(path, self._drawn(format=path.suffix[1:], dpi=150))

    def _drawn(self, **how: Any) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, **how)
        return buffer.getvalue()


def plot_cell(cell: Cell, path: str | Path | None = None, title: str | None = None) -> Figure:
    """Draws a cell from left to right, each node with its op, the leaves led to the output.

    Args:
        cell: drawn as pruned, with its nodes' own numbers.
        path: where to save the picture (`.png`, `.svg` or `.pdf`), if anywhere.
        title: by default the numbers of edges and leaves.

    Returns:
        The figure; a notebook shows it.

    Raises:
        ValueError: `path` has the ending of no kind of picture.
        OSError: the picture cannot be written.

    Example:
        >>> figure = plot_cell(Cell.dense(("input", "sepconv3x3", "conv1x1")), "cell.png")
        >>> figure.axes[0].get_title()
        '3 edges, 1 leaf'
    """
    graph = cell.to_networkx().subgraph(cell.reachable).copy()
    graph.add_node(_OUTPUT, op=_OUTPUT)
    graph.add_edges_from((leaf, _OUTPUT) for leaf in cell.leaves)
    fills = colours(cell.ops)
    position = layered(graph)
    columns = 1 + max(x for x, _ in position.values())
    figure = _Picture(figsize=(1.6 * columns + 1, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    nx.draw_networkx_nodes(
        graph,
        position,
        ax=axes,
        node_size=_NODE_SIZE,
        node_color=[fills.get(op, "#DDDDDD") for _, op in graph.nodes(data="op")],
        edgecolors="#333333",
    )
    names = {
        node: op if op in (INPUT, _OUTPUT) else f"{node}\n{op}"
        for node, op in graph.nodes(data="op")
    }
    nx.draw_networkx_labels(graph, position, names, font_size=7.5, ax=axes)
    for source, target in graph.edges:
        between = [position[node] for node in graph if node not in (source, target)]
        rad = bend(position[source], position[target], between)
        nx.draw_networkx_edges(
            graph,
            position,
            [(source, target)],
            ax=axes,
            node_size=_NODE_SIZE,
            arrowsize=14,
            style="dashed" if target == _OUTPUT else "solid",
            edge_color="#999999" if target == _OUTPUT else "#333333",
            connectionstyle=f"arc3,rad={rad}",
        )
    axes.margins(0.1, 0.45 if columns == len(graph) else 0.25)
    axes.axis("off")
    edges, leaves = len(cell.live_edges), len(cell.leaves)
    counted = f"{edges} edge{'' if edges == 1 else 's'}"
    axes.set_title(title or f"{counted}, {leaves} {'leaf' if leaves == 1 else 'leaves'}")
    if path is not None:
        figure.write(path)
    return figure


def plot_trajectory(
    search: _Searched | Records, path: str | Path | None = None, objective: str | None = None
) -> Figure:
    """Draws score, objective and costs of a search, the chosen cell and references marked.

    Over the edges left, from many to few; over the rounds, if edges came back in any of them, or
    more than edges was searched. Costs that are about the same of all networks, as at a budget, are
    then left out.

    Args:
        search: a tuner, or the records that its `trajectory()` returns.
        path: where to save the picture (`.png`, `.svg` or `.pdf`), if anywhere.
        objective: what to call the metric behind the score; a tuner knows its name.

    Returns:
        The figure; a notebook shows it.

    Raises:
        ValueError: no round has finished yet, or none with a network that was trained; or `path`
            has the ending of no kind of picture.
        OSError: the picture cannot be written.

    Example:
        >>> from keras_autoshrink.search.shrink import Outcome, ShrinkSearch
        >>> cell = Cell.dense(("input", "conv1x1"))
        >>> search = ShrinkSearch(cell)
        >>> search.tell(cell, Outcome(0.8, 0.9, {"macs": 10_000_000}))
        >>> figure = plot_trajectory(search.trajectory(), "search.png", objective="accuracy")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['score', 'accuracy', 'MACs']
    """
    records = search if isinstance(search, Sequence) else search.trajectory()
    if objective is None:
        metric = getattr(getattr(search, "oracle", None), "metric", None)
        objective = getattr(metric, "name", "objective")
    best = best_record(records)
    if best is None:
        raise ValueError("search: no round has finished yet with a network that was trained")
    records = [record for record in records if record["score"] is not None]
    costs = telling_costs(records)
    losers = [
        {**candidate, "round": record["round"]}
        for record in records
        for candidate in record["candidates"]
        if candidate["status"] == "rejected"
    ]
    panels = [SCORE, Quantity("objective", objective), *costs]
    if is_objective((each["score"], each["objective"]) for each in [*records, *losers]):
        panels = panels[1:]
    panels = [panel for panel in panels if best.get(panel.name) is not None]
    alone = len(records) == 1 and not losers
    height = 0.9 if alone else 2.4
    figure = _Picture(figsize=(8, height * len(panels) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    shrinks = not any(record["added_edges"] or "changed" in record for record in records)
    place = "edges_left" if shrinks else "round"
    references = [loser for loser in losers if "reference" in loser]
    others = [loser for loser in losers if "reference" not in loser]
    for axes, panel in zip(all_axes, panels, strict=True):
        for drawn, look in (
            (others, {"color": "#BBBBBB", "label": "rejected candidates"}),
            (references, {"color": "#009E73", "marker": "s", "label": "references"}),
        ):
            if drawn or drawn is others:
                xs, ys = ([each.get(name) for each in drawn] for name in (place, panel.name))
                axes.scatter(xs, ys, s=14, **look)
        axes.plot(
            [record[place] for record in records],
            [record.get(panel.name) for record in records],
            marker="o",
            markersize=4,
            color="#0072B2",
            label="adopted cells",
        )
        axes.plot(
            best[place],
            best[panel.name],
            marker="*",
            markersize=16,
            linestyle="none",
            color="#D55E00",
            label=f"chosen: round {best['round']}",
        )
        axes.set_ylabel(panel.heading)
        axes.grid(alpha=0.3)
        if panel in costs:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(EngFormatter(sep="") if panel.form == "," else "{x:.4g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        if alone:  # no axis says more than the number
            where = (best[place], best[panel.name])
            axes.annotate(panel.text(best), where, (12, -4), textcoords="offset points")
            axes.set_yticks([], minor=False)
            axes.set_yticks([], minor=True)
    all_axes[-1].set_xlabel("edges left" if shrinks else "round")
    if alone:
        all_axes[-1].set_xticks([best[place]])
    else:
        all_axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if shrinks:
        all_axes[-1].invert_xaxis()
    figure.align_ylabels()
    handles, labels = all_axes[0].get_legend_handles_labels()
    if alone:
        handles, labels = handles[-1:], labels[-1:]
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    if path is not None:
        figure.write(path)
    return figure


def trajectory_table(records: Records, objective: str = "objective") -> Table:
    """Makes a rich table of the rounds of a search, the chosen one marked.

    "trained" says how many of a round's candidates were new networks, and within the limits.
    """
    best = best_record(records)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption="MACs: multiply-accumulates for one image or token (1 MAC = 2 FLOPs)",
        caption_justify="left",
    )
    edits = ["removed", "added"] if any(each["added_edges"] for each in records) else ["removed"]
    quantities = [SCORE, Quantity("objective", objective), *known_costs(records)]
    headings = [each.unit or each.label for each in quantities]
    whole_space = any("changed" in each for each in records)
    has_epochs = any("epochs" in each for each in records)
    also, others = ["changed"] * whole_space, ["epochs"] * has_epochs
    for heading in ("round", *edits, *also, "edges", *others, *headings, "trained"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for record in records:
        candidates = record["candidates"]
        failed = sum(candidate["status"] == "failed" for candidate in candidates)
        over = sum("over_limit" in candidate for candidate in candidates)
        trained = sum(not (each["reused"] or "over_limit" in each) for each in candidates)
        notes = ["chosen"] * (record is best) + [f"{failed} failed"] * bool(failed)
        notes += [f"{over} over the limit"] * bool(over)
        table.add_row(
            str(record["round"]),
            *described(record)[: len(edits)],
            *[changes(record)] * whole_space,
            edges_left(record),
            *(str(record[name]) for name in others),
            *(each.text(record) for each in quantities),
            f"{trained} of {len(candidates)}",
            ", ".join(notes),
        )
    return table


def final_table(search: ShrinkSearch) -> Table:
    """Makes a rich table of the networks of a search's final, the best first."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=final.caption(search),
        caption_justify="left",
    )
    first, *headings = final.headings(search)
    table.add_column(first, max_width=60)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in final.rows(search):
        table.add_row(*row)
    return table
