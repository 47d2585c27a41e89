"""How a text is cut into windows: what follows what, and that each token counts once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_autoshrink.data.windows import (
    evaluation_windows,
    jittered_lengths,
    parallel_streams,
    training_windows,
)
from keras_autoshrink.training.language_model import window_batches

SIZES = {"batch_size": st.integers(1, 9), "steps": st.integers(1, 8)}


def text(length: int) -> np.ndarray:
    """A text whose tokens are all different, and not their places."""
    return np.arange(length) + 1000


def streams_of(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """What each row of a stateful network's batch reads, shape (batch_size, positions)."""
    windows = rows.reshape(-1, batch_size, rows.shape[-1])
    return windows.swapaxes(0, 1).reshape(batch_size, -1)


# Streams


@given(length=st.integers(2, 200), batch_size=st.integers(1, 9))
def test_streams_are_the_text_in_its_order(length, batch_size):
    if length <= batch_size:
        return
    x, y = parallel_streams(text(length), batch_size)
    assert x.shape == y.shape == (batch_size, (length - 1) // batch_size)
    assert x.ravel().tolist() == text(x.size).tolist()
    np.testing.assert_array_equal(y, x + 1)


# Training


def test_training_windows_by_hand():
    x, y = training_windows(text(12), batch_size=2, steps=2)
    # Two streams of five positions: two windows each, and the fifth position is dropped.
    assert x.tolist() == [[1000, 1001], [1005, 1006], [1002, 1003], [1007, 1008]]
    assert y.tolist() == [[1001, 1002], [1006, 1007], [1003, 1004], [1008, 1009]]


@given(length=st.integers(2, 200), **SIZES)
def test_training_windows_carry_each_stream_on(length, batch_size, steps):
    tokens = text(length)
    if length <= batch_size * steps:
        with pytest.raises(ValueError, match="tokens: one window"):
            training_windows(tokens, batch_size, steps)
        return
    x, y = training_windows(tokens, batch_size, steps)
    assert x.dtype == y.dtype == np.int32
    positions = (length - 1) // batch_size // steps * steps
    assert x.shape == y.shape == (positions // steps * batch_size, steps)
    whole_x, whole_y = parallel_streams(tokens, batch_size)
    np.testing.assert_array_equal(streams_of(x, batch_size), whole_x[:, :positions])
    np.testing.assert_array_equal(streams_of(y, batch_size), whole_y[:, :positions])


# Evaluation


def test_one_stream_of_evaluation_is_the_text():
    x, y, weights = evaluation_windows(text(6), batch_size=1, steps=3)
    assert x.tolist() == [[1000, 1001, 1002], [1003, 1004, 0]]
    assert y.tolist() == [[1001, 1002, 1003], [1004, 1005, 0]]
    assert weights.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_streams_of_evaluation_by_hand():
    x, y, weights = evaluation_windows(text(10), batch_size=2, steps=2)
    # Five windows: the first stream counts three; the second is warmed by the third of them.
    pairs = [[1000, 1001], [1004, 1005], [1002, 1003], [1006, 1007], [1004, 1005], [1008, 0]]
    assert x.tolist() == pairs
    assert y[:, 0].tolist() == [1001, 1005, 1003, 1007, 1005, 1009]
    assert weights.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1], [1, 1], [1, 0]]


@given(length=st.integers(2, 300), **SIZES)
def test_each_token_but_the_first_counts_once(length, batch_size, steps):
    tokens = text(length)
    x, y, weights = evaluation_windows(tokens, batch_size, steps)
    assert x.shape == y.shape == weights.shape
    assert (x.dtype, y.dtype, weights.dtype) == (np.int32, np.int32, np.float32)
    assert x.shape[1] == steps
    assert len(x) % batch_size == 0
    assert set(np.unique(weights)) <= {0, 1}
    counted = weights == 1
    assert sorted(y[counted].tolist()) == tokens[1:].tolist()
    np.testing.assert_array_equal(y[counted], x[counted] + 1)
    assert set(np.unique([x, y])) <= {0, *tokens.tolist()}


@given(length=st.integers(2, 300), **SIZES)
def test_what_counts_was_read_on_from_a_true_beginning(length, batch_size, steps):
    tokens = text(length)
    x, _, weights = (
        streams_of(part, batch_size) for part in evaluation_windows(tokens, batch_size, steps)
    )
    for stream in range(batch_size):
        counted = np.flatnonzero(weights[stream])
        if not len(counted):
            continue
        # No gap in what counts, and all before it in the stream is what the text has before it.
        first, last = counted[0], counted[-1]
        assert first == (0 if stream == 0 else steps)
        assert len(counted) == last - first + 1
        assert np.all(np.diff(x[stream, : last + 1]) == 1)
    assert x[0, 0] == tokens[0]


# Jittered lengths


@given(positions=st.integers(1, 3000), steps=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_lengths_use_up_the_positions(positions, steps, seed):
    lengths = jittered_lengths(positions, steps, np.random.default_rng(seed))
    assert sum(lengths) == positions
    assert all(type(length) is int and length >= 1 for length in lengths)
    assert lengths == jittered_lengths(positions, steps, np.random.default_rng(seed))
    # The same number in every epoch.
    assert len(lengths) == max(1, round(positions / max(5, 0.975 * steps)))


def test_lengths_are_distributed_as_published():
    lengths = np.array(jittered_lengths(2_000_000, 70, np.random.default_rng(0)))
    short = lengths < 52  # between the two means, five deviations from either almost
    assert short.mean() == pytest.approx(0.05, abs=0.005)
    for part, mean in ((lengths[~short], 70), (lengths[short], 35)):
        assert part.mean() == pytest.approx(mean, abs=0.5)
        assert part.std() == pytest.approx(5, abs=0.4)
    # Drawn from 5 to 80, and then stretched by less than a hundredth.
    assert lengths.min() >= 5
    assert lengths.max() <= 81


def test_lengths_differ_from_epoch_to_epoch():
    generator = np.random.default_rng(0)
    assert jittered_lengths(500, 35, generator) != jittered_lengths(500, 35, generator)


# Refusals


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            parallel_streams,
            (text(3), 3),
            "3 tokens: 3 streams take 4 or more; lower batch_size",
        ),
        (
            training_windows,
            (text(4480), 128, 35),
            "4,480 tokens: one window of 35 steps in each of 128 streams takes 4,481; lower "
            "batch_size or steps",
        ),
        (
            evaluation_windows,
            (text(1), 1, 1),
            "1 tokens: expected 2 or more, to predict one from another",
        ),
        (evaluation_windows, (text(9), 0, 2), "batch_size=0: expected 1 or more"),
        (
            evaluation_windows,
            (np.ones(3), 1, 1),
            "tokens: float64 of shape (3,); expected integers of shape (n,)",
        ),
        (
            training_windows,
            (np.ones((3, 1), np.int32), 1, 1),
            "tokens: int32 of shape (3, 1); expected integers of shape (n,)",
        ),
    ],
)
def test_refused(function: Any, arguments: tuple[Any, ...], message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        function(*arguments)
    assert str(caught.value) == message


# As a pipeline


def test_batches_of_several_epochs():
    tokens = text(23)  # two streams of 11 positions
    batches = window_batches(tokens, 2, [[5, 4, 2], [3, 6]])
    assert len(batches) == 5
    for _ in range(2):  # as often as it is read
        x, y = zip(*batches.as_numpy_iterator(), strict=True)
        assert [part.shape for part in x] == [(2, 5), (2, 4), (2, 2), (2, 3), (2, 6)]
        assert x[0].dtype == y[0].dtype == np.int32
        first, second = np.concatenate(x[:3], axis=1), np.concatenate(x[3:], axis=1)
        np.testing.assert_array_equal(first, parallel_streams(tokens, 2)[0])
        np.testing.assert_array_equal(second, first[:, :9])
        for part, following in zip(x, y, strict=True):
            np.testing.assert_array_equal(following, part + 1)
