"""Candidates side by side, in worker processes: they find what one process finds."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import keras
import keras_tuner
import numpy as np
import psutil
import pytest
import tensorflow as tf
from forked import Script
from searches import ComputesShrink, Declares, Eager, computed, unassigned, wait_for

import keras_autoshrink as kas
from keras_autoshrink.tuner import workers

# What a script defines travels to the workers by value: a HyperModel, an op, a callback.
SCRIPT = """
import json, sys
import keras, numpy as np, tensorflow as tf
import keras_autoshrink as kas

@kas.register_operation("own3x3")
def own3x3(x, filters, name):
    return keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)

class Own(kas.CNNCellHyperModel):
    def stopping_rules(self):
        return []

seen = []

class Sees(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        seen.append(logs["score"])

rng = np.random.default_rng(0)
x = rng.random((200, 6, 6, 1)).astype("float32")
y = (x[:, :3].mean((1, 2, 3)) > x[:, 3:].mean((1, 2, 3))).astype(int)
stages = {"stage_scales": (1,), "stage_strides": (2,), "stage_repeats": (1,)}
hypermodel = Own(
    (6, 6, 1), 2, 4, 8, stem_filters=4, operations=("own3x3", "conv1x1"), batch_size=16, **stages
)
batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(200, seed=1).batch(16)
folder, count = sys.argv[1], int(sys.argv[2])
tuner = kas.AutoShrink(
    hypermodel, num_candidates=3, max_candidates=5, directory=folder, workers=count
)
tuner.search(batches, validation_data=(x, y), epochs=2, callbacks=[Sees()])
assert bool(seen) == (count == 1), "callbacks act where their candidate trains"
tuner.get_best_models()
print(json.dumps(tuner.trajectory()))
"""


def alone(folder):
    """The script without workers, in a folder, until it ends: what it prints."""
    # What one process finds depends on its threads; a worker has one.
    script = Script(SCRIPT, str(folder), "1", optimised=True, TF_NUM_INTRAOP_THREADS="1")
    code, printed, errors = script.end()
    assert code == 0, errors
    return printed.splitlines()


def under_way(script, folder):
    """The ids of the trials that a script trains."""
    assert script.poll() is None, script.communicate()
    try:
        state = json.loads((folder / "untitled_project" / "oracle.json").read_text())
    except OSError:
        return set()
    return set(state["ongoing_trials"].values())


def test_a_script_with_workers_is_killed_after_one_of_them_and_ends_as_without_any(tmp_path):
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path, "2"],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )

    def workers():
        return psutil.Process(script.pid).children()

    wait_for(lambda: len(under_way(script, tmp_path)) == 2)
    workers()[0].kill()
    lines = []
    while "worker1 was killed; starting it again" not in lines:
        lines.append(script.stdout.readline().rstrip("\n"))
        assert script.poll() is None
    assert "2 candidates train side by side, each in a process." in lines
    wait_for(lambda: len(workers()) == 2)
    started = workers()
    script.kill()
    script.communicate()
    assert not psutil.wait_procs(started, timeout=30)[1]  # they end with it
    *lines, trajectory = alone(tmp_path)
    assert any(line.startswith("Going on in round 1") for line in lines)
    assert not any("side by side" in line for line in lines)
    expected = unassigned(json.loads(alone(tmp_path / "anew")[-1]))
    assert unassigned(json.loads(trajectory)) == expected
    assert (
        len({candidate["score"] for record in expected for candidate in record["candidates"]}) > 3
    )


def as_searched(folder, function=computed, **settings):
    tuner = ComputesShrink(Declares(), directory=folder, max_candidates=5, **settings)
    tuner.function, tuner.ran = function, []
    return tuner


def test_failures_of_workers_are_those_of_a_search(tmp_path, workers_at_once):
    def fails(cell):
        if os.getpid() == here:
            raise AssertionError("in the search's process")
        if len(cell.edges) < 10 and computed(cell) < 0.3:
            raise ValueError("too few edges")
        return computed(cell)

    here = os.getpid()
    tuner = as_searched(tmp_path, fails, num_candidates=4, workers=2)
    tuner.search(verbose=0)
    trials = tuner.oracle.trials.values()
    failed = [trial for trial in trials if trial.score is None]
    assert 0 < len(failed) < len(trials) == 5
    assert all(trial.message.strip().endswith("ValueError: too few edges") for trial in failed)
    scores = {trial.score for trial in trials if trial not in failed}
    assert scores <= {computed(tuner.oracle.cell_of(trial)) for trial in trials}
    assert not tuner.ran


def test_a_worker_is_killed_while_another_has_nothing_to_do(tmp_path, workers_at_once):
    marker = tmp_path / "killed"

    def dies_once(cell):
        if len(cell.edges) < 10 and not marker.exists():
            marker.touch()
            time.sleep(2)  # the other one ends its candidate meanwhile
            os.kill(os.getpid(), signal.SIGKILL)
        return computed(cell)

    tuner = as_searched(tmp_path / "search", dies_once, num_candidates=2, workers=2)
    tuner.search(verbose=0)
    assert marker.exists()
    assert len(workers_at_once) == 3
    assert [trial.score for trial in tuner.oracle.trials.values()] == [
        computed(tuner.oracle.cell_of(trial)) for trial in tuner.oracle.trials.values()
    ]


def test_an_answer_that_comes_too_late_changes_nothing(tmp_path, monkeypatch, workers_at_once):
    monkeypatch.setattr("keras_autoshrink.tuner.service._GRACE", -1.0)
    marker = tmp_path / "late"

    def is_late_once(cell):
        if len(cell.edges) < 10 and not marker.exists():
            marker.touch()
            time.sleep(4)
        return computed(cell)

    tuner = as_searched(
        tmp_path / "search", is_late_once, num_candidates=4, max_seconds_per_trial=3, workers=2
    )
    tuner.search(verbose=0)
    trials = tuner.oracle.trials.values()
    assert marker.exists()
    counted = [trial for trial in trials if trial.status == "COMPLETED"]
    assert len(counted) == 5
    assert all(trial.score == computed(tuner.oracle.cell_of(trial)) for trial in counted)


def test_a_worker_that_never_starts_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(1)")
    tuner = as_searched(tmp_path, workers=2)
    tuner.search()
    line = "in this process: worker1 ended 3 times as it started: too little memory?."
    assert line in capsys.readouterr().out
    assert len(tuner.ran) == 5


def test_an_error_that_is_fatal_ends_the_search(tmp_path, workers_at_once):
    class OwnError(keras_tuner.errors.FatalError):
        pass

    def fails(cell):
        raise OwnError("no use to go on")

    tuner = as_searched(tmp_path, fails, workers=2)
    with pytest.raises(keras_tuner.errors.FatalError, match="no use to go on"):
        tuner.search(verbose=0)
    assert len(workers_at_once) == 2
    assert None not in [worker.poll() for worker in workers_at_once]


class Unreadable:
    """What pickles, and raises where it is read."""

    def __reduce__(self):
        return int, ("no number",)


def one_by_one():
    yield np.zeros(3)


GENERATED = tf.data.Dataset.from_generator(one_by_one, output_signature=tf.TensorSpec(3))


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (GENERATED, "ValueError: a tf.data.Dataset whose elements Python makes"),
        (threading.Lock(), "TypeError: cannot pickle '_thread.lock' object"),
        (Unreadable(), "ValueError: invalid literal for int()"),
    ],
    ids=["a generator", "a lock", "unreadable"],
)
def test_what_workers_cannot_take_trains_here(tmp_path, capsys, workers_at_once, argument, reason):
    tuner = as_searched(tmp_path, workers=2)
    tuner.search(argument)
    assert f"Candidates train one by one, in this process: {reason}" in capsys.readouterr().out
    assert len(tuner.ran) == 5
    assert None not in [worker.poll() for worker in workers_at_once]


def test_how_many(monkeypatch):
    monkeypatch.delenv(workers.COUNT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(workers.joblib, "cpu_count", lambda: 6)
    assert workers.choose_count(None) == 6
    assert workers.choose_count(3) == 3
    monkeypatch.setenv(workers.COUNT, "2")
    assert workers.choose_count(None) == 2
    monkeypatch.setenv(workers.COUNT, "none")
    with pytest.raises((TypeError, ValueError), match=f"{workers.COUNT}='none'"):
        workers.choose_count(None)
    monkeypatch.delenv(workers.COUNT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert workers.choose_count(None) == 1  # the search's process may hold its memory
    with pytest.raises(ValueError, match="workers=0"):
        workers.choose_count(0)
    with pytest.raises(ValueError, match="workers=2: the devices of a distribution_strategy"):
        as_searched(".", workers=2, distribution_strategy=tf.distribute.OneDeviceStrategy("/cpu:0"))


def test_arrays_are_mapped_and_not_copied():
    large, empty = np.arange(600_000, dtype="float32").reshape(2, -1), np.zeros((0, 3))
    with tempfile.TemporaryFile() as file:
        workers._dump({"large": [large, large.T], "empty": empty}, file)
        assert file.tell() < 2 * large.nbytes + 2_000
        first, second = (workers._load(file.fileno()) for _ in range(2))
    first["large"][0][0] = -1  # as some scripts normalise their data in place
    np.testing.assert_array_equal(second["large"][0], large)
    np.testing.assert_array_equal(second["large"][1], large.T)
    assert second["empty"].shape == (0, 3)


def order(dataset):
    return [int(value) for value in dataset]


def travelled(value):
    """A value as each of two workers has it."""
    with tempfile.TemporaryFile() as file:
        workers._dump(value, file)
        return [workers._load(file.fileno()) for _ in range(2)]


def test_datasets_shuffle_in_the_same_way_for_each_candidate():
    keras.utils.set_random_seed(1)
    shuffled = tf.data.Dataset.range(50).shuffle(50)
    resettable = workers.Resettable(((shuffled, 5), {"epochs": 2}))
    (again, number), kwargs = resettable.reset()
    first, second = order(again), order(again)
    assert first != second
    assert (number, kwargs) == (5, {"epochs": 2})
    assert order(resettable.reset()[0][0]) == first
    assert [order(each) for each in travelled(shuffled)] == [first, first]
    # What is looked for in a graph is not put into it: TensorFlow prints an error about that.
    graphs = [tf.compat.v1.GraphDef.FromString(workers._to_graph(shuffled)[0]) for _ in range(2)]
    assert [*workers._resources(graphs[0])]
    assert graphs[0] == graphs[1]
    assert [order(shuffled), order(shuffled)] == [first, second]
    assert workers.Resettable(GENERATED).reset() is GENERATED


def test_parts_of_a_shuffled_dataset_stay_apart():
    # Without a seed: which elements each part has is drawn once, for both.
    shuffled = tf.data.Dataset.range(50).shuffle(50, reshuffle_each_iteration=False)
    parts = {"x": shuffled.skip(10), "validation_data": shuffled.take(10)}
    for found in (workers.Resettable(parts).reset(), *travelled(parts)):
        together = order(found["x"]) + order(found["validation_data"])
        assert sorted(together) == list(range(50))


def test_what_a_dataset_caches_is_read_once():
    drawn = tf.data.Dataset.range(3).map(
        lambda _: tf.random.uniform((), maxval=10**6, dtype=tf.int32)
    )
    cached = drawn.cache().shuffle(3)
    expected = sorted(order(cached))
    assert sorted(order(workers.Resettable(cached).reset())) == expected
    first, second = travelled(cached)
    assert sorted(order(first)) == sorted(order(second))


def test_only_weights_that_may_be_best_are_written(tmp_path, monkeypatch):
    saved = []
    save = keras.Model.save_weights

    def note(self, path, *args, **kwargs):
        saved.append(path)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save_weights", note)
    x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)
    stage = {"stage_scales": [1], "stage_strides": [1], "stage_repeats": [1]}
    hypermodel = Eager((4, 4, 1), 2, 3, operations=["conv1x1"], **stage)
    tuner = kas.AutoShrink(
        hypermodel, kas.AccuracyScore(weight=0), directory=tmp_path, max_candidates=3
    )
    tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
    scores = [trial.score for trial in tuner.oracle.trials.values()]
    assert len(scores) == 3
    # All are as good: who ties may become the search's choice, but no epoch is saved twice.
    assert len(saved) == sum(score >= max(scores[: i + 1]) for i, score in enumerate(scores))
