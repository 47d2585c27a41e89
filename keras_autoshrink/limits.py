"""What ends a candidate, or a search, before its time: a time limit, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import keras
import keras_tuner

# A worker that has not come back so long after the limit, in seconds, never will.
_HOPELESS = 10.0


def out_of_time(limit: float) -> keras_tuner.errors.FailedTrialError:
    """What a trial fails with that has taken longer than so many seconds."""
    return keras_tuner.errors.FailedTrialError(f"took longer than max_seconds_per_trial={limit:g}")


class Deadline(keras.callbacks.Callback):
    """Ends a trial that takes too long, after the batch under way.

    Of trials that share a program, `trainee.Trainee` looks at the clock after each epoch.

    Args:
        seconds: from now on.

    Raises:
        keras_tuner.errors.FailedTrialError: the time is up.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the clock."""
        self._check()

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the clock."""
        self._check()

    def _check(self) -> None:
        if time.monotonic() > self.end:
            raise out_of_time(self.seconds)


@contextlib.contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Kills this process if what is done within hangs, where no callback is asked any more.

    Only for a worker, which is started again and told what to do next.

    Args:
        seconds: the limit; the process is granted a little more.
    """
    timer = threading.Timer(seconds + _HOPELESS, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Interrupts:
    """Sees to it that Ctrl-C ends a search.

    Python drops a KeyboardInterrupt that happens to be raised in a destructor or the callback
    of a weak reference, of which TensorFlow has many. Here it is remembered. A handler that
    somebody else has installed stays.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._installed = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was lost, if one was."""
        if self._pressed:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt
