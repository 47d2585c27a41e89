"""What searches find for so many trained networks, in tables where all networks are trained.

The regret of a search is the best true score of the table less that of the network it would
return; true is the mean over the training seeds, of which a search sees one for each network.
`quality_networks.py` says what a table is, `quality_contestants.py` what the searches do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    import keras_tuner
    import quality_contestants as contestants
    from quality_networks import Networks

# KerasTuner's Bayesian one takes seconds for each network that it chooses.
_SLOW_BUDGET = 40
REPORTED = (10, 20, 30, 40)
_FEW = 30
_HERE = Path(__file__).parent
_ORACLES = keras_tuner.oracles

# Of Paul Tol's and Okabe and Ito's palettes: twelve that can be told apart.
_COLOURS = ["#777777", "#E69F00", "#B15928", "#D55E00", "#000000", "#CC3311"]
_COLOURS += ["#009E73", "#56B4E9", "#0072B2", "#AA4499", "#999933", "#CC79A7"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches and prints a table for each task."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/search_quality.py --seeds 200 --plot quality.png",
    )
    parser.add_argument("--tables", type=Path, nargs="+", metavar="FILE", default=_tables())
    parser.add_argument("--seeds", type=int, default=200, help="searches of each kind")
    parser.add_argument("--slow-seeds", type=int, default=10, help="of KerasTuner's Bayesian one")
    parser.add_argument("--budget", type=int, default=60, help="networks that each may train")
    parser.add_argument("--weight", type=float, default=0.1, help="of the score")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the searches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all regrets; goes on from it")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the means")
    options = parser.parse_args(arguments)
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    console = Console(width=150, highlight=False)
    tables = [Networks(path, options.weight) for path in options.tables]
    for networks in tables:
        results = known.setdefault(f"{networks.task}, weight {options.weight:g}", {})
        contenders = searches(networks.epochs, options.budget)
        for name, search in contenders.items():
            if options.only and name not in options.only:
                continue
            slow = name.startswith("KerasTuner Bayesian")
            done = results.setdefault(name, [])
            started = time.monotonic()
            for seed in range(len(done), options.slow_seeds if slow else options.seeds):
                budget = min(options.budget, _SLOW_BUDGET) if slow else options.budget
                found = contestants.regrets(search, networks, seed, budget)
                done.append(found + [math.nan] * (options.budget - budget))
                if options.json and slow:
                    options.json.write_text(json.dumps(known) + "\n", encoding="utf-8")
            console.print(f"{networks.task}, {name}: {time.monotonic() - started:.0f} s")
            if options.json:
                options.json.write_text(json.dumps(known) + "\n", encoding="utf-8")
        results = {name: regrets for name, regrets in results.items() if len(regrets) > 1}
        console.print(_table(networks, results))
    if options.plot:
        _plot(known, options.plot)
    return 0


def searches(epochs: int, budget: int) -> dict[str, Any]:
    """Maps the names of all contestants to their searches.

    Args:
        epochs: the most that a network of the table trained.
        budget: how many networks a search may train.
    """
    paper = {"strategy": "paper"}
    bayesian = {"strategy": "bayesian", "max_candidates": budget}
    return {
        "random networks": contestants.random_networks,
        "AutoShrink paper, k=5": contestants.shrinking(5, **paper),
        "AutoShrink paper, k=10": contestants.shrinking(10, **paper),
        "AutoShrink bayesian, k=1": contestants.shrinking(1, **bayesian),
        "AutoShrink bayesian, k=5": contestants.shrinking(5, **bayesian),
        "AutoShrink bayesian, k=10": contestants.shrinking(10, **bayesian),
        "regularised evolution": contestants.evolution(population=10, sample=5),
        "local search": contestants.local_search(first_better=False),
        "local search, first better": contestants.local_search(first_better=True),
        "KerasTuner RandomSearch": contestants.keras_tuner_oracle(
            _ORACLES.RandomSearchOracle, max_trials=1000
        ),
        "KerasTuner Hyperband": contestants.keras_tuner_oracle(
            _ORACLES.HyperbandOracle, max_epochs=epochs, hyperband_iterations=100
        ),
        "KerasTuner Bayesian": contestants.keras_tuner_oracle(
            _ORACLES.BayesianOptimizationOracle, max_trials=60
        ),
    }


def _tables() -> list[Path]:
    return sorted(_HERE.glob("quality_*.json"))


def _table(networks: Networks, results: dict[str, list[list[float]]]) -> Table:
    """Makes the table of mean regrets in units of 0.0001, with what they may be off by."""
    table = Table(
        box=box.MARKDOWN,
        title=f"{networks.task}: mean regret of n searches x 10,000 ± 95% interval (sd); "
        f"best true score {networks.true.max():.4f}, of all networks {networks.true.mean():.4f} "
        f"(sd {networks.true.std():.4f}), sd of a training "
        f"{np.sqrt(networks.scores.var(axis=1, ddof=1).mean()):.4f}",
    )
    for heading in ("search", "n", *(f"{count} trained" for count in REPORTED)):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for name, regrets in results.items():
        found = 1e4 * np.array(regrets)[:, list(REPORTED)]
        half = 1.96 * found.std(axis=0, ddof=1) / np.sqrt(len(found))
        cells = [
            f"{mean:.0f} ± {interval:.0f} ({sd:.0f})"
            for mean, interval, sd in zip(
                found.mean(axis=0), half, found.std(axis=0, ddof=1), strict=True
            )
        ]
        table.add_row(name, str(len(found)), *cells)
    return table


def _plot(known: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Draws the mean regrets by the number of trained networks."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6 * len(known), 5.5), layout="constrained")
    all_axes = figure.subplots(1, len(known), squeeze=False)[0]
    for axes, (task, results) in zip(all_axes, known.items(), strict=True):
        for place, (name, regrets) in enumerate(results.items()):
            found = 1e4 * np.array(regrets)
            mean = found.mean(axis=0)
            half = 1.96 * found.std(axis=0, ddof=1) / np.sqrt(len(found))
            counts = np.arange(len(mean))
            colour = _COLOURS[place % len(_COLOURS)]
            axes.plot(counts, mean, label=f"{name} ({len(found)})", color=colour)
            if len(found) >= _FEW:  # of few searches the band would hide the others
                axes.fill_between(counts, mean - half, mean + half, color=colour, alpha=0.12)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(5, None)
        axes.set_title(f"{task} of log10(MACs)")
        axes.set_xlabel("networks trained")
        axes.set_ylabel("mean regret in 0.0001 of the score, 95% interval")
        axes.grid(alpha=0.3, which="both")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
