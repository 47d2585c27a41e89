"""Pruning and quantisation-aware training: one real run of each, and what is refused before."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import psutil
import pytest
from exported import MACS
from forked import Optimiser
from keras import layers

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands.cli import main
from keras_autoshrink.report import saved_search
from tflite_export import optimize
from tflite_export.file import flatbuffer
from tflite_export.optimize import job as job_of_process
from tflite_export.optimize.job import Job
from tflite_export.optimize.layer_graph import graph_of


@pytest.fixture(scope="module")
def data(exported):
    x, y = exported.train
    return x[:200], y[:200]


@pytest.fixture
def at_once(monkeypatch):
    """Lets trainings start as copies of a process that has imported TensorFlow.

    That they start as they do elsewhere is seen where a pruned network is quantised.
    """
    popen = SimpleNamespace(Popen=Optimiser, PIPE=subprocess.PIPE)
    monkeypatch.setattr(job_of_process, "subprocess", popen)


def kernels(model):
    """Of what is pruned."""
    kinds = (layers.Conv2D, layers.Dense, layers.SeparableConv2D)
    return [
        layer.get_weights()[isinstance(layer, layers.SeparableConv2D)]
        for layer in model.layers
        if type(layer) in kinds
    ]


def every_layer():
    """A network of all kinds of layers called "every", its statistics those of no data."""
    inputs = keras.Input((8, 8, 1))
    x = layers.ZeroPadding2D(1)(layers.Rescaling(2.0)(inputs))
    x = layers.SeparableConv2D(8, 3, activation="relu", depth_multiplier=2, strides=2)(x)
    x = layers.BatchNormalization()(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Activation("relu6")(layers.Multiply(name="gate_activation")([x, gate]))
    x = layers.Dropout(0.1)(layers.AveragePooling2D(2)(x))
    x = layers.Reshape((2, 2, 8))(layers.Flatten()(x))
    y = layers.DepthwiseConv2D(1, use_bias=False)(x)
    x = layers.Concatenate()([layers.Add()([x, y]), layers.Maximum()([x, y])])
    x = layers.Conv2D(8, 2, groups=2, activation="swish")(x)
    x = layers.Dense(16, use_bias=False)(layers.Flatten()(x))
    x = layers.ReLU(6)(layers.BatchNormalization(scale=False)(x))
    model = keras.Model(inputs, layers.Softmax()(layers.Dense(10)(x)), name="every")
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.split("/")[-1] in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.mark.usefixtures("at_once")
def test_pruning(data, capsys):
    """Of models in a model, behind layers of preprocessing.

    Its process refuses a copy that computes something else: all layers are built again right.
    """
    normalization = layers.Normalization()
    base = [keras.Input((8, 8, 1)), layers.Conv2D(1, 2, padding="same", activation="relu")]
    stack = [layers.RandomFlip(), normalization, keras.Sequential(base, name="base")]
    stack += [layers.GaussianNoise(0.1), every_layer()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    normalization.adapt(data[0])
    before = model.get_weights()
    pruned = tflite_export.prune(model, *data, 0.5, epochs=2, batch_size=50, verbose=True)
    assert all(map(np.array_equal, model.get_weights(), before))
    assert capsys.readouterr().out.count("prune: epoch ") == 2
    assert isinstance(pruned, keras.Sequential)
    every = pruned.get_layer("every")
    assert len(kernels(every)) == 5
    for kernel in (*kernels(every), *kernels(pruned.get_layer("base"))):
        assert np.count_nonzero(kernel == 0) == kernel.size // 2
    depthwise = [one for one in every.layers if isinstance(one, layers.DepthwiseConv2D)]
    assert all(np.all(one.kernel.numpy() != 0) for one in depthwise)
    # Augmentation and normalisation are still there.
    assert [type(layer) for layer in pruned.layers] == [type(layer) for layer in model.layers]
    few = data[0][:2]
    np.testing.assert_array_equal(pruned.layers[1](few), normalization(few))


def test_quantized_training(exported, data, tmp_path):
    """Of a pruned network: its zeros stay zeros, in the file as well."""
    pruned = keras.models.clone_model(exported.model)
    pruned.set_weights(exported.model.get_weights())
    for layer in pruned.layers:
        if isinstance(layer, (layers.Dense, layers.SeparableConv2D)):
            weights = layer.get_weights()
            place = int(isinstance(layer, layers.SeparableConv2D))
            small = np.abs(weights[place]) < np.quantile(np.abs(weights[place]), 0.3)
            weights[place][small] = 0
            layer.set_weights(weights)
    path, environment = tmp_path / "net.tflite", dict(os.environ)
    trained = tflite_export.train_quantized(pruned, path, *data, epochs=1)
    assert dict(os.environ) == environment
    assert "tf_keras" not in sys.modules
    assert [*tmp_path.iterdir()] == [path]
    assert {one.why.split(":")[0] for one in tflite_export.float_operators(path)} == {"border"}
    checked = tflite_export.check(trained, path, *exported.test, MACS, threads=(1,))
    assert checked.quantization == "int8"
    assert checked.macs_equal
    assert checked.agreement.agrees
    assert checked.agreement.file_accuracy > 0.6
    changed = [*zip(kernels(trained), kernels(pruned), strict=True)]
    for kernel, before in changed:
        assert np.all(kernel[before == 0] == 0)
        assert not np.array_equal(kernel, before)
    stored = flatbuffer.load(path)
    graph = stored.subgraphs[0]
    shares = [
        np.mean(np.asarray(stored.buffers[graph.tensors[operator.inputs[1]].buffer].data) == 0)
        for operator in graph.operators
        if flatbuffer.operator_name(stored, operator) in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert min(shares[1:]) >= 0.29  # the first convolution was not pruned


@pytest.mark.usefixtures("at_once")
def test_quantized_training_of_sequences(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 16, 3)).astype("float32")
    y = (x[:, :, 0].mean(1) > 0).astype(int)
    keras.utils.set_random_seed(0)
    stack = [layers.Conv1D(8, 3, padding="causal", dilation_rate=2, use_bias=False)]
    stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling1D()]
    stack += [layers.SeparableConv1D(8, 3, strides=2, activation="relu")]
    stack += [layers.GlobalAveragePooling1D(), layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((16, 3)), *stack])
    # What is zero stays zero, also in front of a ReLU.
    kernel = model.layers[4].pointwise_kernel
    zero = np.abs(kernel.numpy()) < np.quantile(np.abs(kernel.numpy()), 0.3)
    kernel.assign(np.where(zero, 0, kernel.numpy()))
    path = tmp_path / "m.tflite"
    trained = tflite_export.train_quantized(model, path, x, y, epochs=20, learning_rate=0.01)
    assert np.array_equal(trained.layers[4].pointwise_kernel.numpy() == 0, zero)
    assert {one.why.split(":")[0] for one in tflite_export.float_operators(path)} == {"border"}
    agreement = tflite_export.verify(trained, path, x, y)
    assert agreement.agrees
    assert agreement.file_accuracy > 0.9


@pytest.mark.usefixtures("at_once")
def test_a_diverging_training_is_one_line(data):
    model = functional(layers.Flatten(), layers.Dense(4), layers.Dense(10))  # a small one is enough
    with pytest.raises(RuntimeError, match=r"^prune: the loss or a weight became .* in epoch 1;"):
        tflite_export.prune(model, *data, learning_rate=1e30, epochs=1, batch_size=50)


def test_a_killed_process_is_named(exported, data):
    def kill():
        me = psutil.Process()
        while not (
            found := [one for one in me.children() if "optimize.process" in str(one.cmdline())]
        ):
            time.sleep(0.05)
        found[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match=r"^prune: the process that trains ended with SIGKILL: "):
        tflite_export.prune(exported.model, *data)
    killer.join()


STARTER = """
import sys
from pathlib import Path
from tflite_export.optimize import job

job._start("prune", Path(sys.argv[1]), False)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0}, "sparsity must be more than 0 and less than 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0, not nan"),
        ({"seed": -1}, "seed must be 0"),
        ({"x": np.zeros((4, 8, 8))}, r"x has shape \(4, 8, 8\), but the model takes"),
        ({"x": np.full((4, 8, 8, 1), np.nan)}, "x holds NaN or infinity"),
        ({"y": np.arange(3)}, r"y must be one integer for each of 4 .*\(3,\)"),
        ({"y": np.array([0, 1, 2, 10])}, "y goes from 0 to 10, classes from 0 to 9"),
    ],
)
def test_bad_arguments_are_one_line(exported, arguments, message):
    given = {"x": np.zeros((4, 8, 8, 1)), "y": np.arange(4), **arguments}
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        tflite_export.prune(exported.model, **given)
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


def subclassed():
    class Own(keras.Model):
        def call(self, inputs):
            return keras.ops.reshape(inputs, (-1, 64))

    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Dense(4)(Own()(inputs)))


def of_nan():
    model = functional(layers.Flatten(), layers.Dense(4))
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (subclassed, "model .* not functional: build it"),
        (
            lambda: functional(layers.Flatten(), layers.Dense(2, activation="sigmoid")),
            r"model must end in logits or a softmax, .* or in one sigmoid",
        ),
        (
            lambda: functional(layers.Flatten(), layers.Dense(3, activation="tanh")),
            "model must end",
        ),
        (
            lambda: functional(layers.Conv2DTranspose(1, 3, name="up"), layers.Flatten()),
            r"layer 'up' \(Conv2DTranspose\) cannot be optimised: known are",
        ),
        (
            lambda: functional(layers.Conv2D(1, 3, activation="gelu", name="g"), layers.Flatten()),
            r"layer 'g' \(Conv2D\) has the activation 'gelu'; known are linear, relu",
        ),
        (
            lambda: functional(
                keras.Sequential([layers.Conv2DTranspose(1, 3, name="up")], name="base"),
                layers.Flatten(),
            ),
            r"layer 'base/up' \(Conv2DTranspose\) cannot be optimised",
        ),
        (shared, r"layer 'twice' \(Conv2D\) is called 2 times"),
        (of_nan, "model gives NaN or infinity"),
    ],
)
def test_networks_that_cannot_be_optimised_are_named(build, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        tflite_export.prune(build(), np.zeros((4, 8, 8, 1)), np.arange(4))
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_refused_first(exported, data, tmp_path, monkeypatch):
    for path, message in (
        (tmp_path / "net.keras", "path must end in .tflite"),
        (tmp_path / "none" / "net.tflite", "path is in a folder that does not exist"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            tflite_export.train_quantized(exported.model, path, *data)
    with pytest.raises(TypeError, match=r"^model must be a keras.Model, not str"):
        tflite_export.prune("model.keras", *data)
    found = optimize.importlib.util.find_spec
    monkeypatch.setattr(
        optimize.importlib.util,
        "find_spec",
        lambda name: None if name == "tf_keras" else found(name),
    )
    with pytest.raises(ModuleNotFoundError, match=r"pip install \S+ tf_keras$"):
        tflite_export.prune(exported.model, *data)


def test_probabilities_are_no_logits_for_having_been_moved():
    for chain, activation in (
        ([layers.Dense(3, activation="softmax"), layers.Reshape((3,))], "softmax"),
        ([layers.Softmax(), layers.Dropout(0.1)], "softmax"),
        ([layers.Dense(3, activation="softmax"), layers.Dense(3)], "linear"),
        ([layers.Dense(3), layers.ReLU()], "relu"),
    ):
        graph = graph_of(functional(layers.Flatten(), *chain))
        assert graph.output_activation == activation


def test_a_job_arrives_as_it_was_sent():
    """With the arguments that change the training."""
    chain = (
        layers.Dropout(0.3, noise_shape=(None, 1, 1, 1)),
        layers.BatchNormalization(momentum=0.7, epsilon=0.01),
        layers.Dense(2, name="dichte_ä"),
        layers.ReLU(max_value=np.inf),
    )
    graph = graph_of(functional(*chain))
    carried = graph.nodes[0].arguments | graph.nodes[1].arguments
    assert {"rate": 0.3, "momentum": 0.7, "epsilon": 0.01}.items() <= carried.items()
    assert tuple(carried["noise_shape"]) == (None, 1, 1, 1)
    job = Job("prune", graph, np.int64(2), np.int8(3), np.float32(0.1), 4, 0.1)
    sent = Job.from_json(job.to_json())
    assert sent.graph.nodes[1:] == graph.nodes[1:]
    assert (sent.epochs, sent.batch_size, sent.seed, sent.sparsity) == (2, 3, 4, 0.1)


def test_the_command_optimises_what_it_is_given(exported, tmp_path, monkeypatch, capsys):
    """`autoshrink export` with --prune and --qat, whose processes are played here."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def pruned(model, x, y, sparsity, **options):
        calls.append(("prune", sparsity, len(x), options["epochs"]))
        return model

    def trained(model, path, x, y, **options):
        calls.append(("quantize", Path(path).name, len(x), options["epochs"]))
        shutil.copy(exported.path("int8"), path)
        return model

    monkeypatch.setattr(tflite_export, "prune", pruned)
    monkeypatch.setattr(tflite_export, "train_quantized", trained)
    images, labels = exported.train[0][:200], exported.train[1][:200]
    images = np.round(images * 16).astype("uint8")
    np.savez("few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    exported.model.save("net.keras")
    data = kas.load_images("few.npz", purpose="train")
    saved_search.write_facts(Path("net.keras"), {"mean": data.mean, "std": data.std})
    options = "--dataset few.npz --quantization int8 --prune 0.1 --qat --epochs 1"
    main(["export", "net.keras", *options.split()])
    printed = capsys.readouterr().out
    names = ["net.int8.tflite", "net.pruned.int8.tflite", "net.pruned.qat.int8.tflite"]
    assert sorted(one.name for one in Path().glob("*.tflite")) == names
    assert [call[0] for call in calls] == ["prune", "quantize"]
    assert calls[0][1] == 0.1
    assert {call[2:] for call in calls} == {(calls[0][2], 1)}
    header = next(line for line in printed.splitlines() if "file " in line)
    assert header.split() == ["file", *names]
    for name in names[1:]:
        assert re.search(rf"{name}: its accuracy against net.keras: [+-]\d\.\d{{4}}\n", printed)
    metadata = tflite_export.read_metadata(names[2])
    assert metadata.name == "net.pruned"
    assert metadata.labels == tuple("0123456789")
