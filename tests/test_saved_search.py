"""What a folder says of the search in it, and of the command that ran it."""

import json
from pathlib import Path

import pytest
from computed_searches import accuracy, at_budget, bayesian, outcome, paper, run, save

from keras_autoshrink.cell import SHRINKCNN_CELL, Cell
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.report import saved_search

SMALL = Cell.dense(("input", "conv1x1", "sepconv3x3", "conv1x1"))


@pytest.fixture
def finished():
    return run(paper(SMALL, num_candidates=2))


@pytest.mark.parametrize(
    ("metric", "objective"),
    [("val_accuracy", "accuracy"), ("edges", "edges"), ("score", "objective")],
)
def test_a_search_is_read_by_its_folder_or_its_tuner(tmp_path, finished, metric, objective):
    tuner = save(finished, tmp_path, metric)
    for search in (tuner, tmp_path, str(tmp_path)):
        folder, found, name = saved_search.open_search(search, None)
        assert (folder, name) == (tmp_path, objective)
        assert found.trajectory() == json.loads(json.dumps(finished.trajectory()))
    assert saved_search.open_search(tmp_path, "what I say")[2] == "what I say"


@pytest.mark.parametrize(
    ("state", "culprit"),
    [
        (None, "holds no search"),
        ("{", "oracle.json: damaged"),
        ({}, "has not begun"),
        ({"search": {"cell": {}}}, "oracle.json: damaged"),
        ({"search": paper(SMALL).to_json(), "about": "score"}, "oracle.json: damaged"),
    ],
)
def test_a_folder_without_a_whole_search_is_refused(tmp_path, state, culprit):
    if state is not None:
        text = state if isinstance(state, str) else json.dumps(state)
        (tmp_path / "oracle.json").write_text(text)
    with pytest.raises(ValueError, match=culprit) as raised:
        saved_search.open_search(tmp_path, None)
    assert str(tmp_path) in str(raised.value)


def test_a_cell_is_read_from_a_file_a_folder_or_by_its_name(tmp_path, finished):
    best = Cell.from_json(finished.best()["cell"]).prune()
    save(finished, tmp_path)
    assert saved_search.read_cell(tmp_path) == best
    best.save(tmp_path / "cell.json")
    assert saved_search.read_cell(tmp_path / "cell.json") == best
    assert saved_search.read_cell(Path("shrinkcnn")) == SHRINKCNN_CELL
    with pytest.raises(ValueError, match=r"nothing\.json: cannot be read"):
        saved_search.read_cell(tmp_path / "nothing.json")
    save(paper(), tmp_path)
    with pytest.raises(ValueError, match="has no network with a score yet"):
        saved_search.read_cell(tmp_path)


def test_results_are_written_beside_a_search(tmp_path, finished):
    save(finished, tmp_path)
    written = saved_search.write_results(tmp_path, "accuracy")
    assert all(path.stat().st_size for path in written)
    # The picture has the numbers of the rounds.
    best = Cell.from_json(finished.best()["cell"])
    assert saved_search.searched_cell(tmp_path) == best
    assert {path.name for path in written} >= {"cell.png", "trajectory.png"}
    assert Cell.load(tmp_path / "cell.json") == saved_search.read_cell(tmp_path)
    records = json.loads((tmp_path / "trajectory.json").read_text())
    assert records == json.loads(json.dumps(finished.trajectory()))


def test_a_reference_that_won_at_a_budget_is_the_result(tmp_path, finished):
    save(finished, tmp_path)
    config = {"hypermodel": {"config": {"target_macs": 9_000}}}
    (tmp_path / "tuner0.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has no architecture\.json; `autoshrink search` writes"):
        saved_search.read_network(tmp_path)
    chain = Architecture({"input_shape": (8, 8, 1), "classes": 2, "filters": (4, 8)}, "chain")
    names = [path.name for path in saved_search.write_results(tmp_path, "accuracy", chain)]
    assert names == ["trajectory.json", "trajectory.png", "architecture.json"]  # it has no cell
    for path in (tmp_path, tmp_path / "architecture.json"):
        assert saved_search.read_network(path) == chain
    (tmp_path / "architecture.json").write_text("{")
    with pytest.raises(ValueError, match=r"architecture\.json: damaged"):
        saved_search.read_network(tmp_path)


def test_a_reference_has_no_cell_that_could_be_read(tmp_path):
    save(run(at_budget(), accuracy(0.9)), tmp_path)
    message = r"is the reference chain-stride2, which has no cell; .* architecture\.json"
    with pytest.raises(ValueError, match=message):
        saved_search.read_cell(tmp_path)
    assert saved_search.best_reference(tmp_path) == "chain-stride2"
    names = [path.name for path in saved_search.write_results(tmp_path, "accuracy")]
    assert names == ["trajectory.json", "trajectory.png"]
    tuner = {"hypermodel": {"config": {"target_macs": 9_000}}}
    save(run(at_budget(), accuracy(0.9)), tmp_path, tuner0=tuner)
    assert saved_search.task_of(tmp_path) == "images"
    save(run(at_budget(), accuracy(0.6)), tmp_path)
    assert saved_search.best_reference(tmp_path) is None
    assert saved_search.read_cell(tmp_path).ops[0] == "input"


def test_a_search_whose_time_was_up_is_read_as_one_that_has_ended(tmp_path):
    search = bayesian(SMALL, max_candidates=None, max_minutes=1)
    while pending := search.pending():
        search.elapsed_seconds += 15
        search.tell(pending[0].cell, outcome(pending[0].cell))
    assert 3 <= len(search.outcomes) <= 6
    save(search, tmp_path)
    found = saved_search.read_search(tmp_path)
    assert found.done
    assert found.trajectory() == search.trajectory()
    assert found.elapsed_seconds == search.elapsed_seconds


def test_settings_are_kept_with_the_first_command(tmp_path):
    folder, settings = tmp_path / "search", {"dataset": "digits", "split_seed": 0}
    saved_search.write_settings(folder, settings, ["autoshrink", "first"])
    saved_search.write_settings(folder, settings, ["autoshrink", "second"])
    noted = {**settings, "argv": ["autoshrink", "first"]}
    assert saved_search.settings_of(str(folder / "cell.json")) == noted
    (folder / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json: damaged"):
        saved_search.read_settings(folder)


def test_facts_lie_beside_a_model(tmp_path):
    model = tmp_path / "model.keras"
    assert saved_search.read_facts(model) == {}
    saved_search.write_facts(model, {"accuracy": 0.5})
    assert saved_search.read_facts(model) == {"accuracy": 0.5}
