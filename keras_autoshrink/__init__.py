"""Find small neural networks with KerasTuner: AutoShrink (arXiv 1911.09251).

Names are loaded when they are first used: looking at a cell takes no Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_autoshrink.applications import ShrinkCNN, width_for_macs
    from keras_autoshrink.cell import SHRINKCNN_CELL, Cell
    from keras_autoshrink.costs import count_macs, count_params
    from keras_autoshrink.datasets import load_images
    from keras_autoshrink.hypermodels import CNNCellHyperModel
    from keras_autoshrink.operations import register_operation
    from keras_autoshrink.oracle import AutoShrinkOracle
    from keras_autoshrink.recipes import RECIPES, Recipe
    from keras_autoshrink.report import plot_cell, plot_trajectory
    from keras_autoshrink.score import AccuracyScore
    from keras_autoshrink.search_space import declare_cell
    from keras_autoshrink.training import train_network
    from keras_autoshrink.tuner import AutoShrink

__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "SHRINKCNN_CELL",
    "AccuracyScore",
    "AutoShrink",
    "AutoShrinkOracle",
    "CNNCellHyperModel",
    "Cell",
    "Recipe",
    "ShrinkCNN",
    "count_macs",
    "count_params",
    "declare_cell",
    "load_images",
    "plot_cell",
    "plot_trajectory",
    "register_operation",
    "train_network",
    "width_for_macs",
]

_HOME = {
    "RECIPES": "recipes",
    "SHRINKCNN_CELL": "cell",
    "AccuracyScore": "score",
    "AutoShrink": "tuner",
    "AutoShrinkOracle": "oracle",
    "CNNCellHyperModel": "hypermodels",
    "Cell": "cell",
    "Recipe": "recipes",
    "ShrinkCNN": "applications",
    "count_macs": "costs",
    "count_params": "costs",
    "declare_cell": "search_space",
    "load_images": "datasets",
    "plot_cell": "report",
    "plot_trajectory": "report",
    "register_operation": "operations",
    "train_network": "training",
    "width_for_macs": "applications",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
