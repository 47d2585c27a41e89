"""The parts of a data set: which image is in which, and how all of them are normalised."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from keras_autoshrink.image_checks import Array, check_classes, check_parts

Parts = dict[str, tuple[Array, Array]]


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
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_images: int | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.train.x.shape[1:]


def split_and_normalise(
    parts: Parts,
    class_names: tuple[str, ...],
    what: str,
    *,
    has_test: bool,
    purpose: str,
    seed: int,
    proxy: tuple[int, int] | None = None,
    holds_out_validation: bool = True,
) -> ImageData:
    """Checks the parts of a source, splits off those that it lacks, and normalises all.

    Args:
        parts: images and labels of `"train"`, and of `"val"` and `"test"` where they were read.
        class_names: one for each label.
        what: what to call the data set in messages.
        has_test: whether the source brings a test part, read or not.
        purpose: `"search"` leaves out the test part; see `load_images`.
        seed: of all that is drawn here.
        proxy: how many images a search trains on and scores on, or None for all.
        holds_out_validation: whether a training, too, goes without a validation part's images.

    Raises:
        ValueError: there are images that cannot be trained on, or too few of them.
    """
    check_parts(parts, class_names, what)
    parts = {part: (x, y.reshape(-1).astype(np.int32)) for part, (x, y) in parts.items()}
    searching = purpose == "search"
    source_images = len(parts["train"][0])
    # A source without a test part gives up a fifth for it, whether it is read now or not:
    # no image that a search has seen is then in the test of the network it found.
    if not has_test:
        _split_off("test", parts, class_names, what, seed)
    if searching:
        parts.pop("test", None)
    if searching and proxy:
        _draw_proxy(parts, proxy, class_names, what, seed)
    elif "val" not in parts and (searching or holds_out_validation):
        _split_off("val", parts, class_names, what, seed)
    if searching:
        labels = {f"{what}: {part}": parts[part][1] for part in ("train", "val")}
        check_classes(labels, class_names)
    mean, std = _statistics(parts["train"][0])
    splits = {
        part: Split(np.subtract(x, mean, dtype=np.float32) / np.array(std, np.float32), y)
        for part, (x, y) in parts.items()
    }
    return ImageData(
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        class_names,
        mean,
        std,
        source_images,
    )


def _split_off(part: str, parts: Parts, class_names: Sequence[str], what: str, seed: int) -> None:
    """Moves a fifth of the training images, the same share of each class, into another part."""
    from sklearn.model_selection import train_test_split

    x, y = parts["train"]
    counts = np.bincount(y)
    try:
        x, x_fifth, y, y_fifth = train_test_split(
            x, y, test_size=0.2, random_state=seed, stratify=y
        )
        # A fifth of fewer than 5 can come to none.
        lacking = np.bincount(y_fifth, minlength=len(class_names)) == 0
    except ValueError:
        lacking = counts == counts.min()
    if lacking.any():
        scarce = int(lacking.argmax())
        raise ValueError(
            f"{what}: too few images to split by class: {counts[scarce]} of class "
            f"{class_names[scarce]!r}; 7 of each are enough"
        )
    parts["train"], parts[part] = (x, y), (x_fifth, y_fifth)


def _draw_proxy(
    parts: Parts, proxy: tuple[int, int], class_names: Sequence[str], what: str, seed: int
) -> None:
    """Reduces the parts to so many images, drawn without replacement and as many of each class.

    Those to score on come from the validation part, or, where there is none, from what is left
    of the training part.
    """
    if "val" in parts:
        for part, size in zip(("train", "val"), proxy, strict=True):
            x, y = parts[part]
            (drawn,) = _draw_balanced(y, (size,), class_names, f"{what}: {part}", seed)
            parts[part] = (x[drawn], y[drawn])
    else:
        x, y = parts["train"]
        train, val = _draw_balanced(y, proxy, class_names, f"{what}: train", seed)
        parts["train"], parts["val"] = (x[train], y[train]), (x[val], y[val])


def _draw_balanced(
    labels: Array, sizes: Sequence[int], class_names: Sequence[str], what: str, seed: int
) -> list[Array]:
    """Disjoint, class-balanced index sets of the given sizes, drawn without replacement."""
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
    """Mean and standard deviation of each channel; 1 for the deviation of a constant one."""
    # Float32 sums of ten million pixels stop growing. One channel at a time, for memory.
    channels = np.moveaxis(images, -1, 0)
    mean = tuple(float(c.mean(dtype=np.float64)) for c in channels)
    std = tuple(float(c.std(dtype=np.float64)) if c.min() < c.max() else 1.0 for c in channels)
    return mean, std
