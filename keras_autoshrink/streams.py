"""Images that are read as training needs them: arrays, ImageNet, folders too large for memory.

TensorFlow's input pipelines. A search takes arrays and needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import tensorflow as tf

from keras_autoshrink.checks import MOST_NAMED, enumerated, tensorflow_reason
from keras_autoshrink.splits import ImageData, Split


@dataclasses.dataclass(frozen=True)
class Stream:
    """One part of a data set.

    Attributes:
        elements: what there is, in a fixed order and in a form that is cheap to shuffle.
        load: makes an image and its label of an element: float32 of shape (height, width,
            channels), normalised, and int32 of shape ().
        size: number of elements.
        shuffle_buffer: of how many elements to draw the next one; all of them where an element
            is small.
        from_files: whether an element is (path, label).
    """

    elements: tf.data.Dataset
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    size: int
    shuffle_buffer: int
    from_files: bool = False

    def __len__(self) -> int:
        return self.size


@dataclasses.dataclass(frozen=True)
class ImageStreams:
    """A data set for classification, as `ImageData`, read as it is needed.

    Attributes:
        train: what networks are trained on.
        validation: what is watched in training, if anything.
        test: what nothing is chosen by.
        class_names: one for each label.
        input_shape: (height, width, channels) of what a network sees.
        mean: per channel, in the units of the original pixels.
        std: likewise; a network sees (pixel - mean) / std.
    """

    train: Stream
    validation: Stream | None
    test: Stream
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_arrays(data: ImageData) -> ImageStreams:
    """Streams of a data set that is in memory.

    Raises:
        ValueError: the data were loaded for a search, without test images.
    """
    if data.test is None:
        raise ValueError("data: loaded for a search, without test images; use purpose='train'")
    return ImageStreams(
        train=_array_stream(data.train),
        validation=_array_stream(data.validation) if data.validation else None,
        test=_array_stream(data.test),
        class_names=data.class_names,
        input_shape=data.input_shape,
        mean=data.mean,
        std=data.std,
    )


def _array_stream(split: Split) -> Stream:
    # Indices are shuffled, not images: a shuffle buffer would hold a second copy of them all.
    # They stay on the CPU, where input pipelines run.
    with tf.device("CPU"):
        x, y = tf.constant(split.x), tf.constant(split.y)

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(x, index), tf.gather(y, index)

    return Stream(tf.data.Dataset.range(len(split)), load, len(split), len(split))


def center_crop(image: tf.Tensor, input_shape: tuple[int, int, int]) -> tf.Tensor:
    """What a network sees of an image when nothing is left to chance, as in an evaluation.

    The central 87.5% of the height and of the width, resized to those of the network: bilinear,
    with antialiasing. An image whose static shape is that of the network is left as it is, so
    that the small images of a data set in memory lose no borders.

    Args:
        image: float32 of shape (height, width, channels), which may be unknown but for channels.
        input_shape: (height, width, channels) of what the network sees.

    Returns:
        float32 of shape `input_shape`.
    """
    if image.shape == input_shape:
        return image
    image = tf.image.central_crop(image, 0.875)
    return tf.image.resize(image, input_shape[:2], antialias=True)


@contextlib.contextmanager
def naming_unreadable(streams: ImageStreams) -> Iterator[None]:
    """Within, TensorFlow's error about an image becomes one that names the files.

    To look at a million files before a training would take as long as an epoch. The first epoch
    meets nearly all of them anyway; what it stumbles over ends the training, whose state of the
    last whole epoch is kept. Only then are all files looked at, so that they can be replaced at
    once. (To leave them out instead would change the number of steps, and by it the schedule of
    the learning rate, in the middle of a training.)

    Raises:
        ValueError: files of `streams` cannot be read.
    """
    try:
        yield
    except _UNREADABLE as error:
        parts = {"train": streams.train, "test": streams.test}
        found = {what: unreadable(part) for what, part in parts.items() if part.from_files}
        said = [
            f"{what}: {len(files):,} of {len(parts[what]):,} images cannot be read: "
            f"{enumerated(files)}"
            for what, files in found.items()
            if files
        ]
        if not said:
            raise
        raise ValueError(f"{'; '.join(said)}; replace or remove them and run it again") from error


_UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder by the name of an image
)


def unreadable(part: Stream) -> list[str]:
    """The files of a part that are no images, or broken ones; the first with what is wrong."""

    def probe(place: tf.Tensor, element: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return place, tf.shape(part.load(*element)[0])  # without the image it would not be read

    probed = part.elements.enumerate().map(probe, num_parallel_calls=tf.data.AUTOTUNE)
    readable = {int(place) for place, _ in probed.ignore_errors().as_numpy_iterator()}
    found = []
    for place, (path, label) in enumerate(part.elements.as_numpy_iterator()):
        if place not in readable:
            found.append(path.decode())
            if len(found) <= MOST_NAMED:
                found[-1] += f" ({_what_is_wrong(part, path, label)})"
    return found


def _what_is_wrong(part: Stream, *element: object) -> str:
    try:
        list(tf.data.Dataset.from_tensors(element).map(part.load))
    except tf.errors.OpError as error:
        return tensorflow_reason(error)
    return "but for a moment"
