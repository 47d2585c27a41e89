"""What images and labels must be like before anything is trained on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_autoshrink.checks import enumerated

Array = npt.NDArray[Any]

_logger = logging.getLogger("keras_autoshrink")


def check_images(x: Array, y: Array, classes: int, what: str = "data") -> None:
    """Checks that images and labels can be trained on.

    Args:
        x: images, shape (n, height, width, channels).
        y: integer labels, shape (n,) or (n, 1).
        classes: labels are 0 to classes - 1.
        what: what to call the data in messages.

    Raises:
        ValueError: they cannot.
    """
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(
            f"{what}: images have shape {x.shape}; expected (n, height, width, channels), none 0"
        )
    if x.dtype.kind not in "buif":
        raise ValueError(f"{what}: pixels are {x.dtype}; expected numbers")
    if y.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"{what}: {len(x)} images, but labels of shape {y.shape}; expected ({len(x)},)"
        )
    if y.dtype.kind not in "ui":
        raise ValueError(f"{what}: labels are {y.dtype}; expected integers 0 to {classes - 1}")
    if y.min() < 0 or y.max() >= classes:
        wrong = y[(y < 0) | (y >= classes)][0]
        raise ValueError(f"{what}: label {wrong} is not one of 0 to {classes - 1}")
    check_finite(x, what, "images have pixels that")


def check_finite(values: Array, what: str, things: str) -> None:
    """Checks that numbers stay numbers in the float32 of a network.

    Args:
        values: shape (n, ...).
        what: what to call the data in messages.
        things: what the n are, as the subject of a sentence.

    Raises:
        ValueError: some are NaN or infinite.
    """
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32, copy=False)).reshape(len(values), -1)
    bad = int(np.count_nonzero(~finite.all(axis=1)))
    if bad:
        raise ValueError(f"{what}: {bad} of {len(values)} {things} are NaN or infinite in float32")


def check_classes(labels: Mapping[str, Array], names: Sequence[object]) -> None:
    """Checks that a search is scored on what it trains on: each class is in both parts.

    A score that does not see a class is wrong for every candidate alike, so nothing would show
    it. A validation part with fewer images than there are classes cannot hold them all, however
    it is drawn: it is only warned of, as are classes that occur in neither part, such as the
    unused class 0 that many networks for ImageNet have.

    Args:
        labels: of the training and of the validation images, in this order, integers of any
            shape; the keys are what to call them in messages.
        names: of the classes, one for each label.

    Raises:
        ValueError: a class is in one part alone.
    """
    (train, in_train), (validation, in_validation) = (
        (part, np.bincount(y.reshape(-1).astype(np.int64), minlength=len(names)))
        for part, y in labels.items()
    )
    unseen = _named((in_train > 0) & (in_validation == 0), names)
    unknown = _named((in_train == 0) & (in_validation > 0), names)
    nowhere = _named((in_train == 0) & (in_validation == 0), names)
    if unknown:
        raise ValueError(f"{train}: has no image of {unknown}, which {validation} has")
    if unseen and in_validation.sum() >= np.count_nonzero(in_train):
        raise ValueError(
            f"{validation}: has no image of {unseen}, which {train} has; the score would not see it"
        )
    if unseen:
        _logger.warning(
            "%s: has %d images for %d classes, none of %s; the score does not see them",
            validation,
            in_validation.sum(),
            np.count_nonzero(in_train),
            unseen,
        )
    if nowhere:
        _logger.warning("%s, %s: have no image of %s", train, validation, nowhere)


def _named(which: Array, names: Sequence[object]) -> str:
    """Some of the classes: `class 3 of 10`, `classes 'ant', 'bee' of 10`; nothing for none."""
    found = [repr(name) for name, here in zip(names, which, strict=True) if here]
    return f"class{'es' * (len(found) > 1)} {enumerated(found)} of {len(names)}" if found else ""


def check_parts(
    parts: Mapping[str, tuple[Array, Array]], class_names: Sequence[str], what: str
) -> None:
    """Checks the parts of a data set, `"train"` among them.

    Args:
        parts: images and labels, as for `check_images`.
        class_names: one for each label.
        what: what to call the data set in messages.

    Raises:
        ValueError: a part cannot be trained on, the images of two parts differ in shape, or
            there is one class only.
    """
    shape = parts["train"][0].shape[1:]
    for part, (x, y) in parts.items():
        check_images(x, y, len(class_names), f"{what}: {part}")
        if x.shape[1:] != shape:
            raise ValueError(
                f"{what}: images of {part} have shape {x.shape[1:]}, those of train {shape}"
            )
    if len(class_names) < 2:
        raise ValueError(f"{what}: has one class; expected two or more")
