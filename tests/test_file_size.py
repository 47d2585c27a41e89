"""A budget of bytes: what is solved for it, and the files that come of it."""

import keras_tuner
import numpy as np
import pytest

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.costs.file_size import count_file_bytes
from keras_autoshrink.networks.references import REFERENCES, solve_reference

KB = 24
SHAPE = (12, 12, 1)


def found():
    """A network that a search draws, with a convolution of each kind."""
    hypermodel = kas.CNNCellHyperModel(SHAPE, classes=5, num_nodes=3, target_kb=KB)
    hp = keras_tuner.HyperParameters()
    hp.values = {"stage2_cells": 1, "stage3_cells": 0, "squeeze_excite": 1, "activation": "silu"}
    hp.values |= {"cell/op_1": "mbconv3x3", "cell/op_2": "sepconv3x3", "hidden_scale": 1.0}
    return hypermodel.network(hp).build()


def reference(name):
    _, arguments = solve_reference(name, SHAPE, 5, KB * 1_000, count_file_bytes, "target_kb")
    return REFERENCES[name].build(**arguments)


@pytest.mark.parametrize("name", ["found", "chain", "resnet8", "separable-residual"])
def test_a_file_has_the_bytes_of_the_budget(name, tmp_path):
    generator = np.random.default_rng(0)
    model = found() if name == "found" else reference(name)
    for weight in model.weights:  # as if trained: biases of 0 would be left out
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    images = generator.random((4, *SHAPE), "float32")
    path = tflite_export.convert(model, tmp_path / f"{name}.tflite", "int8", images)
    assert 0.95 * KB <= path.stat().st_size / 1_000 <= KB
