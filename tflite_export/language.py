"""Text by a language model's ``.tflite`` file, with LiteRT alone.

Such a file takes one token at a time. Its inputs are ``tokens``, int32 (1, 1), and ``state_0``,
``state_1`` and so on, float32 (1, units). Its outputs are the log-probabilities (natural) of the
token that follows, float32 (1, 1, vocabulary), and the new states in the order of the old. A text
begins with states of zeros.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tflite_export.language_signature import language_signature
from tflite_export.runtime import invoke, load_interpreter


class LanguageModel(Protocol):
    """What goes through a text token by token."""

    vocabulary_size: int

    def reset(self) -> None:
        """Begins a new text."""

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Takes a token; returns the log-probabilities (vocabulary,) of the one that follows."""


class LanguageModelFile:
    """A language model's file, and the state that the text so far has left.

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
            inputs, outputs = language_signature(self._interpreter)
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
        """Begins a new text."""
        self._states = self._zeros

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Goes on by one token.

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
    """The perplexity of a text: how many tokens the model hesitates between, on average.

    Args:
        path: A language model's ``.tflite`` file.
        tokens: The text, integers (n,), n at least 2. It begins with a state of zeros, which is
            carried on to its end.

    Returns:
        exp of the mean over all tokens but the first of -log p(token | the tokens before).
        Infinity where that is too large for a float; NaN if the file gives NaN.

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
    """The perplexity for the losses -log p (n,) of a text's tokens."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.mean(losses, dtype=np.float64)))


def continue_text(model: LanguageModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Continues a text greedily, see `generate`.

    Args:
        model: Begins a new text.
        prompt: At least one token.
        num_tokens: How many to add.

    Returns:
        As many tokens, or fewer: up to where the log-probabilities are NaN.
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


def check_token(token: int, vocabulary_size: int, owner: str = "file") -> None:
    """Raises ValueError for a token that is not one of 0 to vocabulary_size - 1."""
    # Files take a token of -1 for the last one.
    if not 0 <= operator.index(token) < vocabulary_size:
        raise ValueError(f"token {token}: the {owner}'s vocabulary has {vocabulary_size}")


def checked_text(tokens: npt.ArrayLike, vocabulary_size: int, owner: str = "file") -> list[int]:
    """A text's tokens as a list; ``owner`` of the vocabulary is for the message.

    Raises:
        ValueError: There are fewer than 2, they are not integers (n,), or one is out of range.
    """
    text = np.asarray(tokens)
    if text.ndim != 1 or (text.size and text.dtype.kind not in "iu"):
        raise ValueError(f"tokens must be integers (n,), not {text.dtype} of shape {text.shape}")
    if len(text) < 2:
        raise ValueError(f"tokens must be at least 2, not {len(text)}: one to predict another")
    for token in (text.min(), text.max()):
        check_token(token, vocabulary_size, owner)
    return [int(token) for token in text]
