"""What searches at a budget find for so many trained networks, in a table of all of a small space.

`train` trains each of 192 networks as a search's candidates are, from two seeds: residual or not,
ReLU or SiLU, one or two ops in a row, the first of three kinds, one or two cells in the second
stage, with and without a fourth stage, and with a classifier that reads one or all stages. `replay`
lets the searches of `quality_contestants.py` look scores up, of one seed each, and prints their
regret: how far the network that they would return is below the best, by the mean of both seeds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import budget
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands.arguments import count
from keras_autoshrink.search.points import Point, Space
from tflite_export.runtime import native_output_silenced

_OPS = (("input",), ("sepconv3x3", "sepconv5x5", "conv3x3"), ("sepconv3x3",))
_EDGES = ((0, 1), (1, 2))
# The first of each are the defaults of `CNNCellHyperModel`.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "residual": (False, True),
    "activation": ("relu", "silu"),
    "stage2_cells": (1, 2),
    "stage4_cells": (1, 0),
    "pooled_stages": (1, 4),
}
_EPOCHS = 4  # half of those of a final of 8
_SEEDS = (0, 1)
_REPORTED = (10, 20, 30, 40)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/budget_replay.py train"
    )
    parser.add_argument("what", choices=("train", "replay"))
    parser.add_argument("--target-macs", type=count, default=1_000_000)
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/budget_replay.jsonl"))
    parser.add_argument("--searches", type=int, default=50, help="of each kind")
    options = parser.parse_args(arguments)
    {"train": train, "replay": replay}[options.what](options)


def points() -> list[Cell]:
    """Lists all points of the space."""
    found = []
    for op, length in itertools.product(_OPS[1], (1, 2)):
        for values in itertools.product(*_CHOICES.values()):
            ops = ("input", op, "sepconv3x3")
            found.append(Point(ops, _EDGES[:length], tuple(zip(_CHOICES, values, strict=True))))
    return found


def _values(point: Cell) -> dict[str, Any]:
    """Returns the hyperparameters of a point."""
    edges = {f"cell/edge_{i}_{j}": (i, j) in point.edges for i, j in _EDGES}
    others = dict(point.values) if isinstance(point, Point) else {}
    return {**edges, **{f"cell/op_{n}": point.ops[n] for n in (1, 2)}, **others}


def train(options: argparse.Namespace) -> None:
    """Trains the points, one on each core."""
    jobs = [
        {"target_macs": options.target_macs, "values": _values(point), "seed": seed}
        for seed in _SEEDS
        for point in points()
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
    names = ("target_macs", "values", "seed")
    return json.dumps([job[name] for name in names], sort_keys=True)


def _train(job: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """Trains a network as a search does, and returns the accuracy after each epoch."""
    import keras
    import keras_tuner

    from keras_autoshrink.training.step import accelerate

    with native_output_silenced():
        images = kas.load_images("cifar10", purpose="train", data_dir=data_dir).train
    train, validation = slice(-budget.VALIDATION), slice(-budget.VALIDATION, None)
    hypermodel = kas.CNNCellHyperModel(
        images.x.shape[1:],
        classes=10,
        num_nodes=3,
        target_macs=job["target_macs"],
        photographs=True,
    )
    hp = keras_tuner.HyperParameters()
    hp.values.update({"cell/edge_0_2": False, **job["values"]})
    keras.utils.set_random_seed(job["seed"])
    model = hypermodel.build(hp)
    accelerate(model)
    began = time.monotonic()
    history = hypermodel.fit(
        hp,
        model,
        images.x[train],
        images.y[train],
        validation_data=(images.x[validation], images.y[validation]),
        epochs=_EPOCHS,
        verbose=0,
    ).history
    return {
        **job,
        "macs": kas.count_macs(model),
        "val_accuracy": [round(accuracy, 4) for accuracy in history["val_accuracy"]],
        "seconds": round(time.monotonic() - began, 1),
    }


class Points:
    """The trained points of a table, see `quality_networks.Table`.

    Args:
        path: of the table.
        target_macs: of its networks.

    Raises:
        ValueError: points are missing.
    """

    epochs = _EPOCHS

    def __init__(self, path: Path, target_macs: int) -> None:
        self.task = f"CIFAR-10, {target_macs:,} MACs"
        values = tuple((name, choices[0]) for name, choices in _CHOICES.items())
        self.dense: Cell = Point(("input", "sepconv3x3", "sepconv3x3"), _EDGES, values)
        self.space = Space(self.dense, _OPS, _CHOICES)
        self.cells = points()
        found = {_key(r): r for r in budget.read(path) if r["target_macs"] == target_macs}
        jobs = [
            [
                _key({"target_macs": target_macs, "values": _values(cell), "seed": seed})
                for seed in _SEEDS
            ]
            for cell in self.cells
        ]
        missing = sum(key not in found for keys in jobs for key in keys)
        if missing:
            raise ValueError(f"{path}: {missing} trainings are missing; run train")
        self.curves = [[found[key]["val_accuracy"] for key in keys] for keys in jobs]
        # What a search at a budget takes: the last epoch.
        self.scores = np.array([[run[-1] for run in runs] for runs in self.curves])
        self.true = self.scores.mean(axis=1)
        self._macs = [found[keys[0]]["macs"] for keys in jobs]
        self._index = {_values_key(_values(cell)): n for n, cell in enumerate(self.cells)}

    def index(self, cell: Cell) -> int:
        """Finds the index of a point's network."""
        return self._index[_values_key(_values(cell))]

    def count_macs(self, cell: Cell) -> int:
        """Returns the multiply-accumulates of a network for one image."""
        return int(self._macs[self.index(cell)])

    def draw(self, generator: random.Random, count: int | None = None) -> list[Cell]:
        """Draws so many distinct points, by default all, all equally likely."""
        return generator.sample(self.cells, len(self.cells) if count is None else count)

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Finds the points that differ from one in one place."""
        return list(self.space.neighbours(cell, 1))

    def declare(self, hp: Any) -> None:
        """Declares the space for KerasTuner's own searches."""
        hp.Boolean("cell/edge_1_2")
        hp.Choice("cell/op_1", _OPS[1])
        for name, choices in _CHOICES.items():
            hp.Choice(name, choices) if name != "residual" else hp.Boolean(name)

    def of_values(self, values: dict[str, Any]) -> Cell | None:
        """Finds the point that such values say."""
        others = tuple((name, values[name]) for name in _CHOICES)
        ops = ("input", values["cell/op_1"], "sepconv3x3")
        return Point(ops, _EDGES[: 2 if values["cell/edge_1_2"] else 1], others)


def _values_key(values: dict[str, Any]) -> str:
    """Tells points apart; the op of a second node that there is not says nothing."""
    return json.dumps(values, sort_keys=True)


def replay(options: argparse.Namespace) -> None:
    """Searches in the table, and prints the regrets."""
    import quality_contestants as contestants
    from keras_tuner import oracles

    table = Points(options.results, options.target_macs)
    most = max(_REPORTED)
    ours = {"strategy": "evolution", "max_candidates": most}
    searches = {
        "random points": contestants.random_networks,
        "AutoShrink evolution, k=6": contestants.shrinking(6, **ours),
        "AutoShrink evolution, k=10": contestants.shrinking(10, **ours),
        "regularised evolution": contestants.evolution(population=10, sample=5),
        "KerasTuner RandomSearch": contestants.keras_tuner_oracle(
            oracles.RandomSearchOracle, max_trials=1000
        ),
        "KerasTuner Hyperband": contestants.keras_tuner_oracle(
            oracles.HyperbandOracle, max_epochs=table.epochs, factor=2, hyperband_iterations=100
        ),
        "KerasTuner Bayesian": contestants.keras_tuner_oracle(
            oracles.BayesianOptimizationOracle, max_trials=60
        ),
    }
    shown = Table(
        *("search", "searches", *(f"{n} trained" for n in _REPORTED)),
        box=box.MARKDOWN,
        title=f"{table.task}: mean regret in points ± standard error; best {table.true.max():.4f}, "
        f"of all {table.true.mean():.4f} (sd {table.true.std():.4f}), sd of a training "
        f"{np.sqrt(table.scores.var(axis=1, ddof=1).mean()):.4f}",
    )
    for name, search in searches.items():
        found = 100 * np.array(
            [
                [contestants.regrets(search, table, seed, most)[n] for n in _REPORTED]
                for seed in range(options.searches)
            ]
        )
        errors = found.std(axis=0, ddof=1) / np.sqrt(len(found))
        cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(found.mean(axis=0), errors, strict=True)]
        shown.add_row(name, str(len(found)), *cells)
    Console(width=160).print(shown)


if __name__ == "__main__":
    main()
