"""The books of a search: rounds of candidates, their outcomes, and which cell it goes on from.

Zhang et al., arXiv 1911.09251, figure 2. No Keras, no KerasTuner, no files. The same search serves
convolutional and recurrent cells: the caller trains and scores them.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell
from keras_autoshrink.search import make_strategy, records
from keras_autoshrink.search.points import Point, Space, read, written
from keras_autoshrink.search.records import Candidate, CostLimits, Outcome, Round

# What says which search this is; the rest follows from the outcomes.
SETTINGS = (
    "num_candidates",
    "keep_fraction",
    "seed",
    "strategy",
    "max_candidates",
    "max_minutes",
)

_FORMAT = "keras_autoshrink.search"
_VERSION = 5


class ShrinkSearch:
    """The state of one search.

    Round 0 is the complete DAG alone, or what the strategy begins with. Once all candidates of a
    round have an outcome, the search goes on from the best (ties: fewer MACs, then the smaller
    edge), and its strategy proposes the next round. Networks equal up to a renumbering of nodes
    are trained once.

    All state is the settings, what each round proposed and the outcome of each network. Outcomes
    may arrive in any order, and a search that is resumed goes on as if it had never stopped.

    Args:
        cell: where to start, usually `Cell.dense(ops)`.
        strategy: name of one of `search.STRATEGIES`.
        seed: an integer; every draw comes from it.
        num_candidates: k, how many cells are tried in a round, 1 or more.
        keep_fraction: the share of the initial edges, 0 to 1, that a cell has at least; "paper"
            stops there.
        max_candidates: how many networks to train; None for as many as the strategy needs.
        max_minutes: how long to search; None for as long as it takes.
        limits: the most that networks may cost.
        proposals: the cells of rounds 0, 1 and so on of a search that is resumed, as `to_json`
            writes them.
        space: what may be chosen beside the edges of `cell`, its start; None for nothing.

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
        strategy: str = "bayesian",
        seed: int = 0,
        num_candidates: int = 10,
        keep_fraction: float = 0.01,
        max_candidates: int | None = None,
        max_minutes: float | None = None,
        limits: CostLimits | None = None,
        proposals: Sequence[Sequence[Any]] = (),
        space: Space | None = None,
    ) -> None:
        self.settings = check_settings(
            strategy=strategy,
            seed=seed,
            num_candidates=num_candidates,
            keep_fraction=keep_fraction,
            max_candidates=max_candidates,
            max_minutes=max_minutes,
        )
        arguments = {n: v for n, v in self.settings.items() if n not in ("strategy", "seed")}
        self._strategy = make_strategy(strategy, **arguments, limits=limits or CostLimits())
        self.cell = dataclasses.replace(cell, edges=cell.live_edges)
        self.space = space or Space.of_edges(self.cell)
        self._known = [[read(self.cell, each) for each in cells] for cells in proposals]
        self._exhausted = False  # the strategy had nothing left to propose
        # On a clock, while somebody searched; who trains the networks keeps it.
        self.elapsed_seconds = 0.0
        self._outcomes: dict[str, Outcome] = {}
        # Of each finished round the index of the winner, None if nothing survived.
        self._adopted: list[int | None] = []
        self._current = self.cell  # the last winner
        self._first_failed = 0  # the round after the winner's
        first = self._known[0] if self._known else self._strategy.begin(self)
        candidates = tuple(Candidate.of(self.cell, each, False, self.space) for each in first)
        self._rounds: list[Round] = [Round(0, candidates)]
        self._seen = {each.key for each in first}

    @property
    def strategy(self) -> str:
        """The name of the strategy."""
        return self._strategy.name

    @property
    def seed(self) -> int:
        """What every draw comes from."""
        return int(self.settings["seed"])

    @property
    def current(self) -> Cell:
        """The cell that the search goes on from."""
        return self._current

    @property
    def rounds(self) -> Sequence[Round]:
        """All rounds so far, the one under way included."""
        return self._rounds

    @property
    def adopted(self) -> Sequence[int | None]:
        """The index of the winner of each finished round, None if nothing survived."""
        return self._adopted

    @property
    def round_seed(self) -> str:
        """The seed of the next round alone, so that resuming needs no generator's state."""
        return f"{self.seed}/{len(self._rounds)}"

    @property
    def round(self) -> Round:
        """The round under way, or the last one."""
        return self._rounds[-1]

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What came of each network so far, by its `Cell.key`, in the order of arrival."""
        return self._outcomes

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
        errors = self.errors_in_a_row()
        return f"all candidates of {which} failed ({len(errors)}); the last one with: {errors[-1]}"

    @property
    def best_score(self) -> float | None:
        """The best score of all networks so far, the round under way included."""
        scores = [o.score for o in self._outcomes.values() if o.score is not None]
        return max(scores, default=None)

    def best(self) -> dict[str, Any] | None:
        """Returns the best record of the trajectory, ties to fewer edges; None without a score."""
        return records.best_record(self.trajectory())

    def trajectory(self) -> list[dict[str, Any]]:
        """Returns a record of each finished round, as `AutoShrink.trajectory` describes it."""
        return records.trajectory(self._rounds, self._adopted, self._outcomes)

    def final(self) -> list[dict[str, Any]]:
        """Returns a record of each network of the final, as `AutoShrink.final` describes it."""
        finished = self._rounds[len(self._adopted) - 1] if self._adopted else None
        if finished is None or not self.is_final(finished):
            return []
        return records.final_records(finished, self._outcomes, self.space.folds > 1)

    def is_final(self, found: Round) -> bool:
        """Tells whether the networks of a round are those of the final, trained for all epochs."""
        cells = [c.cell for c in found.candidates]
        return bool(self.space.rungs) and all(
            isinstance(cell, Point) and cell.epochs == self.space.rungs[1] for cell in cells
        )

    def pending(self) -> list[Candidate]:
        """Returns the distinct networks of the round under way that have no outcome yet."""
        return [
            candidate
            for candidate in self.round.candidates
            if not candidate.reused and candidate.cell.key not in self._outcomes
        ]

    def is_pending(self, cell: Cell) -> bool:
        """Tells whether a cell is one of the networks that have no outcome yet."""
        return any(candidate.cell.key == cell.key for candidate in self.pending())

    def max_remaining(self) -> int:
        """Returns how many networks are left to train at most."""
        return 0 if self.done else self._strategy.max_remaining(self)

    def too_short(self) -> str | None:
        """Says that `max_minutes` is too short for what the search begins with; None if not."""
        return None if self.done else self._strategy.too_short(self)

    def errors_in_a_row(self) -> list[str]:
        """Returns the errors of all candidates that failed since the last winner."""
        return records.errors(self._rounds[self._first_failed :], self._outcomes)

    def tell(self, cell: Cell, outcome: Outcome) -> None:
        """Takes the outcome of a pending cell, in any order; the last one ends the round.

        Raises:
            ValueError: no pending candidate is this network.
        """
        if not self.is_pending(cell):
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

    def replay(
        self,
        outcomes: Mapping[str, Outcome],
        examine: Callable[[list[Cell]], Mapping[Cell, Outcome | None]] = lambda cells: {},
    ) -> tuple[list[Cell], dict[str, Outcome]]:
        """Takes the outcomes that are known of a search which begins again, round by round.

        Args:
            outcomes: by `Cell.key`.
            examine: finds outcomes again of networks that need not have been trained for one; asked
                where the others do not suffice.

        Returns:
            The networks with one of the outcomes, in the order of their rounds, and the outcomes of
            networks that this search did not propose.
        """
        left = dict(outcomes)
        taken: list[Cell] = []
        while left:
            pending = [c.cell for c in self.pending()]
            known = [cell for cell in pending if cell.key in left]
            for cell in known:
                self.tell(cell, left.pop(cell.key))
            taken += known
            if not known:
                found = {c: o for c, o in examine(pending).items() if o is not None}
                for cell, outcome in found.items():
                    self.tell(cell, outcome)
                if not found:
                    break
        return taken, left

    def to_json(self) -> dict[str, Any]:
        """Returns the whole state as plain values, for `json.dump`."""
        proposals = [[written(c.cell) for c in each.candidates] for each in self._rounds]
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "cell": self.cell.to_json(),
            "space": self.space.to_json(),
            **self.settings,
            "elapsed_seconds": self.elapsed_seconds,
            "proposals": [*proposals, *([[]] if self._exhausted else [])],
            "outcomes": {key: dataclasses.asdict(each) for key, each in self._outcomes.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShrinkSearch:
        """Makes the search that `to_json` wrote as `data`.

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
            settings = {name: data[name] for name in SETTINGS}
            cell = Cell.from_json(data["cell"])
            if "values" in data["cell"]:
                cell = Point(cell.ops, cell.edges, tuple(data["cell"]["values"].items()))
            space = Space.from_json(cell, data["space"])
            search = cls(cell, **settings, proposals=data["proposals"], space=space)
            search.elapsed_seconds = float(data.get("elapsed_seconds", 0.0))
            outcomes = {key: Outcome(**values) for key, values in data["outcomes"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged search: {error!r}") from error
        _, strange = search.replay(outcomes)
        if strange:
            raise ValueError(f"damaged search: outcome of {next(iter(strange))}, never proposed")
        return search

    def _advance(self) -> None:
        """Closes the round under way if it is complete, and such after it as are known already."""
        while not self.pending() and len(self._adopted) < len(self._rounds):
            on_parts = self.space.folds > 1 and self.is_final(self.round)
            winner = records.winner(self.round, self._outcomes, on_parts)
            if winner is None and (self._strategy.goes_on_over_limits or not self._adopted):
                winner = records.cheapest(self.round, self._outcomes)
            if winner is not None:
                self._current = self.round.candidates[winner].cell
                self._first_failed = len(self._rounds)
            elif self._strategy.gives_up(self):
                return
            self._adopted.append(winner)
            if candidates := self._next_round():
                self._rounds.append(Round(len(self._rounds), candidates))

    def _next_round(self) -> tuple[Candidate, ...]:
        """The candidates of the next round; none if the search is over."""
        number = len(self._rounds)
        if number < len(self._known):
            cells = self._known[number]
        elif self._strategy.is_over(self):
            return ()
        else:
            cells = self._strategy.propose(self)
        self._exhausted = not cells
        candidates = []
        for cell in cells:
            reused = cell.key in self._seen
            candidates.append(Candidate.of(self._current, cell, reused, self.space))
            self._seen.add(cell.key)
        return tuple(candidates)


def check_settings(*, strategy: str, seed: int, **arguments: Any) -> dict[str, Any]:
    """Checks the settings of a search.

    Args:
        strategy: name of one of `search.STRATEGIES`.
        seed: an integer.
        **arguments: of the strategy.

    Returns:
        The `SETTINGS`, as Python's own numbers.

    Raises:
        TypeError, ValueError: one of them is not as `ShrinkSearch` describes it; the message names
            it.
    """
    try:
        settings = {"strategy": strategy, "seed": operator.index(seed)}
    except TypeError:
        raise TypeError(f"seed={seed!r}: give an integer") from None
    found = make_strategy(strategy, **arguments)
    return {name: settings.get(name, getattr(found, name, None)) for name in SETTINGS}
