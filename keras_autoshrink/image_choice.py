"""Which kind of `.tflite` file an image network gets: the smallest that is accurate enough."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import keras
from rich.console import Console

import tflite_export
from keras_autoshrink.image_pipeline import CALIBRATION, check_fits
from keras_autoshrink.splits import ImageData, Split
from tflite_export.smallest import choice_tables
from tflite_export.verify import MAX_ACCURACY_LOSS

_console = Console(width=80, highlight=False, markup=False)


def choose_quantization(
    model: keras.Model, data: ImageData, max_accuracy_drop: float
) -> tuple[tflite_export.Quantization | None, ImageData]:
    """Tries all kinds of files, prints what came of each, and chooses.

    The choice is made by the validation images. Where all but the test images were trained on, it
    is made by every other test image, and the file has to be checked on the rest.

    Args:
        model: a classifier of the data's images.
        data: as for the training of a network.
        max_accuracy_drop: by how much a file's accuracy may be below the model's, a share.

    Returns:
        The quantization, None if no file holds; and the data, with a test part that the choice
        has not seen.

    Raises:
        ValueError: the model takes other images, or tells other classes apart, than the data's;
            or `max_accuracy_drop` is below 0, or above what the check of an export allows.
    """
    if not 0 <= max_accuracy_drop <= MAX_ACCURACY_LOSS:
        raise ValueError(
            f"--max-accuracy-drop {max_accuracy_drop:g}: expected 0 to {MAX_ACCURACY_LOSS:g}; a "
            "file that loses more of the test images does not pass the check at the end"
        )
    check_fits(model, data)
    if data.validation is not None:
        by, what = data.validation, "the validation images"
    else:
        by, data, what = _halved(data)
    _console.print(f"choosing by {len(by):,} images: {what}", soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = tflite_export.convert_smallest(
                model,
                Path(folder) / "model.tflite",
                by.x,
                by.y,
                max_accuracy_drop,
                representative_data=data.train.x[:CALIBRATION],
            )
        except tflite_export.NoModeHoldsError as error:
            for table in choice_tables(error.modes, max_accuracy_drop):
                _console.print(table)
            _console.print(str(error), soft_wrap=True)
            return None, data
    for table in choice_tables(chosen.modes, max_accuracy_drop, chosen):
        _console.print(table)
    return chosen.chosen.quantization, data


def _halved(data: ImageData) -> tuple[Split, ImageData, str]:
    """Every other test image, and the data with the rest for its test."""
    assert data.test is not None
    x, y = data.test.x, data.test.y
    rest = dataclasses.replace(data, test=Split(x[1::2], y[1::2]))
    what = "every other test image, as there is no validation part; the check takes the rest"
    return Split(x[::2], y[::2]), rest, what
