"""What the README and the guide show can be run as it stands, and links lead somewhere."""

import contextlib
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tflite_export.__main__
from keras_autoshrink.commands import cli

ROOT = Path(__file__).parents[2]
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = {page: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *GUIDE)}
LINKED = [
    path
    for folder in (".", "benchmarks", "docs", "docs/guide", "tutorials")
    for suffix in ("*.md", "*.ipynb")
    for path in sorted((ROOT / folder).glob(suffix))
]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page, text in PAGES.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]


@pytest.mark.timeout(900)  # a search takes a minute on a quiet machine
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_python_runs(block, tmp_path, monkeypatch):
    if block.startswith(">>> "):
        monkeypatch.chdir(tmp_path)
        examples = doctest.DocTestParser().get_doctest(block, {}, "block", None, 0)
        assert doctest.DocTestRunner().run(examples).failed == 0
        return
    (tmp_path / "script.py").write_text(block, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    if "tuner.finalists(" in block:
        macs = dict(re.findall(r"^([\w-]+): 0\.\d+, ([\d,]+) MACs", ran.stdout, re.M))
        assert "found" in macs, ran.stdout
        assert len(macs) > 1
        assert all(int(each.replace(",", "")) <= 30_000 for each in macs.values())
    elif "tuner.search(" in block and "tflite_export" in block:
        in_model = re.search(r"\) (\d+)$", ran.stdout, re.M)[1]
        assert re.search(r"^(\d+) Latency", ran.stdout, re.M)[1] == in_model


@pytest.mark.parametrize(
    ("program", "main"),
    [("autoshrink", cli.main), ("python -m tflite_export", tflite_export.__main__.main)],
)
def test_the_commands_have_these_options(program, main, capsys):
    options: dict[str, set[str]] = {}
    for command, rest in found(rf"^{program} (\w+)(.*)$"):
        options.setdefault(command, set()).update(re.findall(r" (--[\w-]+)", rest))
    assert options
    for command, used in options.items():
        # Some options are of texts alone.
        for asked in ([command, "--help"], [command, "--task", "text", "--help"]):
            with contextlib.suppress(SystemExit):
                main(asked)
        assert used <= {*re.findall(r"--[\w-]+", capsys.readouterr().out)}, command


def test_the_benchmarks_have_these_options():
    for script, options in found(r"python (?:benchmarks/)?(\w+\.py)([^`\n]*)"):
        source = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, f"{script} {option}"


def found(pattern: str) -> list[str]:
    """Returns what a pattern finds on the pages."""
    texts = [*PAGES.values(), *map(markdown, sorted((ROOT / "benchmarks").glob("*.md")))]
    return re.findall(pattern, "\n".join(texts), re.M)


def markdown(path: Path) -> str:
    """Returns the text of a page, or of all of a notebook but its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(text: str) -> list[str]:
    """Returns the names that a git host and Sphinx give to a page's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_links_lead_somewhere():
    for page in LINKED:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", markdown(page)):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page}: {path}"
            # Sphinx builds docs alone.
            assert page not in GUIDE or target in GUIDE, f"{page}: {path}"
            assert not anchor or anchor in anchors(markdown(target)), f"{page}: {path}#{anchor}"


def test_a_page_that_is_named_is_a_link(built):
    for folder in ("guide", "api"):
        for page in (built / folder).glob("*.html"):
            code = re.sub(r"<a [^>]*>\s*<code.*?</code>", "", page.read_text(encoding="utf-8"))
            assert not re.search(r"<code[^>]*>(<[^>]*>)*benchmarks/\w+\.md<", code), page.name
