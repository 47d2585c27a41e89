"""Why the paper's walk leaves the regret it does: its parts, on the tables of all networks.

    python benchmarks/paper_walks.py

Whole walks are replayed with one training seed's scores, as a search sees them, and with the true
ones, the means over the seeds. Regrets are in units of 0.0001 of the score.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    from quality_networks import Networks, Session

    from keras_autoshrink.cell import Cell
    from keras_autoshrink.search.records import Outcome
    from keras_autoshrink.search.shrink import ShrinkSearch

_DRAWS = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is known of each table, and of the walks on it."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    tables = [here / f"quality_{task}.json" for task in ("cifar10", "digits")]
    parser.add_argument("--tables", type=Path, nargs="+", metavar="FILE", default=tables)
    parser.add_argument("--seeds", type=int, default=60, help="walks of each kind")
    options = parser.parse_args(arguments)
    console = Console(width=110, highlight=False)
    for networks in map(Networks, options.tables):
        console.print(*facts(networks), sep="\n")
        table = Table(
            box=box.MARKDOWN, title=f"{networks.task}: {options.seeds} walks to their end"
        )
        for heading in ("walk", "networks", "regret (sd)", "of the best that it trained"):
            table.add_column(heading, justify="left" if heading == "walk" else "right")
        for k in (5, 10):
            for exact in (False, True):
                walks = [walk(networks, k, seed, exact) for seed in range(options.seeds)]
                trained, regrets, best = np.array(walks).T
                table.add_row(
                    f"k={k}, {'true scores' if exact else 'one score of each'}",
                    f"{trained.mean():.0f}",
                    f"{regrets.mean():.0f} ({regrets.std(ddof=1):.0f})",
                    f"{best.mean():.0f}",
                )
        console.print(table)
    return 0


def facts(networks: Networks) -> list[str]:
    """Says what makes a table easy or hard to search, a line each."""
    true, cells = networks.true, networks.cells
    beside = [[networks.index(other) for other in networks.neighbours(cell)] for cell in cells]
    optima = sum(all(true[j] <= true[i] for j in near) for i, near in enumerate(beside))
    pairs = [(true[i], true[j]) for i, near in enumerate(beside) for j in near]
    correlation = np.corrcoef(pairs, rowvar=False)[0, 1]
    edges = np.array([len(cell.edges) for cell in cells])
    best = {int(count): f"{true[edges == count].max():.3f}" for count in sorted({*edges})}
    generator = np.random.default_rng(0)
    rows = np.arange(len(true))
    floor = [
        true.max() - true[networks.scores[rows, drawn].argmax()]
        for drawn in generator.integers(0, networks.scores.shape[1], (_DRAWS, len(true)))
    ]
    whole = true.max() - true[networks.index(networks.dense)]
    return [
        f"{networks.task}: regret of the complete cell {1e4 * whole:.0f}; "
        f"best score by edges {best}",
        f"neighbours correlate by {correlation:.2f}; {optima} local optima among {len(cells)}",
        f"all trained once, the best score seen taken: regret {1e4 * np.mean(floor):.0f}",
    ]


def walk(networks: Networks, k: int, seed: int, exact: bool) -> tuple[int, float, float]:
    """Walks; returns the networks trained, the regret of what was found, and that of the best."""
    session = Session(networks, seed, len(networks.cells))
    search = ShrinkSearch(networks.dense, num_candidates=k, seed=seed, strategy="paper")
    trained = []
    while pending := search.pending():
        cell = pending[0].cell
        trained.append(networks.index(cell))
        score = networks.true[trained[-1]] if exact else session.train(cell)
        search.tell(cell, Outcome(float(score), costs={"macs": networks.count_macs(cell)}))
    found = networks.index(Cell.from_json(search.best()["cell"]))
    regrets = 1e4 * (networks.true.max() - networks.true)
    return len(trained), regrets[found], regrets[trained].min()


if __name__ == "__main__":
    sys.exit(main())
