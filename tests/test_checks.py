"""The checks of arguments, and that NumPy's whole numbers pass them."""

import math

import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.checks import enumerated, is_count, positive, share, whole

CHAIN = kas.Cell(("input", "tanh"), ((0, 1),))
NUMPY_INTEGERS = (np.int8, np.uint16, np.int32, np.int64)


@pytest.mark.parametrize("value", [2, 3, *(kind(3) for kind in NUMPY_INTEGERS), np.array(3)])
def test_whole_numbers(value):
    number = whole("units", value, 2)
    assert type(number) is int
    assert number == value


def test_true_is_1_to_whole():
    assert whole("seed", True, 0) == 1
    with pytest.raises(ValueError, match=r"^units=True: expected a whole number of 2 or more$"):
        whole("units", True, 2)


@pytest.mark.parametrize("value", [1, 0, -3, np.int64(1), 2.5, 3.0, "3", None, math.nan, [3]])
def test_what_is_no_whole_number_of_2_or_more(value):
    with pytest.raises(ValueError, match=r"^units=") as caught:
        whole("units", value, 2)
    assert str(caught.value) == f"units={value!r}: expected a whole number of 2 or more"


@pytest.mark.parametrize(
    ("value", "count"), [(1, True), (7, True), (0, False), (-1, False), (2.0, False), (True, False)]
)
def test_counts(value, count):
    assert is_count(value) is count


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 0.999, np.float32(0.25)])
def test_shares(value):
    assert share("dropout", value) == value


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, math.inf, -math.inf])
def test_what_is_no_share(value):
    with pytest.raises(ValueError, match=r"^dropout=") as caught:
        share("dropout", value)
    assert str(caught.value) == f"dropout={value!r}: expected 0 or more and less than 1"


@pytest.mark.parametrize("value", [1, 1e-9, 1e300, np.float32(0.25), np.int64(3)])
def test_positive_numbers(value):
    number = positive("learning_rate", value)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_what_is_no_positive_number(value):
    with pytest.raises(ValueError, match=r"^learning_rate=") as caught:
        positive("learning_rate", value)
    assert str(caught.value) == f"learning_rate={value!r}: expected a number greater than 0"


@pytest.mark.parametrize("kind", NUMPY_INTEGERS)
def test_sizes_of_a_network_may_be_numpys(kind, tmp_path):
    model = kas.ShrinkRNN(CHAIN, kind(12), kind(5))
    assert model.output_shape == (None, None, 12)
    assert kas.count_macs(model, input_shape=(1,)) == 3 * 5 * 10 + 5 * 12
    # They are written as plain numbers.
    model.save(tmp_path / "m.keras")
    loaded = kas.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("recurrent").cell.units) is int
    for weight, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_of_many_names_the_first_are_said():
    names = [f"n{number}" for number in range(1_006)]
    assert enumerated(names[:1]) == "n0"
    assert enumerated(names[:5]) == "n0, n1, n2, n3, n4"
    assert enumerated(names) == "n0, n1, n2, n3, n4 and 1,001 more"
