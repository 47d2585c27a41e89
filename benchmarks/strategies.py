"""Searches by tf.distribute strategies beside one device: the scores, and one trajectory.

Two CPU devices of one process stand for two GPUs, two processes on this machine for two machines.
Every search trains the same cells with the same seed on the same global batches, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

# Images to train on and to score on, and the batch size; of 193 and 129 one is left over.
_PARTS = {"whole batches": (192, 128, 32), "a last batch of one": (193, 129, 32)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches and prints; returns the exit status: 1 if a score differs by more than 1e-4."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/strategies.py --nodes 3"
    )
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--role", choices=("devices", "worker"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        with native_output_silenced():  # TensorFlow announces its devices when it is imported
            results = {"devices": _devices, "worker": _worker}[options.role](options)
        print(json.dumps(results))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = _start(options, "devices", Path(folder), [{}])[0]
        ports = []
        for _ in range(2):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                ports.append(listener.getsockname()[1])
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
        environments = [{"TF_CONFIG": json.dumps(task)} for task in tasks]
        workers = _start(options, "worker", Path(folder), environments)
    results["workers"] = workers
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return _report(options, results)


def _start(
    options: argparse.Namespace, role: str, folder: Path, environments: list[dict[str, str]]
) -> list[Any]:
    """What processes print that run at the same time; strategies are made when one begins."""
    names = ("nodes", "candidates", "epochs", "seed")
    settings = [f"--{name}={getattr(options, name)}" for name in names]
    command = [sys.executable, __file__, "--role", role, "--directory", str(folder), *settings]
    processes = [
        subprocess.Popen(command, env={**os.environ, **each}, stdout=subprocess.PIPE, text=True)
        for each in environments
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{role}: failed")
    return [json.loads(each.splitlines()[-1]) for each in printed]


def _devices(options: argparse.Namespace) -> dict[str, Any]:
    """The searches of a process with two devices."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategies = {
        "one": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    }
    return {
        parts: {name: _search(options, strategies[name], parts, name) for name in strategies}
        for parts in _PARTS
    }


def _worker(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The search as one of two workers."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return _search(options, strategy, "a last batch of one", "workers")


def _search(
    options: argparse.Namespace, strategy: Any, parts: str, name: str
) -> list[dict[str, Any]]:
    """The records of a search, with validation losses and without what a clock measured."""
    import keras_autoshrink as kas
    from keras_autoshrink.data.images import load_images

    train, validation, batch_size = _PARTS[parts]
    digits = load_images("digits", purpose="search")
    hypermodel = kas.CNNCellHyperModel(
        digits.input_shape,
        num_nodes=options.nodes,
        filters=8,
        stem_filters=8,
        batch_size=batch_size,
    )
    tuner = kas.AutoShrink(
        hypermodel,
        num_candidates=options.candidates,
        strategy="paper",
        seed=options.seed,
        directory=options.directory,
        project_name=f"{name}-{train}",
        distribution_strategy=strategy,
    )
    tuner.search(
        digits.train.x[:train],
        digits.train.y[:train],
        validation_data=(digits.validation.x[:validation], digits.validation.y[:validation]),
        epochs=options.epochs,
        verbose=0,
    )
    records = tuner.trajectory()
    for record in records:
        for each in (record, *record["candidates"]):
            del each["seconds"]
        for candidate in record["candidates"]:
            metrics = tuner.oracle.get_trial(candidate["trial_id"]).metrics
            candidate["val_loss"] = metrics.get_history("val_loss")[0].value[0]
    return records


def _report(options: argparse.Namespace, results: dict[str, Any]) -> int:
    """Prints the tables; returns the exit status."""
    from importlib.metadata import version

    packages = ("tensorflow", "keras", "keras-tuner")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    table = Table(
        box=box.SIMPLE_HEAD, title=f"scores of candidates, seed {options.seed}; {versions}"
    )
    scores = ("one device", "two devices", "difference", "of validation losses")
    for heading in ("images", "round", "without", *scores):
        table.add_column(heading, justify="left" if heading == "images" else "right")
    largest = 0.0
    for parts, (train, validation, batch_size) in _PARTS.items():
        searches = results[parts]
        label = f"{parts}: {train} and {validation} in batches of {batch_size}"
        for one, two in zip(searches["one"], searches["two"], strict=True):
            for first, second in zip(one["candidates"], two["candidates"], strict=True):
                difference = abs(first["score"] - second["score"])
                losses = abs(first["val_loss"] - second["val_loss"])
                largest = max(largest, difference)
                removed = first["removed_edge"]
                table.add_row(
                    label,
                    str(one["round"]),
                    "-".join(map(str, removed)) if removed else "-",
                    f"{first['score']:.6f}",
                    f"{second['score']:.6f}",
                    f"{difference:.1e}",
                    f"{losses:.1e}",
                )
                label = ""
    console = Console(width=160, highlight=False)
    console.print(table)
    one = results["a last batch of one"]["one"]
    chief, other = results["workers"]
    console.print(f"two workers, the trajectories of both equal: {chief == other}")
    cells = [record["cell"] for record in chief] == [record["cell"] for record in one]
    differences = [
        abs(first["score"] - second["score"])
        for ours, theirs in zip(chief, one, strict=True)
        for first, second in zip(ours["candidates"], theirs["candidates"], strict=True)
    ]
    largest = max(largest, *differences)
    console.print(
        f"two workers and one device, the same cell in each of {len(one)} rounds: {cells}; "
        f"largest difference of {len(differences)} scores: {max(differences):.1e}"
    )
    return 0 if largest <= 1e-4 and cells and chief == other else 1


if __name__ == "__main__":
    sys.exit(main())
