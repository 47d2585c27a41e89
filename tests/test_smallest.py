"""The smallest file that is accurate enough: which is taken, and what is said of the others."""

import dataclasses
import os

import keras
import numpy as np
import pytest
from keras import layers

from tflite_export import NoModeHoldsError, convert, convert_smallest, describe, verify
from tflite_export.__main__ import main

SAMPLES = 200
INTEGERS = {"int8", "int16x8"}


def images_of(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 4, 4, 2)).astype("float32")


def labels_of(images):
    """Which of two halves is the brighter, in the second channel."""
    return (images[:, :2, :, 1].sum((1, 2)) < images[:, 2:, :, 1].sum((1, 2))).astype("int64")


def network(scale=1.0):
    """A network that is right, of which one channel's activations are `scale` times the other's.

    All channels of an activation have one range. At a scale of thousands 8 bits leave nothing of
    the small channel, by which the network decides; 16 bits leave enough. All its layers are too
    small for "dynamic" to touch them, so that int8 makes the smallest file.
    """
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, use_bias=False, name="scaled")(inputs)
    x = layers.DepthwiseConv2D(1, use_bias=False, name="unscaled")(x)
    x = layers.Dense(30, activation="relu", use_bias=False, name="halves")(layers.Flatten()(x))
    for _ in range(4):
        x = layers.Dense(30, activation="relu", kernel_initializer="identity")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="classes")(x))
    halves = np.zeros((4, 4, 2, 30), np.float32)
    halves[:2, :, 1, ::2] = halves[2:, :, 1, 1::2] = 1
    halves[2:, :, 1, ::2] = halves[:2, :, 1, 1::2] = -1
    classes = np.zeros((30, 2), np.float32)
    classes[::2, 0] = classes[1::2, 1] = 1
    model.get_layer("scaled").set_weights([np.diag([scale, 1]).reshape(1, 1, 2, 2)])
    model.get_layer("unscaled").set_weights([np.array([1 / scale, 1]).reshape(1, 1, 2, 1)])
    model.get_layer("halves").set_weights([halves.reshape(32, 30)])
    model.get_layer("classes").set_weights([classes])
    return model


def chosen(model, path, drop=0.01, data=None):
    images = images_of(1)
    return convert_smallest(model, path, images, labels_of(images), drop, data)


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    """The choice for a network that any mode computes well enough."""
    return chosen(network(), tmp_path_factory.mktemp("easy") / "m.tflite", 0.03, images_of(0))


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """The choice for a network that 8-bit activations cannot carry."""
    return chosen(network(2000.0), tmp_path_factory.mktemp("h") / "m.tflite", 0.03, images_of(0))


def test_print(easy, hard):
    for one in (easy, hard):
        for mode in one.modes:
            print(mode)
