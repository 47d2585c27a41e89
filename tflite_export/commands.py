"""What each command of ``python -m tflite_export`` does; each returns the exit status."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import tflite_export
from tflite_export.command_line import fail
from tflite_export.describe_table import describe_tables
from tflite_export.flatbuffer import check_head
from tflite_export.quantization import quantization
from tflite_export.trial import check_survives

MACS = "multiply-accumulates for one sample (1 MAC = 2 FLOPs)"


def convert(options: argparse.Namespace) -> int:
    """Converts a model."""
    _check_choice(options)
    data = options.representative_data
    model = tflite_export.load_model(options.model)
    if data is not None and len(getattr(model, "inputs", None) or ()) > 1:
        raise ValueError(
            f"{options.model}: has {len(model.inputs)} inputs, --representative-data an array for "
            "one; convert it in Python with tflite_export.convert, whose representative_data can "
            "be a dict"
        )
    samples = None if data is None else _load_array(data)
    if options.max_accuracy_drop is not None:
        return _convert_smallest(options, model, samples)
    path = tflite_export.convert(
        model, options.path, options.quantization or "float32", representative_data=samples
    )
    print(f"{path}: {quantization(path)}, {path.stat().st_size:,} bytes")
    return 0


def _check_choice(options: argparse.Namespace) -> None:
    choosing = options.max_accuracy_drop is not None
    for name in ("inputs", "labels"):
        if choosing != (getattr(options, name) is not None):
            raise ValueError(
                f"--max-accuracy-drop needs --{name}: samples to choose by, and their classes"
                if choosing
                else f"--{name}: is for a choice by --max-accuracy-drop"
            )


def _convert_smallest(options: argparse.Namespace, model: Any, samples: Any) -> int:
    """Converts to the smallest file that holds; 1 if none does."""
    from rich.console import Console

    from tflite_export.smallest_table import choice_tables

    console = Console(soft_wrap=False, highlight=False)
    drop = options.max_accuracy_drop
    inputs, labels = _load_array(options.inputs), _load_array(options.labels)
    try:
        smallest = tflite_export.convert_smallest(
            model, options.path, inputs, labels, drop, representative_data=samples
        )
    except tflite_export.NoModeHoldsError as error:
        for table in choice_tables(error.modes, drop):
            console.print(table)
        fail("tflite_export", str(error), 1)
    for table in choice_tables(smallest.modes, drop, smallest):
        console.print(table)
    print(f"{smallest.path}: {smallest.chosen.quantization}, {smallest.chosen.num_bytes:,} bytes")
    return 0


def macs(options: argparse.Namespace) -> int:
    """Counts multiply-accumulates."""
    check_survives(options.path, "read")
    print(f"{options.path}: {tflite_export.count_macs(options.path):,} MACs: {MACS}")
    return 0


def describe(options: argparse.Namespace) -> int:
    """Says what a file is."""
    from rich.console import Console

    check_survives(options.path, "read")
    console = Console(soft_wrap=False, highlight=False)
    for table in describe_tables(tflite_export.describe(options.path)):
        console.print(table)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compares a file with its model; 1 if they do not agree."""
    check_survives(options.path, "run")  # before TensorFlow is loaded
    inputs = _load_array(options.inputs)
    labels = None if options.labels is None else _load_array(options.labels)
    agreement = tflite_export.verify(
        tflite_export.load_model(options.model), options.path, inputs, labels
    )
    print(f"samples            {agreement.num_samples}")
    print(f"same argmax        {agreement.argmax_agreement:.4f}")
    print(f"largest difference {agreement.max_abs_difference:.3g}")
    if labels is not None:
        print(f"model accuracy     {agreement.model_accuracy:.4f}")
        print(f"file accuracy      {agreement.file_accuracy:.4f}")
    print("the file agrees" if agreement.agrees else "the file DOES NOT AGREE with its model")
    return 0 if agreement.agrees else 1


def benchmark(options: argparse.Namespace) -> int:
    """Measures latency."""
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


def serve(options: argparse.Namespace) -> int:
    """Serves the page that measures a file in a browser."""
    # Not with the others above: they need no server.
    from tflite_export.serve import serve as run

    return run(
        options.path,
        host=options.host,
        port=options.port,
        runtime=options.runtime,
        runs=options.runs,
        once=options.once,
    )


def android(options: argparse.Namespace) -> int:
    """Measures latency on an Android device, and on this machine to compare."""
    from rich.console import Console

    from tflite_export.adb import find_device
    from tflite_export.android import latency_table, measure
    from tflite_export.benchmark_model import digest, program_for

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
    return 0


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
