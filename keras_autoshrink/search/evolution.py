"""Evolution over a whole space: what is best so far is changed in one place.

Minimal changes of the best networks find better ones than what a model of the scores proposes
(White et al., "BANANAS", arXiv 2107.07343); the best stay (unlike in Real et al., "Regularized
evolution", arXiv 1802.01548), for few networks are trained, each for long.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.final import Qualified, Size, Stage, Standing, size_of, standings
from keras_autoshrink.search.points import Point
from keras_autoshrink.search.records import Outcome, of_cells, over_in_a_row
from keras_autoshrink.search.strategies import (
    OF_MINUTES,
    OF_MINUTES_FEW_DATA,
    OVER_IN_A_ROW,
    Budgeted,
    State,
)

# How many networks are trained unless it is said.
_CANDIDATES = 40
# How many of the best are changed.
_PARENTS = 3
# Of new networks of a round the share that is drawn at random.
_RANDOM = 0.1
# Where data are few: how many of the best are trained again until they have been scored on all of
# them, and the share of a round's networks that these are.
_WATCHED, _AGAIN = 4, 0.3
# Of its time a search may take so much more for its final: a smaller one says less.
_MORE_MINUTES = 0.05
# What is kept for a final, beside what it takes by the networks that are the best so far: the times
# of those that are trained until then are not known to more than a tenth.
_RESERVE = 1.1
# How often to draw a network that is not known yet before all neighbours are looked at.
_DRAWS = 50


class Evolution(Budgeted):
    """Evolution: each round changes the best networks so far in one place each.

    Edges, the ops of nodes and all other hyperparameters are searched; of a reference that is among
    the best what it is like is changed. The first round has what the
    space begins with, or its start and points at random; so is a tenth of each later round. Where
    the space has rungs, networks are trained for half of the epochs, and in the last rounds the
    best for all of them; where they may be scored on several parts of the data, too, some of each
    round are the best so far, trained again for that. The search ends after `max_candidates`
    trainings (40 by default), when the time is up, when the space is exhausted, when no network has
    a score, or when too many in a row failed or were over the limits.
    """

    name = "evolution"
    whole_space = True

    def begin(self, state: State) -> list[Cell]:
        """Returns what the space begins with, or else its start and points at random."""
        count = min(self.num_candidates, self._remaining(state))
        first = state.space.first or (state.cell,)
        found = {point.key: point for point in first}
        if state.space.first:
            return list(found.values())[: max(1, self._remaining(state))]
        generator = random.Random(f"{state.seed}/0")
        least = self.edges_to_keep(state.cell)
        for _ in range(_DRAWS * count):
            if len(found) == count:
                break
            point = state.space.at_random(generator, least)
            found.setdefault(point.key, point)
        return list(found.values())

    def propose(self, state: State) -> list[Cell]:
        """Returns changed points, and some at random; at last those of the final's rounds."""
        if stage := self._stage(state):
            return stage.following()
        outcomes = of_cells(state.rounds, state.outcomes)
        found = self._changed(state, outcomes)
        if found or not state.space.rungs or state.is_final(state.rounds[-1]):
            return found
        final = Qualified(state.space, outcomes).final(self._size(state))
        # One that came last before more networks could be trained has its result, too.
        ended = [
            each
            for each, next_ in itertools.pairwise(state.rounds)
            if state.is_final(each) and not state.is_final(next_)
        ]
        earlier = (c.cell for each in ended for c in each.candidates)
        return list({point.key: point for point in (*final, *earlier)}.values())

    def _stage(self, state: State) -> Stage | None:
        """Returns the round of a final that has ended, if there is time for one that follows."""
        if not state.space.rungs or not state.is_final(state.rounds[-1]):
            return None
        left = math.inf if self.max_candidates is None else self.max_remaining(state)
        for more in (2, 1):
            stage = Stage(state.space, state.rounds[-1], state.outcomes, more)
            in_time = stage.seconds() / _side_by_side(state) <= self._final_seconds(state)
            if in_time and 0 < stage.trainings() <= left:
                return stage
        return None

    def is_over(self, state: State) -> bool:
        """Tells whether the final has ended, or else whether no more networks may be trained."""
        if not state.space.rungs:
            return super().is_over(state)
        if state.is_final(state.rounds[-1]):
            if self._stage(state):
                return False
            # Unless more networks may be trained than when it was the last round.
            return self.max_minutes is not None or self._remaining(state) <= 0
        budget = self.max_candidates is not None and super().is_over(state)
        return budget or self.seconds_left(state) <= 0

    def _size(self, state: State) -> Size:
        """Returns the size of the final."""
        sizes = []
        if self.max_candidates is not None or self.max_minutes is None:
            budget = self.max_candidates or self.default_budget(state)
            sizes.append(size_of(budget, state.space))
        if self.max_minutes is not None and state.outcomes:
            qualified = Qualified(state.space, of_cells(state.rounds, state.outcomes))
            share = OF_MINUTES if state.space.folds == 1 else OF_MINUTES_FEW_DATA
            seconds = min(share * 60 * self.max_minutes, self._final_seconds(state))
            sizes.append(qualified.affordable(seconds * _side_by_side(state)))
        return min(sizes, key=lambda size: size.trainings)

    def _final_seconds(self, state: State) -> float:
        """Returns how long a final may take that begins now, or a later round of it."""
        more = 0.0 if self.max_minutes is None else _MORE_MINUTES * 60 * self.max_minutes
        return self.seconds_left(state) + more

    def _remaining(self, state: State) -> int:
        """Returns how many networks may be trained before the final."""
        remaining = self.max_remaining(state)
        if not state.space.rungs:
            return remaining
        if self.max_minutes is not None and state.outcomes:
            qualified = Qualified(state.space, of_cells(state.rounds, state.outcomes))
            reserved = _RESERVE * qualified.seconds(self._size(state)) / _side_by_side(state)
            remaining = min(remaining, self.fitting(state, self.seconds_left(state) - reserved))
        if self.max_candidates is not None or self.max_minutes is None:
            remaining = min(remaining, self.max_remaining(state) - self._size(state).trainings)
        return remaining

    def _changed(self, state: State, outcomes: Mapping[Cell, Outcome]) -> list[Cell]:
        """Returns points of which none has been trained; none if no more may be."""
        if over_in_a_row(state.rounds, state.outcomes) >= OVER_IN_A_ROW:
            return []
        generator = random.Random(state.round_seed)
        least = self.edges_to_keep(state.cell)
        ranked = standings(state.space, outcomes)
        changeable = [p for p in outcomes if state.space.likeness(p) is not None]
        scored = [each.point for each in ranked if each.point in changeable]
        others = [point for point in changeable if outcomes[point].score is None]
        all_ = [*scored, *sorted(others, key=lambda point: _rank(outcomes[point]))]
        parents = (scored or all_)[:_PARENTS]
        near = [list(state.space.neighbours(point, least)) for point in parents]
        near = [each for each in near if each]
        known = set(state.outcomes)
        found = {point.key: point for point in self._first_others(state, outcomes)}
        found.update((point.key, point) for point in self._again(state, ranked))
        known.update(found)
        for _ in range(min(self.num_candidates, self._remaining(state)) - len(found)):
            for _ in range(_DRAWS if near else 0):
                if generator.random() < _RANDOM:
                    point = state.space.at_random(generator, least)
                else:
                    # Better ones more often: the least of two.
                    parent = int(min(generator.random(), generator.random()) * len(near))
                    point = near[parent][int(generator.random() * len(near[parent]))]
                if point.key not in known:
                    break
            else:
                rest = itertools.chain.from_iterable(
                    state.space.neighbours(each, least) for each in all_
                )
                point = next((each for each in rest if each.key not in known), state.cell)
                if point.key in known:
                    break
            known.add(point.key)
            found[point.key] = point
        return list(found.values())[: max(0, self._remaining(state))]

    def _again(self, state: State, ranked: Sequence[Standing]) -> list[Cell]:
        """Returns trainings of the best networks that are scored on other parts of the data."""
        if not state.space.rungs:
            return []  # then each training counts for itself
        trained = Counter(
            point.network
            for point in of_cells(state.rounds, state.outcomes)
            if isinstance(point, Point) and point.epochs == state.space.rungs[0]
        )
        best = [each for each in ranked if state.space.contains(each.point)][:_WATCHED]
        others = [each for each in ranked if not state.space.contains(each.point)][:_WATCHED]
        points = [each.point for each in (*best, *others) if isinstance(each.point, Point)]
        left = [point for point in points if trained[point.network] < state.space.folds]
        left.sort(key=lambda point: trained[point.network])
        again = left[: round(_AGAIN * self.num_candidates)]
        return [point.trained_for(point.epochs, trained[point.network]) for point in again]

    def _first_others(self, state: State, outcomes: Mapping[Cell, Outcome]) -> list[Cell]:
        """Returns points that the search was to begin with, and for which there was no room.

        As many as there were of those that turned out to be over a limit, which take no room. And
        all beside the space, until one of them has a score.
        """
        first = state.space.first
        left = [point for point in first if point.key not in state.outcomes]
        counted = sum(outcomes[point].over_limit is None for point in first if point in outcomes)
        room = max(0, len(state.rounds[0].candidates) - counted)
        found, rest = left[:room], left[room:]
        others = [point for point in first if not state.space.contains(point)]
        if not any(outcomes[point].score is not None for point in others if point in outcomes):
            found += [point for point in rest if point in others]
        return found[: max(0, min(self.num_candidates, self._remaining(state)))]

    def default_budget(self, state: State) -> int:
        """Returns a number that is fixed, whatever the space."""
        return _CANDIDATES


def _side_by_side(state: State) -> float:
    """Returns how many networks are trained at a time, in the mean."""
    seconds = sum(outcome.seconds for outcome in state.outcomes.values())
    return max(seconds / state.elapsed_seconds, 1e-9) if state.elapsed_seconds else 1.0


def _rank(outcome: Outcome) -> tuple[float, float]:
    """Sorts what has no score: what was over a limit, the cheapest first; then failures."""
    if outcome.over_limit is not None:
        return 0, outcome.costs.get("macs", math.inf)
    return 1, 0.0
