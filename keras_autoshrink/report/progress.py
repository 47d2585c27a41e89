"""The lines that a search prints while it runs."""

from __future__ import annotations

import datetime
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from keras_autoshrink.cell import Cell
from keras_autoshrink.report.quantities import known_costs
from keras_autoshrink.search.records import changes, described
from keras_autoshrink.search.shrink import ShrinkSearch


class SearchProgress:
    """The display of round, candidate i of k and its edges, best score and time left.

    On a terminal one line that changes, and a line that stays for each round; elsewhere a
    plain line for each candidate.

    Args:
        verbose: 0 shows nothing.
    """

    def __init__(self, verbose: int) -> None:
        self._console = Console(quiet=not verbose, highlight=False, soft_wrap=True)
        self._status = Status("", console=self._console)
        self._rounds = 0
        self._started = time.monotonic()
        self._trained = 0
        self._labels: dict[str, str] = {}  # of each network in training

    def __enter__(self) -> SearchProgress:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status.stop()
        if kind is KeyboardInterrupt:
            self._console.print(
                "Interrupted; what has been trained is kept: run the same again, without "
                "overwriting, to go on."
            )

    def begin(self, search: ShrinkSearch) -> None:
        """Prints where the search starts or goes on."""
        self._rounds = len(search.trajectory())
        if search.error and any(outcome.error for outcome in search.outcomes.values()):
            self._console.print(f"Trying again: {search.error}.", markup=False)
        elif search.done:
            self._console.print("This search has finished already.")
        elif self._rounds:
            best = search.best_score
            self._console.print(
                f"Going on in round {search.round.number}; "
                + ("" if best is None else f"best {best:.4f}, ")
                + f"at most {search.max_remaining()} networks to train."
            )
        else:
            edges = len(search.cell.edges)
            # Only the paper's walk removes edge after edge.
            what = "Shrinking" if search.strategy == "paper" else "Searching the parts of"
            others = len(search.space.choices)
            self._console.print(
                f"{what} a cell of {search.cell.num_nodes} nodes, the input among them, and "
                f"{edges} edges"
                + (f", and {others} other hyperparameters" if others else "")
                + f"; at most {search.max_remaining()} networks to train."
            )

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self._console.print(line, markup=False)

    def trial_begin(self, search: ShrinkSearch, cell: Cell) -> None:
        """Shows which candidate trains now; several may do so at a time."""
        self._rounds_end(search)  # those in which nothing was trained
        networks = [c.cell.key for c in search.round.candidates if not c.reused]
        if cell.key not in networks:
            return
        self._labels[cell.key] = (
            f"Round {search.round.number}: candidate {networks.index(cell.key) + 1} of "
            f"{len(networks)} with {len(cell.live_edges)} of {len(search.cell.edges)} edges"
        )
        self._update(search)

    def trial_end(self, search: ShrinkSearch, cell: Cell, score: float | None, error: str) -> None:
        """Prints what came of the candidate, and of the round if it was the last one.

        Args:
            search: with the candidate's outcome.
            cell: of the candidate; nothing is printed of one that is not in training.
            score: of the candidate, None if it failed.
            error: why it failed, if it did.
        """
        label = self._labels.pop(cell.key, None)
        if label is None:
            return
        self._trained += 1
        outcome = search.outcomes.get(cell.key)  # None of one that is to be tried again
        if outcome is not None and outcome.over_limit:
            self._console.print(f"{label}: left out: {outcome.over_limit}", markup=False)
        elif score is None:
            self._console.print(f"{label}: failed: {error}", markup=False)
        elif not self._console.is_terminal:
            self._console.print(f"{label}: score {score:.4f}, {self._remaining(search)}")
        self._rounds_end(search)
        self._update(search)

    def _rounds_end(self, search: ShrinkSearch) -> None:
        """Prints what came of the rounds that have ended."""
        finished = search.trajectory()
        for record in finished[self._rounds :]:
            removed, added = described(record)
            change = f"without {removed}" if record["round"] else "complete cell"
            over = sum("over_limit" in candidate for candidate in record["candidates"])
            if all(candidate["status"] == "failed" for candidate in record["candidates"]):
                change = "all candidates failed, nothing changed"
            elif record["added_edges"] or changes(record) != "-":
                change = f"edges removed: {removed}, added: {added}"
                change += f", changed: {changes(record)}" if "changed" in record else ""
            self._console.print(
                f"Round {record['round']} done: {change}, edges left: {record['edges_left']}, "
                + ("no score" if record["score"] is None else f"score {record['score']:.4f}")
                + "".join(f", {cost.phrase(record)}" for cost in known_costs([record]))
                + (f"; {over} of {len(record['candidates'])} over the limit" if over else "")
            )
        self._rounds = len(finished)

    def _update(self, search: ShrinkSearch) -> None:
        """Rewrites the line that changes."""
        if self._console.is_terminal and self._labels:
            label = list(self._labels.values())[-1]
            others = f" and {len(self._labels) - 1} more" if len(self._labels) > 1 else ""
            self._status.update(f"{label}{others}, {self._remaining(search)}")

    def end(self, search: ShrinkSearch) -> None:
        """Prints which cell is best."""
        self._rounds_end(search)
        best = search.best()
        if best and not search.error:
            self._console.print(
                f"Best: round {best['round']}, edges left: {best['edges_left']}, "
                f"score {best['score']:.4f}"
            )

    def _remaining(self, search: ShrinkSearch) -> str:
        """Says what the best score is so far, and the time left."""
        said = [] if search.best_score is None else [f"best {search.best_score:.4f}"]
        if self._trained:
            seconds = (time.monotonic() - self._started) / self._trained * search.max_remaining()
            said.append(f"at most {datetime.timedelta(seconds=round(seconds))} left")
        return ", ".join(said) or "first of all"
