"""The tables of the report's page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from keras_autoshrink.report import final
from keras_autoshrink.report.quantities import Quantities, Record, Records
from keras_autoshrink.search.records import changes, described
from keras_autoshrink.search.shrink import ShrinkSearch

Content = str | ET.Element

_STATUS = {"rejected": "trained", "pending": "not trained yet"}


def element(tag: str, *content: Content, **attributes: str) -> ET.Element:
    """Makes an HTML element; a trailing underscore of an attribute's name is left out."""
    made = ET.Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for part in content:
        if isinstance(part, ET.Element):
            made.append(part)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + part
        else:
            made.text = (made.text or "") + part
    return made


def render(*elements: ET.Element) -> str:
    """Writes elements as HTML."""
    return "".join(ET.tostring(each, encoding="unicode", method="html") for each in elements)


def edits(record: Record, round_: int) -> str:
    """Says how a record's cell differs, such as "without 1-2, with 0-3, units 8".

    Of a reference, which it is.
    """
    candidates = record.get("candidates")  # of a round
    if round_ and candidates and all(each["status"] != "adopted" for each in candidates):
        return "nothing adopted"
    removed, added = described(record)
    words = [] if removed == "-" else [f"without {removed}"]
    words += [] if added == "-" else [f"with {added}"]
    words += [] if changes(record) == "-" else [changes(record)]
    return ", ".join(words) or ("the same network" if round_ else "complete cell")


def edges_left(record: Record) -> str:
    """Writes how many edges a record's cell has; a dash for a reference, which has no cell."""
    return "-" if "reference" in record else str(record["edges_left"])


def rounds_table(records: Records, best: Record | None, quantities: Quantities) -> ET.Element:
    """Makes a table with a row for each round, whose number leads to the round."""
    rows = []
    whole_space = any("changed" in record for record in records)
    has_epochs = any("epochs" in record for record in records)
    for record in records:
        candidates = record["candidates"]
        new = [c for c in candidates if not c["reused"] and "over_limit" not in c]
        removed, added = described(record)
        if whole_space:
            edited = [edits(record, record["round"])]
        elif record["round"] and (removed, added) == ("-", "-"):
            edited = [edits(record, record["round"]), added]
        else:
            edited = [removed, added]
        link = element("a", str(record["round"]), href=f"#round-{record['round']}")
        marks = [element("span", "chosen", class_="mark")] if record is best else []
        rows.append(
            element(
                "tr",
                element("th", link, " ", *marks, scope="row"),
                *(element("td", *_unbroken(each), class_="edges") for each in edited),
                _cell(edges_left(record)),
                *([_cell(str(record["epochs"]))] if has_epochs else []),
                *(_cell(each.text(record)) for each in quantities),
                _cell(f"{len(new)} of {len(candidates)}"),
                **({"class": "chosen"} if record is best else {}),
            )
        )
    return table(
        f"The {'network' if whole_space else 'cell'} that each round adopted",
        ["round", *(["against the round before"] if whole_space else ["removed", "added"])],
        [
            *("edges", *["epochs"] * has_epochs),
            *(each.directed for each in quantities),
            "trained",
        ],
        rows,
    )


def candidates_table(
    record: Record,
    chosen: bool,
    quantities: Quantities,
    front: Container[int],
    current: str,
) -> ET.Element:
    """Makes a table of the candidates of a round, the best first.

    Args:
        record: of the round.
        chosen: whether its cell is the search's result.
        quantities: what to say of each.
        front: the `id` of each candidate on the Pareto front of the search.
        current: what its edits are against, for the caption.
    """
    candidates = record["candidates"]
    ranked = sorted(candidates, key=lambda c: (c["score"] is None, -(c["score"] or 0)))
    rows = []
    for candidate in sorted(ranked, key=lambda c: c["status"] != "adopted"):
        status = candidate["status"]
        marks = ["chosen"] if chosen and status == "adopted" else []
        marks += ["Pareto front"] if id(candidate) in front else []
        rows.append(
            element(
                "tr",
                element(
                    "th",
                    *_unbroken(edits(candidate, record["round"])),
                    scope="row",
                    class_="edges",
                ),
                _cell(edges_left(candidate)),
                *(_cell(each.text(candidate)) for each in quantities),
                _status(candidate, marks),
                class_=status.replace(" ", "-"),
            )
        )
    headings = ["edges", *(each.heading for each in quantities)]
    caption = f"Candidates of round {record['round']}, {current}"
    what = "network" if "changed" in record else "cell"
    return table(caption, [what], headings, rows, last="what came of it")


def final_table(search: ShrinkSearch) -> ET.Element:
    """Makes a table with a row for each network of a search's final, the best first."""
    first, *headings = final.headings(search)
    rows = []
    for place, (name, *values) in enumerate(final.rows(search)):
        marks: list[Content] = [] if place else [" ", element("span", "chosen", class_="mark")]
        title = element("th", *_unbroken(name), *marks, scope="row", class_="edges")
        chosen = {} if place else {"class_": "chosen"}
        rows.append(element("tr", title, *map(_cell, values), **chosen))
    return table(final.caption(search), [first], headings, rows)


def settings_list(settings: Mapping[str, Any]) -> ET.Element:
    """Lists settings and their values, those of a nested setting one by one."""
    pairs = _flat(settings)
    return element("dl", *(element("div", element("dt", n), element("dd", v)) for n, v in pairs))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        name = f"{prefix}{name}"
        if isinstance(value, Mapping) and value.get("format") == "keras_autoshrink.cell":
            yield name, f"{len(value['edges'])} edges over {', '.join(map(str, value['ops']))}"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _unbroken(text: str) -> list[Content]:
    """Splits a text, so that no line ends within an edge such as 1-2."""
    parts = re.split(r"(\d+-\d+)", text)
    return [
        element("span", part, class_="edge-name") if place % 2 else part
        for place, part in enumerate(parts)
    ]


def _status(candidate: Record, marks: Sequence[str]) -> ET.Element:
    status: str = candidate["status"]
    status = _STATUS.get(status, status)
    reason = candidate["error"] or candidate.get("over_limit")
    if candidate["status"] == "adopted" and "over_limit" in candidate:
        status = "adopted, over limit"
    parts: list[Content] = [element("span", status, class_="status")]
    if reason:
        parts.append(f": {reason}")
    if candidate["reused"]:
        parts.append(", the same network as one before it")
    for mark in marks:
        kind = "mark" if mark == "chosen" else "mark front"
        parts += [" ", element("span", mark, class_=kind)]
    return element("td", *parts, class_="outcome")


def _cell(text: str) -> ET.Element:
    return element("td", text, class_="number")


def table(
    caption: str,
    texts: Sequence[str],
    numbers: Sequence[str],
    rows: Iterable[ET.Element],
    last: str | None = None,
) -> ET.Element:
    """Makes a table in a box of its own, which scrolls where the screen is narrow."""
    headings = [element("th", text, scope="col") for text in texts]
    headings += [element("th", text, scope="col", class_="number") for text in numbers]
    headings += [element("th", last, scope="col")] if last else []
    made = element(
        "table",
        # Which stays where it is when the box scrolls.
        element("caption", element("span", caption)),
        element("thead", element("tr", *headings)),
        element("tbody", *rows),
    )
    return element(
        "div", made, class_="scrolls", tabindex="0", role="region", **{"aria-label": caption}
    )
