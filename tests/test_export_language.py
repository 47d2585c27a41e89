"""Language models' files: what LiteRT makes of a text, against Keras and sums by hand."""

import dataclasses
import io
import math

import flatbuffers
import keras
import numpy as np
import pytest
import rich.console
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_autoshrink as kas
from keras_autoshrink.training.step import accelerate
from tflite_export import (
    TextAgreement,
    check,
    check_language_model,
    convert,
    count_macs,
    describe,
    generate,
    perplexity,
    render_table,
    representative_steps,
    verify,
    verify_language_model,
)
from tflite_export.file import flatbuffer
from tflite_export.language import LanguageModelFile

VOCABULARY, UNITS = 50, 16
MODES = ("float32", "float16", "dynamic", "int8")


def step_model(embedding, cell, dense, outputs=None):
    """One token and the LSTM's two states in, log-probabilities and the new states out."""
    tokens = keras.Input((1,), dtype="int32", name="tokens")
    states = [keras.Input((UNITS,), name=name) for name in ("state_0", "state_1")]
    output, new_states = cell(layers.Flatten()(embedding(tokens)), states)
    words = layers.Reshape((1, VOCABULARY))(layers.Activation("log_softmax")(dense(output)))
    given = [words, *new_states] if outputs is None else outputs(words, new_states)
    return keras.Model([tokens, *states], given)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclasses.dataclass
class Trained:
    """A model that knows its text, in which each token is followed by one of two."""

    whole: keras.Model  # from tokens (batch, steps) to logits
    parts: tuple
    text: np.ndarray
    folder: object

    def log_probabilities(self, tokens):
        """(steps, vocabulary), float64, by NumPy."""
        embedding, (kernel, recurrent, bias), (weights, offset) = (
            part.get_weights() for part in self.parts
        )
        h, c, rows = np.zeros(UNITS), np.zeros(UNITS), []
        for token in tokens:
            gates = embedding[0][token] @ kernel + h @ recurrent + bias
            keep_in, forget, new, out = np.split(gates.astype("float64"), 4)
            c = sigmoid(forget) * c + sigmoid(keep_in) * np.tanh(new)
            h = sigmoid(out) * np.tanh(c)
            logits = h @ weights + offset
            rows.append(logits - np.log(np.exp(logits).sum()))
        return np.array(rows)

    def perplexity(self, tokens):
        rows = self.log_probabilities(tokens[:-1])
        return math.exp(-np.mean(rows[np.arange(len(tokens) - 1), tokens[1:]]))

    def continuation(self, prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.log_probabilities(tokens)[-1].argmax()))
        return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    keras.utils.set_random_seed(0)
    parts = layers.Embedding(VOCABULARY, 20), layers.LSTMCell(UNITS), layers.Dense(VOCABULARY)
    tokens = keras.Input((None,), dtype="int32")
    hidden = layers.RNN(parts[1], return_sequences=True)(parts[0](tokens))
    model = keras.Model(tokens, parts[2](hidden))
    rng = np.random.default_rng(0)
    text = [0]
    for _ in range(4000):
        text.append((7 * text[-1] + 3 + (rng.random() < 0.2)) % VOCABULARY)
    text = np.array(text)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=False)
    accelerate(model)  # Keras's own step takes longer to be traced
    x, y = text[:-1].reshape(100, 40), text[1:].reshape(100, 40)
    model.fit(x, y, batch_size=10, epochs=8, verbose=0)
    return Trained(model, parts, text, tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def step(trained):
    return step_model(*trained.parts)


@pytest.fixture(scope="module")
def data(step, trained):
    return representative_steps(step, trained.text[:200])


@pytest.fixture(scope="module")
def files(trained, step, data):
    paths = {mode: trained.folder / f"{mode}.tflite" for mode in MODES}
    for mode, path in paths.items():
        convert(step, path, mode, representative_data=data)
    return paths


def test_steps_are_those_of_the_whole_model(trained, files):
    file = LanguageModelFile(files["float32"])
    assert file.vocabulary_size == VOCABULARY
    expected = trained.log_probabilities(trained.text[:30])
    for _ in range(2):
        actual = [file.step(token) for token in trained.text[:30]]
        np.testing.assert_allclose(actual, expected, atol=1e-3)
        file.reset()  # the text begins anew


def test_perplexity(trained, files):
    path, text = files["float32"], trained.text[:120]
    assert perplexity(path, text) == pytest.approx(trained.perplexity(text), rel=1e-4)
    # The state goes through all of the text: two halves know less than the whole.
    halves = [perplexity(path, half) for half in (text[:60], text[59:])]
    whole = math.exp(np.average(np.log(halves), weights=[59, 60]))
    assert perplexity(path, text) != pytest.approx(whole, rel=1e-6)


def test_continuation(trained, files):
    path = files["float32"]
    assert generate(path, [4], 0) == []
    assert generate(path, np.array([4]), 1) == trained.continuation([4], 1)
    assert generate(path, (4,), 6)[:3] == generate(path, [4], 3)


@pytest.mark.parametrize(
    ("mode", "argmax", "ratio"),
    [("float32", 1, 1e-4), ("float16", 0.99, 1e-2), ("dynamic", 0.95, 0.05), ("int8", 0.85, 0.05)],
)
def test_every_mode_of_a_trained_model(trained, step, files, mode, argmax, ratio):
    text = trained.text[-200:]
    agreement = verify_language_model(step, files[mode], text, num_tokens=30)
    assert agreement.num_tokens == 199
    assert agreement.quantization == describe(files[mode]).quantization == mode
    assert agreement.model_perplexity < 5
    assert agreement.model_perplexity == pytest.approx(trained.perplexity(text), rel=1e-4)
    assert agreement.file_perplexity == perplexity(files[mode], text)
    assert agreement.file_perplexity == pytest.approx(agreement.model_perplexity, rel=ratio)
    assert agreement.argmax_agreement >= argmax
    assert agreement.agrees
    assert agreement.model_continuation == tuple(trained.continuation(text[:20], 30))
    assert agreement.file_continuation == tuple(generate(files[mode], text[:20], 30))
    if mode == "float32":
        assert agreement.same_continuation
        assert agreement.max_abs_difference < 0.05
    tensors = [*describe(files[mode]).inputs, *describe(files[mode]).outputs]
    assert {(one.dtype, one.shape) for one in tensors} == {
        ("float32", (1, 1, VOCABULARY)),
        ("float32", (1, UNITS)),
        ("int32", (1, 1)),
    }
    assert count_macs(files[mode]) == 4 * UNITS * (20 + UNITS) + UNITS * VOCABULARY


def test_macs_of_the_published_cell(tmp_path):
    step = kas.step_model(kas.ShrinkRNN(vocabulary_size=23, units=8))
    steps = representative_steps(step, np.arange(20))
    path = convert(step, tmp_path / "m.tflite", "int8", representative_data=steps)
    assert describe(path).quantization == "int8"
    assert count_macs(path) == kas.count_macs(step)


def test_order_of_the_tensors_does_not_matter(trained, files, tmp_path):
    """LiteRT's order is the graph's, not the model's; only the signature has the names."""
    model = flatbuffer.load(files["float32"])
    graph = model.subgraphs[0]
    orders = set()
    for inputs, outputs in ((1, 1), (1, -1), (-1, -1)):
        changed = flatbuffer.load(files["float32"])
        changed.subgraphs[0].inputs = graph.inputs[::inputs]
        changed.subgraphs[0].outputs = graph.outputs[::outputs]
        signature = changed.signatureDefs[0]
        signature.inputs = signature.inputs[::inputs]
        signature.outputs = signature.outputs[::outputs]
        builder = flatbuffers.Builder(1024)
        builder.Finish(changed.Pack(builder), b"TFL3")
        path = tmp_path / "permuted.tflite"
        path.write_bytes(builder.Output())
        details = Interpreter(str(path)).get_output_details()
        orders.add(tuple(detail["index"] for detail in details))
        text = trained.text[:60]
        assert perplexity(path, text) == perplexity(files["float32"], text)
        assert generate(path, [1], 9) == generate(files["float32"], [1], 9)
    assert len(orders) == 2


def copied(trained, change):
    """The step model with other weights in its last layer."""
    dense = layers.Dense(VOCABULARY)
    dense.build((None, UNITS))
    kernel, bias = trained.parts[2].get_weights()
    dense.set_weights([*change(kernel, bias)])
    return step_model(*trained.parts[:2], dense)


def test_other_weights_do_not_agree(trained, files):
    other = copied(trained, lambda kernel, bias: (np.roll(kernel, 1), bias))
    agreement = verify_language_model(other, files["float32"], trained.text[:100])
    assert agreement.argmax_agreement < 0.5
    assert agreement.file_perplexity < agreement.model_perplexity  # and yet it is another model
    assert not agreement.agrees
    assert not agreement.same_continuation


def test_what_agrees():
    good = TextAgreement("float32", 100, 1.0, 0.0, 100.0, 100.0, (1, 2), (1, 2), 1.0)
    for changes, agrees in (
        ({}, True),
        ({"argmax_agreement": 0.94}, False),
        ({"argmax_agreement": 0.81, "quantization": "int8"}, True),
        ({"argmax_agreement": 0.79, "quantization": "dynamic"}, False),
        ({"continuation_agreement": 0.98}, False),
        ({"continuation_agreement": 0.1, "quantization": "int8"}, True),
        ({"file_perplexity": 106.0}, False),
        ({"file_perplexity": 104.0}, True),
        ({"file_perplexity": 50.0}, True),
        ({"file_perplexity": math.nan}, False),
        ({"max_abs_difference": math.nan}, False),
    ):
        assert dataclasses.replace(good, **changes).agrees is agrees, changes


def test_nan_never_agrees(trained, step, files, tmp_path):
    broken = copied(trained, lambda kernel, bias: (np.full_like(kernel, np.nan), bias))
    path = convert(broken, tmp_path / "nan.tflite")
    text = trained.text[:30]
    assert math.isnan(perplexity(path, text))
    with pytest.raises(ValueError, match=r"nan.tflite: its log-probabilities are NaN"):
        generate(path, [1], 2)
    for model, file in ((broken, path), (step, path), (broken, files["float32"])):
        agreement = verify_language_model(model, file, text)
        assert math.isnan(agreement.max_abs_difference)
        assert agreement.argmax_agreement == agreement.continuation_agreement == 0
        assert not agreement.agrees


def test_perplexity_may_be_infinite(trained, tmp_path):
    certain = copied(
        trained, lambda kernel, bias: (0 * kernel, np.where(np.arange(VOCABULARY) == 3, 1e5, 0))
    )
    path = convert(certain, tmp_path / "certain.tflite")
    assert perplexity(path, [1, 2, 1]) == math.inf
    assert perplexity(path, [1, 3, 3]) == 1
    agreement = verify_language_model(certain, path, trained.text[:30])
    assert agreement.model_perplexity == agreement.file_perplexity == math.inf
    assert not agreement.agrees


def test_representative_steps(trained, step, data):
    assert {name: (a.shape, a.dtype.name) for name, a in data.items()} == {
        "tokens": ((200, 1), "int32"),
        "state_0": ((200, UNITS), "float32"),
        "state_1": ((200, UNITS), "float32"),
    }
    assert (data["tokens"][:, 0] == trained.text[:200]).all()
    assert not data["state_0"][0].any()
    assert not data["state_1"][0].any()
    # Each state is what the step before it gave.
    _, *states = step([data[name][:-1] for name in ("tokens", "state_0", "state_1")])
    for number, state in enumerate(states):
        np.testing.assert_allclose(data[f"state_{number}"][1:], state, atol=1e-5)


def rows(checks):
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(render_table(checks))
    lines = [line.split("  ") for line in console.file.getvalue().splitlines()]
    stripped = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {cells[0]: cells[1:] for cells in stripped if cells}


def test_table(trained, step, files, exported):
    macs = kas.count_macs(step)
    checks = [
        check_language_model(step, files[mode], trained.text[:30], macs, threads=[1])
        for mode in ("float32", "int8")
    ]
    assert [one.macs_equal for one in checks] == [True, True]
    table = rows(checks)
    agreements = [one.agreement for one in checks]
    assert table["model perplexity"] == [f"{one.model_perplexity:,.2f}" for one in agreements]
    assert table["file perplexity"] == [f"{one.file_perplexity:,.2f}" for one in agreements]
    assert table["same continuation"] == [f"{one.continuation_agreement:.4f}" for one in agreements]
    assert table["same argmax"] == [f"{one.argmax_agreement:.4f}" for one in agreements]
    assert "for one token (1 MAC = 2 FLOPs)" in render_table(checks).caption
    assert "file accuracy" not in table
    other = check(exported.model, exported.path(), exported.test[0][:5], threads=[1])
    mixed = rows([*checks, other])
    assert len(mixed["same argmax"]) == 3
    assert len(mixed["file perplexity"]) == 2
    assert len(mixed["file accuracy"]) == 1
    assert "for one sample or token (" in render_table([*checks, other]).caption


def test_other_files_are_refused(trained, step, exported, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"not a language model's file: its inputs are \w+; expected tokens, state_0$",
    ):
        generate(exported.path(), [1], 1)
    for outputs, message in (
        (
            lambda words, states: {"words": words, "h": states[0], "c": states[1]},
            "its outputs are c, h, words; expected output_0, output_1, output_2$",
        ),
        (
            lambda words, states: [layers.Softmax()(words), *states],
            "its first output holds no log-probabilities: their exponentials add up to ",
        ),
    ):
        path = convert(step_model(*trained.parts, outputs=outputs), tmp_path / "other.tflite")
        for run in (perplexity, lambda path, text: verify_language_model(step, path, text, 1)):
            with pytest.raises(
                ValueError, match=rf"other.tflite: not a language model's file: {message}"
            ):
                run(path, [1, 2])
    path = convert(step, tmp_path / "four.tflite", batch_size=4)
    with pytest.raises(ValueError, match=r"tokens is int32 of shape \(4, 1\); expected int32 of"):
        LanguageModelFile(path)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "tokens must be at least 2, not 0: one to predict another"),
        ([1.0, 2.0], r"tokens must be integers \(n,\), not float64 of shape \(2,\)"),
        ([[1, 2]], r"tokens must be integers \(n,\), not int64 of shape \(1, 2\)"),
        ([1, 50], "token 50: the vocabulary has 50, from 0 on"),
        ([-1, 1], "token -1: the vocabulary has 50, from 0 on"),
    ],
)
def test_texts_are_refused(step, files, tokens, message):
    path = files["float32"]
    for run in (
        lambda: perplexity(path, tokens),
        lambda: verify_language_model(step, path, tokens),
        lambda: representative_steps(step, tokens),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            run()


def test_arguments_are_refused(step, files):
    path = files["float32"]
    for run, message in (
        (lambda: LanguageModelFile(path).step(50), "token 50: the vocabulary has 50"),
        (lambda: generate(path, [1, -1], 5), "token -1: the vocabulary has 50"),
        (lambda: generate(path, [], 5), "prompt must have at least one token"),
        (lambda: generate(path, [1], -1), "num_tokens must be at least 0, not -1"),
        (
            lambda: verify_language_model(step, path, range(5)),
            "prompt_length must be 1 to 5, the text's length, not 20",
        ),
        (
            lambda: verify_language_model(step, path, range(5), 2, num_tokens=0),
            "num_tokens must be at least 1, not 0",
        ),
        (lambda: generate("none.tflite", [1], 1), "none.tflite: not a .tflite file: No such"),
        (
            lambda: verify(step, path, [[1]]),
            "3 inputs; inputs must be a dict of arrays, for 'tokens', 'state_0'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_models_are_refused(trained, step, exported, files, monkeypatch):
    path = files["float32"]
    with pytest.raises(TypeError, match=r"model must be a keras.Model, not str"):
        verify_language_model("model.keras", path, range(5))
    smaller = kas.step_model(kas.ShrinkRNN(vocabulary_size=12, units=4))
    states_first = step_model(*trained.parts, outputs=lambda words, states: [*states, words])
    for model, message in (
        (trained.whole, r"one token at a time: its inputs are \w+; expected tokens, state_0$"),
        (
            keras.Sequential([layers.Dense(2)]),
            "its inputs are not fixed; expected tokens",
        ),
        (states_first, r"it takes \(None, 1\), \(None, 16\), \(None, 16\) and gives \(None, 16\)"),
        (smaller, "float32.tflite: its vocabulary has 50 tokens, the model's 12$"),
    ):
        with pytest.raises(ValueError, match=message):
            verify_language_model(model, path, range(5))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"model runs on the jax backend.*KERAS_BACKEND=tensorfl"):
        verify_language_model(step, path, range(5))
