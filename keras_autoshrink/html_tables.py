"""The tables of a search's HTML page, as elements, which escape what they are made of."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_autoshrink.trajectory import described

Records = Sequence[Mapping[str, Any]]
Content = str | ET.Element

_STATUS = {"rejected": "trained", "pending": "not trained yet"}
# Of records that have them: what to call them.
_COSTS = {"latency_ms": "latency, ms", "measured_cost": "cost"}


def element(tag: str, *content: Content, **attributes: str) -> ET.Element:
    """An HTML element; a trailing underscore of an attribute's name is left out."""
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
    """Elements as HTML."""
    return "".join(ET.tostring(each, encoding="unicode", method="html") for each in elements)


def number(value: float | None, form: str = ".4f") -> str:
    """A number for people; a dash for none."""
    return "\N{EN DASH}" if value is None else format(value, form)


def edits(record: Mapping[str, Any]) -> str:
    """What a record's cell has lost and won, such as "without 1-2, with 0-3"."""
    removed, added = described(record)
    words = [] if removed == "-" else [f"without {removed}"]
    words += [] if added == "-" else [f"with {added}"]
    return ", ".join(words) or "complete cell"


def rounds_table(records: Records, best: Mapping[str, Any] | None, objective: str) -> ET.Element:
    """A row for each round; the number of a round leads to it."""
    costs = _costs_of(records)
    headings = ["edges", "score", objective, "MACs", *costs.values(), "parameters", "trained"]
    rows = []
    for record in records:
        candidates = record["candidates"]
        new = [c for c in candidates if not c["reused"] and "over_limit" not in c]
        removed, added = described(record)
        link = element("a", str(record["round"]), href=f"#round-{record['round']}")
        marks = [element("span", "chosen", class_="mark")] if record is best else []
        rows.append(
            element(
                "tr",
                element("th", link, " ", *marks, scope="row"),
                element("td", *_unbroken(removed), class_="edges"),
                element("td", *_unbroken(added), class_="edges"),
                _cell(str(record["edges_left"])),
                _cell(number(record["score"])),
                _cell(number(record["objective"])),
                _cell(number(record["macs"], ",")),
                *(_cell(number(record.get(name), ".4g")) for name in costs),
                _cell(number(record["params"], ",")),
                _cell(f"{len(new)} of {len(candidates)}"),
                **({"class": "chosen"} if record is best else {}),
            )
        )
    return _table(
        "The cell that each round adopted",
        ["round", "removed", "added"],
        headings,
        rows,
    )


def candidates_table(
    record: Mapping[str, Any], chosen: bool, objective: str, current: str
) -> ET.Element:
    """The candidates of a round, the best first.

    Args:
        record: of the round.
        chosen: whether its cell is the search's result.
        objective: what to call the metric behind the score.
        current: what its edits are against, for the caption.
    """
    candidates = record["candidates"]
    costs = _costs_of(candidates)
    ranked = sorted(candidates, key=lambda c: (c["score"] is None, -(c["score"] or 0)))
    rows = []
    for candidate in sorted(ranked, key=lambda c: c["status"] != "adopted"):
        status = candidate["status"]
        rows.append(
            element(
                "tr",
                element("th", *_unbroken(edits(candidate)), scope="row", class_="edges"),
                _cell(str(candidate["edges_left"])),
                _cell(number(candidate["score"])),
                _cell(number(candidate["objective"])),
                _cell(number(candidate["macs"], ",")),
                *(_cell(number(candidate.get(name), ".4g")) for name in costs),
                _status(candidate, chosen and status == "adopted"),
                class_=status.replace(" ", "-"),
            )
        )
    headings = ["edges", "score", objective, "MACs", *costs.values()]
    caption = f"Candidates of round {record['round']}, {current}"
    return _table(caption, ["cell"], headings, rows, last="what came of it")


def settings_list(settings: Mapping[str, Any]) -> ET.Element:
    """Settings and their values, what they hold one by one."""
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
    """A text with edges such as 1-2, which a line is not to end in."""
    parts = re.split(r"(\d+-\d+)", text)
    return [
        element("span", part, class_="edge-name") if place % 2 else part
        for place, part in enumerate(parts)
    ]


def _status(candidate: Mapping[str, Any], chosen: bool) -> ET.Element:
    status = _STATUS.get(candidate["status"], candidate["status"])
    reason = candidate["error"] or candidate.get("over_limit")
    if candidate["status"] == "adopted" and "over_limit" in candidate:
        status = "adopted, over limit"
    parts: list[Content] = [element("span", status, class_="status")]
    if reason:
        parts.append(f": {reason}")
    if candidate["reused"]:
        parts.append(", known from before")
    if chosen:
        parts += [" ", element("span", "chosen", class_="mark")]
    return element("td", *parts, class_="outcome")


def _costs_of(records: Records) -> dict[str, str]:
    return {n: text for n, text in _COSTS.items() if any(n in record for record in records)}


def _cell(text: str) -> ET.Element:
    return element("td", text, class_="number")


def _table(
    caption: str,
    texts: Sequence[str],
    numbers: Sequence[str],
    rows: Iterable[ET.Element],
    last: str | None = None,
) -> ET.Element:
    """A table in a box of its own, which scrolls where the screen is narrow."""
    headings = [element("th", text, scope="col") for text in texts]
    headings += [element("th", text, scope="col", class_="number") for text in numbers]
    headings += [element("th", last, scope="col")] if last else []
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *headings)),
        element("tbody", *rows),
    )
    return element(
        "div", table, class_="scrolls", tabindex="0", role="region", **{"aria-label": caption}
    )
