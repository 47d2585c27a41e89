"""Rounds that cost less: candidates that stop early, and such as inherit their weights."""

import itertools
import random
import threading
import types

import keras
import numpy as np
import pytest
from test_round_training import VALIDATION, Score, X, Y, hypermodel, make, results, search

import keras_autoshrink as kas
from keras_autoshrink import candidate_training, weights_file
from keras_autoshrink.candidate_training import Stack
from keras_autoshrink.inheritance import Parent
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_tensorflow import TensorFlowProgram
from keras_autoshrink.trainee import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("programs_traced_once")]

CHEAPER = ({"race": True}, {"inherit": True}, {"race": True, "inherit": True})


def longer(folder, epochs, **cheaper):
    """A search of one round and the epochs of each candidate, counted by the score."""
    counted = {}

    def count(macs):
        counted[macs] = counted.get(macs, 0) + 1

    Score.on_call = staticmethod(count)
    tuner = make(folder, hypermodel(nodes=5), keep_fraction=0.9, **cheaper)
    options = {"validation_data": VALIDATION, "verbose": 0}
    tuner.search(X, Y, epochs=epochs, **options)
    return tuner, counted


@pytest.mark.parametrize("cheaper", CHEAPER)
@pytest.mark.usefixtures("programs_traced_anew")
def test_the_same_seed_gives_the_same_search(cheaper, tmp_path):
    once = search(make(tmp_path / "once", **cheaper))
    again = search(make(tmp_path / "again", **cheaper))
    assert results(once) == results(again)
    assert len(once.trajectory()) > 2


@pytest.mark.parametrize("cheaper", CHEAPER)
def test_a_search_that_stops_in_a_round_ends_as_if_it_had_not(cheaper, tmp_path):
    whole = search(make(tmp_path / "whole", **cheaper))
    calls = itertools.count()

    def interrupt(trial):
        if next(calls) == 3:
            raise KeyboardInterrupt

    stopped = make(tmp_path / "stopped", **cheaper)
    told, stopped.oracle.on_end = stopped.oracle.on_end, lambda trial: (told(trial), interrupt(0))
    with pytest.raises(KeyboardInterrupt):
        search(stopped)
    resumed = search(make(tmp_path / "stopped", **cheaper))
    assert results(resumed) == results(whole)


def test_in_a_race_half_stop_after_a_quarter_and_half_of_these_after_a_half(tmp_path):
    tuner, counted = longer(tmp_path, 8, race=True)
    costs = {candidate["macs"] for candidate in tuner.trajectory()[1]["candidates"]}
    # Of three candidates two go on after 2 epochs, and one of them after 4.
    assert sum(counted[macs] for macs in costs) == 2 + 4 + 8
    assert counted[tuner.trajectory()[0]["macs"]] == 8  # round 0 is one alone
    assert counted[tuner.trajectory()[1]["macs"]] >= 8


class Clocked:
    """A program in which time passes only while it trains: a second for each epoch."""

    stack = 1

    def __init__(self, network):
        self.network = network
        self.seconds = 0

    def begin(self, cells, weights, statistics):
        return weights[0], statistics[0]

    def epoch(self, training, orders):
        self.seconds += 1
        return training, np.array([[1, 0.5, 1, 0.5]])

    def weights(self, training):
        return [training]


@pytest.mark.parametrize("when", ["begin", "epoch", "weights"])
def test_in_a_race_one_that_raises_has_failed_alone(when, tmp_path, monkeypatch):
    """Of the three of round 1 the second, by what its training takes too much memory for."""
    tuner = make(tmp_path, keep_fraction=0.8, race=True)
    calls, bad = itertools.count(), []
    begin, whole = TensorFlowProgram.begin, getattr(TensorFlowProgram, when)

    def note(self, cells, *arrays):
        training = begin(self, cells, *arrays)
        if next(calls) == 2:
            bad.append(cells[0])
            if when == "begin":
                raise MemoryError("no memory")
        return training

    def fail(self, training, *rest):
        if bad and (training[2].edges.numpy() == self.network.gates(bad[0]).edges).all():
            raise MemoryError("no memory")
        return whole(self, training, *rest)

    monkeypatch.setattr(TensorFlowProgram, "begin", note)
    if when != "begin":
        monkeypatch.setattr(TensorFlowProgram, when, fail)
    search(tuner)
    candidates = tuner.trajectory()[1]["candidates"]
    assert len(candidates) == 3
    (failed,) = [c for c in candidates if c["status"] == "failed"]
    assert failed["cell"] == bad[0].to_json()
    assert failed["error"] == "MemoryError: no memory"


@pytest.mark.parametrize("limit", [3.5, 4.5])
def test_waiting_for_the_others_counts_for_nobody(limit, monkeypatch):
    """Two take turns of two epochs, a second each, so that eight seconds pass in all."""
    model = hypermodel(nodes=3)
    program = Clocked(MaskedNetwork(model.cell, **model.architecture))
    clock = types.SimpleNamespace(monotonic=lambda: program.seconds)
    monkeypatch.setattr(candidate_training, "time", clock)
    recipe = Recipe(len(X), 3, 4, 0, kas.AccuracyScore(), list, max_seconds=limit)
    cells = [model.cell, model.cell.without_edge((0, 2))]
    stacks = [Stack(program, [cell], recipe, threading.Event()) for cell in cells]
    for until in (2, 4):
        for stack in stacks:
            stack.run(until)
    assert program.seconds == 8
    for stack, cell in zip(stacks, cells, strict=True):
        result = stack.results()[cell]
        if limit > 4:
            assert result.history["seconds"] == [4] * 4
        else:
            assert str(result) == "took longer than max_seconds_per_trial=3.5"


def test_heirs_train_for_a_quarter_of_the_epochs(tmp_path):
    tuner, counted = longer(tmp_path, 8, inherit=True)
    costs = {candidate["macs"] for candidate in tuner.trajectory()[1]["candidates"]}
    assert sum(counted[macs] for macs in costs) == 3 * 2
    assert counted[tuner.trajectory()[0]["macs"]] == 8


def test_the_best_models_weights_are_those_of_its_score(tmp_path):
    tuner = search(make(tmp_path, inherit=True))
    model = tuner.get_best_models()[0]
    measured = model.evaluate(*VALIDATION, verbose=0, return_dict=True)["accuracy"]
    assert measured == pytest.approx(tuner.oracle.search.best()["objective"])


def test_what_is_inherited_is_the_parents_and_what_is_new_is_drawn():
    model = hypermodel(nodes=4)
    network = MaskedNetwork(model.cell, **model.architecture)
    parent = model.cell.without_edge((1, 2))
    child = parent.without_edge((2, 3))  # node 2 becomes an output
    assert child.leaves == (2, 3)
    rng = np.random.default_rng(0)
    theirs = [
        rng.normal(size=sum(w.size for w in part)).astype("float32")
        for part in network.layout(parent)
    ]
    arrays = weights_file.by_name(network, parent, *theirs)
    back = weights_file.flat(network, parent, arrays)
    assert all((one == other).all() for one, other in zip(theirs, back, strict=True))
    own = network.initial_weights(child, random.Random(0)), network.initial_statistics(child)
    weights, statistics = Parent(parent, arrays).inherited(network, child, *own)
    named = weights_file.by_name(network, child, weights, statistics)
    drawn = weights_file.by_name(network, child, *own)
    filters = 4
    for name, array in named.items():
        if name == "classes/kernel":  # reads node 2 and node 3; the parent's read node 3 alone
            assert (array[:filters] == drawn[name][:filters]).all()
            assert (array[filters:] == arrays[name]).all()
        elif "node3" not in name:
            assert (array == arrays[name]).all()
    # Node 3 has lost the channels of node 2, the last of those that it read.
    kernel = next(n for n in named if n.startswith("stage1_cell1_node3_op") and "bn" not in n)
    kept = named[kernel].shape[2]
    assert kept == arrays[kernel].shape[2] - filters
    assert (named[kernel] == arrays[kernel][:, :, :kept]).all()


@pytest.mark.parametrize("cheaper", CHEAPER[:2])
def test_candidates_that_are_trained_one_by_one_cannot(cheaper, tmp_path):
    (name,) = cheaper
    with pytest.raises(ValueError, match=f"{name}=True: .* cannot: callbacks is given"):
        search(make(tmp_path, **cheaper), callbacks=[keras.callbacks.Callback()])


@pytest.mark.parametrize("cheaper", CHEAPER[:2])
def test_a_search_goes_on_as_it_began(cheaper, tmp_path):
    (name,) = cheaper
    search(make(tmp_path, **cheaper))
    with pytest.raises(ValueError, match=f"another training.*{name}"):
        search(make(tmp_path))


def test_weights_to_inherit_that_are_gone_stop_the_search(tmp_path):
    def lose(trial):
        for path in tmp_path.glob("search/*/*.npz"):
            path.unlink()

    tuner = make(tmp_path, inherit=True)
    told, tuner.oracle.on_end = tuner.oracle.on_end, lambda trial: (told(trial), lose(trial))
    with pytest.raises(Exception, match="the weights to inherit are gone"):
        search(tuner)


def on_end(tuner, call):
    """Has a tuner call this after each trial, once the search knows of it."""
    told = tuner.oracle.on_end
    tuner.oracle.on_end = lambda trial: (told(trial), call())


def test_of_all_weights_those_stay_that_may_be_needed(tmp_path):
    tuner, kept = make(tmp_path, hypermodel(nodes=5), inherit=True), []

    def check():
        records, trials = tuner.trajectory(), tuner.oracle.trials
        there = {path.parent.name[6:] for path in tmp_path.glob("search/*/*.npz")}
        ended = {i: t.score for i, t in trials.items() if t.status == "COMPLETED"}
        best = {i for i, score in ended.items() if score == max(ended.values())}
        before = {c["trial_id"] for record in records for c in record["candidates"]}
        (adopted,) = (c["trial_id"] for c in records[-1]["candidates"] if c["status"] == "adopted")
        kept.append(len(there))
        if tuner.oracle.search.done:
            return
        assert there - best - {adopted} <= ended.keys() - before  # of the round under way
        last = {c["trial_id"] for c in records[-1]["candidates"] if not c["reused"]}
        assert there >= best | ({adopted} & last) | (ended.keys() - before)

    on_end(tuner, check)
    search(tuner)
    assert len(list(tmp_path.glob("search/*/*.npz"))) == 1
    assert len(kept) > 15
    assert max(kept[:-1]) < len(kept) / 2


def test_the_weights_to_inherit_survive_a_round_that_failed(tmp_path):
    tuner = make(tmp_path, inherit=True)
    rounds = []

    def break_down():
        rounds[:] = tuner.trajectory()
        if len(rounds) == 2:
            Score.on_call = staticmethod(lambda macs: 1 / 0)

    on_end(tuner, break_down)
    with pytest.raises(RuntimeError, match=r"of round 2 failed .*division by zero"):
        search(tuner)
    Score.on_call = staticmethod(lambda macs: None)
    whole = search(make(tmp_path / "whole", inherit=True))
    found, expected = results(search(make(tmp_path, inherit=True))), results(whole)
    for record in (*found, *expected):
        for candidate in record["candidates"]:
            del candidate["trial_id"]  # those of the second try are new
    assert found == expected


@pytest.mark.parametrize("cheaper", CHEAPER)
def test_what_cannot_be_trained_together_is_refused_before_anything_is_written(cheaper, tmp_path):
    tuner = make(tmp_path, **cheaper)
    callback = keras.callbacks.EarlyStopping("val_loss")
    with pytest.raises(ValueError, match=f"{next(iter(cheaper))}=True: .* callbacks"):
        tuner.search(X, Y, validation_data=VALIDATION, epochs=2, callbacks=[callback], verbose=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
