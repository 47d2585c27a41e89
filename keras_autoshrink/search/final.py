"""The final of a search: its best networks trained for longer, and from several seeds.

Two rungs of successive halving (Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization", arXiv 1502.07943): all networks are trained for half of the epochs,
the best for all of them, beside the best of the points that the search began with and could not
change. Each several times: what one training says is partly its seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.points import Point, Space
from keras_autoshrink.search.records import Outcome

# With fewer networks all are trained for all epochs.
_LEAST_CANDIDATES = 8
# The share of a search's networks that a final may have.
_OF_CANDIDATES = 0.25


def choose_rungs(epochs: int, max_candidates: int | None) -> tuple[int, ...]:
    """Chooses for how many epochs the networks of a search are trained, and those of its final.

    Args:
        epochs: the most that a network is trained.
        max_candidates: how many networks are trained, None if that is open.

    Returns:
        Half of the epochs, and all; nothing where there is to be no final.
    """
    few = max_candidates is not None and max_candidates < _LEAST_CANDIDATES
    return () if few or epochs < 2 else (epochs // 2, epochs)


@dataclasses.dataclass(frozen=True)
class Size:
    """How many networks a final has.

    Attributes:
        best: of the space.
        others: of the points that the space does not contain.
        repeats: how often each is trained.
    """

    best: int
    others: int
    repeats: int

    @property
    def trainings(self) -> int:
        """How many trainings these are."""
        return (self.best + self.others) * self.repeats


_SIZES = (Size(3, 2, 2), Size(2, 2, 2), Size(2, 1, 2), Size(1, 1, 2), Size(1, 1, 1))


def size_of(max_candidates: int, space: Space) -> Size:
    """Returns the size of the final of a search that trains so many networks."""
    fitting = (size for size in _SIZES if size.trainings <= _OF_CANDIDATES * max_candidates)
    size = next(fitting, _SIZES[-1])
    has_others = not all(space.contains(point) for point in space.first)
    return size if has_others else dataclasses.replace(size, others=0)


class Qualified:
    """The networks that have been trained for as long as those of a search are, the best first.

    Args:
        space: of the search; it has rungs.
        outcomes: of its points.
    """

    def __init__(self, space: Space, outcomes: Mapping[Cell, Outcome]) -> None:
        self._epochs, self._all_epochs = space.rungs
        scored = [
            (-outcome.score, point.key, point, outcome.seconds)
            for point, outcome in outcomes.items()
            if isinstance(point, Point) and outcome.score is not None
            if point.epochs == self._epochs
        ]
        ranked = [(point, seconds) for _, _, point, seconds in sorted(scored, key=lambda s: s[:2])]
        self._best = [each for each in ranked if space.contains(each[0])]
        self._others = [each for each in ranked if not space.contains(each[0])]

    def final(self, size: Size) -> list[Cell]:
        """Returns the points of the final."""
        return [
            point.trained_for(self._all_epochs, repeat)
            for point, _ in self._of(size)
            for repeat in range(size.repeats)
        ]

    def seconds(self, size: Size) -> float:
        """Returns the sum of the times that the trainings of the final are going to take."""
        seconds = sum(seconds for _, seconds in self._of(size))
        return seconds * size.repeats * self._all_epochs / self._epochs

    def affordable(self, seconds: float) -> Size:
        """Returns the largest size whose trainings take so many seconds, or the smallest."""
        fitting = (size for size in _SIZES if self.seconds(size) <= seconds)
        return next(fitting, _SIZES[-1])

    def _of(self, size: Size) -> list[tuple[Point, float]]:
        return self._best[: size.best] + self._others[: size.others]
