"""What a search is refused for by what its data hold, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_autoshrink.data.checks import check_fit_data

GENERATOR = np.random.default_rng(0)
X = GENERATOR.random((12, 8, 9, 3), np.float32)
Y = np.arange(12) % 3
BAD = X.copy()
BAD[5, 0, 0, 0], BAD[7, 1, 1, 1] = np.nan, np.inf


def dataset(*tensors: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(tensors).batch(4)


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in (0, 4, 8):
        yield X[start : start + 4], Y[start : start + 4]


def generated(make: Any) -> tf.data.Dataset:
    signature = (tf.TensorSpec((None, 8, 9, 3)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(make, output_signature=signature)


def read_once() -> tf.data.Dataset:
    generator = batches()
    return generated(lambda: generator)


def check(x: Any = X, y: Any = Y, classes: int = 3, **options: Any) -> None:
    if "validation_split" not in options:
        options = {"validation_data": (X, Y), **options}
    check_fit_data(x, y, input_shape=(8, 9, 3), classes=classes, **options)


def refusal(*args: Any, **options: Any) -> str:
    """The message of the ValueError, which is one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its callers compare the message
        check(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(params=["x", "validation_data"])
def refused_part(request):
    """The message for a bad data set on either side, without the side's name."""
    steps = {"x": "steps_per_epoch", "validation_data": "validation_steps"}[request.param]

    def refused(data: Any, asked: int | None = None) -> str:
        options = {} if asked is None else {steps: asked}
        if request.param == "x":
            message = refusal(data, None, **options)
        else:
            message = refusal(validation_data=data, **options)
        assert message.startswith(f"{request.param}: ")
        return message.removeprefix(f"{request.param}: ").replace(steps, "STEPS")

    return refused


PIXELS = "2 of 4 images have pixels that are NaN or infinite in float32"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(BAD, Y), f"batch 2: {PIXELS}"),
        (dataset(X, Y + 1), "batch 1: label 3 is not one of 0 to 2"),
        (dataset(X, (Y - 1).astype(np.float32)), "batch 1: label -1.0 is not one of 0 to 2"),
        (
            dataset(X, Y, np.r_[np.ones(11), np.nan]),
            "batch 3: 1 of 4 values of sample_weight are NaN or infinite in float32",
        ),
        (dataset(X, Y).take(0), "the data set is empty"),
        (dataset(X, Y).repeat(), "repeats for ever, so that no epoch would end; give STEPS"),
        (
            read_once,
            "the data set is empty when it is read for the second time, and a search reads it for "
            "each candidate; give from_generator() a function that makes a new generator at each "
            "call",
        ),
        (
            dataset(X, Y).map(lambda x, y: (tf.debugging.check_numerics(x / 0, "oh dear"), y)),
            "batch 1 cannot be read: oh dear : Tensor had Inf values",
        ),
        (
            tf.data.Dataset.from_generator(
                lambda: [(X[:, 1:], Y)], output_types=(tf.float32, tf.int32)
            ),
            "batch 1: images have shape (7, 9, 3), the hypermodel's input_shape is (8, 9, 3)",
        ),
        (
            batches,
            "a generator can be read once only, and a search reads its data for each candidate; "
            "give arrays, a tf.data.Dataset or a keras.utils.PyDataset",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_datasets_are_looked_through(refused_part, data, message):
    assert refused_part(data() if callable(data) else data).startswith(message)


@pytest.mark.parametrize("make", [lambda: dataset(X, Y), lambda: generated(batches), read_once])
def test_dataset_shorter_than_its_steps(refused_part, make):
    assert refused_part(make(), 4) == (
        "the data end after 3 batches, but STEPS=4; lower it, or repeat() the data"
    )


def test_no_more_is_read_than_an_epoch_reads():
    endless = dataset(X, Y).concatenate(dataset(BAD, Y)).repeat()
    check(endless, None, steps_per_epoch=4, validation_data=endless, validation_steps=4)
    assert "x: batch 5" in refusal(endless, None, steps_per_epoch=5)


@pytest.mark.parametrize("x", [dataset(X, Y), generated(batches), tf.constant(X)])
def test_good_data_are_let_through_as_often_as_one_likes(x):
    y = Y if hasattr(x, "numpy") else None
    for _ in range(2):
        check(x, y, validation_data=(x, y) if y is not None else x)


def test_tensors_are_looked_through():
    message = "images have pixels that are NaN or infinite in float32"
    assert refusal(tf.constant(BAD), tf.constant(Y)) == f"x: 2 of 12 {message}"
    data = (tf.constant(X), tf.constant(Y + 1))
    assert refusal(validation_data=data) == "validation_data: label 3 is not one of 0 to 2"
    check(tf.cast(X, tf.bfloat16), Y)  # which NumPy does not know


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(11), "12 images, but a sample_weight of shape (11,); expected (12,)"),
        (
            np.r_[np.ones(9), np.nan, np.inf, 1e300],
            "3 of 12 values of sample_weight are NaN or infinite in float32",
        ),
    ],
)
def test_sample_weights(weights, message):
    assert refusal(sample_weight=weights) == f"x: {message}"
    assert refusal(validation_data=(X, Y, weights)) == f"validation_data: {message}"
    check(sample_weight=np.ones(12), validation_data=(X, Y, np.ones((12, 1)).tolist()))


# Classes that one part alone has

NO_2 = np.arange(12) % 2
UNSEEN = "has no image of class 2 of 3, which x has; the score would not see it"
UNKNOWN = "x: has no image of class 2 of 3, which validation_data has"


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_class_in_one_part_alone(as_dataset):
    part = (lambda y: (dataset(X, y), None)) if as_dataset else (lambda y: (X, y))
    x, y = part(Y)
    assert refusal(x, y, validation_data=(X, NO_2)) == f"validation_data: {UNSEEN}"
    x, y = part(NO_2)
    assert refusal(x, y) == UNKNOWN
    assert refusal(x, y, validation_data=dataset(X, Y)) == UNKNOWN


def test_several_classes_in_one_part_alone():
    y = np.arange(12)
    message = refusal(y=y, classes=12, validation_data=(np.r_[X, X], np.zeros(24, int)))
    assert message == (
        "validation_data: has no image of classes 1, 2, 3, 4, 5 and 6 more of 12, which x has; "
        "the score would not see it"
    )


def test_a_split_of_sorted_images():
    message = refusal(y=np.sort(Y), validation_split=0.25)
    assert message == "validation_split=0.25: has no image of classes 0, 1 of 3, which x has; " + (
        "the score would not see it"
    )
    assert refusal(y=np.sort(Y), validation_split=0.34) == (
        "x: has no image of class 2 of 3, which validation_split=0.34 has"
    )
    check(validation_split=0.25)


def test_fewer_validation_images_than_classes_are_only_warned_of(caplog):
    check(validation_data=(X[:2], Y[:2]))
    assert caplog.messages == [
        "validation_data: has 2 images for 3 classes, none of class 2 of 3; the score does not "
        "see them"
    ]
    # But what is not trained on cannot be learnt.
    assert refusal(y=NO_2, validation_data=(X[2:3], Y[2:3])) == UNKNOWN


def test_a_class_that_is_nowhere_is_only_warned_of(caplog):
    check(y=Y + 1, classes=4, validation_data=(X, Y + 1))
    assert caplog.messages == ["x, validation_data: have no image of class 0 of 4"]
    caplog.clear()
    check()
    assert not caplog.messages


def test_labels_of_which_only_some_are_seen_say_nothing_about_classes(caplog):
    check(dataset(X, np.sort(Y)), None, steps_per_epoch=1)
    check(validation_data=dataset(X, np.sort(Y)), validation_steps=1)
    check(dataset(X, np.eye(3)[Y]), None, validation_data=dataset(X, np.eye(3)[Y]))
    assert not caplog.messages
