"""Runs the command line, ``python -m tflite_export``."""

import argparse
import contextlib
import os
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any, NoReturn, get_args

import tflite_export
from tflite_export.command_line import (
    Parser,
    add_import,
    fail,
    imported_objects,
    positive,
    printable,
    still_at_work,
    warnings_in_one_line,
)
from tflite_export.convert import (
    IOType,
    Quantization,
    check_kind,
    check_model_file,
    check_path,
)
from tflite_export.devices.litertjs import VERSION
from tflite_export.file.description import describe_tables, quantization
from tflite_export.file.flatbuffer import check_head
from tflite_export.runtime import check_survives

_MACS = "multiply-accumulates for one sample (1 MAC = 2 FLOPs)"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line without the program's name; that of the process by default.

    Returns:
        The exit status: 0, or 1 if a file does not agree with its model, or a device could not
        run it in one of the ways asked for.

    Raises:
        SystemExit: With 2 and one line on standard error for bad input, with 0 after ``--help``.
    """
    # TensorFlow reads it when it is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = _parser().parse_args(arguments)
    try:
        with warnings_in_one_line("tflite_export"), _reported(options.command):
            status: int = options.run(options)
        if _interrupted.is_set():  # and dropped by something else than a destructor
            raise KeyboardInterrupt
    except ImportError as error:
        _fail(_missing_package(options.command, error))
    except (OSError, TypeError, ValueError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    return status


def _reported(command: str) -> contextlib.AbstractContextManager[None]:
    """Says every so often that a command is at work, but for one that serves until it is ended."""
    serves = command == "serve"
    return contextlib.nullcontext() if serves else still_at_work("tflite_export", command)


# TensorFlow's converter makes other errors of a KeyboardInterrupt.
_interrupted = threading.Event()

_AGAIN = 0.01  # seconds: the destructor in which an interrupt was dropped has ended


def _interrupt(*_: object) -> NoReturn:
    _interrupted.set()
    raise KeyboardInterrupt


def _unraisable(dropped: Any) -> None:
    """Has an interrupt that Python drops, as one in a destructor, raised again at once."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
    elif hasattr(signal, "setitimer"):  # Windows has none: the command ends when its work has
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _fail(message: str, status: int = 2) -> NoReturn:
    if _interrupted.is_set():
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # the command has ended: not once more
        message, status = "interrupted", 130
    fail("tflite_export", message, status)


# What pip calls a package, by the name it is imported by, where a command can lack it.
_PIP_NAMES = {"ai_edge_litert": "ai-edge-litert", "keras": "keras", "tensorflow": "tensorflow"}


def _missing_package(command: str, error: ImportError) -> str:
    """Says what to install for a command whose import has failed."""
    package = _PIP_NAMES.get((error.name or "").split(".")[0])
    if package is None:
        return str(error)
    return f"{command}: needs {package}, not installed here: pip install {package}"


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
        _convert,
        "Convert a Keras model to a .tflite file.\n"
        "With --max-accuracy-drop: to every mode, of which the smallest file is kept whose\n"
        "accuracy is at most so much below the model's, with at least 95 of 100 predictions the\n"
        "same. Both accuracies are measured on --inputs, so take other samples than those of the\n"
        "test. With --max-difference: the same by the mean difference of outputs that are no\n"
        "classes. Exit status 1 if no file holds.",
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
        "--max-difference",
        type=float,
        metavar="SHARE",
        help="choose the mode of a model whose outputs are no classes: the smallest file whose "
        "outputs differ by no more on average, a share of their standard deviation, such as 0.1",
    )
    added.add_argument(
        "--io-type",
        choices=get_args(IOType),
        default="float32",
        help="what an int8 file takes and gives (default: float32)",
    )
    added.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="samples at a time (default: 1)"
    )
    added.add_argument(
        "--input-shape",
        type=positive,
        nargs="+",
        metavar="N",
        help="the shape of a sample, such as 224 224 3, of a model that leaves it open",
    )
    add_import(added)
    added.add_argument(
        "--representative-data",
        type=Path,
        metavar="X.npy",
        help="samples (n, ...) that int8 and int16x8 measure the ranges of activations on",
    )
    added.add_argument(
        "--inputs", type=Path, metavar="X.npy", help="samples (n, ...) to choose the mode by"
    )
    added.add_argument(
        "--labels", type=Path, metavar="Y.npy", help="their classes, integers (n,), if it has some"
    )

    added.add_argument(
        "--c-array",
        action="store_true",
        help="also write the file as C source and a header, OUT.c and OUT.h, as 'xxd -i' does, for "
        "microcontrollers without a file system",
    )

    added = command("macs", _macs, f"Count {_MACS}.", "model.tflite")
    added.add_argument("path", type=Path, metavar="FILE.tflite")

    added = command(
        "describe",
        _describe,
        "Say what a file is: metadata, size, peak memory on a microcontroller, inputs and\n"
        "outputs, operators, and of an int8 file which operators stayed float32.",
        "model.tflite",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")

    added = command(
        "verify",
        _verify,
        "Compare a file's outputs with its model's.\n"
        "Exit status 1 if they do not agree: a NaN, fewer than 95 of 100 predictions the same,\n"
        "an accuracy more than 0.02 lower, or, of outputs that are no classes, a mean difference\n"
        "of more than a tenth of their standard deviation.",
        "model.keras model.tflite --inputs images.npy --labels labels.npy",
    )
    added.add_argument("model", type=Path, metavar="MODEL.keras")
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    added.add_argument(
        "--inputs", type=Path, metavar="X.npy", required=True, help="samples (n, ...)"
    )
    added.add_argument(
        "--labels",
        type=Path,
        metavar="Y.npy",
        help="their classes, integers (n,), or the right numbers, of the outputs' shape",
    )
    add_import(added)

    added = command(
        "benchmark",
        _benchmark,
        "Measure the latency of a file on this machine's CPU.",
        "model.tflite --threads 1 2 --runs 200",
    )
    added.add_argument("path", type=Path, metavar="FILE.tflite")
    _add_timing(added)

    added = command(
        "serve",
        _serve,
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
    added.add_argument("--runs", type=positive, default=100, metavar="N")

    added = command(
        "android",
        _android,
        "Measure the latency of a file on an Android device, beside this machine's.\n"
        "Needs adb, a device with USB debugging, and TensorFlow Lite's benchmark_model, which is\n"
        "downloaded once. Exit status 1 if a run failed after others were measured.",
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
    parser.add_argument("--threads", type=positive, nargs="+", default=[1], metavar="N")
    parser.add_argument("--runs", type=positive, default=100, metavar="N")


def _convert(options: argparse.Namespace) -> int:
    """Converts a model to a file."""
    # Before Keras is loaded, which takes seconds.
    _check_choice(options)
    check_model_file(options.model)
    check_path(options.path)
    kind: Quantization = options.quantization or "float32"
    check_kind(kind, options.io_type)
    data = options.representative_data
    if data is None and kind in ("int8", "int16x8"):
        raise ValueError(
            f"--representative-data is missing: {kind} needs samples to measure ranges on"
        )
    samples = None if data is None else _load_array(data)
    choice = [None if x is None else _load_array(x) for x in (options.inputs, options.labels)]
    model = tflite_export.load_model(options.model, imported_objects(options.imports))
    if data is not None and len(getattr(model, "inputs", None) or ()) > 1:
        raise ValueError(
            f"{options.model}: has {len(model.inputs)} inputs, --representative-data an array for "
            "one; convert it in Python with tflite_export.convert, whose representative_data can "
            "be a dict"
        )
    if _chooses(options):
        return _convert_smallest(options, model, samples, *choice)
    path = tflite_export.convert(
        model,
        options.path,
        kind,
        representative_data=samples,
        batch_size=options.batch_size,
        io_type=options.io_type,
        input_shape=None if options.input_shape is None else tuple(options.input_shape),
    )
    print(f"{path}: {quantization(path)}, {path.stat().st_size:,} bytes")
    _write_c_array(options, path)
    return 0


def _write_c_array(options: argparse.Namespace, path: Path) -> None:
    if options.c_array:
        source, header = tflite_export.write_c_array(path)
        print(f"{source}, {header}: the file as C source")


def _chooses(options: argparse.Namespace) -> bool:
    return options.max_accuracy_drop is not None or options.max_difference is not None


def _check_choice(options: argparse.Namespace) -> None:
    by = "--max-difference" if options.max_accuracy_drop is None else "--max-accuracy-drop"
    for name in ("inputs", "labels"):
        given = getattr(options, name) is not None
        if given and not _chooses(options):
            raise ValueError(f"--{name}: is for a choice by --max-accuracy-drop")
        needed = name == "inputs" or options.max_accuracy_drop is not None
        if _chooses(options) and needed and not given:
            raise ValueError(f"{by} needs --{name}: samples to choose by, and their classes")
    for name in ("quantization", "input_shape"):
        if options.max_difference is not None and getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: not together with --max-difference")
    if _chooses(options) and (options.io_type != "float32" or options.batch_size != 1):
        raise ValueError(f"--io-type and --batch-size: not together with {by}")
    if options.max_accuracy_drop is not None and not 0 <= options.max_accuracy_drop < 1:
        raise ValueError(
            f"--max-accuracy-drop {options.max_accuracy_drop:g}: expected 0 to below 1"
        )
    if options.max_difference is not None and not options.max_difference > 0:
        raise ValueError(f"--max-difference {options.max_difference:g}: expected more than 0")


def _convert_smallest(
    options: argparse.Namespace, model: Any, samples: Any, inputs: Any, labels: Any
) -> int:
    """Converts a model to the smallest file that is accurate enough; 1 if none is."""
    from rich.console import Console

    from tflite_export.smallest import choice_tables

    console = Console(soft_wrap=False, highlight=False)
    drop = 0.01 if options.max_accuracy_drop is None else options.max_accuracy_drop
    bound = {} if options.max_difference is None else {"max_difference": options.max_difference}
    try:
        smallest = tflite_export.convert_smallest(
            model, options.path, inputs, labels, drop, representative_data=samples, **bound
        )
    except tflite_export.NoModeHoldsError as error:
        for table in choice_tables(error.modes, drop):
            console.print(table)
        fail("tflite_export", str(error), 1)
    for table in choice_tables(smallest.modes, drop, smallest):
        console.print(table)
    print(f"{smallest.path}: {smallest.chosen.quantization}, {smallest.chosen.num_bytes:,} bytes")
    _write_c_array(options, smallest.path)
    return 0


def _macs(options: argparse.Namespace) -> int:
    """Counts a file's multiply-accumulates."""
    check_survives(options.path, "read")
    print(f"{options.path}: {tflite_export.count_macs(options.path):,} MACs: {_MACS}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    """Describes a file."""
    from rich.console import Console

    check_survives(options.path, "read")
    console = Console(soft_wrap=False, highlight=False)
    for table in describe_tables(tflite_export.describe(options.path), _memory(options.path)):
        console.print(table)
    return 0


def _memory(path: Path) -> str:
    """Says what a file takes of a microcontroller's memory, or why that is not known."""
    try:
        memory = tflite_export.peak_memory(path)
    except ModuleNotFoundError as error:
        return f"unknown: {error}"
    except ValueError as error:
        return f"unknown: {str(error).removeprefix(f'{path}: ')}"
    return (
        f"{memory.num_bytes:,} bytes on a microcontroller: {memory.activation_bytes:,} of "
        f"activations, {memory.persistent_bytes:,} of the runtime"
    )


def _verify(options: argparse.Namespace) -> int:
    """Compares a file with its model; 1 if they do not agree."""
    # Before TensorFlow is loaded.
    check_model_file(options.model)
    check_survives(options.path, "run")
    inputs = _load_array(options.inputs)
    labels = None if options.labels is None else _load_array(options.labels)
    model = tflite_export.load_model(options.model, imported_objects(options.imports))
    agreement = tflite_export.verify(model, options.path, inputs, labels)
    print(f"samples            {agreement.num_samples}")
    for name, one in (agreement.outputs or {"": agreement}).items():
        if name:
            print(f"output {name}: {'agrees' if one.agrees else 'DOES NOT AGREE'}")
        for heading, figure, form in (
            ("same argmax", one.argmax_agreement, ".4f"),
            ("largest difference", one.max_abs_difference, ".3g"),
            ("mean difference", one.mean_abs_difference, ".3g"),
            ("share of deviation", one.difference_share, ".4f"),
            ("model accuracy", one.model_accuracy, ".4f"),
            ("file accuracy", one.file_accuracy, ".4f"),
            ("model error", one.model_error, ".3g"),
            ("file error", one.file_error, ".3g"),
        ):
            if figure is not None:
                print(f"{heading:<18} {figure:{form}}")
    print("the file agrees" if agreement.agrees else "the file DOES NOT AGREE with its model")
    return 0 if agreement.agrees else 1


def _benchmark(options: argparse.Namespace) -> int:
    """Measures a file's latency on this machine."""
    results = [
        tflite_export.benchmark(options.path, threads, options.runs) for threads in options.threads
    ]
    print(f"{options.path}: {options.runs} runs")
    for result in results:
        print(
            f"threads {result.num_threads}: median {result.median_ms:.3f} ms, "
            f"p95 {result.p95_ms:.3f} ms; {result.measured_by}"
        )
    return 0


def _serve(options: argparse.Namespace) -> int:
    """Serves the page that measures a file in a browser."""
    from tflite_export.devices.browser import serve as run

    status = run(
        options.path,
        host=options.host,
        port=options.port,
        runtime=options.runtime,
        runs=options.runs,
        once=options.once,
    )
    _interrupted.clear()  # Ctrl-C is how serving ends
    return status


def _android(options: argparse.Namespace) -> int:
    """Measures a file's latency on an Android device, and on this machine to compare."""
    from rich.console import Console

    from tflite_export.devices.android import (
        FailedRun,
        digest,
        find_device,
        latency_table,
        measure,
        program_for,
    )

    # The user's mistakes first; then this machine, which refuses damaged files; then the device.
    check_head(options.path)
    device = find_device(options.adb, options.serial)
    abi = device.property("ro.product.cpu.abi")
    name = device.property("ro.product.model")
    version = device.property("ro.build.version.release")
    program = program_for(abi, options.benchmark_model, options.sha256)
    host = [
        tflite_export.benchmark(options.path, threads, options.runs) for threads in options.threads
    ]
    results = measure(device, program, options.path, options.threads, options.runs, options.gpu)
    print(f"{options.path}: {name} ({device.serial}), Android {version}, {abi}")
    print(f"{program}: sha256 {digest(program)}")
    for result in host:
        print(f"this machine: {result.measured_by}")
    # The device's name is what its maker wrote: no markup.
    console = Console(soft_wrap=False, highlight=False, markup=False, emoji=False)
    console.print(latency_table(name, results, host))
    failed = [one for one in results if isinstance(one, FailedRun)]
    for one in failed:
        threads = f"{one.num_threads} thread{'s' * (one.num_threads > 1)}"
        print(f"{one.ran_on}, {threads}: {printable(one.why)}")  # one line, however wide
    return 1 if failed else 0


def _load_array(path: Path) -> Any:
    import numpy as np

    with path.open("rb") as file:
        try:
            array = np.load(file, allow_pickle=False)
        # A damaged one can also say of itself that it takes all memory, or that it is an archive.
        except (EOFError, MemoryError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a .npy array of numbers") from error
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: not a .npy array but an .npz archive")
    return array


if __name__ == "__main__":
    # SIGTERM as Ctrl-C: the default action would leave behind what is unfinished.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable
    sys.exit(main())
