"""The final of a search: its best networks trained for longer, and from several seeds.

Successive halving (Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization", arXiv 1502.07943): all networks are trained for half of the epochs,
the best for all of them, beside the best of the points that the search began with and could not
change; and where many networks have been trained, half of these are trained again, twice. What one
training says is partly its seed, and partly its validation images; and the best of many is one that
both were kind to.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.points import Point, Space
from keras_autoshrink.search.records import (
    Outcome,
    Round,
    mean_scores,
    network_of,
    worth_and_ease,
)

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
    """How many networks a final has, or a later round of it.

    Attributes:
        best: of the space.
        others: of the points that the space does not contain.
        repeats: how often each has been trained at its end.
    """

    best: int
    others: int
    repeats: int

    def following(self, more: int = 2) -> Size | None:
        """Returns the size of the next round, half of this; None where two of the space are left.

        Args:
            more: how often each of them is trained again.
        """
        if self.best <= 2:
            return None
        return Size(max(2, self.best // 2), -(-self.others // 2), self.repeats + more)

    @property
    def trainings(self) -> int:
        """How many trainings these are, with those of all rounds that follow."""
        trainings = (self.best + self.others) * self.repeats
        if (later := self.following()) is None:
            return trainings
        return trainings + later.trainings - (later.best + later.others) * self.repeats


_SIZES = (Size(4, 4, 1), Size(4, 2, 1), Size(2, 2, 2), Size(2, 1, 2), Size(1, 1, 2), Size(1, 1, 1))


def _sizes(others: int) -> list[Size]:
    """Lists the sizes of finals, the largest first, where there are so many points of others."""
    return [dataclasses.replace(size, others=min(size.others, others)) for size in _SIZES]


def size_of(max_candidates: int, space: Space) -> Size:
    """Returns the size of the final of a search that trains so many networks."""
    sizes = _sizes(sum(not space.contains(point) for point in space.first))
    fitting = (size for size in sizes if size.trainings <= _OF_CANDIDATES * max_candidates)
    return next(fitting, sizes[-1])


@dataclasses.dataclass(frozen=True)
class Standing:
    """A network as its trainings show it that were as long as most of a search are.

    Attributes:
        point: of the first of these trainings.
        worth: how good it is: the score, or an estimate where networks have been trained more than
            once.
        seconds: that a training took, in the mean.
    """

    point: Cell
    worth: float
    seconds: float


def standings(space: Space, outcomes: Mapping[Cell, Outcome]) -> list[Standing]:
    """Returns the networks that have a score, the best first.

    Args:
        space: of the search.
        outcomes: of its points.
    """
    trained: dict[str, dict[int, tuple[Cell, Outcome]]] = {}
    for point, outcome in outcomes.items():
        repeat, epochs = _training_of(point)
        if outcome.score is not None and epochs == sum(space.rungs[:1]):
            trained.setdefault(network_of(point), {})[repeat] = point, outcome
    worth = _worth(
        {
            network: {repeat: outcome.score or 0.0 for repeat, (_, outcome) in each.items()}
            for network, each in trained.items()
        }
    )
    found = [
        Standing(
            each[min(each)][0],
            worth[network],
            statistics.fmean(outcome.seconds for _, outcome in each.values()),
        )
        for network, each in trained.items()
    ]
    return sorted(found, key=lambda standing: (-standing.worth, standing.point.key))


def _training_of(point: Cell) -> tuple[int, int]:
    return (point.repeat, point.epochs) if isinstance(point, Point) else (0, 0)


def _worth(scores: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Estimates how good networks are, of which some have been trained more often than others.

    A score is the network's worth, the ease of the images that its repeat is scored on, and chance.
    The ease of each repeat is its own; what networks differ by is drawn towards nothing as if a
    network had one training more that shows no difference. So the best of many that were scored
    once do not stay the best by luck, nor do those fall back that were scored on hard images. (The
    best linear unbiased prediction of a random effect, of as much variance as chance has.)

    Args:
        scores: by network, and by repeat.
    """
    if len({repeat for each in scores.values() for repeat in each}) <= 1:
        return {network: each[repeat] for network, each in scores.items() for repeat in each}
    return worth_and_ease(scores, drawn=1)[0]


class Qualified:
    """The networks that a search has trained, the best first, for its final.

    Args:
        space: of the search; it has rungs.
        outcomes: of its points.
    """

    def __init__(self, space: Space, outcomes: Mapping[Cell, Outcome]) -> None:
        self._epochs, self._all_epochs = space.rungs
        ranked = [
            (each.point, each.seconds)
            for each in standings(space, outcomes)
            if isinstance(each.point, Point)
        ]
        self._best = [each for each in ranked if space.contains(each[0])]
        self._others = [each for each in ranked if not space.contains(each[0])]

    def final(self, size: Size) -> list[Cell]:
        """Returns the points that a final begins with."""
        points = [point for point, _ in self._of(size)]
        return _repeated(points, self._all_epochs, size.repeats)

    def seconds(self, size: Size) -> float:
        """Returns the sum of the times that the trainings of the final are going to take."""
        seconds = [seconds for _, seconds in self._of(size)]
        of_each = sum(seconds) / len(seconds) if seconds else 0.0
        return of_each * size.trainings * self._all_epochs / self._epochs

    def affordable(self, seconds: float) -> Size:
        """Returns the largest size whose trainings take so many seconds, or the smallest."""
        sizes = _sizes(len(self._others))
        return next((size for size in sizes if self.seconds(size) <= seconds), sizes[-1])

    def _of(self, size: Size) -> list[tuple[Point, float]]:
        return self._best[: size.best] + self._others[: size.others]


class Stage:
    """A round of a final that has ended, and what follows it.

    Args:
        space: of the search; it has rungs.
        finished: the round.
        outcomes: of its points, by `Cell.key`.
        more: how often networks are trained again in the round that follows.
    """

    def __init__(
        self, space: Space, finished: Round, outcomes: Mapping[str, Outcome], more: int = 2
    ) -> None:
        self._epochs = space.rungs[1]
        self._known = {each.cell.key for each in finished.candidates}
        means = mean_scores(finished, outcomes, space.folds > 1)
        trained: dict[str, list[Point]] = {}
        for each in finished.candidates:
            if isinstance(each.cell, Point) and each.cell.network in means:
                trained.setdefault(each.cell.network, []).append(each.cell)
        ranked = [trained[network] for network in sorted(trained, key=lambda n: (-means[n], n))]
        self._best = [each for each in ranked if space.contains(each[0])]
        self._others = [each for each in ranked if not space.contains(each[0])]
        repeats = min((len(each) for each in ranked), default=0)
        self._following = Size(len(self._best), len(self._others), repeats).following(more)
        keys = [point.key for each in ranked for point in each]
        self._seconds = statistics.fmean(outcomes[key].seconds for key in keys) if keys else 0.0

    def following(self) -> list[Cell]:
        """Returns the points of the round that follows, trained ones too; none at the end."""
        if (size := self._following) is None:
            return []
        kept = [*self._best[: size.best], *self._others[: size.others]]
        again = _repeated([points[0] for points in kept], self._epochs, size.repeats)
        return list({p.key: p for p in (*(p for points in kept for p in points), *again)}.values())

    def trainings(self) -> int:
        """Returns how many trainings follow in the next round."""
        return sum(point.key not in self._known for point in self.following())

    def seconds(self) -> float:
        """Returns the sum of the times that these are going to take."""
        return self.trainings() * self._seconds


def _repeated(points: Sequence[Point], epochs: int, repeats: int) -> list[Cell]:
    """Returns all trainings of some networks in full; the search's own was number 0."""
    return [point.trained_for(epochs, 1 + each) for point in points for each in range(repeats)]
