"""From a cell to Keras layers: one cell, and the stages of cells that make a network.

Zhang et al., arXiv 1911.09251.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_autoshrink.cell import Cell
from keras_autoshrink.operations import get_operation


@dataclasses.dataclass(frozen=True)
class CellStyle:
    """How every cell of a network is made.

    Args:
        activation: name of the activation after each node's BatchNorm.
        residual: whether a cell adds its input to its output. Then its leaves carry no
            activation, and nothing follows the sum.
        bottleneck: b; the ops of a stage of f filters have f // b.
        batchnorm_momentum: the share that BatchNorm's moving statistics keep at each step.
    """

    activation: str = "relu"
    residual: bool = False
    bottleneck: int = 1
    batchnorm_momentum: float = 0.99

    def normalise(self, x: Any, name: str, activate: bool = True) -> Any:
        """BatchNorm, then the activation; same shape as `x`."""
        x = keras.layers.BatchNormalization(momentum=self.batchnorm_momentum, name=f"{name}_bn")(x)
        if not activate:
            return x
        return keras.layers.Activation(self.activation, name=f"{name}_act")(x)


def jit_compile() -> bool | str:
    """What to compile models with.

    XLA compiles longer than a small network trains, and runs it slower on CPUs.
    """
    return False if keras.backend.backend() == "tensorflow" else "auto"


def round_filters(filters: float) -> int:
    """The nearest positive multiple of 4 (Python's round: halves go to the even multiple)."""
    return 4 * max(1, round(filters / 4))


def apply_cell(cell: Cell, x: Any, filters: int, stride: int, style: CellStyle, name: str) -> Any:
    """Applies a cell to a tensor.

    A node concatenates its inputs on the channel axis, then applies its op, BatchNorm and the
    activation. Node 0 is the identity, or a max-pool if the cell strides.

    Args:
        cell: what it cannot reach from node 0 is left out.
        x: tensor of shape (batch, height, width, channels).
        filters: f; each op has f // bottleneck of them.
        stride: s, of the max-pool in node 0.
        style: the rest.
        name: unique prefix of the layers' names.

    Returns:
        Tensor of shape (batch, ceil(height / s), ceil(width / s), leaves * (f // bottleneck)).
    """
    cell = cell.prune()
    outputs = [x]
    if stride > 1:
        pool = keras.layers.MaxPooling2D(stride, padding="same", name=f"{name}_pool")
        outputs = [pool(x)]
    for node in range(1, cell.num_nodes):
        label = f"{name}_node{node}"
        inputs = [outputs[i] for i in cell.predecessors(node)]
        operation = get_operation(cell.ops[node])
        y = operation(_concatenate(inputs, label), filters // style.bottleneck, f"{label}_op")
        activate = not (style.residual and node in cell.leaves)
        outputs.append(style.normalise(y, label, activate))
    y = _concatenate([outputs[leaf] for leaf in cell.leaves], name)
    if not style.residual:
        return y
    if x.shape != y.shape:
        project = keras.layers.Conv2D(
            y.shape[-1], 1, strides=stride, use_bias=False, name=f"{name}_shortcut"
        )
        x = style.normalise(project(x), f"{name}_shortcut", activate=False)
    return keras.layers.Add(name=f"{name}_add")([x, y])


def apply_stages(
    cell: Cell,
    x: Any,
    filters: Sequence[int],
    strides: Sequence[int],
    repeats: Sequence[int],
    style: CellStyle,
) -> Any:
    """Applies stages of equal cells; the first cell of a stage has the stage's stride.

    Args:
        cell: the cell of all stages.
        x: tensor of shape (batch, height, width, channels).
        filters: f of each stage.
        strides: of each stage.
        repeats: how many cells each stage has.
        style: of the cells.

    Returns:
        The output of the last cell, see `apply_cell`.
    """
    for stage, stage_repeats in enumerate(repeats, start=1):
        for index in range(stage_repeats):
            stride = strides[stage - 1] if index == 0 else 1
            name = f"stage{stage}_cell{index + 1}"
            x = apply_cell(cell, x, filters[stage - 1], stride, style, name)
    return x


def _concatenate(tensors: list[Any], name: str) -> Any:
    if len(tensors) == 1:
        return tensors[0]
    return keras.layers.Concatenate(name=f"{name}_concat")(tensors)
