"""The tables of the report's page, and the quantities that they show."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.search.records import described

Record = Mapping[str, Any]
Records = Sequence[Record]

# Words in the names of metrics of which less is better, and of which more is: those of Keras,
# and what else people call such.
_LESS = re.compile(
    r"perplexity|loss|error|entropy|divergence|latency"
    r"|(^|[\W_])(ppl|mae|mse|rmse|mape|msle|nll|wer|cer)([\W_]|$)"
)
_MORE = re.compile(r"accuracy|precision|recall|(^|[\W_])(acc|auc|f1|iou|r2|bleu)([\W_]|$)")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number of each record.

    Args:
        name: its key in a record.
        label: what the page calls it.
        form: how it is written, for `format`.
        unit: what it is counted in, if anything.
        direction: " (less is better)" where a reader could not know, else nothing.
    """

    name: str
    label: str
    form: str = ".4f"
    unit: str = ""
    direction: str = ""

    @property
    def heading(self) -> str:
        """What it is called above a column of its values."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def directed(self) -> str:
        """What it is called where a reader compares values."""
        return self.heading + self.direction

    @property
    def title(self) -> str:
        """What it is called where a title begins; "MACs" and "val_AUC" keep their capitals."""
        return self.label[:1].upper() + self.label[1:]

    def of(self, record: Record) -> float | None:
        """A record's; None if it is unknown, or no number to be drawn."""
        value: float | None = record.get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def said(self, record: Record) -> str:
        """A record's for people; a dash if there is none."""
        value = record.get(self.name)
        return "\N{EN DASH}" if value is None else format(value, self.form)

    def phrase(self, record: Record) -> str:
        """A record's with what it is: "1,024 MACs", "score 0.5", "latency 2 ms"."""
        if self.form == ",":
            return f"{self.said(record)} {self.label}"
        return f"{self.label} {self.said(record)} {self.unit}".rstrip()


SCORE = Quantity("score", "score")
_MACS, _PARAMS = Quantity("macs", "MACs", ","), Quantity("params", "parameters", ",")
_MEASURED = (
    Quantity("latency_ms", "latency", ".4g", "ms"),
    Quantity("measured_cost", "cost", ".4g"),
)


@dataclasses.dataclass(frozen=True)
class Quantities:
    """Those of a search.

    Args:
        objective: the metric behind the score.
        less: whether less of it is better.
        costs: of a network, in the order of a table.
        deciding: the one of these that the score holds the objective against.
    """

    objective: Quantity
    less: bool
    costs: tuple[Quantity, ...]
    deciding: Quantity

    def __iter__(self) -> Iterator[Quantity]:
        return iter((SCORE, self.objective, *self.costs))

    @property
    def drawn(self) -> list[Quantity]:
        """Those with a curve of their own; parameters only where these decide."""
        return [each for each in self if each is not _PARAMS or each is self.deciding]


def of_search(
    stops: Records, objective: str, score: Any, direction: str | None = None
) -> Quantities:
    """What a search's page shows.

    Args:
        stops: the records of the rounds, the one under way included.
        objective: what to call the metric behind the score.
        score: the search's score as its settings describe it; None if they do not.
        direction: "min" or "max" where the search has said of the metric which is better.

    Raises:
        ValueError: the objective has no name.
    """
    if not objective.strip():
        raise ValueError(f"objective={objective!r}: give the name of the metric, or None")
    candidates = [candidate for stop in stops for candidate in stop["candidates"]]
    seen = {name for record in (*stops, *candidates) for name in record}
    costs = (_MACS, *(each for each in _MEASURED if each.name in seen), _PARAMS)
    less = direction == "min" if direction else _less(objective, candidates)
    which = " (less is better)" if less else ""
    return Quantities(
        Quantity("objective", objective, direction=which),
        less,
        costs,
        next((each for each in costs if each.name == _deciding(score, seen)), _MACS),
    )


def _deciding(score: Any, seen: Iterable[str]) -> str:
    """Which of a record's numbers the score gets for a cost."""
    if "measured_cost" in seen:  # of nothing else is there one
        return "measured_cost"
    held = score[1] if isinstance(score, list) and len(score) > 1 else None
    cost = held.get("cost") if isinstance(held, Mapping) else None
    named = {"params": "params", "latency": "latency_ms"}
    return named.get(cost, "macs") if isinstance(cost, str) else "macs"


def _less(objective: str, candidates: Records) -> bool:
    """Whether less of a metric is better.

    By its name; where that says nothing by the scores, which are more for the better ones: of two
    networks, the one with the better score at as many MACs or more has the better metric.
    """
    name = objective.casefold()
    if _LESS.search(name) or _MORE.search(name):
        return bool(_LESS.search(name))
    numbers = ("score", "objective", "macs")
    known = [tuple(c[n] for n in numbers) for c in candidates if None not in map(c.get, numbers)]
    known = sorted(set(known), reverse=True)[:100]  # pairs of all would be many
    votes = 0
    for (score, objective_, macs), (worse, other, fewer) in itertools.combinations(known, 2):
        if score > worse and macs >= fewer:
            votes += (objective_ > other) - (objective_ < other)
    return votes < 0


Records_tables = Sequence[Mapping[str, Any]]
Content = str | ET.Element

_STATUS = {"rejected": "trained", "pending": "not trained yet"}


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


def edits(record: Mapping[str, Any], round_: int) -> str:
    """What a record's cell has lost and won in its round, such as "without 1-2, with 0-3"."""
    removed, added = described(record)
    words = [] if removed == "-" else [f"without {removed}"]
    words += [] if added == "-" else [f"with {added}"]
    return ", ".join(words) or ("nothing adopted" if round_ else "complete cell")


def rounds_table(
    records: Records_tables, best: Mapping[str, Any] | None, quantities: Quantities
) -> ET.Element:
    """A row for each round; the number of a round leads to it."""
    rows = []
    for record in records:
        candidates = record["candidates"]
        new = [c for c in candidates if not c["reused"] and "over_limit" not in c]
        removed, added = described(record)
        if record["round"] and (removed, added) == ("-", "-"):
            removed = edits(record, record["round"])
        link = element("a", str(record["round"]), href=f"#round-{record['round']}")
        marks = [element("span", "chosen", class_="mark")] if record is best else []
        rows.append(
            element(
                "tr",
                element("th", link, " ", *marks, scope="row"),
                element("td", *_unbroken(removed), class_="edges"),
                element("td", *_unbroken(added), class_="edges"),
                _cell(str(record["edges_left"])),
                *(_cell(each.said(record)) for each in quantities),
                _cell(f"{len(new)} of {len(candidates)}"),
                **({"class": "chosen"} if record is best else {}),
            )
        )
    return _table(
        "The cell that each round adopted",
        ["round", "removed", "added"],
        ["edges", *(each.directed for each in quantities), "trained"],
        rows,
    )


def candidates_table(
    record: Mapping[str, Any],
    chosen: bool,
    quantities: Quantities,
    front: Container[int],
    current: str,
) -> ET.Element:
    """The candidates of a round, the best first.

    Args:
        record: of the round.
        chosen: whether its cell is the search's result.
        quantities: what to say of each.
        front: the ids, as of `id`, of the candidates on the Pareto front of the search.
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
                _cell(str(candidate["edges_left"])),
                *(_cell(each.said(candidate)) for each in quantities),
                _status(candidate, marks),
                class_=status.replace(" ", "-"),
            )
        )
    headings = ["edges", *(each.heading for each in quantities)]
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


def _status(candidate: Mapping[str, Any], marks: Sequence[str]) -> ET.Element:
    status = _STATUS.get(candidate["status"], candidate["status"])
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
