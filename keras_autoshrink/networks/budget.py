"""Widths at a budget: the filters with which a network costs what it may cost."""

from __future__ import annotations

import bisect
import concurrent.futures
import dataclasses
import itertools
import math
import operator
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_autoshrink.checks import positive, whole
from keras_autoshrink.costs import count_macs

Filters = tuple[int, ...]

KB = 1_000  # bytes

_STEP = 4  # what kernels like: widths are multiples of it
_FINER = (2, 1)  # where such steps are too coarse: in narrow networks of many layers
_WIDEST = 4096  # filters; wider layers are no longer small networks
# Shares of the target: what a network has to reach, and from where on more is not worth a build.
_ENOUGH, _CLOSE = 0.95, 0.99
# A count of bytes is up to 3% more than a file has, which is to have 95% as well.
_ENOUGH_BYTES = 0.98
_CREEPS = 2  # looks in a row that may leave more than half of what was there before it is halved
_POWER = 1.6  # of the mean width, by which a cost grows: 1 for depthwise convolutions, 2 for others

# Of each target's name what it counts, and how many of the cost's units make one of the target's.
_UNITS = {"target_macs": ("MACs", 1), "target_params": ("parameters", 1), "target_kb": ("KB", KB)}


# The value of a network's hyperparameters that says for how many multiply-accumulates it is solved,
# where these follow from what networks take on a machine.
MACS = "tuner/macs"
# Of a small network in a millisecond, very roughly: of float32 on one thread of a processor.
_MACS_OF_MS = 25_000_000


@dataclasses.dataclass(frozen=True)
class LatencyTarget:
    """The time that a network's `.tflite` file may take.

    Args:
        ms: milliseconds for an image, on one thread of this machine, by LiteRT.
        quantization: of the file, "float32" or "int8".
    """

    ms: float
    quantization: Literal["float32", "int8"]

    @property
    def guess(self) -> int:
        """Multiply-accumulates of a network that has not been measured."""
        return max(1, round(_MACS_OF_MS * self.ms))


class OverBudgetError(ValueError):
    """Says that no width of a network meets a target."""


def solve_filters(
    build: Callable[[Filters], Any],
    base: Sequence[float],
    target: int,
    cost: Callable[[Any], int] = count_macs,
    name: str = "target_macs",
) -> Filters:
    """Finds the widths with which a network costs as much as a budget allows.

    All widths grow together, in proportion to `base`, as far as the budget allows. Then single
    ones are raised by 4, each time the one that brings the cost closest to the budget, until no
    step fits or 99% are reached; below 95% by 2, and by 1. Equal arguments give equal widths.

    A network is built to be counted and never run: its variables get no values, and whatever it
    draws from Python's random generator is put back, so that the weights of a network built
    afterwards do not depend on the search.

    Args:
        build: makes a network whose i-th width is `filters[i]`. It must not compile it, since it
            is called in a `keras.StatelessScope`. Wider networks have to cost more.
        base: the widths in proportion to each other, such as those of the published network.
        target: the cost of the network, at most.
        cost: `count_macs`, `count_params`, `count_file_bytes` or another count of a Keras model.
        name: of the target, for messages.

    Returns:
        Multiples of 4, where these are fine enough. The network costs 95% to 100% of the target,
        wherever a single filter of a layer is as fine as that.

    Raises:
        ValueError: an argument is out of its range.
        OverBudgetError: the narrowest network, whose widths are all 4, costs more than the target,
            or the widest, in which one is 4096, costs less.

    Example:
        >>> def build(filters):
        ...     layers = [keras.layers.Conv2D(width, 3) for width in filters]
        ...     return keras.Sequential([keras.Input((8, 8, 3)), *layers])
        >>> filters = solve_filters(build, base=(1, 2), target=100_000)
        >>> filters, count_macs(build(filters))
        ((16, 36), 98496)
    """
    target = whole(name, target, 1)
    if not base:
        raise ValueError(f"base={base!r}: expected at least one width")
    for width in base:
        positive("base", width)
    known: dict[Filters, int] = {}

    def costs(filters: Filters) -> int:
        if filters not in known:
            known[filters] = count_unbuilt(build, filters, cost)
        return known[filters]

    filters = _widen_together(costs, base, target)
    if filters is None:
        multiples = _multiples(base)
        least, most = costs(multiples[0]), costs(multiples[-1])
        unit, one = _UNITS.get(name, (name.removeprefix("target_"), 1))
        told, narrow, wide = (_number(count, one) for count in (target, least, most))
        raise OverBudgetError(
            f"{name}={told}: the smallest network of this kind has {narrow} {unit}, the widest "
            f"{wide}"
        )
    enough = _ENOUGH_BYTES if name == "target_kb" else _ENOUGH
    for step in (_STEP, *_FINER):
        filters = _widen_singly(costs, filters, target, step)
        if costs(filters) >= enough * target:
            break
    return filters


def count_unbuilt(
    build: Callable[[Filters], Any], filters: Filters, cost: Callable[[Any], int]
) -> int:
    """Counts what a network costs, without values for its variables.

    Args:
        build: makes a network whose i-th width is `filters[i]`, without compiling it.
        filters: its widths.
        cost: counts it.
    """

    def count() -> int:
        with keras.StatelessScope(initialize_variables=False):
            return cost(build(filters))

    state = random.getstate()  # from which Keras draws a seed for each initializer
    try:
        # Keras keeps a list, for each thread, of variables that wait for their values; those of a
        # thread of our own are gone with it.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(count).result()
    finally:
        random.setstate(state)


def _multiples(base: Sequence[float]) -> list[Filters]:
    """Lists the different widths of all multiples of a base, from all 4 to the first of 4096."""
    widest = _WIDEST / max(base)
    # Between two of these every width stays: there one goes from a multiple of 4 to the next.
    steps = {
        round(_STEP * (k + 0.5) / width, 9)
        for width in base
        for k in range(1, round(widest * width / _STEP))
    }
    ends = [0.0, *sorted(steps), 2 * widest - max(steps)]
    return [
        tuple(_STEP * max(1, round((one + other) / 2 * width / _STEP)) for width in base)
        for one, other in itertools.pairwise(ends)
    ]


def _widen_together(
    costs: Callable[[Filters], int], base: Sequence[float], target: int
) -> Filters | None:
    """Returns the widest multiple of the base that fits, or None.

    There is None if not even the first multiple fits, or the last is far too cheap. Each look is
    at a network that has to be built, so where to look is guessed: costs are about a power of
    the mean width, linear in some layers and quadratic in others.
    """
    multiples = _multiples(base)
    means = [statistics.fmean(map(operator.truediv, each, base)) for each in multiples]
    looks: dict[int, int] = {}
    fits, exceeds = -1, len(multiples)
    index = bisect.bisect(means, 1.0) - 1  # the base itself
    side = same_side = slow = 0
    while (between := exceeds - fits) > 1:
        index = min(max(index, fits + 1), exceeds - 1)
        looks[index] = costs(multiples[index])
        before, side = side, 1 if looks[index] <= target else -1
        if side > 0:
            fits = index
            if looks[index] >= _CLOSE * target:
                break
        else:
            exceeds = index
        # Guesses creep where a cost grows by more than a power of the mean width, of which narrow
        # widths that stay the least make much.
        slow = slow + 1 if exceeds - fits > between / 2 else 0
        if exceeds - fits <= 4 or (slow > _CREEPS and fits in looks and exceeds in looks):
            index, slow = (fits + exceeds) // 2, 0
            continue
        # From the closest look, by the slope to the one beyond the target or, if there is none,
        # to the first: near ones differ by the rounding of the widths.
        near = min(looks, key=lambda i: abs(math.log(looks[i] / target)))
        far = next((i for i in (fits, exceeds) if i in looks and i != near), next(iter(looks)))
        slope = _POWER
        if near != far:
            slope = math.log(looks[near] / looks[far]) / math.log(means[near] / means[far])
        guess = means[near] * (target / looks[near]) ** (1 / min(max(slope, 1.0), 2.0))
        # Further and further, where one guess after the other is not far enough.
        same_side = same_side + 1 if side == before else 0
        index = bisect.bisect(means, guess) - 1 + side * (2**same_side - 1)
    if fits < 0 or (exceeds == len(multiples) and looks[fits] < _ENOUGH * target):
        return None
    return multiples[fits]


def _widen_singly(
    costs: Callable[[Filters], int], filters: Filters, target: int, step: int
) -> Filters:
    """Raises single widths by steps, at each time by the most costly one that fits.

    Or all of them at once: where two are equal, a step of one alone costs a projection as well.
    """
    together = len(filters)

    def raised(i: int, steps: int = 1) -> Filters:
        return tuple(
            width + steps * step * (i in (place, together)) for place, width in enumerate(filters)
        )

    # What a step of each width costs. It only grows with the other widths: a step that was too
    # much stays so, and the order of those found before is a good guess of today's.
    step_costs: dict[int, int] = {}
    while (missing := _CLOSE * target - costs(filters)) > 0:
        left = target - costs(filters)
        for i in range(len(filters) + 1 if not step_costs else 0):
            step_costs[i] = costs(raised(i)) - costs(filters)
            if missing <= step_costs[i] <= left:
                break  # to look for a better one is not worth the builds
        # A step can also be a saving: of a shortcut's projection, where two widths become equal.
        fitting = [i for i, each in step_costs.items() if 0 < each <= left]
        if not fitting:
            break
        i = max(fitting, key=lambda i: step_costs[i])
        # The same step would be the choice again and again: as many as are needed at once.
        steps = min(left // step_costs[i], math.ceil(missing / step_costs[i]))
        while steps and costs(raised(i, steps)) > target:
            steps //= 2
        if steps:
            filters = raised(i, steps)
        else:
            step_costs[i] = costs(raised(i)) - costs(filters)
    return filters


def _number(count: int, one: int) -> str:
    return f"{count:,}" if one == 1 else f"{count / one:,.1f}"
