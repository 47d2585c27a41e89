"""The report of a search as one HTML page, which needs no other file and no network."""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_autoshrink import __version__, files
from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.networks.operations import colours
from keras_autoshrink.report import final, saved_search
from keras_autoshrink.report.charts import Texts, against_cost, curves, front, networks
from keras_autoshrink.report.network import network_figure
from keras_autoshrink.report.plots import bend, control, layered
from keras_autoshrink.report.quantities import (
    SCORE,
    Quantities,
    Record,
    Records,
    of_search,
)
from keras_autoshrink.report.tables import (
    Content,
    candidates_table,
    edits,
    element,
    final_table,
    render,
    rounds_table,
    settings_list,
)
from keras_autoshrink.search.records import Outcome, best_record, candidate_record
from keras_autoshrink.search.shrink import ShrinkSearch

NAME = "report.html"

_SEEDS = (
    "All random choices come from the seed; the initial weights and the order of the data of a "
    "candidate, from the seed and its cell."
)
# How far an edge keeps from nodes, which are wider than high: it may pass halfway between two.
_ROOM = 0.48


def write_report(
    search: saved_search.Searched | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    objective: str | None = None,
) -> Path:
    """Writes a search as a page for a browser: its result, rounds, candidates and settings.

    Args:
        search: a tuner, or the folder of its search, which need not have ended.
        path: where to write; an older file is replaced. By default `report.html` in the folder
            of the search.
        objective: what to call the metric behind the score; by default its own name, without
            ``val_``, and "objective" where a score has not said it.

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
    tuner = saved_search.read_tuner_settings(folder)
    direction = saved_search.read_about(folder).get("direction")
    quantities = of_search(stops, objective, tuner.get("score"), direction)
    on_front = {
        id(training)
        for network in front((each for _, each in networks(stops)), quantities)
        for training in network.get("trainings", [network])
    }
    cells = [None if "reference" in each else Cell.from_json(each["cell"]) for each in stops]
    parts = importlib.resources.files("keras_autoshrink.report") / "web"
    template, style, *scripts = (
        (parts / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "charts.js", "report.js")
    )
    script = "\n".join(scripts)
    texts = Texts(quantities)
    compared = against_cost(stops, best, quantities, texts)
    charts = curves(records, stops, best, quantities, texts)
    data = {
        **_drawing(cells, search.cell),
        "numbers": [record["round"] for record in stops],
        "points": texts.to_json(),
    }
    rounds = [
        _round_section(
            stop,
            stop is best,
            quantities,
            on_front,
            _against(stops, place),
            search.is_final(search.rounds[place]),
        )
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
        result="The result" if search.done else "The result so far",
        verdict=html.escape(_verdict(search, folder, objective, best, quantities)),
        compared=render(*[] if compared is None else [compared]),
        figures=render(*_figures(search, best, quantities)),
        final=render(*[final_table(search)] if search.final() else []),
        network=render(*_network(search, folder, best)),
        searching="The search" if any("changed" in each for each in stops) else "The shrinking",
        last=str(len(stops) - 1),
        start=str(stops.index(best) if best else 0),
        rounds=render(*rounds),
        charts=render(*charts),
        drawn="" if charts or compared is not None else "hidden",
        trajectory=render(rounds_table(records, best, quantities)),
        facts=render(*_facts(folder, search, tuner)),
        version=html.escape(__version__),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _open_round(search: ShrinkSearch, records: Records) -> Record | None:
    """Returns the round without a record: it is under way, or nothing in it survived."""
    if len(records) > search.round.number:
        return None
    candidates = []
    for candidate in search.round.candidates:
        outcome = search.outcomes.get(candidate.cell.key)
        record = candidate_record(candidate, outcome or Outcome(0.0))
        candidates.append(record if outcome else {**record, "score": None, "status": "pending"})
    cell = records[-1]["cell"] if records else search.cell.to_json()
    before = records[-1] if records else {}
    return {
        "round": search.round.number,
        "removed_edge": None,
        "removed_edges": [],
        "added_edges": [],
        **({"changed": {}} if "values" in cell else {}),
        **({"reference": before["reference"]} if "reference" in before else {}),
        "edges_left": len(cell["edges"]),
        "score": None,
        "objective": None,
        "cell": cell,
        "candidates": candidates,
        "open": "nothing survived" if search.error else "under way",
    }


def _state(search: ShrinkSearch) -> ET.Element:
    if search.error:
        return element("p", f"This search failed: {search.error}", class_="state bad")
    if not search.done:
        number = search.round.number
        words = f"This search is in round {number}: chosen is the best of those before."
        return element("p", words, class_="state")
    return element("p", "This search has finished.", class_="state")


def _verdict(
    search: ShrinkSearch, folder: Path, objective: str, best: Record | None, quantities: Quantities
) -> str:
    """Says in a sentence what a search has come to."""
    if search.final():
        return final.verdict(search, objective, *final.judged_by(folder))
    if best is None:
        trained = any(outcome.score is not None for outcome in search.outcomes.values())
        return f"No {'round has adopted a network' if trained else 'network has a score'} yet."
    name = f"The reference {best['reference']}" if "reference" in best else "The network"
    phrases = [each.phrase(best) for each in quantities if each.of(best) is not None]
    how = "chosen" if search.done else "the best so far"
    return f"{name} of round {best['round']} is {how}: {', '.join(phrases)}."


def _figures(search: ShrinkSearch, best: Record | None, quantities: Quantities) -> list[ET.Element]:
    """Shows what the chosen network comes to, beside that of the first round."""
    if best is None:
        return []
    first = search.trajectory()[0]
    what = "complete" if edits(first, 0) == "complete cell" else "round 0"
    if "reference" in best:
        found = [("network", best["reference"], "a reference")]
    else:
        found = [("edges", str(best["edges_left"]), f"of {len(search.cell.edges)}")]
    shown = [*quantities]
    if of_final := search.final():  # the best of several trainings is no fair number
        count = len(of_final[0]["scores"])
        trainings = f"of {count} training{'' if count == 1 else 's'}"
        label = (SCORE if quantities.scored else quantities.objective).label
        written = final.mean_score(of_final[0]).replace("± ", "±\N{NO-BREAK SPACE}")
        found.insert(0, ("mean " * (count > 1) + label, written, trainings))
        shown = [*quantities.costs]
    for each in shown:
        if each.of(best) is not None:
            beside = "unknown" if each.of(first) is None else each.text(first)
            found.append((each.heading, each.text(best), f"{what}: {beside}"))
    tiles = [
        element("div", element("dt", name), element("dd", value), element("dd", beside))
        for name, value, beside in found
    ]
    return [element("dl", *tiles, class_="tiles")]


def _network(search: ShrinkSearch, folder: Path, best: Record | None) -> list[ET.Element]:
    """Draws the network that a search at a budget has left when it ended; nothing before."""
    architecture = saved_search.read_architecture(folder) if search.done else None
    if architecture is None or best is None:
        return []
    name = architecture.reference
    title = "The network found" if name is None else f"The network: the reference {name}"
    try:
        figure = network_figure(architecture, Cell.from_json(best["cell"]))
    except (KeyError, TypeError, ValueError) as error:
        path = folder / saved_search.ARCHITECTURE
        raise ValueError(f"{path}: no arguments of a network: {error}") from error
    heading = element("h2", title, id="network")
    return [element("section", heading, figure, **{"aria-labelledby": "network"})]


def _against(stops: Records, place: int) -> str:
    """Says what the candidates of a round are held against."""
    if not place:
        several = len(stops[0]["candidates"]) > 1
        return "against the complete cell" if several else "the complete cell"
    before = stops[place - 1]
    if "reference" in before:  # which has no cell
        return "against the complete cell"
    what = "network" if "changed" in before else "cell"
    return f"against the {what} of round {before['round']}"


def _round_section(
    record: Record,
    chosen: bool,
    quantities: Quantities,
    on_front: set[int],
    against: str,
    is_final: bool,
) -> ET.Element:
    open_, number = record.get("open"), record["round"]
    title = (
        f"Round {number}" + (", the final" if is_final else "") + (f", {open_}" if open_ else "")
    )
    marks: list[Content] = [" ", element("span", "chosen", class_="mark")] if chosen else []
    anchor = f"round-{number}"
    heading = element("h3", title, *marks, id=f"{anchor}-heading")
    edges, what = record["edges_left"], "network" if "changed" in record else "cell"
    same = f"the {what} is still that of the round before"
    words = [same if number and open_ else edits(record, number)]
    if not open_ and words == ["nothing adopted"]:
        words = [f"nothing adopted: {same}"]
    if "reference" not in record:
        words += [f"{edges} edge{'' if edges == 1 else 's'}"]
    words += [each.phrase(record) for each in quantities if each.of(record) is not None]
    return element(
        "section",
        heading,
        element("p", "; ".join(words) + "."),
        candidates_table(record, chosen, quantities, on_front, against),
        id=anchor,
        class_="round",
        **{"aria-labelledby": f"{anchor}-heading"},
    )


def _facts(folder: Path, search: ShrinkSearch, tuner: dict[str, Any]) -> list[ET.Element]:
    """Says how the search in a folder was run: command, seeds, versions, settings, measurements.

    Args:
        folder: of the search.
        search: in it.
        tuner: the settings of its tuner.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    settings = {**search.settings, **saved_search.read_about(folder), **tuner}
    options = saved_search.read_settings(folder)
    versions = settings.pop("versions", {})
    argv = options.pop("argv", [])
    names = ("seed", "split_seed")
    seeds = {n: each[n] for each in (settings, options) for n in names if n in each}
    measured = saved_search.describe_costs(saved_search.read_costs(folder))
    words: list[Content] = []
    for argument in argv:  # a line is not to end within one
        words += [" "] * bool(words) + [element("span", shlex.quote(argument), class_="argument")]
    found = {
        "Command": [element("pre", element("code", *words))] if argv else [],
        "What was measured": [element("p", line) for line in measured],
        "Seeds": [settings_list(seeds), element("p", _SEEDS)],
        "Versions": [settings_list(versions)] if versions else [],
        "Settings of the command": [settings_list(options)] if options else [],
        "Settings of the search": [settings_list(settings)],
    }
    return [element("section", element("h3", n), *each) for n, each in found.items() if each]


def _drawing(cells: Sequence[Cell | None], start: Cell) -> dict[str, Any]:
    """Places the nodes and edges of each round's cell, with what it has lost and won.

    Args:
        cells: of the rounds, numbered as the complete DAG; None of a reference, which has none.
        start: the complete DAG, which the first cell is held against, and one after a reference.

    Returns:
        `box`, the least and the greatest x and y of all rounds, where neighbouring columns, and
        neighbours in a column, are 1 apart; `colours`, of each op; and `rounds`, of each `nodes`
        and `edges`. A node has an `id`, an `op`, an `x`, a `y` and a `kind`: "input", "leaf",
        "node", or "gone" of one that the round has cut off. An edge has its `ends`, the control
        `x` and `y` of a quadratic curve between them, and a `kind`: "kept", "added", "removed", or
        "dead" of one that was cut off by that.
    """
    before = start
    rounds = []
    for cell in cells:
        rounds.append(_round(cell, before) if cell else {"nodes": [], "edges": []})
        before = cell or start
    points = [(p["x"], p["y"]) for each in rounds for p in each["nodes"]] or [(0.0, 0.0)]
    for each in rounds:
        place = {node["id"]: (node["x"], node["y"]) for node in each["nodes"]}
        for edge in each["edges"]:
            # The middle of the curve, its farthest from the line between its ends.
            (x, y), (x_end, y_end) = (place[node] for node in edge["ends"])
            points.append(((x + x_end + 2 * edge["x"]) / 4, (y + y_end + 2 * edge["y"]) / 4))
    xs, ys = zip(*points, strict=True)
    fills = colours(op for cell in cells if cell for op in cell.ops)
    return {"box": [min(xs), min(ys), max(xs), max(ys)], "colours": fills, "rounds": rounds}


def _round(cell: Cell, before: Cell) -> dict[str, Any]:
    kinds: dict[Edge, str] = dict.fromkeys(cell.live_edges, "kept")
    for edge in set(before.live_edges) - set(cell.live_edges):
        kinds[edge] = "removed" if edge[0] in cell.reachable else "dead"
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
