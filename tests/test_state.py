"""The files of a search: cut off, lost, or left by a kill."""

import json
import random
import shutil
from pathlib import Path

import pytest
from forked import KILLED, outcome
from searches import OPS, WithOracle, computed, die_writing

from keras_autoshrink import files

SETTINGS = {"strategy": "paper", "num_candidates": 4, "ops": OPS[:4]}
FILES = ("oracle.json", "trial_0002/trial.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    found, _ = WithOracle.run(folder, **SETTINGS)
    return folder / "search", found.trajectory()


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "search")
    return tmp_path / "search"


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_recovered(finished, copied, name, caplog):
    content = (copied / name).read_bytes()
    lengths = {0, 1, len(content) - 1, *random.Random(name).sample(range(len(content)), 3)}
    for length in lengths:
        (copied / name).write_bytes(content[:length])
        found, ran = WithOracle.run(copied.parent, **SETTINGS)
        assert ran == []
        assert found.trajectory() == finished[1]
        written = json.loads((copied / name).read_text())
        assert written.keys() == json.loads(content).keys()
    assert name in caplog.text


@pytest.mark.parametrize("content", ["[]", "{}", '{"ongoing_trials": 3}'])
def test_a_damaged_state_follows_from_the_trials(finished, copied, content, caplog):
    (copied / "oracle.json").write_text(content)
    found, ran = WithOracle.run(copied.parent, **SETTINGS)
    assert ran == []
    assert found.trajectory() == finished[1]
    assert "search/oracle.json: damaged" in caplog.text


def test_a_trial_that_is_gone_is_written_again_with_its_result(finished, copied, caplog):
    path = copied / "trial_0002" / "trial.json"
    before = json.loads(path.read_text())
    path.unlink()
    found, ran = WithOracle.run(copied.parent, **SETTINGS)
    assert ran == []
    assert found.trajectory() == finished[1]
    after = json.loads(path.read_text())
    assert after["score"] == before["score"]
    assert after["hyperparameters"]["values"] == before["hyperparameters"]["values"]
    assert "trial_0002/trial.json: damaged or missing; written again" in caplog.text


def test_a_failure_is_recovered_as_one(tmp_path):
    def fails(cell):
        if (0, 1) not in cell.edges:
            raise ValueError("boom")
        return computed(cell)

    before, _ = WithOracle.run(tmp_path, fails, **SETTINGS)
    failed = next(o.trial_id for o in before.outcomes.values() if o.error)
    (tmp_path / "search" / f"trial_{failed}" / "trial.json").write_text("")
    found, ran = WithOracle.run(tmp_path, fails, **SETTINGS)
    assert ran == []
    assert found.trajectory() == before.trajectory()


def test_an_older_state_than_the_trials_loses_nothing(finished, tmp_path):
    """As after a kill between trial.json and oracle.json; and with rounds between the two."""

    def interrupted(cell):
        if len(broken.ran) == 3:
            shutil.copy(tmp_path / "search" / "oracle.json", tmp_path / "older.json")
        if len(broken.ran) == 9:
            raise KeyboardInterrupt
        return computed(cell)

    broken = WithOracle.make(tmp_path, interrupted, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        broken.search(verbose=0)
    shutil.copy(tmp_path / "older.json", tmp_path / "search" / "oracle.json")
    found, ran = WithOracle.run(tmp_path, **SETTINGS)
    assert found.trajectory() == finished[1]
    assert len(ran) == len(found.outcomes) - 8


def test_what_cannot_be_recovered_is_named(copied, tmp_path):
    with pytest.raises(ValueError, match=r"seed=0, not 1; .*overwrite=True"):
        WithOracle.make(copied.parent, **SETTINGS, seed=1)
    (copied / "oracle.json").write_text("{")
    with pytest.raises(ValueError, match=r"trial \d+ is of another search.*overwrite=True"):
        WithOracle.make(copied.parent, **SETTINGS, seed=1)
    assert (copied / "oracle.json").read_text() == "{"
    (copied / "trial_0002" / "trial.json").write_text("{")
    with pytest.raises(ValueError, match=r"oracle.json: damaged: .*trial_0002/trial.json: restore"):
        WithOracle.make(copied.parent, **SETTINGS)
    for path in copied.glob("trial_*"):
        shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"oracle.json: damaged: .*overwrite=True"):
        WithOracle.make(copied.parent, **SETTINGS)


def test_a_trial_that_ends_while_somebody_reads_is_not_taken_for_lost(
    tmp_path, monkeypatch, caplog
):
    folder, under_way = tmp_path / "live" / "search", tmp_path / "under_way"

    def copying(cell):
        if len(cell.edges) < 6 and not under_way.exists():
            shutil.copytree(folder, under_way)  # its second trial runs
        return computed(cell)

    WithOracle.run(tmp_path / "live", copying, **SETTINGS)
    later = folder.rename(tmp_path / "later")
    under_way.rename(folder)
    read_json = files.read_json

    def read_slowly(path):
        content = read_json(path)
        if Path(path).parent == folder / "trial_0000" or Path(path).name == "oracle.json":
            shutil.copytree(later, folder, dirs_exist_ok=True)
        return content

    monkeypatch.setattr(files, "read_json", read_slowly)
    WithOracle.make(tmp_path / "live", **SETTINGS)
    for path in later.rglob("*.json"):
        assert (folder / path.relative_to(later)).read_bytes() == path.read_bytes()
    assert caplog.text == ""


def test_a_failed_round_that_is_killed_in_its_second_try_starts_that_again(finished, tmp_path):
    """What one of its candidates came to in time must not end the round without the others."""

    def fails(cell):
        if len(cell.edges) < 6:
            raise ValueError("boom")
        return computed(cell)

    found, _ = WithOracle.run(tmp_path, fails, **SETTINGS)
    assert "boom" in found.error

    def killed_at_the_second(cell):
        if len(made.ran) > 1:
            raise KeyboardInterrupt
        return computed(cell)

    made = WithOracle.make(tmp_path, killed_at_the_second, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        made.search(verbose=0)
    found, _ = WithOracle.run(tmp_path, **SETTINGS)
    assert found.trajectory() == finished[1]


def killed_in_a_write(folder, write):
    die_writing(write)
    WithOracle.run(folder, **SETTINGS)


def test_killed_in_its_writes_again_and_again_it_ends_the_same(finished, tmp_path):
    """With every process killed in one of its first writes, until one gets through."""
    generator, deaths = random.Random(0), 0
    while (status := outcome(killed_in_a_write, tmp_path, 10 + generator.randrange(30))) != 0:
        assert status == KILLED
        deaths += 1
    assert deaths > 2
    found, ran = WithOracle.run(tmp_path, **SETTINGS)
    assert ran == []
    assert found.trajectory() == finished[1]
