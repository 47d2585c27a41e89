"""The colours of the ops of a cell: one op has one colour, in pictures and on pages alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from keras_autoshrink.op_names import INPUT

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BUILT_IN = {
    **{"conv1x1": "#56B4E9", "sepconv3x3": "#E69F00"},
    **{"identity": "#56B4E9", "relu": "#E69F00", "sigmoid": "#009E73", "tanh": "#F0E442"},
}
# Those that no op of ours has come first.
_OTHERS = ("#CC79A7", "#D55E00", "#0072B2", "#009E73", "#F0E442")


def colours(ops: Iterable[str]) -> dict[str, str]:
    """The colour of each op, as `#RRGGBB`; the input has none.

    Args:
        ops: of a cell, in any order. Ops of ours have the same colours whatever stands beside
            them; others share, in the order of their names, what these leave.

    Example:
        >>> colours(("input", "conv1x1", "shift"))
        {'conv1x1': '#56B4E9', 'shift': '#CC79A7'}
    """
    names = sorted({*ops} - {INPUT})
    found = {op: _BUILT_IN[op] for op in names if op in _BUILT_IN}
    left = [colour for colour in _OTHERS if colour not in found.values()]
    others = (op for op in names if op not in found)
    return {**found, **dict(zip(others, itertools.cycle(left), strict=False))}
