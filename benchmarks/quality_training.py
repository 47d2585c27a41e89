"""Trains every network of a 5-node space, by several seeds: the table of `search_quality.py`.

    python benchmarks/quality_training.py digits
    python benchmarks/quality_training.py cifar10 --data-dir DIR

The task `digits` is scikit-learn's, 10 epochs of all its images for a search. The task `cifar10`
is a part that a CPU can afford: 2,000 training and 1,000 validation images, both of the training
split, averaged to 16x16 pixels; networks of half of the filters whose first stage strides, 8
epochs. Each network is trained as the search trains it, but to the end: early stopping can be
replayed on what is kept, the accuracy after each epoch. What is done is kept in a file beside the
table's, and goes on there when it is started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from quality_networks import distinct_networks

import keras_autoshrink as kas
from keras_autoshrink.hypermodels.seeding import training_seed

EPOCHS = {"digits": 10, "cifar10": 8}
SEEDS = 3
_LOGS = ("loss", "accuracy", "val_loss", "val_accuracy")


class ToTheEnd(kas.CNNCellHyperModel):
    """The networks of a search, of which none is stopped early."""

    def stopping_rules(self) -> list[keras.callbacks.Callback]:
        """Returns no rules."""
        return []


class Trainings:
    """Trains the networks of a task when they are first asked for.

    Attributes:
        hypermodel: builds and trains the networks.
        images: the numbers of training and of validation images.
        epochs: of each training.

    Args:
        task: a key of `EPOCHS`.
        data_dir: of tensorflow-datasets, for cifar10.
        num_nodes: of the complete DAG.
        path: of a file that keeps what has been trained, one JSON array a line: the network's
            key, the training seed, and of each epoch the loss and accuracy of training and of
            validation.
    """

    def __init__(self, task: str, data_dir: str | None, num_nodes: int, path: Path) -> None:
        halve = task == "cifar10"
        proxy = {"proxy": (2000, 1000)} if halve else {}
        data = kas.load_images(task, purpose="search", data_dir=data_dir, **proxy)
        parts = (data.train, data.validation)
        self._train_part, self._validation_part = (
            (_halved(part.x) if halve else part.x, part.y) for part in parts
        )
        options = {"filters": 8, "stem_filters": 16, "stage_strides": (2, 2, 2)} if halve else {}
        shape = self._train_part[0].shape[1:]
        self.hypermodel = ToTheEnd(input_shape=shape, num_nodes=num_nodes, **options)
        self.images = [len(part) for part in parts]
        self.epochs = EPOCHS[task]
        self._path = path
        self._costs: dict[str, tuple[int, int]] = {}
        self._done: dict[tuple[str, int], list[list[float]]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, seed, logs = json.loads(line)
                self._done[key, seed] = logs

    def accuracies(self, cell: kas.Cell, seed: int) -> list[float]:
        """Returns the validation accuracy after each epoch."""
        key = cell.key, seed
        if key not in self._done:
            keras.utils.set_random_seed(training_seed(seed, cell))
            hp, model = self._build(cell)
            history = self.hypermodel.fit(
                hp,
                model,
                *self._train_part,
                validation_data=self._validation_part,
                epochs=self.epochs,
                verbose=0,
            ).history
            epochs = zip(*(history[name] for name in _LOGS), strict=True)
            self._done[key] = [[round(float(value), 4) for value in epoch] for epoch in epochs]
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([*key, self._done[key]]) + "\n")
        return [logs[-1] for logs in self._done[key]]

    def costs(self, cell: kas.Cell) -> tuple[int, int]:
        """Counts a network's multiply-accumulates for one image, and its parameters."""
        if cell.key not in self._costs:
            _, model = self._build(cell)
            self._costs[cell.key] = kas.count_macs(model), kas.count_params(model)
        return self._costs[cell.key]

    def _build(self, cell: kas.Cell) -> tuple[keras_tuner.HyperParameters, keras.Model]:
        keras.backend.clear_session()  # or the process keeps the graphs of all networks
        hp = keras_tuner.HyperParameters()
        for i, j in self.hypermodel.cell.edges:
            hp.Fixed(f"cell/edge_{i}_{j}", (i, j) in cell.edges)
        return hp, self.hypermodel.build(hp)


def _halved(x: np.ndarray) -> np.ndarray:
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=EPOCHS)
    parser.add_argument("--data-dir", help="of tensorflow-datasets, for cifar10")
    parser.add_argument("--nodes", type=int, default=5, help="of the complete DAG (default: 5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    options = parser.parse_args(arguments)
    lines = options.out / f"quality_{options.task}.lines"
    trainings = Trainings(options.task, options.data_dir, options.nodes, lines)
    cells = distinct_networks(trainings.hypermodel.cell)
    for seed, cell in itertools.product(range(SEEDS), cells):
        trainings.accuracies(cell, seed)
    settings = {"images": trainings.images, **trainings.hypermodel.get_config()}
    table = {
        "task": options.task,
        "settings": settings,
        "epochs": trainings.epochs,
        "networks": [_network(trainings, cell) for cell in cells],
    }
    path = options.out / f"quality_{options.task}.json"
    path.write_text(json.dumps(table) + "\n", encoding="utf-8")


def _network(trainings: Trainings, cell: kas.Cell) -> dict[str, Any]:
    macs, params = trainings.costs(cell)
    accuracies = {str(seed): trainings.accuracies(cell, seed) for seed in range(SEEDS)}
    network = {"key": cell.key, "edges": cell.edges, "macs": macs, "params": params}
    return {**network, "val_accuracy": accuracies}


if __name__ == "__main__":
    main()
