"""The devices of a `tf.distribute.Strategy` that train the candidates of a search."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from keras_autoshrink.hypermodels.callbacks import OUT_OF_DATA
from keras_autoshrink.hypermodels.seeding import ShuffledBatches, order_of_epoch
from keras_autoshrink.training import distribution

# Keras's own, where nothing says otherwise.
_BATCH_SIZE = 32

_STRATEGIES = (
    tf.distribute.MirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


class SearchDevices:
    """The devices of a strategy, on which candidates are built and trained.

    Args:
        strategy: a MirroredStrategy or OneDeviceStrategy.
        hypermodel: of the search; one whose attribute `one_device` is true takes a single device.

    Attributes:
        seed: of the order of the training data, to be set for each candidate.

    Raises:
        TypeError: it is no strategy.
        ValueError: it is another one, or one of several devices where one has to do.
    """

    def __init__(self, strategy: tf.distribute.Strategy, hypermodel: Any) -> None:
        if not isinstance(strategy, tf.distribute.Strategy):
            raise TypeError(f"distribution_strategy={strategy!r}: give a tf.distribute.Strategy")
        if not isinstance(strategy, _STRATEGIES):
            names = " or ".join(kind.__name__ for kind in _STRATEGIES)
            raise ValueError(
                f"distribution_strategy: is a {type(strategy).__name__}; expected a {names} (for "
                "several machines give each a worker of the search)"
            )
        self._replicas = strategy.num_replicas_in_sync
        if self._replicas > 1 and getattr(hypermodel, "one_device", False):
            raise ValueError(
                f"distribution_strategy: has {self._replicas} devices; a "
                f"{type(hypermodel).__name__} is searched on one"
            )
        self.strategy = strategy
        self.seed = 0
        self._fits = 0

    def build(self, build: Callable[[], keras.Model]) -> keras.Model:
        """Builds a candidate whose `fit` shares each batch among these devices.

        Args:
            build: makes a compiled model.
        """
        model = distribution.build_model(self.strategy, build)
        if not isinstance(model, keras.Model):
            return model  # KerasTuner says what is wrong with it
        fit = model.fit

        def fit_on_devices(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(fit).bind_partial(*args, **kwargs).arguments
            # Another order for each execution of a trial.
            seed = self.seed + self._fits * 2**31
            self._fits += 1
            with self.strategy.scope(), warnings.catch_warnings():
                if not given.get("steps_per_epoch"):
                    # An epoch that has ended: which batches are left out is not known before.
                    warnings.filterwarnings("ignore", OUT_OF_DATA)
                return fit(**prepare(given, self._replicas, seed))

        # Here rather than in the tuner: a HyperModel.fit of one's own goes on seeing arrays.
        model.fit = fit_on_devices
        return model

    def candidate(self, seed: int) -> None:
        """Begins a candidate: its executions draw their orders from its seed.

        Args:
            seed: of the order of its training data, 0 to 2**31 - 1.
        """
        self.seed = seed
        self._fits = 0


def prepare(arguments: dict[str, Any], replicas: int, seed: int) -> dict[str, Any]:
    """Prepares the arguments of `keras.Model.fit`: data that devices can share.

    Arrays, also in `ShuffledBatches`, become a `tf.data.Dataset`. Training batches have one size;
    an epoch is shuffled by the seed and its number alone, so that one device and several see the
    same batches, and its last one is filled up as that of `ShuffledBatches`. All of the validation
    arrays count. Each batch of a `tf.data.Dataset` loses what is left over when it is shared.

    Args:
        arguments: by their names; those that are not given are not in it.
        replicas: number of devices that share a batch.
        seed: of the order of the training data; `ShuffledBatches` have their own.

    Raises:
        keras_tuner.errors.FatalValueError: the data cannot be shared.
    """
    batch_size = arguments.get("batch_size") or _BATCH_SIZE
    if isinstance(batches := arguments.get("x"), ShuffledBatches):
        arguments = {**arguments, "x": batches.x, "y": batches.y, "shuffle": True}
        batch_size, seed = batches.batch_size, batches.seed
    kind = _kind(arguments.get("x"), "x", replicas)
    prepared = dict(arguments)
    if kind == "dataset":
        prepared["x"] = shared_batches(arguments["x"], replicas)
    elif kind == "arrays":
        data = _arrays(*(arguments.get(name) for name in ("x", "y", "sample_weight")))
        share = arguments.pop("validation_split", 0.0)
        if share and arguments.get("validation_data") is None:
            # The last ones, as Keras takes them.
            split = int(np.floor(_length(data) * (1 - share)))
            arguments = {**arguments, "validation_data": _slice(data, slice(split, None))}
            data = _slice(data, slice(split))
        batch_size = _training_size(_length(data), batch_size, replicas)
        for name in ("y", "sample_weight", "batch_size", "validation_split"):
            prepared.pop(name, None)
        prepared["x"] = training_batches(
            data,
            batch_size,
            seed,
            arguments.get("initial_epoch", 0),
            shuffle=bool(arguments.get("shuffle", True)),
        )
        prepared["steps_per_epoch"] = arguments.get("steps_per_epoch") or -(
            -_length(data) // batch_size
        )
        prepared["shuffle"] = False  # the batches are already
    validation = arguments.get("validation_data")
    kind = _kind(validation, "validation_data", replicas)
    if kind == "dataset":
        prepared["validation_data"] = shared_batches(validation, replicas)
    elif kind == "arrays":
        size = arguments.get("validation_batch_size") or batch_size
        parts = validation if isinstance(validation, (tuple, list)) else (validation,)
        prepared["validation_data"] = validation_batches(_arrays(*parts), size, replicas)
        prepared.pop("validation_batch_size", None)
    return prepared


def training_batches(
    data: Any, batch_size: int, seed: int, first_epoch: int = 0, *, shuffle: bool = True
) -> tf.data.Dataset:
    """Makes the batches of all epochs, one after the other and without end.

    Args:
        data: arrays of shape (n, ...), nested as a batch is to be.
        batch_size: number of elements of each batch, at most n; the last one of an epoch is filled
            up with those that the epoch began with.
        seed: of the order, at least 0.
        first_epoch: number of the first epoch; the order of an epoch depends on it.
        shuffle: whether to shuffle at all.

    Returns:
        Batches of shape (batch_size, ...); an epoch has n / batch_size of them, rounded up.
    """
    count = _length(data)

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        places = tf.range(-(-count // batch_size) * batch_size) % count
        if shuffle:
            order = tf.numpy_function(order_of_epoch, (seed, epoch, count), tf.int32)
            places = tf.gather(tf.ensure_shape(order, (count,)), places)
        return tf.data.Dataset.from_tensor_slices(tf.reshape(places, (-1, batch_size)))

    def gather(places: tf.Tensor, arrays: Any) -> Any:
        return keras.tree.map_structure(lambda array: tf.gather(array, places), arrays)

    seed = tf.constant(seed, tf.int64)
    # Not an epoch for each iteration: as the strategy is, Keras looks at a first batch before.
    batches = tf.data.Dataset.zip(
        tf.data.Dataset.range(first_epoch, 2**31).flat_map(of_epoch),
        tf.data.Dataset.from_tensors(data).repeat(),
    ).map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def validation_batches(data: Any, batch_size: int, replicas: int) -> tf.data.Dataset:
    """Makes batches of all elements in their order, of which no device gets an empty share.

    The last batch may be shared unequally: each element counts the same in the metrics.

    Args:
        data: arrays of shape (n, ...), nested as a batch is to be.
        batch_size: number of elements of a batch, at most.
        replicas: number of devices that share a batch.

    Raises:
        keras_tuner.errors.FatalValueError: there are too few for that.
    """
    count = _length(data)
    # Keras wants equal shares of the first batch.
    largest = min(count, batch_size) // replicas * replicas
    sizes = range(largest, 0, -replicas)
    fit = (size for size in sizes if not count % size or _all_get_some(count % size, replicas))
    size = next(fit, None)
    if size is None:
        raise keras_tuner.errors.FatalValueError(
            f"validation_data: {count} cannot be dealt out to {replicas} devices, at most "
            f"{batch_size} at a time, so that each gets some; take a multiple of {replicas}"
        )
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def shared_batches(batches: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Trims batches so that each device gets the same share.

    What is left over of a batch is left out; a batch of which nothing remains, too.

    Args:
        batches: of tensors, all with the same first axis.
        replicas: number of devices that share a batch.
    """
    if replicas == 1:
        return batches
    sizes = {spec.shape[:1].as_list()[0] for spec in tf.nest.flatten(batches.element_spec)}
    if None not in sizes and len(sizes) == 1 and not sizes.pop() % replicas:
        return batches

    def trim(*batch: Any) -> Any:
        size = _size(batch) // replicas * replicas
        trimmed = tf.nest.map_structure(lambda tensor: tensor[:size], batch)
        return trimmed if len(trimmed) > 1 else trimmed[0]

    def is_there(*batch: Any) -> tf.Tensor:
        return _size(batch) > 0

    return batches.map(trim, num_parallel_calls=tf.data.AUTOTUNE).filter(is_there)


def _size(batch: Any) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def _all_get_some(size: int, replicas: int) -> bool:
    """Whether each device gets some of a batch, which is not empty.

    TensorFlow deals out equal shares, rounded up, until nothing is left: of 4 the third of
    three devices gets none.
    """
    return (size + replicas - 1) // replicas * (replicas - 1) < size


def _kind(data: Any, name: str, replicas: int) -> str | None:
    """What data are: "dataset", "arrays", or None for what is left to Keras."""
    if isinstance(data, tf.data.Dataset):
        return "dataset"
    if data is None or isinstance(data, tf.distribute.DistributedDataset):
        return None
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if leaves and all(len(getattr(leaf, "shape", ())) for leaf in leaves):
        return "arrays"
    if replicas == 1:
        return None
    raise keras_tuner.errors.FatalValueError(
        f"{name}: is a {type(data).__name__}; {replicas} devices share the batches of arrays or "
        "of a tf.data.Dataset"
    )


def _arrays(*parts: Any) -> Any:
    """Inputs, targets and weights, as far as there are any, as a batch has them."""
    present = tuple(part for part in parts if part is not None)
    arrays = keras.tree.map_structure(_array, keras.tree.lists_to_tuples(present))
    lengths = {len(array) for array in keras.tree.flatten(arrays)}
    if len(lengths) > 1:
        raise keras_tuner.errors.FatalValueError(
            f"the data differ in length: {', '.join(map(str, sorted(lengths)))}"
        )
    return arrays


def _array(data: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(data)
    # As Keras does it where there is no strategy.
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array


def _training_size(count: int, batch_size: int, replicas: int) -> int:
    """The size of a training batch."""
    if batch_size % replicas:
        raise keras_tuner.errors.FatalValueError(
            f"batch_size={batch_size}: {replicas} devices share it; take a multiple of that"
        )
    if count < replicas:
        raise keras_tuner.errors.FatalValueError(
            f"x: {count} to train on cannot be shared by {replicas} devices"
        )
    return min(batch_size, count // replicas * replicas)


def _length(arrays: Any) -> int:
    return len(keras.tree.flatten(arrays)[0])


def _slice(arrays: Any, places: slice) -> Any:
    return keras.tree.map_structure(lambda array: array[places], arrays)
