"""Candidates on the devices of a strategy: the same scores as on one device."""

import json
import os
import subprocess
import sys

import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from forked import Script

import keras_autoshrink as kas
from keras_autoshrink.hypermodels.seeding import ShuffledBatches
from keras_autoshrink.tuner import devices
from keras_autoshrink.tuner.devices import SearchDevices

SEARCH = """
import json, os, sys
import keras_autoshrink as kas
import keras, tensorflow as tf
from keras_autoshrink.data.images import load_images

digits = load_images("digits", purpose="search")

def part(data, count):
    return data.x[:count], data.y[:count]

def make(directory, strategy, seed=0):
    model = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1), num_nodes=3, filters=4, stem_filters=4, batch_size=32,
        operations=("conv1x1",), stage_scales=(1,), stage_strides=(2,), stage_repeats=(1,),
    )
    return kas.AutoShrink(
        model, seed=seed, strategy="paper", num_candidates=1, keep_fraction=0.6,
        directory=directory, project_name="search", distribution_strategy=strategy,
    )

# Of both parts one image is left over: less than there are devices.
def search(tuner, epochs=2, **arguments):
    x, y = part(digits.train, 97)
    validation = part(digits.validation, 65)
    tuner.search(x, y, validation_data=validation, epochs=epochs, verbose=1, **arguments)
    records = tuner.trajectory()
    for record in records:
        for each in (record, *record["candidates"]):
            del each["seconds"]
    return records
"""

# Two CPU devices have to be made before TensorFlow begins: in a process of its own.
MIRRORED = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import numpy as np
from keras_autoshrink.tuner.devices import SearchDevices
strategies = {
    "one": tf.distribute.OneDeviceStrategy("CPU:0"),
    "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
}
found = {"searches": {}, "losses": {}, "refused": {}}
for name, strategy in strategies.items():
    tuner = make(f"{sys.argv[1]}/{name}", strategy)
    found["searches"][name] = search(tuner)
model = tuner.get_best_models()[0]
found["accuracy"] = model.evaluate(*part(digits.validation, 65), verbose=0)[1]
found["on"] = [type(model.distribute_strategy).__name__, model.layers[2].synchronized]

# One of one's own, with what could not be written to a file; 66 = 64 + 2, 33 = 32 + 1.
def build(batches):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.layers.Flatten(), keras.layers.Dense(8),
        keras.Sequential([keras.layers.BatchNormalization()]), keras.layers.Dense(10),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", lambda y, z: loss(y, z), jit_compile=False)
    return model

for name, strategy in strategies.items():
    devices = SearchDevices(strategy, None)
    def data(count, size):
        return tf.data.Dataset.from_tensor_slices(part(digits.train, count)).batch(size)
    model = devices.build(lambda: build(None))
    kept = 33 if name == "two" else 32  # what is left over for two devices is left out
    fitted = model.fit(data(66, 32), validation_data=data(kept, 16), epochs=2, verbose=0)
    found["losses"][name] = fitted.history
    found["weights"] = bool(all(np.isfinite(w).all() for w in model.get_weights()))

x, y = part(digits.train, 64)
for what, call in {
    "batch": lambda: model.fit(x, y, batch_size=33),
    "few": lambda: model.fit(x[:1], y[:1]),
    "validation": lambda: model.fit(x, y, validation_data=(x[:5], y[:5])),
    "generator": lambda: model.fit((x, y) for _ in range(2)),
    "recurrent": lambda: kas.AutoShrink(
        kas.RNNCellHyperModel(20), distribution_strategy=strategies["two"]
    ),
}.items():
    try:
        call()
    except ValueError as error:
        found["refused"][what] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    code, printed, errors = Script(
        SEARCH + MIRRORED, str(tmp_path_factory.mktemp("mirrored"))
    ).end()
    assert code == 0, errors
    return json.loads(printed.splitlines()[-1])


def assert_same(records, others, tolerance=1e-4):
    """The same rounds with the same cells, and scores that are equal but for rounding."""
    assert len(records) == len(others) > 1
    for record, other in zip(records, others, strict=True):
        for one, two in zip(record["candidates"], other["candidates"], strict=True):
            for name in ("score", "objective"):
                assert one[name] == pytest.approx(two[name], abs=tolerance), name
        assert record["cell"] == other["cell"]
        assert record["macs"] == other["macs"]


def test_two_devices_find_what_one_finds(mirrored):
    assert_same(mirrored["searches"]["one"], mirrored["searches"]["two"])


def test_the_best_model_is_for_one_device(mirrored):
    best = max(record["objective"] for record in mirrored["searches"]["two"])
    assert mirrored["accuracy"] == pytest.approx(best)
    assert mirrored["on"] == ["_DefaultDistributionStrategy", False]


def test_data_sets_and_models_of_ones_own_are_shared(mirrored):
    assert mirrored["weights"]
    one, two = mirrored["losses"]["one"], mirrored["losses"]["two"]
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], atol=1e-4, err_msg=name)


def test_what_several_devices_cannot_share_is_refused(mirrored):
    assert mirrored["refused"] == {
        "batch": "batch_size=33: 2 devices share it; take a multiple of that",
        "few": "x: 1 to train on cannot be shared by 2 devices",
        "validation": "validation_data: 5 cannot be dealt out to 2 devices, at most 32 at a time, "
        "so that each gets some; take a multiple of 2",
        "generator": "x: is a generator; 2 devices share the batches of arrays or of a "
        "tf.data.Dataset",
        "recurrent": "distribution_strategy: has 2 devices; a RNNCellHyperModel is searched on one",
    }


def batches_of(arguments, replicas=2, seed=0, epochs=1):
    prepared = devices.prepare(arguments, replicas, seed)
    steps = prepared["steps_per_epoch"] * epochs
    return prepared, [
        tuple(part.numpy().tolist() for part in batch) for batch in prepared["x"].take(steps)
    ]


def test_batches_depend_on_the_seed_and_not_on_the_devices():
    x, y = np.arange(11), -np.arange(11)
    arguments = {"x": x, "y": y, "batch_size": 4}
    _, batches = batches_of(arguments, epochs=2)
    assert [len(batch[0]) for batch in batches] == [4] * 6
    for epoch in (batches[:3], batches[3:]):
        places = [place for batch in epoch for place in batch[0]]
        assert {*places} == {*range(11)}
        assert [-place for place in places] == [label for batch in epoch for label in batch[1]]
    assert batches[:3] != batches[3:]
    assert batches_of(arguments, replicas=1, epochs=2)[1] == batches
    assert batches_of(arguments, seed=1, epochs=2)[1] != batches
    assert batches_of({**arguments, "initial_epoch": 1})[1] == batches[3:]
    unshuffled = batches_of({**arguments, "shuffle": False})[1]
    assert [batch[0] for batch in unshuffled] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]


def test_fewer_images_than_a_batch_are_shared_all_the_same():
    x = np.arange(97.0)
    prepared = devices.prepare({"x": ShuffledBatches(x, x, 128, seed=0)}, 2, 0)
    assert prepared["steps_per_epoch"] == 2
    assert len(next(iter(prepared["x"]))[0]) == 96


def test_weights_splits_and_several_inputs_are_as_keras_has_them():
    numbers = np.arange(10.0)
    arguments = {
        "x": {"a": numbers, "b": [numbers + 1][0]},
        "y": numbers,
        "sample_weight": numbers,
        "validation_split": 0.2,
        "batch_size": 8,
        "shuffle": False,
        "class_weight": {0: 1},
    }
    prepared = devices.prepare(arguments, 2, 0)
    x, y, weight = next(iter(prepared["x"]))
    assert x["b"].numpy().tolist() == [*range(1, 9)]
    assert x["a"].dtype == "float32"
    assert y.numpy().tolist() == weight.numpy().tolist() == [*range(8)]
    (validation,) = prepared["validation_data"]
    assert validation[1].numpy().tolist() == [8, 9]
    assert prepared["class_weight"] == {0: 1}
    assert not {"y", "sample_weight", "batch_size", "validation_split"} & prepared.keys()
    with pytest.raises(ValueError, match="the data differ in length: 9, 10"):
        devices.prepare({"x": numbers, "y": numbers[1:]}, 1, 0)


@pytest.mark.parametrize(
    ("count", "batch_size", "replicas", "sizes"),
    [
        (8, 4, 2, [4, 4]),
        (9, 8, 2, [6, 3]),
        (9, 4, 1, [4, 4, 1]),
        (11, 6, 3, [6, 5]),
        (10, 6, 3, None),
        (1, 4, 2, None),
    ],
)
def test_all_validation_data_count_and_no_device_gets_none(count, batch_size, replicas, sizes):
    arguments = {"validation_data": np.arange(count), "validation_batch_size": batch_size}
    if sizes is None:
        with pytest.raises(keras_tuner.errors.FatalValueError, match="cannot be dealt out"):
            devices.prepare(arguments, replicas, 0)
        return
    batches = [*devices.prepare(arguments, replicas, 0)["validation_data"]]
    assert [len(batch) for (batch,) in batches] == sizes


def test_what_devices_cannot_share_of_a_data_set_is_left_out():
    batches = tf.data.Dataset.range(10).batch(3)
    for replicas, expected in ((1, [3, 3, 3, 1]), (2, [2, 2, 2]), (3, [3, 3, 3]), (4, [])):
        shared = devices.shared_batches(batches, replicas)
        assert [len(batch) for batch in shared] == expected
    whole = tf.data.Dataset.range(10).batch(4, drop_remainder=True)
    assert [len(batch) for batch in devices.shared_batches(whole, 2)] == [4, 4]


def test_a_recurrent_cell_is_searched_on_one_device(tmp_path):
    model = kas.RNNCellHyperModel(9, num_nodes=2, units=4, batch_size=4, steps=5)
    tokens = np.tile(np.arange(9), 12)
    scores = []
    for strategy in (None, tf.distribute.OneDeviceStrategy("CPU:0")):
        tuner = kas.AutoShrink(
            model,
            directory=tmp_path,
            project_name=f"search{len(scores)}",
            distribution_strategy=strategy,
        )
        tuner.search(tokens, validation_data=tokens, epochs=1, verbose=0)
        scores.append(tuner.trajectory()[0]["score"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_model_that_is_none_is_left_to_keras_tuner():
    made = SearchDevices(tf.distribute.OneDeviceStrategy("CPU:0"), None)
    assert made.build(lambda: "no model") == "no model"


def test_a_gpus_memory_is_taken_as_it_is_needed():
    code = "import os, keras_autoshrink; print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    for given, expected in (({}, "true"), ({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, "false")):
        environment = {k: v for k, v in os.environ.items() if k != "TF_FORCE_GPU_ALLOW_GROWTH"}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **given},
            capture_output=True,
            text=True,
        )
        assert ran.stdout.strip() == expected
