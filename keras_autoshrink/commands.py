"""What the subcommands of `autoshrink` do; each takes its options and returns an exit status."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import report, runs
from keras_autoshrink.applications import width_for_macs
from keras_autoshrink.cell import SHRINKCNN_CELL, Cell
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.datasets import ImageData, load_images
from keras_autoshrink.hypermodels import CNNCellHyperModel
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.training import architecture, build_network, train_network
from keras_autoshrink.tuner import AutoShrink

OBJECTIVE = "accuracy"  # of the validation images
_PUBLISHED = "shrinkcnn"  # names the published cell on the command line

_console = Console(soft_wrap=True, highlight=False)


def search(options: argparse.Namespace) -> int:
    """Finds a cell."""
    source = _source(options, {"split_seed": options.seed})
    data = _load(source, options, "search")
    folder = options.directory / (options.project_name or Path(source["dataset"]).resolve().stem)
    hypermodel = CNNCellHyperModel(
        input_shape=data.input_shape,
        classes=len(data.class_names),
        num_nodes=options.nodes,
        filters=options.filters,
        stem_filters=options.stem_filters,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    settings = {**source, "epochs": options.epochs}
    if not options.overwrite:
        runs.check_settings(folder, settings)
    tuner = AutoShrink(
        hypermodel,
        score=AccuracyScore(options.mac_weight),
        num_candidates=options.candidates,
        keep_fraction=options.keep_fraction,
        seed=options.seed,
        directory=options.directory,
        project_name=options.project_name or folder.name,
        overwrite=options.overwrite,
    )
    runs.write_settings(folder, settings)
    tuner.search(
        data.train.x,
        data.train.y,
        validation_data=(data.validation.x, data.validation.y),
        epochs=options.epochs,
        verbose=0 if options.quiet else 1,
    )
    print_table(report.trajectory_table(tuner.trajectory(), OBJECTIVE))
    for path in runs.write_results(folder, OBJECTIVE):
        _console.print(f"wrote {path}")
    return 0


def train(options: argparse.Namespace) -> int:
    """Trains a network of a cell in full."""
    if options.output.suffix != ".keras":
        raise ValueError(f"--output {options.output}: must end in .keras")
    if options.output.is_dir():
        raise ValueError(f"--output {options.output}: is a folder")
    cell = _cell(options.cell)
    # The split of the search, or else its validation images could end up in the test.
    source = _source(options, {} if options.cell == _PUBLISHED else _settings(options.cell))
    data = _load(source, options, "train")
    if Path(options.cell).is_dir() and not runs.read_search(Path(options.cell)).done:
        _console.print(f"The search in {options.cell} has not ended: taking its best cell so far")
    width = options.width
    if options.target_macs:
        width = width_for_macs(options.target_macs, cell, **architecture(data))
        _console.print(f"width {width} fits into {options.target_macs:,} MACs")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    train_and_save(
        cell,
        data,
        options.output,
        source,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        width=width,
        seed=options.seed,
        verbose=0 if options.quiet else 2,
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Converts a trained model and checks what came of it."""
    model = tflite_export.load_model(options.model)
    facts = runs.read_facts(options.model)
    source = _source(options, facts)
    data = _load(source, options, "train")
    if "mean" in facts and (facts["mean"], facts["std"]) != (list(data.mean), list(data.std)):
        raise ValueError(
            f"{options.model}: was trained on other data ({facts['dataset']}): their mean and "
            f"deviation were {facts['mean']} and {facts['std']}, those of {source['dataset']} are "
            f"{list(data.mean)} and {list(data.std)}"
        )
    folder = options.output_dir or options.model.parent
    folder.mkdir(parents=True, exist_ok=True)
    checks = export_and_check(model, data, folder / options.model.stem, options.quantization)
    print_table(tflite_export.render_table(checks))
    return report_checks(checks)


def show(options: argparse.Namespace) -> int:
    """Draws and describes a cell or a search."""
    picture = options.picture
    if picture and (picture.suffix not in (".png", ".svg", ".pdf") or picture.is_dir()):
        raise ValueError(f"--picture {picture}: expected a file that ends in .png, .svg or .pdf")
    if picture and not picture.parent.is_dir():
        raise ValueError(f"--picture {picture}: its folder does not exist")
    folder = Path(options.cell)
    if folder.is_dir():
        searched = runs.read_search(folder)
        print_table(report.trajectory_table(searched.trajectory()))
        if searched.error:
            _console.print(f"This search failed: {searched.error}")
        elif not searched.done:
            _console.print(
                f"This search is in round {searched.round.number}: chosen is the best so far."
            )
    cell = _cell(options.cell)
    table = Table(title=f"cell with {len(cell.edges)} edges")
    for heading in ("node", "op", "inputs", ""):
        table.add_column(heading)
    for node, op in enumerate(cell.ops):
        inputs = ", ".join(map(str, cell.predecessors(node))) or "-"
        table.add_row(str(node), op, inputs, "leaf" if node in cell.leaves else "")
    print_table(table)
    if picture:
        report.plot_cell(cell, picture)
        _console.print(f"wrote {picture}")
    return 0


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


def _settings(cell: str) -> dict[str, Any]:
    """The settings of the search that a cell comes from, if it lies in one's folder."""
    path = Path(cell)
    return runs.read_settings(path if path.is_dir() else path.parent)


def _source(options: argparse.Namespace, recorded: dict[str, Any]) -> dict[str, Any]:
    """Which data to load, and how to split them: as given, else as recorded, else the digits."""
    source = {"dataset": "digits", "image_size": 32, "split_seed": 0}
    source.update({name: recorded[name] for name in source if name in recorded})
    given = {"dataset": options.dataset, "image_size": options.image_size}
    source.update({name: value for name, value in given.items() if value is not None})
    return source


def _load(source: dict[str, Any], options: argparse.Namespace, purpose: str) -> ImageData:
    return load_images(
        source["dataset"],
        purpose=purpose,
        seed=source["split_seed"],
        data_dir=options.data_dir,
        image_size=source["image_size"],
    )


def _cell(name: str) -> Cell:
    return SHRINKCNN_CELL if name == _PUBLISHED else runs.read_cell(Path(name))
