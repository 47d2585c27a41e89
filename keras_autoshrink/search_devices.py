"""The devices that train the candidates of a search, by a `tf.distribute.Strategy`."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import keras_tuner
import tensorflow as tf

from keras_autoshrink import distribution, search_batches
from keras_autoshrink.cluster import Cluster, FollowingOracle, LeadingOracle
from keras_autoshrink.oracle import AutoShrinkOracle

_STRATEGIES = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


class SearchDevices:
    """Builds and trains candidates on the devices of a strategy.

    Args:
        strategy: a MirroredStrategy, MultiWorkerMirroredStrategy or OneDeviceStrategy.
        hypermodel: what is searched; if its attribute `one_device` is true, one device has to
            do.

    Attributes:
        several_workers: whether it is a strategy of several workers.
        follows: whether another worker decides what to train and writes the files.
        seed: of the order of the training data, to be set for each candidate.

    Raises:
        TypeError: it is no strategy.
        ValueError: it is another one, or one of several devices where one has to do.
    """

    def __init__(self, strategy: tf.distribute.Strategy, hypermodel: Any) -> None:
        if not isinstance(strategy, tf.distribute.Strategy):
            raise TypeError(f"distribution_strategy={strategy!r}: give a tf.distribute.Strategy")
        if not isinstance(strategy, _STRATEGIES):
            names = ", ".join(kind.__name__ for kind in _STRATEGIES)
            raise ValueError(
                f"distribution_strategy: is a {type(strategy).__name__}; expected one of {names}"
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
        self._cluster = Cluster(strategy) if distribution.has_workers(strategy) else None
        if self._cluster and "KERASTUNER_ORACLE_IP" in os.environ:
            raise ValueError(
                "distribution_strategy: of several workers; KerasTuner's chief and workers need "
                "one of a single machine each"
            )
        self.several_workers = self._cluster is not None
        self.follows = self._cluster is not None and not self._cluster.chief
        # Of a worker that follows: what KerasTuner and its callbacks write.
        self._scratch = (
            tempfile.TemporaryDirectory(prefix="autoshrink-", ignore_cleanup_errors=True)
            if self.follows
            else None
        )
        self._directory: Any = None

    def oracle(self, **arguments: Any) -> AutoShrinkOracle:
        """The oracle of this worker; arguments as for `AutoShrinkOracle`.

        Raises:
            ValueError: several workers have a time limit.
        """
        if self._cluster is None:
            return AutoShrinkOracle(**arguments)
        if arguments["max_seconds_per_trial"] is not None:
            raise ValueError(
                "max_seconds_per_trial: the workers of a distribution_strategy would not all stop "
                "after the same batch; leave it out"
            )
        oracle = (FollowingOracle if self.follows else LeadingOracle)(**arguments)
        oracle.cluster = self._cluster
        return oracle

    def folder(self, directory: Any) -> Any:
        """Where this worker may write: the directory of the search, unless it follows."""
        self._directory = directory
        return self._scratch.name if self._scratch else directory

    @contextlib.contextmanager
    def searching(self, tuner: keras_tuner.Tuner, search: dict[str, Any]) -> Iterator[None]:
        """Within, the workers search together; afterwards all of them know the result.

        Args:
            tuner: of this worker.
            search: what it is going to do, plain values; it has to be the same for all.

        Raises:
            ValueError: it is not.
        """
        if self._cluster:
            self._cluster.meet(search)
        if self._scratch:
            tuner.directory = self._scratch.name
        try:
            yield
        finally:
            if self._scratch:
                tuner.directory = self._directory or "."  # for get_best_models()

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

    def together(self) -> Any:
        """A context: what fails in it fails on all workers; see `Cluster.together`."""
        return self._cluster.together() if self._cluster else contextlib.nullcontext()
