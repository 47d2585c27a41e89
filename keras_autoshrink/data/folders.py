"""Folders of images: the parts and classes that they are laid out in, and a file as pixels."""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_autoshrink.checks import enumerated
from keras_autoshrink.data.checks import Array

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".png", ".tif", ".tiff", ".webp"),
)

# What people call the parts of a data set, in small letters.
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

LAYOUTS = (
    "a folder with one folder of images for each class, or with such folders 'train' and 'val', "
    "'train' and 'test', or all three"
)

# What systems leave in folders, besides what begins with a dot.
_CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")

_logger = logging.getLogger("keras_autoshrink")


# ---- layouts ------------------------------------------------------------------------------------


def find_parts(root: Path) -> dict[str, Path]:
    """Finds the folders of the parts that a data set is divided into, by their names.

    Args:
        root: a folder, or nothing that there is.

    Returns:
        The folders of `"train"` and of `"val"` and `"test"` where they are there, in whatever
        spelling: 'Train', 'valid', 'validation', 'testing'. A part whose images lie in no folders
        of classes is left out. Empty where `root` is no folder, or has other folders: classes.

    Raises:
        ValueError: two folders are the same part, or there is no training part beside others; the
            message names them.
    """
    found: dict[str, Path] = {}
    inside = _folders(root) if root.is_dir() else []
    for folder in inside:
        part = _PARTS.get(folder.name.casefold())
        if part in found:
            raise ValueError(
                f"{root}: {found[part].name!r} and {folder.name!r} are the same part of a data "
                "set; leave one of them"
            )
        if part is not None:
            found[part] = folder
    if not found or (len(found) == 1 and len(inside) > 1):
        return {}
    if "train" not in found:
        names = ", ".join(repr(folder.name) for folder in inside)
        raise ValueError(f"{root}: has no folder 'train' beside {names}; expected {LAYOUTS}")
    return {
        part: folder
        for part, folder in found.items()
        if part == "train" or _folders(folder) or not _images_in(folder)
    }


def find_classes(root: Path, parts: Mapping[str, Path]) -> list[str]:
    """Lists the names of the classes, sorted; warns of folders that are passed over.

    Args:
        root: of the data set.
        parts: its parts, which all need the same classes.

    Raises:
        ValueError: there is no such layout; the message says what is there.
    """
    train = parts["train"]
    classes = [folder.name for folder in _folders(train)]
    if len(classes) < 2:
        raise ValueError(
            f"{train}: expected two or more folders, one a class; found {len(classes)}"
            f"{_what_is_in(train)}; give {LAYOUTS}"
        )
    for part in parts.values():
        for name in sorted({*classes} ^ {folder.name for folder in _folders(part)}):
            has, lacks = (train, part) if name in classes else (part, train)
            raise ValueError(
                f"{lacks}: has no folder {name!r}, but {has} has; both need the same classes"
            )
    # 'training_set' and 'test_set' are no classes, and 'ant/train' and 'bee/train' no class each.
    inside = [{folder.name for folder in _folders(train / name)} for name in classes]
    if len(inside[0]) > 1 and all(
        names == inside[0] and not _images_in(train / name)
        for name, names in zip(classes, inside, strict=True)
    ):
        raise ValueError(
            f"{train}: its folders {_quoted(classes)} all hold the folders "
            f"{_quoted(sorted(inside[0]))}, and no images beside them; expected {LAYOUTS}"
        )
    beside = [folder.name for folder in _folders(root) if folder not in (train, *parts.values())]
    if root != train and beside:
        _logger.warning(
            "%s: passed over %s, in which no part of the data has its folders of classes",
            root,
            _quoted(beside),
        )
    return classes


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path) for entry in entries if not _is_clutter(entry.name) and entry.is_dir()
        )


def _images_in(folder: Path) -> int:
    """Counts the images in a folder, not those in folders within."""
    with os.scandir(folder) as entries:
        return sum(_is_image(entry.name) and not entry.is_dir() for entry in entries)


def _what_is_in(folder: Path) -> str:
    found = [repr(inside.name) for inside in _folders(folder)]
    images = _images_in(folder)
    if images:
        found.append(f"{images:,} images")
    return f" ({', '.join(found)})" if found else ""


def _quoted(names: Sequence[str]) -> str:
    return enumerated([repr(name) for name in names])


def _is_clutter(name: str) -> bool:  # .ipynb_checkpoints; ._cat.png of macOS
    return name.startswith(".") or name in _CLUTTER


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _is_clutter(name)


# ---- files --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder of classes, of each class those in folders within, too.

    Attributes:
        paths: of the files, class by class.
        labels: of their classes, int32 of shape (n,).
    """

    paths: list[str]
    labels: Array


def list_images(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """Lists the image files of a folder of classes; warns of files that are passed over.

    Raises:
        ValueError: a class has no images.
    """
    paths: list[str] = []
    counts, others = [], []
    for name in classes:
        # For a million files a Path of each, or a look at each, would take long.
        files = sorted(_files(folder / name))
        images = [path for path in files if path.lower().endswith(IMAGE_SUFFIXES)]
        others += [path for path in files if not path.lower().endswith(IMAGE_SUFFIXES)]
        if not images:
            raise ValueError(f"{folder / name}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        paths += images
        counts.append(len(images))
    with os.scandir(folder) as entries:
        others += sorted(e.path for e in entries if _is_image(e.name) and not e.is_dir())
    if others:
        _logger.warning(
            "%s: passed over %s files beside %s images, in no class or of no suffix of an image: "
            "%s",
            folder,
            f"{len(others):,}",
            f"{len(paths):,}",
            enumerated([os.path.relpath(path, folder) for path in others]),
        )
    return ImageFiles(paths, np.repeat(np.arange(len(classes), dtype=np.int32), counts))


def _files(folder: str | os.PathLike[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the paths of the files in a folder and in those within."""
    real = os.path.realpath(folder)
    if real in above:  # a link back
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_clutter(entry.name):
                continue
            # What is called an image and is a folder cannot be read, and is named for that.
            if entry.is_dir() and not _is_image(entry.name):
                yield from _files(entry.path, (*above, real))
            else:
                yield entry.path


# ---- pixels -------------------------------------------------------------------------------------


def load_folder(
    folder: Path, classes: Sequence[str], image_size: int, strict: bool
) -> tuple[Array, Array]:
    """Loads the images of a folder of classes; leaves out, and names, what cannot be read.

    Args:
        folder: that holds one folder for each class.
        classes: their names.
        image_size: height and width to which images are resized.
        strict: whether an image that cannot be read is an error.

    Returns:
        Images, uint8 of shape (n, image_size, image_size, 3), and labels of shape (n,).

    Raises:
        ValueError: a class has no image that can be read; or with `strict` one cannot be read.
    """
    listed = list_images(folder, classes)
    images: list[Array] = []
    labels: list[int] = []
    skipped: list[str] = []
    labelled = zip(listed.paths, listed.labels.tolist(), strict=True)
    for label, files in itertools.groupby(labelled, key=lambda file: file[1]):
        before = len(skipped), len(images)
        for path, _ in files:
            try:
                images.append(read_image(path, image_size))
            except MemoryError:
                raise  # no fault of the file's
            except Exception as error:  # Pillow's decoders raise whatever they meet
                if strict:
                    raise ValueError(f"{path}: not a readable image: {reason(error)}") from error
                skipped.append(f"{os.path.relpath(path, folder)} ({reason(error)})")
            else:
                labels.append(label)
        if len(images) == before[1]:
            lost = skipped[before[0] :]
            raise ValueError(
                f"{folder / classes[label]}: none of its {len(lost):,} images can be read: "
                f"{enumerated(lost)}"
            )
    if skipped:
        _logger.warning(
            "%s: skipped %s of %s images that cannot be read: %s",
            folder,
            f"{len(skipped):,}",
            f"{len(skipped) + len(images):,}",
            enumerated(skipped),
        )
    return np.stack(images), np.array(labels)


def read_image(file: str | os.PathLike[str] | io.BytesIO, image_size: int | None = None) -> Array:
    """Reads an image upright and on white: turned by its EXIF orientation, as a browser shows it.

    Args:
        file: its path, or its content.
        image_size: height and width to resize it to; None to leave its size.

    Returns:
        Pixels in RGB, uint8 of shape (height, width, 3); of an animation those of its first frame.

    Raises:
        Exception: whatever Pillow raises where it cannot be read; see `reason`.
    """
    from PIL import Image

    with Image.open(file) as opened:
        opened.load()  # of a TIFF, also turns it
        image: Image.Image = _upright(opened)
        if image.mode == "F":
            raise ValueError("its pixels are of floating point")
        if image.mode.startswith("I"):  # 16 bits, of which convert() keeps 0 to 255
            image = _grey_of_8_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        return np.asarray(image.resize((image_size, image_size)) if image_size else image)


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image by its orientation; leaves it where that cannot be read, as browsers do."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(Base.Orientation))
    except Exception:  # of damaged metadata, whatever their readers raise
        return image
    return image if turn is None else image.transpose(turn)


def _grey_of_8_bits(image: Image.Image) -> Image.Image:
    """Returns the upper 8 of the 16 bits of a grey image, what is transparent in white."""
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() >= 2**16:
        raise ValueError("its pixels have more than 16 bits")
    grey = (pixels // 256).astype(np.uint8)
    if "transparency" in image.info:
        grey[pixels == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def reason(error: Exception) -> str:
    """Says why an image cannot be read, in a few words of one line."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.partition("\n")[0]
