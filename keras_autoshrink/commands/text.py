"""What the subcommands of `autoshrink` do with texts, and the steps that the demo shares."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

import tflite_export
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands import pipeline
from keras_autoshrink.commands.arguments import default_project
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.data.text import PYDOC, TextData, load_text
from keras_autoshrink.data.windows import check_length
from keras_autoshrink.hypermodels.rnn import RNNCellHyperModel
from keras_autoshrink.networks.language_model import step_model
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import PerplexityScore
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.language_model import train_language_model
from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe

OBJECTIVE = "perplexity"  # of the validation text

_UNITS = {"small": 200, "ptb": 745}

# Tokens of the test text that a file is checked on, and of the training text to calibrate on:
# it reads them one by one.
_CHECKED, _CALIBRATION = 2_000, 500

_console = Console(soft_wrap=True, highlight=False)


def search(options: argparse.Namespace) -> int:
    """Finds a recurrent cell."""
    source = _source(options, {})
    data = load(source, "search", options.quiet)
    hypermodel = RNNCellHyperModel(
        vocabulary_size=len(data.vocabulary),
        num_nodes=options.nodes,
        units=options.units,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        steps=options.steps,
        seed=options.seed,
    )
    settings = {
        **source,
        "epochs": options.epochs,
        "tokens": [len(data.train), len(data.validation)],
        "checksum": data.checksum,
    }
    pipeline.search_and_report(
        hypermodel,
        PerplexityScore(options.cost),
        options,
        default_project(options),
        settings,
        {"x": data.train, "validation_data": data.validation},
        OBJECTIVE,
    )
    return 0


def train(options: argparse.Namespace, cell: Cell) -> int:
    """Trains a ShrinkRNN of a cell in full."""
    name = options.recipe or "small"
    if name not in TEXT_RECIPES:
        raise ValueError(f"--recipe {name}: is for images; for texts: {', '.join(TEXT_RECIPES)}")
    given = {n: getattr(options, n) for n in ("epochs", "batch_size", "learning_rate")}
    recipe = dataclasses.replace(
        TEXT_RECIPES[name], **{n: value for n, value in given.items() if value is not None}
    )
    searched = saved_search.settings_of(options.cell)
    source = _source(options, searched)
    data = load(source, "train", options.quiet)
    # With another vocabulary, which was asked for, the same text has other numbers.
    same = all(searched.get(name) == value for name, value in source.items())
    if same and searched.get("checksum", data.checksum) != data.checksum:
        _console.print(f"{data.name}: is not as it was when the cell was searched for")
    check_length(len(data.train), recipe.batch_size, recipe.steps)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    train_and_save(
        cell,
        data,
        options.output,
        source,
        recipe,
        units=options.units or _UNITS[name],
        seed=options.seed,
        log_dir=options.tensorboard,
        overwrite=options.overwrite,
        verbose=0 if options.quiet else 2,
    )
    return 0


def train_and_save(
    cell: Cell,
    data: TextData,
    path: Path,
    source: dict[str, Any],
    recipe: TextRecipe,
    *,
    units: int,
    seed: int = 0,
    log_dir: Path | None = None,
    overwrite: bool = False,
    verbose: int = 0,
) -> keras.Model:
    """Trains a ShrinkRNN and writes it, with its words and what else its user has to know.

    Args:
        cell: of the network.
        data: what to train it on.
        path: where to write it; a training that was killed goes on, see `pipeline.train_once`.
        source: where the data came from, for the record.
        recipe: see `train_language_model`, as for all that follow.
        units: size of the state.
        seed: of all random choices.
        log_dir: folder for TensorBoard.
        overwrite: see `pipeline.train_once`.
        verbose: as for `keras.Model.fit`.

    Returns:
        The trained model, from tokens (batch, steps) to logits.
    """
    settings = {
        **source,
        **dataclasses.asdict(recipe),
        "tokens": len(data.train),
        "checksum": data.checksum,
        "vocabulary": len(data.vocabulary),
        "units": units,
        "seed": seed,
        "cell": cell.to_json(),
    }

    def trained(checkpoint: TrainingCheckpoint) -> pipeline.Result:
        pipeline.print_plan(verbose, **dataclasses.asdict(recipe), units=units)
        result = train_language_model(
            cell,
            data,
            recipe,
            units=units,
            seed=seed,
            checkpoint=checkpoint,
            log_dir=log_dir,
            verbose=verbose,
        )
        macs, params = count_macs(result.model, input_shape=(1,)), count_params(result.model)
        facts = {
            "validation_perplexity": result.validation_perplexity,
            "test_perplexity": result.test_perplexity,
            "macs": macs,
            "params": params,
            "history": result.history,
        }
        return pipeline.Result(
            result.model,
            facts,
            f"perplexity {result.validation_perplexity:.2f} of the validation and "
            f"{result.test_perplexity:.2f} of the test text, {macs:,} MACs for a token, "
            f"{params:,} parameters",
            data.vocabulary,
        )

    return pipeline.train_once(path, settings, recipe.epochs, trained, overwrite=overwrite)


def export(options: argparse.Namespace, model: keras.Model, facts: dict[str, Any]) -> int:
    """Converts a trained language model and checks what came of it."""
    data = load(_source(options, facts), "train")
    if facts.get("checksum", data.checksum) != data.checksum:
        raise ValueError(
            f"{options.model}: was trained on another text than {data.name}, or that has been "
            "changed since"
        )
    folder = options.output_dir or options.model.parent
    folder.mkdir(parents=True, exist_ok=True)
    checks = export_and_check(model, data, folder / options.model.stem, options.quantization)
    pipeline.print_table(tflite_export.render_table(checks))
    return pipeline.report_checks(checks)


def export_and_check(
    model: keras.Model,
    data: TextData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
) -> list[tflite_export.Check]:
    """Writes `<stem>.<quantization>.tflite` files and their words, and checks each on the test.

    Raises:
        ValueError: the model is none of this library's language models, or has another number
            of words than the data.
    """
    step = step_model(model)
    if step.output_shape[0][-1] != len(data.vocabulary):
        raise ValueError(
            f"model {model.name!r} has {step.output_shape[0][-1]:,} words, the text "
            f"{len(data.vocabulary):,}: it was trained on another one; name it with --data-dir"
        )
    data.vocabulary.save(vocabulary_path(stem.with_name(f"{stem.name}.keras")))
    calibration = tflite_export.representative_steps(step, data.train[:_CALIBRATION])
    test = data.part("test")
    tokens = test[:_CHECKED]
    if len(tokens) < len(test):
        _console.print(f"checking on the first {len(tokens):,} of {len(test):,} words of the test")
    checks = []
    for quantization in quantizations:
        path = stem.with_name(f"{stem.name}.{quantization}.tflite")
        tflite_export.convert(step, path, quantization, representative_data=calibration)
        checks.append(tflite_export.check_language_model(step, path, tokens, count_macs(step)))
    return checks


def load(source: dict[str, Any], purpose: str, quiet: bool = False) -> TextData:
    """The text that a search or a training noted, and what is to be said of it."""
    data = load_text(source["text"], purpose=purpose, vocabulary_size=source["vocabulary_size"])
    if quiet:
        return data
    _console.print(
        f"text: {data.name}, {len(data.train):,} tokens to train on, {len(data.vocabulary):,} words"
    )
    for note in data.notes():
        _console.print(note)
    return data


def _source(options: argparse.Namespace, recorded: dict[str, Any]) -> dict[str, Any]:
    """Which text to load: as given, else as recorded, else the built-in one."""
    source = {"task": "text", "text": PYDOC, "vocabulary_size": None}
    # To be found from another folder, too.
    text = str(options.data_dir) if options.data_dir else None
    if text not in (None, PYDOC):
        text = str(options.data_dir.resolve())
    if text in (None, recorded.get("text", text)):  # of another text it says nothing
        source.update({name: recorded[name] for name in source if name in recorded})
    given = {"text": text, "vocabulary_size": getattr(options, "vocabulary_size", None)}
    source.update({name: value for name, value in given.items() if value is not None})
    return source
