"""Kills searches with SIGKILL and has them go on: does each end as one that was left alone?

A search is a process of its own on scikit-learn's digits. Some are killed at a moment drawn
from the time that an undisturbed one takes; others kill themselves while they write a file:
with half of it written, or whole but under its temporary name, or right after it took its name.
Each then goes on, in a new process, to its end.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    import keras_autoshrink as kas
    from keras_autoshrink import files
    from keras_autoshrink.commands.arguments import count
    from keras_autoshrink.report import saved_search
    from keras_autoshrink.tuner.tuner import AutoShrink

IN_A_WRITE = ("half written", "not renamed yet", "just renamed")

# Each process is a copy of this one, which has imported all and computed nothing.
_processes = multiprocessing.get_context("fork")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if a search ended otherwise than the undisturbed one."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/kills.py --moments 40 --writes 30",
    )
    parser.add_argument("--moments", type=int, default=40, help="kills at random moments")
    parser.add_argument("--writes", type=int, default=30, help="kills while a file is written")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the writes")
    parser.add_argument("--target-macs", type=count, help="search at this budget, with a final")
    options = parser.parse_args(arguments)
    run = functools.partial(_run, options.target_macs)
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        seconds = run(whole)
        expected = trajectory(whole)
        writes = _run_counting_writes(run, Path(folder, "counted"))
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} rounds, {writes} files written")
        rows: dict[str, list[tuple[bool, float]]] = {}
        for number in range(options.moments):
            moment = generator.random() * seconds
            place = Path(folder, f"moment-{number}")
            rows.setdefault("at a random moment", []).append(
                _killed(run, place, expected, after=moment)
            )
        for number in range(options.writes):
            how = IN_A_WRITE[number % len(IN_A_WRITE)]
            write = generator.randrange(writes)
            place = Path(folder, f"write-{number}")
            rows.setdefault(f"in a write: {how}", []).append(
                _killed(run, place, expected, before=lambda h=how, w=write: die_writing(h, w))
            )
    table = Table(title="searches killed once, and gone on", box=box.SIMPLE)
    for heading in ("killed", "searches", "same trajectory", "seconds more, median", "most"):
        table.add_column(heading, justify="left" if heading == "killed" else "right")
    for killed, results in rows.items():
        more = [taken - seconds for _, taken in results]
        table.add_row(
            killed,
            f"{len(results)}",
            f"{sum(same for same, _ in results)}",
            f"{statistics.median(more):.1f}",
            f"{max(more):.1f}",
        )
    Console(width=100).print(table)
    return 0 if all(same for results in rows.values() for same, _ in results) else 1


def search(folder: Path, target_macs: int | None) -> None:
    """Runs or goes on with the search in a folder, in this process."""
    from sklearn.datasets import load_digits

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each candidate is traced anew
    digits = load_digits()
    x, y = (digits.images[..., None] / 16).astype(np.float32), digits.target
    place = {"directory": folder.parent, "project_name": folder.name}
    if target_macs is None:
        hypermodel = kas.CNNCellHyperModel(
            input_shape=(8, 8, 1),
            num_nodes=3,
            filters=4,
            stem_filters=4,
            stage_scales=(1,),
            stage_strides=(1,),
            stage_repeats=(1,),
        )
        tuner = AutoShrink(hypermodel, num_candidates=2, strategy="paper", **place)
    else:
        hypermodel = kas.CNNCellHyperModel((8, 8, 1), num_nodes=3, target_macs=target_macs)
        tuner = AutoShrink(hypermodel, num_candidates=4, max_candidates=24, **place)
    epochs = 1 if target_macs is None else 2
    validation = (x[512:768], y[512:768])
    tuner.search(x[:512], y[:512], validation_data=validation, epochs=epochs, verbose=0)


def trajectory(folder: Path) -> list[dict[str, Any]]:
    """Reads what a search in a folder came to, but for the seconds that it took, and its final.

    Which trial trained what depends on who asked first, where candidates train side by side.
    """
    found = saved_search.read_search(folder)
    if not found.done:
        raise ValueError(f"{folder}: the search has not ended")
    records = found.trajectory()
    for record in [*records, *(c for r in records for c in r["candidates"])]:
        del record["seconds"]
        record.pop("trial_id", None)
    return [*records, *({**each, "trial_ids": None} for each in found.final())]


def die_writing(how: str, number: int) -> None:
    """Makes this process kill itself in its write of this number, counted from 0.

    Args:
        how: one of `IN_A_WRITE`.
        number: of the write.
    """
    left = iter(range(number, -1, -1))
    last = how == "just renamed"
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        if not last and next(left) == 0:
            if how == "half written":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(path: Path, target: Path) -> None:
        real_replace(path, target)
        if last and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync, Path.replace = sync, replace  # type: ignore[method-assign, assignment]


def _killed(
    run: Callable[..., float],
    folder: Path,
    expected: list[dict[str, Any]],
    after: float | None = None,
    before: Callable[[], None] | None = None,
) -> tuple[bool, float]:
    """Kills a search once; returns whether it then ends as expected, and all its seconds."""
    taken = run(folder, after, before)
    taken += run(folder)
    return trajectory(folder) == expected, taken


def _run(
    target_macs: int | None,
    folder: Path,
    kill_after: float | None = None,
    before: Callable[[], None] | None = None,
) -> float:
    """Runs a search in a process of its own, which may be killed; returns its seconds."""

    def target() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if before is not None:
            before()
        search(folder, target_macs)

    started = time.monotonic()
    process = _processes.Process(target=target)
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{folder}: the search failed")
    return time.monotonic() - started


def _run_counting_writes(run: Callable[..., float], folder: Path) -> int:
    """Counts the files that an undisturbed search writes."""
    count = folder.with_suffix(".count")

    def before() -> None:
        real, done = files.write_text, []

        def write_text(path: Path, text: str) -> None:
            real(path, text)
            done.append(path)
            count.write_text(json.dumps(len(done)))

        files.write_text = write_text

    run(folder, before=before)
    return int(json.loads(count.read_text()))


if __name__ == "__main__":
    sys.exit(main())
