"""Image data sets as streams of tf.data: those in memory, and those that are too large for it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_autoshrink.checks import MOST_NAMED, enumerated, tensorflow_reason
from keras_autoshrink.data.folders import (
    find_classes,
    find_parts,
    list_images,
    read_image,
    reason,
)
from keras_autoshrink.data.images import IMAGENET, ImageData, Split, is_streamed

# Pixels of 0 to 255 become -1 to 1, as in the release of arXiv 1911.09251.
_MIDDLE = 127.5

# Encoded images: some 2 GB of ImageNet. tensorflow-datasets has shuffled it when writing it.
_SHUFFLE_BUFFER = 16_384

# What JPEG files begin with, and what only those hold, in their first bytes, that are turned by
# their metadata. (Before it may lie a profile of colours.)
_JPEG, _TURNED, _FIRST = b"\xff\xd8\xff", r"\C*(Exif|tiff:Orientation)\C*", 2**18

# What stands before the reason in the error of an image that Pillow cannot read.
_NOT_READABLE = "not a readable image:"

# What TensorFlow raises where an image cannot be read.
_UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder by the name of an image
)

# The parts by their names, "train" and "test" among them, and the names of the classes.
_Opened = tuple[dict[str, "Stream"], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A part of a data set; its length is the number of its images.

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
    """A data set for classification that is read as it is needed.

    Attributes:
        train: what networks are trained on.
        validation: what is watched in training, if anything.
        test: what nothing is chosen by.
        class_names: one for each label.
        input_shape: (height, width, channels) of what a network sees.
        mean: per channel, in the units of the original pixels.
        std: per channel, in the units of the original pixels; a network sees (pixel - mean) / std.
    """

    train: Stream
    validation: Stream | None
    test: Stream
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_arrays(data: ImageData) -> ImageStreams:
    """Makes streams of a data set that is in memory.

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


def open_streams(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 224,
) -> ImageStreams:
    """Opens a data set of the size of ImageNet for the training of one network.

    No image is read here. Where the source has no test part, its validation images are that, by
    which nothing may be chosen, and there is no validation part: the labels of ImageNet's own test
    images are not public.

    Args:
        source: `"imagenet2012"`, which its user has prepared with tensorflow-datasets, or a
            folder that holds a folder `train` and a folder `val` or `test`, or both, each with one
            folder of images for each class, which are read as `load_images` reads them: upright,
            on white, of an animation the first frame. A file that cannot be read shows, and ends
            the training, when it is met; see `naming_unreadable`.
        data_dir: where tensorflow-datasets keeps its data.
        image_size: height and width of what a network sees, in pixels.

    Returns:
        Streams whose `load` makes images of their own sizes, float32 of shape (height, width, 3)
        and -1 to 1, and labels, int32 of shape ().

    Raises:
        ValueError: the source is no such data set; the message says what is wrong with it.
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: expected 1 or more")
    if not is_streamed(source):
        raise ValueError(
            f"data set {os.fspath(source)!r}: expected {IMAGENET!r}, or a folder with the folders "
            "'train' and 'val' or 'test'"
        )
    if str(source) == IMAGENET:
        parts, class_names = _open_tfds(data_dir)
    else:
        parts, class_names = _open_folder(Path(source))
    return ImageStreams(
        train=parts["train"],
        validation=parts.get("val"),
        test=parts["test"],
        class_names=class_names,
        input_shape=(image_size, image_size, 3),
        mean=(_MIDDLE,) * 3,
        std=(_MIDDLE,) * 3,
    )


def _open_tfds(data_dir: str | os.PathLike[str] | None) -> _Opened:
    import tensorflow_datasets as tfds

    place = data_dir
    try:
        builder = tfds.builder(IMAGENET, data_dir=data_dir)
        place = builder.data_path
        if not place.exists():
            raise ValueError(
                "not there; ImageNet has to be downloaded by hand from https://image-net.org and "
                "prepared with tensorflow-datasets first"
            )
        splits = builder.info.splits
        opened = []
        for part in ("train", "validation"):
            if part not in splits:
                raise ValueError(
                    f"has no split {part!r} (its splits: {', '.join(splits) or 'none'}); prepare "
                    "it from the archives of both its training and its validation images"
                )
            elements = builder.as_dataset(
                split=part,
                as_supervised=True,
                shuffle_files=False,
                decoders={"image": tfds.decode.SkipDecoding()},
                read_config=tfds.ReadConfig(try_autocache=False),
            )
            size = splits[part].num_examples
            opened.append(Stream(elements, _decode, size, min(_SHUFFLE_BUFFER, size)))
        names = tuple(builder.info.features["label"].names)
        return dict(zip(("train", "test"), opened, strict=True)), names
    except Exception as error:  # whatever the disk or tfds raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{IMAGENET}: cannot be opened in {place}: {reason}") from error


def _open_folder(root: Path) -> _Opened:
    folders = find_parts(root)
    classes = find_classes(root, folders)
    parts = {part: _folder_stream(folder, classes) for part, folder in folders.items()}
    if "test" not in parts:
        parts["test"] = parts.pop("val")
    return parts, tuple(classes)


def _folder_stream(part: Path, classes: list[str]) -> Stream:
    files = list_images(part, classes)
    elements = tf.data.Dataset.from_tensor_slices((files.paths, files.labels))
    return Stream(elements, _read, len(files.paths), len(files.paths), from_files=True)


def _read(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _decode(tf.io.read_file(path), label)


def _decode(content: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # TensorFlow's decoders know no orientation, and drop what is transparent. Pillow does both, but
    # by Python; so it leaves to TensorFlow what ImageNet is made of.
    is_jpeg = tf.strings.substr(content, 0, len(_JPEG)) == _JPEG
    is_turned = tf.strings.regex_full_match(tf.strings.substr(content, 0, _FIRST), _TURNED)
    image = tf.cond(
        is_jpeg & ~is_turned,
        lambda: tf.io.decode_jpeg(content, channels=3),
        lambda: _decode_by_pillow(content),
    )
    image.set_shape((None, None, 3))
    return (tf.cast(image, tf.float32) - _MIDDLE) / _MIDDLE, tf.cast(label, tf.int32)


def _decode_by_pillow(content: tf.Tensor) -> tf.Tensor:
    def read(content: Any) -> tuple[np.ndarray, bytes]:
        # Bytes within a graph; outside of one an array of no dimension.
        content = content if isinstance(content, bytes) else content.item()
        try:
            return read_image(io.BytesIO(content)), b""
        except MemoryError:
            raise  # no fault of the file's
        except Exception as error:  # Pillow's decoders raise whatever they meet
            return np.empty((0, 0, 3), np.uint8), reason(error).encode()

    # Not raised within, where TensorFlow would print the traceback.
    image, problem = tf.numpy_function(read, (content,), (tf.uint8, tf.string))
    check = tf.debugging.Assert(tf.equal(problem, ""), [_NOT_READABLE, problem])
    with tf.control_dependencies([check]):
        return tf.identity(image)


def center_crop(image: tf.Tensor, input_shape: tuple[int, int, int]) -> tf.Tensor:
    """Crops and resizes an image without chance, as for an evaluation.

    Takes the central 87.5% of the height and of the width: bilinear, with antialiasing. An image
    whose static shape is that of the network is left as it is, so that the small images of a data
    set in memory lose no borders.
    """
    if image.shape == input_shape:
        return image
    image = tf.image.central_crop(image, 0.875)
    return tf.image.resize(image, input_shape[:2], antialias=True)


@contextlib.contextmanager
def naming_unreadable(streams: ImageStreams) -> Iterator[None]:
    """Turns TensorFlow's error about an image, raised within, into one that names the files.

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
        if streams.validation is not None:
            parts["validation"] = streams.validation
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


def unreadable(part: Stream) -> list[str]:
    """Lists the files of a part that cannot be read; of the first of them, why."""

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
        # "assertion failed: [...] [image file is truncated]"
        return re.sub(rf".*\[{_NOT_READABLE}\] \[(.*)\]", r"\1", tensorflow_reason(error))
    return "but for a moment"


def sample(streams: ImageStreams, train: int, test: int) -> ImageData:
    """Loads some images of a data set as arrays, for an export to calibrate with and check by.

    They are spread evenly over each part, but not further than its shuffle buffer reaches where
    that holds enough of them: such a part is in random order already, and the end of ImageNet
    lies behind 140 GB of images.

    Args:
        streams: where to take them from; the same images at each call.
        train: how many of the training images, 1 or more; all where there are not so many.
        test: how many of the test images, 1 or more; all where there are not so many.

    Returns:
        The images as an evaluation crops and resizes them; `test` images of the validation part,
        too, where there is one.

    Raises:
        ValueError: an image cannot be read.
    """
    return ImageData(
        train=_sample(streams, streams.train, train, "train"),
        validation=streams.validation and _sample(streams, streams.validation, test, "validation"),
        test=_sample(streams, streams.test, test, "test"),
        class_names=streams.class_names,
        mean=streams.mean,
        std=streams.std,
    )


def _sample(streams: ImageStreams, part: Stream, count: int, what: str) -> Split:
    count = min(count, len(part))
    within = min(len(part), max(count, part.shuffle_buffer))
    # A filter calls a function for each element, which took 40 s for the paths of ImageNet: in
    # steps first, which leaves less than twice as many as are wanted, and then evenly.
    step = within // count
    left = -(-within // step)

    def is_wanted(place: tf.Tensor, _: Any) -> tf.Tensor:
        return place * count % left < count

    def load(*element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = part.load(*element)
        return center_crop(image, streams.input_shape), label

    stepped = part.elements.take(within).shard(step, 0)
    wanted = stepped.enumerate().filter(is_wanted).map(lambda _, element: element)
    loaded = wanted.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    x = np.empty((count, *streams.input_shape), np.float32)
    y = np.empty(count, np.int32)
    try:
        for place, (image, label) in enumerate(loaded.as_numpy_iterator()):
            x[place], y[place] = image, label
    except tf.errors.OpError as error:
        files = unreadable(dataclasses.replace(part, elements=wanted)) if part.from_files else []
        reason = enumerated(files) if files else tensorflow_reason(error)
        raise ValueError(f"{what}: an image cannot be read: {reason}") from error
    return Split(x, y)
