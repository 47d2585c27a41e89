"""The command `autoshrink design`: from data and a budget to a checked file, in one go."""

from __future__ import annotations

import abc
import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import files
from keras_autoshrink.commands import images, pipeline, text
from keras_autoshrink.commands.arguments import PROGRAM
from keras_autoshrink.data.text import PYDOC
from keras_autoshrink.report import page, saved_search
from keras_autoshrink.report.charts import networks
from keras_autoshrink.report.quantities import Record
from keras_autoshrink.tuner.tuner import FOUND
from tflite_export.command_line import still_at_work

RECORD = "run.json"  # the command, and what came of it
_SEARCH = "search"  # its folder, in that of the design
_MINUTES = 30.0  # of the search, unless it is said
# Accuracy that a smaller file may cost, and by what share it may raise a perplexity.
_MAX_DROP = _MAX_RISE = 0.01

_console = Console(soft_wrap=True, highlight=False, markup=False)


@dataclasses.dataclass(frozen=True)
class _Designed(abc.ABC):
    """A network that was trained in full, and its file.

    Attributes:
        name: "found", or that of the reference.
        check: of the file.
        params: of the network.
        headings: of the table, for how good the network is, and what is lost by the file.
        tested_on: what it is tested on, in the plural.
    """

    name: str
    check: Any
    params: int

    headings: ClassVar[tuple[str, str]]
    tested_on: ClassVar[str]

    @property
    @abc.abstractmethod
    def values(self) -> npt.NDArray[np.float64]:
        """How good the network is at each test image or word, shape (n,); more is better."""

    @property
    @abc.abstractmethod
    def cells(self) -> tuple[str, str]:
        """What the table has below `headings`."""

    @property
    @abc.abstractmethod
    def told(self) -> dict[str, Any]:
        """How good the network is, in plain values for the record."""

    @staticmethod
    @abc.abstractmethod
    def of_score(score: float) -> str:
        """Says how good a network is that has a score in the search, as `cells` do."""

    @abc.abstractmethod
    def against(self, difference: float, error: float) -> str:
        """Says how far the network is from the best reference.

        Args:
            difference: of the mean of `values`, the network's less the reference's.
            error: its standard error.
        """


@dataclasses.dataclass(frozen=True)
class Designed(_Designed):
    """An image classifier that was trained in full, and its file.

    Attributes:
        right: whether the network tells the class of each test image, bool of shape (n,).
    """

    right: npt.NDArray[np.bool_]

    headings = ("accuracy", "lost by the file")
    tested_on = "images"

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """1 for each test image whose class the network tells, else 0."""
        return self.right.astype(float)

    @property
    def accuracy(self) -> tuple[float, float]:
        """The network's accuracy, and its standard error over images like these."""
        return _mean(self.values)

    @property
    def cells(self) -> tuple[str, str]:
        """The accuracy, and what the file has less."""
        accuracy, error = self.accuracy
        return f"{accuracy:.4f} ± {error:.4f}", f"{self.check.agreement.accuracy_drop:.4f}"

    @property
    def told(self) -> dict[str, Any]:
        """The accuracy and its standard error."""
        accuracy, error = self.accuracy
        return {"accuracy": accuracy, "accuracy_error": error}

    @staticmethod
    def of_score(score: float) -> str:
        """The accuracy, which the score is."""
        return f"{score:.4f}"

    def against(self, difference: float, error: float) -> str:
        """Says by how many percentage points the accuracies differ."""
        apart = f"{abs(difference) * 100:.1f} points (standard error {error * 100:.1f})"
        return f"is {apart} {'above' if difference >= 0 else 'below'} the best reference"


@dataclasses.dataclass(frozen=True)
class DesignedText(_Designed):
    """A language model that was trained in full, and its file.

    Attributes:
        losses: of each word of the test text, shape (n,).
    """

    losses: npt.NDArray[np.float64]

    headings = ("perplexity", "added by the file")
    tested_on = "words"

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The log-probability of each word of the test text."""
        return -self.losses

    @property
    def perplexity(self) -> tuple[float, float]:
        """The network's perplexity, and its standard error over words like these."""
        loss, error = _mean(self.losses)
        return math.exp(loss), math.exp(loss) * error

    @property
    def cells(self) -> tuple[str, str]:
        """The perplexity, and what the file has more on the words that it was checked on."""
        (perplexity, error), found = self.perplexity, self.check.agreement
        more = found.file_perplexity - found.model_perplexity
        return f"{perplexity:.2f} ± {error:.2f}", f"{more:.2f}"

    @property
    def told(self) -> dict[str, Any]:
        """The perplexity and its standard error."""
        perplexity, error = self.perplexity
        return {"perplexity": perplexity, "perplexity_error": error}

    @staticmethod
    def of_score(score: float) -> str:
        """The perplexity; the score is less its logarithm."""
        return f"{math.exp(-score):.2f}"

    def against(self, difference: float, error: float) -> str:
        """Says by which share the perplexities differ."""
        share = abs(math.expm1(-difference))
        apart = f"{share * 100:.1f}% (standard error {error * 100:.1f})"
        where = "below" if difference >= 0 else "above"
        return f"has a perplexity {apart} {where} that of the best reference"


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
    task: Any = {"images": images, "text": text}[options.task]

    _console.rule("1. The search")
    target = _given(options, "target_macs", "target_params", "target_kb", "target_latency_ms")
    if getattr(options, "target_latency_ms", None):
        target += ["--latency-of", "int8"]  # the file that is going to be shipped
    if not options.max_candidates:
        options.minutes = options.minutes or _MINUTES
    length = _given(options, "minutes", "max_candidates", "epochs", "seed")
    place = ["--directory", str(folder), "--project-name", _SEARCH]
    data = _data(options)
    task.search(pipeline.command("search", *data, *target, *length, *place, *again))

    _console.rule("2. Training in full, of what was found and of the best reference")
    chosen = _networks(folder / _SEARCH)
    for name, path in chosen.items():
        output = ["--output", str(folder / f"{name}.keras"), "--quiet"]
        where = _given(options, "data_dir", "seed")
        train = pipeline.command("train", str(path), *output, *where, *again)
        with still_at_work(PROGRAM, f"training {name}"):
            task.train(train, saved_search.read_network(path))

    _console.rule("3. The files, checked")
    designed: list[_Designed] = []
    kinds = _kinds(options)
    for name in chosen:
        while True:
            kind, *others_to_try = kinds
            how = [str(folder / f"{name}.keras"), *kind, *_given(options, "data_dir")]
            export = pipeline.command("export", *how)
            with still_at_work(PROGRAM, f"exporting {name}"):
                found = _EXPORTS[options.task](name, export)
            if found is None:
                return 1  # the export has said why
            if not others_to_try or _is_accurate(found.check):
                break
            timed = getattr(options, "target_latency_ms", None) is not None
            _console.print(
                f"{found.check.path} loses {found.check.agreement.accuracy_drop:.4f} of the "
                f"accuracy{'' if found.check.agreement.agrees else ', or predicts otherwise'}: "
                f"taking the smallest kind of file that loses at most {_MAX_DROP:g}"
                + ("; the int8 file is what --target-latency-ms was held to" if timed else "")
            )
            found.check.path.unlink()
            kinds = others_to_try
        kinds = [["--quantization", found.check.quantization]]
        designed.append(found)
    status = pipeline.report_checks([each.check for each in designed])
    report = page.write_report(folder / _SEARCH, folder / page.NAME, task.OBJECTIVE)

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


def _kinds(options: argparse.Namespace) -> list[list[str]]:
    """Returns the options of the exports to try, in this order, until a file is accurate enough."""
    if options.task == "text":
        return [["--quantization", "float32", "dynamic"]]
    # Of 8-bit integers throughout: what microcontrollers and accelerators run.
    int8 = ["--quantization", "int8"]
    return [int8] if options.target_kb else [int8, ["--max-accuracy-drop", str(_MAX_DROP)]]


def _is_accurate(check: tflite_export.Check) -> bool:
    """Whether a classifier's file can stand in for it, and loses at most `_MAX_DROP`."""
    return check.agreement.agrees and check.agreement.accuracy_drop <= _MAX_DROP


def _data(options: argparse.Namespace) -> list[str]:
    """Returns the options of a search that say which data to take."""
    if options.task == "text":
        where = [] if options.data == PYDOC else ["--data-dir", options.data]
        return ["--task", "text", *where, *_given(options, "vocabulary_size")]
    data = ["--dataset", options.data, *_given(options, "data_dir", "image_size")]
    return [*data, "--strict"] if options.strict else data


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """Returns those options that there are and that have a value, for another command."""
    return [
        part
        for name in names
        if (value := getattr(options, name, None)) is not None
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


def _export_classifier(name: str, command: argparse.Namespace) -> Designed | None:
    """Exports a trained network; None if no file is as accurate as it."""
    model, facts = tflite_export.load_model(command.model), saved_search.read_facts(command.model)
    checks = images.export(command, model, facts)
    if not checks:
        return None
    right = images.told_right(command, model, facts)
    return Designed(name, checks[0], facts["params"], right)


def _export_language_model(name: str, command: argparse.Namespace) -> DesignedText:
    """Exports a trained language model; of several files the smallest counts that is as good."""
    model, facts = tflite_export.load_model(command.model), saved_search.read_facts(command.model)
    checks = text.export(command, model, facts)
    good = [
        each
        for each in checks
        if each.agreement.agrees
        and each.agreement.file_perplexity <= (1 + _MAX_RISE) * each.agreement.model_perplexity
    ]
    check = min(good or checks, key=lambda each: each.num_bytes)
    return DesignedText(name, check, facts["params"], text.word_losses(model, facts))


_EXPORTS = {"images": _export_classifier, "text": _export_language_model}


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


def table(designed: Sequence[_Designed], others: Sequence[Record] = ()) -> Table:
    """Makes a table of networks of one budget.

    Args:
        designed: trained in full.
        others: the records of those that the search alone has trained.
    """
    first = designed[0]
    tested = f"{len(first.values):,} test {first.tested_on}"
    title = f"{first.check.quantization} files, {tested}"
    made = Table("network", box=box.SIMPLE_HEAD, title=title)
    if others:
        made.caption = f"* of the search, by its validation {first.tested_on}: not trained in full"
        made.caption_justify = "left"
    headings = ("MACs", "parameters", "bytes", "peak memory, bytes", "median ms")
    for heading in (*first.headings, *headings):
        made.add_column(heading, justify="right")
    for each in designed:
        made.add_row(
            each.name,
            *each.cells,
            f"{each.check.file_macs:,}",
            f"{each.params:,}",
            f"{each.check.num_bytes:,}",
            f"{memory.num_bytes:,}" if (memory := each.check.peak_memory) else "?",
            f"{each.check.latencies[0].median_ms:.3f}",
        )
    for record in others:
        after = f", {record['epochs']} epochs" if "epochs" in record else ""
        score = f"{first.of_score(record['score'])}{after} *"
        counts = [f"{record[name]:,}" for name in ("macs", "params")]
        made.add_row(record["reference"], score, "-", *counts, "-", "-", "-")
    return made


def advice(designed: Sequence[_Designed]) -> str:
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
    difference, error = _mean(best.values - reference.values)
    said = f"what was found {best.against(difference, error)}, {reference.name}"
    if difference > 2 * error:
        return f"Ship {best.check.path}: {said}."
    if difference < -2 * error:
        return f"Ship {reference.check.path}: {said}."
    return f"Ship {best.check.path} or {reference.check.path}: {said}, which may be chance."


def _told(designed: _Designed) -> dict[str, Any]:
    """Returns what the record says of a network, plain values."""
    return {
        "name": designed.name,
        "file": str(designed.check.path),
        **designed.told,
        "macs": designed.check.file_macs,
        "params": designed.params,
        "bytes": designed.check.num_bytes,
        "peak_memory_bytes": memory.num_bytes if (memory := designed.check.peak_memory) else None,
        "median_ms": designed.check.latencies[0].median_ms,
    }
