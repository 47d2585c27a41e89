"""Find small neural networks with KerasTuner: AutoShrink (arXiv 1911.09251).

Names are loaded when they are first used: looking at a cell takes no Keras.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_autoshrink.cell import SHRINKCNN_CELL, SHRINKRNN_CELL, Cell
    from keras_autoshrink.costs import count_macs, count_params
    from keras_autoshrink.data.images import load_images
    from keras_autoshrink.data.text import load_text
    from keras_autoshrink.hypermodels.cnn import CNNCellHyperModel
    from keras_autoshrink.hypermodels.rnn import RNNCellHyperModel
    from keras_autoshrink.hypermodels.search_space import declare_cell
    from keras_autoshrink.networks.architecture import Architecture
    from keras_autoshrink.networks.cnn import ShrinkCNN, width_for_macs
    from keras_autoshrink.networks.language_model import ShrinkRNN, load_model, step_model
    from keras_autoshrink.networks.operations import register_operation
    from keras_autoshrink.networks.recurrent_references import reference_language_models
    from keras_autoshrink.networks.references import reference_models
    from keras_autoshrink.networks.rnn import ShrinkRNNCell
    from keras_autoshrink.report.page import write_report
    from keras_autoshrink.report.plots import plot_cell, plot_trajectory
    from keras_autoshrink.report.tensorboard import write_tensorboard
    from keras_autoshrink.score import AccuracyScore, LossScore, PerplexityScore
    from keras_autoshrink.training.classifier import train_network
    from keras_autoshrink.training.language_model import train_language_model
    from keras_autoshrink.training.recipes import RECIPES, TEXT_RECIPES, Recipe, TextRecipe
    from keras_autoshrink.tuner.oracle import AutoShrinkOracle
    from keras_autoshrink.tuner.tuner import AutoShrink

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
    "Architecture",
    "AutoShrink",
    "AutoShrinkOracle",
    "CNNCellHyperModel",
    "Cell",
    "LossScore",
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
    "reference_language_models",
    "reference_models",
    "register_operation",
    "step_model",
    "train_language_model",
    "train_network",
    "width_for_macs",
    "write_report",
    "write_tensorboard",
]

_HOME = {
    "RECIPES": "training.recipes",
    "SHRINKCNN_CELL": "cell",
    "SHRINKRNN_CELL": "cell",
    "TEXT_RECIPES": "training.recipes",
    "AccuracyScore": "score",
    "Architecture": "networks.architecture",
    "AutoShrink": "tuner.tuner",
    "AutoShrinkOracle": "tuner.oracle",
    "CNNCellHyperModel": "hypermodels.cnn",
    "Cell": "cell",
    "LossScore": "score",
    "PerplexityScore": "score",
    "RNNCellHyperModel": "hypermodels.rnn",
    "Recipe": "training.recipes",
    "ShrinkCNN": "networks.cnn",
    "ShrinkRNN": "networks.language_model",
    "ShrinkRNNCell": "networks.rnn",
    "TextRecipe": "training.recipes",
    "count_macs": "costs",
    "count_params": "costs",
    "declare_cell": "hypermodels.search_space",
    "load_images": "data.images",
    "load_model": "networks.language_model",
    "load_text": "data.text",
    "plot_cell": "report.plots",
    "plot_trajectory": "report.plots",
    "reference_language_models": "networks.recurrent_references",
    "reference_models": "networks.references",
    "register_operation": "networks.operations",
    "step_model": "networks.language_model",
    "train_language_model": "training.language_model",
    "train_network": "training.classifier",
    "width_for_macs": "networks.cnn",
    "write_report": "report.page",
    "write_tensorboard": "report.tensorboard",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
