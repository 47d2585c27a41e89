"""What images, labels and the arguments of a search are refused for, before anything is trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refusal

from keras_autoshrink.data.checks import check_fit_data, check_images, check_parts
from keras_autoshrink.hypermodels.cnn import CNNCellHyperModel

X = np.random.default_rng(0).random((12, 8, 9, 3), np.float32)
Y = np.arange(12) % 3
BAD = X.copy()
BAD[5, 0, 0, 0], BAD[7, 1, 1, 1] = np.nan, np.inf
WEIGHTS = np.r_[np.ones(9), np.nan, np.inf, 1e300]
NOT_FINITE = "are NaN or infinite in float32"


def dataset(*tensors: Any, batch: int | None = 4) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices(tensors if len(tensors) > 1 else tensors[0])
    return data.batch(batch) if batch else data


def batches():
    for start in (0, 4, 8):
        yield X[start : start + 4], Y[start : start + 4]


def generated(make: Any) -> tf.data.Dataset:
    signature = (tf.TensorSpec((None, 8, 9, 3)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(make, output_signature=signature)


def of_unknown_rank(x: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_generator(lambda: [(x, Y)], output_types=(tf.float32, tf.int32))


def read_once() -> tf.data.Dataset:
    generator = batches()
    return generated(lambda: generator)


class Batches(keras.utils.PyDataset):
    """A source of `fit` of which the first batch is looked at."""

    def __init__(self, *batch: Any, **options: Any) -> None:
        super().__init__(**options)
        self.batch = batch or (X, Y)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.batch


class Flow(Batches):
    """As `ImageDataGenerator.flow()`, which is an iterator, too."""

    def __iter__(self) -> Flow:
        return self

    def __next__(self) -> tuple[Any, ...]:
        return self.batch


def check(x: Any = X, y: Any = Y, *args: Any, **options: Any) -> None:
    """`check_fit_data` for these images, with good validation data unless there are others."""
    if "validation_split" not in options:
        options = {"validation_data": (X, Y), **options}
    check_fit_data(x, y, *args, **{"input_shape": (8, 9, 3), "classes": 3, **options})


# Arrays


def test_good_images():
    for x_type in (np.float64, np.float16, np.uint8, bool):
        x = (X * 255).astype(x_type)
        check_images(x, Y.astype(np.uint64), 3, "data")
        check_images(x, Y[:, None], 4, "data")  # a class may be absent
        check_images(x, Y.astype(float), 3, "data")
        check_images(x, Y > 0, 2, "data")
        check_images(x[:1, :1, :1, :1], Y[:1], 1, "data")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        # images, labels, message
        (X[0], Y, "images have shape (8, 9, 3); expected (n, height, width, channels), none 0"),
        (X.astype(str), Y, f"pixels are {X.astype(str).dtype}; expected numbers"),
        (X, Y[:5], "12 images, but labels of shape (5,); expected (12,)"),
        (X, Y + 0.5, "label 0.5 is no whole number; expected 0 to 2"),
        (X, Y > 0, "labels are booleans; expected integers 0 to 2"),
        (X, Y.astype(str), "labels are strings (<U21); expected integers 0 to 2; numpy.unique("),
        (X, np.eye(3)[Y], "12 images, but labels of shape (12, 3); expected (12,); if they are on"),
        (X.transpose(0, 3, 1, 2), Y, "images have shape (3, 8, 9), channels first; expected (hei"),
        (X, Y - 1, "label -1 is not one of 0 to 2"),
        (X, Y.astype(np.uint64) + 2**63, f"label {2**63} is not one of 0 to 2"),
        (BAD, Y, f"2 of 12 images have pixels that {NOT_FINITE}"),
        (1e300 * (1 + X.astype(float)), Y, f"12 of 12 images have pixels that {NOT_FINITE}"),
    ],
)
def test_arrays_refused(x, y, message):
    assert refusal(check_images, x, y, 3, "a.npz: train").startswith(f"a.npz: train: {message}")


def test_many_channels_in_front_are_said(caplog):
    for bands in (2, 13):
        check_images(np.zeros((12, bands, 32, 32)), Y, 3, "a.npz: train")
        said = f"a.npz: train: images of shape ({bands}, 32, 32) are read as {bands} x 32 pixels of"
        assert caplog.messages.pop().startswith(said)
        caplog.clear()
    for shape in ((32, 32, 13), (32, 32, 32), (8, 40, 1), (5, 32, 3)):
        check_images(np.zeros((12, *shape)), Y, 3, "a.npz: train")
    assert not caplog.messages


def test_parts_refused():
    check_parts({"train": (X, Y), "val": (X[:2], Y[:2]), "test": (X[2:], Y[2:, None])}, "abc", "d")
    assert refusal(check_parts, {"train": (X, Y), "val": (X, Y - 1)}, "abc", "d") == (
        "d: val: label -1 is not one of 0 to 2"
    )
    assert refusal(check_parts, {"val": (X[..., :1], Y), "train": (X, Y)}, "abc", "d") == (
        "d: images of val have shape (8, 9, 1), those of train (8, 9, 3)"
    )
    message = "d: has one class; expected two or more"
    assert refusal(check_parts, {"train": (X, Y * 0)}, "a", "d") == message


# Arguments of a search


def test_good_data_may_be_looked_through_twice():
    for validation in (
        {"validation_data": [X, Y.tolist()]},
        {"validation_data": (X, Y, np.ones((12, 1)).tolist())},
        {"validation_data": dataset(X, Y)},
        {"validation_data": None, "validation_split": 0.25},
    ):
        check(X, Y, 32, epochs=3, callbacks=[], verbose=0, **validation)
    for x, y in (
        (X, Y[:, None]),
        (dataset(X, Y, np.ones(12)), None),
        (dataset(X, Y).batch(2).unbatch(), None),
        (of_unknown_rank(X), None),
        (generated(batches), None),
        (dataset({"image": X}, Y), None),
        (Batches(workers=1), None),
        (Flow(), None),
        (X, Y.tolist()),
        (tf.constant(X), tf.constant(Y)),
        (tf.cast(X, tf.bfloat16), Y),  # which NumPy does not know
    ):
        for _ in range(2):
            check(x, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": None}, "x: no training data; call search("),
        ({"validation_data": None}, "validation_data: missing; the score is measured on it"),
        ({"validation_data": (X,)}, "validation_data: has 1 parts; expected (x, y) or (x, y, s"),
        ({"y": None}, "y: missing; x has no labels"),
        (
            {"sample_weight": np.ones(11)},
            "sample_weight: 12 images, but a sample_weight of shape (11,); ",
        ),
        (
            {"sample_weight": WEIGHTS},
            f"sample_weight: 3 of 12 values of sample_weight {NOT_FINITE}",
        ),
        (
            {"validation_data": (X, Y, WEIGHTS)},
            f"validation_data: 3 of 12 values of sample_weight {NOT_FINITE}",
        ),
        (
            {"validation_data": dataset(X, Y).repeat()},
            "validation_data: repeats for ever, so that ",
        ),
        ({"validation_data": dataset(BAD, Y)}, "validation_data: batch 2: 2 of 4 images have"),
        ({"class_weight": [1.0] * 3}, "class_weight: is a list; expected a dict such as {0: "),
        ({"class_weight": {"0": 2.0}}, "class_weight: '0' is the number of no class; expected 0 "),
        ({"class_weight": {3: 2.0}}, "class_weight: 3 is the number of no class; expected 0 to 2"),
        ({"class_weight": {0: "2"}}, "class_weight: the weight of 0 is '2'; expected a number of"),
        ({"class_weight": {0: 2.0}, "sample_weight": np.ones(12)}, "class_weight, sample_weight: "),
        ({"x": X[:, 1:]}, "x: images have shape (7, 9, 3), the hypermodel's input_shape is (8, "),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_arguments_refused(arguments, message):
    assert refusal(check, **arguments).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(BAD, Y), f"batch 2: 2 of 4 images have pixels that {NOT_FINITE}"),
        (dataset(X, Y + 1), "batch 1: label 3 is not one of 0 to 2"),
        (dataset(X, (Y - 1).astype(np.float32)), "batch 1: label -1.0 is not one of 0 to 2"),
        (dataset(X, Y, WEIGHTS), f"batch 3: 3 of 4 values of sample_weight {NOT_FINITE}"),
        (dataset(X, Y, batch=None), "images of shape (8, 9, 3), one by one; call batch() first"),
        (dataset(X.swapaxes(1, 2), Y), "images have shape (9, 8, 3), the hypermodel's input_shape"),
        (dataset(X, Y).batch(2), "images have shape (None, 8, 9, 3), the hypermodel's input_shape"),
        (of_unknown_rank(X[:, 1:]), "batch 1: images have shape (7, 9, 3), the hypermodel's input"),
        (dataset(X, Y).take(0), "the data set is empty"),
        (dataset(X, Y).repeat(), "repeats for ever, so that no epoch would end; give STEPS"),
        (read_once, "the data set is empty when it is read for the second time, and a search"),
        (
            dataset(X, Y).map(lambda x, y: (tf.debugging.check_numerics(x / 0, "oh dear"), y)),
            "batch 1 cannot be read: oh dear : Tensor had Inf values",
        ),
        (
            dataset(X, Y, Y.astype(str)),
            "batch 1: the third element is taken for sample_weight, and is of strings",
        ),
        (dataset(X, Y.astype(str)), "batch 1: labels are strings (object); expected integers 0 to"),
        (dataset(X.astype(str), Y), "batch 1: images are strings (object); expected numbers"),
        (dataset(X, Y, np.ones(12), Y), "batch 1: expected (images, labels) or (images, labels, "),
        (dataset(X.transpose(0, 3, 1, 2), Y), "images have shape (3, 8, 9), channels first; exp"),
        (Batches(X, Y + 1), "batch 1: label 3 is not one of 0 to 2"),
        (Batches(X), "batch 1: expected (images, labels)"),
        (batches, "a generator can be read once only, and a search reads its data for each"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_data_sets_refused(data, message):
    data = data() if callable(data) else data
    message = message.replace("STEPS", "steps_per_epoch")
    assert refusal(check, data, None).startswith(f"x: {message}")


@pytest.mark.parametrize("source", ["arrays", "tf.data", "PyDataset"])
def test_labels_are_those_of_the_loss(source):
    def given(labels):
        kinds = {"tf.data": dataset, "PyDataset": Batches}
        return (X, labels) if source == "arrays" else (kinds[source](X, labels), None)

    one_hot = np.eye(3, dtype=np.float32)[Y]
    for loss in ("categorical_crossentropy", keras.losses.CategoricalCrossentropy()):
        check(*given(one_hot), validation_data=(X, one_hot), loss=loss)
        message = refusal(check, *given(Y), validation_data=(X, one_hot), loss=loss)
        assert "the loss categorical_crossentropy takes one for each class; give keras" in message
        message = refusal(check, *given(one_hot[:, :2]), validation_data=(X, one_hot), loss=loss)
        assert "2), but the model has 3 outputs; expected (" in message
    generalized = keras.losses.CategoricalGeneralizedCrossEntropy()  # sparse, by its name or not
    for loss in (None, "sparse_categorical_crossentropy", generalized):
        check(*given(Y), loss=loss)
        assert "give y.argmax(1), or compile another loss" in refusal(
            check, *given(one_hot), loss=loss
        )
    many = {"loss": "binary_crossentropy", "validation_data": (X, np.ones((12, 3)))}
    check(*given(np.ones((12, 3))), **many)  # several labels an image
    # What an image is labelled with is seen in one-hot labels, too.
    if source != "PyDataset":
        lacking = {"loss": "categorical_crossentropy", "validation_data": (X, np.eye(3)[NO_2])}
        assert refusal(check, *given(one_hot), **lacking) == f"validation_data: {UNSEEN}"


def test_no_more_is_read_than_an_epoch_reads():
    endless = dataset(X, Y).concatenate(dataset(BAD, Y)).repeat()
    check(endless, None, steps_per_epoch=4, validation_data=endless, validation_steps=4)
    assert "x: batch 5" in refusal(check, endless, None, steps_per_epoch=5)
    for data in (dataset(X, Y), read_once()):
        assert refusal(check, validation_data=data, validation_steps=4) == (
            "validation_data: the data end after 3 batches, but validation_steps=4; lower it, or "
            "repeat() the data"
        )


def test_the_hypermodel_checks_its_search():
    hypermodel = CNNCellHyperModel(input_shape=[8, 9, 3], classes=3, num_nodes=3)
    hypermodel.check_search_arguments(X, Y, validation_data=(X, Y), epochs=2)
    message = refusal(hypermodel.check_search_arguments, X, Y + 1, validation_data=(X, Y))
    assert message == "y: label 3 is not one of 0 to 2"

    class Categorical(CNNCellHyperModel):
        def build(self, hp: Any) -> keras.Model:
            model = super().build(hp)
            model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
            return model

    one_hot = np.eye(3)[Y]
    own = Categorical(input_shape=[8, 9, 3], classes=3, num_nodes=3)
    own.check_search_arguments(X, one_hot, validation_data=(X, one_hot))
    # Of the tuner's own loss.
    hypermodel.check_search_arguments(
        X, one_hot, validation_data=(X, one_hot), loss="categorical_crossentropy"
    )


# Classes that one part alone has

NO_2 = np.arange(12) % 2
UNSEEN = "has no image of class 2 of 3, which x has; the score would not see it"
UNKNOWN = "x: has no image of class 2 of 3, which validation_data has"


def test_a_class_in_one_part_alone():
    assert refusal(check, validation_data=(X, NO_2)) == f"validation_data: {UNSEEN}"
    assert refusal(check, dataset(X, Y), None, validation_data=dataset(X, NO_2)) == (
        f"validation_data: {UNSEEN}"
    )
    assert refusal(check, X, NO_2) == UNKNOWN
    # What is not trained on cannot be learnt, however few are scored on.
    assert refusal(check, X, NO_2, validation_data=(X[2:3], Y[2:3])) == UNKNOWN
    many = {"y": np.arange(12), "classes": 12, "validation_data": (np.r_[X, X], np.zeros(24, int))}
    assert "classes 1, 2, 3, 4, 5 and 6 more of 12, which x has" in refusal(check, **many)
    # As Keras splits: the last images.
    assert refusal(check, y=np.sort(Y), validation_split=0.25) == (
        "validation_split=0.25: has no image of classes 0, 1 of 3, which x has; the score would "
        "not see it"
    )


def test_classes_that_are_only_warned_of(caplog):
    check(validation_data=(X[:2], Y[:2]))
    check(y=Y + 1, classes=4, validation_data=(X, Y + 1))
    assert caplog.messages == [
        "validation_data: has 2 images for 3 classes, none of class 2 of 3; the score does not "
        "see them",
        "x, validation_data: have no image of class 0 of 4",
    ]
    caplog.clear()
    # Labels of which only some are seen, or that are not numbers, say nothing about classes.
    check(dataset(X, np.sort(Y)), None, steps_per_epoch=1)
    several = dataset(X, np.ones((12, 3)))
    check(several, None, validation_data=several, loss="binary_crossentropy")
    assert not caplog.messages
