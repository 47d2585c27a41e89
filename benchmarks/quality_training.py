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
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_autoshrink as kas
from keras_autoshrink.datasets import load_images
from keras_autoshrink.masked_network import MaskedNetwork
from keras_autoshrink.masked_tensorflow import TensorFlowProgram
from keras_autoshrink.shrink import training_seed
from keras_autoshrink.shuffling import draw_seed, order_of_epoch

EPOCHS = {"digits": 10, "cifar10": 8}
SEEDS = 3


def networks(ops):
    """The distinct networks among the sub-cells of the complete DAG over `ops`."""
    dense = kas.Cell.dense(ops)
    found = {}
    for size in range(len(dense.edges), 0, -1):
        for edges in itertools.combinations(dense.edges, size):
            if any(i == 0 for i, _ in edges):
                cell = kas.Cell(dense.ops, edges)
                found.setdefault(cell.key, kas.Cell(dense.ops, cell.live_edges))
    return list(found.values())


def load(task, data_dir):
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
    return arrays, kas.CNNCellHyperModel(input_shape=shape, num_nodes=5, **options)


def _halved(x):
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


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
    network = MaskedNetwork(hypermodel.cell, **hypermodel.architecture)
    program = TensorFlowProgram(network, data, validation, 128, hypermodel.learning_rate, 0.9)
    epochs, cells = EPOCHS[options.task], networks(hypermodel.cell.ops)
    record = options.out / f"quality_{options.task}.lines"
    done = {}
    if record.exists():
        for line in record.read_text().splitlines():
            key, seed, logs = json.loads(line)
            done[key, seed] = logs
    with record.open("a") as file:
        for seed, cell in itertools.product(range(SEEDS), cells):
            if (cell.key, seed) in done:
                continue
            generator = random.Random(training_seed(seed, cell))
            training = program.begin([cell], [network.initial_weights(cell, generator)])
            order_seed = draw_seed(generator)
            logs = []
            for epoch in range(epochs):
                order = order_of_epoch(order_seed, epoch, len(data[1]))
                training, (log,) = program.epoch(training, order[np.newaxis])
                logs.append([round(float(value), 4) for value in log])
            done[cell.key, seed] = logs
            file.write(json.dumps([cell.key, seed, logs]) + "\n")
            file.flush()
    table = {
        "task": options.task,
        "settings": {"images": [len(data[1]), len(validation[1])], **hypermodel.get_config()},
        "epochs": epochs,
        "networks": [
            {
                "key": cell.key,
                "edges": cell.edges,
                "macs": network.count_macs(cell),
                "params": network.count_params(cell),
                "val_accuracy": {
                    str(seed): [log[3] for log in done[cell.key, seed]] for seed in range(SEEDS)
                },
            }
            for cell in cells
        ],
    }
    (options.out / f"quality_{options.task}.json").write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
