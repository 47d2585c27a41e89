"""Bayesian optimisation over the parts of a cell: those likely to score best are trained next.

Expected improvement (Jones et al., "Efficient global optimization of expensive black-box
functions", 1998); several at a time as if those chosen before had turned out as expected
(Ginsbourger et al., "Kriging is well-suited to parallelize optimization", 2010).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.parts import Masks, Parts, distinct, without
from keras_autoshrink.search.records import CostLimits, Outcome, of_cells, over_in_a_row
from keras_autoshrink.search.strategies import OVER_IN_A_ROW, Budgeted, State
from keras_autoshrink.search.surrogate import Array, Posterior, Surrogate

# With fewer scores than this there is nothing to learn from: cells are drawn. Chosen, not tuned: 2
# leaves a regret as good in benchmarks/quality_cifar10.json, 80 searches of k=5.
_LEAST_SCORES = 6
# The same of costs.
_LEAST_COSTS = 6
# Chosen, not tuned: in benchmarks/quality_cifar10.json, 80 searches of k=5, one climb in place of
# ten leaves a regret that cannot be told from this one's. (In larger cells more is to be climbed.)
_POOL = 1000  # parts drawn to choose from
_CLIMBS = 10  # how many of the best parts are varied, and how often
# How often to go on from the cheapest parts to their neighbours, and from how many.
_DESCENTS = 40
_CHEAPEST = 10


class Bayesian(Budgeted):
    """Bayesian optimisation: each round tries parts of the complete DAG that should score best.

    All scores so far say which; an edge may come back. The search ends when `max_candidates`
    networks have been trained (by default as many as the paper's walk trains at most), when no
    network has a score, or when too many in a row failed or were over the limits.
    """

    name = "bayesian"

    def propose(self, state: State) -> list[Cell]:
        """Returns distinct parts, none of them trained yet, that are worth training."""
        outcomes = of_cells(state.rounds, state.outcomes)
        if over_in_a_row(state.rounds, state.outcomes) >= OVER_IN_A_ROW:
            return []
        count = min(self.num_candidates, self.max_remaining(state))
        parts = Parts(state.cell, self.edges_to_keep(state.cell))
        scores = {cell: o.score for cell, o in outcomes.items() if o.score is not None}
        failed = [cell for cell, outcome in outcomes.items() if outcome.error is not None]
        over = [cell for cell, outcome in outcomes.items() if outcome.over_limit is not None]
        # In matrices as small as these BLAS's threads mostly wait for each other: on two busy cores
        # a round of 8 nodes took them ten times as long as it takes one.
        with threadpool_limits(1, user_api="blas"):
            affordable = Affordable(parts, self.limits, outcomes) if self.limits else None
            if len(scores) < _LEAST_SCORES:
                return first_parts(parts, list(outcomes), count, state.round_seed, affordable)
            return best_parts(parts, scores, failed, count, state.round_seed, over, affordable)

    def default_budget(self, state: State) -> int:
        """Returns as many networks as the paper's walk trains at most."""
        return 1 + self.trained_below(state.cell, len(state.cell.edges) + 1)


def first_parts(
    parts: Parts,
    trained: Sequence[Cell],
    count: int,
    seed: str,
    affordable: Affordable | None = None,
) -> list[Cell]:
    """Draws distinct parts to learn from before there is much to go by, none trained yet.

    Args:
        parts: to choose from.
        trained: with scores or not.
        count: how many; fewer if there are no others.
        seed: of the draw.
        affordable: which of them to look at; None for all.
    """
    known = parts.masks(trained)
    pool = without(parts.at_random(_POOL, random.Random(seed)), known)
    if affordable is not None:
        pool = affordable.near(pool, known, count)
    return [parts.part(mask) for mask in pool[:count]]


def best_parts(
    parts: Parts,
    scores: Mapping[Cell, float],
    failed: Sequence[Cell],
    count: int,
    seed: str,
    over: Sequence[Cell] = (),
    affordable: Affordable | None = None,
) -> list[Cell]:
    """Chooses the parts that are expected to improve most on those that have been trained.

    Args:
        parts: to choose from.
        scores: of those that have been trained.
        failed: those that have failed; taken for as bad as the worst of the others.
        count: how many; fewer if there are no others.
        seed: of the draw of the parts that are looked at.
        over: those that were over a limit; they say nothing of scores.
        affordable: which parts to look at; None for all.
    """
    known = parts.masks((*scores, *failed))
    values = [*scores.values(), *[min(scores.values())] * len(failed)]
    surrogate = Surrogate(parts.features(known), np.array(values))
    means = surrogate.predict(parts.features(known))[0]
    best = float(means.max())

    def improvement(posterior: Posterior) -> Array:
        # Rounded, so that the last bits, in which machines differ, decide nothing.
        found = expected_improvement(*posterior.moments(), best)
        return np.asarray(np.round(found / (found.max() + 1e-300), 9))

    taken = np.concatenate([known, parts.masks(over)])
    pool = parts.at_random(_POOL, random.Random(seed))
    if affordable is not None:
        pool = affordable.near(pool, taken, count)
    likely = known[np.argsort(-np.round(means, 9), kind="stable")[:_CLIMBS]]
    for _ in range(_CLIMBS):
        size = len(pool)
        near = parts.neighbours(likely)
        if affordable is not None:
            near = affordable.among(near)
        pool = without(distinct(np.concatenate([pool, near])), taken)
        if not len(pool) or len(pool) == size:
            break
        found = improvement(Posterior(surrogate, parts.features(pool)))
        likely = pool[np.argsort(-found, kind="stable")[:_CLIMBS]]
    if not len(pool):
        return []
    posterior = Posterior(surrogate, parts.features(pool))
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        found = improvement(posterior)
        found[chosen] = -1
        chosen.append(int(found.argmax()))
        posterior.assume(chosen[-1])
    return [parts.part(pool[index]) for index in chosen]


def expected_improvement(means: Array, deviations: Array, best: float) -> Array:
    """Returns how far normal values exceed `best` in the mean, at least 0; all of shape (m,)."""
    ratio = (means - best) / deviations
    # Not 1 + erf, of which far below `best` nothing is left but rounding.
    below = 0.5 * np.array([math.erfc(-each / math.sqrt(2)) for each in ratio])
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return np.asarray(deviations * (ratio * below + density))


class Affordable:
    """The parts of a cell that are expected to be within the limits, before they are built.

    Costs are learnt from the parts that have been built, and until there are enough of these
    nothing is known. (That a part of a part costs less is not used, for it is not so: a node whose
    last way out goes becomes an output, and widens what comes after the cell.)

    Args:
        parts: of the complete cell.
        limits: of the search.
        outcomes: of the parts so far, also of those that were over the limits.
    """

    def __init__(self, parts: Parts, limits: CostLimits, outcomes: Mapping[Cell, Outcome]) -> None:
        self._parts = parts
        self._surrogates = []
        for name, most in limits.limits.items():
            known = {c: o.costs[name] for c, o in outcomes.items() if name in o.costs}
            if len(known) >= _LEAST_COSTS:
                features = parts.features(parts.masks(list(known)))
                excess = np.log(np.array(list(known.values())) / most)
                self._surrogates.append(Surrogate(features, excess))

    def among(self, masks: Masks) -> Masks:
        """Returns those parts that are not expected to be over a limit."""
        return masks[self._excess(masks) <= 0]

    def near(self, masks: Masks, taken: Masks, count: int) -> Masks:
        """Returns parts within the limits, among some or on the way from these to cheaper ones.

        Args:
            masks: canonical, shape (m, edges).
            taken: that are not wanted.
            count: how many are enough; there may be more, or fewer.

        Returns:
            Those that are expected to be within the limits, or the ones that come closest.
        """
        pool = without(masks, taken)
        for _ in range(_DESCENTS):
            if len(self.among(pool)) >= count or not len(pool):
                break
            cheapest = pool[np.argsort(self._excess(pool), kind="stable")[:_CHEAPEST]]
            wider = np.concatenate([pool, self._parts.neighbours(cheapest)])
            wider = without(distinct(wider), taken)
            if len(wider) == len(pool):
                break
            pool = wider
        found = self.among(pool)
        if len(found) or not len(pool):
            return found
        return pool[np.argsort(self._excess(pool), kind="stable")[:count]]

    def _excess(self, masks: Masks) -> Array:
        """How far over a limit each is at least, in logarithms: to build a network costs little."""
        found = np.full(len(masks), -np.inf)
        if len(masks):
            features = self._parts.features(masks)
            for surrogate in self._surrogates:
                mean, deviation = surrogate.predict(features)
                found = np.maximum(found, mean - deviation)
        return found
