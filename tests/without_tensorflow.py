"""What a machine without TensorFlow computes, by JAX: `without_tensorflow.py FOLDER`.

The folder holds tokens.npy and model.keras; results.npz goes beside them, what was found is
printed. Tests import `computed` for what TensorFlow computes of the same.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import keras
import numpy as np
from searches import ONE_STAGE

import keras_autoshrink as kas
from keras_autoshrink.backend import jit_compile
from keras_autoshrink.networks.language_model import carrying, reset_state, step_model
from keras_autoshrink.networks.perplexity import PerplexityEvaluation
from keras_autoshrink.training.averaged_sgd import AveragedSGD

VOCABULARY, UNITS, BATCH, STEPS = 11, 6, 3, 4


def computed(model, tokens):
    """All that a ShrinkRNN computes of tokens, by name; it is trained."""
    results = {}

    def note(name, arrays):
        for number, array in enumerate(arrays):
            results[f"{name}_{number}"] = keras.ops.convert_to_numpy(array)

    note("logits", [model(tokens)])
    step, state = step_model(model), np.zeros((BATCH, UNITS), "float32")
    for number in range(3):
        outputs = step([tokens[:, number : number + 1], state])
        note(f"step_{number}", outputs)
        state = keras.ops.convert_to_numpy(outputs[1])

    windows, optimizer = carrying(model, BATCH, STEPS), AveragedSGD(1.0, global_clipnorm=0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    windows.compile(optimizer, loss, jit_compile=jit_compile())
    optimizer.build(windows.trainable_variables)
    optimizer.start_averaging()
    # Two windows of each stream, one after the other.
    x, y = (tokens[:, start : start + 2 * STEPS] for start in (0, 1))
    pairs = [np.concatenate([part[:, :STEPS], part[:, STEPS:]]) for part in (x, y)]
    windows.fit(*pairs, batch_size=BATCH, shuffle=False, verbose=0)
    note("last", model.get_weights())
    note("state", windows.get_layer("carried_state").states)
    with optimizer.averaged():
        note("average", model.get_weights())
    note("restored", model.get_weights())
    note("perplexity", [PerplexityEvaluation(model, tokens.ravel(), 2, 5)()])
    reset_state(windows)
    note("after_reset", windows.get_layer("carried_state").states)
    return results


def searched(folder):
    """What a small search for an image classifier finds, and all that shows it."""
    y = np.tile(np.arange(4), 16)
    noise = np.random.default_rng(0).uniform(size=(64, 8, 8, 1))
    x = (0.3 * noise + y[:, None, None, None] / 4).astype("float32")
    hypermodel = kas.CNNCellHyperModel(
        (8, 8, 1), 4, 3, 4, stem_filters=4, batch_size=32, operations=["conv1x1"], **ONE_STAGE
    )
    tuner = kas.AutoShrink(
        hypermodel, num_candidates=1, keep_fraction=0.5, directory=folder, project_name="search"
    )
    tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
    tuner.results_summary()
    kas.plot_trajectory(tuner)
    kas.plot_cell(tuner.best_cell())
    kas.write_tensorboard(tuner)
    accuracy = (tuner.get_best_models()[0].predict(x, verbose=0).argmax(axis=1) == y).mean()
    return {"trajectory": tuner.trajectory(), "accuracy": float(accuracy)}


def refusals(commands):
    """The lines with which commands, trainings in full, and searches by latency refuse."""
    from keras_autoshrink.commands.cli import main

    with contextlib.redirect_stderr(io.StringIO()) as errors:
        for arguments in commands:
            with contextlib.suppress(SystemExit):
                main(arguments)
    calls = [
        lambda: kas.train_network(kas.SHRINKRNN_CELL, None, None),
        lambda: kas.train_language_model(kas.SHRINKRNN_CELL, None, None),
        lambda: kas.AutoShrink(kas.CNNCellHyperModel(num_nodes=2), max_latency_ms=1),
    ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            errors.write(f"{error}\n")
    return errors.getvalue().splitlines()


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    model = kas.load_model(directory / "model.keras")
    np.savez(directory / "results.npz", **computed(model, np.load(directory / "tokens.npy")))
    found = {
        **searched(directory),
        "refusals": refusals(json.loads(sys.argv[2])),
        "backend": keras.backend.backend(),
        "tensorflow": [name for name in sys.modules if name.startswith("tensorflow")],
    }
    print(json.dumps(found))
