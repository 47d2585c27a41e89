"""benchmarks/search_quality.py: searches in a table of trained networks."""

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import quality_contestants as contestants
import search_quality
from quality_networks import OPS, Networks, Session, SpentError, distinct_networks

from keras_autoshrink import Cell


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
    index = networks.index(first)
    scores = [session.train(first), session.train(first), session.train_again(first)]
    assert scores[0] == scores[1] != scores[2]
    assert {scores[0], scores[2]} <= {*networks.scores[index]}
    assert session.spent == 2
    halfway = session.train_until(second, 2)
    assert session.spent == 2.5
    assert halfway < session.train_until(second, 4)
    assert session.spent == 3
    with pytest.raises(SpentError):
        session.train(networks.cells[2])
    answer = session.answer()
    regrets = session.finish()
    assert regrets[1] == regrets[2] == networks.true.max() - networks.true[index]
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
