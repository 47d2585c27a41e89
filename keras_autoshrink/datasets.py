"""Images and their labels: the built-in sets and your own files.

Arrays only: what comes from here serves every Keras backend.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
import zipfile
from pathlib import Path

import numpy as np

from keras_autoshrink.backends import check_tensorflow
from keras_autoshrink.checks import tensorflow_reason
from keras_autoshrink.image_folders import read_folder
from keras_autoshrink.splits import ImageData, Parts, split_and_normalise

# Of CIFAR-10, unless another is asked for: to train candidates on, and to score them on.
CIFAR10_PROXY = (5_000, 1_000)

IMAGENET = "imagenet2012"  # its name in tensorflow-datasets
BUILT_IN = ("digits", "cifar10", IMAGENET)

# What a source holds, whether it brings a test part (read or not), and its class names.
_Loaded = tuple[Parts, bool, tuple[str, ...]]


def is_streamed(source: str | os.PathLike[str]) -> bool:
    """Whether a data set is one for `imagenet.open_streams`, and not for `load_images`.

    That is ImageNet, and a folder that holds the folders `train` and `val`.
    """
    if str(source) in BUILT_IN:
        return str(source) == IMAGENET
    return all(Path(source, part).is_dir() for part in ("train", "val"))


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
            them, or a folder that holds one folder of images for each class.
        purpose: `"search"` leaves out the test part, unread where the source brings one;
            `"train"` takes everything, of CIFAR-10 all 50,000 training images, so that there
            is no validation part.
        seed: of the splits that the source does not bring itself, 0 to 2**32 - 1. Only with the
            seed of the search is the test part then new to the network that it found.
        data_dir: where tensorflow-datasets keeps its data.
        image_size: height and width to which the images of a folder are resized, in RGB.
        proxy: how many images a search trains its candidates on and how many it scores them
            on, in equal numbers of each class, drawn without replacement; all by default, of
            CIFAR-10 5,000 and 1,000, both from its training split (arXiv 1911.09251).
        strict: whether a file of a folder that cannot be read is an error; it is left out by
            default, and named in a warning of the logger `keras_autoshrink`.

    Returns:
        A `keras_autoshrink.splits.ImageData` of `train`, `validation` and `test`, each with images
        `x`, float32 of shape (n, height, width, channels), and labels `y`, int32 of shape (n,);
        of `class_names`; and of `mean` and `std` of the pixels, by which all are normalised.

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
    if is_streamed(source):
        raise ValueError(
            f"data set {os.fspath(source)!r}: ImageNet, and a folder with 'train' and 'val', are "
            "for training a network only, by imagenet.open_streams; search on cifar10, or on some "
            "of the images"
        )
    searching = purpose == "search"
    path = Path(source)
    if str(source) == "digits":
        parts, has_test, class_names = _load_digits()
    elif str(source) == "cifar10":
        parts, has_test, class_names = _load_cifar10(searching, data_dir)
        proxy = proxy or CIFAR10_PROXY
    elif path.suffix == ".npz":
        parts, has_test, class_names = _load_npz(path, searching)
    elif path.is_dir():
        x, y, class_names = read_folder(path, image_size, strict)
        parts, has_test = {"train": (x, y)}, False
    else:
        raise ValueError(
            f"data set {os.fspath(source)!r}: expected 'digits', 'cifar10', an .npz file, or a "
            "folder with one folder of images for each class"
        )
    return split_and_normalise(
        parts,
        class_names,
        os.fspath(source),
        has_test=has_test,
        purpose=purpose,
        seed=seed,
        proxy=proxy,
        holds_out_validation=str(source) != "cifar10",
    )


def _load_digits() -> _Loaded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.float32)
    names = tuple(str(name) for name in digits.target_names)
    return {"train": (images, digits.target)}, False, names


def _load_cifar10(searching: bool, data_dir: str | os.PathLike[str] | None) -> _Loaded:
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
    return parts, True, names


def _check_reachable(address: str) -> None:
    """Raises an OSError if it is not; tensorflow-datasets would try for minutes, and litter."""
    try:
        # An opener of its own: urlopen's keeps the proxies of the process's first request.
        urllib.request.build_opener().open(address, timeout=10).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        # tensorflow-datasets has certificates of its own, where Python may have none.
        if not isinstance(reason, ssl.SSLError):
            raise OSError(f"not there, and {address} does not answer: {reason}") from error


def _load_npz(path: Path, searching: bool) -> _Loaded:
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
    return parts, "x_test" in has, classes
