"""The drawing of the network that a search has found: its parts, their shapes, and its cell."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.operations import LARGER, colours
from keras_autoshrink.report.plots import Point, bend, control, layered
from keras_autoshrink.report.tables import element, settings_list, table

Shape = tuple[int, ...]

_OUTPUT = "output"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network, from the image to the classes.

    Args:
        name: of the part; its layers' names begin with it.
        layers: what it is made of, in words.
        shape: of its output, (height, width, channels) or (units,).
        stride: by which it shrinks height and width.
    """

    name: str
    layers: str
    shape: Shape
    stride: int = 1


def network_figure(architecture: Architecture, searched: Cell) -> ET.Element:
    """Draws a network as a table of its parts and a picture of its cell.

    Args:
        architecture: of the network. Of a reference, and of a ShrinkCNN whose filters follow from a
            width, the arguments are listed.
        searched: the same cell as it is numbered elsewhere in the report.

    Raises:
        ValueError, TypeError, KeyError: the arguments are not those of a network.
    """
    arguments = architecture.arguments
    if architecture.reference is not None or "stage_filters" not in arguments:
        listed = settings_list(architecture.to_json()["arguments"])
        return element("figure", listed, class_="network")
    rows = []
    found = [*parts(arguments)]
    for part in found:
        stride = str(part.stride) if len(part.shape) == 3 and part.name != "image" else ""
        rows.append(
            element(
                "tr",
                element("th", part.name, scope="row"),
                element("td", part.layers, class_="layers"),
                element("td", stride, class_="number"),
                element("td", _volume(part.shape, found), class_="volume"),
                element("td", " x ".join(map(str, part.shape)), class_="number"),
            )
        )
    caption = "From the image to the classes; an output is height x width x channels"
    listed = table(caption, ["part", "layers"], ["stride", "", "output"], rows)
    cell = searched if searched.prune() == arguments["cell"] else arguments["cell"]
    return element(
        "figure",
        listed,
        element(
            "div",
            element("p", _rules(arguments), class_="faint"),
            element(
                "div",
                _cell_picture(cell, arguments),
                class_="scrolls",
                tabindex="0",
                role="region",
                **{"aria-label": "Picture of the cell"},
            ),
            class_="cell found",
        ),
        class_="network",
    )


def parts(arguments: Mapping[str, Any]) -> Iterator[Part]:
    """Lists the parts of a `ShrinkCNN` with the shapes of their outputs, without building it.

    Args:
        arguments: of `ShrinkCNN`, `stage_filters` and `cell` among them.
    """
    height, width, channels = arguments["input_shape"]
    cell, activation = arguments["cell"], arguments.get("activation", "relu")
    yield Part("image", "", (height, width, channels))
    behind = f"BatchNorm, {activation}"
    stride, channels = arguments.get("stem_stride", 2), arguments.get("stem_filters", 32)
    height, width = -(-height // stride), -(-width // stride)
    yield Part("stem", f"conv3x3, {behind}", (height, width, channels), stride)
    found = zip(
        arguments["stage_filters"],
        arguments["stage_strides"],
        arguments["stage_repeats"],
        strict=True,
    )
    stages, outputs = len(arguments["stage_filters"]), []
    for place, (filters, stride, repeats) in enumerate(found):
        height, width = -(-height // stride), -(-width // stride)
        channels = filters
        if not _adds(arguments):
            channels = len(cell.leaves) * (filters // arguments.get("bottleneck", 1))
        words = [f"{repeats} cell{'' if repeats == 1 else 's'}"]
        if place >= stages - arguments.get("large_kernels", 0):
            used = sorted({cell.ops[node] for node in cell.reachable} & {*LARGER})
            words += [f"{LARGER[op]} in place of {op}" for op in used]
        if place >= stages - arguments.get("squeeze_excite", 0):
            words.append("squeeze-and-excitation")
        outputs.append(channels)
        yield Part(f"stage{place + 1}", ", ".join(words), (height, width, channels), stride)
    if head := arguments.get("head_filters", 1280):
        outputs[-1] = head
        yield Part("head", f"conv1x1, {behind}", (height, width, head))
    pooled = arguments.get("pooled_stages", 1)
    read = [f"stage{place + 1}" for place in range(stages - pooled, stages - 1)]
    of = f" of {', '.join(read)} and {'head' if head else f'stage{stages}'}" if read else ""
    units = sum(outputs[stages - pooled :])
    yield Part("pool", f"global average pool{of}", (units,))
    if hidden := arguments.get("hidden_units"):
        yield Part("hidden", f"dense, {behind}", (hidden,))
    yield Part("classes", "dense", (arguments["classes"],))


_WIDEST, _HIGHEST = 56, 26  # pixels of the picture of an output


def _volume(shape: Shape, all_parts: Sequence[Part]) -> ET.Element:
    """Draws an output as high as its image, and as wide as its channels are many."""
    pixels = shape[0] if len(shape) == 3 else 0
    height = max(3.0, _HIGHEST * pixels / all_parts[0].shape[0])
    width = max(2.0, _WIDEST * shape[-1] / max(part.shape[-1] for part in all_parts))
    svg = ET.Element("svg", width=str(_WIDEST), height=f"{height:.0f}", role="presentation")
    ET.SubElement(svg, "rect", width=f"{width:.1f}", height=f"{height:.0f}", rx="1")
    return svg


def _adds(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("combine", "concatenate") == "add")


def _rules(arguments: Mapping[str, Any]) -> str:
    """Says what the picture of the cell leaves out."""
    joined = "added" if _adds(arguments) else "joined on the channel axis"
    residual, activation = arguments.get("residual", True), arguments.get("activation", "relu")
    unless = ", this not in front of the output" if residual else ""
    words = f"The cell. What leads to a node is {joined}; then come its op, BatchNorm and "
    words += f"{activation}{unless}."
    if max(arguments["stage_strides"]) > 1:
        how = "by a max-pool of its input"
        if residual and _adds(arguments):
            how = "in the ops that read the input alone; other nodes read its average-pool"
        words += f" The first cell of a stage strides {how}."
    if residual:
        words += " Dotted is the cell's input, which is added to its output."
    return words


# The picture of a cell, in pixels: it is never made smaller, so that its letters stay legible.
_WIDTH, _HEIGHT = 112, 44  # of a node
_COLUMN, _ROW = 128, 80  # from node to node
_MARGIN = 6
# How far edges keep from nodes, which are wider than high: they may pass halfway between two.
_ROOM = 0.48


def _cell_picture(cell: Cell, arguments: Mapping[str, Any]) -> ET.Element:
    """Draws a cell from its input down to its output."""
    graph = cell.to_networkx().subgraph(cell.reachable).copy()
    ends: set[Any] = {*cell.leaves}
    residual = arguments.get("residual", True)
    if residual or len(ends) > 1:
        graph.add_node(_OUTPUT, op=_joined(len(ends), arguments))
        graph.add_edges_from((leaf, _OUTPUT) for leaf in [*cell.leaves, *[0] * residual])
        ends = {_OUTPUT}
    # In columns and rows; downwards, as a phone is higher than wide.
    place = {node: (y, x) for node, (x, y) in layered(graph).items()}
    curves = {}
    for source, target in graph.edges:
        others = [point for node, point in place.items() if node not in (source, target)]
        rad = bend(place[source], place[target], others, _ROOM)
        curves[source, target] = control(place[source], place[target], rad)
    # The middle of a curve is its farthest from the line between its ends.
    middles = [
        (place[source][0] + place[target][0] + 2 * x) / 4
        for (source, target), (x, _) in curves.items()
    ]
    columns = [x for x, _ in place.values()]
    left = min(*columns, *middles) * _COLUMN - _WIDTH / 2 - _MARGIN
    right = max(*columns, *middles) * _COLUMN + _WIDTH / 2 + _MARGIN
    top = -_HEIGHT / 2 - _MARGIN
    bottom = max(y for _, y in place.values()) * _ROW - top

    said = ", ".join(f"{i}-{j}" for i, j in cell.live_edges)
    svg = ET.Element(
        "svg",
        viewBox=f"{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}",
        width=f"{right - left:.0f}",
        height=f"{bottom - top:.0f}",
        role="img",
    )
    svg.set("aria-label", f"The cell of the network found: {said}")
    marker = ET.SubElement(
        ET.SubElement(svg, "defs"),
        "marker",
        id="arrow-found",
        viewBox="0 0 8 8",
        refX="6",
        refY="4",
        orient="auto",
        markerUnits="userSpaceOnUse",
        markerWidth="9",
        markerHeight="9",
    )
    ET.SubElement(marker, "path", d="M0 0L8 4L0 8Z")
    for (source, target), middle in curves.items():
        bypass = "dead" if (source, target) == (0, _OUTPUT) else "kept"
        path = _arrow(*(_pixels(each) for each in (place[source], middle, place[target])))
        svg.append(ET.Element("path", {"class": f"edge {bypass}", "d": path}))
        svg[-1].set("marker-end", "url(#arrow-found)")
    fills = colours(cell.ops)
    for node, op in graph.nodes(data="op"):
        svg.append(_node(node, op, _pixels(place[node]), node in ends, fills.get(op)))
    return svg


def _joined(leaves: int, arguments: Mapping[str, Any]) -> str:
    """Says how a cell's output is made of its leaves and, if it has residuals, of its input."""
    residual = arguments.get("residual", True)
    if not _adds(arguments):
        words = ["concatenate"] * (leaves > 1) + ["add"] * residual
        return ", ".join(words)
    return "add" + (f", {arguments.get('activation', 'relu')}" if residual else "")


def _pixels(point: Point) -> Point:
    return point[0] * _COLUMN, point[1] * _ROW


def _arrow(start: Point, middle: Point, end: Point) -> str:
    """Writes a quadratic curve that ends at the border of the node that it leads to."""

    def between(one: Point, other: Point, share: float) -> Point:
        return one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share

    share, bent, point = 1.0, middle, end
    while (
        share > 0.5
        and abs(point[0] - end[0]) < _WIDTH / 2 + 4
        and abs(point[1] - end[1]) < _HEIGHT / 2 + 4
    ):
        share -= 0.005
        bent = between(start, middle, share)
        point = between(bent, between(middle, end, share), share)
    written = (f"{x:.0f} {y:.0f}" for x, y in (start, bent, point))
    return "M{}Q{} {}".format(*written)


_LONGEST = 14  # letters of an op that a node has room for


def _node(node: Any, op: str, place: Point, is_end: bool, colour: str | None) -> ET.Element:
    kind = "input" if node == 0 else "leaf" if is_end else "node"
    x, y = (f"{each:.0f}" for each in place)
    group = ET.Element("g", {"class": kind, "transform": f"translate({x} {y})"})
    group.append(element("title", op if node == _OUTPUT else f"{op}: node {node}"))
    box = {"x": f"{-_WIDTH / 2:g}", "y": f"{-_HEIGHT / 2:g}", "rx": "6", "class": "body"}
    group.append(ET.Element("rect", {**box, "width": str(_WIDTH), "height": str(_HEIGHT)}))
    if colour:
        stripe = {"x": f"{5 - _WIDTH / 2:g}", "y": f"{6 - _HEIGHT / 2:g}", "rx": "2"}
        group.append(ET.Element("rect", {**stripe, "width": "4", "height": "32", "fill": colour}))
    short = op if len(op) <= _LONGEST else f"{op[: _LONGEST - 1]}…"
    group.append(element("text", short, x="4", y="-2"))
    number = _OUTPUT if node == _OUTPUT else f"node {node}"
    group.append(element("text", number, x="4", y="14", class_="number"))
    return group
