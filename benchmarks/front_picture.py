"""The picture of the README: what searches at a budget found, beside references of that budget.

Example:
    `python benchmarks/front_picture.py`: of the trainings in `budget.jsonl`, which
    `python benchmarks/budget.py train` adds to.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).parent
DATASET = "cifar10"
FOUND = "found"  # what budget.py calls it
SHOWN = 5  # networks of a target, the best
# Both can be read on white and on the dark of a git host: the picture has no ground of its own.
INK, ACCENT = "#787d85", "#e8590c"

Trainings = dict[str, list[float]]  # test accuracies in per cent, by network


def trainings(results: Sequence[dict[str, Any]], macs: int) -> Trainings:
    """Chooses those of a target's last search, and of the references by the same recipe."""
    asked = {"dataset": DATASET, "target": {"target_macs": macs}}
    results = [each for each in results if asked.items() <= each.items()]
    found = [each for each in results if each["network"] == FOUND]
    if not found:
        raise SystemExit(f"--macs {macs}: nothing that was found at it has been trained")
    last, chosen = found[-1], {}
    for each in results:
        if any(each[name] != last[name] for name in ("recipe", "epochs")):
            continue
        if each["network"] != FOUND or each["architecture"] == last["architecture"]:
            chosen.setdefault(each["network"], []).append(100 * each["test_accuracy"])
    return chosen


def picture(targets: dict[int, Trainings]) -> Figure:
    """Draws a row for each network: its mean accuracy, and how its trainings scatter."""
    rows = sum(min(len(networks), SHOWN) + 1.4 for networks in targets.values())
    figure = Figure(figsize=(9, 0.42 * rows + 0.7), layout="constrained")
    axes = figure.add_subplot()
    row, marks = 0.0, {}
    for macs, networks in targets.items():
        heading = {"color": INK, "size": 15, "weight": "bold"}
        axes.text(0, row, f"{macs / 1e6:g}M MACs", transform=axes.get_yaxis_transform(), **heading)
        for name in sorted(networks, key=lambda name: -statistics.fmean(networks[name]))[:SHOWN]:
            row += 1
            values = networks[name]
            mean, colour = statistics.fmean(values), ACCENT if name == FOUND else INK
            scatter = statistics.stdev(values) if len(values) > 1 else 0
            axes.errorbar(mean, row, None, scatter, "o", color=colour, ms=10, lw=2.5, capsize=5)
            above = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{mean:.1f}%", (mean, row), color=colour, size=13, **above)
            marks[row] = ("found by the search" if name == FOUND else name, colour)
        row += 1.4
    axes.set_yticks([*marks], [name for name, _ in marks.values()], size=14)
    axes.tick_params(length=0)
    axes.tick_params("x", colors=INK, labelsize=12)
    for label, (_, colour) in zip(axes.get_yticklabels(), marks.values(), strict=True):
        label.set_color(colour)
    axes.set_ylim(row - 0.6, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel("accuracy on CIFAR-10's test images, in %", size=13, color=INK)
    axes.grid(axis="x", color=INK, alpha=0.25)
    axes.spines[:].set_visible(False)
    return figure


def main() -> None:
    """Reads the trainings and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "budget.jsonl")
    parser.add_argument("--macs", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--output", type=Path, default=HERE / "front_picture.png")
    options = parser.parse_args()
    lines = options.results.read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    figure = picture({macs: trainings(results, macs) for macs in options.macs})
    figure.savefig(options.output, dpi=150, transparent=True)


if __name__ == "__main__":
    main()
