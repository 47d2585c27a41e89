"""What a search's HTML page says of how it was run."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import os
import shlex
import string
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_autoshrink import __version__, files
from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.report import plots, saved_search
from keras_autoshrink.report.charts import Texts, curves, front, trained
from keras_autoshrink.report.plots import bend, control, layered
from keras_autoshrink.report.tables import (
    SCORE,
    Content,
    Quantities,
    candidates_table,
    edits,
    element,
    of_search,
    render,
    rounds_table,
    settings_list,
)
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import Outcome, best_record, candidate_record
from keras_autoshrink.search.shrink import ShrinkSearch


def sections(folder: Path, search: ShrinkSearch) -> list[ET.Element]:
    """The command, the seeds, the versions and the settings of the search in a folder.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    path = folder / "tuner0.json"
    # Another tuner than ours, or an older version, has not noted all of them.
    tuner = {name: getattr(search, name) for name in shrink.SETTINGS}
    tuner.update(files.read_json(path) if path.is_file() else {})
    command = saved_search.read_settings(folder)
    versions = tuner.pop("versions", {})
    argv = command.pop("argv", [])
    seeds: dict[str, Any] = {
        n: s[n] for s in (tuner, command) for n in ("seed", "split_seed") if n in s
    }
    found = [_section("Seeds", settings_list(seeds), element("p", _SEEDS))]
    if argv:
        found.insert(0, _section("Command", element("pre", element("code", shlex.join(argv)))))
    if versions:
        found.append(_section("Versions", settings_list(versions)))
    for heading, settings in (("of the command", command), ("of the search", tuner)):
        if settings:
            found.append(_section(f"Settings {heading}", settings_list(settings)))
    return found


_SEEDS = (
    "All random choices come from the seed; the initial weights and the order of the data of a "
    "candidate, from the seed and its cell."
)


def _section(heading: str, *content: ET.Element) -> ET.Element:
    return element("section", element("h3", heading), *content)


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
    colours = plots.colours(op for cell in cells for op in cell.ops)
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


Record = dict[str, Any]
Records = Sequence[Record]

NAME = "report.html"


def write_report(
    search: saved_search.Searched | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    objective: str | None = None,
) -> Path:
    """Writes a search as a page for a browser: its rounds, curves, candidates and settings.

    Args:
        search: a tuner, or the folder of its search, which need not have ended.
        path: where to write; an older file is replaced. By default `report.html` in the folder
            of the search.
        objective: what to call the metric behind the score; by default its own name, without
            ``val_``, and "objective" where a score has not said it. Whether less or more of it is
            better is what the search has noted, else what the name says, else the scores.

    Returns:
        Where it was written.

    Raises:
        ValueError: there is no search, one of its files is damaged, or `objective` is empty.
        OSError: the file cannot be written.

    Example:
        >>> import numpy as np
        >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
        >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)  # 4x4 images of 2 classes
        >>> one_stage = {"stage_scales": [1], "stage_strides": [1], "stage_repeats": [1]}
        >>> hypermodel = CNNCellHyperModel((4, 4, 1), classes=2, num_nodes=2, **one_stage)
        >>> tuner = AutoShrink(hypermodel, directory="runs", project_name="search")
        >>> tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
        >>> write_report(tuner).as_posix()  # as does write_report("runs/search")
        'runs/search/report.html'
    """
    folder, found, objective = saved_search.open_search(search, objective)
    path = folder / NAME if path is None else Path(path)
    files.write_text(path, _page(found, folder, objective))
    return path


def _page(search: ShrinkSearch, folder: Path, objective: str) -> str:
    records = search.trajectory()
    best = best_record(records)
    open_round = _open_round(search, records)
    stops = [*records, *([open_round] if open_round else [])]
    quantities = of_search(stops, objective, _score(folder), saved_search.direction(folder))
    known = [candidate for _, candidate in trained(stops)]
    on_front = {id(candidate) for candidate in front(known, quantities)}
    cells = [Cell.from_json(record["cell"]) for record in stops]
    parts = importlib.resources.files("keras_autoshrink.report") / "web"
    template, style, *scripts = (
        (parts / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "charts.js", "report.js")
    )
    script = "\n".join(scripts)
    texts = Texts(quantities)
    charts = curves(records, stops, best, quantities, texts)
    data = {
        **drawing(cells, stops),
        "numbers": [record["round"] for record in stops],
        "points": texts.to_json(),
    }
    rounds = [
        _round_section(stop, stop is best, quantities, on_front, stops[max(0, place - 1)])
        for place, stop in enumerate(stops)
    ]
    return string.Template(template).substitute(
        # A strict policy: whatever gets into the page, it loads and runs nothing else.
        script_hash=_hash(script),
        style_hash=_hash(style),
        style=style,
        script=script,
        # In a script element only "<" can end it, and JSON has another way to write one.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        name=html.escape(folder.resolve().name),
        state=render(_state(search)),
        figures=render(_figures(records, best, quantities, bool(known))),
        last=str(len(stops) - 1),
        start=str(stops.index(best) if best else 0),
        rounds=render(*rounds),
        charts=render(*charts),
        drawn="" if charts else "hidden",
        trajectory=render(rounds_table(records, best, quantities)),
        facts=render(*_costs(folder), *sections(folder, search)),
        version=html.escape(__version__),
    )


def _score(folder: Path) -> Any:
    """The score of a search as its settings describe it; None where they do not."""
    path = folder / "tuner0.json"
    return files.read_json(path).get("score") if path.is_file() else None


def _costs(folder: Path) -> list[ET.Element]:
    """By what latencies were measured, and how surely; nothing of a search without any."""
    lines = saved_search.describe_costs(saved_search.read_costs(folder))
    heading = element("h3", "What was measured")
    return [element("section", heading, *(element("p", each) for each in lines))] if lines else []


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _open_round(search: ShrinkSearch, records: Records) -> Record | None:
    """The round that has no record: it is under way, or nothing in it survived."""
    if len(records) > search.round.number:
        return None
    candidates = []
    for candidate in search.round.candidates:
        outcome = search.outcomes.get(candidate.cell.key)
        record = candidate_record(candidate, outcome or Outcome(0.0))
        candidates.append(record if outcome else {**record, "score": None, "status": "pending"})
    cell = records[-1]["cell"] if records else search.cell.to_json()
    unknown = dict.fromkeys(("removed_edge", "score", "objective", "macs", "params"))
    return {
        **unknown,
        "round": search.round.number,
        "edges_left": len(cell["edges"]),
        "cell": cell,
        "candidates": candidates,
        "open": "nothing survived" if search.error else "under way",
    }


def _state(search: ShrinkSearch) -> ET.Element:
    if search.error:
        return element("p", f"This search failed: {search.error}", class_="state bad")
    if not search.done:
        words = f"This search is in round {search.round.number}: chosen is the best so far."
        return element("p", words, class_="state")
    return element("p", "This search has finished.", class_="state")


def _figures(
    records: Records, best: Record | None, quantities: Quantities, trained: bool
) -> ET.Element:
    """What the chosen cell comes to, beside the complete one."""
    if best is None:
        what = "round has adopted a network" if trained else "network has a score"
        return element("p", f"No {what} yet.")
    whole = records[0]
    found = [("edges", str(best["edges_left"]), f"of {whole['edges_left']}")]
    for each in (quantities.objective, *quantities.costs, SCORE):
        if each.of(best) is not None:
            beside = "unknown" if each.of(whole) is None else each.said(whole)
            found.append((each.heading, each.said(best), f"complete: {beside}"))
    tiles = [
        element("div", element("dt", name), element("dd", value), element("dd", beside))
        for name, value, beside in found
    ]
    return element("dl", *tiles, class_="tiles")


def _round_section(
    record: Record,
    chosen: bool,
    quantities: Quantities,
    on_front: set[int],
    before: Record,
) -> ET.Element:
    open_, number = record.get("open"), record["round"]
    title = f"Round {number}" + (f", {open_}" if open_ else "")
    marks: list[Content] = [" ", element("span", "chosen", class_="mark")] if chosen else []
    anchor = f"round-{number}"
    heading = element("h3", title, *marks, id=f"{anchor}-heading")
    edges = record["edges_left"]
    same = "the cell is still that of the round before"
    words = [same if number and open_ else edits(record, number)]
    if not open_ and words == ["nothing adopted"]:
        words = [f"nothing adopted: {same}"]
    words += [f"{edges} edge{'' if edges == 1 else 's'}"]
    words += [each.phrase(record) for each in quantities if each.of(record) is not None]
    against = f"against the cell of round {before['round']}" if number else "the complete cell"
    return element(
        "section",
        heading,
        element("p", "; ".join(words) + "."),
        candidates_table(record, chosen, quantities, on_front, against),
        id=anchor,
        class_="round",
        **{"aria-labelledby": f"{anchor}-heading"},
    )
