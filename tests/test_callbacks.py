"""What stops a search whose data end, in real, very small trainings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from searches import ONE_STAGE

import keras_autoshrink as kas

GENERATOR = np.random.default_rng(0)
X = GENERATOR.random((40, 8, 8, 1), np.float32)
Y = np.arange(40) % 2
VALIDATION = (X[:16], Y[:16])


def batches(count):
    for number in range(count):
        yield X[8 * number : 8 * number + 8], Y[8 * number : 8 * number + 8]


def generated(make):
    signature = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(make, output_signature=signature)


def read_once(count):
    generator = batches(count)
    return generated(lambda: generator)


def make(directory, num_nodes=2, keep_fraction=1):
    model = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        classes=2,
        num_nodes=num_nodes,
        filters=4,
        stem_filters=4,
        **ONE_STAGE,
    )
    return kas.AutoShrink(
        model, keep_fraction=keep_fraction, directory=directory, project_name="search"
    )


def unchecked(directory, **arguments):
    """As if for a HyperModel of the user's own, whose data nobody looks through."""
    tuner = make(directory, **arguments)
    tuner.hypermodel.check_search_arguments = lambda *_, **__: None
    return tuner


def refused(tuner, *args, **options):
    """The message with which a search stops; nothing is scored then."""
    options = {"validation_data": VALIDATION, "epochs": 3, "verbose": 0, **options}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its callers compare the message
        tuner.search(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert tuner.trajectory() == []
    for trial in Path(tuner.project_dir).rglob("trial.json"):
        assert json.loads(trial.read_text())["score"] is None
    return message


INSTEAD = (
    "give arrays, or a tf.data.Dataset that can be read again and that repeat() makes long "
    "enough, or fewer"
)


def test_fewer_batches_than_steps(tmp_path):
    message = refused(make(tmp_path), X, Y, steps_per_epoch=6, batch_size=8)
    assert message == f"x: the data ended in epoch 1, after 5 of 6 steps; {INSTEAD} steps_per_epoch"


@pytest.mark.parametrize(
    "make_data", [lambda: read_once(5), lambda: tf.data.Dataset.zip(*map_slices()).batch(8)]
)
def test_data_that_end_in_a_later_epoch(tmp_path, make_data):
    message = refused(unchecked(tmp_path), make_data(), steps_per_epoch=3)
    assert message == f"x: the data ended in epoch 2, after 2 of 3 steps; {INSTEAD} steps_per_epoch"


def map_slices():
    return [tf.data.Dataset.from_tensor_slices(part) for part in (X, Y)]


def test_data_that_can_be_read_once(tmp_path):
    message = refused(unchecked(tmp_path), read_once(5))
    assert message == f"x: the data ended in epoch 2, before its first step; {INSTEAD} " + (
        "steps_per_epoch"
    )


@pytest.mark.parametrize(
    ("steps", "after"), [(None, "after 0 of 3 steps"), (2, r"after [01] of 2 steps")]
)
def test_validation_data_that_end(tmp_path, steps, after):
    tuner = unchecked(tmp_path)
    message = refused(
        tuner, X, Y, batch_size=8, validation_data=read_once(3), validation_steps=steps
    )
    instead = f"{INSTEAD} validation_steps"
    assert re.fullmatch(
        rf"validation_data: the data ended in epoch 2, {after}; {re.escape(instead)}", message
    )


def test_after_the_first_candidate(tmp_path):
    """It was trained and scored with all its data; the next one is not scored at all."""
    tuner = unchecked(tmp_path, num_nodes=3, keep_fraction=0.01)
    with pytest.raises(ValueError, match="x: the data ended in epoch 1, before its first step"):
        tuner.search(read_once(3), validation_data=VALIDATION, epochs=1, verbose=0)
    assert len(tuner.trajectory()) == 1
    scores = [json.loads(t.read_text())["score"] for t in tmp_path.rglob("trial.json")]
    assert [score is None for score in sorted(scores, key=str)] == [False, True]


@pytest.mark.slow
def test_a_search_that_stopped_goes_on_with_data_that_do_not_end(tmp_path):
    refused(unchecked(tmp_path), read_once(5), steps_per_epoch=3)
    tuner = unchecked(tmp_path)
    tuner.search(X, Y, validation_data=VALIDATION, epochs=3, verbose=0)
    assert len(tuner.trajectory()) == 1


def test_data_of_unknown_length_that_can_be_read_again(tmp_path):
    """Of which Keras warns all the same; warnings are errors here."""
    tuner = make(tmp_path)
    data = generated(lambda: batches(5))
    tuner.search(data, validation_data=data, epochs=2, verbose=0)
    assert len(tuner.trajectory()) == 1


def test_a_callback_may_stop_an_epoch(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    tuner = make(tmp_path)
    options = {"batch_size": 8, "callbacks": [Stop()], "validation_data": VALIDATION}
    tuner.search(X, Y, epochs=2, verbose=0, **options)
    assert len(tuner.trajectory()) == 1


@pytest.mark.parametrize("part", ["x", "validation_data"])
def test_a_dataset_with_nan_trains_nothing(tmp_path, part):
    """In validation data they would not show: TensorFlow's ReLU makes 0 of them."""
    bad = X.copy()
    bad[20] = np.nan
    data = {"x": (bad, Y) if part == "x" else (X, Y)}
    data["validation_data"] = (bad, Y) if part == "validation_data" else VALIDATION
    options = {n: tf.data.Dataset.from_tensor_slices(d).batch(8) for n, d in data.items()}
    tuner = make(tmp_path)
    message = refused(tuner, **options)
    assert message == (
        f"{part}: batch 3: 1 of 8 images have pixels that are NaN or infinite in float32"
    )
    assert not tuner.oracle.trials
