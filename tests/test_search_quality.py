"""benchmarks/search_quality.py and eight_nodes.py: what searches find for so many trainings."""

import json
import random
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import eight_nodes
import quality_contestants as contestants
import quality_training
import search_quality
from quality_networks import OPS, Networks, Session, Space, SpentError, all_parts, distinct_networks

from keras_autoshrink import Cell, CNNCellHyperModel

pytestmark = pytest.mark.slow


def accuracies(cell, seed, noise=0.0):
    """The curve of a network: edges 0-1 and 1-4 are good, all others cost."""
    generator = random.Random(f"{cell.key}/{seed}")
    good = len({(0, 1), (1, 4)} & {*cell.edges})
    best = 0.5 + 0.1 * good - 0.01 * len(cell.edges) + noise * generator.gauss(0, 1)
    return [best - 0.2, best - 0.1, best, best - 0.3]


def table_of(path, noise=0.0, without=0):
    cells = distinct_networks(Cell.dense(OPS))
    networks = [
        {
            "key": cell.key,
            "edges": cell.edges,
            "macs": 10**6,
            "params": 1,
            "val_accuracy": {str(seed): accuracies(cell, seed, noise) for seed in range(3)},
        }
        for cell in cells[without:]
    ]
    table = {"task": "made up", "settings": {}, "epochs": 4, "networks": networks}
    path.write_text(json.dumps(table))
    return path


@pytest.fixture
def exact(tmp_path):
    return Networks(table_of(tmp_path / "quality_exact.json"))


def test_there_are_268_networks_of_5_nodes(exact, tmp_path):
    assert len(exact.cells) == 268
    best = exact.cells[exact.true.argmax()]
    assert {(0, 1), (1, 4)} <= {*best.edges}
    assert exact.true.max() == pytest.approx(accuracies(best, 0)[2])
    assert len(exact.neighbours(exact.cells[0])) > 5
    chain, star = Cell(OPS, ((0, 1), (1, 2))), Cell(OPS, ((0, 1), (0, 2)))
    # However they are numbered: 0-2 alone is the network of 0-1 alone, and becomes them too.
    found = {cell.key for cell in exact.neighbours(Cell(OPS, ((0, 2),)))}
    assert {chain.key, star.key} <= found
    with pytest.raises(ValueError, match="not a table of each network once"):
        Networks(table_of(tmp_path / "part.json", without=1))


def test_a_session_counts_trainings_and_parts_of_them(tmp_path):
    networks = Networks(table_of(tmp_path / "noisy.json", noise=0.01))
    session = Session(networks, seed=0, budget=3)
    first, second = networks.cells[:2]
    scores = [session.train(first), session.train(first)]
    assert scores[0] == scores[1]
    assert scores[0] in networks.scores[networks.index(first)]
    assert session.spent == 1
    halfway = session.train_until(second, 2)
    assert session.spent == 1.5
    assert halfway < session.train_until(second, 4)
    assert session.spent == 2
    third, fourth = networks.cells[2:4]
    session.train(third)
    with pytest.raises(SpentError):
        session.train(fourth)
    answer = session.answer()
    regrets = session.finish()
    assert regrets[1] == networks.true.max() - networks.true[networks.index(first)]
    assert regrets[3] == networks.true.max() - networks.true[answer]


@pytest.mark.parametrize("name", [*search_quality.searches(4, 12)])
def test_every_search_trains_as_much_as_it_may_and_gets_better(exact, name):
    search = search_quality.searches(4, 12)[name]
    regrets = contestants.regrets(search, exact, 0, budget=12)
    assert regrets == contestants.regrets(search, exact, 0, budget=12)
    found = [regret for regret in regrets if regret == regret]
    assert len(found) >= 12
    assert found == sorted(found, reverse=True)  # without noise nothing is forgotten
    assert found[-1] < found[0]


def test_the_default_strategy_beats_chance_in_a_table_of_trained_networks():
    """What a wrong sign, a lost feature or a broken surrogate would not do.

    How it chooses among the promising ones tells less than so many searches can show: that is what
    test_acquisition.py is for.
    """
    networks = Networks(Path(search_quality.__file__).parent / "quality_cifar10.json")
    searches = search_quality.searches(networks.epochs, 40)
    chance, ours = (
        [contestants.regrets(searches[name], networks, seed, 40)[-1:19:-10] for seed in range(40)]
        for name in ("random networks", "AutoShrink bayesian, k=5")
    )
    # After 40, 30 and 20 networks.
    means = [[sum(counts) / 40 for counts in zip(*found, strict=True)] for found in (chance, ours)]
    for by_chance, by_us in zip(*means, strict=True):
        assert by_us < 0.6 * by_chance


def test_it_prints_and_draws_and_goes_on(tmp_path, capsys):
    path = table_of(tmp_path / "quality_noisy.json", noise=0.01)
    names = ["random networks", "AutoShrink paper, k=5"]
    command = ["--tables", str(path), "--budget", "42", "--json", str(tmp_path / "all.json")]
    command += ["--plot", str(tmp_path / "p.png"), "--only", *names]
    for seeds in (2, 3):
        assert search_quality.main([*command, "--seeds", str(seeds)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| random networks ") == 2
    results = json.loads((tmp_path / "all.json").read_text())["made up, weight 0.1"]
    assert {name: len(regrets) for name, regrets in results.items()} == dict.fromkeys(names, 3)
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_neighbours_are_one_edge_away_however_nodes_are_numbered():
    space = Space(OPS)
    keys = {frozenset(part.edges): part.key for part in all_parts(space.dense)}
    expected = {}
    for edges, key in keys.items():
        if all((i == 0 or any(j == i for _, j in edges)) for i, _ in edges):  # none is dead
            others = (keys.get(edges ^ {edge}) for edge in space.dense.edges)
            expected.setdefault(key, set()).update(others)
    for cell in distinct_networks(space.dense):
        found = [other.key for other in space.neighbours(cell)]
        assert len(found) == len({*found})
        assert {*found} == expected[cell.key] - {cell.key, None}


def test_trainings_are_kept(tmp_path):
    (data, validation), hypermodel = quality_training.load("digits", None, num_nodes=2)
    program = quality_training.compiled(data, validation, hypermodel)
    path = tmp_path / "digits.lines"
    made = quality_training.Trainings(path, program, len(data[1]), epochs=2)
    first, other = (made.accuracies(hypermodel.cell, seed) for seed in (0, 1))
    assert len(first) == 2
    assert first != other
    kept = quality_training.Trainings(path, None, len(data[1]), epochs=2)
    assert kept.accuracies(hypermodel.cell, 0) == first


class StandIn:
    """A program whose networks of six edges are best, with some luck."""

    def __init__(self):
        self.network = self
        self.cell = CNNCellHyperModel(num_nodes=8).cell
        self.trained = []

    def initial_weights(self, cell, generator):
        return generator.random()

    def count_macs(self, cell):
        return 10**6 + len(cell.edges)

    def initial_statistics(self, cell):
        return None

    def begin(self, cells, weights, statistics):
        self.trained += cells
        return 0.9 - 0.02 * abs(len(cells[0].live_edges) - 6) + 0.05 * weights[0]

    def epoch(self, training, orders):
        return training, np.array([[1.0, 0.5, 1.0, training]])


def test_random_networks_of_8_nodes_are_of_all_sizes():
    space = eight_nodes.Untrained(StandIn())
    cells = list(islice(space.draw(random.Random(0)), 300))
    assert cells[:9] == list(space.draw(random.Random(0), 9))
    assert len({cell.key for cell in cells}) == 300
    assert all(cell.edges == cell.live_edges for cell in cells)
    sizes = np.array([len(cell.edges) for cell in cells])
    assert (sizes < 7).sum() > 30
    assert (sizes > 20).sum() > 30


def test_searches_of_8_nodes_train_what_they_ask_for_and_go_on(tmp_path, monkeypatch, capsys):
    program = StandIn()
    monkeypatch.setattr(eight_nodes, "prepared", lambda task, data_dir: (program, 16))
    cache, results = tmp_path / "digits.lines", tmp_path / "found.json"
    command = ["digits", "--counts", "4", "9", "--cache", str(cache), "--json", str(results)]
    assert eight_nodes.main([*command, "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in eight_nodes.METHODS)
    lines = cache.read_text().splitlines()
    trained = {(key, seed): logs for key, seed, logs in map(json.loads, lines)}
    assert len(trained) == len(lines) == len(program.trained)
    # Each trains nine, and methods share what they can: the complete DAG at least.
    asked = 2 * 9 * len(eight_nodes.METHODS)
    assert asked / 2 < sum(seed < 3 for _, seed in trained) < asked
    found = json.loads(results.read_text())
    for searches in found["digits"].values():
        for answers in searches.values():
            assert answers["4"]["seen"] <= answers["9"]["seen"]
            cell = Cell(program.cell.ops, answers["9"]["edges"])
            fresh = [trained[cell.key, seed][0][3] for seed in (3, 4, 5)]
            assert answers["9"]["accuracies"] == fresh
    # Cut off after half: the rest is trained, once, to the same end.
    results.unlink()
    cache.write_text("\n".join(lines[::2]) + "\n")
    assert eight_nodes.main([*command, "--seeds", "2"]) == 0
    assert json.loads(results.read_text()) == found
    assert len(program.trained) == len(lines) + len(lines[1::2])
    eight_nodes.main([*command, "--seeds", "2"])
    assert len(program.trained) == len(lines) + len(lines[1::2])


def test_the_table_of_8_nodes_compares_searches_of_one_seed(tmp_path, capsys):
    def searches(*accuracies):
        return {
            str(seed): {"20": {"macs": 10**6, "accuracies": [accuracy] * 3}}
            for seed, accuracy in enumerate(accuracies)
        }

    names = eight_nodes.METHODS[:2]
    path = tmp_path / "found.json"
    results = {names[0]: searches(0.8, 0.9), names[1]: searches(0.85, 0.93)}
    path.write_text(json.dumps({"digits": results}))
    command = ["digits", "--seeds", "2", "--counts", "20", "--json", str(path), "--only", *names]
    assert eight_nodes.main(command) == 0
    printed = capsys.readouterr().out
    assert "0.8500 (0.0707) |" in printed
    assert "0.8900 (0.0566), +0.0400 ± 0.0100 |" in printed
