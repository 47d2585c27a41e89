"""The batches of a training, as `tf.data` pipelines."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from keras_autoshrink.augmentation import AUGMENTATIONS
from keras_autoshrink.streams import ImageStreams, Stream, center_crop


def training_batches(
    streams: ImageStreams,
    augmentation: Sequence[str],
    batch_size: int,
    epochs: range,
    seed: int,
) -> tf.data.Dataset:
    """The batches of several epochs, one after the other.

    What an epoch holds depends on the seed and its number alone: a training that goes on in the
    middle sees what it would have seen. Each epoch is shuffled anew, as far as the part's buffer
    reaches, and leaves out the images
    that do not fill its last batch: a smaller one would count for more, and with several
    devices one of them could get nothing to normalise by.

    Args:
        streams: the data set, of which the training part is taken.
        augmentation: names of functions in `keras_autoshrink.augmentation`, in their order.
        batch_size: number of images in a batch, at most those of the training part.
        epochs: which epochs, counted from 0.
        seed: of the order and the augmentation.

    Returns:
        Batches of images, float32 of shape (batch_size, height, width, channels), and one-hot
        labels, float32 of shape (batch_size, classes); `len(part) // batch_size` an epoch.

    Raises:
        ValueError: there is no such augmentation.
    """
    for name in augmentation:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augmentation {name!r}: expected some of {', '.join(AUGMENTATIONS)}")
    part = streams.train
    images = len(part) // batch_size * batch_size

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph alone: without it the global one would have a say,
        # and where that is 0, `shuffle` takes no tensor for its own.
        tf.compat.v1.set_random_seed(1)
        # The product keeps the epochs of one seed apart from those of the next.
        shuffled = part.elements.shuffle(part.shuffle_buffer, seed=seed * 100_003 + epoch)
        places = tf.data.Dataset.range(epoch * len(part), epoch * len(part) + images)
        return tf.data.Dataset.zip(places, shuffled)

    def prepare(place: tf.Tensor, element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = part.load(*element) if isinstance(element, tuple) else part.load(element)
        if "resized_crop" not in augmentation:
            image = center_crop(image, streams.input_shape)
        # One seed for each image of each epoch and each function.
        seeds = tf.random.experimental.stateless_split(
            tf.stack([tf.constant(seed, tf.int64), place]), max(1, len(augmentation))
        )
        for number, name in enumerate(augmentation):
            image = AUGMENTATIONS[name](image, seeds[number], streams.input_shape)
        return image, tf.one_hot(label, len(streams.class_names))

    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(of_epoch)
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(
    streams: ImageStreams, part: Stream, batch_size: int, devices: int = 1
) -> tf.data.Dataset:
    """The images of a part in their order, unchanged but for their size.

    Args:
        streams: the data set.
        part: one of its parts.
        batch_size: number of images in a batch, at most; the last one may have fewer.
        devices: that share a batch. If there are several, each gets the same number of images
            of every batch: the mean loss over no images would be NaN. Images that do not fill
            the last batch are left out; the size of the batches is chosen so that they are few.

    Returns:
        Batches as of `training_batches`.
    """
    if devices > 1:
        largest = min(batch_size, len(part)) // devices * devices
        sizes = range(largest, largest // 2, -devices)  # not so small that it takes long
        batch_size = min(sizes, key=lambda size: len(part) % size)  # the largest of the best

    def prepare(*element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = part.load(*element)
        return center_crop(image, streams.input_shape), tf.one_hot(label, len(streams.class_names))

    return (
        part.elements.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=devices > 1)
        .prefetch(tf.data.AUTOTUNE)
    )
