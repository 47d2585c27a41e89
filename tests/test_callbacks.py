"""What watches and ends a candidate, and what its random numbers follow from."""

import os
import signal
import time
import types
import weakref

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from forked import KILLED, outcome

import keras_autoshrink as kas
from keras_autoshrink.hypermodels import callbacks
from keras_autoshrink.hypermodels.callbacks import (
    OUT_OF_DATA,
    Deadline,
    Interrupts,
    OneCycle,
    ProxyStopping,
    ScoreCallback,
)
from keras_autoshrink.hypermodels.seeding import ShuffledBatches, training_seed
from keras_autoshrink.training.step import accelerate
from keras_autoshrink.tuner.trainer import Trainer

X = np.random.default_rng(0).random((40, 6), np.float32)
Y = np.arange(40) % 2


def fit(*args, score=lambda logs, macs: -logs["val_loss"], callbacks=(), **options):
    """Trains a network of one layer, watched as a candidate is."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
    model.compile("sgd", loss, metrics=metrics, run_eagerly=True)  # to trace it takes longer
    watch = ScoreCallback(score, {"latency_ms": 2.0}, lambda model: {"macs": 12, "params": 14})
    options = {"validation_data": (X[:16], Y[:16]), "batch_size": 8, "epochs": 3, **options}
    if not isinstance(args[0], np.ndarray):
        del options["batch_size"]
        options["shuffle"] = False
    return model.fit(*args, verbose=0, callbacks=[watch, *callbacks], **options)


def batches(count):
    for number in range(count):
        yield X[8 * number : 8 * number + 8], Y[8 * number : 8 * number + 8]


def generated(make):
    signature = (tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(make, output_signature=signature)


def read_once(count):
    generator = batches(count)
    return generated(lambda: generator)


def test_score_and_costs_are_in_the_logs_of_each_epoch():
    history = fit(X, Y, score=kas.AccuracyScore(cost="latency")).history
    assert history["macs"] == [12] * 3
    assert history["latency_ms"] == [2.0] * 3
    expected = np.array(history["val_accuracy"]) - 0.1 * (np.log10(2e6) - 6)
    np.testing.assert_allclose(history["score"], expected)


@pytest.mark.parametrize(
    ("score", "kind", "culprit"),
    [
        (lambda logs, macs: logs["val_f1"], "FatalValueError", "needs the metric 'val_f1', but"),
        (lambda logs, macs: None, "FatalValueError", r"score is None; score\(logs, macs\) has to"),
        (lambda logs, macs: float("nan"), "FailedTrialError", "score of epoch 1 is nan"),
    ],
)
def test_a_score_that_cannot_be(score, kind, culprit):
    with pytest.raises(getattr(keras_tuner.errors, kind), match=culprit):
        fit(X, Y, score=score)
    with pytest.raises(keras_tuner.errors.FailedTrialError, match=r"loss of epoch 1 is (nan|inf)"):
        fit(X * np.float32(1e38), Y)


INSTEAD = "give arrays, or a tf.data.Dataset that can be read again"


@pytest.mark.parametrize(
    ("make", "options", "culprit"),
    [
        (lambda: (X, Y), {"steps_per_epoch": 6}, "x: the data ended in epoch 1, after 5 of 6"),
        (lambda: (read_once(5),), {"steps_per_epoch": 3}, "in epoch 2, after 2 of 3 steps"),
        (lambda: (read_once(5),), {}, "x: the data ended in epoch 2, before its first step"),
        (
            lambda: (X, Y),
            {"validation_data": read_once(3)},
            "validation_data: the data ended in epoch 2, after 0 of 3 steps",
        ),
    ],
)
@pytest.mark.filterwarnings(f"ignore:{OUT_OF_DATA}")
def test_data_that_end_stop_the_search(make, options, culprit):
    with pytest.raises(keras_tuner.errors.FatalValueError, match=culprit) as caught:
        fit(*make(), **options)
    assert INSTEAD in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings(f"ignore:{OUT_OF_DATA}")
def test_data_of_unknown_length_and_an_epoch_that_a_callback_stops_are_no_end():
    data = generated(lambda: batches(5))
    assert len(fit(data, validation_data=data).history["score"]) == 3

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    assert len(fit(X, Y, callbacks=[Stop()]).history["score"]) == 1


def test_a_candidate_that_takes_too_long_has_failed(monkeypatch):
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="max_seconds_per_trial=250"):
        fit(X, Y, callbacks=[Deadline(250)])
    assert next(now) == 400


def hangs():
    callbacks._HANGS = 0.1
    os.environ.update(KERASTUNER_ORACLE_IP="127.0.0.1", KERASTUNER_TUNER_ID="worker")
    with Trainer(None, None, 0.1, None).killed_when_hanging():
        time.sleep(60)


def test_a_worker_that_hangs_is_killed():
    assert outcome(hangs) == KILLED


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


def stops_after(val_accuracy, val_loss, loss=1.0, classes=10, steps=40):
    """The epoch, counted from 1, after which ProxyStopping stops; None if it does not."""
    callback = ProxyStopping(classes)
    callback.set_model(types.SimpleNamespace(stop_training=False))
    callback.set_params({"steps": steps})
    callback.on_train_begin()
    for epoch in range(15):
        callback.on_epoch_end(
            epoch, {"loss": loss, "val_accuracy": val_accuracy, "val_loss": val_loss}
        )
        if callback.model.stop_training:
            return epoch + 1
    return None


def test_hopeless_candidates_are_stopped_once_batchnorm_has_settled():
    assert stops_after(val_accuracy=0.19, val_loss=1) == 4
    assert stops_after(val_accuracy=0.21, val_loss=1) is None
    assert stops_after(val_accuracy=0.9, val_loss=3.1) == 4
    assert stops_after(val_accuracy=0.9, val_loss=2.9) is None
    # Twice chance is out of reach with two classes.
    assert stops_after(val_accuracy=0.8, val_loss=1, classes=2) is None
    assert stops_after(val_accuracy=0.7, val_loss=1, classes=2) == 4
    assert stops_after(val_accuracy=0.1, val_loss=9, steps=9) == 12
    assert stops_after(val_accuracy=0.1, val_loss=9, steps=None) == 4  # data of unknown length


def test_the_training_seed_depends_on_seed_and_network_alone():
    cell = kas.Cell(("input", "sepconv3x3", "conv1x1"), ((0, 1), (0, 2)))
    renumbered = kas.Cell(("input", "conv1x1", "sepconv3x3"), ((0, 1), (0, 2)))
    assert training_seed(0, cell) == training_seed(0, renumbered)
    assert training_seed(0, cell) != training_seed(1, cell)
    assert training_seed(0, cell) != training_seed(0, cell.without_edge((0, 2)))
    assert 0 <= training_seed(0, cell) < 2**31


def test_batches_are_of_one_size_and_an_epoch_has_all_images():
    x = np.arange(11.0)
    made = ShuffledBatches(x, -x, 4, seed=7)
    epochs = []
    for epoch in range(2):
        made.begin(epoch)
        images, labels = zip(*(made[index] for index in range(len(made))), strict=True)
        assert [len(batch) for batch in images] == [4, 4, 4]
        assert {*np.concatenate(images)} == {*x}
        np.testing.assert_array_equal(np.concatenate(images), -np.concatenate(labels))
        epochs.append(np.concatenate(images).tolist())
    assert epochs[0] != epochs[1]
    again = ShuffledBatches(x, -x, 4, seed=7)
    assert np.concatenate([again[index][0] for index in range(3)]).tolist() == epochs[0]
    few = ShuffledBatches(x[:3], -x[:3], 4, seed=7)
    assert (len(few), len(few[0][0]), few.batch_size) == (1, 3, 4)


@pytest.mark.filterwarnings(f"ignore:{OUT_OF_DATA}")
@pytest.mark.parametrize("length", [4, None])
def test_one_cycle_rises_and_falls_whatever_is_known_of_the_length(length):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    accelerate(model)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    if length is None:
        data = data.filter(lambda x, y: True)
    rates = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    model.fit(data, epochs=5, verbose=0, shuffle=False, callbacks=[OneCycle(0.8), note])
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.12)
    assert max(rates) == pytest.approx(0.8)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.8 / 16)
