"""Trainings that are killed, averaged, computed in half precision: on small networks of digits."""

import dataclasses
import json
import time

import keras
import numpy as np
import pytest
from forked import KILLED, start

import keras_autoshrink as kas
from keras_autoshrink.commands.cli import main
from keras_autoshrink.data.images import ImageData, Split, load_images
from keras_autoshrink.training import classifier
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, remove_state
from keras_autoshrink.training.classifier import compile_classifier, train_network
from keras_autoshrink.training.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("one_cell_in_each_stage")

CELL = kas.Cell.dense(("input", "conv1x1"))
RECIPE = dataclasses.replace(
    RECIPES["plain"], epochs=3, augmentation=("padded_crop", "cutout"), l2=1e-4, ema=0.9
)


@pytest.fixture(scope="module")
def data():
    """A fifth of the digits."""
    digits = load_images("digits", purpose="train")
    parts = [
        Split(part.x[::5], part.y[::5]) for part in (digits.train, digits.validation, digits.test)
    ]
    return dataclasses.replace(
        digits, **dict(zip(("train", "validation", "test"), parts, strict=True))
    )


def train(data, recipe=RECIPE, **options):
    return train_network(CELL, data, recipe, width=0.25, **options)


@pytest.fixture(scope="module")
def whole(data):
    """A training that nothing interrupts."""
    return train(data)


class _KilledError(Exception):
    pass


class _DyingCheckpoint(TrainingCheckpoint):
    """Dies once an epoch is written, or while it is."""

    def __init__(self, folder, after, while_writing=False):
        super().__init__(folder, {"seed": 0})
        self.after, self.while_writing = after, while_writing

    def on_epoch_end(self, epoch, logs=None):
        if self.while_writing and epoch + 1 == self.after:
            # The next epoch's weights are there, what names them is not.
            (self.folder / f"epoch-{epoch + 1}.npz").write_bytes(b"half of it")
            raise _KilledError
        super().on_epoch_end(epoch, logs)
        if epoch + 1 == self.after:
            raise _KilledError


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("while_writing", [False, True])
def test_a_resumed_training_ends_with_the_same_weights(data, whole, tmp_path, while_writing):
    folder = tmp_path / "state"
    for after in (1, 2):
        with pytest.raises(_KilledError):
            train(data, checkpoint=_DyingCheckpoint(folder, after, while_writing and after == 2))
    checkpoint = TrainingCheckpoint(folder, {"seed": 0})
    assert checkpoint.epochs_done == (1 if while_writing else 2)
    resumed = train(data, checkpoint=checkpoint)
    assert resumed.history == whole.history
    assert resumed.test_accuracy == whole.test_accuracy
    assert same_weights(resumed.model, whole.model)
    # One state is kept, not one for each epoch.
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-3.npz", "state.json"]
    # Killed after the last epoch, but before its model was written.
    again = train(data, checkpoint=TrainingCheckpoint(folder, {"seed": 0}))
    assert again.history == whole.history
    assert same_weights(again.model, whole.model)
    remove_state(folder)
    assert not folder.exists()


def test_the_seed_decides(data, whole):
    assert train(data, seed=1).history != whole.history


@pytest.fixture
def written(tmp_path):
    """A checkpoint that has written its first epoch, of a model of one layer."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    checkpoint = TrainingCheckpoint(tmp_path, {"seed": 0, "ema": None})
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {"loss": 1.0})
    return checkpoint


def test_a_state_has_all_that_a_training_changes(tmp_path):
    """The state of Dropout's random generator among it."""
    x, y = np.ones((8, 2)), np.ones((8, 1))

    def build():
        keras.utils.set_random_seed(0)
        layers = [keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.1, use_ema=True), "mse")
        return model

    model = build()
    model.fit(x, y, epochs=3, verbose=0, callbacks=[TrainingCheckpoint(tmp_path, {})])
    other = build()
    TrainingCheckpoint(tmp_path, {}).restore(other)
    assert not np.array_equal(seeds_of(other)[0], seeds_of(build())[0])
    states = [[*m.optimizer.variables, *seeds_of(m)] for m in (model, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*states, strict=True))


def seeds_of(model):
    return [variable for variable in model.variables if "seed" in variable.path]


def test_a_state_of_other_settings_is_refused(written):
    with pytest.raises(ValueError, match=r"with ema=None, not 0\.9; give it the same settings"):
        TrainingCheckpoint(written.folder, {"seed": 0, "ema": 0.9})


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", b"{}"),
        ("state.json", b'{"settings": [], "history": {}, "epochs_done": 1, "weights": "a"}'),
        ("state.json", b'{"settings": {}, "history": null, "epochs_done": 1, "weights": "a"}'),
        ("epoch-1.npz", b"{}"),
    ],
)
def test_a_damaged_state_is_named(written, file, content):
    (written.folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}: damaged: ") as caught:
        TrainingCheckpoint(written.folder, written.settings).restore(written.model)
    assert "\n" not in str(caught.value)


def test_a_training_that_diverges_says_so_and_keeps_the_last_good_state(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=1e30, ema=None)
    with pytest.raises(RuntimeError, match=r"the loss of epoch 1 is (nan|inf); a lower learning"):
        train(data, recipe, checkpoint=TrainingCheckpoint(tmp_path / "state", {}))
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_the_trained_network_is_the_moving_average(data):
    """With a momentum of 0 the average is the last step's weights; with a high one it lags."""
    none, zero, slow = (
        train(data, dataclasses.replace(RECIPE, epochs=1, ema=ema)).model
        for ema in (None, 0.0, 0.999)
    )
    assert same_weights(none, zero)
    for of_last_step, averaged in zip(none.weights, slow.weights, strict=True):
        # The same steps were taken: BatchNorm has seen the same.
        same = np.array_equal(of_last_step.numpy(), averaged.numpy())
        assert same == ("moving" in of_last_step.name), of_last_step.path


@pytest.mark.parametrize(
    "precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_trains_and_gives_a_float32_model(data, whole, precision):
    trained = train(data, precision=precision)
    assert trained.history["loss"] != whole.history["loss"]
    assert trained.history["loss"] == pytest.approx(whole.history["loss"], rel=0.1)
    assert {layer.dtype_policy.name for layer in trained.model.layers} == {"float32"}
    assert {weight.dtype for weight in trained.model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_another_policy_in_force_changes_nothing(data, whole):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trained = train(data)
    finally:
        keras.config.set_dtype_policy("float32")
    assert trained.history == whole.history
    assert {layer.dtype_policy.name for layer in trained.model.layers} == {"float32"}


def test_images_without_a_validation_part(data):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    trained = train(dataclasses.replace(data, validation=None), recipe)
    assert set(trained.history) == {"loss", "accuracy"}


def test_fewer_images_than_a_batch_are_one_batch(data):
    few = dataclasses.replace(data, train=Split(data.train.x[:50], data.train.y[:50]))
    assert len(train(few, dataclasses.replace(RECIPE, epochs=1)).history["loss"]) == 1


def test_the_test_accuracy_is_that_of_the_model(data, whole):
    predicted = whole.model.predict(data.test.x, verbose=0).argmax(axis=1)
    assert whole.test_accuracy == pytest.approx(np.mean(predicted == data.test.y))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"precision": "float16"}, "precision='float16': expected one of float32, mixed_fl"),
        ({"recipe": RECIPES["imagenet"]}, "the recipe changes colours"),
    ],
)
def test_what_is_refused(data, options, culprit):
    with pytest.raises(ValueError, match=culprit):
        train(data, **options)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("shrinkcnn", None, RECIPE), "cell='shrinkcnn': expected a Cell"),
        ((CELL, "digits", RECIPE), "data: is a str; load it with load_images"),
        ((CELL, None, "plain"), "recipe='plain': expected a Recipe"),
    ],
)
def test_names_are_not_what_they_name(arguments, problem):
    with pytest.raises(TypeError, match=problem):
        train_network(*arguments)


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
    history = model.fit(
        np.ones((6, 2)), y if labels == "numbers" else np.eye(3)[y], batch_size=3, verbose=0
    ).history
    assert set(history) == {"accuracy", "loss"}
    assert traced == [labels]


def test_data_for_a_search_are_refused():
    searched: ImageData = load_images("digits", purpose="search")
    with pytest.raises(ValueError, match="loaded for a search"):
        train(searched)


def small_main(arguments):
    """The command in a process of its own, which has not the fixture."""
    classifier._SMALL_ARCHITECTURE["stage_repeats"] = (1, 1, 1)
    main(arguments)


def test_killed_twice_the_command_ends_with_the_curves_of_one_that_was_not(tmp_path):
    cell = tmp_path / "cell.json"
    CELL.save(cell)

    def command(name):
        options = "--dataset digits --width 0.25 --epochs 4 --ema 0.9 --seed 3 --quiet"
        return ["train", str(cell), "--output", str(tmp_path / name), *options.split()]

    assert main(command("whole.keras")) == 0
    state = tmp_path / "killed.keras.training" / "state.json"

    def epochs_done():
        return json.loads(state.read_text())["epochs_done"] if state.exists() else 0

    for kill_after in (1, 2):
        process = start(small_main, command("killed.keras"))
        deadline = time.monotonic() + 120
        while epochs_done() < kill_after:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == KILLED
    assert main(command("killed.keras")) == 0
    whole, killed = (
        json.loads((tmp_path / f"{name}.keras.json").read_text()) for name in ("whole", "killed")
    )
    assert killed["history"] == whole["history"]
    assert len(killed["history"]["loss"]) == 4
    assert killed == whole
    models = [keras.saving.load_model(tmp_path / f"{n}.keras") for n in ("whole", "killed")]
    assert same_weights(*models)
    assert not state.parent.exists()
