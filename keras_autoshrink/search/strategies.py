"""Which cells a round of the search tries; `shrink.ShrinkSearch` keeps the books.

"bayesian", the default, learns from all scores so far what edges are worth, and tries any parts
of the complete DAG: a removed edge may come back. "paper" tries cells that lack one edge of the
current one (arXiv 1911.09251, figure 2). By benchmarks/search_quality.md the first leaves half of
the regret of random networks at equal numbers of trained ones, and the second does not.
"""

from __future__ import annotations

import dataclasses
import operator
import random
from collections.abc import Iterable, Iterator, Mapping

from keras_autoshrink.cell import Cell, Edge
from keras_autoshrink.search.records import Candidate, CostLimits, Outcome

STRATEGIES = ("paper", "bayesian")

# With fewer scores than this there is nothing to learn from: cells are drawn. Chosen, not tuned: 2
# leaves a regret as good in benchmarks/quality_cifar10.json, 80 searches of k=5.
_LEAST_SCORES = 6
# Of "bayesian": when so many networks have failed, and none has not, it is the fault of what
# trains them. If each second one failed by itself, it would come to this once in 1,000 times.
# A round of the default size is as many; KerasTuner gives up after 3, which a few large networks
# that do not fit into memory can come to.
FAILURES_IN_A_ROW = 10
# When so many networks one after the other were over the limits, "bayesian" gives up: by then it
# has gone to the smallest ones.
OVER_IN_A_ROW = 30


def without_one_edge(cell: Cell, count: int, seed: str) -> Iterator[tuple[Edge, Cell]]:
    """Edges of a cell, drawn without replacement, and the cells that lack one each.

    Args:
        cell: the current one.
        count: how many; fewer if it has no more.
        seed: of the draw.
    """
    # Sorting by random() rather than sample(): Python promises the same numbers from this
    # one method in all its versions, and a resumed search draws the old rounds again.
    generator = random.Random(seed)
    ways_in = sum(i == 0 for i, _ in cell.edges)
    # The last edge out of the input has to stay: without it there is no cell.
    removable = [edge for edge in cell.edges if edge[0] != 0 or ways_in > 1]
    for edge in sorted(removable, key=lambda _: generator.random())[:count]:
        smaller = cell.without_edge(edge)
        yield edge, dataclasses.replace(smaller, edges=smaller.live_edges)


def promising(
    whole: Cell,
    outcomes: Mapping[Cell, Outcome],
    least_edges: int,
    count: int,
    seed: str,
    limits: CostLimits | None = None,
) -> list[Cell]:
    """Parts of a cell, none of them trained yet, that are worth training.

    Args:
        whole: the complete DAG.
        outcomes: of those that have been trained, or were over the limits.
        least_edges: that a part has.
        count: how many; fewer if there are no others.
        seed: of what is drawn.
        limits: that a part is to be within, as far as it can be told.
    """
    # NumPy takes a while to load, and most who import this module only look at a search.
    from threadpoolctl import threadpool_limits

    from keras_autoshrink.search import bayesian
    from keras_autoshrink.search.bayesian import Affordable
    from keras_autoshrink.search.parts import Parts

    parts = Parts(whole, least_edges)
    scores = {cell: o.score for cell, o in outcomes.items() if o.score is not None}
    failed = [cell for cell, outcome in outcomes.items() if outcome.error is not None]
    over = [cell for cell, outcome in outcomes.items() if outcome.over_limit is not None]
    # In matrices as small as these BLAS's threads mostly wait for each other: on two busy cores
    # a round of 8 nodes took them ten times as long as it takes one.
    with threadpool_limits(1, user_api="blas"):
        affordable = Affordable(parts, limits, outcomes) if limits else None
        if len(scores) < _LEAST_SCORES:
            return bayesian.first_parts(parts, list(outcomes), count, seed, affordable)
        return bayesian.best_parts(parts, scores, failed, count, seed, over, affordable)


def part(whole: Cell, edges: Iterable[Edge]) -> Cell:
    """The part of a cell that has some of its edges.

    Raises:
        ValueError: it has other edges, or none from the input.
    """
    found = Cell(whole.ops, tuple(edges))
    if strange := set(found.edges) - set(whole.edges):
        raise ValueError(f"proposals: edge {min(strange)} is none of the complete cell's")
    return found


def trained_below(edges: int, least_edges: int, count: int) -> int:
    """How many networks of fewer edges "paper" trains at most, `count` of them in a round."""
    return sum(min(count, more) for more in range(least_edges + 1, edges))


def edited(current: Cell, cell: Cell, reused: bool) -> Candidate:
    """A candidate that differs from the current cell by any number of edges."""
    removed = tuple(edge for edge in current.edges if edge not in cell.edges)
    added = tuple(edge for edge in cell.edges if edge not in current.edges)
    only = removed[0] if len(removed) == 1 and not added else None
    return Candidate(only, cell, reused, removed, added)


def check_settings(
    num_candidates: int,
    keep_fraction: float,
    seed: int,
    strategy: str,
    max_candidates: int | None,
) -> None:
    """Raises the TypeError or ValueError that names the setting which is wrong, if one is."""
    integers = {"num_candidates": num_candidates, "seed": seed}
    if max_candidates is not None:
        integers["max_candidates"] = max_candidates
    for name, value in integers.items():
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name}={value!r}: give an integer") from None
        if name != "seed" and value < 1:
            what = "a round has" if name == "num_candidates" else "a search trains"
            raise ValueError(f"{name}={value}: {what} at least one candidate")
    try:
        in_range = 0 <= keep_fraction <= 1
    except TypeError:
        raise TypeError(f"keep_fraction={keep_fraction!r}: give a number from 0 to 1") from None
    if not in_range:
        raise ValueError(f"keep_fraction={keep_fraction}: give a number from 0 to 1")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: expected one of {', '.join(STRATEGIES)}")
    if strategy == "paper" and max_candidates is not None:
        raise ValueError(
            f"max_candidates={max_candidates}: the strategy 'paper' ends by itself; "
            "keep_fraction and num_candidates say when"
        )
