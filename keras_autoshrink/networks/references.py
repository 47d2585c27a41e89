"""References: the networks that engineers write by hand, which a search has to beat."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from keras_autoshrink.backend import channels_last
from keras_autoshrink.cell import SHRINKCNN_CELL, Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.costs.file_size import count_file_bytes
from keras_autoshrink.networks.budget import KB, solve_filters
from keras_autoshrink.networks.cnn import CellStyle, ShrinkCNN

_log = logging.getLogger(__name__)

ImageShape = tuple[int, int, int]  # height, width, channels

# Below this size of an image the published strides would leave one pixel, and at the budgets of
# such images the published depth a network of very few channels: both are less there.
_SMALL = 64
# Pixels of height and width that a stride has to leave: below, a 3x3 kernel sees mostly padding.
_FEWEST_PIXELS = 3

_CHAIN_CELL = Cell(("input", "sepconv3x3", "sepconv3x3"), ((0, 1), (1, 2)))


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network that engineers write by hand, of any width.

    Attributes:
        name: what it is called in results.
        source: its publication, or that of what it is made of.
        build: makes it, `build(input_shape, classes, filters, stem_stride, batchnorm_momentum)`,
            uncompiled, and returning logits. Raises ValueError if the images are too small.
        base: the widths, the published ones where there are such, for images of 64 pixels and
            more. At a budget only their proportions count.
        small_base: the widths for images below 64 pixels.
    """

    name: str
    source: str
    build: Callable[..., Any]
    base: tuple[int, ...]
    small_base: tuple[int, ...]

    def widths(self, input_shape: ImageShape) -> tuple[int, ...]:
        """Returns the base widths for images of a shape."""
        return self.small_base if _is_small(input_shape) else self.base


def reference_models(
    input_shape: ImageShape,
    classes: int,
    target_macs: int | None = None,
    target_params: int | None = None,
    target_kb: float | None = None,
    batchnorm_momentum: float = 0.9,
) -> dict[str, keras.Model]:
    """Builds the networks that engineers write by hand, as wide as a budget allows.

    They are a plain chain of separable convolutions, a residual stack of them, MobileNetV2 (Sandler
    et al., arXiv 1801.04381), MobileNetV4-Conv-S (Qin et al., arXiv 2404.10518), the ResNet-8 of
    MLPerf Tiny (Banbury et al., arXiv 2106.07597) and the published ShrinkCNN (Zhang et al., arXiv
    1911.09251). Each is built twice: with a stem of stride 1 under its name, and with one of
    stride 2 under its name and `-stride2`. For images below 64 pixels they have fewer strides and
    blocks than the published ones. Which is best depends on data and budget:
    train them all by one recipe.

    A network that the images are too small for, or that cannot have the target's cost, is left out,
    and the log says why.

    Args:
        input_shape: (height, width, channels).
        classes: number of classes.
        target_macs: multiply-accumulates for one image, at most.
        target_params: parameters, at most.
        target_kb: kilobytes (1,000 bytes) of the int8 `.tflite` file, at most, without labels. The
            other targets are None.
        batchnorm_momentum: of all BatchNorm layers.

    Returns:
        Uncompiled functional models by name, which return logits. Each costs 95% to 100% of the
        target, wherever a single filter is as fine as that.

    Raises:
        ValueError: an argument is out of its range, or no network is left.

    Example:
        >>> models = reference_models((4, 4, 1), classes=10, target_macs=20_000)
        >>> [*models]  # the others cost more at any width, or need larger images
        ['chain', 'separable-residual', 'resnet8']
        >>> models["chain"].output_shape, count_macs(models["chain"])
        ((None, 10), 19616)
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape={input_shape!r}: expected (height, width, channels)")
    height, width, channels = (whole("input_shape", size, 1) for size in input_shape)
    classes = whole("classes", classes, 1)
    targets: dict[str, tuple[float | None, Callable[[Any], int]]] = {
        "target_macs": (target_macs, count_macs),
        "target_params": (target_params, count_params),
        "target_kb": (target_kb, count_file_bytes),
    }
    given = [name for name, (value, _) in targets.items() if value is not None]
    if len(given) != 1:
        said = ", ".join(f"{name}={value!r}" for name, (value, _) in targets.items())
        raise ValueError(f"{said}: expected one of the three")
    (name,) = given
    value, cost = targets[name]
    target = int(positive(name, value) * KB) if name == "target_kb" else whole(name, value, 1)

    shape = (height, width, channels)
    models, reasons = {}, {}
    for label in reference_labels():
        try:
            reference, arguments = solve_reference(label, shape, classes, target, cost, name)
        except ValueError as error:
            reasons[label] = " ".join(str(error).split())
        else:
            build = REFERENCES[reference].build
            models[label] = build(**arguments, batchnorm_momentum=batchnorm_momentum)
    if not models:
        label, reason = next(iter(reasons.items()))
        raise ValueError(f"{reason} ({label}; nor can another reference be built)")
    for label, reason in reasons.items():
        _log.warning("reference %s is left out: %s", label, reason)
    return models


def reference_labels() -> list[str]:
    """Lists what the models of `reference_models` may be called."""
    return [_label(name, stem_stride) for stem_stride in (1, 2) for name in REFERENCES]


def solve_reference(
    label: str,
    input_shape: ImageShape,
    classes: int,
    target: int,
    cost: Callable[[Any], int],
    name: str,
) -> tuple[str, dict[str, Any]]:
    """Finds the widths of one of the networks of `reference_models`.

    Args:
        label: one of `reference_labels`.
        input_shape: (height, width, channels).
        classes: number of classes.
        target: as for `solve_filters`.
        cost: as for `solve_filters`.
        name: as for `solve_filters`.

    Returns:
        The name of the `Reference`, and the arguments of its `build`.

    Raises:
        ValueError: the images are too small for it.
        OverBudgetError: no width of it meets the target.
    """
    known = {_label(each, stride): (each, stride) for each in REFERENCES for stride in (1, 2)}
    reference, stem_stride = known[label]
    arguments = {"input_shape": input_shape, "classes": classes, "stem_stride": stem_stride}
    found = REFERENCES[reference]
    build = functools.partial(found.build, **arguments)
    filters = solve_filters(
        lambda filters: build(filters=filters), found.widths(input_shape), target, cost, name
    )
    return reference, {**arguments, "filters": filters}


def _label(name: str, stem_stride: int) -> str:
    return name if stem_stride == 1 else f"{name}-stride{stem_stride}"


def _is_small(input_shape: ImageShape) -> bool:
    return min(input_shape[:2]) < _SMALL


def _fitting_strides(
    input_shape: ImageShape, stem_stride: int, strides: Sequence[int]
) -> list[int]:
    """Returns the strides of the stages, 1 for those that the images are too small for.

    Raises:
        ValueError: the images are too small for the stem.
    """
    pixels = -(-min(input_shape[:2]) // stem_stride)
    if pixels < _FEWEST_PIXELS:
        raise ValueError(
            f"input_shape={input_shape}: a stem of stride {stem_stride} leaves {pixels} pixels of "
            f"height or width, expected {_FEWEST_PIXELS} or more"
        )
    fitting = []
    for stride in strides:
        left = -(-pixels // stride)
        fitting.append(stride if left >= _FEWEST_PIXELS else 1)
        pixels = left if left >= _FEWEST_PIXELS else pixels
    return fitting


def _convolve(
    x: Any,
    filters: int,
    kernel_size: int,
    stride: int,
    style: CellStyle,
    name: str,
    activate: bool = True,
) -> Any:
    """Applies a convolution, BatchNorm and, if asked to, the activation."""
    x = keras.layers.Conv2D(
        filters, kernel_size, strides=stride, padding="same", use_bias=False, name=name
    )(x)
    return style.normalise(x, name, activate)


def _depthwise(x: Any, kernel_size: int, stride: int, name: str) -> Any:
    """Applies a depthwise convolution."""
    return keras.layers.DepthwiseConv2D(
        kernel_size, strides=stride, padding="same", use_bias=False, name=name
    )(x)


def _classify(inputs: Any, x: Any, classes: int, name: str) -> keras.Model:
    """Ends a network: global average pool, unless it is pooled, and logits."""
    if len(x.shape) > 2:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    # In float32 also where a mixed policy is in force: half precision is too coarse for a loss.
    outputs = keras.layers.Dense(classes, dtype="float32", name="classes")(x)
    return keras.Model(inputs, outputs, name=name)


def _shrinkcnn(
    name: str,
    cell: Cell,
    repeats: Sequence[int],
    strides: Sequence[int],
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int,
    batchnorm_momentum: float,
    residual: bool = False,
) -> keras.Model:
    """Builds a ShrinkCNN of given filters: of the stem, each stage and, if given, the head."""
    stem, *stages = filters
    head = stages.pop() if len(stages) > len(repeats) else None
    return ShrinkCNN(
        cell,
        input_shape,
        classes,
        stage_filters=stages,
        stage_strides=_fitting_strides(input_shape, stem_stride, strides),
        stage_repeats=repeats,
        stem_filters=stem,
        stem_stride=stem_stride,
        head_filters=head,
        residual=residual,
        batchnorm_momentum=batchnorm_momentum,
        name=_label(name, stem_stride),
    )


def build_chain(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 1,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds a chain of separable convolutions, two in a stage, with max-pools between stages.

    It has three stages for images below 64 pixels, five for larger ones.
    """
    stages = 3 if _is_small(input_shape) else 5
    return _shrinkcnn(
        "chain",
        _CHAIN_CELL,
        (1,) * stages,
        (1, *(2,) * (stages - 1)),
        input_shape,
        classes,
        filters,
        stem_stride,
        batchnorm_momentum,
    )


def build_shrinkcnn(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 2,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds the published ShrinkCNN-A (Zhang et al., arXiv 1911.09251).

    For images below 64 pixels it has three stages of two cells each, and no head.
    """
    small = _is_small(input_shape)
    return _shrinkcnn(
        "shrinkcnn",
        SHRINKCNN_CELL,
        (2, 2, 2) if small else (1, 3, 4, 6, 4),
        (1, 2, 2) if small else (1, 2, 2, 2, 2),
        input_shape,
        classes,
        filters,
        stem_stride,
        batchnorm_momentum,
        residual=True,
    )


@channels_last()
def build_separable_residual(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 1,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds stages of residual blocks of two separable convolutions each.

    A block that strides has it in its first convolution; its shortcut is an average-pool and a
    1x1 convolution. For images below 64 pixels there are three stages of 1, 2 and 1 blocks, for
    larger ones five, of 1, 2, 2, 2 and 1.
    """
    repeats = (1, 2, 1) if _is_small(input_shape) else (1, 2, 2, 2, 1)
    strides = _fitting_strides(input_shape, stem_stride, (1, *(2,) * (len(repeats) - 1)))
    style = CellStyle("relu", batchnorm_momentum=batchnorm_momentum)
    inputs = keras.Input(input_shape, name="image")
    x = _convolve(inputs, filters[0], 3, stem_stride, style, "stem")
    for stage, (width, blocks) in enumerate(zip(filters[1:], repeats, strict=True)):
        for block in range(blocks):
            stride = strides[stage] if block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            y = _depthwise(x, 3, stride, f"{name}_depthwise1")
            y = _convolve(y, width, 1, 1, style, f"{name}_pointwise1")
            y = _depthwise(y, 3, 1, f"{name}_depthwise2")
            y = _convolve(y, width, 1, 1, style, f"{name}_pointwise2", activate=False)
            if stride > 1:
                pool = keras.layers.AveragePooling2D(stride, padding="same", name=f"{name}_pool")
                x = pool(x)
            if x.shape != y.shape:
                x = _convolve(x, width, 1, 1, style, f"{name}_shortcut", activate=False)
            x = keras.layers.Add(name=f"{name}_add")([x, y])
            x = keras.layers.Activation("relu", name=f"{name}_act")(x)
    return _classify(inputs, x, classes, _label("separable-residual", stem_stride))


class _Block(NamedTuple):
    """A bottleneck of MobileNetV2 or MobileNetV4: 1x1 to `expansion` times its input, 1x1 back.

    With a `start`, a depthwise convolution of that kernel size stands before the first 1x1; with
    a `middle`, one behind it. A fused one has a full convolution in place of the first 1x1 and
    the middle, no shortcut, and an activation at its end.
    """

    expansion: int
    start: int | None
    middle: int | None
    fused: bool = False


class _Stage(NamedTuple):
    """A stage of blocks, the first of which has the stride."""

    stride: int
    blocks: tuple[_Block, ...]


def _inverted(expansion: int, blocks: int = 1, kernel_size: int = 3) -> tuple[_Block, ...]:
    return (_Block(expansion, None, kernel_size),) * blocks


# Table 2 of arXiv 1801.04381.
_MOBILENETV2 = (
    _Stage(1, _inverted(1, 1)),
    _Stage(2, _inverted(6, 2)),
    _Stage(2, _inverted(6, 3)),
    _Stage(2, _inverted(6, 4)),
    _Stage(1, _inverted(6, 3)),
    _Stage(2, _inverted(6, 3)),
    _Stage(1, _inverted(6, 1)),
)
_SMALL_MOBILENETV2 = (
    _Stage(1, _inverted(1, 1)),
    _Stage(2, _inverted(6, 2)),
    _Stage(2, _inverted(6, 2)),
    _Stage(2, _inverted(6, 2)),
)

# MNv4-Conv-S in the appendix of arXiv 2404.10518.
_MOBILENETV4 = (
    _Stage(2, (_Block(1, None, 3, fused=True),)),
    _Stage(2, (_Block(3, None, 3, fused=True),)),
    _Stage(2, (_Block(3, 5, 5), *_inverted(2, 4), _Block(4, 3, None))),
    _Stage(
        2,
        (
            _Block(6, 3, 3),
            _Block(4, 5, 5),
            *_inverted(4, kernel_size=5),
            *_inverted(3, kernel_size=5),
            *_inverted(4, 2),
        ),
    ),
)
_SMALL_MOBILENETV4 = (
    _Stage(2, (_Block(2, None, 3, fused=True),)),
    _Stage(2, (_Block(3, 5, 5), *_inverted(2), _Block(4, 3, None))),
    _Stage(2, (_Block(6, 3, 3), *_inverted(4, kernel_size=5), *_inverted(4))),
)


def build_mobilenetv2(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 2,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds a MobileNetV2 (Sandler et al., arXiv 1801.04381).

    The filters are those of the stem, of each stage and of the head. For images below 64 pixels
    it has the first four of the seven stages, of 1, 2, 2 and 2 blocks, and a total stride of 8
    behind the stem, or of 4 where 8 would leave too few pixels: those of 32x32 end as 4x4.
    """
    return _mobilenet(
        _label("mobilenetv2", stem_stride),
        _SMALL_MOBILENETV2 if _is_small(input_shape) else _MOBILENETV2,
        input_shape,
        classes,
        filters,
        stem_stride,
        CellStyle("relu6", batchnorm_momentum=batchnorm_momentum),
    )


def build_mobilenetv4(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 2,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds a MobileNetV4-Conv-S (Qin et al., arXiv 2404.10518).

    The filters are those of the stem, of each stage, of the head and of the layer behind its pool.
    For images below 64 pixels it has one fused stage instead of two, three blocks instead of six
    in the two other stages, nothing behind the pool, and a total stride of 8 behind the stem, or
    of 4 where 8 would leave too few pixels.
    """
    return _mobilenet(
        _label("mobilenetv4", stem_stride),
        _SMALL_MOBILENETV4 if _is_small(input_shape) else _MOBILENETV4,
        input_shape,
        classes,
        filters,
        stem_stride,
        CellStyle("relu", batchnorm_momentum=batchnorm_momentum),
    )


@channels_last()
def _mobilenet(
    name: str,
    stages: Sequence[_Stage],
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int,
    style: CellStyle,
) -> keras.Model:
    strides = _fitting_strides(input_shape, stem_stride, [stage.stride for stage in stages])
    stem, *widths = filters
    widths, (head, *hidden) = widths[: len(stages)], widths[len(stages) :]
    inputs = keras.Input(input_shape, name="image")
    x = _convolve(inputs, stem, 3, stem_stride, style, "stem")
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage.blocks):
            stride = strides[i] if j == 0 else 1
            x = _apply_block(x, block, widths[i], stride, style, f"stage{i + 1}_block{j + 1}")
    x = _convolve(x, head, 1, 1, style, "head")
    if hidden:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(*hidden, use_bias=False, name="hidden")(x)
        x = style.normalise(x, "hidden")
    return _classify(inputs, x, classes, name)


def _apply_block(
    x: Any, block: _Block, filters: int, stride: int, style: CellStyle, name: str
) -> Any:
    """Applies a bottleneck, with a shortcut where the shape stays."""
    expanded = block.expansion * x.shape[-1]
    if block.fused:
        y = _convolve(x, expanded, block.middle or 1, stride, style, f"{name}_expand")
        return _convolve(y, filters, 1, 1, style, f"{name}_project")
    y = x
    if block.start:
        at_start = 1 if block.middle else stride
        y = _depthwise(y, block.start, at_start, f"{name}_start")
        y = style.normalise(y, f"{name}_start", activate=False)
    if block.expansion > 1:
        y = _convolve(y, expanded, 1, 1, style, f"{name}_expand")
    if block.middle:
        y = _depthwise(y, block.middle, stride, f"{name}_middle")
        y = style.normalise(y, f"{name}_middle")
    y = _convolve(y, filters, 1, 1, style, f"{name}_project", activate=False)
    return keras.layers.Add(name=f"{name}_add")([x, y]) if x.shape == y.shape else y


@channels_last()
def build_resnet8(
    input_shape: ImageShape,
    classes: int,
    filters: Sequence[int],
    stem_stride: int = 1,
    batchnorm_momentum: float = 0.9,
) -> keras.Model:
    """Builds the ResNet-8 of MLPerf Tiny (Banbury et al., arXiv 2106.07597).

    The filters are those of its three stacks; the stem has those of the first. As published, all
    convolutions have a bias, and those of the shortcuts have strides and no BatchNorm.
    """
    strides = _fitting_strides(input_shape, stem_stride, (1, 2, 2))
    style = CellStyle("relu", batchnorm_momentum=batchnorm_momentum)

    def convolve(x: Any, width: int, kernel_size: int, stride: int, name: str) -> Any:
        return keras.layers.Conv2D(
            width,
            kernel_size,
            strides=stride,
            padding="same",
            kernel_initializer="he_normal",
            name=name,
        )(x)

    inputs = keras.Input(input_shape, name="image")
    x = style.normalise(convolve(inputs, filters[0], 3, stem_stride, "stem"), "stem")
    for stack, (width, stride) in enumerate(zip(filters, strides, strict=True), start=1):
        name = f"stack{stack}"
        y = convolve(x, width, 3, stride, f"{name}_conv1")
        y = style.normalise(y, f"{name}_conv1")
        y = convolve(y, width, 3, 1, f"{name}_conv2")
        y = style.normalise(y, f"{name}_conv2", activate=False)
        if x.shape != y.shape:
            x = convolve(x, width, 1, stride, f"{name}_shortcut")
        x = keras.layers.Add(name=f"{name}_add")([x, y])
        x = keras.layers.Activation("relu", name=f"{name}_act")(x)
    return _classify(inputs, x, classes, _label("resnet8", stem_stride))


REFERENCES = {
    reference.name: reference
    for reference in (
        Reference(
            "chain",
            "plain stack of depthwise separable convolutions, as in arXiv 1704.04861",
            build_chain,
            base=(32, 16, 32, 64, 128, 256),
            small_base=(32, 16, 32, 64),
        ),
        Reference(
            "separable-residual",
            "residual blocks (arXiv 1512.03385) of depthwise separable convolutions",
            build_separable_residual,
            base=(32, 32, 64, 128, 256, 512),
            small_base=(32, 32, 64, 128),
        ),
        Reference(
            "mobilenetv2",
            "Sandler et al., MobileNetV2, CVPR 2018, arXiv 1801.04381",
            build_mobilenetv2,
            base=(32, 16, 24, 32, 64, 96, 160, 320, 1280),
            small_base=(32, 16, 24, 32, 64, 256),
        ),
        Reference(
            "mobilenetv4",
            "Qin et al., MobileNetV4, ECCV 2024, arXiv 2404.10518",
            build_mobilenetv4,
            base=(32, 32, 64, 96, 128, 960, 1280),
            small_base=(16, 32, 64, 96, 384),
        ),
        Reference(
            "resnet8",
            "Banbury et al., MLPerf Tiny, NeurIPS 2021, arXiv 2106.07597",
            build_resnet8,
            base=(16, 32, 64),
            small_base=(16, 32, 64),
        ),
        Reference(
            "shrinkcnn",
            "Zhang et al., AutoShrink, AAAI 2020, arXiv 1911.09251",
            build_shrinkcnn,
            base=(44, 12, 24, 44, 88, 180, 1280),
            small_base=(32, 16, 32, 64),
        ),
    )
}
"""The hand-made networks by name, as `reference_models` builds them."""
