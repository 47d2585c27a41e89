"""What a report says of how a search was run: what it prints can be run again."""

import copy
import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras_tuner
import pytest
from test_shrink import OPS, papers, run

import keras_autoshrink as kas
from keras_autoshrink import run_record
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands.cli import main
from keras_autoshrink.search import shrink

SEARCH = "search --dataset digits --nodes 3 --candidates 2 --epochs 1 --filters 4 --stem-filters 4"


class Convolutions(keras_tuner.HyperModel):
    def build(self, hp):
        return kas.declare_cell(hp, Cell.dense(OPS[:4]))


def begun(tuner, **training):
    """The folder of a search as a tuner leaves it that was interrupted at once."""
    assert tuner.oracle.search.pending()
    tuner.save()
    folder = Path(tuner.project_dir)
    settings = {**tuner.get_state(), "training": {"executions_per_trial": 1, **training}}
    (folder / "tuner0.json").write_text(json.dumps(settings))
    return folder


def finished(folder):
    search = papers(Cell.dense(OPS[:4]), num_candidates=2)
    run(search)
    (folder / "oracle.json").write_text(json.dumps({"search": shrink.to_json(search)}))
    return folder


def printed(folder):
    """The text of a report on how to run the search again, and its commands and calls."""
    page = kas.write_report(folder, folder / "report.html").read_text(encoding="utf-8")
    section = page.split("To run it again")[1].split("</section>")[0]
    codes = re.findall(r"<pre><code>(.*?)</code></pre>", section, re.S)
    return html.unescape(re.sub("<[^>]*>", "", section)), [html.unescape(code) for code in codes]


def closing_over(weight):
    def score(logs, macs):
        return weight * logs["val_accuracy"]

    return score


class Weighs:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, logs, macs):
        return logs["val_accuracy"] - self.weight * macs


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"strategy": "paper", "race": True, "inherit": True, "keep_fraction": 0.2},
        {"executions_per_trial": 2, "max_candidates": 7, "max_macs": 10_000},
        {"max_seconds_per_trial": 60, "seed": 3, "num_candidates": 4},
        {"score": kas.AccuracyScore(0.3, cost="params")},
        {"score": kas.PerplexityScore()},
        {"score": closing_over(0.1)},
        {"score": Weighs(0.1)},
        {"score": kas.AccuracyScore(cost=closing_over(2))},
        {"hyperparameters": keras_tuner.HyperParameters()},
    ],
    ids=lambda given: next(iter(given), "nothing"),
)
def test_the_script_that_a_report_prints_finds_the_search(tmp_path, monkeypatch, given):
    """Its arguments are all that were given, by the names that `AutoShrink` knows."""
    monkeypatch.chdir(tmp_path)
    if "hyperparameters" in given:
        given["hyperparameters"].Float("learning_rate", 0.1, 1.0)
    # KerasTuner adds to hyperparameters that it is given.
    known = {"score": given.get("score"), "hyperparameters": given.get("hyperparameters")}
    known = copy.deepcopy(known)
    hypermodel = Convolutions()
    tuner = kas.AutoShrink(hypermodel, directory="runs", project_name="search", **given)
    names = {name: True for name in ("race", "inherit") if name in given}
    executions = given.get("executions_per_trial", 1)
    folder = begun(tuner, epochs=3, batch_size=64, executions_per_trial=executions, **names)
    _, (script,) = printed(folder)
    script = script.replace("tuner.search(...,", "searched = dict(")
    # What a script has made for itself has these names in it.
    found = {"keras_autoshrink": kas, "hypermodel": hypermodel, **known}
    exec(script, found)
    again = found["tuner"]
    assert again.project_dir == tuner.project_dir
    assert again.get_state() == tuner.get_state()
    for name in ("max_seconds_per_trial", "executions_per_trial", "_race", "_inherit"):
        assert getattr(again, name) == getattr(tuner, name)
    assert found["searched"] == {"epochs": 3, "batch_size": 64}
    for name in {"race", "inherit", "executions_per_trial"} - given.keys():
        assert f"{name}=" not in script


def test_a_strategy_of_devices_is_named(tmp_path):
    tuner = kas.AutoShrink(Convolutions(), directory=tmp_path)
    _, (script,) = printed(begun(tuner, with_strategy=True))
    assert "    distribution_strategy=strategy,\n" in script


@pytest.mark.parametrize("metric", [None, "accuracy"])
def test_of_another_tuner_the_oracle_is_told(tmp_path, metric):
    class Edges(keras_tuner.Tuner):
        def run_trial(self, trial, **fit_arguments):
            edges = len(self.hypermodel.build(trial.hyperparameters).edges)
            return {"edges": edges, "accuracy": 0.5}

    objective = keras_tuner.Objective("edges", "min")
    given = {"num_candidates": 2, "seed": 5, "metric": metric, "max_seconds_per_trial": 70}
    oracle = kas.AutoShrinkOracle(objective, **given)
    Edges(oracle, Convolutions(), directory=tmp_path, project_name="s").search(verbose=0)
    text, (call,) = printed(tmp_path / "s")
    assert "by a tuner that is not known here" in text
    assert "keras_autoshrink.AutoShrink(" not in call
    found = {"keras_autoshrink": kas, "keras_tuner": keras_tuner, "objective": objective}
    exec(call, found)
    again = found["oracle"]
    assert (again.objective.name, again.objective.direction) == ("edges", "min")
    assert again.get_state()["about"] == oracle.get_state()["about"]
    for name in shrink.SETTINGS:
        assert getattr(again, name) == getattr(oracle, name)


@pytest.mark.slow
def test_a_command_is_printed_with_its_backend_and_working_directory(tmp_path):
    """Of another process: Keras has one backend in each."""
    code = (
        "import sys, pathlib, keras; from keras_autoshrink import run_record;"
        "command = ['autoshrink', 'search', 'a b'];"
        "run_record.note_command(pathlib.Path(sys.argv[1]), command, [int(sys.argv[2])])"
    )
    folder = finished(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    paths = os.pathsep.join(sys.path)
    for known, (backend, home) in enumerate([("jax", tmp_path), ("tensorflow", "/nowhere")]):
        environment = {**os.environ, "KERAS_BACKEND": backend, "HOME": str(home)}
        environment["PYTHONPATH"] = paths
        command = [sys.executable, "-c", code, str(folder), str(known)]
        subprocess.run(command, cwd=here, env=environment, check=True)
    text, codes = printed(folder)
    assert codes == ["KERAS_BACKEND=jax autoshrink search 'a b'", "autoshrink search 'a b'"]
    assert f"Run in {Path('~/here')}, this command finds the search" in text
    assert f"It went on with this one, run in {here}:" in text


def test_a_command_that_trained_nothing_is_not_kept(tmp_path):
    """Of what is refused, what is killed before the first outcome, and what finds all done."""
    folder, known = tmp_path / "search", [0, 0]

    def noted():
        return [each["command"][0] for each in run_record.commands(run_record.read(folder))]

    def noting(name):
        return run_record.noting_command(folder, [name, "--overwrite"], lambda: [*known])

    run_record.note_command(folder, ["killed at once"], known)
    with pytest.raises(ValueError, match="no"), noting("refused"):
        raise ValueError("no")
    assert noted() == []

    def interrupted():
        with noting("first"):
            assert noted() == ["first"]
            known[:] = [2, 1]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    run_record.note_versions(folder)
    run_record.note_command(folder, ["killed later"], known)
    assert noted() == ["first", "killed later"]
    with noting("second"):
        known[:] = [2, 2]  # what had failed has a score
    for name in ("third", "first"):
        with noting(name):
            pass
    assert noted() == ["first", "second"]
    record = run_record.read(folder)
    assert record["command"] == ["first"]
    assert record["versions"] == [run_record.versions()]
    with run_record.noting_command(folder, None, lambda: known):  # a script's
        pass
    assert run_record.read(folder) == record
    assert "numpy" in run_record.versions()


def test_the_first_command_stays_when_a_later_one_finds_all_done(tmp_path, capsys):
    search = f"{SEARCH} --max-candidates 2 --directory {tmp_path}"
    assert main([*search.split(), "--overwrite"]) == 0
    assert main([*search.split(), "--max-seconds-per-trial", "500"]) == 0
    assert "finished already" in capsys.readouterr().out
    text, codes = printed(tmp_path / "digits")
    assert [shlex.split(code)[-len(search.split()) :] for code in codes] == [search.split()]
    assert "went on" not in text


def test_a_record_of_an_older_version_is_read(tmp_path):
    (finished(tmp_path) / "run.json").write_text('{"command": ["autoshrink", "search"]}')
    text, codes = printed(tmp_path)
    assert codes == ["autoshrink search"]
    assert "Run in the same working directory, this command" in text
    run_record.note_command(tmp_path, ["autoshrink", "search", "--quiet"], [9, 9])
    assert printed(tmp_path)[1] == ["autoshrink search", "autoshrink search --quiet"]


@pytest.mark.parametrize(
    "record",
    [
        {"went_on": {}},
        {"went_on": [{"command": "autoshrink"}]},
        {"command": ["a"], "environment": {"KERAS_BACKEND": 1}},
        {"command": ["a"], "directory": ["b"]},
    ],
)
def test_a_damaged_record_is_named(tmp_path, record):
    (finished(tmp_path) / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"run.json: damaged"):
        kas.write_report(tmp_path)
