"""ImageNet, and folders laid out like it: images that are read as training needs them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_autoshrink.checks import enumerated, tensorflow_reason
from keras_autoshrink.datasets import IMAGENET, is_streamed
from keras_autoshrink.image_folders import IMAGE_SUFFIXES
from keras_autoshrink.splits import ImageData, Split
from keras_autoshrink.streams import ImageStreams, Stream, center_crop, unreadable

# Not all releases of TensorFlow decode WebP.
_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".webp")
_SIGNATURES = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG")

# Pixels of 0 to 255 become -1 to 1, as in the release of arXiv 1911.09251.
_MIDDLE = 127.5

# Encoded images: some 2 GB of ImageNet. tensorflow-datasets has shuffled it when writing it.
_SHUFFLE_BUFFER = 16_384

# The training part, the test part and the names of the classes.
_Opened = tuple[Stream, Stream, tuple[str, ...]]


def open_streams(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 224,
) -> ImageStreams:
    """Opens a data set of the size of ImageNet for the training of one network.

    No image is read here. The validation images of the source are the test part, by which
    nothing may be chosen: the labels of ImageNet's own test images are not public. There is no
    validation part.

    Args:
        source: `"imagenet2012"`, which its user has prepared with tensorflow-datasets, or a
            folder that holds the folders `train` and `val`, each with one folder of BMP, GIF,
            JPEG or PNG images for each class. Of a BMP with a palette TensorFlow takes the
            indices for grey; of an animation it takes the first frame. A file that cannot be read
            shows, and ends the training, when it is met; see `streams.naming_unreadable`.
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
            "'train' and 'val'"
        )
    if str(source) == IMAGENET:
        train, test, class_names = _open_tfds(data_dir)
    else:
        train, test, class_names = _open_folder(Path(source))
    return ImageStreams(
        train=train,
        validation=None,
        test=test,
        class_names=class_names,
        input_shape=(image_size, image_size, 3),
        mean=(_MIDDLE,) * 3,
        std=(_MIDDLE,) * 3,
    )


def sample(streams: ImageStreams, train: int, test: int) -> ImageData:
    """Some images of a data set as arrays, as an export calibrates with them and checks by them.

    They are spread evenly over each part, but not further than its shuffle buffer reaches where
    that holds enough of them: such a part is in random order already, and the end of ImageNet
    lies behind 140 GB of images.

    Args:
        streams: where to take them from; the same images at each call.
        train: how many of the training images; all of them where there are not so many.
        test: likewise of the test images.

    Returns:
        The images in the shape that a network sees, cropped and resized as for an evaluation;
        no validation part.

    Raises:
        ValueError: `train` or `test` is less than 1, or an image cannot be read.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise ValueError(f"{name}={count}: expected 1 or more")
    return ImageData(
        train=_sample(streams, streams.train, train, "train"),
        validation=None,
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
        return opened[0], opened[1], tuple(builder.info.features["label"].names)
    except Exception as error:  # whatever the disk or tfds raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{IMAGENET}: cannot be opened in {place}: {reason}") from error


def _open_folder(root: Path) -> _Opened:
    train, val = root / "train", root / "val"
    classes, val_classes = _folders(train), _folders(val)
    if len(classes) < 2:
        raise ValueError(
            f"{train}: expected two or more folders, one a class; found {len(classes)}"
        )
    for name in sorted({*classes} ^ {*val_classes}):
        has, lacks = (train, val) if name in classes else (val, train)
        raise ValueError(
            f"{lacks}: has no folder {name!r}, but {has} has; both need the same classes"
        )
    return _folder_stream(train, classes), _folder_stream(val, classes), tuple(classes)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _folder_stream(part: Path, classes: list[str]) -> Stream:
    paths, counts = [], []
    for name in classes:
        # For a million files a Path of each, or a look at each, would take long.
        with os.scandir(part / name) as entries:
            found = sorted(
                entry.path
                for entry in entries
                if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".")
            )
        if not found:
            raise ValueError(f"{part / name}: holds no images ({', '.join(_SUFFIXES)})")
        paths += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    elements = tf.data.Dataset.from_tensor_slices((paths, labels))
    return Stream(elements, _read, len(paths), len(paths), from_files=True)


def _read(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    content = tf.io.read_file(path)
    # What is wrong with an image TensorFlow says without the name of the file: the beginning,
    # at least, is looked at here.
    begins = [tf.strings.substr(content, 0, len(begin)) == begin for begin in _SIGNATURES]
    check = tf.debugging.Assert(tf.reduce_any(begins), ["not a BMP, GIF, JPEG or PNG image:", path])
    with tf.control_dependencies([check]):
        return _decode(content, label)


def _decode(content: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    return (tf.cast(image, tf.float32) - _MIDDLE) / _MIDDLE, tf.cast(label, tf.int32)
