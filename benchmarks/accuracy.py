"""Networks of several cells at one MAC budget: trained alike, with several seeds, compared.

Each cell's network gets the largest width that fits the budget. Test accuracies are measured
once, at the end of a training. A run that is killed goes on where it stopped; trainings that
have ended are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from tflite_export.runtime import native_output_silenced


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/accuracy.py found=runs/cifar10 "
        "chain=benchmarks/cells/separable_chain.json --dataset cifar10 --target-macs 4000000 "
        "--epochs 8",
    )
    parser.add_argument(
        "cells",
        nargs="+",
        type=_named,
        metavar="NAME=CELL",
        help="a search's folder, a .json, or shrinkcnn for the published cell",
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps its data")
    parser.add_argument("--target-macs", type=int, required=True, help="for one image, at most")
    parser.add_argument("--epochs", type=int, help="by default the recipe's")
    parser.add_argument("--recipe", choices=("plain", "cifar10"), default="cifar10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--directory", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args(arguments)
    if len(dict(options.cells)) < len(options.cells):
        parser.error("two cells have the same NAME")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist")
    try:
        results = _results(options)
    except ValueError as error:
        parser.error(str(error))
    Console(width=160, highlight=False).print(_table(results, options.seeds))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _results(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Trains all networks and returns their facts, by cell and seed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        from keras_autoshrink.data.images import load_images
        from keras_autoshrink.report.saved_search import read_cell
        from keras_autoshrink.training.classifier import architecture
        from keras_autoshrink.training.recipes import RECIPES

        data = load_images(options.dataset, purpose="train", data_dir=options.data_dir)
        recipe = RECIPES[options.recipe]
        if options.epochs:
            recipe = dataclasses.replace(recipe, epochs=options.epochs)
        cells = {name: read_cell(path) for name, path in options.cells}
        widths = {
            name: kas.width_for_macs(options.target_macs, cell, **architecture(data))
            for name, cell in cells.items()
        }
    options.directory.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in cells}
    # Seed by seed, so that what there is after an interruption can be compared.
    for seed in options.seeds:
        for name, cell in cells.items():
            path = options.directory / f"{name}-{seed}.keras"
            facts = _train(cell, data, path, options.dataset, recipe, widths[name], seed)
            results[name].append(facts)
    return results


def _train(
    cell: kas.Cell, data: Any, path: Path, dataset: str, recipe: Any, width: float, seed: int
) -> dict[str, Any]:
    """Trains a network and returns the facts of its file."""
    from keras_autoshrink.commands.images import ImageTraining
    from keras_autoshrink.commands.pipeline import train_and_save
    from keras_autoshrink.report.saved_search import read_facts

    started = time.monotonic()
    source = {"dataset": dataset, "split_seed": 0}
    train_and_save(
        ImageTraining(
            cell=cell,
            data=data,
            recipe=recipe,
            path=path,
            source=source,
            seed=seed,
            width=width,
            verbose=2,
        )
    )
    print(f"{path}: {time.monotonic() - started:.0f} s", flush=True)
    return read_facts(path)


def _table(results: dict[str, list[dict[str, Any]]], seeds: list[int]) -> Table:
    """Makes the table of accuracies; all cells but the first are also compared with it."""
    table = Table(box=box.SIMPLE_HEAD, title=f"test accuracy, mean and spread of seeds {seeds}")
    for heading in ("cell", "width", "MACs", "params", *(f"seed {seed}" for seed in seeds)):
        table.add_column(heading, justify="right")
    table.add_column("mean ± deviation", justify="right")
    table.add_column("less the first", justify="right")
    first: list[float] = []
    for name, trainings in results.items():
        accuracies = [facts["test_accuracy"] for facts in trainings]
        first = first or accuracies
        differences = [a - b for a, b in zip(accuracies, first, strict=True)]
        one = trainings[0]
        table.add_row(
            name,
            f"{one['width']:.2f}",
            f"{one['macs']:,}",
            f"{one['params']:,}",
            *(f"{accuracy:.4f}" for accuracy in accuracies),
            _spread(accuracies, ""),
            "" if differences == [0] * len(seeds) else _spread(differences, "+"),
        )
    return table


def _spread(values: list[float], sign: str) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.4f}{deviation}"


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=CELL")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
