"""The curves of a search's HTML page: drawn by matplotlib, with values for a mouse to find.

A library for charts in browsers (plotly, Vega) would bring megabytes of JavaScript into each
page. matplotlib, which draws the other pictures, writes an SVG in which each point is an element:
with a `<title>` in it, any browser shows its values. Only the cell is drawn by the page itself,
since its nodes move from round to round.
"""

from __future__ import annotations

import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

Records = Sequence[Mapping[str, Any]]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What is drawn in these colours takes those of the page, which are others in the dark.
_COLOURS = {
    "line": "#0072b2",
    "chosen": "#d55e00",
    "others": "#b0b0b0",
    "ink": "#333333",
    "rule": "#dddddd",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_autoshrink",  # the same page from the same search
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
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a chart: where it stands, what is to be said of it, and its round."""

    x: float
    y: float
    text: str
    round: int


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one kind.

    Args:
        kind: "line" (joined by a line), "front" (by steps), "others" or "chosen".
        points: of the series, at least one.
    """

    kind: str
    points: Sequence[Point]


def chart(name: str, series: Sequence[Series], x_label: str, y_label: str) -> ET.Element:
    """Draws a chart.

    Args:
        name: of the chart, for the ids in it.
        series: what to draw, the last in front.
        x_label: of the horizontal axis; "MACs" makes it one of large numbers.
        y_label: likewise of the vertical one.

    Returns:
        An SVG element without colours or fonts of its own; each point is a `<use>` with its
        text as `<title>`, in a group `data-kind`.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.3, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        for each in series:
            _draw(axes, each, f"{name}-{each.kind}")
        _ticks(axes, x_label, y_label, [p.x for each in series for p in each.points])
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(ET.fromstring(written.getvalue()), name, series)


def _draw(axes: Axes, series: Series, gid: str) -> None:
    xs, ys = [p.x for p in series.points], [p.y for p in series.points]
    kind = "line" if series.kind == "front" else series.kind
    if series.kind in ("line", "front"):
        how = "steps-post" if series.kind == "front" else "default"
        axes.plot(xs, ys, color=_COLOURS[kind], linewidth=1.4, drawstyle=how)
    marker, size = {"chosen": ("*", 130), "others": ("o", 13)}.get(kind, ("o", 26))
    points = axes.scatter(xs, ys, s=size, marker=marker, color=_COLOURS[kind], zorder=3)
    points.set_gid(gid)
    points.set_clip_on(False)


def _ticks(axes: Axes, x_label: str, y_label: str, xs: Sequence[float]) -> None:
    if x_label.startswith("MACs"):
        if max(xs) > 10 * min(xs) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if y_label.startswith("MACs"):
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _for_the_page(svg: ET.Element, name: str, series: Sequence[Series]) -> ET.Element:
    """Takes from matplotlib's SVG what would reach beyond it, and adds the points' texts."""
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in svg.iter() for v in e.attrib.values())))
    kinds = {f"{name}-{each.kind}": each for each in series}
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
            uses = [use for use in each.iter() if use.tag.endswith("use")]
            for use, point in zip(uses, found.points, strict=True):
                use.set("data-round", str(point.round))
                ET.SubElement(use, "title").text = point.text
    for key in ("width", "height", "version"):
        svg.attrib.pop(key, None)
    return svg
