"""Representative data for models of several inputs: its forms, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from tflite_export import convert
from tflite_export.file.description import quantization

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 9, (40, 1))
STATES = RNG.uniform(-3, 3, (40, 6)).astype("float32")
DATA = {"tokens": TOKENS, "state_0": STATES}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((1,), dtype="int32", name="tokens")
    state = keras.Input((6,), name="state_0")
    embedded = layers.Flatten()(layers.Embedding(9, 4)(tokens))
    return keras.Model([tokens, state], layers.Dense(5)(layers.Concatenate()([embedded, state])))


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The bytes of the file from one dict."""
    path = tmp_path_factory.mktemp("expected") / "m.tflite"
    return convert(model, path, "int8", representative_data=DATA)


def parts():
    for start in (0, 25):
        yield {name: array[start : start + 25] for name, array in DATA.items()}


@pytest.mark.parametrize("kind", ["dicts", "generator", "dataset", "labelled dataset", "tensors"])
def test_forms(model, expected, tmp_path, kind):
    data = {
        "dicts": list(parts()),
        "generator": parts(),
        "dataset": tf.data.Dataset.from_tensor_slices(DATA).batch(7),
        "labelled dataset": tf.data.Dataset.from_tensors((DATA, TOKENS)),
        "tensors": {name: tf.constant(array) for name, array in DATA.items()},
    }[kind]
    if kind != "generator":
        assert data
    path = convert(model, tmp_path / "m.tflite", "int8", representative_data=data)
    inputs = [{"tokens": TOKENS[:1].astype("int32"), "state_0": STATES[:1]}]
    have, want = (
        [Interpreter(str(file)).get_signature_runner()(**one)["output_0"] for one in inputs]
        for file in (path, expected)
    )
    np.testing.assert_array_equal(have, want)
    assert path.stat().st_size == expected.stat().st_size


def test_file_of_several_inputs(model, expected):
    assert quantization(expected) == "int8"
    runner = Interpreter(str(expected)).get_signature_runner()
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
    assert dtypes == {"tokens": np.int32, "state_0": np.float32}
    outputs = [
        runner(tokens=TOKENS[[row]].astype("int32"), state_0=STATES[[row]])["output_0"][0]
        for row in range(40)
    ]
    np.testing.assert_allclose(outputs, model.predict([TOKENS, STATES], verbose=0), atol=0.1)


def test_batch_is_filled_up(model, tmp_path):
    data = {name: array[:5] for name, array in DATA.items()}
    path = convert(model, tmp_path / "m.tflite", "int8", representative_data=data, batch_size=3)
    shapes = [detail["shape"].tolist() for detail in Interpreter(str(path)).get_input_details()]
    assert sorted(shapes) == [[3, 1], [3, 6]]


def test_ranges_are_those_of_their_own_input(tmp_path):
    """Two inputs of one shape, whose order by name is not the model's."""
    big, small = keras.Input((4,), name="z_big"), keras.Input((4,), name="a_small")
    model = keras.Model([big, small], layers.Dense(3)(big) + 100 * layers.Dense(3)(small))
    data = {"z_big": RNG.uniform(-100, 100, (50, 4)), "a_small": RNG.uniform(-1, 1, (50, 4))}
    path = convert(model, tmp_path / "m.tflite", "int8", representative_data=data)
    runner = Interpreter(str(path)).get_signature_runner()
    row = {name: array[:1].astype("float32") for name, array in data.items()}
    want = model.predict([row["z_big"], row["a_small"]], verbose=0)
    np.testing.assert_allclose(runner(**row)["output_0"], want, atol=6)


def test_one_input_by_name(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3)])
    samples = RNG.random((20, 4), np.float32)
    paths = [
        convert(model, tmp_path / "m.tflite", "int8", representative_data=data).read_bytes()
        for data in (samples, {model.inputs[0].name: samples})
    ]
    assert len(paths[0]) == len(paths[1])


def nan():
    states = STATES.copy()
    states[3, 3] = np.nan
    return states


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            TOKENS,
            "model has 2 inputs; representative_data must be a dict of arrays, for 'tokens', ",
        ),
        ([TOKENS, STATES], "model has 2 inputs; representative_data must be a dict"),
        ([(TOKENS, STATES)], "model has 2 inputs; representative_data must be a dict"),
        ({"tokens": TOKENS}, "representative_data has nothing for the input 'state_0'"),
        ({}, "representative_data has nothing for the input 'tokens'"),
        ([], "representative_data holds no sample"),
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
            {**DATA, "tokens": TOKENS[:, 0]},
            r"representative_data\['tokens'\] has shape \(40,\), but the model takes \(None, 1\)",
        ),
        (
            {**DATA, "tokens": TOKENS.astype("float32")},
            r"representative_data\['tokens'\] is float32, but the model takes int32",
        ),
        ({**DATA, "state_0": nan()}, r"representative_data\['state_0'\] holds NaN or infinity"),
        ({**DATA, "state_0": STATES.astype(str)}, r"representative_data\['state_0'\] is <U"),
        (
            {name: array[:0] for name, array in DATA.items()},
            "representative_data holds no sample",
        ),
        ([DATA, {"tokens": TOKENS}], "representative_data has nothing for the input 'state_0'"),
        (None, "representative_data is missing"),
    ],
)
def test_refuses(model, tmp_path, data, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        convert(model, tmp_path / "m.tflite", "int8", representative_data=data)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_refuses_what_never_ends_or_is_no_array(model, tmp_path):
    path = tmp_path / "m.tflite"
    endless = tf.data.Dataset.from_tensors(DATA).repeat()
    with pytest.raises(ValueError, match="representative_data never ends"):
        convert(model, path, "int8", representative_data=endless)
    with pytest.raises(TypeError, match="representative_data must be arrays, not int"):
        convert(model, path, "int8", representative_data=5)


def test_loop_is_refused(tmp_path):
    tokens, state = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((4,), name="state")
    outputs = layers.GRU(4)(layers.Embedding(9, 4)(tokens), initial_state=state)
    data = {"tokens": np.zeros((2, 5), int), "state": np.zeros((2, 4))}
    with pytest.raises(ValueError, match=r"model runs a loop.*unroll=True"):
        convert(
            keras.Model([tokens, state], outputs),
            tmp_path / "m.tflite",
            "int8",
            representative_data=data,
        )
