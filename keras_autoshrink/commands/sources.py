"""Which data a command reads: as given, else as recorded of a search or training, else our own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_autoshrink.data.images import BUILT_IN, IMAGENET, is_streamed
from keras_autoshrink.data.text import PYDOC

SEARCH_SIZE = 32  # height and width of images from files, unless --image-size says it


def image_source(options: argparse.Namespace, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Says which images to load and how to split them: as given, as recorded, else the digits."""
    dataset = options.dataset
    if dataset is not None and Path(dataset).exists() and dataset not in BUILT_IN:
        dataset = str(Path(dataset).resolve())  # to be found from another folder, too
    source = {"dataset": "digits", "image_size": None, "split_seed": 0}
    if dataset in (None, recorded.get("dataset", dataset)):  # of other data it says nothing
        source.update({name: recorded[name] for name in source if name in recorded})
    given = {"dataset": dataset, "image_size": options.image_size}
    source.update({name: value for name, value in given.items() if value is not None})
    if options.data_dir and source["dataset"] not in ("cifar10", IMAGENET):
        raise ValueError(
            f"--data-dir {options.data_dir}: is where tensorflow-datasets keeps its data, of which "
            f"{source['dataset']!r} is none"
        )
    if source["image_size"] is None:
        source["image_size"] = 224 if is_streamed(source["dataset"]) else SEARCH_SIZE
    return source


def searched_images(options: argparse.Namespace) -> dict[str, Any]:
    """Says which images a search loads: small ones, also of data that a training streams."""
    return image_source(options, {"split_seed": options.seed, "image_size": SEARCH_SIZE})


def text_source(options: argparse.Namespace, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Says which text to load: as given, else as recorded, else the built-in one."""
    source = {"task": "text", "text": PYDOC, "vocabulary_size": None}
    # To be found from another folder, too.
    text = str(options.data_dir) if options.data_dir else None
    if text not in (None, PYDOC):
        text = str(options.data_dir.resolve())
    if text in (None, recorded.get("text", text)):  # of another text it says nothing
        source.update({name: recorded[name] for name in source if name in recorded})
    given = {"text": text, "vocabulary_size": getattr(options, "vocabulary_size", None)}
    source.update({name: value for name, value in given.items() if value is not None})
    return source
