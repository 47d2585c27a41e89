"""What the README and the guide show runs as it stands, and their links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from keras_autoshrink.commands.arguments import build_parser
from tflite_export.__main__ import _parser as tflite_parser

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = {page: page.read_text(encoding="utf-8") for page in (README, *GUIDE)}
LINKED = sorted(
    path
    for folder in (".", "benchmarks", "docs", "docs/guide", "tutorials")
    for suffix in ("*.md", "*.ipynb")
    for path in (ROOT / folder).glob(suffix)
)
EVERYTHING = "\n".join(PAGES.values())


def found(pattern, flags=0):
    """What the pattern finds on any page, once each, in the pages' order."""
    return list(dict.fromkeys(re.findall(pattern, EVERYTHING, flags)))


SCRIPTS = [s for s in found(r"```python\n(.*?)```", re.S) if ">>>" not in s]
COMMANDS = found(r"^(?:autoshrink|python -m tflite_export) .*$", re.M)
BENCHMARKS = found(r"python (?:benchmarks/)?(\w+\.py)([^`\n]*)")


def anchors(text):
    """The names that a git host and Sphinx give to a page's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


# The first is the README's quick start.
@pytest.mark.parametrize(
    "number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, len(SCRIPTS)))]
)
def test_a_script_runs(number, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPTS[number])
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    if "tuner.search(" in SCRIPTS[number]:
        model_macs = re.search(r"\) (\d+)$", ran.stdout, re.M)[1]
        file_macs = re.search(r"^(\d+) Latency", ran.stdout, re.M)[1]
        assert model_macs == file_macs


def test_the_quick_start_has_15_lines():
    assert SCRIPTS[0] in PAGES[README]
    assert len([line for line in SCRIPTS[0].splitlines() if line]) == 15


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    if command.startswith("python"):
        assert tflite_parser().parse_args(command.split()[3:]).command
    else:
        assert build_parser().parse_args(shlex.split(command)[1:]).command


@pytest.mark.parametrize(("script", "arguments"), BENCHMARKS)
def test_a_benchmark_has_the_options(script, arguments):
    source = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
    for option in re.findall(r"--[\w-]+", arguments):
        assert f'"{option}"' in source, option


def test_the_counts_are_true():
    import keras_autoshrink as kas

    model = kas.ShrinkCNN(classes=1001)
    assert str((kas.count_macs(model), kas.count_params(model, batchnorm=False))) in EVERYTHING
    model = kas.ShrinkRNN()
    assert str((kas.count_params(model), kas.count_macs(model, input_shape=(1,)))) in EVERYTHING


def markdown(path):
    """The text of a page, or of all of a notebook but its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", markdown(page))
    for path, anchor in links:
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        # Sphinx builds docs alone.
        assert page not in GUIDE or target in GUIDE, path
        assert not anchor or anchor in anchors(markdown(target)), anchor


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.name)
def test_a_page_of_the_guide_has_one_title_and_headings_without_jumps(page):
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.S | re.M)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
