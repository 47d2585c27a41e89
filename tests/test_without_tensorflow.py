"""The search on a machine that has JAX and no TensorFlow, in processes that find none."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_autoshrink.cell import Cell
from keras_autoshrink.score import AccuracyScore, PerplexityScore

# As each process starts: TensorFlow, and what comes with it, cannot be found any more.
HIDES = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.startswith("tensorflow") else find(name, *rest)
)
"""

SCORES = {
    "images": (AccuracyScore(), "val_accuracy"),
    "text": (PerplexityScore(), "val_perplexity"),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hides")
    (folder / "sitecustomize.py").write_text(HIDES)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling takes longer than all else here
    }


def start(environment, *command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def search(environment, kind, folder, epoch=0):
    script = Path(__file__).with_name("without_tensorflow.py")
    return start(environment, script, kind, folder, epoch)


def outcome(process):
    """What a search found; without seconds, which are never the same."""
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    found = json.loads(printed.splitlines()[-1])
    for record in found["trajectory"]:
        for one in (record, *record["candidates"]):
            del one["seconds"]
    return found


@pytest.mark.parametrize("kind", ["images", pytest.param("text", marks=pytest.mark.slow)])
def test_a_killed_search_goes_on_to_the_same_end(kind, environment, tmp_path):
    untroubled = search(environment, kind, tmp_path / "untroubled")
    killed = search(environment, kind, tmp_path / "killed", epoch=4)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    resumed = outcome(search(environment, kind, tmp_path / "killed"))
    whole = outcome(untroubled)
    assert (whole["backend"], whole["tensorflow"]) == ("jax", [])
    assert [record["edges_left"] for record in whole["trajectory"]] == [3, 2]
    score, name = SCORES[kind]
    for record in whole["trajectory"]:
        assert record["score"] == score({name: record["objective"]}, record["macs"])
    assert resumed == whole


CALLS = """
import json, sys
import keras_autoshrink as kas
from keras_autoshrink.commands.cli import main

for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 2
for train in (kas.train_network, kas.train_language_model):
    try:
        train(kas.SHRINKRNN_CELL, None, None)
    except ValueError as error:
        print(error, file=sys.stderr)
"""
BACKEND = (
    "needs Keras's TensorFlow backend, this is jax; set KERAS_BACKEND=tensorflow "
    "(and pip install tensorflow, where it is missing)"
)
MISSING = "needs tensorflow, not installed here: pip install tensorflow"


def test_what_takes_tensorflow_says_so_in_one_line(environment, tmp_path):
    cell, model, demo = tmp_path / "cell.json", tmp_path / "model.keras", tmp_path / "demo"
    Cell.dense(("input", "conv1x1")).save(cell)
    searching = ["search", "--directory", str(tmp_path / "runs")]
    commands = [
        [*searching, "--distribution-strategy", "mirrored"],
        [*searching, "--dataset", "cifar10"],
        ["demo", "--directory", str(demo)],
        ["train", str(cell), "--output", str(model)],
        ["export", str(model)],
    ]
    calls = start(environment, "-c", CALLS, json.dumps(commands))
    both = "tensorflow and tensorflow-datasets, not installed here: pip install tensorflow"
    assert calls.communicate()[1].splitlines() == [
        f"autoshrink: error: --distribution-strategy mirrored: {BACKEND}",
        f"autoshrink: error: cifar10: needs {both} tensorflow-datasets",
        f"autoshrink: error: autoshrink demo: {BACKEND}",
        f"autoshrink: error: autoshrink train: {MISSING}",
        f"autoshrink: error: autoshrink export: {BACKEND}",
        f"training in full: {MISSING}",
        f"training in full: {MISSING}",
    ]
    assert calls.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cell.json"]


def test_keras_without_its_backend_is_one_line(environment, tmp_path):
    environment = {**environment, "KERAS_BACKEND": "tensorflow"}
    searching = start(
        environment, "-m", "keras_autoshrink.commands.cli", "search", "--directory", tmp_path
    )
    assert searching.communicate()[1] == (
        "autoshrink: error: TensorFlow is not installed: pip install tensorflow, or set "
        "KERAS_BACKEND to jax: a search runs on either\n"
    )
    assert searching.returncode == 2


def test_the_requirements_are_those_of_the_package_without_tensorflow():
    root = Path(__file__).parent.parent
    call = ast.parse((root / "setup.py").read_text(encoding="utf-8")).body[-1].value
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    all_of_it = ast.literal_eval(given["install_requires"])
    jax = ast.literal_eval(given["extras_require"])["jax"]
    lines = (root / "requirements-jax.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if not line.startswith("#")}
    assert wanted - {*all_of_it} == {*jax}
    # tensorflow-datasets alone imports importlib_resources.
    left_out = {re.match("[A-Za-z_-]+", line)[0] for line in {*all_of_it} - wanted}
    assert left_out == {"tensorflow", "tensorflow-datasets", "importlib_resources"}
