"""The same search by a plain KerasTuner loop and by ours: wall time, and where it goes.

    python benchmarks/search_speed.py digits
    python benchmarks/search_speed.py cifar10 --data-dir DIR --rounds 2 --candidates 2
    python benchmarks/search_speed.py text --data-dir DIR --only a --rounds 1 --candidates 2
    KERAS_BACKEND=jax python benchmarks/search_speed.py proxy.npz --only b --runs 1

(a) is a plain `keras_tuner.Tuner` with our oracle: it builds, compiles and fits each candidate,
and saves its weights whenever an epoch is the best so far. (b) is `AutoShrink`. Both train the
same candidates on the same data, from the same weights, in the same order; the trajectories are
compared. Each search runs in a process of its own, (a) and (b) by turns. The time is that of the
search, without the import of TensorFlow. Recurrent cells share no graph: of a text there is (a).

training  an epoch is under way, and its validation (any candidate's, where several train at once)
tracing   a program is made; what a candidate's first epoch takes longer than its others
building  networks, optimizers, initial weights
saving    files, as far as nothing is trained meanwhile
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
from search_clock import KINDS, Clock, watched


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
    parser.add_argument("--epochs", type=int, help="default: 10 for digits and text, else 20")
    parser.add_argument("--candidates", type=int, default=10, help="of a round, at most")
    parser.add_argument("--nodes", type=int, help="default: 5 for digits, 6 for text, else 8")
    parser.add_argument("--only", choices=("a", "b"), help="only one of the two")
    parser.add_argument("--threads", type=int, help="of (b), at most; default: as it does")
    parser.add_argument("--one", choices=("a", "b"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (10 if options.task in ("digits", "text") else 20)
    options.nodes = options.nodes or {"digits": 5, "text": 6}.get(options.task, 8)
    if options.task == "text" and options.only != "a" and options.one != "a":
        parser.error("text: give --only a; candidates of a text are built one by one in both")
    if options.one:
        print(json.dumps(one_search(options)))
        return 0
    given = sys.argv[1:] if arguments is None else list(arguments)
    sides = options.only or "ab"
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(options.runs):
        for side in sides:
            command = [sys.executable, __file__, *given, "--one", side]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"({side}) {results[side][-1]['wall']:.1f} s", flush=True)
    found = [result["trajectory"] for runs in results.values() for result in runs]
    same = all(trajectory == found[0] for trajectory in found)
    show(options, results, same)
    return 0 if same else 1


def show(options: argparse.Namespace, results: dict[str, list[dict[str, Any]]], same: bool) -> None:
    """Prints the table."""
    trained = next(iter(results.values()))[0]["trained"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{options.task}, {options.nodes} nodes, {trained} candidates of at most "
        f"{options.epochs} epochs, {os.cpu_count()} CPUs; median (range) of {options.runs} runs",
        caption="the same trajectory every time" if same else "THE TRAJECTORIES DIFFER",
    )
    for heading in ("", "seconds", "a candidate", *KINDS, "other"):
        table.add_column(heading, justify="right" if heading else "left")
    names = {"a": "(a) plain KerasTuner", "b": "(b) AutoShrink"}
    for side, runs in results.items():
        walls = [run["wall"] for run in runs]
        shares = [_spread([run[kind] / run["wall"] for run in runs], "{:.0%}") for kind in KINDS]
        other = [1 - sum(run[kind] for kind in KINDS) / run["wall"] for run in runs]
        table.add_row(
            names[side],
            _spread(walls, "{:.1f}"),
            f"{statistics.median(walls) / trained:.2f} s",
            *shares,
            _spread(other, "{:.0%}"),
        )
    console = Console(width=150, highlight=False)
    console.print(table)
    if len(results) == 2:
        pairs = zip(results["a"], results["b"], strict=True)
        ratios = [a["wall"] / b["wall"] for a, b in pairs]
        console.print(f"(a) / (b), by pairs: {_spread(ratios, '{:.2f}')}")


def _spread(values: list[float], form: str) -> str:
    ends = " to ".join(form.format(value) for value in (min(values), max(values)))
    return f"{form.format(statistics.median(values))} ({ends})"


def one_search(options: argparse.Namespace) -> dict[str, Any]:
    """Searches, and says how long what took."""
    import keras_autoshrink as kas
    from keras_autoshrink import masked_search

    hypermodel, data = proxy(options)
    keep = 0.01
    if options.rounds is not None:
        edges = len(hypermodel.cell.edges)
        keep = max(edges - options.rounds, 1) / edges
    settings = {
        "strategy": "paper",
        "num_candidates": options.candidates,
        "keep_fraction": keep,
        "seed": 0,
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        place = {"directory": directory, "project_name": "search"}
        if options.one == "a":
            tuner = plain_tuner(hypermodel, settings, place, clock)
        else:
            if options.threads:
                masked_search._MOST_THREADS = options.threads
            tuner = kas.AutoShrink(hypermodel, **settings, **place)
        with watched(clock, hypermodel, options.one == "a"):
            started = time.monotonic()
            tuner.search(**data, epochs=options.epochs, verbose=0)
            wall = time.monotonic() - started
        search = tuner.oracle.search
        records = [
            (r["removed_edge"], r["score"], r["objective"], r["macs"]) for r in search.trajectory()
        ]
        return {
            "wall": wall,
            "trained": len(tuner.oracle.trials),
            "trajectory": records,
            **clock.seconds(),
        }


def proxy(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """What makes and trains candidates, and what `search` is given of data."""
    import keras_autoshrink as kas
    from keras_autoshrink.data.images import load_images
    from keras_autoshrink.data.text import load_text

    if options.task == "text":
        text = load_text(options.data_dir, purpose="search")
        hypermodel = kas.RNNCellHyperModel(len(text.vocabulary), num_nodes=options.nodes)
        return hypermodel, {"x": text.train, "validation_data": text.validation}
    images = load_images(options.task, purpose="search", data_dir=options.data_dir)
    hypermodel = kas.CNNCellHyperModel(
        input_shape=images.input_shape,
        classes=len(images.class_names),
        num_nodes=options.nodes,
    )
    train, validation = images.train, images.validation
    return hypermodel, {
        "x": train.x,
        "y": train.y,
        "validation_data": (validation.x, validation.y),
    }


def plain_tuner(hypermodel: Any, settings: Any, place: Any, clock: Clock) -> Any:
    """A `keras_tuner.Tuner` as its documentation has it, but for the seed of each candidate."""
    import keras
    import keras_tuner

    import keras_autoshrink as kas
    from keras_autoshrink.hypermodels.callbacks import ScoreCallback
    from keras_autoshrink.hypermodels.seeding import training_seed

    score = getattr(hypermodel, "default_score", kas.AccuracyScore())

    class Plain(keras_tuner.Tuner):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            keras.utils.set_random_seed(training_seed(0, self.oracle.cell_of(trial)))
            callbacks = [clock.callback(), ScoreCallback(score, {})]
            return super().run_trial(trial, *args, **{**kwargs, "callbacks": callbacks})

    oracle = kas.AutoShrinkOracle(metric=score.objective, **settings)
    return Plain(oracle, hypermodel, **place)


if __name__ == "__main__":
    sys.exit(main())
