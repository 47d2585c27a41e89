"""The command line of `autoshrink`: a parser for each command and task."""

from __future__ import annotations

import argparse
import itertools
import math
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from keras_autoshrink import __version__
from keras_autoshrink.commands.processes import Address
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import COSTS
from keras_autoshrink.search import STRATEGIES
from tflite_export.command_line import Parser
from tflite_export.convert import Quantization

PROGRAM = "autoshrink"
TASKS = ("images", "text")

UNITS = {"small": 200, "ptb": 745}  # of a text's network by its recipe, unless --units says more
OPTIMISING_EPOCHS = 3  # of --prune and of --qat, unless --epochs says more

# What the help of a command ends with: an example, and how to get the help of its other task.
_EXAMPLES: dict[str, str | dict[str, str]] = {
    "demo": {
        "images": "autoshrink demo --directory demo\nfor text: autoshrink demo --task text",
        "text": "autoshrink demo --task text --directory demo\nfor images: autoshrink demo",
    },
    "search": {
        "images": "autoshrink search --dataset digits --nodes 5 --candidates 4 --epochs 10\n"
        "the options of text: autoshrink search --task text --help",
        "text": "autoshrink search --task text --data-dir texts --max-candidates 20\n"
        "the options of images: autoshrink search --help",
    },
    "train": {
        "images": "autoshrink train runs/digits --epochs 30 --output digits.keras\n"
        "the options of text, as for any recurrent CELL: autoshrink train shrinkrnn --help",
        "text": "autoshrink train runs/texts --units 200 --output lm.keras\n"
        "the options of images, as for any other CELL: autoshrink train shrinkcnn --help",
    },
    "export": {
        "images": "autoshrink export digits.keras --quantization float32 int8\n"
        "the options of text, as for any language model: autoshrink export lm.keras --help",
        "text": "autoshrink export lm.keras --quantization float32 dynamic\n"
        "the options of images: autoshrink export --help",
    },
    "generate": "autoshrink generate lm.float32.tflite 'the exception is'",
    "show": "autoshrink show runs/digits --picture cell.png --html report.html",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line by the parser of its command and task.

    Args:
        arguments: without the program's name.

    Returns:
        The options, `command` among them, and for a command of a task `task`.

    Raises:
        SystemExit: with 2 after one line on standard error for arguments that do not fit, with 0
            after `--help` or `--version`.
        ValueError: the cell to train cannot be read, or two options contradict one another.
    """
    task = _find_task(arguments)
    parser = build_parser(task)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        option, other = unknown[0].partition("=")[0], TASKS[1 - TASKS.index(task)]
        if option in _options_of(options.command, other):
            parser.error(f"{option}: is for {other}, this is {task}")
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.task = task
    if options.command == "search" and options.strategy == "paper" and options.max_candidates:
        raise ValueError(
            f"--max-candidates {options.max_candidates}: is for --strategy bayesian; paper ends by "
            "itself, --keep-fraction and --candidates say when"
        )
    return options


def build_parser(task: str = "images") -> Parser:
    """Builds the parser of all commands, with the options of one task."""
    parser = Parser(
        prog=PROGRAM,
        description="Finds small neural networks by shrinking a cell, and brings them to the "
        "phone as checked .tflite files.",
        epilog="autoshrink COMMAND --help shows the options of a command, and an example",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, usage: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        example = _EXAMPLES[name]
        return commands.add_parser(
            name,
            help=summary,
            usage=f"{PROGRAM} {name} {usage}",
            description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}.{details}", 80),
            epilog=f"example: {example if isinstance(example, str) else example[task]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    demo = "search, train, export and check, on small data that come along"
    _add_demo(command("demo", "[--task TASK] [OPTION ...]", demo))
    _add_search(command("search", "[--task TASK] [OPTION ...]", "find a cell"), task)
    train = "train a network of a cell in full"
    _add_train(command("train", "CELL --output MODEL.keras [OPTION ...]", train), task)
    export = "convert a trained model to .tflite files and check them"
    failed = " Exits with 1 if a file has other multiply-accumulates or predictions than its model."
    _add_export(command("export", "MODEL.keras [OPTION ...]", export, failed), task)
    generate = "continue a text with a language model's .tflite file"
    _add_generate(command("generate", "MODEL.tflite TEXT [OPTION ...]", generate))
    _add_show(command("show", "CELL [OPTION ...]", "draw and describe a cell or a search"))
    return parser


def default_project(options: argparse.Namespace) -> str:
    """Returns the folder's name of a search that was given none: its data set's."""
    if options.task == "text":
        return Path(options.data_dir or "pydoc").resolve().name
    return Path(options.dataset or "digits").resolve().stem


# The task of a command line


def _find_task(arguments: Sequence[str]) -> str:
    """Finds the task: by --task, of `train` by the cell, of `export` by the model."""
    command, *rest = arguments or [""]
    if command in ("demo", "search"):
        parser = Parser(prog=PROGRAM, add_help=False)
        parser.add_argument("--task", choices=TASKS, default=TASKS[0])
        task: str = parser.parse_known_args(rest)[0].task
        return task
    if command in ("train", "export"):
        actions = _options_of(command, "images") | _options_of(command, "text")
        flags = {name for name, action in actions.items() if action.nargs == 0}
        for before, argument in itertools.pairwise(["", *rest]):
            is_option = before.startswith("--") and before != "--"
            is_value = is_option and "=" not in before and before not in flags
            if is_value or argument.startswith("-"):
                continue
            if command == "train":
                return saved_search.task_of(saved_search.read_cell(Path(argument)))
            if argument.endswith(".keras"):  # and no further value of --quantization
                return _task_of_model(argument)
    return TASKS[0]


def _options_of(command: str, task: str) -> dict[str, argparse.Action]:
    parser = Parser()
    add = {"search": _add_search, "train": _add_train, "export": _add_export}.get(command)
    if add:
        add(parser, task)
    return parser._option_string_actions


def _task_of_model(path: str) -> str:
    """Tells the task of a `.keras` file by its layers, without Keras."""
    try:
        with zipfile.ZipFile(path) as file:
            config = file.read("config.json")
    except Exception:  # zipfile and zlib have errors of their own
        return TASKS[0]  # what is wrong with the file, the export says
    return "text" if b'"keras_autoshrink>TiedEmbedding"' in config else "images"


# The options of each command


def _add_demo(parser: argparse.ArgumentParser) -> None:
    _add_task(parser, "on handwritten digits, or on Python's own documentation")
    _add_path(parser, "--directory", "where to put it all", Path("demo"))
    _add_flag(parser, "--overwrite", "delete an earlier demo there")
    _add_seed(parser, "all random choices come from it")


def _add_search(parser: argparse.ArgumentParser, task: str) -> None:
    images = task == "images"
    _add_task(parser, "a cell of convolutions, or a recurrent one of a language model")
    _add_flag(parser, "--quiet", "no progress, only the results")

    data = parser.add_argument_group("data")
    _add_data(data, task, "digits" if images else "Python's own documentation")
    if images:
        data.add_argument(
            "--proxy-images",
            type=positive,
            nargs=2,
            metavar=("TRAIN", "VALIDATION"),
            help="how many images to train candidates on, and to score them on, as many of each "
            "class (default: all; of cifar10 5000 1000)",
        )
    else:
        _add_number(data, "--vocabulary-size", _VOCABULARY.format("all that occur"))

    folder = parser.add_argument_group("folder")
    _add_path(folder, "--directory", "folder of searches", Path("runs"))
    folder.add_argument(
        "--project-name", metavar="NAME", help="this search's folder in it (default: the data's)"
    )
    _add_flag(folder, "--overwrite", "delete the search in it")

    search = parser.add_argument_group("search")
    _add_number(search, "--nodes", "of the complete cell, its input included", 8 if images else 6)
    _add_choice(
        search,
        "--strategy",
        "'bayesian' tries any parts of the complete cell, those that are likely to score best by "
        "all scores so far; 'paper' cells that lack one edge of the current one; for as many "
        "trained networks the first finds better ones",
        STRATEGIES,
        "bayesian",
    )
    _add_number(search, "--candidates", "cells tried in a round", 10)
    _add_number(
        search,
        "--max-candidates",
        "how many networks 'bayesian' trains (default: as many as 'paper' would at most)",
    )
    _add_number(
        search,
        "--keep-fraction",
        "of the edges at which 'paper' stops; 'bayesian' tries no smaller cells",
        0.01,
        type=float,
        metavar="SHARE",
    )
    _add_seed(search, "all random choices come from it")

    training = parser.add_argument_group("training of a candidate")
    _add_number(training, "--epochs", "most epochs of a candidate", 20 if images else 10)
    if images:
        _add_number(training, "--filters", "of the first stage", 16)
        _add_number(training, "--stem-filters", "filters of the stem", 32)
        _add_number(training, "--batch-size", "images in a step", 128)
        _add_number(training, "--learning-rate", "of Adam", 4e-3, type=rate, metavar="RATE")
    else:
        _add_number(training, "--units", "size of the state", 100)
        _add_number(training, "--steps", "tokens in a window", 35)
        _add_number(training, "--batch-size", "windows in a step", 128)
        _add_number(training, "--learning-rate", "of SGD", 20.0, type=rate, metavar="RATE")
    _add_number(
        training,
        "--max-seconds-per-trial",
        "a candidate that takes longer has failed (default: none does)",
        type=rate,
        metavar="SECONDS",
    )
    if images:
        _add_choice(
            training,
            "--distribution-strategy",
            "'mirrored' trains each candidate on all GPUs of this machine",
            ("none", "mirrored"),
            "none",
        )

    costs = parser.add_argument_group("costs")
    _add_choice(
        costs,
        "--cost",
        f"what the score holds {'accuracy' if images else 'perplexity'} against: "
        "multiply-accumulates, parameters, or the time of the candidate's .tflite file with LiteRT "
        "on one thread of this machine",
        COSTS,
        "macs",
    )
    if images:
        _add_number(
            costs,
            "--mac-weight",
            "validation accuracy that ten times the multiply-accumulates, or what --cost says, "
            "have to buy",
            0.1,
            type=float,
            metavar="WEIGHT",
        )
    _add_number(costs, "--max-macs", "train no candidate of more MACs, such as 2M", type=count)
    _add_number(
        costs,
        "--max-latency-ms",
        "train no candidate whose .tflite file takes longer, measured as for --cost latency",
        type=rate,
        metavar="MS",
    )
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    description = (
        "Each is a process that trains one candidate at a time, on a GPU of its own where there "
        "are enough; a chief says which. The search is that of one process. All machines have to "
        "see the same --directory, where NAME.logs has what workers print."
    )
    workers = parser.add_argument_group("several workers", textwrap.fill(description, 76))
    _add_number(
        workers,
        "--workers",
        "how many workers to start here (default: none, this process trains; with --chief none, "
        "with --worker 1)",
    )
    part = workers.add_mutually_exclusive_group()
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


def _add_train(parser: argparse.ArgumentParser, task: str) -> None:
    images = task == "images"
    _add_cell(parser)
    parser.add_argument("--output", type=keras_file, required=True, metavar="MODEL.keras")
    _add_flag(parser, "--overwrite", "replace an output that is there, and begin anew")
    _add_flag(parser, "--quiet", "no progress, only the results")
    _add_data(parser, task, "that of the search", large=True)
    _add_seed(parser, "of the initial weights; the data are split as the search split them")
    if images:
        parser.add_argument(
            "--recipe",
            choices=("plain", "cifar10", "imagenet"),
            help="how to train: 'plain' (Adam, images as they are), 'cifar10' (SGD, random crop, "
            "flip, cutout) or 'imagenet' (as published) (default: that of the data set, else "
            "'plain')",
        )
    else:
        _add_choice(parser, "--recipe", "how to train; 'ptb' is as published", UNITS, "small")
    _add_number(parser, "--epochs", _OF_RECIPE)
    _add_number(
        parser, "--batch-size", f"{'images' if images else 'windows'} in a step {_OF_RECIPE}"
    )
    _add_number(
        parser, "--learning-rate", f"at the first step {_OF_RECIPE}", type=rate, metavar="RATE"
    )
    parser.add_argument("--tensorboard", type=folder, metavar="DIR", help="folder for TensorBoard")
    if images:
        _add_image_training(parser)
    else:
        _add_number(parser, "--vocabulary-size", _VOCABULARY.format("that of the search"))
        units = ", ".join(f"{units} with --recipe {recipe}" for recipe, units in UNITS.items())
        _add_number(parser, "--units", f"size of the state (default: {units})")


def _add_image_training(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `train` that only networks of images have."""
    size = parser.add_mutually_exclusive_group()
    _add_number(size, "--width", "width multiplier", 1.0, type=rate, metavar="WIDTH")
    _add_number(
        size,
        "--target-macs",
        "take the largest width whose multiply-accumulates for one image are at most N, such as "
        "300M",
        type=count,
    )
    _add_number(parser, "--label-smoothing", _OF_RECIPE, type=float, metavar="SHARE")
    _add_number(
        parser,
        "--ema",
        f"take the moving average of the weights, such as 0.999 {_OF_RECIPE}",
        type=float,
        metavar="MOMENTUM",
    )
    _add_choice(parser, "--activation", "of all BatchNorms", ("relu", "swish"), "relu")
    _add_choice(
        parser,
        "--precision",
        "of the computation; the trained model is float32",
        ("float32", "mixed_float16", "mixed_bfloat16"),
        "float32",
    )
    _add_choice(
        parser,
        "--distribution-strategy",
        "'mirrored' trains on all GPUs of this machine, 'multiworker' on those of all machines "
        "that TF_CONFIG names; they have to see the folder of the output",
        ("none", "mirrored", "multiworker"),
        "none",
    )


def _add_export(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    _add_path(parser, "--output-dir", "for the files (default: the model's folder)")
    _add_data(parser, task, "that of the training", large=True)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--quantization",
        nargs="+",
        choices=get_args(Quantization),
        metavar="KIND",
        default=["float32", "int8"],
        help=f"a file for each, of {', '.join(get_args(Quantization))} (default: float32 int8)",
    )
    if task == "text":
        return
    _add_number(
        kinds,
        "--max-accuracy-drop",
        "one file: the smallest of all kinds whose accuracy is at most so much below the model's "
        "(0.01: one percentage point), by the validation images, or by half of the test images "
        "where there are none, which the check then leaves out",
        type=float,
        metavar="SHARE",
    )
    _add_number(
        parser,
        "--prune",
        "train on while so many of the kernels' weights become zero, and write a .pruned file of "
        "each quantization, too",
        type=float,
        metavar="SHARE",
    )
    _add_flag(
        parser,
        "--qat",
        "quantisation-aware training: train on with 8-bit numbers, with --prune the pruned "
        "network, and write a .qat.int8 file, too",
    )
    _add_number(parser, "--epochs", f"of --prune and of --qat (default: {OPTIMISING_EPOCHS})")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.tflite")
    parser.add_argument("prompt", metavar="TEXT", help="what to continue, words divided by spaces")
    _add_number(parser, "--words", "how many words to add", 20)
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE.txt",
        help="the words, one a line (default: the .vocabulary.txt beside the model)",
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_cell(parser)
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="save the cell's picture")
    parser.add_argument(
        "--html",
        nargs="?",
        type=Path,
        const=True,
        metavar="FILE.html",
        help="write a report of the search as one page for a browser: its cells as a slider over "
        "the rounds, curves, all candidates, settings (default: report.html in the search's "
        "folder)",
    )
    _add_flag(
        parser,
        "--tensorboard",
        "write the search for 'tensorboard --logdir CELL', as a search does when it ends",
    )


# Options of a kind

_Options = argparse._ActionsContainer  # a parser, or a group of its options

_OF_RECIPE = "(default: the recipe's)"
_VOCABULARY = "how many words to keep, the most frequent (default: {})"


def _add_number(
    options: _Options,
    name: str,
    what: str,
    default: float | None = None,
    type: Callable[[str], float] | None = None,
    metavar: str = "N",
) -> None:
    """Adds a number of 1 or more, or of another type; its help says the default if there is one."""
    said = "" if default is None else " (default: %(default)s)"
    options.add_argument(
        name, type=type or positive, default=default, metavar=metavar, help=what + said
    )


def _add_choice(
    options: _Options, name: str, what: str, choices: Iterable[str], default: str
) -> None:
    help = f"{what} (default: %(default)s)"
    options.add_argument(name, choices=tuple(choices), default=default, help=help)


def _add_flag(options: _Options, name: str, what: str) -> None:
    options.add_argument(name, action="store_true", help=what)


def _add_path(options: _Options, name: str, what: str, default: Path | None = None) -> None:
    said = "" if default is None else " (default: %(default)s)"
    options.add_argument(name, type=Path, default=default, metavar="DIR", help=what + said)


def _add_seed(options: _Options, what: str) -> None:
    _add_number(options, "--seed", what, 0, type=int)


def _add_task(options: _Options, what: str = "") -> None:
    _add_choice(options, "--task", what, TASKS, TASKS[0])


def _add_cell(options: _Options) -> None:
    options.add_argument(
        "cell",
        metavar="CELL",
        help="a search's folder, a cell's .json file, or 'shrinkcnn' or 'shrinkrnn' for the "
        "published cells",
    )


def _add_data(options: _Options, task: str, default: str, large: bool = False) -> None:
    """Adds the options that say which data to load.

    Args:
        options: of a command.
        task: `"images"` or `"text"`.
        default: which data the help names as those loaded by default.
        large: whether the command also takes images that do not fit into memory.
    """
    if task == "text":
        _add_path(
            options,
            "--data-dir",
            f"folder with train.txt, valid.txt and test.txt (default: {default})",
        )
        return
    folders = ", 'imagenet2012', or a folder with two such folders, 'train' and 'val'"
    options.add_argument(
        "--dataset",
        metavar="DATA",
        help="'digits', 'cifar10', an .npz file with x_train and y_train, a folder with one folder "
        f"of images for each class{folders if large else ''} (default: {default})",
    )
    _add_path(options, "--data-dir", "where tensorflow-datasets keeps its data")
    sizes = "32; of 'imagenet2012' and 'train' and 'val' 224" if large else "32"
    _add_number(
        options,
        "--image-size",
        f"to which images from files are resized, in RGB (default: {sizes})",
        metavar="PIXELS",
    )
    _add_flag(
        options,
        "--strict",
        "refuse a folder with an image that cannot be read; such images are left out and named by "
        "default",
    )


# The values of options


def positive(text: str) -> int:
    """Reads a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def rate(text: str) -> float:
    """Reads a finite number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0")
    return number


def count(text: str) -> int:
    """Reads a number such as 300M."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    try:
        number = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        number = 0
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of the kind 300M or 300000000")
    return round(number)


def keras_file(text: str) -> Path:
    """Reads the path of a model to be written."""
    path = Path(text)
    if path.suffix != ".keras":
        raise argparse.ArgumentTypeError(f"{text}: must end in .keras")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a folder")
    return path


def folder(text: str) -> Path:
    """Reads the path of a folder, which need not exist."""
    path = Path(text)
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: is a file; give a folder")
    return path


def address(text: str) -> Address:
    """Reads a host and a port, such as 192.168.0.7:5000, node1:5000 or [::1]:5000."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and port.isdecimal() and 1 <= int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no address of the kind node1:5000")
    return Address(host, int(port))
