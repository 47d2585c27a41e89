"""The devices that train the candidates of a search, by a `tf.distribute.Strategy`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_autoshrink import distribution, search_batches

_STRATEGIES = (
    tf.distribute.MirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


class SearchDevices:
    """Builds and trains candidates on the devices of a strategy.

    Args:
        strategy: a MirroredStrategy or OneDeviceStrategy.
        hypermodel: what is searched; if its attribute `one_device` is true, one device has to
            do.

    Attributes:
        seed: of the order of the training data, to be set for each candidate.

    Raises:
        TypeError: it is no strategy.
        ValueError: it is another one, or one of several devices where one has to do.
    """

    def __init__(self, strategy: tf.distribute.Strategy, hypermodel: Any) -> None:
        if not isinstance(strategy, tf.distribute.Strategy):
            raise TypeError(f"distribution_strategy={strategy!r}: give a tf.distribute.Strategy")
        if not isinstance(strategy, _STRATEGIES):
            names = " or ".join(kind.__name__ for kind in _STRATEGIES)
            raise ValueError(
                f"distribution_strategy: is a {type(strategy).__name__}; expected a {names} (for "
                "several machines give each a worker of the search)"
            )
        self._replicas = strategy.num_replicas_in_sync
        if self._replicas > 1 and getattr(hypermodel, "one_device", False):
            raise ValueError(
                f"distribution_strategy: has {self._replicas} devices; a "
                f"{type(hypermodel).__name__} is searched on one"
            )
        self.strategy = strategy
        self.seed = 0
        self._fits = 0

    def build(self, build: Callable[[], keras.Model]) -> keras.Model:
        """A candidate on these devices, whose `fit` shares the batches among them.

        Args:
            build: makes a compiled model.
        """
        model = distribution.build_model(self.strategy, build)
        if not isinstance(model, keras.Model):
            return model  # KerasTuner says what is wrong with it
        fit = model.fit

        def fit_on_devices(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(fit).bind_partial(*args, **kwargs).arguments
            # Another order for each execution of a trial.
            seed = self.seed + self._fits * 2**31
            self._fits += 1
            with self.strategy.scope(), warnings.catch_warnings():
                if not given.get("steps_per_epoch"):
                    # An epoch that has ended: which batches are left out is not known before.
                    warnings.filterwarnings("ignore", "Your input ran out of data")
                return fit(**search_batches.prepare(given, self._replicas, seed))

        # Here rather than in the tuner: a HyperModel.fit of one's own goes on seeing arrays.
        model.fit = fit_on_devices
        return model

    def candidate(self, seed: int) -> None:
        """Begins a candidate.

        Args:
            seed: of the order of its training data, 0 to 2**31 - 1.
        """
        self.seed = seed
        self._fits = 0
