"""The picture of the README: the trajectory of a recorded search beside three of its cells.

Example:
    `python benchmarks/front_picture.py benchmarks/cifar10_trajectory.json --rounds 0 5 10
    --output benchmarks/front_picture.png`; of a search of one's own, `trajectory.json` in its
    folder.
"""

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

import keras_autoshrink as kas
from keras_autoshrink.networks.operations import colours


def picture(figure: Figure, height: int) -> Image.Image:
    """Draws a figure as an image of a height in pixels, its sides kept in proportion."""
    file = BytesIO()
    figure.savefig(file, dpi=height / figure.get_figheight())
    return Image.open(file)


def cell_of(record: dict[str, Any]) -> Figure:
    """Draws a round's cell to be read at a third of its size: ops by their colours alone."""
    cell = kas.Cell.from_json(record["cell"])
    figure = kas.plot_cell(cell, title=f"round {record['round']}: {record['edges_left']} edges")
    (axes,) = figure.axes
    figure.set_figheight(4.8)  # room for the legend
    axes.title.set_size(20)
    for text in axes.texts:
        text.set_text(text.get_text().partition("\n")[0].removesuffix("put"))  # 3, in, out
        text.set_size(20)
    handles = [
        Line2D([], [], color=colour, label=op, marker="o", markersize=18, linestyle="")
        for op, colour in colours(cell.ops).items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=18, frameon=False)
    return figure


def main() -> None:
    """Reads the records, draws both, and writes them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trajectory", type=Path, help="the records of a search, as JSON")
    parser.add_argument("--rounds", type=int, nargs="+", required=True, help="whose cells to show")
    parser.add_argument("--output", type=Path, required=True, help="the .png to write")
    arguments = parser.parse_args()
    records = json.loads(arguments.trajectory.read_text(encoding="utf-8"))
    curves = picture(kas.plot_trajectory(records, objective="accuracy"), 1200)
    height = 1200 // len(arguments.rounds)
    cells = [picture(cell_of(records[number]), height) for number in arguments.rounds]
    whole = Image.new(
        "RGB", (curves.width + max(each.width for each in cells), curves.height), "white"
    )
    whole.paste(curves)
    for place, each in enumerate(cells):
        left = curves.width + (whole.width - curves.width - each.width) // 2
        whole.paste(each, (left, place * curves.height // len(cells)))
    whole.quantize(64).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
