"""How a network is trained in full: the published way, and ways for smaller data sets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from keras_autoshrink.checks import is_count

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
