"""What is refused of language models, their files and texts, and with which words."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from keras_autoshrink.networks.language_model import ShrinkRNN, language_model, step_model
from tflite_export import (
    convert,
    generate,
    load_model,
    perplexity,
    representative_steps,
    verify,
    verify_language_model,
)
from tflite_export.__main__ import main
from tflite_export.language import LanguageModelFile

VOCABULARY, UNITS = 10, 4


@pytest.fixture(scope="module")
def step():
    return step_model(ShrinkRNN(vocabulary_size=VOCABULARY, units=UNITS))


@pytest.fixture(scope="module")
def path(step, tmp_path_factory):
    return convert(step, tmp_path_factory.mktemp("good") / "good.tflite")


def one_token_model(
    names=("tokens", "state_0"),
    outputs=lambda x, state: [x, state],
    activation="log_softmax",
    dtype="int32",
    steps=1,
):
    tokens = keras.Input((steps,), dtype=dtype, name=names[0])
    state = keras.Input((UNITS,), name=names[1])
    x = layers.Embedding(VOCABULARY, UNITS, embeddings_initializer="ones")(tokens)
    x = x + layers.Reshape((1, UNITS))(state)
    x = layers.Dense(VOCABULARY, bias_initializer="ones", activation=activation)(x)
    return keras.Model([tokens, state], outputs(x, state))


OTHER_MODELS = {
    "an image classifier's": (
        lambda: keras.Sequential(
            [keras.Input((8, 8, 1), name="x"), layers.Flatten(), layers.Dense(3)]
        ),
        r"its inputs are \w+; expected tokens, state_0$",
    ),
    "a whole sequence's": (
        lambda: keras.Sequential(
            [keras.Input((5,), dtype="int32", name="tokens"), layers.Embedding(9, 4)]
        ),
        r"its inputs are tokens; expected tokens, state_0$",
    ),
    "other names": (
        lambda: one_token_model(names=("tokens", "h")),
        "its inputs are h, tokens; expected tokens, state_0$",
    ),
    "no new state": (
        lambda: one_token_model(outputs=lambda x, state: x),
        "its outputs are output_0; expected output_0, output_1$",
    ),
    "outputs by name": (
        lambda: one_token_model(outputs=lambda x, state: {"words": x, "state": state}),
        "its outputs are state, words; expected output_0, output_1$",
    ),
    "states first": (
        lambda: one_token_model(outputs=lambda x, state: [state, x]),
        r"output_0 is float32 of shape \(1, 4\); expected float32 of shape \(1, 1, n\)$",
    ),
    "another new state": (
        lambda: one_token_model(outputs=lambda x, state: [x, state[:, :2]]),
        r"output_1 is float32 of shape \(1, 2\); expected float32 of shape \(1, 4\)$",
    ),
    "tokens of several steps": (
        lambda: one_token_model(steps=2),
        r"tokens is int32 of shape \(1, 2\); expected int32 of shape \(1, 1\)$",
    ),
    "tokens of 64 bits": (
        lambda: one_token_model(dtype="int64"),
        r"tokens is int64 of shape \(1, 1\); expected int32 of shape \(1, 1\)$",
    ),
    "logits": (
        lambda: one_token_model(activation=None),
        "its first output holds no log-probabilities: their exponentials add up to ",
    ),
    "probabilities": (
        lambda: one_token_model(activation="softmax"),
        "its first output holds no log-probabilities: their exponentials add up to 11.1, not to 1$",
    ),
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_other_files_are_refused(step, tmp_path, kind):
    build, message = OTHER_MODELS[kind]
    path = convert(build(), tmp_path / "other.tflite")
    for run in (
        lambda: generate(path, [1], 1),
        lambda: perplexity(path, [1, 2]),
        lambda: verify_language_model(step, path, [1, 2], 1),
    ):
        with pytest.raises(
            ValueError, match=rf"other.tflite: not a language model's file: (?:{message})"
        ) as error:
            run()
        assert "\n" not in str(error.value)


def test_files_of_another_batch_are_refused(step, tmp_path):
    path = convert(step, tmp_path / "four.tflite", batch_size=4)
    with pytest.raises(ValueError, match=r"tokens is int32 of shape \(4, 1\); expected int32 of"):
        LanguageModelFile(path)


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "text.tflite").write_text("1, 2, 3")
    for name in ("text", "none"):
        with pytest.raises(ValueError, match=rf"{name}.tflite: not a .tflite file"):
            generate(tmp_path / f"{name}.tflite", [1], 1)


def test_tokens_out_of_range(step, path):
    for token in (10, -1, 12):
        message = f"^token {token}: the file's vocabulary has 10$"
        for run in (
            lambda token=token: LanguageModelFile(path).step(token),
            lambda token=token: generate(path, [1, token], 5),
            lambda token=token: perplexity(path, [1, token]),
            lambda token=token: perplexity(path, [token, 1]),
            lambda token=token: verify_language_model(step, path, [1, token]),
        ):
            with pytest.raises(ValueError, match=message):
                run()
    with pytest.raises(ValueError, match=r"^token 12: the model's vocabulary has 10$"):
        representative_steps(step, [12, 1])


def test_prompts_and_texts_are_refused(step, path):
    with pytest.raises(ValueError, match=r"^prompt must have at least one token$"):
        generate(path, [], 5)
    with pytest.raises(ValueError, match=r"^num_tokens must be at least 0, not -1$"):
        generate(path, [1], -1)
    for tokens, message in (
        ([], "tokens must be at least 2, not 0: one to predict another"),
        ([1], "tokens must be at least 2, not 1"),
        ([1.0, 2.0], r"tokens must be integers \(n,\), not float64 of shape \(2,\)"),
        ([[1, 2]], r"tokens must be integers \(n,\), not int64 of shape \(1, 2\)"),
        (["a", "b"], r"tokens must be integers \(n,\), not <U1"),
    ):
        for run in (
            lambda tokens=tokens: perplexity(path, tokens),
            lambda tokens=tokens: verify_language_model(step, path, tokens),
            lambda tokens=tokens: representative_steps(step, tokens),
        ):
            with pytest.raises(ValueError, match=f"^{message}"):
                run()
    with pytest.raises(ValueError, match="prompt_length must be 1 to 5, the text's length, not 20"):
        verify_language_model(step, path, range(5))
    with pytest.raises(ValueError, match="prompt_length must be 1 to 5"):
        verify_language_model(step, path, range(5), prompt_length=0)
    with pytest.raises(ValueError, match="num_tokens must be at least 1, not 0"):
        verify_language_model(step, path, range(5), 2, num_tokens=0)


def test_models_are_refused(step, path, monkeypatch):
    with pytest.raises(TypeError, match=r"model must be a keras.Model, not str"):
        verify_language_model("model.keras", path, range(5))
    whole = language_model(layers.LSTMCell(UNITS), VOCABULARY)
    with pytest.raises(
        ValueError, match=r"one token at a time: its inputs are tokens; expected tokens, state_0$"
    ):
        verify_language_model(whole, path, range(5))
    with pytest.raises(ValueError, match=r"its inputs are not fixed; expected tokens, state_0$"):
        verify_language_model(keras.Sequential([layers.Dense(2)]), path, range(5))
    with pytest.raises(
        ValueError, match=r"it takes \(None, 1\), \(None, 4\) and gives \(None, 4\)"
    ):
        representative_steps(one_token_model(outputs=lambda x, state: [state, x]), range(5))
    with pytest.raises(ValueError, match=r"it takes \(None, 2\), \(None, 4\) and gives \(None, 2"):
        representative_steps(one_token_model(steps=2), range(5))
    other = step_model(ShrinkRNN(vocabulary_size=12, units=UNITS))
    with pytest.raises(
        ValueError, match=r"good.tflite: its vocabulary has 10 tokens, the model's 12$"
    ):
        verify_language_model(other, path, range(5))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"model runs on the jax backend.*KERAS_BACKEND=tensorfl"):
        verify_language_model(step, path, range(5))


def test_verify_of_other_models_names_the_right_function(step, path):
    with pytest.raises(
        ValueError, match=r"has 2 inputs and 2 outputs; .*verify_language_model those of language"
    ):
        verify(step, path, [[1]])


def run(program, cwd):
    root = str(Path(tflite_export.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *program],
        cwd=cwd,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_layers_that_keras_does_not_know_yet(step, tmp_path):
    """In a process that has not imported the library of a model's layers."""
    step.save(tmp_path / "lm.keras")
    result = run(["-m", "tflite_export", "convert", "lm.keras", "lm.tflite"], tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "tflite_export: error: lm.keras: needs 'TiedEmbedding', which Keras does not know yet; "
        "import keras_autoshrink.networks.language_model before you load the model\n"
    )


def test_layers_of_no_library(tmp_path, monkeypatch):
    class Own(layers.Layer):
        pass

    Own.__module__ = "__main__"
    keras.Sequential([keras.Input((3,)), Own()]).save(tmp_path / "own.keras")
    with pytest.raises(
        ValueError, match=r"needs 'Own', which .* yet; import the library that defines it before"
    ):
        load_model(tmp_path / "own.keras")


def test_commands(step, path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    step.save("lm.keras")
    np.save("tokens.npy", np.zeros((5, 1), int))
    assert main(["macs", str(path)]) == 0
    assert main(["benchmark", str(path), "--runs", "3"]) == 0
    assert main(["convert", "lm.keras", "lm.tflite", "--quantization", "dynamic"]) == 0
    capfd.readouterr()
    int8 = ["convert", "lm.keras", "lm.tflite", "--quantization", "int8"]
    for arguments, message in (
        (int8, "representative_data is missing"),
        (
            [*int8, "--representative-data", "tokens.npy"],
            "lm.keras: has 2 inputs, --representative-data an array for one; convert it in Python",
        ),
        (
            ["verify", "lm.keras", "lm.tflite", "--inputs", "tokens.npy"],
            "lm.tflite: has 2 inputs and 2 outputs; verify compares files of one each",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        output = capfd.readouterr()
        assert output.err.startswith(f"tflite_export: error: {message}")
        assert (output.out, output.err.count("\n")) == ("", 1)
