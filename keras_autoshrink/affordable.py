"""Which parts of a cell are worth proposing where networks may cost so much and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from keras_autoshrink.cell import Cell
from keras_autoshrink.cost_limits import CostLimits
from keras_autoshrink.parts import Masks, Parts, distinct, without
from keras_autoshrink.surrogate import Array, Surrogate
from keras_autoshrink.trajectory import Outcome

# With fewer known costs than this there is nothing to learn from.
_LEAST_COSTS = 6
# How often to go on from the cheapest parts to their neighbours, and from how many.
_DESCENTS = 40
_CHEAPEST = 10


class Affordable:
    """What the limits say of parts of a cell before anything is built of them.

    MACs that can be counted are known for sure. Other costs are learnt from the parts that have
    been built, and until there are enough of these nothing is known. (That a part of a part
    costs less is not used, for it is not so: a node whose last way out goes becomes an output,
    and widens what comes after the cell.)

    Args:
        parts: of the complete cell.
        limits: of the search.
        outcomes: of the parts so far, also of those that were over the limits.
    """

    def __init__(self, parts: Parts, limits: CostLimits, outcomes: Mapping[Cell, Outcome]) -> None:
        self._parts = parts
        self._limits = limits
        self._counted: dict[bytes, float] = {}
        least = min((o.macs for o in outcomes.values() if o.macs), default=math.inf)
        self._least = math.log(least / (limits.max_macs or 1))
        self._surrogates = []
        learnt = {"latency_ms": limits.max_latency_ms}
        if limits.count_macs is None:
            learnt["macs"] = limits.max_macs
        for name, most in learnt.items():
            costs = {cell: getattr(outcome, name) for cell, outcome in outcomes.items()}
            known = {cell: cost for cell, cost in costs.items() if cost is not None}
            if most is not None and len(known) >= _LEAST_COSTS:
                features = parts.features(parts.masks(list(known)))
                excess = np.log(np.array(list(known.values())) / most)
                self._surrogates.append(Surrogate(features, excess))

    def among(self, masks: Masks) -> Masks:
        """Those parts that are not expected to be over a limit."""
        return masks[(self._counts(masks) <= 0) & (self._expected(masks) <= 0)]

    def near(self, masks: Masks, taken: Masks, count: int) -> Masks:
        """Parts within the limits, among some or on the way from these to cheaper ones.

        Args:
            masks: canonical, shape (m, edges).
            taken: that are not wanted.
            count: how many are enough; there may be more, or fewer.

        Returns:
            Those that are expected to be within the limits. If there are none, the ones that come
            closest; of MACs that are counted, and so are known, one if it has fewer than all so
            far.
        """
        pool = without(masks, taken)
        for _ in range(_DESCENTS):
            if len(self.among(pool)) >= count or not len(pool):
                break
            excess = np.maximum(self._counts(pool), self._expected(pool))
            cheapest = pool[np.argsort(excess, kind="stable")[:_CHEAPEST]]
            wider = np.concatenate([pool, self._parts.neighbours(cheapest)])
            wider = without(distinct(wider), taken)
            if len(wider) == len(pool):
                break
            pool = wider
        found = self.among(pool)
        if len(found) or not len(pool):
            return found
        counts = self._counts(pool)
        if not (counts <= 0).any():
            # Shows how far away the limit is, if nothing so small has been looked at yet.
            return pool[[counts.argmin()]] if counts.min() < self._least else pool[:0]
        pool = pool[counts <= 0]
        return pool[np.argsort(self._expected(pool), kind="stable")[:count]]

    def _counts(self, masks: Masks) -> Array:
        """How far MACs that can be counted are over the limit, on a scale of logarithms."""
        if self._limits.count_macs is None or self._limits.max_macs is None:
            return np.full(len(masks), -np.inf)
        for mask in masks:
            key = mask.tobytes()
            if key not in self._counted:
                macs = self._limits.count_macs(self._parts.part(mask))
                self._counted[key] = math.log(macs / self._limits.max_macs)
        return np.array([self._counted[mask.tobytes()] for mask in masks])

    def _expected(self, masks: Masks) -> Array:
        """The like of other costs, as low as can be expected: to build a network costs little."""
        found = np.full(len(masks), -np.inf)
        if len(masks):
            features = self._parts.features(masks)
            for surrogate in self._surrogates:
                mean, deviation = surrogate.predict(features)
                found = np.maximum(found, mean - deviation)
        return found
