"""What is done to training images at random.

Each function takes a normalised image, float32 of shape (height, width, channels), a seed,
int64 of shape (2,), on which alone the outcome depends, and the (height, width, channels) that
a network sees; it returns an image.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Shape = tuple[int, int, int]


def padded_crop(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Shifts an image by up to an eighth of its sides; zeros, the mean, move in."""
    height, width, _ = shape
    image = tf.pad(image, [[height // 8] * 2, [width // 8] * 2, [0, 0]])
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
    inside = []
    for axis in (0, 1):
        centre = tf.random.stateless_uniform((), seeds[axis], 0, shape[axis], tf.int32)
        first = centre - side // 2
        place = tf.range(shape[axis])
        inside.append((place >= first) & (place < first + side))
    hole = inside[0][:, None, None] & inside[1][None, :, None]
    return tf.where(hole, 0.0, image)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, shape: Shape) -> tf.Tensor:
    """Fills a rectangle in half of the images with noise from -1 to 1 (arXiv 1708.04896).

    Its sides are drawn one by one, as in the release of arXiv 1911.09251: from
    (0.02 * 0.3 * area)^0.5 to (0.4 / 0.3 * area)^0.5 pixels or the whole side.
    """
    seeds = tf.random.experimental.stateless_split(seed, 6)
    area = shape[0] * shape[1]
    inside = []
    for axis in (0, 1):
        longest = min(shape[axis], round((0.4 / 0.3 * area) ** 0.5))
        shortest = min(longest, max(1, round((0.02 * 0.3 * area) ** 0.5)))
        side = tf.random.stateless_uniform((), seeds[axis], shortest, longest + 1, tf.int32)
        rest = shape[axis] - side
        first = tf.random.stateless_uniform((), seeds[2 + axis], 0, rest + 1, tf.int32)
        place = tf.range(shape[axis])
        inside.append((place >= first) & (place < first + side))
    hole = inside[0][:, None, None] & inside[1][None, :, None]
    erases = tf.random.stateless_uniform((), seeds[4]) < 0.5
    noise = tf.random.stateless_uniform(shape, seeds[5], -1, 1)
    return tf.where(hole & erases, noise, image)


AUGMENTATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor, Shape], tf.Tensor]] = {
    function.__name__: function
    for function in (
        padded_crop,
        resized_crop,
        horizontal_flip,
        colour_jitter,
        cutout,
        random_erasing,
    )
}
