"""Training one network in full, after the search."""

from __future__ import annotations

from typing import Any

import keras

from keras_autoshrink.applications import ShrinkCNN
from keras_autoshrink.cell import Cell
from keras_autoshrink.datasets import ImageData

# Below this size the published five stages would leave an image of one pixel.
_SMALL = 64
_SMALL_ARCHITECTURE: dict[str, Any] = {
    "stage_scales": (1, 2, 4),
    "stage_strides": (1, 2, 2),
    "stage_repeats": (2, 2, 2),
    "stem_stride": 1,
    "head_filters": None,
}


def architecture(data: ImageData) -> dict[str, Any]:
    """The arguments of `ShrinkCNN` that suit the images of a data set, all but its width.

    The published macro-architecture; for images below 64 pixels three stages of two cells each,
    without the head's convolution.
    """
    return {
        "input_shape": data.input_shape,
        "classes": len(data.class_names),
        # Some hundred steps an epoch or fewer: the statistics have to settle sooner.
        "batchnorm_momentum": 0.9,
        **(_SMALL_ARCHITECTURE if min(data.input_shape[:2]) < _SMALL else {}),
    }


def build_network(cell: Cell, data: ImageData, width: float = 1.0, seed: int = 0) -> keras.Model:
    """A ShrinkCNN for the images of a data set; see `architecture`.

    Args:
        cell: its cell.
        data: what it will be trained on.
        width: width multiplier.
        seed: of the initial weights; seeds the global generators of Python, NumPy and Keras.

    Returns:
        An untrained model that takes normalised images and returns logits.
    """
    keras.utils.set_random_seed(seed)
    return ShrinkCNN(cell, width=width, **architecture(data))


def compile_classifier(model: keras.Model, learning_rate: Any) -> None:
    """Compiles an image classifier that returns logits.

    Args:
        model: compiled in place.
        learning_rate: of Adam: a number or a schedule.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # XLA compiles longer than a small network trains, and runs it slower on CPUs.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def train_network(
    model: keras.Model,
    data: ImageData,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    verbose: int = 0,
) -> float:
    """Trains a classifier: Adam, the learning rate falling to 0 along a cosine.

    The weights are those after the last epoch: nothing is chosen by the validation images.

    Args:
        model: an image classifier that returns logits; trained in place.
        data: its training images are trained on, its validation images watched.
        epochs: number of epochs, at least 1.
        batch_size: number of images in a step.
        learning_rate: at the first step.
        verbose: as for `keras.Model.fit`.

    Returns:
        Accuracy on the test images, 0 to 1, measured once, at the end.

    Raises:
        ValueError: `epochs` or `batch_size` is less than 1, or the data were loaded without
            test images.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    if data.test is None:
        raise ValueError("data: loaded for a search, without test images; use purpose='train'")
    steps = epochs * -(-len(data.train) // batch_size)
    compile_classifier(model, keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    model.fit(
        data.train.x,
        data.train.y,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(data.validation.x, data.validation.y),
        verbose=verbose,
    )
    return float(model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)["accuracy"])
