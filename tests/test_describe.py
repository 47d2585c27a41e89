"""``describe``: what it says of files, and how the command prints it."""

import gzip
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from tflite_export import add_metadata, convert, describe, float_operators
from tflite_export.__main__ import main
from tflite_export.runtime import native_output_silenced

MACS = 6 * 6 * 9 * 4 * 2 + 4 * 4 * 9 * 4 * 4 + 4 * 4 * 4 * 3


def exported(model, path, samples=None, **options):
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
def files(tmp_path_factory):
    """A network in all quantizations, and "mixed": one with an operator without 8-bit kernel."""
    folder = tmp_path_factory.mktemp("describe")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3)(inputs)
    plain = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 3)(x))))
    x = layers.Conv2D(4, 3)(keras.ops.sin(x))
    mixed = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    images = np.random.default_rng(0).random((20, 8, 8, 2), np.float32)
    files = {
        name: convert(plain, folder / f"{name}.tflite", name, representative_data=images)
        for name in ("float32", "float16", "int8")
    }
    files["mixed"] = exported(mixed, folder / "mixed.tflite", images)
    return files


def test_facts(files):
    description = describe(files["int8"])
    data = files["int8"].read_bytes()
    assert description.path == files["int8"]
    assert description.num_bytes == len(data)
    assert description.gzip_bytes == len(gzip.compress(data, 6))
    assert description.metadata is None
    assert (description.quantization, description.macs) == ("int8", MACS)
    (source,), (target,) = description.inputs, description.outputs
    assert (source.shape, source.dtype, source.scale) == ((1, 8, 8, 2), "float32", None)
    assert (target.shape, target.dtype, target.zero_point) == ((1, 3), "float32", None)
    assert description.operators == {
        "CONV_2D": 2,
        "QUANTIZE": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
        "DEQUANTIZE": 1,
    }


def test_quantized_inputs_have_scale_and_zero_point(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    path = exported(
        model,
        tmp_path / "m.tflite",
        np.linspace(0, 2.55, 400, dtype=np.float32).reshape(100, 4),
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        inference_input_type=tf.int8,
    )
    (source,) = describe(path).inputs
    assert (source.dtype, source.zero_point) == ("int8", -128)
    assert source.scale == pytest.approx(0.01, rel=1e-3)
    assert [one.operator for one in describe(path).float_operators] == ["DEQUANTIZE"]


def test_float_files_have_no_operators_that_stayed_float(files):
    assert describe(files["float32"]).float_operators == ()
    assert describe(files["float16"]).float_operators == ()


def test_integers_alone_make_no_int8_file(tmp_path):
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


def test_operators_that_stayed_float_and_why(files):
    assert [(one.operator, one.why) for one in float_operators(files["int8"])] == [
        ("QUANTIZE", "border: takes the file's float32 input"),
        ("DEQUANTIZE", "border: gives the file's float32 output"),
    ]
    assert [(one.operator, one.why) for one in float_operators(files["mixed"])] == [
        ("QUANTIZE", "border: takes the file's float32 input"),
        ("DEQUANTIZE", "before a float32 operator"),
        ("SIN", "its activations were not quantized"),
        ("QUANTIZE", "after a float32 operator"),
        ("DEQUANTIZE", "border: gives the file's float32 output"),
    ]


def test_what_cannot_be_counted_is_said(tmp_path):
    model = keras.Sequential([keras.Input((8, 2)), layers.Lambda(lambda x: tf.signal.rfft2d(x))])
    path = exported(model, tmp_path / "m.tflite")
    description = describe(path)
    assert description.macs is None
    assert "operator RFFT2D" in description.macs_unknown


def test_command(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes(files["mixed"].read_bytes())
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
        f"MACs {MACS:,} for one sample (1 MAC = 2 FLOPs)",
        "CONV_2D 2",
    ):
        assert row in rows
    assert any(row.startswith(f"bytes {size:,} (") for row in rows)
    assert any(row.startswith("SIN") for row in rows)
