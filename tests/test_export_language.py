"""Language models' files: what LiteRT makes of a text, against Keras and sums by hand."""

import io
import json
import math
import subprocess
import sys

import flatbuffers
import keras
import numpy as np
import pytest
import rich.console
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_autoshrink as kas
from keras_autoshrink.cell import SHRINKRNN_CELL
from keras_autoshrink.networks.language_model import ShrinkRNN, language_model, step_model
from tflite_export import (
    benchmark,
    check,
    check_language_model,
    convert,
    count_macs,
    flatbuffer,
    generate,
    perplexity,
    render_table,
    representative_steps,
    verify_language_model,
)
from tflite_export.language import LanguageModelFile
from tflite_export.quantization import quantization

VOCABULARY, UNITS = 50, 16
TEXT = np.random.default_rng(1).integers(0, VOCABULARY, 120)
QUANTIZATIONS = ("float32", "float16", "dynamic", "int8")


def sharp(model, limit=1.0):
    """Weights large enough that the next token depends on those before."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-limit, limit, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def models():
    """Whole-text models by the kind of cell: from tokens (batch, steps) to logits."""
    return {
        "shrinkrnn": sharp(ShrinkRNN(vocabulary_size=VOCABULARY, units=UNITS)),
        "lstm": sharp(language_model(layers.LSTMCell(UNITS), VOCABULARY)),
    }


@pytest.fixture(scope="module")
def steps(models):
    return {kind: step_model(model) for kind, model in models.items()}


@pytest.fixture(scope="module")
def files(steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    return {kind: convert(step, folder / f"{kind}.tflite") for kind, step in steps.items()}


def log_probabilities(model, tokens):
    """(steps, vocabulary), float64, by the whole-text model."""
    logits = model(np.asarray(tokens)[None]).numpy()[0].astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def expected_perplexity(model, tokens):
    rows = log_probabilities(model, tokens[:-1])
    return math.exp(-np.mean(rows[np.arange(len(tokens) - 1), tokens[1:]]))


def expected_continuation(model, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(log_probabilities(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


every_kind = pytest.mark.parametrize("kind", ["shrinkrnn", "lstm"])


@every_kind
def test_steps_are_those_of_the_model(models, files, kind):
    file = LanguageModelFile(files[kind])
    assert file.vocabulary_size == VOCABULARY
    expected = log_probabilities(models[kind], TEXT[:30])
    assert np.ptp(expected.argmax(axis=-1)) > 0
    for _ in range(2):
        actual = [file.step(token) for token in TEXT[:30]]
        np.testing.assert_allclose(actual, expected, atol=1e-4)
        file.reset()  # the text begins anew


@every_kind
def test_perplexity(models, files, kind):
    assert perplexity(files[kind], TEXT) == pytest.approx(
        expected_perplexity(models[kind], TEXT), rel=1e-5
    )
    # The state goes through all of the text: two halves know less than the whole.
    halves = [perplexity(files[kind], half) for half in (TEXT[:60], TEXT[59:])]
    whole = math.exp(np.average(np.log(halves), weights=[59, 60]))
    assert perplexity(files[kind], TEXT) != pytest.approx(whole, rel=1e-6)


def test_length_of_a_continuation(models, files):
    path = files["lstm"]
    assert generate(path, [4], 0) == []
    assert generate(path, np.array([4]), 1) == expected_continuation(models["lstm"], [4], 1)
    assert generate(path, (4,), 6)[:3] == generate(path, [4], 3)


def packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@every_kind
def test_order_of_the_tensors_does_not_matter(files, tmp_path, kind):
    """LiteRT's order is the graph's, not the model's; only the signature has the names."""
    model = flatbuffer.load(files[kind])
    graph = model.subgraphs[0]
    orders = set()
    for inputs, outputs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        changed = flatbuffer.load(files[kind])
        changed.subgraphs[0].inputs = graph.inputs[::inputs]
        changed.subgraphs[0].outputs = graph.outputs[::outputs]
        signature = changed.signatureDefs[0]
        signature.inputs = signature.inputs[::inputs]
        signature.outputs = signature.outputs[::outputs]
        path = tmp_path / "permuted.tflite"
        path.write_bytes(packed(changed))
        details = Interpreter(str(path)).get_output_details()
        orders.add(tuple(detail["index"] for detail in details))
        assert perplexity(path, TEXT) == perplexity(files[kind], TEXT)
        assert generate(path, [1], 9) == generate(files[kind], [1], 9)
    assert len(orders) == 2


@pytest.fixture(scope="module")
def trained():
    """A model that knows a text: each token is followed by one of two."""
    keras.utils.set_random_seed(0)
    cell = kas.Cell.dense(("input", "tanh", "sigmoid"))
    model = ShrinkRNN(cell, vocabulary_size=VOCABULARY, units=UNITS)
    rng = np.random.default_rng(0)
    tokens = [0]
    for _ in range(4000):
        tokens.append((7 * tokens[-1] + 3 + (rng.random() < 0.2)) % VOCABULARY)
    tokens = np.array(tokens)
    model.compile(
        keras.optimizers.Adam(0.03),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = tokens[:-1].reshape(100, 40), tokens[1:].reshape(100, 40)
    model.fit(x, y, batch_size=10, epochs=12, verbose=0)
    return model, tokens


@pytest.fixture(scope="module")
def trained_files(trained, tmp_path_factory):
    model, tokens = trained
    step = step_model(model)
    data = representative_steps(step, tokens[:200])
    folder = tmp_path_factory.mktemp("trained")
    paths = {name: folder / f"{name}.tflite" for name in QUANTIZATIONS}
    for name, path in paths.items():
        convert(step, path, name, representative_data=data if name == "int8" else None)
    return step, paths


@pytest.fixture(scope="module")
def expected(trained):
    """What the whole-text model makes of the end of its text: perplexity, 50 tokens."""
    model, tokens = trained
    return expected_perplexity(model, tokens[-400:]), expected_continuation(
        model, tokens[-400:-380], 50
    )


def test_litert_alone_continues_a_text(trained, trained_files):
    """No TensorFlow, no Keras: what a phone has."""
    path = str(trained_files[1]["float32"])
    program = (
        "import json, sys, tflite_export\n"
        f"print(json.dumps(tflite_export.generate({path!r}, [7, 3], 25)))\n"
        f"print(tflite_export.perplexity({path!r}, [7, 3, 1]))\n"
        "print({'keras', 'tensorflow', 'keras_autoshrink'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    continuation, _, loaded = result.stdout.splitlines()[-3:]
    assert json.loads(continuation) == expected_continuation(trained[0], [7, 3], 25)
    assert len(set(json.loads(continuation))) > 2
    assert loaded == "set()"


@pytest.mark.parametrize(
    ("name", "argmax", "ratio"),
    [("float32", 1, 1e-5), ("float16", 0.99, 1e-3), ("dynamic", 0.95, 0.02), ("int8", 0.9, 0.05)],
)
def test_every_quantization_of_a_trained_model(
    trained, trained_files, expected, name, argmax, ratio
):
    _, tokens = trained
    expected_text_perplexity, continuation = expected
    step, paths = trained_files
    agreement = verify_language_model(step, paths[name], tokens[-400:])
    assert agreement.num_tokens == 399
    assert agreement.quantization == quantization(paths[name]) == name
    assert agreement.model_perplexity < 5
    assert agreement.model_perplexity == pytest.approx(expected_text_perplexity, rel=1e-4)
    assert agreement.file_perplexity == perplexity(paths[name], tokens[-400:])
    assert agreement.file_perplexity == pytest.approx(agreement.model_perplexity, rel=ratio)
    assert agreement.argmax_agreement >= argmax
    assert agreement.agrees
    assert agreement.model_continuation == tuple(continuation)
    assert agreement.file_continuation == tuple(generate(paths[name], tokens[-400:-380], 50))
    if name in ("float32", "float16"):
        assert agreement.same_continuation
        assert agreement.max_abs_difference < 0.05


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_types_and_costs_of_every_quantization(trained_files, name):
    step, paths = trained_files
    interpreter = Interpreter(str(paths[name]))
    tensors = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert sorted((str(np.dtype(t["dtype"])), *t["shape"].tolist()) for t in tensors) == [
        ("float32", 1, 1, VOCABULARY),
        ("float32", 1, UNITS),
        ("float32", 1, UNITS),
        ("int32", 1, 1),
    ]
    assert count_macs(paths[name]) == kas.count_macs(step)
    assert benchmark(paths[name], runs=5).median_ms > 0


def random_cell(seed):
    """A cell of up to 5 nodes, pruned, from the complete one less a few edges."""
    rng = np.random.default_rng(seed)
    ops = ("input", *rng.choice(["tanh", "relu", "sigmoid", "identity"], 5).tolist())
    cell = kas.Cell.dense(ops)
    for _ in range(rng.integers(2, 10)):
        if len(cell.edges) > 1:
            cell = cell.without_edge(cell.edges[rng.integers(len(cell.edges))]).prune()
    return cell


@pytest.mark.parametrize("name", ["float32", "dynamic", "int8"])
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(SHRINKRNN_CELL, id="published"),
        *(
            pytest.param(random_cell(seed), id=str(seed), marks=pytest.mark.slow)
            for seed in range(3)
        ),
    ],
)
def test_macs_of_cells(tmp_path, name, cell):
    units, vocabulary = (40, 11) if name == "dynamic" else (8, 23)
    step = step_model(ShrinkRNN(cell, vocabulary_size=vocabulary, units=units))
    data = representative_steps(step, TEXT[:20] % vocabulary)
    path = convert(step, tmp_path / "m.tflite", name, representative_data=data)
    assert quantization(path) == name
    assert count_macs(path) == kas.count_macs(step)


def test_a_float_file_holds_the_embedding_once(tmp_path):
    """It is looked up in, and is the softmax's weights too."""
    step = step_model(ShrinkRNN(vocabulary_size=3000, units=UNITS))
    for name, size in (("float32", 4), ("float16", 2)):
        path = convert(step, tmp_path / f"{name}.tflite", name)
        assert 0 < path.stat().st_size - size * step.count_params() < 3000 * UNITS * size / 2


def test_other_weights_do_not_agree(models, trained, trained_files):
    _, paths = trained_files
    other = step_model(models["shrinkrnn"])
    agreement = verify_language_model(other, paths["float32"], trained[1][:100])
    assert agreement.argmax_agreement < 0.5
    assert agreement.file_perplexity < agreement.model_perplexity  # and yet it is another model
    assert not agreement.agrees
    assert not agreement.same_continuation


def test_what_agrees(trained, trained_files):
    import dataclasses

    step, paths = trained_files
    good = verify_language_model(step, paths["float32"], trained[1][:50])
    assert good.agrees
    for changes, agrees in (
        ({"argmax_agreement": 0.94}, False),
        ({"argmax_agreement": 0.94, "quantization": "float16"}, False),
        ({"argmax_agreement": 0.81, "quantization": "int8"}, True),
        ({"argmax_agreement": 0.79, "quantization": "dynamic"}, False),
        ({"continuation_agreement": 0.98}, False),
        ({"continuation_agreement": 0.1, "quantization": "int8"}, True),
        ({"file_perplexity": 1.06 * good.model_perplexity}, False),
        ({"file_perplexity": 1.04 * good.model_perplexity}, True),
        ({"file_perplexity": 0.5 * good.model_perplexity}, True),
        ({"file_perplexity": math.nan}, False),
        ({"max_abs_difference": math.nan}, False),
    ):
        assert dataclasses.replace(good, **changes).agrees is agrees, changes


def test_nan_never_agrees(models, steps, files, tmp_path):
    broken = keras.models.clone_model(models["lstm"])
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    broken = step_model(broken)
    path = convert(broken, tmp_path / "nan.tflite")
    assert math.isnan(perplexity(path, TEXT[:5]))
    with pytest.raises(ValueError, match=r"nan.tflite: its log-probabilities are NaN"):
        generate(path, [1], 2)
    for model, file in (
        (broken, path),
        (steps["lstm"], path),
        (broken, files["lstm"]),
    ):
        agreement = verify_language_model(model, file, TEXT[:30])
        assert math.isnan(agreement.max_abs_difference)
        assert agreement.argmax_agreement == agreement.continuation_agreement == 0
        assert not agreement.same_continuation
        assert not agreement.agrees


def test_perplexity_may_be_infinite(models, tmp_path):
    certain = keras.models.clone_model(models["lstm"])
    certain.set_weights(models["lstm"].get_weights())
    certain.get_layer("embedding").bias.assign(np.where(np.arange(VOCABULARY) == 3, 1e5, 0))
    path = convert(step_model(certain), tmp_path / "certain.tflite")
    assert perplexity(path, [1, 2, 1]) == math.inf
    assert perplexity(path, [1, 3, 3]) == 1
    agreement = verify_language_model(step_model(certain), path, TEXT[:30])
    assert agreement.model_perplexity == agreement.file_perplexity == math.inf
    assert not agreement.agrees


def test_representative_steps(models, steps):
    data = representative_steps(steps["lstm"], TEXT[:10])
    assert {name: (a.shape, a.dtype.name) for name, a in data.items()} == {
        "tokens": ((10, 1), "int32"),
        "state_0": ((10, UNITS), "float32"),
        "state_1": ((10, UNITS), "float32"),
    }
    assert (data["tokens"][:, 0] == TEXT[:10]).all()
    assert not data["state_0"][0].any()
    assert not data["state_1"][0].any()
    # Each state is what the step before it gave.
    _, *states = steps["lstm"]([data[name][:-1] for name in ("tokens", "state_0", "state_1")])
    for number, state in enumerate(states):
        np.testing.assert_allclose(data[f"state_{number}"][1:], state, atol=1e-5)


def test_table(trained, trained_files, tmp_path):
    step, paths = trained_files
    macs = kas.count_macs(step)
    checks = [
        check_language_model(step, paths[name], trained[1][:60], macs) for name in QUANTIZATIONS
    ]
    assert [one.macs_equal for one in checks] == [True] * 4
    assert [one.file_macs for one in checks] == [macs] * 4

    def rows(checks):
        console = rich.console.Console(file=io.StringIO(), width=100)
        console.print(render_table(checks))
        lines = [line.split("  ") for line in console.file.getvalue().splitlines()]
        stripped = [[cell.strip() for cell in line if cell.strip()] for line in lines]
        return {cells[0]: cells[1:] for cells in stripped if cells}

    table = rows(checks)
    agreements = [one.agreement for one in checks]
    assert table["model perplexity"] == [f"{one.model_perplexity:,.2f}" for one in agreements]
    assert table["file perplexity"] == [f"{one.file_perplexity:,.2f}" for one in agreements]
    assert table["same continuation"] == [f"{one.continuation_agreement:.4f}" for one in agreements]
    assert table["same argmax"] == [f"{one.argmax_agreement:.4f}" for one in agreements]
    assert "MACs: multiply-accumulates for one token (1 MAC = 2 FLOPs)" in table
    assert "file accuracy" not in table

    images = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    other = check(images, convert(images, tmp_path / "x.tflite"), np.ones((5, 4), np.float32))
    mixed = rows([*checks, other])
    assert len(mixed["same argmax"]) == 5
    assert len(mixed["file perplexity"]) == 4
    assert len(mixed["file accuracy"]) == 1
    assert "MACs: multiply-accumulates for one sample or token (1 MAC = 2 FLOPs)" in mixed
    assert "file perplexity" not in rows([other])
