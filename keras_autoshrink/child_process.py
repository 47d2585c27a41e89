"""A process that can be started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from keras_autoshrink.lifeline import Lifeline

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
