"""Language models around a recurrent cell: ShrinkRNN as published, and the forms it is used in.

A model goes from tokens, integers of shape (batch, steps), to logits of shape
(batch, steps, vocabulary). `carrying` is the form to train and score it in, `step_model` the
one for a phone; both share the layers, and so the weights, of the model they are made of.
"""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import share, whole
from keras_autoshrink.language_layers import (
    CarriedState,
    TemporalActivationRegularization,
    TiedEmbedding,
)
from keras_autoshrink.published_cells import SHRINKRNN_CELL
from keras_autoshrink.recurrent import ShrinkRNNCell

_PARTS = ("embedding", "embedding_dropout", "recurrent", "regularization", "output_dropout")


def ShrinkRNN(  # noqa: N802 - a model function is named like the model, as in keras.applications
    cell: Cell = SHRINKRNN_CELL,
    vocabulary_size: int = 10_000,
    units: int = 745,
    *,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    name: str = "shrinkrnn",
    **regularization: float,
) -> keras.Model:
    """A ShrinkRNN: embedding, a recurrent cell, and a softmax that shares the embedding's weights.

    The defaults are the paper's network for Penn Treebank (arXiv 1911.09251): 23,000,700
    parameters and 22,990,700 multiply-accumulates for a token. The weights are random.

    Args:
        cell: the cell; the search finds it, `SHRINKRNN_CELL` is the published one.
        vocabulary_size: number of different tokens; they are 0 to vocabulary_size - 1.
        units: size of the state, and of a token's embedding.
        dropout: share of the cell's input that is dropped in training, see `ShrinkRNNCell`.
        recurrent_dropout: share of the cell's state that is dropped in training.
        name: of the model.
        **regularization: further arguments of `keras_autoshrink.language_models.language_model`.

    Returns:
        A functional `keras.Model` from tokens of shape (batch, steps), any number of steps, to
        logits of shape (batch, steps, vocabulary_size). Each sequence begins with a state of
        zeros. For the multiply-accumulates of a token: `count_macs(model, input_shape=(1,))`.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> model = ShrinkRNN(vocabulary_size=100, units=16)
        >>> model.output_shape
        (None, None, 100)
    """
    recurrent_cell = ShrinkRNNCell(cell, units, dropout, recurrent_dropout, name="cell")
    return language_model(recurrent_cell, vocabulary_size, name=name, **regularization)


def language_model(
    recurrent_cell: keras.Layer,
    vocabulary_size: int,
    *,
    word_dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    output_dropout: float = 0.0,
    activation_regularization: float = 0.0,
    name: str = "language_model",
) -> keras.Model:
    """A language model around a recurrent cell, ours or one of Keras's.

    Args:
        recurrent_cell: as for `keras.layers.RNN`, with an attribute `units`, such as a
            `ShrinkRNNCell` or a `keras.layers.LSTMCell`.
        vocabulary_size: number of different tokens; they are 0 to vocabulary_size - 1.
        word_dropout: share of the vocabulary's words whose embedding is dropped in a step of
            training (Merity et al., arXiv 1708.02182, section 4.3).
        embedding_dropout: share of the embedded input that is dropped, with one mask for a whole
            sequence.
        output_dropout: share of the recurrent layer's output that is dropped, with one mask for a
            whole sequence.
        activation_regularization: the loss has this times the mean square of how the output
            changes from step to step added (section 4.6 there).
        name: of the model.

    Returns:
        A functional `keras.Model` from tokens of shape (batch, steps), any number of steps, to
        logits of shape (batch, steps, vocabulary_size).

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> import keras
        >>> language_model(keras.layers.LSTMCell(16), vocabulary_size=100).output_shape
        (None, None, 100)
    """
    vocabulary_size = whole("vocabulary_size", vocabulary_size, 2)
    for argument, rate in (
        ("word_dropout", word_dropout),
        ("embedding_dropout", embedding_dropout),
        ("output_dropout", output_dropout),
    ):
        share(argument, rate)
    if not 0 <= activation_regularization < float("inf"):
        raise ValueError(
            f"activation_regularization={activation_regularization!r}: expected 0 or more"
        )
    dropout = keras.layers.SpatialDropout1D  # one mask for all steps
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = TiedEmbedding(
        vocabulary_size, recurrent_cell.units, word_dropout=word_dropout, name="embedding"
    )
    x = dropout(embedding_dropout, name="embedding_dropout")(embedding(tokens))
    x = keras.layers.RNN(recurrent_cell, return_sequences=True, name="recurrent")(x)
    x = TemporalActivationRegularization(activation_regularization, name="regularization")(x)
    x = dropout(output_dropout, name="output_dropout")(x)
    return keras.Model(tokens, embedding(x, reverse=True), name=name)


def carrying(model: keras.Model, batch_size: int, steps: int | None = None) -> keras.Model:
    """A model that goes on, at each batch, from the state that the batch before left.

    For truncated backpropagation through time. Begin a stream of text with
    `reset_state(model)`.

    Args:
        model: a `language_model`.
        batch_size: number of streams, the same in every batch.
        steps: length of a window, if it is always the same.

    Returns:
        A model of the same layers from tokens (batch_size, steps) to logits.

    Raises:
        ValueError: `model` is no language model.
    """
    parts = _parts(model)
    cell = parts["recurrent"].cell
    tokens = keras.Input(batch_shape=(batch_size, steps), dtype="int32", name="tokens")
    x = parts["embedding_dropout"](parts["embedding"](tokens))
    carried = CarriedState(batch_size, _state_sizes(cell), name="carried_state")
    recurrent = keras.layers.RNN(cell, return_sequences=True, return_state=True, name="recurrent")
    x, *states = recurrent(x, initial_state=carried(x))
    x = parts["output_dropout"](parts["regularization"](carried(x, states)))
    return keras.Model(tokens, parts["embedding"](x, reverse=True), name=model.name)


def reset_state(model: keras.Model) -> None:
    """Sets the state that a `carrying` model goes on from to zeros.

    Raises:
        ValueError: `model` carries no state.
    """
    model.get_layer("carried_state").reset()


def step_model(model: keras.Model) -> keras.Model:
    """The model for a phone: one token and the state go in, log-probabilities and state come out.

    Args:
        model: a `ShrinkRNN`, or another `keras_autoshrink.language_models.language_model`.

    Returns:
        A model of the same layers with the inputs `tokens`, int32 of shape (batch, 1), and
        `state_0`, float32 of shape (batch, units), and for a cell of several states `state_1`
        and so on; its outputs, in this order, are the log-probabilities of the token that
        follows, shape (batch, 1, vocabulary), and the new states. A text begins with states of
        zeros. There is no loop in it, so that all quantizations of `tflite_export.convert` do.

    Raises:
        ValueError: `model` is no language model.

    Example:
        >>> phone = step_model(ShrinkRNN(vocabulary_size=100, units=16))
        >>> [tensor.shape for tensor in (*phone.inputs, *phone.outputs)]
        [(None, 1), (None, 16), (None, 1, 100), (None, 16)]
    """
    parts = _parts(model)
    cell = parts["recurrent"].cell
    tokens = keras.Input((1,), dtype="int32", name="tokens")
    sizes = _state_sizes(cell)
    states = [keras.Input((size,), name=f"state_{n}") for n, size in enumerate(sizes)]
    # Not through a layer RNN, which would make masks for dropout, and random numbers in the file.
    x = keras.layers.Reshape((cell.units,))(parts["embedding"](tokens))
    x, new_states = cell(x, states)
    logits = parts["embedding"](keras.layers.Reshape((1, cell.units))(x), reverse=True)
    log_probabilities = keras.layers.Activation("log_softmax", name="log_probabilities")(logits)
    return keras.Model(
        [tokens, *states], [log_probabilities, *new_states], name=f"{model.name}_step"
    )


def _state_sizes(cell: keras.Layer) -> list[int]:
    size = cell.state_size
    return list(size) if isinstance(size, (list, tuple)) else [size]


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a language model that was saved as a `.keras` file, such as `autoshrink train` writes.

    `keras.saving.load_model` does not know the layers of this library before it is loaded.

    Args:
        path: the `.keras` file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: there is no such file, or it holds no model.

    Example:
        >>> ShrinkRNN(vocabulary_size=100, units=16).save("words.keras")
        >>> load_model("words.keras").output_shape
        (None, None, 100)
    """
    return keras.saving.load_model(path, compile=False)


def is_language_model(model: keras.Model) -> bool:
    """Whether a model has the layers of a `language_model`."""
    return {layer.name for layer in model.layers}.issuperset(_PARTS)


def _parts(model: keras.Model) -> dict[str, Any]:
    if not isinstance(model, keras.Model) or not is_language_model(model):
        raise ValueError(
            f"model {getattr(model, 'name', model)!r}: is no language model of this library, "
            f"which has the layers {', '.join(_PARTS)}"
        )
    return {layer.name: layer for layer in model.layers}
