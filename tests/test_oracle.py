"""The oracle under KerasTuner's own Tuner, and as a chief; results are computed, not trained."""

import json
import shutil
import threading
import time

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine.trial import Trial
from searches import OPS, Computes, Declares, WithOracle, computed

import keras_autoshrink as kas
from keras_autoshrink import files
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.tuner import service

PAPER = {"strategy": "paper"}


def searched(folder, function=computed, ops=OPS[:4], **settings):
    made = WithOracle.make(folder, function, ops, **{**PAPER, **settings})
    made.search(verbose=0)
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("finished"), ops=OPS[:5])


def test_records_are_plain_values_and_name_their_trials(finished):
    records = finished.oracle.search.trajectory()
    assert json.loads(json.dumps(records)) == records
    assert len(finished.ran) == len(finished.oracle.trials)
    for record in records:
        assert record["objective"] == record["score"]
        for candidate in record["candidates"]:
            trial = finished.oracle.get_trial(candidate["trial_id"])
            assert trial.score == candidate["score"]
            assert trial.hyperparameters.get("learning_rate") == 1e-3  # keeps its default


def test_the_best_trial_is_the_best_record(finished):
    best = finished.oracle.search.best()
    scores = [trial.score for trial in finished.oracle.get_best_trials(10)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == best["score"]
    values = finished.get_best_hyperparameters()[0].values
    space = CellSpace(finished.oracle.get_space().space)
    assert space.sub_cell(values) == kas.Cell.from_json(best["cell"])


def test_an_objective_to_minimise(finished, tmp_path):
    oracle = kas.AutoShrinkOracle(keras_tuner.Objective("cost", "min"), **PAPER)
    made = Computes(oracle, Declares(OPS[:5]), directory=tmp_path)
    made.function = lambda cell: -computed(cell)
    made.search(verbose=0)
    ours = [record["cell"] for record in made.oracle.search.trajectory()]
    assert ours == [record["cell"] for record in finished.oracle.search.trajectory()]
    assert oracle.get_state()["about"]["direction"] == "min"
    for metric, direction in (("val_loss", "min"), ("val_accuracy", "max"), ("mine", "max")):
        assert kas.AutoShrinkOracle(metric=metric).metric.direction == direction


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered:RuntimeWarning")  # KerasTuner's
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure_and_not_tried_again(tmp_path, bad):
    def fails(cell):
        return computed(cell) if (0, 1) in cell.edges else bad

    made = searched(tmp_path, fails, max_retries_per_trial=2)
    failed = [
        c
        for record in made.oracle.search.trajectory()
        for c in record["candidates"]
        if c["status"] == "failed"
    ]
    assert failed
    assert all("not a finite number" in candidate["error"] for candidate in failed)
    assert len({cell.key for cell in made.ran}) == len(made.ran)


def test_a_candidate_that_raises_is_tried_again_as_often_as_asked(tmp_path):
    def fails_once(cell):
        if made.ran.count(cell) == 1:
            raise ValueError("once")
        return computed(cell)

    made = WithOracle.make(tmp_path, fails_once, OPS[:3], **PAPER, max_retries_per_trial=1)
    made.search(verbose=0)
    assert len(made.ran) == 2 * len(made.oracle.trials)
    assert made.oracle.search.done


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # KerasTuner's
def test_costs_that_are_no_numbers_leave_the_lock_free(tmp_path):
    made = WithOracle.make(tmp_path, ops=OPS[:3], **PAPER)
    made.run_trial = lambda trial, **_: {"accuracy": 0.5, "macs": float("nan"), "params": 7.0}
    made.search(verbose=0)
    best = made.oracle.search.best()
    assert (best["macs"], best["params"]) == (None, 7)
    other = threading.Thread(target=made.oracle.create_trial, args=("other",), daemon=True)
    other.start()
    other.join(timeout=20)
    assert not other.is_alive()


def declares(*names, **others):
    def build(hp):
        for name in names:
            hp.Boolean(name)
        for name, value in others.items():
            hp.Fixed(name, value)

    return build


def test_any_space_that_declares_edges_is_searched(tmp_path):
    space = declares("net/edge_0_1", "net/edge_0_2", "net/edge_1_2")
    made = searched(tmp_path / "a", hypermodel=space)
    # All declared edges are on at first, whatever the Booleans' defaults.
    assert made.ran[0] == kas.Cell(("input", "node1", "node2"), ((0, 1), (0, 2), (1, 2)))
    # Nodes are alike only where their ops are declared.
    edges = [f"c/edge_0_{node}" for node in (1, 2, 3)]
    ops = {f"c/op_{node}": "attention" for node in (1, 2, 3)}
    assert len(searched(tmp_path / "b", hypermodel=declares(*edges)).ran) == 6
    assert len(searched(tmp_path / "c", hypermodel=declares(*edges, **ops)).ran) == 3


@pytest.mark.parametrize(
    ("hypermodel", "culprit"),
    [
        (declares("dropout"), "declares those of 0"),
        (declares("a/edge_0_1", "b/edge_0_1"), "declares those of 2: a, b"),
        (declares("a/edge_1_0"), r"'a'.*\(1, 0\)"),
        (declares(**{"a/edge_0_1": 3}), "'a/edge_0_1': an edge has to be a Boolean"),
    ],
)
def test_a_space_without_one_cell_is_refused(tmp_path, hypermodel, culprit):
    with pytest.raises(ValueError, match=culprit):
        searched(tmp_path, hypermodel=hypermodel)


def test_bad_settings_are_named_and_numpy_numbers_are_numbers(tmp_path):
    for settings in ({"num_candidates": 0}, {"objective": ["a", "b"]}, {"seed": "zero"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
            kas.AutoShrinkOracle(**settings)
    settings = {"seed": np.int64(3), "num_candidates": np.int32(2), "keep_fraction": np.float32(0)}
    searched(tmp_path, ops=OPS[:3], **settings)
    plain = {"seed": 3, "num_candidates": 2, "keep_fraction": 0.0}
    assert searched(tmp_path, ops=OPS[:3], **plain).ran == []


def test_a_search_of_another_oracle_is_refused(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle(
        keras_tuner.Objective("accuracy", "max"), max_trials=2
    )
    foreign = Computes(oracle, Declares(OPS[:3]), directory=tmp_path, project_name="search")
    foreign.search(verbose=0)
    with pytest.raises(ValueError, match=r"search of another oracle.*overwrite=True"):
        WithOracle.make(tmp_path, ops=OPS[:3])


def test_a_trial_that_was_interrupted_counts_its_second_training_alone(tmp_path):
    """As after a kill between the report of its metrics and its end."""

    def interrupted(cell):
        if len(broken.ran) == 2:
            broken.oracle.update_trial("0001", {"accuracy": 100.0})
            raise KeyboardInterrupt
        return computed(cell)

    broken = WithOracle.make(tmp_path, interrupted, OPS[:3], **PAPER)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    resumed = searched(tmp_path, ops=OPS[:3])
    assert all(trial.score < 1 for trial in resumed.oracle.trials.values())


# A chief's oracle, asked and answered as its service would.


@pytest.fixture
def as_chief(monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    monkeypatch.setattr(service, "_GRACE", 0)


def oracle(folder, **settings):
    hp = keras_tuner.HyperParameters()
    kas.declare_cell(hp, kas.Cell.dense(OPS[:5]))
    made = kas.AutoShrinkOracle(hyperparameters=hp, **{**PAPER, "num_candidates": 3, **settings})
    made.verbose = 0
    made._set_project_dir(str(folder), "search")
    return made


def restarted(folder, **settings):
    made = oracle(folder, **settings)
    made.reload()
    return made


def end(made, trial, score=None):
    """A worker's answer: a score, or that it raised."""
    given = Trial(trial.hyperparameters.copy(), trial.trial_id, trial.status)
    report = {"token": service.unpack_values(given)["token"]}
    given.status, given.message = "INVALID", "boom"
    if score is not None:
        given.status, given.message = "COMPLETED", None
        report.update(metrics={"score": score}, step=0)
    made.end_trial(service.pack_report(given, report))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", range(3))
def test_a_kill_while_a_candidate_is_taken_over_leaves_it_to_be_had(
    as_chief, tmp_path, monkeypatch, write
):
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
    assert restarted(tmp_path).create_trial("w3").status == "RUNNING"
    monkeypatch.delenv("KERASTUNER_ORACLE_IP")
    assert restarted(tmp_path).create_trial("tuner0").status == "RUNNING"


def test_what_counted_once_counts_after_a_reload(as_chief, tmp_path):
    first = oracle(tmp_path, max_retries_per_trial=1).create_trial("w1")
    made = restarted(tmp_path, max_retries_per_trial=1)
    second = made.create_trial("w2")  # nobody knows whether w1 lives
    assert second.trial_id != first.trial_id
    end(made, second)  # it raised, and is to be tried again
    end(made, first, 0.5)
    given = made.create_trial("w2")
    assert given.trial_id not in (first.trial_id, second.trial_id)  # round 1 has begun
    assert made.search.trajectory()[0]["score"] == 0.5
    assert restarted(tmp_path).search.trajectory()[0]["score"] == 0.5


def test_an_answer_to_another_search_is_none(as_chief, tmp_path):
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


def test_a_late_answer_counts_no_more_and_a_lost_trial_keeps_its_number(as_chief, tmp_path):
    made = oracle(tmp_path, max_seconds_per_trial=0.01)
    late = made.create_trial("w1")
    time.sleep(0.05)
    taken_over = made.create_trial("w2")
    assert "no answer in time" in made.get_trial(late.trial_id).message
    end(made, taken_over, 0.5)
    end(made, late, 0.9)
    assert made.search.trajectory()[0]["score"] == 0.5
    end(made, made.create_trial("w2"), 0.7)
    shutil.rmtree(tmp_path / "search" / f"trial_{late.trial_id}")
    again = restarted(tmp_path)
    assert again.create_trial("w2").trial_id == "0003"
    assert again.get_trial("0002").score == 0.7


def test_a_candidate_that_costs_three_workers_has_failed(as_chief, tmp_path):
    made = oracle(tmp_path)
    first = made.create_trial("w1")
    for _ in range(2):  # it died, was started again, and gets the same
        assert made.create_trial("w1").trial_id == first.trial_id
    made.create_trial("w1")
    assert made.get_trial(first.trial_id).status == "FAILED"
    assert "three times" in made.get_trial(first.trial_id).message


def test_a_chief_whose_search_is_over_hands_out_nothing_more(as_chief, tmp_path):
    made = oracle(tmp_path, keep_fraction=1.0)
    given = made.create_trial("w1")
    made.create_trial("w2")
    end(made, given, 0.5)
    assert made.create_trial("w1").status == "STOPPED"
    assert not made.shutdown.finished.is_set()  # w2 does not know yet
    assert made.create_trial("w2").status == "STOPPED"
    assert made.shutdown.finished.is_set()
    made.shutdown.end()
    # KerasTuner's server lives on; a worker of the next search must not take this for its end.
    assert made.create_trial("w3").status == "IDLE"
    assert not made.tuner_ids
