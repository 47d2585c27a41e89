"""Parses command lines, and reports errors in one line; both packages' commands share it."""

import argparse
import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn


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


@contextlib.contextmanager
def warnings_in_one_line(program: str) -> Iterator[None]:
    """Writes what a ``with`` block warns of as lines on standard error, without Python's places."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = printable(" ".join(str(message).split()))
        print(f"{program}: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


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
def positive(text: str) -> int:
    """Reads an option's value, a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


