"""The steps from a search to a checked file that images and texts share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink.checks import difference
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.data.text import Vocabulary
from keras_autoshrink.report import plots, saved_search, tensorboard
from keras_autoshrink.score import Score
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, remove_state
from keras_autoshrink.tuner import service
from keras_autoshrink.tuner.tuner import AutoShrink

_console = Console(soft_wrap=True, highlight=False)


def search_and_report(
    hypermodel: keras_tuner.HyperModel,
    score: Score,
    options: argparse.Namespace,
    default_name: str,
    settings: dict[str, Any],
    data: dict[str, Any],
    objective: str,
    distribution_strategy: Any = None,
) -> None:
    """Searches, prints the trajectory, and writes what came of it into the search's folder.

    Args:
        hypermodel: what to search.
        score: what to maximise.
        options: of the command `search`.
        default_name: of the folder, unless `options` name it.
        settings: plain values that a search in that folder must share to go on.
        data: arguments of `AutoShrink.search`.
        objective: what to call the metric behind the score.
        distribution_strategy: a `tf.distribute.Strategy`, or None.

    Raises:
        ValueError: the folder holds a search with other settings.
    """
    hypermodel.check_search_arguments(**data, epochs=options.epochs)  # before there is a folder
    folder = options.directory / (options.project_name or default_name)
    worker = service.role() == "worker"
    if worker or not options.overwrite:
        saved_search.check_settings(folder, settings)
    tuner = AutoShrink(
        hypermodel,
        score=score,
        num_candidates=options.candidates,
        keep_fraction=options.keep_fraction,
        seed=options.seed,
        max_seconds_per_trial=options.max_seconds_per_trial,
        directory=options.directory,
        project_name=options.project_name or folder.name,
        overwrite=options.overwrite and not worker,
        strategy=options.strategy,
        max_candidates=options.max_candidates,
        max_macs=options.max_macs,
        max_latency_ms=options.max_latency_ms,
        distribution_strategy=distribution_strategy,
    )
    if not worker:
        saved_search.write_settings(folder, settings)
    tuner.search(**data, epochs=options.epochs, verbose=0 if options.quiet else 1)
    if worker:
        return
    print_table(plots.trajectory_table(tuner.trajectory(), objective))
    for path in saved_search.write_results(folder, objective):
        _console.print(f"wrote {path}")
    _console.print(f"wrote {tensorboard.write_tensorboard(folder, objective)}")


@dataclasses.dataclass(frozen=True)
class Result:
    """A network as a training returns it.

    Attributes:
        model: trained.
        facts: what to note of it beside what it was trained with, plain values.
        summary: the same for people, in one line.
        vocabulary: the words of a language model, for a file beside it.
    """

    model: keras.Model
    facts: dict[str, Any]
    summary: str
    vocabulary: Vocabulary | None = None


def train_once(
    path: Path,
    settings: dict[str, Any],
    epochs: int,
    train: Callable[[TrainingCheckpoint], Result],
    *,
    overwrite: bool = False,
    chief: bool = True,
) -> keras.Model:
    """Trains a network and writes it, with a `.json` of what its user has to know.

    After each epoch the state of the training is written into a folder beside `path`, from
    which the same call goes on if it is killed; the folder is deleted at the end. A training
    whose model is there already is not repeated.

    Args:
        path: where to write it.
        settings: all that the result depends on, plain values: a training with others is
            another training.
        epochs: of the whole training, as the number to report.
        train: trains on from a checkpoint, and writes to it.
        overwrite: whether to replace a model that is there, and to forget a training that was
            killed.
        chief: whether this process is the one of several workers that writes.

    Returns:
        The trained model.

    Raises:
        ValueError: `path` is there and was trained otherwise, or the folder beside it is that
            of another training.
    """
    folder = path.with_name(f"{path.name}.training")
    if overwrite and chief:
        remove_state(folder)
    checkpoint = TrainingCheckpoint(folder, settings)
    # Where there is a state, a kill may have come between the model and its facts: it goes on.
    if path.is_file() and not (overwrite or checkpoint.epochs_done):
        differs = difference(saved_search.read_facts(path), settings)
        if differs:
            raise ValueError(
                f"{path}: is there already, with {differs}; take another name, or overwrite=True "
                "(--overwrite) to replace it"
            )
        _console.print(f"{path} has been trained like this already")
        return tflite_export.load_model(path)
    if checkpoint.epochs_done:
        _console.print(f"going on after epoch {checkpoint.epochs_done} of {epochs}")
    result = train(checkpoint)
    model = result.model
    if not chief:
        return model
    # Whole or not at all: under another name first.
    unfinished = path.with_name(f".{path.name}")
    model.save(unfinished)
    unfinished.replace(path)
    # A kill from here on leaves the training's state, from which all of this is written again.
    if result.vocabulary is not None:
        result.vocabulary.save(vocabulary_path(path))
    saved_search.write_facts(path, {**settings, **result.facts})
    remove_state(folder)
    words = f", {vocabulary_path(path).name}" if result.vocabulary else ""
    _console.print(f"wrote {path}{words} and {path.name}.json: {result.summary}")
    return model


def print_plan(verbose: int, **values: Any) -> None:
    """Prints how a network is going to be trained, unless `verbose` is 0."""
    if verbose:
        _console.print(", ".join(f"{name} {value}" for name, value in values.items()))


def report_checks(checks: list[tflite_export.Check]) -> int:
    """Prints what is wrong with exported files, if anything.

    Returns:
        The exit status: 1 if a file has other MACs than its model, or other predictions.
    """
    status = 0
    for check in checks:
        if not check.macs_equal:
            _console.print(f"{check.path}: its MACs are not those of the model")
            status = 1
        if not check.agreement.agrees:
            _console.print(f"{check.path}: its predictions are not those of the model")
            status = 1
    return status


def print_table(table: Table) -> None:
    """Prints a table at its own width: rich would cut columns to fit a narrow terminal or pipe."""
    Console(width=200, highlight=False).print(table)
