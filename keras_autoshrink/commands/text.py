"""What the subcommands of `autoshrink` do with texts."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
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
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.language_model import step_model
from keras_autoshrink.networks.perplexity import token_losses
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import PerplexityScore
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.language_model import train_language_model
from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe

OBJECTIVE = "perplexity"  # of the validation text

_PROXY_EPOCHS = 10  # of a candidate, as in the paper
# Of a candidate at a budget: few of a long text, many of a short one.
_SEEN, _FEWEST_EPOCHS, _MOST_EPOCHS = 2_000_000, 8, 40

# Tokens of the test text that a file is checked on, and of the training text to calibrate on:
# it reads them one by one.
_CHECKED, _CALIBRATION = 2_000, 500

_console = Console(soft_wrap=True, highlight=False, markup=False)


def search(options: argparse.Namespace) -> None:
    """Searches for a recurrent cell, or with a target for a whole language model."""
    source = text_source(options, {})
    data = _load(source, "search", options.quiet)
    target = {name: getattr(options, name) for name in ("target_macs", "target_params")}
    at_budget = any(target.values())
    options.epochs = options.epochs or (_epochs(data) if at_budget else _PROXY_EPOCHS)
    hypermodel = RNNCellHyperModel(
        vocabulary_size=len(data.vocabulary),
        num_nodes=options.nodes,
        units=options.units,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        steps=options.steps,
        seed=options.seed,
        **target,
    )
    settings = {
        **source,
        **hypermodel.target,
        "epochs": options.epochs,
        "tokens": [len(data.train), len(data.validation)],
        "checksum": data.checksum,
    }
    pipeline.search_and_report(
        hypermodel,
        None if at_budget else PerplexityScore(options.cost),
        options,
        settings,
        {"x": data.train, "validation_data": data.validation},
        OBJECTIVE,
    )


def _epochs(data: TextData) -> int:
    """Returns for how many epochs networks are trained at a budget, unless it is said."""
    return min(max(_SEEN // len(data.train), _FEWEST_EPOCHS), _MOST_EPOCHS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTraining(pipeline.TrainingJob):
    """The training of a ShrinkRNN or of another architecture, see `train_language_model`.

    Args:
        data: a `TextData`.
        recipe: a `TextRecipe`.
        units: size of the state in the network of a cell; an architecture has its own.
        **kwargs: see `TrainingJob`.
    """

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
            **self._chosen,
            "seed": self.seed,
            "architecture" if isinstance(self.cell, Architecture) else "cell": self.cell.to_json(),
        }

    @property
    def _chosen(self) -> dict[str, Any]:
        """What is chosen of a cell's network; an architecture is built as it is."""
        return {} if isinstance(self.cell, Architecture) else {"units": self.units}

    def train(self, checkpoint: TrainingCheckpoint) -> pipeline.Result:
        """Trains the network on from a checkpoint, and measures its perplexities and costs."""
        self.print_plan(**self._chosen)
        trained = train_language_model(
            self.cell,
            self.data,
            self.recipe,
            **self._chosen,
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


def train(options: argparse.Namespace, cell: Cell | Architecture) -> None:
    """Trains a ShrinkRNN of a cell, or an architecture, in full."""
    searched = saved_search.settings_of(options.cell)
    at_budget = isinstance(cell, Architecture)
    name = options.recipe or ("short" if at_budget else "small")
    recipe = TEXT_RECIPES[name]
    # As long as in the search's final, which chose it by that.
    if at_budget and options.recipe is None and "epochs" in searched:
        recipe = dataclasses.replace(recipe, epochs=searched["epochs"])
    recipe = pipeline.changed_recipe(recipe, options, "epochs", "batch_size", "learning_rate")
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
            units=options.units or UNITS[name],
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


def word_losses(model: keras.Model, facts: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Computes a trained model's loss of each word of the test text, see `token_losses`.

    Args:
        model: trained.
        facts: that its training recorded.
    """
    data = load_text(facts["text"], purpose="train", vocabulary_size=facts["vocabulary_size"])
    return token_losses(model, data.part("test"))


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
