"""Language models of several cells, and an LSTM, of equal parameters: trained alike, compared.

The first cell has `--units` units; each other network gets the number of units that brings its
parameters closest to the first one's. Perplexities are of the whole test text, measured once, at
the end of a training. A run that is killed goes on where it stopped; trainings that have ended
are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import


from tflite_export.runtime import native_output_silenced

with native_output_silenced():  # TensorFlow announces its devices when it is imported
    import keras

    from keras_autoshrink.cell import Cell
    from keras_autoshrink.checks import difference
    from keras_autoshrink.costs import count_macs, count_params
    from keras_autoshrink.data.text import PYDOC, TextData, load_text, unigram_perplexity
    from keras_autoshrink.networks.language_model import ShrinkRNN, language_model
    from keras_autoshrink.report.saved_search import read_cell
    from keras_autoshrink.training.checkpoint import TrainingCheckpoint, remove_state
    from keras_autoshrink.training.language_model import train_model
    from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe

LSTM = "LSTM"

# A network of so many units, with the dropout of a recipe.
Build = Callable[[int, TextRecipe], keras.Model]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/perplexity.py found=runs/ptb_proxy published=shrinkrnn "
        "--data-dir ptb_proxy",
    )
    parser.add_argument(
        "cells",
        nargs="+",
        type=_named,
        metavar="NAME=CELL",
        help="a search's folder, a .json, or shrinkrnn for the published cell",
    )
    parser.add_argument("--data-dir", help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--units", type=int, default=100, help="of the first cell (default: 100)")
    parser.add_argument("--epochs", type=int, help="by default the recipe's")
    parser.add_argument("--batch-size", type=int, help="by default the recipe's")
    parser.add_argument("--recipe", choices=tuple(TEXT_RECIPES), default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--directory", type=Path, default=Path("runs/perplexity"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args(arguments)
    if LSTM in dict(options.cells) or len(dict(options.cells)) < len(options.cells):
        parser.error(f"two networks have the same NAME ({LSTM} is one)")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist")
    try:
        data = load_text(options.data_dir or PYDOC, purpose="train")
        results = _results(data, options)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    Console(width=160, highlight=False).print(_table(data, results, options.seeds))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _results(data: TextData, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Trains all networks and returns what came of them, by network and seed."""
    given = {"epochs": options.epochs, "batch_size": options.batch_size}
    recipe = dataclasses.replace(
        TEXT_RECIPES[options.recipe], **{n: value for n, value in given.items() if value}
    )
    cells = {name: read_cell(path) for name, path in options.cells}
    builds = {name: _shrink_rnn(cell, data) for name, cell in cells.items()}
    builds[LSTM] = _lstm(data)
    reference = count_params(next(iter(builds.values()))(options.units, recipe))
    units = {name: _units(build, recipe, reference) for name, build in builds.items()}
    options.directory.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    # Seed by seed, so that what there is after an interruption can be compared.
    for seed in options.seeds:
        for name, build in builds.items():
            path = options.directory / f"{name}-{seed}.json"
            settings = {
                **dataclasses.asdict(recipe),
                "cell": cells[name].to_json() if name in cells else LSTM,
                "text": data.name,
                "checksum": data.checksum,
                "test_checksum": zlib.crc32(data.part("test").tobytes()),
                "units": units[name],
                "seed": seed,
            }
            results[name].append(_train(build, data, recipe, settings, path))
    return results


def _shrink_rnn(cell: Cell, data: TextData) -> Build:
    def build(units: int, recipe: TextRecipe) -> keras.Model:
        dropouts = {**recipe.cell_dropouts(), **recipe.regularization()}
        return ShrinkRNN(cell, len(data.vocabulary), units, **dropouts)

    return build


def _lstm(data: TextData) -> Build:
    def build(units: int, recipe: TextRecipe) -> keras.Model:
        cell = keras.layers.LSTMCell(units, **recipe.cell_dropouts())
        return language_model(cell, len(data.vocabulary), **recipe.regularization())

    return build


def _units(build: Build, recipe: TextRecipe, params: int) -> int:
    """Finds the number of units that brings a network closest to a number of parameters."""
    few, many = 1, 2
    while count_params(build(many, recipe)) < params:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        below = count_params(build(middle, recipe)) < params
        few, many = (middle, many) if below else (few, middle)
    return min(few, many, key=lambda units: abs(count_params(build(units, recipe)) - params))


def _train(
    build: Build, data: TextData, recipe: TextRecipe, settings: dict[str, Any], path: Path
) -> dict[str, Any]:
    """Trains a network, or reads what came of a training that has ended."""
    if path.is_file():
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if differs := difference(facts, settings):
            raise ValueError(f"{path}: is of a run with {differs}; take another --directory")
        return facts
    started = time.monotonic()
    folder = path.with_suffix(".training")
    trained = train_model(
        functools.partial(build, settings["units"]),
        data,
        recipe,
        seed=settings["seed"],
        checkpoint=TrainingCheckpoint(folder, settings),
    )
    facts = {
        **settings,
        "validation_perplexity": trained.validation_perplexity,
        "test_perplexity": trained.test_perplexity,
        "params": count_params(trained.model),
        "macs": count_macs(trained.model, input_shape=(1,)),
        "seconds": time.monotonic() - started,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    remove_state(folder)
    print(f"{path}: test {facts['test_perplexity']:.2f}, {facts['seconds']:.0f} s", flush=True)
    return facts


def _table(data: TextData, results: dict[str, list[dict[str, Any]]], seeds: list[int]) -> Table:
    """Makes the table of perplexities; all networks but the first are also compared with it."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"perplexity, mean and spread of seeds {seeds}; unigram model: validation "
        f"{unigram_perplexity(data):.1f}, test {unigram_perplexity(data, 'test'):.1f}",
    )
    headings = ["network", "units", "MACs", "params", "validation", "test"]
    for heading in (*headings, *(f"seed {seed}" for seed in seeds), "test less the first"):
        table.add_column(heading, justify="right")
    first: list[float] = []
    for name, trainings in results.items():
        tested = [facts["test_perplexity"] for facts in trainings]
        first = first or tested
        differences = [a - b for a, b in zip(tested, first, strict=True)]
        one = trainings[0]
        table.add_row(
            name,
            str(one["units"]),
            f"{one['macs']:,}",
            f"{one['params']:,}",
            _spread([facts["validation_perplexity"] for facts in trainings], ""),
            _spread(tested, ""),
            *(f"{value:.1f}" for value in tested),
            "" if tested is first else _spread(differences, "+"),
        )
    return table


def _spread(values: list[float], sign: str) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{deviation}"


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=CELL")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
