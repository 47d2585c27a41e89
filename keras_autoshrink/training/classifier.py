"""The training in full of an image classifier."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_autoshrink.backend import check_tensorflow, jit_compile
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import instance, one_of
from keras_autoshrink.data.images import ImageData
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, fit
from keras_autoshrink.training.recipes import Recipe
from keras_autoshrink.training.step import accelerate

if TYPE_CHECKING:
    from keras_autoshrink.data.streams import ImageStreams

# Below this size the published five stages would leave an image of one pixel.
_SMALL = 64
_SMALL_ARCHITECTURE: dict[str, Any] = {
    "stage_scales": (1, 2, 4),
    "stage_strides": (1, 2, 2),
    "stage_repeats": (2, 2, 2),
    "stem_stride": 1,
    "head_filters": None,
}

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of the training of an image classifier.

    Attributes:
        model: in float32, whatever it was trained in; returns logits of shape (batch, classes).
        history: for each metric its value after each epoch; accuracies are 0 to 1.
        test_accuracy: 0 to 1, of `model`, measured once, at the end.
    """

    model: keras.Model
    history: dict[str, list[float]]
    test_accuracy: float


def architecture(data: ImageData | ImageStreams) -> dict[str, Any]:
    """Returns the arguments of `ShrinkCNN` that suit the images of a data set, all but its width.

    These are the published macro-architecture (arXiv 1911.09251); for images below 64 pixels three
    stages of two cells each, without the head's convolution.

    Args:
        data: as `load_images` returns it.

    Returns:
        Arguments by name, `input_shape`, (height, width, channels), and `classes` among them.
    """
    return {
        "input_shape": data.input_shape,
        "classes": len(data.class_names),
        **(_SMALL_ARCHITECTURE if min(data.input_shape[:2]) < _SMALL else {}),
    }


def train_network(
    cell: Cell | Architecture,
    data: ImageData | ImageStreams,
    recipe: Recipe,
    *,
    width: float | None = None,
    activation: str | None = None,
    seed: int = 0,
    strategy: Any = None,
    precision: str = "float32",
    checkpoint: TrainingCheckpoint | None = None,
    log_dir: Path | None = None,
    verbose: int = 0,
) -> Trained:
    """Trains a ShrinkCNN of a cell, built with the arguments of `architecture`, or a whole network.

    The network is that of the last epoch, or of its moving average: nothing is chosen by the
    validation images, which are only watched.

    Args:
        cell: its cell; or the `Architecture` of a whole network, such as a search at a budget
            finds, which is built as it is.
        data: loaded for a training, not for a search; of the shape and the number of classes of an
            `Architecture`.
        recipe: how to train.
        width: width multiplier of the network of a cell, by default 1.
        activation: of all BatchNorms of the network of a cell, by default `"relu"`, or another of
            `keras.activations`.
        seed: of the initial weights, the order of the images and their augmentation; seeds the
            global generators of Python, NumPy and Keras.
        strategy: a `tf.distribute.Strategy`, or None for the default device.
        precision: `"float32"`, or the name of a mixed `keras.DTypePolicy`.
        checkpoint: a `TrainingCheckpoint`, by which a killed training is found again: it goes on
            after the last epoch that was written, to the same weights. None to write nothing.
        log_dir: folder for TensorBoard.
        verbose: the argument of `keras.Model.fit`.

    Returns:
        A `Trained` of the trained network, `model`, in float32; its `history`, the loss and
        metrics after each epoch; and `test_accuracy`, 0 to 1, measured once, at the end.

    Raises:
        TypeError: `cell`, `data` or `recipe` is not what its name says.
        ValueError: an argument is out of its range, or does not fit the others, or files of the
            data set cannot be read, or TensorFlow, whose input pipelines it takes, is missing.
        RuntimeError: the loss is no longer a finite number.

    Example:
        >>> import numpy as np
        >>> from keras_autoshrink import load_images
        >>> x, y = np.zeros((40, 4, 4, 1)), np.array([0, 1] * 20)  # 4x4 images of 2 classes
        >>> np.savez("tiny.npz", x_train=x, y_train=y)
        >>> tiny = load_images("tiny.npz", purpose="train")
        >>> recipe = Recipe("adam", learning_rate=4e-3, batch_size=8, epochs=1)
        >>> trained = train_network(Cell.dense(("input", "conv1x1")), tiny, recipe, width=0.25)
        >>> trained.model.output_shape, sorted(trained.history)
        ((None, 2), ['accuracy', 'loss'])
    """
    check_tensorflow("training in full")
    # TensorFlow's input pipelines take seconds to import; a search needs none.
    from keras_autoshrink.data import augmentation, streams
    from keras_autoshrink.training import distribution

    if not isinstance(cell, (Cell, Architecture)):
        raise TypeError(f"cell={cell!r}: expected a Cell or an Architecture")
    instance("recipe", recipe, Recipe)
    if not isinstance(data, (ImageData, streams.ImageStreams)):
        raise TypeError(f"data: is a {type(data).__name__}; load it with load_images")
    network = _network_of(cell, data, width, activation)
    one_of("precision", precision, PRECISIONS)
    images = streams.from_arrays(data) if isinstance(data, ImageData) else data
    if "colour_jitter" in recipe.augmentation and isinstance(data, ImageData):
        raise ValueError(
            "the recipe changes colours, for which pixels have to be 0 to 255: it is for "
            "imagenet2012 and for folders with 'train' and 'val'"
        )
    devices = strategy or distribution.create_strategy("none")
    replicas = devices.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise ValueError(
            f"batch_size={recipe.batch_size}: {replicas} devices share it; take a multiple of that"
        )
    batch_size = min(recipe.batch_size, len(images.train) // replicas * replicas)
    steps = len(images.train) // batch_size
    if precision == "mixed_float16" and replicas > 1:
        raise ValueError(
            "precision='mixed_float16': an overflow on one of several devices would ruin the "
            "weights of all; take 'mixed_bfloat16'"
        )
    checkpoint = checkpoint or TrainingCheckpoint(None, {})
    if not distribution.agree(devices, checkpoint.epochs_done):
        raise ValueError(
            f"this worker would go on after epoch {checkpoint.epochs_done}, another would not: "
            "the workers have to write to one folder that all of them see"
        )
    if not distribution.is_chief(devices):
        checkpoint.folder = log_dir = None  # it has read there, but another process writes

    def build() -> keras.Model:
        keras.utils.set_random_seed(seed)
        return network.build(recipe.batchnorm_momentum)

    with _dtype_policy(precision):
        model = distribution.build_model(devices, build)
    with devices.scope():
        recipe.regularise(model)
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        )
        compile_classifier(model, recipe.build_optimizer(recipe.epochs * steps), loss)
        accelerate(model)
        checkpoint.restore(model)
    # Before all others: what is watched are the averaged weights, what is written are not.
    # (It swaps the two by adding and subtracting, which rounds the weights.)
    callbacks = [] if recipe.ema is None else [keras.callbacks.SwapEMAWeights()]
    watched = images.validation and augmentation.evaluation_batches(
        images, images.validation, batch_size, replicas
    )

    def batches(epochs: range) -> Any:
        return augmentation.training_batches(images, recipe.augmentation, batch_size, epochs, seed)

    with devices.scope(), streams.naming_unreadable(images):
        fit(
            model,
            checkpoint,
            batches,
            steps=steps,
            epochs=recipe.epochs,
            callbacks=callbacks,
            log_dir=log_dir,
            validation_data=watched,
            verbose=verbose,
        )
    # Without what training needs: the regularisers, the mixed precision, the devices.
    with _dtype_policy("float32"):
        trained = build()
    trained.set_weights(model.get_weights())
    compile_classifier(trained, "sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    test = augmentation.evaluation_batches(images, images.test, batch_size)
    with streams.naming_unreadable(images):
        accuracy = trained.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    return Trained(trained, checkpoint.history, float(accuracy))


def _network_of(
    cell: Cell | Architecture,
    data: ImageData | ImageStreams,
    width: float | None,
    activation: str | None,
) -> Architecture:
    """Returns what to build for the arguments of `train_network`.

    Raises:
        ValueError: an architecture is for other data, or is to be changed.
    """
    chosen = {"width": width, "activation": activation}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    arguments = architecture(data)
    if isinstance(cell, Cell):
        return Architecture({"width": 1.0, **arguments, **chosen, "cell": cell})
    for name, value in chosen.items():
        raise ValueError(
            f"{name}={value!r}: is for a cell; an Architecture is built as it is, so omit it"
        )
    theirs, ours = (
        "images of shape {}x{}x{} in {} classes".format(*each.input_shape, number)
        for each, number in ((cell, cell.classes), (data, len(data.class_names)))
    )
    if theirs != ours:
        raise ValueError(
            f"cell: an Architecture for {theirs} takes no {ours}; give the data of its search "
            "(--dataset)"
        )
    return cell


def compile_classifier(
    model: keras.Model, optimizer: keras.Optimizer | str, loss: keras.Loss
) -> None:
    """Compiles an image classifier; the loss says by its class whether labels are one-hot."""
    # Not "accuracy" by name: Keras would create that one's variables while TensorFlow traces the
    # first step, which TensorFlow would then trace again.
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    else:
        accuracy = keras.metrics.CategoricalAccuracy("accuracy")
    model.compile(optimizer=optimizer, loss=loss, metrics=[accuracy], jit_compile=jit_compile())


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Gives the layers that are made within a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
