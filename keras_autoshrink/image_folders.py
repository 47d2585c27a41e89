"""Folders with one folder of images for each class, read into memory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from keras_autoshrink.checks import enumerated
from keras_autoshrink.image_checks import Array

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

_logger = logging.getLogger("keras_autoshrink")


def read_folder(path: Path, image_size: int, strict: bool) -> tuple[Array, Array, tuple[str, ...]]:
    """Reads the images of a folder that holds one folder for each class.

    A file that cannot be read, cut in half perhaps, is left out; how many these are, and which,
    is said in one warning of the logger `keras_autoshrink`.

    Args:
        path: the folder. Hidden entries in it, and files of other suffixes, are passed over.
        image_size: height and width to which images are resized, in pixels.
        strict: whether a file that cannot be read is an error.

    Returns:
        Images, uint8 of shape (n, image_size, image_size, 3), labels of shape (n,), and the names
        of the classes. The order is that of the names of the files.

    Raises:
        ValueError: there are fewer than two classes, a class has no readable image, or `strict`
            is true and a file cannot be read.
    """
    folders = [entry for entry in _visible(path) if entry.is_dir()]
    if len(folders) < 2:
        raise ValueError(f"{path}: expected two or more folders, one a class; found {len(folders)}")
    images: list[Array] = []
    labels: list[int] = []
    skipped: list[str] = []
    for label, folder in enumerate(folders):
        found = [entry for entry in _visible(folder) if entry.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise ValueError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        before = len(skipped)
        for file in found:
            try:
                images.append(_read(file, image_size))
            except MemoryError:
                raise  # no fault of the file's
            except Exception as error:  # Pillow's decoders raise whatever they meet
                reason = _reason(error)
                if strict:
                    raise ValueError(f"{file}: not a readable image: {reason}") from error
                skipped.append(f"{folder.name}/{file.name} ({reason})")
            else:
                labels.append(label)
        if len(skipped) - before == len(found):
            raise ValueError(
                f"{folder}: none of its {len(found):,} images can be read: "
                f"{enumerated(skipped[before:])}"
            )
    if skipped:
        _logger.warning(
            "%s: skipped %s of %s images that cannot be read: %s",
            path,
            f"{len(skipped):,}",
            f"{len(skipped) + len(images):,}",
            enumerated(skipped),
        )
    return np.stack(images), np.array(labels), tuple(folder.name for folder in folders)


def _visible(folder: Path) -> list[Path]:  # not .ipynb_checkpoints, not ._cat.png of macOS
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _read(file: Path, image_size: int) -> Array:
    """An image file, in RGB and resized."""
    from PIL import Image

    with Image.open(file) as opened:
        image: Image.Image = opened
        if image.mode.startswith("I"):  # 16 bits, of which convert() keeps 0 to 255
            image = image.point(lambda grey: grey / 256).convert("L")
        return np.asarray(image.convert("RGB").resize((image_size, image_size)))


def _reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words of one line."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.partition("\n")[0]
