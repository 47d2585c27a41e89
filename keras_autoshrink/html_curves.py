"""Which curves of a search its HTML page shows, and what it says of their points."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_autoshrink.html_charts import Axis, Point, Series, chart, limits
from keras_autoshrink.html_quantities import SCORE, Quantities, Quantity
from keras_autoshrink.html_tables import edits, element

Record = Mapping[str, Any]
Records = Sequence[Record]
Numbered = tuple[int, Record]  # the number of a round, and what has to do with it

# What the points of a chart are, by their kind.
_OVER_ROUNDS = {"line": "adopted", "others": "other trained candidates", "chosen": "chosen"}
_FRONT = {"front": "on the Pareto front", "others": "other trained candidates", "chosen": "chosen"}


def trained(stops: Records) -> list[Numbered]:
    """Each network with a score, once."""
    return [
        (stop["round"], candidate)
        for stop in stops
        for candidate in stop["candidates"]
        if candidate["score"] is not None and not candidate["reused"]
    ]


def front(candidates: Iterable[Record], quantities: Quantities) -> list[Record]:
    """The Pareto front: what nothing beats in one of objective and cost, and equals in the other.

    Networks that are equal in both are all on it.

    Returns:
        Some of the candidates, the very same objects, from the cheapest on.
    """
    sign = 1 if quantities.less else -1
    known = [
        (cost, sign * objective, candidate)
        for candidate in candidates
        if (cost := quantities.deciding.of(candidate)) is not None
        and (objective := quantities.objective.of(candidate)) is not None
    ]
    found: list[Record] = []
    reached, at = math.inf, math.inf
    for cost, objective, candidate in sorted(known, key=lambda each: each[:2]):
        if objective < reached:
            reached, at = objective, cost
        if (cost, objective) == (at, reached):
            found.append(candidate)
    return found


class Texts:
    """What is said of the points: of each network one text, however many charts it is in."""

    def __init__(self, quantities: Quantities) -> None:
        self._quantities = quantities
        self._numbers: dict[tuple[int, str], int] = {}

    def number(self, round_: int, record: Record) -> int:
        """The number of a record's text."""
        edges = " ".join(f"{i}-{j}" for i, j in record["cell"]["edges"])
        found = [f"round {round_}: {edits(record, round_)}"]
        known = (each for each in self._quantities if each.of(record) is not None)
        found += [each.phrase(record) for each in known]
        found.append(f"{record['edges_left']} edges: {edges}")
        return self._numbers.setdefault((round_, "\n".join(found)), len(self._numbers))

    def to_json(self) -> list[list[Any]]:
        """By number the round and the text."""
        return [list(each) for each in self._numbers]


def curves(
    records: Records, stops: Records, best: Record | None, quantities: Quantities, texts: Texts
) -> list[ET.Element]:
    """Curves over the rounds, and the front of objective against cost; none without a score.

    Args:
        records: of the finished rounds.
        stops: these, and the round that is under way.
        best: the record of the chosen cell, if there is one.
        quantities: what to draw.
        texts: takes what is to be said of the points.
    """
    known = trained(stops)
    others = [(n, c) for n, c in known if c["status"] != "adopted"]
    adopted = [(r["round"], r) for r in records if r["score"] is not None]
    chosen = [(best["round"], best)] if best else []
    charts = []
    for each in quantities.drawn:

        def points(found: Iterable[Numbered], each: Quantity = each) -> list[Point]:
            values = [(n, record, each.of(record)) for n, record in found]
            return [Point(n, y, texts.number(n, r)) for n, r, y in values if y is not None]

        series = [
            Series("others", points(others)),
            Series("line", points(adopted)),
            Series("chosen", points(chosen)),
        ]
        title = f"{each.title} over the rounds"
        charts.append(_figure(title, each.name, series, Axis("round", "rounds"), _axis(each)))
    on = {id(candidate) for candidate in front((c for _, c in known), quantities)}

    def against(found: Iterable[Numbered]) -> list[Point]:
        pairs = [(n, r, quantities.deciding.of(r), quantities.objective.of(r)) for n, r in found]
        made = [(x, y, n, r) for n, r, x, y in pairs if x is not None and y is not None]
        # In the order of the front, which is drawn by steps.
        made.sort(key=lambda each: (each[0], each[1] if quantities.less else -each[1]))
        return [Point(x, y, texts.number(n, r)) for x, y, n, r in made]

    series = [
        Series("others", against([(n, c) for n, c in known if id(c) not in on])),
        Series("front", against([(n, c) for n, c in known if id(c) in on])),
        Series("chosen", against(chosen)),
    ]
    title = f"{quantities.objective.title} against {quantities.deciding.label}"
    x, y = _axis(quantities.deciding), _axis(quantities.objective)
    charts.append(_figure(title, "front", series, x, y))
    return [each for each in charts if each is not None]


def _axis(quantity: Quantity) -> Axis:
    return Axis(quantity.directed, "counts" if quantity.form == "," else "values")


def _figure(title: str, name: str, series: Sequence[Series], x: Axis, y: Axis) -> ET.Element | None:
    series = [each for each in series if each.points]
    if not series:
        return None
    # A diverged network must not flatten the others. What a network costs does not diverge.
    clipped = name in (SCORE.name, "objective", "front")
    within = limits(series) if clipped else None
    svg = chart(name, series, x, y, within)
    svg.set("role", "img")
    svg.set("aria-label", title)
    caption = [element("figcaption", title)]
    if within:
        ys = {(p.number, p.y) for each in series for p in each.points}
        beyond = sum(not within[0] <= value <= within[1] for _, value in ys)
        words = f"{beyond} far beyond this range, and not drawn; the tables have all."
        caption.append(element("p", words, class_="faint"))
    texts = _FRONT if name == "front" else _OVER_ROUNDS
    legend = [
        element("li", element("i", class_=f"key dot {kind}"), text)
        for kind, text in texts.items()
        if any(each.kind == kind for each in series)
    ]
    keys = element("ul", *legend, class_="legend", **{"aria-label": "Legend"})
    box = element("div", svg, class_="scrolls")
    return element("figure", *caption, box, keys, class_="chart")
