"""The AutoShrink algorithm: rounds of cells to train, and which of them to go on from.

Zhang et al., arXiv 1911.09251, figure 2. No Keras, no KerasTuner, no files.
The same search serves convolutional and recurrent cells: the caller trains and scores them.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.search import records, strategies
from keras_autoshrink.search.records import Candidate, CostLimits, Outcome, Round


class ShrinkSearch:
    """The state of one search.

    Round 0 is the complete DAG alone. Each later round proposes `num_candidates` parts of it,
    those that are likely to score best by all scores so far (see `acquisition`); an edge may
    come back. A round of which nothing survives adopts nothing. The search ends when
    `max_candidates` networks have been trained, when there is no score at all, or when too many
    failed in a row (`strategies.FAILURES_IN_A_ROW`), or were over the limits (`OVER_IN_A_ROW`).

    With `strategy="paper"` a round draws `num_candidates` edges of the current cell and proposes
    the cells that lack one each; once all have an outcome, the search goes on from the best
    (ties: fewer MACs, then the smaller edge). It ends when the cell has no more than
    `max(1, round(keep_fraction * initial edges))` edges, or when a whole round failed. Of a round
    that is over the limits it goes on from the cheapest.

    All state is the settings and the outcome of each network (see `search_state`); the rounds
    follow from these. So outcomes may arrive in any order, and a search that is resumed goes on
    as if it had never stopped; `proposals` save the time to find these again.

    Args:
        cell: where to start, usually `Cell.dense(ops)`.
        num_candidates: k, how many cells are tried in a round, at least 1.
        keep_fraction: the share of the initial edges at which "paper" stops, 0 to 1; "bayesian"
            proposes no smaller cell.
        seed: an integer; every draw comes from it.
        strategy: "bayesian" or "paper"; see `strategies` for why the first is the default.
        max_candidates: how many networks to train, of "bayesian" alone; by default as many as
            "paper" would train at most.
        proposals: of a "bayesian" search that is resumed, what it had as `proposals`.
        limits: of what networks may cost, for "bayesian" to propose none that it knows to be over.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.

    Example:
        >>> search = ShrinkSearch(Cell.dense(("input", "conv1x1", "conv1x1")), seed=0)
        >>> while pending := search.pending():
        ...     for candidate in pending:
        ...         search.tell(candidate.cell, Outcome(score=-len(candidate.cell.edges)))
        >>> search.best()["edges_left"]
        1
    """

    def __init__(
        self,
        cell: Cell,
        *,
        num_candidates: int = 10,
        keep_fraction: float = 0.01,
        seed: int = 0,
        strategy: str = "bayesian",
        max_candidates: int | None = None,
        proposals: Sequence[Sequence[Iterable[Edge]]] = (),
        limits: CostLimits | None = None,
    ) -> None:
        strategies.check_settings(num_candidates, keep_fraction, seed, strategy, max_candidates)
        self.cell = dataclasses.replace(cell, edges=cell.live_edges)
        self.num_candidates = operator.index(num_candidates)
        self.keep_fraction = float(keep_fraction)
        self.seed = operator.index(seed)
        self.strategy = strategy
        self.max_candidates = None if max_candidates is None else operator.index(max_candidates)
        self._known = {
            number: [strategies.part(self.cell, edges) for edges in each]
            for number, each in enumerate(proposals, 1)
        }
        self._limits, self._dry = limits, False  # dry: nothing is left within these
        self._outcomes: dict[str, Outcome] = {}
        # Of each finished round the index of the winner, None if nothing survived.
        self._adopted: list[int | None] = []
        self._current = self.cell  # the last winner
        self._first_failed = 0  # the round after the winner's
        first = Candidate(None, self.cell, False)
        if strategy != "paper":
            first = strategies.edited(self.cell, self.cell, False)
        self._rounds: list[Round] = [Round(0, (first,))]
        self._seen = {self.cell.key}

    @property
    def edges_to_keep(self) -> int:
        """The search stops once the cell has no more edges than this."""
        return max(1, round(self.keep_fraction * len(self.cell.edges)))

    @property
    def round(self) -> Round:
        """The round under way, or the last one."""
        return self._rounds[-1]

    @property
    def done(self) -> bool:
        """Whether nothing is left to train: the search has finished or failed."""
        return not self.pending()

    @property
    def error(self) -> str | None:
        """Why the search has no result: too many candidates failed, or all are over the limits."""
        if not self.done:
            return None
        if len(self._adopted) == len(self._rounds):
            return records.all_over(self._outcomes.values()) if self.best_score is None else None
        first, last = self._first_failed, self.round.number
        which = f"round {last}" if first == last else f"rounds {first} to {last}"
        errors = self._last_errors()
        return f"all candidates of {which} failed ({len(errors)}); the last one with: {errors[-1]}"

    def pending(self) -> list[Candidate]:
        """The distinct networks of the round under way that have no outcome yet."""
        return [
            candidate
            for candidate in self.round.candidates
            if not candidate.reused and candidate.cell.key not in self._outcomes
        ]

    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """Takes the outcome of a pending cell, in any order; the last one ends the round.

        Raises:
            ValueError: no pending candidate is this network.
        """
        if all(candidate.cell.key != cell.key for candidate in self.pending()):
            raise ValueError(f"cell {cell.key}: not a pending candidate of this search")
        self._outcomes[cell.key] = outcome
        self._advance()

    def reopen(self) -> list[str | None]:
        """Takes back the failures of the round that ended the search, to try it again.

        Returns:
            The trial ids of those failures; none if there is no such round.
        """
        if not self.error:
            return []
        fresh = [c.cell.key for c in self.round.candidates if not c.reused]
        return [self._outcomes.pop(k).trial_id for k in fresh if self._outcomes[k].error]

    def max_remaining(self) -> int:
        """How many networks are left to train at most; duplicates and pruning make it fewer."""
        if self.done:
            return 0
        if self.strategy != "paper":
            return self._budget - self._trained
        edges = len(self._current.edges) if self._adopted else len(self.cell.edges) + 1
        return len(self.pending()) + self._trained_by_paper(edges)

    def trajectory(self) -> list[dict[str, Any]]:
        """One record of plain values for each finished round. See `trajectory.round_record`."""
        return records.records(self._rounds, self._adopted, self._outcomes)

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What came of each network so far, by its `Cell.key`, in the order of being told."""
        return self._outcomes

    @property
    def proposals(self) -> list[list[tuple[Edge, ...]]]:
        """The edges of the cells that rounds 1, 2 and so on propose, as they are numbered."""
        found = [[c.cell.edges for c in each.candidates] for each in self._rounds[1:]]
        return [*found, []] if self._dry else found  # who reads a state knows no limits

    @property
    def best_score(self) -> float | None:
        """The best score of all networks so far, the round under way included."""
        scores = [o.score for o in self._outcomes.values() if o.score is not None]
        return max(scores, default=None)

    def best(self) -> dict[str, Any] | None:
        """The best record of the trajectory, ties to fewer edges; None while none has a score."""
        return records.best_record(self.trajectory())

    def _advance(self) -> None:
        """Closes the round under way if it is complete, and such after it as are known already."""
        while not self.pending() and len(self._adopted) < len(self._rounds):
            winner = records.winner(self.round, self._outcomes)
            if winner is None and (self.strategy == "paper" or not self._adopted):
                winner = records.cheapest(self.round, self._outcomes)
            if winner is not None:
                self._current = self.round.candidates[winner].cell
                self._first_failed = len(self._rounds)
            elif self._hopeless():
                return
            self._adopted.append(winner)
            if candidates := tuple(self._draw(self._current)):
                self._rounds.append(Round(len(self._rounds), candidates))

    def _hopeless(self) -> bool:
        """Whether to give up, now that nothing of the round under way has survived."""
        errors = self._last_errors()
        if self.strategy == "paper" or (errors and self.best_score is None):
            return True
        return self._trained < self._budget and len(errors) >= strategies.FAILURES_IN_A_ROW

    def _last_errors(self) -> list[str]:
        return records.errors(self._rounds[self._first_failed :], self._outcomes)

    def _draw(self, cell: Cell) -> Iterator[Candidate]:
        """The candidates of the next round; none if the search is over."""
        # A draw of its own for each round, so that resuming needs no generator's state.
        seed = f"{self.seed}/{len(self._rounds)}"
        if self.strategy == "paper":
            count = self.num_candidates if len(cell.edges) > self.edges_to_keep else 0
            for edge, smaller in strategies.without_one_edge(cell, count, seed):
                yield Candidate(edge, smaller, smaller.key in self._seen)
                self._seen.add(smaller.key)
            return
        count = min(self.num_candidates, self._budget - self._trained)
        parts = self._known.get(len(self._rounds), [])
        self._dry = len(self._rounds) in self._known and not parts
        if count and not parts and not self._dry:
            known = records.of_cells(self._rounds, self._outcomes)
            if records.over_in_a_row(self._rounds, self._outcomes) < strategies.OVER_IN_A_ROW:
                least = self.edges_to_keep
                parts = strategies.promising(self.cell, known, least, count, seed, self._limits)
            self._dry = bool(self._limits) and not parts
        for part in parts:
            yield strategies.edited(cell, part, part.key in self._seen)
            self._seen.add(part.key)

    @property
    def _trained(self) -> int:
        return sum(outcome.over_limit is None for outcome in self._outcomes.values())

    @property
    def _budget(self) -> int:
        """How many networks may be trained."""
        if self.max_candidates is not None:
            return self.max_candidates
        return 1 + self._trained_by_paper(len(self.cell.edges) + 1)

    def _trained_by_paper(self, edges: int) -> int:
        return strategies.trained_below(edges, self.edges_to_keep, self.num_candidates)


SETTINGS = ("num_candidates", "keep_fraction", "seed", "strategy", "max_candidates")

_FORMAT = "keras_autoshrink.search"
_VERSION = 1
# Of a search by the paper, which is written as it was before there were others.
_UNSAID = {"strategy": "paper", "max_candidates": None}


def to_json(search: ShrinkSearch) -> dict[str, Any]:
    """The whole state as plain values, for `json.dump`."""
    said = [name for name in SETTINGS if search.strategy != "paper" or name not in _UNSAID]
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "cell": search.cell.to_json(),
        **{name: getattr(search, name) for name in said},
        **({} if search.strategy == "paper" else {"proposals": search.proposals}),
        "outcomes": {key: dataclasses.asdict(outcome) for key, outcome in search.outcomes.items()},
    }


def about(metric: str, objective: Any, max_seconds: float | None) -> dict[str, Any]:
    """What reports say of a search beside its settings; one that goes on asks for none of it.

    Args:
        metric: name of the metric behind the score.
        objective: KerasTuner's, whose name and direction are those of the score.
        max_seconds: that a candidate may take.

    Returns:
        `metric`; its `direction`, "min" or "max", None if nobody has said; and
        `max_seconds_per_trial`.
    """
    direction = objective.direction if metric == objective.name else None
    return {"metric": metric, "direction": direction, "max_seconds_per_trial": max_seconds}


def from_json(data: Mapping[str, Any]) -> ShrinkSearch:
    """The search that `to_json` wrote.

    Raises:
        ValueError: not a search, one of another version, or one with outcomes that do not
            belong to it.
    """
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
        raise ValueError(f"not a search: expected a JSON object with format {_FORMAT!r}")
    if data.get("version") != _VERSION:
        raise ValueError(
            f"search of version {data.get('version')!r}: this library reads version {_VERSION}"
        )
    try:
        said = with_unsaid(data)
        search = ShrinkSearch(
            Cell.from_json(said["cell"]),
            **{name: said[name] for name in SETTINGS},
            proposals=data.get("proposals", ()),  # older ones have none: they are found again
        )
        outcomes = {key: Outcome(**values) for key, values in data["outcomes"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged search: {error!r}") from error
    _, strange = replay(search, outcomes)
    if strange:
        raise ValueError(f"damaged search: outcome of {next(iter(strange))}, never proposed")
    return search


def with_unsaid(data: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_json` wrote, and those `SETTINGS` which go without saying."""
    return {**_UNSAID, **data}


def replay(
    search: ShrinkSearch,
    outcomes: Mapping[str, Outcome],
    examine: Callable[[list[Cell]], Mapping[Cell, Outcome | None]] = lambda cells: {},
) -> tuple[list[Cell], dict[str, Outcome]]:
    """Tells a search that begins the outcomes of its networks, round by round.

    Args:
        search: to be told.
        outcomes: by `Cell.key`.
        examine: finds outcomes again of networks that need not have been trained for one; asked
            where the others' do not suffice.

    Returns:
        The networks with one of the outcomes, as they were told, and the outcomes of such as the
        search did not propose.
    """
    left = dict(outcomes)
    told: list[Cell] = []
    while left:
        pending = [c.cell for c in search.pending()]
        known = [cell for cell in pending if cell.key in left]
        for cell in known:
            search.tell(cell, left.pop(cell.key))
        told += known
        if not known:
            found = {c: o for c, o in examine(pending).items() if o is not None}
            for cell, outcome in found.items():
                search.tell(cell, outcome)
            if not found:
                break
    return told, left
