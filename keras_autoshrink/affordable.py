"""Which parts of a cell are worth proposing where networks may cost so much and no more."""

from __future__ import annotations

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
        for name, most in (("latency_ms", limits.max_latency_ms), ("macs", limits.max_macs)):
            costs = {cell: getattr(outcome, name) for cell, outcome in outcomes.items()}
            known = {cell: cost for cell, cost in costs.items() if cost is not None}
            if most is not None and len(known) >= _LEAST_COSTS:
                features = parts.features(parts.masks(list(known)))
                excess = np.log(np.array(list(known.values())) / most)
                self._surrogates.append(Surrogate(features, excess))

    def among(self, masks: Masks) -> Masks:
        """Those parts that are not expected to be over a limit."""
        return masks[self._expected(masks) <= 0]

    def near(self, masks: Masks, taken: Masks, count: int) -> Masks:
        """Parts within the limits, among some or on the way from these to cheaper ones.

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
            cheapest = pool[np.argsort(self._expected(pool), kind="stable")[:_CHEAPEST]]
            wider = np.concatenate([pool, self._parts.neighbours(cheapest)])
            wider = without(distinct(wider), taken)
            if len(wider) == len(pool):
                break
            pool = wider
        found = self.among(pool)
        if len(found) or not len(pool):
            return found
        return pool[np.argsort(self._expected(pool), kind="stable")[:count]]

    def _expected(self, masks: Masks) -> Array:
        """How far over a limit each is at least, in logarithms: to build a network costs little."""
        found = np.full(len(masks), -np.inf)
        if len(masks):
            features = self._parts.features(masks)
            for surrogate in self._surrogates:
                mean, deviation = surrogate.predict(features)
                found = np.maximum(found, mean - deviation)
        return found
