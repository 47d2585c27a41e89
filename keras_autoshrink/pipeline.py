"""The steps after a search, which the commands and the demo share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import runs
from keras_autoshrink.cell import Cell
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.datasets import ImageData
from keras_autoshrink.training import build_network, train_network

OBJECTIVE = "accuracy"  # of the validation images

_console = Console(soft_wrap=True, highlight=False)


def train_and_save(
    cell: Cell,
    data: ImageData,
    path: Path,
    source: dict[str, Any],
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    width: float = 1.0,
    seed: int = 0,
    verbose: int = 0,
) -> keras.Model:
    """Trains a network of a cell and writes it, with a `.json` of what its user has to know.

    Args:
        cell: of the network.
        data: what to train it on.
        path: where to write it.
        source: where the data came from, for the record.
        epochs: see `train_network`.
        batch_size: likewise.
        learning_rate: likewise.
        width: see `build_network`.
        seed: likewise.
        verbose: see `train_network`.

    Returns:
        The trained model.
    """
    model = build_network(cell, data, width, seed)
    accuracy = train_network(model, data, epochs, batch_size, learning_rate, verbose)
    # Whole or not at all: under another name first.
    unfinished = path.with_name(f".{path.name}")
    model.save(unfinished)
    unfinished.replace(path)
    facts: dict[str, Any] = {
        **source,
        "class_names": data.class_names,
        "mean": data.mean,
        "std": data.std,
        "test_accuracy": accuracy,
        "macs": count_macs(model),
        "params": count_params(model),
        "epochs": epochs,
        "seed": seed,
        "cell": cell.to_json(),
    }
    runs.write_facts(path, facts)
    _console.print(
        f"wrote {path}: test accuracy {accuracy:.4f} on {len(data.test or ()):,} images, "
        f"{facts['macs']:,} MACs, {facts['params']:,} parameters"
    )
    return model


def export_and_check(
    model: keras.Model,
    data: ImageData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
) -> list[tflite_export.Check]:
    """Writes `<stem>.<quantization>.tflite` files and checks each on the test images.

    Raises:
        ValueError: the model takes other images, or tells other classes apart, than the data's.
    """
    if data.test is None:
        raise ValueError("data: loaded for a search, without test images; use purpose='train'")
    shapes = ((None, *data.input_shape), (None, len(data.class_names)))
    if not model.built or (model.input_shape, model.output_shape) != shapes:
        raise ValueError(
            f"model {model.name!r} takes {_shape(model, 'input')} and returns "
            f"{_shape(model, 'output')}; "
            f"the data set needs {shapes[0]} and {shapes[1]}"
        )
    checks = []
    for quantization in quantizations:
        path = stem.with_name(f"{stem.name}.{quantization}.tflite")
        tflite_export.convert(model, path, quantization, representative_data=data.train.x[:200])
        checks.append(tflite_export.check(model, path, data.test.x, data.test.y, count_macs(model)))
    return checks


def _shape(model: keras.Model, end: str) -> str:
    return str(getattr(model, f"{end}_shape", "an unknown shape"))


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
