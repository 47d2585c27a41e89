"""The steps from a search to a checked file that images and texts share."""

from __future__ import annotations

import abc
import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import check_same
from keras_autoshrink.commands.arguments import PROGRAM, default_project, parse
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.commands.preflight import check_search_folder
from keras_autoshrink.data.text import Vocabulary
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.report import final, plots, saved_search, tensorboard
from keras_autoshrink.score import Score
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, remove_state
from keras_autoshrink.training.recipes import Recipe, TextRecipe
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.tuner import FOUND, AutoShrink

_console = Console(soft_wrap=True, highlight=False, markup=False)


def command(name: str, *arguments: str) -> argparse.Namespace:
    """Parses a command that is part of another, and prints it."""
    line = [name, *arguments]
    _console.print(f"$ {PROGRAM} {shlex.join(line)}")
    return parse(line)


def search_and_report(
    hypermodel: keras_tuner.HyperModel,
    score: Score | None,
    options: argparse.Namespace,
    settings: dict[str, Any],
    data: dict[str, Any],
    objective: str,
    distribution_strategy: Any = None,
) -> None:
    """Searches for a cell, prints the trajectory, and writes the results into the search's folder.

    Args:
        hypermodel: what to search; if it can tell the network of hyperparameters, that of the
            best ones is written, too.
        score: what to maximise; None for the hypermodel's own.
        options: of the command `search`.
        settings: plain values that a search in that folder must share to go on.
        data: arguments of `AutoShrink.search`.
        objective: what to call the metric behind the score.
        distribution_strategy: a `tf.distribute.Strategy`, or None.

    Raises:
        ValueError: the folder holds a search with other settings.
    """
    hypermodel.check_search_arguments(**data, epochs=options.epochs)  # before there is a folder
    name = options.project_name or default_project(options)
    folder = options.directory / name
    worker = service.role() == "worker"
    check_search_folder(options, settings, worker)
    tuner = AutoShrink(
        hypermodel,
        score=score,
        num_candidates=options.candidates,
        keep_fraction=options.keep_fraction,
        seed=options.seed,
        max_seconds_per_trial=options.max_seconds_per_trial,
        directory=options.directory,
        project_name=name,
        overwrite=options.overwrite and not worker,
        strategy=options.strategy,
        max_candidates=options.max_candidates,
        max_minutes=options.minutes,
        max_macs=options.max_macs,
        max_latency_ms=options.max_latency_ms,
        distribution_strategy=distribution_strategy,
        workers=options.workers,
    )
    if not worker:
        saved_search.write_settings(folder, settings, options.argv)
    tuner.search(**data, epochs=options.epochs, verbose=0 if options.quiet else 1)
    if worker:
        return
    print_table(plots.trajectory_table(tuner.trajectory(), objective))
    if tuner.final():
        print_table(plots.final_table(tuner.oracle.search))
        if options.quiet:  # else the progress has said so
            judged = final.judged_by(folder)
            _console.print(final.verdict(tuner.oracle.search, objective, *judged))
    finalists = tuner.finalists() if hasattr(hypermodel, "network") else {}
    references = [each for name, each in finalists.items() if name != FOUND]
    networks = [*[*finalists.values()][:1], *(references[:1] if tuner.final() else [])]
    for path in saved_search.write_results(folder, objective, *networks):
        _console.print(f"wrote {path}")
    _console.print(f"wrote {tensorboard.write_tensorboard(folder, objective)}")


@dataclasses.dataclass(frozen=True)
class Result:
    """A trained network and what is known of it.

    Attributes:
        model: trained.
        facts: what to record of it beside the settings of its training, plain values.
        summary: the same for people, in one line.
        vocabulary: the words of a language model, for a file beside it.
    """

    model: keras.Model
    facts: dict[str, Any]
    summary: str
    vocabulary: Vocabulary | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob(abc.ABC):
    """The training of one network in full: of what, on what, how, and where it goes.

    Args:
        cell: of the network, or the whole network.
        data: what to train it on, loaded for a training.
        recipe: how to train.
        path: where to write the network, a `.keras` file.
        source: where the data came from, plain values for the record.
        seed: of all random choices.
        overwrite: whether to replace a network that is there, and to delete the checkpoint of a
            training that was killed.
        log_dir: folder for TensorBoard.
        verbose: as for `keras.Model.fit`.
    """

    cell: Cell | Architecture
    data: Any
    recipe: Recipe | TextRecipe
    path: Path
    source: dict[str, Any]
    seed: int = 0
    overwrite: bool = False
    log_dir: Path | None = None
    verbose: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several workers that writes."""
        return True

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns all that the result depends on, plain values: others are another training."""

    @abc.abstractmethod
    def train(self, checkpoint: TrainingCheckpoint) -> Result:
        """Trains the network on from a checkpoint, and writes to it after each epoch."""

    def print_plan(self, **more: Any) -> None:
        """Prints how the network is going to be trained, unless `verbose` is 0."""
        if self.verbose:
            values = {**more, **dataclasses.asdict(self.recipe)}
            _console.print(", ".join(f"{name} {value}" for name, value in values.items()))


def train_and_save(job: TrainingJob) -> keras.Model:
    """Trains a network and writes it, with a `.json` of what its user has to know.

    After each epoch the checkpoint of the training is written into a folder beside the network's
    path, from which the same job goes on if it is killed; the folder is deleted at the end. A
    training whose network is there already is not repeated. Of several workers only the chief
    writes; all have to see the folder.

    Returns:
        The trained model.

    Raises:
        ValueError: the network is there and was trained otherwise, or the checkpoint is that of
            another training.
    """
    path, settings = job.path, job.settings()
    folder = path.with_name(f"{path.name}.training")
    if job.overwrite and job.is_chief:
        remove_state(folder)
    checkpoint = TrainingCheckpoint(folder, settings)
    # Where there is a checkpoint, a kill may have come between the model and its facts: it goes on.
    if path.is_file() and not (job.overwrite or checkpoint.epochs_done):
        way_out = "take another name, or overwrite=True (--overwrite) to replace it"
        check_same(saved_search.read_facts(path), settings, f"{path}: is there already", way_out)
        _console.print(f"{path} has been trained like this already")
        return tflite_export.load_model(path)
    if checkpoint.epochs_done:
        _console.print(f"going on after epoch {checkpoint.epochs_done} of {job.recipe.epochs}")
    result = job.train(checkpoint)
    if not job.is_chief:
        return result.model
    # Whole or not at all: under another name first.
    unfinished = path.with_name(f".{path.name}")
    result.model.save(unfinished)
    unfinished.replace(path)
    # A kill from here on leaves the checkpoint, from which all of this is written again.
    if result.vocabulary is not None:
        result.vocabulary.save(vocabulary_path(path))
    saved_search.write_facts(path, {**settings, **result.facts})
    remove_state(folder)
    words = f", {vocabulary_path(path).name}" if result.vocabulary else ""
    _console.print(f"wrote {path}{words} and {path.name}.json: {result.summary}")
    return result.model


def changed_recipe(recipe: Any, options: argparse.Namespace, *names: str) -> Any:
    """Returns a recipe with those of the named values that `options` have."""
    given = {name: getattr(options, name) for name in names}
    return dataclasses.replace(recipe, **{n: v for n, v in given.items() if v is not None})


def output_stem(options: argparse.Namespace) -> Path:
    """Makes the folder that `export` writes into; returns how the paths of its files begin."""
    folder = options.output_dir or options.model.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder / options.model.stem


def report_checks(checks: Sequence[tflite_export.Check]) -> int:
    """Prints the checks of exported files, and which files are not as their model.

    Args:
        checks: all of images or all of language models.

    Returns:
        The exit status: 1 if a file has other MACs than its model, or other predictions, or if
        there is none, else 0.
    """
    if checks:
        print_table(tflite_export.render_table(checks))
    faults = []
    for check in checks:
        same = {"MACs": check.macs_equal, "predictions": check.agreement.agrees}
        faults += [f"{check.path}: its {n} are not those of the model" for n in same if not same[n]]
    for fault in faults:
        _console.print(fault)
    return 0 if checks and not faults else 1


def print_table(table: Table) -> None:
    """Prints a table at its own width: rich would cut columns to fit a narrow terminal or pipe."""
    Console(width=200, highlight=False).print(table)
