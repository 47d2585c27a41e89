"""What candidates cost: in the score, measured once, and kept for a search that goes on."""

import json
import math
import shutil

import keras
import keras_tuner
import pytest
from searches import WithTuner, unassigned

import keras_autoshrink as kas
from keras_autoshrink.networks.budget import MACS, OverBudgetError
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import COSTS, RECORDED_COSTS, cost_of, described
from keras_autoshrink.tuner import costs, latency
from keras_autoshrink.tuner.costs import CandidateCosts
from keras_autoshrink.tuner.latency import Timed, solve_macs

SMALL = {"stage_scales": (1,), "stage_strides": (2,), "stage_repeats": (1,), "stem_filters": 4}


def hypermodel():
    model = kas.CNNCellHyperModel((8, 8, 1), classes=4, num_nodes=3, filters=4, **SMALL)
    model.check_search_arguments = lambda **_: None  # nothing is trained
    return model


def size_of(model):
    return 7.0 * kas.count_params(model)


def run(folder, score, **settings):
    """A search whose networks are built and measured, and whose accuracy is made up."""
    settings = {"hypermodel": hypermodel(), "strategy": "paper", "num_candidates": 2} | settings
    made = WithTuner.make(folder, score=score, **settings)

    def trained(trial, **_):
        cell = made.oracle.cell_of(trial)
        model = made.hypermodel.build(trial.hyperparameters)
        found = {**made._costs.measured(cell), **costs.count_costs(model)}
        logs = {"val_accuracy": 1 - len(cell.edges) / 10}
        return {**logs, **found, "score": score(logs, cost_of(score, found)), "seconds": 0.1}

    made.run_trial = trained
    made.search(verbose=0)
    return made


def candidates(tuner):
    return [c for record in tuner.trajectory() for c in record["candidates"]]


def test_the_formula_of_each_cost():
    found = {"macs": 10**7, "params": 10**5, "latency_ms": 0.01, "measured_cost": 1e8}
    assert found.keys() == {cost.name for cost in RECORDED_COSTS}
    logs = {"val_accuracy": 0.9, "val_perplexity": 100.0}
    powers = {"macs": 1, "params": -1, "latency": -2}
    assert powers.keys() == COSTS.keys()
    for cost, power in (*powers.items(), (lambda model: 3.0, 2)):
        score = kas.AccuracyScore(0.1, cost=cost)
        assert score(logs, cost_of(score, found)) == pytest.approx(0.9 - 0.1 * power)
        score = kas.PerplexityScore(cost)
        assert score(logs, cost_of(score, found)) == pytest.approx(25 - power)
        assert described(score).startswith("(200 - val_perplexity) / 4 - (log10(")
    assert cost_of(lambda logs, macs: macs, found) == 10**7
    assert described(kas.AccuracyScore(weight=0)) == "val_accuracy"
    assert described(size_of) == "size_of(logs, macs)"

    class Doubled(kas.AccuracyScore):
        def __call__(self, logs, macs):
            return 2 * super().__call__(logs, macs)

    assert described(Doubled()) == "Doubled(logs, macs)"
    for score in (kas.AccuracyScore, kas.PerplexityScore):
        with pytest.raises(ValueError, match="cost='time': give one of macs, params, latency"):
            score(cost="time")
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight="):
            kas.AccuracyScore(weight)


def test_a_search_by_a_callable(tmp_path):
    tuner = run(tmp_path, kas.AccuracyScore(cost=size_of))
    for found in candidates(tuner):
        assert found["measured_cost"] == 7 * found["params"]
        expected = found["objective"] - 0.1 * (math.log10(found["measured_cost"]) - 6)
        assert found["score"] == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"score=.*size_of.*, not .*'params'"):
        run(tmp_path, kas.AccuracyScore(cost="params"))
    run(tmp_path, kas.AccuracyScore(cost="params"), overwrite=True)
    assert not (tmp_path / "search" / saved_search.COSTS).exists()  # they go with their search


def test_a_callable_that_returns_no_cost_is_named_and_can_be_mended(tmp_path):
    with pytest.raises(RuntimeError, match=r"returned -1; a cost is a number greater than 0"):
        run(tmp_path, kas.AccuracyScore(cost=lambda model: -1))
    # After a fix, which its name does not show, the same round is tried again.
    assert run(tmp_path, kas.AccuracyScore(cost=lambda model: 5)).trajectory()


def test_a_candidate_whose_cost_cannot_be_told_fails_alone(tmp_path):
    calls = iter(range(99))

    def unless_second(model):
        if next(calls) == 1:
            raise ValueError("no cost of this one")
        return 5

    tuner = run(tmp_path, kas.AccuracyScore(cost=unless_second))
    failed = [c for c in candidates(tuner) if c["status"] == "failed"]
    assert [c["error"] for c in failed] == ["ValueError: no cost of this one"]
    assert failed[0]["trial_id"] is None


def test_latency_is_measured_once_and_a_limit_holds(tmp_path, monkeypatch):
    score = kas.AccuracyScore(cost="latency")
    tuner = run(tmp_path / "a", score)
    path = tmp_path / "a" / "search" / saved_search.COSTS
    kept = json.loads(path.read_text())
    for found in candidates(tuner):
        assert found["latency_ms"] == kept[kas.Cell.from_json(found["cell"]).key]["latency_ms"]
        expected = found["objective"] - 0.1 * (math.log10(1e6 * found["latency_ms"]) - 6)
        assert found["score"] == pytest.approx(expected)
    (line,) = saved_search.describe_costs(kept)
    assert line.startswith("Latency: LiteRT")
    # Another search finds the same numbers in its folder, and converts nothing.
    monkeypatch.setattr(costs, "convert", None)
    (tmp_path / "b" / "search").mkdir(parents=True)
    shutil.copy(path, tmp_path / "b" / "search")
    other = run(tmp_path / "b", score)
    assert unassigned(other.trajectory()) == unassigned(tuner.trajectory())
    # Made-up numbers: the complete cell is too slow.
    for key, value in kept.items():
        value["latency_ms"] = 0.11 * (key.count(">"))
    (tmp_path / "c" / "search").mkdir(parents=True)
    (tmp_path / "c" / "search" / path.name).write_text(json.dumps(kept))
    limited = run(tmp_path / "c", score, max_latency_ms=0.3)
    first, *others = candidates(limited)
    assert first["over_limit"] == "0.33 ms, at most 0.3 ms"
    assert others
    assert all("over_limit" not in c for c in others)


def by_formula(of_mac):
    """Returns what stands for conversions and their timing: milliseconds that follow from MACs."""

    def time(model, quantization):
        assert quantization in ("float32", "int8")
        macs = model if isinstance(model, int) else kas.count_macs(model)
        return Timed(0.01 + of_mac * macs, 0.0, "a formula")

    return time


def test_networks_of_one_latency(tmp_path, monkeypatch):
    def searched(folder):
        few = {"num_nodes": 3, "stage_strides": (1,), "stage_repeats": (1,)}
        target = {"target_latency_ms": 0.05, "latency_of": "int8"}
        found = kas.CNNCellHyperModel((8, 8, 1), 4, **target, **few)
        found.check_search_arguments = lambda **_: None
        settings = {"hypermodel": found, "strategy": "evolution", "max_candidates": 2}
        return run(folder, kas.AccuracyScore(weight=0), **settings)

    monkeypatch.setattr(latency, "_time", by_formula(2e-8))
    folder = tmp_path / "a"
    tuner = searched(folder)
    kept = json.loads((folder / "search" / saved_search.COSTS).read_text())
    assert len(kept) == len(candidates(tuner)) == 2
    for trial in tuner.oracle.get_best_trials(2):
        (costs_of,) = [
            e
            for e in kept.values()
            if e["macs"] == kas.count_macs(tuner.hypermodel.build(trial.hyperparameters))
        ]
        assert 0.95 * 0.05 <= costs_of["latency_ms"] <= 0.05
        assert trial.hyperparameters.values[MACS] == costs_of[MACS] >= costs_of["macs"]
    # Another search takes the networks that it finds in its folder, and converts nothing.
    monkeypatch.setattr(costs, "solve_macs", None)
    (tmp_path / "b" / "search").mkdir(parents=True)
    (tmp_path / "b" / "search" / saved_search.COSTS).write_text(json.dumps(kept))
    assert unassigned(searched(tmp_path / "b").trajectory()) == unassigned(tuner.trajectory())


@pytest.mark.parametrize("of_mac", [2e-9, 2e-7])  # milliseconds, far from what is guessed
def test_a_latency_is_met_to_5_percent(monkeypatch, of_mac):
    time = by_formula(of_mac)
    monkeypatch.setattr(latency, "_time", time)
    macs, timed = solve_macs(lambda macs: macs, 0.2, "float32", guess=5_000_000)
    assert 0.19 <= timed.latency_ms <= 0.2
    assert timed == time(macs, "float32")


def test_files_are_timed_until_one_is_as_fast_or_none_can_be():
    def build(macs):
        filters = macs // (9 * 8 * 8)
        if filters < 1:
            raise OverBudgetError("no width is as narrow")
        return keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Conv2D(filters, 3, padding="same")]
        )

    # As int8, which takes data.
    macs, timed = solve_macs(build, 0.05, "int8", 40_000)
    assert 0 < timed.latency_ms <= 0.05
    assert macs >= 40_000
    assert timed.measured_by.startswith("LiteRT")
    with pytest.raises(
        OverBudgetError, match="target_latency_ms=1e-05: the networks of this kind take more, of"
    ):
        solve_macs(build, 1e-5, "float32", 600)


def test_a_language_model_is_timed_as_its_step(tmp_path):
    model = kas.RNNCellHyperModel(50, num_nodes=2, units=4, batch_size=2, steps=3)
    made = CandidateCosts(model, kas.PerplexityScore("latency"))
    made.folder = tmp_path
    hp = keras_tuner.HyperParameters()
    assert made.examine([model.cell], lambda cell: hp) == {model.cell: None}
    (kept,) = saved_search.read_costs(tmp_path).values()
    assert kept["macs"] == kas.count_macs(model.build(hp), input_shape=(1,))
    assert made.measured(model.cell)["latency_ms"] == kept["latency_ms"] > 0


def test_damaged_costs_are_named(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / saved_search.COSTS).write_text("{")
    with pytest.raises(ValueError, match=r"costs.json: damaged.*delete it to measure anew"):
        run(tmp_path, kas.AccuracyScore(cost=size_of))
