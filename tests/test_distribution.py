"""Several devices and several workers: the same training as on one, but for rounding."""

import json
import socket

import numpy as np
import pytest
import tensorflow as tf
from forked import Script

import keras_autoshrink as kas
from keras_autoshrink.training import distribution

CELL = kas.Cell.dense(("input", "conv1x1"))

# One cell in each stage instead of two: to trace them is most of the time.
SMALL = """
from keras_autoshrink import training
training._SMALL_ARCHITECTURE["stage_repeats"] = (1, 1, 1)
"""

COMMAND = """
import sys
from keras_autoshrink.commands.cli import main
sys.exit(main())
"""

# Two CPU devices have to be made before TensorFlow begins: in a process of its own.
MIRRORED = """
import dataclasses, json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_autoshrink as kas
from keras_autoshrink import distribution, training
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.data.images import load_images
from keras_autoshrink.training.recipes import RECIPES
from pathlib import Path

strategies = {name: distribution.create_strategy(name) for name in ("none", "mirrored")}
assert strategies["mirrored"].num_replicas_in_sync == 2
digits = load_images("digits", purpose="train")
recipe = dataclasses.replace(
    RECIPES["plain"], epochs=2, augmentation=("padded_crop",), ema=0.9, l2=1e-4, batch_size=64
)
cell = kas.Cell.dense(("input", "conv1x1"))

def train(recipe=recipe, **options):
    return training.train_network(cell, digits, recipe, width=0.25, **options)

mirrored = strategies["mirrored"]
"""

TWICE = """
both = {name: train(strategy=strategy) for name, strategy in strategies.items()}
refused = {}
for what, options in {
    "float16": {"precision": "mixed_float16"},
    "batch": {"recipe": dataclasses.replace(recipe, batch_size=63)},
}.items():
    try:
        train(strategy=mirrored, **options)
    except ValueError as error:
        refused[what] = str(error)
histories = {name: trained.history for name, trained in both.items()}
print(json.dumps({"histories": histories, "refused": refused}))
"""

RESUMED = """
class Killed(Exception): pass

class Dying(TrainingCheckpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        raise Killed

state = Path(sys.argv[1])
try:
    train(strategy=mirrored, checkpoint=Dying(state, {}))
except Killed:
    resumed = train(strategy=mirrored, checkpoint=TrainingCheckpoint(state, {}))
print(json.dumps(resumed.history))
"""


def printed_by(source, *arguments):
    code, printed, errors = Script(SMALL + MIRRORED + source, *arguments).end()
    assert code == 0, errors
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def mirrored():
    return printed_by(TWICE)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, other[name], rtol=2e-3, err_msg=name)


def test_two_devices_train_as_one(mirrored):
    assert_close(mirrored["histories"]["mirrored"], mirrored["histories"]["none"])


@pytest.mark.slow
def test_a_training_on_two_devices_is_resumed(mirrored, tmp_path):
    resumed = printed_by(RESUMED, str(tmp_path / "state"))
    assert_close(resumed, mirrored["histories"]["mirrored"])


def test_what_several_devices_cannot_do_is_refused(mirrored):
    assert mirrored["refused"]["float16"].startswith("precision='mixed_float16': an overflow on")
    assert mirrored["refused"]["batch"] == (
        "batch_size=63: 2 devices share it; take a multiple of that"
    )


@pytest.mark.slow
def test_two_workers_train_as_one_and_the_chief_writes(tmp_path):
    CELL.save(tmp_path / "cell.json")
    ports = []
    for _ in range(2):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}

    def train(output, strategy, **environment):
        options = (
            f"--width 0.25 --epochs 2 --batch-size 64 --ema 0.9 --distribution-strategy {strategy}"
        )
        command = ["train", str(tmp_path / "cell.json"), "--output", str(tmp_path / output)]
        return Script(SMALL + COMMAND, *command, *options.split(), **environment)

    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": place}} for place in (0, 1)]
    workers = [train("several.keras", "multiworker", TF_CONFIG=json.dumps(task)) for task in tasks]
    ended = [worker.end() for worker in workers]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "wrote " in ended[0][1]
    assert "wrote " not in ended[1][1]
    code, _, errors = train("one.keras", "none").end()
    assert code == 0, errors
    several, one = (
        json.loads((tmp_path / f"{name}.keras.json").read_text()) for name in ("several", "one")
    )
    assert_close(several["history"], one["history"])
    assert not list(tmp_path.glob("*.training"))


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r"^distribution_strategy='tpu': expected one of none"):
        distribution.create_strategy("tpu")


def test_several_workers_need_to_know_each_other(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="environment variable TF_CONFIG has to name all"):
        distribution.create_strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="environment variable TF_CONFIG has to name all"):
        distribution.create_strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": ')
    with pytest.raises(ValueError, match="TF_CONFIG does not serve: "):
        distribution.create_strategy("multiworker")


def test_alone_a_process_is_the_chief():
    assert distribution.is_chief(tf.distribute.get_strategy())
    assert distribution.is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))
