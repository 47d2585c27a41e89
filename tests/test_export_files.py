"""``convert``, ``verify``, ``benchmark`` and ``check`` of a trained network in all modes."""

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
from exported import MACS, MODES, with_weights
from keras import layers

from tflite_export import (
    Agreement,
    benchmark,
    check,
    convert,
    convert_smallest,
    count_macs,
    describe,
    render_table,
    verify,
)

LARGEST_DIFFERENCE = {
    "float32": 1e-5,
    "float16": 1e-2,
    "dynamic": 0.1,
    "int8": 0.3,
    "int16x8": 0.1,
}


@pytest.mark.parametrize("mode", MODES)
def test_file_computes_what_the_model_does(exported, mode):
    agreement = verify(exported.model, exported.path(mode), *exported.test)
    assert agreement.num_samples == 297
    assert agreement.model_accuracy > 0.75
    assert abs(agreement.file_accuracy - agreement.model_accuracy) <= 0.02
    assert agreement.argmax_agreement >= (1 if mode == "float32" else 0.95)
    assert agreement.max_abs_difference < LARGEST_DIFFERENCE[mode]
    assert agreement.agrees
    description = describe(exported.path(mode))
    assert (description.quantization, description.macs) == (mode, MACS)
    size = exported.path().stat().st_size
    assert mode in ("float32", "int16x8") or description.num_bytes < 0.8 * size
    ends = [*description.inputs, *description.outputs]
    assert [(end.dtype, end.shape) for end in ends] == [
        ("float32", (1, 8, 8, 1)),
        ("float32", (1, 10)),
    ]
    if mode.startswith("int"):
        tensors = Interpreter(str(exported.path(mode))).get_tensor_details()
        assert sum(tensor["dtype"] == np.float32 for tensor in tensors) == 2  # the ends alone


def test_batch_norm_and_relu_are_folded(exported):
    assert describe(exported.path()).operators == {
        "CONV_2D": 2,
        "MAX_POOL_2D": 1,
        "DEPTHWISE_CONV_2D": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }


def test_batch_of_a_file_is_fixed(exported, tmp_path):
    images = exported.train[0][:10]
    path = convert(exported.model, tmp_path / "m.tflite", "int8", images, batch_size=4)
    assert describe(path).inputs[0].shape == (4, 8, 8, 1)
    assert count_macs(path) == MACS
    assert verify(exported.model, path, images[:7]).num_samples == 7  # 4, and 3 with one more


def test_other_weights_do_not_agree(exported):
    other = with_weights(exported.model, lambda weight: np.roll(weight, 1))
    agreement = verify(other, exported.path(), *exported.test)
    assert agreement.argmax_agreement < 0.9
    assert agreement.file_accuracy > agreement.model_accuracy
    assert not agreement.agrees


def test_nan_never_agrees(exported):
    images, labels = exported.test[0][:20], exported.test[1][:20]
    broken = with_weights(exported.model, lambda weight: np.full_like(weight, np.nan))
    whole, nan = exported.path(), exported.nan_path
    for model, path in ((exported.model, nan), (broken, nan), (broken, whole)):
        agreement = verify(model, path, images, labels)
        assert math.isnan(agreement.max_abs_difference)
        assert agreement.argmax_agreement == 0
        assert not agreement.agrees
    # argmax of NaN is class 0 for NumPy: no reason to call that right.
    assert verify(exported.model, nan, images, np.zeros(20, int)).file_accuracy == 0


def test_what_agrees():
    good = Agreement(100, 1.0, 0.0, 0.9, 0.9, 0.0)
    for changes, agrees in (
        ({}, True),
        ({"model_accuracy": None, "file_accuracy": None}, True),
        ({"file_accuracy": 0.88}, True),
        # Two networks that give everything the same class agree fully.
        ({"file_accuracy": 0.87}, False),
        ({"argmax_agreement": 0.95}, True),
        ({"argmax_agreement": 0.94}, False),
        ({"max_abs_difference": math.nan}, False),
    ):
        assert dataclasses.replace(good, **changes).agrees is agrees, changes


@pytest.mark.parametrize("unroll", [True, False], ids=["unrolled", "loop"])
def test_recurrent_networks(tmp_path, unroll):
    """Integer inputs, and an output for each step; a loop is an operator WHILE."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(20, 8),
            layers.SimpleRNN(8, return_sequences=True, unroll=unroll),
            layers.Dense(20),
        ]
    )
    tokens = np.random.default_rng(0).integers(0, 20, (12, 5))
    path = convert(network, tmp_path / "float.tflite")
    assert ("WHILE" in describe(path).operators) is not unroll
    # The state that an unrolled network begins with is zeros, by which nothing is multiplied.
    assert count_macs(path) == 5 * (8 * 8 + 8 * 8 + 8 * 20) - (8 * 8 if unroll else 0)
    agreement = verify(network, path, tokens, np.roll(tokens, -1, axis=1))
    assert agreement.argmax_agreement == 1
    assert agreement.model_accuracy == agreement.file_accuracy
    assert agreement.max_abs_difference < 1e-5
    if unroll:
        quantized = convert(network, tmp_path / "int8.tflite", "int8", tokens)
        assert describe(quantized).quantization == "int8"
        assert verify(network, quantized, tokens).max_abs_difference < 0.05
        with pytest.raises(ValueError, match="inputs must be integers"):
            verify(network, path, tokens.astype("float32"))
        with pytest.raises(ValueError, match="LiteRT cannot run"):
            verify(network, path, tokens + 100)
    else:  # on which TensorFlow's calibration would end the process
        with pytest.raises(ValueError, match=r"model runs a loop.*unroll=True"):
            convert(network, tmp_path / "int8.tflite", "int8", tokens)


def test_conversion_is_silent(tmp_path, capfd, caplog):
    # As TensorFlow sets it in Jupyter, where the log goes to no file descriptor.
    caplog.set_level(logging.INFO, "tensorflow")
    path = convert(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), tmp_path / "m.tflite")
    benchmark(path, runs=1)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert not tf.get_logger().disabled


def test_latency(exported):
    for num_threads in (1, 2):
        latency = benchmark(exported.path(), num_threads, runs=20)
        assert 0 < latency.median_ms <= latency.p95_ms
        assert (latency.num_threads, latency.runs) == (num_threads, 20)
        threads = "1 thread," if num_threads == 1 else "2 threads,"
        assert latency.measured_by.startswith("LiteRT ")
        assert f" interpreter, {threads} XNNPACK, " in latency.measured_by
        assert latency.measured_by.endswith(platform.machine())


def test_table(exported):
    images, labels = exported.test
    checks = [
        check(exported.model, exported.path(mode), images[:50], labels[:50], model_macs)
        for mode, model_macs in (("float32", MACS), ("int8", MACS + 1), ("dynamic", None))
    ]
    assert [one.macs_equal for one in checks] == [True, False, None]
    assert [one.file_macs for one in checks] == [MACS] * 3
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
    assert rows["bytes"] == [f"{exported.path(m).stat().st_size:,}" for m in rows["quantization"]]
    assert rows["bytes by gzip"] == [f"{describe(one.path).gzip_bytes:,}" for one in checks]
    assert rows["file accuracy"] == [f"{one.agreement.file_accuracy:.4f}" for one in checks]
    assert rows["p95 ms, 2 threads"] == [f"{one.latencies[1].p95_ms:.3f}" for one in checks]
    assert "MACs: multiply-accumulates for one sample (1 MAC = 2 FLOPs)" in rows


def changed(array, value):
    array = array.copy()
    array.flat[7] = value
    return array


SAMPLES = np.zeros((6, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (SAMPLES[:0], None, "inputs hold no sample"),
        (changed(SAMPLES, np.nan), None, "inputs hold NaN"),
        (SAMPLES.astype(str), None, "inputs must be numbers"),
        (SAMPLES[:, :7], None, r"inputs have shape \(6, 7, 8, 1\), but .*float32.tflite takes"),
        (SAMPLES, np.zeros(5, int), r"labels have shape \(5,\), but there are \(6,\)"),
        (SAMPLES, [0, 1, 2, 10, 0, 1], "labels go from 0 to 10, classes from 0 to 9"),
        (SAMPLES, [0, 1, 2, -1, 0, 1], "labels go from -1 to 2"),
        (SAMPLES, np.eye(10)[:6], r"labels of shape \(6, 10\) are one-hot; give labels.argmax"),
    ],
)
def test_verify_refuses_samples(exported, inputs, labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        verify(exported.model, exported.path(), inputs, labels)


def test_verify_refuses_models(exported, tmp_path):
    def network(shape, units):
        return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(units)])

    path = exported.path()
    with pytest.raises(TypeError, match=r"model must be a keras.Model, not str"):
        verify("model.keras", path, SAMPLES)
    with pytest.raises(ValueError, match=r"model takes inputs of shapes \[\(8, 8, 2\)\]"):
        verify(network((8, 8, 2), 10), path, SAMPLES)
    with pytest.raises(ValueError, match=r"gives \(6, 10\), but the model gives \(6, 4\)"):
        verify(network((8, 8, 1), 4), path, SAMPLES)


def dense(units, activation=None):
    """A network and its file's samples; another with other weights."""
    keras.utils.set_random_seed(1)
    stack = [layers.Flatten(), layers.Dense(units, activation=activation)]
    return keras.Sequential([keras.Input((4, 4, 1)), *stack])


IMAGES = np.random.default_rng(0).uniform(-3, 3, (60, 4, 4, 1)).astype("float32")


def test_one_sigmoid_is_compared_at_a_half(tmp_path):
    model = dense(1, "sigmoid")
    path = convert(model, tmp_path / "m.tflite", "int8", IMAGES)
    probabilities = model.predict(IMAGES, verbose=0)
    labels = (probabilities > 0.5).astype(int)
    labels[:6] = 1 - labels[:6]
    for truth in (labels, labels[:, 0], labels.astype("float32"), labels.astype(bool)):
        agreement = verify(model, path, IMAGES, truth)
        assert agreement.model_accuracy == 0.9
        assert agreement.argmax_agreement > 0.95
        assert agreement.agrees
    # Weights of the other sign predict the other class.
    other = with_weights(model, np.negative)
    assert verify(other, path, IMAGES, labels).argmax_agreement < 0.05
    assert verify(other, path, IMAGES, labels).model_accuracy < 0.15
    with pytest.raises(ValueError, match="labels go from 1 to 2, but those of a sigmoid are 0 and"):
        verify(model, path, IMAGES, 1 + labels)
    with pytest.raises(ValueError, match=r"labels have shape \(5,\), but there are \(60, 1\) out"):
        verify(model, path, IMAGES, labels[:5, 0])


def test_numbers_are_compared_by_their_mean_difference(tmp_path):
    model = dense(1)
    path = convert(model, tmp_path / "m.tflite", "int8", IMAGES)
    outputs = model.predict(IMAGES, verbose=0)
    agreement = verify(model, path, IMAGES, outputs + 1)
    assert agreement.argmax_agreement is agreement.model_accuracy is None
    assert 0 < agreement.mean_abs_difference < agreement.max_abs_difference
    share = agreement.mean_abs_difference / outputs.std()
    assert agreement.difference_share == pytest.approx(share, rel=1e-3)
    assert agreement.difference_share < 0.1
    assert agreement.agrees
    assert agreement.model_error == pytest.approx(1)
    assert agreement.file_error == pytest.approx(1, abs=2 * agreement.mean_abs_difference)
    far = with_weights(model, np.negative)
    assert verify(far, path, IMAGES).difference_share > 0.5
    assert not verify(far, path, IMAGES).agrees


def test_an_autoencoder_of_colours_has_no_classes(tmp_path):
    images = np.random.default_rng(0).random((9, 4, 4, 3), np.float32)
    stack = [layers.Conv2D(4, 3, padding="same", activation="relu")]
    stack += [layers.Conv2D(3, 3, padding="same")]
    model = keras.Sequential([keras.Input((4, 4, 3)), *stack])
    agreement = verify(model, convert(model, tmp_path / "m.tflite"), images, images)
    assert agreement.argmax_agreement is None
    assert agreement.model_error == pytest.approx(agreement.file_error)


def test_each_output_is_compared_in_its_own_way(tmp_path):
    """By the signature's names: the file has them in another order."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 4, 1))
    flat = layers.Flatten()(inputs)
    ends = {"zz": layers.Dense(3)(flat), "aa": layers.Dense(1)(flat), "mm": layers.Dense(3)(flat)}
    for outputs in (ends, [*ends.values()]):
        model = keras.Model(inputs, outputs)
        path = convert(model, tmp_path / "m.tflite")
        names = [*ends] if isinstance(outputs, dict) else ["output_0", "output_1", "output_2"]
        sizes = dict(zip(names, (3, 1, 3), strict=True))
        assert {end.name: end.shape[1] for end in describe(path).outputs} == sizes
        labels = {names[0]: np.zeros(60, int)}
        agreement = verify(model, path, IMAGES, labels)
        assert {*agreement.outputs} == {*names}
        assert agreement.max_abs_difference < 1e-5
        assert agreement.outputs[names[0]].model_accuracy == agreement.model_accuracy
        assert agreement.outputs[names[1]].difference_share < 1e-5
        assert agreement.agrees
        # One output of other weights is enough.
        kernel = model.layers[-1].kernel
        kernel.assign(-kernel)
        assert not verify(model, path, IMAGES).agrees
        kernel.assign(-kernel)
        with pytest.raises(
            ValueError, match=r"^labels are for 'none', but the model's outputs are"
        ):
            verify(model, path, IMAGES, {"none": labels[names[0]]})


def test_a_model_of_a_fixed_batch(tmp_path):
    inputs = keras.Input((4, 4, 1), batch_size=4)
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.reshape(inputs, (4, 16))))
    labels = model.predict(IMAGES, batch_size=4, verbose=0).argmax(-1)
    made = convert_smallest(model, tmp_path / "m.tflite", IMAGES, labels)  # of no other batch
    assert made.chosen.agreement.agrees
    agreement = verify(model, made.path, IMAGES[:7])
    assert agreement.max_abs_difference < 1e-5
    assert agreement.num_samples == 7


def test_a_state_is_kept(tmp_path):
    """Model and file go on from one sample to the next, and the model is left as it was."""
    inputs = keras.Input((3, 5), batch_size=1)
    model = keras.Model(inputs, layers.GRU(4, stateful=True, unroll=True)(inputs))
    path = convert(model, tmp_path / "m.tflite")
    sequences = np.random.default_rng(0).random((6, 3, 5), np.float32)
    for _ in range(2):
        assert verify(model, path, sequences).max_abs_difference < 1e-5


def test_benchmark_refuses(exported):
    with pytest.raises(ValueError, match="num_threads must be at least 1, not 0"):
        benchmark(exported.path(), num_threads=0)
    with pytest.raises(ValueError, match="runs must be at least 1, not 0"):
        benchmark(exported.path(), runs=0)
