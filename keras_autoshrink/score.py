"""What the search maximises: a metric held against what the network costs.

A score is any callable `score(logs, macs)`: `logs` are the metrics of an epoch, `macs` the
multiply-accumulates of the network for one image or token. Its attribute `objective`, if it
has one, names the metric behind it; the trajectory then shows that too. Its attribute `cost`, if
it has one, says what it gets in the place of the multiply-accumulates: see `COSTS`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

Score = Callable[[Mapping[str, float], int], float]

# The name of a cost, or a callable that takes a candidate's Keras model and returns a number
# greater than 0.
Cost = str | Callable[[Any], float]

# Multiply-accumulates; parameters; nanoseconds that LiteRT takes on this machine's CPU.
COSTS = ("macs", "params", "latency")

_NANOSECONDS = 1e6  # of a millisecond

# In the names of metrics of which less is better, and such names of Keras's that say it shorter.
_LESS = ("perplexity", "loss", "error", "entropy", "divergence")
_LESS_IN_SHORT = {"mse", "mae", "mape", "msle"}


@dataclasses.dataclass(frozen=True)
class AccuracyScore:
    """`val_accuracy - weight * (log10(cost) - 6)` (arXiv 1911.09251, where the cost is MACs).

    With the default weight, ten times the multiply-accumulates have to buy ten percentage
    points of accuracy. A latency counts in nanoseconds, so that a millisecond costs as much as a
    million MACs: nothing.

    Args:
        weight: accuracy that one factor of ten in the cost is worth; 0 ignores the cost.
        cost: "macs"; "params"; "latency", the time that the network's `.tflite` file (float32,
            one image) takes with LiteRT on one thread of this machine's CPU, in nanoseconds; or
            a callable that takes the candidate's Keras model, before it is trained, and returns a
            number greater than 0.

    Raises:
        ValueError: `weight` is negative or not finite, or `cost` none of these.

    Example:
        >>> round(AccuracyScore()({"val_accuracy": 0.9}, macs=10_000_000), 6)
        0.8
    """

    weight: float = 0.1
    cost: Cost = "macs"
    objective: ClassVar[str] = "val_accuracy"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight}: give a finite number, 0 or more")
        check_cost(self.cost)

    def __call__(self, logs: Mapping[str, float], macs: float) -> float:
        """The score of an epoch with the metrics `logs` of a network that costs `macs`."""
        return logs[self.objective] - self.weight * (math.log10(macs) - 6)


@dataclasses.dataclass(frozen=True)
class PerplexityScore:
    """`(200 - val_perplexity) / 4 - (log10(cost) - 6)` (arXiv 1911.09251).

    Ten times the multiply-accumulates for a token have to buy a perplexity lower by 4.

    Args:
        cost: as of `AccuracyScore`; the latency is that of `step_model`, for one token.

    Raises:
        ValueError: `cost` is none of these.

    Example:
        >>> PerplexityScore()({"val_perplexity": 100.0}, macs=10_000_000)
        24.0
    """

    cost: Cost = "macs"
    objective: ClassVar[str] = "val_perplexity"

    def __post_init__(self) -> None:
        check_cost(self.cost)

    def __call__(self, logs: Mapping[str, float], macs: float) -> float:
        """The score of an epoch with the metrics `logs` of a network that costs `macs` a token."""
        return (200 - logs[self.objective]) / 4 - (math.log10(macs) - 6)


def less_is_better(metric: str) -> bool:
    """Whether a metric is one of which less is better, going by its name alone."""
    name = metric.lower()
    short = not _LESS_IN_SHORT.isdisjoint(re.split(r"[\W_]+", name))
    return short or any(word in name for word in _LESS)


def check_cost(cost: Any) -> None:
    """Raises the ValueError that says what a cost can be, if this is none."""
    if cost not in COSTS and not callable(cost):
        raise ValueError(
            f"cost={cost!r}: give one of {', '.join(COSTS)}, or a callable that takes a Keras model"
        )


def cost_of(score: Score, costs: Mapping[str, float]) -> float:
    """What a network costs in the eyes of a score.

    Args:
        score: with or without an attribute `cost`.
        costs: of the network: `macs` and `params`; of a score that is after the latency
            `latency_ms`, and `measured_cost` of one that has a callable.
    """
    cost = getattr(score, "cost", "macs")
    if cost == "latency":
        return _NANOSECONDS * costs["latency_ms"]
    return costs[cost if isinstance(cost, str) else "measured_cost"]
