"""What candidates cost: in the score, measured once, and held to limits before they are trained."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
from forked import KILLED, outcome
from refusals import refused
from searches import TWO_STAGES, timeless, unassigned
from test_launcher import SEARCH as COMMAND
from test_launcher import started, trajectory

import keras_autoshrink as kas
from keras_autoshrink.commands.cli import main
from keras_autoshrink.score import cost_of
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import CostLimits, Outcome
from keras_autoshrink.search.shrink import ShrinkSearch
from keras_autoshrink.tuner import costs as candidate_costs
from keras_autoshrink.tuner import costs as candidate_latency
from keras_autoshrink.tuner.project import describe

Y = np.tile(np.arange(4), 16)
X = (0.3 * np.random.default_rng(0).random((64, 8, 8, 1)) + Y[:, None, None, None] / 4).astype("f4")

# Some of the parts of 4 nodes are under it; the complete cell is not.
MOST = 15_000


def hypermodel(kind=kas.CNNCellHyperModel, nodes=4):
    return kind(
        input_shape=(8, 8, 1),
        classes=4,
        num_nodes=nodes,
        filters=4,
        stem_filters=8,
        batch_size=32,
        **TWO_STAGES,
    )


class Apart(kas.CNNCellHyperModel):
    """Its networks have to be built to be counted."""

    def build(self, hp):
        return super().build(hp)


def make(folder, score=None, model=None, **arguments):
    return kas.AutoShrink(
        model or hypermodel(),
        score=score,
        directory=folder,
        project_name="search",
        **{"strategy": "paper", "num_candidates": 3, **arguments},
    )


def search(tuner, verbose=0, **arguments):
    tuner.search(
        X, Y, validation_data=(X[:32] + 0.02, Y[:32]), epochs=1, verbose=verbose, **arguments
    )
    return tuner


def results(tuner):
    return unassigned(timeless(tuner.trajectory()))


def candidates(tuner):
    return [c for record in tuner.trajectory() for c in record["candidates"]]


def networks(tuner):
    """The candidates that are no repetitions: trained, and over the limit."""
    new = [c for c in candidates(tuner) if not c["reused"]]
    over = [c for c in new if "over_limit" in c]
    return [c for c in new if c not in over], over


# The score


def test_the_formula_of_other_costs():
    costs = {"macs": 10**7, "params": 10**5, "latency_ms": 0.01, "measured_cost": 1e8}
    logs = {"val_accuracy": 0.9, "val_perplexity": 100.0}
    for cost, powers in (("macs", 1), ("params", -1), ("latency", -2), (lambda model: 3.0, 2)):
        score = kas.AccuracyScore(0.1, cost=cost)
        assert score(logs, cost_of(score, costs)) == pytest.approx(0.9 - 0.1 * powers)
        score = kas.PerplexityScore(cost)
        assert score(logs, cost_of(score, costs)) == pytest.approx(25 - powers)
    assert cost_of(lambda logs, macs: macs, costs) == 10**7
    for score in (kas.AccuracyScore, kas.PerplexityScore):
        with pytest.raises(ValueError, match="cost='time': give one of macs, params, latency"):
            score(cost="time")


def test_settings_say_nothing_where_there_is_nothing_new(tmp_path):
    settings = make(tmp_path).get_state()
    assert settings["score"] == ["AccuracyScore", {"weight": 0.1}]
    assert not {"max_macs", "max_latency_ms"} & {*settings}
    search = ShrinkSearch(kas.Cell.dense(("input", "tanh")))
    search.tell(search.cell, Outcome(1.0))
    (written,) = shrink.to_json(search)["outcomes"].values()
    expected = ["score", "objective", "macs", "params", "seconds", "trial_id", "error"]
    assert list(written) == expected


def size_of(model):
    return 7.0 * kas.count_params(model)


size_of_score = kas.AccuracyScore(cost=size_of)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(None, id="together"),
        pytest.param(hypermodel(Apart, 3), id="apart", marks=pytest.mark.slow),
    ],
)
def test_a_search_by_parameters_and_one_by_a_callable(tmp_path, model):
    by_params, by_size = (
        search(make(tmp_path / name, kas.AccuracyScore(cost=cost), model, num_candidates=1))
        for name, cost in (("a", "params"), ("b", size_of))
    )
    for found in networks(by_params)[0]:
        expected = found["objective"] - 0.1 * (math.log10(found["params"]) - 6)
        assert found["score"] == pytest.approx(expected)
        assert "measured_cost" not in found
    for found in networks(by_size)[0]:
        assert found["measured_cost"] == 7 * found["params"]
        expected = found["objective"] - 0.1 * (math.log10(found["measured_cost"]) - 6)
        assert found["score"] == pytest.approx(expected)
    assert by_size.get_state()["score"][1]["cost"] == ["size_of"]
    with pytest.raises(ValueError, match=r"another score: .*size_of.*, not .*'params'"):
        make(tmp_path / "b", kas.AccuracyScore(cost="params"), model, num_candidates=1)


def test_a_callable_that_returns_no_cost_is_told_so(tmp_path):
    tuner = make(tmp_path, kas.AccuracyScore(cost=lambda model: -1))
    with pytest.raises(RuntimeError, match=r"returned -1; a cost is a number greater than 0"):
        search(tuner)
    assert not tuner.oracle.trials
    # After a fix, which its name does not tell, the same round is tried again.
    assert search(make(tmp_path, kas.AccuracyScore(cost=lambda model: 5))).trajectory()


@pytest.mark.parametrize("race", [False, True])
def test_a_candidate_whose_cost_cannot_be_told_fails_alone(tmp_path, race):
    calls = iter(range(99))

    def unless_third(model):
        if next(calls) == 2:
            raise ValueError("no cost of this one")
        return 5

    tuner = search(make(tmp_path, kas.AccuracyScore(cost=unless_third), race=race))
    failed = [c for c in candidates(tuner) if c["status"] == "failed"]
    assert [c["error"] for c in failed] == ["ValueError: no cost of this one"]
    assert failed[0]["trial_id"] is None
    assert len(networks(tuner)[0]) == len(tuner.oracle.trials) + 1


def test_callables_that_differ_in_what_they_hold_are_another_score():
    def described(cost):
        return describe(kas.AccuracyScore(cost=cost))

    def share(of):
        return lambda model: model.count_params() / of

    def bound(of):
        return functools.partial(max, of)

    for held in (share, bound):
        assert described(held(2)) == described(held(2)) != described(held(3))


def test_costs_of_others_stay_and_go_with_their_search(tmp_path):
    model = hypermodel(Apart, 3)
    one, other = (candidate_costs.CandidateCosts(model, size_of_score) for _ in range(2))
    one.folder = other.folder = tmp_path / "search"
    one.folder.mkdir()
    hp = keras_tuner.HyperParameters()
    model.build(hp)
    whole = model.cell
    part = whole.without_edge((0, 2))
    for each, cell in ((one, whole), (other, part), (one, whole.without_edge((1, 2)))):
        assert each.examine([cell], lambda cell: hp) == {cell: None}
    assert len(candidate_costs.read(one.folder / candidate_costs.FILE)) == 3
    make(tmp_path, size_of_score, model, overwrite=True)
    assert not (tmp_path / "search" / candidate_costs.FILE).exists()


# Latency


def killed_while_training(folder):
    class Kill(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if len(candidates(tuner)) >= 1:
                os.kill(os.getpid(), signal.SIGKILL)

    tuner = make(folder, kas.AccuracyScore(cost="latency"), hypermodel(nodes=3))
    search(tuner, callbacks=[Kill()])


@pytest.mark.slow
def test_latency_is_measured_once(tmp_path, monkeypatch, capsys):
    score = kas.AccuracyScore(cost="latency")
    assert outcome(killed_while_training, tmp_path) == KILLED
    path = tmp_path / "search" / candidate_costs.FILE
    before = json.loads(path.read_text())
    assert len(before) > 1  # round 0, and all of round 1 before any of it trained
    converted = []
    convert = candidate_latency.convert
    monkeypatch.setattr(
        candidate_latency, "convert", lambda *given: (converted.append(1), convert(*given))
    )
    callbacks = [keras.callbacks.Callback()]  # as in the run that was killed, each by itself
    resumed = search(make(tmp_path, score, hypermodel(nodes=3)), 1, callbacks=callbacks)
    assert "Latency: LiteRT" in capsys.readouterr().out
    after = json.loads(path.read_text())
    assert {key: after[key] for key in before} == before
    assert len(converted) == len(after) - len(before)
    trained, _ = networks(resumed)
    assert len(trained) == len(after)
    for found in trained:
        assert found["latency_ms"] == after[kas.Cell.from_json(found["cell"]).key]["latency_ms"]
        nanoseconds = 1e6 * found["latency_ms"]
        expected = found["objective"] - 0.1 * (math.log10(nanoseconds) - 6)
        assert found["score"] == pytest.approx(expected)
    # Another search with the same numbers ends the same, though each is trained otherwise.
    other = make(tmp_path / "other", score, hypermodel(nodes=3))
    (tmp_path / "other" / "search").mkdir(parents=True)
    shutil.copy(path, tmp_path / "other" / "search")
    converted.clear()
    assert results(search(other)) == results(resumed)
    assert not converted
    assert main(["show", str(tmp_path / "search")]) == 0
    printed = capsys.readouterr().out
    assert " ms " in printed
    assert "7 blocks of a file differ by" in printed


def test_a_latency_limit(tmp_path):
    path = tmp_path / "search" / candidate_costs.FILE
    tuner = make(tmp_path, max_latency_ms=0.5)
    # Made-up numbers: the more edges, the slower.
    costs = {cell.key: {"latency_ms": 0.11 * len(cell.edges)} for cell in all_parts()}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(costs))
    trained, over = networks(search(tuner))
    assert {c["edges_left"] for c in over} >= {6}
    assert max(c["edges_left"] for c in trained) <= 4
    assert over[0]["over_limit"] == "0.66 ms, at most 0.5 ms"
    tuner = make(tmp_path / "b", max_latency_ms=0.3, strategy="bayesian", max_candidates=4)
    path = tmp_path / "b" / "search" / candidate_costs.FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(costs))
    trained, over = networks(search(tuner))
    assert len(trained) == 4
    assert max(c["edges_left"] for c in trained) <= 2


def all_parts():
    whole = hypermodel().cell
    for chosen in range(1, 2 ** len(whole.edges)):
        edges = [edge for place, edge in enumerate(whole.edges) if chosen >> place & 1]
        if any(i == 0 for i, _ in edges):
            cell = kas.Cell(whole.ops, tuple(edges))
            yield kas.Cell(whole.ops, cell.live_edges)


def test_latency_takes_tensorflow(tmp_path):
    code = (
        "import keras_autoshrink as kas\n"
        "for a in ({'score': kas.AccuracyScore(cost='latency')}, {'max_latency_ms': 1}):\n"
        "    try: kas.AutoShrink(kas.CNNCellHyperModel((8, 8, 1), num_nodes=3), **a)\n"
        "    except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    lines = printed.stdout.splitlines()
    assert [
        line.partition(": needs Keras's TensorFlow backend, this is jax")[0] for line in lines
    ] == [
        'cost="latency"',
        "max_latency_ms",
    ], printed.stderr
    assert not [*tmp_path.iterdir()]


def test_a_language_model_is_timed_as_its_step(tmp_path):
    model = kas.RNNCellHyperModel(50, num_nodes=2, units=4, batch_size=2, steps=3)
    costs = candidate_costs.CandidateCosts(model, kas.PerplexityScore("latency"))
    costs.folder = tmp_path
    hp = keras_tuner.HyperParameters()
    assert costs.examine([model.cell], lambda cell: hp) == {model.cell: None}
    (kept,) = candidate_costs.read(tmp_path / candidate_costs.FILE).values()
    assert kept["macs"] == kas.count_macs(model.build(hp), input_shape=(1,))
    assert costs.measured(model.cell) == {"latency_ms": kept["latency_ms"]}


# Limits


@pytest.mark.parametrize("strategy", ["paper", pytest.param("bayesian", marks=pytest.mark.slow)])
def test_what_has_too_many_macs_is_not_trained(tmp_path, strategy):
    settings = {"strategy": strategy, "max_macs": MOST, "num_candidates": 2}
    settings["max_candidates"] = 4 if strategy == "bayesian" else None
    tuners = [
        search(make(tmp_path / kind.__name__, None, hypermodel(kind), **settings))
        for kind in (kas.CNNCellHyperModel, Apart)
    ]
    for tuner in tuners:
        trained, over = networks(tuner)
        assert all(c["macs"] <= MOST for c in trained)
        assert all(c["macs"] > MOST and c["score"] is c["error"] is None for c in over)
        assert over[0]["over_limit"] == f"{over[0]['macs']:,} MACs, at most 15,000"
        assert len(trained) == len(tuner.oracle.trials)
        assert len(trained) == 4 or (strategy == "paper" and trained)
        assert kas.count_macs(tuner.get_best_models()[0]) <= MOST
        assert tuner.trajectory()[0]["score"] is None
    if strategy == "paper":  # the other way to count is to build
        assert results(tuners[0]) == results(tuners[1])
    else:  # what is known to be over is not proposed
        assert [c["edges_left"] for c in networks(tuners[0])[1]] == [6]
    with pytest.raises(ValueError, match="max_macs=15000, not unset"):
        make(tmp_path / "CNNCellHyperModel", **{**settings, "max_macs": None})
    with pytest.raises(ValueError, match="max_macs=15000, not 16000"):
        make(tmp_path / "CNNCellHyperModel", **{**settings, "max_macs": 16_000})


@pytest.mark.parametrize("strategy", ["paper", "bayesian"])
def test_nothing_is_within_the_limit(tmp_path, strategy):
    for kind in (kas.CNNCellHyperModel, Apart):
        tuner = make(
            tmp_path / kind.__name__, None, hypermodel(kind), strategy=strategy, max_macs=9
        )
        with pytest.raises(RuntimeError, match=r"no network was within the limits; the smallest"):
            search(tuner)
        assert not tuner.oracle.trials
        least = min(c["macs"] for c in candidates(tuner))
        assert f"had {least:,} MACs, at most 9" in tuner.oracle.search.error
        if strategy == "bayesian":  # there is no smaller part
            assert least == min(map(candidate_costs._layout(hypermodel()).count_macs, all_parts()))
        with pytest.raises(RuntimeError, match="score yet: no network was within the limits"):
            tuner.best_cell()


def killed_with_a_limit(folder, settings, call):
    calls = iter(range(call))
    formula = kas.AccuracyScore.__call__

    def die(self, logs, macs):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return formula(self, logs, macs)

    kas.AccuracyScore.__call__ = die
    search(make(folder, **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"max_macs": 21_000}, {"strategy": "bayesian", "max_candidates": 6, "max_macs": MOST}],
)
def test_killed_with_a_limit_it_ends_the_same(tmp_path, settings):
    whole = results(search(make(tmp_path / "whole", **settings)))
    assert outcome(killed_with_a_limit, tmp_path, settings, 1) == KILLED
    assert results(search(make(tmp_path, **settings))) == whole
    # What is over the limit has no trial: it is counted again.
    (tmp_path / "search" / "oracle.json").unlink()
    assert results(make(tmp_path, **settings)) == whole


@pytest.mark.slow
def test_workers_keep_to_a_limit(tmp_path):
    limit = ("--max-macs", "12K", "--cost", "params")
    assert main([*COMMAND.split(), "--directory", str(tmp_path / "one"), *limit]) == 0
    launched = started(tmp_path / "two", "--workers", "2", *limit)
    assert launched.wait() == 0
    found = trajectory(tmp_path / "two" / "digits")
    assert any("over_limit" in c for record in found for c in record["candidates"])
    assert found == trajectory(tmp_path / "one" / "digits")


def test_a_round_of_failures_and_of_too_costly_ones():
    """Those over a limit neither survive a round nor fail in it."""
    whole = kas.Cell.dense(("input", "tanh", "relu", "sigmoid"))
    search = ShrinkSearch(whole, strategy="paper", num_candidates=3)
    search.tell(whole, Outcome(None, over_limit="9 MACs, at most 8", macs=9))
    assert (search.error, search.best()) == (None, None)
    first, *others = search.pending()
    search.tell(first.cell, Outcome(None, over_limit="9 MACs, at most 8", macs=9))
    for each in others:
        search.tell(each.cell, Outcome(None, error="boom"))
    assert search.error == "all candidates of round 1 failed (2); the last one with: boom"
    assert len(search.reopen()) == 2
    assert {c.cell for c in search.pending()} == {c.cell for c in others}
    again = shrink.from_json(json.loads(json.dumps(shrink.to_json(search))))
    assert again.trajectory() == search.trajectory()


def test_a_limit_that_lets_few_through_is_met_at_once():
    """Of 8 nodes few parts are so small: they are looked for, not waited for."""
    whole = kas.Cell.dense(("input", *["conv1x1", "sepconv3x3"] * 3, "conv1x1"))
    limits = CostLimits(max_macs=2, count_macs=lambda cell: len(cell.live_edges))
    search = ShrinkSearch(whole, num_candidates=5, max_candidates=8, limits=limits)
    trained = 0
    while pending := search.pending():
        for candidate in pending:
            over = limits.over(len(candidate.cell.edges))
            trained += over is None
            assert over is None or candidate.cell == whole
            score = None if over else len(candidate.cell.edges)
            search.tell(candidate.cell, Outcome(score, over_limit=over))
    assert trained == 8
    # Its state is read without the limits, and says the same.
    again = shrink.from_json(json.loads(json.dumps(shrink.to_json(search))))
    assert again.done
    assert again.trajectory() == search.trajectory()


# What is refused


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        ({"max_macs": 0}, "max_macs=0: expected a whole number of 1 or more"),
        ({"max_macs": 2.5}, "max_macs=2.5: expected a whole number"),
        ({"max_latency_ms": math.nan}, "max_latency_ms=nan: expected a number greater than 0"),
        ({"max_latency_ms": math.inf}, "max_latency_ms=inf: expected"),
        ({"max_latency_ms": "1"}, "max_latency_ms='1': expected"),
    ],
)
def test_limits_that_are_none(tmp_path, given, culprit):
    with pytest.raises(ValueError, match=culprit):
        make(tmp_path, **given)
    assert not [*tmp_path.iterdir()]


def test_command_lines_that_are_refused(tmp_path, capsys):
    command = f"{COMMAND} --directory {tmp_path}"
    for options in ("--max-macs 0", "--max-latency-ms -1", "--cost time"):
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), *options.split()])
        assert stopped.value.code == 2
        assert options.split()[0] in capsys.readouterr().err
    line = refused(capsys, f"{command} --max-macs 1K", status=1)
    assert "no network was within the limits; the smallest had " in line
    assert " MACs, at most 1,000; raise the limit" in line


def test_damaged_costs_are_named(tmp_path):
    tuner = make(tmp_path, kas.AccuracyScore(cost=size_of))
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / candidate_costs.FILE).write_text("{")
    with pytest.raises(ValueError, match=r"costs.json: damaged.*delete it to measure anew"):
        search(tuner)
