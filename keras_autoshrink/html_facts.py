"""What a search's HTML page says of how it was run."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from keras_autoshrink import files, runs, search_state
from keras_autoshrink.html_tables import element, settings_list
from keras_autoshrink.shrink import ShrinkSearch


def sections(folder: Path, search: ShrinkSearch) -> list[ET.Element]:
    """The command, the seeds, the versions and the settings of the search in a folder.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    path = folder / "tuner0.json"
    # Another tuner than ours, or an older version, has not noted all of them.
    tuner = {name: getattr(search, name) for name in search_state.SETTINGS}
    tuner.update(files.read_json(path) if path.is_file() else {})
    command = runs.read_settings(folder)
    versions = tuner.pop("versions", {})
    argv = command.pop("argv", [])
    seeds: dict[str, Any] = {
        n: s[n] for s in (tuner, command) for n in ("seed", "split_seed") if n in s
    }
    found = [_section("Seeds", settings_list(seeds), element("p", _SEEDS))]
    if argv:
        found.insert(0, _section("Command", element("pre", element("code", shlex.join(argv)))))
    if versions:
        found.append(_section("Versions", settings_list(versions)))
    for heading, settings in (("of the command", command), ("of the search", tuner)):
        if settings:
            found.append(_section(f"Settings {heading}", settings_list(settings)))
    return found


_SEEDS = (
    "All random choices come from the seed; the initial weights and the order of the data of a "
    "candidate, from the seed and its cell."
)


def _section(heading: str, *content: ET.Element) -> ET.Element:
    return element("section", element("h3", heading), *content)
