"""How networks are trained in full: recipes for images and for texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_autoshrink.checks import is_count
from keras_autoshrink.training.averaged_sgd import AveragedSGD

OPTIMIZERS = ("adam", "rmsprop", "sgd")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to images and weights in a training; the learning rate falls along a cosine.

    Attributes:
        optimizer: `"adam"`; `"sgd"` with Nesterov momentum 0.9; or `"rmsprop"` with momentum
            0.9 and epsilon 1.
        learning_rate: at the first step; after the last one it would be 0.
        batch_size: images in a step, over all devices together.
        epochs: how often all images are seen.
        augmentation: what is done to training images at random, in this order: `"padded_crop"`
            shifts by up to an eighth of the sides; `"resized_crop"` resizes a part of 3/4 or more
            of the area; `"horizontal_flip"` mirrors half of them; `"colour_jitter"` changes
            brightness, saturation, hue and contrast (pixels have to be 0 to 255); `"cutout"` sets
            a square of half the height to the mean; `"random_erasing"` fills a rectangle with
            noise in half of them.
        l2: the loss has this times the sum of the squared kernel weights added.
        label_smoothing: share of a label that is spread evenly over all classes.
        ema: momentum of the moving average of the weights that the trained network takes; None
            for the weights of the last step.
        batchnorm_momentum: of the moving statistics of all BatchNorm layers.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Example:
        >>> import dataclasses
        >>> import keras
        >>> recipe = dataclasses.replace(RECIPES["cifar10"], epochs=5)
        >>> type(recipe.build_optimizer(steps=100)).__name__
        'SGD'
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> recipe.regularise(model)
        >>> len(model.losses)  # the penalty on its one kernel
        1
        >>> dataclasses.replace(recipe, l2=-1.0)
        Traceback (most recent call last):
        ValueError: l2=-1.0: expected 0 or more
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    augmentation: tuple[str, ...] = ()
    l2: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    batchnorm_momentum: float = 0.9

    def __post_init__(self) -> None:
        """Checks the values."""
        ema = 0 if self.ema is None else self.ema
        for valid, name, expected in (
            (self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}"),
            (0 < self.learning_rate < math.inf, "learning_rate", "more than 0"),
            (is_count(self.batch_size), "batch_size", "a whole number of 1 or more"),
            (is_count(self.epochs), "epochs", "a whole number of 1 or more"),
            (0 <= self.l2 < math.inf, "l2", "0 or more"),
            (0 <= self.label_smoothing < 1, "label_smoothing", "0 or more and less than 1"),
            (0 <= ema < 1, "ema", "0 or more and less than 1"),
            (0 <= self.batchnorm_momentum < 1, "batchnorm_momentum", "0 or more and less than 1"),
        ):
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def build_optimizer(self, steps: int) -> keras.Optimizer:
        """The optimizer of a training.

        Args:
            steps: number of steps in which the learning rate falls to 0.

        Returns:
            Adam, SGD or RMSprop, with the moving average of the weights if there is to be one.
        """
        common: dict[str, Any] = {
            "learning_rate": keras.optimizers.schedules.CosineDecay(self.learning_rate, steps),
            "use_ema": self.ema is not None,
        }
        if self.ema is not None:
            common["ema_momentum"] = self.ema
        if self.optimizer == "rmsprop":
            # As in the authors' release: with an epsilon of 1 it is close to plain momentum.
            return keras.optimizers.RMSprop(rho=0.9, momentum=0.9, epsilon=1.0, **common)
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
        return keras.optimizers.Adam(**common)

    def regularise(self, model: keras.Model) -> None:
        """Puts the L2 penalty on all kernels of `model`, but not on biases or BatchNorm."""
        if not self.l2:
            return
        for variable in model.trainable_variables:
            if variable.name.endswith("kernel"):
                variable.regularizer = keras.regularizers.L2(self.l2)


RECIPES = {
    # For images about which nothing is known: a digit that is mirrored is no longer one.
    "plain": Recipe("adam", learning_rate=4e-3, batch_size=64, epochs=30),
    "cifar10": Recipe(
        "sgd",
        learning_rate=0.1,
        batch_size=128,
        epochs=200,
        augmentation=("padded_crop", "horizontal_flip", "cutout"),
        l2=2.5e-4,  # Keras has no 1/2 in front: its gradient is that of a weight decay of 5e-4
    ),
    # arXiv 1911.09251; the augmentation and RMSProp's constants are those of its release.
    "imagenet": Recipe(
        "rmsprop",
        learning_rate=0.1,
        batch_size=256,
        epochs=300,
        augmentation=("resized_crop", "horizontal_flip", "colour_jitter", "random_erasing"),
        l2=4e-5,
        label_smoothing=0.1,
        ema=0.999,
        batchnorm_momentum=0.999,
    ),
}


def default_recipe(dataset: str) -> str:
    """The name of the recipe for a data set: its own if there is one, else the plain one."""
    return {"cifar10": "cifar10", "imagenet2012": "imagenet"}.get(dataset, "plain")


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
            from step to step; see `networks.language_model.language_model`, also for
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
        """The arguments of `networks.language_model.language_model`."""
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
