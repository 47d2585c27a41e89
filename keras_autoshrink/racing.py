"""Successive halving: of a round's candidates, the worse half is trained no further.

Jamieson and Talwalkar, arXiv 1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from keras_autoshrink.candidate_training import Stack

# When half of those that are left stop, as shares of the epochs.
RUNGS = (0.25, 0.5)


def race(stacks: Sequence[Stack], epochs: int, run: Callable[[Sequence[Stack], int], None]) -> None:
    """Trains candidates, those that are ahead longer than the others.

    Args:
        stacks: of one candidate each.
        epochs: that those train which are never among the worse half.
        run: trains stacks until so many epochs have been done.
    """
    racing = list(stacks)
    for share in RUNGS:
        run(racing, math.ceil(share * epochs))
        # The earlier of equals, which is the one with the smaller number in the round.
        racing.sort(key=lambda stack: -stack.best_score)
        racing = racing[: math.ceil(len(racing) / 2)]
    run(racing, epochs)
