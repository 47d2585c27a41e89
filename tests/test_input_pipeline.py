"""What the batches of a training and of an evaluation hold, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_autoshrink.data.augmentation import evaluation_batches, training_batches
from keras_autoshrink.data.images import ImageData, Split
from keras_autoshrink.data.streams import ImageStreams, Stream, from_arrays

Batch = tuple[np.ndarray, np.ndarray]

IMAGES, BATCH = 11, 3
STEPS = IMAGES // BATCH
SEEDS = [0, 2**32 - 1]
ALL_AUGMENTATIONS = (
    "resized_crop",
    "padded_crop",
    "horizontal_flip",
    "colour_jitter",
    "cutout",
    "random_erasing",
)


def labels(images: int) -> np.ndarray:
    """A class of its own for each image, but not its number."""
    return ((np.arange(images) * 7 + 3) % images).astype(np.int32)


def streams_of(x: np.ndarray) -> ImageStreams:
    """A data set in memory; each image is the only one of its class."""
    split = Split(x.astype(np.float32), labels(len(x)))
    names = tuple(f"class {label}" for label in range(len(x)))
    return from_arrays(ImageData(split, None, split, names, (0.0,) * 3, (1.0,) * 3))


def numbered(images: int = IMAGES, side: int = 8) -> np.ndarray:
    """Images of one value each: the image's number, counted from 1."""
    return np.ones((images, side, side, 3)) * np.arange(1, images + 1)[:, None, None, None]


def noise(images: int = IMAGES, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (images, side, side, 3))


def numbers(batch: Batch) -> list[int]:
    """The numbers, from 0, of numbered images, whose labels must be their own."""
    x, y = batch
    found = x.reshape(len(x), -1).max(1).round().astype(int) - 1
    np.testing.assert_array_equal(y.argmax(1), labels(y.shape[1])[found])
    return found.tolist()


def trained_on(
    streams: ImageStreams,
    augmentation: tuple[str, ...] = (),
    batch_size: int = BATCH,
    epochs: range = range(5),
    seed: int = 0,
) -> list[list[Batch]]:
    """The batches of each epoch."""
    dataset = training_batches(streams, augmentation, batch_size, epochs, seed)
    batches = list(dataset.as_numpy_iterator())
    steps = len(streams.train) // batch_size
    assert len(batches) == steps * len(epochs)
    return [batches[steps * n : steps * (n + 1)] for n in range(len(epochs))]


def orders(*args: Any, **kwargs: Any) -> list[list[int]]:
    """The numbers of numbered images in each epoch."""
    epochs = trained_on(*args, **kwargs)
    return [[number for batch in epoch for number in numbers(batch)] for epoch in epochs]


def assert_same(some: list[list[Batch]], others: list[list[Batch]]) -> None:
    """The same batches, bit by bit."""
    for one, other in zip(some, others, strict=True):
        for batch, other_batch in zip(one, other, strict=True):
            np.testing.assert_array_equal(batch[0], other_batch[0])
            np.testing.assert_array_equal(batch[1], other_batch[1])


@pytest.fixture(autouse=True)
def no_global_seed_afterwards() -> Iterator[None]:
    yield
    tf.random.set_seed(None)


# Order


@pytest.mark.parametrize(("batch_size", "seed"), [(3, 2**32 - 1), (11, 0)])
def test_an_epoch_has_each_image_once_and_whole_batches_alone(batch_size, seed):
    streams = streams_of(numbered())
    epochs = orders(streams, batch_size=batch_size, seed=seed)
    for order in epochs:
        assert len(order) == len(set(order)) == IMAGES // batch_size * batch_size
        assert set(order) <= set(range(IMAGES))
    assert len(set(map(tuple, epochs))) == 5
    assert list(range(IMAGES)) not in epochs
    if IMAGES % batch_size:
        left_out = {frozenset(range(IMAGES)) - set(order) for order in epochs}
        assert len(left_out) > 1


def test_orders_are_those_of_the_seed():
    streams = streams_of(numbered(30))
    made = [orders(streams, batch_size=30, seed=seed) for seed in range(3)]
    epochs = [tuple(order) for of_seed in made for order in of_seed]
    assert len(set(epochs)) == 3 * 5  # no epoch of one seed is that of another


def test_without_augmentation_images_are_unchanged():
    x = noise().astype(np.float32)
    streams = streams_of(x)
    dataset = training_batches(streams, (), IMAGES, range(1), 0)
    assert dataset.element_spec == (tf.TensorSpec((IMAGES, 8, 8, 3)), tf.TensorSpec((IMAGES,) * 2))
    ((images, y),) = dataset.as_numpy_iterator()
    assert set(np.unique(y)) == {0, 1}
    assert (y.sum(1) == 1).all()
    np.testing.assert_array_equal(images, x[labels(IMAGES).argsort()[y.argmax(1)]])


# Going on in the middle


def test_epochs_hang_on_their_number_and_the_seed_alone():
    """Not on the epochs before, on the global seed, or on what has been drawn."""
    seed = SEEDS[-1]
    streams = streams_of(noise())
    tf.random.set_seed(None)
    whole = trained_on(streams, ALL_AUGMENTATIONS, seed=seed)
    for global_seed in (0, 5):
        tf.random.set_seed(global_seed)
        later = trained_on(streams, ALL_AUGMENTATIONS, epochs=range(3, 5), seed=seed)
        assert_same(later, whole[3:])
        tf.random.uniform(())
        list(tf.data.Dataset.range(5).shuffle(5))
    assert trained_on(streams, epochs=range(5, 5), seed=seed) == []


def test_the_global_seed_stays_what_it_was():
    tf.random.set_seed(5)
    expected = [float(tf.random.uniform(())) for _ in range(2)]
    tf.random.set_seed(5)
    drawn = [float(tf.random.uniform(()))]
    trained_on(streams_of(noise()), ("cutout",))
    assert [*drawn, float(tf.random.uniform(()))] == expected


# Augmentation


def test_no_two_images_epochs_or_seeds_are_augmented_alike():
    streams = streams_of(np.broadcast_to(noise(1), (IMAGES, 8, 8, 3)))
    images = set()
    for seed in (*SEEDS, 2**32):
        for epoch in trained_on(streams, ("colour_jitter",), epochs=range(3), seed=seed):
            images |= {image.tobytes() for x, _ in epoch for image in x}
    assert len(images) == 3 * 3 * STEPS * BATCH


def test_functions_of_one_image_draw_one_by_one():
    """Two holes in an image are not always in one place."""
    streams = streams_of(np.ones((30, 16, 16, 3)))
    (((one, _),),) = trained_on(streams, ("cutout",), 30, range(1))
    (((two, _),),) = trained_on(streams, ("cutout", "cutout"), 30, range(1))
    holes = [(x[..., 0] == 0).sum((1, 2)) for x in (one, two)]
    assert holes[0].max() <= 64
    assert (holes[1] > 64).sum() > 10


def test_functions_run_in_their_order():
    streams = streams_of(np.full((10, 16, 16, 3), 0.5))
    (((last, _),),) = trained_on(streams, ("colour_jitter", "cutout"), 10, range(1))
    assert (last == 0).any((1, 2, 3)).all()
    (((first, _),),) = trained_on(streams, ("cutout", "colour_jitter"), 10, range(1))
    assert not (first == 0).any()


def test_augmented_images_keep_their_labels():
    streams = streams_of(numbered(side=16))
    # Which looks at the labels.
    for order in orders(streams, ("padded_crop", "horizontal_flip"), batch_size=2):
        assert len(set(order)) == 10


# Streams that are not arrays


def file_streams(
    sizes: list[tuple[int, int]],
    input_shape: tuple[int, int, int],
    shuffle_buffer: int | None = None,
) -> ImageStreams:
    """Images of these sizes that are told by a text and a label, as files in folders are.

    A pixel's channels are its row and its column, counted from 0, and the image's number,
    counted from 1.
    """

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        told = tf.strings.to_number(tf.strings.split(path), tf.int32)
        number, height, width = tf.unstack(told, num=3)
        row, column = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
        image = tf.stack([row, column, tf.fill((height, width), number)], axis=-1)
        image = tf.ensure_shape(tf.cast(image, tf.float32), (None, None, 3))
        return image, label

    count = len(sizes)
    paths = [f"{n + 1} {height} {width}" for n, (height, width) in enumerate(sizes)]
    elements = tf.data.Dataset.from_tensor_slices((paths, labels(count)))
    part = Stream(elements, load, count, shuffle_buffer or count)
    names = tuple(f"class {label}" for label in range(count))
    return ImageStreams(part, None, part, names, input_shape, (0.0,) * 3, (1.0,) * 3)


def number_of(batch: Batch) -> list[int]:
    """The numbers of images of files, whose labels must be their own."""
    x, y = batch
    np.testing.assert_allclose(x[..., 2], np.broadcast_to(x[:, :1, :1, 2], x.shape[:3]), rtol=1e-5)
    return numbers((x[:, :1, :1, 2:], y))


def test_a_crop_at_random_takes_from_the_whole_image():
    streams = file_streams([(40, 40)] * 30, (80, 80, 3))
    (((x, _),),) = trained_on(streams, ("resized_crop",), 30, range(1))
    assert x.shape == (30, 80, 80, 3)
    for channel in (0, 1):
        # The middle would be 2.5 to 37.5.
        assert x[..., channel].min() == pytest.approx(0, abs=1e-3)
        assert x[..., channel].max() > 37.9


def test_files_are_all_augmented():
    streams = file_streams([(5, 6), (40, 30), (1, 1), (16, 12)], (16, 12, 3))
    dataset = training_batches(streams, ALL_AUGMENTATIONS, 4, range(2), 0)
    assert dataset.element_spec == (tf.TensorSpec((4, 16, 12, 3)), tf.TensorSpec((4, 4)))
    for x, y in dataset.as_numpy_iterator():
        assert np.isfinite(x).all()
        assert sorted(y.argmax(1)) == [0, 1, 2, 3]


def test_a_small_shuffle_buffer_gives_each_element_once():
    shuffle_buffer = 5
    streams = file_streams([(16, 16)] * 20, (16, 16, 3), shuffle_buffer)
    epochs = trained_on(streams, batch_size=4)
    found = [[number for batch in epoch for number in number_of(batch)] for epoch in epochs]
    for order in found:
        assert sorted(order) == list(range(20))
        # An element can come late, but not before the buffer has reached it.
        assert all(number < place + shuffle_buffer for place, number in enumerate(order))
    assert len(set(map(tuple, found))) == 5
    assert_same(trained_on(streams, batch_size=4, epochs=range(3, 5)), epochs[3:])


# Evaluation


def test_an_evaluation_has_all_images_in_their_order():
    batch_size = 4
    x = noise().astype(np.float32)
    streams = streams_of(x)
    dataset = evaluation_batches(streams, streams.test, batch_size)
    expected = (tf.TensorSpec((None, 8, 8, 3)), tf.TensorSpec((None, IMAGES)))
    assert dataset.element_spec == expected
    for _ in range(2):
        batches = list(dataset.as_numpy_iterator())
        whole, rest = divmod(IMAGES, batch_size)
        assert [len(images) for images, _ in batches] == [batch_size] * whole + [rest] * (rest > 0)
        np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), x)
        one_hot = np.eye(IMAGES, dtype=np.float32)[labels(IMAGES)]
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), one_hot)


@pytest.mark.parametrize(
    ("batch_size", "devices", "sizes"),
    [
        (4, 3, [3, 3, 3]),
        (20, 3, [9]),
    ],
)
def test_the_batches_of_an_evaluation_fall_evenly_on_the_devices(batch_size, devices, sizes):
    streams = streams_of(numbered())
    dataset = evaluation_batches(streams, streams.test, batch_size, devices)
    batches = list(dataset.as_numpy_iterator())
    assert [number for batch in batches for number in numbers(batch)] == list(range(sum(sizes)))
    assert [len(x) for x, _ in batches] == sizes


def test_an_unknown_augmentation_is_named():
    with pytest.raises(ValueError, match="augmentation 'blur': expected some of padded_crop, "):
        training_batches(streams_of(numbered()), ("cutout", "blur"), 4, range(1), seed=0)


def test_an_evaluation_takes_the_part_it_is_given():
    split, other = Split(numbered(3), labels(3)), Split(50 + numbered(4), np.array([2, 0, 1, 0]))
    data = ImageData(split, other, split, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3)
    streams = from_arrays(data)
    (batch,) = evaluation_batches(streams, streams.validation, 4).as_numpy_iterator()
    np.testing.assert_array_equal(batch[0], other.x)
    np.testing.assert_array_equal(batch[1].argmax(1), other.y)
