"""Runs language models on texts token by token: ``.tflite`` files with LiteRT, and Keras models.

The inputs of either are ``tokens``, int32 (1, 1), and ``state_0``, ``state_1`` and so on, float32
(1, units). The outputs are the log-probabilities (natural) of the token that follows, float32
(1, 1, vocabulary), and the new states in the order of the old. A text begins with states of zeros.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tflite_export.convert import check_backend, input_structure
from tflite_export.runtime import invoke, load_interpreter
from tflite_export.samples import Samples

if TYPE_CHECKING:
    import keras


class LanguageModel(Protocol):
    """Reads a text token by token."""

    vocabulary_size: int

    def reset(self) -> None:
        """Sets the states to zeros, for a new text."""

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Takes a token; returns the log-probabilities (vocabulary,) of the one that follows."""


class LanguageModelFile:
    """Runs a language model's file on a text, and keeps its states between tokens.

    Args:
        path: The ``.tflite`` file.
        num_threads: CPU threads that its kernels may use, at least 1.

    Attributes:
        vocabulary_size: The number of different tokens, which are 0 to ``vocabulary_size - 1``.

    Raises:
        ValueError: The file is not a ``.tflite`` file, or not a language model's.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 1) -> None:
        self._interpreter = load_interpreter(path, num_threads)
        try:
            inputs, outputs = _language_signature(self._interpreter)
            self.vocabulary_size = int(outputs[0]["shape"][-1])
            self._inputs, self._outputs = (
                [tensor["index"] for tensor in tensors] for tensors in (inputs, outputs)
            )
            self._zeros = [np.zeros(tensor["shape"], np.float32) for tensor in inputs[1:]]
            self.reset()
            self._check_probabilities()
        except ValueError as error:
            raise ValueError(f"{Path(path)}: not a language model's file: {error}") from error

    def reset(self) -> None:
        """Sets the states to zeros, for a new text."""
        self._states = self._zeros

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Takes a token; returns the log-probabilities of the one that follows.

        Args:
            token: The next token of the text.

        Returns:
            The log-probabilities (natural) of the token that follows, (vocabulary_size,).

        Raises:
            ValueError: The token is out of range.
        """
        check_token(token, self.vocabulary_size)
        self._interpreter.set_tensor(self._inputs[0], np.full((1, 1), token, np.int32))
        for index, state in zip(self._inputs[1:], self._states, strict=True):
            self._interpreter.set_tensor(index, state)
        invoke(self._interpreter)
        log_probabilities, *self._states = map(self._interpreter.get_tensor, self._outputs)
        result: npt.NDArray[np.float32] = log_probabilities.reshape(-1)
        return result

    def _check_probabilities(self) -> None:
        """Raises ValueError for logits or probabilities, from which all else would be wrong."""
        log_probabilities = self.step(0)
        self.reset()
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.exp(log_probabilities.astype(np.float64)).sum()
        # Eight bits take a few percent off or on. NaN is for those to report who run the file.
        if not np.isnan(total) and not 0.5 < total < 2:
            raise ValueError(
                "its first output holds no log-probabilities: their exponentials add up to "
                f"{total:.3g}, not to 1"
            )


def generate(path: str | os.PathLike[str], prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Continues a text with the likeliest token, again and again.

    Args:
        path: A language model's ``.tflite`` file.
        prompt: The text's tokens so far, at least one, such as that for the end of a sentence.
        num_tokens: How many tokens to continue it by, 0 or more.

    Returns:
        The continuation's tokens, without the prompt; of equally likely ones the smallest.

    Raises:
        ValueError: The file is not a language model's, or gives NaN; the prompt is empty, or a
            token in it out of range; ``num_tokens`` is below 0.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> from tflite_export import convert
        >>> generate(convert(model, "words.tflite"), prompt=[3, 1], num_tokens=4)
        [0, 0, 0, 0]
    """
    if num_tokens < 0:
        raise ValueError(f"num_tokens must be at least 0, not {num_tokens}")
    if len(prompt) == 0:
        raise ValueError("prompt must have at least one token")
    tokens = continue_text(LanguageModelFile(path), prompt, num_tokens)
    if len(tokens) < num_tokens:
        raise ValueError(f"{Path(path)}: its log-probabilities are NaN")
    return tokens


def perplexity(path: str | os.PathLike[str], tokens: npt.ArrayLike) -> float:
    """Measures a file's perplexity on a text.

    Args:
        path: A language model's ``.tflite`` file.
        tokens: The text, integers (n,), n at least 2. It begins with a state of zeros, which is
            carried on to its end.

    Returns:
        exp of the mean over all tokens but the first of -log p(token | the tokens before), which
        is how many tokens the model hesitates between, on average. Infinity where that is too
        large for a float; NaN if the file gives NaN.

    Raises:
        ValueError: The file is not a language model's; the text is too short, not of integers or
            has a token out of range.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> from tflite_export import convert
        >>> round(perplexity(convert(model, "words.tflite"), [1, 2, 3, 4]), 4)  # of 5 words
        5.0
    """
    model = LanguageModelFile(path)
    text = checked_text(tokens, model.vocabulary_size)
    return perplexity_of(
        [-float(model.step(token)[target]) for token, target in itertools.pairwise(text)]
    )


def perplexity_of(losses: Sequence[float]) -> float:
    """Computes the perplexity from the losses -log p, (n,), of a text's tokens."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.mean(losses, dtype=np.float64)))


def continue_text(model: LanguageModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Continues a text with the likeliest token, again and again, see `generate`.

    Args:
        model: The language model, whose states are reset.
        prompt: The text's tokens so far, at least one.
        num_tokens: How many tokens to continue it by.

    Returns:
        As many tokens, or fewer, up to where the log-probabilities are NaN.
    """
    model.reset()
    for token in prompt:
        log_probabilities = model.step(token)
    continuation: list[int] = []
    while len(continuation) < num_tokens and not np.isnan(log_probabilities).any():
        continuation.append(int(log_probabilities.argmax()))
        if len(continuation) < num_tokens:
            log_probabilities = model.step(continuation[-1])
    return continuation


def check_token(token: int, vocabulary_size: int) -> None:
    """Raises ValueError for a token that is not one of 0 to vocabulary_size - 1."""
    # Files take a token of -1 for the last one.
    if not 0 <= operator.index(token) < vocabulary_size:
        raise ValueError(f"token {token}: the vocabulary has {vocabulary_size}, from 0 on")


def checked_text(tokens: npt.ArrayLike, vocabulary_size: int) -> list[int]:
    """Checks a text's tokens, (n,), and returns them as a list.

    Raises:
        ValueError: There are fewer than 2, they are not integers (n,), or one is out of range.
    """
    text = np.asarray(tokens)
    if text.ndim != 1 or (text.size and text.dtype.kind not in "iu"):
        raise ValueError(f"tokens must be integers (n,), not {text.dtype} of shape {text.shape}")
    if len(text) < 2:
        raise ValueError(f"tokens must be at least 2, not {len(text)}: one to predict another")
    for token in (text.min(), text.max()):
        check_token(token, vocabulary_size)
    return [int(token) for token in text]


class KerasLanguageModel:
    """Runs a Keras model of the TensorFlow backend on a text, and keeps its states between tokens.

    Args:
        model: The model, with the inputs and outputs of a language model's file.

    Attributes:
        vocabulary_size: The number of different tokens.
        states: The states after the text so far, (1, units) by the names of the model's inputs.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: ``model`` has other inputs or outputs, or another backend.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras
        import tensorflow as tf

        check_backend(model, "compare it with a file")
        self.vocabulary_size, sizes = _model_sizes(model)
        structure = input_structure(model)
        self._zeros = {f"state_{n}": tf.zeros((1, size)) for n, size in enumerate(sizes)}

        def step(inputs: dict[str, Any]) -> list[Any]:
            values = keras.tree.map_structure(lambda tensor: inputs[tensor.name], structure)
            flat: list[Any] = keras.tree.flatten(model(values, training=False))
            return flat

        # One graph for a step: to call the model layer by layer takes many times as long.
        self._step = tf.function(step).get_concrete_function(
            {
                "tokens": tf.TensorSpec((1, 1), tf.int32),
                **{name: tf.TensorSpec(zeros.shape) for name, zeros in self._zeros.items()},
            }
        )
        self._tokens = tf.reshape(tf.range(self.vocabulary_size), (-1, 1, 1))
        self.reset()

    def reset(self) -> None:
        """Sets the states to zeros, for a new text."""
        self.states = dict(self._zeros)

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Takes a token; returns the log-probabilities (vocabulary,) of the one that follows."""
        check_token(token, self.vocabulary_size)
        log_probabilities, *states = self._step({"tokens": self._tokens[token], **self.states})
        self.states = dict(zip(self._zeros, states, strict=True))
        result: npt.NDArray[np.float32] = log_probabilities.numpy().reshape(-1)
        return result


def representative_steps(model: keras.Model, tokens: npt.ArrayLike) -> Samples:
    """Records a language model's inputs on a text: ``representative_data`` for "int8".

    Args:
        model: A Keras model that takes one token at a time, see `verify_language_model`.
        tokens: The text, integers (n,), n at least 2.

    Returns:
        An array for each input by its name, of which the tokens are int32 (n, 1) and each state
        float32 (n, units), its first row zeros.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It is not a language model; the text is too short, not of integers or has a
            token out of range.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> steps = representative_steps(model, [1, 2, 3, 4])
        >>> {name: array.shape for name, array in steps.items()}
        {'tokens': (4, 1), 'state_0': (4, 4)}
    """
    keras_model = KerasLanguageModel(model)
    text = checked_text(tokens, keras_model.vocabulary_size)
    states: list[dict[str, Any]] = []
    for token in text:
        states.append(keras_model.states)
        keras_model.step(token)
    return {
        "tokens": np.array(text, np.int32).reshape(-1, 1),
        **{name: np.concatenate([step[name] for step in states]) for name in states[0]},
    }


def _model_sizes(model: keras.Model) -> tuple[int, list[int]]:
    """Returns the vocabulary's size and those of the states, in their order.

    Raises:
        ValueError: The model's inputs and outputs are not those of a language model.
    """
    shapes = {tensor.name: tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()}
    outputs = [tuple(tensor.shape) for tensor in getattr(model, "outputs", None) or ()]
    states = [f"state_{number}" for number in range(max(1, len(shapes) - 1))]
    if set(shapes) != {"tokens", *states}:
        raise ValueError(
            "model is not a language model that takes one token at a time: its inputs are "
            f"{', '.join(shapes) or 'not fixed'}; expected {', '.join(['tokens', *states])}"
        )
    sizes = [shapes[state][1:] for state in states]
    fits = (
        shapes["tokens"][1:] == (1,)
        and all(shape[0] in (None, 1) for shape in [*shapes.values(), *outputs])
        and [(len(shape), shape[1]) for shape in outputs[:1]] == [(3, 1)]
        and [shape[1:] for shape in outputs[1:]] == sizes
    )
    if not fits:
        raise ValueError(
            "model is not a language model that takes one token at a time: it takes "
            f"{', '.join(map(str, shapes.values()))} and gives {', '.join(map(str, outputs))}"
        )
    return int(outputs[0][-1]), [int(size) for (size,) in sizes]


def _language_signature(interpreter: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a file's inputs, tokens first, and outputs, log-probabilities first, then states.

    The interpreter's own order of a file's tensors is not the model's. The file's signature has
    the names of the model's inputs, and numbers its outputs.

    Raises:
        ValueError: They are not those of a language model.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(f"it has {len(signatures)} signatures, not one")
    runner = interpreter.get_signature_runner(*signatures)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    states = range(max(1, len(inputs) - 1))
    input_names = ["tokens", *(f"state_{number}" for number in states)]
    output_names = [f"output_{number}" for number in range(len(input_names))]
    for kind, names, tensors in (("in", input_names, inputs), ("out", output_names, outputs)):
        if set(tensors) != set(names):
            raise ValueError(
                f"its {kind}puts are {', '.join(sorted(tensors))}; expected {', '.join(names)}"
            )

    _check_tensor("tokens", inputs["tokens"], np.int32, (1, 1))
    _check_tensor("output_0", outputs["output_0"], np.float32, (1, 1, None))
    for number in states:
        state = inputs[f"state_{number}"]
        _check_tensor(f"state_{number}", state, np.float32, (1, None))
        name = f"output_{number + 1}"
        _check_tensor(name, outputs[name], np.float32, tuple(state["shape"].tolist()))
    return [inputs[name] for name in input_names], [outputs[name] for name in output_names]


def _check_tensor(
    name: str, tensor: dict[str, Any], dtype: type, shape: tuple[int | None, ...]
) -> None:
    """Raises ValueError for a tensor of another dtype or shape; None is an axis of any size."""
    have = tuple(tensor["shape"].tolist())
    fits = len(have) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(have, shape, strict=True)
    )
    if not fits or tensor["dtype"] is not dtype:
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{name} is {np.dtype(tensor['dtype'])} of shape {have}; expected {np.dtype(dtype)} of "
            f"shape ({expected})"
        )
