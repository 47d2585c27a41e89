"""What the subcommands of `autoshrink` do with images."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from rich.console import Console

import tflite_export
from keras_autoshrink import image_choice, image_optimisation, image_pipeline, pipeline, runs
from keras_autoshrink.applications import width_for_macs
from keras_autoshrink.backends import check_tensorflow_backend
from keras_autoshrink.cell import Cell
from keras_autoshrink.datasets import BUILT_IN, IMAGENET, is_streamed, load_images
from keras_autoshrink.hypermodels import CNNCellHyperModel
from keras_autoshrink.image_pipeline import OBJECTIVE
from keras_autoshrink.recipes import RECIPES, Recipe, default_recipe
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.splits import ImageData
from keras_autoshrink.tasks import default_project
from keras_autoshrink.training import architecture

if TYPE_CHECKING:
    from keras_autoshrink.streams import ImageStreams

# Of a data set that is too large for memory: images to calibrate on, and to check a file on.
_SAMPLE = (200, 1_000)

_console = Console(soft_wrap=True, highlight=False)
_logger = logging.getLogger("keras_autoshrink")


def search(options: argparse.Namespace) -> int:
    """Finds a cell."""
    distribution_strategy = None
    if options.distribution_strategy != "none":
        check_tensorflow_backend(f"--distribution-strategy {options.distribution_strategy}")
        from keras_autoshrink import distribution

        distribution_strategy = distribution.create_strategy(options.distribution_strategy)
    source = _source(options, {"split_seed": options.seed})
    proxy = tuple(options.proxy_images) if options.proxy_images else None
    data = _load(source, options, "search", proxy)
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
    settings = {
        **source,
        **_counted(source, data),
        "epochs": options.epochs,
        "proxy": [len(data.train), len(data.validation or ())],
    }
    validation = (data.validation.x, data.validation.y)
    pipeline.search_and_report(
        hypermodel,
        AccuracyScore(options.mac_weight, options.cost),
        options,
        default_project(options),
        settings,
        {"x": data.train.x, "y": data.train.y, "validation_data": validation},
        OBJECTIVE,
        distribution_strategy,
    )
    return 0


def train(options: argparse.Namespace, cell: Cell) -> int:
    """Trains a ShrinkCNN of a cell in full."""
    from keras_autoshrink import distribution

    # Before all else of TensorFlow: several workers have to find each other at its start.
    strategy = distribution.create_strategy(options.distribution_strategy)
    # The split of the search, or else its validation images could end up in the test.
    searched = runs.settings_of(options.cell)
    source = _source(options, searched)
    recipe = _recipe(options, source["dataset"])
    data = _training_data(source, options)
    changed = _changed(searched, source, data)
    if changed:
        _logger.warning("%s; images that the search has seen may be in the test", changed)
    source.update(_counted(source, data))
    width = options.width
    if options.target_macs:
        width = width_for_macs(options.target_macs, cell, **architecture(data))
        _console.print(f"width {width} fits into {options.target_macs:,} MACs")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    image_pipeline.train_and_save(
        cell,
        data,
        options.output,
        source,
        recipe,
        width=width,
        activation=options.activation,
        seed=options.seed,
        strategy=strategy,
        precision=options.precision,
        log_dir=options.tensorboard,
        overwrite=options.overwrite,
        verbose=0 if options.quiet else 2,
    )
    return 0


def export(options: argparse.Namespace, model: keras.Model, facts: dict[str, Any]) -> int:
    """Converts a trained model and checks what came of it."""
    source = _source(options, facts)
    data = _training_data(source, options)
    image_optimisation.check_options(options, model, data)
    if not isinstance(data, ImageData):
        from keras_autoshrink import imagenet

        data = imagenet.sample(data, *_SAMPLE)
        _console.print(f"taking {len(data.test):,} of the test images")
    changed = _changed(facts, source, data)
    if changed:
        raise ValueError(f"{options.model}: was trained on other data: {changed}")
    if "mean" in facts and (facts["mean"], facts["std"]) != (list(data.mean), list(data.std)):
        raise ValueError(
            f"{options.model}: was trained on other data ({facts['dataset']}): their mean and "
            f"deviation were {facts['mean']} and {facts['std']}, those of {source['dataset']} are "
            f"{list(data.mean)} and {list(data.std)}"
        )
    quantizations = options.quantization
    if options.max_accuracy_drop is not None:
        chosen, data = image_choice.choose_quantization(model, data, options.max_accuracy_drop)
        if chosen is None:
            return 1
        quantizations = [chosen]
    folder = options.output_dir or options.model.parent
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / options.model.stem
    checks = image_pipeline.export_and_check(model, data, stem, quantizations)
    optimised = image_optimisation.export_optimised(model, data, stem, quantizations, options)
    pipeline.print_table(tflite_export.render_table([*checks, *optimised]))
    for check in optimised:
        gained = check.agreement.file_accuracy - checks[0].agreement.model_accuracy
        _console.print(f"{check.path}: its accuracy against {options.model}: {gained:+.4f}")
    return pipeline.report_checks([*checks, *optimised])


def _source(options: argparse.Namespace, recorded: dict[str, Any]) -> dict[str, Any]:
    """Which data to load, and how to split them: as given, else as recorded, else the digits."""
    dataset = options.dataset
    if dataset is not None and Path(dataset).exists() and dataset not in BUILT_IN:
        dataset = str(Path(dataset).resolve())  # to be found from another folder, too
    source = {"dataset": "digits", "image_size": None, "split_seed": 0}
    if dataset in (None, recorded.get("dataset", dataset)):  # of other data it says nothing
        source.update({name: recorded[name] for name in source if name in recorded})
    given = {"dataset": dataset, "image_size": options.image_size}
    source.update({name: value for name, value in given.items() if value is not None})
    if options.data_dir and source["dataset"] not in ("cifar10", IMAGENET):
        raise ValueError(
            f"--data-dir {options.data_dir}: is where tensorflow-datasets keeps its data, of which "
            f"{source['dataset']!r} is none"
        )
    if source["image_size"] is None:
        source["image_size"] = 224 if is_streamed(source["dataset"]) else 32
    return source


def _recipe(options: argparse.Namespace, dataset: str) -> Recipe:
    """The recipe that was asked for, or that of the data set, with what else was asked for."""
    name = options.recipe or default_recipe(dataset)
    if name not in RECIPES:
        raise ValueError(f"--recipe {name}: is for texts; for images: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    names = ("epochs", "batch_size", "learning_rate", "label_smoothing", "ema")
    given = {name: getattr(options, name) for name in names}
    return dataclasses.replace(
        recipe, **{name: value for name, value in given.items() if value is not None}
    )


def _training_data(source: dict[str, Any], options: argparse.Namespace) -> ImageData | ImageStreams:
    """A data set for the training of a network, in memory if it fits."""
    if not is_streamed(source["dataset"]):
        return _load(source, options, "train")
    from keras_autoshrink import imagenet

    return imagenet.open_streams(
        source["dataset"], data_dir=options.data_dir, image_size=source["image_size"]
    )


def _counted(source: dict[str, Any], data: ImageData | ImageStreams) -> dict[str, int]:
    """How many images were split into parts, of data that its user could change."""
    number = getattr(data, "source_images", None)  # streams have none: they bring their parts
    return {} if number is None or source["dataset"] in BUILT_IN else {"source_images": number}


def _changed(
    recorded: dict[str, Any], source: dict[str, Any], data: ImageData | ImageStreams
) -> str | None:
    """What to say if the recorded split was one of another number of images."""
    then = recorded.get("source_images")
    now = _counted(source, data).get("source_images")
    if then is None or now is None or then == now:
        return None
    if any(recorded.get(name) != value for name, value in source.items()):
        return None  # of other data it says nothing
    return (
        f"{source['dataset']}: has {now:,} images that can be read, it had {then:,}: they are "
        "split otherwise"
    )


def _load(
    source: dict[str, Any],
    options: argparse.Namespace,
    purpose: str,
    proxy: tuple[int, int] | None = None,
) -> ImageData:
    return load_images(
        source["dataset"],
        purpose=purpose,
        seed=source["split_seed"],
        data_dir=options.data_dir,
        image_size=source["image_size"],
        proxy=proxy,
        strict=options.strict,
    )
