"""What the subcommands of `autoshrink` do with texts."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import keras
from rich.console import Console

import tflite_export
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands import pipeline
from keras_autoshrink.commands.arguments import UNITS
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.commands.sources import text_source
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.data.text import TextData, load_text
from keras_autoshrink.data.windows import check_length
from keras_autoshrink.hypermodels.rnn import RNNCellHyperModel
from keras_autoshrink.networks.language_model import step_model
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import PerplexityScore
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.language_model import train_language_model
from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe

OBJECTIVE = "perplexity"  # of the validation text

# Tokens of the test text that a file is checked on, and of the training text to calibrate on:
# it reads them one by one.
_CHECKED, _CALIBRATION = 2_000, 500

_console = Console(soft_wrap=True, highlight=False, markup=False)


def search(options: argparse.Namespace) -> None:
    """Searches for a recurrent cell."""
    source = text_source(options, {})
    data = _load(source, "search", options.quiet)
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
        settings,
        {"x": data.train, "validation_data": data.validation},
        OBJECTIVE,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTraining(pipeline.TrainingJob):
    """The training of a ShrinkRNN, see `train_language_model`.

    Args:
        data: a `TextData`.
        cell: of the network.
        recipe: a `TextRecipe`.
        units: size of the state.
        **kwargs: see `TrainingJob`.
    """

    cell: Cell
    recipe: TextRecipe
    units: int

    def settings(self) -> dict[str, Any]:
        """Returns all that the result depends on, plain values."""
        return {
            **self.source,
            **dataclasses.asdict(self.recipe),
            "tokens": len(self.data.train),
            "checksum": self.data.checksum,
            "vocabulary": len(self.data.vocabulary),
            "units": self.units,
            "seed": self.seed,
            "cell": self.cell.to_json(),
        }

    def train(self, checkpoint: TrainingCheckpoint) -> pipeline.Result:
        """Trains the network on from a checkpoint, and measures its perplexities and costs."""
        self.print_plan(units=self.units)
        trained = train_language_model(
            self.cell,
            self.data,
            self.recipe,
            units=self.units,
            seed=self.seed,
            checkpoint=checkpoint,
            log_dir=self.log_dir,
            verbose=self.verbose,
        )
        macs, params = count_macs(trained.model, input_shape=(1,)), count_params(trained.model)
        facts = {
            "validation_perplexity": trained.validation_perplexity,
            "test_perplexity": trained.test_perplexity,
            "macs": macs,
            "params": params,
            "history": trained.history,
        }
        summary = (
            f"perplexity {trained.validation_perplexity:.2f} of the validation and "
            f"{trained.test_perplexity:.2f} of the test text, {macs:,} MACs for a token, "
            f"{params:,} parameters"
        )
        return pipeline.Result(trained.model, facts, summary, self.data.vocabulary)


def train(options: argparse.Namespace, cell: Cell) -> None:
    """Trains a ShrinkRNN of a cell in full."""
    recipe = pipeline.changed_recipe(
        TEXT_RECIPES[options.recipe], options, "epochs", "batch_size", "learning_rate"
    )
    searched = saved_search.settings_of(options.cell)
    source = text_source(options, searched)
    data = _load(source, "train", options.quiet)
    # With another vocabulary, which was asked for, the same text has other numbers.
    same = all(searched.get(name) == value for name, value in source.items())
    if same and searched.get("checksum", data.checksum) != data.checksum:
        _console.print(f"{data.name}: is not as it was when the cell was searched for")
    check_length(len(data.train), recipe.batch_size, recipe.steps)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    pipeline.train_and_save(
        TextTraining(
            cell=cell,
            data=data,
            recipe=recipe,
            path=options.output,
            source=source,
            seed=options.seed,
            overwrite=options.overwrite,
            log_dir=options.tensorboard,
            verbose=0 if options.quiet else 2,
            units=options.units or UNITS[options.recipe],
        )
    )


def export(options: argparse.Namespace, model: keras.Model, facts: dict[str, Any]) -> list[Any]:
    """Converts a trained language model to files and checks each on the test text.

    Args:
        options: of the command `export`.
        model: trained.
        facts: that its training recorded.

    Returns:
        A check of each file.

    Raises:
        ValueError: the model is none of this library's language models, or the text is not the
            one that it was trained on.
    """
    data = _load(text_source(options, facts), "train")
    if facts.get("checksum", data.checksum) != data.checksum:
        raise ValueError(
            f"{options.model}: was trained on another text than {data.name}, or that has been "
            "changed since"
        )
    step = step_model(model)
    if step.output_shape[0][-1] != len(data.vocabulary):
        raise ValueError(
            f"model {model.name!r} has {step.output_shape[0][-1]:,} words, the text "
            f"{len(data.vocabulary):,}: it was trained on another one; name it with --data-dir"
        )
    stem = pipeline.output_stem(options)
    data.vocabulary.save(vocabulary_path(stem.with_name(f"{stem.name}.keras")))
    calibration = tflite_export.representative_steps(step, data.train[:_CALIBRATION])
    test = data.part("test")
    tokens = test[:_CHECKED]
    if len(tokens) < len(test):
        _console.print(f"checking on the first {len(tokens):,} of {len(test):,} words of the test")
    checks = []
    for quantization in options.quantization:
        path = stem.with_name(f"{stem.name}.{quantization}.tflite")
        tflite_export.convert(step, path, quantization, representative_data=calibration)
        checks.append(tflite_export.check_language_model(step, path, tokens, count_macs(step)))
    return checks


def _load(source: dict[str, Any], purpose: str, quiet: bool = False) -> TextData:
    """Loads the text that a search or a training recorded, and prints what it is."""
    data = load_text(source["text"], purpose=purpose, vocabulary_size=source["vocabulary_size"])
    if quiet:
        return data
    _console.print(
        f"text: {data.name}, {len(data.train):,} tokens to train on, {len(data.vocabulary):,} words"
    )
    for note in data.notes():
        _console.print(note)
    return data
