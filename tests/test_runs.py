"""What a search's folder says of it, beside the rounds: which metric it goes by."""

import json

import keras_tuner
import pytest
from test_shrink import OPS, papers, run

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands.cli import main
from keras_autoshrink.report import saved_search
from keras_autoshrink.search import shrink

RECURRENT = ("input", "tanh", "relu", "sigmoid")


def saved(folder, ops=OPS[:4], about=None, settings=None):
    """A folder with a search in it, as a script or an older version leaves one."""
    search = papers(Cell.dense(ops), num_candidates=2)
    run(search)
    state = {"search": shrink.to_json(search), **({"about": about} if about else {})}
    (folder / "oracle.json").write_text(json.dumps(state))
    if settings is not None:
        (folder / "tuner0.json").write_text(json.dumps(settings))
    return folder


class Convolutions(keras_tuner.HyperModel):
    def build(self, hp):
        return kas.declare_cell(hp, Cell.dense(OPS[:4]))


class Scored:
    def __init__(self, objective):
        self.objective = objective

    def __call__(self, logs, macs):
        return -logs[self.objective]


@pytest.mark.parametrize(
    ("score", "metric", "direction"),
    [
        (kas.AccuracyScore(), "accuracy", None),
        (Scored("val_loss"), "loss", None),
        (lambda logs, macs: -logs["val_loss"], "objective", "max"),  # shown is the score itself
    ],
)
def test_a_search_notes_its_metric_whatever_its_ops(tmp_path, score, metric, direction):
    tuner = kas.AutoShrink(Convolutions(), score=score, directory=tmp_path / "tuner")
    about = json.loads(json.dumps(tuner.oracle.get_state()["about"]))
    folder = saved(tmp_path, about=about)
    assert saved_search.open_search(folder, None)[2] == metric
    assert saved_search.direction(folder) == direction
    assert saved_search.open_search(folder, "what I say")[2] == "what I say"


def test_the_metric_of_another_tuner_is_its_objective(tmp_path, capsys):
    class Edges(keras_tuner.Tuner):
        def run_trial(self, trial, **fit_arguments):
            return {"edges": len(self.hypermodel.build(trial.hyperparameters).edges)}

    oracle = kas.AutoShrinkOracle(keras_tuner.Objective("edges", "min"), num_candidates=2)
    Edges(oracle, Convolutions(), directory=tmp_path, project_name="s").search(verbose=0)
    folder = tmp_path / "s"
    assert saved_search.open_search(folder, None)[2] == "edges"
    assert saved_search.direction(folder) == "min"
    assert "edges (less is better)" in kas.write_report(folder).read_text()
    assert main(["show", str(folder), "--tensorboard"]) == 0
    printed = capsys.readouterr().out
    assert printed.split("chosen")[0].split().count("edges") == 2  # the number of them, and this
    paths = [*(folder / "tensorboard").glob("*autoshrink")]
    assert paths
    for path in paths:  # where a curve has that name already
        assert path.read_bytes().count(b"search/edges") == 1
        assert path.read_bytes().count(b"search/objective") == 1


@pytest.mark.parametrize(
    ("ops", "settings", "metric"),
    [
        (OPS[:4], None, "accuracy"),
        (RECURRENT, None, "perplexity"),
        (RECURRENT, {"score": ["AccuracyScore", {"weight": 0.1}]}, "accuracy"),
        (OPS[:4], {"score": ["PerplexityScore", {}]}, "perplexity"),
        (OPS[:4], {"score": ["closing_over.<locals>.score", 0.1]}, "objective"),
        (OPS[:4], {}, "objective"),  # another tuner's
    ],
)
def test_searches_that_have_not_noted_it_can_be_read(tmp_path, ops, settings, metric):
    folder = saved(tmp_path, ops, settings=settings)
    assert saved_search.open_search(folder, None)[2] == metric
    assert saved_search.direction(folder) is None


@pytest.mark.parametrize("about", ["score", {"metric": 3, "direction": "down"}])
def test_a_strange_note_is_none(tmp_path, about):
    assert saved_search.open_search(saved(tmp_path, about=about), None)[2] == "accuracy"
    assert saved_search.direction(tmp_path) is None
