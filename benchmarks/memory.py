"""The memory and disk that a long search takes: AutoShrink beside KerasTuner's RandomSearch.

Both search over the same cells on the same few images of scikit-learn's digits, each in a fresh
process, one after the other, AutoShrink with `--workers` others. Memory is the proportional set
size of all of them at the end of a trial (Linux counts a page that several share once); it swings
by some percent from one trial to the next, so that the median of ten is shown.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

SEARCHES = ("AutoShrink", "RandomSearch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/memory.py --trials 300"
    )
    parser.add_argument("--trials", type=int, default=300, help="of each search; 2 or more")
    parser.add_argument("--nodes", type=int, default=8, help="of the complete DAG")
    parser.add_argument("--candidates", type=int, default=24, help="AutoShrink's, in a round")
    parser.add_argument("--images", type=int, default=128, help="for training, and for validation")
    parser.add_argument("--workers", type=int, default=1, help="AutoShrink's; 1 for none")
    parser.add_argument("--searches", choices=SEARCHES, nargs="+", default=SEARCHES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of every trial")
    options = parser.parse_args(arguments)
    if options.trials < 2:
        parser.error(f"--trials {options.trials}: expected 2 or more")
    if not 1 <= options.images <= 898:
        parser.error(f"--images {options.images}: expected 1 to 898, half of what there are")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist")
    figures: dict[str, list[dict[str, float]]] = {}
    for name in options.searches:
        # A process that has searched already would hold what that search left.
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
            try:
                figures[name] = process.submit(_search, name, options).result()
            except ValueError as error:
                parser.error(str(error))
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        if len(figures[name]) < options.trials:
            parser.error(
                f"{name} ended after {len(figures[name])} of {options.trials} trials; "
                "give it more --nodes or --candidates"
            )
    Console(width=100, highlight=False).print(*_tables(figures, options.trials))
    return 0


def _search(name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Measures what one search takes after each of its trials, in a process of its own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    from tflite_export.runtime import native_output_silenced

    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import keras_tuner
        from sklearn.datasets import load_digits

        import keras_autoshrink as kas

        tuner_class = {"AutoShrink": kas.AutoShrink, "RandomSearch": keras_tuner.RandomSearch}[name]
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each new network
    taken: list[dict[str, float]] = []
    started = time.monotonic()

    class Measured(tuner_class):
        """The tuner, which also notes what it takes."""

        def on_trial_end(self, trial: Any) -> None:
            during = len(_checkpoints(self.project_dir))
            super().on_trial_end(trial)
            checkpoints = _checkpoints(self.project_dir)
            taken.append(
                {
                    "memory": _memory(),
                    "disk": sum(_sizes(self.project_dir, "*")),
                    "checkpoint": max(checkpoints, default=0),
                    "checkpoints": len(checkpoints),
                    "checkpoints_at_once": during,
                    "seconds": time.monotonic() - started,
                }
            )
            if len(taken) % 10 == 0:
                print(
                    f"{name}: trial {len(taken)}, {taken[-1]['memory'] / 1e6:,.0f} MB", flush=True
                )
            if len(taken) == options.trials:
                raise _EnoughTrials

    if name == "AutoShrink":
        settings = {
            "score": costliest,
            "num_candidates": options.candidates,
            "seed": 0,
            "strategy": "paper",
            "workers": options.workers,
        }
    else:
        settings = {"objective": "val_accuracy", "max_trials": options.trials, "seed": 1}
    hypermodel = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        num_nodes=options.nodes,
        filters=4,
        stem_filters=4,
        stage_scales=(1,),
        stage_strides=(1,),
        stage_repeats=(1,),
        batch_size=32,
    )
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    ends = (0, options.images, 2 * options.images)
    parts = [(x[start:end], y[start:end]) for start, end in itertools.pairwise(ends)]
    with tempfile.TemporaryDirectory() as directory:
        tuner = Measured(hypermodel, directory=directory, project_name="search", **settings)
        with contextlib.suppress(_EnoughTrials):
            tuner.search(*parts[0], validation_data=parts[1], verbose=0)
    return taken


def costliest(logs: dict[str, float], macs: int) -> float:
    """Scores the largest network best, so that a search takes most trials to its end."""
    return float(macs)


def _memory() -> int:
    """Returns the bytes that this process and those that it has started take."""
    process = psutil.Process()
    processes = (process, *process.children(recursive=True))
    return sum(each.memory_full_info().pss for each in processes)


class _EnoughTrials(Exception):  # noqa: N818 - no error: AutoShrink has no limit of trials
    pass


def _checkpoints(directory: str | Path) -> list[int]:
    return _sizes(directory, "checkpoint.weights.*")


def _sizes(directory: str | Path, pattern: str) -> list[int]:
    """Returns the sizes of all files of a pattern in a folder and below it, in bytes."""
    return [path.stat().st_size for path in Path(directory).rglob(pattern) if path.is_file()]


def _tables(figures: dict[str, list[dict[str, float]]], trials: int) -> list[Table]:
    """Makes the tables of memory, disk and time as the number of trials grows."""
    marks = sorted({max(1, trials * part // 30) for part in (3, 10, 20, 30)})
    first, last = marks[0], marks[-1]
    memory = _empty("memory, MB", [f"after {mark}" for mark in marks], f"{last} / {first}")
    disk = _empty(
        "the project's folder, kB",
        [f"after {first}", f"after {last}"],
        "one checkpoint",
        f"checkpoints after {last}",
        "most at once",
    )
    speed = _empty("seconds per trial", [f"first {first}", f"last {first}"], "all")
    for name, taken in figures.items():
        at = {mark: taken[mark - 1] for mark in marks}
        memory_at = {
            mark: statistics.median(trial["memory"] for trial in taken[max(0, mark - 10) : mark])
            for mark in marks
        }
        memory.add_row(
            name,
            *(f"{memory_at[mark] / 1e6:,.0f}" for mark in marks),
            f"{memory_at[last] / memory_at[first]:.3f}",
        )
        disk.add_row(
            name,
            *(f"{at[mark]['disk'] / 1e3:,.0f}" for mark in (first, last)),
            f"{max(trial['checkpoint'] for trial in taken) / 1e3:,.0f}",
            f"{at[last]['checkpoints']:.0f}",
            f"{max(trial['checkpoints_at_once'] for trial in taken):.0f}",
        )
        ends = [0.0, *(trial["seconds"] for trial in taken)]
        spans = ((0, first), (last - first, last), (0, last))
        speed.add_row(
            name, *(f"{(ends[end] - ends[start]) / (end - start):.2f}" for start, end in spans)
        )
    return [memory, disk, speed]


def _empty(title: str, columns: list[str], *more: str) -> Table:
    table = Table("", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in (*columns, *more):
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    sys.exit(main())
