"""Time limits and Ctrl-C."""

import json
import os
import signal
import time
import types
import weakref

import keras
import numpy as np
import pytest
from forked import start
from searches import ONE_STAGE

import keras_autoshrink as kas
from keras_autoshrink.hypermodels import callbacks
from keras_autoshrink.hypermodels.callbacks import Interrupts


def data():
    x = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)
    y = np.arange(40) % 4
    return (x, y), {"validation_data": (x, y)}


def make(folder, **arguments):
    model = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        classes=4,
        num_nodes=3,
        filters=4,
        stem_filters=4,
        batch_size=8,
        **ONE_STAGE,
    )
    return kas.AutoShrink(
        model, num_candidates=2, directory=folder, project_name="search", **arguments
    )


class Late(keras.callbacks.Callback):
    """In the second candidate ten minutes pass.

    KerasTuner copies callbacks for each trial: what they count is the class's.
    """

    begun = passed = 0

    def on_train_begin(self, logs=None):
        type(self).begun += 1

    def on_train_batch_end(self, batch, logs=None):
        if type(self).begun == 2:
            type(self).passed = 600


@pytest.mark.slow
def test_a_candidate_that_takes_too_long_has_failed(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + Late.passed)
    monkeypatch.setattr(callbacks, "time", clock)
    tuner = make(tmp_path, max_seconds_per_trial=500)
    arguments, named = data()
    tuner.search(*arguments, **named, epochs=1, verbose=0, callbacks=[Late()])
    failed = [t for t in tuner.oracle.trials.values() if t.status == "FAILED"]
    assert [t.trial_id for t in failed] == ["0001"]
    kept = json.loads((tmp_path / "search" / "trial_0001" / "trial.json").read_text())
    assert "took longer than max_seconds_per_trial=500" in kept["message"]
    assert "Traceback" in kept["message"]
    assert tuner.oracle.search.done


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "soon"])
def test_a_limit_that_is_none_is_named(tmp_path, limit):
    with pytest.raises((TypeError, ValueError), match="max_seconds_per_trial"):
        make(tmp_path, max_seconds_per_trial=limit)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_not_lost():
    class Thing:
        pass

    with Interrupts() as interrupts:
        interrupts.check()
        thing = Thing()
        reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del thing  # Python prints what is raised here, and goes on
        assert reference() is None
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays():
    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def run(folder):
    tuner = make(folder)
    arguments, named = data()
    with (folder / "said").open("w") as said:
        os.dup2(said.fileno(), 1)
        try:
            # With a callback each candidate is built by itself: the search takes long enough.
            slow = [keras.callbacks.Callback()]
            tuner.search(*arguments, **named, epochs=1, callbacks=slow)
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def test_ctrl_c_says_that_what_has_been_trained_is_kept(tmp_path):
    process = start(run, tmp_path)
    while not list(tmp_path.glob("search/trial_0001")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert "run the same again, without overwriting, to go on" in (tmp_path / "said").read_text()
    tuner = make(tmp_path)
    kept = [t.trial_id for t in tuner.oracle.trials.values() if t.status == "COMPLETED"]
    assert "0000" in kept
    assert [record["round"] for record in tuner.trajectory()] == [0]
