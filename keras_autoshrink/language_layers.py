"""The layers of a language model that Keras has not got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


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
        initializer: of the embeddings; by default uniform from -0.1 to 0.1.
        seed: of the dropout.
        **kwargs: as for every Keras layer.

    Call arguments:
        inputs: tokens, integers of shape (batch, steps), or in reverse numbers of shape
            (batch, steps, output_dim).
        reverse: whether to return logits, (batch, steps, input_dim), and not embeddings,
            (batch, steps, output_dim).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        word_dropout: float = 0.0,
        initializer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.word_dropout = word_dropout
        self.initializer = keras.initializers.get(
            initializer or keras.initializers.RandomUniform(-0.1, 0.1)
        )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any = None) -> None:
        """Makes the embeddings, (input_dim, output_dim), and the softmax's bias, (input_dim,)."""
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.initializer,
            name="embeddings",
        )
        self.bias = self.add_weight(shape=(self.input_dim,), initializer="zeros", name="bias")

    def call(self, inputs: Any, reverse: bool = False, training: bool = False) -> Any:
        """Looks up, or in reverse multiplies."""
        if reverse:
            if training:  # the gradient of this form takes less time than that of the other
                kernel = keras.ops.transpose(self.embeddings)
                return keras.ops.matmul(inputs, kernel) + self.bias
            # A converted file would hold the transpose beside the embeddings.
            return keras.ops.einsum("btd,vd->btv", inputs, self.embeddings) + self.bias
        outputs = keras.ops.take(self.embeddings, inputs, axis=0)
        if training and self.word_dropout:
            kept = keras.random.dropout(
                keras.ops.ones((self.input_dim, 1)), self.word_dropout, seed=self.seed_generator
            )
            outputs = outputs * keras.ops.take(kept, inputs, axis=0)
        return outputs

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        """The multiply-accumulates for one sample of steps: looking up tokens takes none."""
        if len(input_shape) < 3:
            return 0
        return int(input_shape[1] or 0) * self.output_dim * self.input_dim

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain values."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "word_dropout": self.word_dropout,
            "initializer": keras.initializers.serialize(self.initializer),
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class TemporalActivationRegularization(keras.layers.Layer):
    """Adds to the loss how much a sequence changes from step to step (arXiv 1708.02182, 4.6).

    Args:
        factor: of the mean of (x_t - x_(t-1)) ** 2, over all of a batch.
        **kwargs: as for every Keras layer.
    """

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns `inputs`, of shape (batch, steps, features), unchanged."""
        if training and self.factor:
            change = inputs[:, 1:] - inputs[:, :-1]
            # Not their mean, which is NaN where there is one step, and no change.
            count = keras.ops.cast(keras.ops.maximum(keras.ops.size(change), 1), change.dtype)
            self.add_loss(self.factor * keras.ops.sum(keras.ops.square(change)) / count)
        return inputs

    def count_macs(self, input_shape: Any) -> int:
        """None: it looks at what is there."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain values."""
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="keras_autoshrink")
class CarriedState(keras.layers.Layer):
    """What a recurrent layer carries from one batch to the next.

    `carried(x)` returns the states, which go into the recurrent layer; `carried(y, new_states)`
    notes what came out of it, and returns y. (A layer that is `stateful` does the same, but not
    on JAX, where Keras forgets its states after each batch.)

    Args:
        batch_size: number of sequences in every batch.
        sizes: of the states.
        **kwargs: as for every Keras layer.

    Attributes:
        states: a variable of shape (batch_size, size) for each; not parameters of the model.
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
        """Returns the states, or takes new ones."""
        if new_states is None:
            # Copies: what is handed out must not change when the new states come.
            return [keras.ops.copy(state.value) for state in self.states]
        for state, new_state in zip(self.states, new_states, strict=True):
            state.assign(new_state)
        return inputs

    def reset(self) -> None:
        """Sets the states to zeros."""
        for state in self.states:
            state.assign(keras.ops.zeros(state.shape))

    def count_macs(self, input_shape: Any) -> int:
        """None."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain values."""
        return {**super().get_config(), "batch_size": self.batch_size, "sizes": self.sizes}
