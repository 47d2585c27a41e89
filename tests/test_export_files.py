"""A trained model through all quantizations: what the files are, compute and cost."""

import dataclasses
import io
import logging
import math
import platform

import keras
import numpy as np
import pytest
import rich.console
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from sklearn.datasets import load_digits

from tflite_export import benchmark, check, convert, count_macs, render_table, verify
from tflite_export.file.description import quantization

CHANNELS = 40  # so that the last 1x1 convolution has enough weights for "dynamic"
MACS = 8 * 8 * 9 * CHANNELS + 4 * 4 * (9 * CHANNELS + CHANNELS * CHANNELS) + CHANNELS * 10


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).reshape(-1, 8, 8, 1).astype("float32"), labels


@pytest.fixture(scope="module")
def model(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(CHANNELS, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    images, labels = digits
    model.fit(images[:1500], labels[:1500], batch_size=64, epochs=5, verbose=0)
    return model


@pytest.fixture(scope="module")
def files(model, digits, tmp_path_factory):
    """The path for each quantization."""
    folder = tmp_path_factory.mktemp("files")
    return {
        name: convert(model, folder / f"{name}.tflite", name, representative_data=digits[0][:100])
        for name in ("float32", "float16", "dynamic", "int8", "int16x8")
    }


@pytest.mark.parametrize(
    ("name", "largest_difference"),
    [("float32", 1e-5), ("float16", 1e-2), ("dynamic", 0.1), ("int8", 0.3), ("int16x8", 0.05)],
)
def test_file_computes_what_the_model_does(model, digits, files, name, largest_difference):
    images, labels = digits
    agreement = verify(model, files[name], images[1500:], labels[1500:])
    assert agreement.num_samples == 297
    assert agreement.model_accuracy > 0.8
    assert abs(agreement.file_accuracy - agreement.model_accuracy) <= 0.02
    assert agreement.argmax_agreement >= (1 if name == "float32" else 0.97)
    assert agreement.max_abs_difference < largest_difference
    assert agreement.agrees
    without_labels = verify(model, files[name], images[1500:])
    assert without_labels == dataclasses.replace(
        agreement,
        model_accuracy=None,
        file_accuracy=None,
        accuracy_drop_error=None,
    )


def test_quantization_is_in_the_file(files):
    assert {name: quantization(path) for name, path in files.items()} == {
        name: name for name in files
    }
    assert {name: count_macs(path) for name, path in files.items()} == dict.fromkeys(files, MACS)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    assert all(sizes[name] < 0.8 * sizes["float32"] for name in ("float16", "dynamic", "int8"))


@pytest.mark.parametrize("name", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_inputs_and_outputs_stay_float32(files, name):
    interpreter = Interpreter(str(files[name]))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (source["dtype"], source["shape"].tolist()) == (np.float32, [1, 8, 8, 1])
    assert (target["dtype"], target["shape"].tolist()) == (np.float32, [1, 10])


@pytest.mark.parametrize("name", ["int8", "int16x8"])
def test_integers_compute_in_integers(files, name):
    interpreter = Interpreter(str(files[name]))
    floats = [t for t in interpreter.get_tensor_details() if t["dtype"] == np.float32]
    assert len(floats) == 2  # the file's input and its output


@pytest.mark.parametrize("kind", ["batches", "dataset", "labelled dataset"])
def test_forms_of_representative_data(model, digits, files, tmp_path, kind):
    images, labels = digits[0][:100], digits[1][:100]
    data = {
        "batches": [images[:60], images[60:]],
        "dataset": tf.data.Dataset.from_tensor_slices(images).batch(30),
        "labelled dataset": tf.data.Dataset.from_tensor_slices((images, labels)).batch(100),
    }[kind]
    path = convert(model, tmp_path / "model.tflite", "int8", representative_data=data)
    # The same ranges from the same samples, so the same weights and scales.
    assert path.stat().st_size == files["int8"].stat().st_size
    first, second = (verify(model, file, digits[0][1500:]) for file in (path, files["int8"]))
    assert first == second


def test_batch_of_a_file_is_fixed(model, digits, tmp_path):
    path = convert(
        model, tmp_path / "m.tflite", "int8", representative_data=digits[0][:10], batch_size=4
    )
    assert Interpreter(str(path)).get_input_details()[0]["shape"].tolist() == [4, 8, 8, 1]
    assert count_macs(path) == MACS
    assert verify(model, path, digits[0][:7]).num_samples == 7  # 4, and 3 with one to fill up


def test_batch_norm_and_relu_are_folded(files):
    operators = [d["op_name"] for d in Interpreter(str(files["float32"]))._get_ops_details()]
    assert [name for name in operators if name != "DELEGATE"] == [
        "CONV_2D",
        "MAX_POOL_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]


def with_weights(model, change):
    other = keras.models.clone_model(model)
    other.set_weights([change(weight) for weight in model.get_weights()])
    return other


def test_other_weights_do_not_agree(model, digits, files):
    images, labels = digits
    other = with_weights(model, lambda weight: np.roll(weight, 1))
    agreement = verify(other, files["float32"], images[:100], labels[:100])
    assert agreement.argmax_agreement < 0.9
    assert agreement.file_accuracy > agreement.model_accuracy
    assert not agreement.agrees


def test_nan_never_agrees(model, digits, files, tmp_path):
    images, labels = digits[0][:20], digits[1][:20]
    broken = with_weights(model, lambda weight: np.full_like(weight, np.nan))
    path = convert(broken, tmp_path / "nan.tflite")
    for network, file in ((model, path), (broken, path), (broken, files["float32"])):
        agreement = verify(network, file, images, labels)
        assert math.isnan(agreement.max_abs_difference)
        assert agreement.argmax_agreement == 0
        assert not agreement.agrees
    # argmax of NaN is class 0 for numpy: no reason to call that right.
    assert verify(model, path, images, np.zeros(20, int)).file_accuracy == 0


def test_collapsed_model_agrees_only_without_labels(model, digits, tmp_path):
    """Full agreement says nothing of two networks of which one is useless."""
    images = digits[0][:20]
    constant = with_weights(model, np.zeros_like)
    agreement = verify(constant, convert(constant, tmp_path / "zero.tflite"), images)
    assert agreement.agrees
    lower = dataclasses.replace(agreement, model_accuracy=0.9, file_accuracy=0.1)
    assert not lower.agrees


def test_integer_inputs_and_sequence_outputs(tmp_path):
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(20, 8),
            layers.SimpleRNN(8, return_sequences=True, unroll=True),
            layers.Dense(20),
        ]
    )
    tokens = np.random.default_rng(0).integers(0, 20, (12, 5))
    next_tokens = np.roll(tokens, -1, axis=1)
    path = convert(network, tmp_path / "float.tflite")
    agreement = verify(network, path, tokens, next_tokens)
    assert agreement.argmax_agreement == 1
    assert agreement.model_accuracy == agreement.file_accuracy
    quantized = convert(network, tmp_path / "int8.tflite", "int8", representative_data=tokens)
    assert quantization(quantized) == "int8"
    assert verify(network, quantized, tokens).max_abs_difference < 0.05
    assert benchmark(quantized, runs=3).median_ms > 0
    with pytest.raises(ValueError, match="inputs must be integers"):
        verify(network, path, tokens.astype("float32"))
    with pytest.raises(ValueError, match="LiteRT cannot run"):
        verify(network, path, tokens + 100)


def test_model_of_two_inputs_converts(tmp_path):
    """As a recurrent network does whose state goes in and out."""
    token, state = keras.Input((4,), name="token"), keras.Input((6,), name="state")
    new_state = layers.Dense(6)(layers.Concatenate()([token, state]))
    model = keras.Model({"token": token, "state": state}, [layers.Dense(3)(new_state), new_state])
    path = convert(model, tmp_path / "step.tflite")
    runner = Interpreter(str(path)).get_signature_runner()
    rng = np.random.default_rng(0)
    inputs = {name: rng.random((1, n), np.float32) for name, n in (("token", 4), ("state", 6))}
    expected = sorted(model.predict(inputs, verbose=0), key=np.size)
    for have, want in zip(sorted(runner(**inputs).values(), key=np.size), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5)
    assert count_macs(path) == 10 * 6 + 6 * 3
    with pytest.raises(ValueError, match="2 inputs and 2 outputs"):
        verify(model, path, inputs["token"])
    with pytest.raises(ValueError, match="model has 2 inputs"):
        convert(model, tmp_path / "int8.tflite", "int8", representative_data=inputs["token"])


def test_conversion_is_silent(model, tmp_path, capfd, caplog):
    # As TensorFlow sets it in Jupyter, where the log goes to no file descriptor.
    caplog.set_level(logging.INFO, "tensorflow")
    convert(model, tmp_path / "model.tflite")
    benchmark(tmp_path / "model.tflite", runs=1)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert not tf.get_logger().disabled


def test_latency(files):
    for num_threads in (1, 2):
        latency = benchmark(files["float32"], num_threads, runs=20)
        assert 0 < latency.median_ms <= latency.p95_ms
        assert (latency.num_threads, latency.runs) == (num_threads, 20)
        threads = "1 thread," if num_threads == 1 else "2 threads,"
        assert latency.measured_by.startswith("LiteRT ")
        assert f" interpreter, {threads} XNNPACK, " in latency.measured_by
        assert latency.measured_by.endswith(platform.machine())


def test_table(model, digits, files):
    images, labels = digits
    checks = [
        check(model, files[name], images[:50], labels[:50], model_macs)
        for name, model_macs in (("float32", MACS), ("int8", MACS + 1), ("dynamic", None))
    ]
    assert [one.macs_equal for one in checks] == [True, False, None]
    assert [one.file_macs for one in checks] == [MACS] * 3
    assert checks[0].num_bytes == files["float32"].stat().st_size
    assert [latency.num_threads for latency in checks[0].latencies] == [1, 2]
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(render_table(checks))
    rows = [line.split("  ") for line in console.file.getvalue().splitlines()]
    rows = {cells[0]: cells[1:] for row in rows if (cells := [c.strip() for c in row if c.strip()])}
    assert rows["file"] == ["float32.tflite", "int8.tflite", "dynamic.tflite"]
    assert rows["quantization"] == ["float32", "int8", "dynamic"]
    assert rows["MACs in model"] == [f"{MACS:,}", f"{MACS + 1:,}", "?"]
    assert rows["MACs in file"] == [f"{MACS:,}"] * 3
    assert rows["MACs equal"] == ["yes", "NO", "?"]
    assert rows["bytes"] == [f"{one.num_bytes:,}" for one in checks]
    assert rows["file accuracy"] == [f"{one.agreement.file_accuracy:.4f}" for one in checks]
    assert rows["p95 ms, 2 threads"] == [f"{one.latencies[1].p95_ms:.3f}" for one in checks]
    assert "MACs: multiply-accumulates for one sample (1 MAC = 2 FLOPs)" in rows
