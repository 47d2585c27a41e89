import functools
import traceback

import keras
import numpy as np
import pytest

from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.tuner.project import describe, difference
from keras_autoshrink.tuner.state import error_line


class Weighs:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, logs, macs):
        return logs["val_accuracy"] - self.weight * macs


def closing_over(weight):
    def score(logs, macs):
        return weight * logs["val_accuracy"]

    return score


@pytest.mark.parametrize(
    "make",
    [
        AccuracyScore,
        Weighs,
        closing_over,
        lambda weight: functools.partial(closing_over, weight),
        lambda weight: functools.partial(Weighs(weight), logs={}),
    ],
)
def test_a_score_is_described_by_what_it_does(make):
    assert describe(make(0.1)) == describe(make(0.1))
    assert describe(make(0.1)) != describe(make(0.2))
    assert "0x" not in str(describe(make(0.1)))


def holds_itself():
    def score(logs, macs):
        return score and logs["val_accuracy"]

    return score


def test_what_a_score_holds_and_is_not_plain_is_told_by_its_kind():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert describe(closing_over(model)) == ["closing_over.<locals>.score", "Sequential"]
    assert describe(Weighs(model)) == ["Weighs", {"weight": "Sequential"}]
    assert describe(Weighs(holds_itself)) == ["Weighs", {"weight": "holds_itself"}]
    assert describe(holds_itself()) == [
        "holds_itself.<locals>.score",
        "holds_itself.<locals>.score",
    ]


def test_numpy_numbers_are_told_by_their_value():
    assert describe(Weighs(np.int64(3))) == ["Weighs", {"weight": 3}]
    assert describe(Weighs(np.float32(0.5))) == ["Weighs", {"weight": 0.5}]


def test_differences_are_spelled_out():
    assert difference({"a": 1, "b": [2]}, {"a": 1, "b": [3]}) == "b=[2], not [3]"
    assert difference("x", "y") == "'x', not 'y'"


def test_the_line_that_says_what_was_wrong():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("the cause\n\t 0 derived errors. [Op:__inference_12]") from error
    except ValueError:
        assert error_line(traceback.format_exc()) == "ValueError: the cause"
    assert error_line("no traceback") == "no traceback"
    assert error_line(None) == "no error message"
