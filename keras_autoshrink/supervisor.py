"""The processes of one search on this machine: started, watched, started again, and ended.

A process that a signal killed is started again: it had too little memory, or somebody killed it.
One that ended by itself with an error would do so again, and ends the search.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from keras_autoshrink.child_process import MOST_DEATHS, Child
from keras_autoshrink.lifeline import Lifeline

# All processes are looked at this often, in seconds.
_POLL = 0.1

# How long to wait for processes that are about to end, in seconds: for workers after the
# search, and for what has been told to end, which a chief may hear late.
_FAREWELL = 2.0
_PATIENCE = 10.0


class Supervisor:
    """Runs a chief and its workers, or workers of a chief that runs elsewhere.

    Args:
        chief: None if it runs elsewhere.
        hire: makes the workers; called once, when the chief listens.
        listens: whether the chief does.
        once: arguments of the chief until it has listened for the first time: of a search that
            has begun they would delete the state.
        others: whether there may be workers elsewhere, so that a chief without workers has
            something to wait for.
    """

    def __init__(
        self,
        chief: Child | None,
        hire: Callable[[], list[Child]],
        listens: Callable[[], bool],
        once: Sequence[str] = (),
        others: bool = False,
    ) -> None:
        self._chief = chief
        self._hire = hire
        self._listens = listens
        self._once = once
        self._others = others
        self._workers: list[Child] | None = None
        self._hiring = True
        self._told = False  # a worker that the search is over
        self._signal = 0
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def run(self) -> tuple[int, str]:
        """Returns when the search has ended, and no process of it runs on this machine.

        Returns:
            The exit status, and what is to be said beside it that nobody has said yet.
        """
        self._lifeline = Lifeline()
        try:
            with self._signals():
                return self._supervise()
        finally:
            for child in self._children():
                child.send(signal.SIGKILL)
                child.close()
            self._lifeline.close()
            # A chief that is killed leaves its line, and no cursor.
            self._clear_line()
            Console().show_cursor()

    def say(self, line: str) -> None:
        """Prints a line, over the chief's one that changes if that is there."""
        self._clear_line()
        self._console.print(line, markup=False)

    def _clear_line(self) -> None:
        if self._console.is_terminal:
            erase = (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase))

    def _children(self) -> list[Child]:
        return [*([self._chief] if self._chief else ()), *(self._workers or ())]

    def _supervise(self) -> tuple[int, str]:
        if self._chief:
            self._chief.start(self._lifeline, self._once)
        while not self._signal:
            ended = self._look_at_chief() or self._look_at_workers()
            if ended:
                return ended
            time.sleep(_POLL)
        return self._interrupt(self._signal)

    def _look_at_chief(self) -> tuple[int, str] | None:
        if self._chief is None or self._chief.status is None:
            return None
        status = self._chief.status
        if status >= 0:
            self._end(self._workers or [], _FAREWELL)
            return status, ""
        if self._chief.count_death():
            return 1, f"{self._chief.name} was killed {MOST_DEATHS} times in a row"
        self.say(f"{self._chief.name} was killed (signal {-status}); starting it again")
        self._start_chief_again()
        return None

    def _start_chief_again(self) -> None:
        assert self._chief is not None
        self._chief.start(self._lifeline, self._once)
        # It may have something to do for workers that its predecessor has sent away.
        self._hiring = True

    def _look_at_workers(self) -> tuple[int, str] | None:
        if self._hiring and self._listens():
            self._hiring, self._once, self._told = False, (), False
            if self._workers is None:
                self._workers = self._hire()
            for worker in self._workers:
                if not (worker.runs or worker.hopeless):
                    worker.start(self._lifeline)
        for worker in self._workers or ():
            status = worker.status
            if status is None or worker.hopeless:
                continue
            if status > 0:
                return status, f"{worker.name}: {worker.last_line()}"
            if status == 0:
                self._told = True
            elif worker.count_death():
                self._give_up(worker)
            else:
                self.say(f"{worker.name} was killed (signal {-status}); starting it again")
                worker.start(self._lifeline)
        if self._workers is None or not all(w.hopeless or w.status == 0 for w in self._workers):
            return None
        if self._chief is None and self._told:
            return 0, ""
        if self._told or self._others:  # a chief that ends, or goes on with workers elsewhere
            return None
        return 1, "no worker is left"

    def _give_up(self, worker: Child) -> None:
        log = f"; see {worker.log.name}" if worker.log else ""
        self.say(f"{worker.name} was killed {MOST_DEATHS} times in a row{log}")
        # A chief waits for a worker that has a candidate; a new one lets another have it.
        if self._chief is None:
            self.say("if it had a candidate, that waits until the chief is started again")
        elif self._others or not all(worker.hopeless for worker in self._workers or ()):
            self.say("starting the chief again, so that another worker has its candidate")
            self._chief.send(signal.SIGKILL)
            self._start_chief_again()

    def _interrupt(self, number: int) -> tuple[int, str]:
        self._signal = 0
        for worker in self._workers or ():
            worker.send(signal.SIGTERM)
        if self._chief:
            # One that has not come so far yet would show where its imports were.
            self._chief.send(signal.SIGTERM if self._hiring else signal.SIGINT)
        self._end(self._children(), _PATIENCE)
        if self._chief and self._chief.status == 128 + signal.SIGINT:  # and has said so
            return 128 + number, ""
        return 128 + number, "interrupted; run it again, without --overwrite, to go on"

    def _end(self, children: Sequence[Child], patience: float) -> None:
        """Waits for processes to end; then tells them to, then kills them.

        A signal to this process, such as a second Ctrl-C, ends the waiting.
        """
        for number in (None, signal.SIGTERM):
            if number is not None:
                for child in children:
                    child.send(number)
            deadline = time.monotonic() + patience
            while any(child.runs for child in children) and not self._signal:
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL)
        for child in children:
            child.send(signal.SIGKILL)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Notes what tells this process to end, instead of ending."""
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
            elif number == signal.SIGINT:
                # As in the background of a shell script. A chief must not ignore it with us.
                signal.signal(number, _ignore)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number


def _ignore(number: int, frame: FrameType | None) -> None:
    """Does nothing, which a process started from here does not inherit."""
