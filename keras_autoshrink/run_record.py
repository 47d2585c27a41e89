"""What ran a search, for the record: its command lines, and the versions that it ran on.

A search goes on without: a record that is lost or damaged is begun anew.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras_autoshrink
from keras_autoshrink import files

_FILE = "run.json"
# Of a command: its arguments, what of the environment decides with them, the working directory,
# and what the search knew when it began.
_COMMAND = ("command", "environment", "directory", "outcomes")


@contextlib.contextmanager
def noting_command(
    folder: Path, command: Sequence[str] | None, outcomes: Callable[[], list[int]]
) -> Iterator[None]:
    """Notes a command line while it runs, and for good if something comes of it.

    Only for who alone searches in the folder. A kill leaves the note; the next command drops it
    if nothing had come of it.

    Args:
        folder: the search's.
        command: as of `note_command`; None of a script.
        outcomes: says what the search knows: numbers that change with that.
    """
    if command is None:
        yield
        return
    note_command(folder, command, before := outcomes())
    try:
        yield
    finally:
        if outcomes() == before:
            _write_commands(folder, _of_use(folder, before))


def note_command(folder: Path, command: Sequence[str], outcomes: Sequence[int] = ()) -> None:
    """Notes a command line of the search in a folder, beside those that it went on from.

    Args:
        folder: the search's, which need not exist yet.
        command: its arguments, the program's name first. A note of `--overwrite` would delete
            what it is a record of: that is left out.
        outcomes: what the search knows, as of `noting_command`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noted = {
        "command": [word for word in command if word != "--overwrite"],
        "environment": _environment(),
        "directory": _directory(),
    }
    before = _of_use(folder, outcomes)
    if all({**each, **noted} != each for each in before):
        before.append({**noted, "outcomes": [*outcomes]})
    _write_commands(folder, before)


def _of_use(folder: Path, outcomes: Sequence[int]) -> list[dict[str, Any]]:
    """The commands noted in a folder without those that began when the search knew as much."""
    known = [*outcomes]
    return [each for each in commands(_tolerant(folder)) if each.get("outcomes") != known]


def _write_commands(folder: Path, found: list[dict[str, Any]]) -> None:
    record = {n: v for n, v in _tolerant(folder).items() if n not in (*_COMMAND, "went_on")}
    if found:
        # The first as it was noted before there could be others.
        record = {**found[0], **record, **({"went_on": found[1:]} if found[1:] else {})}
    _write(folder, record)


def _environment() -> dict[str, str]:
    """What has to be set for the same command to do the same: another backend than Keras's own."""
    backend = versions().get("backend", "tensorflow")
    return {} if backend == "tensorflow" else {"KERAS_BACKEND": backend}


def _directory() -> str | None:
    """The working directory, which relative paths begin at; without the name of one's home."""
    try:
        here = Path.cwd()
    except OSError:  # deleted meanwhile
        return None
    try:
        return str("~" / here.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(here)


def note_versions(folder: Path) -> None:
    """Notes what this process runs on, beside what ran the search before, if that differs."""
    record = _tolerant(folder)
    before = record.get("versions", [])
    if versions() not in before:
        _write(folder, {**record, "versions": [*before, versions()]})


def versions() -> dict[str, str]:
    """The versions of Python, of this package, and of what is loaded of Keras and its backend."""
    found = {"python": platform.python_version(), "keras_autoshrink": keras_autoshrink.__version__}
    names = ["numpy", "keras", "keras_tuner", "tensorflow"]
    if "keras" in sys.modules:
        found["backend"] = sys.modules["keras"].backend.backend()
        names.append(found["backend"])
    for name in names:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def read(folder: Path) -> dict[str, Any]:
    """The record in a search's folder: see `commands`, and `versions`; empty where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _FILE
    try:
        record = files.read_json(path) if path.is_file() else {}
        whole = all(_all(dict, record.get(name, [])) for name in ("versions", "went_on"))
        if not (whole and all(map(_is_command, (record, *record.get("went_on", []))))):
            raise ValueError(f"{path}: damaged: holds no record of a search")
    except ValueError as error:
        raise ValueError(f"{error}; delete it: nothing but a report reads it") from error
    return record


def commands(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The command lines of a record, each with `command`; from the first on those it went on with.

    Each may have `environment`, variables and their values, and `directory`, where it was run.
    """
    if "command" not in record:
        return []
    first = {name: record[name] for name in _COMMAND if name in record}
    return [first, *record.get("went_on", [])]


def _is_command(noted: dict[str, Any]) -> bool:
    environment = noted.get("environment", {})
    return (
        _all(str, noted.get("command", []))
        and isinstance(environment, dict)
        and _all(str, [*environment.values()])
        and isinstance(noted.get("directory"), (str, type(None)))
    )


def _all(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _tolerant(folder: Path) -> dict[str, Any]:
    try:
        return read(folder)
    except (OSError, ValueError):
        return {}


def _write(folder: Path, record: dict[str, Any]) -> None:
    files.write_text(folder / _FILE, json.dumps(record, indent=1) + "\n")
