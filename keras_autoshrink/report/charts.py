"""The charts of the report's page."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from keras_autoshrink.report.quantities import (
    SCORE,
    Quantities,
    Quantity,
    Record,
    Records,
    telling_costs,
)
from keras_autoshrink.report.tables import edits, element
from keras_autoshrink.search.points import REPEAT

Numbered = tuple[int, Record]  # the number of a round, and what has to do with it

# What the points of a chart are, by their kind.
_OVER_ROUNDS = {
    "line": "adopted",
    "references": "references, made by hand",
    "others": "other trained candidates",
    "chosen": "chosen",
}
_AGAINST_COST = {
    "chosen": "the result",
    "references": "references, made by hand",
    "front": "on the Pareto front",
    "others": "other trained candidates",
    "brief": "candidates trained for fewer epochs",
    "brief-references": "references trained for fewer epochs",
}
# Its colour, where it is not that of its own name.
_COLOUR_OF = {"front": "line", "brief": "others", "brief-references": "references"}
# Markers and their sizes: what a point is can be told without its colour.
_MARKERS = {
    "chosen": ("*", 110),
    "others": ("o", 11),
    "brief": ("o", 11),
    "references": ("s", 22),
    "brief-references": ("s", 18),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a chart.

    Args:
        x: where it stands.
        y: where it stands.
        number: by which the page knows it.
        error: the standard error of y; 0 if it is not known.
        label: what to write beside it.
    """

    x: float
    y: float
    number: int
    error: float = 0.0
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Series:
    """A set of points of one kind.

    Args:
        kind: "line" (joined by a line), "front" (by steps), or another one that has a marker.
        points: of the series, at least one.
    """

    kind: str
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Args:
        label: what stands beside it.
        kind: "rounds", "counts" (large numbers) or "values".
    """

    label: str
    kind: str = "values"


class Texts:
    """The texts of the points: one for each network, however many charts it is in."""

    def __init__(self, quantities: Quantities) -> None:
        self._quantities = quantities
        self._numbers: dict[tuple[int, str], int] = {}

    def number(self, round_: int, record: Record) -> int:
        """Returns the number of a record's text."""
        found = [f"round {round_}: {edits(record, round_)}"]
        known = (each for each in self._quantities if each.of(record) is not None)
        found += [each.phrase(record) for each in known]
        count = len(record.get("trainings", ()))
        if "epochs" in record:
            found.append(f"{record['epochs']} epochs" + f", mean of {count}" * (count > 1))
        if "reference" not in record:
            edges = " ".join(f"{i}-{j}" for i, j in record["cell"]["edges"])
            found.append(f"{record['edges_left']} edges: {edges}")
        return self._numbers.setdefault((round_, "\n".join(found)), len(self._numbers))

    def to_json(self) -> list[list[Any]]:
        """Returns by number the round and the text."""
        return [list(each) for each in self._numbers]


def curves(
    records: Records, stops: Records, best: Record | None, quantities: Quantities, texts: Texts
) -> list[ET.Element]:
    """Draws score, objective and telling costs over the rounds; none without a score.

    Args:
        records: of the finished rounds.
        stops: these, and the round that is under way.
        best: the record of the chosen cell, if there is one.
        quantities: what to draw.
        texts: where to add those of the points.
    """
    known = trained(stops)
    losers = [(n, c) for n, c in known if c["status"] != "adopted"]
    references = [(n, c) for n, c in losers if "reference" in c]
    others = [(n, c) for n, c in losers if "reference" not in c]
    adopted = [(r["round"], r) for r in records if r["score"] is not None]
    chosen = [(best["round"], best)] if best else []
    charts = []
    silent = {each.name for each in quantities.costs} - {c.name for c in telling_costs(stops)}
    for each in quantities:
        if each.name in silent:
            continue
        series = [
            Series("others", _over_rounds(others, each, texts)),
            Series("references", _over_rounds(references, each, texts)),
            Series("line", _over_rounds(adopted, each, texts)),
            Series("chosen", _over_rounds(chosen, each, texts)),
        ]
        title = f"{each.title} over the rounds"
        charts.append(_figure(title, each.name, series, Axis("round", "rounds"), _axis(each)))
    return [each for each in charts if each is not None]


def against_cost(
    stops: Records, best: Record | None, quantities: Quantities, texts: Texts
) -> ET.Element | None:
    """Draws the objective of all networks against their cost, with the Pareto front.

    The front is of the networks that have been trained for the most epochs: others would be on it,
    or not, for how long they were trained.

    Args:
        stops: the records of the rounds, that under way included.
        best: the record of the chosen network, if there is one.
        quantities: what to draw.
        texts: where to add those of the points.

    Returns:
        None without a score, or where no cost is known.
    """
    known = networks(stops)
    on = {id(network) for network in front((each for _, each in known), quantities)}
    longest = _most_epochs(each for _, each in known)
    found: dict[str, list[Numbered]] = {kind: [] for kind in reversed(_AGAINST_COST)}
    for number, network in known:
        if id(network) in on:
            found["front"].append((number, network))
        kind = "references" if "reference" in network else "others"
        if network.get("epochs", 0) < longest:
            kind = "brief" if kind == "others" else "brief-references"
        # A reference on the front has to show by its marker that it is one.
        if kind != "others" or id(network) not in on:
            found[kind].append((number, network))
    if best is not None:
        same = (each for each in known if _training_of(each[1]) == _training_of(best))
        found["chosen"] = [*same][:1]
    series = [Series(kind, _against_cost(each, quantities, texts)) for kind, each in found.items()]
    title = f"{quantities.objective.title} against {quantities.deciding.label}"
    x, y = _axis(quantities.deciding), _axis(quantities.objective)
    return _figure(title, "front", series, x, y)


def trained(stops: Records) -> list[Numbered]:
    """Returns each network with a score, once, and its round."""
    return [
        (stop["round"], candidate)
        for stop in stops
        for candidate in stop["candidates"]
        if candidate["score"] is not None and not candidate["reused"]
    ]


def networks(stops: Records) -> list[Numbered]:
    """Returns each network with a score, and its round; of trainings that differ in seed, the mean.

    A mean has the candidates that are its `trainings`, and its `standard_errors`.
    """
    found: dict[str, list[Numbered]] = {}
    for number, candidate in trained(stops):
        found.setdefault(_training_of(candidate), []).append((number, candidate))
    return [
        (each[0][0], each[0][1] if len(each) == 1 else _mean([candidate for _, candidate in each]))
        for each in found.values()
    ]


def _training_of(record: Record) -> str:
    """Returns a key that a network's trainings share, if they were of equal length."""
    cell = record["cell"]
    values = {name: v for name, v in cell.get("values", {}).items() if name != REPEAT}
    return json.dumps([cell["ops"], cell["edges"], values])


def _mean(trainings: Records) -> Record:
    mean: Record = {**trainings[0], "trainings": trainings, "standard_errors": {}}
    for name in ("score", "objective"):
        values = [each[name] for each in trainings]
        if None not in values:
            mean[name] = statistics.fmean(values)
            mean["standard_errors"][name] = statistics.stdev(values) / math.sqrt(len(values))
    return mean


def _most_epochs(records: Iterable[Record]) -> int:
    return max((record.get("epochs", 0) for record in records), default=0)


def front(candidates: Iterable[Record], quantities: Quantities) -> list[Record]:
    """Finds the Pareto front: what nothing beats in objective or cost and equals in the other.

    Networks that are equal in both are all on it; those trained for fewer epochs than others are
    not compared.

    Returns:
        Some of the candidates, the very same objects, from the cheapest on.
    """
    sign = 1 if quantities.less else -1
    candidates = [*candidates]
    longest = _most_epochs(candidates)
    candidates = [each for each in candidates if each.get("epochs", 0) == longest]
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


def _over_rounds(found: Iterable[Numbered], quantity: Quantity, texts: Texts) -> list[Point]:
    values = [(n, record, quantity.of(record)) for n, record in found]
    return [Point(n, y, texts.number(n, r)) for n, r, y in values if y is not None]


def _against_cost(found: Iterable[Numbered], quantities: Quantities, texts: Texts) -> list[Point]:
    pairs = [(n, r, quantities.deciding.of(r), quantities.objective.of(r)) for n, r in found]
    made = [(x, y, n, r) for n, r, x, y in pairs if x is not None and y is not None]
    # In the order of the front, which is drawn by steps.
    made.sort(key=lambda each: (each[0], each[1] if quantities.less else -each[1]))
    return [
        Point(
            x,
            y,
            texts.number(n, r),
            r.get("standard_errors", {}).get("objective", 0.0),
            r.get("reference", ""),
        )
        for x, y, n, r in made
    ]


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
    texts = _AGAINST_COST if name == "front" else _OVER_ROUNDS
    if any(p.error for each in series for p in each.points):
        words = "Bars are standard errors of means over several trainings."
        caption.append(element("p", words, class_="faint"))
    legend = [
        element("li", element("i", class_=f"key dot {kind}"), text)
        for kind, text in texts.items()
        if any(each.kind == kind for each in series)
    ]
    keys = element("ul", *legend, class_="legend", **{"aria-label": "Legend"})
    box = element("div", svg, class_="scrolls")
    return element("figure", *caption, box, keys, class_="chart")


# By how many interquartile ranges a value is away from the middle half, to be left out of a chart
# that it would flatten: Tukey's "far out".
_FAR = 3
_FEWEST = 8  # below, quartiles say nothing
_FLATTENED = 4  # by this factor at least


def limits(series: Sequence[Series]) -> tuple[float, float] | None:
    """Returns the heights to draw between, where points far out would flatten the rest.

    Returns:
        The least and the greatest, what is chosen between them; None to draw all.
    """
    ys = [p.y for each in series for p in each.points if each.kind != "chosen"]
    if len(ys) < _FEWEST:
        return None
    low, _, high = statistics.quantiles(ys, n=4, method="inclusive")
    far = _FAR * (high - low)
    kept = [y for y in ys if low - far <= y <= high + far]
    kept += [p.y for each in series for p in each.points if each.kind == "chosen"]
    least, most = min(kept), max(kept)
    if not 0 < _FLATTENED * (most - least) < max(ys) - min(ys):
        return None
    return least, most


_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What is drawn in these colours takes those of the page, which are others in the dark.
_COLOURS = {
    "line": "#0072b2",
    "chosen": "#d55e00",
    "others": "#b0b0b0",
    "references": "#cc79a7",
    "ink": "#333333",
    "rule": "#dddddd",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["rule"],
    "axes.labelcolor": _COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": _COLOURS["ink"],
    "ytick.color": _COLOURS["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}


def chart(
    name: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    within: tuple[float, float] | None = None,
) -> ET.Element:
    """Draws a chart.

    Args:
        name: of the chart, for the ids in it.
        series: what to draw, the last in front.
        x: the horizontal axis.
        y: the vertical one.
        within: of the vertical one, see `limits`; points beyond are left out, lines lead there.

    Returns:
        An SVG element without colours or fonts of its own; each point is a `<use>` with its
        number as `data-point`, in a group `data-kind`.
    """
    low, high = within or (-math.inf, math.inf)
    drawn = [Series(each.kind, [p for p in each.points if low <= p.y <= high]) for each in series]
    # The same page from the same search, and other ids in each of its charts.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"keras_autoshrink/{name}"}):
        # Small, so that the letters are large enough on a phone; see the style sheet.
        figure = Figure(figsize=(3.5, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(xlabel=x.label, ylabel=y.label)
        _ticks(axes, x, y, [p.x for each in drawn for p in each.points])
        for whole, each in zip(series, drawn, strict=True):
            _draw(axes, whole, each.points, f"{name}-{each.kind}")
        if within:
            margin = 0.05 * (high - low)
            axes.set_ylim(low - margin, high + margin)
        _label(
            figure, axes, [p for each in drawn if each.kind == "references" for p in each.points]
        )
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(ET.fromstring(written.getvalue()), name, drawn)


def _draw(axes: Axes, series: Series, within: Sequence[Point], gid: str) -> None:
    colour = _COLOURS[_COLOUR_OF.get(series.kind, series.kind)]
    if series.kind in ("line", "front"):
        how = "steps-post" if series.kind == "front" else "default"
        xs, ys = [p.x for p in series.points], [p.y for p in series.points]
        axes.plot(xs, ys, color=colour, linewidth=1.4, drawstyle=how)
    for p in within:
        if p.error:
            axes.vlines(p.x, p.y - p.error, p.y + p.error, color=colour, linewidth=1)
    marker, size = _MARKERS.get(series.kind, ("o", 22))
    xs, ys = [p.x for p in within], [p.y for p in within]
    points = axes.scatter(xs, ys, s=size, marker=marker, color=colour, zorder=3)
    points.set_gid(gid)
    points.set_clip_on(False)


_LABELLED = 4  # more labels would lie upon each other
_LINE = 8.5  # points from one label to the next below it


def _label(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Writes the labels of a few points beside them, towards the middle of the chart."""
    labelled = [p for p in points if p.label]
    if not 0 < len(labelled) <= _LABELLED:
        return
    figure.draw_without_rendering()  # which lays it out
    free = {"left": math.inf, "right": math.inf}  # up to which height, in points
    for p in sorted(labelled, key=lambda p: -p.y):
        place = axes.transData.transform((p.x, p.y))
        x, y = axes.transAxes.inverted().transform(place)
        height = place[1] * 72 / figure.dpi
        side, above = "left" if x < 0.5 else "right", y < 0.2
        aside = 4 if side == "left" else -4
        down = min(4 if above else -4, free[side] - height)
        free[side] = height + down - _LINE
        sides: dict[str, Any] = {"ha": side, "va": "bottom" if above else "top"}
        axes.annotate(p.label, (p.x, p.y), (aside, down), textcoords="offset points", **sides)


def _ticks(axes: Axes, x: Axis, y: Axis, xs: Sequence[float]) -> None:
    if x.kind == "rounds":
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    elif max(xs) > 10 * min(xs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axis, described in ((axes.xaxis, x), (axes.yaxis, y)):
        if described.kind == "counts":
            axis.set_major_formatter(EngFormatter(sep=""))
    if x.kind == "values":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _for_the_page(svg: ET.Element, name: str, series: Sequence[Series]) -> ET.Element:
    """Removes from matplotlib's SVG what would reach beyond it, and numbers its points."""
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in svg.iter() for v in e.attrib.values())))
    kinds = {f"{name}-{each.kind}": each for each in series}
    groups: list[tuple[ET.Element, Series]] = []
    for parent in [*svg.iter()]:
        # The author's name, and a style sheet that would hold for the whole page.
        for child in [c for c in parent if c.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            parent.remove(child)
    for each in svg.iter():
        each.tag = each.tag.removeprefix(f"{{{_SVG}}}")
        if link := each.attrib.pop(f"{{{_XLINK}}}href", None):
            each.set("href", link)
        found = kinds.get(each.get("id", ""))
        if each.get("id") not in used:
            each.attrib.pop("id", None)
        # As attributes, since the page allows no style but its own style sheet's.
        for declaration in filter(None, each.attrib.pop("style", "").split(";")):
            key, value = (part.strip() for part in declaration.split(":", 1))
            if not key.startswith("font"):
                each.set(key, value)
        for colour, value in _COLOURS.items():
            for key in ("fill", "stroke"):
                if each.get(key) == value:
                    each.set(key, f"var(--{colour})")
        if found is not None:
            each.set("data-kind", found.kind)
            groups.append((each, found))
    for group, of in groups:
        colour = _COLOUR_OF.get(of.kind, of.kind)
        uses = [each for each in group.iter() if each.tag == "use"]
        for use, point in zip(uses, of.points, strict=True):
            use.set("data-point", str(point.number))
            use.set("x", f"{float(use.get('x', 0)):.1f}")
            use.set("y", f"{float(use.get('y', 0)):.1f}")
        # Said once for all, so that the style sheet can mark one of them by its own.
        for each in group.iter():
            for key in ("fill", "stroke"):
                each.attrib.pop(key, None)
        hollow = of.kind.startswith("brief")
        group.set("fill", "var(--paper)" if hollow else f"var(--{colour})")
        group.set("stroke", f"var(--{colour})")
    for key in ("width", "height", "version"):
        svg.attrib.pop(key, None)
    return svg
