"""What each augmentation does to an image, and that its seed alone decides."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_autoshrink.data import augmentation
from keras_autoshrink.data.augmentation import AUGMENTATIONS
from keras_autoshrink.training.recipes import RECIPES

Shape = tuple[int, int, int]

NOISE = np.random.default_rng(0).uniform(-1, 1, (16, 24, 3)).astype(np.float32)


def seeds(count: int, first: int = 0) -> np.ndarray:
    """Seeds as a pipeline makes them: 64 bits, twice."""
    generator = np.random.default_rng(first)
    return generator.integers(-(2**63), 2**63 - 1, (count, 2), np.int64)


def outcomes(name: str, image: Any, count: int, shape: Shape | None = None) -> np.ndarray:
    """An image augmented with so many seeds, in a tf.data pipeline."""
    shape = shape or image.shape
    image = tf.constant(image, tf.float32)

    def augment(seed: tf.Tensor) -> tf.Tensor:
        return AUGMENTATIONS[name](image, seed, shape)

    images = tf.data.Dataset.from_tensor_slices(seeds(count)).map(augment)
    assert images.element_spec == tf.TensorSpec(shape, tf.float32)
    return images.batch(count).get_single_element().numpy()


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose channels are the row and the column, counted from 1, and a number of both."""
    row, column = np.mgrid[1 : height + 1, 1 : width + 1]
    return np.stack([row, column, row * 1_000 + column], axis=-1).astype(np.float32)


def rectangle(inside: np.ndarray) -> tuple[slice, slice]:
    """Where a mask of (height, width) is true, which must be one whole rectangle."""
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    found = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    filled = np.zeros_like(inside)
    filled[found] = True
    np.testing.assert_array_equal(inside, filled)
    return found


def length(part: slice) -> int:
    return part.stop - part.start


def is_about_half(count: int, of: int) -> bool:
    """Within four standard deviations of the tosses of a coin."""
    return abs(count - of / 2) <= 4 * of**0.5 / 2


@pytest.fixture
def no_global_seed_afterwards() -> Iterator[None]:
    yield
    tf.random.set_seed(None)


def test_recipes_name_augmentations():
    for recipe in RECIPES.values():
        assert set(recipe.augmentation) <= set(AUGMENTATIONS)
        assert all(getattr(augmentation, name) is AUGMENTATIONS[name] for name in AUGMENTATIONS)


# What all of them have in common


@pytest.mark.usefixtures("no_global_seed_afterwards")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_seed_decides(name):
    function = AUGMENTATIONS[name]
    images = []
    for number, seed in enumerate(seeds(12)):
        tf.random.set_seed(number)  # which must not matter
        first = function(tf.constant(NOISE), tf.constant(seed), NOISE.shape).numpy()
        tf.random.set_seed(99)
        tf.random.uniform(())
        again = function(tf.constant(NOISE), tf.constant(seed), NOISE.shape).numpy()
        np.testing.assert_array_equal(first, again)
        images.append(first)
    others = sum(not np.array_equal(images[0], image) for image in images[1:])
    assert others > (0 if name in ("horizontal_flip", "random_erasing") else 8)
    # Both numbers of a seed count, and all their bits.
    for place, step in ((0, 1), (1, 2**32)):
        seed = np.array([7, 8], np.int64)
        made = set()
        for _ in range(12):
            made.add(function(tf.constant(NOISE), tf.constant(seed), NOISE.shape).numpy().tobytes())
            seed[place] += step
        assert len(made) > 1
    # A pipeline does the same; its arithmetic may be fused.
    np.testing.assert_allclose(outcomes(name, NOISE, 12), images, atol=1e-5)


def test_the_smallest_images_and_those_of_one_channel():
    for name in AUGMENTATIONS:
        for shape in ((1, 1, 3), (3, 2, 3 if name == "colour_jitter" else 1)):
            assert np.isfinite(outcomes(name, np.ones(shape), 5)).all()


# Shifts


@pytest.mark.parametrize(
    ("name", "share", "border"), [("padded_crop", 8, "constant"), ("shift", 16, "reflect")]
)
def test_shifts_by_up_to_a_share_of_the_sides(name, share, border):
    rows, columns = 2, 3
    height, width = share * rows, share * columns
    image = coordinates(height, width)
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), border)
    shifted = {
        padded[down : height + down, right : width + right].tobytes(): (down, right)
        for down in range(2 * rows + 1)
        for right in range(2 * columns + 1)
    }
    found = {shifted[x.tobytes()] for x in outcomes(name, image, 500)}
    assert found == set(shifted.values())  # all of them, and nothing else


def test_horizontal_flip_mirrors_every_other_image():
    images = outcomes("horizontal_flip", NOISE, 400)
    mirrored = 0
    for image in images:
        if not np.array_equal(image, NOISE):
            np.testing.assert_array_equal(image, NOISE[:, ::-1])
            mirrored += 1
    assert is_about_half(mirrored, of=400)


# Crops


def crops(height: int, width: int, target: tuple[int, int], count: int = 60) -> np.ndarray:
    """First row, last row, first column and last column of crops, which come enlarged.

    Of an enlarged image the corners are those of the crop itself.
    """
    images = outcomes("resized_crop", coordinates(height, width), count, (*target, 3))
    rows, columns = images[..., 0], images[..., 1]
    # Straight edges, and nothing turned round.
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :, :1], rows.shape), atol=1e-3)
    np.testing.assert_allclose(columns, np.broadcast_to(columns[:, :1], rows.shape), atol=1e-3)
    assert (np.diff(rows, axis=1) > -1e-3).all()
    assert (np.diff(columns, axis=2) > -1e-3).all()
    corners = np.stack(
        [rows[:, 0, 0], rows[:, -1, 0], columns[:, 0, 0], columns[:, 0, -1]], axis=-1
    )
    np.testing.assert_allclose(corners, np.rint(corners), atol=1e-3)
    return np.rint(corners).astype(int)


def test_resized_crop_leaves_three_quarters_of_the_area_or_more():
    height, width, target = 40, 31, (100, 85)
    first_row, last_row, first_column, last_column = crops(height, width, target).T
    assert first_row.min() >= 1
    assert last_row.max() <= height
    assert first_column.min() >= 1
    assert last_column.max() <= width
    crop_height, crop_width = last_row - first_row + 1, last_column - first_column + 1
    area = crop_height * crop_width / (height * width)
    assert 0.75 <= area.min() < 0.85
    # 3/4 to 4/3; sides are whole pixels.
    assert (crop_width + 0.5 >= 3 / 4 * (crop_height - 0.5)).all()
    assert (crop_width - 0.5 <= 4 / 3 * (crop_height + 0.5)).all()


def test_resized_crop_takes_its_crops_from_everywhere():
    corners = crops(60, 60, (130, 130))
    # TensorFlow leaves out the very last place, but where the crop has the whole side.
    at_border = np.abs(corners - [1, 60, 1, 60]) <= 1
    assert (at_border.sum(0) > 0).all()
    assert (at_border.sum(0) < len(corners)).all()


def test_resized_crop_takes_all_of_an_image_that_has_no_such_crop():
    np.testing.assert_array_equal(crops(1, 100, (200, 200), count=10), [[1, 1, 1, 100]] * 10)


def test_resized_crop_smooths_what_it_makes_smaller():
    stripes = np.zeros((64, 64, 3), np.float32)
    stripes[:, 2::4] = stripes[:, 3::4] = 1
    images = outcomes("resized_crop", stripes, 20, (8, 8, 3))
    np.testing.assert_allclose(images[:, :, 1:-1], 0.5, atol=0.06)


# Colours


def jittered(pixels: list[tuple[float, float, float]], count: int = 400) -> np.ndarray:
    """A row of pixels, 0 to 1, after so many jitters, on the same scale."""
    image = np.array([pixels], np.float32) * 2 - 1
    return (outcomes("colour_jitter", image, count)[:, 0].astype(np.float64) + 1) / 2


def assert_spread(values: np.ndarray, lowest: float, highest: float) -> None:
    """Evenly drawn between these bounds, so far as 400 of them show."""
    width = highest - lowest
    assert values.min() >= lowest - 1e-3
    assert values.max() <= highest + 1e-3
    assert values.min() < lowest + width / 20
    assert values.max() > highest - width / 20
    assert values.mean() == pytest.approx((lowest + highest) / 2, abs=width / 10)


def test_colour_jitter_stays_between_minus_1_and_1():
    extremes = np.ones((16, 24, 3), np.float32)
    extremes[::2, ::3] = extremes[1::2, 1::3, :2] = extremes[:, 2::3, 1] = -1
    for image in (NOISE, extremes, np.full_like(NOISE, 1), np.full_like(NOISE, -1)):
        images = outcomes("colour_jitter", image, 60)
        assert np.isfinite(images).all()
        assert images.min() >= -1
        assert images.max() <= 1
    assert images.min() == -1  # the black image, made no brighter


def test_colour_jitter_changes_contrast_and_brightness_and_leaves_grey_grey():
    grey = jittered([(0.45,) * 3, (0.55,) * 3])
    np.testing.assert_allclose(grey, np.broadcast_to(grey[..., :1], grey.shape), atol=1e-5)
    grey = grey[..., 0]
    assert_spread((grey[:, 1] - grey[:, 0]) / 0.1, 0.6, 1.4)
    assert_spread(grey.mean(1) - 0.5, -0.4, 0.4)  # which is the brightness alone


def test_colour_jitter_changes_saturation_and_hue():
    # Of one colour alone contrast changes nothing; brightness and hue leave the range of the
    # channels, by which saturation is told, and brightness and saturation leave the hue.
    colour = jittered([(0.5, 0.46, 0.47)])[:, 0]
    assert_spread(np.ptp(colour, axis=1) / 0.04, 0.6, 1.4)
    before = colorsys.rgb_to_hsv(0.5, 0.46, 0.47)[0]
    turns = np.array([colorsys.rgb_to_hsv(*rgb)[0] - before for rgb in colour])
    assert_spread((turns + 0.5) % 1 - 0.5, -0.1, 0.1)


def test_colour_jitter_draws_its_changes_one_by_one():
    grey, colour = jittered([(0.45,) * 3, (0.55,) * 3])[..., 0], jittered([(0.5, 0.46, 0.46)])[:, 0]
    hue = [(colorsys.rgb_to_hsv(*rgb)[0] + 0.5) % 1 for rgb in colour]
    drawn = [grey.mean(axis=1), np.ptp(grey, axis=1), np.ptp(colour, axis=1), hue]
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.2


# Holes


def test_cutout_sets_a_square_with_its_centre_inside_to_zero():
    shape = (8, 13, 3)
    height, width, _ = shape
    side = height // 2
    image = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    # A square of an even side has its centre in the second half.
    expected = {}
    for row in range(height):
        for column in range(width):
            top, left = row - side // 2, column - side // 2
            hole = image.copy()
            hole[max(top, 0) : top + side, max(left, 0) : left + side] = 0
            assert 0 < (hole == 0).sum() <= side**2 * shape[2]
            expected[hole.tobytes()] = (row, column)
    images = outcomes("cutout", image, 1200)
    centres = [expected[x.tobytes()] for x in images]
    assert set(centres) == set(expected.values())


def test_random_erasing_fills_a_rectangle_of_every_other_image_with_noise():
    # Of an area of 1200, fewest and most.
    shape, rows, columns = (20, 60, 3), (3, 20), (3, 40)
    image = 2 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    images = outcomes("random_erasing", image, 1000)
    erased = (images != image).any(-1)
    is_erased = erased.any((1, 2))
    assert is_about_half(is_erased.sum(), of=1000)
    found, noise = [], []
    for augmented, hole in zip(images[is_erased], erased[is_erased], strict=True):
        found.append(rectangle(hole))
        noise.append(augmented[hole])
        assert (augmented[hole] != image[hole]).all()  # in all channels
    for axis, (fewest, most) in ((0, rows), (1, columns)):
        sides = np.array([length(parts[axis]) for parts in found])
        assert (sides.min(), sides.max()) == (fewest, most)
        assert sides.mean() == pytest.approx((fewest + most) / 2, rel=0.1)
        assert min(parts[axis].start for parts in found) == 0
        assert max(parts[axis].stop for parts in found) == shape[axis]
        # Where a side leaves room, it lies first as often as last.
        middles = [(p[axis].start + p[axis].stop) / 2 for p in found]
        assert np.mean(middles) == pytest.approx(shape[axis] / 2, rel=0.1)
    values = np.concatenate([x.ravel() for x in noise])
    assert -1 <= values.min() < -0.99
    assert 0.99 < values.max() <= 1
    assert values.mean() == pytest.approx(0, abs=0.1)
    assert len(np.unique(values)) > 0.9 * len(values)  # each pixel and channel has its own


def test_random_erasing_draws_sides_and_places_one_by_one():
    image = np.full((40, 40, 1), 2, np.float32)
    holes = (outcomes("random_erasing", image, 1000) != 2)[..., 0]
    found = [rectangle(hole) for hole in holes if hole.any()]
    numbers = [
        [length(rows), length(columns), rows.start + rows.stop, columns.start + columns.stop]
        for rows, columns in found
    ]
    assert np.abs(np.corrcoef(np.transpose(numbers)) - np.eye(4)).max() < 0.2
