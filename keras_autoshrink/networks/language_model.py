"""ShrinkRNN's language model: for training, for streams of text, for a phone; and its layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_autoshrink.cell import SHRINKRNN_CELL, Cell
from keras_autoshrink.checks import not_negative, positive, share, whole
from keras_autoshrink.networks.rnn import ShrinkRNNCell


def ShrinkRNN(  # noqa: N802 - a model function is named like the model, as in keras.applications
    cell: Cell = SHRINKRNN_CELL,
    vocabulary_size: int = 10_000,
    units: int = 745,
    *,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    input_step: str = "highway",
    use_bias: bool = False,
    forget_bias: float = 0.0,
    normalise: bool = False,
    name: str = "shrinkrnn",
    **regularization: float,
) -> keras.Model:
    """Builds a ShrinkRNN: an embedding, a recurrent cell, and a softmax with the same weights.

    The defaults are the paper's network for Penn Treebank (arXiv 1911.09251): 23,000,700
    parameters and 22,990,700 multiply-accumulates for a token. The weights are random.

    Args:
        cell: the cell; the search finds it, `SHRINKRNN_CELL` is the published one.
        vocabulary_size: number of different tokens; they are 0 to vocabulary_size - 1.
        units: size of the state, and of a token's embedding.
        dropout: share of the cell's input that is dropped in training, see `ShrinkRNNCell`.
        recurrent_dropout: share of the cell's state that is dropped in training.
        input_step: how the cell's node 0 takes its step: "highway", as published, "mgu", "gru" or
            "lstm"; see `ShrinkRNNCell`, also for the next three.
        use_bias: whether the cell's products have a bias.
        forget_bias: by how much the cell's gates keep the old at first.
        normalise: whether states are normalised where they go into a product.
        name: of the model.
        **regularization: further arguments of `language_model`.

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
    recurrent_cell = ShrinkRNNCell(
        cell,
        units,
        dropout,
        recurrent_dropout,
        input_step=input_step,
        use_bias=use_bias,
        forget_bias=forget_bias,
        normalise=normalise,
        name="cell",
    )
    return language_model(recurrent_cell, vocabulary_size, name=name, **regularization)


def language_model(
    recurrent_cell: keras.Layer,
    vocabulary_size: int,
    *,
    word_dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    output_dropout: float = 0.0,
    activation_regularization: float = 0.0,
    embedding_scale: float = 1.0,
    name: str = "language_model",
) -> keras.Model:
    """Builds a language model around a recurrent cell, ours or one of Keras's.

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
        activation_regularization: factor of the mean squared change of the output from step to
            step, which is added to the loss (section 4.6 there).
        embedding_scale: factor of the embeddings where they are looked up; that suits the softmax,
            whose weights they are, may be small for an input (Vaswani et al., arXiv 1706.03762,
            section 3.4, take the square root of the units).
        name: of the model.

    Returns:
        A functional `keras.Model` from tokens of shape (batch, steps), any number of steps, to
        logits of shape (batch, steps, vocabulary_size).

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    vocabulary_size = whole("vocabulary_size", vocabulary_size, 2)
    share("word_dropout", word_dropout)
    share("embedding_dropout", embedding_dropout)
    share("output_dropout", output_dropout)
    not_negative("activation_regularization", activation_regularization)
    positive("embedding_scale", embedding_scale)
    dropout = keras.layers.SpatialDropout1D  # one mask for all steps
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = TiedEmbedding(
        vocabulary_size,
        recurrent_cell.units,
        word_dropout=word_dropout,
        scale=embedding_scale,
        name="embedding",
    )
    x = dropout(embedding_dropout, name="embedding_dropout")(embedding(tokens))
    x = keras.layers.RNN(recurrent_cell, return_sequences=True, name="recurrent")(x)
    x = TemporalActivationRegularization(activation_regularization, name="regularization")(x)
    x = dropout(output_dropout, name="output_dropout")(x)
    return keras.Model(tokens, embedding(x, reverse=True), name=name)


def carrying(model: keras.Model, batch_size: int, steps: int | None = None) -> keras.Model:
    """Builds a model that begins each batch with the state that the batch before left.

    For truncated backpropagation through time: of the same layers, from tokens (batch_size, steps)
    to logits. Begin a stream of text with `reset_state(model)`.

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
    """Sets the state of a `carrying` model to zeros."""
    model.get_layer("carried_state").reset()


def step_model(model: keras.Model) -> keras.Model:
    """Builds the model for a phone: a token and a state in, log-probabilities and a state out.

    Args:
        model: a `ShrinkRNN`, or another `language_model`.

    Returns:
        A model of the same layers with the inputs `tokens`, int32 of shape (batch, 1), and
        `state_0`, float32 of shape (batch, units), and for a cell of several states `state_1`
        and so on; its outputs, in this order, are the log-probabilities of the token that
        follows, shape (batch, 1, vocabulary), and the new states. A text begins with states of
        zeros. The model has no loop, so all quantizations of `tflite_export.convert` take it.

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


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a language model from a `.keras` file, such as `autoshrink train` writes.

    `keras.saving.load_model` does not know this library's layers before the library is imported.

    Args:
        path: the `.keras` file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: there is no such file, or it is no model.

    Example:
        >>> ShrinkRNN(vocabulary_size=100, units=16).save("words.keras")
        >>> load_model("words.keras").output_shape
        (None, None, 100)
    """
    return keras.saving.load_model(path, compile=False)


_PARTS = ("embedding", "embedding_dropout", "recurrent", "regularization", "output_dropout")


def is_language_model(model: keras.Model) -> bool:
    """Tells whether a model has the layers of a `language_model`."""
    return {layer.name for layer in model.layers}.issuperset(_PARTS)


def _parts(model: keras.Model) -> dict[str, Any]:
    """Returns the layers of a language model by their names, or raises the ValueError."""
    if not isinstance(model, keras.Model) or not is_language_model(model):
        raise ValueError(
            f"model {getattr(model, 'name', model)!r}: is no language model of this library, "
            f"which has the layers {', '.join(_PARTS)}"
        )
    return {layer.name: layer for layer in model.layers}


def _state_sizes(cell: keras.Layer) -> list[int]:
    size = cell.state_size
    return list(size) if isinstance(size, (list, tuple)) else [size]


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class TiedEmbedding(keras.layers.Layer):
    """An embedding whose transpose, with a bias, is the softmax layer (arXiv 1608.05859).

    `embedding(tokens)` looks tokens up, `embedding(x, reverse=True)` returns logits. (Keras's
    `ReversibleEmbedding` has no bias, and one added to it would be missing in saved models.)

    Args:
        input_dim: number of different tokens.
        output_dim: size of an embedding.
        word_dropout: share of the words that are dropped wherever they occur in a batch of
            training; the others are scaled up (arXiv 1708.02182, section 4.3).
        scale: factor of what is looked up.
        **kwargs: as for every Keras layer.

    Call arguments:
        inputs: tokens, integers of shape (batch, steps), or in reverse numbers of shape
            (batch, steps, output_dim).
        reverse: whether to return logits, of shape (batch, steps, input_dim), rather than
            embeddings, of shape (batch, steps, output_dim).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        word_dropout: float = 0.0,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.word_dropout = word_dropout
        self.scale = scale
        self._initializer = keras.initializers.RandomUniform(-0.1, 0.1)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any = None) -> None:
        """Makes the embeddings, (input_dim, output_dim), and the softmax's bias, (input_dim,)."""
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self._initializer,
            name="embeddings",
        )
        self.bias = self.add_weight(shape=(self.input_dim,), initializer="zeros", name="bias")

    def call(self, inputs: Any, reverse: bool = False, training: bool = False) -> Any:
        """Looks embeddings up, or in reverse computes logits."""
        if reverse:
            if training:  # this form's gradient takes less time than the other's
                kernel = keras.ops.transpose(self.embeddings)
                return keras.ops.matmul(inputs, kernel) + self.bias
            # A converted file would hold the transpose beside the embeddings.
            return keras.ops.einsum("btd,vd->btv", inputs, self.embeddings) + self.bias
        outputs = keras.ops.take(self.embeddings, inputs, axis=0)
        if self.scale != 1:
            outputs = outputs * self.scale
        if training and self.word_dropout:
            kept = keras.random.dropout(
                keras.ops.ones((self.input_dim, 1)), self.word_dropout, seed=self.seed_generator
            )
            outputs = outputs * keras.ops.take(kept, inputs, axis=0)
        return outputs

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        """Counts the multiply-accumulates of a sequence: looking up tokens takes none."""
        if len(input_shape) < 3:
            return 0
        return int(input_shape[1] or 0) * self.output_dim * self.input_dim

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain values."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "word_dropout": self.word_dropout,
            "scale": self.scale,
        }


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class TemporalActivationRegularization(keras.layers.Layer):
    """A penalty on how much a sequence changes from step to step (arXiv 1708.02182, 4.6).

    Args:
        factor: of the penalty, the mean of (x_t - x_(t-1)) ** 2 over a batch.
        **kwargs: as for every Keras layer.
    """

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Adds the penalty to the loss; returns `inputs`, of shape (batch, steps, features)."""
        if training and self.factor:
            change = inputs[:, 1:] - inputs[:, :-1]
            # Not their mean, which is NaN where there is one step, and no change.
            count = keras.ops.cast(keras.ops.maximum(keras.ops.size(change), 1), change.dtype)
            self.add_loss(self.factor * keras.ops.sum(keras.ops.square(change)) / count)
        return inputs

    def count_macs(self, input_shape: Any) -> int:
        """Returns 0: a penalty is for training."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain values."""
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class CarriedState(keras.layers.Layer):
    """The states that a recurrent layer carries from one batch to the next.

    `carried(x)` returns the states, to go into the recurrent layer; `carried(y, new_states)`
    keeps those that came out of it, and returns y. (A layer that is `stateful` does the same, but
    not on JAX, where Keras forgets its states after each batch.)

    Args:
        batch_size: number of sequences in every batch.
        sizes: of the states.
        **kwargs: as for every Keras layer.

    Attributes:
        states: a variable of shape (batch_size, size) each; they are no parameters of the model.
    """

    carries_state = True  # for `count_params`

    def __init__(self, batch_size: int, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_size = batch_size
        self.sizes = list(sizes)

    def build(self, input_shape: Any) -> None:
        """Makes the states, zeros."""
        self.states = [
            self.add_weight(
                shape=(self.batch_size, size),
                initializer="zeros",
                trainable=False,
                name=f"state_{number}",
            )
            for number, size in enumerate(self.sizes)
        ]

    def call(self, inputs: Any, new_states: Sequence[Any] | None = None) -> Any:
        """Returns the states, or keeps new ones."""
        if new_states is None:
            # Copies, as these must not change when the new states are assigned.
            return [keras.ops.copy(state.value) for state in self.states]
        for state, new_state in zip(self.states, new_states, strict=True):
            state.assign(new_state)
        return inputs

    def reset(self) -> None:
        """Sets the states to zeros."""
        for state in self.states:
            state.assign(keras.ops.zeros(state.shape))

    def count_macs(self, input_shape: Any) -> int:
        """Returns 0: nothing is multiplied."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain values."""
        return {**super().get_config(), "batch_size": self.batch_size, "sizes": self.sizes}
