"""What a search's HTML page says of how it was run, and of how to run it again."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_autoshrink import files, run_record, runs, search_state
from keras_autoshrink.html_tables import element, settings_list
from keras_autoshrink.shrink import ShrinkSearch

# Of the settings of a search: what `AutoShrink` takes by these names, but for the score.
_ARGUMENTS = (
    "num_candidates",
    "keep_fraction",
    "seed",
    "strategy",
    "max_candidates",
    "max_macs",
    "max_latency_ms",
)


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
    record = run_record.read(folder)
    seeds: dict[str, Any] = {
        n: s[n] for s in (tuner, command) for n in ("seed", "split_seed") if n in s
    }
    found = [
        _section("To run it again", *_again(record.get("command"), command, tuner)),
        _section("Seeds", settings_list(seeds), element("p", _SEEDS)),
        _section("Versions", *_versions(record.get("versions", []))),
    ]
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


def _again(
    command: list[str] | None, settings: Mapping[str, Any], tuner: Mapping[str, Any]
) -> list[ET.Element]:
    if command:
        words = (
            "Run in the same working directory, this command finds the search as it is, or goes on "
            "with it; with --overwrite it deletes it and searches anew."
        )
        return [element("pre", element("code", shlex.join(command))), element("p", words)]
    if settings:
        words = (
            "autoshrink search has run it, and has not noted its command line; its settings are "
            "below."
        )
        return [element("p", words)]
    words = "A script has run it, which is not known here. It gave AutoShrink these arguments:"
    return [element("p", words), element("pre", element("code", _script(tuner)))]


def _script(tuner: Mapping[str, Any]) -> str:
    """The calls of a script, as far as the settings know them."""
    score = tuner.get("score")
    if isinstance(score, list) and len(score) == 2 and isinstance(score[1], dict):
        score = f"{score[0]}({', '.join(f'{n}={v!r}' for n, v in score[1].items())})"
    lines = ["tuner = keras_autoshrink.AutoShrink(", "    hypermodel,"]
    lines += [f"    score={score},"] if score else []
    lines += [f"    {name}={tuner[name]!r}," for name in _ARGUMENTS if name in tuner]
    training = dict(tuner.get("training") or {})
    for name in ("race", "inherit", "executions_per_trial"):
        if training.get(name) not in (None, False, 1):
            lines.append(f"    {name}={training[name]!r},")
    given = [f"{n}={training[n]!r}" for n in ("epochs", "batch_size") if training.get(n)]
    return "\n".join([*lines, ")", f"tuner.search({', '.join(['...', *given])})"])


def _versions(found: list[dict[str, str]]) -> list[ET.Element]:
    if not found:
        return [element("p", "They were not noted.")]
    made = [settings_list(found[0])]
    for each in found[1:]:
        made += [element("p", "It went on with these:"), settings_list(each)]
    return made
