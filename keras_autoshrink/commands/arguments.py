"""The command line of `autoshrink`: a parser for each command and task."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import re
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from keras_autoshrink import __version__
from keras_autoshrink.commands.processes import Address
from keras_autoshrink.data.text import is_text
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import COSTS
from keras_autoshrink.search import STRATEGIES
from tflite_export.command_line import Parser, add_import, positive
from tflite_export.convert import Quantization

PROGRAM = "autoshrink"
TASKS = ("images", "text")

# Of the network of a text's cell by its recipe, unless --units says more.
UNITS = {"small": 200, "short": 200, "ptb": 745}
OPTIMISING_EPOCHS = 3  # of --prune and of --qat, unless --epochs says more

# The help of an option that takes more than a line.
_HELP = {
    "--epochs": "most epochs of a candidate (default: 20; with a target as many as 400,000 images "
    "make, from 8 to 40)",
    "--proxy-images": "how many images to train candidates on, and to score them on, as many of "
    "each class (default: all; of cifar10 5000 1000)",
    "--strategy": "'bayesian' tries any parts of the complete cell, those that are likely to score "
    "best by all scores so far; 'evolution' changes the best so far in one place; 'paper' tries "
    "cells that lack one edge of the current one; the first finds better ones than the last "
    "(default: {default})",
    "--max-candidates": "how many networks are trained (default: 40 by 'evolution', by 'bayesian' "
    "as many as by 'paper' at most; with --minutes as many as fit)",
    "--minutes": "how long the search takes, give or take a tenth, without its interruptions "
    "(default: as long as its networks need)",
    "--keep-fraction": "of the edges at which 'paper' stops; the others try no smaller cells",
    "--max-seconds-per-trial": "a candidate that takes longer has failed (default: none does)",
    "--cost": "what the score holds {quality} against: multiply-accumulates, parameters, or the "
    "time of the candidate's .tflite file with LiteRT on one thread of this machine",
    "--mac-weight": "validation accuracy that ten times the multiply-accumulates, or what --cost "
    "says, have to buy",
    "--target-latency-ms": "milliseconds that a network's .tflite file takes with LiteRT on one "
    "thread of this machine, such as 0.2",
    "--max-latency-ms": "train no candidate whose .tflite file takes longer, measured as for "
    "--cost latency",
    "--workers": "how many candidates train side by side here (default: one for each core, or one "
    "where there is a GPU; with --chief none, with --worker 1)",
    "--chief": "where the chief, which starts here, listens for workers on other machines: without "
    "authentication or encryption (default: on this machine alone)",
    "--worker": "start no chief here; the workers join the one that listens there",
    "--recipe": "how to train: 'plain' (Adam, images as they are), 'short' (Adam by one cycle), "
    "'photos' (the same, images shifted and mirrored), 'cifar10' (SGD, random crop, flip, cutout) "
    "or 'imagenet' (as published) (default: that of the data set, else 'plain'; of a network found "
    "at a target 'photos' or, of digits and .npz files, 'short')",
    "--target-macs": "take the largest width of a cell's network whose multiply-accumulates for "
    "one image are at most N, such as 300M",
    "--distribution-strategy": "'mirrored' trains on all GPUs of this machine, 'multiworker' on "
    "those of all machines that TF_CONFIG names; they have to see the folder of the output",
    "--max-accuracy-drop": "one file: the smallest of all kinds whose accuracy is at most so much "
    "below the model's (0.01: one percentage point), by the validation images, or by half of the "
    "test images where there are none, which the check then leaves out",
    "--prune": "train on while so many of the kernels' weights become zero, and write a .pruned "
    "file of each quantization, too",
    "--qat": "quantisation-aware training: train on with 8-bit numbers, with --prune the pruned "
    "network, and write a .qat.int8 file, too",
    "--vocabulary": "the words, one a line (default: the .vocabulary.txt beside the model)",
    "--html": "write a report of the search as one page for a browser: its cells as a slider over "
    "the rounds, curves, all candidates, settings (default: report.html in the search's folder)",
    "--strict": "refuse a folder with an image that cannot be read; such images are left out and "
    "named by default",
    "cell": "a search's folder, the .json file of a cell or of an architecture, or 'shrinkcnn' or "
    "'shrinkrnn' for the published cells",
    "budget": "A search at a target finds all of a network, its widths included: each costs 95% to "
    "100% of the target. Without one it finds a cell for networks of any width. {} and --max-macs "
    "are for a search without one.",
    "workers": "Each is a process that trains one candidate at a time, on one thread, or on a GPU "
    "of its own where there are enough. The search is that of one process. Workers on other "
    "machines ask a chief; all machines have to see the same --directory, where NAME.logs has what "
    "these print.",
}
_DATASETS = (
    "'digits', 'cifar10', an .npz file with x_train and y_train, a folder with one folder of "
    "images for each class, or one with such folders 'train' and 'val', 'test' or both"
)
_TEXTS = "'pydoc', or a folder with train.txt, valid.txt and test.txt"
_OF_RECIPE = "(default: the recipe's)"
_TEXT_EPOCHS = "as many as 2,000,000 words make, from 8 to 40"
_VOCABULARY = "how many words to keep, the most frequent (default: {})"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line by the parser of its command and task.

    Args:
        arguments: without the program's name.

    Returns:
        The options, `command` among them, and for a command of a task `task`.

    Raises:
        SystemExit: with 2 after one line on standard error for arguments that do not fit, with 0
            after `--help` or `--version`.
        ValueError: the cell to train cannot be read.
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
    # For the record: with --overwrite it would delete what it is a record of.
    options.argv = [PROGRAM, *(argument for argument in arguments if argument != "--overwrite")]
    return options


def build_parser(task: str = "images") -> Parser:
    """Builds the parser of all commands, with the options of one task."""
    parser = Parser(
        prog=PROGRAM,
        description="Finds small neural networks at a budget, and brings them to the phone as "
        "checked .tflite files.",
        epilog="autoshrink COMMAND --help shows the options of a command, and an example",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_options, usage, summary, *examples) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary.partition(". ")[0],
            usage=f"{PROGRAM} {name} {usage}[OPTION ...]",
            description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 80),
            epilog=f"example: {PROGRAM} {name} {examples[-1 if task == 'text' else 0]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command, task)
    return parser


def default_project(options: argparse.Namespace) -> str:
    """Returns the folder's name of a search that was given none: its data set's."""
    if options.task == "text":
        return Path(options.data_dir or "pydoc").resolve().name
    return Path(options.dataset or "digits").resolve().stem


# The task of a command line


def _find_task(arguments: Sequence[str]) -> str:
    """Finds the task: by --task, or by the data (`design`), cell (`train`) or model (`export`)."""
    command, *rest = arguments or [""]
    if command in ("demo", "search"):
        parser = Parser(prog=PROGRAM, add_help=False)
        parser.add_argument("--task", choices=TASKS, default=TASKS[0])
        task: str = parser.parse_known_args(rest)[0].task
        return task
    if command in ("design", "train", "export"):
        actions = _options_of(command, "images") | _options_of(command, "text")
        flags = {name for name, action in actions.items() if action.nargs == 0}
        for before, argument in itertools.pairwise(["", *rest]):
            is_option = before.startswith("--") and before != "--"
            is_value = is_option and "=" not in before and before not in flags
            if is_value or argument.startswith("-"):
                continue
            if command == "design":
                return "text" if is_text(argument) else TASKS[0]
            if command == "train" and {"-h", "--help"} & {*rest} and not Path(argument).exists():
                return "text" if argument == "shrinkrnn" else TASKS[0]
            if command == "train":
                return saved_search.task_of(Path(argument))
            if argument.endswith(".keras"):  # and no further value of --quantization
                return _task_of_model(argument)
    return TASKS[0]


def _options_of(command: str, task: str) -> dict[str, argparse.Action]:
    parser = Parser()
    _COMMANDS[command][0](parser, task)
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


def _add_demo(parser: argparse.ArgumentParser, task: str) -> None:
    data = "on handwritten digits, or on Python's own documentation"
    _add(parser, "--task", data, TASKS[0], choices=TASKS)
    _add(parser, "--directory DIR", "where to put it all", Path("demo"), type=Path)
    _add_flag(parser, "--overwrite", "delete an earlier demo there")
    _add(parser, "--seed N", "all random choices come from it", 0, type=int)


def _add_search(parser: argparse.ArgumentParser, task: str) -> None:
    images = task == "images"
    cell = "a cell of convolutions, or a recurrent one of a language model"
    _add(parser, "--task", cell, TASKS[0], choices=TASKS)
    _add_flag(parser, "--quiet", "no progress, only the results")

    data = parser.add_argument_group("data")
    _add_data(data, task, "digits" if images else "Python's own documentation")
    if images:
        _add(data, "--proxy-images", nargs=2, metavar=("TRAIN", "VALIDATION"))
    else:
        _add(data, "--vocabulary-size N", _VOCABULARY.format("all that occur"))

    folder = parser.add_argument_group("folder")
    _add(folder, "--directory DIR", "folder of searches", Path("runs"), type=Path)
    _add(
        folder, "--project-name NAME", "this search's folder in it (default: the data's)", type=str
    )
    _add_flag(folder, "--overwrite", "delete the search in it")

    others = "--filters, --stem-filters, --cost, --mac-weight" if images else "--units, --cost"
    said = textwrap.fill(_HELP["budget"].format(others), 76)
    budget = parser.add_argument_group("budget", said)
    _add_targets(budget.add_mutually_exclusive_group(), task)
    if images:
        kinds = ("float32", "int8")
        _add(budget, "--latency-of KIND", "the file that is timed", kinds[0], choices=kinds)

    search = parser.add_argument_group("search")
    nodes = f"of the complete cell, its input included (default: {8 if images else 6}"
    _add(search, "--nodes N", f"{nodes}; with a target 4)")
    strategy = _HELP["--strategy"].format(default="bayesian; with a target evolution")
    _add(search, "--strategy", strategy, choices=tuple(STRATEGIES))
    _add(search, "--candidates N", "cells tried in a round", 10)
    _add(search, "--max-candidates N")
    _add(search, "--minutes M", type=rate)
    _add(search, "--keep-fraction SHARE", default=0.01, type=float)
    _add(search, "--seed N", "all random choices come from it", 0, type=int)

    training = parser.add_argument_group("training of a candidate")
    if images:
        _add(training, "--epochs N")
    else:
        most = "most epochs of a candidate (default: 10; with a target"
        _add(training, "--epochs N", f"{most} {_TEXT_EPOCHS})")
    if images:
        _add(training, "--filters N", "of the first stage", 16)
        _add(training, "--stem-filters N", "filters of the stem", 32)
        _add(training, "--batch-size N", "images in a step", 128)
        default = "of Adam (default: 0.004; with a target 0.02, its peak)"
        _add(training, "--learning-rate RATE", default, type=rate)
    else:
        of_target = "; with a target that of the recipe 'short')"
        _add(training, "--units N", "size of the state (default: 100)")
        _add(training, "--steps N", f"tokens in a window (default: 35{of_target}")
        _add(training, "--batch-size N", f"windows in a step (default: 128{of_target}")
        rates = f"of SGD (default: 20{of_target}"
        _add(training, "--learning-rate RATE", rates, type=rate)
    _add(training, "--max-seconds-per-trial SECONDS", type=rate)
    if images:
        mirrored = "'mirrored' trains each candidate on all GPUs of this machine"
        kinds = ("none", "mirrored")
        _add(training, "--distribution-strategy", mirrored, "none", choices=kinds)

    costs = parser.add_argument_group("costs")
    cost = _HELP["--cost"].format(quality="accuracy" if images else "perplexity")
    _add(costs, "--cost", cost, "macs", choices=tuple(COSTS))
    if images:
        _add(costs, "--mac-weight WEIGHT", default=0.1, type=float)
    _add(costs, "--max-macs N", "train no candidate of more MACs, such as 2M", type=count)
    _add(costs, "--max-latency-ms MS", type=rate)

    workers = parser.add_argument_group("several workers", textwrap.fill(_HELP["workers"], 76))
    _add(workers, "--workers N")
    part = workers.add_mutually_exclusive_group()
    _add(part, "--chief HOST:PORT", type=address)
    _add(part, "--worker HOST:PORT", type=address)


def _add_design(parser: argparse.ArgumentParser, task: str) -> None:
    images = task == "images"
    parser.add_argument("data", metavar="DATA", help=f"{_DATASETS}; or a text: {_TEXTS}")
    target = parser.add_mutually_exclusive_group(required=True)
    _add_targets(target, task)
    length = parser.add_mutually_exclusive_group()
    minutes = "of the search (default: 30); what follows takes about a third more"
    _add(length, "--minutes M", minutes, type=rate)
    _add(length, "--max-candidates N", "how many networks to train, in place of minutes")
    epochs = "as many as 400,000 images make, from 8 to 40" if images else _TEXT_EPOCHS
    _add(parser, "--epochs N", f"of each network (default: {epochs})")
    _add(parser, "--output DIR", "where to put it all", Path("design"), type=folder)
    _add_flag(parser, "--overwrite", "delete an earlier design there")
    _add(parser, "--seed N", "all random choices come from it", 0, type=int)
    if not images:
        _add(parser, "--vocabulary-size N", _VOCABULARY.format("all that occur"))
        return
    _add(parser, "--data-dir DIR", "where tensorflow-datasets keeps its data", type=Path)
    _add(parser, "--image-size PIXELS", "to which images from files are resized (default: 32)")
    _add_flag(parser, "--strict")


def _add_train(parser: argparse.ArgumentParser, task: str) -> None:
    images = task == "images"
    parser.add_argument("cell", metavar="CELL", help=_HELP["cell"])
    parser.add_argument("--output", type=keras_file, required=True, metavar="MODEL.keras")
    _add_flag(parser, "--overwrite", "replace an output that is there, and begin anew")
    _add_flag(parser, "--quiet", "no progress, only the results")
    _add_data(parser, task, "that of the search", large=True)
    seed = "of the initial weights; the data are split as the search split them"
    _add(parser, "--seed N", seed, 0, type=int)
    if images:
        _add(parser, "--recipe", choices=("plain", "short", "photos", "cifar10", "imagenet"))
    else:
        how = "how to train; 'ptb' is as published (default: 'small', at a target 'short')"
        _add(parser, "--recipe", how, choices=(*UNITS,))
    of_target = "; of a network found at a target the search's"
    _add(parser, "--epochs N", f"(default: the recipe's{of_target})")
    _add(parser, "--batch-size N", f"{'images' if images else 'windows'} in a step {_OF_RECIPE}")
    _add(parser, "--learning-rate RATE", f"at the first step {_OF_RECIPE}", type=rate)
    _add(parser, "--tensorboard DIR", "folder for TensorBoard", type=folder)
    if not images:
        _add(parser, "--vocabulary-size N", _VOCABULARY.format("that of the search"))
        units = ", ".join(f"{units} with --recipe {recipe}" for recipe, units in UNITS.items())
        _add(parser, "--units N", f"size of the state (default: {units})")
        return
    size = parser.add_mutually_exclusive_group()
    _add(size, "--width WIDTH", "width multiplier of a cell's network (default: 1.0)", type=rate)
    _add(size, "--target-macs N", type=count)
    _add(parser, "--label-smoothing SHARE", _OF_RECIPE, type=float)
    average = f"take the moving average of the weights, such as 0.999 {_OF_RECIPE}"
    _add(parser, "--ema MOMENTUM", average, type=float)
    activation = "of all BatchNorms of a cell's network (default: relu)"
    _add(parser, "--activation", activation, choices=("relu", "swish"))
    computed = "of the computation; the trained model is float32"
    kinds = ("float32", "mixed_float16", "mixed_bfloat16")
    _add(parser, "--precision", computed, "float32", choices=kinds)
    kinds = ("none", "mirrored", "multiworker")
    _add(parser, "--distribution-strategy", default="none", choices=kinds)


def _add_export(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    _add(parser, "--output-dir DIR", "for the files (default: the model's folder)", type=Path)
    add_import(parser)
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
    if task == "images":
        _add(kinds, "--max-accuracy-drop SHARE", type=float)
        _add(parser, "--prune SHARE", type=float)
        _add_flag(parser, "--qat")
        _add(parser, "--epochs N", f"of --prune and of --qat (default: {OPTIMISING_EPOCHS})")


def _add_generate(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.tflite")
    parser.add_argument("prompt", metavar="TEXT", help="what to continue, words divided by spaces")
    _add(parser, "--words N", "how many words to add", 20)
    _add(parser, "--vocabulary FILE.txt", type=Path)


def _add_show(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("cell", metavar="CELL", help=_HELP["cell"])
    _add(parser, "--picture FILE.png", "save the cell's picture", type=Path)
    _add(parser, "--html FILE.html", type=Path, nargs="?", const=True)
    files = "write the search for 'tensorboard --logdir CELL', as a search does when it ends"
    _add_flag(parser, "--tensorboard", files)


# Of each command: what adds its options, its usage before them, what it does, and an example; where
# the tasks differ, one for images and one for text, each with how to get the other's help.
_COMMANDS: dict[str, tuple[Any, ...]] = {
    "demo": (
        _add_demo,
        "[--task TASK] ",
        "search, train, export and check, on small data that come along",
        "--directory demo\nfor text: autoshrink demo --task text",
        "--task text --directory demo\nfor images: autoshrink demo",
    ),
    "design": (
        _add_design,
        "DATA --target-macs N ",
        "search for a network at a budget, train and export it, and compare it with the best of "
        "those that one writes by hand",
        "digits --target-macs 30K --minutes 2\n"
        "or with a folder of images, with one folder for each class: "
        "autoshrink design photos --target-macs 2M; the options of text: autoshrink design pydoc "
        "--help",
        "pydoc --target-params 1M\nthe options of images: autoshrink design digits --help",
    ),
    "search": (
        _add_search,
        "[--task TASK] ",
        "find a cell, or with a target all of a network",
        "--dataset digits --target-macs 200K --max-candidates 20 --epochs 10\n"
        "the options of text: autoshrink search --task text --help",
        "--task text --data-dir texts --max-candidates 20\n"
        "the options of images: autoshrink search --help",
    ),
    "train": (
        _add_train,
        "CELL --output MODEL.keras ",
        "train a network of a cell, or one that was found at a target, in full",
        "runs/digits --epochs 30 --output digits.keras\n"
        "the options of text, as for any recurrent CELL: autoshrink train shrinkrnn --help",
        "runs/texts --units 200 --output lm.keras\n"
        "the options of images, as for any other CELL: autoshrink train shrinkcnn --help",
    ),
    "export": (
        _add_export,
        "MODEL.keras ",
        "convert a trained model to .tflite files and check them. Exits with 1 if a file has other "
        "multiply-accumulates or predictions than its model",
        "digits.keras --quantization float32 int8\n"
        "the options of text, as for any language model: autoshrink export lm.keras --help",
        "lm.keras --quantization float32 dynamic\nthe options of images: autoshrink export --help",
    ),
    "generate": (
        _add_generate,
        "MODEL.tflite TEXT ",
        "continue a text with a language model's .tflite file",
        "lm.float32.tflite 'the exception is'",
    ),
    "show": (
        _add_show,
        "CELL ",
        "draw and describe a cell, an architecture or a search",
        "runs/digits --picture cell.png --html report.html",
    ),
}


# Options of a kind

_Options = argparse._ActionsContainer  # a parser, or a group of its options


def _add(options: _Options, name: str, what: str = "", default: Any = None, **how: Any) -> None:
    """Adds an option: of choices, or `--name METAVAR` of a type, by default a positive number."""
    name, _, metavar = name.partition(" ")
    if "choices" not in how:
        how = {"type": positive, "metavar": metavar, **how}
    said = "" if default is None else " (default: %(default)s)"
    options.add_argument(name, default=default, help=(what or _HELP[name]) + said, **how)


def _add_flag(options: _Options, name: str, what: str = "") -> None:
    options.add_argument(name, action="store_true", help=what or _HELP[name])


def _add_targets(options: _Options, task: str) -> None:
    """Adds the targets of a search, of which one at most may be given."""
    images = task == "images"
    macs = f"multiply-accumulates of a network for one {'image' if images else 'word'}, such as"
    _add(options, "--target-macs N", f"{macs} {'4M' if images else '1M'}", type=count)
    params = f"parameters of a network, such as {'80K' if images else '1M'}"
    _add(options, "--target-params N", params, type=count)
    if images:
        file = "kilobytes (1,000 bytes) of a network's int8 .tflite file, such as 64"
        _add(options, "--target-kb KB", file, type=rate)
        _add(options, "--target-latency-ms MS", type=rate)


def _add_data(options: _Options, task: str, default: str, large: bool = False) -> None:
    """Adds which data to load; `large` ones are images that do not fit into memory."""
    if task == "text":
        parts = f"folder with train.txt, valid.txt and test.txt (default: {default})"
        _add(options, "--data-dir DIR", parts, type=Path)
        return
    kinds = f"'imagenet2012', {_DATASETS}" if large else _DATASETS
    _add(options, "--dataset DATA", f"{kinds} (default: {default})", type=str)
    _add(options, "--data-dir DIR", "where tensorflow-datasets keeps its data", type=Path)
    sizes = "32; without a search before 224 of 'imagenet2012' and of parts" if large else "32"
    resized = f"to which images from files are resized, in RGB (default: {sizes})"
    _add(options, "--image-size PIXELS", resized)
    _add_flag(options, "--strict")


# The values of options


def rate(text: str) -> float:
    """Reads a finite number greater than 0."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0")


def count(text: str) -> int:
    """Reads a number such as 300M."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    with contextlib.suppress(ValueError):
        number = float(text[:-1]) * factor if factor else float(text)
        if 1 <= number < math.inf:
            return round(number)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of the kind 300M or 300000000")


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
    match = re.fullmatch(r"(?:\[(.+)\]|([^:\[\]]+)):(\d+)", text)
    if match and 1 <= int(match[3]) < 2**16:
        return Address(match[1] or match[2], int(match[3]))
    raise argparse.ArgumentTypeError(f"{text!r} is no address of the kind node1:5000")
