"""A machine that has JAX and no TensorFlow: what runs there, and what says that it does not."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from without_tensorflow import BATCH, STEPS, UNITS, VOCABULARY, computed

import keras_autoshrink as kas

# As each process starts: TensorFlow, and what comes with it, cannot be found any more.
HIDES = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.startswith("tensorflow") else find(name, *rest)
)
"""


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jax")


@pytest.fixture(scope="module")
def by_tensorflow(folder):
    rng = np.random.default_rng(0)
    # Of all that a cell can have; of the published one JAX compiles more.
    cell = kas.Cell(("input", "tanh", "identity", "sigmoid"), ((0, 1), (0, 2), (1, 2), (1, 3)))
    model = kas.ShrinkRNN(cell, VOCABULARY, UNITS)
    # Large enough for every token to matter.
    model.set_weights([rng.uniform(-0.7, 0.7, weight.shape) for weight in model.weights])
    model.save(folder / "model.keras")
    tokens = rng.integers(0, VOCABULARY, (BATCH, 2 * STEPS + 1), dtype=np.int32)
    np.save(folder / "tokens.npy", tokens)
    return computed(model, tokens)


@pytest.fixture(scope="module")
def by_jax(environment, folder, by_tensorflow):
    """What the process without TensorFlow found."""
    kas.Cell.dense(("input", "conv1x1")).save(folder / "cell.json")
    searching = ["search", "--directory", str(folder / "runs")]
    commands = [
        [*searching, "--distribution-strategy", "mirrored"],
        [*searching, "--dataset", "cifar10"],
        ["demo", "--directory", str(folder / "demo")],
        ["train", str(folder / "cell.json"), "--output", str(folder / "trained.keras")],
        ["export", str(folder / "model.keras")],
    ]
    script = Path(__file__).with_name("without_tensorflow.py")
    done = subprocess.run(
        [sys.executable, script, folder, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["backend"], found["tensorflow"]) == ("jax", [])
    return found


def test_language_models_compute_what_they_do_by_tensorflow(by_tensorflow, by_jax, folder):
    with np.load(folder / "results.npz") as file:
        results = dict(file)
    assert results.keys() == by_tensorflow.keys()
    for name, expected in by_tensorflow.items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    # Both could have forgotten the average, or the state.
    assert np.abs(results["last_0"] - results["average_0"]).max() > 1e-3
    assert (results["last_0"] == results["restored_0"]).all()
    assert np.abs(results["state_0"]).min(axis=0).max() > 0.01
    assert not results["after_reset_0"].any()


def test_a_search_runs_to_its_end(by_jax):
    assert [record["edges_left"] for record in by_jax["trajectory"]] == [3, 2]
    for record in by_jax["trajectory"]:
        score = kas.AccuracyScore()({"val_accuracy": record["objective"]}, record["macs"])
        assert record["score"] == score
    best = max(by_jax["trajectory"], key=lambda record: record["score"])
    assert by_jax["accuracy"] == pytest.approx(best["objective"])


def test_what_takes_tensorflow_says_so_in_one_line(by_jax, folder):
    backend = (
        "needs Keras's TensorFlow backend, this is jax; set KERAS_BACKEND=tensorflow "
        "(and pip install tensorflow, where it is missing)"
    )
    missing = "needs tensorflow, not installed here: pip install tensorflow"
    both = "tensorflow and tensorflow-datasets, not installed here: pip install tensorflow"
    assert by_jax["refusals"] == [
        f"autoshrink: error: --distribution-strategy mirrored: {backend}",
        f"autoshrink: error: cifar10: needs {both} tensorflow-datasets",
        f"autoshrink: error: autoshrink demo: {backend}",
        f"autoshrink: error: autoshrink train: {missing}",
        f"autoshrink: error: autoshrink export: {backend}",
        f"training in full: {missing}",
        f"training in full: {missing}",
        f"max_latency_ms: {backend}",
    ]
    assert not {"runs", "demo", "trained.keras"} & {path.name for path in folder.iterdir()}


def test_keras_without_its_backend_is_one_line(environment, tmp_path):
    environment = {**environment, "KERAS_BACKEND": "tensorflow"}
    command = ["-m", "keras_autoshrink.commands.cli", "search", "--directory", tmp_path]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        "autoshrink: error: TensorFlow is not installed: pip install tensorflow, or set "
        "KERAS_BACKEND to jax: a search runs on either\n"
    )


def test_the_requirements_are_those_of_the_package_without_tensorflow():
    root = Path(__file__).parent.parent
    call = ast.parse((root / "setup.py").read_text(encoding="utf-8")).body[-1].value
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    all_of_it = ast.literal_eval(given["install_requires"])
    extras = given["extras_require"]
    names = [ast.literal_eval(key) for key in extras.keys]
    jax = ast.literal_eval(extras.values[names.index("jax")])
    lines = (root / "requirements-jax.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if not line.startswith("#")}
    assert wanted - {*all_of_it} == {*jax}
    # tensorflow-datasets alone imports importlib_resources.
    left_out = {re.match("[A-Za-z_-]+", line)[0] for line in {*all_of_it} - wanted}
    assert left_out == {"tensorflow", "tensorflow-datasets", "importlib_resources"}
