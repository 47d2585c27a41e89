"""The smallest file that is accurate enough: which is taken, and what is said of the others."""

import keras
import numpy as np
import pytest
from keras import layers

from tflite_export import NoModeHoldsError, convert, convert_smallest, describe, verify
from tflite_export.__main__ import main

SAMPLES = 200
INTEGERS = {"int8", "int16x8"}


def images_of(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 4, 4, 2)).astype("float32")


def labels_of(images):
    """Which of two halves is the brighter, in the second channel."""
    return (images[:, :2, :, 1].sum((1, 2)) < images[:, 2:, :, 1].sum((1, 2))).astype("int64")


def network(scale=1.0):
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
def folder(tmp_path_factory):
    """A model that 8-bit activations cannot carry, and arrays."""
    folder = tmp_path_factory.mktemp("smallest")
    network(2000.0).save(folder / "hard.keras")
    images = images_of(1)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels_of(images))
    np.save(folder / "calibration.npy", images_of(0))
    np.save(folder / "short.npy", np.arange(5) % 2)
    # What a collapsed file gives all images, so that it is more accurate than the model.
    np.save(folder / "constant.npy", np.ones(SAMPLES, np.int64))
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    return folder


def chosen(model, path, drop=0.02, data=None):
    images = images_of(1)
    return convert_smallest(model, path, images, labels_of(images), drop, data)


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """The choice for a network that 8-bit activations cannot carry."""
    return chosen(network(2000.0), tmp_path_factory.mktemp("hard") / "m.tflite", 0.02, images_of(0))


def test_the_smallest_file_is_taken_where_it_holds(tmp_path):
    # An iterable that can be read once: both modes of integers need it.
    data = iter([images_of(0)[:50], images_of(0)[50:]])
    easy = chosen(network(), tmp_path / "m.tflite", 0.0, data)
    assert easy.chosen.quantization == "int8"
    assert [mode.objection for mode in easy.modes] == [""] * 5
    assert easy.float_operators == describe(easy.path).float_operators
    assert [one.operator for one in easy.float_operators] == ["QUANTIZE", "DEQUANTIZE"]


def test_a_mode_that_loses_too_much_is_passed_over(hard):
    modes = {mode.quantization: mode for mode in hard.modes}
    assert next(iter(modes)) == "int8"
    assert modes["int8"].objection == "accuracy drops"
    assert modes["int8"].agreement.accuracy_drop > 0.2
    assert hard.chosen is modes["int16x8"] is hard.modes[1]
    assert describe(hard.path).quantization == "int16x8"
    assert verify(network(2000.0), hard.path, images_of(1)).predicts_as_model


@pytest.mark.slow
def test_a_smaller_drop_takes_a_larger_file(hard, tmp_path):
    # Its predictions are the model's but for a few: the accuracy alone decides.
    lost = hard.chosen.agreement.accuracy_drop
    assert 0 < lost <= 0.02
    assert hard.chosen.agreement.predicts_as_model
    stricter = chosen(network(2000.0), tmp_path / "m.tflite", lost / 2, images_of(0))
    assert [mode.objection for mode in stricter.modes[:2]] == ["accuracy drops"] * 2
    assert stricter.chosen.quantization == "float16"
    exactly = chosen(network(2000.0), tmp_path / "m.tflite", lost, images_of(0))
    assert exactly.chosen.quantization == "int16x8"


def test_all_modes_are_tried_and_sorted_by_their_sizes(hard):
    assert {mode.quantization for mode in hard.modes} == {
        "float32",
        "float16",
        "dynamic",
        "int8",
        "int16x8",
    }
    sizes = [mode.num_bytes for mode in hard.modes]
    assert sizes == sorted(sizes)
    assert hard.chosen.num_bytes == hard.path.stat().st_size
    # "dynamic" leaves such small layers as they are: of equal files the exact one comes first.
    assert [mode.quantization for mode in hard.modes][-2:] == ["float32", "dynamic"]
    assert sizes[-2] == sizes[-1]


def test_the_choice_is_the_same_file_as_a_conversion(hard, tmp_path):
    path = tmp_path / "m.tflite"
    convert(network(2000.0), path, "int16x8", representative_data=images_of(0))
    images = images_of(1)
    again = verify(network(2000.0), path, images, labels_of(images))
    # Not the bytes: Keras numbers the layers of each new network on, and their names are inside.
    assert again == hard.chosen.agreement


def test_the_drop_is_of_counts_and_its_error_of_pairs(hard):
    for mode in hard.modes:
        drop = mode.agreement.accuracy_drop
        assert (drop * SAMPLES).is_integer()
        # The model is always right: what is lost alone makes the error, as of a binomial.
        error = (drop * (1 - drop) / SAMPLES) ** 0.5
        assert mode.agreement.accuracy_drop_error == pytest.approx(error)
    assert hard.modes[0].agreement.accuracy_drop_error > 0.01


@pytest.mark.slow
def test_predictions_that_differ_are_passed_over_even_if_more_are_right(folder, tmp_path):
    labels = np.load(folder / "constant.npy")
    for truth in (1 - labels, labels):  # one of the two is what the int8 file gives
        smallest = convert_smallest(
            network(2000.0), tmp_path / "m.tflite", images_of(1), truth, 0.02, images_of(0)
        )
        int8 = smallest.modes[0]
        if int8.agreement.accuracy_drop <= 0:
            assert int8.objection == "argmax differs"
            break
    else:
        pytest.fail("the int8 file gives neither class")
    assert smallest.chosen.quantization == "int16x8"


@pytest.mark.slow
def test_a_mode_that_cannot_be_converted_is_listed_with_its_reason(tmp_path):
    inputs = keras.Input((4, 4, 2))
    x = layers.Flatten()(keras.ops.sin(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    smallest = chosen(model, tmp_path / "m.tflite", 0.0, images_of(0))
    missing = {mode.quantization: mode for mode in smallest.modes if mode.agreement is None}
    assert [*missing] == ["int16x8"] == [smallest.modes[-1].quantization]
    assert "TensorFlow Lite cannot convert it" in missing["int16x8"].objection
    # So few weights weigh less than what a quantization says of itself.
    assert smallest.chosen.quantization == "float32"
    assert [mode.agreement for mode in smallest.modes].count(None) == 1


@pytest.mark.slow
def test_if_none_holds_an_older_file_stays(tmp_path):
    model = network()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    path = tmp_path / "m.tflite"
    path.write_bytes(b"older")
    with pytest.raises(
        NoModeHoldsError, match=r"to within 0.5: .*float32: outputs are NaN"
    ) as info:
        chosen(model, path, 0.5)
    assert "\n" not in str(info.value)
    assert {mode.quantization for mode in info.value.modes} >= INTEGERS
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_accuracy_drop": -0.01}, "max_accuracy_drop must be a share from 0 to below 1"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop must be a share"),
        ({"max_accuracy_drop": 1}, "max_accuracy_drop must be a share"),
        ({"path": "m.bin"}, "path must end in .tflite"),
        ({"inputs": np.zeros((3, 4, 4))}, r"inputs has shape \(3, 4, 4\)"),
        ({"inputs": np.zeros((0, 4, 4, 2))}, "inputs hold no sample"),
        ({"labels": np.zeros(SAMPLES)}, "labels must be integers"),
        ({"labels": np.zeros(3, int)}, r"labels have shape \(3,\)"),
        ({"representative_data": np.zeros((3, 1))}, "representative_data has shape"),
    ],
)
def test_bad_input_is_refused_before_anything_is_converted(tmp_path, monkeypatch, changed, message):
    monkeypatch.setattr("tflite_export.smallest.convert", lambda *_: pytest.fail("converted"))
    images = images_of(1)
    arguments = {"inputs": images, "labels": labels_of(images), "path": "m.tflite"} | changed
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message):
        convert_smallest(network(), **arguments)
    assert not [*tmp_path.iterdir()]


DATA = ["--inputs", "images.npy", "--representative-data", "calibration.npy"]


@pytest.mark.slow
def test_the_command_prints_all_modes_and_writes_one_file(there, capsys):
    before = {path.name for path in there.iterdir()}
    options = [*DATA, "--labels", "labels.npy", "--max-accuracy-drop", "0.02"]
    assert main(["convert", "hard.keras", "m.tflite", *options]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    rows = {}
    for line in filter(str.strip, printed.splitlines()):  # cells of later tables may be folded
        rows.setdefault(line.split()[0], line.split())
    assert rows["int8"][-2:] == ["accuracy", "drops"]
    assert rows["int16x8"][-1] == "CHOSEN"
    assert rows["float32"][-1] == rows["float16"][-1] == rows["dynamic"][-1] == "holds"
    assert "on 200 samples" in " ".join(printed.split())
    assert rows["QUANTIZE"][2] == "border:"
    size = (there / "m.tflite").stat().st_size
    assert printed.endswith(f"m.tflite: int16x8, {size:,} bytes\n")
    assert {path.name for path in there.iterdir()} == before | {"m.tflite"}


def test_the_command_exits_with_1_if_none_holds(there, capsys):
    model = network()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save("nan.keras")
    options = ["--inputs", "images.npy", "--labels", "labels.npy", "--max-accuracy-drop", "0.02"]
    with pytest.raises(SystemExit) as exit_:
        main(["convert", "nan.keras", "none.tflite", *options])
    assert exit_.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.count("outputs are NaN") == 3
    assert "int8: representative_data is missing" in printed.out
    assert printed.err.startswith("tflite_export: error: no file is as accurate as the model")
    assert printed.err.count("\n") == 1
    assert not (there / "none.tflite").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-accuracy-drop 0.01", "--max-accuracy-drop needs --inputs: samples to choose by"),
        ("--max-accuracy-drop 0.01 --inputs images.npy", "--max-accuracy-drop needs --labels"),
        ("--inputs images.npy", "--inputs: is for a choice by --max-accuracy-drop"),
        (
            "--max-accuracy-drop 0.01 --quantization float32",
            "argument --quantization: not allowed with argument --max-accuracy-drop",
        ),
        ("--max-accuracy-drop few", "argument --max-accuracy-drop: invalid float value: 'few'"),
        (
            "--max-accuracy-drop 2 --inputs images.npy --labels labels.npy",
            "max_accuracy_drop must be a share from 0 to below 1, not 2.0",
        ),
        (
            "--max-accuracy-drop 0.01 --inputs images.npy --labels short.npy",
            "labels have shape (5,), but there are (200,) predictions",
        ),
    ],
)
def test_bad_options_are_one_line(there, capsys, options, message):
    with pytest.raises(SystemExit) as exit_:
        main(["convert", "hard.keras", "new.tflite", *options.split()])
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"tflite_export: error: {message}")
    assert printed.err.count("\n") == 1
    assert not (there / "new.tflite").exists()
