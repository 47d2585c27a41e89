"""``convert``: its representative data, what it refuses, and what it leaves on disk."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_autoshrink import count_macs as keras_macs
from tflite_export import convert, count_macs, describe, load_model, prune, verify
from tflite_export.samples import representative_batches

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 9, (40, 1))
STATES = RNG.uniform(-3, 3, (40, 6)).astype("float32")
DATA = {"tokens": TOKENS, "state_0": STATES}


@pytest.fixture(scope="module")
def model():
    """Of two inputs, whose order by name is not the model's."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((1,), dtype="int32", name="tokens")
    state = keras.Input((6,), name="state_0")
    embedded = layers.Flatten()(layers.Embedding(9, 4)(tokens))
    new = layers.Dense(5)(layers.Concatenate()([embedded, state]))
    return keras.Model([tokens, state], [layers.Dense(3)(new), new])


def parts():
    for start in (0, 25):
        yield {name: array[start : start + 25] for name, array in DATA.items()}


def test_forms_of_representative_data(model):
    for data in (
        DATA,
        [TOKENS, STATES],
        (TOKENS, STATES),
        ((TOKENS, STATES), TOKENS),
        lambda: ([TOKENS[[row]], STATES[[row]]] for row in range(40)),
        list(parts()),
        parts(),  # can be read once
        tf.data.Dataset.from_tensor_slices(DATA).batch(7),
        tf.data.Dataset.from_tensors((DATA, TOKENS)),  # with labels
        {name: tf.constant(array) for name, array in DATA.items()},
    ):
        batches = representative_batches(model, data, 1)
        assert len(batches) == 40
        for name, array in DATA.items():
            joined = np.concatenate([batch[name] for batch in batches])
            np.testing.assert_array_equal(joined, array)
            assert joined.dtype == ("int32" if name == "tokens" else "float32")


def test_representative_data_of_one_input(exported):
    images, labels = exported.train[0][:10], exported.train[1][:10]
    (name,) = (tensor.name for tensor in exported.model.inputs)
    for data in (
        images,
        (images, labels),
        lambda: ([image[np.newaxis]] for image in images),  # as TensorFlow's guide has it
        [image for image in images],  # noqa: C416 - single samples
        iter([images[:6], images[6:]]),
        [images],
        tf.data.Dataset.from_tensor_slices((images, labels)),  # not batched
        [images[:6], images[6:]],
        {name: images},
        tf.data.Dataset.from_tensor_slices((images, labels)).batch(3),
    ):
        batches = representative_batches(exported.model, data, 4)
        # Samples from the start fill up the last batch.
        joined = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(joined, np.concatenate([images, images[:2]]))
        assert [batch[name].shape for batch in batches] == [(4, 8, 8, 1)] * 3


def test_several_inputs_and_outputs(model, tmp_path):
    """As of a recurrent network whose state goes in and out."""
    path = convert(model, tmp_path / "m.tflite", "int8", DATA)
    assert (describe(path).quantization, count_macs(path)) == ("int8", 10 * 5 + 5 * 3)
    runner = Interpreter(str(path)).get_signature_runner()
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
    assert dtypes == {"tokens": np.int32, "state_0": np.float32}
    expected = model.predict([TOKENS, STATES], verbose=0)
    for row in range(5):
        have = runner(tokens=TOKENS[[row]].astype("int32"), state_0=STATES[[row]])
        for number, want in enumerate(expected):
            np.testing.assert_allclose(have[f"output_{number}"][0], want[row], atol=0.15)
    # Of forms of Keras's: a dict by names, a list in order, and batches of either with labels.
    batches = tf.data.Dataset.from_tensor_slices(((TOKENS, STATES), TOKENS)).batch(7)
    for inputs in (DATA, [TOKENS, STATES], batches):
        agreement = verify(model, path, inputs)
        assert agreement.num_samples == 40
        assert [*agreement.outputs] == ["output_0", "output_1"]
        assert agreement.max_abs_difference < 0.15
    with pytest.raises(ValueError, match=r"^model has 2 inputs; inputs must be a dict of arrays"):
        verify(model, path, TOKENS)


def test_ranges_are_those_of_their_own_input(tmp_path):
    big, small = keras.Input((4,), name="z_big"), keras.Input((4,), name="a_small")
    model = keras.Model([big, small], layers.Dense(3)(big) + 100 * layers.Dense(3)(small))
    data = {"z_big": RNG.uniform(-100, 100, (50, 4)), "a_small": RNG.uniform(-1, 1, (50, 4))}
    runner = Interpreter(
        str(convert(model, tmp_path / "m.tflite", "int8", data))
    ).get_signature_runner()
    row = {name: array[:1].astype("float32") for name, array in data.items()}
    want = model.predict([row["z_big"], row["a_small"]], verbose=0)
    np.testing.assert_allclose(runner(**row)["output_0"], want, atol=6)


def test_no_convolution_stays_float_in_silence(tmp_path):
    stack = [layers.Conv3DTranspose(2, 2), layers.Flatten(), layers.Dense(3)]
    network = keras.Sequential([keras.Input((3, 4, 4, 2)), *stack])
    data = RNG.random((9, 3, 4, 4, 2), np.float32)
    with pytest.raises(ValueError, match="throughout: CONV_3D_TRANSPOSE would stay float32"):
        convert(network, tmp_path / "m.tflite", "int8", data)
    assert not [*tmp_path.iterdir()]
    assert describe(convert(network, tmp_path / "m.tflite")).macs == keras_macs(network)


def test_other_operators_that_stay_float_are_named(tmp_path):
    network = keras.Sequential(
        [keras.Input((6, 4)), layers.Dense(4), layers.LayerNormalization(), layers.Dense(3)]
    )
    with pytest.warns(UserWarning, match="^int8: NEG stayed float32 inside the file"):
        path = convert(network, tmp_path / "m.tflite", "int8", RNG.random((9, 6, 4)))
    assert describe(path).quantization == "int8"


def test_ends_of_integers(model, exported, tmp_path):
    images, labels = exported.test
    path = convert(exported.model, tmp_path / "m.tflite", "int8", images, io_type="uint8")
    description = describe(path)
    assert [end.dtype for end in (*description.inputs, *description.outputs)] == ["uint8"] * 2
    assert description.inputs[0].scale == pytest.approx(1 / 255, rel=1e-3)  # pixels of 0 to 1
    assert not description.float_operators
    assert verify(exported.model, path, images, labels).agrees
    # Tokens stay what they are.
    path = convert(model, tmp_path / "m.tflite", "int8", DATA, io_type="int8")
    assert {end.name: end.dtype for end in describe(path).inputs} == {
        "tokens": "int32",
        "state_0": "int8",
    }


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution, self.dense = layers.Conv2D(4, 3), layers.Dense(2)

    def call(self, images):
        return self.dense(keras.ops.mean(self.convolution(images), axis=(1, 2)))


def test_shapes_that_a_model_leaves_open(tmp_path):
    images = RNG.random((9, 8, 8, 1), np.float32)
    called = Subclassed()
    called(images[:1])
    opened = keras.Sequential(
        [keras.Input((None, None, 1)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    )
    for network, shape in ((called, None), (opened, (8, 8, 1)), (Subclassed(), (8, 8, 1))):
        path = convert(network, tmp_path / "m.tflite", input_shape=shape)
        assert describe(path).inputs[0].shape == (1, 8, 8, 1)
        assert verify(network, path, images).max_abs_difference < 1e-5
    with pytest.raises(ValueError, match=r"^input_shape=\(2, 2, 1\) does not fit the model: "):
        convert(opened, path, input_shape=(2, 2, 1))


def nan():
    states = STATES.copy()
    states[3, 3] = np.nan
    return states


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "representative_data is missing"),
        (TOKENS, "model has 2 inputs; representative_data must be a dict of arrays, for 'tokens',"),
        ({"tokens": TOKENS}, "representative_data has nothing for the input 'state_0'"),
        ({name: a[:0] for name, a in DATA.items()}, "representative_data holds no sample"),
        (
            {**DATA, "state_1": STATES},
            "representative_data is for 'state_1', but the model's inputs are 'tokens', 'state_0'",
        ),
        (
            {**DATA, "state_0": STATES[:39]},
            "representative_data has 40 samples for 'tokens', but 39 for 'state_0'",
        ),
        (
            {**DATA, "state_0": STATES[:, :5]},
            r"representative_data\['state_0'\] has shape \(40, 5\), but .* takes \(None, 6\)",
        ),
        (
            {**DATA, "tokens": TOKENS.astype("float32")},
            r"representative_data\['tokens'\] is float32, but the model takes int32",
        ),
        ({**DATA, "state_0": nan()}, r"representative_data\['state_0'\] holds NaN or infinity"),
        (tf.data.Dataset.from_tensors(DATA).repeat(), "representative_data never ends"),
    ],
)
def test_representative_data_is_refused(model, tmp_path, data, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        convert(model, tmp_path / "m.tflite", "int8", representative_data=data)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int4"}, "quantization must be one of float32, .*, not 'int4'"),
        ({"path": "model.bin"}, "path must end in .tflite"),
        ({"path": "missing/model.tflite"}, "path is in a folder that does not exist"),
        ({"path": "folder.tflite"}, "path is a folder"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"io_type": "int4"}, "io_type must be one of float32, int8, uint8, not 'int4'"),
        ({"io_type": "int8"}, "io_type int8 is for quantization int8, not float32"),
        (
            {"quantization": "int16x8"},
            "quantization int16x8 is for models of float inputs",
        ),
    ],
)
def test_convert_refuses_arguments(model, tmp_path, arguments, message):
    (tmp_path / "folder.tflite").mkdir()
    path = tmp_path / arguments.pop("path", "model.tflite")
    with pytest.raises(ValueError, match=f"^{message}"):
        convert(model, path, representative_data=DATA, **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.tflite"]


def test_convert_refuses_models(model, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    for build, message in (
        (lambda: [layers.Dense(3)], "model has no fixed input shape"),
        (
            lambda: [keras.Input((None, None, 3)), layers.Conv2D(4, 3)],
            r"model has an input of shape \(None, None, None, 3\)",
        ),
        (
            lambda: [keras.Input(batch_shape=(2, 3)), layers.Dense(3)],
            "batch_size is 1, but the model's is 2",
        ),
        (
            lambda: [keras.Input((3,)), layers.Dense(3, dtype="mixed_float16")],
            "model computes in 16 bits",
        ),
        (
            lambda: [keras.Input((3,)), layers.Dense(3, dtype="int8_from_float32", name="quick")],
            r"model is quantized by Keras \(layer 'quick' to int8\), .* convert the float model",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            convert(keras.Sequential(build()), path)
    with pytest.raises(TypeError, match=r"model must be a keras.Model, not Dense"):
        convert(layers.Dense(3), path)
    with pytest.raises(TypeError, match="representative_data must be arrays, not int"):
        convert(model, path, "int8", representative_data=5)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"model runs on the jax backend.*KERAS_BACKEND=tensorflo"):
        convert(model, path)
    assert not list(tmp_path.iterdir())


def test_a_model_of_keras_2_is_named_as_one(tmp_path):
    # A stand-in: that library, imported here, would change what other tests see of TensorFlow.
    older = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()
    path = tmp_path / "model.tflite"
    for use in (
        lambda: convert(older, path),
        lambda: verify(older, path, STATES),
        lambda: prune(older, STATES, STATES[:, 0], sparsity=0.5),
    ):
        with pytest.raises(TypeError, match=r"not Sequential of Keras 2 .* set_weights"):
            use()


class Erfinv(layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(inputs)


class Interrupting(layers.Layer):
    def call(self, inputs):
        if hasattr(self, "interrupts"):
            raise KeyboardInterrupt
        return inputs


def test_a_conversion_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    unsupported = keras.Sequential([keras.Input((4,)), Erfinv()])
    with pytest.raises(
        ValueError, match=r"model: TensorFlow Lite .* no built-in operator for Erfi"
    ):
        convert(unsupported, path)
    layer = Interrupting()
    interrupted = keras.Sequential([keras.Input((4,)), layer])
    layer.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        convert(interrupted, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_layers_that_keras_does_not_know(tmp_path):
    def saved(module):
        own = type("Own", (layers.Layer,), {"__module__": module})
        keras.Sequential([keras.Input((3,)), own()]).save(tmp_path / "own.keras")
        return tmp_path / "own.keras"

    for module, advice in (
        ("__main__", "import the library that defines it before"),
        ("a_library.layers", "import a_library.layers before"),
    ):
        with pytest.raises(ValueError, match=f"needs 'Own', which .* yet; {advice}"):
            load_model(saved(module))
