"""The checks of arguments, and that NumPy's whole numbers pass them."""

import math

import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.checks import (
    difference,
    enumerated,
    instance,
    not_negative,
    one_of,
    positive,
    share,
    whole,
)


def test_good_values_come_back_as_pythons_own():
    for value in (3, np.int8(3), np.uint16(3), np.int64(3), np.array(3)):
        assert (type(whole("units", value, 2)), whole("units", value, 2)) == (int, 3)
    for value in (0, 0.5, np.float32(0.25)):
        assert share("dropout", value) == value
    for value in (1, 1e-9, np.float32(0.25), np.int64(3)):
        assert (type(positive("rate", value)), positive("rate", value)) == (float, value)
    with pytest.raises(ValueError, match="seed=True"):
        whole("seed", True, 0)
    assert not_negative("l2", 0) == 0
    assert one_of("optimizer", "sgd", ("adam", "sgd")) == "sgd"
    instance("name", "sgd", str)


@pytest.mark.parametrize(
    ("check", "values", "expected"),
    [
        (lambda v: whole("n", v, 2), [1, 2.5, 3.0, "3", None, [3]], "a whole number of 2 or more"),
        (lambda v: share("n", v), [-0.1, 1, math.nan, math.inf], "0 or more and less than 1"),
        (lambda v: not_negative("n", v), [-1, math.nan, math.inf, "x"], "a number of 0 or more"),
        (lambda v: one_of("n", v, ("adam", "sgd")), ["SGD", 1], "one of adam, sgd"),
        (lambda v: positive("n", v), [0, -1.0, math.nan, math.inf, "x"], "a number greater than 0"),
    ],
)
def test_bad_values_are_named(check, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=r"^n=") as caught:
            check(value)
        assert str(caught.value) == f"n={value!r}: expected {expected}"


def test_a_value_of_another_class_is_named():
    with pytest.raises(TypeError, match=r"^cell='chain': expected a Cell$"):
        instance("cell", "chain", kas.Cell)


def test_sizes_of_a_network_may_be_numpys(tmp_path):
    chain = kas.Cell(("input", "tanh"), ((0, 1),))
    model = kas.ShrinkRNN(chain, np.int32(12), np.int64(5))
    # They are written as plain numbers.
    model.save(tmp_path / "m.keras")
    loaded = kas.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("recurrent").cell.units) is int
    assert loaded.output_shape == (None, None, 12)


def test_of_many_names_the_first_are_said():
    names = [f"n{number}" for number in range(1_006)]
    assert enumerated(names[:5]) == "n0, n1, n2, n3, n4"
    assert enumerated(names) == "n0, n1, n2, n3, n4 and 1,001 more"


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({"seed": 0, "loss": 2.5}, {"seed": 0}, ""),
        ({"stages": [1, 2], "rate": 1}, {"stages": (1, 2), "rate": 1.0}, ""),
        ({"seed": 0, "ema": None}, {"seed": 1, "ema": 0.9}, "seed=0, not 1; ema=None, not 0.9"),
        ({}, {"seed": 1}, "seed=unset, not 1"),
        ({"net": {"a": 1, "b": 2}}, {"net": {"a": 1}}, "net.b=2, not unset"),
        (
            {"net": {"a": {"b": 1}}},
            {"net": {"a": {"b": 2, "c": 3}}},
            "net.a.b=1, not 2; net.a.c=unset, not 3",
        ),
        ({"net": {"a": 1}}, {"net": None}, "net={'a': 1}, not None"),
    ],
)
def test_differences_of_settings(theirs, ours, said):
    assert difference(theirs, ours) == said


def test_a_difference_shows_a_path_whole_and_long_values_in_short():
    said = difference({"path": "/" * 90}, {"path": "a" * 10_000})
    assert "/" * 90 in said
    assert len(said) < 300
