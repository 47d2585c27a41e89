"""Counts of single layers and operations, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from cost_models import Doubler, model_of
from keras import layers, ops

from keras_autoshrink.costs import count_macs

CONVOLUTIONS = [
    # output positions x taps x channels per group x filters
    (layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (10, 5), 10 * 3 * 5 * 4),
    (layers.Conv2D(4, 3), (8, 9, 3), 6 * 7 * 9 * 3 * 4),
    (layers.Conv2D(4, (3, 5), strides=2, padding="same"), (8, 9, 3), 4 * 5 * 15 * 3 * 4),
    (layers.Conv2D(8, 3, groups=2), (8, 8, 6), 6 * 6 * 9 * 3 * 8),
    (layers.Conv2D(4, 1, data_format="channels_first"), (3, 8, 9), 8 * 9 * 3 * 4),
    (layers.Conv3D(4, 2), (4, 5, 6, 3), 3 * 4 * 5 * 8 * 3 * 4),
    # input positions x taps x channels x filters
    (layers.Conv1DTranspose(4, 3, strides=2), (10, 5), 10 * 3 * 5 * 4),
    (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (8, 9, 3), 8 * 9 * 9 * 3 * 4),
    (layers.Conv3DTranspose(4, 2), (4, 5, 6, 3), 4 * 5 * 6 * 8 * 3 * 4),
    (layers.DepthwiseConv1D(3, depth_multiplier=2), (10, 5), 8 * 3 * 5 * 2),
    (layers.DepthwiseConv2D(3, strides=2, padding="same"), (8, 9, 3), 4 * 5 * 9 * 3),
    (layers.SeparableConv1D(4, 3, depth_multiplier=2), (10, 5), 8 * (3 * 5 * 2 + 10 * 4)),
    (layers.SeparableConv2D(4, 3, strides=2), (9, 9, 3), 4 * 4 * (9 * 3 + 3 * 4)),
]

PRODUCTS = [
    (layers.Dense(7), (2, 3, 4, 5), 2 * 3 * 4 * 5 * 7),
    (layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3)), (6, 5), 6 * 5 * 2 * 3),
    (layers.EinsumDense("...x,xy->...y", output_shape=7), (4, 6, 5), 4 * 6 * 5 * 7),
    (layers.EinsumDense("ab...,bc->ac...", output_shape=(7, None, None)), (5, 2, 3), 5 * 6 * 7),
]

RECURRENT = [
    # steps x (features + units) x units x gates
    (layers.SimpleRNN(3), (6, 5), 6 * (5 + 3) * 3),
    (layers.LSTM(3, return_sequences=True), (6, 5), 6 * (5 + 3) * 3 * 4),
    (layers.GRU(3, return_state=True), (6, 5), 6 * (5 + 3) * 3 * 3),
    (
        layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)]),
        (6, 5),
        6 * ((5 + 3) * 3 * 4 + (3 + 2) * 2),
    ),
    (
        layers.Bidirectional(layers.GRU(3), backward_layer=layers.GRU(3, go_backwards=True)),
        (6, 5),
        2 * 6 * (5 + 3) * 3 * 3,
    ),
    # steps x output positions x taps x (channels + filters) x filters x gates
    (layers.ConvLSTM1D(2, 3), (4, 9, 5), 4 * 7 * 3 * (5 + 2) * 2 * 4),
    (layers.ConvLSTM2D(2, 3, strides=2, padding="same"), (4, 8, 6, 5), 4 * 12 * 9 * 7 * 2 * 4),
    (
        layers.ConvLSTM2D(2, 3, data_format="channels_first", return_sequences=True),
        (4, 5, 8, 6),
        4 * 6 * 4 * 9 * 7 * 2 * 4,
    ),
    (layers.ConvLSTM3D(2, 2), (3, 4, 4, 4, 5), 3 * 27 * 8 * 7 * 2 * 4),
]

# The state begins with zeros, by which an unrolled layer does not multiply.
UNROLLED = [
    (layers.GRU(3, unroll=True), (6, 5), (6 * 5 + 5 * 3) * 3 * 3),
    (layers.GRU(3, unroll=True), (1, 5), 5 * 3 * 3),
    (layers.Bidirectional(layers.LSTM(3, unroll=True)), (6, 5), 2 * (6 * 5 + 5 * 3) * 3 * 4),
    (
        layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)], unroll=True),
        (6, 5),
        (6 * 5 + 5 * 3) * 3 * 4 + (6 * 3 + 5 * 2) * 2,
    ),
    # The gate that forgets, one of four, has nothing to forget.
    (layers.ConvLSTM1D(2, 3, unroll=True), (4, 9, 5), 7 * 3 * 2 * ((3 * 4 + 3) * 5 + 3 * 4 * 2)),
]

WRAPPED = [
    (layers.TimeDistributed(layers.Conv2D(4, 3)), (6, 8, 9, 3), 6 * 6 * 7 * 9 * 3 * 4),
    (layers.TimeDistributed(Doubler()), (6, 5), 6 * 5),
    (layers.SpectralNormalization(layers.Conv2D(4, 3)), (8, 9, 3), 6 * 7 * 9 * 3 * 4),
    (Doubler(), (6, 5), 30),
]


@pytest.mark.parametrize("cases", [CONVOLUTIONS, PRODUCTS, RECURRENT, UNROLLED, WRAPPED])
def test_one_layer(cases: list[tuple[Any, tuple[int, ...], int]]) -> None:
    for layer, shape, macs in cases:
        assert count_macs(model_of(layer, shape)) == macs, layer


def test_a_state_that_is_given_is_multiplied() -> None:
    sequence, state = keras.Input((6, 5)), keras.Input((3,))
    for layer, states in (
        (layers.GRU(3, unroll=True), state),
        (layers.Bidirectional(layers.GRU(3, unroll=True)), [state, state]),
    ):
        ways = 1 + isinstance(layer, layers.Bidirectional)
        model = keras.Model([sequence, state], layer(sequence, initial_state=states))
        assert count_macs(model) == ways * 6 * (5 + 3) * 3 * 3
    carried = layers.GRU(3, unroll=True, stateful=True)
    inputs = keras.Input((6, 5), batch_size=2)
    assert count_macs(keras.Model(inputs, carried(inputs))) == 6 * (5 + 3) * 3 * 3


def test_nested_model_in_a_wrapper() -> None:
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(7), layers.Dense(2)])
    assert count_macs(model_of(layers.TimeDistributed(inner), (6, 5))) == 6 * (35 + 14)


def test_what_costs_nothing() -> None:
    x = inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Rescaling(1 / 255)(x))
    x = layers.PReLU()(layers.ReLU()(layers.Activation("gelu")(x)))
    x = layers.LayerNormalization()(layers.MaxPooling2D()(layers.ZeroPadding2D()(x)))
    x = layers.Add()([x, layers.Dropout(0.5)(layers.UpSampling2D(1)(x))])
    x = ops.concatenate([ops.relu(x) * 2.0 + 1.0, x[..., :1]], axis=-1)
    outputs = layers.Softmax()(layers.GlobalAveragePooling2D()(x))
    assert count_macs(keras.Model(inputs, outputs)) == 0


def test_activations_of_keras_cost_nothing() -> None:
    for activation in (
        *("relu", "hard_swish", None, keras.activations.gelu, ops.sin, ops.log_sigmoid),
        *(layers.ReLU(), layers.Activation("tanh")),
    ):
        assert count_macs(model_of(layers.Activation(activation), (5,))) == 0
        assert count_macs(model_of(layers.Dense(5, activation=activation), (5,))) == 25
    cell = layers.GRUCell(3, activation="swish", recurrent_activation=layers.LeakyReLU())
    assert count_macs(model_of(layers.RNN(cell), (6, 5))) == 6 * (5 + 3) * 3 * 3


# Attention: query (4, 6), value (5, 7), key (5, 6)
def test_multi_head_attention() -> None:
    q, v, k = keras.Input((4, 6)), keras.Input((5, 7)), keras.Input((5, 8))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=5)
    projections = 4 * 6 * 2 * 3 + 5 * 7 * 2 * 5 + 5 * 8 * 2 * 3
    attention = 2 * 4 * 5 * (3 + 5)
    macs = projections + attention + 4 * 2 * 5 * 6
    assert count_macs(keras.Model([q, v, k], layer(q, v, key=k))) == macs


def test_multi_head_attention_over_images() -> None:
    x = keras.Input((4, 5, 6))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3, attention_axes=(2,), output_shape=7)
    y, _ = layer(x, x, return_attention_scores=True)
    macs = 20 * (3 * 6 * 2 * 3) + 20 * 5 * 2 * (3 + 3) + 20 * 2 * 3 * 7
    assert count_macs(keras.Model(x, y)) == macs
    both = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    macs = 20 * (3 * 6 * 2 * 3) + 20 * 20 * 2 * (3 + 3) + 20 * 2 * 3 * 6
    assert count_macs(keras.Model(x, both(x, x))) == macs


def test_gated_attention() -> None:
    x = keras.Input((4, 6))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3, use_gate=True)
    macs = 4 * (4 * 6 * 6) + 2 * 4 * 4 * (3 + 3) + 4 * 6 * 6
    assert count_macs(keras.Model(x, layer(x, x))) == macs


def test_group_query_attention() -> None:
    q, v = keras.Input((4, 6)), keras.Input((5, 6))
    layer = layers.GroupQueryAttention(head_dim=3, num_query_heads=4, num_key_value_heads=2)
    projections = 4 * 6 * 4 * 3 + 2 * (5 * 6 * 2 * 3)
    macs = projections + 4 * 4 * 5 * (3 + 3) + 4 * 4 * 3 * 6
    assert count_macs(keras.Model([q, v], layer(q, v))) == macs


def test_attention() -> None:
    for layer, macs in (
        (layers.Attention(), 4 * 5 * 6 + 4 * 5 * 7),
        (layers.Attention(score_mode="concat"), 4 * 5 * 7),  # Its scores are sums.
        (layers.AdditiveAttention(), 4 * 5 * 7),  # Scaled element by element.
    ):
        assert count_macs(model_of(layer, (4, 6), (5, 7), (5, 6))) == macs


def test_dot() -> None:
    assert count_macs(model_of(layers.Dot(1), (5,), (5,))) == 5
    assert count_macs(model_of(layers.Dot((2, 1)), (4, 5), (5, 6))) == 4 * 5 * 6
    assert count_macs(model_of(layers.Dot(-1), (4, 5), (6, 5))) == 4 * 5 * 6


A, B = (4, 5), (5, 6)
KERNEL = np.ones((3, 3, 3, 4), "float32")


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda x: x[0] @ x[1], [(2, 4, 5), (2, 5, 6)], 2 * 4 * 5 * 6),
        (lambda x: ops.dot(x, np.ones((5, 3), "float32")), [A], 4 * 5 * 3),
        (lambda x: ops.dot(x, 2.0), [A], 0),
        (lambda x: ops.inner(x, np.ones((3, 5), "float32")), [A], 4 * 5 * 3),
        (lambda x: ops.einsum("...ij,...jk", x[0], x[1]), [(2, *A), (2, *B)], 2 * 4 * 5 * 6),
        (lambda x: ops.einsum("bij,bjk->bk", x[0], x[1]), [A, B], 5 * 6),  # i is summed before.
        (lambda x: ops.einsum("bij,bij->bij", x[0], x[1]), [A, A], 0),
        (lambda x: ops.tensordot(x, np.ones((5, 3), "float32"), axes=1), [A], 4 * 5 * 3),
        (
            lambda x: ops.tensordot(x, np.ones((5, 4, 3), "float32"), axes=[[1, 2], [1, 0]]),
            [A],
            4 * 5 * 3,
        ),
        (lambda x: ops.conv(x, KERNEL, padding="same"), [(8, 9, 3)], 8 * 9 * 9 * 3 * 4),
        (lambda x: ops.depthwise_conv(x, KERNEL), [(8, 9, 3)], 6 * 7 * 9 * 3 * 4),
        (
            lambda x: ops.separable_conv(x, KERNEL, np.ones((1, 1, 12, 2), "float32")),
            [(8, 9, 3)],
            6 * 7 * (9 * 3 * 4 + 12 * 2),
        ),
        (lambda x: ops.conv_transpose(x, KERNEL, 2), [(8, 9, 4)], 8 * 9 * 9 * 3 * 4),
        (
            lambda x: ops.dot_product_attention(x[0], x[1], x[1]),
            [(4, 2, 3), (5, 2, 3)],
            2 * 4 * 5 * (3 + 3),
        ),
    ],
)
def test_operations(function: Any, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert count_macs(model_of(function, *shapes)) == macs


def test_positions_folded_into_the_batch_axis() -> None:
    inputs = keras.Input((6, 5))
    logits = layers.Dense(7)(ops.reshape(inputs, (-1, 5)))
    assert count_macs(keras.Model(inputs, logits)) == 6 * 5 * 7
    costs = Doubler()(ops.reshape(inputs, (-1, 5)))
    assert count_macs(keras.Model(inputs, costs)) == 6 * 5


def test_tied_embedding() -> None:
    tokens = keras.Input((6,), dtype="int32")
    embedding = layers.ReversibleEmbedding(11, 5, mask_zero=True)
    logits = embedding(layers.LSTM(5, return_sequences=True)(embedding(tokens)), reverse=True)
    assert count_macs(keras.Model(tokens, logits)) == 6 * (10 * 5 * 4) + 6 * 5 * 11
