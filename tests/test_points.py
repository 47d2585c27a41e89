"""Points of a space: what a search chooses beside edges, and how hyperparameters say it."""

import itertools
import json
import random
from collections import Counter

import keras
import keras_tuner
import numpy as np
import pytest
from searches import Declares, WithTuner

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.search_space import CellSpace, declare_cell
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.search.points import REPEAT, Point
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch

OPS = ("tanh", "relu", "sigmoid")


@pytest.fixture
def declared():
    """The space of a HyperModel that declares values of all kinds beside its cell."""
    hp = keras_tuner.HyperParameters()
    declare_cell(hp, Cell.dense(("input", "relu", "relu", "tanh")), operations=OPS)
    hp.Choice("optimizer", ["adam", "sgd"], default="sgd")
    hp.Int("units", 8, 32, step=8)
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    hp.Boolean("residual")
    hp.Fixed("epochs", 3)
    with hp.conditional_scope("optimizer", ["sgd"]):
        hp.Choice("momentum", [0.0, 0.9])  # of a scope: left at its default
    found = CellSpace(hp.space, whole=True)
    found.hyperparameters = hp.space
    return found


def differences(one, other):
    """In how many places two points differ."""
    edges = len({*one.edges} ^ {*other.edges})
    ops = sum(a != b for a, b in zip(one.ops, other.ops, strict=True))
    return edges, ops, sum(a != b for a, b in zip(one.values, other.values, strict=True))


def test_a_space_is_what_is_declared(declared):
    space = declared.space
    assert space.start == Point(
        ("input", "relu", "relu", "tanh"),
        ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),
        (
            *(("optimizer", "sgd"), ("units", 8), ("learning_rate", 1e-3), ("residual", False)),
            ("epochs", 3),
        ),
    )
    assert {*space.ops[1:]} == {("relu", "tanh", "sigmoid"), ("tanh", "relu", "sigmoid")}
    assert space.choices["optimizer"] == ("sgd", "adam")
    assert space.choices["units"] == (8, 16, 24, 32)
    assert space.choices["residual"] == (False, True)
    rates = space.choices["learning_rate"]
    assert rates[0] == 1e-3
    assert 5 <= len(rates) <= 11
    assert 1e-4 <= rates[1] < rates[-1] <= 1e-1


def test_neighbours_differ_in_one_place_and_lead_everywhere(declared):
    space, generator = declared.space, random.Random(0)
    for _ in range(5):
        point = space.at_random(generator, least_edges=2)
        found = list(space.neighbours(point, least_edges=2))
        assert len({each.key for each in found}) > 10
        for each in found:
            assert len(each.edges) >= 2
            assert each.edges == each.live_edges
            edges, ops, values = differences(point, each)
            assert (edges > 0, ops, values) in {(True, 0, 0), (False, 1, 0), (False, 0, 1)}
    seen = {name: set() for name in space.choices}
    for _ in range(100):
        for name, value in space.at_random(generator, least_edges=1).values:
            seen[name].add(value)
    assert all(seen[name] == {*choices} for name, choices in space.choices.items())


def test_hyperparameters_say_a_point_and_back(declared):
    generator = random.Random(1)
    for _ in range(20):
        point = declared.space.at_random(generator, least_edges=1)
        assert declared.sub_cell(declared.values(point)) == point


def test_ops_alone_are_kept_as_json():
    hp = keras_tuner.HyperParameters()
    declare_cell(hp, Cell.dense(("input", "relu", "tanh")), operations=OPS)
    space = CellSpace(hp.space, whole=True).space
    found = ShrinkSearch(
        space.start, strategy="evolution", num_candidates=4, max_candidates=12, space=space
    )
    while pending := found.pending():
        found.tell(pending[0].cell, Outcome(float(pending[0].cell.ops.count("sigmoid"))))
        found = ShrinkSearch.from_json(json.loads(json.dumps(found.to_json())))
    assert found.best()["score"] >= 1


def test_workers_train_the_points_that_were_proposed(tmp_path, workers_at_once):
    class Space(keras_tuner.HyperModel):
        def build(self, hp):
            declare_cell(hp, Cell.dense(("input", "relu", "relu")), operations=OPS)
            units = hp.Choice("units", [2, 4, 8])
            if hp.values["cell/op_1"] == "tanh":
                raise OverBudgetError("target_units=1: too many")
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
            model.compile("sgd", "mse", run_eagerly=True)  # to trace it takes longer
            return model

    x = np.zeros((4, 2), "float32")
    found = []
    for workers in (1, 2):
        tuner = kas.AutoShrink(
            Space(),
            lambda logs, macs: float(macs),
            strategy="evolution",
            num_candidates=4,
            max_candidates=8,
            max_retries_per_trial=1,
            directory=tmp_path,
            project_name=str(workers),
            workers=workers,
        )
        tuner.search(x, np.zeros((4, 1)), epochs=1, verbose=0)
        found.append([c for record in tuner.trajectory() for c in record["candidates"]])
        for each in found[-1]:
            assert ("over_limit" in each) == (each["cell"]["ops"][1] == "tanh")
            assert each["error"] is None
            if "over_limit" not in each:
                assert each["score"] == 2 * each["cell"]["values"]["units"]
        first, *others = tuner.trajectory()
        assert first["candidates"][0]["changed"] == {}
        for record, before in zip(others, [first, *others], strict=False):
            for each in record["candidates"]:
                units = each["cell"]["values"]["units"]
                same = units == before["cell"]["values"]["units"]
                assert each["changed"].get("units") == (None if same else units)
                edited = each["removed_edges"] or each["added_edges"] or each["changed"]
                assert edited or each["cell"] == before["cell"]
        page = tmp_path / f"{workers}.html"
        kas.write_report(tuner, page)
        assert "units 4" in page.read_text() or "units 8" in page.read_text()
    assert len(workers_at_once) == 2
    scores = [[(c["cell"], c["score"]) for c in each] for each in found]
    assert scores[0] == scores[1]
    assert {c["status"] for c in found[0]} == {"adopted", "rejected", "over limit"}


class WithReference(Declares):
    def build(self, hp):
        hp.Fixed("network", "cell")
        return super().build(hp)

    def starting_values(self):
        return [{"cell/edge_0_2": False}, {"network": "chain"}]


def test_a_reference_that_wins_has_a_name_and_no_cell(tmp_path):
    def worth(point):
        return dict(point.values)["network"] == "chain"

    tuner = WithTuner.make(
        tmp_path,
        worth,
        hypermodel=WithReference(),
        strategy="evolution",
        num_candidates=3,
        max_candidates=9,
    )
    tuner.search(epochs=4, verbose=0)
    first, second, *_, last = tuner.trajectory()
    assert [first["reference"], first["epochs"], last["epochs"]] == ["chain", 2, 4]
    assert tuner.final()[0]["reference"] == last["reference"] == "chain"
    cell, reference = first["candidates"]
    assert cell["removed_edges"] == [[0, 2]]
    assert reference["reference"] == "chain"
    assert reference["cell"]["values"]["network"] == "chain"
    for record in (first, reference, last):
        assert record["edges_left"] == 0
        assert [*record["removed_edges"], *record["added_edges"], *record["changed"]] == []
    assert "reference" not in second
    for each in second["candidates"]:  # against the complete cell, which has all edges
        assert each["edges_left"] + len(each["removed_edges"]) == 10
        assert not {"network", "tuner/epochs", "tuner/repeat"} & {*each["changed"]}
    message = r"is the reference chain, which has no cell; hypermodel\.network\(tuner\.get_best"
    with pytest.raises(RuntimeError, match=message):
        tuner.best_cell()


def test_of_a_reference_that_is_good_what_it_is_like_is_changed(declared):
    like = {"units": 32, "optimizer": "adam", "cell/edge_0_3": False}
    first = [{}, {"epochs": 7, **like}, {"epochs": 9}]
    space = CellSpace(declared.hyperparameters, whole=True, first=first, rungs=(2, 4)).space
    _, reference, of_a_name_alone = space.first
    liked = space.likeness(reference)
    assert space.contains(liked)
    assert differences(liked, reference) == (0, 0, 1)
    assert {dict(p.values)["epochs"] for p in space.neighbours(reference, 1)} == {3}
    assert space.likeness(of_a_name_alone) is None
    assert [*space.neighbours(of_a_name_alone, 1)] == []
    for best in (reference, of_a_name_alone):
        found = ShrinkSearch(
            space.start, strategy="evolution", space=space, num_candidates=8, max_candidates=40
        )
        for each in found.pending():
            found.tell(each.cell, Outcome(float(each.cell == best)))
        near = [sum(differences(each.cell, liked)) == 1 for each in found.pending()]
        # The better of its parents a search changes more often.
        assert (sum(near) >= 3) == (best == reference)


def test_the_best_value_is_found_and_kept_as_json(declared):
    space = declared.space
    found = ShrinkSearch(
        space.start, strategy="evolution", num_candidates=4, max_candidates=60, space=space
    )
    while pending := found.pending():
        point = pending[0].cell
        values = dict(point.values)
        worth = values["units"] / 32 + (values["optimizer"] == "adam") + point.ops.count("tanh")
        found.tell(point, Outcome(worth))
        if len(found.outcomes) == 30:
            found = ShrinkSearch.from_json(json.loads(json.dumps(found.to_json())))
    best = found.best()
    assert best["cell"]["values"]["optimizer"] == "adam"
    assert best["cell"]["values"]["units"] == 32
    assert best["score"] >= 4


def with_final(hp_space, folds=1, **settings):
    """A search that begins with two points, one beside the space, and ends with a final."""
    first = [{"units": 16}, {"epochs": 7}]
    space = CellSpace(hp_space, whole=True, first=first, rungs=(2, 4), folds=folds).space
    settings = {"num_candidates": 4, **settings}
    return ShrinkSearch(space.start, strategy="evolution", space=space, **settings)


def run(search, score, seconds=60.0, at_a_time=2):
    """Trains by a rule, as if each epoch took some time, with a kill after each candidate."""
    while pending := search.pending():
        point = pending[0].cell
        took = (seconds(search) if callable(seconds) else seconds) * point.epochs / 2
        search.elapsed_seconds += took / at_a_time
        found = score(point)
        error = "out of memory" if found is None else None
        outcome = Outcome(found, error=error, seconds=took)
        search.tell(point, outcome)
        elapsed = search.elapsed_seconds
        search = ShrinkSearch.from_json(json.loads(json.dumps(search.to_json())))
        search.elapsed_seconds = elapsed
    return search


def worth(reference):
    """A rule that likes units and long trainings, and in repeats differs by their number."""

    def score(point):
        values = dict(point.values)
        if values["epochs"] == 7:
            return reference + point.epochs + values[REPEAT] / 10
        return values["units"] / 32 + point.epochs - values[REPEAT] / 10

    return score


@pytest.mark.parametrize(
    ("reference", "budget", "sizes"),
    # One that is not in the space, where a final has room for two.
    [(0.0, 40, [(3, 2)]), (10.0, 40, [(3, 2)]), (0.0, 60, [(5, 1), (3, 3)])],
)
def test_the_final_has_the_best_and_returns_no_less_than_the_best_reference(
    declared, reference, budget, sizes
):
    found = run(with_final(declared.hyperparameters, max_candidates=budget), worth(reference))
    assert len(found.outcomes) == budget
    rounds = [{c.cell.epochs for c in each.candidates} for each in found.rounds]
    assert rounds == [{2}] * (len(rounds) - len(sizes)) + [{4}] * len(sizes)
    networks = [
        Counter(c.cell.network for c in each.candidates) for each in found.rounds[-len(sizes) :]
    ]
    assert [(len(each), *{*each.values()}) for each in networks] == sizes
    for larger, smaller in itertools.pairwise(networks):
        assert {*smaller} < {*larger}
    assert len(found.rounds[0].candidates) == 2
    records = found.final()
    assert [len(record["scores"]) for record in records] == [sizes[-1][1]] * len(records)
    assert [record["reference"] for record in records].count("7") == 1
    assert [record["mean"] for record in records] == sorted(
        (record["mean"] for record in records), reverse=True
    )
    best = found.best()
    assert best["epochs"] == 4
    assert best["cell"]["values"]["epochs"] == (7 if reference else 3)
    # Of several trainings the mean counts, then the best one.
    assert best["score"] == max(records[0]["scores"])


def test_the_best_are_scored_on_all_parts_of_few_data(declared):
    def score(point):
        return len(point.edges) + random.Random(point.key).gauss(0, 1)

    trained = {}
    for folds in (1, 3):
        settings = {"num_candidates": 10, "max_candidates": 60, "folds": folds}
        found = run(with_final(declared.hyperparameters, **settings), score)
        parts = trained[folds] = {}
        for each in itertools.chain.from_iterable(r.candidates for r in found.rounds):
            if each.cell.epochs == 2:
                parts.setdefault(each.cell.network, []).append(each.cell.repeat)
    assert {*map(tuple, trained[1].values())} == {(0,)}
    assert {*map(tuple, trained[3].values())} == {(0,), (0, 1), (0, 1, 2)}
    again = sum(len(parts) - 1 for parts in trained[3].values())
    assert 8 <= again <= 0.3 * 60
    best = found.round.candidates[found.adopted[-1]].cell
    assert len(trained[3][best.network]) > 1


def quality(point):
    """A number from 0 to 1 that depends on the network alone."""
    return random.Random(point.network).random()


def on_unlike_parts(point):
    """A rule by which the second part of the data is much easier than all others."""
    return quality(point) + (5 if point.repeat == 2 else 0)


def test_a_second_final_has_no_favour_for_networks_that_the_first_scored_on_easy_data(declared):
    found = run(with_final(declared.hyperparameters, 3, max_candidates=40), on_unlike_parts)
    raised = ShrinkSearch.from_json({**found.to_json(), "max_candidates": 60})
    found = run(raised, on_unlike_parts)
    assert [{c.cell.epochs for c in each.candidates} for each in found.rounds[-2:]] == [{4}, {4}]
    before, after = (
        sorted(
            {quality(c.cell) for c in each.candidates if found.space.contains(c.cell)},
            reverse=True,
        )
        for each in found.rounds[-2:]
    )
    trainings = Counter(c.cell.network for c in found.rounds[-2].candidates)
    assert {*trainings.values()} == {1, 2}
    assert after == before[: len(after)] != before


def test_a_network_that_failed_on_hard_data_is_no_better_for_it(declared):
    whole = run(with_final(declared.hyperparameters, 3, max_candidates=40), on_unlike_parts)
    _, second, *_ = (record for record in whole.final() if record["reference"] is None)

    second = {**second["cell"], "values": {**second["cell"]["values"], REPEAT: 1}}

    def failing(point):
        return None if point.to_json() == second else on_unlike_parts(point)

    found = run(with_final(declared.hyperparameters, 3, max_candidates=40), failing)
    assert sorted(len(record["scores"]) for record in found.final()) == [1, 2, 2]
    means = [record["mean"] for record in whole.final()]
    assert [record["mean"] for record in found.final()] == pytest.approx(means)
    adopted = found.round.candidates[found.adopted[-1]].cell
    assert adopted.network == whole.round.candidates[whole.adopted[-1]].cell.network


@pytest.mark.parametrize(("size", "slower"), [(4, 1.0), (4, 1.3), (6, 1.3), (10, 1.45)])
def test_a_search_of_minutes_ends_in_time_and_with_a_final(declared, size, slower):
    generator = random.Random(1)

    def seconds(search):  # what is found late often takes longer
        return 40 * (slower if len(search.rounds) > 3 else 1) * generator.uniform(0.8, 1.2)

    settings = {"folds": 3, "num_candidates": size, "max_minutes": 30}
    found = run(with_final(declared.hyperparameters, **settings), worth(0.0), seconds)
    assert 28 <= found.elapsed_seconds / 60 <= 32
    # Four of the space and one beside it once, the better half twice more.
    for final, trained in zip(found.rounds[-2:], (5, 9), strict=True):
        assert [c.cell.epochs for c in final.candidates] == [4] * trained


def test_too_few_minutes_are_found_out_by_the_first_network(declared):
    search = with_final(declared.hyperparameters, max_minutes=1)
    assert search.too_short() is None
    search.elapsed_seconds = 50.0
    search.tell(search.pending()[0].cell, Outcome(0.5))
    assert "max_minutes=1: too short" in search.too_short()
    assert "about 3 minutes" in search.too_short()


@pytest.mark.parametrize("fitting", [(7,), (5, 7)])
def test_a_point_beside_the_space_that_is_over_a_limit_takes_no_room(declared, fitting):
    first = [{"units": 16}, *({"epochs": number} for number in (4, 5, 6, 7))]
    space = CellSpace(declared.hyperparameters, whole=True, first=first, rungs=(2, 4)).space
    # Two of five are the final's.
    settings = {"strategy": "evolution", "num_candidates": 2, "max_candidates": 5, "space": space}
    found = ShrinkSearch(space.start, **settings)
    tried = []
    while pending := found.pending():
        point = pending[0].cell
        tried.append(dict(point.values)["epochs"])
        fits = tried[-1] in (3, *fitting)
        outcome = Outcome(1.0) if fits else Outcome(None, over_limit="9 MACs, at most 8")
        found.tell(point, outcome)
    assert tried[:3] == [3, 4, 5]
    assert 7 in tried
    assert sum(outcome.over_limit is None for outcome in found.outcomes.values()) == 5
    best = "57" if 5 in fitting else "7"
    assert any([each["reference"] for each in found.final()].count(name) for name in best)
