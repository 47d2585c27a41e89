"""What the subcommands take for images alone, and what for texts alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# For each subcommand and task the options, with the value where nothing is given.
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "search": {
        "images": {
            "dataset": None,
            "image_size": None,
            "strict": False,
            "proxy_images": None,
            "nodes": 8,
            "epochs": 20,
            "filters": 16,
            "stem_filters": 32,
            "learning_rate": 4e-3,
            "mac_weight": 0.1,
            "distribution_strategy": "none",
        },
        "text": {
            "vocabulary_size": None,
            "nodes": 6,
            "epochs": 10,
            "units": 100,
            "steps": 35,
            "learning_rate": 20.0,
        },
    },
    "train": {
        "images": {
            "dataset": None,
            "image_size": None,
            "strict": False,
            "label_smoothing": None,
            "ema": None,
            "activation": "relu",
            "precision": "float32",
            "distribution_strategy": "none",
            "target_macs": None,
            "width": 1.0,
        },
        "text": {"vocabulary_size": None, "units": None},
    },
    "export": {
        "images": {
            "dataset": None,
            "image_size": None,
            "strict": False,
            "max_accuracy_drop": None,
            "qat": False,
            "prune": None,
            "epochs": None,
        },
        "text": {},
    },
}


def settle(options: argparse.Namespace, task: str) -> None:
    """Fills in what a task takes where nothing was given, in place.

    Raises:
        ValueError: something was given that is for another task.
    """
    tasks = _OPTIONS[options.command]
    for other, names in tasks.items():
        for name in names:
            if name not in tasks[task] and getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')}: is for {other}, this is {task}")
    for name, value in tasks[task].items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def default_project(options: argparse.Namespace) -> str:
    """The folder of a search that was given no name: its data set's."""
    if options.task == "text":
        return Path(options.data_dir or "pydoc").resolve().name
    return Path(options.dataset or "digits").resolve().stem
