"""How a language model is trained in full: the published way, and one for small texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras

from keras_autoshrink.averaged_sgd import AveragedSGD
from keras_autoshrink.checks import is_count


@dataclasses.dataclass(frozen=True)
class TextRecipe:
    """How a text is read, what regularises the network, and the steps that are taken.

    The text is read in windows by truncated backpropagation through time, and the optimizer is
    SGD. (Merity et al., arXiv 1708.02182, have all of this.)

    Attributes:
        learning_rate: of SGD; it stays the same.
        batch_size: number of parallel streams that the text is read in.
        epochs: how often it is read.
        steps: tokens in a window, through which gradients go back.
        jitter: whether the windows' lengths are drawn anew in each epoch: normally distributed
            with a standard deviation of 5 tokens, around `steps` or, one in twenty, half of it,
            then stretched alike to fill the text. A window's learning rate is then in proportion
            to its length.
        clip_norm: the largest norm of all gradients together.
        weight_decay: in each step all weights shrink by this times the learning rate.
        output_dropout: share of the recurrent layer's output that is dropped.
        recurrent_dropout: share of the cell's state that is dropped, see `ShrinkRNNCell`.
        dropout: share of the cell's input that is dropped, see `ShrinkRNNCell`.
        embedding_dropout: share of the embedded input that is dropped.
        word_dropout: share of the vocabulary's words whose embedding is dropped.
        activation_regularization: weight in the loss of the mean square of how the output changes
            from step to step; see `keras_autoshrink.language_models.language_model`, also for
            the dropouts.
        averaging_window: n: weights are averaged after the first epoch whose validation loss is
            above the lowest of all epochs before it but the last n; None to average none.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Example:
        >>> recipe = TextRecipe(learning_rate=20.0, batch_size=20, epochs=5, output_dropout=0.5)
        >>> type(recipe.build_optimizer()).__name__, recipe.cell_dropouts()
        ('SGD', {'dropout': 0.0, 'recurrent_dropout': 0.0})
        >>> {name: share for name, share in recipe.regularization().items() if share}
        {'output_dropout': 0.5}
        >>> recipe.without_regularization().output_dropout
        0.0
    """

    learning_rate: float
    batch_size: int
    epochs: int
    steps: int = 35
    jitter: bool = False
    clip_norm: float = 0.25
    weight_decay: float = 0.0
    output_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    word_dropout: float = 0.0
    activation_regularization: float = 0.0
    averaging_window: int | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        count, share = "a whole number of 1 or more", "0 or more and less than 1"
        for valid, name, expected in (
            (0 < self.learning_rate < math.inf, "learning_rate", "more than 0"),
            (is_count(self.batch_size), "batch_size", count),
            (is_count(self.epochs), "epochs", count),
            (is_count(self.steps), "steps", count),
            (isinstance(self.jitter, bool), "jitter", "True or False"),
            (0 < self.clip_norm < math.inf, "clip_norm", "more than 0"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "0 or more"),
            (0 <= self.output_dropout < 1, "output_dropout", share),
            (0 <= self.recurrent_dropout < 1, "recurrent_dropout", share),
            (0 <= self.dropout < 1, "dropout", share),
            (0 <= self.embedding_dropout < 1, "embedding_dropout", share),
            (0 <= self.word_dropout < 1, "word_dropout", share),
            (
                0 <= self.activation_regularization < math.inf,
                "activation_regularization",
                "0 or more",
            ),
            (
                self.averaging_window is None or is_count(self.averaging_window),
                "averaging_window",
                f"{count}, or None",
            ),
        ):
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def build_optimizer(self) -> keras.optimizers.SGD:
        """The optimizer of a training: SGD, which also averages the weights if they are to be."""
        kind = keras.optimizers.SGD if self.averaging_window is None else AveragedSGD
        return kind(
            float(self.learning_rate),
            global_clipnorm=float(self.clip_norm),
            weight_decay=float(self.weight_decay) or None,
        )

    def cell_dropouts(self) -> dict[str, float]:
        """The arguments of a recurrent cell, ours or one of Keras's."""
        return {"dropout": self.dropout, "recurrent_dropout": self.recurrent_dropout}

    def regularization(self) -> dict[str, float]:
        """The arguments of `keras_autoshrink.language_models.language_model`."""
        names = (
            "word_dropout",
            "embedding_dropout",
            "output_dropout",
            "activation_regularization",
        )
        return {name: getattr(self, name) for name in names}

    def without_regularization(self) -> TextRecipe:
        """The same without dropout and activation regularisation: for a network that is used."""
        names = (*self.cell_dropouts(), *self.regularization())
        return dataclasses.replace(self, **dict.fromkeys(names, 0.0))


class RateByLength(keras.callbacks.Callback):
    """Sets the learning rate of each window in proportion to its length.

    Args:
        recipe: whose learning rate is for a window of its `steps`.
        lengths_of_epoch: the lengths of the windows of an epoch, counted from 0, in tokens.
    """

    def __init__(
        self, recipe: TextRecipe, lengths_of_epoch: Callable[[int], Sequence[int]]
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self._lengths_of_epoch = lengths_of_epoch
        self._lengths: Sequence[int] = ()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins with the first window; `epoch` counts from 0."""
        self._lengths = self._lengths_of_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the rate; `batch`, the number of the window, counts from 0."""
        scale = self._lengths[batch] / self._recipe.steps
        self.model.optimizer.learning_rate = self._recipe.learning_rate * scale

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the recipe's own rate; `epoch` counts from 0."""
        # What is written of an epoch says what the recipe says.
        self.model.optimizer.learning_rate = self._recipe.learning_rate


TEXT_RECIPES = {
    # For texts of about a hundred thousand words, on a CPU.
    "small": TextRecipe(
        learning_rate=20.0,
        batch_size=20,
        epochs=20,
        output_dropout=0.5,
        recurrent_dropout=0.1,
        dropout=0.3,
        averaging_window=2,
    ),
    # arXiv 1911.09251, for Penn Treebank. It names no number of epochs; this one is of the order
    # that networks searched for on this text have been trained for. (The release of DARTS,
    # arXiv 1806.09055, whose procedure it is, stops at 8,000 at the latest.)
    "ptb": TextRecipe(
        learning_rate=20.0,
        batch_size=64,
        epochs=3600,
        jitter=True,
        weight_decay=8e-7,
        output_dropout=0.75,
        recurrent_dropout=0.25,
        dropout=0.75,
        embedding_dropout=0.2,
        word_dropout=0.1,
        activation_regularization=1e-3,
        averaging_window=5,
    ),
}
