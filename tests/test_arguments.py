"""What a search of a HyperModel of one's own is refused for, before anything is trained."""

from __future__ import annotations

import re
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from refusals import refusal

import keras_autoshrink as kas
from keras_autoshrink.tuner.arguments import check_search

X = np.zeros((12, 4), np.float32)
Y = np.arange(12) % 3
ONE_HOT = np.eye(3)[Y]
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ONE_A_CLASS = "categorical_crossentropy"
OF_STEPS = keras.losses.SparseCategoricalCrossentropy(axis=1)  # JAX has it
STEPS = np.zeros((12, 5, 4), np.float32)  # sequences of five vectors
CLASS_OF_STEP = np.tile(Y[:, None], (1, 5))


class Model(keras_tuner.HyperModel):
    """Three outputs of a vector."""

    def __init__(self, loss: Any = SPARSE, kind: Any = keras.Sequential, axes: tuple = ()) -> None:
        super().__init__()
        self.loss, self.kind, self.axes = loss, kind, axes

    def build(self, hp: Any) -> keras.Model:
        kas.declare_cell(hp, kas.Cell.dense(("input", "relu")))
        model = self.kind([keras.Input((*self.axes, 4)), keras.layers.Dense(3)])
        model.compile("adam", self.loss)
        return model


class FromOne(keras.Sequential):
    """Its labels begin at 1."""

    def train_step(self, data: Any) -> Any:
        return super().train_step((data[0], data[1] - 1))


class Fit(Model):
    """A `fit` that takes one argument more, and hands the rest on."""

    def fit(self, hp: Any, model: Any, x: Any, y: Any, warmup: int = 0, **kwargs: Any) -> Any:
        return model.fit(x, y, **kwargs)


class Narrow(Model):
    def fit(self, hp: Any, model: Any, x: Any, y: Any) -> Any:
        return model.fit(x, y)


class WithShape:
    """Yields batches, and says the shape of a sample."""

    shape = (4,)


def dataset(*tensors: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(tensors).batch(5)


def check(*args: Any, model: Any = None, loss: Any = None, **given: Any) -> None:
    check_search(model or Model(), keras_tuner.HyperParameters(), loss, args, given)


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ((X, Y + 1), {}, "y: label 3 is not one of 0 to 2; number the classes from 0, or give the"),
        ((X, Y - 1), {}, "y: label -1 is not one of 0 to 2"),
        ((X, Y), {"validation_data": (X, Y + 1)}, "validation_data: label 3 is not one of 0 to 2"),
        ((dataset(X, Y + (X[:, 0] + Y > 1)),), {}, "x: batch 1: label 3 is not one of 0 to 2"),
        ((X, ONE_HOT), {}, "y: 12 samples, but labels of shape (12, 3); expected (12,); if they"),
        ((X, np.eye(4)[Y]), {"loss": ONE_A_CLASS}, "y: labels of shape (12, 4), but the model has"),
        ((X, Y), {"loss": ONE_A_CLASS}, "y: labels of shape (12,), but the loss categorical_cross"),
        ((X, Y.astype(str)), {}, "y: labels are strings (<U21); expected integers 0 to 2"),
        (
            (STEPS, CLASS_OF_STEP + 1),
            {"model": Model(axes=(5,))},
            "y: label 3 is not one of 0 to 2",
        ),
        ((STEPS, Y), {"model": Model(axes=(5,))}, "y: labels of shape (12,), but the model's out"),
        ((X, Y[:9]), {}, "y: has length 9, but x has length 12; give as many as there are samples"),
        (
            (X, Y.tolist()),
            {},
            "y: Keras takes no list of numbers or strings; give numpy.asarray(y)",
        ),
        (
            (X.tolist(), Y),
            {},
            "x: Keras takes no list of numbers or strings; give numpy.asarray(x)",
        ),
        (({"a": X, "b": X[:9]}, Y), {}, "x: has arrays of lengths 9 and 12; give as many of each"),
        ((X, Y), {"sample_weight": np.ones(9)}, "sample_weight: has length 9, but x has length 12"),
        ((X, Y), {"validation_data": (X, Y[:9])}, "validation_data: y: has length 9, but x has"),
    ],
)
def test_data_refused(args, given, message):
    assert refusal(check, *args, **given).startswith(message)


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ((X, Y[:, None]), {"validation_data": dataset(X, Y), "batch_size": 4}),
        ((X, Y == 1), {}),
        (([X], [Y]), {"validation_data": dataset(X, (Y,))}),
        ((X, np.where(Y, Y, 9)), {"loss": keras.losses.SparseCategoricalCrossentropy(True, 9)}),
        ((X, ONE_HOT), {"loss": "CategoricalCrossentropy"}),
        ((STEPS, CLASS_OF_STEP[..., None]), {"model": Model(axes=(5,))}),
        # What others do with labels is theirs.
        ((X, np.full((12, 3), np.nan)), {"loss": "mse"}),
        ((X, Y + 1), {"model": Model(kind=FromOne)}),
        ((X, Y[:9]), {"model": Fit(), "warmup": 2, "mine": 3, "validation_dataset": (X, Y)}),
        ((STEPS, np.full((12, 3), 4)), {"model": Model(axes=(5,)), "loss": OF_STEPS}),
        ((WithShape(),), {"sample_weight": np.ones(12)}),
    ],
)
def test_data_not_refused(args, given):
    check(*args, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "epoch: not an argument of HyperModel.fit() or model.fit(); did you mean e"),
        ({"zzz": 3}, "zzz: not an argument of HyperModel.fit() or model.fit()"),
        ({"x": X}, "search(): multiple values for argument 'x'"),
        ({"model": Narrow(), "batch": 3}, "batch: not an argument of HyperModel.fit()"),
        ({"model": Narrow()}, "callbacks: HyperModel.fit() does not take it, and a search gives"),
    ],
)
def test_arguments_that_no_fit_takes(given, message):
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        check(X, Y, **given)
    assert "\n" not in str(caught.value)


def test_a_search_asks_before_it_trains(tmp_path):
    built = []

    class Sized(Model):
        def build(self, hp: Any) -> keras.Model:
            built.append(hp.Choice("classes", [3, 4]))
            return super().build(hp)

    given = keras_tuner.HyperParameters()
    given.Fixed("classes", 4)
    tuner = kas.AutoShrink(Sized(), directory=tmp_path, workers=1, hyperparameters=given)
    assert refusal(tuner.search, X, Y + 1, validation_data=(X, Y)).startswith("y: label 3")
    assert built[-1] == 4  # by the hyperparameters of the search
    assert not tuner.oracle.trials
