"""Command lines whose errors are one line."""

import argparse
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that leaves the usage out of its errors, and takes no half an option.

    A record of a command line leaves out what would delete the record (`--overwrite`), and so has
    to know it by its one name. Subcommands have parsers of the same class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2 and one line on standard error."""
        fail(self.prog.removeprefix("python -m ").split()[0], message, 2)


# What pip calls a package, by the name it is imported by, where a command can lack it.
_PIP_NAMES = {"ai_edge_litert": "ai-edge-litert", "keras": "keras", "tensorflow": "tensorflow"}


def missing_package(command: str, error: ImportError) -> str:
    """What to say of a package that a command did not find."""
    package = _PIP_NAMES.get((error.name or "").split(".")[0])
    if package is None:
        return str(error)
    return f"{command}: needs {package}, not installed here: pip install {package}"


def fail(program: str, message: str, status: int) -> NoReturn:
    """Ends the process with one line on standard error.

    Args:
        program: its name, which begins the line.
        message: what was wrong; line breaks become spaces.
        status: the exit status.
    """
    print(f"{program}: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)


def printable(text: str) -> str:
    """A foreign text in one line that cannot steer a terminal: control characters are escaped."""
    return "".join(
        x if x.isprintable() else " " if x.isspace() else x.encode("unicode_escape").decode()
        for x in text
    )
