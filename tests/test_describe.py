"""``describe``: what it says of files, and how the command prints it."""

import gzip
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from exported import MACS
from keras import layers

from tflite_export import add_metadata, convert, describe, float_operators
from tflite_export.__main__ import main
from tflite_export.runtime import native_output_silenced


def exported_as(model, path, samples=None, **options):
    """A file with the converter's own choice of what stays float."""
    if samples is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: ([sample[None]] for sample in samples)
    specification = keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="float32")
    with native_output_silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        model.export(
            path, format="litert", input_signature=[specification], verbose=False, **options
        )
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """An int8 file of images, of which one operator has no 8-bit kernel."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3)(keras.ops.sin(layers.Conv2D(4, 3)(inputs)))
    images = np.random.default_rng(0).random((20, 8, 8, 2), np.float32)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    return exported_as(model, tmp_path_factory.mktemp("describe") / "mixed.tflite", images)


MIXED_MACS = 6 * 6 * 9 * 4 * 2 + 4 * 4 * 9 * 4 * 4 + 4 * 4 * 4 * 3


def test_facts(exported):
    path = exported.path("int8")
    description = describe(path)
    data = path.read_bytes()
    assert description.path == path
    assert description.num_bytes == len(data)
    assert description.gzip_bytes == len(gzip.compress(data, 6))
    assert description.metadata is None
    assert (description.quantization, description.macs) == ("int8", MACS)
    (source,), (target,) = description.inputs, description.outputs
    assert (source.shape, source.dtype, source.scale) == ((1, 8, 8, 1), "float32", None)
    assert (target.shape, target.dtype, target.zero_point) == ((1, 10), "float32", None)
    assert description.operators["CONV_2D"] == 2


def test_quantized_inputs_have_scale_and_zero_point(tmp_path):
    path = exported_as(
        keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
        tmp_path / "m.tflite",
        np.linspace(0, 2.55, 400, dtype=np.float32).reshape(100, 4),
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        inference_input_type=tf.int8,
    )
    (source,) = describe(path).inputs
    assert (source.dtype, source.zero_point) == ("int8", -128)
    assert source.scale == pytest.approx(0.01, rel=1e-3)
    assert [one.operator for one in describe(path).float_operators] == ["DEQUANTIZE"]


def test_integers_alone_make_no_int8_file(exported, tmp_path):
    tokens, state = keras.Input((1,), dtype="int32"), keras.Input((40,))
    embedded = layers.Flatten()(layers.Embedding(100, 40)(tokens))
    lookup = keras.Model([tokens, state], layers.Dense(40)(embedded + state))
    pixels = keras.Input((8, 8, 1), dtype="uint8")
    images = keras.Model(pixels, layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pixels)))
    for path in (
        convert(lookup, tmp_path / "lookup.tflite", "dynamic"),
        convert(images, tmp_path / "images.tflite"),
    ):
        dtypes = {tensor["dtype"] for tensor in Interpreter(str(path)).get_tensor_details()}
        assert dtypes & {np.int8, np.uint8}
        assert float_operators(path) == ()
    assert float_operators(exported.path()) == float_operators(exported.path("float16")) == ()


def test_operators_that_stayed_float_and_why(exported, mixed):
    assert [(one.operator, one.why) for one in float_operators(exported.path("int8"))] == [
        ("QUANTIZE", "border: takes the file's float32 input"),
        ("DEQUANTIZE", "border: gives the file's float32 output"),
    ]
    assert [(one.operator, one.why) for one in float_operators(mixed)] == [
        ("QUANTIZE", "border: takes the file's float32 input"),
        ("DEQUANTIZE", "before a float32 operator"),
        ("SIN", "its activations were not quantized"),
        ("QUANTIZE", "after a float32 operator"),
        ("DEQUANTIZE", "border: gives the file's float32 output"),
    ]


def test_what_cannot_be_counted_is_said(tmp_path):
    model = keras.Sequential([keras.Input((8, 2)), layers.Lambda(lambda x: tf.signal.rfft2d(x))])
    description = describe(exported_as(model, tmp_path / "m.tflite"))
    assert description.macs is None
    assert "operator RFFT2D" in description.macs_unknown


def test_command(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes(mixed.read_bytes())
    labels = ("[red]", "green", "\x1b[2Jblue")
    add_metadata("m.tflite", name="col\nours", labels=labels, mean=(0.5,), std=(0.25,))
    assert main(["describe", "m.tflite"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = {" ".join(line.split()) for line in printed.out.splitlines()}
    size = (tmp_path / "m.tflite").stat().st_size
    for row in (
        "m.tflite",
        "name col ours",
        "labels 3: [red], green, \\x1b[2Jblue",
        "takes (pixel - mean) / std, mean 0.5, std 0.25",
        "quantization int8",
        f"MACs {MIXED_MACS:,} for one sample (1 MAC = 2 FLOPs)",
        "CONV_2D 2",
    ):
        assert row in rows
    assert any(row.startswith(f"bytes {size:,} (") for row in rows)
    assert any(row.startswith("SIN") for row in rows)
