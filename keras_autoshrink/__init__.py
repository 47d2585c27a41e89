"""Find small neural networks with KerasTuner: AutoShrink (arXiv 1911.09251).

Names are loaded when they are first used: looking at a cell takes no Keras.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_autoshrink.applications import ShrinkCNN, width_for_macs
    from keras_autoshrink.cell import Cell
    from keras_autoshrink.costs import count_macs, count_params
    from keras_autoshrink.datasets import load_images
    from keras_autoshrink.html_report import write_report
    from keras_autoshrink.hypermodels import CNNCellHyperModel
    from keras_autoshrink.language_hypermodel import RNNCellHyperModel
    from keras_autoshrink.language_models import ShrinkRNN, load_model, step_model
    from keras_autoshrink.operations import register_operation
    from keras_autoshrink.oracle import AutoShrinkOracle
    from keras_autoshrink.published_cells import SHRINKCNN_CELL, SHRINKRNN_CELL
    from keras_autoshrink.recipes import RECIPES, Recipe
    from keras_autoshrink.recurrent import ShrinkRNNCell
    from keras_autoshrink.report import plot_cell, plot_trajectory
    from keras_autoshrink.score import AccuracyScore, PerplexityScore
    from keras_autoshrink.search_space import declare_cell
    from keras_autoshrink.tensorboard_log import write_tensorboard
    from keras_autoshrink.text_data import load_text
    from keras_autoshrink.text_recipes import TEXT_RECIPES, TextRecipe
    from keras_autoshrink.text_training import train_language_model
    from keras_autoshrink.training import train_network
    from keras_autoshrink.tuner import AutoShrink

# A GPU's memory as it is needed, not all of it at once: others may share the GPU. TensorFlow and
# JAX read it when they first look for devices, such as for a tf.distribute.Strategy; a user's own
# setting stays.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "SHRINKCNN_CELL",
    "SHRINKRNN_CELL",
    "TEXT_RECIPES",
    "AccuracyScore",
    "AutoShrink",
    "AutoShrinkOracle",
    "CNNCellHyperModel",
    "Cell",
    "PerplexityScore",
    "RNNCellHyperModel",
    "Recipe",
    "ShrinkCNN",
    "ShrinkRNN",
    "ShrinkRNNCell",
    "TextRecipe",
    "count_macs",
    "count_params",
    "declare_cell",
    "load_images",
    "load_model",
    "load_text",
    "plot_cell",
    "plot_trajectory",
    "register_operation",
    "step_model",
    "train_language_model",
    "train_network",
    "width_for_macs",
    "write_report",
    "write_tensorboard",
]

_HOME = {
    "RECIPES": "recipes",
    "SHRINKCNN_CELL": "published_cells",
    "SHRINKRNN_CELL": "published_cells",
    "TEXT_RECIPES": "text_recipes",
    "AccuracyScore": "score",
    "AutoShrink": "tuner",
    "AutoShrinkOracle": "oracle",
    "CNNCellHyperModel": "hypermodels",
    "Cell": "cell",
    "PerplexityScore": "score",
    "RNNCellHyperModel": "language_hypermodel",
    "Recipe": "recipes",
    "ShrinkCNN": "applications",
    "ShrinkRNN": "language_models",
    "ShrinkRNNCell": "recurrent",
    "TextRecipe": "text_recipes",
    "count_macs": "costs",
    "count_params": "costs",
    "declare_cell": "search_space",
    "load_images": "datasets",
    "load_model": "language_models",
    "load_text": "text_data",
    "plot_cell": "report",
    "plot_trajectory": "report",
    "register_operation": "operations",
    "step_model": "language_models",
    "train_language_model": "text_training",
    "train_network": "training",
    "width_for_macs": "applications",
    "write_report": "html_report",
    "write_tensorboard": "tensorboard_log",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
