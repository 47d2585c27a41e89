"""Which curves of a search its HTML page shows, and what it says of their points."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from keras_autoshrink.html_charts import Point, Series, chart
from keras_autoshrink.html_tables import edits, element, number

Records = Sequence[Mapping[str, Any]]

# What a metric is called of which less is better.
_LOWER = ("perplexity", "loss", "error")


def directed(objective: str) -> str:
    """The name of an objective, with a word for one of which less is better."""
    return f"{objective} (less is better)" if _less(objective) else objective


def _less(objective: str) -> bool:
    return any(word in objective for word in _LOWER)


def curves(
    records: Records, stops: Records, best: Mapping[str, Any] | None, objective: str
) -> list[ET.Element]:
    """Curves over the rounds, and the front of objective against MACs; none without a score.

    Args:
        records: of the finished rounds.
        stops: these, and the round that is under way.
        best: the record of the chosen cell.
        objective: what to call the metric behind the score.
    """
    if best is None:
        return []
    charts = []
    labels = {"score": "score", "objective": directed(objective), "macs": "MACs"}
    trained = [
        (stop["round"], candidate)
        for stop in stops
        for candidate in stop["candidates"]
        if candidate["score"] is not None and not candidate["reused"]
    ]
    adopted = [(r["round"], r) for r in records if r["score"] is not None]
    for name, label in labels.items():
        if best[name] is None:
            continue

        def points(found: Sequence[tuple[int, Mapping[str, Any]]], name: str = name) -> list[Point]:
            values = [(n, each) for n, each in found if each[name] is not None]
            return [Point(n, each[name], _said(n, each, objective), n) for n, each in values]

        others = [(n, c) for n, c in trained if c["status"] != "adopted"]
        series = [
            Series("others", points(others)),
            Series("line", points(adopted)),
            Series("chosen", points([(best["round"], best)])),
        ]
        charts.append(
            _figure(f"{label[0].upper()}{label[1:]} over the rounds", name, series, "round", label)
        )
    if best["objective"] is not None and best["macs"] is not None:
        series = _pareto(trained, best, objective)
        title = f"{objective.capitalize()} against MACs, all trained candidates"
        charts.append(_figure(title, "front", series, "MACs", directed(objective)))
    return charts


def _pareto(
    trained: Sequence[tuple[int, Mapping[str, Any]]], best: Mapping[str, Any], objective: str
) -> list[Series]:
    """All candidates; those that no other beats in objective at as many MACs or fewer."""
    sign = 1 if _less(objective) else -1
    known = [(n, c) for n, c in trained if None not in (c["objective"], c["macs"])]
    front: list[Point] = []
    rest: list[Point] = []
    reached = math.inf
    for n, each in sorted(known, key=lambda k: (k[1]["macs"], sign * k[1]["objective"])):
        point = Point(each["macs"], each["objective"], _said(n, each, objective), n)
        better = sign * each["objective"] < reached
        (front if better else rest).append(point)
        reached = min(reached, sign * each["objective"])
    chosen = Point(
        best["macs"], best["objective"], _said(best["round"], best, objective), best["round"]
    )
    return [Series("others", rest), Series("front", front), Series("chosen", [chosen])]


def _said(round_: int, record: Mapping[str, Any], objective: str) -> str:
    """What a point is, for who points at it."""
    edges = " ".join(f"{i}-{j}" for i, j in record["cell"]["edges"])
    found = [
        f"round {round_}: {edits(record)}",
        f"score {number(record['score'])}",
        f"{objective} {number(record['objective'])}",
        f"{number(record['macs'], ',')} MACs",
        f"{record['edges_left']} edges: {edges}",
    ]
    return "\n".join(found)


def _figure(
    title: str, name: str, series: Sequence[Series], x_label: str, y_label: str
) -> ET.Element:
    svg = chart(name, [each for each in series if each.points], x_label, y_label)
    svg.set("role", "img")
    svg.set("aria-label", title)
    return element("figure", element("figcaption", title), svg, class_="chart")
