"""The lines that a search prints while it runs."""

from __future__ import annotations

import datetime
import math
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from keras_autoshrink.cell import Cell
from keras_autoshrink.report import final
from keras_autoshrink.report.quantities import Record, telling_costs
from keras_autoshrink.search.points import Point
from keras_autoshrink.search.records import changes, described
from keras_autoshrink.search.shrink import ShrinkSearch

# Seconds between two looks at whether to say that a search is still at work, and of silence before
# it is said: together less than 20.
STILL, _QUIET = 5.0, 14.0


class SearchProgress:
    """The display of round, candidate i of k and its edges, best score and time left.

    On a terminal one line that changes, and a line that stays for each round; elsewhere a
    plain line for each candidate, and one at least every 20 seconds for one that takes longer.

    Args:
        verbose: 0 shows nothing.
        objective: what to call the metric behind the score.
        by: what the score is measured by, such as "1,000 validation images".
        chance: the accuracy of guessing, None if it is not known.
    """

    def __init__(
        self,
        verbose: int,
        objective: str = "score",
        by: str = final.BY_SCORE,
        chance: float | None = None,
    ) -> None:
        self._objective, self._by, self._chance = objective, by, chance
        self._console = Console(quiet=not verbose, highlight=False, soft_wrap=True)
        self._status = Status("", console=self._console)
        self._rounds = 0
        self._started = time.monotonic()
        self._trained = 0
        self._labels: dict[str, str] = {}  # of each network in training
        self._at_work = ""  # the line that changes, and since when it is so
        self._began = self._printed = self._started

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
            self._print(
                "Interrupted; what has been trained is kept: run the same again, without "
                "overwriting, to go on."
            )

    def begin(self, search: ShrinkSearch) -> None:
        """Prints where the search starts or goes on."""
        self._rounds = len(search.trajectory())
        if search.error and any(outcome.error for outcome in search.outcomes.values()):
            self._print(f"Trying again: {search.error}.", markup=False)
        elif search.done:
            self._print("This search has finished already.")
        elif search.outcomes:
            best = search.best_score
            self._print(
                f"Going on in round {search.round.number}; "
                + ("" if best is None else f"best {best:.4f}, ")
                + (_minutes_left(search) or f"at most {search.max_remaining()} networks to train")
                + "."
            )
        else:
            edges = len(search.cell.edges)
            # Only the paper's walk removes edge after edge.
            what = "Shrinking" if search.strategy == "paper" else "Searching the parts of"
            others = len(search.space.choices)
            self._print(
                f"{what} a cell of {search.cell.num_nodes} nodes, the input among them, and "
                f"{edges} edges"
                + (f", and {others} other hyperparameters" if others else "")
                + f"; {_budget(search)}."
            )
            for line in _plan(search):
                self._print(line)

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self._print(line, markup=False)

    def _print(self, line: str, markup: bool = True) -> None:
        self._printed = time.monotonic()
        self._console.print(line, markup=markup)

    def still(self) -> None:
        """Prints what is trained, where no terminal shows it and nothing was printed for a while.

        It is for a thread that calls it every `STILL` seconds.
        """
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > _QUIET:
            elapsed = datetime.timedelta(seconds=round(now - self._began))
            self._print(f"{self._at_work or 'Preparing'}: {elapsed} so far", markup=False)

    def trial_begin(self, search: ShrinkSearch, cell: Cell) -> None:
        """Shows which candidate trains now; several may do so at a time."""
        self._rounds_end(search)  # those in which nothing was trained
        networks = [c.cell.key for c in search.round.candidates if not c.reused]
        if cell.key not in networks:
            return
        is_final = search.is_final(search.round)
        place = f"{networks.index(cell.key) + 1} of {len(networks)}"
        label = "Final: " if is_final else f"Round {search.round.number}: candidate "
        if reference := search.space.reference(cell):
            label += f"{place}, the reference {reference}"
        elif is_final:
            label += place
        else:
            again = ", again," if isinstance(cell, Point) and cell.repeat else ""
            edges = f"{len(cell.live_edges)} of {len(search.cell.edges)} edges"
            label += f"{place}{again} with {edges}"
        self._labels[cell.key] = label
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
            self._print(f"{label}: left out: {outcome.over_limit}", markup=False)
        elif score is None:
            self._print(f"{label}: failed: {error}", markup=False)
        elif not self._console.is_terminal:
            self._print(f"{label}: score {score:.4f}, {self._remaining(search)}")
        self._rounds_end(search)
        self._update(search)

    def _rounds_end(self, search: ShrinkSearch) -> None:
        """Prints what came of the rounds that have ended."""
        finished = search.trajectory()
        for record in finished[self._rounds :]:
            candidates = record["candidates"]
            over = sum("over_limit" in candidate for candidate in candidates)
            is_final = search.is_final(search.rounds[record["round"]])
            said = []
            if "reference" not in record:
                said.append(f"edges left: {record['edges_left']}")
            if is_final and (of_final := search.final()):
                count = len(of_final[0]["scores"])
                mean = of_final[0]["mean"]
                said.append(f"mean score {mean:.4f} of {_counted(count, 'training')}")
            else:
                score = record["score"]
                said.append("no score" if score is None else f"score {score:.4f}")
            telling = telling_costs(finished)
            said += [cost.phrase(record) for cost in telling if cost.of(record) is not None]
            self._print(
                ("Final" if is_final else f"Round {record['round']}")
                + f" done: {_change(record)}{'; ' if record.get('changed') else ', '}"
                + ", ".join(said)
                + (f"; {over} of {len(candidates)} over the limit" if over else ""),
                markup=False,
            )
        self._rounds = len(finished)

    def _update(self, search: ShrinkSearch) -> None:
        """Rewrites the line that changes."""
        self._at_work, self._began = "", time.monotonic()
        if self._labels:
            label = list(self._labels.values())[-1]
            others = f" and {len(self._labels) - 1} more" if len(self._labels) > 1 else ""
            self._at_work = f"{label}{others}, {self._remaining(search)}"
        if self._console.is_terminal and self._at_work:
            self._status.update(self._at_work)

    def end(self, search: ShrinkSearch) -> None:
        """Prints which network is best, and whether it beats the best reference."""
        self._rounds_end(search)
        best = search.best()
        if search.final():
            said = final.verdict(search, self._objective, self._by, self._chance)
            self._print(said, markup=False)
        elif best and not search.error:
            self._print(
                f"Best: round {best['round']}, edges left: {best['edges_left']}, "
                f"score {best['score']:.4f}"
            )

    def _remaining(self, search: ShrinkSearch) -> str:
        """Says what the best score is so far, and the time left."""
        said = [] if search.best_score is None else [f"best {search.best_score:.4f}"]
        if left := _minutes_left(search):
            said.append(left)
        elif self._trained:
            seconds = (time.monotonic() - self._started) / self._trained * search.max_remaining()
            said.append(f"at most {datetime.timedelta(seconds=round(seconds))} left")
        return ", ".join(said) or "first of all"


def _budget(search: ShrinkSearch) -> str:
    """Says for how long a search that begins goes on."""
    minutes, networks = (search.settings[name] for name in ("max_minutes", "max_candidates"))
    if minutes is None:
        return f"at most {search.max_remaining()} networks to train"
    said = f"for {_counted(minutes, 'minute')}"
    return said + (f", at most {networks} networks to train" if networks else "")


def _plan(search: ShrinkSearch) -> list[str]:
    """Says with what a search begins, and how it ends, where that is more than cells."""
    candidates = search.round.candidates
    references = sum(candidate.reference is not None for candidate in candidates)
    beside = f" and {_counted(references, 'reference')}" if references else ""
    said = []
    if search.space.first:
        said.append(f"It begins with {_counted(len(candidates) - references, 'cell')}{beside}.")
    if search.space.rungs:
        fewer, all_ = (_counted(epochs, "epoch") for epochs in search.space.rungs)
        also = " and of the references" if references else ""
        said.append(f"Networks train for {fewer}; in the final the best of them{also} for {all_}.")
    return said


def _minutes_left(search: ShrinkSearch) -> str:
    """Says how much is left of the time of a search; nothing where it has none."""
    minutes = search.settings["max_minutes"]
    if minutes is None:
        return ""
    left = minutes - search.elapsed_seconds / 60
    return "less than 1 min left" if left < 1 else f"{math.floor(left)} min left"


def _counted(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def _change(record: Record) -> str:
    """Says what a round has adopted, by what it differs in."""
    removed, added = described(record)
    if all(candidate["status"] == "failed" for candidate in record["candidates"]):
        return "all candidates failed, nothing changed"
    if "reference" in record:
        return f"the {changes(record)}"
    if "changed" in record:
        said = {"edges removed": removed, "edges added": added, "changed": changes(record)}
        words = [f"{what}: {which}" for what, which in said.items() if which != "-"]
        return "; ".join(words) or ("the same network" if record["round"] else "complete cell")
    if record["added_edges"]:
        return f"edges removed: {removed}, added: {added}"
    return f"without {removed}" if record["round"] else "complete cell"
