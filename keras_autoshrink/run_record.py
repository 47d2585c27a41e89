"""What ran a search, for the record: its command line, and the versions that it ran on.

A search goes on without: a record that is lost or damaged is begun anew.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_autoshrink
from keras_autoshrink import files

_FILE = "run.json"


def note_command(folder: Path, command: Sequence[str], replace: bool = True) -> None:
    """Notes the command line of the search in a folder, which need not exist yet.

    Args:
        folder: the search's.
        command: its arguments, the program's name first. A note of `--overwrite` would delete
            what it is a record of: that is left out.
        replace: whether to replace one that is noted already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = _tolerant(folder)
    if replace or "command" not in record:
        kept = [word for word in command if word != "--overwrite"]
        _write(folder, {**record, "command": kept})


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
    """The record in a search's folder: `command`, `versions`; empty where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _FILE
    try:
        record = files.read_json(path) if path.is_file() else {}
        commands, found = record.get("command", []), record.get("versions", [])
        if not (_all(str, commands) and _all(dict, found)):
            raise ValueError(f"{path}: damaged: holds no record of a search")
    except ValueError as error:
        raise ValueError(f"{error}; delete it: nothing but a report reads it") from error
    return record


def _all(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _tolerant(folder: Path) -> dict[str, Any]:
    try:
        return read(folder)
    except (OSError, ValueError):
        return {}


def _write(folder: Path, record: dict[str, Any]) -> None:
    files.write_text(folder / _FILE, json.dumps(record, indent=1) + "\n")
