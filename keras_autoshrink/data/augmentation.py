"""Augmentations of images, and the batches that a training and an evaluation take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_autoshrink.data.streams import ImageStreams, Stream, center_crop

Shape = tuple[int, int, int]


def padded_crop(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Shifts an image by up to an eighth of its sides; zeros, the mean, move in."""
    height, width, _ = shape
    image = tf.pad(image, [[height // 8] * 2, [width // 8] * 2, [0, 0]])
    return tf.image.stateless_random_crop(image, shape, seed)


def shift(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Shifts an image by up to a sixteenth of its sides; what moves in is its mirrored border."""
    height, width, _ = shape
    image = tf.pad(image, [[height // 16] * 2, [width // 16] * 2, [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(image, shape, seed)


def resized_crop(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Cuts out 3/4 or more of the area, of an aspect ratio of 3/4 to 4/3, and resizes it.

    As in the authors' release of arXiv 1911.09251, which resizes by one of four methods at
    random; here it is the bilinear one.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed,
        area_range=(0.75, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
    )
    image = tf.slice(image, begin, size)
    return tf.ensure_shape(tf.image.resize(image, shape[:2], antialias=True), shape)


def horizontal_flip(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Mirrors half of the images."""
    return tf.image.stateless_random_flip_left_right(image, seed)


def colour_jitter(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Changes brightness, saturation, hue and contrast of an image whose values are -1 to 1.

    By as much as the authors' release of arXiv 1911.09251, always in one order.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    image = (image + 1) / 2
    image = tf.image.stateless_random_brightness(image, 0.4, seeds[0])
    image = tf.image.stateless_random_saturation(image, 0.6, 1.4, seeds[1])
    image = tf.image.stateless_random_hue(image, 0.1, seeds[2])
    image = tf.image.stateless_random_contrast(image, 0.6, 1.4, seeds[3])
    return tf.clip_by_value(image, 0, 1) * 2 - 1


def cutout(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Sets a square to 0, the mean, of half the height, its centre anywhere (arXiv 1708.04552)."""
    side = shape[0] // 2
    seeds = tf.random.experimental.stateless_split(seed, 2)
    spans = []
    for axis in (0, 1):
        centre = tf.random.stateless_uniform((), seeds[axis], 0, shape[axis], tf.int32)
        spans.append((centre - side // 2, side))
    return tf.where(_rectangle(shape, spans), 0.0, image)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Fills a rectangle in half of the images with noise from -1 to 1 (arXiv 1708.04896).

    Its sides are drawn one by one, as in the release of arXiv 1911.09251: from
    (0.02 * 0.3 * area)^0.5 to (0.4 / 0.3 * area)^0.5 pixels or the whole side.
    """
    seeds = tf.random.experimental.stateless_split(seed, 6)
    area = shape[0] * shape[1]
    spans = []
    for axis in (0, 1):
        longest = min(shape[axis], round((0.4 / 0.3 * area) ** 0.5))
        shortest = min(longest, max(1, round((0.02 * 0.3 * area) ** 0.5)))
        side = tf.random.stateless_uniform((), seeds[axis], shortest, longest + 1, tf.int32)
        rest = shape[axis] - side
        first = tf.random.stateless_uniform((), seeds[2 + axis], 0, rest + 1, tf.int32)
        spans.append((first, side))
    erases = tf.random.stateless_uniform((), seeds[4]) < 0.5
    noise = tf.random.stateless_uniform(shape, seeds[5], -1, 1)
    return tf.where(_rectangle(shape, spans) & erases, noise, image)


def _rectangle(shape: Shape, spans: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Makes a mask, (height, width, 1), of a span (first, number) of rows and one of columns."""
    rows, columns = (
        (tf.range(size) >= first) & (tf.range(size) < first + side)
        for size, (first, side) in zip(shape[:2], spans, strict=True)
    )
    return rows[:, None, None] & columns[None, :, None]


AUGMENTATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor, Shape], tf.Tensor]] = {
    function.__name__: function
    for function in (
        padded_crop,
        shift,
        resized_crop,
        horizontal_flip,
        colour_jitter,
        cutout,
        random_erasing,
    )
}


def training_batches(
    streams: ImageStreams,
    augmentation: Sequence[str],
    batch_size: int,
    epochs: range,
    seed: int,
) -> tf.data.Dataset:
    """Makes the batches of several epochs, one after the other.

    What an epoch holds depends on the seed and its number alone: a training that goes on in the
    middle sees what it would have seen. Each epoch is shuffled anew, as far as the part's buffer
    reaches, and leaves out the images that do not fill its last batch: a smaller one would count
    for more, and with several devices one of them could get nothing to normalise by.

    Args:
        streams: the data set, of which the training part is taken.
        augmentation: names in `AUGMENTATIONS`, in the order in which they are applied.
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
    """Makes the batches of a part in its order, the images unchanged but for their size.

    Args:
        streams: the data set.
        part: one of its parts.
        batch_size: number of images in a batch, at most.
        devices: that share a batch. If there are several, each gets the same number of images
            of every batch: the mean loss over no images would be NaN. Images that do not fill
            the last batch are left out; the size of the batches is chosen so that they are few.

    Returns:
        Batches as `training_batches` makes them; the last one may be smaller.
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
