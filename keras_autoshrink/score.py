"""What the search maximises: a metric held against multiply-accumulates.

A score is any callable `score(logs, macs)`: `logs` are the metrics of an epoch, `macs` the
multiply-accumulates of the network for one image or token. Its attribute `objective`, if it
has one, names the metric behind it; the trajectory then shows that too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

Score = Callable[[Mapping[str, float], int], float]


@dataclasses.dataclass(frozen=True)
class AccuracyScore:
    """`val_accuracy - weight * (log10(macs) - 6)` (arXiv 1911.09251).

    With the default weight, ten times the multiply-accumulates have to buy ten percentage
    points of accuracy.

    Args:
        weight: accuracy that one factor of ten in MACs is worth; 0 ignores the cost.

    Raises:
        ValueError: `weight` is negative or not finite.

    Example:
        >>> round(AccuracyScore()({"val_accuracy": 0.9}, macs=10_000_000), 6)
        0.8
    """

    weight: float = 0.1
    objective: ClassVar[str] = "val_accuracy"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight}: give a finite number, 0 or more")

    def __call__(self, logs: Mapping[str, float], macs: int) -> float:
        """The score of an epoch with the metrics `logs` of a network of `macs` MACs."""
        return logs[self.objective] - self.weight * (math.log10(macs) - 6)


@dataclasses.dataclass(frozen=True)
class PerplexityScore:
    """`(200 - val_perplexity) / 4 - (log10(macs) - 6)` (arXiv 1911.09251).

    Ten times the multiply-accumulates for a token have to buy a perplexity lower by 4.

    Example:
        >>> PerplexityScore()({"val_perplexity": 100.0}, macs=10_000_000)
        24.0
    """

    objective: ClassVar[str] = "val_perplexity"

    def __call__(self, logs: Mapping[str, float], macs: int) -> float:
        """The score of an epoch with the metrics `logs` of a network of `macs` MACs a token."""
        return (200 - logs[self.objective]) / 4 - (math.log10(macs) - 6)
