"""How much the scores of a search on few images say: against trainings judged by many others.

Takes networks of a search on `photos` of `budget_data.py`: its first three, the ten best by their
first scores, and six at random of the next. Trains each on all 3,000 images, for as many epochs as
the search did and for twice as many, and counts how many of 20,000 other training images of
CIFAR-10 it tells right. Prints them, and Kendall's tau. Trainings that have ended are lines of a
file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
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
from budget_data import TURNED, photographs_and_others
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import keras_autoshrink as kas
from keras_autoshrink.search.points import EPOCHS, REPEAT
from tflite_export.runtime import native_output_silenced

_FIRST, _BEST, _NEXT, _OTHERS = 3, 10, 35, 6
_JUDGES = 20_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/few_images.py photos/search"
    )
    parser.add_argument("search", type=Path, help="folder of a search at 2M MACs")
    parser.add_argument("--data-dir", type=Path, help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--directory", type=Path, default=Path("runs/budget"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/few_images.jsonl"))
    options = parser.parse_args(arguments)
    jobs = [
        {**network, "epochs": epochs, "seed": 0}
        for network in _networks(options.search)
        for epochs in (network["searched_epochs"], 2 * network["searched_epochs"])
    ]
    known = {_key(each) for each in budget.read(options.results)}
    missing = [job for job in jobs if _key(job) not in known]
    options.directory.mkdir(parents=True, exist_ok=True)
    data = options.directory / "few_images.npz"
    if missing and not data.exists():
        _write_data(data, options.data_dir)
    with budget.one_on_each_core() as pool:
        train = functools.partial(_train, data=data)
        for result in pool.imap_unordered(train, missing):
            budget.write(options.results, result)
            print({n: v for n, v in result.items() if n != "architecture"}, flush=True)
    wanted = {_key(job) for job in jobs}
    _print([each for each in budget.read(options.results) if _key(each) in wanted])


def _key(job: dict[str, Any]) -> str:
    return json.dumps([job[name] for name in ("architecture", "epochs", "seed")])


def _networks(folder: Path) -> list[dict[str, Any]]:
    """Returns networks of a search, with their first scores."""
    import keras_tuner

    hypermodel = kas.CNNCellHyperModel(
        (32, 32, 3), 10, num_nodes=4, target_macs=2_000_000, photographs=True
    )
    trials = [json.loads(path.read_text()) for path in sorted(folder.glob("trial_*/trial.json"))]
    scored = [trial for trial in trials if trial["score"] is not None]
    fewest = min(_values(trial)[EPOCHS] for trial in scored)
    scored = [t for t in scored if (_values(t)[EPOCHS], _values(t)[REPEAT]) == (fewest, 0)]
    ranked = sorted(scored, key=lambda trial: (trial["score"], trial["trial_id"]), reverse=True)
    first = scored[:_FIRST]
    others = [trial for trial in ranked[_BEST : _BEST + _NEXT] if trial not in first]
    chosen = [*first, *ranked[:_BEST], *random.Random(1).sample(others, _OTHERS)]
    networks = []
    for trial in {trial["trial_id"]: trial for trial in chosen}.values():
        hp = keras_tuner.HyperParameters()
        hp.values = _values(trial)
        networks.append(
            {
                "network": trial["trial_id"],
                "searched_score": round(trial["score"], 4),
                "searched_epochs": fewest,
                "architecture": hypermodel.network(hp).to_json(),
            }
        )
    return networks


def _values(trial: dict[str, Any]) -> dict[str, Any]:
    return trial["hyperparameters"]["values"]


def _write_data(path: Path, data_dir: Path | None) -> None:
    """Writes the photographs to train on, and the images to judge by as if they were a test."""
    with native_output_silenced():
        import tensorflow_datasets as tfds

        builder = tfds.builder("cifar10", data_dir=data_dir)
        part = tfds.as_numpy(builder.as_dataset(split="train", batch_size=-1))
    x, y = part["image"], part["label"]
    photographs, others = photographs_and_others(y)
    judges = np.random.default_rng(5).permutation(others[TURNED:])[:_JUDGES]
    arrays = {"x_train": x[photographs], "y_train": y[photographs]}
    np.savez(path, **arrays, x_test=x[judges], y_test=y[judges])


def _train(job: dict[str, Any], data: Path) -> dict[str, Any]:
    """Trains a network on the photographs."""
    with native_output_silenced():
        images = kas.load_images(data, purpose="train")
        recipe = dataclasses.replace(kas.RECIPES["photos"], epochs=job["epochs"])
        began = time.monotonic()
        architecture = kas.Architecture.from_json(job["architecture"])
        trained = kas.train_network(architecture, images, recipe, seed=job["seed"])
    seconds = round(time.monotonic() - began, 1)
    return {**job, "accuracy": round(trained.test_accuracy, 4), "seconds": seconds}


def _print(results: list[dict[str, Any]]) -> None:
    """Prints the networks, the best by the longer trainings first, and what predicts these."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for each in results:
        found.setdefault(each["network"], {})[each["epochs"]] = each
    fewer, all_ = sorted({each["epochs"] for each in results})
    headings = ("score in the search", f"{fewer} epochs", f"{all_} epochs")
    shown = Table("network", *headings, box=box.MARKDOWN)
    rows = [
        (name, runs[fewer]["searched_score"], runs[fewer]["accuracy"], runs[all_]["accuracy"])
        for name, runs in found.items()
    ]
    for name, *values in sorted(rows, key=lambda row: -row[3]):
        shown.add_row(name, *(f"{value:.4f}" for value in values))
    console = Console(width=120)
    console.print(shown)
    columns = [[row[place] for row in rows] for place in (1, 2, 3)]
    for heading, values in zip(headings[:2], columns, strict=False):
        tau = stats.kendalltau(values, columns[2]).statistic
        console.print(f"Kendall's tau of {heading} with {headings[2]}: {tau:.2f}")


if __name__ == "__main__":
    main()
