"""The walk of the paper: edge after edge is removed (Zhang et al., arXiv 1911.09251, figure 2)."""

from __future__ import annotations

import dataclasses
import random

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.strategies import State, Strategy


class Paper(Strategy):
    """The walk of the paper: each round tries cells that lack one edge of the current one.

    A round draws k edges and goes on from the best candidate (ties: fewer MACs, then the smaller
    edge), of a round over the limits from the cheapest. The walk ends when the cell has no more
    than `max(1, round(keep_fraction * initial edges))` edges, or when a whole round failed
    (Zhang et al., arXiv 1911.09251, figure 2).

    Raises:
        ValueError: `max_candidates` is given; the walk ends by itself.
    """

    name = "paper"
    goes_on_over_limits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_candidates is not None:
            raise ValueError(
                f"max_candidates={self.max_candidates}: the strategy 'paper' ends by itself; "
                "keep_fraction and num_candidates say when"
            )

    def propose(self, state: State) -> list[Cell]:
        """Returns cells that lack one edge of the current one, which is drawn."""
        cell = state.current
        # Sorting by random() rather than sample(): Python promises the same numbers from this
        # one method in all its versions, and a resumed search draws the old rounds again.
        generator = random.Random(state.round_seed)
        ways_in = sum(i == 0 for i, _ in cell.edges)
        # The last edge out of the input has to stay: without it there is no cell.
        removable = [edge for edge in cell.edges if edge[0] != 0 or ways_in > 1]
        drawn = sorted(removable, key=lambda _: generator.random())[: self.num_candidates]
        smaller = [cell.without_edge(edge) for edge in drawn]
        return [dataclasses.replace(each, edges=each.live_edges) for each in smaller]

    def is_over(self, state: State) -> bool:
        """Tells whether the cell is as small as it is to become, or the time is up."""
        smallest = len(state.current.edges) <= self.edges_to_keep(state.cell)
        return smallest or self.seconds_left(state) <= 0

    def gives_up(self, state: State) -> bool:
        """Tells that there is no cell to go on from."""
        return True

    def max_remaining(self, state: State) -> int:
        """Returns how many networks are left; duplicates and pruning make it fewer."""
        edges = len(state.current.edges) if state.adopted else len(state.cell.edges) + 1
        return len(state.pending()) + self.trained_below(state.cell, edges)
