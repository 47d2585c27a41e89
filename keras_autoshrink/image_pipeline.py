"""From images to a checked file: the steps that the commands and the demo share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import tflite_export
from keras_autoshrink import pipeline
from keras_autoshrink.cell import Cell
from keras_autoshrink.checkpoint import TrainingCheckpoint
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.recipes import Recipe
from keras_autoshrink.splits import ImageData
from keras_autoshrink.training import train_network

if TYPE_CHECKING:
    from keras_autoshrink.streams import ImageStreams

OBJECTIVE = "accuracy"  # of the validation images
CALIBRATION = 200  # training images that the ranges of activations are measured on


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

    A training that was killed goes on, see `pipeline.train_once`. Of several workers only the
    chief writes; all have to see the folder of `path`.

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

    def train(checkpoint: TrainingCheckpoint) -> pipeline.Result:
        devices = strategy.num_replicas_in_sync if strategy else 1
        pipeline.print_plan(verbose, **dataclasses.asdict(recipe), width=width, devices=devices)
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
        macs, params = count_macs(trained.model), count_params(trained.model)
        return pipeline.Result(
            trained.model,
            {
                "test_accuracy": trained.test_accuracy,
                "macs": macs,
                "params": params,
                "history": trained.history,
                "pixel_max": _pixel_max(data),
            },
            f"test accuracy {trained.test_accuracy:.4f} on {len(data.test or ()):,} images, "
            f"{macs:,} MACs, {params:,} parameters",
        )

    chief = strategy is None or distribution.is_chief(strategy)
    return pipeline.train_once(
        path, settings, recipe.epochs, train, overwrite=overwrite, chief=chief
    )


def export_and_check(
    model: keras.Model,
    data: ImageData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
) -> list[tflite_export.Check]:
    """Writes `<stem>.<quantization>.tflite` files and checks each on the test images.

    Each has the class names, the mean and deviation of the pixels, and white, inside.

    Raises:
        ValueError: the model takes other images, or tells other classes apart, than the data's.
    """
    check_fits(model, data)
    checks = []
    for quantization in quantizations:
        path = stem.with_name(f"{stem.name}.{quantization}.tflite")
        tflite_export.convert(
            model, path, quantization, representative_data=data.train.x[:CALIBRATION]
        )
        checks.append(check_file(model, data, path, stem.name, quantization))
    return checks


def check_fits(model: keras.Model, data: ImageData) -> None:
    """Refuses a model of other images or classes than the data's, and data without a test part.

    Raises:
        ValueError: for one of these.
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


def check_file(
    model: keras.Model, data: ImageData, path: Path, name: str, kind: str
) -> tflite_export.Check:
    """Writes into a model's file what it is, and checks it on the test images.

    Args:
        model: that the file was made from.
        data: with a test part.
        path: of the file.
        name: of the network.
        kind: of numbers that the file holds, for its description.
    """
    tflite_export.add_metadata(
        path,
        name=name,
        description=f"Tells {len(data.class_names)} classes of images apart; {kind}.",
        labels=data.class_names,
        mean=data.mean,
        std=data.std,
        pixel_max=_pixel_max(data),
    )
    assert data.test is not None
    return tflite_export.check(model, path, data.test.x, data.test.y, count_macs(model))


def _pixel_max(data: ImageData | ImageStreams) -> float:
    """What white is in the units of the original pixels: 255 mostly, 16 for the digits."""
    if not isinstance(data, ImageData):
        return 255.0  # streams are of 8-bit images
    largest = data.train.x.max(axis=(0, 1, 2)) * np.array(data.std) + np.array(data.mean)
    return round(float(largest.max()), 3)


def _shape(model: keras.Model, end: str) -> str:
    return str(getattr(model, f"{end}_shape", "an unknown shape"))
