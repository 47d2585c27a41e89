"""The kinds of numbers and addresses that the command `autoshrink` takes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, get_args

from keras_autoshrink import __version__
from keras_autoshrink.commands.processes import Address
from keras_autoshrink.score import COSTS
from keras_autoshrink.search.strategies import STRATEGIES
from tflite_export.command_line import Parser
from tflite_export.convert import Quantization


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def rate(text: str) -> float:
    """A finite number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0")
    return number


def count(text: str) -> int:
    """A number such as 300M."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    try:
        number = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        number = 0
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of the kind 300M or 300000000")
    return round(number)


def address(text: str) -> Address:
    """A host and a port, such as 192.168.0.7:5000, node1:5000 or [::1]:5000."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and port.isdecimal() and 1 <= int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no address of the kind node1:5000")
    return Address(host, int(port))


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


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add_task(parser, "a cell of convolutions, or a recurrent one of a language model")
    images = add_data(parser, "digits")
    text = add_text(parser, "all that occur")
    add_seed(parser)
    images.add_argument(
        "--proxy-images",
        type=positive,
        nargs=2,
        metavar=("TRAIN", "VALIDATION"),
        help="how many images to train candidates on, and to score them on, as many of each class "
        "(default: all; of cifar10 5000 1000)",
    )
    parser.add_argument("--directory", type=Path, default=Path("runs"), help="folder of searches")
    parser.add_argument("--project-name", help="this search's folder; by default the data set's")
    parser.add_argument("--overwrite", action="store_true", help="delete the search in it")
    parser.add_argument(
        "--nodes",
        type=positive,
        help="nodes of the complete cell, its input included (default: 8; of texts 6)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="bayesian",
        help="'bayesian' tries any parts of the complete cell, those that are likely to score best "
        "by all scores so far; 'paper' cells that lack one edge of the current one; for as many "
        "trained networks the first finds better ones (default: bayesian)",
    )
    parser.add_argument(
        "--candidates", type=positive, default=10, help="cells tried in a round (default: 10)"
    )
    parser.add_argument(
        "--max-candidates",
        type=positive,
        metavar="N",
        help="how many networks 'bayesian' trains (default: as many as 'paper' would at most)",
    )
    parser.add_argument(
        "--keep-fraction",
        type=float,
        default=0.01,
        help="share of the edges at which 'paper' stops; 'bayesian' tries no smaller cells "
        "(default: 0.01)",
    )
    parser.add_argument(
        "--epochs", type=positive, help="most epochs of a candidate (default: 20; of texts 10)"
    )
    images.add_argument("--filters", type=positive, help="filters of the first stage (default: 16)")
    images.add_argument("--stem-filters", type=positive, help="filters of the stem (default: 32)")
    text.add_argument("--units", type=positive, help="size of the state (default: 100)")
    text.add_argument("--steps", type=positive, help="tokens in a window (default: 35)")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=128,
        help="images, or windows of text, in a step (default: 128)",
    )
    parser.add_argument(
        "--learning-rate", type=rate, help="of Adam (default: 0.004), of texts SGD (default: 20)"
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default="macs",
        help="what the score holds accuracy or perplexity against: multiply-accumulates, "
        "parameters, or the time of the candidate's .tflite file with LiteRT on one thread of this "
        "machine (default: macs)",
    )
    parser.add_argument(
        "--max-macs", type=count, metavar="N", help="train no candidate of more MACs, such as 2M"
    )
    parser.add_argument(
        "--max-latency-ms",
        type=rate,
        metavar="MS",
        help="train no candidate whose .tflite file takes longer, as of --cost latency",
    )
    images.add_argument(
        "--mac-weight",
        type=float,
        help="validation accuracy that ten times the multiply-accumulates, or what --cost says, "
        "have to buy (default: 0.1)",
    )
    images.add_argument(
        "--distribution-strategy",
        choices=("none", "mirrored"),
        help="'mirrored' trains each candidate on all GPUs of this machine (default: none)",
    )
    parser.add_argument(
        "--max-seconds-per-trial",
        type=rate,
        metavar="SECONDS",
        help="a candidate that takes longer has failed (default: none does)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the results")
    _add_workers(parser)


def check(options: argparse.Namespace) -> None:
    """Raises the ValueError that says which options do not go together, if some do not."""
    if options.strategy == "paper" and options.max_candidates is not None:
        raise ValueError(
            f"--max-candidates {options.max_candidates}: is for --strategy bayesian; paper ends by "
            "itself, --keep-fraction and --candidates say when"
        )


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


def add_train(parser: argparse.ArgumentParser) -> None:
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


PROGRAM = "autoshrink"

_EXAMPLES = {
    "demo": "autoshrink demo --directory demo",
    "search": "autoshrink search --dataset digits --nodes 5 --candidates 4 --epochs 10",
    "train": "autoshrink train runs/digits --epochs 30 --output digits.keras",
    "export": "autoshrink export digits.keras --quantization float32 int8",
    "generate": "autoshrink generate lm.float32.tflite 'the exception is'",
    "show": "autoshrink show runs/digits --picture cell.png --html report.html",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = Parser(
        prog=PROGRAM,
        description="Finds small neural networks by shrinking a cell, and brings them to the "
        "phone as checked .tflite files.",
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
    add_task(demo, "on handwritten digits, or on Python's own documentation")
    demo.add_argument("--directory", type=Path, default=Path("demo"), help="where to put it all")
    demo.add_argument("--overwrite", action="store_true", help="delete an earlier demo there")
    add_seed(demo)

    add_search(command("search", "find a cell"))
    add_train(command("train", "train a network of a cell in full"))

    export = command(
        "export",
        "convert a trained model to .tflite files and check them; exit with 1 if a file has "
        "other multiply-accumulates or predictions than its model",
    )
    export.add_argument("model", type=Path, metavar="MODEL.keras")
    add_data(export, "that of the training")
    kinds = export.add_mutually_exclusive_group()
    kinds.add_argument(
        "--quantization",
        nargs="+",
        choices=get_args(Quantization),
        default=["float32", "int8"],
        help="a file for each (default: float32 int8)",
    )
    kinds.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="SHARE",
        help="one file: the smallest of all kinds whose accuracy is at most so much below the "
        "model's (0.01: one percentage point), by the validation images, or by half of the test "
        "images where there are none, which the check then leaves out; for images",
    )
    export.add_argument(
        "--prune",
        type=float,
        metavar="SHARE",
        help="train on while so many of the kernels' weights become zero, and write a .pruned file "
        "of each quantization, too; for images",
    )
    export.add_argument(
        "--qat",
        action="store_true",
        default=None,
        help="quantisation-aware training: train on with 8-bit numbers, with --prune the pruned "
        "network, and write a .qat.int8 file, too; for images",
    )
    export.add_argument(
        "--epochs", type=positive, metavar="N", help="of --prune and of --qat (default: 3)"
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
    add_cell(show)
    show.add_argument("--picture", type=Path, metavar="FILE.png", help="save the cell's picture")
    show.add_argument(
        "--html",
        nargs="?",
        type=Path,
        const=True,
        metavar="FILE.html",
        help="write a report of the search as one page for a browser: its cells as a slider over "
        "the rounds, curves, all candidates, settings (default: report.html in the search's "
        "folder)",
    )
    show.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the search for 'tensorboard --logdir CELL', as a search does when it ends",
    )
    return parser
