"""Networks of one budget: what a search finds and every reference, trained alike, compared.

`search` searches, `train` trains the references and what was found by the recipe "photos" on all
training images, from several seeds, and `table` compares them. Accuracies are of all test images,
measured once, at the end of a training. Trainings that have ended are not repeated: each is a line
of a file, and an interrupted search goes on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import multiprocessing.util
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from keras_autoshrink.commands.arguments import count
from tflite_export.runtime import native_output_silenced

VALIDATION = 5_000  # training images that candidates are scored on, the last of them
_FOUND = "found"


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, trains or compares."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/budget.py search --target-macs 4M --minutes 45",
    )
    parser.add_argument("what", choices=("search", "train", "table"))
    parser.add_argument("--target-macs", type=count, default=4_000_000)
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--directory", type=Path, default=Path("runs/budget"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/budget.jsonl"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="networks to train, such as found")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    {"search": search, "train": train, "table": table}[options.what](options)


def search(options: argparse.Namespace) -> None:
    """Searches at a budget, and writes what it found into the folder."""
    with native_output_silenced():
        x, y = cifar10(options.data_dir)
    hypermodel = kas.CNNCellHyperModel(
        x.shape[1:], classes=10, target_macs=options.target_macs, horizontal_flip=True
    )
    tuner = kas.AutoShrink(
        hypermodel,
        num_candidates=6,  # few at a time: each round learns from those before
        max_minutes=options.minutes,
        seed=options.seed,
        directory=options.directory,
        project_name=_project(options),
    )
    began = time.monotonic()
    train, validation = slice(len(x) - VALIDATION), slice(len(x) - VALIDATION, None)
    tuner.search(
        x[train],
        y[train],
        validation_data=(x[validation], y[validation]),
        epochs=options.epochs,
    )
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    for record in tuner.trajectory():
        print(
            f"round {record['round']}: {len(record['candidates'])} of {record['epochs']} epochs, "
            f"best {record['score']:.4f} {record['changed']}"
        )
    best = hypermodel.network(tuner.get_best_hyperparameters()[0])
    _found(options).write_text(json.dumps(best.to_json()))
    print(f"wrote {_found(options)}")


def _project(options: argparse.Namespace) -> str:
    return f"macs-{options.target_macs}-seed-{options.seed}"


def _found(options: argparse.Namespace) -> Path:
    return Path(options.directory / f"{_project(options)}.json")


def train(options: argparse.Namespace) -> None:
    """Trains what was found and the references, one on each core."""
    networks: dict[str, dict[str, Any] | None] = dict.fromkeys(_labels())
    if _found(options).exists():
        networks[_FOUND] = json.loads(_found(options).read_text())
    names = options.only or [*networks]
    known = {_key(each) for each in read(options.results)}
    jobs = [
        {
            "target_macs": options.target_macs,
            "network": name,
            "architecture": networks[name],
            "epochs": options.epochs,
            "seed": seed,
        }
        for seed in options.seeds
        for name in names
    ]
    jobs = [job for job in jobs if _key(job) not in known]
    with one_on_each_core() as pool:
        for result in pool.map(_train, jobs, [options.data_dir] * len(jobs)):
            if result is not None:
                write(options.results, result)
                print({n: v for n, v in result.items() if n != "architecture"}, flush=True)


def _labels() -> list[str]:
    from keras_autoshrink.networks.references import reference_labels

    return sorted(reference_labels(), key=lambda label: not label.endswith("-stride2"))


def _key(job: dict[str, Any]) -> str:
    names = ("target_macs", "network", "architecture", "epochs", "seed")
    return json.dumps([job[name] for name in names])


@contextlib.contextmanager
def one_on_each_core() -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Makes processes, one on each core and with one thread, that are renewed now and then."""
    cores = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    free = spawn.SimpleQueue()
    for core in cores:
        free.put(core)
    with concurrent.futures.ProcessPoolExecutor(
        len(cores), spawn, initializer=_begin, initargs=(free,), max_tasks_per_child=4
    ) as pool:
        yield pool


def _begin(free: Any) -> None:
    """Keeps a process on a core of its own; it gives it back to the next one at its end."""
    core = free.get()
    os.sched_setaffinity(0, {core})
    multiprocessing.util.Finalize(None, free.put, args=(core,), exitpriority=0)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"


def _train(job: dict[str, Any], data_dir: Path | None) -> dict[str, Any] | None:
    """Trains a network; returns None for a reference that cannot be built at the budget."""
    with native_output_silenced():
        from keras_autoshrink.networks.references import solve_reference

        data = kas.load_images("cifar10", purpose="train", data_dir=data_dir)
        if job["architecture"] is None:
            try:
                reference, arguments = solve_reference(
                    job["network"],
                    data.input_shape,
                    len(data.class_names),
                    job["target_macs"],
                    kas.count_macs,
                    "target_macs",
                )
            except ValueError as error:
                print(f"{job['network']} is left out: {error}", flush=True)
                return None
            architecture = kas.Architecture(arguments, reference)
        else:
            architecture = kas.Architecture.from_json(job["architecture"])
        began = time.monotonic()
        recipe = dataclasses.replace(kas.RECIPES["photos"], epochs=job["epochs"])
        trained = kas.train_network(architecture, data, recipe, seed=job["seed"])
    return {
        **job,
        "macs": kas.count_macs(trained.model),
        "params": kas.count_params(trained.model),
        "images": len(data.train),
        "test_accuracy": round(trained.test_accuracy, 4),
        "seconds": round(time.monotonic() - began, 1),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Reads the trainings in a file, one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, result: dict[str, Any]) -> None:
    """Adds a training to a file."""
    with path.open("a") as file, _locked(file):
        file.write(json.dumps(result) + "\n")


@contextlib.contextmanager
def _locked(file: Any) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
    file.flush()


def table(options: argparse.Namespace) -> None:
    """Prints each network's accuracies, and how far what was found is above each reference."""
    results = [
        each
        for each in read(options.results)
        if (each["target_macs"], each["epochs"]) == (options.target_macs, options.epochs)
    ]
    found = {r["seed"]: r["test_accuracy"] for r in results if r["network"] == _FOUND}
    columns = ("network", "MACs", "parameters", "seconds", "test accuracy", "found above it")
    shown = Table(*columns, box=box.MARKDOWN)
    by_network: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_network.setdefault(result["network"], []).append(result)
    for name, runs in sorted(
        by_network.items(), key=lambda item: -statistics.fmean(r["test_accuracy"] for r in item[1])
    ):
        accuracies = [run["test_accuracy"] for run in runs]
        above = [
            found[run["seed"]] - run["test_accuracy"]
            for run in runs
            if name != _FOUND and run["seed"] in found
        ]
        shown.add_row(
            name,
            f"{runs[0]['macs']:,}",
            f"{runs[0]['params']:,}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
            f"{statistics.fmean(accuracies):.4f} ({', '.join(map(str, accuracies))})",
            _mean(above),
        )
    Console(width=200).print(shown)


def _mean(values: Sequence[float]) -> str:
    """Writes a mean and its standard error."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.4f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):+.4f} ± {error:.4f}"


def cifar10(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training images, as a network takes them, and their labels."""
    data = kas.load_images("cifar10", purpose="train", data_dir=data_dir)
    return data.train.x, data.train.y


if __name__ == "__main__":
    main()
