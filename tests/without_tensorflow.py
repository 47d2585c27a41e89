"""A search by JAX, in a process of its own: `without_tensorflow.py KIND FOLDER EPOCH`.

It dies by SIGKILL when that epoch of all that it trains begins, counted from 1; with 0 it ends,
and prints what it found.
"""

import itertools
import json
import os
import signal
import sys

import keras
import numpy as np
from searches import ONE_STAGE

import keras_autoshrink as kas

_EPOCHS_BEGUN = itertools.count(1)  # KerasTuner copies callbacks for each candidate


class Dies(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if next(_EPOCHS_BEGUN) == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def images():
    """A search for an image classifier, its data, and some to predict."""
    y = np.tile(np.arange(4), 16)
    noise = np.random.default_rng(0).uniform(size=(64, 8, 8, 1))
    x = (0.3 * noise + y[:, None, None, None] / 4).astype("float32")
    hypermodel = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        classes=4,
        num_nodes=3,
        filters=4,
        stem_filters=4,
        batch_size=32,
        **ONE_STAGE,
    )
    return hypermodel, (x, y), (x, y), x[:4]


def text():
    """Likewise for a language model."""
    tokens = np.random.default_rng(0).integers(0, 7, 400, dtype=np.int32)
    hypermodel = kas.RNNCellHyperModel(7, num_nodes=3, units=4, batch_size=4, steps=5)
    return hypermodel, (tokens[:300],), tokens[300:], tokens[:20].reshape(4, 5)


def main(kind, folder, epoch):
    hypermodel, data, validation, inputs = {"images": images, "text": text}[kind]()
    tuner = kas.AutoShrink(
        hypermodel, num_candidates=1, keep_fraction=0.5, directory=folder, project_name=kind
    )
    # A callback has to see each model; without one, candidates of images share one program.
    watching = {"callbacks": [Dies(int(epoch))]} if int(epoch) else {}
    tuner.search(*data, validation_data=validation, epochs=2, verbose=0, **watching)
    tuner.results_summary()
    kas.plot_trajectory(tuner)
    kas.plot_cell(tuner.best_cell())
    kas.write_tensorboard(tuner)
    model = tuner.get_best_models()[0]
    found = {
        "backend": keras.backend.backend(),
        "tensorflow": sorted(name for name in sys.modules if name.startswith("tensorflow")),
        "trajectory": tuner.trajectory(),
        "best_cell": tuner.best_cell().to_json(),
        "predictions": model.predict(inputs, verbose=0).tolist(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
