"""The report's drawing of a network: its parts, beside those of the network that is built."""

import pytest

from keras_autoshrink import SHRINKCNN_CELL, Cell
from keras_autoshrink.networks.cnn import ShrinkCNN
from keras_autoshrink.report.network import parts

TWO_LEAVES = Cell(("input", "sepconv3x3", "mbconv3x3"), ((0, 1), (0, 2)))
SMALL = {"input_shape": (19, 14, 2), "classes": 3, "stem_filters": 4, "stem_stride": 2}
STAGES = {"stage_strides": (1, 2, 2), "stage_repeats": (1, 2, 1), "stage_filters": (4, 8, 12)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"cell": TWO_LEAVES, "combine": "add", "residual": True, "head_filters": 20},
        {"cell": TWO_LEAVES, "combine": "add", "residual": False, "head_filters": None},
        {"cell": SHRINKCNN_CELL, "bottleneck": 2, "stem_stride": 1},
        {
            **{"cell": TWO_LEAVES, "combine": "add", "large_kernels": 2, "squeeze_excite": 1},
            **{"pooled_stages": 3, "head_filters": 16, "hidden_units": 8},
        },
    ],
)
def test_the_shapes_are_those_of_the_network(arguments):
    arguments = {**SMALL, **STAGES, **arguments}
    model = ShrinkCNN(**arguments)
    found = {part.name: part.shape for part in parts(arguments)}
    for name, shape in found.items():
        # The last layer of a part, whose names begin with its own; but pools stand in between.
        layers = [each for each in model.layers if each.name.startswith((f"{name}_", name))]
        layers = [each for each in layers if name == "pool" or not each.name.endswith("_pool")]
        assert layers[-1].output.shape[1:] == shape, name
    used = " ".join(part.layers for part in parts(arguments))
    assert ("sepconv5x5 in place of sepconv3x3" in used) == ("large_kernels" in arguments)
    assert [*found][-1] == "classes"
