"""Candidates of a round, trained side by side by one program: the search is the same."""

import itertools
import os
import signal
import threading
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from forked import KILLED, outcome
from searches import ONE_STAGE, timeless
from test_memory import live_graphs

import keras_autoshrink as kas
from keras_autoshrink import candidate_training, candidate_tuner, masked_search, search_state
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_tensorflow import TensorFlowProgram
from keras_autoshrink.round_training import RoundTraining
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trainee import Recipe
from keras_autoshrink.trajectory import Outcome

pytestmark = pytest.mark.usefixtures("programs_traced_once")

NUMBERS = np.random.default_rng(0)
Y = np.tile(np.arange(4), 24)
X = (0.3 * NUMBERS.random((96, 8, 8, 1)) + Y[:, None, None, None] / 4).astype("float32")
VALIDATION = (X[:40] + 0.02, Y[:40])


def hypermodel(nodes=4, kind=kas.CNNCellHyperModel, **arguments):
    return kind(
        input_shape=(8, 8, 1),
        classes=4,
        num_nodes=nodes,
        filters=4,
        stem_filters=8,  # so that edges from the input cost more than others
        batch_size=32,
        **ONE_STAGE,
        **arguments,
    )


class Score:
    """The default one, by a candidate's MACs disturbed: `on_call(macs)` may do as it likes."""

    objective = "val_accuracy"
    on_call = staticmethod(lambda macs: None)

    def __call__(self, logs, macs):
        type(self).on_call(macs)
        return kas.AccuracyScore()(logs, macs)


@pytest.fixture(autouse=True)
def undisturbed():
    yield
    Score.on_call = staticmethod(lambda macs: None)
    assert not [t for t in threading.enumerate() if t.name.startswith("candidate")]


def make(folder, model=None, **arguments):
    return kas.AutoShrink(
        model or hypermodel(),
        score=Score(),
        num_candidates=3,
        directory=folder,
        project_name="search",
        **{"strategy": "paper", **arguments},
    )


def search(tuner, **arguments):
    tuner.search(X, Y, validation_data=VALIDATION, epochs=2, verbose=0, **arguments)
    return tuner


def results(tuner):
    return timeless(tuner.trajectory())


def weights_of(tuner):
    return sorted(path.name for path in Path(tuner.project_dir).rglob("checkpoint.weights.*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return search(make(tmp_path_factory.mktemp("finished")))


def test_what_was_measured_is_what_the_best_model_does(finished):
    (model,) = finished.get_best_models()
    accuracy = model.evaluate(*VALIDATION, verbose=0, return_dict=True)["accuracy"]
    best = max(finished.trajectory(), key=lambda r: (r["score"], -r["edges_left"]))
    assert accuracy == pytest.approx(best["objective"])
    assert kas.count_macs(model) == best["macs"]
    assert weights_of(finished) == ["checkpoint.weights.npz"]
    for record in finished.trajectory():
        assert all(c["seconds"] > 0 or c["reused"] for c in record["candidates"])


@pytest.mark.slow
def test_each_by_itself_they_are_the_same(finished, tmp_path):
    """A callback has to see Keras's model, so that each is built and fitted."""
    alone = search(make(tmp_path), callbacks=[keras.callbacks.Callback()])
    assert weights_of(alone) == ["checkpoint.weights.h5"]
    assert results(alone) == results(finished)
    (one,), (other,) = alone.get_best_models(), finished.get_best_models()
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-4)


def test_weights_that_are_damaged_are_named(tmp_path):
    tuner = search(make(tmp_path, hypermodel(2), keep_fraction=1))
    (path,) = Path(tuner.project_dir).rglob("*.npz")
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint.weights.npz: damaged"):
            tuner.get_best_models()


# What ends a candidate, or all of them


def killed_at(folder, call):
    calls = iter(range(call))

    def die(macs):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    Score.on_call = staticmethod(die)
    search(make(folder))


@pytest.mark.slow
def test_a_search_that_was_killed_in_a_round_goes_on_to_the_same_end(finished, tmp_path):
    for call in (3, 7):
        folder = tmp_path / str(call)
        assert outcome(killed_at, folder, call) == KILLED
        assert len(make(folder).trajectory()) == 1 + (call > 8)
        assert results(search(make(folder))) == results(finished)


ONE_ROUND = {"keep_fraction": 0.8}  # after the baseline


def some_macs(tuner):
    """The MACs of some candidates of round 1, but not of all."""
    macs = {candidate["macs"] for candidate in tuner.trajectory()[1]["candidates"]}
    assert len(macs) > 1
    return min(macs)


def test_one_that_raises_has_failed_alone(finished, tmp_path):
    bad = some_macs(finished)

    def fail(macs):
        if macs == bad:
            raise OSError("a disk is full")

    Score.on_call = staticmethod(fail)
    tuner = search(make(tmp_path, **ONE_ROUND))
    candidates = tuner.trajectory()[1]["candidates"]
    failed = [c for c in candidates if c["status"] == "failed"]
    assert 0 < len(failed) < len(candidates)
    assert all(c["error"] == "OSError: a disk is full" for c in failed)
    message = tuner.oracle.get_trial(failed[0]["trial_id"]).message
    assert "Traceback" in message
    assert "in fail" in message


def test_one_that_takes_too_long_has_failed_alone(finished, tmp_path, monkeypatch):
    bad, own = some_macs(finished), threading.local()
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + getattr(own, "passed", 0))
    monkeypatch.setattr(candidate_training, "time", clock)

    def pass_time(macs):
        if macs == bad:
            own.passed = getattr(own, "passed", 0) + 600

    Score.on_call = staticmethod(pass_time)
    tuner = search(make(tmp_path, max_seconds_per_trial=500, **ONE_ROUND))
    failed = [t for t in tuner.oracle.trials.values() if t.status == "FAILED"]
    assert failed
    assert len(failed) < len(tuner.oracle.trials)
    for trial in failed:
        assert "FailedTrialError: took longer than max_seconds_per_trial=500" in trial.message


def test_a_worker_has_its_program_before_it_asks_for_a_candidate(tmp_path, monkeypatch):
    """The clocks of worker and chief run from then on."""
    tuner, said = make(tmp_path, hypermodel(3), max_seconds_per_trial=500), []
    made, asked = TensorFlowProgram.__init__, tuner.oracle.create_trial
    monkeypatch.setattr(
        TensorFlowProgram, "__init__", lambda *a: (said.append("program"), made(*a))[1]
    )
    monkeypatch.setattr(tuner.oracle, "create_trial", lambda i: (said.append("trial"), asked(i))[1])
    monkeypatch.setattr(candidate_tuner, "service", types.SimpleNamespace(role=lambda: "worker"))
    search(tuner)
    assert said[0] == "program"
    assert said.count("program") == 1
    assert said.count("trial") > 2


def test_a_metric_that_is_missing_ends_the_search(tmp_path):
    def fail(macs):
        raise KeyError("val_f1")

    Score.on_call = staticmethod(fail)
    with pytest.raises(ValueError, match="needs the metric 'val_f1', but training reports accur"):
        search(make(tmp_path))


def test_ctrl_c_leaves_nothing_at_work(finished, tmp_path):
    calls = iter(range(5))

    def press(macs):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGINT)

    Score.on_call = staticmethod(press)
    with pytest.raises(KeyboardInterrupt):
        search(make(tmp_path))
    assert not [t for t in threading.enumerate() if t.name.startswith("candidate")]
    Score.on_call = staticmethod(lambda macs: None)
    assert results(search(make(tmp_path))) == results(finished)


def test_no_graph_stays(tmp_path, monkeypatch):
    """Of an activation with a gradient of its own, which TensorFlow would keep for ever."""
    # Each of the two searches traces its program.
    monkeypatch.setattr(TensorFlowProgram, "__init__", TensorFlowProgram.__init__.__wrapped__)
    search(make(tmp_path / "a", hypermodel(3, activation="swish")))
    before = live_graphs()
    search(make(tmp_path / "b", hypermodel(3, activation="swish")))
    assert live_graphs() == before


# Programs that train several at once, or are made anew


class Together:
    """A program that trains three candidates at a time; notes which."""

    stack = 3

    def __init__(self, cell, model):
        network = MaskedNetwork(cell, **model.architecture)
        data = (X, Y.astype("int32")), (VALIDATION[0], VALIDATION[1].astype("int32"))
        self._one = TensorFlowProgram(network, *data, 32, model.learning_rate, 0.9)
        self.network = network
        self.begun = []

    def begin(self, cells, *arrays):
        self.begun.append(tuple(cells))
        return [
            self._one.begin(*([one] for one in each)) for each in zip(cells, *arrays, strict=True)
        ]

    def epoch(self, training, orders):
        each = [self._one.epoch(t, o[None]) for t, o in zip(training, orders, strict=True)]
        return [t for t, _ in each], np.concatenate([logs for _, logs in each])

    def weights(self, training):
        return [self._one.weights(each)[0] for each in training]


def shrunk(model, search, rounds, most=None):
    """Searches on; `most` candidates are trained if it is given."""
    with rounds:
        while pending := search.pending():
            for candidate in pending:
                if most == 0:
                    return search
                most = most and most - 1
                trained = rounds.trained(candidate.cell, search)
                score = max(trained.history["score"])
                search.tell(candidate.cell, Outcome(score, macs=trained.history["macs"][0]))
    return search


def in_threes(model, made, epochs=2, race=False, **arguments):
    rules = model.stopping_rules
    recipe = Recipe(len(X), 3, epochs, 0, kas.AccuracyScore(), rules, race=race)

    def make_program(cell):
        made.append(Together(cell, model))
        return made[-1]

    return RoundTraining(make_program, model.cell, recipe, **arguments)


def scores(records):
    return [[candidate["score"] for candidate in record["candidates"]] for record in records]


def test_stacks_are_the_same_in_a_search_that_goes_on(finished):
    model, whole, halves = hypermodel(), [], []
    settings = {"num_candidates": 4, "seed": 0, "strategy": "paper"}
    expected = shrunk(model, ShrinkSearch(model.cell, **settings), in_threes(model, whole))
    search = ShrinkSearch(model.cell, **settings)
    shrunk(model, search, in_threes(model, halves), most=3)  # in the middle of round 1
    again = search_state.from_json(search_state.to_json(search))
    shrunk(model, again, in_threes(model, halves))
    assert scores(again.trajectory()) == scores(expected.trajectory())
    (program,) = whole
    assert all(len(cells) == 3 for cells in program.begun)
    stacks = halves[0].begun + halves[1].begun
    assert set(stacks) == set(program.begun)
    # Those of the round that was under way twice.
    assert len(stacks) - len(set(stacks)) <= 2


def test_in_a_race_each_of_a_stack_is_ranked_by_itself(monkeypatch):
    settings = {"num_candidates": 6, "keep_fraction": 0.9, "seed": 0, "strategy": "paper"}
    found, model = [], hypermodel(nodes=5)
    for stack in (1, 3):
        monkeypatch.setattr(Together, "stack", stack)
        search = ShrinkSearch(model.cell, **settings)
        found.append(scores(shrunk(model, search, in_threes(model, [], 8, True)).trajectory()))
    assert found[0] == found[1]
    assert len(found[0][1]) == 6


def test_a_program_makes_way_for_one_of_half_the_edges():
    model, made, again = hypermodel(), [], []
    search = ShrinkSearch(model.cell, num_candidates=2, seed=0, strategy="paper")
    shrunk(model, search, in_threes(model, made, rebuilds=True))
    sizes = [len(program.network.cell.edges) for program in made]
    assert sizes[0] == 6
    assert all(2 * size <= before for before, size in itertools.pairwise(sizes))
    assert len(sizes) > 1
    # The program follows from the search alone: not from what this process has made before.
    state = search_state.to_json(search)
    kept = list(state["outcomes"])[:-1]
    state["outcomes"] = {key: state["outcomes"][key] for key in kept}
    resumed = search_state.from_json(state)
    shrunk(model, resumed, in_threes(model, again, rebuilds=True))
    assert again[0].network.cell == made[-1].network.cell
    assert scores(resumed.trajectory()) == scores(search.trajectory())


def test_a_program_of_cells_whose_edges_come_back_stays():
    settings = {"strategy": "bayesian", "num_candidates": 3, "max_candidates": 12, "seed": 0}
    model, made, again = hypermodel(), [], []
    search = ShrinkSearch(model.cell, **settings)
    shrunk(model, search, in_threes(model, made, rebuilds=True))
    assert [program.network.cell for program in made] == [model.cell]
    # Another strategy's would have made way.
    assert min(record["edges_left"] for record in search.trajectory()[:-1]) <= 3
    expected = shrunk(model, ShrinkSearch(model.cell, **settings), in_threes(model, again))
    assert scores(search.trajectory()) == scores(expected.trajectory())


# Which searches


class Own(kas.CNNCellHyperModel):
    def build(self, hp):
        return super().build(hp)


def for_search(model, *args, **kwargs):
    kwargs = {"validation_data": VALIDATION, **kwargs}
    return masked_search.round_training(
        model,
        args,
        kwargs,
        score=kas.AccuracyScore(),
        seed=0,
        max_seconds=None,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"epochs": 3, "batch_size": 16, "validation_batch_size": 16, "verbose": 0},
        {"callbacks": [], "shuffle": True},
        {"class_weight": None, "sample_weight": None, "validation_split": 0.0},
        {"steps_per_epoch": None, "validation_steps": None, "initial_epoch": 0},
        {"validation_freq": 1, "callbacks": None},
        {"validation_data": [VALIDATION[0].astype("float64"), VALIDATION[1][:, None]]},
    ],
)
def test_arrays_are_trained_in_rounds(arguments):
    assert isinstance(for_search(hypermodel(), X, Y, **arguments), RoundTraining)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"callbacks": [keras.callbacks.Callback()]}, "callbacks is given"),
        ({"shuffle": False}, "shuffle=False is given"),
        ({"validation_batch_size": 16}, "validation_batch_size=16 is not batch_size=32"),
        ({"validation_data": (*VALIDATION, np.ones(40))}, "validation_data is no pair"),
        ({"validation_split": 0.5}, "validation_split=0.5 is given"),
        ({"sample_weight": np.ones(96)}, "sample_weight is given"),
        ({"steps_per_epoch": 2}, "steps_per_epoch=2 is given"),
        ({"validation_steps": 1}, "validation_steps=1 is given"),
        ({"class_weight": {0: 2.0}}, "class_weight is given"),
        ({"initial_epoch": 1}, "initial_epoch=1 is given"),
        ({"validation_freq": [1, 2]}, "validation_freq is given"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_keras_does_with_a_model_takes_a_model(arguments, why):
    with pytest.raises(masked_search.ApartError, match=why):
        for_search(hypermodel(), X, Y, **arguments)


class Patient(kas.CNNCellHyperModel):
    def stopping_rules(self):
        return [keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True)]


def test_other_models_are_built_as_they_say():
    def apart(model, why):
        with pytest.raises(masked_search.ApartError, match=why):
            for_search(model, X, Y)

    apart(hypermodel(kind=Own), r"Own has a build\(\) of its own")
    apart(hypermodel(kind=Patient), r"Patient has a stopping_rules\(\) of its own")
    apart(lambda hp: None, "function is no CNNCellHyperModel")
    patched = hypermodel()
    patched.fit = lambda *args, **kwargs: None
    apart(patched, r"has a fit\(\) of its own")
    kas.register_operation("own")(lambda x, filters, name: x)
    apart(hypermodel(operations=("conv1x1", "own")), "ops that are not built in")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        apart(hypermodel(), "dtype policy is mixed_bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_search_says_why_it_takes_the_slow_way(tmp_path, capsys):
    options = {"validation_data": VALIDATION, "epochs": 1}
    small = {"keep_fraction": 1, "overwrite": True}
    for asked, why in (({"shuffle": False}, "shuffle=False is given"), ({}, None)):
        make(tmp_path, hypermodel(2), **small).search(X, Y, **options, **asked)
        printed = capsys.readouterr().out
        assert printed.count("Each candidate is built and fitted by itself") == (why is not None)
        assert why is None or f"by itself: {why}." in printed


def test_stopping_rules_that_want_a_model_get_one(tmp_path):
    tuner = search(make(tmp_path, hypermodel(2, kind=Patient), keep_fraction=1))
    assert [record["score"] is not None for record in tuner.trajectory()] == [True]


class Hooked(kas.AutoShrink):
    def on_epoch_end(self, trial, model, epoch, logs=None):
        assert isinstance(model, keras.Model)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Hooked, {}),
        (kas.AutoShrink, {"executions_per_trial": 2}),
        (kas.AutoShrink, {"max_model_size": 10**6}),
        (kas.AutoShrink, {"optimizer": "sgd"}),
    ],
)
def test_what_keras_tuner_does_with_a_model_takes_a_model(tmp_path, kind, arguments):
    tuner = kind(hypermodel(2), directory=tmp_path, keep_fraction=1, **arguments)
    search(tuner)
    assert weights_of(tuner) == ["checkpoint.weights.h5"]
