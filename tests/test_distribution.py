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
OPTIONS = "--recipe cifar10 --epochs 2 --batch-size 64 --ema 0.9 --learning-rate 0.01"

# One stage instead of three: to trace them is most of the time.
SMALL = """
import sys
from keras_autoshrink.training import classifier
classifier._SMALL_ARCHITECTURE.update(stage_scales=(1,), stage_strides=(1,), stage_repeats=(1,))
"""

COMMAND = """
from keras_autoshrink.commands.cli import main
sys.exit(main())
"""

# Two CPU devices have to be made before TensorFlow begins: in a process of its own.
TWICE = """
import dataclasses, json
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_autoshrink as kas
from keras_autoshrink.training import distribution

digits = kas.load_images("digits", purpose="train")
cell = kas.Cell.dense(("input", "conv1x1"))
recipe = dataclasses.replace(
    kas.RECIPES["cifar10"], epochs=2, batch_size=64, ema=0.9, learning_rate=0.01
)

def train(recipe=recipe, **options):
    return classifier.train_network(cell, digits, recipe, width=0.25, **options)

strategies = {name: distribution.create_strategy(name) for name in ("none", "mirrored")}
mirrored = strategies["mirrored"]
assert mirrored.num_replicas_in_sync == 2
histories = {name: train(strategy=strategy).history for name, strategy in strategies.items()}
refused = []
for options in (
    {"precision": "mixed_float16"}, {"recipe": dataclasses.replace(recipe, batch_size=63)}
):
    try:
        train(strategy=mirrored, **options)
    except ValueError as error:
        refused.append(str(error))
print(json.dumps({"histories": histories, "refused": refused}))
"""


@pytest.fixture(scope="module")
def on_one_machine():
    code, printed, errors = Script(SMALL + TWICE).end()
    assert code == 0, errors
    return json.loads(printed.splitlines()[-1])


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, other[name], rtol=2e-3, err_msg=name)


def test_two_devices_train_as_one(on_one_machine):
    assert_close(on_one_machine["histories"]["mirrored"], on_one_machine["histories"]["none"])
    float16, batch_size = on_one_machine["refused"]
    assert float16.startswith("precision='mixed_float16': an overflow on one of several devices")
    assert batch_size == "batch_size=63: 2 devices share it; take a multiple of that"


def test_two_workers_train_as_one_and_the_chief_writes(on_one_machine, tmp_path):
    CELL.save(tmp_path / "cell.json")
    ports = []
    for _ in range(2):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    command = ["train", str(tmp_path / "cell.json"), "--output", str(tmp_path / "m.keras")]
    command += f"--width 0.25 {OPTIONS} --distribution-strategy multiworker".split()
    workers = [
        Script(
            SMALL + COMMAND,
            *command,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": place}}),
        )
        for place in (0, 1)
    ]
    ended = [worker.end() for worker in workers]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "wrote " in ended[0][1]
    assert "wrote " not in ended[1][1]
    facts = json.loads((tmp_path / "m.keras.json").read_text())
    assert_close(facts["history"], on_one_machine["histories"]["none"])
    assert not list(tmp_path.glob("*.training"))


def test_a_strategy_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^distribution_strategy='tpu': expected one of none"):
        distribution.create_strategy("tpu")
    for config, problem in (
        ("{}", "environment variable TF_CONFIG has to name all"),
        ('{"cluster": ', "TF_CONFIG does not serve: "),
    ):
        monkeypatch.setenv("TF_CONFIG", config)
        with pytest.raises(ValueError, match=problem):
            distribution.create_strategy("multiworker")


def test_alone_a_process_is_the_chief():
    assert distribution.is_chief(tf.distribute.get_strategy())
    assert distribution.is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))
