"""What the search maximises: a metric held against what the network costs.

A score is any callable `score(logs, macs)`: `logs` are the metrics of an epoch, `macs` what the
network costs, by default its multiply-accumulates for one image or token. docs/api/scores.rst says
what else it may have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

Score = Callable[[Mapping[str, float], int], float]


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost of a network: how it is recorded, written, and handed to a score.

    Args:
        name: its key among the costs of a network, and in records and logs.
        label: what tables and charts call it.
        unit: what it is counted in; empty where the label says it.
        form: how a value is written, for `format`.
        scale: what a score multiplies it by.
    """

    name: str
    label: str
    unit: str = ""
    form: str = ","
    scale: float = 1

    @property
    def whole(self) -> bool:
        """Whether it is counted, so that a value is an integer."""
        return self.form == ","

    def phrase(self, value: float) -> str:
        """Writes a value with its unit, as "1,024 MACs" or "2 ms"."""
        return f"{value:{self.form}} {self.unit or self.label}"


# By what a score calls them: multiply-accumulates; parameters; the time that LiteRT takes on this
# machine's CPU, of which a score is given nanoseconds. `tuner.costs` counts and measures them.
COSTS = {
    "macs": Cost("macs", "MACs"),
    "params": Cost("params", "parameters"),
    "latency": Cost("latency_ms", "latency", "ms", ".4g", scale=1e6),
}
# What a score's own callable returns.
MEASURED_COST = Cost("measured_cost", "cost", form=".4g")
RECORDED_COSTS = (*COSTS.values(), MEASURED_COST)


@dataclasses.dataclass(frozen=True)
class AccuracyScore:
    """`val_accuracy - weight * (log10(cost) - 6)` (arXiv 1911.09251, where the cost is MACs).

    With the default weight, ten times the cost has to buy ten percentage points of accuracy. A
    latency counts in nanoseconds, so that a millisecond costs as much as a million MACs: nothing.

    Args:
        weight: accuracy, 0 to 1, that one factor of ten in the cost is worth; 0 ignores the cost.
        cost: "macs", multiply-accumulates for one image; "params", parameters; "latency", the
            time that the network's `.tflite` file (float32, one image) takes with LiteRT on one
            thread of this machine's CPU, in nanoseconds; or a callable that takes the candidate's
            Keras model, before it is trained, and returns a number greater than 0.

    Attributes:
        objective: `"val_accuracy"`, the metric behind the score.
        direction: `"max"`: more of that metric is better.

    Raises:
        ValueError: `weight` is negative or not finite, or `cost` none of these.

    Example:
        >>> round(AccuracyScore()({"val_accuracy": 0.9}, macs=10_000_000), 6)
        0.8
    """

    weight: float = 0.1
    cost: str | Callable[[Any], float] = "macs"
    objective: ClassVar[str] = "val_accuracy"
    direction: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight}: give a finite number, 0 or more")
        check_cost(self.cost)

    def __str__(self) -> str:
        held = f" - {self.weight:g} * {_magnitude(self)}"
        return f"{self.objective}{held if self.weight else ''}"

    def __call__(self, logs: Mapping[str, float], macs: float) -> float:
        """The score of an epoch, to be maximised.

        Args:
            logs: the metrics of the epoch, with `val_accuracy`, 0 to 1, among them.
            macs: what the network costs, a number greater than 0 in the unit of `cost`:
                multiply-accumulates only where that is "macs".

        Returns:
            The score, in units of accuracy.

        Raises:
            KeyError: `logs` has no `val_accuracy`.
            ValueError: `macs` is not greater than 0.
        """
        return logs[self.objective] - self.weight * (math.log10(macs) - 6)


@dataclasses.dataclass(frozen=True)
class PerplexityScore:
    """`(200 - val_perplexity) / 4 - (log10(cost) - 6)` (arXiv 1911.09251).

    Ten times the cost of a token has to buy a perplexity lower by 4.

    Args:
        cost: "macs", multiply-accumulates for one token; "params", parameters; "latency", the time
            that the `.tflite` file of the network's `step_model` (float32, one token) takes with
            LiteRT on one thread of this machine's CPU, in nanoseconds; or a callable that takes
            the candidate's Keras model, before it is trained, and returns a number greater than 0.

    Attributes:
        objective: `"val_perplexity"`, the metric behind the score.
        direction: `"min"`: less of that metric is better.

    Raises:
        ValueError: `cost` is none of these.

    Example:
        >>> PerplexityScore()({"val_perplexity": 100.0}, macs=10_000_000)
        24.0
    """

    cost: str | Callable[[Any], float] = "macs"
    objective: ClassVar[str] = "val_perplexity"
    direction: ClassVar[str] = "min"

    def __post_init__(self) -> None:
        check_cost(self.cost)

    def __str__(self) -> str:
        return f"(200 - {self.objective}) / 4 - {_magnitude(self)}"

    def __call__(self, logs: Mapping[str, float], macs: float) -> float:
        """The score of an epoch, to be maximised.

        Args:
            logs: the metrics of the epoch, with `val_perplexity`, 1 or more, among them.
            macs: what the network costs for a token, a number greater than 0 in the unit of
                `cost`: multiply-accumulates only where that is "macs".

        Returns:
            The score; 1 is worth a perplexity lower by 4.

        Raises:
            KeyError: `logs` has no `val_perplexity`.
            ValueError: `macs` is not greater than 0.
        """
        return (200 - logs[self.objective]) / 4 - (math.log10(macs) - 6)


@dataclasses.dataclass(frozen=True)
class LossScore:
    """`-log(val_perplexity)`, minus the validation loss of a language model, whatever that costs.

    For networks that all cost the same, as at a budget. A difference of 0.01 is one of 1% in
    perplexity.

    Attributes:
        objective: `"val_perplexity"`, the metric behind the score.
        direction: `"min"`: less of that metric is better.

    Example:
        >>> LossScore()({"val_perplexity": 1.0}, macs=10_000_000)
        0.0
    """

    objective: ClassVar[str] = "val_perplexity"
    direction: ClassVar[str] = "min"

    def __str__(self) -> str:
        return f"-log({self.objective})"

    def __call__(self, logs: Mapping[str, float], macs: float) -> float:
        """The score of an epoch, to be maximised.

        Args:
            logs: the metrics of the epoch, with `val_perplexity`, 1 or more, among them.
            macs: multiply-accumulates for one token, which do not count.

        Returns:
            The score, 0 or less, which is the mean log-probability of a token of the validation
            text, in natural logarithms.

        Raises:
            KeyError: `logs` has no `val_perplexity`.
        """
        return 0.0 - math.log(logs[self.objective])


def check_cost(cost: Any) -> None:
    """Raises the ValueError that says what a cost can be, if this is none."""
    if not callable(cost) and not (isinstance(cost, str) and cost in COSTS):
        raise ValueError(
            f"cost={cost!r}: give one of {', '.join(COSTS)}, or a callable that takes a Keras model"
        )


def deciding_cost(score: Any) -> Cost:
    """Returns the cost that a score holds its metric against, by default the MACs.

    Args:
        score: with or without an attribute `cost`.
    """
    cost = getattr(score, "cost", "macs")
    return COSTS[cost] if isinstance(cost, str) else MEASURED_COST


def _magnitude(score: Any) -> str:
    cost = deciding_cost(score)
    return f"(log10({cost.label}{' in ns' if cost is COSTS['latency'] else ''}) - 6)"


def described(score: Any) -> str:
    """Says what a score is computed of, as `val_accuracy - 0.1 * (log10(MACs) - 6)`.

    Args:
        score: ours, or any other, of which only the name is known.
    """
    # What has no way of its own to be written would be written by its address, and what is computed
    # in another way than its base class not as it is.
    for kind in type(score).__mro__[:-1]:
        if "__str__" in vars(kind):
            return str(score)
        if "__call__" in vars(kind):
            break
    return f"{getattr(score, '__name__', type(score).__name__)}(logs, macs)"


def cost_of(score: Score, costs: Mapping[str, float]) -> float:
    """Returns what a network costs in the eyes of a score, in the unit that it expects.

    Args:
        score: with or without an attribute `cost`.
        costs: of the network, by `Cost.name`.
    """
    cost = deciding_cost(score)
    return cost.scale * costs[cost.name]
