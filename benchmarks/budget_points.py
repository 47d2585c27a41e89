"""How well short trainings rank networks of one budget: the proxies of a search against the truth.

`train` trains references and points of the space, each by several proxies and, for longer and from
two seeds, by the truth; `tau` prints how well each proxy ranks them. Networks are scored on the
last 5,000 training images of CIFAR-10. Each training is a line of a file; those that are there are
not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import budget
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import keras_autoshrink as kas
from keras_autoshrink.commands.arguments import count
from tflite_export.runtime import native_output_silenced


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How long a network is trained: on so many images, for so many epochs, from some seeds."""

    images: int
    epochs: int
    seeds: tuple[int, ...] = (0,)


TRUTH = Fidelity(25_000, 6, (1, 2))
PROXIES = {
    "all images, half of the epochs": Fidelity(25_000, 3),  # as in a search, beside its final
    "all images, a third of the epochs": Fidelity(25_000, 2),
    "half of the images, all epochs": Fidelity(12_500, 6),
}
_POINTS = 12  # of the space, beside the cells that a search begins with and the references
_CHANGES = 4  # by which they differ from one of those cells, at most
_RESAMPLES = 2_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/budget_points.py train"
    )
    parser.add_argument("what", choices=("train", "tau"))
    parser.add_argument("--target-macs", type=count, default=4_000_000)
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/budget_points.jsonl"))
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    {"train": train, "tau": tau}[options.what](options)


def points(target_macs: int) -> list[dict[str, Any]]:
    """Returns the values of the hyperparameters that differ from the defaults, of each point."""
    import keras_tuner

    from keras_autoshrink.hypermodels.search_space import CellSpace

    hypermodel = kas.CNNCellHyperModel(classes=10, target_macs=target_macs)
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    first = hypermodel.starting_values()
    space = CellSpace(hp.space, whole=True, first=first)
    cells = [point for point in space.space.first if space.space.contains(point)]
    generator = random.Random(0)
    found = {point.key: point for point in cells}
    while len(found) < len(cells) + _POINTS:
        point = cells[int(generator.random() * len(cells))]
        for _ in range(1 + int(generator.random() * _CHANGES)):
            near = list(space.space.neighbours(point, 1))
            point = near[int(generator.random() * len(near))]
        found[point.key] = point
    return [*(space.values(p) for p in found.values()), *(v for v in first if "network" in v)]


def train(options: argparse.Namespace) -> None:
    """Trains the points, one on each core."""
    fidelities = [TRUTH, *PROXIES.values()]
    jobs = [
        {
            "target_macs": options.target_macs,
            "values": values,
            "images": fidelity.images,
            "epochs": fidelity.epochs,
            "seed": seed,
        }
        for values in points(options.target_macs)
        for fidelity in fidelities
        for seed in fidelity.seeds
    ]
    known = {_key(each) for each in budget.read(options.results)}
    jobs = [job for job in jobs if _key(job) not in known]
    with budget.one_on_each_core() as pool:
        for result in pool.imap_unordered(
            functools.partial(_train, data_dir=options.data_dir), jobs
        ):
            budget.write(options.results, result)
            print(result, flush=True)


def _key(job: dict[str, Any]) -> str:
    names = ("target_macs", "values", "images", "epochs", "seed")
    return json.dumps([job[name] for name in names], sort_keys=True)


def _train(job: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """Trains a network as a search does; one that cannot be built has no accuracy."""
    import keras
    import keras_tuner

    from keras_autoshrink.networks.budget import OverBudgetError
    from keras_autoshrink.training.step import accelerate

    with native_output_silenced():
        images = kas.load_images("cifar10", purpose="train", data_dir=data_dir).train
    x, y = images.x, images.y
    validation = slice(len(x) - budget.VALIDATION, None)
    hypermodel = kas.CNNCellHyperModel(
        x.shape[1:], classes=10, target_macs=job["target_macs"], photographs=True
    )
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    hp.values.update(job["values"])
    keras.utils.set_random_seed(job["seed"])
    try:
        model = hypermodel.build(hp)
    except OverBudgetError as error:
        return {**job, "accuracy": None, "error": str(error)}
    accelerate(model)
    began = time.monotonic()
    hypermodel.fit(
        hp, model, x[: job["images"]], y[: job["images"]], epochs=job["epochs"], verbose=0
    )
    seconds = time.monotonic() - began
    measured = model.evaluate(x[validation], y[validation], verbose=0, return_dict=True)
    return {
        **job,
        "macs": kas.count_macs(model),
        "accuracy": round(measured["accuracy"], 4),
        "log_loss": round(measured["loss"], 4),
        "seconds": round(seconds, 1),
    }


def tau(options: argparse.Namespace) -> None:
    """Prints Kendall's tau of each proxy with the truth, by accuracy and by log-loss."""
    results = [r for r in budget.read(options.results) if r["accuracy"] is not None]
    results = [r for r in results if r["target_macs"] == options.target_macs]
    by_point: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_point.setdefault(json.dumps(result["values"], sort_keys=True), []).append(result)

    def of(runs: list[dict[str, Any]], fidelity: Fidelity, what: str) -> float | None:
        found = [
            run[what]
            for run in runs
            if (run["images"], run["epochs"]) == (fidelity.images, fidelity.epochs)
            and run["seed"] in fidelity.seeds
        ]
        return statistics.fmean(found) if len(found) == len(fidelity.seeds) else None

    shown = Table("proxy", "by", "networks", "tau (95%)", "seconds", box=box.MARKDOWN)
    generator = np.random.default_rng(0)
    for (name, proxy), what in itertools.product(PROXIES.items(), ("accuracy", "log_loss")):
        pairs = [
            (each, truth)
            for runs in by_point.values()
            if (each := of(runs, proxy, what)) is not None
            and (truth := of(runs, TRUTH, "accuracy")) is not None
        ]
        if len(pairs) < 3:
            continue
        values = np.array(pairs) * (1 if what == "accuracy" else [-1, 1])
        draws = generator.integers(0, len(values), (_RESAMPLES, len(values)))
        taus = [stats.kendalltau(*values[draw].T).statistic for draw in draws]
        low, high = np.nanquantile(taus, [0.025, 0.975])
        seconds = [
            r["seconds"]
            for r in results
            if (r["images"], r["epochs"]) == (proxy.images, proxy.epochs)
        ]
        shown.add_row(
            name,
            what.replace("_", "-"),
            str(len(values)),
            f"{stats.kendalltau(*values.T).statistic:.2f} ({low:.2f} to {high:.2f})",
            f"{statistics.fmean(seconds):.0f}",
        )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
