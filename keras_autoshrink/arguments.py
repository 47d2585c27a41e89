"""The arguments of the command `autoshrink`."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_autoshrink import __version__
from keras_autoshrink.argument_types import address, count, positive, rate
from tflite_export.command_line import Parser

PROGRAM = "autoshrink"

_EXAMPLES = {
    "demo": "autoshrink demo --directory demo",
    "search": "autoshrink search --dataset digits --nodes 5 --candidates 4 --epochs 10",
    "train": "autoshrink train runs/digits --epochs 30 --output digits.keras",
    "export": "autoshrink export digits.keras --quantization float32 int8",
    "generate": "autoshrink generate lm.float32.tflite 'the exception is'",
    "show": "autoshrink show runs/digits --picture cell.png",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = Parser(
        prog=PROGRAM,
        description="Finds small neural networks by shrinking a cell edge by edge, and brings "
        "them to the phone as checked .tflite files.",
        epilog="autoshrink COMMAND --help shows an example of each",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {_EXAMPLES[name]}",
        )

    demo = command("demo", "search, train, export and check, on handwritten digits or a text")
    _add_task(demo, "on handwritten digits, or on Python's own documentation")
    demo.add_argument("--directory", type=Path, default=Path("demo"), help="where to put it all")
    demo.add_argument("--overwrite", action="store_true", help="delete an earlier demo there")
    _add_seed(demo)

    search = command("search", "find a cell")
    _add_task(search, "a cell of convolutions, or a recurrent one of a language model")
    images = _add_data(search, "digits")
    text = _add_text(search, "all that occur")
    _add_seed(search)
    images.add_argument(
        "--proxy-images",
        type=positive,
        nargs=2,
        metavar=("TRAIN", "VALIDATION"),
        help="how many images to train candidates on, and to score them on, as many of each class "
        "(default: all; of cifar10 5000 1000)",
    )
    search.add_argument("--directory", type=Path, default=Path("runs"), help="folder of searches")
    search.add_argument("--project-name", help="this search's folder; by default the data set's")
    search.add_argument("--overwrite", action="store_true", help="delete the search in it")
    search.add_argument(
        "--nodes", type=positive, help="nodes of the complete cell (default: 8; of texts 6)"
    )
    search.add_argument(
        "--candidates", type=positive, default=10, help="edges tried in a round (default: 10)"
    )
    search.add_argument(
        "--keep-fraction",
        type=float,
        default=0.01,
        help="share of the edges at which to stop (default: 0.01)",
    )
    search.add_argument(
        "--epochs", type=positive, help="most epochs of a candidate (default: 20; of texts 10)"
    )
    images.add_argument("--filters", type=positive, help="filters of the first stage (default: 16)")
    images.add_argument("--stem-filters", type=positive, help="filters of the stem (default: 32)")
    text.add_argument("--units", type=positive, help="size of the state (default: 100)")
    text.add_argument("--steps", type=positive, help="tokens in a window (default: 35)")
    search.add_argument(
        "--batch-size",
        type=positive,
        default=128,
        help="images, or windows of text, in a step (default: 128)",
    )
    search.add_argument(
        "--learning-rate", type=rate, help="of Adam (default: 0.004), of texts SGD (default: 20)"
    )
    images.add_argument(
        "--mac-weight",
        type=float,
        help="validation accuracy that ten times the multiply-accumulates have to buy "
        "(default: 0.1)",
    )
    _add_distribution_strategy(images, "trains each candidate", "the first one writes")
    search.add_argument(
        "--max-seconds-per-trial",
        type=rate,
        metavar="SECONDS",
        help="a candidate that takes longer has failed (default: none does)",
    )
    search.add_argument("--quiet", action="store_true", help="no progress, only the results")
    _add_workers(search)

    train = command("train", "train a network of a cell in full")
    _add_cell(train)
    images = _add_data(train, "that of the search")
    text = _add_text(train, "that of the search")
    _add_seed(train, "of the initial weights; the data are split as the search split them")
    train.add_argument(
        "--recipe",
        choices=("plain", "cifar10", "imagenet", "small", "ptb"),
        help="how to train: images 'plain' (Adam, images as they are), 'cifar10' (SGD, random "
        "crop, flip, cutout) or 'imagenet' (as published), by default that of the data set, else "
        "'plain'; texts 'small' (the default) or 'ptb' (as published)",
    )
    train.add_argument("--epochs", type=positive, help="by default the recipe's")
    text.add_argument(
        "--units",
        type=positive,
        help="size of the state (default: 200, with --recipe ptb 745)",
    )
    train.add_argument(
        "--batch-size",
        type=positive,
        help="images, or windows of text, in a step (by default the recipe's)",
    )
    train.add_argument(
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
    _add_distribution_strategy(images, "trains", "they have to see the folder of the output")
    train.add_argument("--tensorboard", type=Path, metavar="DIR", help="folder for TensorBoard")
    size = images.add_mutually_exclusive_group()
    size.add_argument("--width", type=rate, help="width multiplier (default: 1.0)")
    size.add_argument(
        "--target-macs",
        type=count,
        metavar="N",
        help="take the largest width whose multiply-accumulates for one image are at most N, "
        "such as 300M",
    )
    train.add_argument("--output", type=Path, required=True, metavar="MODEL.keras")
    train.add_argument(
        "--overwrite", action="store_true", help="replace an output that is there, and begin anew"
    )
    train.add_argument("--quiet", action="store_true", help="no progress, only the results")

    export = command(
        "export",
        "convert a trained model to .tflite files and check them; exit with 1 if a file has "
        "other multiply-accumulates or predictions than its model",
    )
    export.add_argument("model", type=Path, metavar="MODEL.keras")
    _add_data(export, "that of the training")
    export.add_argument(
        "--quantization",
        nargs="+",
        choices=("float32", "float16", "dynamic", "int8"),
        default=["float32", "int8"],
        help="a file for each (default: float32 int8)",
    )
    export.add_argument("--output-dir", type=Path, help="by default the model's folder")

    generate = command("generate", "continue a text with a language model's .tflite file")
    generate.add_argument("model", type=Path, metavar="MODEL.tflite")
    generate.add_argument(
        "prompt", metavar="TEXT", help="what to continue, words divided by spaces"
    )
    generate.add_argument(
        "--words", type=positive, default=20, help="how many words to add (default: 20)"
    )
    generate.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE.txt",
        help="the words, one a line (default: the .vocabulary.txt beside the model)",
    )

    show = command("show", "draw and describe a cell or a search")
    _add_cell(show)
    show.add_argument("--picture", type=Path, metavar="FILE.png", help="save the cell's picture")
    return parser


def _add_task(parser: argparse.ArgumentParser, what: str) -> None:
    tasks = ("images", "text")
    parser.add_argument(
        "--task", choices=tasks, default=tasks[0], help=f"{what} (default: {tasks[0]})"
    )


def _add_cell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cell",
        metavar="CELL",
        help="a search's folder, a cell's .json file, or 'shrinkcnn' or 'shrinkrnn' for the "
        "published cells",
    )


def _add_data(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
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


def _add_seed(
    parser: argparse.ArgumentParser, what: str = "all random choices come from it"
) -> None:
    parser.add_argument("--seed", type=int, default=0, help=f"{what} (default: 0)")


def _add_distribution_strategy(images: argparse._ArgumentGroup, trains: str, workers: str) -> None:
    images.add_argument(
        "--distribution-strategy",
        choices=("none", "mirrored", "multiworker"),
        help=f"'mirrored' {trains} on all GPUs of this machine, 'multiworker' on those of all "
        f"machines that TF_CONFIG names; {workers} (default: none)",
    )


def _add_text(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    text = parser.add_argument_group("of texts")
    text.add_argument(
        "--vocabulary-size",
        type=positive,
        help=f"how many words to keep, the most frequent (default: {default})",
    )
    return text


def _add_workers(parser: argparse.ArgumentParser) -> None:
    several = parser.add_argument_group(
        "on several workers",
        "Each is a process that trains one candidate at a time, on a GPU of its own where there "
        "are enough; a chief says which. The search is that of one process. All machines have to "
        "see the same --directory, where PROJECT.logs has what workers print.",
    )
    several.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="how many workers to start here (default: none, this process trains; with --chief "
        "none, with --worker 1)",
    )
    part = several.add_mutually_exclusive_group()
    part.add_argument(
        "--chief",
        type=address,
        metavar="HOST:PORT",
        help="where the chief, which starts here, listens for workers on other machines: without "
        "authentication or encryption (default: on this machine alone)",
    )
    part.add_argument(
        "--worker",
        type=address,
        metavar="HOST:PORT",
        help="start no chief here; the workers join the one that listens there",
    )
