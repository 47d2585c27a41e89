"""Language models on Keras's other backends, against what TensorFlow computes.

Started as a script, this file computes the same by the backend that KERAS_BACKEND names.
"""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_autoshrink.backend import jit_compile
from keras_autoshrink.cell import SHRINKRNN_CELL
from keras_autoshrink.networks.language_model import ShrinkRNN, carrying, reset_state, step_model
from keras_autoshrink.networks.perplexity import PerplexityEvaluation
from keras_autoshrink.training.averaged_sgd import AveragedSGD

VOCABULARY, UNITS, BATCH, STEPS = 11, 6, 3, 4


def computed(given):
    """All that is compared, by name; `given` are arrays: "tokens" and each of the weights."""
    tokens = given["tokens"]
    x, y = (tokens[:, start : start + 2 * STEPS] for start in (0, 1))
    results = {}

    def model():
        made = ShrinkRNN(SHRINKRNN_CELL, VOCABULARY, UNITS)
        made.set_weights([given[f"weight_{number}"] for number in range(len(made.weights))])
        return made

    def note(name, arrays):
        for number, array in enumerate(arrays):
            results[f"{name}_{number}"] = keras.ops.convert_to_numpy(array)

    def fit(trained, optimizer):
        """Two windows of each stream, one after the other."""
        trained.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile(),
        )
        optimizer.build(trained.trainable_variables)
        if isinstance(optimizer, AveragedSGD):
            optimizer.start_averaging()
        windows = [np.concatenate([part[:, :STEPS], part[:, STEPS:]]) for part in (x, y)]
        trained.fit(*windows, batch_size=BATCH, shuffle=False, verbose=0)

    base = model()
    note("logits", [base(tokens)])

    shared = model()
    windows = carrying(shared, BATCH, STEPS)
    fit(windows, keras.optimizers.SGD(1.0))
    note("carried", shared.get_weights())
    note("state", windows.get_layer("carried_state").states)
    note("perplexity", [PerplexityEvaluation(shared, tokens.ravel(), 2, 5)()])
    note("perplexity_again", [PerplexityEvaluation(windows, tokens.ravel(), 2, 5)()])
    reset_state(windows)
    note("after_reset", windows.get_layer("carried_state").states)

    alone = model()
    fit(alone, keras.optimizers.SGD(1.0))
    note("not_carried", alone.get_weights())

    shared, optimizer = model(), AveragedSGD(1.0, global_clipnorm=0.25)
    fit(carrying(shared, BATCH, STEPS), optimizer)
    note("last", shared.get_weights())
    with optimizer.averaged():
        note("average", shared.get_weights())
    note("restored", shared.get_weights())

    step, state = step_model(base), np.zeros((BATCH, UNITS), "float32")
    for number in range(3):
        outputs = step([tokens[:, number : number + 1], state])
        note(f"step_{number}", outputs)
        state = keras.ops.convert_to_numpy(outputs[1])
    return results


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    model = ShrinkRNN(SHRINKRNN_CELL, VOCABULARY, UNITS)
    # Large enough for every token to matter.
    weights = [rng.uniform(-0.7, 0.7, weight.shape) for weight in model.weights]
    return {
        "tokens": rng.integers(0, VOCABULARY, (BATCH, 2 * STEPS + 1), dtype=np.int32),
        **{f"weight_{n}": weight.astype("float32") for n, weight in enumerate(weights)},
    }


@pytest.fixture(scope="module")
def by_tensorflow(given):
    assert keras.backend.backend() == "tensorflow"
    return computed(given)


def difference(results, one, other):
    """The largest of two groups of arrays."""
    count = sum(name.rpartition("_")[0] == one for name in results)
    pairs = [(results[f"{one}_{number}"], results[f"{other}_{number}"]) for number in range(count)]
    return max(np.abs(a - b).max() for a, b in pairs)


def check_what_must_differ(results):
    # Otherwise a backend could forget a state, or an average, without being seen.
    assert difference(results, "carried", "not_carried") > 1e-3
    assert difference(results, "last", "average") > 1e-3
    assert difference(results, "last", "restored") == 0
    assert np.abs(results["state_0"]).min(axis=0).max() > 0.01
    assert not results["after_reset_0"].any()
    assert results["perplexity_again_0"] == pytest.approx(results["perplexity_0"], rel=1e-6)


def test_the_comparison_sees_a_state_that_is_lost_and_an_average(by_tensorflow):
    check_what_must_differ(by_tensorflow)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_computes_what_tensorflow_does(backend, given, by_tensorflow, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install {backend}")
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "given.npz", tmp_path / "results.npz"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [backend, "set()"]  # without TensorFlow
    with np.load(tmp_path / "results.npz") as file:
        results = dict(file)
    assert results.keys() == by_tensorflow.keys()
    for name, expected in by_tensorflow.items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    check_what_must_differ(results)


if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        given_arrays = dict(file)
    np.savez(sys.argv[2], **computed(given_arrays))
    print(keras.backend.backend(), {"tensorflow"} & {*sys.modules})
