"""What a search's HTML page says of how it was run, and of how to run it again."""

from __future__ import annotations

import reprlib
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_autoshrink import files, run_record, runs, search_state
from keras_autoshrink.html_tables import element, settings_list
from keras_autoshrink.shrink import ShrinkSearch

# Of the settings of a search: what `AutoShrink` takes by these names, but for the score; and of
# these what any search has.
_OF_ALL = (*search_state.SETTINGS, "max_seconds_per_trial")
_ARGUMENTS = (*_OF_ALL, "max_macs", "max_latency_ms")
# Scores that are made again by what their settings say of them.
_SCORES = ("AccuracyScore", "PerplexityScore")


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
        _section("To run it again", *_again(run_record.commands(record), command, folder, tuner)),
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
    commands: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    folder: Path,
    tuner: Mapping[str, Any],
) -> list[ET.Element]:
    if commands:
        first, *others = commands
        where = first.get("directory") or "the same working directory"
        words = (
            f"Run in {where}, this command finds the search as it is, or goes on with it; with "
            "--overwrite it deletes it and searches anew."
        )
        found = [_code(_command(first)), element("p", words)]
        for each in others:
            there = each.get("directory") or where
            run_there = "" if there == where else f", run in {there}"
            found += [element("p", f"It went on with this one{run_there}:"), _code(_command(each))]
        return found
    if settings:
        words = (
            "autoshrink search has run it, and has not noted its command line; its settings are "
            "below."
        )
        return [element("p", words)]
    about = runs.read_about(folder)
    known = {**tuner, "max_seconds_per_trial": about.get("max_seconds_per_trial")}
    if "score" not in tuner:  # which AutoShrink notes
        words = (
            "A script has run it, by a tuner that is not known here. The tuner's oracle had these "
            "arguments:"
        )
        return [element("p", words), _code(_oracle(known, about))]
    words = "A script has run it, which is not known here. It gave AutoShrink these arguments:"
    return [element("p", words), _code(_script(known, folder))]


def _code(text: str) -> ET.Element:
    return element("pre", element("code", text))


def _command(noted: Mapping[str, Any]) -> str:
    """A command line with the variables that have to be set for it, for a shell."""
    variables = [f"{n}={shlex.quote(v)}" for n, v in noted.get("environment", {}).items()]
    return " ".join([*variables, shlex.join(noted["command"])])


def _script(tuner: Mapping[str, Any], folder: Path) -> str:
    """The calls of a script of an `AutoShrink`, as far as the settings know them."""
    lines = ["tuner = keras_autoshrink.AutoShrink(", "    hypermodel,"]
    lines += [f"    score={_score(tuner['score'])}", *_given(tuner, _ARGUMENTS)]
    if tuner.get("hyperparameters"):
        values = reprlib.repr(tuner["hyperparameters"])
        lines.append(f"    hyperparameters=hyperparameters,  # {values}")
    training = dict(tuner.get("training") or {})
    # JSON has both True and 1, which are equal.
    lines += [f"    {name}=True," for name in ("race", "inherit") if training.get(name) is True]
    executions = training.get("executions_per_trial") or 1
    lines += [f"    executions_per_trial={executions!r},"] if executions > 1 else []
    lines += ["    distribution_strategy=strategy,"] if training.get("with_strategy") else []
    whole = folder if folder.name else folder.resolve()
    lines += [f"    directory={str(whole.parent)!r},", f"    project_name={whole.name!r},", ")"]
    given = [f"{n}={training[n]!r}" for n in ("epochs", "batch_size") if training.get(n)]
    return "\n".join([*lines, f"tuner.search({', '.join(['...', *given])})"])


def _oracle(tuner: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The call of an `AutoShrinkOracle`, as far as the search knows it."""
    metric, direction = about.get("metric"), about.get("direction")
    if direction:  # that of the objective, then, whose name this is
        objective = [f"    keras_tuner.Objective({metric!r}, {direction!r}),"]
    else:
        objective = ["    objective,", *([f"    metric={metric!r},"] if metric else [])]
    lines = ["oracle = keras_autoshrink.AutoShrinkOracle(", *objective]
    return "\n".join([*lines, *_given(tuner, _OF_ALL), ")"])


def _given(tuner: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Arguments by their names, but for those that were left out."""
    return [f"    {name}={tuner[name]!r}," for name in names if tuner.get(name) is not None]


def _score(described: Any) -> str:
    """A score as an argument, of what `settings.describe` made of it; a comma, a comment."""
    name, *held = described if isinstance(described, list) and described else [described]
    attributes = {n: v for each in held if isinstance(each, dict) for n, v in each.items()}
    others = [reprlib.repr(each) for each in held if not isinstance(each, dict)]
    values = [*(f"{n}={reprlib.repr(v)}" for n, v in attributes.items()), *others]
    plain = not others and all(isinstance(v, (int, float, str)) for v in attributes.values())
    if name in _SCORES and plain:
        return f"keras_autoshrink.{name}({', '.join(values)}),"
    # Another one, or a function: what is known of it does not make it.
    return f"score,  # {', '.join([str(name), *values])}"


def _versions(found: list[dict[str, str]]) -> list[ET.Element]:
    if not found:
        return [element("p", "They were not noted.")]
    made = [settings_list(found[0])]
    for each in found[1:]:
        made += [element("p", "It went on with these:"), settings_list(each)]
    return made
