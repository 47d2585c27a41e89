"""The numbers that a search's HTML page shows of its networks: their names and directions."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Records = Sequence[Record]

# Words in the names of metrics of which less is better, and of which more is: those of Keras,
# and what else people call such.
_LESS = re.compile(
    r"perplexity|loss|error|entropy|divergence|latency"
    r"|(^|[\W_])(ppl|mae|mse|rmse|mape|msle|nll|wer|cer)([\W_]|$)"
)
_MORE = re.compile(r"accuracy|precision|recall|(^|[\W_])(acc|auc|f1|iou|r2|bleu)([\W_]|$)")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number of each record.

    Args:
        name: its key in a record.
        label: what the page calls it.
        form: how it is written, for `format`.
        unit: what it is counted in, if anything.
        direction: " (less is better)" where a reader could not know, else nothing.
    """

    name: str
    label: str
    form: str = ".4f"
    unit: str = ""
    direction: str = ""

    @property
    def heading(self) -> str:
        """What it is called above a column of its values."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def directed(self) -> str:
        """What it is called where a reader compares values."""
        return self.heading + self.direction

    @property
    def title(self) -> str:
        """What it is called where a title begins; "MACs" and "val_AUC" keep their capitals."""
        return self.label[:1].upper() + self.label[1:]

    def of(self, record: Record) -> float | None:
        """A record's; None if it is unknown, or no number to be drawn."""
        value: float | None = record.get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def said(self, record: Record) -> str:
        """A record's for people; a dash if there is none."""
        value = record.get(self.name)
        return "\N{EN DASH}" if value is None else format(value, self.form)

    def phrase(self, record: Record) -> str:
        """A record's with what it is: "1,024 MACs", "score 0.5", "latency 2 ms"."""
        if self.form == ",":
            return f"{self.said(record)} {self.label}"
        return f"{self.label} {self.said(record)} {self.unit}".rstrip()


SCORE = Quantity("score", "score")
_MACS, _PARAMS = Quantity("macs", "MACs", ","), Quantity("params", "parameters", ",")
_MEASURED = (
    Quantity("latency_ms", "latency", ".4g", "ms"),
    Quantity("measured_cost", "cost", ".4g"),
)


@dataclasses.dataclass(frozen=True)
class Quantities:
    """Those of a search.

    Args:
        objective: the metric behind the score.
        less: whether less of it is better.
        costs: of a network, in the order of a table.
        deciding: the one of these that the score holds the objective against.
    """

    objective: Quantity
    less: bool
    costs: tuple[Quantity, ...]
    deciding: Quantity

    def __iter__(self) -> Iterator[Quantity]:
        return iter((SCORE, self.objective, *self.costs))

    @property
    def drawn(self) -> list[Quantity]:
        """Those with a curve of their own; parameters only where these decide."""
        return [each for each in self if each is not _PARAMS or each is self.deciding]


def of_search(
    stops: Records, objective: str, score: Any, direction: str | None = None
) -> Quantities:
    """What a search's page shows.

    Args:
        stops: the records of the rounds, the one under way included.
        objective: what to call the metric behind the score.
        score: the search's score as its settings describe it; None if they do not.
        direction: "min" or "max" where the search has said of the metric which is better.

    Raises:
        ValueError: the objective has no name.
    """
    if not objective.strip():
        raise ValueError(f"objective={objective!r}: give the name of the metric, or None")
    candidates = [candidate for stop in stops for candidate in stop["candidates"]]
    seen = {name for record in (*stops, *candidates) for name in record}
    costs = (_MACS, *(each for each in _MEASURED if each.name in seen), _PARAMS)
    less = direction == "min" if direction else _less(objective, candidates)
    which = " (less is better)" if less else ""
    return Quantities(
        Quantity("objective", objective, direction=which),
        less,
        costs,
        next((each for each in costs if each.name == _deciding(score, seen)), _MACS),
    )


def _deciding(score: Any, seen: Iterable[str]) -> str:
    """Which of a record's numbers the score gets for a cost."""
    if "measured_cost" in seen:  # of nothing else is there one
        return "measured_cost"
    held = score[1] if isinstance(score, list) and len(score) > 1 else None
    cost = held.get("cost") if isinstance(held, Mapping) else None
    named = {"params": "params", "latency": "latency_ms"}
    return named.get(cost, "macs") if isinstance(cost, str) else "macs"


def _less(objective: str, candidates: Records) -> bool:
    """Whether less of a metric is better.

    By its name; where that says nothing by the scores, which are more for the better ones: of two
    networks, the one with the better score at as many MACs or more has the better metric.
    """
    name = objective.casefold()
    if _LESS.search(name) or _MORE.search(name):
        return bool(_LESS.search(name))
    numbers = ("score", "objective", "macs")
    known = [tuple(c[n] for n in numbers) for c in candidates if None not in map(c.get, numbers)]
    known = sorted(set(known), reverse=True)[:100]  # pairs of all would be many
    votes = 0
    for (score, objective_, macs), (worse, other, fewer) in itertools.combinations(known, 2):
        if score > worse and macs >= fewer:
            votes += (objective_ > other) - (objective_ < other)
    return votes < 0
