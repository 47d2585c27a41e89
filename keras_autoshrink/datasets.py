"""Images and their labels: the built-in sets and your own files.

Arrays only: what comes from here serves every Keras backend.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import ssl
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_autoshrink.image_checks import Array, check_parts

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
        purpose: `"search"` leaves out the test part, unread where the source brings one, and of
            CIFAR-10 draws 5,000 images to train on and 1,000 others, class-balanced and all from
            the training split (arXiv 1911.09251); `"train"` takes everything.
        seed: of the splits that the source does not bring itself, 0 to 2**32 - 1. Only with the
            seed of the search is the test part then new to the network that it found.
        data_dir: where tensorflow-datasets keeps its data.
        image_size: height and width to which the images of a folder are resized, in RGB.

    Raises:
        ValueError: the source is no data set; the message says what is wrong with it.
    """
    if purpose not in ("search", "train"):
        raise ValueError(f"purpose={purpose!r}: expected 'search' or 'train'")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: expected 0 to 2**32 - 1")
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: expected 1 or more")
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

    place = data_dir
    parts = {}
    try:
        builder = tfds.builder("cifar10", data_dir=data_dir)
        place = builder.data_path
        if not builder.data_path.exists():
            _check_reachable(builder.info.homepage)
            builder.download_and_prepare()
        names = tuple(builder.info.features["label"].names)
        for part in ("train",) if searching else ("train", "test"):
            read = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1))
            parts[part] = (read["image"], read["label"])
    except Exception as error:  # whatever the network, the disk or tfds raise
        # The first line, without what TensorFlow puts in front.
        reason = str(error).partition("\n")[0].rpartition("}} ")[2] or type(error).__name__
        raise ValueError(f"cifar10: cannot be loaded from {place}: {reason}") from error
    if searching:
        images, labels = parts["train"]
        train, validation = _draw_balanced(labels, (5_000, 1_000), seed)
        parts["train"] = (images[train], labels[train])
        parts["val"] = (images[validation], labels[validation])
    return _finish(parts, True, names, searching, seed, "cifar10")


def _check_reachable(address: str) -> None:
    """Raises an OSError if it is not; tensorflow-datasets would try for minutes, and litter."""
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        # tensorflow-datasets has certificates of its own, where Python may have none.
        if not isinstance(reason, ssl.SSLError):
            raise OSError(f"not there, and {address} does not answer: {reason}") from error


def _load_npz(path: Path, searching: bool, seed: int) -> ImageData:
    wanted = ["x_train", "y_train", "x_val", "y_val"] + ([] if searching else ["x_test", "y_test"])
    try:
        with path.open("rb") as stream:  # np.load would leave a broken file open
            if not zipfile.is_zipfile(stream):
                raise ValueError("no zip archive, or one cut short")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                has = file.files
                arrays = {name: np.asarray(file[name]) for name in wanted if name in has}
    except Exception as error:  # zipfile and zlib have errors of their own
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: not a readable .npz file: {reason}") from error
    parts = {}
    for part in ("train", "val", "test"):
        names = (f"x_{part}", f"y_{part}")
        missing = [name for name in names if name not in has]
        if len(missing) == 1 or (missing and part == "train"):
            raise ValueError(f"{path}: has no array {missing[0]!r} (its arrays: {has})")
        if names[0] in arrays:
            images, labels = (arrays[name] for name in names)
            parts[part] = (images[..., None] if images.ndim == 3 else images, labels)
    # As many as there are different labels: the check of their range then finds a gap too.
    classes = tuple(str(label) for label in range(len(np.unique(parts["train"][1]))))
    return _finish(parts, "x_test" in has, classes, searching, seed, str(path))


def _load_folder(path: Path, searching: bool, seed: int, image_size: int) -> ImageData:
    from PIL import Image, UnidentifiedImageError

    def visible(folder: Path) -> list[Path]:  # not .ipynb_checkpoints, not ._cat.png of macOS
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))

    folders = [entry for entry in visible(path) if entry.is_dir()]
    if len(folders) < 2:
        raise ValueError(f"{path}: expected two or more folders, one a class; found {len(folders)}")
    images, labels = [], []
    for label, folder in enumerate(folders):
        found = [entry for entry in visible(folder) if entry.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise ValueError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        for file in found:
            try:
                with Image.open(file) as opened:
                    image = opened
                    if image.mode.startswith("I"):  # 16 bits, of which convert() keeps 0 to 255
                        image = image.point(lambda grey: grey / 256).convert("L")
                    resized = image.convert("RGB").resize((image_size, image_size))
            except Exception as error:  # Pillow's decoders raise whatever they meet
                reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
                raise ValueError(f"{file}: not a readable image: {reason}") from error
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
    from sklearn.model_selection import train_test_split

    check_parts(parts, class_names, what)
    parts = {part: (x, y.reshape(-1).astype(np.int32)) for part, (x, y) in parts.items()}
    counts = np.bincount(parts["train"][1])
    # A source without a test part gives up a fifth for it, whether it is read now or not:
    # no image that a search has seen is then in the test of the network it found.
    for part in ([] if has_test else ["test"]) + ([] if "val" in parts else ["val"]):
        x, y = parts["train"]
        try:
            x, x_fifth, y, y_fifth = train_test_split(
                x, y, test_size=0.2, random_state=seed, stratify=y
            )
        except ValueError as error:
            fewest = int(counts.argmin())
            few = f"{counts[fewest]} of class {class_names[fewest]!r}; 7 of each are enough"
            raise ValueError(f"{what}: too few images to split by class: {few}") from error
        parts["train"], parts[part] = (x, y), (x_fifth, y_fifth)
    if searching:
        parts.pop("test", None)
    mean, std = _statistics(parts["train"][0])
    splits = {
        part: Split(np.subtract(x, mean, dtype=np.float32) / np.array(std, np.float32), y)
        for part, (x, y) in parts.items()
    }
    return ImageData(splits["train"], splits["val"], splits.get("test"), class_names, mean, std)


def _statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; 1 for the deviation of a constant one."""
    # Float32 sums of ten million pixels stop growing. One channel at a time, for memory.
    channels = np.moveaxis(images, -1, 0)
    mean = tuple(float(c.mean(dtype=np.float64)) for c in channels)
    std = tuple(float(c.std(dtype=np.float64)) if c.min() < c.max() else 1.0 for c in channels)
    return mean, std


def _draw_balanced(labels: Array, sizes: Sequence[int], seed: int) -> list[Array]:
    """Disjoint, class-balanced index sets of the given sizes, drawn without replacement."""
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    orders = [generator.permutation(np.flatnonzero(labels == label)) for label in classes]
    stops = np.cumsum([0, *sizes]) // len(classes)
    return [
        np.sort(np.concatenate([order[start:stop] for order in orders]))
        for start, stop in itertools.pairwise(stops)
    ]
