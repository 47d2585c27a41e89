"""The processes of a search on several workers: an address, a supervisor, its children."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

# "On all interfaces", and where to reach it from the same machine.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

# A connection that takes longer, in seconds, is not made.
_TIMEOUT = 1.0


class Address(NamedTuple):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as it stands in front of a colon."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def from_here(self) -> Address:
        """Where to reach what listens there, from the same machine."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    def is_loopback(self) -> bool:
        """Whether only this machine can reach it.

        Raises:
            ValueError: there is no such host.
        """
        numbers = {str(found[-1][0]).partition("%")[0] for found in self._resolved()}
        return all(ipaddress.ip_address(number).is_loopback for number in numbers)

    def listens(self) -> bool:
        """Whether somebody accepts connections there."""
        try:
            with socket.create_connection(self, _TIMEOUT) as connection:
                # Where nobody listens a connection can, by chance, meet itself.
                met: bool = connection.getsockname() != connection.getpeername()
                return met
        except OSError:
            return False

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Address]:
        """Keeps the port for a process of this user that shares ports, as gRPC does.

        Yields:
            The address; where the port was 0, with one that was free.

        Raises:
            ValueError: it is in use, or is none of this machine.
        """
        family, kind, protocol, _, place = self._resolved()[0]
        with contextlib.ExitStack() as stack:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    # Connections that have ended do not count, listeners do.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
                    port = probe.getsockname()[1]
                if hasattr(socket, "SO_REUSEPORT"):
                    held = stack.enter_context(socket.socket(family, kind, protocol))
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    held.bind((place[0], port, *place[2:]))
            except OSError as error:
                raise ValueError(f"cannot listen at {self}: {error.strerror}") from error
            yield Address(self.host, port)

    def _resolved(self) -> Sequence[tuple[int, int, int, str, tuple[Any, ...]]]:
        try:
            return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{self}: there is no such host: {error}") from error


# Tells a process which descriptor to read.
_VARIABLE = "KERAS_AUTOSHRINK_LIFELINE"


class Lifeline:
    """The starter's side.

    Attributes:
        descriptor: to be passed on to each process that shall end with this one. The other end
            of the pipe is closed in all of them, as all that Python opens.
    """

    def __init__(self) -> None:
        self.descriptor, self._held = os.pipe()

    def environment(self) -> dict[str, str]:
        """What has to stand in the environment of these processes."""
        return {_VARIABLE: str(self.descriptor)}

    def close(self) -> None:
        """Ends the processes that are left."""
        os.close(self._held)
        os.close(self.descriptor)


def hold() -> None:
    """Ends this process, and what it started in turn, with the one that started it.

    For processes that lead a process group of their own; without a lifeline in the environment
    nothing happens.
    """
    # Not for processes that this one starts: they do not have the descriptor.
    descriptor = os.environ.pop(_VARIABLE, None)
    if descriptor is not None:
        threading.Thread(target=_watch, args=(int(descriptor),), daemon=True).start()


def _watch(descriptor: int) -> None:
    os.read(descriptor, 1)
    # Not in an orderly way, which may take long or hang; all files are whole at any moment.
    os.killpg(os.getpgrp(), signal.SIGKILL)


# So many deaths in a row, each so soon after the start (in seconds), are no accident.
MOST_DEATHS = 5
_SOON = 60.0


class Child:
    """A process that can be started again.

    It leads a session of its own: what is typed on the terminal, such as Ctrl-C, does not reach
    it, but it may write there.

    Args:
        name: what to call it.
        command: its command line.
        environment: all of it.
        log: a file for its output, which it closes; by default it shares this process's own.

    Attributes:
        hopeless: whether it has been killed too often to be started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        log: BinaryIO | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.environment = environment
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self.hopeless = False

    def start(self, lifeline: Lifeline, more: Sequence[str] = ()) -> None:
        """Starts it, or starts it again, with more arguments."""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [*self.command, *more],
            env={**self.environment, **lifeline.environment()},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            pass_fds=(lifeline.descriptor,),
        )

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """With what it ended, as `Popen.returncode` says it; None if it runs, or never did."""
        return None if self._process is None else self._process.poll()

    def count_death(self) -> bool:
        """Notes that a signal has killed it. Returns whether that makes it hopeless."""
        soon = time.monotonic() - self._started < _SOON
        self._deaths = self._deaths + 1 if soon else 1
        self.hopeless = self._deaths >= MOST_DEATHS
        return self.hopeless

    def send(self, number: int) -> None:
        """Sends it a signal, if it runs; kills with it what it has started."""
        if self._process is None or self._process.poll() is not None:
            return
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self._process.pid, number)
            self._process.wait()
        else:
            self._process.send_signal(number)

    def last_line(self) -> str:
        """The end of its log."""
        if self.log is None:
            return ""
        lines = Path(self.log.name).read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Closes its log."""
        if self.log is not None:
            self.log.close()


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
