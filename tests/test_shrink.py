"""The books of a search, the paper's walk and the Bayesian strategy, with made-up results."""

import itertools
import json
import random

import pytest
from searches import OPS, computed

from keras_autoshrink.cell import Cell
from keras_autoshrink.search import bayesian
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch


def run(search, evaluate=lambda cell: Outcome(computed(cell))):
    """Runs a search to its end; returns the cells in the order in which they were trained."""
    trained = []
    while pending := search.pending():
        trained.append(pending[0].cell)
        search.tell(trained[-1], evaluate(trained[-1]))
    return trained


def paper(ops=OPS, **settings):
    return ShrinkSearch(Cell.dense(ops), strategy="paper", **settings)


def bayes(ops=OPS, **settings):
    return ShrinkSearch(Cell.dense(ops), strategy="bayesian", **settings)


def reloaded(search):
    return ShrinkSearch.from_json(json.loads(json.dumps(search.to_json())))


def failing_at(places):
    """A made-up training of which those that come at some places fail."""
    trained = itertools.count()

    def evaluate(cell):
        place = next(trained)
        return Outcome(None, error=f"boom {place}") if place in places else Outcome(computed(cell))

    return evaluate


def edges_of(record):
    return {tuple(edge) for edge in record["cell"]["edges"]}


@pytest.mark.parametrize("seed", range(3))
def test_the_papers_walk_of_8_nodes_goes_by_the_book(seed):
    search = paper(seed=seed)
    trained = run(search)
    records = search.trajectory()
    assert len(trained) <= 236
    assert records[0]["removed_edge"] is None
    assert records[0]["edges_left"] == 28
    assert len(records[0]["candidates"]) == 1
    for before, record in itertools.pairwise(records):
        start = Cell.from_json(before["cell"])
        # Only the last edge out of the input has to stay.
        ways_in = sum(i == 0 for i, _ in start.edges)
        removable = [edge for edge in start.edges if edge[0] != 0 or ways_in > 1]
        assert len(record["candidates"]) == min(10, len(removable))
        drawn = [tuple(candidate["removed_edge"]) for candidate in record["candidates"]]
        assert len(set(drawn)) == len(drawn)
        for candidate, edge in zip(record["candidates"], drawn, strict=True):
            assert edges_of(candidate) == set(start.without_edge(edge).live_edges)
        assert record["score"] == max(candidate["score"] for candidate in record["candidates"])
        adopted = [c for c in record["candidates"] if c["status"] == "adopted"]
        assert [c["cell"] for c in adopted] == [record["cell"]]
    assert records[-1]["edges_left"] == 1


def test_the_same_network_is_one_training():
    # Nodes 1 to 4 are alike: all cells that lack one of these edges are one network.
    star = Cell(("input", *["conv1x1"] * 4), [(0, node) for node in range(1, 5)])
    search = ShrinkSearch(star, strategy="paper")
    assert [len(cell.edges) for cell in run(search)] == [4, 3, 2, 1]
    assert [len(record["candidates"]) for record in search.trajectory()] == [1, 4, 3, 2]
    reused = [c for record in search.trajectory() for c in record["candidates"] if c["reused"]]
    assert len(reused) == 6
    assert all(candidate["seconds"] == 0 for candidate in reused)
    apart = Cell(("input", "node1", "node2", "node3"), [(0, node) for node in range(1, 4)])
    assert len(run(ShrinkSearch(apart, strategy="paper"))) == 1 + 3 + 2


def test_ties_go_to_fewer_macs_then_to_the_smaller_edge():
    ops = ("input", "conv1x1", "sepconv3x3", "conv1x1")

    def tied(cell):
        return Outcome(1.0, costs={"macs": 50 if (2, 3) in cell.edges else 40})

    search = paper(ops)
    run(search, tied)
    assert search.trajectory()[1]["removed_edge"] == [2, 3]
    search = paper(ops)
    run(search, lambda cell: Outcome(1.0, costs={"macs": 1}))
    assert search.trajectory()[1]["removed_edge"] == [0, 1]
    # Of equal rounds the one with fewest edges is the result.
    assert search.best()["edges_left"] == 1


def test_a_round_of_failures_and_of_too_costly_ones():
    """Those over a limit neither survive a round nor fail in it."""
    search = paper(("input", "tanh", "relu", "sigmoid"), num_candidates=3)
    over = Outcome(None, over_limit="9 MACs, at most 8", costs={"macs": 9})
    search.tell(search.cell, over)
    assert (search.error, search.best()) == (None, None)
    first, *others = search.pending()
    search.tell(first.cell, over)
    for each in others:
        search.tell(each.cell, Outcome(None, error="boom"))
    assert search.error == "all candidates of round 1 failed (2); the last one with: boom"
    assert len(search.reopen()) == 2
    assert {c.cell for c in search.pending()} == {c.cell for c in others}
    assert reloaded(search).trajectory() == search.trajectory()


def test_tell_refuses_a_cell_that_nobody_asked_for():
    search = paper()
    with pytest.raises(ValueError, match="not a pending candidate"):
        search.tell(Cell(("input", "conv1x1"), ((0, 1),)), Outcome(1.0))
    search.tell(search.cell, Outcome(1.0))
    with pytest.raises(ValueError, match="not a pending candidate"):
        search.tell(search.cell, Outcome(1.0))


def test_unreachable_parts_of_the_first_cell_do_not_count():
    search = ShrinkSearch(Cell(OPS[:4], ((0, 3), (1, 2), (2, 3))), strategy="paper")
    assert search.cell.edges == ((0, 3),)
    assert run(search) == [search.cell]


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"num_candidates": 0}, "num_candidates=0"),
        ({"num_candidates": 2.5}, "num_candidates=2.5"),
        ({"seed": None}, "seed=None"),
        ({"keep_fraction": 1.5}, "keep_fraction=1.5"),
        ({"strategy": "random"}, "strategy='random': expected one of bayesian, evolution, paper"),
        ({"strategy": "paper", "max_candidates": 9}, "max_candidates=9: the strategy 'paper' ends"),
        ({"max_candidates": 0}, "max_candidates=0"),
        ({"proposals": [[[(0, 1), (0, 9)]]]}, "node 9"),
    ],
)
def test_bad_settings_are_named(settings, culprit):
    with pytest.raises((TypeError, ValueError), match=culprit):
        ShrinkSearch(Cell.dense(OPS), **settings)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [((float("nan"),), "not finite"), ((None,), "either a score or an error")],
)
def test_an_outcome_is_a_finite_score_or_an_error(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        Outcome(*arguments)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"format": "x"}, "not a search"),
        ({"version": 0}, "version 0"),
        ({"cell": {}}, "not a cell"),
        ({"seed": "x"}, "damaged"),
        ({"outcomes": None}, "damaged"),
        ({"proposals": 3}, "damaged"),
        ({"outcomes": {"input,conv1x1:0>1": {"score": 1.0}}}, "never proposed"),
    ],
)
def test_damaged_json_is_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        ShrinkSearch.from_json({**paper().to_json(), **change})


def test_records_say_which_edges_a_round_removed_and_brought_back():
    search = bayes(max_candidates=45)
    run(search)
    records = search.trajectory()
    assert records[0]["removed_edges"] == records[0]["added_edges"] == []
    assert any(record["added_edges"] for record in records)
    for before, record in itertools.pairwise(records):
        for candidate in record["candidates"]:
            removed, added = (
                {tuple(edge) for edge in candidate[name]}
                for name in ("removed_edges", "added_edges")
            )
            assert edges_of(candidate) == (edges_of(before) - removed) | added
            edge = candidate["removed_edge"]
            if edge is not None:  # by which alone it is less, but for what that cuts off
                smaller = Cell.from_json(before["cell"]).without_edge(tuple(edge))
                assert edges_of(candidate) == set(smaller.live_edges)
            assert edge is not None or len(removed) != 1 or added
        assert record["score"] == max(c["score"] for c in record["candidates"])


@pytest.mark.parametrize("stop_after", [1, 21])
def test_a_state_is_read_without_computing(stop_after, monkeypatch):
    stopped = bayes(OPS[:5], num_candidates=7, max_candidates=28, seed=6)
    for place in range(stop_after):
        cell = stopped.pending()[-1].cell
        # Failures too, and not in the order in which they were proposed.
        stopped.tell(cell, Outcome(None, error="boom") if place == 9 else Outcome(computed(cell)))
    with monkeypatch.context() as patched:
        for name in ("first_parts", "best_parts"):
            patched.setattr(bayesian, name, None)
        resumed = reloaded(stopped)
    assert resumed.pending() == stopped.pending()
    run(stopped)
    run(resumed)
    assert resumed.trajectory() == stopped.trajectory()


def test_there_is_nothing_to_learn_from_before_there_are_6_scores(monkeypatch):
    learnt_from, best_parts = [], bayesian.best_parts

    def noted(parts, scores, failed, *others):
        learnt_from.append((len(scores), len(failed)))
        return best_parts(parts, scores, failed, *others)

    monkeypatch.setattr(bayesian, "best_parts", noted)
    run(bayes(OPS[:6], num_candidates=1, max_candidates=11), failing_at({2, 4}))
    assert learnt_from == [(6, 2), (7, 2), (8, 2)]


@pytest.mark.parametrize(
    ("candidates", "fails"), [(5, {6, 7, 8, 9, 10}), (1, {1}), (1, {*range(3, 12)})]
)
def test_a_bayesian_search_goes_on_after_a_round_without_survivors(candidates, fails):
    search = bayes(OPS[:5], num_candidates=candidates, max_candidates=12)
    evaluate = failing_at(fails)
    for _ in range(12):
        cell = search.pending()[0].cell
        search.tell(cell, evaluate(cell))
        assert reloaded(search).pending() == search.pending()
    assert search.done
    assert search.error is None
    passed_over = 0
    for before, record in itertools.pairwise(search.trajectory()):
        if {candidate["status"] for candidate in record["candidates"]} == {"failed"}:
            passed_over += 1
            for name in ("cell", "score", "objective", "macs", "edges_left"):
                assert record[name] == before[name]
            assert record["removed_edge"] is None
            assert record["removed_edges"] == record["added_edges"] == []
    assert passed_over == (1 if candidates > 1 else len(fails))


def test_a_bayesian_search_gives_up_after_10_failures_in_a_row():
    search = bayes(OPS[:6], num_candidates=4, max_candidates=24)
    run(search, failing_at(range(5, 40)))
    expected = "all candidates of rounds 2 to 4 failed (12); the last one with: boom 16"
    assert search.error == reloaded(search).error == expected
    assert len(search.reopen()) == 4
    run(search)
    assert search.error is None
    assert len(search.outcomes) == 24


@pytest.mark.parametrize("budget", [1, 12])
def test_a_bayesian_search_without_any_score_gives_up(budget):
    search = bayes(max_candidates=budget)
    run(search, failing_at(range(12)))
    assert search.error == "all candidates of round 0 failed (1); the last one with: boom 0"
    search.reopen()
    assert len(run(search)) == budget


def test_by_default_it_trains_as_many_as_the_paper_would_at_most():
    assert bayes().max_remaining() == paper().max_remaining() == 235


def test_a_small_space_is_exhausted_and_each_network_trained_once():
    search = bayes(OPS[:4], num_candidates=5, max_candidates=1000)
    keys = {cell.key for cell in run(search)}
    every = {
        Cell(OPS[:4], edges).key
        for count in range(1, 7)
        for edges in itertools.combinations(search.cell.edges, count)
        if any(i == 0 for i, _ in edges)
    }
    assert keys == every
    assert search.max_remaining() == 0


@pytest.mark.parametrize("seed", range(2))
def test_it_finds_what_few_edges_are_worth_with_fewer_networks_than_the_paper(seed):
    worth = {(0, 3): 0.3, (3, 6): 0.2, (0, 5): -0.2, (2, 4): -0.2}

    def evaluate(cell):
        noise = random.Random(f"{seed}/{cell.key}").gauss(0, 0.02)
        score = sum(gain for edge, gain in worth.items() if edge in cell.edges)
        return Outcome(score - len(cell.edges) / 50 + noise)

    # No two nodes are alike: an edge is worth the same whatever else there is.
    search = bayes(("input", *(f"node{node}" for node in range(1, 8))), max_candidates=80)
    run(search, evaluate)
    best = edges_of(search.best())
    assert {(0, 3), (3, 6)} <= best
    assert not {(0, 5), (2, 4)} & best
    assert len(best) <= 6
