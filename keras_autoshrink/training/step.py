"""A lean training step on TensorFlow: Keras's own `train_step`, traced once, without detours.

What `keras.Model.fit` does stays as it is: losses, metrics, callbacks, weights of samples and
classes. What changes is how its step becomes a graph, on one device: one function in place of two
nested ones; the optimizer's kernels in place of eight operations for each variable, each behind a
strategy that is not there; BatchNorm's fused kernel in place of its parts, which on a CPU take
longer than all convolutions of a small network; and on CPUs matrix products in place of 1x1
convolutions, and gradients of our own of SiLU and of depthwise kernels on few pixels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

if keras.backend.backend() == "tensorflow":  # else a search need not load it
    import tensorflow as tf

_log = logging.getLogger(__name__)

_LOOK = 0.05  # seconds between the first two looks whether anybody still needs an iterator

RELEASING = "release of an iterator"  # the name of the threads that wait for that

# cuDNN takes none below it; the kernel of CPUs takes any.
_LEAST_EPSILON_ON_GPU = 1.001e-5


def accelerate(model: keras.Model) -> None:
    """Gives a compiled model's `fit` and `evaluate` a lean step, of leaner layers in training.

    Its variables, its class and what is saved of it stay those of a plain Keras model, which may
    be compiled again. On other backends than TensorFlow nothing happens. Models of a strategy stay
    as they are, and those that make functions of their own for a step; the log says so once.

    Args:
        model: compiled; changed in place.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> accelerate(model)
        >>> history = model.fit(tf.zeros((8, 3)), tf.zeros((8, 1)), verbose=0)
        >>> history.history["loss"]
        [0.0]
    """
    if keras.backend.backend() != "tensorflow" or "make_train_function" in vars(model):
        return
    own = [
        name
        for name in ("make_train_function", "make_test_function")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own:
        _say_once(f"{type(model).__name__} has a {own[0]} of its own")
        return
    if tf.distribute.has_strategy() or model._distribute_strategy is not None:
        _say_once("a tf.distribute strategy is in force")
        return
    if model.optimizer is not None and model.built and not model.optimizer.built:
        # Else its variables are made within the first step, which TensorFlow then traces twice.
        model.optimizer.build(model.trainable_variables)
    for kind in ("train", "test"):
        keras_makes = getattr(model, f"make_{kind}_function")
        setattr(model, f"make_{kind}_function", functools.partial(_make, model, kind, keras_makes))


@functools.cache
def _say_once(reason: str) -> None:
    _log.warning("models train by Keras's own step: %s", reason)


def _make(
    model: keras.Model, kind: str, keras_makes: Callable[..., Any], force: bool = False
) -> Any:
    """Makes the function of a step, as `keras.Model.make_train_function` does."""
    made = getattr(model, f"{kind}_function")
    if made is not None and not force:
        return made
    if model.optimizer is not None:
        _lighten(model.optimizer)
    if model.run_eagerly:
        return keras_makes(force)

    def step(batch: Any) -> dict[str, tf.Tensor]:
        # Looked up now, as a subclass's own. Only training has lean layers: whatever else is made
        # of the model, such as a file, is made of what Keras computes.
        with _lean_layers(model) if kind == "train" else contextlib.nullcontext():
            return getattr(model, f"{kind}_step")(batch)

    if model.steps_per_execution > 1:
        setattr(model, f"{kind}_function", model._make_function(step))
        return getattr(model, f"{kind}_function")
    on_batch = tf.function(
        step, jit_compile=model.jit_compile, reduce_retracing=True, autograph=False
    )

    def on_next(iterator: tf.data.Iterator) -> dict[str, tf.Tensor]:
        # What is missing in some batches arrives as an Optional.
        batch = keras.tree.map_structure(
            lambda part: None if isinstance(part, tf.experimental.Optional) else part,
            iterator.get_next(),
        )
        return (on_batch if model.jit_compile else step)(batch)

    on_iterator = tf.function(on_next, reduce_retracing=True, autograph=False)
    seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def function(batches: Any) -> dict[str, tf.Tensor]:
        if not isinstance(batches, tf.data.Iterator):
            return on_batch(next(batches))  # of train_on_batch
        if batches not in seen:  # an epoch begins
            seen.add(batches)
            _release_in_thread(batches)
            _build_metrics(model, batches.element_spec)
        return on_iterator(batches)

    setattr(model, f"{kind}_function", function)
    return function


def _release_in_thread(iterator: tf.data.Iterator) -> None:
    """Releases an iterator in another thread, once nobody else holds it.

    Who lets go of it last waits for the thread that tunes it, which wakes up ever less often: at
    the end of an epoch for as long as that took, if chance will have it.
    """
    held = [iterator]

    def hold() -> None:
        pause = _LOOK
        # The list's reference, and that of the argument.
        while sys.getrefcount(held[0]) > 2 and threading.main_thread().is_alive():
            time.sleep(pause)
            pause = min(1.2 * pause, 1.0)
        held.clear()

    # No daemon: TensorFlow must not be gone while it waits.
    threading.Thread(target=hold, name=RELEASING).start()


# What a model may do otherwise than Keras, by which its metrics get other arguments.
_OF_KERAS = ("call", "train_step", "test_step", "compute_metrics")


def _build_metrics(model: keras.Model, batch: Any) -> None:
    """Makes the variables of metrics that are known by their names.

    Else they are made within the first step, which TensorFlow then traces twice.

    Args:
        model: whose metrics are made; where what they are given is not known before a step, none.
        batch: the `tf.TensorSpec`s of a batch.
    """
    metrics = model._compile_metrics
    # Of a Sequential model, None before it is built.
    network = model._functional if isinstance(model, keras.Sequential) else model
    of_keras = (getattr(type(model), name).__module__.startswith("keras.") for name in _OF_KERAS)
    if metrics is None or metrics.built or network is None or not all(of_keras):
        return
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if all(isinstance(spec, tf.TensorSpec) for spec in keras.tree.flatten(y)):
        tensors = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), y)
        metrics.build(tensors, network.output)


# ---- layers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lean_layers(model: keras.Model) -> Iterator[None]:
    """Gives the layers of a model leaner ways to compute the same, while a step is traced."""
    changed = []
    with _tracing:  # models of several threads may share layers
        for layer in model._flatten_layers():
            # Not subclasses, which may compute something else.
            if type(layer) is keras.layers.BatchNormalization:
                name, lean = "call", functools.partial(_normalize, layer, layer.call)
            elif type(layer) is keras.layers.Conv2D and _is_pointwise(layer):
                name, lean = "convolution_op", _pointwise
            elif type(layer) is keras.layers.DepthwiseConv2D and _has_lean_product(layer):
                name, lean = "call", functools.partial(_convolve_depthwise, layer, layer.call)
            elif type(layer) is keras.layers.Activation and layer.activation is _RELU:
                name, lean = "call", functools.partial(_rectify, layer.call)
            elif type(layer) is keras.layers.Activation and _is_silu(layer):
                name, lean = "call", _silu
            else:
                continue
            if name not in vars(layer):
                setattr(layer, name, lean)
                changed.append((layer, name))
        try:
            yield
        finally:
            for layer, name in changed:
                delattr(layer, name)


_tracing = threading.RLock()

_RELU = keras.activations.relu
_SILU = keras.activations.silu


def _is_pointwise(layer: keras.layers.Conv2D) -> bool:
    """Whether a convolution is a matrix product, which oneDNN computes in less time on a CPU."""
    return {*layer.kernel_size, *layer.strides, layer.groups} == {1} and _has_lean_product(layer)


def _has_lean_product(layer: Any) -> bool:
    """Whether our ways hold for a convolution: channels last, no dilation, float32, on a CPU.

    A depthwise one makes one output of each channel.
    """
    one = {*layer.dilation_rate, getattr(layer, "depth_multiplier", 1)} == {1}
    plain = layer.data_format == "channels_last" and layer.compute_dtype == "float32"
    return one and plain and not _has_gpu()


def _is_silu(layer: keras.layers.Activation) -> bool:
    """Whether a layer is a SiLU in float32 on a CPU; where memory is scarcer Keras's keeps less."""
    return layer.activation is _SILU and layer.compute_dtype == "float32" and not _has_gpu()


def _pointwise(inputs: Any, kernel: Any) -> Any:
    """Convolves inputs of shape (batch, height, width, channels) by a kernel of 1x1."""
    *_, channels, filters = kernel.shape
    rows = tf.reshape(inputs, (-1, channels))
    product = tf.matmul(rows, tf.reshape(tf.convert_to_tensor(kernel), (channels, filters)))
    outputs = tf.reshape(product, (*tf.unstack(tf.shape(inputs)[:-1]), filters))
    return tf.ensure_shape(outputs, (*inputs.shape[:-1], filters))


def _convolve_depthwise(
    layer: keras.layers.DepthwiseConv2D, keras_calls: Callable[..., Any], inputs: Any
) -> Any:
    """Convolves each channel by its kernel, with a gradient of our own for few pixels.

    oneDNN's gradient of the kernel has a share for each image and tap that does not depend on the
    pixels. With fewer outputs than taps, such as 4x4 by a kernel of 5x5, that is most of it.

    Args:
        layer: whose kernel is used.
        keras_calls: the layer's own `call`.
        inputs: of shape (batch, height, width, channels).

    Returns:
        As the layer's own `call`.
    """
    _, *size, _ = layer.compute_output_shape(inputs.shape)
    if None in size or math.prod(size) >= math.prod(layer.kernel_size):
        return keras_calls(inputs)
    arguments = {"strides": (1, *layer.strides, 1), "padding": layer.padding.upper()}

    @tf.custom_gradient
    def convolve(x: Any, kernel: Any) -> Any:
        def gradient(dy: Any) -> Any:
            dy = tf.ensure_shape(dy, (None, *size, kernel.shape[2]))
            dx = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), kernel, dy, **arguments)
            return dx, _kernel_gradient(x, dy, layer.kernel_size, layer.strides, layer.padding)

        return tf.nn.depthwise_conv2d(x, kernel, **arguments), gradient

    outputs = convolve(inputs, tf.convert_to_tensor(layer.kernel))
    if layer.use_bias:
        outputs += layer.bias
    return outputs if layer.activation is None else layer.activation(outputs)


def _kernel_gradient(
    x: Any, dy: Any, kernel_size: Sequence[int], strides: Sequence[int], padding: str
) -> Any:
    """Returns the gradient of a depthwise kernel, of shape (*kernel_size, channels, 1).

    It is a depthwise convolution itself: of the inputs, with each image's channels as channels of
    their own, by the gradients of the outputs. What comes of it is summed up over the images.

    Args:
        x: the inputs, of shape (batch, height, width, channels).
        dy: the gradients of the outputs.
        kernel_size: of the convolution.
        strides: of the convolution.
        padding: of the convolution.
    """
    channels = x.shape[-1]
    margins = []
    for size, outputs, taps, stride in zip(
        x.shape[1:3], dy.shape[1:3], kernel_size, strides, strict=True
    ):
        margin = max((outputs - 1) * stride + taps - size, 0) if padding == "same" else 0
        margins.append((margin // 2, margin - margin // 2))
    pixels = tf.pad(tf.transpose(x, (1, 2, 0, 3)), (*margins, (0, 0), (0, 0)))
    images = tf.shape(x)[0]
    sums = tf.nn.depthwise_conv2d(
        tf.reshape(pixels, (1, *pixels.shape[:2], images * channels)),
        tf.reshape(tf.transpose(dy, (1, 2, 0, 3)), (*dy.shape[1:3], images * channels, 1)),
        strides=(1, 1, 1, 1),
        padding="VALID",
        dilations=strides,
    )
    # Where strides leave pixels over there are more than the kernel has.
    sums = sums[:, : kernel_size[0], : kernel_size[1]]
    return tf.reduce_sum(tf.reshape(sums, (*kernel_size, images, channels, 1)), 2)


def _silu(inputs: Any) -> Any:
    """Computes x times its sigmoid, which is kept: for the gradient Keras computes it again."""

    @tf.custom_gradient
    def silu(x: Any) -> Any:
        sigmoid = tf.sigmoid(x)

        def gradient(dy: Any) -> Any:
            return dy * (sigmoid + tf.raw_ops.SigmoidGrad(y=sigmoid, dy=x))

        return x * sigmoid, gradient

    return silu(inputs)


def _normalize(
    layer: keras.layers.BatchNormalization,
    keras_calls: Callable[..., Any],
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    """Normalizes a batch by the fused kernel, where that computes what Keras computes.

    Args:
        layer: whose variables are used, and whose moving statistics are updated.
        keras_calls: the layer's own `call`.
        inputs: of shape (batch, ..., channels).
        training: as for the layer.
        mask: as for the layer.
    """
    rank = len(inputs.shape)
    fused = (
        training
        and layer.trainable
        and mask is None
        and not layer.renorm
        and not layer.synchronized
        and layer.axis in (-1, rank - 1)
        and inputs.dtype == layer.compute_dtype == "float32"
        and all(variable.dtype == "float32" for variable in layer.variables)
        and (layer.epsilon >= _LEAST_EPSILON_ON_GPU or not _has_gpu())
    )
    if not fused:
        return keras_calls(inputs, training=training, mask=mask)
    channels = layer.moving_mean.shape[0]
    x = inputs if rank == 4 else tf.reshape(inputs, (-1, 1, 1, channels))
    scale = layer.gamma.value if layer.scale else tf.ones((channels,))
    offset = layer.beta.value if layer.center else tf.zeros((channels,))
    groups = _groups(x.shape)
    if groups == 1:
        y, mean, variance = _fused_batch_norm(x, scale, offset, layer.epsilon)
    else:
        y, mean, variance = _grouped_batch_norm(x, scale, offset, layer.epsilon, groups)
    for moving, of_batch in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.value.assign_sub((moving.value - of_batch) * (1 - layer.momentum))
    if rank != 4 or groups != 1:
        return tf.reshape(y, tf.shape(inputs))
    # Only something in between: an activation right behind it TensorFlow fuses into an operation of
    # oneDNN, which without a kernel for these channels takes three times as long as the two.
    return y if _has_avx512() and channels % _LANES == 0 else tf.ensure_shape(y, inputs.shape)


def _rectify(keras_calls: Callable[..., Any], inputs: Any) -> Any:
    """Rectifies before a change of shape what comes from one, as BatchNorm's kernel can do both."""
    if tf.executing_eagerly() or not isinstance(inputs, tf.Tensor) or inputs.op.type != "Reshape":
        return keras_calls(inputs)
    return tf.reshape(keras_calls(inputs.op.inputs[0]), tf.shape(inputs))


def _fused_batch_norm(x: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalizes a batch by the fused kernel.

    Returns:
        The batch, and the mean and the variance of each channel.
    """
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=(), variance=(), epsilon=epsilon, is_training=True
    )
    # The kernel's variance is that of a sample, Keras's that of the batch itself.
    count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    return y, mean, variance * tf.maximum(count - 1, 1) / count


# Floats of a vector register of AVX-512.
_LANES = 16


def _groups(shape: tf.TensorShape) -> int:
    """Returns how many neighbouring pixels to see as one of so many times the channels, or 1.

    With AVX-512 oneDNN has a kernel for multiples of 16 channels; what it takes for other numbers
    needs from a fifth longer to ten times as long. 4 and 8 channels are as fast as they can be.
    """
    *_, height, width, channels = shape
    groups = _LANES // math.gcd(channels, _LANES)
    known = height is not None and width is not None and height * width % groups == 0
    return groups if known and channels not in (4, 8) and _has_avx512() else 1


@functools.cache
def _has_avx512() -> bool:
    """Whether BatchNorm is computed by vectors of 16 floats; where that is not known, not."""
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text().split() and not _has_gpu()
    except OSError:  # no Linux
        return False


_NO_GRADIENT = (
    "of BatchNorm in a lean training step, by tf.vectorized_map or in forward mode; a subclass of "
    "keras.layers.BatchNormalization has Keras's own"
)


def _grouped_batch_norm(
    x: Any, scale: Any, offset: Any, epsilon: float, groups: int
) -> tuple[Any, Any, Any]:
    """Normalizes a batch as `_fused_batch_norm` does, by way of neighbouring pixels seen as one.

    The kernel is run twice on the regrouped batch, once for its statistics and once to normalize it
    by those of all groups, and takes half of the time.
    """
    _, height, width, channels = x.shape

    @tf.custom_gradient
    def normalize(x: Any, scale: Any, offset: Any) -> Any:
        regrouped = tf.reshape(x, (-1, 1, height * width // groups, channels * groups))
        ones = tf.ones((channels * groups,))
        _, means, variances = _fused_batch_norm(regrouped, ones, ones, epsilon)
        means = tf.reshape(means, (groups, channels))
        mean = tf.reduce_mean(means, 0)
        variances = tf.reshape(variances, (groups, channels)) + tf.square(means - mean)
        variance = tf.reduce_mean(variances, 0)
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=regrouped,
            scale=tf.tile(scale, (groups,)),
            offset=tf.tile(offset, (groups,)),
            mean=tf.tile(mean, (groups,)),
            variance=tf.tile(variance, (groups,)),
            epsilon=epsilon,
            is_training=False,
        )
        # Those that see no custom gradient would take the statistics for constants.
        y = tf.raw_ops.PreventGradient(input=y, message=_NO_GRADIENT)

        def gradient(dy: Any, *_: Any) -> Any:
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=tf.reshape(dy, tf.shape(x)),
                x=x,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=(),
                epsilon=epsilon,
                is_training=True,
            )[:3]

        return (y, mean, variance), gradient

    return normalize(x, scale, offset)


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


# ---- optimizers ---------------------------------------------------------------------------------


def _lighten(optimizer: keras.Optimizer) -> None:
    """Lets an optimizer update its variables directly, not through a strategy.

    What comes before and after an update stays Keras's: clipping, weight decay, accumulation,
    averages, constraints.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    name = "_backend_update_step"
    if getattr(type(optimizer), name) is getattr(keras.Optimizer, name):  # not one of its own
        setattr(optimizer, name, functools.partial(_update, optimizer))


def _update(
    optimizer: keras.Optimizer, gradients: Sequence[Any], variables: Sequence[Any], rate: Any
) -> None:
    """Applies gradients, by one kernel for each variable where TensorFlow has it."""
    apply = _kernel(optimizer, rate)
    for gradient, variable in zip(gradients, variables, strict=True):
        value = variable.value if isinstance(variable, keras.Variable) else variable
        dense = isinstance(gradient, tf.Tensor) and gradient.dtype == value.dtype == tf.float32
        if apply is not None and dense:
            apply(gradient, value, optimizer._get_variable_index(variable))
        else:
            optimizer.update_step(gradient, value, rate)


def _kernel(optimizer: keras.Optimizer, rate: Any) -> Callable[[Any, Any, int], None] | None:
    """Returns what updates one variable by a kernel of TensorFlow that does the optimizer's sums.

    Returns:
        A function of the gradient, the variable and its number among the optimizer's; None where
        there is no such kernel.
    """
    rate = tf.cast(rate, tf.float32)
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad:
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        first = tf.constant(optimizer.beta_1, tf.float32)
        second = tf.constant(optimizer.beta_2, tf.float32)
        first_power, second_power = tf.pow(first, step), tf.pow(second, step)

        def adam(gradient: Any, value: Any, index: int) -> None:
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle,
                m=optimizer._momentums[index].value.handle,
                v=optimizer._velocities[index].value.handle,
                beta1_power=first_power,
                beta2_power=second_power,
                lr=rate,
                beta1=first,
                beta2=second,
                epsilon=tf.constant(optimizer.epsilon, tf.float32),
                grad=gradient,
            )

        return adam
    if type(optimizer) is keras.optimizers.SGD:

        def descend(gradient: Any, value: Any, index: int) -> None:
            tf.raw_ops.ResourceApplyGradientDescent(var=value.handle, alpha=rate, delta=gradient)

        def descend_with_momentum(gradient: Any, value: Any, index: int) -> None:
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=value.handle,
                accum=optimizer.momentums[index].value.handle,
                lr=rate,
                grad=gradient,
                momentum=optimizer.momentum,
                use_nesterov=optimizer.nesterov,
            )

        return descend_with_momentum if optimizer.momentum else descend
    return None
