"""The arguments of the command `autoshrink`.

Those of its two long commands are in modules of their own, `search_arguments` and
`train_arguments`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from keras_autoshrink import __version__, search_arguments, train_arguments
from keras_autoshrink.argument_types import positive
from keras_autoshrink.shared_arguments import add_cell, add_data, add_seed, add_task
from tflite_export.command_line import Parser
from tflite_export.convert import Quantization

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

    search_arguments.add_to(command("search", "find a cell"))
    train_arguments.add_to(command("train", "train a network of a cell in full"))

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
