"""Pruning and quantisation-aware training. Each process of TFMOT takes some ten seconds to start:
most tests look at what few of them left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
from keras import layers
from sklearn.datasets import load_digits

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands.cli import main
from keras_autoshrink.data.images import load_images
from tflite_export import flatbuffer, layer_graph, optimize
from tflite_export.optimize_job import Job, save_arrays

SMALL = {
    "input_shape": (8, 8, 1),
    "classes": 10,
    "width": 0.2,
    "stem_stride": 1,
    "stage_scales": (1, 2),
    "stage_strides": (1, 2),
    "stage_repeats": (1, 1),
    "head_filters": 8,
    "batchnorm_momentum": 0.5,
}
CELL = kas.Cell.dense(("input", "sepconv3x3", "conv1x1", "sepconv3x3"))


@pytest.fixture(scope="module")
def data():
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype("float32")[:400], labels[:400]


@pytest.fixture(scope="module")
def model(data):
    """A trained network; its ends of cells are not rectified in front of the max-pool."""
    keras.utils.set_random_seed(0)
    model = kas.ShrinkCNN(CELL, **SMALL)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(*data, epochs=12, verbose=0)
    return model


@pytest.fixture(scope="module")
def pruned(model, data):
    environment, before = dict(os.environ), model.get_weights()
    pruned = tflite_export.prune(model, *data, 0.5, epochs=8, batch_size=16)
    assert dict(os.environ) == environment
    assert "tf_keras" not in sys.modules
    assert all(map(np.array_equal, model.get_weights(), before))
    return pruned


@pytest.fixture(scope="module")
def quantized(pruned, data, tmp_path_factory):
    """The file of the pruned network, and the network that it was made from."""
    path = tmp_path_factory.mktemp("quantized") / "net.tflite"
    return path, tflite_export.train_quantized(pruned, path, *data, epochs=1)


def kernels(model):
    """Of what is pruned."""
    kinds = (layers.Conv2D, layers.Dense)
    return [layer.kernel.numpy() for layer in model.layers if type(layer) in kinds]


def mixed():
    """What ShrinkCNN has none of."""
    inputs = keras.Input((8, 8, 1))
    x = layers.ZeroPadding2D(1)(layers.Rescaling(2.0)(inputs))
    x = layers.SeparableConv2D(8, 3, activation="relu", depth_multiplier=2, strides=2)(x)
    x = layers.BatchNormalization()(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Activation("relu6")(layers.Multiply(name="gate_activation")([x, gate]))
    x = layers.Dropout(0.1)(layers.AveragePooling2D(2)(x))
    x = layers.Reshape((2, 2, 8))(layers.Flatten()(x))
    x = layers.Conv2D(8, 2, groups=2, activation="swish")(x)
    x = layers.Dense(16, use_bias=False)(layers.Flatten()(x))
    x = layers.ReLU(6)(layers.BatchNormalization(scale=False)(x))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(10)(x)))


VARIANTS = {
    "plain": lambda: kas.ShrinkCNN(**SMALL),
    "swish": lambda: kas.ShrinkCNN(
        **SMALL, activation="swish", classifier_activation="softmax", dropout=0.2
    ),
    "bottleneck": lambda: kas.ShrinkCNN(**{**SMALL, "width": 1}, bottleneck=2),
    "of a search": lambda: kas.ShrinkCNN(
        **{**SMALL, "head_filters": None}, residual=False, chained=True
    ),
    "mobilenet": lambda: keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10
    ),
    "mixed": mixed,
}
REBUILD = """
import json, sys
from pathlib import Path
import numpy as np
from tflite_export import tf_keras_model
from tflite_export.optimize_job import Job

folder = Path(sys.argv[1])
for name, job in json.loads((folder / "jobs.json").read_text()).items():
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    x, outputs = arrays.pop("x"), arrays.pop("outputs")
    model = tf_keras_model.build(Job.from_json(job).graph, arrays)
    print(name, np.abs(model(x, training=False) - outputs).max() / np.abs(outputs).max(), sep="|")
"""


@pytest.mark.slow
def test_networks_built_again_compute_the_same(tmp_path):
    random = np.random.default_rng(0)
    jobs = {}
    for name, build in VARIANTS.items():
        model = build()
        for weight in model.weights:
            if weight.path.split("/")[-1] in ("gamma", "beta", "moving_mean", "moving_variance"):
                weight.assign(random.uniform(0.5, 1.5, weight.shape))
        graph = layer_graph.layer_graph(model)
        weights = layer_graph.weights_of(model, graph)
        x = random.normal(size=(3, *model.input_shape[1:])).astype("float32")
        jobs[name] = Job("prune", graph, 1, 1, 1.0, 0).to_json()
        outputs = np.asarray(model(x, training=False))
        save_arrays(tmp_path / f"{name}.npz", {**weights, "x": x, "outputs": outputs})
        copy = keras.models.clone_model(model)
        layer_graph.set_weights(copy, graph, weights)
        assert all(map(np.array_equal, copy.get_weights(), model.get_weights()))
    assert Job.from_json(jobs["swish"]).graph.output_activation == "softmax"
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    ended = subprocess.run(
        [sys.executable, "-c", REBUILD, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = dict(line.split("|") for line in ended.stdout.splitlines())
    assert found.keys() == VARIANTS.keys(), ended.stderr
    assert max(map(float, found.values())) < 1e-5, found


def test_a_job_arrives_as_it_was_sent():
    chain = (layers.Dense(2, name="dichte_ä"), layers.ReLU(max_value=np.inf))
    graph = layer_graph.layer_graph(functional(*chain))
    job = Job("prune", graph, np.int64(2), np.int8(3), np.float32(0.1), 4, 0.1)
    assert Job.from_json(job.to_json()) == job


@pytest.mark.slow
def test_half_of_each_kernel_is_zero(pruned, model):
    for kernel, before in zip(kernels(pruned), kernels(model), strict=True):
        assert np.count_nonzero(kernel == 0) == kernel.size // 2
        assert np.count_nonzero(before == 0) == 0
    depthwise = [one for one in pruned.layers if isinstance(one, layers.DepthwiseConv2D)]
    assert all(np.all(one.kernel.numpy() != 0) for one in depthwise)


@pytest.mark.slow
def test_a_pruned_network_still_knows_its_classes(pruned, data):
    x, y = data
    assert np.mean(pruned.predict(x, verbose=0).argmax(-1) == y) > 0.6


@pytest.mark.slow
def test_zeros_reach_the_file_and_gzip(pruned, model, data, tmp_path):
    paths = [tmp_path / "dense.tflite", tmp_path / "pruned.tflite"]
    for network, path in zip((model, pruned), paths, strict=True):
        tflite_export.convert(network, path, "int8", data[0][:50])
    dense, sparse = (tflite_export.check(pruned, path, *data, threads=(1,)) for path in paths)
    assert sparse.num_bytes == dense.num_bytes
    assert sparse.gzip_bytes < dense.gzip_bytes == tflite_export.describe(paths[0]).gzip_bytes
    rows = {
        row[0]: row[1:]
        for row in zip(
            *(c._cells for c in tflite_export.render_table([sparse]).columns), strict=True
        )
    }
    assert rows["bytes by gzip"] == (f"{sparse.gzip_bytes:,}",)


@pytest.mark.slow
def test_the_same_seed_prunes_to_the_same_weights(pruned, model, data):
    again = tflite_export.prune(model, *data, 0.5, epochs=8, batch_size=16)
    assert all(map(np.array_equal, again.get_weights(), pruned.get_weights()))


@pytest.mark.slow
def test_another_seed_prunes_to_other_weights(pruned, model, data):
    other = tflite_export.prune(model, *data, 0.5, epochs=8, batch_size=16, seed=1)
    assert not any(map(np.array_equal, kernels(other), kernels(pruned)))


@pytest.mark.slow
def test_a_quantized_file_computes_in_integers_and_agrees(quantized, data):
    path, trained = quantized
    x, y = data
    assert {one.why.split(":")[0] for one in tflite_export.float_operators(path)} == {"border"}
    assert len(tflite_export.float_operators(path)) == 2
    checked = tflite_export.check(trained, path, x, y, kas.count_macs(trained), threads=(1,))
    assert checked.quantization == "int8"
    assert checked.macs_equal
    assert checked.agreement.agrees
    assert checked.agreement.file_accuracy > 0.6
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.slow
def test_training_in_8_bits_keeps_the_zeros_and_changes_the_rest(quantized, pruned):
    path, trained = quantized
    for kernel, before in zip(kernels(trained), kernels(pruned), strict=True):
        assert np.array_equal(kernel == 0, before == 0)
        assert not np.array_equal(kernel, before)
    stored = flatbuffer.load(path)
    graph = stored.subgraphs[0]
    shares = []
    for operator in graph.operators:
        if flatbuffer.operator_name(stored, operator) in ("CONV_2D", "FULLY_CONNECTED"):
            weights = stored.buffers[graph.tensors[operator.inputs[1]].buffer].data
            shares.append(np.mean(np.asarray(weights) == 0))
    assert len(shares) == len(kernels(trained))
    assert min(shares) >= 0.5


@pytest.mark.slow
def test_a_diverging_training_is_one_line(model, data, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"before")
    with pytest.raises(
        RuntimeError, match=r"^quantize: the loss or a weight became .* in epoch 1;"
    ):
        tflite_export.train_quantized(model, path, *data, learning_rate=1e30, epochs=1)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.slow
def test_a_killed_process_is_named(model, data):
    def kill():
        me = psutil.Process()
        while not (
            found := [one for one in me.children() if "optimize_process" in str(one.cmdline())]
        ):
            time.sleep(0.05)
        found[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match=r"^prune: the process that trains ended with SIGKILL: "):
        tflite_export.prune(model, *data)
    killer.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0}, "sparsity must be more than 0 and less than 1, not 0"),
        ({"sparsity": 1.0}, "sparsity must be more than 0 and less than 1, not 1.0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0, not nan"),
        ({"seed": -1}, "seed must be 0"),
        ({"x": np.zeros((4, 8, 8))}, r"x has shape \(4, 8, 8\), but the model takes"),
        ({"x": np.zeros((0, 8, 8, 1))}, "x holds no sample"),
        ({"x": np.full((4, 8, 8, 1), np.nan)}, "x holds NaN or infinity"),
        (
            {"y": np.arange(3)},
            r"y must be one integer for each of 4 .*\(3,\)",
        ),
        ({"y": np.eye(4)}, "y must be one integer for each of 4 samples, not float64"),
        ({"y": np.array([0, 1, 2, 10])}, "y goes from 0 to 10, classes from 0 to 9"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, model):
    given = {"x": np.zeros((4, 8, 8, 1)), "y": np.arange(4), **arguments}
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        tflite_export.prune(model, **given)
    assert "\n" not in str(raised.value)


def functional(*chain):
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x)


def shared():
    inputs = keras.Input((8, 8, 1))
    conv = layers.Conv2D(1, 3, padding="same", name="twice")
    return keras.Model(inputs, layers.Flatten()(conv(conv(inputs))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keras.Sequential([keras.Input((2,)), layers.Dense(2)]), "model .* functional"),
        (
            lambda: functional(layers.Flatten(), layers.Dense(3, activation="tanh")),
            "model must end",
        ),
        (lambda: functional(layers.Conv2D(1, 3)), "model must end in logits or a softmax"),
        (
            lambda: functional(layers.Conv2DTranspose(1, 3, name="up"), layers.Flatten()),
            r"layer 'up' \(Conv2DTranspose\) cannot be optimised: known are",
        ),
        (
            lambda: functional(layers.Conv2D(1, 3, activation="gelu", name="g"), layers.Flatten()),
            r"layer 'g' \(Conv2D\) has the activation 'gelu'; known are linear, relu",
        ),
        (
            lambda: functional(functional(layers.Flatten()), layers.Dense(2)),
            r"layer '\w+' \(Functional\) cannot be optimised",
        ),
        (shared, r"layer 'twice' \(Conv2D\) is called 2 times"),
    ],
)
def test_networks_that_cannot_be_optimised_are_named(build, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        tflite_export.prune(build(), np.zeros((4, 8, 8, 1)), np.arange(4))
    assert "\n" not in str(raised.value)


def test_a_path_that_cannot_be_written_is_refused_first(model, data, tmp_path):
    for path, message in (
        (tmp_path / "net.keras", "path must end in .tflite"),
        (tmp_path / "none" / "net.tflite", "path is in a folder that does not exist"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            tflite_export.train_quantized(model, path, *data)
    with pytest.raises(TypeError, match=r"^model must be a keras.Model, not str"):
        tflite_export.prune("model.keras", *data)


def test_a_network_of_nan_is_refused():
    model = functional(layers.Flatten(), layers.Dense(3))
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(ValueError, match=r"^model gives NaN or infinity"):
        tflite_export.prune(model, np.zeros((4, 8, 8, 1)), np.zeros(4, int))


@pytest.mark.parametrize(
    ("chain", "activation"),
    [
        ((layers.Dense(3, activation="softmax"), layers.Reshape((3,))), "softmax"),
        ((layers.Softmax(), layers.Dropout(0.1)), "softmax"),
        ((layers.Dense(3, activation="softmax"), layers.Dense(3)), "linear"),
        ((layers.Dense(3), layers.ReLU()), "relu"),
        ((layers.Dense(3),), "linear"),
    ],
)
def test_probabilities_are_no_logits_for_having_been_moved(chain, activation):
    graph = layer_graph.layer_graph(functional(layers.Flatten(), *chain))
    assert graph.output_activation == activation


def test_arguments_that_change_the_training_are_carried():
    dropout = layers.Dropout(0.3, noise_shape=(None, 1, 1, 1))
    batchnorm = layers.BatchNormalization(momentum=0.7, epsilon=0.01)
    graph = layer_graph.layer_graph(functional(dropout, batchnorm))
    carried = graph.nodes[0].arguments | graph.nodes[1].arguments
    assert {"rate": 0.3, "momentum": 0.7, "epsilon": 0.01}.items() <= carried.items()
    assert tuple(carried["noise_shape"]) == (None, 1, 1, 1)


STARTER = """
import sys
from pathlib import Path
from tflite_export import optimize_job

optimize_job._start("prune", Path(sys.argv[1]), False)
"""


def test_whoever_starts_the_process_takes_it_along_and_the_data_with_it(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    os.mkfifo(folder / "job.json")  # which the process waits for
    (folder / "x.npy").write_bytes(b"many images")
    starter = subprocess.Popen([sys.executable, "-c", STARTER, folder])
    try:
        # Opening it for writing waits until the process reads.
        with (folder / "job.json").open("w"):
            (child,) = psutil.Process(starter.pid).children()
            assert folder.is_dir()
            starter.kill()
            starter.wait()
            child.wait(60)
    finally:
        starter.kill()
    assert not folder.exists()


def test_without_tfmot_the_pip_command_is_named(model, data, monkeypatch):
    found = optimize.importlib.util.find_spec
    monkeypatch.setattr(
        optimize.importlib.util,
        "find_spec",
        lambda name: None if name == "tf_keras" else found(name),
    )
    with pytest.raises(ModuleNotFoundError, match=r"pip install \S+ tf_keras$"):
        tflite_export.prune(model, *data)


def unscaled():
    """A network of activations far beyond the -6 to 6 that TFMOT begins with.

    Its first BatchNorm cannot be folded into the convolution, which another layer reads as well.
    """
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(layers.Rescaling(50.0)(inputs))
    x = layers.Add()([layers.Rescaling(50.0)(layers.BatchNormalization(momentum=0.5)(x)), x])
    for _ in range(3):
        x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Rescaling(0.05)(layers.MaxPooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


@pytest.mark.slow
def test_the_command_writes_and_checks_optimised_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tf_keras.py").write_text("raise ImportError('a file of the working directory')")
    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8, 1)[:200].astype("uint8"), labels[:200]
    # The training images again: this is about the files, not about what a network can learn.
    np.savez("few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    digits = load_images("few.npz", purpose="train").train
    keras.utils.set_random_seed(0)
    model = unscaled()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x, digits.y, epochs=40, verbose=0)
    model.save("net.keras")
    options = "--dataset few.npz --quantization int8 --prune 0.1 --qat --epochs 1"
    capsys.readouterr()
    assert main(["export", "net.keras", *options.split()]) == 0
    printed = capsys.readouterr().out
    names = ["net.int8.tflite", "net.pruned.int8.tflite", "net.pruned.qat.int8.tflite"]
    assert sorted(one.name for one in Path().glob("*.tflite")) == names
    assert "prune: epoch 1/1: loss " in printed
    assert "quantize: epoch 1/1: loss " in printed
    header = next(line for line in printed.splitlines() if "file " in line)
    assert header.split() == ["file", *names]
    assert "bytes by gzip" in printed
    model_accuracies, accuracies = (
        [float(cell) for cell in line.split()[2:]]
        for line in printed.splitlines()
        if " accuracy  " in line
    )
    assert min(accuracies) > 0.9
    for name, accuracy in zip(names[1:], accuracies[1:], strict=True):
        change = accuracy - model_accuracies[0]
        assert f"{name}: its accuracy against net.keras: {change:+.4f}\n" in printed
    metadata = tflite_export.read_metadata(names[2])
    assert metadata.name == "net.pruned"
    assert metadata.labels == tuple("0123456789")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 2", "--epochs: is for --qat and --prune"),
        ("--prune 1.5", "--prune 1.5: expected more than 0 and less than 1"),
    ],
)
def test_the_command_refuses_in_one_line(options, message, model, tmp_path, capsys):
    model.save(tmp_path / "net.keras")
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "net.keras"), *options.split()])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"autoshrink: error: {message}\n"
    assert not [*tmp_path.glob("*.tflite")]
