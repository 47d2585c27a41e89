"""What races and inherited weights save, and how well their scores rank networks.

    python benchmarks/cheaper_rounds.py digits
    python benchmarks/cheaper_rounds.py cifar10 --data-dir DIR

Races are replayed on the table that `quality_training.py` has made: it holds the accuracy of
every network after every epoch. Inheritance is searched for real, by as many seeds as are asked
for, and the scores of its candidates are held against those of the table, from scratch.

Kendall's tau is 1 where two scores rank all networks alike, 0 where they have nothing to do with
each other. Scores of networks from scratch by another seed say what can be hoped for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import keras_autoshrink as kas
from keras_autoshrink import racing
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trajectory import Outcome

SCORE = kas.AccuracyScore()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("digits", "cifar10"))
    parser.add_argument("--data-dir")
    parser.add_argument("--table", type=Path, help="default: that of the task, beside this file")
    parser.add_argument("--seeds", type=int, default=3, help="of searches that inherit; 0: none")
    options = parser.parse_args(arguments)
    path = options.table or Path(__file__).parent / f"quality_{options.task}.json"
    table = json.loads(path.read_text())
    networks = {network["key"]: network for network in table["networks"]}
    shown = Table(box=box.SIMPLE_HEAD, title=f"{options.task}: {len(networks)} networks")
    for heading in ("", "Kendall's tau", "of the epochs", "regret of a search"):
        shown.add_column(heading, justify="right" if heading else "left")
    for row in rows(options, table, networks):
        shown.add_row(*row)
    Console(width=120, highlight=False).print(shown)
    return 0


def rows(options: argparse.Namespace, table: Any, networks: Any) -> Any:
    """The rows of the printed table."""
    epochs = table["epochs"]
    pairs = list(itertools.permutations("012", 2))
    again = [
        tau(
            [score(n, seed) for n in networks.values()],
            [score(n, other) for n in networks.values()],
        )
        for seed, other in pairs
    ]
    whole = [replayed(networks, seed, epochs, race=False) for seed in range(201)]
    yield "from scratch, another seed", spread(again), "100%", regrets(whole)
    for share in racing.RUNGS:
        until = int(np.ceil(share * epochs))
        taus = [
            tau(
                [score(n, seed, until) for n in networks.values()],
                [score(n, seed) for n in networks.values()],
            )
            for seed in "012"
        ]
        yield f"after {until} of {epochs} epochs", spread(taus), f"{until / epochs:.0%}", ""
    raced = [replayed(networks, seed, epochs, race=True) for seed in range(201)]
    used = sum(trained for trained, _ in raced) / sum(trained for trained, _ in whole)
    yield "race", "", f"{used:.0%}", regrets(raced)
    if options.seeds:
        yield from inherited(options, table, networks)


def score(network: Any, seed: str, until: int | None = None) -> float:
    """The best score of a network in so many epochs."""
    logs = {"val_accuracy": max(network["val_accuracy"][seed][:until])}
    return SCORE(logs, network["macs"])


def true_score(network: Any) -> float:
    """The mean over the seeds."""
    return statistics.mean(score(network, seed) for seed in network["val_accuracy"])


def tau(one: list[float], other: list[float]) -> float:
    """Kendall's."""
    return float(kendalltau(one, other).statistic)


def spread(values: list[float]) -> str:
    """Mean and ends."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def regrets(searches: list[tuple[int, float]]) -> str:
    """Mean and standard error."""
    values = [regret for _, regret in searches]
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


def replayed(networks: Any, seed: int, epochs: int, race: bool) -> tuple[int, float]:
    """A search of the paper's strategy on the table: the epochs trained, and its regret."""
    whole = max(networks.values(), key=lambda network: len(network["edges"]))
    ops = whole["key"].partition(":")[0].split(",")
    cell = kas.Cell(ops, [tuple(edge) for edge in whole["edges"]])
    search = ShrinkSearch(cell, num_candidates=5, seed=seed, strategy="paper")
    drawn = str(seed % 3)
    trained = 0
    while pending := search.pending():
        stacks = [Replay(networks[c.cell.key], drawn) for c in pending]

        def run(those: Sequence[Replay], until: int) -> None:
            for stack in those:
                stack.epochs = until

        if race:
            racing.race(stacks, epochs, run)
        else:
            run(stacks, epochs)
        for candidate, stack in zip(pending, stacks, strict=True):
            trained += min(stack.epochs, len(stack.network["val_accuracy"][drawn]))
            search.tell(candidate.cell, Outcome(stack.best_score, macs=stack.network["macs"]))
    found = kas.Cell.from_json(search.best()["cell"]).key
    best = max(true_score(network) for network in networks.values())
    return trained, best - true_score(networks[found])


class Replay:
    """A candidate of the table that stands for one that trains; as `racing.Racer`."""

    def __init__(self, network: Any, seed: str) -> None:
        self.network, self._seed = network, seed
        self.epochs = 0

    @property
    def best_score(self) -> float:
        """So far."""
        return score(self.network, self._seed, self.epochs)


def inherited(options: argparse.Namespace, table: Any, networks: Any) -> Any:
    """Searches whose candidates inherit, and the same from scratch, for the time."""
    from quality_training import load

    (train, validation), hypermodel = load(options.task, options.data_dir)
    taus, found, seconds = [], [], {True: 0.0, False: 0.0}
    best = max(true_score(network) for network in networks.values())
    for seed, inherit in itertools.product(range(options.seeds), (True, False)):
        with tempfile.TemporaryDirectory() as folder:
            tuner = kas.AutoShrink(
                hypermodel,
                directory=folder,
                num_candidates=5,
                seed=seed,
                inherit=inherit,
                strategy="paper",
            )
            started = time.monotonic()
            tuner.search(*train, validation_data=validation, epochs=table["epochs"], verbose=0)
            seconds[inherit] += time.monotonic() - started
            if not inherit:
                continue
            for record in tuner.trajectory()[1:]:
                fresh = [c for c in record["candidates"] if c["score"] is not None]
                keys = [kas.Cell.from_json(c["cell"]).key for c in fresh]
                if len(set(keys)) > 2:
                    taus.append(
                        tau([c["score"] for c in fresh], [true_score(networks[k]) for k in keys])
                    )
            found.append((0, best - true_score(networks[tuner.best_cell().key])))
    saved = f"{seconds[True] / seconds[False]:.0%} of the time"
    shown = regrets(found) if len(found) > 1 else f"{found[0][1]:.4f}"
    yield f"inherit, {options.seeds} searches, within rounds", spread(taus), saved, shown


if __name__ == "__main__":
    sys.exit(main())
