"""The oracle under KerasTuner's own Tuner, with results that are computed, not trained."""

import json
import random
import shutil
import threading

import keras_tuner
import numpy as np
import pytest
from test_shrink import OPS

from keras_autoshrink import AutoShrinkOracle, Cell, declare_cell
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.search.shrink import ShrinkSearch
from keras_autoshrink.search.strategies import STRATEGIES

PAPER = {"strategy": "paper"}


class Declares(keras_tuner.HyperModel):
    """A search space of a cell and a learning rate."""

    def __init__(self, ops=OPS):
        super().__init__()
        self.ops = ops

    def build(self, hp):
        hp.Float("learning_rate", 1e-4, 1e-1, default=1e-3)
        return declare_cell(hp, Cell.dense(self.ops))


class Computes(keras_tuner.Tuner):
    """A foreign tuner: the result of a trial is a function of its hyperparameters."""

    def __init__(self, *args, function=None, **kwargs):
        self.function = function or default_result
        self.ran = []
        super().__init__(*args, **kwargs)

    def run_trial(self, trial, *args, **kwargs):
        values = trial.hyperparameters.values
        cell = CellSpace(trial.hyperparameters.space).sub_cell(values)
        self.ran.append(cell)
        return self.function(cell)


def default_result(cell):
    return {"accuracy": random.Random(cell.key).random() - len(cell.edges) / 30}


def tuner(path, hypermodel=None, function=None, overwrite=False, objective="accuracy", **settings):
    return Computes(
        AutoShrinkOracle(keras_tuner.Objective(objective, "max"), **{**PAPER, **settings}),
        hypermodel or Declares(),
        function=function,
        directory=path,
        project_name="search",
        overwrite=overwrite,
    )


def searched(path, *args, **settings):
    made = tuner(path, *args, **settings)
    made.search(verbose=0)
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("smaller"), Declares(OPS[:5]))


@pytest.fixture(scope="module")
def searches(smaller, tmp_path_factory):
    """A search by each strategy."""
    path = tmp_path_factory.mktemp("bayesian")
    return {"paper": smaller, "bayesian": searched(path, Declares(OPS[:5]), strategy="bayesian")}


def test_a_search_of_8_nodes(finished):
    records = finished.oracle.search.trajectory()
    assert records[0]["edges_left"] == 28
    assert records[-1]["edges_left"] == 1
    assert len(finished.ran) <= 236
    assert len(finished.ran) == len(finished.oracle.trials)
    assert len({cell.key for cell in finished.ran}) == len(finished.ran)
    assert {t.hyperparameters.get("learning_rate") for t in finished.oracle.trials.values()} == {
        1e-3
    }


def test_records_are_plain_values_and_name_their_trials(finished):
    records = finished.oracle.search.trajectory()
    assert json.loads(json.dumps(records)) == records
    for record in records:
        assert record["objective"] == record["score"]
        for candidate in record["candidates"]:
            trial = finished.oracle.get_trial(candidate["trial_id"])
            assert trial.score == candidate["score"]


def test_the_best_trial_is_the_best_record(finished):
    best = finished.oracle.search.best()
    assert finished.oracle.get_best_trials(1)[0].score == best["score"]
    scores = [trial.score for trial in finished.oracle.get_best_trials(10)]
    assert scores == sorted(scores, reverse=True)
    values = finished.get_best_hyperparameters()[0].values
    assert CellSpace(finished.oracle.get_space().space).sub_cell(values) == Cell.from_json(
        best["cell"]
    )


def test_the_seed_decides_and_0_is_one(finished, tmp_path):
    same = searched(tmp_path / "same", seed=0)
    other = searched(tmp_path / "other", seed=1)
    assert same.oracle.seed == 0
    assert same.oracle.search.trajectory() == finished.oracle.search.trajectory()
    assert other.oracle.search.trajectory() != finished.oracle.search.trajectory()


def test_an_objective_to_minimise(smaller, tmp_path):
    def cost(cell):
        return {"cost": -default_result(cell)["accuracy"]}

    made = Computes(
        AutoShrinkOracle(keras_tuner.Objective("cost", "min"), **PAPER),
        Declares(OPS[:5]),
        function=cost,
        directory=tmp_path,
    )
    made.search(verbose=0)
    ours = [record["cell"] for record in made.oracle.search.trajectory()]
    assert ours == [record["cell"] for record in smaller.oracle.search.trajectory()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stop_at", [0, 1, 12, 25])
def test_resumed_in_the_middle_it_ends_the_same(strategy, searches, tmp_path, stop_at):
    smaller = searches[strategy]

    def interrupted(cell):
        if len(broken.ran) > stop_at:
            raise KeyboardInterrupt
        return default_result(cell)

    broken = tuner(tmp_path, Declares(OPS[:5]), interrupted, strategy=strategy)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    resumed = searched(tmp_path, Declares(OPS[:5]), strategy=strategy)
    assert resumed.oracle.search.trajectory() == smaller.oracle.search.trajectory()
    assert len(resumed.ran) == len(smaller.ran) - stop_at


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_finished_search_resumes_as_finished(tmp_path, strategy):
    first = searched(tmp_path, Declares(OPS[:4]), strategy=strategy)
    again = searched(tmp_path, Declares(OPS[:4]), strategy=strategy)
    assert again.ran == []
    assert again.oracle.search.trajectory() == first.oracle.search.trajectory()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("older_at", "stop_at"), [(5, 6), (3, 25)])
def test_results_that_reached_the_trials_alone_are_not_lost(
    strategy, searches, tmp_path, older_at, stop_at
):
    """As after a kill between trial.json and oracle.json; and with rounds between the two."""
    smaller = searches[strategy]

    def interrupted(cell):
        if len(broken.ran) == older_at:
            shutil.copy(tmp_path / "search" / "oracle.json", tmp_path / "older.json")
        if len(broken.ran) == stop_at:
            raise KeyboardInterrupt
        return default_result(cell)

    broken = tuner(tmp_path, Declares(OPS[:5]), interrupted, strategy=strategy)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    shutil.copy(tmp_path / "older.json", tmp_path / "search" / "oracle.json")
    resumed = searched(tmp_path, Declares(OPS[:5]), strategy=strategy)
    assert resumed.oracle.search.trajectory() == smaller.oracle.search.trajectory()
    assert len(resumed.ran) == len(smaller.ran) - (stop_at - 1)


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered:RuntimeWarning")  # KerasTuner's
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), ValueError("boom")])
def test_failed_candidates_are_passed_over(tmp_path, bad):
    def fails(cell):
        if (0, 1) in cell.edges:
            return default_result(cell)
        if isinstance(bad, Exception):
            raise bad
        return {"accuracy": bad}

    made = searched(tmp_path, Declares(OPS[:4]), fails)
    records = made.oracle.search.trajectory()
    assert [0, 1] in records[-1]["cell"]["edges"]
    failed = [c for r in records for c in r["candidates"] if c["status"] == "failed"]
    assert failed
    expected = "boom" if isinstance(bad, Exception) else "not a finite number"
    assert all(expected in candidate["error"] for candidate in failed)
    assert len({cell.key for cell in made.ran}) == len(made.ran)


def test_a_candidate_that_raises_is_tried_again_as_often_as_asked(tmp_path):
    def fails_once(cell):
        if made.ran.count(cell) == 1:
            raise ValueError("once")
        return default_result(cell)

    made = tuner(tmp_path / "a", Declares(OPS[:4]), fails_once, max_retries_per_trial=1)
    made.search(verbose=0)
    untroubled = searched(tmp_path / "b", Declares(OPS[:4]))
    assert len(made.ran) == 2 * len(untroubled.ran)
    assert made.oracle.search.trajectory() == untroubled.oracle.search.trajectory()


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered:RuntimeWarning")  # KerasTuner's
def test_a_nan_is_not_tried_again(tmp_path):
    def nan_without_0_1(cell):
        return default_result(cell) if (0, 1) in cell.edges else {"accuracy": float("nan")}

    made = tuner(tmp_path, Declares(OPS[:4]), nan_without_0_1, max_retries_per_trial=2)
    made.search(verbose=0)
    assert len({cell.key for cell in made.ran}) == len(made.ran)
    assert made.oracle.search.done


def declares(*names, **others):
    def build(hp):
        for name in names:
            hp.Boolean(name)
        for name, value in others.items():
            hp.Fixed(name, value)

    return build


def test_any_space_that_declares_edges_is_searched(tmp_path):
    made = searched(tmp_path, declares("net/edge_0_1", "net/edge_0_2", "net/edge_1_2"))
    # All declared edges are on at first, whatever the Booleans' defaults.
    assert made.ran[0].edges == ((0, 1), (0, 2), (1, 2))
    assert made.ran[0].ops == ("input", "node1", "node2")


def test_nodes_are_alike_only_where_their_ops_are_declared(tmp_path):
    edges = [f"c/edge_0_{node}" for node in (1, 2, 3)]
    apart = searched(tmp_path / "a", declares(*edges))
    alike = searched(tmp_path / "b", declares(*edges, **{f"c/op_{n}": "attn" for n in (1, 2, 3)}))
    assert len(apart.ran) == 6
    assert len(alike.ran) == 3


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
        searched(tmp_path, hypermodel)


def test_a_bayesian_search_trains_as_many_candidates_as_it_may(searches, tmp_path):
    settings = {"strategy": "bayesian", "max_candidates": 12, "num_candidates": 4}
    made = searched(tmp_path, Declares(OPS[:5]), **settings)
    assert len(made.ran) == len(made.oracle.trials) == 12
    whole = searches["bayesian"]
    assert len(whole.ran) == ShrinkSearch(Cell.dense(OPS[:5]), **PAPER).max_remaining()
    best = whole.oracle.search.best()
    assert whole.oracle.get_best_trials(1)[0].score == best["score"]


def test_a_search_from_before_there_were_strategies_goes_on(smaller, tmp_path):
    def interrupted(cell):
        if len(broken.ran) > 12:
            raise KeyboardInterrupt
        return default_result(cell)

    broken = tuner(tmp_path, Declares(OPS[:5]), interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    state = json.loads((tmp_path / "search" / "oracle.json").read_text())
    assert not {"strategy", "max_candidates"} & {*state, *state["search"]}
    resumed = searched(tmp_path, Declares(OPS[:5]), strategy="paper")
    assert resumed.oracle.search.trajectory() == smaller.oracle.search.trajectory()


def test_a_bayesian_search_goes_on_as_one_alone(tmp_path):
    settings = {"strategy": "bayesian", "max_candidates": 5}
    searched(tmp_path, Declares(OPS[:3]), **settings)
    with pytest.raises(ValueError, match=r"strategy=paper: the search in .* has strategy=bayesian"):
        tuner(tmp_path, Declares(OPS[:3]))
    with pytest.raises(ValueError, match=r"max_candidates=6: the search in .*max_candidates=5"):
        tuner(tmp_path, Declares(OPS[:3]), **{**settings, "max_candidates": 6})


@pytest.mark.parametrize(
    "setting",
    [{"seed": 1}, {"num_candidates": 3}, {"keep_fraction": 0.5}, {"strategy": "bayesian"}],
)
def test_a_directory_with_other_settings_is_refused(tmp_path, setting):
    searched(tmp_path, Declares(OPS[:3]))
    before = (tmp_path / "search" / "oracle.json").read_bytes()
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.*overwrite=True"):
        tuner(tmp_path, Declares(OPS[:3]), **setting)
    assert (tmp_path / "search" / "oracle.json").read_bytes() == before
    assert searched(tmp_path, Declares(OPS[:3]), overwrite=True, **setting).ran


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"num_candidates": 0}, ValueError),
        ({"keep_fraction": 2}, ValueError),
        ({"seed": "zero"}, TypeError),
        ({"strategy": "random"}, ValueError),
        ({"max_candidates": 10}, ValueError),
        ({"objective": ["a", "b"]}, ValueError),
    ],
)
def test_bad_settings_are_named(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        AutoShrinkOracle(**{**PAPER, **settings})


def test_a_trial_that_was_interrupted_counts_its_second_training_alone(tmp_path):
    """As after a kill between the report of its metrics and its end."""

    def interrupted(cell):
        if len(broken.ran) == 2:
            broken.oracle.update_trial("0001", {"accuracy": 100.0})
            raise KeyboardInterrupt
        return default_result(cell)

    broken = tuner(tmp_path, Declares(OPS[:3]), interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    resumed = searched(tmp_path, Declares(OPS[:3]))
    assert all(trial.score < 1 for trial in resumed.oracle.trials.values())


def test_a_search_of_another_oracle_is_refused(tmp_path):
    foreign = Computes(
        keras_tuner.oracles.RandomSearchOracle(
            keras_tuner.Objective("accuracy", "max"), max_trials=2
        ),
        Declares(OPS[:3]),
        function=lambda cell: {"accuracy": 0.5},
        directory=tmp_path,
        project_name="search",
    )
    foreign.search(verbose=0)
    with pytest.raises(ValueError, match=r"search of another oracle.*overwrite=True"):
        tuner(tmp_path, Declares(OPS[:3]))


def test_numpy_numbers_are_numbers(tmp_path):
    settings = {"seed": np.int64(3), "num_candidates": np.int32(2), "keep_fraction": np.float32(0)}
    made = searched(tmp_path, Declares(OPS[:3]), **settings)
    assert made.oracle.search.done
    searched(tmp_path, Declares(OPS[:3]), seed=3, num_candidates=2, keep_fraction=0.0)


@pytest.mark.parametrize("macs", [float("nan"), float("inf"), 7.0])
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # KerasTuner's
def test_costs_that_are_no_numbers_leave_the_lock_free(tmp_path, macs):
    made = searched(tmp_path, Declares(OPS[:3]), lambda cell: {"accuracy": 0.5, "macs": macs})
    assert made.oracle.search.best()["macs"] == (7 if macs == 7 else None)
    other = threading.Thread(target=made.oracle.create_trial, args=("other",), daemon=True)
    other.start()
    other.join(timeout=20)
    assert not other.is_alive()
