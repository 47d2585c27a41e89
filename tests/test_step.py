"""The lean training step computes what Keras's own does, for whatever Keras trains."""

import contextlib
import logging
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_autoshrink.training import step
from keras_autoshrink.training.step import accelerate

pytestmark = pytest.mark.usefixtures("optimised_graphs")

STEPS, CLASSES = 20, 3


class Losses(keras.callbacks.Callback):
    """The mean loss after each step."""

    def on_train_begin(self, logs=None):
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))


def data(rank, batch, seed=0):
    """Batches for STEPS steps, and their labels."""
    rng = np.random.default_rng(seed)
    shape = (6, 6, 3) if rank == 4 else (5,)
    return rng.normal(size=(STEPS * batch, *shape)).astype("float32"), rng.integers(
        0, CLASSES, STEPS * batch
    )


def network(rank=4, seed=3, **batchnorm):
    """A network with two BatchNorms; of rank 4 its convolutions are of 3x3 and 1x1.

    Of 12 channels, which BatchNorm computes in groups of four pixels where there is AVX-512.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 3) if rank == 4 else (5,))
    x = inputs
    for size in (3, 1):
        if rank == 4:
            x = keras.layers.Conv2D(12, size, use_bias=False)(x)
        else:
            x = keras.layers.Dense(12, use_bias=False)(x)
        x = keras.layers.BatchNormalization(**batchnorm)(x)
        x = keras.layers.Activation("relu")(x)
    if rank == 4:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def compiled(model, optimizer=None, **settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"loss": loss, "metrics": ["accuracy"], "jit_compile": False, **settings}
    model.compile(optimizer or keras.optimizers.SGD(0.1), **settings)
    return model


def eagerly(model):
    model.run_eagerly = True


def both(make, train, keras_trains=eagerly):
    """What a training comes to by Keras's own step and by the lean one.

    Keras's is not traced, which takes longer than to compute its few steps.
    """
    found = []
    for change in (keras_trains, accelerate):
        model = make()
        change(model)
        result = train(model)
        found.append((result, [np.asarray(weight.value) for weight in model.weights]))
    return found


def assert_close(ours, theirs):
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


UNSCALED, UNCENTRED = {"scale": False, "momentum": 0.5}, {"center": False, "epsilon": 0.1}


@pytest.mark.parametrize(
    ("shape", "kernels", "settings"),
    [
        ((5,), 1, {}),
        ((6, 6, 3), 1, UNSCALED),
        ((6, 6, 3), 1, UNCENTRED),
        *(((4, 2, 20), 2, settings) for settings in ({}, UNSCALED, UNCENTRED)),
    ],
)
def test_fused_batchnorm_is_keras_own(shape, kernels, settings, monkeypatch):
    monkeypatch.setattr(step, "_has_avx512", lambda: True)  # the results are those of any machine
    x = np.random.default_rng(0).normal(2, 3, size=(7, *shape)).astype("float32")
    found = []
    for fuse in (False, True):
        layer = keras.layers.BatchNormalization(**settings)
        model = keras.Sequential([keras.Input(shape), layer, keras.layers.Activation("relu")])
        rng = np.random.default_rng(1)
        model.set_weights([rng.random(w.shape).astype("float32") for w in model.weights])

        @tf.function
        def trained(inputs, model=model, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = model(inputs, training=True)
                loss = tf.reduce_mean(tf.sin(outputs * 3))
            return outputs, tape.gradient(loss, [inputs, *layer.trainable_variables])

        spec = tf.TensorSpec((None, *shape))
        with step._lean_layers(model) if fuse else contextlib.nullcontext():
            assert ("call" in vars(layer)) is fuse
            traced = trained.get_concrete_function(spec)
        kinds = [operation.type for operation in traced.graph.get_operations()]
        assert kinds.count("FusedBatchNormV3") == (kernels if fuse else 0)
        assert traced.outputs[0].shape == spec.shape
        found.append([])
        for batch in (x[:1], x):
            found[-1] += [traced(tf.constant(batch)), [w.numpy() for w in layer.weights]]
        found[-1].append(model(x, training=False))
    assert_close(*found)


def perceptron():
    """The smallest network whose variables an optimizer has to update."""
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(7, activation="relu")
    return keras.Sequential([keras.Input((5,)), hidden, keras.layers.Dense(CLASSES)])


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(4e-3),
    "adamw, clipped": lambda: keras.optimizers.AdamW(4e-3, weight_decay=0.01, global_clipnorm=0.1),
    "amsgrad, averaged": lambda: keras.optimizers.Adam(4e-3, amsgrad=True, use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(4e-3, gradient_accumulation_steps=2),
    "nesterov": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, STEPS), momentum=0.9, nesterov=True
    ),
    "adam without momentum": lambda: keras.optimizers.Adam(4e-3, beta_1=0, epsilon=1),
    "multiplied": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize(
    ("name", "make", "batch"),
    [
        *((name, perceptron, 8) for name in OPTIMIZERS if name != "adam"),
        ("adam", network, 8),
        ("adam", lambda: network(2), 1),
    ],
)
def test_twenty_steps_lose_as_much(name, make, batch):
    x, y = data(len(make().input_shape), batch)

    def train(model):
        losses = Losses()
        model.fit(x, y, batch_size=batch, shuffle=False, verbose=0, callbacks=[losses])
        return losses.found

    (theirs, _), (ours, _) = both(lambda: compiled(make(), OPTIMIZERS[name]()), train)
    assert len(ours) == STEPS
    assert_close(ours, theirs)


def test_pointwise_convolutions_are_matrix_products():
    layers = [
        keras.layers.Conv2D(8, 1, activation="relu", bias_initializer="ones"),
        keras.layers.Conv2D(8, 1, strides=2),
        keras.layers.Conv2D(8, 1, groups=4),
        keras.layers.Conv2D(8, 3, padding="same"),
    ]
    model = keras.Sequential([keras.Input((6, 5, 8)), *layers])
    x = np.random.default_rng(0).normal(size=(3, 6, 5, 8)).astype("float32")
    theirs = model(x)
    with step._lean_layers(model):
        assert ["convolution_op" in vars(layer) for layer in layers] == [True, False, False, False]
        assert_close(model(x), theirs)
    assert not any("convolution_op" in vars(layer) for layer in layers)


def depthwise(*arguments, **settings):
    return lambda: keras.layers.DepthwiseConv2D(*arguments, **settings)


# How to make a layer, whether it has a lean way, and whether that has a gradient of its own here.
GRADIENTS = {
    "silu": (lambda: keras.layers.Activation("silu"), True, True),
    "silu in half precision": (
        lambda: keras.layers.Activation("silu", dtype="mixed_float16"),
        False,
        False,
    ),
    "same": (depthwise(5, padding="same"), True, True),
    "strided": (
        depthwise((5, 3), strides=2, padding="same", activation="tanh", bias_initializer="ones"),
        True,
        True,
    ),
    "valid": (depthwise(3, use_bias=False), True, True),
    "pixels are left over": (depthwise(3, strides=2), True, True),
    "more pixels than taps": (depthwise(2, strides=2), True, False),
    "two outputs a channel": (depthwise(5, padding="same", depth_multiplier=2), False, False),
    "dilated": (depthwise(3, dilation_rate=2, padding="same"), False, False),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_our_own_are_keras_own(name):
    make, has_lean_way, is_own = GRADIENTS[name]
    layer = make()
    is_silu = isinstance(layer, keras.layers.Activation)
    of_keras = "Sub" if is_silu else "DepthwiseConv2dNativeBackpropFilter"
    model = keras.Sequential([keras.Input((4, 6, 6)), layer])
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype("float32"))

    def trained(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=True)
            loss = tf.reduce_mean(tf.sin(tf.cast(outputs, "float32") * 3))
        return outputs, tape.gradient(loss, [inputs, *model.trainable_variables])

    # By Keras, and in our way; this also compiled by XLA.
    ways = [(False, False), (True, False), *[(True, True)] * has_lean_way]
    expected = None
    for lean, compiled_by_xla in ways:
        function = tf.function(trained, jit_compile=compiled_by_xla)
        with step._lean_layers(model) if lean else contextlib.nullcontext():
            assert ("call" in vars(layer)) is (lean and has_lean_way)
            traced = function.get_concrete_function(tf.TensorSpec((None, 4, 6, 6)))
        kinds = {operation.type for operation in traced.graph.get_operations()}
        assert (of_keras in kinds) is not (is_own and lean)
        found = [traced(x[:1]), traced(x)]
        assert_close(found, expected or found)
        expected = expected or found


def test_a_gradient_that_would_be_wrong_is_none(monkeypatch):
    monkeypatch.setattr(step, "_has_avx512", lambda: True)
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 2, 12)), layer])
    x = tf.ones((2, 3, 4, 2, 12))

    def gradient():
        with step._lean_layers(model), tf.GradientTape() as tape:
            outputs = tf.vectorized_map(lambda each: model(each, training=True), x)
        return tape.gradient(outputs, layer.gamma.value)

    with pytest.raises(LookupError, match=r"tf\.vectorized_map"):
        gradient()


def test_what_is_saved_is_a_plain_model(tmp_path):
    model = compiled(network())
    accelerate(model)
    model.fit(X, Y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"autoshrink" not in archive.read("config.json")  # who has Keras alone can load it
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X[:9], training=False), model(X[:9], training=False))
    assert type(loaded.layers[2]) is keras.layers.BatchNormalization
    assert loaded.optimizer.iterations == model.optimizer.iterations > 0


class OwnStep(keras.Model):
    """A model with a step of its own, which adds a second loss."""

    def train_step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted) + 0.1 * tf.reduce_mean(predicted**2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {**self.compute_metrics(x, y, predicted), "extra": loss * 2}


def own_step():
    plain = network(2)
    return compiled(OwnStep(plain.inputs, plain.outputs))


def two_outputs():
    plain = network(2)
    first, second = plain.outputs[0], keras.layers.Dense(1, name="second")(plain.layers[-2].output)
    model = keras.Model(plain.inputs, {"first": first, "second": second})
    losses = {
        "first": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "second": "mse",
    }
    return compiled(model, loss=losses, metrics={"first": ["accuracy"]}, loss_weights=[1, 0.2])


X, Y = data(4, 4)
FLAT, _ = data(2, 4)
# What is of a step as a whole needs no images, of which XLA takes long to compile convolutions.
FITS = {
    "weights of samples": (None, {"sample_weight": np.linspace(0, 2, len(X))}),
    "eager": (lambda: compiled(network(2), run_eagerly=True), {}),
    "compiled by XLA": (  # which compiles anew for each size of a batch
        lambda: compiled(network(2), jit_compile=True),
        {"batch_size": 20, "validation_data": (FLAT[:20], Y[:20])},
    ),
    "a loss of one's own, several steps at once": (
        lambda: compiled(
            network(2), loss=lambda y, z: tf.reduce_mean(z**2, axis=-1), steps_per_execution=3
        ),
        {},
    ),
    "a step of one's own": (own_step, {}),
    "two outputs": (two_outputs, {"y": {"first": Y, "second": Y / 2}}),
    "nested, shared, regularised, frozen, dropped": (lambda: compiled(of_many_kinds()), {}),
}


def of_many_kinds():
    """A network of what a step has to treat as Keras does: its weights tell each apart."""
    keras.utils.set_random_seed(3)
    inner = keras.Sequential([keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization()])
    inputs = keras.Input((6, 6, 3))
    x = inner(inner(inputs))
    kept = {"kernel_regularizer": "l2", "kernel_constraint": keras.constraints.MaxNorm(0.5)}
    x = keras.layers.Conv2D(4, 1, **kept)(x)
    x = keras.layers.BatchNormalization(gamma_regularizer="l1")(x)
    x = keras.layers.Conv2D(4, 3, trainable=False)(x)
    x = keras.layers.BatchNormalization(trainable=False)(x)
    x = keras.layers.ActivityRegularization(0.1)(x)
    x = keras.layers.Dropout(0.5, seed=1)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


@pytest.mark.parametrize("name", FITS)
def test_fit_is_keras_own(name):
    make, arguments = FITS[name]
    make = make or (lambda: compiled(network()))
    x = X if len(make().input_shape) == 4 else FLAT
    arguments = {"x": x, "y": Y, "batch_size": 12, "validation_data": (x[:9], Y[:9]), **arguments}
    if name == "two outputs":
        arguments["validation_data"] = (x, arguments["y"])

    def train(model):
        return model.fit(**arguments, epochs=2, shuffle=False, verbose=0).history

    # Where it does not know their sizes, Keras gives batches of several outputs the same weight.
    keras_trains = (lambda model: None) if name == "two outputs" else eagerly
    ours, theirs = both(make, train, keras_trains)
    assert ours[0].keys() == theirs[0].keys()
    assert_close(ours, theirs)


def test_batches_from_elsewhere():
    def train(model):
        found = [model.train_on_batch(X[:9], Y[:9]), model.test_on_batch(X, Y)]
        return [*found, model.train_on_batch(X[:4], Y[:4], class_weight={0: 2.0, 1: 1.0, 2: 0.0})]

    assert_close(*both(lambda: compiled(network()), train))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        places = slice(index * 12, index * 12 + 12)
        return FLAT[places], Y[places]


@pytest.mark.parametrize(
    ("arguments", "sequential"),
    [
        ({"x": FLAT, "y": Y, "batch_size": 12}, False),
        ({"x": tf.data.Dataset.from_tensor_slices((FLAT, Y)).batch(12)}, False),
        ({"x": Batches()}, False),
        ({"x": FLAT, "y": Y, "batch_size": 12}, True),
    ],
    ids=["arrays", "a dataset", "a PyDataset", "a Sequential"],
)
def test_a_model_is_traced_once_whatever_the_last_batch(arguments, sequential):
    traced = []

    class Notes(keras.layers.Layer):
        def call(self, inputs, training=False):
            traced.append(training)
            return inputs

    model = keras.Sequential([keras.Input((5,)), *perceptron().layers, Notes()])
    if not sequential:
        model = keras.Model(model.inputs, model.outputs)
    compiled(model, keras.optimizers.Adam())
    accelerate(model)
    traced.clear()
    shown = {"epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (FLAT[:30], Y[:30])}
    for _ in range(2):
        model.fit(**arguments, **shown)
    assert len(FLAT) % 12
    assert traced == [True, False]


def test_metrics_get_what_a_step_of_ones_own_gives_them():
    class OneHot(keras.Model):
        def train_step(self, batch):
            x, y = batch
            return super().train_step((x, tf.one_hot(y, CLASSES)))

        test_step = train_step

    def make():
        plain = network(2)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        return compiled(OneHot(plain.inputs, plain.outputs), loss=loss)

    def train(model):
        return model.fit(FLAT, Y, batch_size=12, shuffle=False, verbose=0).history

    assert_close(*both(make, train))


def test_layers_are_as_before_when_tracing_fails():
    model = compiled(network(), loss=lambda y, z: 1 / 0)
    accelerate(model)
    with pytest.raises(ZeroDivisionError):
        model.fit(X, Y, verbose=0)
    assert not any({"call", "convolution_op"} & {*vars(layer)} for layer in model.layers)
    compiled(model, keras.optimizers.Adam())
    losses = [model.fit(X, Y, verbose=0).history["loss"][0] for _ in range(2)]
    assert losses[1] < losses[0]


def test_a_convolution_keeps_what_is_known_of_its_shape():
    layer = keras.layers.Conv2D(4, 1)
    model = keras.Sequential([keras.Input((6, 5, 3)), layer])
    with step._lean_layers(model):
        traced = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 6, 5, 3)))
    assert traced.outputs[0].shape == (None, 6, 5, 4)


LEFT = {
    "in half precision": {"dtype": "mixed_float16"},
    "over another axis": {"axis": 1},
    "renormalised": {"renorm": True},
}


@pytest.mark.parametrize("name", LEFT)
def test_other_batchnorms_are_left_to_keras(name):
    layer = keras.layers.BatchNormalization(**LEFT[name])
    layer.build((None, 6, 6, 3))
    called = []
    step._normalize(
        layer, lambda *a, **k: called.append(k), tf.cast(X[:3], layer.compute_dtype), True
    )
    assert called == [{"training": True, "mask": None}]


def test_models_that_keep_keras_step_are_told_once(caplog):
    class OwnFunction(keras.Model):
        def make_train_function(self, force=False):
            return super().make_train_function(force)

    step._say_once.cache_clear()
    caplog.set_level(logging.WARNING)
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        for _ in range(2):
            shared = compiled(network())
            accelerate(shared)
    plain = network()
    own = compiled(OwnFunction(plain.inputs, plain.outputs))
    accelerate(own)
    assert not {"make_train_function", "make_test_function"} & {*vars(shared), *vars(own)}
    assert [record.message for record in caplog.records] == [
        "models train by Keras's own step: a tf.distribute strategy is in force",
        "models train by Keras's own step: OwnFunction has a make_train_function of its own",
    ]
