"""The command `autoshrink design`: from images and a budget to a checked file, in one go."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import files
from keras_autoshrink.commands import images, pipeline
from keras_autoshrink.commands.arguments import PROGRAM
from keras_autoshrink.report import page, saved_search
from keras_autoshrink.report.charts import networks
from keras_autoshrink.report.quantities import Record
from keras_autoshrink.tuner.tuner import FOUND
from tflite_export.command_line import still_at_work

RECORD = "run.json"  # the command, and what came of it
_SEARCH = "search"  # its folder, in that of the design
_MINUTES = 30.0  # of the search, unless it is said
# Accuracy that a smaller file may cost.
_MAX_DROP = 0.01

_console = Console(soft_wrap=True, highlight=False, markup=False)


@dataclasses.dataclass(frozen=True)
class Designed:
    """A network that was trained in full, and its file.

    Attributes:
        name: "found", or that of the reference.
        check: of the file.
        params: of the network.
        right: whether the network tells the class of each test image, bool of shape (n,).
    """

    name: str
    check: tflite_export.Check
    params: int
    right: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> tuple[float, float]:
        """The network's accuracy, and its standard error over images like these."""
        return _mean(self.right.astype(float))


def design(options: argparse.Namespace) -> int:
    """Searches at a budget, trains what was found and the best reference, exports, compares.

    Each step is a command of its own, which goes on where it was interrupted.

    Returns:
        The exit status: 1 if a file is not as its model, or none is as accurate.

    Raises:
        ValueError: as the commands: the folder holds another search, say.
    """
    began = time.monotonic()
    folder: Path = options.output
    again = ["--overwrite"] if options.overwrite else []

    _console.rule("1. The search")
    data = ["--dataset", options.data, *_given(options, "data_dir", "image_size")]
    data += ["--strict"] if options.strict else []
    target = _given(options, "target_macs", "target_params", "target_kb", "target_latency_ms")
    if options.target_latency_ms:
        target += ["--latency-of", "int8"]  # the file that is going to be shipped
    if not options.max_candidates:
        options.minutes = options.minutes or _MINUTES
    length = _given(options, "minutes", "max_candidates", "epochs", "seed")
    place = ["--directory", str(folder), "--project-name", _SEARCH]
    images.search(pipeline.command("search", *data, *target, *length, *place, *again))

    _console.rule("2. Training in full, of what was found and of the best reference")
    chosen = _networks(folder / _SEARCH)
    for name, path in chosen.items():
        output = ["--output", str(folder / f"{name}.keras"), "--quiet"]
        where = _given(options, "data_dir", "seed")
        train = pipeline.command("train", str(path), *output, *where, *again)
        with still_at_work(PROGRAM, f"training {name}"):
            images.train(train, saved_search.read_network(path))

    _console.rule("3. The files, checked")
    designed: list[Designed] = []
    # A budget of bytes is one of the int8 file; else the smallest that is accurate enough.
    kind = ["--max-accuracy-drop", str(_MAX_DROP)]
    if options.target_kb:
        kind = ["--quantization", "int8"]
    for name in chosen:
        how = [str(folder / f"{name}.keras"), *kind, *_given(options, "data_dir")]
        export = pipeline.command("export", *how)
        with still_at_work(PROGRAM, f"exporting {name}"):
            found = _export(name, export)
        if found is None:
            return 1  # the export has said why
        kind = ["--quantization", found.check.quantization]
        designed.append(found)
    status = pipeline.report_checks([each.check for each in designed])
    report = page.write_report(folder / _SEARCH, folder / page.NAME, images.OBJECTIVE)

    _console.rule("4. The result")
    others = _others(folder / _SEARCH, [*chosen])
    pipeline.print_table(table(designed, others))
    sentence = advice(designed)
    _console.print(sentence)
    told = [_told(each) for each in designed]
    names = ("reference", "score", "epochs", "macs", "params")
    searched = [{name: each.get(name) for name in names} for each in others]
    record = {"argv": options.argv, "networks": told, "advice": sentence, "searched": searched}
    files.write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    _console.print(f"wrote {report} and {folder / RECORD}")
    _console.print(f"all of it took {(time.monotonic() - began) / 60:.1f} minutes")
    return status


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """Returns those options that have a value, for another command."""
    return [
        part
        for name in names
        if (value := getattr(options, name)) is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def _networks(search: Path) -> dict[str, Path]:
    """Returns what to train, the result of the search first, then the best reference."""
    records = saved_search.read_search(search).final()
    if not records:  # of few networks, or of one epoch
        return {saved_search.best_reference(search) or FOUND: search}
    best, *others = records
    if best["reference"]:
        return {best["reference"]: search}
    names = [each["reference"] for each in others if each["reference"]]
    return {FOUND: search, **dict.fromkeys(names[:1], search / saved_search.REFERENCE)}


def _export(name: str, command: argparse.Namespace) -> Designed | None:
    """Exports a trained network; None if no file is as accurate as it."""
    model, facts = tflite_export.load_model(command.model), saved_search.read_facts(command.model)
    checks = images.export(command, model, facts)
    if not checks:
        return None
    right = images.told_right(command, model, facts)
    return Designed(name, checks[0], facts["params"], right)


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns the mean of numbers, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _others(search: Path, trained: Sequence[str]) -> list[Record]:
    """Returns what a search knows of references that were not trained in full, the best first.

    Of each its longest training, or the mean of those of equal length.
    """
    longest: dict[str, Record] = {}
    for _, each in networks(saved_search.read_search(search).trajectory()):
        name = each.get("reference")
        if name and name not in trained:
            longest[name] = max(longest.get(name, each), each, key=lambda one: one.get("epochs", 0))
    return sorted(longest.values(), key=lambda each: -each["score"])


def table(designed: Sequence[Designed], others: Sequence[Record] = ()) -> Table:
    """Makes a table of networks of one budget.

    Args:
        designed: trained in full.
        others: the records of those that the search alone has trained.
    """
    tested, kind = len(designed[0].right), designed[0].check.quantization
    made = Table("network", box=box.SIMPLE_HEAD, title=f"{kind} files, {tested:,} test images")
    if others:
        made.caption = "* of the search, by its validation images: not trained in full"
        made.caption_justify = "left"
    headings = ("accuracy", "lost by the file", "MACs", "parameters", "bytes", "peak memory, bytes")
    for heading in (*headings, "median ms"):
        made.add_column(heading, justify="right")
    for each in designed:
        accuracy, error = each.accuracy
        made.add_row(
            each.name,
            f"{accuracy:.4f} ± {error:.4f}",
            f"{each.check.agreement.accuracy_drop:.4f}",
            f"{each.check.file_macs:,}",
            f"{each.params:,}",
            f"{each.check.num_bytes:,}",
            f"{memory.num_bytes:,}" if (memory := each.check.peak_memory) else "?",
            f"{each.check.latencies[0].median_ms:.3f}",
        )
    for record in others:
        after = f", {record['epochs']} epochs" if "epochs" in record else ""
        accuracy = f"{record['score']:.4f}{after} *"
        counts = [f"{record[name]:,}" for name in ("macs", "params")]
        made.add_row(record["reference"], accuracy, "-", *counts, "-", "-", "-")
    return made


def advice(designed: Sequence[Designed]) -> str:
    """Says in a sentence which of the files to ship.

    Args:
        designed: the result of the search, then the best reference unless that is the result.
    """
    best, *others = designed
    if best.name != FOUND:
        return (
            f"Ship {best.check.path}, the reference {best.name}: the search found no network that "
            "is better."
        )
    if not others:
        return (
            f"Ship {best.check.path}; the search had no final with a reference to hold it against."
        )
    (reference,) = others
    difference, error = _mean(best.right.astype(float) - reference.right.astype(float))
    apart = f"{abs(difference) * 100:.1f} points (standard error {error * 100:.1f})"
    where = "above" if difference >= 0 else "below"
    said = f"what was found is {apart} {where} the best reference, {reference.name}"
    if difference > 2 * error:
        return f"Ship {best.check.path}: {said}."
    if difference < -2 * error:
        return f"Ship {reference.check.path}: {said}."
    return f"Ship {best.check.path} or {reference.check.path}: {said}, which may be chance."


def _told(designed: Designed) -> dict[str, Any]:
    """Returns what the record says of a network, plain values."""
    accuracy, error = designed.accuracy
    return {
        "name": designed.name,
        "file": str(designed.check.path),
        "accuracy": accuracy,
        "accuracy_error": error,
        "macs": designed.check.file_macs,
        "params": designed.params,
        "bytes": designed.check.num_bytes,
        "peak_memory_bytes": memory.num_bytes if (memory := designed.check.peak_memory) else None,
        "median_ms": designed.check.latencies[0].median_ms,
    }
