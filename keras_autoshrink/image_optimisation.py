"""Files of an image network that was trained on, pruned or with its numbers in 8 bits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras

import tflite_export
from keras_autoshrink.image_pipeline import check_file, export_and_check
from keras_autoshrink.splits import ImageData
from tflite_export.optimize import check_optimisable

if TYPE_CHECKING:
    from keras_autoshrink.streams import ImageStreams

_EPOCHS = 3


def check_options(
    options: argparse.Namespace, model: keras.Model, data: ImageData | ImageStreams
) -> None:
    """Refuses what cannot be optimised, before there is a file.

    Args:
        options: of the command `export`.
        model: trained.
        data: that the model was trained on.

    Raises:
        ModuleNotFoundError: TFMOT or tf_keras is not installed.
        ValueError: the options contradict one another, or the data, or the model has a layer
            that cannot be optimised.
    """
    optimised = options.qat or options.prune is not None
    if options.epochs is not None and not optimised:
        raise ValueError("--epochs: is for --qat and --prune")
    if options.prune is not None and not 0 < options.prune < 1:
        raise ValueError(f"--prune {options.prune:g}: expected more than 0 and less than 1")
    if optimised and not isinstance(data, ImageData):
        raise ValueError("--qat, --prune: train on images that fit into memory; these do not")
    if optimised:
        check_optimisable(model)


def export_optimised(
    model: keras.Model,
    data: ImageData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
    options: argparse.Namespace,
) -> list[tflite_export.Check]:
    """Writes the files that `--prune` and `--qat` ask for, and checks each on the test images.

    They are `<stem>.pruned.<quantization>.tflite`, and `<stem>.qat.int8.tflite` or, with both,
    `<stem>.pruned.qat.int8.tflite`. Each is held against the network that it was made from: the
    one that was trained on, not `model`.

    Args:
        model: trained.
        data: of the training; its images are as they are, without augmentation.
        stem: the path that the files' names begin with.
        quantizations: of the pruned files.
        options: of the command `export`.
    """
    epochs = options.epochs or _EPOCHS
    checks = []
    if options.prune is not None:
        model = tflite_export.prune(
            model, data.train.x, data.train.y, options.prune, epochs=epochs, verbose=True
        )
        stem = stem.with_name(f"{stem.name}.pruned")
        checks += export_and_check(model, data, stem, quantizations)
    if options.qat:
        path = stem.with_name(f"{stem.name}.qat.int8.tflite")
        model = tflite_export.train_quantized(
            model, path, data.train.x, data.train.y, epochs=epochs, verbose=True
        )
        checks.append(check_file(model, data, path, stem.name, "trained with 8-bit numbers"))
    return checks
