"""A trained network and its ``.tflite`` files, which the tests of tflite_export share.

They are made once for all processes of a test run, each when a test first asks for it.
"""

import functools
import os

import keras
import numpy as np
import pytest
from filelock import FileLock
from keras import layers
from sklearn.datasets import load_digits

import tflite_export
from keras_autoshrink.training.step import accelerate
from tflite_export.__main__ import main

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
CHANNELS = 40  # so that the 1x1 convolution has enough weights for "dynamic"
MACS = 8 * 8 * 9 * CHANNELS + 4 * 4 * (9 * CHANNELS + CHANNELS * CHANNELS) + CHANNELS * 10
SIZE = 8  # pixels


def network():
    inputs = keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.SeparableConv2D(CHANNELS, 3, padding="same", use_bias=False)(
        layers.MaxPooling2D()(x)
    )
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def with_weights(model, change):
    """A copy of a model, its weights changed."""
    other = keras.models.clone_model(model)
    other.set_weights([change(weight) for weight in model.get_weights()])
    return other


class Exported:
    """The network, its images, and its file in each mode."""

    def __init__(self, folder):
        self._folder = folder
        self._lock = FileLock(folder / "lock", timeout=240)
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).reshape(-1, SIZE, SIZE, 1).astype("float32")
        self.train = images[:1500], labels[:1500]
        self.test = images[1500:], labels[1500:]

    @property
    def keras_path(self):
        path = self._folder / "model.keras"
        with self._lock:
            if not path.exists():
                keras.utils.set_random_seed(0)
                model = network()
                loss = "sparse_categorical_crossentropy"
                model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
                accelerate(model)  # Keras's own step takes longer to be traced
                model.fit(*self.train, batch_size=50, epochs=7, verbose=0)
                model.save(path)
        return path

    @functools.cached_property
    def model(self):
        return keras.saving.load_model(self.keras_path)

    def path(self, mode="float32"):
        path = self._folder / f"{mode}.tflite"
        model = self.model
        with self._lock:
            if not path.exists():
                tflite_export.convert(model, path, mode, self.train[0][:100])
        return path

    @property
    def nan_path(self):
        """The file of the network with NaN for all weights."""
        path = self._folder / "nan.tflite"
        broken = with_weights(self.model, lambda weight: np.full_like(weight, np.nan))
        with self._lock:
            if not path.exists():
                tflite_export.convert(broken, path)
        return path


def made_once(tmp_path_factory):
    """The files of this run: xdist's processes have their folders in one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    folder.mkdir(exist_ok=True)
    return Exported(folder)


def refusal(capfd, command, status=2, printed=""):
    """The one line on standard error in which a command ends, without its beginning."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(command if isinstance(command, list) else command.split())
    assert exit_.value.code == status
    output = capfd.readouterr()
    assert printed in output.out if printed else output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("tflite_export: error: ")
    return output.err.removeprefix("tflite_export: error: ").rstrip("\n")
