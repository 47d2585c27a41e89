"""The processes of a search on several workers: the chief's address, children, their supervisor."""

from __future__ import annotations

import contextlib
import dataclasses
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

# A search ends when a signal has killed a child so many times in a row, each time within so many
# seconds of its start.
RESTART_LIMIT = 5
_QUICK_DEATH = 60.0

_POLL = 0.1  # seconds between two looks at all children

# Seconds that children have to end: workers once the search is over, and whoever was sent a
# signal, which a chief may notice late.
_SECONDS_AFTER_SEARCH = 2.0
_SECONDS_AFTER_SIGNAL = 10.0

# The environment variable that gives a child the descriptor of its end of the parent's pipe.
_PARENT_PIPE = "KERAS_AUTOSHRINK_PARENT_PIPE"

_CONNECTION_TIMEOUT = 1.0  # seconds

# "On all interfaces", and where to reach it from the same machine.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Address(NamedTuple):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """Returns the host as it stands before a colon: of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def from_here(self) -> Address:
        """Returns the address at which this machine reaches what listens there."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    def is_loopback(self) -> bool:
        """Tells whether only this machine can reach the address.

        Raises:
            ValueError: there is no such host.
        """
        return all(ipaddress.ip_address(found[-1][0]).is_loopback for found in self._resolved())

    def listens(self) -> bool:
        """Tells whether a process accepts connections there."""
        try:
            with socket.create_connection(self, _CONNECTION_TIMEOUT) as connection:
                # Where nobody listens a connection can, by chance, meet itself.
                return bool(connection.getsockname() != connection.getpeername())
        except OSError:
            return False

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Address]:
        """Reserves the port for a process of this user that shares ports, as gRPC does.

        Yields:
            The address; where the port was 0, with one that was free.

        Raises:
            ValueError: it is in use, or not an address of this machine.
        """
        *kind, _, place = self._resolved()[0]
        with socket.socket(*kind) as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                with socket.socket(*kind) as probe:
                    # Connections that have ended do not count, listeners do.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
                    place = probe.getsockname()
                held.bind(place)
            except OSError as error:
                raise ValueError(f"cannot listen at {self}: {error.strerror}") from error
            yield Address(self.host, place[1])

    def _resolved(self) -> Sequence[tuple[Any, ...]]:
        try:
            return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{self}: there is no such host: {error}") from error


def end_with_parent() -> None:
    """Kills this process and those that it started, once the parent that gave it a pipe has ended.

    A parent that is killed can send no signal, but its end of the pipe closes. The process has to
    lead a process group of its own; without a pipe in the environment nothing happens.
    """
    # Not for processes that this one starts: they do not inherit the descriptor.
    descriptor = int(os.environ.pop(_PARENT_PIPE, -1))

    def wait_and_kill() -> None:
        os.read(descriptor, 1)
        # Not in an orderly way, which may take long or hang; all files are whole at any moment.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if descriptor >= 0:
        threading.Thread(target=wait_and_kill, daemon=True).start()


@dataclasses.dataclass
class Child:
    """A process that can be started again.

    It leads a session of its own: what is typed on the terminal, such as Ctrl-C, does not reach
    it, but it may write there.

    Args:
        name: what messages call it.
        command: its command line.
        environment: all of it.
        log: a file for its output, which `close` closes; by default it shares this process's.
        started: when it was started last, by its supervisor's clock.
        quick_deaths: how often in a row a signal has killed it soon after its start.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: BinaryIO | None = None
    started: float = 0.0
    quick_deaths: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self, parent_pipe: int, more: Sequence[str] = ()) -> None:
        """Starts the process, or starts it again.

        Args:
            parent_pipe: descriptor of the pipe for `end_with_parent`.
            more: arguments after those of the command.
        """
        self._process = subprocess.Popen(
            [*self.command, *more],
            env={**self.environment, _PARENT_PIPE: str(parent_pipe)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            pass_fds=(parent_pipe,),
        )

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal's number; None if it runs, or never did."""
        return None if self._process is None else self._process.poll()

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self.status is None

    def send(self, number: int) -> None:
        """Sends a signal to the process, if it runs; SIGKILL also to what it has started."""
        if self._process is None or not self.runs:
            return
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self._process.pid, number)
            self._process.wait()
        else:
            self._process.send_signal(number)

    def last_line(self) -> str:
        """Returns the last line of its log that is not empty."""
        text = Path(self.log.name).read_text(errors="replace") if self.log else ""
        return "".join(text.strip().splitlines()[-1:]).strip()

    def close(self) -> None:
        """Closes its log."""
        if self.log is not None:
            self.log.close()


@dataclasses.dataclass
class Supervisor:
    """The parent of a chief and its workers, or of workers whose chief runs on another machine.

    Args:
        chief: None if it runs on another machine.
        make_workers: returns the workers; called once, when the chief listens.
        chief_listens: whether the chief accepts connections.
        first_arguments: of the chief, until it has listened for the first time: such as
            `--overwrite`, which would delete the search that it has begun.
        clock: returns seconds that only grow.
        sleep: waits for a number of seconds.
    """

    chief: Child | None
    make_workers: Callable[[], list[Child]]
    chief_listens: Callable[[], bool]
    first_arguments: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._workers: list[Child] = []
        self._await_chief = True  # before workers are started, or started again
        self._signal = 0
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def run(self) -> tuple[int, str]:
        """Runs the processes until the search has ended, and none of them is left.

        Returns:
            The exit status, and a message that nobody has printed yet, or "".
        """
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, handler in before.items():
            # Ignored signals, as in the background of a shell script, children would ignore too.
            ignored = handler is signal.SIG_IGN
            signal.signal(number, (lambda number, frame: None) if ignored else self._note)
        self._parent_pipe, held = os.pipe()
        try:
            return self._supervise()
        finally:
            for child in self._children():
                child.send(signal.SIGKILL)
                child.close()
            for descriptor in (self._parent_pipe, held):
                os.close(descriptor)
            # A chief that is killed leaves its line, and no cursor.
            self._clear_line()
            Console().show_cursor()
            for number, handler in before.items():
                signal.signal(number, handler)

    def say(self, line: str) -> None:
        """Prints a line on standard error, over the chief's progress if that is there."""
        self._clear_line()
        self._console.print(line, markup=False)

    def _clear_line(self) -> None:
        if self._console.is_terminal:
            erase = (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase))

    def _children(self) -> list[Child]:
        return [*([self.chief] if self.chief else ()), *self._workers]

    def _supervise(self) -> tuple[int, str]:
        if self.chief:
            self._start(self.chief)
        while not self._signal:
            if self._await_chief and self.chief_listens():
                self._await_chief, self.first_arguments = False, ()
                self._workers = self._workers or self.make_workers()
                for worker in self._workers:
                    if not worker.runs:
                        self._start(worker)
            ended = self._check()
            if ended:
                return ended
            self.sleep(_POLL)
        return self._interrupt(self._signal)

    def _check(self) -> tuple[int, str] | None:
        """Returns how the search has ended; until then starts again whom a signal has killed."""
        for child in self._children():
            status = child.status
            if status is None:
                continue
            if status < 0:
                quick = self.clock() - child.started < _QUICK_DEATH
                child.quick_deaths = child.quick_deaths + 1 if quick else 1
                if child.quick_deaths == RESTART_LIMIT:
                    log = f"; see {child.log.name}" if child.log else ""
                    return 1, f"{child.name} was killed {RESTART_LIMIT} times in a row{log}"
                self.say(f"{child.name} was killed (signal {-status}); starting it again")
                self._start(child)
                # A new chief may have candidates for workers that have ended with the one before.
                self._await_chief |= child is self.chief
            elif child is self.chief:
                self._end(self._workers, _SECONDS_AFTER_SEARCH)
                return status, ""
            elif status:
                return status, f"{child.name}: {child.last_line()}"
        if not self.chief and self._workers and all(w.status == 0 for w in self._workers):
            return 0, ""
        return None

    def _start(self, child: Child) -> None:
        child.started = self.clock()
        child.start(self._parent_pipe, self.first_arguments if child is self.chief else ())

    def _interrupt(self, number: int) -> tuple[int, str]:
        self._signal = 0
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        if self.chief:
            # One that still imports its modules would print where Ctrl-C found it.
            self.chief.send(signal.SIGTERM if self._await_chief else signal.SIGINT)
        self._end(self._children(), _SECONDS_AFTER_SIGNAL)
        if self.chief and self.chief.status == 128 + signal.SIGINT:  # it has printed a message
            return 128 + number, ""
        return 128 + number, "interrupted; run it again, without --overwrite, to go on"

    def _end(self, children: Sequence[Child], seconds: float) -> None:
        """Waits for children to end, then sends them SIGTERM and waits again, then SIGKILL.

        A signal to this process, such as a second Ctrl-C, ends the waiting.
        """
        for number in (0, signal.SIGTERM):
            for child in children if number else ():
                child.send(number)
            deadline = self.clock() + seconds
            while any(c.runs for c in children) and not self._signal and self.clock() < deadline:
                self.sleep(_POLL)
        for child in children:
            child.send(signal.SIGKILL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
