"""Trainings that are killed, averaged, computed in half precision: on small networks of digits."""

import contextlib
import dataclasses
import json
import math
import time

import keras
import numpy as np
import pytest
from forked import KILLED, start
from PIL import Image

import keras_autoshrink as kas
from keras_autoshrink.data.images import Split, load_images
from keras_autoshrink.data.streams import open_streams
from keras_autoshrink.training import classifier
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, remove_state
from keras_autoshrink.training.classifier import compile_classifier, train_network
from keras_autoshrink.training.recipes import RECIPES

CELL = kas.Cell.dense(("input", "conv1x1"))
RECIPE = dataclasses.replace(
    RECIPES["plain"], epochs=3, augmentation=("padded_crop", "cutout"), l2=1e-4, ema=0.9
)
# To trace a network of three stages takes longer than all that is trained here.
ONE_STAGE = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}


@pytest.fixture(scope="module", autouse=True)
def one_stage():
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ONE_STAGE.items():
            patched.setitem(classifier._SMALL_ARCHITECTURE, name, value)
        yield


def load():
    """A fifth of the digits."""
    digits = load_images("digits", purpose="train")
    train, test = digits.train, digits.test
    return dataclasses.replace(
        digits,
        train=Split(train.x[::6], train.y[::6]),
        validation=Split(train.x[1::25], train.y[1::25]),
        test=Split(test.x[::5], test.y[::5]),
    )


@pytest.fixture(scope="module")
def data():
    return load()


def train(data, recipe=RECIPE, **options):
    return train_network(CELL, data, recipe, width=0.25, **options)


class _Recorder(TrainingCheckpoint):
    """A checkpoint that remembers the weights, and their averages."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        averages = self.model.optimizer._model_variables_moving_average
        self.averages = [keras.ops.convert_to_numpy(value) for value in averages]
        self.weights = [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the training `whole` saw of itself."""
    return _Recorder(tmp_path_factory.mktemp("whole"), {"seed": 0})


@pytest.fixture(scope="module")
def whole(data, seen):
    """A training that nothing interrupts."""
    return train(data, checkpoint=seen)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# What comes of a training


def test_the_trained_network_is_the_moving_average(whole, seen):
    trained = [keras.ops.convert_to_numpy(weight) for weight in whole.model.trainable_weights]
    for weights, averaged, last in zip(trained, seen.averages, seen.weights, strict=True):
        np.testing.assert_array_equal(weights, averaged)
        assert not np.array_equal(averaged, last)


def test_the_test_accuracy_is_that_of_the_model(data, whole):
    predicted = whole.model.predict(data.test.x, verbose=0).argmax(axis=1)
    assert whole.test_accuracy == pytest.approx(np.mean(predicted == data.test.y))
    assert set(whole.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in whole.history.values()} == {RECIPE.epochs}


def test_mixed_precision_trains_and_gives_a_float32_model(data, whole):
    keras.config.set_dtype_policy("mixed_bfloat16")  # which must not matter
    try:
        trained = train(data, dataclasses.replace(RECIPE, epochs=1), precision="mixed_float16")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert trained.history["loss"][0] != whole.history["loss"][0]
    assert trained.history["loss"][0] == pytest.approx(whole.history["loss"][0], rel=0.1)
    assert {layer.dtype_policy.name for layer in trained.model.layers} == {"float32"}
    assert {weight.dtype for weight in trained.model.weights} == {"float32"}


def test_fewer_images_than_a_batch_and_no_validation_part(data, tmp_path):
    few = Split(data.train.x[:50], data.train.y[:50])
    trained = train(
        dataclasses.replace(data, train=few, validation=None),
        dataclasses.replace(RECIPE, epochs=1, ema=None),
        log_dir=tmp_path,
    )
    assert set(trained.history) == {"loss", "accuracy"}
    assert list(tmp_path.rglob("events.*"))


def test_a_training_on_files_names_the_broken_ones(tmp_path):
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                image = Image.fromarray(generator.integers(0, 256, (9, 9, 3), np.uint8))
                image.save(tmp_path / part / name / f"{number}.png")
    broken = tmp_path / "train" / "bee" / "2.png"
    broken.write_bytes(broken.read_bytes()[:80])
    recipe = dataclasses.replace(RECIPES["plain"], epochs=1, batch_size=4)
    problem = rf"^train: 1 of 8 images cannot be read: {broken} \(image file is truncated\)"
    with pytest.raises(ValueError, match=problem):
        train(open_streams(tmp_path, image_size=8), recipe)


# Killed


class _Waits(TrainingCheckpoint):
    """Stops in the middle of the third epoch, to be killed there."""

    def on_train_batch_end(self, batch, logs=None):
        if self.epochs_done == 2 and batch == 1:
            (self.folder / "waiting").touch()
            time.sleep(600)


def train_and_wait(folder):
    classifier._SMALL_ARCHITECTURE.update(ONE_STAGE)  # in a process of its own
    train(load(), checkpoint=_Waits(folder, {"seed": 0}))


def test_killed_it_ends_with_the_same_weights(data, whole, tmp_path):
    process = start(train_and_wait, tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        while not (tmp_path / "waiting").exists():
            assert process.is_alive()
            time.sleep(0.02)
    process.join()
    assert process.exitcode == KILLED
    (tmp_path / "waiting").unlink()
    # As if the kill had come while the next epoch was written.
    (tmp_path / "epoch-3.npz").write_bytes(b"half of it")
    checkpoint = TrainingCheckpoint(tmp_path, {"seed": 0})
    assert checkpoint.epochs_done == 2
    resumed = train(data, checkpoint=checkpoint)
    assert resumed.history == whole.history
    assert resumed.test_accuracy == whole.test_accuracy
    assert same_weights(resumed.model, whole.model)
    # One state is kept, not one for each epoch.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-3.npz", "state.json"]


def test_killed_after_the_last_epoch_it_only_evaluates(data, whole, seen):
    again = train(data, checkpoint=TrainingCheckpoint(seen.folder, {"seed": 0}))
    assert again.history == whole.history
    assert same_weights(again.model, whole.model)


# Checkpoints


@pytest.fixture
def written(tmp_path):
    """A checkpoint that has written its first epoch, of a model of one layer."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    checkpoint = TrainingCheckpoint(tmp_path / "state", {"seed": 0, "ema": None})
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {"loss": 1.0})
    return checkpoint


def test_a_state_has_all_that_a_training_changes(tmp_path):
    """The state of Dropout's random generator among it."""

    def build():
        keras.utils.set_random_seed(0)
        layers = [keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.1, use_ema=True), "mse", jit_compile=False)
        return model

    def seeds_of(model):
        return [variable for variable in model.variables if "seed" in variable.path]

    model = build()
    checkpoint = TrainingCheckpoint(tmp_path, {})
    model.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=3, verbose=0, callbacks=[checkpoint])
    other = build()
    TrainingCheckpoint(tmp_path, {}).restore(other)
    assert not np.array_equal(seeds_of(other)[0], seeds_of(build())[0])
    states = [[*m.optimizer.variables, *seeds_of(m)] for m in (model, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*states, strict=True))


def test_a_state_of_other_settings_is_refused(written):
    with pytest.raises(ValueError, match=r"with ema=None, not 0\.9; give it the same settings"):
        TrainingCheckpoint(written.folder, {"seed": 0, "ema": 0.9})


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", b'{"settings": {}, "history": null, "epochs_done": 1, "weights": "a"}'),
        ("epoch-1.npz", b"{}"),
    ],
)
def test_a_damaged_state_is_named(written, file, content):
    (written.folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}: damaged: ") as caught:
        TrainingCheckpoint(written.folder, written.settings).restore(written.model)
    assert "\n" not in str(caught.value)


def test_a_training_that_diverges_says_so_and_keeps_the_last_good_state(written):
    before = json.loads((written.folder / "state.json").read_text())
    for loss in (math.nan, math.inf):
        with pytest.raises(RuntimeError, match=rf"the loss of epoch 2 is {loss}; a lower learning"):
            written.on_epoch_end(1, {"loss": loss})
    assert json.loads((written.folder / "state.json").read_text()) == before
    remove_state(written.folder)
    assert not written.folder.exists()


# Compiled and refused


@pytest.mark.parametrize("labels", ["numbers", "one-hot"])
def test_a_step_is_traced_once(labels, monkeypatch):
    """And once more where a metric's variables are not there yet."""
    kind = "Sparse" if labels == "numbers" else ""
    loss = getattr(keras.losses, f"{kind}CategoricalCrossentropy")(from_logits=True)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    compile_classifier(model, "sgd", loss)
    traced = []
    step = keras.Model.train_step
    monkeypatch.setattr(
        keras.Model, "train_step", lambda self, data: traced.append(labels) or step(self, data)
    )
    y = np.arange(6) % 3
    y = y if labels == "numbers" else np.eye(3)[y]
    history = model.fit(np.ones((6, 2)), y, batch_size=3, verbose=0).history
    assert set(history) == {"accuracy", "loss"}
    assert traced == [labels]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"precision": "float16"}, "precision='float16': expected one of float32, mixed_fl"),
        ({"recipe": RECIPES["imagenet"]}, "the recipe changes colours"),
        ({"cell": "shrinkcnn"}, "cell='shrinkcnn': expected a Cell or an Architecture"),
        ({"cell": kas.Architecture({}), "width": 1}, "width=1: is for a cell; an Architecture is"),
        ({"data": "digits"}, "data: is a str; load it with load_images"),
        ({"data": load_images("digits", purpose="search")}, "loaded for a search"),
    ],
)
def test_what_is_refused(data, options, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        train_network(**{"cell": CELL, "data": data, "recipe": RECIPE, **options})
