"""The cells that the search of the paper found (Zhang et al., arXiv 1911.09251)."""

from __future__ import annotations

from keras_autoshrink.cell import Cell
from keras_autoshrink.op_names import INPUT

SHRINKCNN_CELL = Cell(
    ops=(INPUT, "sepconv3x3", "sepconv3x3", "sepconv3x3", "conv1x1"),
    edges=((0, 1), (0, 2), (0, 3), (1, 3), (0, 4), (2, 4)),
)
"""The published ShrinkCNN cell: 384M multiply-accumulates at width 1.4 (arXiv 1911.09251)."""

SHRINKRNN_CELL = Cell(
    ops=(INPUT, "identity", "sigmoid", "sigmoid", "tanh", "identity"),
    edges=(
        *((0, 1), (0, 2), (0, 3), (0, 4), (0, 5)),
        *((1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 4), (3, 5)),
    ),
)
"""The published ShrinkRNN cell: 23.0M parameters at 745 units, with Penn Treebank's 10,000 words.

Node 0 is `tanh(g)`, gated, of the cell's input and state (arXiv 1911.09251).
"""
