"""A text cut into the windows that a recurrent network is trained and scored on.

A network is trained by truncated backpropagation through time: several places of the text are
read in parallel, each in one row of every batch, and the state of a row is carried from one
batch to the next while gradients stop at the border between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]


def parallel_streams(tokens: npt.NDArray[Any], batch_size: int) -> tuple[Tokens, Tokens]:
    """Cuts a text into streams of equal length, to be read in parallel.

    Args:
        tokens: the text, integers of shape (n,).
        batch_size: number of streams.

    Returns:
        x and y, int32 of shape (batch_size, positions), where positions is
        `(n - 1) // batch_size`: stream b begins where stream b - 1 ends, and y holds the token
        that follows each token of x. What is left at the end of the text is dropped.

    Raises:
        ValueError: an argument is not of this kind, or there are too few tokens.
    """
    tokens = _checked(tokens, batch_size=batch_size)
    positions = (len(tokens) - 1) // batch_size
    if positions < 1:
        raise ValueError(
            f"{len(tokens):,} tokens: {batch_size} streams take {batch_size + 1:,} or more; lower "
            "batch_size"
        )
    used = positions * batch_size
    shape = (batch_size, positions)
    return tokens[:used].reshape(shape), tokens[1 : used + 1].reshape(shape)


def training_windows(
    tokens: npt.NDArray[Any], batch_size: int, steps: int
) -> tuple[Tokens, Tokens]:
    """Cuts a text into windows, in the order in which a stateful network reads them.

    `model.fit(x, y, batch_size=batch_size, shuffle=False)` carries the state of each stream
    from one window to the next; it is to be reset before every epoch.

    Args:
        tokens: the text, integers of shape (n,).
        batch_size: number of streams that the text is cut into; see `parallel_streams`.
        steps: number of tokens in a window.

    Returns:
        x and y, int32 of shape (windows * batch_size, steps): row `k * batch_size + b` is
        window k of stream b, and y holds the token that follows each token of x. A stream's
        last window is dropped if it is not full.

    Raises:
        ValueError: an argument is not of this kind, or the text is too short for one window.
    """
    tokens = _checked(tokens, batch_size=batch_size, steps=steps)
    check_length(len(tokens), batch_size, steps)
    x, y = (
        stream[:, : stream.shape[1] // steps * steps]
        .reshape(batch_size, -1, steps)
        .swapaxes(0, 1)
        .reshape(-1, steps)
        for stream in parallel_streams(tokens, batch_size)
    )
    return x, y


def check_length(tokens: int, batch_size: int, steps: int) -> None:
    """Checks that there is a window of `steps` tokens in each of `batch_size` streams.

    Raises:
        ValueError: there are too few tokens.
    """
    needed = batch_size * steps + 1
    if tokens < needed:
        raise ValueError(
            f"{tokens:,} tokens: one window of {steps} steps in each of {batch_size} streams "
            f"takes {needed:,}; lower batch_size or steps"
        )


def evaluation_windows(
    tokens: npt.NDArray[Any], batch_size: int, steps: int
) -> tuple[Tokens, Tokens, Weights]:
    """Cuts a text into windows to score a stateful network on, each token exactly once.

    Every token but the first is predicted with weight 1 in one place. The streams overlap by
    one window: a stream other than the first reads the last window of the stream before it,
    with weight 0, so that its state is warm where it counts. The first one starts from the zero
    state, as a network that is new to the text does. A `batch_size` of 1 gives the whole text
    in its order, so that every token is predicted from all tokens before it.

    Args:
        tokens: the text, integers of shape (n,), n at least 2.
        batch_size: number of rows that the network reads at a time. If the text has fewer
            windows than that, rows without a part of it have weight 0.
        steps: number of tokens in a window.

    Returns:
        x and y, int32, and weights, float32 0 or 1, all of shape (windows * batch_size, steps),
        their rows in the order of `training_windows`. What is behind the end of the text is 0,
        at weight 0. The mean loss of a token is the weighted sum over the sum of the weights,
        `n - 1`; a Keras loss with its usual reduction divides by the number of weights instead.

    Raises:
        ValueError: an argument is not of this kind, or there are fewer than 2 tokens.
    """
    tokens = _checked(tokens, batch_size=batch_size, steps=steps)
    predicted = len(tokens) - 1
    if predicted < 1:
        raise ValueError(f"{len(tokens)} tokens: expected 2 or more, to predict one from another")
    in_text = -(-predicted // steps)
    # The windows of a stream. The first counts all of its own, the others all but one:
    # the fewest for which windows + (batch_size - 1) * (windows - 1) reaches in_text.
    windows = -(-(in_text - 1) // batch_size) + 1
    stream = np.arange(batch_size)
    number = (stream * (windows - 1) + np.arange(windows)[:, None]).reshape(-1, 1)
    position = number * steps + np.arange(steps)
    counts = position < predicted
    counts[1:batch_size] = False  # the first window of each stream but the first
    # A 0 for the positions behind the end; some rows may have no others.
    padded = np.append(tokens, np.zeros(1, np.int32))
    x = padded[np.where(position < predicted, position, len(tokens))]
    y = padded[np.where(position < predicted, position + 1, len(tokens))]
    return x, y, counts.astype(np.float32)


def jittered_lengths(positions: int, steps: int, generator: np.random.Generator) -> list[int]:
    """Draws the lengths of the windows of one epoch, so that their borders move.

    As in AWD-LSTM (Merity et al. 2018, section 5, arXiv 1708.02182): the mean is `steps` with
    probability 0.95 and half of it else, and the length is drawn from a normal distribution
    around it with standard deviation 5, at least 5 tokens and at most `steps + 10`. There, the
    learning rate of a window is scaled by its length over `steps`.

    All lengths are then stretched or shrunk alike, so that each epoch has the same number
    of windows and reads all positions. In texts of many windows that changes them by little; in
    one of few they can get longer than `steps + 10`, or shorter than 5.

    Args:
        positions: number of tokens in each stream of `parallel_streams`.
        steps: number of tokens in most windows, about.
        generator: what to draw from.

    Returns:
        Lengths of 1 or more, whose sum is `positions`. Their number is
        `max(1, round(positions / mean))` with the mean length 0.975 times `steps`, or 5 if that
        is more.
    """
    count = max(1, round(positions / max(5, 0.975 * steps)))
    means = np.where(generator.random(count) < 0.95, steps, steps / 2)
    lengths = np.clip(generator.normal(means, 5).astype(np.int64), 5, steps + 10)
    # The borders are stretched, in whole numbers, and not the lengths: so the sum is exact. No
    # window gets lost: two borders are 5 or more apart, and shrink to no less than a fourth.
    borders = np.cumsum(lengths) * positions // lengths.sum()
    result: list[int] = np.diff(borders, prepend=0).tolist()
    return result


def _checked(tokens: npt.NDArray[Any], **sizes: int) -> Tokens:
    """Returns the tokens as int32; checks that they are 1-D integers and the sizes positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: expected 1 or more")
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise ValueError(
            f"tokens: {tokens.dtype} of shape {tokens.shape}; expected integers of shape (n,)"
        )
    return tokens.astype(np.int32, copy=False)
