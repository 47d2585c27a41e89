"""What came of a search's networks, the record of its rounds, and what a network may cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.score import RECORDED_COSTS


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """The most that a network may cost to be trained; without any, all that is proposed is.

    Args:
        limits: the largest value of some costs, by `Cost.name`.
    """

    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.limits)

    def over(self, costs: Mapping[str, float]) -> str | None:
        """Says what of a network is over a limit, as "2,345,678 MACs, at most 2,000,000".

        Args:
            costs: of the network, as far as they are known.
        """
        for cost in RECORDED_COSTS:
            value, most = costs.get(cost.name), self.limits.get(cost.name)
            if value is not None and most is not None and value > most:
                written = f"{most:{cost.form}}" if cost.whole else cost.phrase(most)
                return f"{cost.phrase(value)}, at most {written}"
        return None


_EDITS = ("removed_edges", "added_edges")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one network: a score, or the reason why there is none.

    Args:
        score: the number to be maximised; None for a failure, and for what was not trained.
        objective: the metric behind the score, such as the validation accuracy.
        costs: of the network, for one image or token, by `Cost.name`; the MACs break ties of the
            score.
        seconds: time it took on a clock; of networks trained side by side these overlap, so
            that their sum is longer than the search took.
        trial_id: where the caller keeps what belongs to it.
        error: why it failed; None where it did not.
        over_limit: what of it was over a limit, so that it was not trained; None if nothing was.
    """

    score: float | None
    objective: float | None = None
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    trial_id: str | None = None
    error: str | None = None
    over_limit: str | None = None

    def __post_init__(self) -> None:
        if (self.score, self.error, self.over_limit).count(None) != 2:
            raise ValueError("outcome: has either a score or an error, or is over a limit")
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"score {self.score}: not finite; report a failure instead")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A cell of a round: the round's cell without `removed_edge` (None for the complete DAG).

    The cell is pruned of dead edges, but its nodes keep the numbers of the complete DAG.
    `reused`: one before it is the same network, whose outcome is this one's.

    One that may differ by several edges has all of them in `removed_edges` and `added_edges`,
    and a `removed_edge` only if that is all there is.
    """

    removed_edge: Edge | None
    cell: Cell
    reused: bool
    removed_edges: tuple[Edge, ...] | None = None
    added_edges: tuple[Edge, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """One step of the search: its number (0 for the baseline) and its candidates, as drawn."""

    number: int
    candidates: tuple[Candidate, ...]


def winner(finished: Round, outcomes: Mapping[str, Outcome]) -> int | None:
    """The index of a round's best candidate, None if all failed.

    Of equal scores the one of fewer MACs, then of the smaller edge.
    """
    ranks = [
        (-outcome.score, outcome.costs.get("macs", 0), candidate.removed_edge or (), index)
        for index, candidate in enumerate(finished.candidates)
        if (outcome := outcomes[candidate.cell.key]).score is not None
    ]
    return min(ranks)[-1] if ranks else None


def cheapest(finished: Round, outcomes: Mapping[str, Outcome]) -> int | None:
    """The index of the cheapest candidate of a round that is over the limits as a whole.

    That of the least latency, where that was measured, then of the fewest MACs, then of the
    smaller edge.

    Returns:
        None if some of the round has failed, or has a score.
    """
    found = [outcomes[candidate.cell.key] for candidate in finished.candidates]
    if any(outcome.over_limit is None for outcome in found):
        return None
    return min(
        range(len(found)),
        key=lambda i: (cost_rank(found[i]), finished.candidates[i].removed_edge or (), i),
    )


def all_over(outcomes: Iterable[Outcome]) -> str:
    """Says of networks that are all over the limits which comes closest."""
    closest = min(outcomes, key=cost_rank)
    return (
        f"no network was within the limits; the smallest had {closest.over_limit}; raise "
        "the limit, or search smaller networks, of fewer filters or nodes"
    )


def cost_rank(outcome: Outcome) -> tuple[float, float]:
    """Sorts networks that are over the limits; those whose MACs are come last."""
    return (
        outcome.costs.get("latency_ms", math.inf),
        outcome.costs.get("macs", math.inf),
    )


def errors(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> list[str]:
    """What the failures of some rounds failed with, in their order."""
    found = [outcomes[candidate.cell.key].error for each in rounds for candidate in each.candidates]
    return [error for error in found if error is not None]


def of_cells(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> dict[Cell, Outcome]:
    """The outcomes of the cells of some rounds, as they are numbered there."""
    return {c.cell: outcomes[c.cell.key] for each in rounds for c in each.candidates}


def over_in_a_row(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> int:
    """Number of networks in the last of some rounds, as far as they are over the limits as a whole.

    By whole rounds, in which networks come in no certain order.
    """
    count = 0
    for each in reversed(rounds):
        found = [outcomes[c.cell.key] for c in each.candidates if not c.reused]
        if any(outcome.over_limit is None for outcome in found):
            break
        count += len(found)
    return count


def round_record(
    finished: Round,
    adopted: int | None,
    outcomes: Mapping[str, Outcome],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A finished round as plain values; a list of them makes a `pandas.DataFrame`.

    Args:
        finished: the round.
        adopted: the index of the candidate that the search went on from; None if none had a score.
        outcomes: of each network by its `Cell.key`.
        before: the record of the round before; None of round 0.

    Returns:
        A dict, as `AutoShrink.trajectory` describes it. A candidate that was over a limit and has
        not been trained has the status "over limit", unless it was adopted since all of a round
        were.
    """
    candidates = [
        candidate_record(candidate, outcomes[candidate.cell.key])
        for candidate in finished.candidates
    ]
    if adopted is None:
        assert before is not None  # without a score no search goes on
        winner = {**before, "removed_edge": None, **{name: [] for name in _EDITS}}
    else:
        winner = candidates[adopted]
        winner["status"] = "adopted"
    costs = [cost.name for cost in RECORDED_COSTS]
    names = ("removed_edge", *_EDITS, "edges_left", "score", "objective", *costs, "over_limit")
    return {
        "round": finished.number,
        **{name: winner[name] for name in names if name in winner},
        "seconds": sum(candidate["seconds"] for candidate in candidates),
        "cell": winner["cell"],
        "candidates": candidates,
    }


def records(
    rounds: Sequence[Round], adopted: Sequence[int | None], outcomes: Mapping[str, Outcome]
) -> list[dict[str, Any]]:
    """The records of those first rounds that have finished; see `round_record`."""
    found: list[dict[str, Any]] = []
    for finished, index in zip(rounds, adopted, strict=False):
        found.append(round_record(finished, index, outcomes, found[-1] if found else None))
    return found


def best_record(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The best-scoring record of a trajectory, ties to fewer edges; None if none has a score."""
    scored = [record for record in records if record["score"] is not None]
    return max(scored, key=lambda each: (each["score"], -each["edges_left"]), default=None)


def described(record: Mapping[str, Any]) -> tuple[str, str]:
    """The edges that a record's cell has lost and won in its round, as "0-1, 1-2"; "-" for none."""
    removed = [record["removed_edge"]] if record["removed_edge"] else []
    removed, added = record.get("removed_edges", removed), record.get("added_edges", [])
    texts = [", ".join(f"{i}-{j}" for i, j in edges) for edges in (removed, added)]
    return texts[0] or "-", texts[1] or "-"


def _status(outcome: Outcome) -> str:
    if outcome.over_limit is not None:
        return "over limit"
    return "failed" if outcome.score is None else "rejected"


def candidate_record(candidate: Candidate, outcome: Outcome) -> dict[str, Any]:
    """A candidate as plain values; see `round_record`. Nothing has been adopted yet."""
    edits = {name: getattr(candidate, name) for name in _EDITS}
    return {
        "removed_edge": list(candidate.removed_edge) if candidate.removed_edge else None,
        **{name: [list(e) for e in edges] for name, edges in edits.items() if edges is not None},
        "edges_left": len(candidate.cell.edges),
        "score": outcome.score,
        "objective": outcome.objective,
        "macs": None,
        "params": None,
        **outcome.costs,
        # A reused outcome cost nothing this time: every training is counted once.
        "seconds": 0.0 if candidate.reused else outcome.seconds,
        "cell": candidate.cell.to_json(),
        "status": _status(outcome),
        "reused": candidate.reused,
        "trial_id": outcome.trial_id,
        "error": outcome.error,
        **({} if outcome.over_limit is None else {"over_limit": outcome.over_limit}),
    }
