"""The devices of a training: `tf.distribute` strategies by name."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker")


def scope(name: str, batch_size: int) -> contextlib.AbstractContextManager[object]:
    """The scope in which to build and compile a model that is trained on several devices.

    Args:
        name: `"none"` for the default device; `"mirrored"` for all GPUs of this machine, or its
            CPU if it has none; `"multiworker"` for the devices of all workers that the
            environment variable TF_CONFIG names, each of which runs this same program.
        batch_size: images in a step, over all devices together.

    Raises:
        ValueError: there is no such strategy, Keras runs on another backend than TensorFlow, or
            there are more devices than images in a step.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r}: expected one of {', '.join(STRATEGIES)}")
    if name == "none":
        return contextlib.nullcontext()
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(f"strategy={name!r}: needs Keras's TensorFlow backend, this is {backend}")
    if name == "mirrored":
        strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("GPU") or None)
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if batch_size < strategy.num_replicas_in_sync:
        raise ValueError(
            f"batch_size={batch_size}: less than one image for each of the "
            f"{strategy.num_replicas_in_sync} devices"
        )
    return strategy.scope()
