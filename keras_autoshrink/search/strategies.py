"""Strategies: which cells a round of a search tries, and when the search is over.

`shrink.ShrinkSearch` keeps the books of rounds and outcomes and asks a strategy for the next round.
`search.STRATEGIES` lists them all. `bayesian.Bayesian` leaves half of the regret of random networks
for as many trained ones (benchmarks/search_quality.md), and `paper.Paper` does not.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.search.points import Space
from keras_autoshrink.search.records import Candidate, CostLimits, Outcome, Round


class State(Protocol):
    """What a strategy sees of a search, at the end of a round."""

    @property
    def cell(self) -> Cell:
        """The complete DAG."""

    @property
    def space(self) -> Space:
        """What may be chosen; strategies that only remove edges need not look."""

    @property
    def seed(self) -> int:
        """What every draw comes from."""

    @property
    def current(self) -> Cell:
        """The cell that the search goes on from: the winner of the last round that has one."""

    @property
    def rounds(self) -> Sequence[Round]:
        """All rounds so far; each of their candidates has an outcome."""

    @property
    def adopted(self) -> Sequence[int | None]:
        """The index of the winner of each closed round, None if nothing survived."""

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What came of each network, by its `Cell.key`."""

    @property
    def elapsed_seconds(self) -> float:
        """How long the search has taken so far."""

    @property
    def round_seed(self) -> str:
        """The seed of all that is drawn for the next round."""

    def is_final(self, found: Round) -> bool:
        """Tells whether the networks of a round are those of the final."""

    def pending(self) -> list[Candidate]:
        """The networks of the round under way that have no outcome yet."""

    def errors_in_a_row(self) -> list[str]:
        """The errors of all candidates that failed since the last winner."""


# When so many networks have failed, and none has not, it is the fault of what trains them. If each
# second one failed by itself, it would come to this once in 1,000 times. A round of the default
# size is as many; KerasTuner gives up after 3, which a few large networks that do not fit into
# memory can come to.
FAILURES_IN_A_ROW = 10
# When so many networks one after the other were over the limits, the search gives up: by then it
# has gone to the smallest ones.
OVER_IN_A_ROW = 30


# The share of its time that a search may spend on the training of its best networks at the end, and
# where these are scored on few data.
OF_MINUTES, OF_MINUTES_FEW_DATA = 0.3, 0.4
# How many networks have to be trained before what they took says how long all will take.
_TELLING = 8
# As many networks as nobody trains: before one has been trained, what fits into a time is unknown.
UNKNOWN = 10**9


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """A way to search: it proposes the cells of each round, and says when there are no more.

    All that a strategy knows of a search is the `State` that it is given, so that a search which
    is resumed goes on as if it had never stopped.

    Args:
        num_candidates: k, how many cells a round tries, 1 or more.
        keep_fraction: share of the edges of the complete DAG, 0 to 1, that a cell has at least.
        max_candidates: how many networks to train; None where the strategy ends by itself.
        max_minutes: how long the search may take; None for as long as it takes.
        limits: the most that a network may cost.

    Raises:
        ValueError: an argument is not as described; the message names it.

    Attributes:
        name: what users call it.
        whole_space: whether it searches more than edges: ops and other hyperparameters.
        goes_on_over_limits: whether a later round that is over the limits as a whole adopts its
            cheapest candidate, as round 0 does.
    """

    num_candidates: int = 10
    keep_fraction: float = 0.01
    max_candidates: int | None = None
    max_minutes: float | None = None
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)

    name: ClassVar[str]
    whole_space: ClassVar[bool] = False
    goes_on_over_limits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        set_ = functools.partial(object.__setattr__, self)  # Python's own numbers
        set_("num_candidates", whole("num_candidates", self.num_candidates, 1))
        try:
            is_share = 0 <= self.keep_fraction <= 1
        except TypeError:
            is_share = False
        if not is_share:
            raise ValueError(f"keep_fraction={self.keep_fraction!r}: give a number from 0 to 1")
        set_("keep_fraction", float(self.keep_fraction))
        if self.max_candidates is not None:
            set_("max_candidates", whole("max_candidates", self.max_candidates, 1))
        if self.max_minutes is not None:
            set_("max_minutes", positive("max_minutes", self.max_minutes))

    def begin(self, state: State) -> list[Cell]:
        """Returns the cells of round 0; by default the complete DAG alone."""
        return [state.cell]

    @abc.abstractmethod
    def propose(self, state: State) -> list[Cell]:
        """Returns the distinct cells of the next round, numbered as the complete DAG.

        Returns:
            Parts of `state.cell`, pruned of dead edges; none if there is nothing left to try.
        """

    @abc.abstractmethod
    def is_over(self, state: State) -> bool:
        """Tells whether no further round is to be proposed."""

    @abc.abstractmethod
    def gives_up(self, state: State) -> bool:
        """Tells whether to stop with an error after a round without any score."""

    @abc.abstractmethod
    def max_remaining(self, state: State) -> int:
        """Returns how many networks are left to train at most."""

    def seconds_left(self, state: State) -> float:
        """Returns how long the search may still go on."""
        return (
            math.inf if self.max_minutes is None else 60 * self.max_minutes - state.elapsed_seconds
        )

    def too_short(self, state: State) -> str | None:
        """Says that the time is too short for what the search begins with, once that shows."""
        trained = sum(outcome.over_limit is None for outcome in state.outcomes.values())
        if self.max_minutes is None or len(state.rounds) > 1:
            return None
        count = len(state.rounds[0].candidates)
        # With fewer, what the workers have under way would count for too much.
        if not trained or trained < min(_TELLING, count - 1):
            return None
        share = count / trained
        least = math.ceil(share * state.elapsed_seconds / 60 / (1 - OF_MINUTES))
        if least <= self.max_minutes:
            return None
        return (
            f"max_minutes={self.max_minutes:g}: too short; on this machine the networks that the "
            f"search begins with take so long that it needs about {least} minutes: give more, or "
            "fewer epochs or images"
        )

    def fitting(self, state: State, seconds: float) -> int:
        """Returns how many networks can be trained in a time, by how long those so far took.

        By those of the last round if they took longer: what a search finds often trains more
        slowly than what it begins with.
        """
        trained = {k: o.seconds for k, o in state.outcomes.items() if o.over_limit is None}
        if not trained or not state.elapsed_seconds:
            return UNKNOWN
        last = [trained[c.cell.key] for c in state.rounds[-1].candidates if c.cell.key in trained]
        mean = statistics.fmean(trained.values())
        slower = max(1.0, statistics.fmean(last) / mean) if last and mean else 1.0
        of_each = slower * state.elapsed_seconds / len(trained)
        return math.floor(min(seconds / of_each, UNKNOWN))

    def edges_to_keep(self, cell: Cell) -> int:
        """Returns the number of edges that the smallest part of a complete DAG has."""
        return max(1, round(self.keep_fraction * len(cell.edges)))

    def trained_below(self, cell: Cell, edges: int) -> int:
        """Counts the networks of fewer edges that the paper's walk trains at most."""
        return sum(min(self.num_candidates, e) for e in range(self.edges_to_keep(cell) + 1, edges))


class Budgeted(Strategy):
    """A strategy that trains a number of networks, whatever comes of them."""

    @abc.abstractmethod
    def default_budget(self, state: State) -> int:
        """Returns how many networks are trained unless `max_candidates` says it."""

    def is_over(self, state: State) -> bool:
        """Tells whether as many networks have been trained as may be."""
        return self.max_remaining(state) <= 0

    def gives_up(self, state: State) -> bool:
        """Tells whether what trains the networks is at fault."""
        errors = state.errors_in_a_row()
        if errors and all(outcome.score is None for outcome in state.outcomes.values()):
            return True
        return self.max_remaining(state) > 0 and len(errors) >= FAILURES_IN_A_ROW

    def max_remaining(self, state: State) -> int:
        """Returns how many networks may still be trained."""
        if self.max_candidates is None and self.max_minutes is not None:
            return self.fitting(state, self.seconds_left(state))
        budget = self.max_candidates
        if budget is None:
            budget = self.default_budget(state)
        left = budget - sum(o.over_limit is None for o in state.outcomes.values())
        return (
            left
            if self.max_minutes is None
            else min(left, self.fitting(state, self.seconds_left(state)))
        )
