"""ShrinkCNN: its layers, its counts, and the ops that a network can be made of."""

import keras
import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.networks import operations
from keras_autoshrink.networks.cnn import CellStyle, apply_cell, round_filters

TINY = {
    "input_shape": (8, 8, 1),
    "classes": 3,
    "width": 1.0,
    "filters": 8,
    "stage_scales": (1, 2),
    "stage_strides": (1, 2),
    "stage_repeats": (1, 2),
    "stem_filters": 8,
    "stem_stride": 1,
    "head_filters": 16,
}


def test_the_published_network_has_the_published_counts():
    model = kas.ShrinkCNN(classes=1001)
    assert kas.count_macs(model) == 383_677_672
    assert kas.count_params(model, batchnorm=False) == 3_600_981
    assert model.output_shape == (None, 1001)


def test_the_activation_is_that_of_all_layers():
    for given, activation in (({}, "relu"), ({"activation": "swish"}, "silu")):
        model = kas.ShrinkCNN(**TINY, **given)
        found = [x.activation for x in model.layers if isinstance(x, keras.layers.Activation)]
        assert {each.__name__ for each in found} == {activation}


def test_keras_round_trip_is_equal_to_the_bit(tmp_path):
    model = kas.ShrinkCNN(**TINY, dropout=0.2, classifier_activation="softmax")
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(model(images)), np.array(loaded(images)))


def applied(cell, filters=8, stride=1, channels=4, **style):
    inputs = keras.Input((8, 8, channels))
    return keras.Model(inputs, apply_cell(cell, inputs, filters, stride, CellStyle(**style), "c"))


def names(model, kind):
    return {layer.name for layer in model.layers if isinstance(layer, kind)}


def test_all_leaves_are_outputs_and_a_stride_is_a_pool():
    # Node 4 cannot be reached: it leaves no layer, and no leaf.
    ops = ("input", "conv1x1", "conv1x1", "sepconv3x3", "conv1x1", "conv1x1")
    model = applied(kas.Cell(ops, ((0, 1), (0, 2), (1, 3), (4, 5))), stride=2)
    assert model.output_shape == (None, 4, 4, 2 * 8)
    assert names(model, keras.layers.MaxPooling2D) == {"c_pool"}
    assert names(model, keras.layers.Concatenate) == {"c_concat"}
    assert len(names(model, keras.layers.BatchNormalization)) == 3


def test_a_node_concatenates_then_ops_then_normalises_then_activates():
    cell = kas.Cell(("input", "conv1x1", "sepconv3x3"), ((0, 1), (0, 2), (1, 2)))
    model = applied(cell)
    order = [layer.name for layer in model.layers if "node2" in layer.name]
    # Nothing between a separable convolution's two.
    ops = ["c_node2_op_depthwise", "c_node2_op_pointwise"]
    assert order == ["c_node2_concat", *ops, "c_node2_bn", "c_node2_act"]
    assert model.get_layer(ops[0]).kernel.shape == (3, 3, 4 + 8, 1)
    assert not any(model.get_layer(name).use_bias for name in (*ops, "c_node1_op"))


def test_with_residuals_leaves_are_linear_and_the_shortcut_fits():
    cell = kas.Cell(("input", "conv1x1", "conv1x1"), ((0, 1), (1, 2)))
    model = applied(cell, stride=2, residual=True)
    assert names(model, keras.layers.Activation) == {"c_node1_act"}
    # The input goes past the pool, through a convolution of the cell's stride.
    assert model.get_layer("c_shortcut").strides == (2, 2)
    assert model.layers[-1].name == "c_add"
    same_shape = applied(cell, channels=8, residual=True)
    assert not [layer for layer in same_shape.layers if "shortcut" in layer.name]


def test_what_is_added_has_one_number_of_channels():
    cell = kas.Cell(("input", "conv3x3", "mbconv3x3"), ((0, 1), (0, 2), (1, 2)))
    model = applied(cell, stride=2, combine="add", activation="silu")
    assert model.output_shape == (None, 4, 4, 8)
    assert model.get_layer("c_node2_op_expand_act").activation is keras.activations.silu
    assert not names(model, keras.layers.Concatenate)
    # Node 1 reads the pooled input itself; to node 2 and to the output it is added projected.
    assert model.get_layer("c_node1_op").kernel.shape == (3, 3, 4, 8)
    assert model.get_layer("c_node2_op_expand").kernel.shape == (1, 1, 8, 24)
    assert model.get_layer("c_shortcut").kernel.shape == (1, 1, 4, 8)
    chain = kas.Cell(("input", "sepconv5x5", "conv1x1"), ((0, 1), (1, 2)))
    assert not names(applied(chain, combine="add"), keras.layers.Add)
    assert names(applied(chain, combine="add", residual=True), keras.layers.Add) == {"c_residual"}


def test_given_filters_are_taken_as_they_are():
    given = {**TINY, "stage_filters": (12, 20), "stem_filters": 4, "width": 3, "combine": "add"}
    model = kas.ShrinkCNN(**given, squeeze_excite=1)
    layers = {"stem": 4, "stage2_cell1_weighed": 20}
    assert {name: model.get_layer(name).output.shape[-1] for name in layers} == layers
    assert names(model, keras.layers.Multiply) == {f"stage2_cell{n}_weighed" for n in (1, 2)}


def test_the_classifier_reads_the_means_of_the_last_stages():
    model = kas.ShrinkCNN(**TINY, pooled_stages=2, hidden_units=12)
    means = {"stage1_pool", "pool"}
    assert names(model, keras.layers.GlobalAveragePooling2D) == means
    widths = sum(model.get_layer(name).output.shape[-1] for name in means)
    assert model.get_layer("hidden").kernel.shape == (widths, 12)
    assert model.get_layer("classes").kernel.shape == (12, TINY["classes"])


def test_depthwise_kernels_of_the_last_stages_are_larger():
    cell = kas.Cell(("input", "sepconv3x3", "mbconv3x3", "conv3x3"), ((0, 1), (0, 2), (0, 3)))
    model = kas.ShrinkCNN(cell, **TINY, combine="add", large_kernels=1)
    kernels = {
        name: model.get_layer(f"{name}_op_depthwise").kernel.shape[0]
        for name in ("stage1_cell1_node1", "stage2_cell1_node1", "stage2_cell2_node2")
    }
    assert [*kernels.values()] == [3, 5, 5]
    assert model.get_layer("stage2_cell1_node3_op").kernel.shape[:2] == (3, 3)


def test_a_bottleneck_narrows_the_ops():
    model = applied(kas.Cell(("input", "conv1x1"), ((0, 1),)), bottleneck=4)
    assert model.output_shape[-1] == 2


def test_filters_are_multiples_of_4():
    given = (1, 5.9, 6, 10, 22.4, 44.8, 179)
    assert [round_filters(filters) for filters in given] == [4, 4, 8, 8, 24, 44, 180]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"input_shape": (8, 8)}, "input_shape"),
        ({"classes": 0}, "classes=0"),
        ({"width": 0}, "width=0"),
        ({"stage_scales": ()}, "stage_strides"),
        ({"stage_scales": (1, -1)}, "stage_scales=-1"),
        ({"stage_repeats": (1, 1, 1)}, "stage_repeats"),
        ({"stage_repeats": (1, 0)}, "stage_repeats=0"),
        ({"head_filters": 0}, "head_filters=0"),
        ({"bottleneck": 9}, "bottleneck=9: expected 1 to 8"),
        ({"dropout": 1}, "dropout=1"),
        ({"stage_filters": (8, 0)}, "stage_filters=0"),
        ({"stage_filters": (8,)}, "stage_strides"),
        ({"combine": "multiply"}, "combine='multiply'"),
        ({"squeeze_excite": 1}, "squeeze_excite=1: expected 0, or with combine='add'"),
        ({"combine": "add", "bottleneck": 2}, "bottleneck=2"),
        ({"large_kernels": 3}, "large_kernels=3: expected 0 to the number of stages, 2"),
        ({"hidden_units": 0}, "hidden_units=0"),
    ],
)
def test_bad_arguments_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        kas.ShrinkCNN(**{**TINY, **arguments})


def test_width_for_macs_takes_the_last_width_that_fits():
    one_stage = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}
    small = {**TINY, **one_stage, "residual": False, "cell": kas.Cell.dense(("input", "conv1x1"))}
    del small["width"]

    def macs(width):
        return kas.count_macs(kas.ShrinkCNN(width=width, **small))

    width = kas.width_for_macs(123_456, **small)
    assert macs(width) <= 123_456 < macs(round(width + 0.01, 2))
    with pytest.raises(ValueError, match=r"target_macs=1,000: the network of width 0.05 exceeds"):
        kas.width_for_macs(1_000, **small)
    with pytest.raises(ValueError, match=r"width 16.0 is below"):
        kas.width_for_macs(10**10, **small)


@pytest.fixture
def registered(monkeypatch):
    """A registry to which a test may add."""
    monkeypatch.setattr(operations, "_registry", dict(operations._registry))


def test_users_extend_the_operations(registered):
    @kas.register_operation("conv5x5", colour="#123456")
    def conv5x5(x, filters, name):
        return keras.layers.Conv2D(filters, 5, padding="same", use_bias=False, name=name)(x)

    model = applied(kas.CNNCellHyperModel(num_nodes=2, operations=["conv5x5"]).cell)
    assert model.get_layer("c_node1_op").kernel_size == (5, 5)
    kas.register_operation("conv5x5")(conv5x5)  # a notebook's cell is run twice


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("conv1x1",), "'conv1x1': is built in"),
        (("a b",), "'a b'"),
        (("input",), "'input'"),
        (("conv5x5", "red"), "colour='red'"),
    ],
)
def test_bad_operations_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        kas.register_operation(*arguments)


def test_an_op_that_cannot_be_built_is_named():
    cell = kas.Cell(("input", "tanh"), ((0, 1),))
    with pytest.raises(ValueError, match="op 'tanh': no convolutional operation"):
        kas.ShrinkCNN(cell, **TINY)


def test_an_ops_colour_does_not_depend_on_its_neighbours(registered):
    alone = operations.colours(["sepconv3x3"])
    assert operations.colours(["input", "conv1x1", "sepconv3x3"]) == {
        **alone,
        **operations.colours(["conv1x1"]),
    }
    kas.register_operation("mine", colour="#123456")(lambda x, filters, name: x)
    many = operations.colours(["input", "tanh", "mine", *(f"op{number}" for number in range(9))])
    assert (many["mine"], len(many)) == ("#123456", 11)
    # Ops without a colour take none that stands beside them, and share what is left.
    others = {many[f"op{number}"] for number in range(9)}
    assert others.isdisjoint({many["tanh"], many["mine"]})
    assert len(others) == 4
