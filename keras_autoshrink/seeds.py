"""The seed that a candidate is trained with."""

from __future__ import annotations

import hashlib

from keras_autoshrink.cell import Cell


def training_seed(seed: int, cell: Cell) -> int:
    """The seed to train a cell with: it depends on the search's seed and the network alone.

    So neither the order of trials, nor a resume, nor parallel workers change a result.

    Returns:
        An integer from 0 to 2**31 - 1.
    """
    digest = hashlib.sha256(f"{seed}/{cell.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
