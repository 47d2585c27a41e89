"""The numbers of a search's records that reports show: score, objective and costs.

A cost is an entry of `score.COSTS`; one that is recorded is in every table, picture and chart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.score import COSTS, MEASURED_COST, RECORDED_COSTS, Cost

Record = dict[str, Any]
Records = Sequence[Record]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number of each record.

    Args:
        name: its key in a record.
        label: what a report calls it.
        unit: what it is counted in, if anything.
        form: how it is written, for `format`.
        direction: " (less is better)" where a reader could not know, else nothing.
    """

    name: str
    label: str
    unit: str = ""
    form: str = ".4f"
    direction: str = ""

    @property
    def heading(self) -> str:
        """The heading of a column of its values."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def directed(self) -> str:
        """The label where a reader compares values."""
        return self.heading + self.direction

    @property
    def title(self) -> str:
        """The label where a title begins; "MACs" and "val_AUC" keep their capitals."""
        return self.label[:1].upper() + self.label[1:]

    def of(self, record: Record) -> float | None:
        """Returns a record's value; None if it is unknown, or no number to be drawn."""
        value: float | None = record.get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def text(self, record: Record) -> str:
        """Writes a record's value for people, with its standard error; a dash if there is none."""
        value, error = record.get(self.name), record.get("standard_errors", {}).get(self.name)
        if value is None:
            return "-"
        return format(value, self.form) + (f" ± {error:{self.form}}" if error is not None else "")

    def phrase(self, record: Record) -> str:
        """Writes a record's value with what it is: "1,024 MACs", "score 0.5", "latency 2 ms"."""
        if self.form == ",":
            return f"{self.text(record)} {self.label}"
        return f"{self.label} {self.text(record)} {self.unit}".rstrip()


SCORE = Quantity("score", "score")


def known_costs(records: Iterable[Record]) -> list[Quantity]:
    """Returns the costs that any of some records has a value for."""
    known = {name for record in records for name, value in record.items() if value is not None}
    return [_quantity(cost) for cost in RECORDED_COSTS if cost.name in known]


def telling_costs(records: Records) -> list[Quantity]:
    """Returns the costs that are worth following over the rounds of a search.

    Where more than edges is searched, those of which all networks have about the same say nothing:
    at a budget that is the budget.

    Args:
        records: of the rounds, with their candidates.
    """
    costs = known_costs(records)
    if not any("changed" in each for each in records):
        return costs
    trained = [c for each in records for c in each["candidates"] if c["score"] is not None]
    return [cost for cost in costs if _differs(cost, trained)]


def _quantity(cost: Cost) -> Quantity:
    return Quantity(cost.name, cost.label, cost.unit, cost.form)


@dataclasses.dataclass(frozen=True)
class Quantities:
    """What the page of a search shows of each network.

    Args:
        objective: the metric behind the score.
        less: whether less of it is better.
        costs: of a network, in the order of a table.
        deciding: the one of these to hold the objective against: the score's, unless all networks
            cost about the same of it, and differ in another.
        scored: whether the score is another number than the objective.
    """

    objective: Quantity
    less: bool
    costs: Sequence[Quantity]
    deciding: Quantity
    scored: bool = True

    def __iter__(self) -> Iterator[Quantity]:
        return iter((*[SCORE] * self.scored, self.objective, *self.costs))


def of_search(
    stops: Records, objective: str, score: Any, direction: str | None = "max"
) -> Quantities:
    """Returns what the page of a search shows.

    Args:
        stops: the records of the rounds, the one under way included.
        objective: what to call the metric behind the score.
        score: the search's score as its settings describe it; None if they do not.
        direction: "min" where less of the metric is better, else "max".

    Raises:
        ValueError: the objective has no name.
    """
    if not objective.strip():
        raise ValueError(f"objective={objective!r}: give the name of the metric, or None")
    candidates = [candidate for stop in stops for candidate in stop["candidates"]]
    costs = known_costs([*stops, *candidates])
    less = direction == "min"
    which = " (less is better)" if less else ""
    shown = Quantity("objective", objective, direction=which)
    deciding = _quantity(_deciding(score, {c.name for c in costs}))
    trained = [each for each in candidates if each["score"] is not None]
    if not _differs(deciding, trained):
        deciding = next((each for each in costs if _differs(each, trained)), deciding)
    pairs = [(each["score"], each["objective"]) for each in trained]
    return Quantities(shown, less, costs, deciding, not pairs or not is_objective(pairs))


def is_objective(pairs: Iterable[tuple[float | None, float | None]]) -> bool:
    """Whether scores are the metric behind them, all networks being of one cost.

    Args:
        pairs: of score and metric; those without a score say nothing.
    """
    return all(
        objective is not None and math.isclose(score, objective, abs_tol=1e-6)
        for score, objective in pairs
        if score is not None
    )


# Networks at a budget cost 95 to 100% of it; narrow references, whose filters are coarse, less.
_SAME = 1.2


def _differs(cost: Quantity, candidates: Records) -> bool:
    values = [value for each in candidates if (value := cost.of(each)) is not None]
    return bool(values) and max(values) > _SAME * min(values)


def _deciding(score: Any, known: set[str]) -> Cost:
    """Returns the cost that a score, as settings describe it, holds the objective against."""
    if MEASURED_COST.name in known:  # it is recorded for no other reason
        return MEASURED_COST
    held = score[1] if isinstance(score, list) and len(score) > 1 else None
    cost = held.get("cost") if isinstance(held, Mapping) else None
    return COSTS.get(cost, COSTS["macs"]) if isinstance(cost, str) else COSTS["macs"]
