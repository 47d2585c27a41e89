"""What is refused, with which words, and what is left on disk."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tflite_export
from tflite_export import benchmark, convert, count_macs, verify

SAMPLES = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )


@pytest.fixture(scope="module")
def good_file(model, tmp_path_factory):
    return convert(model, tmp_path_factory.mktemp("good") / "good.tflite")


def with_nan():
    samples = SAMPLES.copy()
    samples[2, 3, 3, 0] = np.nan
    return samples


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int4"}, "quantization must be one of float32, .*, not 'int4'"),
        ({"path": "model.bin"}, "path must end in .tflite"),
        ({"path": "model"}, "path must end in .tflite"),
        ({"path": "missing/model.tflite"}, "path is in a folder that does not exist"),
        ({"path": "folder.tflite"}, "path is a folder"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"quantization": "int8"}, "representative_data is missing"),
        ({"representative_data": SAMPLES[:0]}, "representative_data holds no sample"),
        ({"representative_data": []}, "representative_data holds no sample"),
        ({"representative_data": with_nan()}, "representative_data holds NaN"),
        ({"representative_data": SAMPLES[0]}, r"representative_data has shape \(8, 8, 1\)"),
        ({"representative_data": list(SAMPLES)}, r"representative_data has shape \(8, 8, 1\)"),
        ({"representative_data": SAMPLES[..., 0]}, r"representative_data has shape \(6, 8, 8\)"),
        ({"representative_data": SAMPLES.astype(str)}, "representative_data is <U"),
        (
            {"representative_data": tf.data.Dataset.from_tensors(SAMPLES).repeat()},
            "representative_data never ends",
        ),
    ],
)
def test_convert_refuses(model, tmp_path, arguments, message):
    (tmp_path / "folder.tflite").mkdir()
    path = tmp_path / arguments.pop("path", "model.tflite")
    if "representative_data" in arguments:
        arguments["quantization"] = "int8"
    with pytest.raises(ValueError, match=f"^{message}") as error:
        convert(model, path, **arguments)
    assert "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.tflite"]


def test_convert_refuses_models(tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(TypeError, match=r"model must be a keras.Model, not Dense"):
        convert(layers.Dense(3), path)
    with pytest.raises(ValueError, match="model has no fixed input shape"):
        convert(keras.Sequential([layers.Dense(3)]), path)
    with pytest.raises(ValueError, match=r"an input of shape \(None, None, None, 3\)"):
        convert(keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)]), path)
    with pytest.raises(ValueError, match="batch_size is 1, but the model's is 2"):
        convert(keras.Sequential([keras.Input(batch_shape=(2, 3)), layers.Dense(3)]), path)
    with pytest.raises(ValueError, match="model computes in 16 bits"):
        convert(keras.Sequential([keras.Input((3,)), layers.Dense(3, dtype="mixed_float16")]), path)
    with pytest.raises(TypeError, match="representative_data must be arrays, not int"):
        convert(
            keras.Sequential([keras.Input((3,)), layers.Dense(3)]),
            path,
            "int8",
            representative_data=5,
        )
    assert not list(tmp_path.iterdir())


def test_loop_in_int8_is_refused(tmp_path):
    """The converter would end the process."""
    network = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(9, 4), layers.GRU(4)]
    )
    with pytest.raises(ValueError, match=r"model runs a loop.*unroll=True"):
        convert(network, tmp_path / "m.tflite", "int8", representative_data=np.zeros((2, 5), int))
    with pytest.raises(ValueError, match="representative_data is float64, but the model takes int"):
        convert(network, tmp_path / "m.tflite", "int8", representative_data=np.zeros((2, 5)))


class Erfinv(layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(inputs)


def test_failing_conversion_leaves_the_old_file(model, tmp_path, good_file):
    path = tmp_path / "model.tflite"
    path.write_bytes(good_file.read_bytes())
    unsupported = keras.Sequential([keras.Input((4,)), Erfinv()])
    with pytest.raises(
        ValueError, match=r"model: TensorFlow Lite .* no built-in operator for Erfi"
    ):
        convert(unsupported, path)
    assert path.read_bytes() == good_file.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_conversion_leaves_nothing(model, tmp_path):
    class Interrupting(layers.Layer):
        def call(self, inputs):
            if hasattr(self, "interrupts"):
                raise KeyboardInterrupt
            return inputs

    layer = Interrupting()
    network = keras.Sequential([keras.Input((4,)), layer])
    layer.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        convert(network, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_other_backends_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        ValueError, match=r"model runs on the jax backend.*KERAS_BACKEND=tensorflow"
    ):
        convert(model, tmp_path / "model.tflite")


def test_import_is_cheap():
    program = (
        "import sys, tflite_export, tflite_export.__main__\n"
        "heavy = {'keras', 'tensorflow', 'rich', 'keras_autoshrink'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(tflite_export.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (SAMPLES[:0], None, "inputs hold no sample"),
        (np.float32(1), None, "inputs hold no sample"),
        (with_nan(), None, "inputs hold NaN"),
        (SAMPLES.astype(str), None, "inputs must be numbers"),
        (SAMPLES[:, :7], None, r"inputs have shape \(6, 7, 8, 1\), but .*good.tflite takes"),
        (SAMPLES[0], None, r"inputs have shape \(8, 8, 1\)"),
        (SAMPLES, np.zeros(5, int), r"labels have shape \(5,\), but there are \(6,\)"),
        (SAMPLES, np.zeros((6, 3), int), r"labels have shape \(6, 3\)"),
        (SAMPLES, np.zeros(6), "labels must be integers, not float64"),
        (SAMPLES, [0, 1, 2, 3, 0, 1], "labels go from 0 to 3, classes from 0 to 2"),
        (SAMPLES, [0, 1, 2, -1, 0, 1], "labels go from -1 to 2"),
    ],
)
def test_verify_refuses(model, good_file, inputs, labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        verify(model, good_file, inputs, labels)


def test_verify_refuses_other_models(good_file):
    def network(shape, units):
        return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(units)])

    with pytest.raises(TypeError, match=r"model must be a keras.Model, not str"):
        verify("model.keras", good_file, SAMPLES)
    with pytest.raises(ValueError, match=r"model takes inputs of shapes \[\(8, 8, 2\)\]"):
        verify(network((8, 8, 2), 3), good_file, SAMPLES)
    with pytest.raises(ValueError, match=r"gives \(6, 3\), but the model gives \(6, 4\)"):
        verify(network((8, 8, 1), 4), good_file, SAMPLES)


def test_verify_needs_two_classes(tmp_path):
    """The argmax of one output is always the same: it would agree with anything."""
    network = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    path = convert(network, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="at least 2 classes"):
        verify(network, path, np.ones((3, 4), np.float32))


def test_benchmark_refuses(good_file):
    with pytest.raises(ValueError, match="num_threads must be at least 1, not 0"):
        benchmark(good_file, num_threads=0)
    with pytest.raises(ValueError, match="runs must be at least 1, not 0"):
        benchmark(good_file, runs=0)


def corrupt_files(data):
    """Damaged copies of a file's bytes, by what is wrong with them."""
    noise = np.random.default_rng(0).bytes(5000)
    # Every length in the header, then some in between, then all of the last fields written.
    lengths = [*range(1, 60), *range(60, len(data), 97), *range(len(data) - 20, len(data))]
    return {
        "empty": b"",
        "a zip": b"PK\x03\x04" + noise,
        "wrong identifier": data[:4] + b"TFL2" + data[8:],
        "noise after the header": data[:8] + noise,
        "zeros after the header": data[:8] + bytes(5000),
        "noise": noise,
        **{f"cut off at {length}": data[:length] for length in lengths},
    }


def test_corrupt_files_are_refused(model, good_file, tmp_path):
    path = tmp_path / "corrupt.tflite"
    for what, data in corrupt_files(good_file.read_bytes()).items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"corrupt.tflite: not a \.tflite file: "):
            print(what, count_macs(path))  # seen where nothing is raised
    for run in (benchmark, lambda path: verify(model, path, SAMPLES)):
        with pytest.raises(ValueError, match=r"not a \.tflite file"):
            run(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.tflite: not a .tflite file: No such file"):
        count_macs(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match=r"not a .tflite file: Is a directory"):
        count_macs(tmp_path)


def test_integers_have_no_ranges_in_16_bits(tmp_path):
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(3)(layers.Embedding(5, 2)(tokens)))
    with pytest.raises(ValueError, match=r"int16x8 is for models of float inputs: .*; take int8"):
        convert(model, tmp_path / "m.tflite", "int16x8", np.zeros((3, 4), np.int32))
    assert not list(tmp_path.iterdir())
