"""The steps after a search, which the commands and the demo share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import runs
from keras_autoshrink.cell import Cell
from keras_autoshrink.checkpoint import TrainingCheckpoint, difference, remove_state
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.recipes import Recipe
from keras_autoshrink.splits import ImageData
from keras_autoshrink.training import train_network

if TYPE_CHECKING:
    from keras_autoshrink.streams import ImageStreams

OBJECTIVE = "accuracy"  # of the validation images

_console = Console(soft_wrap=True, highlight=False)


def train_and_save(
    cell: Cell,
    data: ImageData | ImageStreams,
    path: Path,
    source: dict[str, Any],
    recipe: Recipe,
    *,
    width: float = 1.0,
    activation: str = "relu",
    seed: int = 0,
    strategy: Any = None,
    precision: str = "float32",
    log_dir: Path | None = None,
    overwrite: bool = False,
    verbose: int = 0,
) -> keras.Model:
    """Trains a network of a cell and writes it, with a `.json` of what its user has to know.

    After each epoch the state of the training is written into a folder beside `path`, from
    which the same call goes on if it is killed; the folder is deleted at the end. Of several
    workers only the chief writes; all have to see that folder.

    Args:
        cell: of the network.
        data: what to train it on.
        path: where to write it.
        source: where the data came from, for the record.
        recipe: see `train_network`, as for all that follow.
        width: width multiplier.
        activation: of all BatchNorms.
        seed: of all random choices.
        strategy: on which devices.
        precision: in which to compute.
        log_dir: folder for TensorBoard.
        overwrite: whether to replace a model that is there, and to forget a training that was
            killed.
        verbose: as for `keras.Model.fit`.

    Returns:
        The trained model.

    Raises:
        ValueError: `path` is there and was trained otherwise, or the folder beside it is that
            of another training.
    """
    from keras_autoshrink import distribution

    # All that the result depends on: a training with others is another training.
    settings = {
        **source,
        **dataclasses.asdict(recipe),
        "images": len(data.train),
        "class_names": data.class_names,
        "mean": data.mean,
        "std": data.std,
        "width": width,
        "activation": activation,
        "seed": seed,
        "precision": precision,
        "cell": cell.to_json(),
    }
    chief = strategy is None or distribution.is_chief(strategy)
    folder = path.with_name(f"{path.name}.training")
    if overwrite and chief:
        remove_state(folder)
    checkpoint = TrainingCheckpoint(folder, settings)
    # Where there is a state, a kill may have come between the model and its facts: it goes on.
    if path.is_file() and not (overwrite or checkpoint.epochs_done):
        differs = difference(runs.read_facts(path), settings)
        if differs:
            raise ValueError(
                f"{path}: is there already, with {differs}; take another name, or overwrite=True "
                "(--overwrite) to replace it"
            )
        _console.print(f"{path} has been trained like this already")
        return tflite_export.load_model(path)
    if checkpoint.epochs_done:
        _console.print(f"going on after epoch {checkpoint.epochs_done} of {recipe.epochs}")
    if verbose:
        devices = strategy.num_replicas_in_sync if strategy else 1
        values = {**dataclasses.asdict(recipe), "width": width, "devices": devices}
        _console.print(", ".join(f"{name} {value}" for name, value in values.items()))
    trained = train_network(
        cell,
        data,
        recipe,
        width=width,
        activation=activation,
        seed=seed,
        strategy=strategy,
        precision=precision,
        checkpoint=checkpoint,
        log_dir=log_dir,
        verbose=verbose,
    )
    model = trained.model
    if not chief:
        return model
    # Whole or not at all: under another name first.
    unfinished = path.with_name(f".{path.name}")
    model.save(unfinished)
    unfinished.replace(path)
    facts: dict[str, Any] = {
        **settings,
        "test_accuracy": trained.test_accuracy,
        "macs": count_macs(model),
        "params": count_params(model),
        "history": trained.history,
    }
    runs.write_facts(path, facts)
    remove_state(folder)
    _console.print(
        f"wrote {path} and {path.name}.json: test accuracy {trained.test_accuracy:.4f} on "
        f"{len(data.test or ()):,} images, {facts['macs']:,} MACs, {facts['params']:,} parameters"
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
