"""Parses command lines, and reports errors and long work; both packages' commands share it."""

import argparse
import contextlib
import datetime
import importlib
import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

_STILL = 20.0  # seconds between two lines of a command at work


class Parser(argparse.ArgumentParser):
    """Parses arguments; an error is one line without the usage, and no option can be abbreviated.

    Subcommands have parsers of the same class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2 and one line on standard error."""
        fail(self.prog.removeprefix("python -m ").split()[0], message, 2)


def fail(program: str, message: str, status: int) -> NoReturn:
    """Ends the process with one line on standard error.

    Args:
        program: Its name, which begins the line.
        message: What was wrong; line breaks become spaces.
        status: The exit status.
    """
    print(f"{program}: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)


class Heartbeat:
    """Calls a function at intervals, in a thread, while a ``with`` block runs.

    Args:
        beat: The function.
        seconds: The interval.
    """

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat, self._seconds = beat, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._beat()


@contextlib.contextmanager
def still_at_work(program: str, what: str, seconds: float = _STILL) -> Iterator[None]:
    """Writes at intervals, on standard error, what a ``with`` block does and for how long.

    Args:
        program: Its name, which begins the line.
        what: What it does.
        seconds: The interval.
    """
    started = time.monotonic()
    try:
        # A copy, as what TensorFlow prints is kept off the original.
        stream = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    except (AttributeError, OSError, io.UnsupportedOperation):  # as in a notebook
        stream = None

    def say() -> None:
        elapsed = datetime.timedelta(seconds=round(time.monotonic() - started))
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"{program}: {what}, {elapsed} so far", file=stream or sys.stderr, flush=True)

    try:
        with Heartbeat(say, seconds):
            yield
    finally:
        if stream:
            with contextlib.suppress(OSError):
                stream.close()


@contextlib.contextmanager
def warnings_in_one_line(program: str) -> Iterator[None]:
    """Writes what a ``with`` block warns of as lines on standard error, without Python's places."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = printable(" ".join(str(message).split()))
        print(f"{program}: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def positive(text: str) -> int:
    """Reads an option's value, a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--import``, for ``imported_objects``."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that defines layers of the model, found as by Python or in this "
        "folder; may be given several times",
    )


def imported_objects(modules: Sequence[str]) -> dict[str, Any]:
    """Imports modules of the user's, and returns their classes and functions by name.

    Raises:
        ValueError: A module is not there, or fails.
    """
    objects: dict[str, Any] = {}
    if modules and "" not in sys.path:
        sys.path.insert(0, "")  # an installed command does not look into the folder it is called in
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever its code raises
            raise ValueError(f"--import {name}: {type(error).__name__}: {error}") from error
        objects |= {key: value for key, value in vars(module).items() if callable(value)}
    return objects


def printable(text: str) -> str:
    """Escapes the control characters of a text of others, and joins its lines."""
    return "".join(
        x if x.isprintable() else " " if x.isspace() else x.encode("unicode_escape").decode()
        for x in text
    )
