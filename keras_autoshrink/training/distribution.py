"""The devices of a training: `tf.distribute` strategies, and a Keras model that runs on them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_autoshrink.backend import check_tensorflow_backend
from keras_autoshrink.checks import one_of

STRATEGIES = ("none", "mirrored", "multiworker")

Logs = dict[str, tf.Tensor]


def create_strategy(name: str) -> tf.distribute.Strategy:
    """Creates the strategy of a name.

    Args:
        name: `"none"` for the default device; `"mirrored"` for all GPUs of this machine, or its
            CPUs if it has none; `"multiworker"` for the devices of all workers that the
            environment variable TF_CONFIG names, each of which runs this same program; to be
            called before anything else of TensorFlow.

    Raises:
        ValueError: there is no such strategy, or Keras runs on another backend than TensorFlow.
    """
    if one_of("distribution_strategy", name, STRATEGIES) == "none":
        return tf.distribute.get_strategy()
    check_tensorflow_backend(f"distribution_strategy={name!r}")
    if name == "multiworker":
        if "cluster" not in os.environ.get("TF_CONFIG", ""):
            raise ValueError(
                "distribution_strategy='multiworker': the environment variable TF_CONFIG has to "
                "name all workers, and which of them this one is"
            )
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"distribution_strategy='multiworker': TF_CONFIG does not serve: {reason}"
            ) from error
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Says whether this process is the one that writes files; without other workers it is."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (chief, 0)


def agree(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Says whether all workers have the same number; each of them has to call it."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True

    def summed() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce("sum", tf.constant([1.0, number, number**2]))

    reduced = strategy.experimental_local_results(strategy.run(tf.function(summed)))[0].numpy()
    return bool(reduced[0] * reduced[2] == reduced[1] ** 2)


def build_model(strategy: tf.distribute.Strategy, build: Callable[[], keras.Model]) -> keras.Model:
    """Builds a model that trains on all devices; compile and train it in the strategy's scope."""
    with strategy.scope():
        model = build()
    if not isinstance(model, keras.Model):
        return model
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            # By the statistics of the whole step, as one device would: without it workers
            # would end up with moving statistics of their own.
            layer.synchronized = strategy.num_replicas_in_sync > 1
    workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if workers and strategy.extended._in_multi_worker_mode():
        # Keras 3 fails on several workers with a model that was made in the scope, and with
        # logs that have no axis to reduce (its issue 20585). The variables are what has to be
        # made there. (A model around this one would lose what it was compiled with.)
        model._distribute_strategy = None
        for name in ("train_step", "test_step"):
            setattr(model, name, functools.partial(_with_axis, getattr(model, name)))
    return model


def _with_axis(step: Callable[[Any], Logs], data: Any) -> Logs:
    """Runs a step, and gives its metrics an axis for the devices: shape (1, ...)."""
    return {name: tf.expand_dims(value, 0) for name, value in step(data).items()}
