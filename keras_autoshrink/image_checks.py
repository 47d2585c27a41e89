"""What images and labels must be like before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


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
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(x.astype(np.float32, copy=False)).all(axis=(1, 2, 3))
        if not finite.all():
            bad = f"{np.count_nonzero(~finite)} of {len(x)}"
            raise ValueError(
                f"{what}: {bad} images have pixels that are NaN or infinite in float32"
            )


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


def check_fit_data(
    x: Any = None,
    y: Any = None,
    *_: Any,
    input_shape: Sequence[int],
    classes: int,
    validation_data: Any = None,
    validation_split: float = 0.0,
    **__: Any,
) -> None:
    """Checks the arguments of `fit` for an image classifier, as far as they can be seen.

    Arrays are looked through; of a `tf.data.Dataset` the shape of the images is known; whatever
    else `fit` takes is left to it.

    Raises:
        ValueError: they do not fit; the message names the argument.
    """
    if x is None:
        raise ValueError("x: no training data; call search(x, y, validation_data=(x, y))")
    if validation_data is None and not validation_split:
        raise ValueError(
            "validation_data: missing; the score is measured on it, pass "
            "validation_data=(x, y) to search()"
        )
    _check_pair(x, y, tuple(input_shape), classes, "x")
    images, labels = validation_data, None
    if isinstance(validation_data, (tuple, list)):
        if len(validation_data) not in (2, 3):
            raise ValueError(
                f"validation_data: has {len(validation_data)} parts; expected (x, y) or "
                "(x, y, sample_weight)"
            )
        images, labels = validation_data[:2]
    if images is not None:
        _check_pair(images, labels, tuple(input_shape), classes, "validation_data")


def _check_pair(x: Any, y: Any, input_shape: tuple[int, ...], classes: int, what: str) -> None:
    """Checks images and their labels, or the data set that yields both."""
    if isinstance(x, (list, tuple)):
        raise ValueError(f"{what}: images are in a {type(x).__name__}; give a NumPy array")
    if isinstance(x, np.ndarray):
        if y is None:
            raise ValueError(f"{what}: has no labels")
        check_images(x, np.asarray(y), classes, what)
        shape = x.shape
    else:
        spec = getattr(x, "element_spec", None)
        if spec is not None and not (isinstance(spec, tuple) and len(spec) > 1):
            raise ValueError(f"{what}: has no labels; expected a data set of (images, labels)")
        spec_shape = getattr(spec[0], "shape", None) if spec else None
        if spec_shape is None or spec_shape.rank is None:
            return
        shape = tuple(spec_shape)
    if shape == input_shape:
        raise ValueError(f"{what}: images of shape {shape}, one by one; call batch() first")
    if len(shape) != 1 + len(input_shape) or any(
        size not in (None, expected) for size, expected in zip(shape[1:], input_shape, strict=True)
    ):
        raise ValueError(
            f"{what}: images have shape {shape[1:]}, the hypermodel's input_shape is {input_shape}"
        )
