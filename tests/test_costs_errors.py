"""What is not understood is an error that names it, never a silent zero."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from cost_models import Doubler, Mystery, Subclassed, model_of
from keras import layers, ops

from keras_autoshrink.costs import count_macs


class SilentDense(layers.Dense):
    """Calls itself Dense and does twice the work."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(super().call(inputs))


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


class HonestDense(SilentDense):
    """Overrides call, and says what it costs."""

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        assert input_shape[-1] is not None
        return 2 * input_shape[-1] * int(self.units)


def test_harmless_and_honest_subclasses_count() -> None:
    assert count_macs(model_of(HarmlessDense(), (5,))) == 35
    assert count_macs(model_of(HonestDense(5), (5,))) == 50


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
        (OtherKernel(3, 1), r"\(OtherKernel\): it overrides Conv2D\.convolution_op"),
        (layers.Lambda(lambda x: x, name="l"), r"'l' \(Lambda\): a Lambda hides .* use keras\.ops"),
        (layers.TimeDistributed(Mystery(name="t")), r"layer 't' \(Mystery\)"),
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
    with pytest.raises(ValueError, match=message):
        count_macs(model_of(layer, shape))


@keras.saving.register_keras_serializable()
def product(x: Any) -> Any:
    return ops.matmul(x, ops.ones((x.shape[-1], x.shape[-1])))


class ProductReLU(layers.ReLU):
    def call(self, inputs: Any) -> Any:
        return product(inputs)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Activation(product, name="a"), r"'a' \(Activation\): its activation is not .* own"),
        (layers.Dense(5, activation=product, name="d"), r"layer 'd' \(Dense\): its activation"),
        (layers.Dense(5, activation=ProductReLU()), r"\(Dense\): its activation"),
        (layers.Dense(5, activation=Doubler()), r"\(Dense\): its activation"),
        (layers.LSTM(3, recurrent_activation=product), r"\(LSTM\): its recurrent_activation"),
        (layers.ConvLSTM1D(3, 1, activation=product), r"\(ConvLSTM1D\): its activation"),
        (layers.RNN([layers.SimpleRNNCell(3, activation=product)]), r"\(SimpleRNNCell\): its act"),
        (layers.Bidirectional(layers.GRU(3, activation=product)), r"\(GRU\): its activation"),
    ],
)
def test_activations_that_may_cost_are_named(layer: Any, message: str) -> None:
    shape = (3, 5, 5) if isinstance(layer, layers.ConvLSTM1D) else (5, 5)
    with pytest.raises(ValueError, match=f"{message}.* a method count_macs"):
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
        ((1, 8, 8, 3), r"has 4 dimension\(s\).*: pass it without the batch dimension"),
        (8, r"input_shape=8 is no shape"),
        ((8, 8.0, 3), r"is no shape"),
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
