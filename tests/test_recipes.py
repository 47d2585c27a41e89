"""What recipes are refused for, and the optimizers and penalties that they make."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest

from keras_autoshrink.training.averaged_sgd import AveragedSGD
from keras_autoshrink.training.recipes import (
    RECIPES,
    TEXT_RECIPES,
    Recipe,
    TextRecipe,
    default_recipe,
)

# All that a recipe for texts can have.
TEXT = TextRecipe(
    learning_rate=2.0,
    batch_size=4,
    epochs=6,
    steps=12,
    jitter=True,
    clip_norm=0.5,
    weight_decay=1e-5,
    output_dropout=0.3,
    recurrent_dropout=0.2,
    dropout=0.3,
    embedding_dropout=0.1,
    word_dropout=0.1,
    activation_regularization=0.1,
    averaging_window=1,
)


def recipe(**values) -> Recipe:
    """A recipe, some of whose values do not matter."""
    return Recipe(
        **{"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 8, "epochs": 2} | values
    )


WRONG = {
    **dict.fromkeys(("optimizer", "schedule"), "SGD"),
    **dict.fromkeys(("learning_rate", "clip_norm"), 0),
    **dict.fromkeys(("batch_size", "epochs", "steps", "averaging_window"), 2.5),
    **dict.fromkeys(("l2", "weight_decay", "activation_regularization"), -1),
    **dict.fromkeys(("label_smoothing", "ema", "batchnorm_momentum"), 1),
    **dict.fromkeys(("output_dropout", "recurrent_dropout", "dropout"), math.nan),
    **dict.fromkeys(("embedding_dropout", "word_dropout"), -0.1),
    "jitter": 1,
}


@pytest.mark.parametrize("of", [RECIPES["imagenet"], TEXT], ids=["images", "texts"])
def test_a_value_out_of_its_range_is_named(of):
    for name in {*dataclasses.asdict(of)} - {"augmentation"}:
        with pytest.raises((TypeError, ValueError), match=f"^{name}={WRONG[name]!r}: expected "):
            dataclasses.replace(of, **{name: WRONG[name]})


def test_values_at_the_ends_of_their_ranges_are_plain_numbers():
    made = recipe(batch_size=np.int64(1), learning_rate=np.float32(0.5), l2=0, ema=0)
    assert (made.batch_size, made.learning_rate, made.l2, made.ema) == (1, 0.5, 0, 0)
    assert type(made.batch_size) is int  # which JSON knows
    assert type(made.learning_rate) is float


# Optimizers


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.4, 0.3, 0.2, 0, 0]),  # after a third, where the cosine is 1/2, 3/4
        ("one_cycle", [0.06, 1 / 3, 0.25, 0, 0]),  # the peak is at step 12
    ],
)
def test_the_learning_rate_ends_with_zero(schedule, expected):
    optimizer = recipe(learning_rate=0.4, schedule=schedule).build_optimizer(60)
    rates = []
    for step in (0, 20, 30, 60, 100):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Two steps of gradient 2 from 1, by hand; the learning rate is 0.1 and then 0.05.
        # The velocity is 0.2 and then 0.9 * 0.2 + 0.1 = 0.28; a step is 0.9 times it and 2 rates.
        ("sgd", [1 - 0.38, 1 - 0.38 - 0.352]),
        # The mean square is 0.4 and then 0.76; the first step 0.2 / 1.4^0.5 = 0.16903.
        ("rmsprop", [1 - 0.16903, 1 - 0.16903 - (0.9 * 0.16903 + 0.1 / 1.76**0.5)]),
        ("adam", [0.9, 0.85]),
    ],
)
def test_optimizers_take_these_steps(name, expected):
    optimizer = recipe(optimizer=name, learning_rate=0.1).build_optimizer(2)
    assert optimizer.use_ema is False
    weight = keras.Variable([1.0])
    values = []
    for _ in range(2):
        optimizer.apply([keras.ops.convert_to_tensor([2.0])], [weight])
        values.append(float(weight[0]))
    assert values == pytest.approx(expected, abs=1e-5)


def test_kernels_alone_decay():
    optimizer = recipe(learning_rate=0.1, weight_decay=0.5).build_optimizer(100)
    variables = [keras.Variable([1.0], name=name) for name in ("kernel", "bias", "gamma", "beta")]
    optimizer.apply([keras.ops.zeros((1,))] * 4, variables)
    values = [float(variable[0]) for variable in variables]
    assert values == pytest.approx([1 - 0.1 * 0.5, 1, 1, 1])


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_the_moving_average_has_its_momentum(momentum):
    optimizer = recipe(ema=momentum).build_optimizer(100)
    assert optimizer.use_ema is True  # also at 0: a callback that swaps the weights asks for it
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    values = []
    for _ in range(2):
        optimizer.apply([keras.ops.convert_to_tensor([2.0])])
        values.append(float(weight[0]))
    # The average begins with the weight after the first step; the weight itself is not it.
    average = momentum * values[0] + (1 - momentum) * values[1]
    optimizer.finalize_variable_values([weight])
    assert float(weight[0]) == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize(
    ("of", "kind", "decay"),
    [
        (TEXT, AveragedSGD, 1e-5),
        (
            dataclasses.replace(TEXT, averaging_window=None, weight_decay=0),
            keras.optimizers.SGD,
            None,
        ),
    ],
)
def test_optimizers_for_texts(of, kind, decay):
    optimizer = of.build_optimizer()
    assert type(optimizer) is kind
    config = optimizer.get_config()
    assert (config["global_clipnorm"], config["weight_decay"], config["momentum"]) == (
        0.5,
        decay,
        0,
    )
    assert float(optimizer.learning_rate) == 2


# Penalties


def test_the_penalty_is_l2_times_the_squares_of_all_kernels():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 2),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.SeparableConv2D(4, 2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 100))  # what must not count
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    # Weights of each kernel: 2*2*2*3, 2*2*3*2, 2*2*6 and 6*4, 3*3*4*3.
    assert [int(np.prod(v.shape)) for v in kernels] == [24, 24, 24, 24, 108]
    for value, kernel in enumerate(kernels, start=1):
        kernel.assign(np.full(kernel.shape, -value))
    recipe(l2=0.0).regularise(model)
    assert model.losses == []
    recipe(l2=0.01).regularise(model)
    # 24 * (1 + 4 + 9 + 16) + 108 * 25 = 3420
    assert float(sum(model.losses)) == pytest.approx(34.2, rel=1e-6)
    kernels[0].assign(np.zeros(kernels[0].shape))  # not measured once, but each time
    assert float(sum(model.losses)) == pytest.approx(33.96, rel=1e-6)


def test_the_penalty_arrives_in_a_training():
    """Images of zeros: the penalty alone moves a kernel, by its learning rate times 2 * l2."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    before = model.layers[0].kernel.numpy()
    recipe(l2=0.25).regularise(model)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(), jit_compile=False)
    model.fit(np.zeros((3, 4)), np.zeros((3, 2)), verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), before * 0.95, rtol=1e-5)


# The recipes there are


def test_the_published_recipes():
    assert RECIPES["imagenet"] == Recipe(
        optimizer="rmsprop",
        learning_rate=0.1,
        batch_size=256,
        epochs=300,
        augmentation=("resized_crop", "horizontal_flip", "colour_jitter", "random_erasing"),
        l2=4e-5,
        label_smoothing=0.1,
        ema=0.999,
        batchnorm_momentum=0.999,
    )
    assert TEXT_RECIPES["ptb"] == TextRecipe(
        learning_rate=20,
        batch_size=64,
        epochs=TEXT_RECIPES["ptb"].epochs,  # which the paper does not say
        steps=35,
        jitter=True,
        clip_norm=0.25,
        weight_decay=8e-7,
        output_dropout=0.75,
        recurrent_dropout=0.25,
        dropout=0.75,
        embedding_dropout=0.2,
        word_dropout=0.1,
        activation_regularization=1e-3,
        averaging_window=5,
    )


def test_each_data_set_has_a_recipe():
    assert default_recipe("imagenet2012") == "imagenet"
    assert default_recipe("cifar10") == "cifar10"
    for other in ("digits", "/data/flowers", "data.npz"):
        assert default_recipe(other) == "plain"
    assert RECIPES["plain"].augmentation == ()  # it harms no image


def test_without_regularization_only_that_is_left_out():
    bare = TEXT.without_regularization()
    assert set({**bare.cell_dropouts(), **bare.regularization()}.values()) == {0}
    regularised = {**TEXT.cell_dropouts(), **TEXT.regularization()}
    assert 0 not in regularised.values()
    assert dataclasses.replace(bare, **regularised) == TEXT
