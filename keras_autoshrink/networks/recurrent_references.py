"""Recurrent references: the language models that one takes without a search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras

from keras_autoshrink.cell import INPUT, SHRINKRNN_CELL, Cell
from keras_autoshrink.checks import whole
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.networks.budget import count_unbuilt, solve_filters
from keras_autoshrink.networks.language_model import language_model
from keras_autoshrink.networks.operations import SKIP
from keras_autoshrink.networks.rnn import ShrinkRNNCell

# A cell that is no more than its node 0.
INPUT_STEP_ALONE = Cell((INPUT, SKIP), ((0, 1),))

# Of a language model, by the name of a target: a token's multiply-accumulates, and parameters.
TOKEN_COSTS: dict[str, Callable[[Any], int]] = {
    "target_macs": functools.partial(count_macs, input_shape=(1,)),
    "target_params": count_params,
}

# Where to look first for the units that a target allows, and what is counted to know all others.
_UNITS = 128
_COUNTED = (_UNITS // 4, _UNITS // 2, _UNITS)


@dataclasses.dataclass(frozen=True)
class RecurrentReference:
    """A recurrent cell that is taken without a search, and its language model.

    Attributes:
        name: what it is called in results.
        source: its publication.
        cell: makes it, `cell(units, dropout=share, recurrent_dropout=share)`.
    """

    name: str
    source: str
    cell: Callable[..., keras.Layer]

    def build(
        self,
        vocabulary_size: int,
        units: int,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **regularization: float,
    ) -> keras.Model:
        """Builds the language model of the cell.

        Args:
            vocabulary_size: number of different tokens.
            units: size of the state, and of a token's embedding.
            dropout: share of the cell's input that is dropped in training.
            recurrent_dropout: share of the cell's state that is dropped in training.
            **regularization: further arguments of `language_model`.

        Returns:
            An uncompiled model from tokens (batch, steps) to logits (batch, steps,
            vocabulary_size).
        """
        units = whole("units", units, 1)
        cell = self.cell(units, dropout=dropout, recurrent_dropout=recurrent_dropout)
        return language_model(cell, vocabulary_size, name=self.name, **regularization)


def reference_language_models(
    vocabulary_size: int, target_macs: int | None = None, target_params: int | None = None
) -> dict[str, keras.Model]:
    """Builds the language models that one takes without a search, as wide as a budget allows.

    They have the cell of an LSTM and of a GRU, Keras's, of a minimal gated unit (Zhou et al., arXiv
    1603.09420), and of the published ShrinkRNN (Zhang et al., arXiv 1911.09251); embedding and
    softmax share weights. Which is best depends on text and budget: train them all by one recipe.

    Args:
        vocabulary_size: number of different tokens; they are 0 to vocabulary_size - 1.
        target_macs: multiply-accumulates for one token, at most.
        target_params: parameters, at most; the other target is None.

    Returns:
        Uncompiled functional models by name, from tokens (batch, steps) to logits (batch, steps,
        vocabulary_size). Each costs 95% to 100% of the target, wherever a unit is as fine as that.

    Raises:
        ValueError: an argument is out of its range, or a network cannot have the target's cost.

    Example:
        >>> models = reference_language_models(vocabulary_size=100, target_params=50_000)
        >>> [(name, count_params(model)) for name, model in models.items()]
        [('lstm', 49060), ('gru', 49136), ('mgu', 48512), ('shrinkrnn', 48900)]
    """
    if (target_macs is None) == (target_params is None):
        raise ValueError(
            f"target_macs={target_macs!r}, target_params={target_params!r}: expected one of the two"
        )
    name = "target_macs" if target_params is None else "target_params"
    target = target_macs if target_params is None else target_params
    models = {}
    for label, reference in RECURRENT_REFERENCES.items():
        build = functools.partial(reference.build, vocabulary_size)
        models[label] = build(solve_units(build, whole(name, target, 1), name))
    return models


def solve_units(build: Callable[[int], keras.Model], target: int, name: str) -> int:
    """Finds the units with which a language model costs as much as a budget allows.

    Args:
        build: makes the model of a number of units, without compiling it.
        target: the cost of the model, at most.
        name: of the target, "target_macs" for a token or "target_params".

    Returns:
        The most units whose model costs at most the target and whose next more would not, or 99% of
        the target.

    Raises:
        OverBudgetError: the smallest model costs more than the target, or the widest less; the
            message has both costs.
    """
    cost = TOKEN_COSTS[name]

    def count(units: int) -> int:
        return count_unbuilt(lambda widths: build(widths[0]), (units,), cost)

    # Every matrix is between units and units, or units and the vocabulary: a quadratic. What comes
    # of that is counted, to be sure.
    guessed = _quadratic([(units, count(units)) for units in _COUNTED])
    (units,) = solve_filters(lambda widths: widths[0], (_UNITS,), target, guessed, name)
    if guessed(units) != count(units):
        (units,) = solve_filters(lambda widths: build(widths[0]), (_UNITS,), target, cost, name)
    return units


def _quadratic(points: list[tuple[int, int]]) -> Callable[[int], int]:
    """Returns the quadratic function through three points, exact for whole numbers."""
    (x0, y0), (x1, y1), (x2, y2) = points
    slope = Fraction(y1 - y0, x1 - x0)
    bend = (Fraction(y2 - y1, x2 - x1) - slope) / (x2 - x0)
    return lambda x: int(y0 + (x - x0) * (slope + (x - x1) * bend))


RECURRENT_REFERENCES = {
    reference.name: reference
    for reference in (
        RecurrentReference(
            "lstm",
            "Hochreiter and Schmidhuber, Long short-term memory, 1997; with a forget gate, Gers et "
            "al., 2000",
            keras.layers.LSTMCell,
        ),
        RecurrentReference("gru", "Cho et al., EMNLP 2014, arXiv 1406.1078", keras.layers.GRUCell),
        RecurrentReference(
            "mgu",
            "Zhou et al., Minimal gated unit, 2016, arXiv 1603.09420",
            functools.partial(ShrinkRNNCell, INPUT_STEP_ALONE, input_step="mgu", use_bias=True),
        ),
        RecurrentReference(
            "shrinkrnn",
            "Zhang et al., AutoShrink, AAAI 2020, arXiv 1911.09251",
            functools.partial(ShrinkRNNCell, SHRINKRNN_CELL),
        ),
    )
}
"""The language models by name, as `reference_language_models` builds them."""
