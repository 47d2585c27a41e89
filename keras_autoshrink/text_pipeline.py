"""The windows of a text as a `tf.data` pipeline, where they differ in length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_autoshrink.text_windows import Tokens, parallel_streams


def window_batches(
    tokens: npt.NDArray[Any], batch_size: int, lengths_of_epochs: Sequence[Sequence[int]]
) -> tf.data.Dataset:
    """The windows of a text for a stateful network, epoch after epoch.

    Args:
        tokens: the text, integers of shape (n,).
        batch_size: number of streams that it is cut into; see `parallel_streams`.
        lengths_of_epochs: for each epoch the lengths of its windows, in their order, such as
            `jittered_lengths` draws. An epoch starts at the beginning of the streams, where
            the network's state is to be reset; what its lengths leave over is not read.

    Returns:
        As many batches as there are lengths: x and y, int32 of shape (batch_size, length); y
        holds the token that follows each token of x.

    Raises:
        ValueError: the text is too short, or a length is under 1.
    """
    x, y = parallel_streams(tokens, batch_size)
    for number, lengths in enumerate(lengths_of_epochs):
        if not lengths or min(lengths) < 1 or sum(lengths) > x.shape[1]:
            raise ValueError(
                f"windows of epoch {number}: lengths {min(lengths, default=0)} and more, "
                f"{sum(lengths):,} in all; expected 1 and more, and at most {x.shape[1]:,} in all"
            )

    def windows() -> Iterator[tuple[Tokens, Tokens]]:
        for lengths in lengths_of_epochs:
            stops = np.cumsum(lengths)
            for length, stop in zip(lengths, stops, strict=True):
                yield x[:, stop - length : stop], y[:, stop - length : stop]

    spec = tf.TensorSpec((batch_size, None), tf.int32)
    batches = tf.data.Dataset.from_generator(windows, output_signature=(spec, spec))
    count = sum(len(lengths) for lengths in lengths_of_epochs)
    return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
