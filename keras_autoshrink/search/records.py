"""What a search leaves behind: the outcome of each network, and a record of each round."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.score import RECORDED_COSTS
from keras_autoshrink.search.points import EPOCHS, REPEAT, Point, Space


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

    Raises:
        ValueError: none or several of `score`, `error` and `over_limit` are given, or the score
            is not finite.
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
    """A cell of a round, and how it differs from the cell that the round started from.

    Attributes:
        cell: pruned of dead edges, its nodes numbered as those of the complete DAG.
        reused: whether the same network was a candidate before, whose outcome is this one's.
        removed_edges: that the cell lacks.
        added_edges: that it has besides.
        changed: the ops of its nodes and the other values that differ, by name; of points only.
        reference: the name of a network that was made by hand, see `Space.reference`; None for all
            others. What it differs in is not known.
    """

    cell: Cell
    reused: bool = False
    removed_edges: tuple[Edge, ...] = ()
    added_edges: tuple[Edge, ...] = ()
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference: str | None = None

    @classmethod
    def of(cls, current: Cell, cell: Cell, reused: bool, space: Space) -> Candidate:
        """Makes a candidate of a round that starts from `current`.

        From a reference nothing can be changed: its round starts from the start of the space.
        """
        if (reference := space.reference(cell)) is not None:
            return cls(cell, reused, reference=reference)
        if space.reference(current) is not None:
            current = space.start
        removed = tuple(edge for edge in current.edges if edge not in cell.edges)
        added = tuple(edge for edge in cell.edges if edge not in current.edges)
        changed: dict[str, Any] = {}
        if isinstance(cell, Point) and isinstance(current, Point):
            nodes = [n for n in cell.reachable if cell.ops[n] != current.ops[n]]
            changed.update({f"node {n}": cell.ops[n] for n in nodes})
            different = {*cell.values} - {*current.values}
            changed.update((n, v) for n, v in different if n not in (EPOCHS, REPEAT))
        return cls(cell, reused, removed, added, dict(sorted(changed.items())))

    @property
    def removed_edge(self) -> Edge | None:
        """The one edge whose removal makes the cell, dead edges aside; None if it takes more."""
        drawn = [edge for edge in self.removed_edges if edge[0] in self.cell.reachable]
        return drawn[0] if len(drawn) == 1 and not self.added_edges else None


@dataclasses.dataclass(frozen=True)
class Round:
    """One step of the search: its number (0 for the complete DAG) and its candidates, as drawn."""

    number: int
    candidates: tuple[Candidate, ...]


def winner(finished: Round, outcomes: Mapping[str, Outcome], on_parts: bool = False) -> int | None:
    """Finds the index of a round's best candidate, None if none has a score.

    Of a network that was trained several times the mean score counts, and then its best training.
    Of equal scores the one of fewer MACs wins, then of the smaller edge.

    Args:
        finished: the round.
        outcomes: of its points, by `Cell.key`.
        on_parts: see `mean_scores`.
    """
    means = mean_scores(finished, outcomes, on_parts)
    ranks = [
        (
            -means[network_of(candidate.cell)],
            -outcome.score,
            outcome.costs.get("macs", 0),
            candidate.removed_edge or (),
            index,
        )
        for index, candidate in enumerate(finished.candidates)
        if (outcome := outcomes[candidate.cell.key]).score is not None
    ]
    return min(ranks)[-1] if ranks else None


def network_of(cell: Cell) -> str:
    """Returns a key that all trainings of one network share."""
    return cell.network if isinstance(cell, Point) and cell.epochs else cell.key


def mean_scores(
    finished: Round, outcomes: Mapping[str, Outcome], on_parts: bool = False
) -> dict[str, float]:
    """Returns the mean score of each network of a round that has one, by `network_of`.

    Args:
        finished: the round.
        outcomes: of its points, by `Cell.key`.
        on_parts: whether each repeat was scored on other data. Where networks have been scored on
            other parts than others, a mean is what it would be on all parts of the round.
    """
    scores: dict[str, dict[int, float]] = {}
    for candidate in finished.candidates:
        cell, score = candidate.cell, outcomes[candidate.cell.key].score
        if score is not None:
            repeat = cell.repeat if isinstance(cell, Point) else 0
            scores.setdefault(network_of(cell), {})[repeat] = score
    if on_parts and len({frozenset(found) for found in scores.values()}) > 1:
        worth, ease = worth_and_ease(scores)
        in_the_mean = statistics.fmean(ease.values())
        return {network: found + in_the_mean for network, found in worth.items()}
    return {network: statistics.fmean(found.values()) for network, found in scores.items()}


# Until the estimates of worth and ease stand still, of up to 100 repeats to a hundredth of a point.
_ITERATIONS = 50


def worth_and_ease(
    scores: Mapping[str, Mapping[int, float]], drawn: float = 0.0
) -> tuple[dict[str, float], dict[int, float]]:
    """Estimates what scores say of networks, and what of the data that each repeat is scored on.

    A score is the sum of both, and chance.

    Args:
        scores: by network, and by repeat.
        drawn: towards how many trainings that show no difference a network's worth is drawn.

    Returns:
        The worth by network, and the ease by repeat: of least squares, unless worth is drawn.
    """
    worth = dict.fromkeys(scores, 0.0)
    ease = dict.fromkeys({repeat for each in scores.values() for repeat in each}, 0.0)
    for _ in range(_ITERATIONS):
        for repeat in ease:
            ease[repeat] = statistics.fmean(
                each[repeat] - worth[network] for network, each in scores.items() if repeat in each
            )
        for network, each in scores.items():
            worth[network] = sum(each[r] - ease[r] for r in each) / (len(each) + drawn)
    return worth, ease


def cheapest(finished: Round, outcomes: Mapping[str, Outcome]) -> int | None:
    """Finds the index of the cheapest candidate of a round that is over the limits as a whole.

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
        key=lambda i: (_cost_rank(found[i]), finished.candidates[i].removed_edge or (), i),
    )


def all_over(outcomes: Iterable[Outcome]) -> str:
    """Says of networks that are all over the limits which comes closest."""
    closest = min(outcomes, key=_cost_rank)
    if not closest.costs:
        return f"no network could be built: {closest.over_limit}"
    return (
        f"no network was within the limits; the smallest had {closest.over_limit}; raise "
        "the limit, or search smaller networks, of fewer filters or nodes"
    )


def _cost_rank(outcome: Outcome) -> tuple[float, float]:
    """Sorts networks that are over the limits; those over the MACs alone come last."""
    return outcome.costs.get("latency_ms", math.inf), outcome.costs.get("macs", math.inf)


def errors(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Collects what the failures of some rounds failed with, in their order."""
    found = [outcomes[candidate.cell.key].error for each in rounds for candidate in each.candidates]
    return [error for error in found if error is not None]


def of_cells(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> dict[Cell, Outcome]:
    """Maps the cells of some rounds, as they are numbered there, to their outcomes."""
    return {c.cell: outcomes[c.cell.key] for each in rounds for c in each.candidates}


def over_in_a_row(rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> int:
    """Counts the networks of the last rounds, as far as these are over the limits as a whole.

    By whole rounds, in which networks come in no certain order.
    """
    count = 0
    for each in reversed(rounds):
        found = [outcomes[c.cell.key] for c in each.candidates if not c.reused]
        if any(outcome.over_limit is None for outcome in found):
            break
        count += len(found)
    return count


def trajectory(
    rounds: Sequence[Round], adopted: Sequence[int | None], outcomes: Mapping[str, Outcome]
) -> list[dict[str, Any]]:
    """Records the first rounds of a search as plain values; `AutoShrink.trajectory` says which.

    Args:
        rounds: of the search.
        adopted: the index of the winner of each finished round, None if nothing survived.
        outcomes: of each network by its `Cell.key`.
    """
    records: list[dict[str, Any]] = []
    for finished, index in zip(rounds, adopted, strict=False):
        before = records[-1] if records else None
        records.append(_round_record(finished, index, outcomes, before))
    return records


def best_record(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Finds the best-scoring record of a trajectory, ties to fewer edges; None without a score.

    Where there has been a final, that of its last round.
    """
    scored = [record for record in records if record["score"] is not None]
    epochs = {record.get("epochs", 0) for record in scored}
    if len(epochs) > 1:
        return [record for record in scored if record.get("epochs", 0) == max(epochs)][-1]
    return max(scored, key=lambda each: (each["score"], -each["edges_left"]), default=None)


def final_records(
    finished: Round, outcomes: Mapping[str, Outcome], on_parts: bool
) -> list[dict[str, Any]]:
    """Records the networks of a final as plain values; `AutoShrink.final` says which.

    Args:
        finished: the round.
        outcomes: of each training by its `Cell.key`.
        on_parts: see `mean_scores`.
    """
    means = mean_scores(finished, outcomes, on_parts)
    found: dict[str, dict[str, Any]] = {}
    for candidate in finished.candidates:
        point, outcome = candidate.cell, outcomes[candidate.cell.key]
        if not isinstance(point, Point) or outcome.score is None:
            continue
        record = found.setdefault(
            point.network,
            {"reference": candidate.reference, "scores": [], "repeats": [], "trial_ids": []},
        )
        record["scores"].append(outcome.score)
        record["repeats"].append(point.repeat)
        record["trial_ids"].append(outcome.trial_id)
        record.update(outcome.costs, cell=point.to_json())
    for network, record in found.items():
        record["mean"] = means[network]
    # As `winner` chooses.
    return sorted(
        found.values(), key=lambda each: (-each["mean"], -max(each["scores"]), each.get("macs", 0))
    )


def described(record: Mapping[str, Any]) -> tuple[str, str]:
    """Writes the edges that a round removed and added, as "0-1, 1-2"; "-" for none.

    Where one edge is all that was removed, what was cut off by that goes without saying.
    """
    removed_edges = [record["removed_edge"]] if record["removed_edge"] else record["removed_edges"]
    edits = (removed_edges, record["added_edges"])
    removed, added = (", ".join(f"{i}-{j}" for i, j in edges) or "-" for edges in edits)
    return removed, added


def changes(record: Mapping[str, Any]) -> str:
    """Writes what a record changed beside edges, as "node 1 conv3x3, units 8"; "-" for nothing.

    Of a reference, which it is.
    """
    if "reference" in record:
        return f"reference {record['reference']}"
    changed = record.get("changed", {})
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "-"


def candidate_record(candidate: Candidate, outcome: Outcome) -> dict[str, Any]:
    """Records a candidate as plain values; nothing has been adopted yet."""
    return {
        "removed_edge": list(candidate.removed_edge) if candidate.removed_edge else None,
        "removed_edges": [list(edge) for edge in candidate.removed_edges],
        "added_edges": [list(edge) for edge in candidate.added_edges],
        **_of_point(candidate),
        "edges_left": 0 if candidate.reference else len(candidate.cell.edges),
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


def _of_point(candidate: Candidate) -> dict[str, Any]:
    if not isinstance(candidate.cell, Point):
        return {}
    epochs = candidate.cell.epochs
    return {
        "changed": candidate.changed,
        **({"reference": candidate.reference} if candidate.reference else {}),
        **({"epochs": epochs} if epochs else {}),
    }


# What the record of a round takes from that of the candidate that it adopted.
_OF_THE_ADOPTED = (
    *("removed_edge", "removed_edges", "added_edges", "changed", "reference"),
    "epochs",
    *("edges_left", "score", "objective"),
    *(cost.name for cost in RECORDED_COSTS),
    "over_limit",
)


def _round_record(
    finished: Round,
    adopted: int | None,
    outcomes: Mapping[str, Outcome],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    candidates = [
        candidate_record(candidate, outcomes[candidate.cell.key])
        for candidate in finished.candidates
    ]
    if adopted is None:
        assert before is not None  # without a score no search goes on
        chosen = {**before, "removed_edge": None, "removed_edges": [], "added_edges": []}
        chosen.update({"changed": {}} if "changed" in before else {})
    else:
        chosen = candidates[adopted]
        chosen["status"] = "adopted"
    return {
        "round": finished.number,
        **{name: chosen[name] for name in _OF_THE_ADOPTED if name in chosen},
        "seconds": sum(candidate["seconds"] for candidate in candidates),
        "cell": chosen["cell"],
        "candidates": candidates,
    }


def _status(outcome: Outcome) -> str:
    if outcome.over_limit is not None:
        return "over limit"
    return "failed" if outcome.score is None else "rejected"
