import itertools
import json
import random

import pytest

from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.seeding import training_seed
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.search import bayesian as acquisition
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch

OPS = (
    "input",
    "sepconv3x3",
    "conv1x1",
    "conv1x1",
    "sepconv3x3",
    "conv1x1",
    "sepconv3x3",
    "conv1x1",
)


def outcome(cell, salt=0):
    """A made-up result that depends on the network alone, as a real one does."""
    noise = random.Random(f"{salt}/{cell.key}").random()
    return Outcome(score=noise - len(cell.edges) / 30, objective=noise, macs=len(cell.edges) + 1)


def run(search, evaluate=outcome, order=None):
    """Runs a search to its end; returns the cells in the order in which they were trained."""
    trained = []
    while pending := search.pending():
        candidate = order.choice(pending) if order else pending[0]
        trained.append(candidate.cell)
        search.tell(candidate.cell, evaluate(candidate.cell))
    return trained


def papers(cell, **settings):
    """A search by the paper's walk, unless the settings say otherwise."""
    return ShrinkSearch(cell, **{"strategy": "paper", **settings})


def dense(**settings):
    return papers(Cell.dense(OPS), **settings)


# What every strategy has to hold to.
every_strategy = pytest.mark.parametrize(
    "settings",
    [{}, {"strategy": "bayesian", "num_candidates": 7, "max_candidates": 40}],
    ids=["paper", "bayesian"],
)


def edge_list(cell_json):
    return {tuple(edge) for edge in cell_json["edges"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_search_of_8_nodes_goes_by_the_book(seed):
    search = dense(seed=seed)
    trained = run(search)
    records = search.trajectory()
    assert len(trained) <= 236
    assert len({cell.key for cell in trained}) == len(trained)
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
            smaller = start.without_edge(edge)
            assert len(smaller.edges) == len(start.edges) - 1
            assert edge_list(candidate["cell"]) == set(smaller.live_edges)
        best = max(candidate["score"] for candidate in record["candidates"])
        assert record["score"] == best
        adopted = [c for c in record["candidates"] if c["status"] == "adopted"]
        assert [c["cell"] for c in adopted] == [record["cell"]]
    assert records[-1]["edges_left"] == 1
    assert search.done
    assert search.error is None
    assert search.best()["score"] == max(record["score"] for record in records)


@every_strategy
def test_the_seed_decides_and_0_is_one(settings):
    trajectories = []
    for seed in (0, 0, 1, 2):
        search = dense(seed=seed, **settings)
        run(search)
        trajectories.append(search.trajectory())
    assert trajectories[0] == trajectories[1]
    assert trajectories[0] != trajectories[2] != trajectories[3] != trajectories[0]


@every_strategy
def test_the_order_of_answers_changes_nothing(settings):
    in_order, shuffled = dense(seed=3, **settings), dense(seed=3, **settings)
    run(in_order)
    run(shuffled, order=random.Random(0))
    assert in_order.trajectory() == shuffled.trajectory()


@every_strategy
@pytest.mark.parametrize("stop_after", [0, 1, 7, 25, 40, 200])
def test_resumed_from_json_it_ends_the_same(stop_after, settings):
    whole, stopped = dense(seed=4, **settings), dense(seed=4, **settings)
    run(whole)
    for _ in range(stop_after):
        if pending := stopped.pending():
            stopped.tell(pending[-1].cell, outcome(pending[-1].cell))
    resumed = shrink.from_json(json.loads(json.dumps(shrink.to_json(stopped))))
    assert resumed.trajectory() == stopped.trajectory()
    run(resumed)
    assert resumed.trajectory() == whole.trajectory()


def test_the_same_network_is_one_training():
    # Nodes 1 to 4 are alike: all cells that lack one of these edges are one network.
    star = Cell(("input", *["conv1x1"] * 4), [(0, node) for node in range(1, 5)])
    search = papers(star, num_candidates=10)
    trained = run(search)
    assert [len(cell.edges) for cell in trained] == [4, 3, 2, 1]
    assert [len(record["candidates"]) for record in search.trajectory()] == [1, 4, 3, 2]
    reused = [c for record in search.trajectory() for c in record["candidates"] if c["reused"]]
    assert len(reused) == 6
    assert all(candidate["seconds"] == 0 for candidate in reused)


def test_nodes_of_unknown_ops_are_never_alike():
    star = Cell(("input", "node1", "node2", "node3"), [(0, node) for node in range(1, 4)])
    search = papers(star)
    assert len(run(search)) == 1 + 3 + 2


@every_strategy
def test_no_network_is_trained_twice(settings):
    for seed in range(3):
        keys = [cell.key for cell in run(dense(seed=seed, **settings))]
        assert len(set(keys)) == len(keys)


def test_a_network_of_an_earlier_round_is_not_trained_again():
    reused = []
    for seed in range(10):
        search = dense(seed=seed)
        keys = [cell.key for cell in run(search)]
        assert len(set(keys)) == len(keys)
        reused += [c for r in search.trajectory() for c in r["candidates"] if c["reused"]]
    assert reused
    for candidate in reused:
        assert candidate["score"] == outcome(Cell.from_json(candidate["cell"])).score


def test_ties_go_to_fewer_macs_then_to_the_smaller_edge():
    def tied(cell):
        return Outcome(score=1.0, macs=50 if (2, 3) in cell.edges else 40)

    search = papers(Cell.dense(("input", "conv1x1", "sepconv3x3", "conv1x1")))
    run(search, tied)
    assert search.trajectory()[1]["removed_edge"] == [2, 3]

    search = papers(Cell.dense(("input", "conv1x1", "sepconv3x3", "conv1x1")))
    run(search, lambda cell: Outcome(score=1.0, macs=1))
    assert search.trajectory()[1]["removed_edge"] == [0, 1]
    # Of equal rounds the one with fewest edges is the result.
    assert search.best()["edges_left"] == 1


@every_strategy
@pytest.mark.parametrize("fraction", [0.01, 0.25, 1])
def test_no_cell_is_smaller_than_keep_fraction_says(fraction, settings):
    search = dense(keep_fraction=fraction, **settings)
    run(search)
    least = max(1, round(28 * fraction))
    # What the removal of an edge cuts off is no edge that was taken.
    slack = 0 if search.strategy == "bayesian" else 7
    for record in search.trajectory():
        assert min(c["edges_left"] for c in record["candidates"]) >= least - slack


@pytest.mark.parametrize(("fraction", "left"), [(0.01, 1), (0.25, 7), (1, 28)])
def test_keep_fraction_ends_it(fraction, left):
    search = dense(keep_fraction=fraction)
    run(search)
    assert search.trajectory()[-1]["edges_left"] <= left
    assert all(record["edges_left"] > left for record in search.trajectory()[:-1])


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)
@every_strategy
def test_max_remaining_is_a_bound_that_falls_to_0(settings, seed):
    search = dense(seed=seed, **{**settings, "num_candidates": 4})
    bounds = []
    while pending := search.pending():
        bounds.append(search.max_remaining())
        search.tell(pending[0].cell, outcome(pending[0].cell))
    assert all(later < sooner for sooner, later in itertools.pairwise(bounds))
    assert bounds[0] >= len(bounds)
    assert search.max_remaining() == 0


@every_strategy
def test_failures_are_passed_over(settings):
    def fails_without_0_1(cell):
        if (0, 1) not in cell.edges:
            return Outcome(None, error="out of memory")
        return outcome(cell)

    # No two nodes are alike: what fails is not the same network as what does not.
    search = papers(Cell.dense(("input", "tanh", "relu", "sigmoid")), **settings)
    run(search, fails_without_0_1)
    assert search.error is None
    for record in search.trajectory():
        assert (0, 1) in edge_list(record["cell"])
    failed = [c for r in search.trajectory() for c in r["candidates"] if c["status"] == "failed"]
    assert failed
    assert {candidate["error"] for candidate in failed} == {"out of memory"}
    assert {candidate["score"] for candidate in failed} == {None}


@every_strategy
def test_rounds_without_survivors_can_be_tried_again(settings):
    settings = {**settings, "num_candidates": 10}

    def fails(cell):
        return outcome(cell) if len(cell.edges) == 28 else Outcome(None, error="boom")

    search = dense(seed=5, **settings)
    run(search, fails)
    assert "all candidates of round 1 failed (10); the last one with: boom" in search.error
    restored = shrink.from_json(shrink.to_json(search))
    assert restored.error == search.error
    assert len(restored.reopen()) == len(restored.pending()) == 10
    whole = dense(seed=5, **settings)
    run(whole)
    run(restored)
    assert restored.trajectory() == whole.trajectory()


@pytest.mark.parametrize("fails_at", [6, 5])
def test_a_round_without_survivors_ends_the_search_with_the_last_error(fails_at):
    def fails(cell):
        if len(cell.edges) <= fails_at:
            return Outcome(None, error=f"boom {len(cell.edges)}")
        return outcome(cell)

    search = papers(Cell.dense(OPS[:4]), num_candidates=3)
    run(search, fails)
    assert search.done
    assert search.max_remaining() == 0
    assert f"of round {6 - fails_at} failed (" in search.error
    assert "boom" in search.error
    assert len(search.trajectory()) == 6 - fails_at
    restored = shrink.from_json(shrink.to_json(search))
    assert restored.error == search.error


def test_tell_refuses_a_cell_that_nobody_asked_for():
    search = dense()
    with pytest.raises(ValueError, match="not a pending candidate"):
        search.tell(Cell(("input", "conv1x1"), ((0, 1),)), Outcome(1.0))
    search.tell(search.cell, Outcome(1.0))
    with pytest.raises(ValueError, match="not a pending candidate"):
        search.tell(search.cell, Outcome(1.0))


def test_unreachable_parts_of_the_first_cell_do_not_count():
    search = papers(Cell(OPS[:4], ((0, 3), (1, 2), (2, 3))))
    assert search.cell.edges == ((0, 3),)
    assert run(search) == [search.cell]


@pytest.mark.parametrize(
    ("settings", "error", "culprit"),
    [
        ({"num_candidates": 0}, ValueError, "num_candidates=0"),
        ({"num_candidates": 2.5}, TypeError, "num_candidates=2.5"),
        ({"seed": None}, TypeError, "seed=None"),
        ({"keep_fraction": -0.1}, ValueError, "keep_fraction=-0.1"),
        ({"keep_fraction": 1.5}, ValueError, "keep_fraction=1.5"),
        ({"keep_fraction": "all"}, TypeError, "keep_fraction='all'"),
        ({"strategy": "random"}, ValueError, "strategy='random': expected one of paper, bayesian"),
        ({"max_candidates": 9}, ValueError, "max_candidates=9: the strategy 'paper' ends by"),
        ({"strategy": "bayesian", "max_candidates": 0}, ValueError, "max_candidates=0"),
        ({"strategy": "bayesian", "max_candidates": "9"}, TypeError, "max_candidates='9'"),
    ],
)
def test_bad_settings_are_named(settings, error, culprit):
    with pytest.raises(error, match=culprit):
        dense(**settings)


def test_proposals_have_edges_of_the_first_cell():
    chain = Cell(OPS[:4], ((0, 1), (1, 2), (2, 3)))
    with pytest.raises(
        ValueError, match=r"proposals: edge \(0, 3\) is none of the complete cell's"
    ):
        ShrinkSearch(chain, proposals=[[[(0, 1), (0, 3)]]])


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_is_finite(score):
    with pytest.raises(ValueError, match="not finite"):
        Outcome(score)


def test_an_outcome_is_a_score_or_an_error():
    with pytest.raises(ValueError, match="either a score or an error"):
        Outcome(None)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"format": "x"}, "not a search"),
        ({"version": 0}, "version 0"),
        ({"cell": {}}, "not a cell"),
        ({"seed": "x"}, "damaged"),
        ({"outcomes": None}, "damaged"),
        ({"proposals": 3}, "damaged"),
        ({"proposals": [[[[0, 9]]]]}, "node 9 is not one of"),
        ({"outcomes": {"input,conv1x1:0>1": {"score": 1.0}}}, "never proposed"),
    ],
)
def test_damaged_json_is_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        shrink.from_json({**shrink.to_json(dense()), **change})


def test_training_seed_depends_on_seed_and_network_alone():
    cell = Cell(OPS[:3], ((0, 1), (0, 2)))
    renumbered = Cell(("input", "conv1x1", "sepconv3x3"), ((0, 1), (0, 2)))
    assert training_seed(0, cell) == training_seed(0, renumbered)
    assert training_seed(0, cell) != training_seed(1, cell)
    assert training_seed(0, cell) != training_seed(0, cell.without_edge((0, 2)))
    assert 0 <= training_seed(0, cell) < 2**31


def test_accuracy_score():
    logs = {"val_accuracy": 0.8}
    assert AccuracyScore()(logs, 1_000_000) == pytest.approx(0.8)
    assert AccuracyScore()(logs, 10_000_000) == pytest.approx(0.7)
    assert AccuracyScore(weight=0)(logs, 10_000_000) == pytest.approx(0.8)
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight="):
            AccuracyScore(weight)


def test_a_search_by_the_paper_is_written_as_it_was_before_there_were_others():
    search = dense()
    run(search)
    assert list(shrink.to_json(search)) == [
        *("format", "version", "cell", "num_candidates", "keep_fraction", "seed", "outcomes")
    ]
    for record in search.trajectory():
        assert not {"removed_edges", "added_edges"} & {*record, *record["candidates"][0]}


def bayesian(ops=OPS, **settings):
    return ShrinkSearch(Cell.dense(ops), strategy="bayesian", **settings)


def test_records_say_which_edges_a_bayesian_round_removed_and_brought_back():
    search = bayesian(max_candidates=45)
    run(search)
    records = search.trajectory()
    assert records[0]["removed_edges"] == records[0]["added_edges"] == []
    assert any(record["added_edges"] for record in records)
    for before, record in itertools.pairwise(records):
        start = edge_list(before["cell"])
        for candidate in record["candidates"]:
            removed, added = (
                {tuple(edge) for edge in candidate[name]}
                for name in ("removed_edges", "added_edges")
            )
            assert edge_list(candidate["cell"]) == (start - removed) | added
            single = len(removed) == 1 and not added
            assert candidate["removed_edge"] == (list(*removed) if single else None)
        assert record["score"] == max(c["score"] for c in record["candidates"])


@pytest.mark.parametrize(
    "stop_after",
    [*(pytest.param(count, marks=pytest.mark.slow) for count in (0, 1, 4, 8, 30, 40)), 21],
)
def test_a_bayesian_search_loads_without_computing_and_goes_on_as_if_never_stopped(
    stop_after, monkeypatch
):
    settings = {"num_candidates": 7, "max_candidates": 40, "seed": 6}
    whole, stopped = bayesian(**settings), bayesian(**settings)
    run(whole)
    for place, cell in enumerate(stopping_at(stop_after, stopped)):
        # Failures too, and not in the order in which they were proposed.
        stopped.tell(cell, Outcome(None, error="boom") if place == 9 else outcome(cell))
    state = json.loads(json.dumps(shrink.to_json(stopped)))
    with monkeypatch.context() as patched:
        for name in ("first_parts", "best_parts"):
            patched.setattr(acquisition, name, None)
        resumed = shrink.from_json(state)
        assert resumed.trajectory() == stopped.trajectory()
        assert resumed.pending() == stopped.pending()
    assert shrink.to_json(resumed)["proposals"] == shrink.to_json(stopped)["proposals"]
    del state["proposals"]  # as of a search from before they were written
    assert shrink.from_json(state).pending() == stopped.pending()
    run(stopped)
    run(resumed)
    assert resumed.trajectory() == stopped.trajectory()
    if stop_after <= 9:
        assert resumed.trajectory() == whole.trajectory()


def test_there_is_nothing_to_learn_from_before_there_are_6_scores(monkeypatch):
    learnt_from, best_parts = [], acquisition.best_parts

    def noted(parts, scores, failed, *others):
        learnt_from.append((len(scores), len(failed)))
        return best_parts(parts, scores, failed, *others)

    monkeypatch.setattr(acquisition, "best_parts", noted)
    run(bayesian(num_candidates=1, max_candidates=11), failing_at({2, 4}))
    assert learnt_from == [(6, 2), (7, 2), (8, 2)]


def stopping_at(count, search):
    """The next cells of a search, the last one of each round first."""
    for _ in range(count):
        yield search.pending()[-1].cell


def failing_at(places):
    """A made-up training of which those that come at some places fail."""
    trained = itertools.count()

    def evaluate(cell):
        place = next(trained)
        return Outcome(None, error=f"boom {place}") if place in places else outcome(cell)

    return evaluate


@pytest.mark.parametrize(
    ("candidates", "fails"),
    [
        (5, {11}),
        (5, {6, 7, 8, 9, 10}),
        (1, {1}),
        (1, {11}),
        (1, {*range(3, 12)}),
        (20, {*range(1, 12)}),
    ],
)
def test_a_bayesian_search_goes_on_after_a_round_without_survivors(candidates, fails):
    settings = {"num_candidates": candidates, "max_candidates": 12}
    search = bayesian(OPS[:5], **settings)
    stopped = None
    evaluate = failing_at(fails)
    for place in range(12):
        cell = search.pending()[0].cell
        search.tell(cell, evaluate(cell))
        # As a search that has been interrupted here goes on.
        stopped = shrink.from_json(json.loads(json.dumps(shrink.to_json(search))))
        assert stopped.trajectory() == search.trajectory()
        assert stopped.pending() == search.pending(), place
    assert search.done
    assert search.error is None
    assert search.max_remaining() == 0
    assert search.best()["score"] == search.best_score
    records = search.trajectory()
    assert sum(len(record["candidates"]) for record in records) == 12
    passed_over = 0
    for before, record in itertools.pairwise(records):
        if any(candidate["status"] == "adopted" for candidate in record["candidates"]):
            continue
        passed_over += 1
        assert {candidate["status"] for candidate in record["candidates"]} == {"failed"}
        for name in ("cell", "score", "objective", "macs", "edges_left"):
            assert record[name] == before[name]
        assert record["removed_edge"] is None
        assert record["removed_edges"] == record["added_edges"] == []
    assert passed_over == (1 if candidates > 1 else len(fails))


@pytest.mark.parametrize(
    ("candidates", "survivors", "rounds", "failed"),
    [
        pytest.param(1, 1, "rounds 1 to 10", 10, marks=pytest.mark.slow),
        pytest.param(1, 4, "rounds 4 to 13", 10, marks=pytest.mark.slow),
        (4, 5, "rounds 2 to 4", 12),
    ],
)
def test_a_bayesian_search_gives_up_after_10_failures_in_a_row(
    candidates, survivors, rounds, failed
):
    search = bayesian(num_candidates=candidates, max_candidates=40)
    run(search, failing_at(range(survivors, 40)))
    last = survivors + failed - 1
    assert (
        search.error
        == f"all candidates of {rounds} failed ({failed}); the last one with: boom {last}"
    )
    restored = shrink.from_json(shrink.to_json(search))
    assert restored.error == search.error
    assert len(restored.reopen()) == candidates
    before = len(restored.outcomes)
    run(restored)
    assert restored.error is None
    assert len(restored.outcomes) == 40
    assert before == survivors + failed - candidates
    # Nor does it forget that it has given up where the same fails again.
    search.reopen()
    run(search, failing_at(range(40)))
    assert f"all candidates of {rounds} failed ({failed})" in search.error


@pytest.mark.parametrize("budget", [1, 12])
def test_a_bayesian_search_without_any_score_gives_up(budget):
    search = bayesian(max_candidates=budget)
    run(search, failing_at(range(12)))
    assert search.error == "all candidates of round 0 failed (1); the last one with: boom 0"
    search.reopen()
    assert len(run(search)) == budget


@pytest.mark.parametrize(("candidates", "budget"), [(10, 1), (10, 25), (4, 40)])
def test_a_bayesian_search_trains_as_many_networks_as_it_may(candidates, budget):
    search = bayesian(num_candidates=candidates, max_candidates=budget)
    assert search.max_remaining() == budget
    assert len(run(search)) == budget
    rounds = [len(record["candidates"]) for record in search.trajectory()]
    assert all(count == candidates for count in rounds[1:-1])
    assert search.done
    assert search.error is None


def test_by_default_it_trains_as_many_as_the_paper_would_at_most():
    assert bayesian().max_remaining() == dense().max_remaining() == 235


def test_a_small_space_is_exhausted_and_each_network_trained_once():
    search = bayesian(OPS[:4], num_candidates=5, max_candidates=1000)
    keys = {cell.key for cell in run(search)}
    every = {
        Cell(OPS[:4], edges).key
        for count in range(1, 7)
        for edges in itertools.combinations(search.cell.edges, count)
        if any(i == 0 for i, _ in edges)
    }
    assert keys == every
    assert search.done
    assert search.max_remaining() == 0


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_few_edges_are_worth_with_fewer_networks_than_the_paper(seed):
    worth = {(0, 3): 0.3, (3, 6): 0.2, (0, 5): -0.2, (2, 4): -0.2}

    def evaluate(cell):
        noise = random.Random(f"{seed}/{cell.key}").gauss(0, 0.02)
        score = sum(gain for edge, gain in worth.items() if edge in cell.edges)
        return Outcome(score - len(cell.edges) / 50 + noise)

    # No two nodes are alike: an edge is worth the same whatever else there is.
    search = bayesian(("input", *(f"node{node}" for node in range(1, 8))), max_candidates=80)
    run(search, evaluate)
    best = edge_list(search.best()["cell"])
    assert {(0, 3), (3, 6)} <= best
    assert not {(0, 5), (2, 4)} & best
    assert len(best) <= 6
