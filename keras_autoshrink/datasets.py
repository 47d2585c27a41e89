"""Images and their labels: the built-in sets and your own files.

Arrays only: what comes from here serves every Keras backend.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_autoshrink.image_checks import Array, check_images

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, float32 of shape (n, height, width, channels), and labels, int32 of shape (n,)."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set for classification, normalised by the statistics of its training images.

    Attributes:
        train: what networks are trained on.
        validation: what a search scores on.
        test: what nothing is chosen by; None where a search loads the data.
        class_names: one for each label.
        mean: per channel, in the units of the original pixels.
        std: likewise; a network sees (pixel - mean) / std.
    """

    train: Split
    validation: Split
    test: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.train.x.shape[1:]


def load_images(
    source: str | os.PathLike[str],
    *,
    purpose: str,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
) -> ImageData:
    """Loads a data set for a search, or for the training of one network.

    Args:
        source: `"digits"` (scikit-learn's 1,797 handwritten digits of 8x8 pixels),
            `"cifar10"` (through tensorflow-datasets), an `.npz` file with the arrays
            `x_train` and `y_train`, and `x_val`, `y_val`, `x_test`, `y_test` where it has
            them, or a folder that holds one folder of images for each class.
        purpose: `"search"` leaves the test part unread, and of CIFAR-10 draws 5,000 images to
            train on and 1,000 others, class-balanced and all from the training split
            (arXiv 1911.09251, "Experiments"); `"train"` takes everything.
        seed: of the splits that the source does not bring itself.
        data_dir: where tensorflow-datasets keeps its data.
        image_size: height and width to which the images of a folder are resized.

    Raises:
        ValueError: the source is no data set; the message says what is wrong with it.
    """
    if purpose not in ("search", "train"):
        raise ValueError(f"purpose={purpose!r}: expected 'search' or 'train'")
    searching = purpose == "search"
    path = Path(source)
    if str(source) == "digits":
        return _load_digits(searching, seed)
    if str(source) == "cifar10":
        return _load_cifar10(searching, seed, data_dir)
    if path.suffix == ".npz":
        return _load_npz(path, searching, seed)
    if path.is_dir():
        return _load_folder(path, searching, seed, image_size)
    raise ValueError(
        f"data set {os.fspath(source)!r}: expected 'digits', 'cifar10', an .npz file, or a "
        "folder with one folder of images for each class"
    )


def _load_digits(searching: bool, seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.float32)
    names = tuple(str(name) for name in digits.target_names)
    return _finish({"train": (images, digits.target)}, False, names, searching, seed, "digits")


def _load_cifar10(searching: bool, seed: int, data_dir: str | os.PathLike[str] | None) -> ImageData:
    import tensorflow_datasets as tfds

    data_dir = None if data_dir is None else os.fspath(data_dir)
    builder = tfds.builder("cifar10", data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the network, the disk or tfds raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"cifar10: not in data_dir={str(builder.data_path)!r}, and it could not be "
            f"downloaded: {lines[0]}"
        ) from error
    names = tuple(builder.info.features["label"].names)

    def read(split: str) -> tuple[Array, Array]:
        part = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        return part["image"], part["label"]

    images, labels = read("train")
    if not searching:
        parts = {"train": (images, labels), "test": read("test")}
        return _finish(parts, True, names, searching, seed, "cifar10")
    train, validation = _draw_balanced(labels, (5_000, 1_000), seed)
    parts = {
        "train": (images[train], labels[train]),
        "val": (images[validation], labels[validation]),
    }
    return _finish(parts, True, names, searching, seed, "cifar10")


def _load_npz(path: Path, searching: bool, seed: int) -> ImageData:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path}: not a readable .npz file: {reason}") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise ValueError(f"{path}: not a readable .npz file: {error}") from error
    parts = {}
    for part in ("train", "val", "test"):
        names = (f"x_{part}", f"y_{part}")
        present = [name for name in names if name in arrays]
        if len(present) == 1 or (part == "train" and not present):
            missing = next(name for name in names if name not in arrays)
            has = ", ".join(arrays) or "none"
            raise ValueError(f"{path}: has no array {missing!r} (its arrays: {has})")
        if present and not (searching and part == "test"):
            images, labels = arrays[names[0]], arrays[names[1]]
            if images.ndim == 3:
                images = images[..., None]
            parts[part] = (images, labels)
    labels = parts["train"][1]
    if not np.issubdtype(labels.dtype, np.integer) or labels.size == 0 or labels.min() < 0:
        raise ValueError(f"{path}: y_train: expected integer labels from 0")
    names = tuple(str(label) for label in range(int(labels.max()) + 1))
    return _finish(parts, "x_test" in arrays, names, searching, seed, str(path))


def _load_folder(path: Path, searching: bool, seed: int, image_size: int) -> ImageData:
    from PIL import Image, UnidentifiedImageError

    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if len(folders) < 2:
        raise ValueError(
            f"{path}: has {len(folders)} folders; expected one folder of images for each of two "
            "or more classes"
        )
    images, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        for file in found:
            try:
                with Image.open(file) as image:
                    resized = image.convert("RGB").resize((image_size, image_size))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{file}: not a readable image: {error}") from error
            images.append(np.asarray(resized))
            labels.append(label)
    parts = {"train": (np.stack(images), np.array(labels))}
    return _finish(parts, False, tuple(f.name for f in folders), searching, seed, str(path))


def _finish(
    parts: dict[str, tuple[Array, Array]],
    has_test: bool,
    class_names: tuple[str, ...],
    searching: bool,
    seed: int,
    what: str,
) -> ImageData:
    """Checks the parts, splits off those that are missing, and normalises all of them."""
    for part, (images, labels) in parts.items():
        check_images(images, labels, len(class_names), f"{what}: {part}")
        if images.shape[1:] != parts["train"][0].shape[1:]:
            raise ValueError(
                f"{what}: images of {part} have shape {images.shape[1:]}, those of train "
                f"{parts['train'][0].shape[1:]}"
            )
    # A source without a test part gives up a fifth for it, whether it is read now or not:
    # no image that a search has seen is then in the test of the network it found.
    missing = ([] if has_test else ["test"]) + ([] if "val" in parts else ["val"])
    for part in missing:
        parts["train"], parts[part] = _split_off(*parts["train"], seed, what)
    if searching:
        parts.pop("test", None)
    train = parts["train"][0].astype(np.float32)
    mean, std = train.mean(axis=(0, 1, 2)), train.std(axis=(0, 1, 2))
    std = np.where(std > 0, std, 1).astype(np.float32)
    splits = {
        part: Split((images.astype(np.float32) - mean) / std, labels.reshape(-1).astype(np.int32))
        for part, (images, labels) in parts.items()
    }
    return ImageData(
        splits["train"],
        splits["val"],
        splits.get("test"),
        class_names,
        tuple(float(value) for value in mean),
        tuple(float(value) for value in std),
    )


def _split_off(
    images: Array, labels: Array, seed: int, what: str
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Splits a fifth off, stratified by class; returns the rest and the fifth."""
    from sklearn.model_selection import train_test_split

    try:
        rest, fifth, rest_labels, fifth_labels = train_test_split(
            images, labels, test_size=0.2, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise ValueError(f"{what}: too few images to split by class: {error}") from error
    return (rest, rest_labels), (fifth, fifth_labels)


def _draw_balanced(labels: Array, sizes: Sequence[int], seed: int) -> list[Array]:
    """Disjoint, class-balanced index sets of the given sizes, drawn without replacement."""
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    drawn: list[list[Array]] = [[] for _ in sizes]
    for label in classes:
        order = generator.permutation(np.flatnonzero(labels == label))
        start = 0
        for place, size in enumerate(sizes):
            stop = start + size // len(classes)
            drawn[place].append(order[start:stop])
            start = stop
    return [np.sort(np.concatenate(parts)) for parts in drawn]
