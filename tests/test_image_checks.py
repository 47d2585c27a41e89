"""What images, labels and the arguments of a search are refused for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_autoshrink.data.checks import check_fit_data, check_images, check_parts
from keras_autoshrink.hypermodels.cnn import CNNCellHyperModel

X = np.random.default_rng(0).random((6, 8, 9, 3), np.float32)
Y = np.array([0, 1, 2, 2, 1, 0])


def with_pixels(*values: float, dtype: Any = np.float32) -> np.ndarray:
    """The images; the n-th value is a pixel of the n-th image."""
    x = X.astype(dtype)
    x[range(len(values)), 3, 4, 1] = values
    return x


def dataset(*tensors: Any, batch: int | None = 2) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices(tensors if len(tensors) > 1 else tensors[0])
    return data.batch(batch) if batch else data


def refusal(check: Any, *args: Any, **kwargs: Any) -> str:
    """The message of the ValueError, which is one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its callers compare the message
        check(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("x_type", [np.float32, np.float64, np.float16, np.uint8, np.int64, bool])
@pytest.mark.parametrize("y_type", [np.int32, np.int64, np.uint8, np.uint64])
def test_good_images(x_type, y_type):
    x, y = (X * 255).astype(x_type), Y.astype(y_type)
    check_images(x, y, 3)
    check_images(x, y[:, None], 3)
    check_images(x, y, 4)  # a class may be absent
    check_images(x[:1, :1, :1, :1], y[:1], 1)


IMAGES_REFUSED = [
    # images, labels, message
    (X[0], Y, "images have shape (8, 9, 3); expected (n, height, width, channels), none 0"),
    (X[..., 0], Y, "images have shape (6, 8, 9); expected (n, height, width, channels), none 0"),
    (
        X[None],
        Y,
        "images have shape (1, 6, 8, 9, 3); expected (n, height, width, channels), none 0",
    ),
    (X[:0], Y[:0], "images have shape (0, 8, 9, 3); expected (n, height, width, channels), none 0"),
    (
        X[..., :0],
        Y,
        "images have shape (6, 8, 9, 0); expected (n, height, width, channels), none 0",
    ),
    (X.astype(str), Y, f"pixels are {X.astype(str).dtype}; expected numbers"),
    (X.astype(object), Y, "pixels are object; expected numbers"),
    (X.astype(np.complex64), Y, "pixels are complex64; expected numbers"),
    (X, Y[:5], "6 images, but labels of shape (5,); expected (6,)"),
    (X, Y[:0], "6 images, but labels of shape (0,); expected (6,)"),
    (X, Y[0], "6 images, but labels of shape (); expected (6,)"),
    (X, np.eye(3, dtype=int)[Y], "6 images, but labels of shape (6, 3); expected (6,)"),
    (X, Y[:, None, None], "6 images, but labels of shape (6, 1, 1); expected (6,)"),
    (X, Y.astype(float), "labels are float64; expected integers 0 to 2"),
    (X, Y.astype(bool), "labels are bool; expected integers 0 to 2"),
    (X, Y.astype(str).astype("U1"), "labels are <U1; expected integers 0 to 2"),
    (X, Y - 1, "label -1 is not one of 0 to 2"),
    (X, Y + 1, "label 3 is not one of 0 to 2"),
    (X, Y[:, None] * 2, "label 4 is not one of 0 to 2"),
    (X, Y.astype(np.uint64) + 2**63, f"label {2**63} is not one of 0 to 2"),
    (with_pixels(np.nan), Y, "1 of 6 images have pixels that are NaN or infinite in float32"),
    (
        with_pixels(np.inf, 0, -np.inf, np.nan),
        Y,
        "3 of 6 images have pixels that are NaN or infinite in float32",
    ),
    (
        with_pixels(1e300, -1e39, 1e38, dtype=np.float64),
        Y,
        "2 of 6 images have pixels that are NaN or infinite in float32",
    ),
]


@pytest.mark.parametrize(("x", "y", "message"), IMAGES_REFUSED)
def test_images_refused(x, y, message):
    assert refusal(check_images, x, y, 3) == f"data: {message}"
    assert refusal(check_images, x, y, 3, "a.npz: train") == f"a.npz: train: {message}"


def test_parts():
    check_parts({"train": (X, Y)}, "abc", "data")
    check_parts({"train": (X, Y), "val": (X[:2], Y[:2]), "test": (X[2:], Y[2:, None])}, "abc", "d")


@pytest.mark.parametrize(
    ("parts", "names", "message"),
    [
        ({"train": (X, Y + 1)}, "abc", "d: train: label 3 is not one of 0 to 2"),
        ({"train": (X, Y), "val": (X, Y - 1)}, "abc", "d: val: label -1 is not one of 0 to 2"),
        (
            {"train": (X, Y), "test": (X[:, 1:], Y)},
            "abc",
            "d: images of test have shape (7, 9, 3), those of train (8, 9, 3)",
        ),
        (
            {"val": (X[..., :1], Y), "train": (X, Y)},
            "abc",
            "d: images of val have shape (8, 9, 1), those of train (8, 9, 3)",
        ),
        ({"train": (X, Y * 0)}, "a", "d: has one class; expected two or more"),
    ],
)
def test_parts_refused(parts, names, message):
    assert refusal(check_parts, parts, names, "d") == message


def check(x: Any = X, y: Any = Y, *args: Any, **kwargs: Any) -> None:
    """`check_fit_data` for these images, good validation data unless told otherwise."""
    kwargs = {"validation_data": (X, Y), "input_shape": (8, 9, 3), "classes": 3, **kwargs}
    check_fit_data(x, y, *args, **kwargs)


class Batches(keras.utils.PyDataset):
    """One of the sources of `fit` that cannot be looked into."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return X, Y


OF_UNKNOWN_RANK = tf.data.Dataset.from_generator(
    lambda: [(X, Y)], output_types=(tf.float32, tf.int32)
)
OF_UNKNOWN_SIZE = tf.data.Dataset.from_generator(
    lambda: [(X, Y)],
    output_signature=(tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), tf.int32)),
)
WEIGHTS = np.ones(6)


@pytest.mark.parametrize(
    "validation",
    [
        {"validation_data": (X, Y)},
        {"validation_data": [X, Y]},
        {"validation_data": (X, Y.tolist())},
        {"validation_data": (X, Y, WEIGHTS)},
        {"validation_data": dataset(X, Y)},
        {"validation_data": Batches(workers=1)},
        {"validation_data": None, "validation_split": 0.2},
    ],
)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X, Y[:, None]),
        (X, Y.tolist()),
        (dataset(X, Y), None),
        (dataset(X, Y, WEIGHTS), None),
        (dataset(X, Y).batch(2).unbatch(), None),
        (OF_UNKNOWN_RANK, None),
        (OF_UNKNOWN_SIZE, None),
        (dataset({"image": X}, Y), None),
        (Batches(workers=1), None),
        (tf.constant(X), tf.constant(Y)),
    ],
)
def test_good_fit_data(x, y, validation):
    check(x, y, **validation)


def test_other_arguments_of_fit_are_let_through():
    check(X, Y, 32, epochs=3, callbacks=[], verbose=0)


NO_DATA = "no training data; call search(x, y, validation_data=(x, y))"
NO_VALIDATION = "missing; the score is measured on it, pass validation_data=(x, y) to search()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": None}, f"x: {NO_DATA}"),
        ({"validation_data": None}, f"validation_data: {NO_VALIDATION}"),
        ({"validation_data": None, "validation_split": 0}, f"validation_data: {NO_VALIDATION}"),
        ({"x": dataset(X, Y), "validation_data": None}, f"validation_data: {NO_VALIDATION}"),
        (
            {"validation_data": (X,)},
            "validation_data: has 1 parts; expected (x, y) or (x, y, sample_weight)",
        ),
        (
            {"validation_data": ()},
            "validation_data: has 0 parts; expected (x, y) or (x, y, sample_weight)",
        ),
        (
            {"validation_data": (X, Y, WEIGHTS, X)},
            "validation_data: has 4 parts; expected (x, y) or (x, y, sample_weight)",
        ),
    ],
)
def test_fit_data_missing(arguments, message):
    assert refusal(check, **arguments) == message


@pytest.mark.parametrize("part", ["x", "validation_data"])
class TestEitherPart:
    @staticmethod
    def refusal(part: str, x: Any, y: Any) -> str:
        """The message for bad training or bad validation data, without the part's name."""
        if part == "x":
            message = refusal(check, x, y)
        else:
            message = refusal(check, validation_data=x if y is None else (x, y))
        assert message.startswith(f"{part}: ")
        return message.removeprefix(f"{part}: ")

    @pytest.mark.parametrize(("x", "y", "message"), IMAGES_REFUSED)
    def test_arrays_are_looked_through(self, part, x, y, message):
        assert self.refusal(part, x, y) == message

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (X, "has no labels"),
            (dataset(X), "has no labels; expected a data set of (images, labels)"),
            (
                dataset(X).map(lambda x: (x,)),
                "has no labels; expected a data set of (images, labels)",
            ),
            (dataset({"x": X, "y": Y}), "has no labels; expected a data set of (images, labels)"),
        ],
    )
    def test_no_labels(self, part, x, message):
        assert self.refusal(part, x, None) == message

    @pytest.mark.parametrize("as_dataset", [False, True])
    @pytest.mark.parametrize(
        ("x", "shape"),
        [
            (X[:, 1:], (7, 9, 3)),
            (X[:, :, 1:], (8, 8, 3)),
            (X[..., :1], (8, 9, 1)),
            (X.swapaxes(1, 2), (9, 8, 3)),
        ],
    )
    def test_other_shape_than_the_hypermodel(self, part, x, shape, as_dataset):
        arguments = (dataset(x, Y), None) if as_dataset else (x, Y)
        message = f"images have shape {shape}, the hypermodel's input_shape is (8, 9, 3)"
        assert self.refusal(part, *arguments) == message

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                dataset(X, Y, batch=None),
                "images of shape (8, 9, 3), one by one; call batch() first",
            ),
            (
                dataset(X[..., 0], Y),
                "images have shape (8, 9), the hypermodel's input_shape is (8, 9, 3)",
            ),
            (
                dataset(X, Y).batch(2),
                "images have shape (None, 8, 9, 3), the hypermodel's input_shape is (8, 9, 3)",
            ),
            (
                dataset(X[:, 0, 0, 0], Y, batch=None),
                "images have shape (), the hypermodel's input_shape is (8, 9, 3)",
            ),
        ],
    )
    def test_dataset_of_other_rank(self, part, data, message):
        assert self.refusal(part, data, None) == message


@pytest.mark.parametrize("input_shape", [(8, 9, 3), [8, 9, 3]])
def test_input_shape_may_be_a_list(input_shape):
    check(input_shape=input_shape)
    message = refusal(check, dataset(X, Y, batch=None), None, input_shape=input_shape)
    assert message == "x: images of shape (8, 9, 3), one by one; call batch() first"


def test_the_hypermodel_checks_its_search():
    hypermodel = CNNCellHyperModel(input_shape=[8, 9, 3], classes=3, num_nodes=3)
    hypermodel.check_search_arguments(X, Y, validation_data=(X, Y), epochs=2)
    assert refusal(hypermodel.check_search_arguments, X, Y) == f"validation_data: {NO_VALIDATION}"
    message = refusal(hypermodel.check_search_arguments, X, Y + 1, validation_data=(X, Y))
    assert message == "x: label 3 is not one of 0 to 2"
