"""Successive halving: of a round's candidates, the worse half is trained no further.

Jamieson and Talwalkar, arXiv 1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

# When half of those that are left stop, as shares of the epochs.
RUNGS = (0.25, 0.5)


class Racer(Protocol):
    """Who takes part in a race."""

    @property
    def best_score(self) -> float:
        """Of all its epochs so far."""


_Racer = TypeVar("_Racer", bound=Racer)


def race(
    racers: Sequence[_Racer], epochs: int, run: Callable[[Sequence[_Racer], int], None]
) -> None:
    """Trains candidates, those that are ahead longer than the others.

    Args:
        racers: the candidates, each ranked by itself, also if some are trained together.
        epochs: that those train which are never among the worse half.
        run: trains racers until so many epochs have been done; those that it was given before
            and is not given any more have stopped.
    """
    racing = list(racers)
    for share in RUNGS:
        run(racing, math.ceil(share * epochs))
        # The earlier of equals, which is the one with the smaller number in the round.
        racing.sort(key=lambda racer: -racer.best_score)
        racing = racing[: math.ceil(len(racing) / 2)]
    run(racing, epochs)
