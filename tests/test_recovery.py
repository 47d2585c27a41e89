"""Searches that were killed, and files that were torn."""

import functools
import json
import random
import shutil
import sys
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
from forked import KILLED, outcome, processes, start
from test_oracle import OPS, Declares, default_result, searched, tuner

import keras_autoshrink as kas
from keras_autoshrink import files
from keras_autoshrink.report import saved_search
from keras_autoshrink.search import bayesian
from keras_autoshrink.tuner import project

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import kills  # noqa: E402 - it lies in no package
import torn_files  # noqa: E402

# Torn files


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    return torn_files.TornFiles(tmp_path_factory.mktemp("torn"))


@pytest.mark.parametrize("name", torn_files.FILES)
def test_a_file_cut_off_anywhere_is_recovered(torn, name, caplog):
    size = torn.size(name)
    lengths = {0, 1, size - 1, *random.Random(name).sample(range(size), 8)}
    assert {length: torn.outcome(name, length) for length in lengths} == dict.fromkeys(
        lengths, "recovered"
    )
    assert name in caplog.text


@pytest.fixture
def finished(tmp_path):
    made = searched(tmp_path, Declares(OPS[:4]))
    return made.oracle.search.trajectory()


@pytest.mark.parametrize("content", ["", '{"half": ', "[]", "{}", '{"ongoing_trials": 3}'])
def test_a_damaged_state_follows_from_the_trials(tmp_path, finished, content, caplog):
    path = tmp_path / "search" / "oracle.json"
    path.write_text(content)
    made = searched(tmp_path, Declares(OPS[:4]))
    assert made.ran == []
    assert made.oracle.search.trajectory() == finished
    assert "search/oracle.json: damaged" in caplog.text
    assert json.loads(path.read_text())["search"]["outcomes"]


def test_a_trial_that_is_gone_is_written_again_with_its_result(tmp_path, finished, caplog):
    path = tmp_path / "search" / "trial_0002" / "trial.json"
    before = json.loads(path.read_text())
    path.unlink()
    made = searched(tmp_path, Declares(OPS[:4]))
    assert made.ran == []
    assert made.oracle.search.trajectory() == finished
    after = json.loads(path.read_text())
    assert after["score"] == before["score"]
    assert after["hyperparameters"]["values"] == before["hyperparameters"]["values"]
    assert "trial_0002/trial.json: damaged or missing; written again" in caplog.text


def test_where_state_and_trial_are_torn_both_are_named(tmp_path, finished):
    for name in ("oracle.json", "trial_0002/trial.json"):
        (tmp_path / "search" / name).write_text('{"half": ')
    with pytest.raises(ValueError, match=r"oracle.json: damaged: .*trial_0002/trial.json: restore"):
        tuner(tmp_path, Declares(OPS[:4]))


def test_without_state_and_trials_there_is_nothing_to_go_on_from(tmp_path):
    made = tuner(tmp_path, Declares(OPS[:3]))
    made.save()
    (tmp_path / "search" / "oracle.json").write_text("{")
    with pytest.raises(ValueError, match=r"oracle.json: damaged: .*overwrite=True"):
        tuner(tmp_path, Declares(OPS[:3]))


def test_trials_of_another_seed_are_not_taken_for_ours(tmp_path, finished):
    (tmp_path / "search" / "oracle.json").write_text("{")
    with pytest.raises(ValueError, match=r"trial \d+ is of another search.*overwrite=True"):
        tuner(tmp_path, Declares(OPS[:4]), seed=1, num_candidates=2)


def test_a_failure_is_recovered_as_one(tmp_path):
    def fails(cell):
        if (0, 1) not in cell.edges:
            raise ValueError("boom")
        return default_result(cell)

    before = searched(tmp_path, Declares(OPS[:4]), fails)
    failed = next(t for t in before.oracle.trials.values() if t.status == "FAILED")
    (tmp_path / "search" / f"trial_{failed.trial_id}" / "trial.json").write_text("")
    made = searched(tmp_path, Declares(OPS[:4]), fails)
    assert made.ran == []
    assert made.oracle.search.trajectory() == before.oracle.search.trajectory()


def test_a_trial_that_ends_while_somebody_reads_is_not_taken_for_lost(
    tmp_path, monkeypatch, caplog
):
    folder, under_way = tmp_path / "live" / "search", tmp_path / "under_way"

    def computed(cell):
        if len(cell.edges) < 6 and not under_way.exists():
            shutil.copytree(folder, under_way)  # its second trial runs
        return default_result(cell)

    searched(tmp_path / "live", Declares(OPS[:4]), computed)
    later = folder.rename(tmp_path / "later")
    under_way.rename(folder)
    read_json = files.read_json

    def read_slowly(path):
        content = read_json(path)
        if Path(path).parent == folder / "trial_0000" or Path(path).name == "oracle.json":
            shutil.copytree(later, folder, dirs_exist_ok=True)
        return content

    monkeypatch.setattr(files, "read_json", read_slowly)
    tuner(tmp_path / "live", Declares(OPS[:4]))
    for path in later.rglob("*.json"):
        assert (folder / path.relative_to(later)).read_bytes() == path.read_bytes()
    assert caplog.text == ""


# A round that nothing survived


def test_a_failed_round_is_tried_again_after_a_fix(tmp_path):
    broken = {"is": True}

    def fails(cell):
        if broken["is"] and len(cell.edges) < 6:
            raise ValueError("out of memory, sort of")
        return default_result(cell)

    first = tuner(tmp_path / "a", Declares(OPS[:4]), fails)
    with pytest.raises(RuntimeError, match=r"round 1 failed .*out of memory, sort of"):
        first.search(verbose=0)
    with pytest.raises(RuntimeError, match="out of memory, sort of"):
        first.search(verbose=0)  # not tried again without a word
    folder = tmp_path / "a" / "search"
    tracebacks = [json.loads(p.read_text())["message"] for p in folder.glob("*/trial.json")]
    assert sum("Traceback" in (message or "") for message in tracebacks) == 6
    ran = len(first.ran)
    # Still broken: it says so again, having tried.
    again = tuner(tmp_path / "a", Declares(OPS[:4]), fails)
    with pytest.raises(RuntimeError, match="out of memory, sort of"):
        again.search(verbose=0)
    assert len(again.ran) == ran - 1
    broken["is"] = False
    fixed = searched(tmp_path / "a", Declares(OPS[:4]), fails)
    untroubled = searched(tmp_path / "b", Declares(OPS[:4]))
    assert fixed.oracle.search.trajectory() == untroubled.oracle.search.trajectory()
    assert len(fixed.ran) == len(untroubled.ran) - 1


def test_a_failed_round_that_is_killed_in_its_second_try_starts_that_again(tmp_path):
    """What one of its candidates came to in time must not end the round without the others."""

    def fails(cell):
        if len(cell.edges) < 6:
            raise ValueError("boom")
        return default_result(cell)

    def killed_at_the_second(cell):
        if len(made.ran) > 1:
            raise KeyboardInterrupt
        return default_result(cell)

    with pytest.raises(RuntimeError, match="boom"):
        searched(tmp_path / "a", Declares(OPS[:4]), fails)
    made = tuner(tmp_path / "a", Declares(OPS[:4]), killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        made.search(verbose=0)
    fixed = searched(tmp_path / "a", Declares(OPS[:4]))
    untroubled = searched(tmp_path / "b", Declares(OPS[:4]))
    assert fixed.oracle.search.trajectory() == untroubled.oracle.search.trajectory()


BAYESIAN = {"strategy": "bayesian", "num_candidates": 1, "max_candidates": 16}


def test_a_bayesian_search_goes_on_after_failures_and_through_an_interruption(
    tmp_path, monkeypatch
):
    def fails(cell):
        if len(cell.edges) == 2:
            raise ValueError("boom")
        if interrupt_at == len(made.ran):
            raise KeyboardInterrupt
        return default_result(cell)

    interrupt_at = 0
    made = whole = tuner(tmp_path / "whole", Declares(OPS[:5]), fails, **BAYESIAN)
    whole.search(verbose=0)
    failed = [trial for trial in whole.oracle.trials.values() if trial.status == "FAILED"]
    assert failed
    assert len(whole.ran) == 16
    interrupt_at = 2 + next(place for place, cell in enumerate(made.ran) if len(cell.edges) == 2)
    made = tuner(tmp_path / "a", Declares(OPS[:5]), fails, **BAYESIAN)
    with pytest.raises(KeyboardInterrupt):
        made.search(verbose=0)
    interrupt_at = 0
    made = tuner(tmp_path / "a", Declares(OPS[:5]), fails, **BAYESIAN)
    made.search(verbose=0)
    assert made.oracle.search.trajectory() == whole.oracle.search.trajectory()
    with monkeypatch.context() as patched:  # nothing of it is found again
        patched.setattr(bayesian, "best_parts", None)
        made = tuner(tmp_path / "a", Declares(OPS[:5]), fails, **BAYESIAN)
        found = saved_search.read_search(tmp_path / "a" / "search")
    assert made.oracle.search.trajectory() == found.trajectory() == whole.oracle.search.trajectory()
    # As the trials have it.
    (tmp_path / "a" / "search" / "oracle.json").write_text("")
    made = tuner(tmp_path / "a", Declares(OPS[:5]), fails, **BAYESIAN)
    assert made.oracle.search.trajectory() == whole.oracle.search.trajectory()


def test_a_bayesian_search_that_gave_up_goes_on_after_a_fix(tmp_path):
    def fails(cell):
        if broken and len(cell.edges) < 10:
            raise ValueError("no space left")
        return default_result(cell)

    broken = True
    for _ in range(2):  # still broken: it says so again, having tried
        made = tuner(tmp_path, Declares(OPS[:5]), fails, **BAYESIAN)
        with pytest.raises(RuntimeError, match=r"of rounds 1 to 10 failed \(10\).*no space left"):
            made.search(verbose=0)
    assert len(made.ran) == 1
    broken = False
    fixed = searched(tmp_path, Declares(OPS[:5]), fails, **BAYESIAN)
    assert len(fixed.ran) == 16 - 10
    assert len(fixed.oracle.search.trajectory()) == 16
    assert searched(tmp_path, Declares(OPS[:5]), fails, **BAYESIAN).ran == []


# Kills


def killed_in_a_write(folder, how, write):
    kills.die_writing(how, write)
    searched(folder, Declares(OPS[:4]))


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
def test_killed_in_its_writes_again_and_again_it_ends_the_same(tmp_path, seed):
    """With every process killed in one of its first 20 writes, until one gets through."""
    expected = searched(tmp_path / "whole", Declares(OPS[:4]))
    generator = random.Random(seed)
    deaths = 0
    while deaths < 100:
        how, write = generator.choice(kills.IN_A_WRITE), 2 + generator.randrange(20)

        status = outcome(killed_in_a_write, tmp_path / "killed", how, write)
        if status == 0:
            break
        assert status == KILLED
        deaths += 1
    assert deaths
    made = searched(tmp_path / "killed", Declares(OPS[:4]))
    assert made.ran == []
    assert made.oracle.search.trajectory() == expected.oracle.search.trajectory()


def run_real(folder, how=None):
    if how is not None:
        kills.die_writing(how, 20)
    kills.search(folder)


def test_a_killed_search_of_real_networks_ends_the_same(tmp_path):
    assert outcome(run_real, tmp_path / "whole") == 0
    for how in ("half written", "just renamed"):
        folder = tmp_path / how
        assert outcome(run_real, folder, how) == KILLED
        assert outcome(run_real, folder) == 0
        assert kills.trajectory(folder) == kills.trajectory(tmp_path / "whole")
        # What the kill left of a write is gone.
        assert [path.name for path in folder.rglob(".*")] == [".lock"]


# Two processes in one folder


def hold(folder, entered, leave):
    with project.alone(folder):
        entered.set()
        leave.wait(60)


def test_a_second_process_is_kept_out(tmp_path):
    def make(**arguments):
        model = kas.CNNCellHyperModel(input_shape=(8, 8, 1), num_nodes=2, filters=4)
        return kas.AutoShrink(model, directory=tmp_path, project_name="search", **arguments)

    make().save()
    entered, leave = processes.Event(), processes.Event()

    process = start(hold, tmp_path / "search", entered, leave)
    assert entered.wait(60)
    x, y = np.zeros((20, 8, 8, 1)), np.arange(20) % 10
    with pytest.raises(ValueError, match="search: another process is searching there"):
        make().search(x, y, validation_data=(x, y), verbose=0)
    with pytest.raises(ValueError, match="another process is searching there"):
        make(overwrite=True)
    assert (tmp_path / "search" / "oracle.json").exists()
    leave.set()
    process.join()
    make(overwrite=True)


def of_images(folder):
    model = kas.CNNCellHyperModel(input_shape=(8, 8, 1), num_nodes=2, filters=4)
    return kas.AutoShrink(model, directory=folder, project_name="search")


def test_settings_that_are_gone_begin_nothing_anew(tmp_path, caplog):
    make = functools.partial(of_images, tmp_path)
    x, y = np.zeros((20, 8, 8, 1)), np.arange(20) % 10
    first = make()
    first.search(x, y, validation_data=(x, y), verbose=0)
    path = tmp_path / "search" / "tuner0.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"tuner0.json: damaged: .*delete it if"):
        make()
    path.unlink()
    assert make().trajectory() == first.trajectory()
    assert "tuner0.json: missing" in caplog.text
    assert json.loads(path.read_text())["seed"] == 0


def test_another_default_of_a_hyperparameter_is_another_search(tmp_path):
    def make(default, **arguments):
        def build(hp):
            hp.Float("learning_rate", 1e-4, 1e-1, default=default)
            return kas.declare_cell(hp, kas.Cell.dense(OPS[:3]))

        return kas.AutoShrink(build, directory=tmp_path, project_name="search", **arguments)

    make(1e-3).save()
    make(1e-3)
    with pytest.raises(ValueError, match=r"learning_rate.*0.001.*, not .*0.05"):
        make(0.05)
    fixed = keras_tuner.HyperParameters()
    fixed.Fixed("learning_rate", 0.01)
    with pytest.raises(ValueError, match=r"another hyperparameters: .*0.01"):
        make(1e-3, hyperparameters=fixed)


def test_candidates_trained_for_other_epochs_are_not_compared(tmp_path):
    make = functools.partial(of_images, tmp_path)
    x, y = np.zeros((20, 8, 8, 1)), np.arange(20) % 10
    make().search(x, y, validation_data=(x, y), verbose=0)
    with pytest.raises(ValueError, match="another training: epochs=1, not 2; use another"):
        make().search(x, y, validation_data=(x, y), epochs=2, verbose=0)
    make().search(x, y, validation_data=(x, y), verbose=0)


def test_a_search_of_another_backend_is_shown_but_not_gone_on_with(tmp_path):
    make = functools.partial(of_images, tmp_path)
    x, y = np.zeros((20, 8, 8, 1)), np.arange(20) % 10
    first = make()
    first.search(x, y, validation_data=(x, y), verbose=0)
    path = tmp_path / "search" / "tuner0.json"
    path.write_text(path.read_text().replace('"tensorflow"', '"jax"'))
    again = make()
    assert again.trajectory() == first.trajectory()
    assert again.get_best_models()
    with pytest.raises(ValueError, match="another backend: backend='jax', not 'tensorflow'; use"):
        again.search(x, y, validation_data=(x, y), verbose=0)
