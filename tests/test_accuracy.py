"""benchmarks/accuracy.py: trainings at one budget, of several cells and seeds."""

import json
import sys
from pathlib import Path

import pytest

import keras_autoshrink as kas

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy  # noqa: E402 - it lies in no package

pytestmark = pytest.mark.slow


def test_cells_are_trained_at_one_budget_and_not_twice(tmp_path, capsys):
    kas.Cell.dense(("input", "conv1x1")).save(tmp_path / "cell.json")
    chain = ROOT / "benchmarks" / "cells" / "separable_chain.json"
    command = f"one={tmp_path}/cell.json chain={chain} --dataset digits --recipe plain --epochs 1"
    command += f" --target-macs 60000 --seeds 0 1 --directory {tmp_path}/runs"
    assert accuracy.main([*command.split(), "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "all.json").read_text())
    for name in ("one", "chain"):
        trainings = results[name]
        assert [facts["seed"] for facts in trainings] == [0, 1]
        assert all(facts["macs"] <= 60_000 for facts in trainings)
        mean = sum(facts["test_accuracy"] for facts in trainings) / 2
        assert f"{mean:.4f} ± " in printed
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.keras")}
    assert len(models) == 4
    assert accuracy.main(command.split()) == 0
    assert capsys.readouterr().out.strip().endswith(printed.strip().splitlines()[-1].strip())
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_a_cell_needs_a_name(capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["runs/cifar10", "--target-macs", "60000"])
    assert "'runs/cifar10' is not of the form NAME=CELL" in capsys.readouterr().err
