"""The arguments of `autoshrink train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_autoshrink.argument_types import count, positive, rate
from keras_autoshrink.shared_arguments import (
    add_cell,
    add_data,
    add_distribution_strategy,
    add_seed,
    add_text,
)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add_cell(parser)
    images = add_data(parser, "that of the search")
    text = add_text(parser, "that of the search")
    add_seed(parser, "of the initial weights; the data are split as the search split them")
    parser.add_argument(
        "--recipe",
        choices=("plain", "cifar10", "imagenet", "small", "ptb"),
        help="how to train: images 'plain' (Adam, images as they are), 'cifar10' (SGD, random "
        "crop, flip, cutout) or 'imagenet' (as published), by default that of the data set, else "
        "'plain'; texts 'small' (the default) or 'ptb' (as published)",
    )
    parser.add_argument("--epochs", type=positive, help="by default the recipe's")
    text.add_argument(
        "--units",
        type=positive,
        help="size of the state (default: 200, with --recipe ptb 745)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="images, or windows of text, in a step (by default the recipe's)",
    )
    parser.add_argument(
        "--learning-rate", type=rate, help="at the first step (by default the recipe's)"
    )
    images.add_argument(
        "--label-smoothing", type=float, metavar="SHARE", help="by default the recipe's"
    )
    images.add_argument(
        "--ema",
        type=float,
        metavar="MOMENTUM",
        help="take the moving average of the weights, such as 0.999 (by default the recipe's)",
    )
    images.add_argument("--activation", choices=("relu", "swish"), help="(default: relu)")
    images.add_argument(
        "--precision",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="of the computation; the trained model is float32 (default: float32)",
    )
    add_distribution_strategy(images, "trains", "they have to see the folder of the output")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="folder for TensorBoard")
    size = images.add_mutually_exclusive_group()
    size.add_argument("--width", type=rate, help="width multiplier (default: 1.0)")
    size.add_argument(
        "--target-macs",
        type=count,
        metavar="N",
        help="take the largest width whose multiply-accumulates for one image are at most N, "
        "such as 300M",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL.keras")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output that is there, and begin anew"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the results")
