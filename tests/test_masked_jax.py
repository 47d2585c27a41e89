"""The gated network on JAX, in stacks, against the one on TensorFlow.

Started as a script, this file trains, or searches, by the backend that KERAS_BACKEND names.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from searches import TWO_STAGES

import keras_autoshrink as kas
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.shuffling import order_of_epoch

pytestmark = pytest.mark.slow

NUMBERS = np.random.default_rng(0)
IMAGES = NUMBERS.random((20, 9, 8, 2), np.float32)
LABELS = np.arange(20, dtype=np.int32) % 3
VALIDATION = IMAGES[:7], LABELS[:7]
BATCH = 8  # the last one of an epoch is smaller

MODEL = kas.CNNCellHyperModel(
    input_shape=(9, 8, 2),
    classes=3,
    num_nodes=5,
    filters=4,
    stem_filters=4,
    **TWO_STAGES,
)
CELLS = [
    MODEL.cell,
    kas.Cell(MODEL.cell.ops, [(0, 1), (0, 3), (1, 3), (1, 4)]),  # node 2 is out of reach
    kas.Cell(MODEL.cell.ops, [(0, 2), (2, 4)]),
]


def initial():
    network = MaskedNetwork(MODEL.cell, **MODEL.architecture)
    return network, [network.initial_weights(cell, random.Random(0)) for cell in CELLS]


def trained(programs, weights, epochs):
    """The logs, and the weights and statistics at the end, of each cell."""
    results = {}
    stack = programs.stack
    for first in range(0, len(CELLS), stack):
        cells = CELLS[first : first + stack]
        statistics = [programs.network.initial_statistics(cell) for cell in cells]
        training = programs.begin(cells, weights[first : first + stack], statistics)
        for epoch in range(epochs):
            orders = [order_of_epoch(first + n, epoch, len(LABELS)) for n in range(stack)]
            training, logs = programs.epoch(training, np.stack(orders))
            for n in range(stack):
                results[f"logs_{first + n}_{epoch}"] = logs[n]
        for n, (flat, moving) in enumerate(programs.weights(training)):
            results[f"weights_{first + n}"], results[f"statistics_{first + n}"] = flat, moving
    return results, training


def main(given, results):
    """What the child process does: both sizes of a stack."""
    from keras_autoshrink.masked_jax import JaxProgram

    weights = [np.load(given)[f"weights_{n}"] for n in range(len(CELLS))]
    network, _ = initial()
    found = {}
    for stack in (1, 3):
        program = JaxProgram(network, (IMAGES, LABELS), VALIDATION, BATCH, 4e-3, 0.9, stack=stack)
        logs, training = trained(program, weights, 2)
        found.update({f"{stack}_{name}": value for name, value in logs.items()})
    # What the gates of the last cell close, in the stack of three.
    closed = np.ones(sum(weight.size for weight in network.weights), bool)
    closed[network.places(CELLS[-1])[0]] = False
    state = training[0]
    for name in ("weights", "momentums", "velocities"):
        found[f"closed_{name}"] = np.asarray(getattr(state, name))[-1][closed]
    np.savez(results, **found)


@pytest.fixture(scope="module")
def by_jax(tmp_path_factory):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed: pip install jax")
    folder = tmp_path_factory.mktemp("jax")
    weights = {f"weights_{n}": flat for n, flat in enumerate(initial()[1])}
    np.savez(folder / "given.npz", **weights)
    done = subprocess.run(
        [sys.executable, __file__, folder / "given.npz", folder / "results.npz"],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "results.npz"))


@pytest.fixture(scope="module")
def by_tensorflow():
    from keras_autoshrink.masked_tensorflow import TensorFlowProgram

    assert keras.backend.backend() == "tensorflow"
    network, weights = initial()
    program = TensorFlowProgram(network, (IMAGES, LABELS), VALIDATION, BATCH, 4e-3, 0.9)
    cells = {}
    for seed, (cell, flat) in enumerate(zip(CELLS, weights, strict=True)):
        training = program.begin([cell], [flat], [network.initial_statistics(cell)])
        for epoch in range(2):
            order = order_of_epoch(seed, epoch, len(LABELS))
            training, (cells[f"logs_{seed}_{epoch}"],) = program.epoch(training, order[None])
        ((cells[f"weights_{seed}"], cells[f"statistics_{seed}"]),) = program.weights(training)
    return cells


@pytest.mark.parametrize("stack", [1, 3])
def test_a_stack_trains_as_tensorflow_does_one_by_one(stack, by_jax, by_tensorflow):
    found = {
        name.partition("_")[2]: value
        for name, value in by_jax.items()
        if name.startswith(f"{stack}_")
    }
    assert found.keys() == by_tensorflow.keys()
    for name, expected in by_tensorflow.items():
        # Adam makes a whole step of a gradient that is all rounding.
        tolerance = 2e-2 if name.startswith("weights") else 2e-3
        np.testing.assert_allclose(found[name], expected, atol=tolerance, err_msg=name)
    assert np.abs(by_tensorflow["logs_0_0"] - by_tensorflow["logs_1_0"]).max() > 0.01


def test_what_is_closed_stays_as_it_was(by_jax):
    for name in ("weights", "momentums", "velocities"):
        assert len(by_jax[f"closed_{name}"]) > 100
        assert not by_jax[f"closed_{name}"].any()


def searched(folder):
    """What the other child process does: a search whose edges come back."""
    from keras_autoshrink.masked_jax import JaxProgram

    made, make = [], JaxProgram.__init__
    JaxProgram.__init__ = lambda self, *args, **rest: (made.append(1), make(self, *args, **rest))[0]
    small = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,), "num_nodes": 4}
    tuner = kas.AutoShrink(
        kas.CNNCellHyperModel(**{**MODEL.architecture, **small}, batch_size=BATCH),
        num_candidates=2,
        max_candidates=11,
        strategy="bayesian",
        directory=folder,
    )
    options = {"validation_data": VALIDATION, "epochs": 2, "verbose": 0}
    tuner.search(IMAGES, LABELS, **options)
    measured = tuner.get_best_models()[0].evaluate(*VALIDATION, verbose=0, return_dict=True)
    found = {
        "programs": len(made),
        "trajectory": tuner.trajectory(),
        "best": tuner.oracle.search.best()["objective"],
        "measured": measured["accuracy"],
    }
    print(json.dumps(found))


def test_edges_come_back_in_a_search(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed: pip install jax")
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env={**os.environ, "KERAS_BACKEND": "jax", **quick},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    records = found["trajectory"]
    candidates = [candidate for record in records for candidate in record["candidates"]]
    assert len(candidates) == 11
    assert all(candidate["error"] is None for candidate in candidates)
    # From a cell of so few edges that by the paper's walk a smaller program would have been made.
    before = [record["edges_left"] for record in records]
    back = [any(c["added_edges"] for c in record["candidates"]) for record in records[1:]]
    assert any(edges <= 3 and added for edges, added in zip(before, back, strict=False))
    assert found["programs"] == 1
    assert found["measured"] == pytest.approx(found["best"])


if __name__ == "__main__":
    (main if len(sys.argv) > 2 else searched)(*sys.argv[1:])
