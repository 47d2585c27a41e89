"""The multiply-accumulates of Keras layers: convolutions, dense and recurrent layers, wrappers.

Convention (arXiv 1911.09251, and the published MobileNet and ResNet tables):

* convolution: output positions x kernel taps x input channels per group x filters; taps that
  fall on the padding count;
* transposed convolution: input positions x kernel taps x input channels x filters;
* recurrent layer: time steps x (kernel + recurrent kernel products);
* bias, normalization, activation, pooling, resizing, addition, look-ups: nothing.

A rule counts every element it is given, the first axis too: `graph.py` feeds the model a
batch of one, so that positions which a reshape folded into the first axis are counted. Where
an operation of keras.ops does the same as a layer, they share a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_autoshrink.costs.calls import Call, Rule, Shape


def _positions(shape: Shape, data_format: str | None) -> int:
    """Elements of one channel: batch x spatial sizes."""
    channels_first = (data_format or keras.config.image_data_format()) == "channels_first"
    return shape[0] * math.prod(shape[2:] if channels_first else shape[1:-1])


def _taps(call: Call, *names: str) -> int:
    """Elements of the kernels: a layer's own weights, an operation's arguments."""
    if isinstance(call.operation, keras.layers.Layer):
        kernels = [getattr(call.operation, name) for name in names]
    else:
        kernels = [call.arguments[name] for name in names]
    return sum(math.prod(call.known(kernel)) for kernel in kernels)


def _conv(call: Call) -> int:
    # The kernel has shape (*taps, channels per group, filters), or (*taps, channels, multiplier).
    return _positions(call.output_shape, call.operation.data_format) * _taps(call, "kernel")


def _conv_transpose(call: Call) -> int:
    return _positions(call.shape("inputs"), call.operation.data_format) * _taps(call, "kernel")


def _separable_conv(call: Call) -> int:
    taps = _taps(call, "depthwise_kernel", "pointwise_kernel")
    return _positions(call.output_shape, call.operation.data_format) * taps


def _conv_lstm(call: Call) -> int:
    # The recurrent convolution runs on the output positions: it has stride 1, same padding.
    layer = call.operation
    rank = len(layer.kernel_size)
    batch, steps = call.shape("sequences")[:2]
    spatial = call.output_shape[-rank:]
    if layer.data_format == "channels_last":
        spatial = call.output_shape[-rank - 1 : -1]
    return batch * steps * math.prod(spatial) * _cell_weights(layer.cell)


def _rnn_cell(call: Call) -> int:
    """One step of a cell on (batch, features)."""
    shape = call.known(call.first)
    call.check_features(shape, call.operation.kernel.shape[0])
    return shape[0] * _cell_weights(call.operation)


def _cell_weights(cell: Any) -> int:
    return math.prod(cell.kernel.shape) + math.prod(cell.recurrent_kernel.shape)


def _dense(call: Call) -> int:
    return math.prod(call.shape("inputs")) * int(call.operation.units)


def _reversible_embedding(call: Call) -> int:
    if not call.arguments.get("reverse", False):
        return 0  # A look-up.
    return math.prod(call.shape("inputs")) * int(call.operation.input_dim)


LAYER_RULES: dict[str, Rule] = {
    "Conv1D": _conv,
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv1D": _conv,
    "DepthwiseConv2D": _conv,
    "ops.nn.Conv": _conv,
    "ops.nn.DepthwiseConv": _conv,
    "Conv1DTranspose": _conv_transpose,
    "Conv2DTranspose": _conv_transpose,
    "Conv3DTranspose": _conv_transpose,
    "ops.nn.ConvTranspose": _conv_transpose,
    "SeparableConv1D": _separable_conv,
    "SeparableConv2D": _separable_conv,
    "ops.nn.SeparableConv": _separable_conv,
    "ConvLSTM1D": _conv_lstm,
    "ConvLSTM2D": _conv_lstm,
    "ConvLSTM3D": _conv_lstm,
    "SimpleRNNCell": _rnn_cell,
    "LSTMCell": _rnn_cell,
    "GRUCell": _rnn_cell,
    "Dense": _dense,
    "ReversibleEmbedding": _reversible_embedding,
}


def _steps(call: Call) -> Any:
    """What a layer or cell sees of a sequence (batch, steps, ...): (batch x steps, ...)."""
    batch, steps, *rest = call.known(call.first)
    return keras.KerasTensor((batch * steps, *rest), dtype=call.first.dtype)


def _rnn(call: Call) -> list[Call]:
    return [Call(call.operation.cell, (_steps(call),))]


def _stacked_cells(call: Call) -> list[Call]:
    calls, inputs = [], call.first
    for cell in call.operation.cells:
        calls.append(Call(cell, (inputs,)))
        size = getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]
        inputs = keras.KerasTensor((inputs.shape[0], size), dtype=inputs.dtype)
    return calls


def _time_distributed(call: Call) -> list[Call]:
    return [Call(call.operation.layer, (_steps(call),))]


def _bidirectional(call: Call) -> list[Call]:
    layers = (call.operation.forward_layer, call.operation.backward_layer)
    return [Call(layer, (call.first,)) for layer in layers]


def _spectral_normalization(call: Call) -> list[Call]:
    # At inference the wrapped layer alone runs; the power iterations belong to training.
    return [Call(call.operation.layer, (call.first,))]


# The calls that a layer makes of the layers in it; they are all its multiply-accumulates.
WRAPPERS: dict[str, Callable[[Call], list[Call]]] = {
    "RNN": _rnn,
    "SimpleRNN": _rnn,
    "LSTM": _rnn,
    "GRU": _rnn,
    "StackedRNNCells": _stacked_cells,
    "TimeDistributed": _time_distributed,
    "Bidirectional": _bidirectional,
    "SpectralNormalization": _spectral_normalization,
}
