"""Parses command lines, and reports errors in one line; both packages' commands share it."""

import argparse
import sys
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


def printable(text: str) -> str:
    """Escapes the control characters of a text of others, and joins its lines."""
    return "".join(
        x if x.isprintable() else " " if x.isspace() else x.encode("unicode_escape").decode()
        for x in text
    )
