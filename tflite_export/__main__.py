"""``python -m tflite_export``: convert, count, describe, verify and measure ``.tflite`` files."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, get_args

from tflite_export import commands
from tflite_export.command_line import Parser, fail, missing_package
from tflite_export.convert import Quantization
from tflite_export.litertjs import VERSION


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line without the program's name; that of the process by default.

    Returns:
        The exit status: 0, or 1 if a file does not agree with its model.

    Raises:
        SystemExit: With 2 and one line on standard error for bad input, with 0 after ``--help``.
    """
    # TensorFlow reads it when it is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ImportError as error:
        fail("tflite_export", missing_package(options.command, error), 2)
    except (OSError, TypeError, ValueError) as error:
        fail("tflite_export", str(error), 2)
    except KeyboardInterrupt:
        fail("tflite_export", "interrupted", 130)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m tflite_export",
        description="A Keras model to a checked .tflite file.\n"
        "MACs are multiply-accumulates (1 MAC = 2 FLOPs).",
        epilog="example:\n  python -m tflite_export convert model.keras model.tflite",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=summary.replace("\n", " ").partition(". ")[0].removesuffix("."),
            description=summary,
            epilog=f"example:\n  python -m tflite_export {name} {example}",
            # The example stays on one line.
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    added = command(
        "convert",
        commands.convert,
        "Convert a Keras model to a .tflite file.\n"
        "With --max-accuracy-drop: to every mode, of which the smallest file is kept whose\n"
        "accuracy is at most so much below the model's, with at least 95 of 100 predictions the\n"
        "same. Both accuracies are measured on --inputs, so take other samples than those of the\n"
        "test. Exit status 1 if no file holds.",
        "model.keras model.tflite --quantization int8 --representative-data images.npy",
    )
    added.add_argument("model", type=Path, metavar="MODEL.keras")
    added.add_argument("path", type=Path, metavar="OUT.tflite")
    mode = added.add_mutually_exclusive_group()
    mode.add_argument(
        "--quantization", choices=get_args(Quantization), help="the mode (default: float32)"
    )
    mode.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="SHARE",
        help="choose the mode: the smallest file that loses no more; 0.01 is a percentage point",
    )
    added.add_argument(
        "--representative-data",
        type=Path,
        metavar="X.npy",
        help="samples (n, ...) that int8 and int16x8 measure the ranges of activations on",
    )
    added.add_argument(
        "--inputs", type=Path, metavar="X.npy", help="samples (n, ...) to choose the mode by"
    )
    added.add_argument("--labels", type=Path, metavar="Y.npy", help="their classes, integers (n,)")

    added = command("macs", commands.macs, f"Count {commands.MACS}.", "model.tflite")
    added.add_argument("path", type=Path, metavar="FILE.tflite")

    added = command(
        "describe",
        commands.describe,
        "Say what a file is: metadata, size, inputs and outputs, operators, and of an int8 file\n"
        "which operators stayed float32.",
        "model.tflite",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")

    added = command(
        "verify",
        commands.verify,
        "Compare a file's outputs with its model's.\n"
        "Exit status 1 if they do not agree: a NaN, fewer than 95 of 100 predictions the same,\n"
        "or an accuracy more than 0.02 lower.",
        "model.keras model.tflite --inputs images.npy --labels labels.npy",
    )
    added.add_argument("model", type=Path, metavar="MODEL.keras")
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    added.add_argument(
        "--inputs", type=Path, metavar="X.npy", required=True, help="samples (n, ...)"
    )
    added.add_argument("--labels", type=Path, metavar="Y.npy", help="their classes, integers (n,)")

    added = command(
        "benchmark",
        commands.benchmark,
        "Measure the latency of a file on this machine's CPU.",
        "model.tflite --threads 1 2 --runs 200",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    _add_timing(added)

    added = command(
        "serve",
        commands.serve,
        "Measure and check a file in a browser, of this machine or of a phone.\n"
        "Prints an address. The page there runs the file with LiteRT.js, compares its outputs\n"
        "with this machine's, and sends back what it measured, which is printed; it can try the\n"
        "file on an image. Serves until Ctrl-C. Exit status 1 if a browser cannot run the file,\n"
        "or an output differs by more than 0.001.",
        "model.tflite --host 0.0.0.0",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    added.add_argument(
        "--host",
        default="127.0.0.1",
        help="IPv4 address to listen on; the default is for this machine only, 0.0.0.0 lets all "
        "devices of the network in that have the address",
    )
    added.add_argument("--port", type=int, default=0, metavar="N", help="default: any free one")
    added.add_argument("--once", action="store_true", help="end after the first measurement")
    added.add_argument(
        "--runtime",
        type=Path,
        metavar="DIR",
        help=f"LiteRT.js, as npm puts it into node_modules/@litertjs; by default version {VERSION} "
        "in the user's caches, fetched with npm the first time",
    )
    added.add_argument("--runs", type=int, default=100, metavar="N")

    added = command(
        "android",
        commands.android,
        "Measure the latency of a file on an Android device, beside this machine's.\n"
        "Needs adb, a device with USB debugging, and TensorFlow Lite's benchmark_model, which is\n"
        "downloaded once.",
        "model.tflite --threads 1 4 --gpu",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    _add_timing(added)
    added.add_argument("--gpu", action="store_true", help="measure on the device's GPU as well")
    added.add_argument("--serial", metavar="S", help="the device, where adb finds several")
    added.add_argument("--adb", metavar="PATH", help="the adb program (default: the PATH's)")
    added.add_argument(
        "--benchmark-model",
        type=Path,
        metavar="PATH",
        help="a benchmark_model for the device's architecture, in place of the official one",
    )
    added.add_argument("--sha256", metavar="HEX", help="what benchmark_model's SHA-256 has to be")
    return parser


def _add_timing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--runs", type=int, default=100, metavar="N")


if __name__ == "__main__":
    # As Ctrl-C: the default action would leave behind what is unfinished.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
