"""A chief's oracle, asked and answered as its service would: kills and answers at bad moments."""

import json
import shutil
import time

import keras_tuner
import pytest
from keras_tuner.engine.trial import Trial

import keras_autoshrink as kas
from keras_autoshrink import files
from keras_autoshrink.report.progress import SearchProgress
from keras_autoshrink.tuner import service

OPS = ("input", "sepconv3x3", "conv1x1", "sepconv3x3", "conv1x1")


@pytest.fixture(autouse=True)
def as_chief(monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    monkeypatch.setattr(service, "_GRACE", 0)


def oracle(folder, **settings):
    hp = keras_tuner.HyperParameters()
    kas.declare_cell(hp, kas.Cell.dense(OPS))
    settings = {"strategy": "paper", "num_candidates": 3, **settings}
    made = kas.AutoShrinkOracle(hyperparameters=hp, **settings)
    made.verbose = 0
    made._set_project_dir(str(folder), "search")
    progress = SearchProgress(0)
    made.on_begin = lambda trial: progress.trial_begin(made.search, made.cell_of(trial))
    return made


def restarted(folder, **settings):
    made = oracle(folder, **settings)
    made.reload()
    return made


def end(made, trial, score=None):
    """A worker's answer: a score, or that it raised."""
    letter = json.loads(trial.hyperparameters.values["keras_autoshrink/values"])
    report = {**letter, "message": None if score is not None else "boom"}
    if score is not None:
        report.update(metrics={"score": score}, step=0)
    hp = trial.hyperparameters.copy()
    hp.values = {"keras_autoshrink/report": json.dumps(report)}
    made.end_trial(Trial(hp, trial.trial_id, "INVALID" if score is None else "COMPLETED"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", range(3))
def test_a_kill_while_a_candidate_is_taken_over_leaves_it_to_be_had(tmp_path, monkeypatch, write):
    made = oracle(tmp_path, max_seconds_per_trial=0.01)
    made.create_trial("w1")
    time.sleep(0.05)
    real, left = files.write_text, [write]

    def write_text(path, text):
        real(path, text)
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    monkeypatch.setattr(files, "write_text", write_text)
    with pytest.raises(Killed):
        made.create_trial("w2")
    monkeypatch.setattr(files, "write_text", real)
    again = restarted(tmp_path)
    assert again.create_trial("w3").status == "RUNNING"
    monkeypatch.delenv("KERASTUNER_ORACLE_IP")
    assert restarted(tmp_path).create_trial("tuner0").status == "RUNNING"


def test_a_candidate_that_is_answered_is_not_tried_again(tmp_path):
    first = oracle(tmp_path, max_retries_per_trial=1).create_trial("w1")
    made = restarted(tmp_path, max_retries_per_trial=1)
    second = made.create_trial("w2")  # nobody knows whether w1 lives
    assert second.trial_id != first.trial_id
    end(made, first)  # it raised, and is to be tried again
    end(made, second, 0.5)
    given = made.create_trial("w2")
    assert made.cell_of(given).edges != made.cell_of(second).edges  # round 1 has begun
    assert restarted(tmp_path).search.trajectory()[0]["score"] == 0.5


def test_what_counted_once_counts_after_a_reload(tmp_path):
    first = oracle(tmp_path, max_retries_per_trial=1).create_trial("w1")
    made = restarted(tmp_path, max_retries_per_trial=1)
    second = made.create_trial("w2")
    end(made, second)  # it raised, and is to be tried again
    end(made, first, 0.5)
    given = made.create_trial("w2")
    assert given.trial_id not in (first.trial_id, second.trial_id)
    assert made.search.trajectory()[0]["score"] == 0.5
    assert restarted(tmp_path).search.trajectory()[0]["score"] == 0.5


def test_an_answer_to_another_search_is_none(tmp_path):
    old = oracle(tmp_path).create_trial("w1")
    shutil.rmtree(tmp_path / "search")
    made = oracle(tmp_path)
    new = made.create_trial("w2")
    assert new.trial_id == old.trial_id
    end(made, old, 0.99)
    assert made.search.trajectory() == []
    end(made, new, 0.1)
    assert made.search.trajectory()[0]["score"] == 0.1
    # A chief that is started again is still that of its search.
    given = made.create_trial("w2")
    again = restarted(tmp_path)
    end(again, given, 0.2)
    assert again.get_trial(given.trial_id).score == 0.2


def test_the_number_of_a_trial_that_is_gone_is_not_given_again(tmp_path):
    made = oracle(tmp_path, max_seconds_per_trial=0.01)
    made.create_trial("w1")
    time.sleep(0.05)
    end(made, made.create_trial("w2"), 0.5)  # it took the first candidate over
    end(made, made.create_trial("w2"), 0.7)
    shutil.rmtree(tmp_path / "search" / "trial_0000")
    again = restarted(tmp_path)
    assert again.create_trial("w2").trial_id == "0003"
    assert again.get_trial("0002").score == 0.7


def test_a_chief_whose_search_is_over_says_nothing_more(tmp_path):
    made = oracle(tmp_path, keep_fraction=1.0)
    given = made.create_trial("w1")
    made.create_trial("w2")
    end(made, given, 0.5)
    assert made.create_trial("w1").status == "STOPPED"
    assert not made.farewell.finished.is_set()  # w2 does not know yet
    assert made.create_trial("w2").status == "STOPPED"
    assert made.farewell.finished.is_set()
    made.farewell.end()
    # KerasTuner's server lives on; a worker of the next search must not take this for its end.
    assert made.create_trial("w3").status == "IDLE"
    assert not made.tuner_ids
