"""Trains every network of a 5-node space, by several seeds: the table of `search_quality.py`.

    python benchmarks/quality_training.py digits
    python benchmarks/quality_training.py cifar10 --data-dir DIR

The task `digits` is scikit-learn's, 10 epochs of all its images for a search. The task `cifar10`
is a part that a CPU can afford: 2,000 training and 1,000 validation images, both of the training
split, averaged to 16x16 pixels; networks of half of the filters whose first stage strides, 8
epochs. Each network is trained as the search trains it, but to the end: races and early stopping
can be replayed on what is kept, the accuracy after each epoch. What is done is kept in a file
beside the table's, and goes on there when it is started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import threading
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_tensorflow import TensorFlowProgram
from quality_networks import distinct_networks

import keras_autoshrink as kas
from keras_autoshrink.data.images import load_images
from keras_autoshrink.hypermodels.cnn import BATCHNORM_MOMENTUM
from keras_autoshrink.hypermodels.seeding import draw_seed, order_of_epoch, training_seed

EPOCHS = {"digits": 10, "cifar10": 8}
SEEDS = 3


def load(task, data_dir, num_nodes=5):
    """The images and labels of training and validation, and the hypermodel."""
    if task == "digits":
        data = load_images("digits", purpose="search")
        parts = data.train, data.validation
    else:
        data = load_images("cifar10", purpose="search", data_dir=data_dir, proxy=(2000, 1000))
        parts = data.train, data.validation
    halve = task == "cifar10"
    arrays = [(_halved(part.x) if halve else part.x, part.y.astype("int32")) for part in parts]
    options = {"filters": 8, "stem_filters": 16, "stage_strides": (2, 2, 2)} if halve else {}
    shape = arrays[0][0].shape[1:]
    return arrays, kas.CNNCellHyperModel(input_shape=shape, num_nodes=num_nodes, **options)


def _halved(x):
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def compiled(data, validation, hypermodel):
    """The program that trains any network of the hypermodel's space."""
    network = MaskedNetwork(hypermodel.cell, **hypermodel.architecture)
    return TensorFlowProgram(
        network, data, validation, 128, hypermodel.learning_rate, BATCHNORM_MOMENTUM
    )


class Trainings:
    """Trains networks when they are first asked for; several threads may ask at once.

    Args:
        path: of a file that keeps what has been trained, one JSON array a line: the network's
            key, the training seed, and of each epoch the loss and accuracy of training and of
            validation.
        program: as `compiled` makes it.
        images: number of training images.
        epochs: of each training.
    """

    def __init__(self, path, program, images, epochs):
        self._path, self._program, self._images, self._epochs = path, program, images, epochs
        self._locks = {}
        self._done = {}
        if path.exists():
            for line in path.read_text().splitlines():
                key, seed, logs = json.loads(line)
                self._done[key, seed] = logs

    def accuracies(self, cell, seed):
        """The validation accuracy after each epoch."""
        key = cell.key, seed
        with self._locks.setdefault(key, threading.Lock()):
            if key not in self._done:
                self._done[key] = self._train(cell, seed)
                with self._path.open("a") as file:
                    file.write(json.dumps([*key, self._done[key]]) + "\n")
        return [log[3] for log in self._done[key]]

    def _train(self, cell, seed):
        network = self._program.network
        generator = random.Random(training_seed(seed, cell))
        weights, statistics = (
            network.initial_weights(cell, generator),
            network.initial_statistics(cell),
        )
        training = self._program.begin([cell], [weights], [statistics])
        order_seed = draw_seed(generator)
        logs = []
        for epoch in range(self._epochs):
            order = order_of_epoch(order_seed, epoch, self._images)
            training, (log,) = self._program.epoch(training, order[np.newaxis])
            logs.append([round(float(value), 4) for value in log])
        return logs


def main():
    """Trains what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=EPOCHS)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    # Two such processes share two cores better than one shares its work between them.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    (data, validation), hypermodel = load(options.task, options.data_dir)
    program, epochs = compiled(data, validation, hypermodel), EPOCHS[options.task]
    trainings = Trainings(
        options.out / f"quality_{options.task}.lines", program, len(data[1]), epochs
    )
    cells = distinct_networks(hypermodel.cell)
    for seed, cell in itertools.product(range(SEEDS), cells):
        trainings.accuracies(cell, seed)
    table = {
        "task": options.task,
        "settings": {"images": [len(data[1]), len(validation[1])], **hypermodel.get_config()},
        "epochs": epochs,
        "networks": [
            {
                "key": cell.key,
                "edges": cell.edges,
                "macs": program.network.count_macs(cell),
                "params": program.network.count_params(cell),
                "val_accuracy": {
                    str(seed): trainings.accuracies(cell, seed) for seed in range(SEEDS)
                },
            }
            for cell in cells
        ],
    }
    (options.out / f"quality_{options.task}.json").write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
