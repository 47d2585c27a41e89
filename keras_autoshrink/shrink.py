"""The AutoShrink algorithm: which cells to train next, and which of them to go on from.

Zhang et al., arXiv 1911.09251, figure 2. Pure Python: no Keras, no KerasTuner, no files.
The same search serves convolutional and recurrent cells; what trains and scores a cell is
the caller's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import random
from collections.abc import Iterator, Mapping
from typing import Any

from keras_autoshrink import trajectory
from keras_autoshrink.cell import Cell
from keras_autoshrink.trajectory import Candidate, Outcome, Round

_FORMAT = "keras_autoshrink.search"
_VERSION = 1


class ShrinkSearch:
    """The state of one search.

    Round 0 is the complete DAG alone. Each later round draws `num_candidates` edges of the
    current cell and proposes the cells that lack one each; once all have an outcome, the
    search goes on from the best (ties: fewer MACs, then the smaller edge). It ends when the
    cell has no more than `max(1, round(keep_fraction * initial edges))` edges, or when a whole
    round failed.

    All state is the settings and the outcome of each network; the rounds follow from these.
    So outcomes may arrive in any order, and a search that is resumed goes on as if it had
    never stopped.

    Args:
        cell: where to start, usually `Cell.dense(ops)`.
        num_candidates: k, how many edges are tried in a round, at least 1.
        keep_fraction: the share of the initial edges at which to stop, 0 to 1.
        seed: an integer; every draw comes from it.

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
    ) -> None:
        check_settings(num_candidates, keep_fraction, seed)
        self.cell = dataclasses.replace(cell, edges=cell.live_edges)
        self.num_candidates = operator.index(num_candidates)
        self.keep_fraction = float(keep_fraction)
        self.seed = operator.index(seed)
        self._outcomes: dict[str, Outcome] = {}
        self._adopted: list[int] = []  # of each finished round, the index of the winner
        self._rounds: list[Round] = [Round(0, (Candidate(None, self.cell, False),))]
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
        """Why the search cannot go on: all candidates of a round failed. None otherwise."""
        if not self.done or len(self._adopted) == len(self._rounds):
            return None
        errors = [self._outcome(candidate).error for candidate in self.round.candidates]
        return (
            f"all candidates of round {self.round.number} failed ({len(errors)}); "
            f"the last one with: {errors[-1]}"
        )

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
        """Takes back the failures of a round that nothing survived, to try it again.

        Returns:
            The trial ids of those failures; none if there is no such round.
        """
        if not self.error:
            return []
        fresh = [c.cell.key for c in self.round.candidates if not c.reused]
        return [self._outcomes.pop(key).trial_id for key in fresh]

    def max_remaining(self) -> int:
        """How many networks are left to train at most; duplicates and pruning make it fewer."""
        if self.done:
            return 0
        smaller = range(self.edges_to_keep + 1, self._round_edges())
        return len(self.pending()) + sum(min(self.num_candidates, edges) for edges in smaller)

    def trajectory(self) -> list[dict[str, Any]]:
        """One record of plain values for each finished round. See `trajectory.round_record`."""
        return [
            trajectory.round_record(finished, adopted, self._outcomes)
            for finished, adopted in zip(self._rounds, self._adopted, strict=False)
        ]

    @property
    def best_score(self) -> float | None:
        """The best score of all networks so far, the round under way included."""
        scores = [o.score for o in self._outcomes.values() if o.score is not None]
        return max(scores, default=None)

    def best(self) -> dict[str, Any] | None:
        """The best record of the trajectory, ties to fewer edges; None before round 0 ended."""
        records = self.trajectory()
        return trajectory.best_record(records) if records else None

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain values, for `json.dump`."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "cell": self.cell.to_json(),
            "num_candidates": self.num_candidates,
            "keep_fraction": self.keep_fraction,
            "seed": self.seed,
            "outcomes": {key: dataclasses.asdict(o) for key, o in self._outcomes.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShrinkSearch:
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
            search = cls(
                Cell.from_json(data["cell"]),
                num_candidates=data["num_candidates"],
                keep_fraction=data["keep_fraction"],
                seed=data["seed"],
            )
            outcomes = {key: Outcome(**values) for key, values in data["outcomes"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged search: {error!r}") from error
        while told := [c for c in search.pending() if c.cell.key in outcomes]:
            for candidate in told:
                search.tell(candidate.cell, outcomes.pop(candidate.cell.key))
        if outcomes:
            raise ValueError(f"damaged search: outcome of {next(iter(outcomes))}, never proposed")
        return search

    def _advance(self) -> None:
        """Closes the round under way if it is complete, and opens the next ones.

        Several at once, if all networks of the next round are known already.
        """
        while not self.pending() and len(self._adopted) < len(self._rounds):
            ranks = [
                (-outcome.score, outcome.macs or 0, candidate.removed_edge or (), index)
                for index, candidate in enumerate(self.round.candidates)
                if (outcome := self._outcome(candidate)).score is not None
            ]
            if not ranks:
                return
            self._adopted.append(min(ranks)[-1])
            cell = self.round.candidates[self._adopted[-1]].cell
            if len(cell.edges) > self.edges_to_keep:
                self._rounds.append(Round(len(self._rounds), tuple(self._draw(cell))))

    def _draw(self, cell: Cell) -> Iterator[Candidate]:
        """The candidates of the next round: cells that lack one edge of `cell` each."""
        # A draw of its own for each round, so that resuming needs no generator's state.
        # Sorting by random() rather than sample(): Python promises the same numbers from this
        # one method in all its versions, and a resumed search draws the old rounds again.
        generator = random.Random(f"{self.seed}/{len(self._rounds)}")
        ways_in = sum(i == 0 for i, _ in cell.edges)
        # The last edge out of the input has to stay: without it there is no cell.
        removable = [edge for edge in cell.edges if edge[0] != 0 or ways_in > 1]
        drawn = sorted(removable, key=lambda _: generator.random())[: self.num_candidates]
        for edge in drawn:
            candidate = cell.without_edge(edge)
            candidate = dataclasses.replace(candidate, edges=candidate.live_edges)
            yield Candidate(edge, candidate, candidate.key in self._seen)
            self._seen.add(candidate.key)

    def _outcome(self, candidate: Candidate) -> Outcome:
        return self._outcomes[candidate.cell.key]

    def _round_edges(self) -> int:
        """The edges of the cell that the round under way started from."""
        if self.round.number == 0:
            return len(self.cell.edges) + 1
        return len(self._rounds[-2].candidates[self._adopted[-1]].cell.edges)


def training_seed(seed: int, cell: Cell) -> int:
    """The seed to train a cell with: it depends on the search's seed and the network alone.

    So neither the order of trials, nor a resume, nor parallel workers change a result.

    Returns:
        An integer from 0 to 2**31 - 1.
    """
    digest = hashlib.sha256(f"{seed}/{cell.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def check_settings(num_candidates: int, keep_fraction: float, seed: int) -> None:
    """Raises the TypeError or ValueError that names the setting which is wrong, if one is."""
    for name, value in (("num_candidates", num_candidates), ("seed", seed)):
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name}={value!r}: give an integer") from None
    if num_candidates < 1:
        raise ValueError(f"num_candidates={num_candidates}: a round has at least one candidate")
    try:
        in_range = 0 <= keep_fraction <= 1
    except TypeError:
        raise TypeError(f"keep_fraction={keep_fraction!r}: give a number from 0 to 1") from None
    if not in_range:
        raise ValueError(f"keep_fraction={keep_fraction}: give a number from 0 to 1")
