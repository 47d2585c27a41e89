"""Makes other tasks of CIFAR-10's images, for `budget.py`: photographs, and which way up they are.

`photos` is a folder of ten folders of 300 PNG files each, as people have them; `photos.npz` has the
same 3,000 images to train on, and all of CIFAR-10's test images to test on. `rotations.npz` has
5,000 other images, each turned by 0, 90, 180 or 270 degrees: the class is which. They are made
smaller first, and larger once they are turned: images that were once compressed as JPEG tell by the
traces of that, too, which way up they are, and not only by what they show.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tflite_export.runtime import native_output_silenced

_OF_CLASS = 300
TURNED = 5_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the folder and the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/budget_data.py runs/budget"
    )
    parser.add_argument("directory", type=Path, help="where to write")
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    options.directory.mkdir(parents=True, exist_ok=True)
    with native_output_silenced():
        import tensorflow_datasets as tfds

        builder = tfds.builder("cifar10", data_dir=options.data_dir)
        parts = tfds.as_numpy(builder.as_dataset(batch_size=-1))
    x, y = parts["train"]["image"], parts["train"]["label"]
    x_test, y_test = parts["test"]["image"], parts["test"]["label"]
    photos, others = photographs_and_others(y)
    _write_folder(
        options.directory / "photos", x[photos], y[photos], builder.info.features["label"].names
    )
    np.savez_compressed(
        options.directory / "photos.npz",
        **{"x_train": x[photos], "y_train": y[photos], "x_test": x_test, "y_test": y_test},
    )
    generator = np.random.default_rng(0)
    generator.permutation(len(x))  # as it was for the photographs
    others = others[:TURNED]
    turned = {}
    for part, images in (("train", x[others]), ("test", x_test)):
        turns = generator.integers(0, 4, len(images))
        pairs = zip(images, turns, strict=True)
        turned[f"x_{part}"] = np.stack([_turned(image, turn) for image, turn in pairs])
        turned[f"y_{part}"] = turns
    np.savez_compressed(options.directory / "rotations.npz", **turned)


def _turned(image: np.ndarray, turns: int) -> np.ndarray:
    """Turns an image by so many right angles, without the traces of an earlier compression.

    Those are of single pixels, of even and odd ones, so means of 2 by 2 have none.
    """
    height, width, channels = image.shape
    halved = image.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    small = Image.fromarray(np.rot90(halved.round().astype(np.uint8), turns).copy())
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def photographs_and_others(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the photographs among CIFAR-10's training images, and of all others.

    Args:
        labels: of the training images.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    found = np.concatenate([order[labels[order] == label][:_OF_CLASS] for label in range(10)])
    return found, np.setdiff1d(order, found, assume_unique=True)


def _write_folder(folder: Path, images: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / names[label] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


if __name__ == "__main__":
    main()
