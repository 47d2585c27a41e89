"""Checks of images and labels, and of what `fit` is given, before anything is trained on them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_autoshrink.checks import enumerated, tensorflow_reason

Array = npt.NDArray[Any]

_INFINITE, _UNKNOWN = -1, -2  # as `tf.data.Dataset.cardinality` says it

_logger = logging.getLogger("keras_autoshrink")


def check_images(x: Array, y: Array, classes: int, what: str) -> None:
    """Checks that images and labels can be trained on; `what` names them in messages."""
    _check_pixels(x, what)
    check_labels(y, len(x), classes, what)


def _check_pixels(x: Array, what: str) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(
            f"{what}: images have shape {x.shape}; expected (n, height, width, channels), none 0"
        )
    if x.dtype.kind not in "buif":
        raise ValueError(f"{what}: pixels are {x.dtype}; expected numbers")
    _check_channels(x.shape, what)
    check_finite(x, what, "images have pixels that")


def _check_channels(shape: Sequence[Any], what: str) -> None:
    """Refuses images whose channels come first, as far as their shape, of rank 4, tells.

    Of the other way to read it, an image of three rows and many channels, its columns would be as
    many as its channels, or nearly so. Of other numbers of channels, such as a satellite's bands,
    that may be meant: it is said.
    """
    _, channels, height, width = shape
    if None in (channels, height, width) or width in (1, 3, 4):
        return
    if channels not in (1, 3, 4):
        if channels < height == width:
            _logger.warning(
                "%s: images of shape (%d, %d, %d) are read as %d x %d pixels of %d channels; if "
                "the channels come first, numpy.moveaxis(x, 1, -1) puts them last",
                *(what, channels, height, width, channels, height, width),
            )
        return
    if channels < height <= 4 * width and width <= 4 * height:
        raise ValueError(
            f"{what}: images have shape ({channels}, {height}, {width}), channels first; expected "
            "(height, width, channels): numpy.moveaxis(x, 1, -1) makes them so"
        )


# What a loss takes, by the names that Keras has for losses, in small letters.
_INTEGERS, _ONE_A_CLASS, _ANY = "integers", "one for each class", "any"


def _labels_for(loss: Any) -> str:
    """Says which labels a loss takes: a name or object of Keras's, a function, or None."""
    if loss is None:
        return _INTEGERS
    if isinstance(loss, str):
        names = [loss]
    else:
        names = [getattr(loss, "__name__", ""), *(kind.__name__ for kind in type(loss).__mro__)]
    known = {name.lower().replace("_", "") for name in names}
    if any(name.startswith(("sparsecategorical", "categoricalgeneralized")) for name in known):
        return _INTEGERS
    return _ONE_A_CLASS if any(name.startswith("categorical") for name in known) else _ANY


def check_labels(
    y: Array,
    images: int,
    classes: int,
    what: str,
    loss: Any = None,
    things: str = "images",
    way_out: str = "",
) -> Array | None:
    """Checks labels for a loss.

    Args:
        y: of shape (n,) or (n, 1); for a loss that takes one for each class, (n, classes).
        images: how many there are, n.
        classes: how many there are.
        what: names the images in messages.
        loss: a name or object of Keras's, or a function; None for one that takes integers.
        things: what messages call the images.
        way_out: says what to do about a label that is no class.

    Returns:
        The number of each image's class, of shape (n,); None if the labels are no classes.
    """
    takes = _labels_for(loss)
    flat = y.shape in ((images,), (images, 1))
    if y.dtype.kind not in "buif":
        raise ValueError(
            f"{what}: labels are {_kind(y)}; expected integers 0 to {classes - 1}; "
            "numpy.unique(y, return_inverse=True)[1] numbers the classes"
        )
    if y.shape[:1] != (images,) or (takes == _INTEGERS and not flat):
        one_hot = y.ndim == 2 and len(y) == images
        raise ValueError(
            f"{what}: {images} {things}, but labels of shape {y.shape}; expected ({images},)"
            + ("; if they are one-hot, give y.argmax(1), or compile another loss" * one_hot)
        )
    if takes == _ONE_A_CLASS and flat:
        name = loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__)
        raise ValueError(
            f"{what}: labels of shape {y.shape}, but the loss {name} takes one for each class; "
            f"give keras.utils.to_categorical(y, {classes}), or compile a sparse loss"
        )
    if not flat:
        if takes == _ONE_A_CLASS and y.shape[1:] != (classes,):
            raise ValueError(
                f"{what}: labels of shape {y.shape}, but the model has {classes} outputs; expected "
                f"({images}, {classes})"
            )
        check_finite(y, what, f"{things} have labels that")
        is_one_hot = y.shape[1:] == (classes,) and ((y == 0) | (y == 1)).all()
        return y.argmax(axis=1) if is_one_hot and (y.sum(axis=1) == 1).all() else None
    if takes == _ANY and y.dtype.kind == "f":
        check_finite(y, what, f"{things} have labels that")
        return None
    if y.dtype.kind == "b" and classes != 2:
        raise ValueError(f"{what}: labels are booleans; expected integers 0 to {classes - 1}")
    # NaN among them, which is not equal to itself.
    if y.dtype.kind == "f" and (broken := y[y != np.floor(y)]).size:
        raise ValueError(
            f"{what}: label {broken[0]} is no whole number; expected 0 to {classes - 1}"
        )
    ignored = getattr(loss, "ignore_class", None)  # of a sparse loss
    wrong = y[((y < 0) | (y >= classes)) & (y != ignored)]
    if wrong.size:
        raise ValueError(f"{what}: label {wrong[0]} is not one of 0 to {classes - 1}{way_out}")
    if ignored is not None and (y == ignored).any():
        return None
    return y.reshape(-1).astype(np.int64)


def _kind(values: Array) -> str:
    """Says what an array holds that is not of numbers."""
    first = values.reshape(-1)[:1].tolist()
    is_text = values.dtype.kind in "US" or (first and isinstance(first[0], (str, bytes)))
    return f"strings ({values.dtype})" if is_text else str(values.dtype)


def check_finite(values: Array, what: str, things: str) -> None:
    """Checks that numbers, (n, ...), stay numbers in float32; `things` says what the n are."""
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
    """Names some of the classes: `class 3 of 10`, `classes 'ant', 'bee' of 10`; none by nothing."""
    found = [repr(name) for name, here in zip(names, which, strict=True) if here]
    return f"class{'es' * (len(found) > 1)} {enumerated(found)} of {len(names)}" if found else ""


def check_parts(
    parts: Mapping[str, tuple[Array, Array]], class_names: Sequence[str], what: str
) -> None:
    """Checks the images and labels of the parts of a data set, `"train"` among them."""
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
    loss: Any = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    sample_weight: Any = None,
    class_weight: Any = None,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    **__: Any,
) -> None:
    """Checks the arguments of `fit` for an image classifier, as far as they can be seen.

    Arrays are looked through. A `tf.data.Dataset` is read once, as far as an epoch reads it: that
    is little beside all the epochs of a search, and what is wrong in it would not always show.
    (TensorFlow's ReLU makes 0 of a NaN: an image of NaN in the validation data leaves a score that
    looks like any other.) Of a `keras.utils.PyDataset` the first batch is looked at. Whatever else
    `fit` takes is left to it. `loss` is what the model is compiled with, None for one that takes
    integers as labels. The message of the ValueError names the argument.
    """
    if x is None:
        raise ValueError("x: no training data; call search(x, y, validation_data=(x, y))")
    if validation_data is None and not validation_split:
        raise ValueError(
            "validation_data: missing; the score is measured on it, pass "
            "validation_data=(x, y) to search()"
        )
    check_class_weight(class_weight, sample_weight, classes)
    images_of = _Images(tuple(input_shape), classes, loss)
    steps = ("steps_per_epoch", steps_per_epoch)
    labels = {"x": _check_part(x, y, sample_weight, steps, images_of, "x")}
    if validation_data is not None:
        images, val_y, weights = validation_data, None, None
        if isinstance(validation_data, (tuple, list)):
            if len(validation_data) not in (2, 3):
                raise ValueError(
                    f"validation_data: has {len(validation_data)} parts; expected (x, y) or "
                    "(x, y, sample_weight)"
                )
            images, val_y, weights = (*validation_data, None)[:3]
        steps = ("validation_steps", validation_steps)
        what = "validation_data"
        labels[what] = _check_part(images, val_y, weights, steps, images_of, what)
    elif labels["x"] is not None:
        # As Keras splits them: the last ones, unshuffled, which of sorted images are one class.
        first = math.floor(len(labels["x"]) * (1 - validation_split))
        train, held_out = labels["x"][:first], labels["x"][first:]
        labels = {"x": train, f"validation_split={validation_split}": held_out}
    known = {what: part for what, part in labels.items() if part is not None}
    if len(known) == 2:
        check_classes(known, range(classes))


@dataclasses.dataclass(frozen=True)
class _Images:
    """What a network takes: images of a shape, in so many classes, with the labels of a loss."""

    shape: tuple[int, ...]
    classes: int
    loss: Any


def check_class_weight(
    class_weight: Any, sample_weight: Any = None, classes: int | None = None
) -> None:
    """Checks the weights of classes that `fit` is given; what Keras would leave unused raises.

    Args:
        class_weight: a dict from the number of a class to its weight, or None.
        sample_weight: of the same call of `fit`.
        classes: how many there are; None if that is not known.

    Raises:
        ValueError: it is none; the message says what to give.
    """
    if class_weight is None:
        return
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"class_weight: is a {type(class_weight).__name__}; expected a dict such as "
            "{0: 1.0, 1: 2.5}: dict(enumerate(class_weight)) makes one of a list"
        )
    if sample_weight is not None:
        raise ValueError("class_weight, sample_weight: Keras takes one of the two")
    for label, weight in class_weight.items():
        is_label = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
        if not is_label or label < 0 or (classes is not None and label >= classes):
            expected = "0, 1 and so on" if classes is None else f"0 to {classes - 1}"
            raise ValueError(
                f"class_weight: {label!r} is the number of no class; expected {expected}"
            )
        if not isinstance(weight, numbers.Real) or not 0 <= weight < math.inf:
            raise ValueError(
                f"class_weight: the weight of {label} is {weight!r}; expected a number of 0 or more"
            )


def _check_part(
    x: Any, y: Any, weights: Any, steps: tuple[str, int | None], of: _Images, what: str
) -> Array | None:
    """Checks images and their labels, or the data set that yields both.

    Returns:
        The labels, shape (n,), or None if they cannot be seen.
    """
    # Some of Keras's own PyDatasets are iterators, too.
    has_batches = hasattr(type(x), "num_batches")
    if isinstance(x, Iterator) and not has_batches:
        # Not even with steps_per_epoch: at its end Keras begins again with the first two batches,
        # which it has kept, and says nothing.
        raise ValueError(
            f"{what}: a {type(x).__name__} can be read once only, and a search reads its data for "
            "each candidate; give arrays, a tf.data.Dataset or a keras.utils.PyDataset"
        )
    if isinstance(x, (list, tuple)):
        raise ValueError(f"{what}: images are in a {type(x).__name__}; give a NumPy array")
    x = as_array(x)
    if isinstance(x, np.ndarray):
        # Of the training data each array is an argument of its own.
        named = {"y": "y", "weights": "sample_weight"} if what == "x" else {}
        if y is None:
            raise ValueError(f"{named.get('y', what)}: missing; {what} has no labels")
        _check_pixels(x, what)
        labels = check_labels(as_labels(y), len(x), of.classes, named.get("y", what), of.loss)
        if weights is not None:
            _check_weights(np.asarray(weights), len(x), named.get("weights", what))
        _check_shape(x.shape, of.shape, what)
        return labels
    if has_batches:
        _check_batch(first_batch(x, what), of, f"{what}: batch 1")
        return None
    spec = getattr(x, "element_spec", None)
    if spec is None:
        return None
    if not (isinstance(spec, tuple) and len(spec) > 1):
        raise ValueError(f"{what}: has no labels; expected a data set of (images, labels)")
    spec_shape = getattr(spec[0], "shape", None)
    if spec_shape is None:
        return None  # several inputs, which the network may take apart by itself
    if spec_shape.rank is not None:
        _check_shape(tuple(spec_shape), of.shape, what)
    # A distributed data set yields what each device gets, and has no such method.
    if not hasattr(x, "as_numpy_iterator"):
        return None
    return look_through(x, steps, lambda batch, where: _check_batch(batch, of, where), what)


def as_labels(y: Any) -> Any:
    """Converts labels in a list, or in a tensor, into an array of NumPy."""
    return np.asarray(y) if isinstance(y, (list, tuple)) else as_array(y)


def first_batch(data: Any, what: str) -> Any:
    """Reads the first batch of a `keras.utils.PyDataset`."""
    try:
        return data[0]
    except Exception as error:  # of the user's object, whatever it raises
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{what}: batch 1 cannot be read: {said}") from error


def as_array(x: Any) -> Any:
    """Converts a tensor into an array of NumPy; returns what cannot be one as it is."""
    if isinstance(x, np.ndarray) or not hasattr(x, "__array__"):
        return x
    try:
        array = np.asarray(x)
    except (TypeError, RuntimeError):  # PyTorch's, on a GPU or with a gradient
        return x
    return array if array.dtype.kind in "buif" else x  # NumPy itself has no bfloat16


def _check_shape(shape: tuple[Any, ...], input_shape: tuple[int, ...], what: str) -> None:
    if shape == input_shape:
        raise ValueError(f"{what}: images of shape {shape}, one by one; call batch() first")
    if len(shape) == 4:
        _check_channels(shape, what)
    if len(shape) != 1 + len(input_shape) or any(
        size not in (None, expected) for size, expected in zip(shape[1:], input_shape, strict=True)
    ):
        raise ValueError(
            f"{what}: images have shape {shape[1:]}, the hypermodel's input_shape is {input_shape}"
        )


def _check_weights(weights: Array, images: int, what: str) -> None:
    if weights.shape not in ((images,), (images, 1)):
        raise ValueError(
            f"{what}: {images} images, but a sample_weight of shape {weights.shape}; expected "
            f"({images},)"
        )
    _check_numbers(weights, what)


def _check_numbers(weights: Array, what: str) -> None:
    if weights.dtype.kind not in "buif":
        raise ValueError(
            f"{what}: the third element is taken for sample_weight, and is of {_kind(weights)}; "
            "leave it out, such as by map(lambda x, y, *_: (x, y))"
        )
    check_finite(weights, what, "values of sample_weight")


def look_through(
    data: Any,
    steps: tuple[str, int | None],
    check: Callable[[Any, str], Array | None],
    what: str,
) -> Array | None:
    """Reads what an epoch reads of a `tf.data.Dataset`, and checks each of its batches.

    Args:
        data: the data set.
        steps: the argument of `fit` that says how many batches an epoch reads, and its value.
        check: called with each batch and what to call it; returns its labels, or None.
        what: names the data set in messages.

    Returns:
        The labels, or None if these are not numbers of classes, or not all that there are.
    """
    name, wanted = steps
    size = int(data.cardinality())
    if size == _INFINITE and wanted is None:
        raise ValueError(f"{what}: repeats for ever, so that no epoch would end; give {name}")
    seen: list[Array | None] = []
    batches = data.as_numpy_iterator()
    for number in itertools.count(1):
        if number - 1 == wanted:
            break
        try:
            batch = next(batches)
        except StopIteration:
            break
        except Exception as error:  # whatever its functions and TensorFlow raise
            raise ValueError(
                f"{what}: batch {number} cannot be read: {tensorflow_reason(error)}"
            ) from error
        seen.append(check(batch, f"{what}: batch {number}"))
    if not seen:
        raise ValueError(f"{what}: the data set is empty")
    if wanted is not None and len(seen) < wanted:
        raise ValueError(
            f"{what}: the data end after {len(seen)} batches, but {name}={wanted}; lower it, or "
            "repeat() the data"
        )
    if size == _UNKNOWN and next(data.as_numpy_iterator(), None) is None:
        raise ValueError(
            f"{what}: the data set is empty when it is read for the second time, and a search "
            "reads it for each candidate; give from_generator() a function that makes a new "
            "generator at each call"
        )
    known = [labels for labels in seen if labels is not None]
    # In so many steps rare classes may have been missed.
    return np.concatenate(known) if len(known) == len(seen) and wanted is None else None


def _check_batch(batch: Any, of: _Images, what: str) -> Array | None:
    """Checks a batch of images, labels and perhaps weights; returns the labels if it can."""
    if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
        raise ValueError(f"{what}: expected (images, labels) or (images, labels, sample_weight)")
    images, labels = as_array(batch[0]), as_labels(batch[1])
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "buif":
            raise ValueError(f"{what}: images are {_kind(images)}; expected numbers")
        _check_shape(images.shape, of.shape, what)
        check_finite(images, what, "images have pixels that")
    if len(batch) > 2 and batch[2] is not None:
        weights = as_labels(batch[2])
        if isinstance(weights, (np.ndarray, Mapping)):
            _check_numbers(np.asarray(weights), what)
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        return None
    return check_labels(labels, len(images), of.classes, what, of.loss)
