"""The candidates of a round, trained side by side while the search asks for one at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from keras_autoshrink.candidate_training import Stack
from keras_autoshrink.cell import Cell
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.masked_training import Program
from keras_autoshrink.memory import graphs_released
from keras_autoshrink.racing import race
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trainee import Recipe, Trained, Trainee

# Where closed edges are computed all the same: a program for the whole cell makes way for one of
# the round's cell once that has no more than this share of its edges, and none comes back. There
# a compilation has paid after some 200 epochs (benchmarks/search_speed.md).
_SHRUNK = 0.5


class RoundTraining:
    """Trains the candidates of a search, those of a round ahead of being asked for.

    A context: at its end its threads are gone, what they were training is lost, and the
    program's memory is free.

    Args:
        make_program: makes the program of a cell and its sub-cells.
        cell: the whole.
        recipe: how candidates are trained.
        parent: tells what the candidates of the round under way inherit their weights from, if
            they are to.
        threads: candidates, or stacks of them, that train at a time.
        rebuilds: whether to make programs of smaller cells as the search goes on.
    """

    def __init__(
        self,
        make_program: Callable[[Cell], Program],
        cell: Cell,
        recipe: Recipe,
        *,
        parent: Callable[[ShrinkSearch], Parent | None] | None = None,
        threads: int = 1,
        rebuilds: bool = False,
    ) -> None:
        self._make_program = make_program
        self._whole = cell
        self._recipe = recipe
        self._parent = parent
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
        # Waits for the others; among them it would take the place of one.
        self._races = concurrent.futures.ThreadPoolExecutor(1, "race")
        self._end.callback(self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.close()

    def prepare(self) -> None:
        """Makes the program of the whole cell, which takes time that no candidate is to lose."""
        self._program_for(None)

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
            # Over a limit, or of a cost that cannot be told: these have no trial either.
            outcomes = search.outcomes.items()
            untrained = {k for k, o in outcomes if o.score is None and o.trial_id is None}
            new = [c.cell for c in search.round.candidates if not c.reused]
            proposed = [candidate for candidate in new if candidate.key not in untrained]
            if cell in proposed:
                fresh = proposed
                open_ |= {candidate.cell for candidate in search.pending()}
        program = self._program_for(search)
        recipe, parent = self._recipe, None
        if search is not None and self._parent is not None:
            parent = self._parent(search)
        if parent is not None:
            recipe = dataclasses.replace(recipe, epochs=recipe.epochs_of_heirs)
        # Always the same stacks, whatever a search that was killed has left to do: on a GPU a
        # candidate's numbers may depend on those beside it.
        stacks = [
            Stack(program, fresh[start : start + program.stack], recipe, self._stopped, parent)
            for start in range(0, len(fresh), program.stack)
        ]
        missing = open_ - self._jobs.keys()
        if recipe.race:
            job = self._races.submit(self._race, stacks, recipe.epochs)
            self._jobs.update(dict.fromkeys(missing, job))
            return
        for stack in stacks:
            if wanted := missing & set(stack.cells):
                job = self._executor.submit(_trained, stack, recipe.epochs)
                self._jobs.update(dict.fromkeys(wanted, job))

    def _race(self, stacks: Sequence[Stack], epochs: int) -> dict[Cell, Trained | Exception]:
        trainees = [trainee for stack in stacks for trainee in stack.trainees]

        def run(racing: Sequence[Trainee], until: int) -> None:
            for trainee in trainees:
                if trainee not in racing:
                    trainee.stop()
            # A stack of which some go on takes the time of all.
            list(self._executor.map(lambda stack: stack.run(until), stacks))

        race(trainees, epochs, run)
        return {cell: result for stack in stacks for cell, result in stack.results().items()}

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
        self._races.shutdown(cancel_futures=True)
        self._executor.shutdown(cancel_futures=True)
        self._jobs.clear()
        self._program = None


def _trained(stack: Stack, epochs: int) -> dict[Cell, Trained | Exception]:
    stack.run(epochs)
    return stack.results()


def _compiled_cell(search: ShrinkSearch) -> Cell:
    """The cell to compile for the round under way; it follows from the rounds before alone."""
    compiled = search.cell
    if search.strategy != "paper":  # candidates may be any parts of it
        return compiled
    for record in search.trajectory():
        cell = Cell.from_json(record["cell"])
        if len(cell.edges) <= _SHRUNK * len(compiled.edges):
            compiled = cell
    return compiled
