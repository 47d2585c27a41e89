"""What images and labels must be like before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
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
            f"{what}: images have shape {x.shape}; expected (n, height, width, channels)"
        )
    if y.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(f"{what}: {len(x)} images, but labels of shape {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{what}: labels are {y.dtype}; expected integers 0 to {classes - 1}")
    if y.min() < 0 or y.max() >= classes:
        wrong = y[(y < 0) | (y >= classes)].flat[0]
        raise ValueError(f"{what}: label {wrong} is not one of 0 to {classes - 1}")
    if not np.issubdtype(x.dtype, np.integer) and not np.isfinite(x).all():
        bad = int(np.count_nonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise ValueError(f"{what}: {bad} of {len(x)} images have pixels that are NaN or infinite")


def check_fit_data(
    x: Any = None,
    y: Any = None,
    *,
    input_shape: Sequence[int],
    classes: int,
    validation_data: Any = None,
    validation_split: float = 0.0,
    **_: Any,
) -> None:
    """Checks the arguments of `fit` for an image classifier, as far as they can be seen.

    Arrays are looked through; of a `tf.data.Dataset` only the shapes are known.

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
    pairs = [("x", x, y)]
    if isinstance(validation_data, (tuple, list)):
        pairs.append(("validation_data", validation_data[0], validation_data[1]))
    elif validation_data is not None:
        pairs.append(("validation_data", validation_data, None))
    for what, images, labels in pairs:
        if hasattr(images, "element_spec"):
            spec = images.element_spec
            shape = tuple((spec[0] if isinstance(spec, tuple) else spec).shape)
        elif isinstance(images, np.ndarray):
            shape = images.shape
            if labels is None:
                raise ValueError(f"{what}: has no labels")
            check_images(images, np.asarray(labels), classes, what)
        else:
            continue
        if any(a not in (None, b) for a, b in zip(shape[1:], input_shape, strict=False)) or len(
            shape
        ) != 1 + len(input_shape):
            raise ValueError(
                f"{what}: images have shape {shape[1:]}, the hypermodel's input_shape is "
                f"{tuple(input_shape)}"
            )
