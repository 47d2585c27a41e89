"""Where the random numbers of a candidate come from: its seed, and the order of its images."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np

from keras_autoshrink.cell import Cell


def training_seed(seed: int, cell: Cell) -> int:
    """Returns the seed to train a cell with, 0 to 2**31 - 1, in a search of some seed.

    So neither the order of trials, nor a resume, nor parallel workers change a result.
    """
    digest = hashlib.sha256(f"{seed}/{cell.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def order_of_epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the places 0 to count - 1 in the order of an epoch, shape (count,), int32."""
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)


# Photographs are shifted by up to this part of their sides.
SHIFT = 16


def shifted(side: int, offsets: Any) -> Any:
    """Returns which pixels of a side take the places 0 to side - 1, in images that are shifted.

    Args:
        side: number of pixels, more than any offset.
        offsets: by how many pixels each of n images is shifted, integers (n,), NumPy's or
            TensorFlow's.

    Returns:
        Integers (n, side) of 0 to side - 1; beyond its border an image is mirrored.
    """
    last = side - 1
    return last - abs(last - abs(offsets[:, None] + np.arange(side, dtype=np.int32)))


class ShuffledBatches(keras.utils.PyDataset):
    """Arrays in batches, in an order that follows from a seed and the epoch alone.

    Keras shuffles arrays too, but in an order of its own.

    Args:
        x: array of shape (n, ...).
        y: array of shape (n, ...).
        batch_size: of all batches, at most n. The last one of an epoch is filled up with those that
            the epoch began with: a smaller one would be traced again.
        seed: of the order.
        photographs: whether each image, of shape (height, width, channels), is shifted by up to a
            sixteenth of its sides, its mirrored border moving in, and mirrored in every second
            epoch, half of them in the first (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
            GPU", arXiv 2404.00498).
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int, photographs: bool = False
    ) -> None:
        super().__init__()
        # As Keras takes arrays of floats.
        floats = x.dtype.kind == "f"
        self.x, self.y = x.astype(keras.config.floatx(), copy=False) if floats else x, y
        self.batch_size = batch_size
        self._size = min(batch_size, len(x))
        self.seed = seed
        self.photographs = photographs
        self._sides = np.random.default_rng(seed).random(len(x)) < 0.5
        self.begin(0)

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return -(-len(self.x) // self._size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns one batch of the epoch under way."""
        places = self._places[index * self._size :][: self._size]
        if not self.photographs:
            return self.x[places], self.y[places]
        _, height, width, _ = self.x.shape
        down, right = self._offsets
        rows = shifted(height, down[places])
        columns = shifted(width, right[places])
        mirrored = self._sides[places] ^ bool(self._epoch % 2)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
        pixels = places[:, None, None], rows[:, :, None], columns[:, None, :]
        return self.x[pixels], self.y[places]

    def begin(self, epoch: int) -> None:
        """Takes the order of an epoch, counted from 0.

        By a callback: what Keras itself tells a data set of epochs, it also tells it when it
        only looks at the first batch.
        """
        self._epoch = epoch
        order = order_of_epoch(self.seed, epoch, len(self.x))
        self._places = np.resize(order, len(self) * self._size)
        if self.photographs:
            generator = np.random.default_rng((self.seed, epoch, 1))
            self._offsets = [
                generator.integers(-(side // SHIFT), side // SHIFT + 1, len(self.x))
                for side in self.x.shape[1:3]
            ]
