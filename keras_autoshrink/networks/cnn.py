"""ShrinkCNN, the network of a convolutional cell (Zhang et al., arXiv 1911.09251)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_autoshrink.backend import channels_last
from keras_autoshrink.cell import SHRINKCNN_CELL, Cell
from keras_autoshrink.checks import one_of, positive, share, whole
from keras_autoshrink.costs import count_macs
from keras_autoshrink.networks.operations import LARGER, apply_operation


@channels_last()
def ShrinkCNN(  # noqa: N802 - a model function is named like the model, as in keras.applications
    cell: Cell = SHRINKCNN_CELL,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    filters: int = 16,
    width: float = 1.4,
    stage_scales: Sequence[float] = (0.5, 1, 2, 4, 8),
    stage_strides: Sequence[int] = (1, 2, 2, 2, 2),
    stage_repeats: Sequence[int] = (1, 3, 4, 6, 4),
    stage_filters: Sequence[int] | None = None,
    stem_filters: int = 32,
    stem_stride: int = 2,
    head_filters: int | None = 1280,
    residual: bool = True,
    combine: str = "concatenate",
    large_kernels: int = 0,
    squeeze_excite: int = 0,
    pooled_stages: int = 1,
    hidden_units: int | None = None,
    bottleneck: int = 1,
    activation: str = "relu",
    dropout: float = 0.0,
    classifier_activation: str | None = None,
    batchnorm_momentum: float = 0.99,
    name: str = "shrinkcnn",
) -> keras.Model:
    """Builds a ShrinkCNN: a stem, stages of one cell, a head and a classifier.

    The defaults are ShrinkCNN-A of the paper; with `activation="swish"` it is ShrinkCNN-B
    (Zhang et al., arXiv 1911.09251): at 1001 classes 383,677,672
    multiply-accumulates and 3,600,981 parameters without BatchNorm. The weights are random.

    Args:
        cell: the cell; the search finds it, `SHRINKCNN_CELL` is the published one.
        input_shape: (height, width, channels).
        classes: number of classes.
        filters: base number of filters; a stage has `filters * scale * width`, rounded to a
            multiple of 4.
        width: width multiplier of stem and stages, not of the head.
        stage_scales: scale of each stage's filters.
        stage_strides: stride of each stage, a max-pool in its first cell.
        stage_repeats: number of cells of each stage.
        stage_filters: of each stage, in place of what follows from filters, width and scales; then
            the stem's are not multiplied either.
        stem_filters: filters of the 3x3 convolution in front, before the width multiplier.
        stem_stride: its stride.
        head_filters: filters of the 1x1 convolution behind the stages, or None for no such
            convolution.
        residual: whether each cell adds its input to its output.
        combine: "concatenate" joins the inputs of a node, and the leaves of a cell, on the channel
            axis, as the paper does; "add" adds them, which costs a phone less. Then, too, an
            activation follows the sum of a residual cell, as in a ResNet.
        large_kernels: in so many of the last stages depthwise kernels of 3x3 are of 5x5.
        squeeze_excite: so many of the last stages weigh the channels of each cell's output by their
            means (squeeze-and-excitation, Hu et al., arXiv 1709.01507); with "add" only.
        pooled_stages: of so many of the last stages the classifier reads the means; of the last
            stage those behind the head.
        hidden_units: units of a dense layer between these means and the classifier, or None for no
            such layer (as MobileNetV3's last stage, Howard et al., arXiv 1905.02244: behind the
            pool a layer costs next to nothing).
        bottleneck: b; the ops of a stage of f filters have f // b.
        activation: name of the activation behind each BatchNorm.
        dropout: share of the pooled features dropped in training.
        classifier_activation: activation of the output; None returns logits.
        batchnorm_momentum: of all BatchNorm layers.
        name: of the model.

    Returns:
        A functional `keras.Model` from images of shape (batch, height, width, channels) to logits
        of shape (batch, classes).

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> model = ShrinkCNN(input_shape=(32, 32, 3), classes=10, stem_stride=1)
        >>> model.output_shape
        (None, 10)
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape={input_shape!r}: expected (height, width, channels)")
    for argument, number in (
        ("classes", classes),
        ("filters", filters),
        ("stem_filters", stem_filters),
        ("stem_stride", stem_stride),
        ("head_filters", 1 if head_filters is None else head_filters),
        ("hidden_units", 1 if hidden_units is None else hidden_units),
    ):
        whole(argument, number, 1)
    positive("width", width)
    share("dropout", dropout)
    one_of("combine", combine, COMBINATIONS)
    if stage_filters is None:
        _check_stages(stage_scales, stage_strides, stage_repeats)
        stage_filters = [round_filters(int(filters * scale * width)) for scale in stage_scales]
        stem_filters = round_filters(stem_filters * width)
    else:
        stage_filters = [whole("stage_filters", each, 1) for each in stage_filters]
        _check_stages(stage_filters, stage_strides, stage_repeats)
    if not 0 <= squeeze_excite <= (len(stage_filters) if combine == "add" else 0):
        raise ValueError(
            f"squeeze_excite={squeeze_excite!r}: expected 0, or with combine='add' at most the "
            f"number of stages, {len(stage_filters)}"
        )
    if not 0 <= large_kernels <= len(stage_filters):
        raise ValueError(
            f"large_kernels={large_kernels!r}: expected 0 to the number of stages, "
            f"{len(stage_filters)}"
        )
    if not 1 <= pooled_stages <= len(stage_filters):
        raise ValueError(
            f"pooled_stages={pooled_stages!r}: expected 1 to the number of stages, "
            f"{len(stage_filters)}"
        )
    if combine == "add" and bottleneck != 1:
        raise ValueError(f"bottleneck={bottleneck!r}: nodes that are added have no bottleneck")
    if not 1 <= bottleneck <= min(stage_filters):
        raise ValueError(
            f"bottleneck={bottleneck!r}: expected 1 to {min(stage_filters)}, the filters of the "
            "narrowest stage"
        )

    style = CellStyle(activation, residual, bottleneck, batchnorm_momentum, combine)
    inputs = keras.Input(input_shape, name="image")
    stem = keras.layers.Conv2D(
        stem_filters, 3, strides=stem_stride, padding="same", use_bias=False, name="stem"
    )
    x = style.normalise(stem(inputs), "stem")
    means = []
    for stage, repeats in enumerate(stage_repeats):
        excite = stage >= len(stage_repeats) - squeeze_excite
        if stage == len(stage_repeats) - large_kernels:
            ops = tuple(LARGER.get(op, op) for op in cell.ops)
            cell = dataclasses.replace(cell, ops=ops)
        for index in range(repeats):
            stride = stage_strides[stage] if index == 0 else 1
            prefix = f"stage{stage + 1}_cell{index + 1}"
            x = apply_cell(cell, x, stage_filters[stage], stride, style, prefix, excite)
        if len(stage_repeats) - pooled_stages <= stage < len(stage_repeats) - 1:
            pool = keras.layers.GlobalAveragePooling2D(name=f"stage{stage + 1}_pool")
            means.append(pool(x))
    if head_filters is not None:
        x = keras.layers.Conv2D(head_filters, 1, use_bias=False, name="head")(x)
        x = style.normalise(x, "head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if means:
        x = keras.layers.Concatenate(name="pools")([*means, x])
    if hidden_units is not None:
        x = keras.layers.Dense(hidden_units, use_bias=False, name="hidden")(x)
        x = style.normalise(x, "hidden")
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    # In float32 also where a mixed policy is in force: half precision is too coarse for a loss.
    outputs = keras.layers.Dense(
        classes, activation=classifier_activation, dtype="float32", name="classes"
    )(x)
    return keras.Model(inputs, outputs, name=name)


def _check_stages(scales: Sequence[float], strides: Sequence[int], repeats: Sequence[int]) -> None:
    for scale in scales:
        positive("stage_scales", scale)
    for argument, values in (("stage_strides", strides), ("stage_repeats", repeats)):
        if not len(values) == len(scales) > 0:
            raise ValueError(
                f"{argument}={values!r}: expected one for each of the {len(scales)} stages"
            )
        for value in values:
            whole(argument, value, 1)


def apply_cell(
    cell: Cell,
    x: Any,
    filters: int,
    stride: int,
    style: CellStyle,
    name: str,
    squeeze_excite: bool = False,
) -> Any:
    """Applies a cell's layers to a tensor.

    A node combines its inputs, then applies its op, BatchNorm and the activation. Node 0 is the
    identity, or a max-pool if the cell strides. With residuals the leaves have no activation, and
    the cell's input is added to its output. Where tensors are added, those of node 0 go through a
    1x1 convolution if the number of their channels is another. A residual cell that adds is made as
    a ResNet's block: an activation follows the sum, ops that read node 0 alone stride themselves,
    and in place of the max-pool is an average-pool.

    Args:
        cell: nodes that cannot be reached from node 0 are left out.
        x: tensor of shape (batch, height, width, channels).
        filters: f; each op has f // bottleneck of them.
        stride: s, of the max-pool in node 0.
        style: of the cell.
        name: unique prefix of the layers' names.
        squeeze_excite: whether to weigh the channels of what the leaves come to.

    Returns:
        Tensor of shape (batch, ceil(height / s), ceil(width / s), leaves * (f // bottleneck)), or
        of f channels where leaves are added.
    """
    cell = cell.prune()
    add = style.combine == "add"
    # As in a ResNet: what is added is a mean of the input, and ops that read the input stride.
    resnet = add and style.residual
    outputs = [x]
    if stride > 1:
        layer = keras.layers.AveragePooling2D if resnet else keras.layers.MaxPooling2D
        outputs = [layer(stride, padding="same", name=f"{name}_pool")(x)]
    projected = outputs[0]  # what is added of node 0
    reads = [cell.predecessors(node) for node in range(1, cell.num_nodes)]
    added = style.residual or any(0 in each and len(each) > 1 for each in reads)
    if add and added and projected.shape[-1] != filters:
        project = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")
        projected = style.normalise(project(projected), f"{name}_shortcut", activate=False)
    for node, each in enumerate(reads, start=1):
        label = f"{name}_node{node}"
        width = filters // style.bottleneck
        strides = resnet and each == (0,)  # itself, in place of the pool
        inputs = [projected if i == 0 and len(each) > 1 else outputs[i] for i in each]
        y = apply_operation(
            cell.ops[node],
            x if strides else style.join(inputs, label),
            width,
            f"{label}_op",
            style.normalise,
            stride if strides else 1,
        )
        activate = not (style.residual and node in cell.leaves)
        outputs.append(style.normalise(y, label, activate))
    y = style.join([outputs[leaf] for leaf in cell.leaves], name)
    if squeeze_excite:
        y = _squeeze_excite(y, name)
    if not style.residual:
        return y
    if add:
        y = keras.layers.Add(name=f"{name}_residual")([projected, y])
        return keras.layers.Activation(style.activation, name=f"{name}_act")(y)
    if x.shape != y.shape:
        project = keras.layers.Conv2D(
            y.shape[-1], 1, strides=stride, use_bias=False, name=f"{name}_shortcut"
        )
        x = style.normalise(project(x), f"{name}_shortcut", activate=False)
    return keras.layers.Add(name=f"{name}_add")([x, y])


# Of the channels so many are left between the two layers of squeeze-and-excitation.
_SQUEEZED = 4


def _squeeze_excite(x: Any, name: str) -> Any:
    """Weighs the channels of a tensor by what a small network makes of their means."""
    channels = x.shape[-1]
    means = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    squeeze = keras.layers.Conv2D(
        round_filters(channels / _SQUEEZED), 1, activation="relu", name=f"{name}_reduce"
    )
    # The hard one: a file computes it by a clipped sum, in 8 bits too.
    excite = keras.layers.Conv2D(channels, 1, activation="hard_sigmoid", name=f"{name}_excite")
    return keras.layers.Multiply(name=f"{name}_weighed")([x, excite(squeeze(means))])


COMBINATIONS = ("concatenate", "add")


@dataclasses.dataclass(frozen=True)
class CellStyle:
    """How every cell of a network is made.

    Args:
        activation: name of the activation after each node's BatchNorm.
        residual: whether a cell adds its input to its output. Then its leaves carry no
            activation; one follows the sum where `combine` is "add", else nothing does.
        bottleneck: b; the ops of a stage of f filters have f // b.
        batchnorm_momentum: the share that BatchNorm's moving statistics keep at each step.
        combine: one of `COMBINATIONS`.
    """

    activation: str = "relu"
    residual: bool = False
    bottleneck: int = 1
    batchnorm_momentum: float = 0.99
    combine: str = "concatenate"

    def join(self, tensors: list[Any], name: str) -> Any:
        """Makes one tensor of several of one height and width."""
        if len(tensors) == 1:
            return tensors[0]
        if self.combine == "add":
            return keras.layers.Add(name=f"{name}_add")(tensors)
        return keras.layers.Concatenate(name=f"{name}_concat")(tensors)

    def normalise(self, x: Any, name: str, activate: bool = True) -> Any:
        """Applies BatchNorm, then the activation; the shape stays."""
        x = keras.layers.BatchNormalization(momentum=self.batchnorm_momentum, name=f"{name}_bn")(x)
        if not activate:
            return x
        return keras.layers.Activation(self.activation, name=f"{name}_act")(x)


def round_filters(filters: float) -> int:
    """Rounds to the nearest positive multiple of 4 (Python's round: halves to the even one)."""
    return 4 * max(1, round(filters / 4))


# Width multipliers between which `width_for_macs` looks, in hundredths.
_NARROWEST, _WIDEST = 5, 1600


def width_for_macs(target_macs: int, cell: Cell = SHRINKCNN_CELL, **architecture: Any) -> float:
    """Finds the largest width multiplier whose ShrinkCNN costs no more than a budget.

    Filters come in multiples of 4, so the costs have steps: how close one can come to the
    budget depends on the network.

    Args:
        target_macs: multiply-accumulates for one image, at most.
        cell: the network's cell.
        **architecture: further arguments of `ShrinkCNN`, but for `width`.

    Returns:
        A width from 0.05 to 16, in steps of 0.01.

    Raises:
        ValueError: even the narrowest network costs more, or the widest costs less.

    Example:
        >>> cell = Cell.dense(("input", "conv1x1"))
        >>> stage = {"stage_scales": [1], "stage_strides": [2], "stage_repeats": [1]}
        >>> small = {"input_shape": (8, 8, 1), "classes": 10, "head_filters": None, **stage}
        >>> width = width_for_macs(10_000, cell, **small)
        >>> width, count_macs(ShrinkCNN(cell, width=width, **small))
        (1.18, 9952)
    """

    def macs(hundredths: int) -> int:
        return count_macs(ShrinkCNN(cell, width=hundredths / 100, **architecture))

    def refusal(hundredths: int, why: str, cost: int) -> ValueError:
        return ValueError(
            f"target_macs={target_macs:,}: the network of width {hundredths / 100} {why} it "
            f"with {cost:,} MACs"
        )

    if (cost := macs(_NARROWEST)) > target_macs:
        raise refusal(_NARROWEST, "exceeds", cost)
    # From narrow to wide: a network of the greatest width can take a minute and gigabytes to make.
    fits, exceeds = _NARROWEST, 2 * _NARROWEST
    while (cost := macs(exceeds)) <= target_macs:
        if exceeds == _WIDEST:
            raise refusal(_WIDEST, "is below", cost)
        fits, exceeds = exceeds, min(2 * exceeds, _WIDEST)
    while exceeds - fits > 1:  # the costs never fall with the width
        middle = (fits + exceeds) // 2
        if macs(middle) <= target_macs:
            fits = middle
        else:
            exceeds = middle
    return fits / 100
