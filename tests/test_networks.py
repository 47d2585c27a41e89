import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_cell import cells

import keras_autoshrink as kas
import tflite_export
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


@pytest.fixture(scope="module")
def published():
    return kas.ShrinkCNN(classes=1001)


def test_the_published_network_has_the_published_counts(published):
    assert kas.count_macs(published) == 383_677_672
    assert kas.count_params(published, batchnorm=False) == 3_600_981
    assert published.output_shape == (None, 1001)


def test_the_other_published_network_differs_in_its_activation_alone():
    model = kas.ShrinkCNN(classes=1001, activation="swish")
    assert kas.count_macs(model) == 383_677_672
    activations = [x for x in model.layers if isinstance(x, keras.layers.Activation)]
    assert {x.activation for x in activations} == {keras.activations.swish}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cells(max_nodes=5))
def test_a_cell_and_its_pruned_form_make_networks_of_equal_counts(cell):
    models = [kas.ShrinkCNN(c, **TINY) for c in (cell, cell.prune())]
    assert kas.count_macs(models[0]) == kas.count_macs(models[1])
    assert kas.count_params(models[0]) == kas.count_params(models[1])


def test_keras_round_trip_is_equal_to_the_bit(tmp_path):
    model = kas.ShrinkCNN(**TINY, dropout=0.2, classifier_activation="softmax")
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )


def applied(cell, filters=8, stride=1, channels=4, **style):
    inputs = keras.Input((8, 8, channels))
    return keras.Model(inputs, apply_cell(cell, inputs, filters, stride, CellStyle(**style), "c"))


def names(model, kind):
    return {layer.name for layer in model.layers if isinstance(layer, kind)}


def test_all_leaves_are_outputs_and_a_stride_is_a_pool():
    cell = kas.Cell(("input", "conv1x1", "conv1x1", "sepconv3x3"), ((0, 1), (0, 2), (1, 3)))
    model = applied(cell, stride=2)
    assert model.output_shape == (None, 4, 4, 2 * 8)
    assert names(model, keras.layers.MaxPooling2D) == {"c_pool"}
    assert names(model, keras.layers.Concatenate) == {"c_concat"}


def test_a_node_concatenates_then_ops_then_normalises_then_activates():
    cell = kas.Cell(("input", "conv1x1", "conv1x1"), ((0, 1), (0, 2), (1, 2)))
    model = applied(cell)
    order = [layer.name for layer in model.layers if "node2" in layer.name]
    assert order == ["c_node2_concat", "c_node2_op", "c_node2_bn", "c_node2_act"]
    assert model.get_layer("c_node2_op").kernel.shape == (1, 1, 4 + 8, 8)
    assert not model.get_layer("c_node2_op").use_bias


def test_a_separable_convolution_has_nothing_in_between():
    model = applied(kas.Cell(("input", "sepconv3x3"), ((0, 1),)))
    order = [layer.name for layer in model.layers[1:]]
    assert order == ["c_node1_op_depthwise", "c_node1_op_pointwise", "c_node1_bn", "c_node1_act"]


def test_with_residuals_leaves_are_linear_and_the_shortcut_fits():
    cell = kas.Cell(("input", "conv1x1", "conv1x1"), ((0, 1), (1, 2)))
    model = applied(cell, stride=2, residual=True)
    assert names(model, keras.layers.Activation) == {"c_node1_act"}
    # The input goes past the pool, through a convolution of the cell's stride.
    assert model.get_layer("c_shortcut").strides == (2, 2)
    assert model.layers[-1].name == "c_add"
    same_shape = applied(cell, channels=8, residual=True)
    assert not [layer for layer in same_shape.layers if "shortcut" in layer.name]


def test_a_bottleneck_narrows_the_ops():
    model = applied(kas.Cell(("input", "conv1x1"), ((0, 1),)), bottleneck=4)
    assert model.output_shape[-1] == 2


@pytest.mark.parametrize(
    ("filters", "rounded"), [(1, 4), (5.9, 4), (6, 8), (10, 8), (22.4, 24), (44.8, 44), (179, 180)]
)
def test_filters_are_multiples_of_4(filters, rounded):
    assert round_filters(filters) == rounded


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"input_shape": (8, 8)}, "input_shape"),
        ({"input_shape": (8, 0, 1)}, "input_shape"),
        ({"classes": 0}, "classes=0"),
        ({"filters": 0}, "filters=0"),
        ({"width": 0}, "width=0"),
        ({"stage_scales": ()}, "stage_strides"),
        ({"stage_scales": (1, -1)}, "stage_scales"),
        ({"stage_strides": (1,)}, "stage_strides"),
        ({"stage_strides": (1, 0)}, "stage_strides"),
        ({"stage_repeats": (1, 1, 1)}, "stage_repeats"),
        ({"stage_repeats": (1, 0)}, "stage_repeats"),
        ({"stem_filters": 0}, "stem_filters"),
        ({"stem_stride": 0}, "stem_stride"),
        ({"head_filters": 0}, "head_filters"),
        ({"bottleneck": 0}, "bottleneck"),
        ({"bottleneck": 9}, "bottleneck=9: expected 1 to 8"),
        ({"dropout": 1}, "dropout=1"),
    ],
)
def test_bad_arguments_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        kas.ShrinkCNN(**{**TINY, **arguments})


def test_users_extend_the_operations():
    @kas.register_operation("conv5x5")
    def conv5x5(x, filters, name):
        return keras.layers.Conv2D(filters, 5, padding="same", use_bias=False, name=name)(x)

    model = kas.ShrinkCNN(kas.Cell(("input", "conv5x5"), ((0, 1),)), **TINY)
    assert model.get_layer("stage1_cell1_node1_op").kernel_size == (5, 5)
    kas.register_operation("conv5x5")(conv5x5)  # a notebook's cell is run twice
    with pytest.raises(ValueError, match="'conv1x1': is built in"):
        kas.register_operation("conv1x1")
    with pytest.raises(ValueError, match="'a b'"):
        kas.register_operation("a b")


def test_an_op_without_a_convolution_is_named():
    with pytest.raises(ValueError, match="op 'tanh': no convolutional operation"):
        kas.ShrinkCNN(kas.Cell(("input", "tanh"), ((0, 1),)), **TINY)


@pytest.mark.slow
def test_the_published_networks_file_has_the_published_counts(published, tmp_path):
    tflite_export.convert(published, tmp_path / "shrinkcnn.tflite")
    assert tflite_export.count_macs(tmp_path / "shrinkcnn.tflite") == 383_677_672


@pytest.mark.slow
def test_width_for_macs_takes_the_last_width_that_fits():
    one_cell = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}
    small = {**TINY, **one_cell, "residual": False}
    del small["width"]

    def macs(width):
        return kas.count_macs(kas.ShrinkCNN(width=width, **small))

    for budget in (60_000, 123_456, 1_000_000):
        width = kas.width_for_macs(budget, **small)
        assert macs(width) <= budget < macs(round(width + 0.01, 2))
    with pytest.raises(ValueError, match=r"target_macs=1,000: the network of width 0.05 exceeds"):
        kas.width_for_macs(1_000, **small)
    with pytest.raises(ValueError, match=r"width 16.0 is below"):
        kas.width_for_macs(10**10, **small)
