"""Cuts a search's files off after every possible length: is the search recovered, or refused?

A search is stopped in its middle. Of a copy of its folder one file keeps its first n bytes, for
each n; then the search goes on there. It has to end as the one that was left alone, or has to
be refused with the file's name, before anything in the folder has changed. Nothing is trained:
a network's result is computed from its cell, for this is about files.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    import keras_tuner

    import keras_autoshrink as kas

_OPS = ("input", "sepconv3x3", "conv1x1", "sepconv3x3")
_PROJECT = "search"

# The file of the search, that of a trial which has ended, and that of the one under way.
FILES = ("oracle.json", "trial_0002/trial.json", "trial_0004/trial.json")
_STOP_AT = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if a search was lost or misread."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="example: python benchmarks/torn_files.py"
    )
    parser.add_argument("--step", type=int, default=1, help="try every n-th length only")
    options = parser.parse_args(arguments)
    logging.getLogger("keras_autoshrink").setLevel(logging.ERROR)  # it tells of each recovery
    table = Table(title="a file cut off", box=box.SIMPLE)
    for heading in ("file", "lengths", "recovered", "refused by name", "lost or misread"):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        torn = TornFiles(Path(folder))
        for name in FILES:
            lengths = range(0, torn.size(name), options.step)
            outcomes = Counter(torn.outcome(name, n) for n in track(lengths, name, transient=True))
            lost += outcomes["lost"]
            counts = [outcomes[outcome] for outcome in ("recovered", "refused", "lost")]
            table.add_row(name, f"{len(lengths):,}", *(f"{count:,}" for count in counts))
    Console(width=100).print(table)
    return 1 if lost else 0


class TornFiles:
    """A search that was stopped in its middle, to be damaged again and again.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        whole = _tuner(folder / "whole")
        _search(whole)
        self.expected = whole.oracle.search.trajectory()
        with contextlib.suppress(KeyboardInterrupt):
            _search(_tuner(folder / "stopped", stop_at=_STOP_AT))

    def size(self, name: str) -> int:
        """Returns the length of a file, in bytes."""
        return (self.folder / "stopped" / _PROJECT / name).stat().st_size

    def outcome(self, name: str, length: int) -> str:
        """Runs the search with so many bytes of this file, and says what comes of it.

        Returns:
            `"recovered"`, `"refused"` or `"lost"`.
        """
        copy = self.folder / "torn"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / "stopped", copy)
        os.truncate(copy / _PROJECT / name, length)
        before = _contents(copy)
        try:
            tuner = _tuner(copy)
            _search(tuner)
        except ValueError as error:
            named = str(copy / _PROJECT / name) in str(error)
            return "refused" if named and _contents(copy) == before else "lost"
        same = without_ids(tuner.oracle.search.trajectory()) == without_ids(self.expected)
        # The trials that had ended are not run again, but for one whose file is torn.
        enough = len(tuner.ran) <= len(self.expected_trials()) - _STOP_AT + 1
        return "recovered" if same and enough else "lost"

    def expected_trials(self) -> set[str]:
        """Returns the trials of the undisturbed search."""
        return {c["trial_id"] for record in self.expected for c in record["candidates"]}


class _Computes(keras_tuner.Tuner):
    """Computes a result in the place of a training, and can be stopped."""

    def __init__(self, *args: Any, stop_at: int | None = None, **kwargs: Any) -> None:
        self.ran: list[str] = []
        self.stop_at = stop_at
        super().__init__(*args, **kwargs)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Computes a number that follows from the cell."""
        if len(self.ran) == self.stop_at:
            raise KeyboardInterrupt
        cell = self.oracle.cell_of(trial)
        self.ran.append(trial.trial_id)
        return {"accuracy": random.Random(cell.key).random()}


def _tuner(folder: Path, stop_at: int | None = None) -> _Computes:
    def build(hp: keras_tuner.HyperParameters) -> kas.Cell:
        return kas.declare_cell(hp, kas.Cell.dense(_OPS))

    oracle = kas.AutoShrinkOracle(
        keras_tuner.Objective("accuracy", "max"), num_candidates=3, strategy="paper"
    )
    with native_output_silenced():  # KerasTuner tells that it reloads
        return _Computes(oracle, build, directory=folder, project_name=_PROJECT, stop_at=stop_at)


def _search(tuner: _Computes) -> None:
    tuner.search(verbose=0)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_ids(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drops the numbers of trials from a trajectory: one that is trained again gets another."""
    candidates = [
        [{name: c[name] for name in c if name != "trial_id"} for c in record["candidates"]]
        for record in records
    ]
    return [{**r, "candidates": c} for r, c in zip(records, candidates, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
