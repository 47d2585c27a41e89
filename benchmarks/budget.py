"""Networks of one budget: what a search finds and every reference, trained alike, compared.

`search` searches, `train` trains the references and what was found on all training images, by the
recipe that `autoshrink train` takes for them, from several seeds, and `table` compares them.
Accuracies are of all test images, measured once, at the end of a training. Trainings that have
ended are not repeated: each is a line of a file, and an interrupted search goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import itertools
import json
import multiprocessing
import multiprocessing.pool
import multiprocessing.util
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from keras_autoshrink.commands.arguments import count
from keras_autoshrink.training.recipes import default_recipe, has_photographs
from tflite_export.runtime import native_output_silenced

VALIDATION = 5_000  # training images of CIFAR-10 that candidates are scored on, the last of them
_FOUND, _RANDOM = "found", "random"


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, trains or compares."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/budget.py search --target-macs 4M --minutes 60",
    )
    parser.add_argument("what", choices=("search", "train", "table"))
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--target-macs", type=count)
    target.add_argument("--target-latency-ms", type=float)
    parser.add_argument("--latency-of", choices=("float32", "int8"), default="float32")
    parser.add_argument("--dataset", default="cifar10", help="digits, an .npz file or a folder")
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--directory", type=Path, default=Path("runs/budget"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/budget.jsonl"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument(
        "--random",
        action="store_true",
        help="search: draw networks at random, to hold the search against; train: that one, too",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--found", type=Path, help="architecture.json of another search")
    parser.add_argument("--recipe", choices=(*kas.RECIPES,), help="of a training in full")
    parser.add_argument("--only", nargs="+", help="networks to train, such as found")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    options.directory.mkdir(parents=True, exist_ok=True)
    {"search": search, "train": train, "table": table}[options.what](options)


def _target(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the target, as a HyperModel takes it."""
    if options.target_macs is not None:
        return {"target_macs": options.target_macs}
    return {"target_latency_ms": options.target_latency_ms, "latency_of": options.latency_of}


def _recipe(options: argparse.Namespace) -> tuple[kas.Recipe, dict[str, Any]]:
    """Returns how networks are trained in full, and what tells that from other recipes."""
    name = options.recipe or default_recipe(options.dataset, at_budget=True)
    recipe = dataclasses.replace(kas.RECIPES[name], epochs=options.epochs)
    told = {"weight_decay": recipe.weight_decay, "augmentation": [*recipe.augmentation]}
    return recipe, {"name": name, **told}


def _project(options: argparse.Namespace) -> str:
    target = "-".join(str(value) for value in _target(options).values())
    return f"{Path(options.dataset).stem}-{target}-seed-{options.seed}"


def _found(options: argparse.Namespace) -> Path:
    return Path(options.found or options.directory / f"{_project(options)}.json")


def _drawn(options: argparse.Namespace) -> Path:
    return Path(options.directory / f"{_project(options)}-{_RANDOM}.json")


def _hypermodel(options: argparse.Namespace, data: Any) -> kas.CNNCellHyperModel:
    return kas.CNNCellHyperModel(
        data.input_shape,
        len(data.class_names),
        photographs=has_photographs(options.dataset),
        **_target(options),
    )


def search(options: argparse.Namespace) -> None:
    """Searches at a budget, and writes what it found into the folder."""
    with native_output_silenced():
        data = load(options, "search")
    hypermodel = _hypermodel(options, data)
    path = _drawn(options) if options.random else _found(options)
    tuner = kas.AutoShrink(
        hypermodel,
        num_candidates=6,  # few at a time: each round learns from those before
        strategy=_random_points() if options.random else None,
        max_minutes=options.minutes,
        seed=options.seed,
        directory=options.directory,
        project_name=_project(options) + (f"-{_RANDOM}" if options.random else ""),
    )
    began = time.monotonic()
    validation = (data.validation.x, data.validation.y)
    tuner.search(data.train.x, data.train.y, validation_data=validation, epochs=options.epochs)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    for record in tuner.trajectory():
        print(
            f"round {record['round']}: {len(record['candidates'])} of {record['epochs']} epochs, "
            f"best {record['score']:.4f} {record['changed']}"
        )
    best = hypermodel.network(tuner.get_best_hyperparameters()[0])
    path.write_text(json.dumps(best.to_json()))
    print(f"wrote {path}")


def _random_points() -> str:
    """Adds a strategy whose networks are all drawn at random, in rounds and with a final as ours.

    Returns:
        Its name.
    """
    from keras_autoshrink.search import STRATEGIES
    from keras_autoshrink.search.evolution import Evolution

    class RandomPoints(Evolution):
        name = _RANDOM

        def begin(self, state: Any) -> list[Any]:
            return self._at_random(state, f"{state.seed}/0")

        def _changed(self, state: Any, outcomes: Any) -> list[Any]:
            points = self._at_random(state, state.round_seed)
            return [point for point in points if point.key not in state.outcomes]

        def _at_random(self, state: Any, seed: str) -> list[Any]:
            generator, least = random.Random(seed), self.edges_to_keep(state.cell)
            count = min(self.num_candidates, self._remaining(state))
            points = (state.space.at_random(generator, least) for _ in range(count))
            return list({point.key: point for point in points}.values())

    STRATEGIES[_RANDOM] = RandomPoints
    return _RANDOM


def train(options: argparse.Namespace) -> None:
    """Trains what was found and the references, one on each core."""
    networks = _references(options)
    if _found(options).exists():
        networks[_FOUND] = json.loads(_found(options).read_text())
    if options.random:
        networks[_RANDOM] = json.loads(_drawn(options).read_text())
    names = options.only or [*networks]
    networks = {name: networks[name] for name in names if networks[name] is not None}
    latencies = _latencies(networks) if options.target_latency_ms else {}
    known = {_key(each) for each in read(options.results)}
    jobs = [
        {
            "dataset": Path(options.dataset).name,
            "target": _target(options),
            "network": name,
            "architecture": networks[name],
            "recipe": _recipe(options)[1],
            "epochs": options.epochs,
            "seed": seed,
            **latencies.get(name, {}),
        }
        for seed in options.seeds
        for name in networks
    ]
    jobs = [job for job in jobs if _key(job) not in known]
    with one_on_each_core() as pool:
        for result in pool.imap_unordered(functools.partial(_train, options=options), jobs):
            write(options.results, result)
            print({n: v for n, v in result.items() if n != "architecture"}, flush=True)


def _references(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the references' architectures, solved once; None of one that cannot be built."""
    path = options.directory / f"{_project(options)}-references.json"
    if not path.exists():
        with native_output_silenced():
            hypermodel = _hypermodel(options, load(options, "train"))
        found = {label: _solved(hypermodel, label) for label in _labels()}
        path.write_text(json.dumps(found))
    return dict(json.loads(path.read_text()))


def _solved(hypermodel: kas.CNNCellHyperModel, label: str) -> dict[str, Any] | None:
    """Returns a reference's architecture at the target, of a latency by measuring it."""
    import keras_tuner

    from keras_autoshrink.networks.budget import MACS, OverBudgetError
    from keras_autoshrink.tuner.latency import solve_macs

    hp = keras_tuner.HyperParameters()
    hp.values["network"] = label

    def build(macs: int) -> Any:
        hp.values[MACS] = macs
        return hypermodel.build(hp)

    try:
        if (target := hypermodel.latency_target) is not None:
            hp.values[MACS], _ = solve_macs(build, target.ms, target.quantization, target.guess)
        return hypermodel.network(hp).to_json()
    except OverBudgetError as error:
        print(f"{label} is left out: {error}", flush=True)
        return None


def _latencies(networks: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Times the files of all networks, of either kind, in turn."""
    from keras_autoshrink.tuner import latency

    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, kind in itertools.product(networks, ("float32", "int8")):
            paths[name, kind] = Path(folder, f"{name}.{kind}.tflite")
            model = kas.Architecture.from_json(networks[name]).build()
            latency.convert(model, paths[name, kind], kind)  # type: ignore[arg-type]
        timed = latency.time_files(paths)
    return {
        name: {f"{kind}_ms": round(timed[name, kind].latency_ms, 4) for kind in ("float32", "int8")}
        for name in networks
    }


def _labels() -> list[str]:
    from keras_autoshrink.networks.references import reference_labels

    return sorted(reference_labels(), key=lambda label: not label.endswith("-stride2"))


def _key(job: dict[str, Any]) -> str:
    names = ("dataset", "target", "network", "recipe", "epochs", "seed")
    found = job["architecture"] if job["network"] in (_FOUND, _RANDOM) else None
    return json.dumps([*(job[name] for name in names), found])


@contextlib.contextmanager
def one_on_each_core() -> Iterator[multiprocessing.pool.Pool]:
    """Makes processes, one on each core and with one thread, that are renewed now and then.

    (`ProcessPoolExecutor` can wait for ever where it renews two at a time, CPython's issue 115634.)
    """
    cores = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    free = spawn.SimpleQueue()
    for core in cores:
        free.put(core)
    with spawn.Pool(len(cores), _begin, (free,), maxtasksperchild=4) as pool:
        yield pool


def _begin(free: Any) -> None:
    """Keeps a process on a core of its own; it gives it back to the next one at its end."""
    core = free.get()
    os.sched_setaffinity(0, {core})
    multiprocessing.util.Finalize(None, free.put, args=(core,), exitpriority=0)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"


def _train(job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Trains a network on all but the test images, by the recipe that is the default for it."""
    with native_output_silenced():
        data = load(options, "train")
        architecture = kas.Architecture.from_json(job["architecture"])
        began = time.monotonic()
        recipe, _ = _recipe(options)
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
    """Prints a table for each recipe."""
    wanted = (Path(options.dataset).name, _target(options), options.epochs)
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for each in read(options.results):
        if (each["dataset"], each["target"], each["epochs"]) == wanted:
            title = ", ".join(f"{name} {value}" for name, value in each["recipe"].items())
            by_recipe.setdefault(title, []).append(each)
    for title, results in by_recipe.items():
        Console(width=200).print(_table(title, results))


def _table(title: str, results: list[dict[str, Any]]) -> Table:
    """Shows each network's accuracies, and how far what was found is above each reference."""
    found = {r["seed"]: r["test_accuracy"] for r in results if r["network"] == _FOUND}
    times = [name for name in ("float32_ms", "int8_ms") if name in results[0]]
    columns = ["network", "MACs", *times, "parameters", "seconds", "test accuracy"]
    shown = Table(*columns, "found above it", box=box.MARKDOWN, title=title)
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
            *(f"{runs[0][time]:.3f}" for time in times),
            f"{runs[0]['params']:,}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
            f"{statistics.fmean(accuracies):.4f} ({', '.join(map(str, accuracies))})",
            _mean(above),
        )
    return shown


def _mean(values: Sequence[float]) -> str:
    """Writes a mean and its standard error."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.4f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):+.4f} ± {error:.4f}"


def load(options: argparse.Namespace, purpose: str) -> Any:
    """Loads the images; of CIFAR-10 a search gets all training images, not a proxy."""
    data = kas.load_images(
        options.dataset,
        purpose="train" if options.dataset == "cifar10" else purpose,
        seed=options.seed,
        data_dir=options.data_dir,
    )
    if options.dataset != "cifar10" or purpose == "train":
        return data
    x, y = data.train.x, data.train.y
    return dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, x=x[:-VALIDATION], y=y[:-VALIDATION]),
        validation=dataclasses.replace(data.train, x=x[-VALIDATION:], y=y[-VALIDATION:]),
        test=None,
    )


if __name__ == "__main__":
    main()
