"""The report of a search as one HTML file, which needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import os
import string
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_autoshrink import __version__, files, html_facts, runs
from keras_autoshrink.cell import Cell
from keras_autoshrink.html_cells import drawing
from keras_autoshrink.html_curves import Texts, curves, front, trained
from keras_autoshrink.html_quantities import SCORE, Quantities, of_search
from keras_autoshrink.html_tables import (
    Content,
    candidates_table,
    edits,
    element,
    render,
    rounds_table,
)
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trajectory import Outcome, best_record, candidate_record

Record = dict[str, Any]
Records = Sequence[Record]

NAME = "report.html"


def write_report(
    search: runs.Searched | str | os.PathLike[str],
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
    folder, found, objective = runs.open_search(search, objective)
    path = folder / NAME if path is None else Path(path)
    files.write_text(path, _page(found, folder, objective))
    return path


def _page(search: ShrinkSearch, folder: Path, objective: str) -> str:
    records = search.trajectory()
    best = best_record(records)
    open_round = _open_round(search, records)
    stops = [*records, *([open_round] if open_round else [])]
    quantities = of_search(stops, objective, _score(folder), runs.direction(folder))
    known = [candidate for _, candidate in trained(stops)]
    on_front = {id(candidate) for candidate in front(known, quantities)}
    cells = [Cell.from_json(record["cell"]) for record in stops]
    parts = importlib.resources.files("keras_autoshrink") / "report_page"
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
        facts=render(*_costs(folder), *html_facts.sections(folder, search)),
        version=html.escape(__version__),
    )


def _score(folder: Path) -> Any:
    """The score of a search as its settings describe it; None where they do not."""
    path = folder / "tuner0.json"
    return files.read_json(path).get("score") if path.is_file() else None


def _costs(folder: Path) -> list[ET.Element]:
    """By what latencies were measured, and how surely; nothing of a search without any."""
    path = folder / "costs.json"
    if not path.is_file():
        return []
    from keras_autoshrink import candidate_costs  # loads Keras, which else takes no report

    lines = candidate_costs.describe(candidate_costs.read(path))
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
