"""Recipes: how networks are trained in full on images and on texts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_autoshrink.checks import instance, not_negative, one_of, positive, share, whole
from keras_autoshrink.training.averaged_sgd import AveragedSGD

OPTIMIZERS = ("adam", "rmsprop", "sgd")
SCHEDULES = ("cosine", "one_cycle")

# Checks a value by its name, and returns it as a plain number.
_Check = Callable[[str, Any], Any]

_count = functools.partial(whole, least=1)


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


def _check(recipe: Recipe | TextRecipe, **checks: _Check) -> None:
    """Sets each value of a recipe to what its check makes of it."""
    for name, check in checks.items():
        object.__setattr__(recipe, name, check(name, getattr(recipe, name)))


# One cycle begins with this share of the highest learning rate, and rises in this share of steps.
_START, _RISE = 0.15, 0.2


class OneCycleDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak, then falls linearly to 0.

    It begins with 15% of the peak and rises in the first fifth of the steps (after Smith and Topin,
    "Super-convergence", arXiv 1708.07120).

    Args:
        peak: the highest learning rate.
        steps: of the training.
    """

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        done = keras.ops.cast(step, "float32") / self.steps
        return self.peak * keras.ops.maximum(
            keras.ops.minimum(_START + (1 - _START) / _RISE * done, (1 - done) / (1 - _RISE)), 0.0
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"peak": self.peak, "steps": self.steps}


def one_cycle(done: float) -> float:
    """Returns the share of the peak that `OneCycleDecay` has when a share of the steps is done."""
    return max(min(_START + (1 - _START) / _RISE * done, (1 - done) / (1 - _RISE)), 0.0)


def decaying(optimizer: keras.Optimizer, weight_decay: float) -> keras.Optimizer:
    """Lets an optimizer that has not begun decay kernels, but not biases or BatchNorm."""
    if weight_decay:
        optimizer.weight_decay = weight_decay
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training of an image classifier.

    Attributes:
        optimizer: `"adam"`; `"sgd"` with Nesterov momentum 0.9; or `"rmsprop"` with momentum
            0.9 and epsilon 1.
        learning_rate: the highest.
        batch_size: images in a step, over all devices together.
        epochs: how often all images are seen.
        augmentation: what is done to training images at random, in this order: `"padded_crop"`
            shifts by up to an eighth of the sides, zeros move in; `"shift"` shifts by up to a
            sixteenth, the mirrored border moves in; `"resized_crop"` resizes a part of 3/4 or more
            of the area; `"horizontal_flip"` mirrors half of them; `"colour_jitter"` changes
            brightness, saturation, hue and contrast (pixels have to be 0 to 255); `"cutout"` sets
            a square of half the height to the mean; `"random_erasing"` fills a rectangle with
            noise in half of them.
        l2: the loss has this times the sum of the squared kernel weights added.
        weight_decay: in each step kernels lose this share of themselves, times the learning rate
            (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101).
        label_smoothing: share of a label that is spread evenly over all classes.
        ema: momentum of the moving average of the weights that the trained network takes; None
            for the weights of the last step.
        batchnorm_momentum: of the moving statistics of all BatchNorm layers.
        schedule: how the learning rate goes: `"cosine"` falls from the first step on, along a
            cosine; `"one_cycle"` rises in the first fifth of the steps, then falls linearly, which
            suits trainings of few epochs. Both end with 0.

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
        ValueError: l2=-1.0: expected a number of 0 or more
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    augmentation: tuple[str, ...] = ()
    l2: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    batchnorm_momentum: float = 0.9
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        _check(
            self,
            optimizer=functools.partial(one_of, expected=OPTIMIZERS),
            learning_rate=positive,
            batch_size=_count,
            epochs=_count,
            l2=not_negative,
            weight_decay=not_negative,
            label_smoothing=share,
            ema=_or_none(share),
            batchnorm_momentum=share,
            schedule=functools.partial(one_of, expected=SCHEDULES),
        )

    def build_optimizer(self, steps: int) -> keras.Optimizer:
        """Builds the optimizer of a training.

        Args:
            steps: number of steps at whose end the learning rate is 0.

        Returns:
            Adam, SGD or RMSprop, with the moving average of the weights if there is to be one.
        """
        schedule = keras.optimizers.schedules.CosineDecay
        if self.schedule == "one_cycle":
            schedule = OneCycleDecay
        common: dict[str, Any] = {
            "learning_rate": schedule(self.learning_rate, steps),
            "use_ema": self.ema is not None,
        }
        if self.ema is not None:
            common["ema_momentum"] = self.ema
        if self.optimizer == "rmsprop":
            # As in the authors' release: with an epsilon of 1 it is close to plain momentum.
            made = keras.optimizers.RMSprop(rho=0.9, momentum=0.9, epsilon=1.0, **common)
        elif self.optimizer == "sgd":
            made = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
        else:
            made = keras.optimizers.Adam(**common)
        return decaying(made, self.weight_decay)

    def regularise(self, model: keras.Model) -> None:
        """Puts the L2 penalty on all kernels of `model`, but not on biases or BatchNorm."""
        if not self.l2:
            return
        for variable in model.trainable_variables:
            if variable.name.endswith("kernel"):
                variable.regularizer = keras.regularizers.L2(self.l2)


# For small networks that are to be trained in minutes, much as a search at a budget trains them.
# By small shifts: padded crops cost a point of accuracy in so few epochs.
_SHORT = Recipe(
    "adam",
    learning_rate=0.02,
    batch_size=128,
    epochs=8,
    weight_decay=0.02,
    label_smoothing=0.1,
    schedule="one_cycle",
)

RECIPES = {
    # For images about which nothing is known: a digit that is mirrored is no longer one.
    "plain": Recipe("adam", learning_rate=4e-3, batch_size=64, epochs=30),
    "short": _SHORT,
    "photos": dataclasses.replace(_SHORT, augmentation=("shift", "horizontal_flip")),
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


def default_recipe(dataset: str, at_budget: bool = False) -> str:
    """Names the recipe for a data set: its own if there is one, else the plain one.

    Args:
        dataset: name or path.
        at_budget: whether the network was found at a budget, and is trained as it was there.
    """
    if at_budget:
        return "photos" if has_photographs(dataset) else "short"
    return {"cifar10": "cifar10", "imagenet2012": "imagenet"}.get(dataset, "plain")


def has_photographs(dataset: str) -> bool:
    """Tells whether images are taken for photographs, which may be mirrored: those of folders."""
    return dataset in ("cifar10", "imagenet2012") or Path(dataset).is_dir()


@dataclasses.dataclass(frozen=True)
class TextRecipe:
    """A training of a language model: how a text is read, what regularises, and the steps.

    The text is read in windows by truncated backpropagation through time. (Merity et al., arXiv
    1708.02182, have all of this, with SGD.)

    Attributes:
        learning_rate: of SGD, or of Adam; with a schedule the highest.
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
            from step to step; see `networks.language_model.language_model`, also for the dropouts.
        averaging_window: n: weights are averaged after the first epoch whose validation loss is
            above the lowest of all epochs before it but the last n; None to average none. With SGD
            at a constant rate only.
        optimizer: `"sgd"` or `"adam"`.
        schedule: how the learning rate goes: `"constant"`, or `"one_cycle"`, which rises in the
            first fifth of the steps, then falls linearly to 0; not with `jitter`.

    Raises:
        TypeError: `jitter` is not True or False.
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
    optimizer: str = "sgd"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        _check(
            self,
            optimizer=functools.partial(one_of, expected=("adam", "sgd")),
            schedule=functools.partial(one_of, expected=("constant", "one_cycle")),
            learning_rate=positive,
            batch_size=_count,
            epochs=_count,
            steps=_count,
            clip_norm=positive,
            weight_decay=not_negative,
            output_dropout=share,
            recurrent_dropout=share,
            dropout=share,
            embedding_dropout=share,
            word_dropout=share,
            activation_regularization=not_negative,
            averaging_window=_or_none(_count),
        )
        instance("jitter", self.jitter, bool)
        if self.jitter and self.schedule != "constant":
            raise ValueError(f"schedule={self.schedule!r}: with jitter it has to be 'constant'")
        if self.averaging_window and (self.optimizer, self.schedule) != ("sgd", "constant"):
            raise ValueError(
                f"averaging_window={self.averaging_window}: is for SGD at a constant rate; with "
                f"optimizer={self.optimizer!r} and schedule={self.schedule!r} it has to be None"
            )

    def build_optimizer(self, steps: int | None = None) -> keras.Optimizer:
        """Builds the optimizer of a training.

        Args:
            steps: number of steps at whose end the learning rate of one cycle is 0; a constant one
                needs none.

        Returns:
            SGD, AveragedSGD if weights are to be averaged, or Adam.
        """
        kind = keras.optimizers.SGD if self.averaging_window is None else AveragedSGD
        if self.optimizer == "adam":
            kind = keras.optimizers.Adam
        rate = self.learning_rate
        if self.schedule == "one_cycle":
            rate = OneCycleDecay(rate, whole("steps", steps, 1))
        return kind(
            rate,
            global_clipnorm=self.clip_norm,
            weight_decay=self.weight_decay or None,
        )

    def cell_dropouts(self) -> dict[str, float]:
        """Returns the dropouts as arguments of a recurrent cell, ours or one of Keras's."""
        return {"dropout": self.dropout, "recurrent_dropout": self.recurrent_dropout}

    def regularization(self) -> dict[str, float]:
        """Returns what regularises as arguments of `networks.language_model.language_model`."""
        names = (
            "word_dropout",
            "embedding_dropout",
            "output_dropout",
            "activation_regularization",
        )
        return {name: getattr(self, name) for name in names}

    def without_regularization(self) -> TextRecipe:
        """Returns the recipe without what regularises, to build a network that is used."""
        names = (*self.cell_dropouts(), *self.regularization())
        return dataclasses.replace(self, **dict.fromkeys(names, 0.0))


TEXT_RECIPES = {
    # For small networks that are to be trained in minutes, as a search at a budget trains them.
    "short": TextRecipe(
        learning_rate=0.01,
        batch_size=20,
        epochs=20,
        output_dropout=0.5,
        recurrent_dropout=0.1,
        dropout=0.3,
        optimizer="adam",
        schedule="one_cycle",
    ),
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
