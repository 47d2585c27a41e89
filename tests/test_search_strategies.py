"""Searches on several devices and by several workers: the same scores as on one device."""

import json
import os
import shlex
import socket
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from forked import Script

import keras_autoshrink as kas
from keras_autoshrink.tuner import devices as search_batches
from keras_autoshrink.tuner.devices import SearchDevices

SEARCH = """
import json, os, sys
import keras_autoshrink as kas
import keras, tensorflow as tf
from keras_autoshrink.data.images import load_images

digits = load_images("digits", purpose="search")

def part(data, count):
    return data.x[:count], data.y[:count]

def make(directory, strategy, seed=0, candidates=2):
    model = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1), num_nodes=3, filters=4, stem_filters=4, batch_size=32,
        stage_scales=(1,), stage_strides=(2,), stage_repeats=(1,),
    )
    return kas.AutoShrink(
        model, num_candidates=candidates, keep_fraction=0.6, seed=seed, strategy="paper",
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
told = {"searches": {}, "losses": {}, "refused": {}}
for name, strategy in strategies.items():
    tuner = make(f"{sys.argv[1]}/{name}", strategy)
    told["searches"][name] = search(tuner)
model = tuner.get_best_models()[0]
told["accuracy"] = model.evaluate(*part(digits.validation, 65), verbose=0)[1]
told["on"] = [type(model.distribute_strategy).__name__, model.layers[2].synchronized]

# One of one's own, with what could not be written to a file; 66 = 64 + 2, 33 = 32 + 1.
def build(batches):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.layers.Flatten(), keras.layers.Dense(8),
        keras.Sequential([keras.layers.BatchNormalization()]), keras.layers.Dense(10),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", lambda y, z: loss(y, z))
    return model

for name, strategy in strategies.items():
    devices = SearchDevices(strategy, None)
    def data(count, size):
        return tf.data.Dataset.from_tensor_slices(part(digits.train, count)).batch(size)
    model = devices.build(lambda: build(None))
    kept = 33 if name == "two" else 32  # what is left over for two devices is left out
    fitted = model.fit(data(66, 32), validation_data=data(kept, 16), epochs=2, verbose=0)
    told["losses"][name] = fitted.history
    told["weights"] = bool(all(np.isfinite(w).all() for w in model.get_weights()))

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
        told["refused"][what] = str(error)
print(json.dumps(told))
"""

WORKER = """
options = json.loads(sys.argv[1])
strategy = {
    "one": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "several": tf.distribute.MultiWorkerMirroredStrategy,
}[options["strategy"]]()
me = getattr(strategy.cluster_resolver, "task_id", 0)

class Accident(keras.callbacks.Callback):
    trained = []
    def on_train_begin(self, logs=None):
        self.trained.append(self)
        if len(self.trained) == options.get("at"):
            if options["what"] == "everywhere":
                raise OSError("no space left")
            if options["what"] == "killed" and me == options["who"]:
                os.kill(os.getpid(), 9)
            if options["what"] == "alone" and me == options["who"]:
                raise OSError("no space left")

seed = 1 if options.get("what") == "another" and me == options["who"] else 0
tuner = make(options["directory"], strategy, seed, options.get("candidates", 2))
try:
    records = search(tuner, epochs=1, callbacks=[Accident()])
except (RuntimeError, ValueError) as error:
    print("stopped:", error)
    sys.exit(1)
model = tuner.get_best_models()[0]
accuracy = model.evaluate(*part(digits.validation, 65), verbose=0)[1]
print(json.dumps([records, tuner.best_cell().to_json(), accuracy]))
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


@pytest.mark.slow
def test_two_devices_find_what_one_finds(mirrored):
    assert_same(mirrored["searches"]["one"], mirrored["searches"]["two"])


@pytest.mark.slow
def test_the_best_model_is_for_one_device(mirrored):
    best = max(record["objective"] for record in mirrored["searches"]["two"])
    assert mirrored["accuracy"] == pytest.approx(best)
    assert mirrored["on"] == ["_DefaultDistributionStrategy", False]


@pytest.mark.slow
def test_data_sets_and_models_of_ones_own_are_shared(mirrored):
    assert mirrored["weights"]
    one, two = mirrored["losses"]["one"], mirrored["losses"]["two"]
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
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


class Run:
    """What the workers of a search printed, and the folder that they left."""

    def __init__(self, directory, workers=2, **options):
        ports = []
        for _ in range(workers):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                ports.append(listener.getsockname()[1])
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        self.scratch = directory.parent / f"{directory.name}.scratch"
        self.scratch.mkdir(exist_ok=True)
        options["directory"] = str(directory)
        options["strategy"] = "several" if workers > 1 else "one"
        scripts = []
        for index in range(workers):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {"TMPDIR": str(self.scratch)}
            if workers > 1:
                environment["TF_CONFIG"] = json.dumps(task)
            scripts.append(Script(SEARCH + WORKER, json.dumps(options), **environment))
        self.codes, self.printed, self.errors = zip(*(each.end() for each in scripts), strict=True)
        self.last = [(printed.splitlines() or [""])[-1] for printed in self.printed]

    def results(self):
        assert set(self.codes) == {0}, self.errors
        return [json.loads(line) for line in self.last]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def alone(folder):
    return Run(folder / "alone", workers=1).results()[0]


@pytest.fixture(scope="module")
def together(folder):
    return Run(folder / "together")


@pytest.mark.slow
def test_two_workers_search_as_one_device(together, alone):
    first, second = together.results()
    assert first == second
    assert_same(first[0], alone[0])
    assert first[1] == alone[1]
    assert first[2] == pytest.approx(max(record["objective"] for record in first[0]))


@pytest.mark.slow
def test_the_first_worker_alone_writes_and_talks(together, folder, alone):
    assert "Round 0 done" in together.printed[0]
    assert "Round" not in together.printed[1]
    written, expected = (
        sorted(path.relative_to(folder / name) for path in (folder / name).rglob("*"))
        for name in ("together", "alone")
    )
    assert written == expected
    assert not list(together.scratch.glob("autoshrink-*"))


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_search_that_lost_a_worker_stops_and_goes_on(who, folder, together):
    directory = folder / f"lost{who}"
    lost = Run(directory, what="killed", who=who, at=2)
    assert lost.codes[who] == -9
    assert lost.codes[1 - who] == 1
    stopped = lost.last[1 - who]
    assert stopped.startswith("stopped: a worker of the distribution_strategy was lost; start all")
    trials = [json.loads(path.read_text()) for path in directory.rglob("trial.json")]
    assert {trial["status"] for trial in trials} == {"COMPLETED", "RUNNING"}
    if who:  # the other way round it is the same
        return
    resumed = Run(directory)
    assert resumed.results()[0][0] == together.results()[0][0]
    assert "Going on in round 1" in resumed.printed[0]


@pytest.mark.slow
def test_what_fails_everywhere_is_a_failed_candidate_and_all_hear_of_it(folder):
    run = Run(folder / "everywhere", what="everywhere", at=2, candidates=1)
    assert run.codes == (1, 1)
    assert "edges: failed: OSError: no space left" in run.printed[0]
    expected = "stopped: the search cannot go on: all candidates of round 1 failed (1); the last "
    assert run.last[0].startswith(f"{expected}one with: OSError: no space left")
    assert run.last[1] == run.last[0]


@pytest.mark.slow
def test_a_failure_on_one_worker_alone_ends_the_search(folder):
    run = Run(folder / "failed", what="alone", who=1, at=2)
    assert run.codes == (1, 1)
    assert run.last[0].startswith("stopped: a worker of the distribution_strategy was lost")
    assert run.last[1] == (
        "stopped: a candidate failed on some workers of the distribution_strategy, not on all: "
        "OSError: no space left; the search cannot go on"
    )


@pytest.mark.slow
def test_workers_with_different_searches_do_not_begin(folder):
    run = Run(folder / "another", what="another", who=1)
    assert run.codes == (1, 1)
    assert set(run.last) == {
        "stopped: distribution_strategy: 1 of 2 workers run another search than the first; start "
        "the same script everywhere"
    }
    assert not list((folder / "another").rglob("trial_*"))


def batches_of(arguments, replicas=2, seed=0, epochs=1):
    prepared = search_batches.prepare(arguments, replicas, seed)
    steps = prepared["steps_per_epoch"] * epochs
    return prepared, [
        tuple(part.numpy().tolist() for part in batch) for batch in prepared["x"].take(steps)
    ]


def test_batches_depend_on_the_seed_and_not_on_the_devices():
    x, y = np.arange(11), -np.arange(11)
    arguments = {"x": x, "y": y, "batch_size": 4}
    _, batches = batches_of(arguments, epochs=2)
    assert [len(batch[0]) for batch in batches] == [4] * 4
    for epoch in (batches[:2], batches[2:]):
        places = [place for batch in epoch for place in batch[0]]
        assert len({*places}) == 8
        assert [-place for place in places] == [label for batch in epoch for label in batch[1]]
    assert batches[:2] != batches[2:]
    assert batches_of(arguments, replicas=1, epochs=2)[1] == batches
    assert batches_of(arguments, seed=1, epochs=2)[1] != batches
    assert batches_of({**arguments, "initial_epoch": 1})[1] == batches[2:]
    unshuffled = batches_of({**arguments, "shuffle": False})[1]
    assert [batch[0] for batch in unshuffled] == [[0, 1, 2, 3], [4, 5, 6, 7]]


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
    prepared = search_batches.prepare(arguments, 2, 0)
    x, y, weight = next(iter(prepared["x"]))
    assert x["b"].numpy().tolist() == [*range(1, 9)]
    assert x["a"].dtype == "float32"
    assert y.numpy().tolist() == weight.numpy().tolist() == [*range(8)]
    (validation,) = prepared["validation_data"]
    assert validation[1].numpy().tolist() == [8, 9]
    assert prepared["class_weight"] == {0: 1}
    assert not {"y", "sample_weight", "batch_size", "validation_split"} & prepared.keys()
    with pytest.raises(ValueError, match="the data differ in length: 9, 10"):
        search_batches.prepare({"x": numbers, "y": numbers[1:]}, 1, 0)


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
            search_batches.prepare(arguments, replicas, 0)
        return
    batches = [*search_batches.prepare(arguments, replicas, 0)["validation_data"]]
    assert [len(batch) for (batch,) in batches] == sizes


def test_what_devices_cannot_share_of_a_data_set_is_left_out():
    batches = tf.data.Dataset.range(10).batch(3)
    for replicas, expected in ((1, [3, 3, 3, 1]), (2, [2, 2, 2]), (3, [3, 3, 3]), (4, [])):
        shared = search_batches.shared_batches(batches, replicas)
        assert [len(batch) for batch in shared] == expected
    whole = tf.data.Dataset.range(10).batch(4, drop_remainder=True)
    assert [len(batch) for batch in search_batches.shared_batches(whole, 2)] == [4, 4]
    files = tf.data.Options()
    files.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    for asked, expected in ((tf.data.Options(), "DATA"), (files, "FILE")):
        shared = search_batches.shared_batches(whole.with_options(asked), 2)
        assert shared.options().experimental_distribute.auto_shard_policy.name == expected


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


def test_what_is_no_strategy_for_a_search_is_refused(tmp_path, monkeypatch):
    def make(strategy):
        model = kas.CNNCellHyperModel((8, 8, 1), num_nodes=2, filters=4, stem_filters=4)
        return kas.AutoShrink(model, directory=tmp_path, distribution_strategy=strategy)

    with pytest.raises(TypeError, match=r"distribution_strategy='mirrored': give a tf\.distribute"):
        make("mirrored")
    with pytest.raises(ValueError, match="is a _DefaultDistributionStrategy; expected one of Mir"):
        make(tf.distribute.get_strategy())
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="needs Keras's TensorFlow backend, this is jax"):
        make(tf.distribute.OneDeviceStrategy("CPU:0"))
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_none_is_left_to_keras_tuner():
    devices = SearchDevices(tf.distribute.OneDeviceStrategy("CPU:0"), None)
    assert devices.build(lambda: "no model") == "no model"


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


@pytest.mark.slow
def test_the_command_searches_on_a_strategy(tmp_path):
    def run(*options):
        command = [sys.executable, "-m", "keras_autoshrink.commands.cli", "search", *options]
        ran = subprocess.run(
            [*command, "--directory", str(tmp_path)],
            env={k: v for k, v in os.environ.items() if k != "TF_CONFIG"},
            capture_output=True,
            text=True,
        )
        return ran.returncode, ran.stdout, ran.stderr

    small = "--nodes 2 --filters 4 --stem-filters 4 --epochs 1 --proxy-images 60 30"
    status, printed, errors = run("--distribution-strategy", "mirrored", *shlex.split(small))
    assert status == 0, errors
    assert "Best: round 0" in printed
    assert f"wrote {tmp_path}" in printed
    status, _, errors = run("--distribution-strategy", "multiworker")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "TF_CONFIG has to name all workers" in errors
    status, _, errors = run("--distribution-strategy", "mirrored", "--task", "text")
    assert (status, errors) == (
        2,
        "autoshrink: error: --distribution-strategy: is for images, this is text\n",
    )
