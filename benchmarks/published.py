"""What `model_costs.py` compares: how each network is built, and what others published of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras_autoshrink as kas

if TYPE_CHECKING:
    import keras

INPUT_SHAPE = (224, 224, 3)
MAX_DEVIATION = 0.01


@dataclasses.dataclass(frozen=True)
class Published:
    """The published figures of one network; none of them is ours.

    Args:
        top1: top-1 accuracy on ImageNet's validation images, percent.
        top1_source: where it stands.
        macs: multiply-accumulates for one image of 224 x 224 x 3.
        macs_unit: the unit of the last digit that the source prints.
        macs_source: where it stands.
        note: how the network measured here differs from the published one.
    """

    top1: float
    top1_source: str
    macs: int
    macs_unit: int
    macs_source: str
    note: str = ""

    def agrees(self, macs: int) -> bool:
        """Says whether a count is within 1% of `macs`, or rounds to it: 0.39B is good to 1.3%."""
        return abs(macs - self.macs) <= max(MAX_DEVIATION * self.macs, self.macs_unit / 2)

    def sources(self) -> str:
        """Says where the figures stand."""
        if self.top1_source == self.macs_source:
            return f"top-1 {self.top1} and {self.macs:,} MACs: {self.macs_source}"
        return f"top-1 {self.top1}: {self.top1_source}; {self.macs:,} MACs: {self.macs_source}"


_KERAS = "https://keras.io/api/applications/"
_KERAS_MOBILENET = "https://keras.io/api/applications/mobilenet/"
_AUTOSHRINK = "https://arxiv.org/abs/1911.09251"
_SLIM = "https://github.com/tensorflow/models/blob/master/research/slim/nets"

_M = 10**6

PUBLISHED = {
    "ShrinkCNN-A": Published(73.9, _AUTOSHRINK, 384 * _M, _M, _AUTOSHRINK),
    "ShrinkCNN-B": Published(75.1, _AUTOSHRINK, 384 * _M, _M, _AUTOSHRINK),
    "MobileNet": Published(70.4, _KERAS, 569 * _M, _M, f"{_SLIM}/mobilenet_v1.md"),
    "MobileNetV2": Published(71.3, _KERAS, 300 * _M, _M, "https://arxiv.org/abs/1801.04381"),
    "MobileNetV3Small": Published(
        68.1,
        _KERAS_MOBILENET,
        56 * _M,
        _M,
        "https://arxiv.org/abs/1905.02244v5",
        note="without its rescaling layer (include_preprocessing=False); "
        "keras.io says 66M MACs and 2.9M parameters, those of an older version of the paper",
    ),
    "MobileNetV3Large": Published(
        75.6,
        _KERAS_MOBILENET,
        217 * _M,
        _M,
        _KERAS_MOBILENET,
        note="without its rescaling layer (include_preprocessing=False)",
    ),
    "EfficientNetB0": Published(
        77.1,
        _KERAS,
        390 * _M,
        10 * _M,
        "https://arxiv.org/abs/1905.11946",
        note="with its rescaling and normalization layers, which no argument leaves out; "
        "here, untrained, they fold into the first convolution",
    ),
    "EfficientNetV2B0": Published(
        78.7,
        _KERAS,
        720 * _M,
        10 * _M,
        "https://github.com/google/automl/tree/master/efficientnetv2",
        note="without its rescaling and normalization layers (include_preprocessing=False)",
    ),
    "NASNetMobile": Published(74.4, _KERAS, 564 * _M, _M, f"{_SLIM}/nasnet/README.md"),
    "DenseNet121": Published(
        75.0,
        _KERAS,
        2_834 * _M,
        _M,
        "https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py",
    ),
    "ResNet50": Published(
        74.9,
        _KERAS,
        3_860 * _M,
        10 * _M,
        "https://arxiv.org/abs/1709.01507",
        note="a stage's stride is in its first 1x1 convolution, as in the paper; where it is in "
        "the 3x3 one, there are 4.1G MACs",
    ),
}

_ACTIVATIONS = {"ShrinkCNN-A": "relu", "ShrinkCNN-B": "swish"}
# The other networks take prepared images: preparing them is no part of the comparison.
_WITHOUT_PREPROCESSING = ("MobileNetV3Small", "MobileNetV3Large", "EfficientNetV2B0")


def build(name: str) -> keras.Model:
    """Builds a network as published, with random weights.

    Args:
        name: a key of `PUBLISHED`.

    Returns:
        A model from images (batch, 224, 224, 3) to the logits of 1000 classes.
    """
    import keras

    if name in _ACTIVATIONS:
        return kas.ShrinkCNN(classes=1000, activation=_ACTIVATIONS[name])
    extra = {"include_preprocessing": False} if name in _WITHOUT_PREPROCESSING else {}
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=INPUT_SHAPE,
        classes=1000,
        classifier_activation=None,  # ShrinkCNN has no softmax either
        **extra,
    )


def search_space() -> list[dict[str, str | int | float]]:
    """Counts the complete cell that the paper's search starts from against the published cell.

    Returns:
        A record for each network and count: "network", "count", "complete", "published", and
        "saving", the share of the complete cell's count that the published cell does without.
    """
    import keras_tuner

    # 8 nodes, all 28 edges. The ops are in the order of seed 0; others move the MACs by up to 8%.
    hypermodel = kas.CNNCellHyperModel(seed=0)
    networks = {"ShrinkCNN-A": (kas.ShrinkCNN(hypermodel.cell), kas.ShrinkCNN())}
    proxy = hypermodel.build(keras_tuner.HyperParameters())
    hypermodel.cell = kas.SHRINKCNN_CELL
    networks["proxy"] = proxy, hypermodel.build(keras_tuner.HyperParameters())
    records: list[dict[str, str | int | float]] = []
    for network, models in networks.items():
        for name, count in (("MACs", kas.count_macs), ("parameters", kas.count_params)):
            complete, published = map(count, models)
            records.append(
                {
                    "network": network,
                    "count": name,
                    "complete": complete,
                    "published": published,
                    "saving": 1 - published / complete,
                }
            )
    return records
