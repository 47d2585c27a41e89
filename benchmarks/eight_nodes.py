"""What searches find among the networks of 8 nodes, too many for a table of all.

    python benchmarks/eight_nodes.py digits --seeds 5
    python benchmarks/eight_nodes.py cifar10 --data-dir DIR --seeds 3 --counts 20 30

The contestants of `search_quality.py` search the complete DAG of 8 nodes (28 edges) on the tasks
of `quality_training.py`. A network is trained when a search first asks for it, as there: to the
end. Which of three training seeds a search sees of a network is drawn by the search's own seed,
alike for all methods, so that they share trainings. Nobody knows the best network: what counts is
the true score of the network that a search would return, the mean of three training seeds that no
search sees. Trainings are kept in a cache, results in a JSON file; a run that was cut off goes on
from both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import search_quality
from quality_contestants import spend
from quality_networks import Space, SpentError
from quality_training import EPOCHS, SEEDS, Trainings
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import sem

from keras_autoshrink.cell import Cell
from keras_autoshrink.score import AccuracyScore

# Those that train whole networks and choose the next one faster than it trains.
METHODS = (
    "random networks",
    "AutoShrink paper, k=5",
    "AutoShrink paper, k=10",
    "AutoShrink bayesian, k=5",
    "AutoShrink bayesian, k=10",
    "regularised evolution",
    "local search, first better",
    "KerasTuner RandomSearch",
)
SCORE = AccuracyScore()
NODES = 8
_UNSEEN = range(SEEDS, 2 * SEEDS)  # training seeds of the true score
_HERE = Path(__file__).parent

# Of each method by its name, of each search by its seed as text, what it would return after so
# many trained networks, the number as text.
Results = dict[str, dict[str, dict[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Does the searches that are missing, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=EPOCHS)
    parser.add_argument("--data-dir", help="of tensorflow-datasets, for cifar10")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind")
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 30, 40], help="of networks")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=METHODS, default=METHODS)
    parser.add_argument("--against", metavar="NAME", choices=METHODS, default=METHODS[0])
    parser.add_argument("--cache", type=Path, metavar="FILE", help="default: TASK_8.lines")
    parser.add_argument("--json", type=Path, metavar="FILE", default=_HERE / "eight_nodes.json")
    options = parser.parse_args(arguments)
    known = json.loads(options.json.read_text()) if options.json.exists() else {}
    results = known.setdefault(options.task, {})
    console = Console(width=150, highlight=False)
    # Seed by seed: what there is halfway has as many searches of each.
    missing = [
        (name, seed)
        for seed in range(options.seeds)
        for name in options.only
        if not {*map(str, options.counts)} <= {*results.get(name, {}).get(str(seed), ())}
    ]
    for name, seed, found in _found(missing, options) if missing else ():
        results.setdefault(name, {}).setdefault(str(seed), {}).update(found)
        options.json.write_text(json.dumps(known) + "\n", encoding="utf-8")
        scores = ", ".join(f"{count}: {true_score(each):.4f}" for count, each in found.items())
        console.print(f"{name}, seed {seed}: {scores}")
    console.print(_table(options.task, results, options.counts, options.against))
    return 0


class Untrained(Space):
    """The networks of a complete DAG, which nobody has listed.

    Args:
        trainings: of these networks.
    """

    def __init__(self, trainings: Trainings) -> None:
        super().__init__(trainings.hypermodel.cell.ops)
        self._trainings = trainings

    def count_macs(self, cell: Cell) -> int:
        """Counts a network's multiply-accumulates for one image."""
        return self._trainings.costs(cell)[0]

    def draw(self, generator: random.Random, count: int | None = None) -> Iterator[Cell]:
        """Draws so many distinct networks, by default without end.

        All numbers of edges are equally likely, as they are where "bayesian" begins, until dead
        edges go. Were all networks equally likely, nearly all would have about half of the edges,
        and random networks would never meet the small ones that score best.
        """
        drawn: set[str] = set()
        edges = self.dense.edges
        while count is None or len(drawn) < count:
            size = generator.randint(1, len(edges))
            part = generator.sample(edges, size)
            while all(i > 0 for i, _ in part):
                part = generator.sample(edges, size)
            cell = Cell(self.dense.ops, tuple(part))
            if cell.key not in drawn:
                drawn.add(cell.key)
                yield Cell(self.dense.ops, cell.live_edges)


class Session:
    """The trainings of one search, up to its budget.

    Attributes:
        seen: of each network by its key, the score that the search has seen.
        answers: the networks that it would have returned after each training: the best seen.

    Args:
        networks: the space.
        score: of a network.
        budget: how many networks it may train.
    """

    def __init__(self, networks: Space, score: Callable[[Cell], float], budget: int) -> None:
        self.networks, self._score, self._budget = networks, score, budget
        self.seen: dict[str, float] = {}
        self.answers: list[Cell] = []

    def train(self, cell: Cell) -> float:
        """Returns the score of a network; one of before is free."""
        if cell.key not in self.seen:
            if len(self.seen) == self._budget:
                raise SpentError
            best = max(self.seen.values(), default=float("-inf"))
            self.seen[cell.key] = self._score(cell)
            self.answers.append(cell if self.seen[cell.key] > best else self.answers[-1])
        return self.seen[cell.key]


def true_score(answer: dict[str, Any]) -> float:
    """Takes the mean over the training seeds that the search did not see."""
    return statistics.mean(
        SCORE({"val_accuracy": accuracy}, answer["macs"]) for accuracy in answer["accuracies"]
    )


def _found(
    jobs: Sequence[tuple[str, int]], options: argparse.Namespace
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Searches, and yields what each search found as it ends."""
    cache = options.cache or _HERE / f"{options.task}_8.lines"
    trainings = Trainings(options.task, options.data_dir, NODES, cache)
    space = Untrained(trainings)
    contestants = search_quality.searches(trainings.epochs, max(options.counts))

    def accuracy(cell: Cell, seed: int) -> float:
        return max(trainings.accuracies(cell, seed))

    for name, seed in jobs:

        def score(cell: Cell, seed: int = seed) -> float:
            drawn = random.Random(f"session/{seed}/{cell.key}").randrange(SEEDS)
            return SCORE({"val_accuracy": accuracy(cell, drawn)}, space.count_macs(cell))

        session = Session(space, score, max(options.counts))
        spend(contestants[name], session, seed)
        found = {}
        for count in options.counts:
            cell = session.answers[:count][-1]
            found[str(count)] = {
                "edges": cell.edges,
                "macs": space.count_macs(cell),
                "seen": round(session.seen[cell.key], 4),
                "accuracies": [accuracy(cell, unseen) for unseen in _UNSEEN],
            }
        yield name, seed, found


def _table(task: str, results: Results, counts: Sequence[int], against: str) -> Table:
    """Makes the table of mean true scores, compared with another method's seed by seed."""
    table = Table(
        box=box.MARKDOWN,
        title=f"{task}, {NODES} nodes: mean true score (sd between searches), and what it is above "
        f'that of "{against}" ± its standard error',
    )
    for heading in ("search", "n", *(f"{count} trained" for count in counts)):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for name in filter(results.__contains__, METHODS):
        searches, cells = results[name], []
        for count in map(str, counts):
            scores = _scores(searches, count)
            other = _scores(results.get(against, {}), count)
            text = f"{statistics.mean(scores.values()):.4f}"
            if len(scores) > 1:
                text += f" ({statistics.stdev(scores.values()):.4f})"
            both = [scores[seed] - other[seed] for seed in scores.keys() & other.keys()]
            if name != against and len(both) > 1:
                text += f", {statistics.mean(both):+.4f} ± {sem(both):.4f}"
            cells.append(text)
        table.add_row(name, str(len(searches)), *cells)
    return table


def _scores(searches: dict[str, dict[str, Any]], count: str) -> dict[str, float]:
    """Maps the seed of each search to its true score."""
    return {seed: true_score(found[count]) for seed, found in searches.items() if count in found}


if __name__ == "__main__":
    sys.exit(main())
