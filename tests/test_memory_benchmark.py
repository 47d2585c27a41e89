"""benchmarks/memory.py: two searches side by side, each in a process of its own."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import memory

pytestmark = pytest.mark.slow


def test_it_notes_what_each_trial_takes(tmp_path, capsys):
    command = f"--trials 2 --nodes 5 --json {tmp_path}/all.json"
    assert memory.main(command.split()) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "all.json").read_text())
    assert list(figures) == ["AutoShrink", "RandomSearch"]
    for name, (first, second) in figures.items():
        assert printed.count(f"{name} ") == 3  # a line in each table
        assert f"{first['rss'] / 1e6:,.0f}" in printed
        assert first["seconds"] < second["seconds"]
        assert second["disk"] > second["checkpoint"] > 0
    assert figures["AutoShrink"][-1]["checkpoints"] == 1
    assert figures["RandomSearch"][-1]["checkpoints"] == 2


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("--trials 1", "--trials 1: expected 2 or more"),
        ("--images 899", "--images 899: expected 1 to 898"),
        ("--json nowhere/all.json", "--json nowhere/all.json: its folder does not exist"),
    ],
)
def test_what_cannot_be_is_said(command, error, capsys):
    with pytest.raises(SystemExit):
        memory.main(command.split())
    assert error in capsys.readouterr().err
