"""The smallest file that is accurate enough: which is taken, and what is said of the others."""

import keras
import numpy as np
import pytest
from exported import refusal, with_weights
from keras import layers

from tflite_export import (
    Agreement,
    NoModeHoldsError,
    convert_smallest,
    describe,
    verify,
)
from tflite_export.__main__ import main

SAMPLES = 200


def images_of(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 4, 4, 2)).astype("float32")


def labels_of(images):
    """Which of two halves is the brighter, in the second channel."""
    return (images[:, :2, :, 1].sum((1, 2)) < images[:, 2:, :, 1].sum((1, 2))).astype("int64")


def network(scale=2000.0):
    """A network that is right, of which one channel's activations are `scale` times the other's.

    All channels of an activation have one range. At a scale of thousands 8 bits leave nothing of
    the small channel, by which the network decides; 16 bits leave enough. All its layers are too
    small for "dynamic" to touch them, so that int8 makes the smallest file.
    """
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, use_bias=False, name="scaled")(inputs)
    x = layers.DepthwiseConv2D(1, use_bias=False, name="unscaled")(x)
    x = layers.Dense(30, activation="relu", use_bias=False, name="halves")(layers.Flatten()(x))
    for _ in range(4):
        x = layers.Dense(30, activation="relu", kernel_initializer="identity")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="classes")(x))
    halves = np.zeros((4, 4, 2, 30), np.float32)
    halves[:2, :, 1, ::2] = halves[2:, :, 1, 1::2] = 1
    halves[2:, :, 1, ::2] = halves[:2, :, 1, 1::2] = -1
    classes = np.zeros((30, 2), np.float32)
    classes[::2, 0] = classes[1::2, 1] = 1
    model.get_layer("scaled").set_weights([np.diag([scale, 1]).reshape(1, 1, 2, 2)])
    model.get_layer("unscaled").set_weights([np.array([1 / scale, 1]).reshape(1, 1, 2, 1)])
    model.get_layer("halves").set_weights([halves.reshape(32, 30)])
    model.get_layer("classes").set_weights([classes])
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The model, and arrays."""
    folder = tmp_path_factory.mktemp("smallest")
    model.save(folder / "hard.keras")
    images = images_of(1)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels_of(images))
    np.save(folder / "short.npy", np.arange(5) % 2)
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    return folder


@pytest.fixture(scope="module")
def hard(model, tmp_path_factory):
    """The choice for a network that 8-bit activations cannot carry."""
    path, images = tmp_path_factory.mktemp("hard") / "m.tflite", images_of(1)
    # An iterable that can be read once: both modes of integers need it.
    data = iter([images_of(0)[:50], images_of(0)[50:]])
    return convert_smallest(model, path, images, labels_of(images), 0.02, data)


def test_a_mode_that_loses_too_much_is_passed_over(hard, model):
    modes = {mode.quantization: mode for mode in hard.modes}
    assert [*modes] == ["int8", "int16x8", "float16", "float32", "dynamic"]
    assert modes["int8"].objection == "accuracy drops"
    assert modes["int8"].agreement.accuracy_drop > 0.2
    assert hard.chosen is modes["int16x8"]
    assert describe(hard.path).quantization == "int16x8"
    assert [one.operator for one in hard.float_operators] == ["QUANTIZE", "DEQUANTIZE"]
    sizes = [mode.num_bytes for mode in hard.modes]
    assert sizes == sorted(sizes)
    assert hard.chosen.num_bytes == hard.path.stat().st_size
    # "dynamic" leaves such small layers as they are: of equal files the exact one comes first.
    assert sizes[-2] == sizes[-1]
    images = images_of(1)
    assert verify(model, hard.path, images, labels_of(images)) == hard.chosen.agreement


def test_the_drop_is_of_counts_and_its_error_of_pairs(hard):
    for mode in hard.modes:
        drop = mode.agreement.accuracy_drop
        assert (drop * SAMPLES).is_integer()
        # The model is always right: what is lost alone makes the error, as of a binomial.
        error = (drop * (1 - drop) / SAMPLES) ** 0.5
        assert mode.agreement.accuracy_drop_error == pytest.approx(error)
    assert hard.modes[0].agreement.accuracy_drop_error > 0.01


SIZES = {"float32": 400, "float16": 200, "dynamic": 110, "int8": 100}
CLASSES = {
    "num_samples": SAMPLES,
    "argmax_agreement": 1.0,
    "max_abs_difference": 0.0,
    "model_accuracy": 0.9,
    "file_accuracy": 0.9,
    "accuracy_drop_error": 0.0,
}
NUMBERS = CLASSES | dict.fromkeys(("argmax_agreement", "model_accuracy", "file_accuracy"))
NUMBERS |= {"accuracy_drop_error": None, "difference_share": 0.0}


def play(monkeypatch, good, int8):
    """Has files of given sizes converted, whose agreements are good, but for the int8 file's."""

    def converted(_, path, mode, *__):
        if mode not in SIZES:
            raise ValueError("TensorFlow Lite cannot convert it")
        path.write_bytes(bytes(SIZES[mode]))

    def verified(_, path, *__):
        return Agreement(**good | (int8 if path.stem == "int8" else {}))

    monkeypatch.setattr("tflite_export.smallest.convert", converted)
    monkeypatch.setattr("tflite_export.smallest.verify", verified)
    monkeypatch.setattr("tflite_export.smallest.float_operators", lambda _: ())


@pytest.mark.parametrize(
    ("int8", "objection", "chosen"),
    [
        ({}, "", "int8"),
        ({"file_accuracy": 0.88}, "", "int8"),  # exactly what is allowed
        ({"file_accuracy": 0.879}, "accuracy drops", "dynamic"),
        # More accurate, but another network.
        ({"file_accuracy": 0.95, "argmax_agreement": 0.94}, "argmax differs", "dynamic"),
        ({"max_abs_difference": np.nan}, "outputs are NaN", "dynamic"),
    ],
)
def test_the_choice(model, tmp_path, monkeypatch, int8, objection, chosen):
    play(monkeypatch, CLASSES, int8)
    images = images_of(1)
    made = convert_smallest(model, tmp_path / "m.tflite", images, labels_of(images), 0.02)
    modes = {mode.quantization: mode for mode in made.modes}
    assert [*modes] == ["int8", "dynamic", "float16", "float32", "int16x8"]
    assert modes["int8"].objection == objection
    assert modes["int16x8"].objection == "TensorFlow Lite cannot convert it"
    assert modes["int16x8"].num_bytes is modes["int16x8"].agreement is None
    assert made.chosen is modes[chosen]
    assert [file.name for file in tmp_path.iterdir()] == ["m.tflite"]
    assert made.path.stat().st_size == SIZES[chosen]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_accuracy_drop": -0.01}, "max_accuracy_drop must be a share from 0 to below 1"),
        ({"path": "m.bin"}, "path must end in .tflite"),
        ({"inputs": np.zeros((3, 4, 4))}, r"inputs has shape \(3, 4, 4\)"),
        ({"labels": np.zeros(3, int)}, r"labels have shape \(3,\)"),
        ({"labels": None}, "labels are missing, whose classes an accuracy is of"),
        ({"max_difference": 0}, "max_difference must be more than 0, not 0"),
        ({"representative_data": np.zeros((3, 1))}, "representative_data has shape"),
    ],
)
def test_bad_input_is_refused_before_anything_is_converted(
    model, tmp_path, monkeypatch, changed, message
):
    monkeypatch.setattr("tflite_export.smallest.convert", lambda *_: pytest.fail("converted"))
    images = images_of(1)
    arguments = {"inputs": images, "labels": labels_of(images), "path": "m.tflite"} | changed
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message):
        convert_smallest(model, **arguments)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("share", "chosen"), [(0.1, "int8"), (0.11, "dynamic")])
def test_a_regression_is_chosen_by_its_difference(tmp_path, capsys, monkeypatch, share, chosen):
    play(monkeypatch, NUMBERS, {"difference_share": share})
    network = keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(1)])
    made = convert_smallest(network, tmp_path / "m.tflite", images_of(1))
    modes = {mode.quantization: mode for mode in made.modes}
    assert modes["int8"].objection == ("" if chosen == "int8" else "outputs differ")
    assert made.chosen is modes[chosen]
    network.save(tmp_path / "m.keras")
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images_of(1))
    options = ["--inputs", "images.npy", "--max-difference", "0.1"]
    assert main(["convert", "m.keras", "m.tflite", *options]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[0] == ["mode", "bytes", "share"]
    assert rows[2][:2] == ["int8", "100"]
    assert rows[2][3:] == (["CHOSEN"] if chosen == "int8" else ["outputs", "differ"])


COMMAND = ["--inputs", "images.npy", "--labels", "labels.npy", "--max-accuracy-drop"]


def test_the_command_prints_all_modes_and_writes_one_file(there, hard, monkeypatch, capsys):
    monkeypatch.setattr("tflite_export.convert_smallest", lambda *_, **__: hard)
    assert main(["convert", "hard.keras", "m.tflite", *COMMAND, "0.02"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    rows = {}
    for line in filter(str.strip, printed.splitlines()):  # cells of later tables may be folded
        rows.setdefault(line.split()[0], line.split())
    assert rows["int8"][-2:] == ["accuracy", "drops"]
    assert rows["int16x8"][-1] == "CHOSEN"
    assert rows["float32"][-1] == rows["float16"][-1] == rows["dynamic"][-1] == "holds"
    assert "on 200 samples" in " ".join(printed.split())
    assert rows["QUANTIZE"][2] == "border:"
    assert printed.endswith(f"m.tflite: int16x8, {hard.chosen.num_bytes:,} bytes\n")


def test_the_command_exits_with_1_if_none_holds(there, capfd):
    model = keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(2)])
    with_weights(model, lambda weight: np.full_like(weight, np.nan)).save("nan.keras")
    (there / "none.tflite").write_bytes(b"older")
    command = ["convert", "nan.keras", "none.tflite", *COMMAND, "0.5"]
    message = refusal(capfd, command, 1, "int8: representative_data is missing")
    assert message.startswith("no file is as accurate as the model, to within 0.5: ")
    assert message.count("outputs are NaN") == 3
    assert (there / "none.tflite").read_bytes() == b"older"
    assert issubclass(NoModeHoldsError, ValueError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-accuracy-drop 0.01 --inputs images.npy", "--max-accuracy-drop needs --labels"),
        ("--inputs images.npy", "--inputs: is for a choice by --max-accuracy-drop"),
        (
            "--max-accuracy-drop 0.01 --quantization float32",
            "argument --quantization: not allowed with argument --max-accuracy-drop",
        ),
        (
            "--max-accuracy-drop 0.01 --inputs images.npy --labels short.npy",
            "labels have shape (5,), but there are (200,) predictions",
        ),
    ],
)
def test_bad_options_are_one_line(there, capfd, options, message):
    assert refusal(capfd, f"convert hard.keras new.tflite {options}").startswith(message)
    assert not (there / "new.tflite").exists()
