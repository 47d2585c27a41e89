"""Images and their labels: the built-in sets and your own files, as arrays for every backend."""

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

from keras_autoshrink.backend import check_tensorflow
from keras_autoshrink.checks import tensorflow_reason
from keras_autoshrink.data.checks import Array, check_classes, check_parts
from keras_autoshrink.data.folders import LAYOUTS, find_classes, find_parts, load_folder

IMAGENET = "imagenet2012"  # its name in tensorflow-datasets
BUILT_IN = ("digits", "cifar10", IMAGENET)

# Of CIFAR-10, unless another is asked for: to train candidates on, and to score them on.
_CIFAR10_PROXY = (5_000, 1_000)


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set; its length is the number of its images.

    Attributes:
        x: images, float32 of shape (n, height, width, channels).
        y: labels, int32 of shape (n,).
    """

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set for classification, normalised by the statistics of its training images.

    Attributes:
        train: what networks are trained on.
        validation: what a search scores on; None where all else is trained on.
        test: what nothing is chosen by; None where a search loads the data.
        class_names: one for each label.
        mean: per channel, in the units of the original pixels.
        std: per channel, in the units of the original pixels; a network sees (pixel - mean) / std.
        source_images: number of images from which the parts that the source lacks were split
            off. With another number the same seed splits them otherwise.
        brings_validation: whether the source has a validation part.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_images: int | None = None
    brings_validation: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The (height, width, channels) of an image."""
        return self.train.x.shape[1:]


def is_streamed(source: str | os.PathLike[str]) -> bool:
    """Says whether a network is trained in full on a data set by `streams.open_streams`.

    That is ImageNet, and a folder that holds a folder for each part, such as `train` and `val`.

    Raises:
        ValueError: it is a folder of parts that are not clear; the message names them.
    """
    if str(source) in BUILT_IN:
        return str(source) == IMAGENET
    return len(find_parts(Path(source))) > 1


def load_images(
    source: str | os.PathLike[str],
    *,
    purpose: str,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    proxy: tuple[int, int] | None = None,
    strict: bool = False,
) -> ImageData:
    """Loads a data set for a search, or for the training of one network.

    Args:
        source: `"digits"` (scikit-learn's 1,797 handwritten digits of 8x8 pixels),
            `"cifar10"` (through tensorflow-datasets), an `.npz` file with the arrays
            `x_train` and `y_train`, and `x_val`, `y_val`, `x_test`, `y_test` where it has
            them, a folder that holds one folder of images for each class, or one that holds such
            folders `train` and `val` or `test`. ('Train', 'valid' or 'validation' will do.) Where
            there is no `test`, a search is scored on `val`, and a training tested on it.
        purpose: `"search"` leaves out the test part, unread where the source brings one; `"train"`
            trains on all other images, so that there is a validation part only where the source
            brings one.
        seed: of the splits that the source does not bring itself, 0 to 2**32 - 1. Only with the
            seed of the search is the test part then new to the network that it found.
        data_dir: where tensorflow-datasets keeps its data.
        image_size: height and width to which the images of a folder are resized, in RGB, upright
            by their EXIF orientation, and on white where they are transparent.
        proxy: how many images a search trains its candidates on and how many it scores them
            on, in equal numbers of each class, drawn without replacement; all by default, of
            CIFAR-10 5,000 and 1,000, both from its training split (arXiv 1911.09251).
        strict: whether a file of a folder that cannot be read is an error; it is left out by
            default, and named in a warning of the logger `keras_autoshrink`.

    Returns:
        An `ImageData` of `train`, `validation` and `test`, each with images `x`, float32 of shape
        (n, height, width, channels), and labels `y`, int32 of shape (n,); of `class_names`;
        and of `mean` and `std` of the pixels, by which all are normalised.

    Raises:
        ValueError: the source is no data set; the message says what is wrong with it.

    Example:
        >>> digits = load_images("digits", purpose="search")
        >>> digits.train.x.shape, digits.validation.x.shape, digits.test
        ((1149, 8, 8, 1), (288, 8, 8, 1), None)
    """
    if purpose not in ("search", "train"):
        raise ValueError(f"purpose={purpose!r}: expected 'search' or 'train'")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: expected 0 to 2**32 - 1")
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: expected 1 or more")
    if proxy and purpose != "search":
        raise ValueError(f"proxy={proxy}: only a search has one; expected None")
    check_source(source, "search")
    searching = purpose == "search"
    path = Path(source)
    if str(source) == "digits":
        read = _load_digits()
    elif str(source) == "cifar10":
        read = _load_cifar10(searching, data_dir)
        proxy = proxy or _CIFAR10_PROXY
    elif path.suffix.lower() == ".npz":
        read = _load_npz(path, searching)
    else:
        read = _load_folder(path, searching, image_size, strict)
    check_parts(read.parts, read.class_names, read.name)
    source_images = len(read.parts["train"][0])
    brings_validation = "val" in read.parts
    _divide(read, searching=searching, seed=seed, proxy=proxy)
    mean, std = _statistics(read.parts["train"][0])
    splits = {
        part: Split(np.subtract(x, mean, dtype=np.float32) / np.array(std, np.float32), y)
        for part, (x, y) in read.parts.items()
    }
    return ImageData(
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        read.class_names,
        mean,
        std,
        source_images,
        brings_validation,
    )


def check_source(source: str | os.PathLike[str], purpose: str) -> None:
    """Refuses a data set that is not there, without reading it.

    Raises:
        ValueError: it is neither built in nor a file or folder that there is, or one that no
            search can load.
    """
    path = Path(source)
    if str(source) == IMAGENET and purpose == "search":
        raise ValueError(
            f"data set {IMAGENET!r}: does not fit into memory, and is for training a network only, "
            "by data.streams.open_streams; search on cifar10, or on a folder of some of its images"
        )
    if str(source) in BUILT_IN or path.is_dir():
        return
    if path.suffix.lower() != ".npz":
        raise ValueError(
            f"data set {os.fspath(source)!r}: expected 'digits', 'cifar10', an .npz file, {LAYOUTS}"
        )
    if not path.exists():
        raise ValueError(f"{path}: not a readable .npz file: No such file or directory")


@dataclasses.dataclass
class _Read:
    """What was read of a data set, and then what it is divided into."""

    name: str
    parts: dict[str, tuple[Array, Array]]  # "train", and "val" and "test" where they were read
    class_names: tuple[str, ...]
    has_test: bool  # whether the data set brings a test part, read or not


def _load_digits() -> _Read:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.float32)
    names = tuple(str(name) for name in digits.target_names)
    return _Read("digits", {"train": (images, digits.target)}, names, has_test=False)


def _load_cifar10(searching: bool, data_dir: str | os.PathLike[str] | None) -> _Read:
    check_tensorflow("cifar10", "tensorflow-datasets")
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
        reason = tensorflow_reason(error)
        raise ValueError(f"cifar10: cannot be loaded from {place}: {reason}") from error
    return _Read("cifar10", parts, names, has_test=True)


def _check_reachable(address: str) -> None:
    """Raises an OSError if nothing answers at an address.

    tensorflow-datasets would try for minutes, and leave files behind.
    """
    try:
        # An opener of its own: urlopen's keeps the proxies of the process's first request.
        urllib.request.build_opener().open(address, timeout=10).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        # tensorflow-datasets has certificates of its own, where Python may have none.
        if not isinstance(reason, ssl.SSLError):
            raise OSError(f"not there, and {address} does not answer: {reason}") from error


def _load_npz(path: Path, searching: bool) -> _Read:
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
    found = np.unique(parts["train"][1])
    if found.dtype.kind in "US":
        parts = {
            part: (x, _numbered(y, found, f"{path}: y_{part}")) for part, (x, y) in parts.items()
        }
        classes = tuple(found.astype(str).tolist())
    else:
        # As many as there are different labels: the check of their range then finds a gap too.
        classes = tuple(str(label) for label in range(len(found)))
    return _Read(os.fspath(path), parts, classes, has_test="x_test" in has)


def _numbered(labels: Array, names: Array, what: str) -> Array:
    """Numbers labels that are names of classes by the sorted names of all.

    Raises:
        ValueError: one of them is none of these.
    """
    if unknown := sorted({*labels.reshape(-1).tolist()} - {*names.tolist()}, key=str):
        raise ValueError(f"{what}: has the label {unknown[0]!r}, which y_train has not")
    return np.searchsorted(names, labels)


def _load_folder(path: Path, searching: bool, image_size: int, strict: bool) -> _Read:
    """Reads the images of a folder of classes, or of one with a folder of classes for each part."""
    folders = find_parts(path) or {"train": path}
    names = find_classes(path, folders)
    has_test = len(folders) > 1
    if searching:
        folders.pop("test", None)
    elif has_test and "test" not in folders:
        folders["test"] = folders.pop("val")
    parts = {
        part: load_folder(folder, names, image_size, strict) for part, folder in folders.items()
    }
    return _Read(os.fspath(path), parts, tuple(names), has_test)


def _divide(read: _Read, *, searching: bool, seed: int, proxy: tuple[int, int] | None) -> None:
    """Splits off the parts that a data set lacks, and drops those that a search may not see."""
    parts = read.parts = {
        part: (x, y.reshape(-1).astype(np.int32)) for part, (x, y) in read.parts.items()
    }
    counts = np.bincount(parts["train"][1], minlength=len(read.class_names))
    # A source without a test part gives up a fifth for it, whether it is read now or not:
    # no image that a search has seen is then in the test of the network it found.
    if not read.has_test:
        _split_off("test", read, seed, counts)
    if searching:
        parts.pop("test", None)
    if searching and proxy:
        _draw_proxy(read, proxy, seed)
    elif searching and "val" not in parts:
        _split_off("val", read, seed, counts)
    if searching:
        labels = {f"{read.name}: {part}": parts[part][1] for part in ("train", "val")}
        check_classes(labels, read.class_names)


def _split_off(part: str, read: _Read, seed: int, counts: Array) -> None:
    """Moves a fifth of the training images, the same share of each class, into another part.

    `counts` are the images of each class before any were moved.
    """
    from sklearn.model_selection import train_test_split

    x, y = read.parts["train"]
    try:
        x, x_fifth, y, y_fifth = train_test_split(
            x, y, test_size=0.2, random_state=seed, stratify=y
        )
        # A fifth of fewer than 5 can come to none.
        lacking = np.bincount(y_fifth, minlength=len(read.class_names)) == 0
    except ValueError:
        lacking = counts == counts.min()
    if lacking.any():
        scarce = int(lacking.argmax())
        raise ValueError(
            f"{read.name}: too few images to split by class: {counts[scarce]} of class "
            f"{read.class_names[scarce]!r}; 7 of each are enough"
        )
    read.parts["train"], read.parts[part] = (x, y), (x_fifth, y_fifth)


def _draw_proxy(read: _Read, proxy: tuple[int, int], seed: int) -> None:
    """Reduces the parts to so many images, as many of each class, drawn without replacement.

    Those to score on come from the validation part, or, where there is none, from what is left
    of the training part.
    """
    parts = read.parts
    if "val" in parts:
        for part, size in zip(("train", "val"), proxy, strict=True):
            x, y = parts[part]
            (drawn,) = _draw_balanced(y, (size,), read, part, seed)
            parts[part] = (x[drawn], y[drawn])
    else:
        x, y = parts["train"]
        train, val = _draw_balanced(y, proxy, read, "train", seed)
        parts["train"], parts["val"] = (x[train], y[train]), (x[val], y[val])


def _draw_balanced(
    labels: Array, sizes: Sequence[int], read: _Read, part: str, seed: int
) -> list[Array]:
    """Draws disjoint, class-balanced sets of indices of the given sizes."""
    what, class_names = f"{read.name}: {part}", read.class_names
    classes = len(class_names)
    for size in sizes:
        if size < 1 or size % classes:
            raise ValueError(
                f"{what}: {size} images cannot be balanced over its {classes} classes; take a "
                f"multiple of {classes}"
            )
    stops = np.cumsum([0, *sizes]) // classes
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < stops[-1]:
        scarce = int(counts.argmin())
        raise ValueError(
            f"{what}: has {counts[scarce]} images of class {class_names[scarce]!r}; "
            f"{' + '.join(map(str, sizes))} images take {stops[-1]} of each class"
        )
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    return [
        np.sort(np.concatenate([order[start:stop] for order in orders]))
        for start, stop in itertools.pairwise(stops)
    ]


def _statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each channel's mean and standard deviation, 1 for that of a constant channel."""
    # Float32 sums of ten million pixels stop growing. One channel at a time, for memory.
    channels = np.moveaxis(images, -1, 0)
    mean = tuple(float(c.mean(dtype=np.float64)) for c in channels)
    std = tuple(float(c.std(dtype=np.float64)) if c.min() < c.max() else 1.0 for c in channels)
    return mean, std
