"""The end of a search by successive halving: the better networks are trained for longer.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
arXiv 1502.07943. At last the best are trained from several seeds, beside the best of the points
that the search began with and could not change: what one training says is partly its seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.points import Point, Space
from keras_autoshrink.search.records import Outcome

# Fewer networks, or fewer epochs, are not worth several rungs.
_LEAST_CANDIDATES, _LEAST_EPOCHS = 10, 4
# Of `max_minutes` the share that the last two rungs may take.
_SHARE = 0.4


def choose_rungs(epochs: int, max_candidates: int | None) -> tuple[int, ...]:
    """Chooses for how many epochs networks are trained: all, the better ones, the best at the end.

    Args:
        epochs: the most that a network is trained.
        max_candidates: how many networks are trained, None if that is open.

    Returns:
        A quarter, a half and all of the epochs; nothing if all networks are to be trained alike.
    """
    few = max_candidates is not None and max_candidates < _LEAST_CANDIDATES
    return () if few or epochs < _LEAST_EPOCHS else (epochs // 4, epochs // 2, epochs)


@dataclasses.dataclass(frozen=True)
class Ending:
    """How many networks the last two rungs train.

    Attributes:
        better: those of the second rung.
        finalists: those of them that are trained for all epochs.
        others: of the points that the space does not contain, those that are trained beside them.
        repeats: how often each of both is.
    """

    better: int
    finalists: int
    others: int
    repeats: int = 2

    @property
    def trainings(self) -> int:
        """How many trainings these are."""
        return self.better + (self.finalists + self.others) * self.repeats

    @classmethod
    def of(cls, max_candidates: int, space: Space) -> Ending:
        """Returns the end of a search of a number of networks, less than half of them."""
        others = not all(space.contains(point) for point in space.first)
        for ending in _ENDINGS:
            if 2.5 * ending.trainings <= max_candidates:
                break
        return ending if others else dataclasses.replace(ending, others=0)


_ENDINGS = (Ending(8, 3, 2), Ending(4, 2, 2), Ending(2, 1, 1), Ending(2, 1, 1, 1))


class Ladder:
    """The networks that a search has trained, by how far each has come.

    Args:
        space: of the search; it has rungs.
        outcomes: of its points.
    """

    def __init__(self, space: Space, outcomes: Mapping[Cell, Outcome]) -> None:
        self._space = space
        self._outcomes = {
            point: outcome
            for point, outcome in outcomes.items()
            if isinstance(point, Point) and outcome.score is not None
        }

    def second(self, ending: Ending) -> list[Cell]:
        """Returns the points of the second rung, or of the last where there are none."""
        best = self._best(self._space.rungs[0], contained=True)[: ending.better]
        found: list[Cell] = [point.trained_for(self._space.rungs[1]) for point in best]
        return found or self.last(ending)

    def last(self, ending: Ending) -> list[Cell]:
        """Returns the points of the last rung: each network several times."""
        first, second, last = self._space.rungs
        finalists = self._best(second, True) or self._best(first, True)
        networks = finalists[: ending.finalists] + self._best(first, False)[: ending.others]
        return [p.trained_for(last, repeat) for p in networks for repeat in range(ending.repeats)]

    def seconds(self, ending: Ending) -> float:
        """Returns how long the last two rungs are going to take, by what the first one took."""
        first, second, last = self._space.rungs
        cells, others = self._best(first, True), self._best(first, False)[: ending.others]
        final = [*cells[: ending.finalists], *others] * ending.repeats
        epoch = {p: self._outcomes[p].seconds / first for p in (*cells, *others)}
        return second * sum(epoch[p] for p in cells[: ending.better]) + last * sum(
            epoch[p] for p in final
        )

    def affordable(self, seconds: float) -> Ending:
        """Returns the largest end that takes but a share of some seconds, or the smallest."""
        others = bool(self._best(self._space.rungs[0], False))
        endings = [each if others else dataclasses.replace(each, others=0) for each in _ENDINGS]
        fitting = (each for each in endings if self.seconds(each) <= _SHARE * seconds)
        return next(fitting, endings[-1])

    def _best(self, epochs: int, contained: bool) -> list[Point]:
        """Returns the networks trained for so many epochs, the best first."""
        found = [
            (-outcome.score, point.key, point)
            for point, outcome in self._outcomes.items()
            if point.epochs == epochs
            and self._space.contains(point) == contained
            and outcome.score is not None
        ]
        return [point for *_, point in sorted(found, key=lambda each: each[:2])]
