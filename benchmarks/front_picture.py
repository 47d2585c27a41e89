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

from matplotlib.figure import Figure
from PIL import Image

import keras_autoshrink as kas


def picture(figure: Figure, height: int) -> Image.Image:
    """A figure as an image of a height in pixels, its sides kept in proportion."""
    file = BytesIO()
    figure.savefig(file, dpi=height / figure.get_figheight())
    return Image.open(file)


def main() -> None:
    """Reads the records, draws both, and writes them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trajectory", type=Path, help="the records of a search, as JSON")
    parser.add_argument("--rounds", type=int, nargs="+", required=True, help="whose cells to show")
    parser.add_argument("--output", type=Path, required=True, help="the .png to write")
    arguments = parser.parse_args()
    records = json.loads(arguments.trajectory.read_text(encoding="utf-8"))
    curves = picture(kas.plot_trajectory(records, objective="accuracy"), 1200)
    cells = []
    for number in arguments.rounds:
        cell = kas.Cell.from_json(records[number]["cell"])
        title = f"round {number}: {records[number]['edges_left']} edges"
        cells.append(picture(kas.plot_cell(cell, title=title), 1200 // len(arguments.rounds)))
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
