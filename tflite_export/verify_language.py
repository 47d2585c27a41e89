"""Verifies language models' ``.tflite`` files against their Keras models."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tflite_export.file.description import quantization
from tflite_export.language import (
    KerasLanguageModel,
    LanguageModelFile,
    checked_text,
    continue_text,
    perplexity_of,
)

if TYPE_CHECKING:
    import keras

# Measured with cells of 100 units on a vocabulary of 6,645, one trained for a while and one until
# it knew its text by heart, whose states go to 15. Floats: all predictions the same, or all but 1
# in 2,000. Eight bits: 94 to 99 of 100 ("dynamic") and 83 to 98 ("int8"), the perplexity at most
# 4.7% higher. The second one in "int8" with representative states that no text leads to: 48 to 60.
MIN_ARGMAX_AGREEMENT = {"float32": 0.95, "float16": 0.95}
MIN_ARGMAX_AGREEMENT_8_BITS = 0.8
MAX_PERPLEXITY_RATIO = 1.05


@dataclasses.dataclass(frozen=True)
class TextAgreement:
    """Compares a language model with its file, on the same text.

    Attributes:
        quantization: The file's quantization, see `Description`.
        num_tokens: How many tokens both predicted, each from the text before it.
        argmax_agreement: Share of them where both hold the same token for the likeliest, 0 to 1.
            One with a NaN in either's log-probabilities is not the same.
        max_abs_difference: The largest difference of two log-probabilities (natural); NaN if
            there is a NaN in any.
        model_perplexity: exp of the model's mean cross-entropy, in natural logarithms.
        file_perplexity: The same for the file.
        model_continuation: Tokens that the model adds to the text's beginning, taking the likeliest
            one again and again; see `generate`. It ends where log-probabilities are NaN.
        file_continuation: The same for the file.
        continuation_agreement: Share of the continuation's positions, 0 to 1, that have the same
            token in both. From the first other token on, the texts differ.

    Example:
        >>> agreement = TextAgreement(
        ...     quantization="int8",
        ...     num_tokens=1000,
        ...     argmax_agreement=0.9,
        ...     max_abs_difference=0.5,
        ...     model_perplexity=100.0,
        ...     file_perplexity=102.0,
        ...     model_continuation=(3, 1, 4),
        ...     file_continuation=(3, 1, 1),
        ...     continuation_agreement=2 / 3,
        ... )
        >>> agreement.same_continuation, agreement.agrees
        (False, True)
    """

    quantization: str
    num_tokens: int
    argmax_agreement: float
    max_abs_difference: float
    model_perplexity: float
    file_perplexity: float
    model_continuation: tuple[int, ...]
    file_continuation: tuple[int, ...]
    continuation_agreement: float

    @property
    def same_continuation(self) -> bool:
        """Returns whether model and file continue the text with the same tokens."""
        return self.continuation_agreement == 1

    @property
    def agrees(self) -> bool:
        """Returns whether the file can stand in for the model.

        No log-probability is NaN, the file's perplexity is at most 5% above the model's, and at
        least 95% of the predictions are the same, or 80% in a file with 8-bit numbers: a language
        model is seldom sure, and two words that it holds for almost equally likely change places.
        A float32 file continues the text with the same tokens.
        """
        least = MIN_ARGMAX_AGREEMENT.get(self.quantization, MIN_ARGMAX_AGREEMENT_8_BITS)
        return (
            not np.isnan(self.max_abs_difference)
            and self.argmax_agreement >= least
            and math.isfinite(self.file_perplexity)
            and self.file_perplexity <= MAX_PERPLEXITY_RATIO * self.model_perplexity
            and (self.same_continuation or self.quantization != "float32")
        )


def verify_language_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    tokens: npt.ArrayLike,
    prompt_length: int = 20,
    num_tokens: int = 50,
) -> TextAgreement:
    """Runs a language model and its file on the same text and compares their predictions.

    Args:
        model: A Keras model of the TensorFlow backend that takes one token at a time. Its inputs
            are ``tokens``, int32 (batch, 1), and the states ``state_0``, ``state_1`` and so on,
            float32 (batch, units). Its outputs are the log-probabilities (natural) of the token
            that follows, float32 (batch, 1, vocabulary), and the new states in the order of the
            old; the batch is open or 1. `keras_autoshrink.step_model` makes one.
        path: Its ``.tflite`` file, with the same inputs and outputs of a batch of 1.
        tokens: The text, integers (n,), n at least 2. Both read it once, from a state of zeros
            that each carries on to its end, and predict all of its tokens but the first.
        prompt_length: How many of the text's first tokens both continue, at least 1.
        num_tokens: How many tokens they add, at least 1.

    Returns:
        Agreement of the predictions, perplexity of both, and their continuations.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: Model or file are not a language model's, or have different vocabularies;
            the text is too short, not of integers, or has a token out of range; another
            argument is out of range.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> from tflite_export import convert
        >>> path = convert(model, "words.tflite")
        >>> agreement = verify_language_model(model, path, [1, 2, 3, 4], 2, num_tokens=3)
        >>> agreement.num_tokens, round(agreement.file_perplexity, 4), agreement.file_continuation
        (3, 5.0, (0, 0, 0))
    """
    keras_model = KerasLanguageModel(model)
    file = LanguageModelFile(path)
    if keras_model.vocabulary_size != file.vocabulary_size:
        raise ValueError(
            f"{Path(path)}: its vocabulary has {file.vocabulary_size} tokens, the model's "
            f"{keras_model.vocabulary_size}"
        )
    text = checked_text(tokens, file.vocabulary_size)
    if not 1 <= prompt_length <= len(text):
        raise ValueError(
            f"prompt_length must be 1 to {len(text)}, the text's length, not {prompt_length}"
        )
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, not {num_tokens}")
    same: list[bool] = []
    differences: list[float] = []
    model_losses: list[float] = []
    file_losses: list[float] = []
    for token, target in itertools.pairwise(text):
        expected, actual = keras_model.step(token), file.step(token)
        with np.errstate(invalid="ignore"):  # -inf - -inf of equal outputs, which is not used
            difference = np.max(np.abs(np.where(expected == actual, 0, expected - actual)))
        differences.append(float(difference))
        # argmax takes a NaN for the largest number.
        same.append(not np.isnan(difference) and bool(expected.argmax() == actual.argmax()))
        model_losses.append(-float(expected[target]))
        file_losses.append(-float(actual[target]))
    continuations = [
        tuple(continue_text(one, text[:prompt_length], num_tokens)) for one in (keras_model, file)
    ]
    equal = sum(have == want for want, have in zip(*continuations, strict=False))
    return TextAgreement(
        quantization=quantization(path),
        num_tokens=len(same),
        argmax_agreement=float(np.mean(same)),
        max_abs_difference=float(np.max(differences)),
        model_perplexity=perplexity_of(model_losses),
        file_perplexity=perplexity_of(file_losses),
        model_continuation=continuations[0],
        file_continuation=continuations[1],
        continuation_agreement=equal / num_tokens,
    )
