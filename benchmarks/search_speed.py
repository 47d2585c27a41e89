"""The same search by a plain KerasTuner loop and by `AutoShrink`: seconds, and one trajectory.

    python benchmarks/search_speed.py digits
    python benchmarks/search_speed.py cifar10 --data-dir DIR --rounds 2 --candidates 2
    python benchmarks/search_speed.py text --data-dir DIR --rounds 1 --candidates 2

The plain loop is a `keras_tuner.Tuner` with our oracle: it builds, compiles and fits each
candidate, and saves its weights whenever an epoch is the best so far. Both train the same
candidates on the same data, from the same weights, in the same order. Each search runs in a
process of its own, the two by turns. The time is that of the search, without the import of
TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

SEARCHES = ("KerasTuner", "AutoShrink")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if two trajectories differ."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/search_speed.py digits --runs 5",
    )
    parser.add_argument("task", help="digits, cifar10, an .npz file (see load_images), or text")
    parser.add_argument("--data-dir", help="of tensorflow_datasets, for cifar10; of a text's files")
    parser.add_argument("--runs", type=int, default=5, help="of each of the two")
    parser.add_argument("--rounds", type=int, help="stop after so many rounds after round 0")
    parser.add_argument("--epochs", type=int, default=10, help="of a candidate, at most")
    parser.add_argument("--candidates", type=int, default=10, help="of a round, at most")
    parser.add_argument("--nodes", type=int, default=5, help="of the complete cell")
    parser.add_argument("--searches", choices=SEARCHES, nargs="+", default=SEARCHES)
    parser.add_argument("--one", choices=SEARCHES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(one_search(options)))
        return 0
    given = sys.argv[1:] if arguments is None else list(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in options.searches}
    found = []
    for _ in range(options.runs):
        for name in options.searches:
            command = [sys.executable, __file__, *given, "--one", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            seconds[name].append(result["seconds"])
            found.append(result["trajectory"])
    same = all(trajectory == found[0] for trajectory in found)
    trained = result["trained"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{options.task}, {options.nodes} nodes, {trained} candidates of at most "
        f"{options.epochs} epochs, {os.cpu_count()} CPUs; median (range) of {options.runs} runs",
        caption="the same trajectory every time" if same else "THE TRAJECTORIES DIFFER",
    )
    for heading in ("", "seconds", "a candidate"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, walls in seconds.items():
        median = statistics.median(walls)
        spread = f"{median:.1f} ({min(walls):.1f} to {max(walls):.1f})"
        table.add_row(name, spread, f"{median / trained:.2f} s")
    Console(width=120, highlight=False).print(table)
    return 0 if same else 1


def one_search(options: argparse.Namespace) -> dict[str, Any]:
    """Searches, and says how long that took and what it came to."""
    import keras_autoshrink as kas

    if options.task == "text":
        text = kas.load_text(options.data_dir, purpose="search")
        hypermodel = kas.RNNCellHyperModel(len(text.vocabulary), num_nodes=options.nodes)
        data = {"x": text.train, "validation_data": text.validation}
    else:
        images = kas.load_images(options.task, purpose="search", data_dir=options.data_dir)
        hypermodel = kas.CNNCellHyperModel(
            images.input_shape, len(images.class_names), num_nodes=options.nodes
        )
        validation = (images.validation.x, images.validation.y)
        data = {"x": images.train.x, "y": images.train.y, "validation_data": validation}
    settings: dict[str, Any] = {"strategy": "paper", "num_candidates": options.candidates}
    if options.rounds is not None:
        edges = len(hypermodel.cell.edges)
        settings["keep_fraction"] = max(edges - options.rounds, 1) / edges
    with tempfile.TemporaryDirectory() as folder:
        place = {"directory": folder, "project_name": "search"}
        make = plain_tuner if options.one == "KerasTuner" else kas.AutoShrink
        tuner = make(hypermodel, **settings, **place)
        started = time.monotonic()
        tuner.search(**data, epochs=options.epochs, verbose=0)
        seconds = time.monotonic() - started
    names = ("removed_edge", "score", "objective", "macs")
    records = tuner.oracle.search.trajectory()
    return {
        "seconds": seconds,
        "trained": len(tuner.oracle.trials),
        "trajectory": [[record[name] for name in names] for record in records],
    }


def plain_tuner(hypermodel: Any, directory: str, project_name: str, **settings: Any) -> Any:
    """Makes a `keras_tuner.Tuner` as its documentation has it, but for each candidate's seed."""
    import keras
    import keras_tuner

    import keras_autoshrink as kas
    from keras_autoshrink.hypermodels.callbacks import ScoreCallback
    from keras_autoshrink.hypermodels.seeding import training_seed
    from keras_autoshrink.tuner.costs import count_costs

    score = getattr(hypermodel, "default_score", kas.AccuracyScore())

    class Plain(keras_tuner.Tuner):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            keras.utils.set_random_seed(training_seed(0, self.oracle.cell_of(trial)))
            callbacks = [ScoreCallback(score, {}, count_costs)]
            return super().run_trial(trial, *args, **{**kwargs, "callbacks": callbacks})

    oracle = kas.AutoShrinkOracle(metric=score.objective, **settings)
    return Plain(oracle, hypermodel, directory=directory, project_name=project_name)


if __name__ == "__main__":
    sys.exit(main())
