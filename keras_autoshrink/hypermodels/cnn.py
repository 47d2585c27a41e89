"""The HyperModel of the search for a convolutional cell."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_autoshrink.cell import INPUT, Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.data.checks import as_array, check_fit_data
from keras_autoshrink.hypermodels.callbacks import OUT_OF_DATA, ProxyStopping
from keras_autoshrink.hypermodels.search_space import declare_cell
from keras_autoshrink.hypermodels.seeding import ShuffledBatches
from keras_autoshrink.networks.cnn import ShrinkCNN
from keras_autoshrink.networks.operations import CNN_OPERATIONS, get_layers
from keras_autoshrink.training.classifier import compile_classifier

# The proxy trains for some hundred steps: slower statistics would not settle.
BATCHNORM_MOMENTUM = 0.9


class CNNCellHyperModel(keras_tuner.HyperModel):
    """A small image classifier made of one cell, trained for a short while: the proxy.

    Stem, one stage for each scale, global average pool, classifier; no residuals, no head.
    It is trained by Adam, and stops early (arXiv 1911.09251; the defaults are the paper's search
    on CIFAR-10): after 5 epochs without a better validation accuracy; after epoch 4 if the
    validation accuracy is below twice chance (with 2 classes, 0.75); from epoch 4 on if the
    validation loss is more than three times the training loss. Where epochs are so short that
    epoch 4 ends before step 100, the epoch in which that step falls takes its place.

    Args:
        input_shape: (height, width, channels) of an image.
        classes: number of classes; labels are integers (n,) from 0 to classes - 1.
        num_nodes: N, the nodes of the complete DAG, the input included.
        filters: base number of filters.
        stage_scales: scale of each stage's filters.
        stage_strides: stride of each stage.
        stage_repeats: number of cells of each stage.
        stem_filters: filters of the stem.
        stem_stride: stride of the stem.
        operations: the ops that nodes draw from, in numbers as equal as possible.
        activation: name of the activation.
        learning_rate: of Adam.
        batch_size: images in a step, where `AutoShrink.search` is given arrays and no
            `batch_size`.
        seed: integer, 0 included; decides which node has which op.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> import keras_tuner
        >>> hypermodel = CNNCellHyperModel(input_shape=(4, 4, 1), classes=2, num_nodes=3)
        >>> hp = keras_tuner.HyperParameters()
        >>> model = hypermodel.build(hp)  # the complete DAG, compiled
        >>> model.output_shape, [name for name in hp.values if "edge" in name]
        ((None, 2), ['cell/edge_0_1', 'cell/edge_0_2', 'cell/edge_1_2'])
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        classes: int = 10,
        num_nodes: int = 8,
        filters: int = 16,
        stage_scales: Sequence[float] = (1, 2, 4),
        stage_strides: Sequence[int] = (1, 2, 2),
        stage_repeats: Sequence[int] = (1, 1, 1),
        stem_filters: int = 32,
        stem_stride: int = 1,
        operations: Sequence[str] = CNN_OPERATIONS,
        activation: str = "relu",
        learning_rate: float = 4e-3,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(name="cnn_cell")
        num_nodes = whole("num_nodes", num_nodes, 2)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.batch_size = whole("batch_size", batch_size, 1)
        if not operations or isinstance(operations, str):
            raise ValueError(f"operations={operations!r}: expected ops, such as ('conv1x1',)")
        for name in operations:
            get_layers(name)
        self.architecture: dict[str, Any] = {
            "input_shape": tuple(input_shape),
            "classes": whole("classes", classes, 2),
            "filters": filters,
            "stage_scales": tuple(stage_scales),
            "stage_strides": tuple(stage_strides),
            "stage_repeats": tuple(stage_repeats),
            "stem_filters": stem_filters,
            "stem_stride": stem_stride,
            "activation": activation,
        }
        # One of each in turn, shuffled; what falls on node 0 gives way to the input.
        pool = [operations[node % len(operations)] for node in range(num_nodes)]
        generator = random.Random(f"operations/{seed}")
        # Not by shuffle(), whose order Python does not promise to keep from version to version.
        pool.sort(key=lambda _: generator.random())
        self.cell = Cell.dense((INPUT, *pool[1:]))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles the network of the cell that `hp` holds.

        Returns:
            A model from images (batch, height, width, channels) to logits (batch, classes).

        Raises:
            ValueError: the cell or the architecture cannot be built; the message says why.
        """
        model = ShrinkCNN(
            declare_cell(hp, self.cell),
            width=1,
            head_filters=None,
            residual=False,
            batchnorm_momentum=BATCHNORM_MOMENTUM,
            name="proxy",
            **self.architecture,
        )
        compile_classifier(
            model,
            keras.optimizers.Adam(self.learning_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains a candidate, with early stopping.

        Arrays are shuffled anew for each epoch, in an order that follows from Python's own random
        generator, which the tuner seeds for each candidate.

        Args:
            hp: the candidate's hyperparameters.
            model: as `build` makes it.
            *args: as for `keras.Model.fit`.
            **kwargs: as for `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History` of the training.
        """
        given = inspect.signature(keras.Model.fit).bind_partial(model, *args, **kwargs).arguments
        del given["self"]
        callbacks = [*(given.pop("callbacks", None) or ()), *self.stopping_rules()]
        data = given.get("x")
        if hasattr(data, "shape"):
            given["batch_size"] = given.get("batch_size") or self.batch_size
        elif hasattr(data, "element_spec"):
            given.setdefault("shuffle", False)  # a tf.data set shuffles itself; Keras would warn
        if _is_shuffled_here(given):
            x, y, size = as_array(data), as_array(given.pop("y")), given.pop("batch_size")
            batches = ShuffledBatches(x, y, size, seed=random.randint(1, int(1e9)))
            given.update(x=batches, shuffle=False)
            given["validation_batch_size"] = (
                given.get("validation_batch_size") or batches.batch_size
            )
            begin = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: batches.begin(epoch)
            )
            callbacks.insert(0, begin)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", OUT_OF_DATA)  # where it matters, it is an error
            return model.fit(**given, callbacks=callbacks)

    def stopping_rules(self) -> list[keras.callbacks.Callback]:
        """Makes the callbacks that stop a candidate early; a subclass may have others, or none."""
        return [
            keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=5),
            ProxyStopping(self.architecture["classes"]),
        ]

    def check_search_arguments(self, *args: Any, **kwargs: Any) -> None:
        """Checks the data of a search.

        Args:
            *args: those of `AutoShrink.search`.
            **kwargs: those of `AutoShrink.search`.

        Raises:
            ValueError: the network cannot train on these data; the message says why.
        """
        check_fit_data(
            *args,
            input_shape=self.architecture["input_shape"],
            classes=self.architecture["classes"],
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns, as plain values, all that a candidate's score depends on."""
        return {
            **self.architecture,
            "cell": self.cell.to_json(),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
        }


def _is_shuffled_here(given: dict[str, Any]) -> bool:
    """Whether arguments of `fit` are arrays, and ask for nothing that Keras alone does."""
    return (
        all(isinstance(as_array(given.get(name)), np.ndarray) for name in ("x", "y"))
        and given.get("sample_weight") is None
        and given.get("steps_per_epoch") is None
        and not given.get("validation_split")
        and given.get("shuffle", True) is True
    )
