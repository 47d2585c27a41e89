"""The candidates of a round, trained side by side while the search asks for one at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType

from keras_autoshrink.candidate_training import Recipe, Trained, train
from keras_autoshrink.cell import Cell
from keras_autoshrink.masked_training import Program
from keras_autoshrink.memory import graphs_released
from keras_autoshrink.shrink import ShrinkSearch

# Where closed edges are computed all the same: a program for the whole cell makes way for one of
# the round's cell once that has no more than this share of its edges.
_SHRUNK = 0.5


class RoundTraining:
    """Trains the candidates of a search, those of a round ahead of being asked for.

    A context: at its end its threads are gone, what they were training is lost, and the
    program's memory is free.

    Args:
        make_program: makes the program of a cell and its sub-cells.
        cell: the whole.
        recipe: how candidates are trained.
        threads: candidates, or stacks of them, that train at a time.
        rebuilds: whether to make programs of smaller cells as the search goes on.
    """

    def __init__(
        self,
        make_program: Callable[[Cell], Program],
        cell: Cell,
        recipe: Recipe,
        *,
        threads: int = 1,
        rebuilds: bool = False,
    ) -> None:
        self._make_program = make_program
        self._whole = cell
        self._recipe = recipe
        self._threads = threads
        self._rebuilds = rebuilds
        self._compiled: Cell | None = None
        self._program: Program | None = None
        self._jobs: dict[Cell, concurrent.futures.Future[dict[Cell, Trained | Exception]]] = {}
        self._stopped = threading.Event()
        self._end = contextlib.ExitStack()

    def __enter__(self) -> RoundTraining:
        self._end.enter_context(graphs_released())
        self._executor = concurrent.futures.ThreadPoolExecutor(self._threads, "candidate")
        self._end.callback(self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.close()

    def trained(self, cell: Cell, search: ShrinkSearch | None) -> Trained:
        """What came of a candidate; the first of a round begins the training of all.

        Args:
            cell: the candidate, pruned of dead edges, numbered as the whole cell.
            search: that proposes candidates; None for who trains this one alone.

        Raises:
            Exception: what the candidate failed with.
        """
        if cell not in self._jobs:
            self._begin(cell, search)
        outcome = self._jobs.pop(cell).result()[cell]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _begin(self, cell: Cell, search: ShrinkSearch | None) -> None:
        """Begins to train the candidates of the round under way that have no outcome."""
        fresh, open_ = [cell], {cell}
        if search is not None:
            proposed = [c.cell for c in search.round.candidates if not c.reused]
            if cell in proposed:
                fresh = proposed
                open_ |= {candidate.cell for candidate in search.pending()}
        program = self._program_for(search)
        # Always the same stacks, whatever a search that was killed has left to do: on a GPU a
        # candidate's numbers may depend on those beside it.
        for start in range(0, len(fresh), program.stack):
            stack = fresh[start : start + program.stack]
            wanted = [c for c in stack if c in open_ and c not in self._jobs]
            if wanted:
                job = self._executor.submit(train, program, stack, self._recipe, self._stopped)
                self._jobs.update(dict.fromkeys(wanted, job))

    def _program_for(self, search: ShrinkSearch | None) -> Program:
        cell = self._whole
        if self._rebuilds and search is not None:
            cell = _compiled_cell(search)
        if self._program is None or self._compiled != cell:
            self._program = None  # its memory first
            self._program, self._compiled = self._make_program(cell), cell
        return self._program

    def _stop(self) -> None:
        self._stopped.set()
        self._executor.shutdown(cancel_futures=True)
        self._jobs.clear()
        self._program = None


def _compiled_cell(search: ShrinkSearch) -> Cell:
    """The cell to compile for the round under way; it follows from the rounds before alone."""
    compiled = search.cell
    for record in search.trajectory():
        cell = Cell.from_json(record["cell"])
        if len(cell.edges) <= _SHRUNK * len(compiled.edges):
            compiled = cell
    return compiled
