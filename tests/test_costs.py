"""Counts against numbers worked out by hand, and against published tables."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_autoshrink.costs import count_macs, count_params


def model_of(layer: Any, *shapes: tuple[int | None, ...], **kwargs: Any) -> keras.Model:
    """A functional model of one layer (or function), called on its inputs."""
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(inputs[0] if len(inputs) == 1 else inputs, **kwargs))


class Doubler(layers.Layer):
    """A custom layer that says what it costs: one product per feature."""

    def call(self, x: Any) -> Any:
        return x * 2.0

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        assert input_shape[0] is None
        return int(np.prod(input_shape[1:]))


class Mystery(layers.Layer):
    """A custom layer that does not say what it costs."""

    def call(self, x: Any) -> Any:
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class SilentDense(layers.Dense):
    """Calls itself Dense and does twice the work."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(super().call(inputs))


CONVOLUTIONS = [
    # output positions x taps x channels per group x filters
    (layers.Conv1D(4, 3), (10, 5), 8 * 3 * 5 * 4),
    (layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (10, 5), 10 * 3 * 5 * 4),
    (layers.Conv2D(4, 3), (8, 9, 3), 6 * 7 * 9 * 3 * 4),
    (layers.Conv2D(4, 3, padding="same"), (8, 9, 3), 8 * 9 * 9 * 3 * 4),
    (layers.Conv2D(4, (3, 5), strides=2, padding="same"), (8, 9, 3), 4 * 5 * 15 * 3 * 4),
    (layers.Conv2D(4, 3, strides=2), (8, 9, 3), 3 * 4 * 9 * 3 * 4),
    (layers.Conv2D(4, 3, dilation_rate=2), (8, 9, 3), 4 * 5 * 9 * 3 * 4),
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
    (layers.SeparableConv2D(4, 3, padding="same"), (8, 9, 3), 8 * 9 * (9 * 3 + 3 * 4)),
    (layers.SeparableConv2D(4, 3, strides=2), (9, 9, 3), 4 * 4 * (9 * 3 + 3 * 4)),
]

PRODUCTS = [
    (layers.Dense(7), (5,), 5 * 7),
    (layers.Dense(7), (4, 5), 4 * 5 * 7),
    (layers.Dense(7), (2, 3, 4, 5), 2 * 3 * 4 * 5 * 7),
    (layers.EinsumDense("ab,bc->ac", output_shape=7), (5,), 5 * 7),
    (layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3)), (6, 5), 6 * 5 * 2 * 3),
    (layers.EinsumDense("...x,xy->...y", output_shape=7), (4, 6, 5), 4 * 6 * 5 * 7),
    (layers.EinsumDense("ab...,bc->ac...", output_shape=(7, None, None)), (5, 2, 3), 5 * 6 * 7),
    (layers.EinsumDense("abc,c->abc", output_shape=(6, 5)), (6, 5), 0),  # Nothing is summed.
]

RECURRENT = [
    # steps x (features + units) x units x gates
    (layers.SimpleRNN(3), (6, 5), 6 * (5 + 3) * 3),
    (layers.LSTM(3, return_sequences=True), (6, 5), 6 * (5 + 3) * 3 * 4),
    (layers.GRU(3, return_state=True), (6, 5), 6 * (5 + 3) * 3 * 3),
    (layers.RNN(layers.GRUCell(3)), (6, 5), 6 * (5 + 3) * 3 * 3),
    (
        layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)]),
        (6, 5),
        6 * ((5 + 3) * 3 * 4 + (3 + 2) * 2),
    ),
    (layers.Bidirectional(layers.LSTM(3)), (6, 5), 2 * 6 * (5 + 3) * 3 * 4),
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

WRAPPED = [
    (layers.TimeDistributed(layers.Dense(7)), (6, 5), 6 * 5 * 7),
    (layers.TimeDistributed(layers.Conv2D(4, 3)), (6, 8, 9, 3), 6 * 6 * 7 * 9 * 3 * 4),
    (layers.TimeDistributed(layers.LSTM(3)), (2, 6, 5), 2 * 6 * (5 + 3) * 3 * 4),
    (layers.TimeDistributed(Doubler()), (6, 5), 6 * 5),
    (layers.SpectralNormalization(layers.Conv2D(4, 3)), (8, 9, 3), 6 * 7 * 9 * 3 * 4),
    (Doubler(), (6, 5), 30),
]


@pytest.mark.parametrize(("layer", "shape", "macs"), CONVOLUTIONS + PRODUCTS + RECURRENT + WRAPPED)
def test_one_layer(layer: Any, shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(model_of(layer, shape)) == macs


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


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (layers.Attention(), 4 * 5 * 6 + 4 * 5 * 7),
        (layers.Attention(score_mode="concat"), 4 * 5 * 7),  # Its scores are sums.
        (layers.AdditiveAttention(), 4 * 5 * 6 + 4 * 5 * 7),
        (layers.AdditiveAttention(use_scale=False), 4 * 5 * 7),
    ],
)
def test_attention(layer: Any, macs: int) -> None:
    assert count_macs(model_of(layer, (4, 6), (5, 7), (5, 6))) == macs


@pytest.mark.parametrize(
    ("axes", "first", "second", "macs"),
    [
        (1, (5,), (5,), 5),
        ((2, 1), (4, 5), (5, 6), 4 * 5 * 6),
        (-1, (4, 5), (6, 5), 4 * 5 * 6),
    ],
)
def test_dot(axes: Any, first: Any, second: Any, macs: int) -> None:
    assert count_macs(model_of(layers.Dot(axes), first, second)) == macs


A, B = (4, 5), (5, 6)
KERNEL = np.ones((3, 3, 3, 4), "float32")


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda x: ops.matmul(x[0], x[1]), [A, B], 4 * 5 * 6),
        (lambda x: x[0] @ x[1], [(2, 4, 5), (2, 5, 6)], 2 * 4 * 5 * 6),
        (lambda x: x @ np.ones((5, 3), "float32"), [A], 4 * 5 * 3),
        (lambda x: ops.dot(x, np.ones((5, 3), "float32")), [A], 4 * 5 * 3),
        (lambda x: ops.dot(x, 2.0), [A], 0),
        (lambda x: ops.inner(x, np.ones((3, 5), "float32")), [A], 4 * 5 * 3),
        (lambda x: ops.einsum("bij,bjk->bik", x[0], x[1]), [A, B], 4 * 5 * 6),
        (lambda x: ops.einsum("...ij,...jk", x[0], x[1]), [(2, *A), (2, *B)], 2 * 4 * 5 * 6),
        (lambda x: ops.einsum("bij,bjk->bk", x[0], x[1]), [A, B], 5 * 6),  # i is summed before.
        (lambda x: ops.einsum("bij,bij->bij", x[0], x[1]), [A, A], 0),
        (lambda x: ops.einsum("bij->bi", x), [A], 0),
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


class HarmlessDense(layers.Dense):
    """A subclass that computes what Dense computes."""

    def __init__(self, units: int = 7, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.note = "mine"

    def get_config(self) -> dict[str, Any]:
        return super().get_config()

    def helper(self) -> str:
        return self.note


class OtherKernel(layers.Conv2D):
    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, kernel * 2.0)


class Rebuilt(layers.Dense):
    def build(self, input_shape: Any) -> None:
        super().build(input_shape)


class HonestDense(SilentDense):
    """Overrides call, and says what it costs."""

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        assert input_shape[-1] is not None
        return 2 * input_shape[-1] * int(self.units)


def test_harmless_and_honest_subclasses_count() -> None:
    assert count_macs(model_of(HarmlessDense(), (5,))) == 35
    assert count_macs(model_of(HonestDense(5), (5,))) == 50


def patched() -> layers.Layer:
    layer = layers.Dense(5, name="patched")
    layer.call = lambda x: x
    return layer


class Custom(keras.Operation):
    def call(self, x: Any) -> Any:
        return x

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape)


class Wrong(Mystery):
    def count_macs(self, input_shape: Any) -> float:
        return 0.5


class MysteryCell(layers.Layer):
    state_size = 3
    output_size = 3

    def call(self, x: Any, states: Any) -> Any:
        return states[0], states


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Mystery(name="m"), r"layer 'm' \(Mystery\): count_macs does not know .* a method count"),
        (SilentDense(5, name="s"), r"layer 's' \(SilentDense\): it overrides Dense\.call; give"),
        (Rebuilt(5), r"\(Rebuilt\): it overrides Dense\.build"),
        (OtherKernel(3, 1), r"\(OtherKernel\): it overrides Conv2D\.convolution_op"),
        (patched(), r"'patched' \(Dense\): it overrides Dense\.call"),
        (layers.Lambda(lambda x: x, name="l"), r"'l' \(Lambda\): a Lambda hides .* use keras\.ops"),
        (layers.TimeDistributed(Mystery(name="t")), r"layer 't' \(Mystery\)"),
        (layers.MelSpectrogram(sequence_length=2, fft_length=4), r"\(MelSpectrogram\)"),
        (Custom(name="c"), r"operation 'c' \(Custom\): .*; put it into a layer of its own"),
        (ops.linalg.inv, r"operation '.*' \(Inv\)"),
        (lambda x: ops.map(lambda row: row @ row, x), r"\(Map\)"),
        (
            lambda x: ops.einsum("bii,bij,bjk->bk", x, x, x),
            r"\(Einsum\): .* of 3 operands has no single",
        ),
    ],
)
def test_unknown_layers_are_named(layer: Any, message: str) -> None:
    shape = (4, 5, 5) if isinstance(layer, (layers.TimeDistributed, OtherKernel)) else (5, 5)
    if isinstance(layer, layers.MelSpectrogram):
        shape = (64,)
    with pytest.raises(ValueError, match=message):
        count_macs(model_of(layer, shape))


def test_unknown_cell_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer 'cell' \(MysteryCell\)"):
        count_macs(model_of(layers.RNN(MysteryCell(name="cell")), (6, 3)))


def test_custom_cell_is_asked_once_a_step() -> None:
    class Cell(MysteryCell):
        def count_macs(self, input_shape: Any) -> int:
            assert input_shape == (None, 3)
            return 7

    model = model_of(layers.Bidirectional(layers.RNN(layers.LSTMCell(3))), (6, 3))
    assert count_macs(model) == 2 * 6 * 6 * 3 * 4
    assert count_macs(model_of(layers.RNN(Cell()), (6, 3))) == 6 * 7


def test_answer_of_a_custom_layer_is_checked() -> None:
    with pytest.raises(TypeError, match=r"\(Wrong\) returned 0\.5, not a whole number"):
        count_macs(model_of(Wrong(), (5,)))


class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class TrainStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        raise NotImplementedError


class OtherCall(keras.Sequential):
    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        return super().call(super().call(inputs))


def test_subclassed_models() -> None:
    inputs = keras.Input((5,))
    assert count_macs(TrainStep(inputs, layers.Dense(3)(inputs))) == 15
    for model in (
        Subclassed(name="net"),
        OtherCall([inputs, layers.Dense(5)], name="net"),
        model_of(Subclassed(name="net"), (5,)),
    ):
        with pytest.raises(TypeError, match=r"layer 'net' \(\w+\) is a subclassed model"):
            count_macs(model)
    for wrong in (layers.Dense(3), None, "net"):
        with pytest.raises(TypeError, match="takes a Keras 3 model, not "):
            count_macs(wrong)


def test_unknown_sizes() -> None:
    image = model_of(layers.Conv2D(4, 3, name="stem"), (None, None, 3))
    with pytest.raises(ValueError, match=r"'stem' .* pass input_shape=\(224, 224, 3\)"):
        count_macs(image)
    text = model_of(layers.LSTM(4), (None, 3))
    with pytest.raises(ValueError, match=r"\(LSTM\) .* pass input_shape=\(32, 3\)"):
        count_macs(text)
    two = model_of(layers.Dot(1), (None, 4), (None, 6))
    with pytest.raises(ValueError, match=r"pass input_shape=\[\(32, 4\), \(32, 6\)\]"):
        count_macs(two)
    custom = model_of(Doubler(), (None, 4))
    with pytest.raises(ValueError, match=r"\(Doubler\) .* pass input_shape=\(32, 4\)"):
        count_macs(custom)


@pytest.mark.parametrize(
    ("input_shape", "message"),
    [
        ((8, 8), r"has 2 dimension\(s\), input 'image' of model 'net' takes \(8, 8, 3\)"),
        ((None, 8, 8, 3), r"is no shape: pass positive whole numbers without the batch"),
        ((1, 8, 8, 3), r"has 4 dimension\(s\).*: pass it without the batch dimension"),
        (8, r"input_shape=8 is no shape"),
        ((8, 8, 0), r"is no shape"),
        ((8, 8.0, 3), r"is no shape"),
        ("888", r"is no shape"),
        ([(8, 8, 3), (8, 8, 3)], r"has 2 shape\(s\), model 'net' has 1 inputs"),
        ({"picture": (8, 8, 3)}, r"names the inputs \['picture'\], model 'net' has \['image'\]"),
        ((8, 8, 4), r"'conv' \(Conv2D\) .*; input_shape=\(8, 8, 4\) does not fit"),
        ((16, 16, 3), r"'dense' \(Dense\) takes InputSpec.* not a shape \(1, 1024\); input_shape"),
        ((2, 2, 3), r"'conv' \(Conv2D\) does not take an input of shape \(1, 2, 2, 3\): "),
    ],
)
def test_input_shapes_that_do_not_fit(input_shape: Any, message: str) -> None:
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(layers.ZeroPadding2D(0)(inputs))
    x = layers.Flatten()(layers.ZeroPadding2D(1)(x))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(x), name="net")
    with pytest.raises(ValueError, match=message):
        count_macs(model, input_shape)


def test_recurrent_and_attention_layers_check_features() -> None:
    for layer in (layers.LSTM(3), layers.EinsumDense("abc,cd->abd", output_shape=(None, 2))):
        with pytest.raises(ValueError, match=r"^layer .*; input_shape=\(6, 4\) does not fit"):
            count_macs(model_of(layer, (6, 5)), (6, 4))
    x = keras.Input((6, 5))
    for layer in (
        layers.MultiHeadAttention(2, 3),
        layers.GroupQueryAttention(3, 2, 1),
    ):
        with pytest.raises(ValueError, match=r"takes 5 features, not 4; input_shape"):
            count_macs(keras.Model(x, layer(x, x)), (6, 4))


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


@pytest.mark.parametrize(
    ("build", "macs"),
    [
        # The MobileNet (1704.04861), MobileNetV2 (1801.04381) and ResNet papers' tables. Keras's
        # ResNet50 strides in the 1x1 convolutions, as the paper's does.
        (keras.applications.MobileNet, 569e6),
        (keras.applications.MobileNetV2, 300e6),
        (keras.applications.ResNet50, 3.86e9),
    ],
)
def test_published_networks(build: Any, macs: float) -> None:
    assert count_macs(build(weights=None), (224, 224, 3)) == pytest.approx(macs, rel=0.01)
