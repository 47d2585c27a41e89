"""The arguments that several commands of `autoshrink` take."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_autoshrink.argument_types import positive


def add_task(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--task`; `what` begins its help."""
    tasks = ("images", "text")
    parser.add_argument(
        "--task", choices=tasks, default=tasks[0], help=f"{what} (default: {tasks[0]})"
    )


def add_cell(parser: argparse.ArgumentParser) -> None:
    """Adds `CELL`."""
    parser.add_argument(
        "cell",
        metavar="CELL",
        help="a search's folder, a cell's .json file, or 'shrinkcnn' or 'shrinkrnn' for the "
        "published cells",
    )


def add_data(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    """Adds what says which data to load.

    Args:
        parser: of the command.
        default: what its help is to say of a missing `--dataset`.

    Returns:
        The group of what is for images alone.
    """
    images = parser.add_argument_group("of images")
    images.add_argument(
        "--dataset",
        help="'digits', 'cifar10', an .npz file with x_train and y_train, or a folder with one "
        "folder of images for each class; to train, also 'imagenet2012', or a folder with two such "
        f"folders, 'train' and 'val' (default: {default})",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="where tensorflow-datasets keeps its data; of a text, the folder with its train.txt, "
        "valid.txt and test.txt (by default Python's own documentation)",
    )
    images.add_argument(
        "--image-size",
        type=positive,
        help="pixels to which images from files are resized, in RGB (default: 32; of "
        "'imagenet2012' and 'train' and 'val' 224)",
    )
    images.add_argument(
        "--strict",
        action="store_true",
        default=None,
        help="refuse a folder with an image that cannot be read; such images are left out and "
        "named by default",
    )
    return images


def add_seed(
    parser: argparse.ArgumentParser, what: str = "all random choices come from it"
) -> None:
    """Adds `--seed`; `what` begins its help."""
    parser.add_argument("--seed", type=int, default=0, help=f"{what} (default: 0)")


def add_distribution_strategy(images: argparse._ArgumentGroup, trains: str, workers: str) -> None:
    """Adds `--distribution-strategy`.

    Args:
        images: the command's group of what is for images alone.
        trains: what the devices do, for its help.
        workers: what is to be known of several machines, for its help.
    """
    images.add_argument(
        "--distribution-strategy",
        choices=("none", "mirrored", "multiworker"),
        help=f"'mirrored' {trains} on all GPUs of this machine, 'multiworker' on those of all "
        f"machines that TF_CONFIG names; {workers} (default: none)",
    )


def add_text(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    """Adds `--vocabulary-size`.

    Args:
        parser: of the command.
        default: what its help is to say of the size where none is given.

    Returns:
        The group of what is for texts alone.
    """
    text = parser.add_argument_group("of texts")
    text.add_argument(
        "--vocabulary-size",
        type=positive,
        help=f"how many words to keep, the most frequent (default: {default})",
    )
    return text
