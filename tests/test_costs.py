"""Counts of whole models, against numbers worked out by hand and published tables."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from cost_models import Subclassed, model_of
from keras import layers, ops

from keras_autoshrink.costs import count_macs, count_params


def test_shared_layer_counts_at_every_call() -> None:
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    small = conv(layers.MaxPooling2D()(conv(inputs)))
    assert count_macs(keras.Model(inputs, small)) == (64 + 16) * 9 * 3 * 3
    # The rest of a layer's calls belong to other models.
    assert count_macs(keras.Model(inputs, conv(inputs))) == 64 * 9 * 3 * 3


def test_nested_models() -> None:
    dense = layers.Dense(5)
    inner = keras.Sequential([keras.Input((5,)), dense, layers.Dense(4)])
    middle_in = keras.Input((5,))
    middle = keras.Model(middle_in, inner(dense(middle_in)))
    outer = keras.Sequential([keras.Input((5,)), layers.ReLU(), middle, layers.Dense(2)])
    assert count_macs(inner) == 25 + 20
    assert count_macs(middle) == 25 + 25 + 20
    assert count_macs(outer) == 25 + 25 + 20 + 8
    x = keras.Input((5,))
    assert count_macs(keras.Model(x, middle(x) + middle(x * 2.0))) == 2 * 70


def test_nested_model_at_another_size() -> None:
    inner = model_of(layers.Conv2D(4, 3, padding="same"), (None, None, 3))
    inputs = keras.Input((8, 8, 3))
    outputs = inner(layers.MaxPooling2D()(inner(inputs)[..., :3]))
    assert count_macs(keras.Model(inputs, outputs)) == (64 + 16) * 9 * 3 * 4


def test_several_inputs_and_outputs() -> None:
    a, b = keras.Input((None, 5), name="a"), keras.Input((4,), name="b")
    macs = 6 * 5 * 2 + 4 * 3
    outputs = {"x": layers.Dense(2)(a), "y": layers.Dense(3)(b)}
    listed = keras.Model([a, b], outputs)
    named = keras.Model({"b": b, "a": a}, outputs)
    for model in (listed, named):
        assert count_macs(model, [(6, 5), (4,)]) == macs
        assert count_macs(model, {"b": (4,), "a": (6, 5)}) == macs
        c = keras.Input((6, 5))
        nested = keras.Model([c, b], model({"a": c, "b": b}))
        assert count_macs(nested) == macs


def test_input_shape_overrides() -> None:
    model = model_of(layers.Conv2D(4, 3, padding="same"), (8, 8, 3))
    assert count_macs(model) == 64 * 9 * 3 * 4
    assert count_macs(model, (16, 16, 3)) == 256 * 9 * 3 * 4
    assert count_macs(model, [np.int64(16), 16, 3]) == 256 * 9 * 3 * 4
    assert count_macs(model, [(16, 16, 3)]) == 256 * 9 * 3 * 4
    tokens = keras.Sequential(
        [keras.Input((None,)), layers.Embedding(9, 5), layers.GlobalAveragePooling1D()]
    )
    tokens.add(layers.Dense(3))
    assert count_macs(tokens) == 15  # The open dimension costs nothing here.


def test_fixed_batch_is_divided_out() -> None:
    inputs = keras.Input(batch_shape=(8, 6, 5))
    rows = ops.reshape(layers.LSTM(5, return_sequences=True, stateful=True)(inputs), (48, 5))
    model = keras.Model(inputs, layers.Dense(7)(rows))
    assert count_macs(model) == 6 * 10 * 5 * 4 + 6 * 5 * 7
    other = keras.Input(batch_shape=(2, 5))
    with pytest.raises(ValueError, match=r"different fixed batch sizes \[2, 8\]"):
        count_macs(keras.Model([inputs, other], [layers.Dense(1)(inputs), other]))


def test_unbuilt_sequential() -> None:
    model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)], name="net")
    with pytest.raises(ValueError, match=r"'net' is not built: pass input_shape="):
        count_macs(model)
    assert count_macs(model, (8, 8, 3)) == 36 * 9 * 3 * 4 + 36 * 4 * 2
    assert not model.built
    assert not model.layers[0].built
    with pytest.raises(ValueError, match=r"'net' cannot be built with input_shape=\(2, 2, 3\)"):
        count_macs(model, (2, 2, 3))


def test_model_is_untouched() -> None:
    inputs = keras.Input((8, 8, 3), name="image")
    conv = layers.Conv2D(3, 3, padding="same")
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 1)])
    outputs = inner(conv(conv(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    everything = [model, *model.layers, *inner.layers]
    nodes = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in everything]
    config, weights = model.to_json(), [w.path for w in model.weights]
    optimizer = model.optimizer
    count_macs(model)
    count_macs(model, (16, 16, 3))
    assert [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in everything] == nodes
    assert model.to_json() == config
    assert [w.path for w in model.weights] == weights
    assert model.output is outputs
    assert model.optimizer is optimizer
    assert inner.layers[0].output.shape == (None, 8, 8, 4)
    assert model.predict(np.zeros((1, 8, 8, 3)), verbose=0).shape == (1, 8, 8, 4)


def test_count_params() -> None:
    shared = layers.Dense(5)
    inner = keras.Sequential([keras.Input((5,)), shared, layers.BatchNormalization()])
    x = inputs = keras.Input((4, 5))
    x = layers.TimeDistributed(inner)(shared(x))
    x = layers.TimeDistributed(layers.BatchNormalization(scale=False))(x)
    x = layers.Bidirectional(layers.GRU(3, reset_after=False))(x)
    frozen = layers.Dense(2, trainable=False)
    model = keras.Model(inputs, layers.Dropout(0.5, seed=0)(frozen(x)))
    without = 30 + 2 * (5 + 3 + 1) * 3 * 3 + 6 * 2 + 2
    assert count_params(model) == without + 4 * 5 + 3 * 5
    assert count_params(model, batchnorm=False) == without
    assert count_params(model) == model.count_params()


def test_count_params_of_batchnorm_inside_a_custom_layer() -> None:
    class Block(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [layers.Dense(5), layers.BatchNormalization()]

        def build(self, input_shape: Any) -> None:
            for part in self.parts:
                part.build(input_shape)

        def call(self, x: Any) -> Any:
            return self.parts[1](self.parts[0](x))

    model = model_of(Block(), (5,))
    assert count_params(model) == 30 + 20
    assert count_params(model, batchnorm=False) == 30


def test_count_params_of_unbuilt_models() -> None:
    for model in (keras.Sequential([layers.Dense(3)], name="net"), Subclassed(name="net")):
        with pytest.raises(ValueError, match=r"layer 'net' \(\w+\) is not built"):
            count_params(model)
    with pytest.raises(TypeError, match="takes a Keras 3 model"):
        count_params([layers.Dense(3)])


def test_a_published_network_of_layers_that_keras_does_not_export() -> None:
    model = keras.applications.ConvNeXtTiny(weights=None)  # 2201.03545
    assert count_macs(model, (224, 224, 3)) == pytest.approx(4.5e9, rel=0.01)


def test_count_params_of_a_stateful_layer() -> None:
    counts = []
    for stateful in (False, True):
        inputs = keras.Input(batch_shape=(8, 6, 5))
        model = keras.Model(inputs, layers.LSTM(4, stateful=stateful)(inputs))
        counts.append(count_params(model))
    assert counts == [4 * (5 + 4 + 1) * 4] * 2
