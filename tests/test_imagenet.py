"""What ImageNet-sized data sets are opened as, sampled by, and refused for."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from refusals import refusal

from keras_autoshrink.data import streams
from keras_autoshrink.data.folders import read_image
from keras_autoshrink.data.images import Split, is_streamed
from keras_autoshrink.data.streams import (
    Stream,
    center_crop,
    naming_unreadable,
    open_streams,
    sample,
)

LOADED = (tf.TensorSpec((None, None, 3), tf.float32), tf.TensorSpec((), tf.int32))

IMAGENET_IN_SMALL = Path("imagenet2012", "5.1.0")

# Decoders of JPEG differ by some of the 256 steps, by more where they convert its colours.
JPEG_TOLERANCE = 8 / 127.5


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft colours, as JPEG likes them."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def as_network_input(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1


def write_folder(root: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """PyTorch's layout: so many PNG files of one grey each for each class, no two alike."""
    for part, classes in {"train": train, "val": val}.items():
        grey = 0
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                file = root / part / name / f"{number:03}.png"
                Image.new("RGB", (24 + number % 3, 20), (grey, 255 - grey, 0)).save(file)
                grey += 1
    return root


def greys(split: Split) -> list[int]:
    """Which pictures of `write_folder` these are."""
    found = (split.x[..., 0] + 1) * 127.5
    np.testing.assert_allclose(found, found[:, :1, :1].round() + 0 * found, atol=1e-3)
    return found[:, 0, 0].round().astype(int).tolist()


def loaded(part: Stream) -> list[tuple[np.ndarray, int]]:
    return list(part.elements.map(part.load).as_numpy_iterator())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", {"ant": 4, "bee": 3}, {"ant": 1, "bee": 2})


@pytest.fixture(scope="session")
def jpegs() -> dict[str, list[tuple[bytes, int]]]:
    """Encoded images of many sizes and their labels, by split."""

    def encoded(seed: int) -> bytes:
        file = io.BytesIO()
        picture(20 + seed, 60 - seed, seed).save(file, "JPEG")
        return file.getvalue()

    return {
        "train": [(encoded(seed), seed * 17) for seed in range(40)],
        "validation": [(encoded(seed), seed * 19) for seed in range(40, 47)],
    }


@pytest.fixture(scope="session")
def small_imagenet(
    tmp_path_factory: pytest.TempPathFactory, jpegs: dict[str, list[tuple[bytes, int]]]
) -> Path:
    """A data_dir with ImageNet as tensorflow-datasets prepares it, of other and fewer images."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    imagenet = tfds.builder_cls("imagenet2012")
    with registered.skip_registration():

        class Small(imagenet):
            name = "imagenet2012"
            pkg_dir_path = imagenet._get_pkg_dir_path()

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self.pictures(split) for split in jpegs}

            def pictures(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                for key, (image, label) in enumerate(jpegs[split]):
                    file = f"{split}_{key}.JPEG"
                    yield key, {"image": io.BytesIO(image), "label": label, "file_name": file}

    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    # Several files, whose order could be another each time.
    config = tfds.download.DownloadConfig(num_shards=4)
    Small(data_dir=root).download_and_prepare(download_config=config)
    return root


def test_is_streamed(tmp_path):
    assert is_streamed("imagenet2012")
    assert not is_streamed("cifar10")
    (tmp_path / "train").mkdir()
    (tmp_path / "val").touch()
    assert not is_streamed(tmp_path)
    (tmp_path / "val").unlink()
    (tmp_path / "val").mkdir()
    assert is_streamed(str(tmp_path))


# Folders


def test_folder_parts(folder):
    for hidden in (folder / "train" / "bee" / "._000.png", folder / "train" / ".DS_Store"):
        hidden.touch()
    (folder / "train" / "bee" / "notes.txt").touch()
    (folder / "val" / ".cache").mkdir()
    (folder / "val" / "README.md").touch()
    file = folder / "train" / "ant" / "000.png"
    file.write_text("hello")
    streams = open_streams(folder, image_size=96)
    # Nothing has been read yet.
    Image.new("RGB", (2, 3), (0, 255, 51)).save(file)
    assert streams.class_names == ("ant", "bee")
    assert streams.input_shape == (96, 96, 3)
    assert streams.mean == streams.std == (127.5, 127.5, 127.5)
    assert streams.validation is None
    expected = {
        "train": [("ant", 0), ("ant", 1), ("ant", 2), ("ant", 3)] + [("bee", n) for n in range(3)],
        "val": [("ant", 0), ("bee", 0), ("bee", 1)],
    }
    for name, part in (("train", streams.train), ("val", streams.test)):
        files = [str(folder / name / label / f"{n:03}.png") for label, n in expected[name]]
        labels = [["ant", "bee"].index(label) for label, _ in expected[name]]
        elements = list(part.elements.as_numpy_iterator())
        assert [path.decode() for path, _ in elements] == files
        assert [label for _, label in elements] == labels
        assert len(part) == part.shuffle_buffer == len(files)
        assert [label for _, label in loaded(part)] == labels
    assert streams.train.elements.map(streams.train.load).element_spec == LOADED
    image, _ = loaded(streams.train)[0]
    assert image.shape == (3, 2, 3)
    np.testing.assert_allclose(image, np.broadcast_to([-1, 1, -0.6], (3, 2, 3)), rtol=1e-6)


def test_folder_of_all_kinds_of_images(tmp_path):
    """Formats, modes, sizes and spellings, each as Pillow reads it."""
    tolerances = {}
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            picture(9, 9).save(tmp_path / part / name / "0.png")
    ant = tmp_path / "train" / "ant"
    (ant / "0.png").unlink()
    (ant / "passed_over.heic").touch()
    for number, (mode, suffix, tolerance) in enumerate(
        [
            ("RGB", "bmp", 0),
            ("RGB", "GIF", 0),
            ("RGB", "jpeg", JPEG_TOLERANCE),
            ("RGB", "JPEG", JPEG_TOLERANCE),
            ("L", "JPG", JPEG_TOLERANCE),
            ("CMYK", "JPEG", 3 * JPEG_TOLERANCE),
            ("RGB", "png", 0),
            ("RGBA", "png", 0),
            ("L", "png", 0),
            ("P", "png", 0),
            ("P", "bmp", 0),
            ("CMYK", "tif", 0),
            ("RGB", "tiff", 0),
        ]
    ):
        file = ant / f"{number:02}.{suffix}"
        picture(9 + 3 * number, 40 - 3 * number).convert(mode).save(file)
        tolerances[file] = tolerance
    # One of ImageNet's files is a PNG by another name.
    shutil.copy(ant / "06.png", ant / "13.JPEG")
    tolerances[ant / "13.JPEG"] = 0
    animation = [picture(12, 10, seed) for seed in (1, 2)]
    animation[0].save(ant / "14.gif", save_all=True, append_images=animation[1:])
    tolerances[ant / "14.gif"] = 0

    part = open_streams(tmp_path).train
    assert len(part) == len(tolerances) + 1
    for (file, tolerance), (image, _) in zip(tolerances.items(), loaded(part), strict=False):
        with Image.open(file) as opened:
            expected = as_network_input(opened)
        np.testing.assert_allclose(image, expected, atol=tolerance + 1e-6, err_msg=str(file))


@pytest.mark.parametrize(
    ("spoil", "place", "problem"),
    [
        (
            lambda root: shutil.rmtree(root / "val" / "bee"),
            "val",
            "has no folder 'bee', but {train} has; both need the same classes",
        ),
        (
            lambda root: shutil.rmtree(root / "train" / "bee"),
            "train",
            "expected two or more folders, one a class; found 1 ('ant'); give a folder with one "
            "folder of images for each class, or with such folders 'train' and 'val', 'train' and "
            "'test', or all three",
        ),
        (
            lambda root: (root / "val" / "ant" / "000.png").rename(root / "val" / "ant" / "0.heic"),
            "val/ant",
            "holds no images (.bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff, .webp)",
        ),
    ],
    ids=["missing", "one class", "other files"],
)
def test_folder_refused(folder, spoil, place, problem):
    spoil(folder)
    problem = problem.format(train=folder / "train", val=folder / "val")
    assert refusal(open_streams, folder) == f"{folder / place}: {problem}"


# How a camera holds a picture that its orientation turns upright.
HELD = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright.swapaxes(0, 1), 2),
    8: lambda upright: np.rot90(upright, 3),
}


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "png"])
@pytest.mark.parametrize("orientation", HELD)
def test_both_readers_turn_a_picture_upright(tmp_path, orientation, suffix):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12], upright[:8, 12:], upright[8:, 12:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"held.{suffix}"
    how = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(HELD[orientation](upright))).save(file, exif=exif, **how)
    for image in shown(file):
        np.testing.assert_allclose(image, upright, atol=20 if suffix == "jpg" else 1e-3)


def shown(file: Path) -> list[np.ndarray]:
    """The pixels that each reader has of a file."""
    streamed, _ = streams._read(tf.constant(str(file)), tf.constant(0))
    return [read_image(file), streamed.numpy() * 127.5 + 127.5]


@pytest.mark.parametrize("kind", ["LA", "RGBA", "P", "RGB", "I;16"])
def test_both_readers_put_what_is_transparent_on_white(tmp_path, kind):
    """The left half is black, the right one transparent, and black below."""
    file = tmp_path / "glyph.png"
    alpha = np.repeat([[255, 0]], 8, axis=1).repeat(8, axis=0).astype(np.uint8)
    if kind in ("LA", "RGBA"):
        channels = [*[0 * alpha] * (len(kind) - 1), alpha]
        Image.fromarray(np.stack(channels, -1), kind).save(file)
    else:
        grey = np.where(alpha, 0, 40)
        pixels = {"P": grey, "RGB": np.stack([grey] * 3, -1), "I;16": grey * 256}[kind]
        image = Image.fromarray(pixels.astype(np.uint16 if kind == "I;16" else np.uint8))
        if kind == "P":
            image = image.convert("P")
        key = {"P": np.asarray(image).flat[-1].item(), "RGB": (40,) * 3, "I;16": 40 * 256}[kind]
        image.save(file, transparency=key)
    for image in shown(file):
        np.testing.assert_array_equal(np.round(image), 255 - np.stack([alpha] * 3, -1))


def test_a_folder_of_three_parts(tmp_path):
    write_folder(tmp_path, {"ant": 4, "bee": 3}, {"ant": 1, "bee": 2})
    shutil.copytree(tmp_path / "val", tmp_path / "Test")
    (tmp_path / "Test" / "bee" / "000.png").unlink()
    (tmp_path / "train" / "ant" / "more").mkdir()
    (tmp_path / "train" / "ant" / "000.png").rename(tmp_path / "train" / "ant" / "more" / "0.png")
    opened = open_streams(tmp_path, image_size=8)
    assert [len(part) for part in (opened.train, opened.validation, opened.test)] == [7, 3, 2]
    data = sample(opened, 7, 3)
    assert sorted(greys(data.train)) == list(range(7))
    assert (greys(data.validation), greys(data.test)) == ([0, 1, 2], [0, 2])


# ImageNet


def test_imagenet_parts(small_imagenet, jpegs):
    streams = open_streams("imagenet2012", data_dir=small_imagenet)
    again = open_streams("imagenet2012", data_dir=str(small_imagenet))
    assert streams.input_shape == (224, 224, 3)
    assert streams.validation is None
    assert len(streams.class_names) == 1000
    assert streams.class_names[:2] == ("n01440764", "n01443537")
    assert streams.mean == streams.std == (127.5, 127.5, 127.5)
    for stream, same, split in (
        (streams.train, again.train, "train"),
        (streams.test, again.test, "validation"),
    ):
        assert len(stream) == stream.shuffle_buffer == len(jpegs[split])
        elements = list(stream.elements.as_numpy_iterator())
        # As they were encoded, in the order of the files.
        assert sorted(elements) == sorted(jpegs[split])
        assert list(same.elements.as_numpy_iterator()) == elements
        assert stream.elements.map(stream.load).element_spec == LOADED
        for (content, label), (image, loaded_label) in zip(elements, loaded(stream), strict=True):
            assert loaded_label == label
            expected = as_network_input(Image.open(io.BytesIO(content)))
            np.testing.assert_allclose(image, expected, atol=JPEG_TOLERANCE)


@pytest.fixture
def copied_imagenet(small_imagenet: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_imagenet / "imagenet2012", tmp_path / "imagenet2012")
    return tmp_path


def edit_info(data_dir: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = data_dir / IMAGENET_IN_SMALL / "dataset_info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def test_imagenet_is_not_read_before_it_is_needed(copied_imagenet):
    for file in copied_imagenet.rglob("*.tfrecord*"):
        file.write_bytes(b"hello" * 99)
    edit_info(copied_imagenet, lambda info: info["splits"][0].update(shardLengths=["1281167"]))
    streams = open_streams("imagenet2012", data_dir=copied_imagenet)
    assert (len(streams.train), streams.train.shuffle_buffer) == (1_281_167, 16_384)
    with pytest.raises(tf.errors.DataLossError):
        list(streams.test.elements)


def test_imagenet_not_prepared(tmp_path, capfd):
    place = tmp_path / "data" / IMAGENET_IN_SMALL
    assert refusal(open_streams, "imagenet2012", data_dir=tmp_path / "data") == (
        f"imagenet2012: cannot be opened in {place}: not there; ImageNet has to be downloaded by "
        "hand from https://image-net.org and prepared with tensorflow-datasets first"
    )
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda folder: edit_info(folder, lambda info: info["splits"].pop()),
            "has no split 'validation' (its splits: train); prepare it from the archives of both",
        ),
        (
            lambda folder: (folder / IMAGENET_IN_SMALL / "dataset_info.json").write_text("{"),
            "failed to load json",
        ),
    ],
    ids=["no validation", "broken info"],
)
def test_imagenet_prepared_badly(copied_imagenet, spoil, problem):
    spoil(copied_imagenet)
    message = refusal(open_streams, "imagenet2012", data_dir=copied_imagenet)
    assert message.startswith(f"imagenet2012: cannot be opened in {copied_imagenet}")
    assert problem.lower() in message.lower()


# Samples


@pytest.mark.parametrize("count", [7, 33])
def test_sample_is_spread_evenly(tmp_path, count):
    write_folder(tmp_path, {"ant": 15, "bee": 25}, {"ant": 1, "bee": 1})
    streams = open_streams(tmp_path, image_size=8)
    data = sample(streams, count, 1)
    chosen = greys(data.train)
    assert len(chosen) == count
    gaps = np.diff([*chosen, 40])
    assert chosen[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() <= 2 * 40 / count
    assert data.train.y.tolist() == [int(grey >= 15) for grey in chosen]


def test_sample_is_what_a_network_sees(small_imagenet):
    streams = open_streams("imagenet2012", data_dir=small_imagenet, image_size=16)
    data = sample(streams, 10, 1_000)
    assert data.validation is None
    assert data.class_names == streams.class_names
    assert (data.mean, data.std) == (streams.mean, streams.std)
    assert data.input_shape == streams.input_shape
    assert (len(data.train), len(data.test)) == (10, 7)
    for split in (data.train, data.test):
        assert (split.x.dtype, split.y.dtype) == (np.float32, np.int32)
        assert split.x.shape == (len(split), 16, 16, 3)
    for place, (image, label) in enumerate(loaded(streams.test)):
        expected = center_crop(tf.constant(image), streams.input_shape)
        np.testing.assert_allclose(data.test.x[place], expected, atol=1e-6)
        assert data.test.y[place] == label


def test_sample_of_a_shuffled_part_does_not_walk_through_it(folder):
    streams = open_streams(folder, image_size=8)
    near = dataclasses.replace(streams, train=dataclasses.replace(streams.train, shuffle_buffer=4))
    assert greys(sample(near, 2, 1).train) == [0, 2]
    assert greys(sample(near, 6, 1).train) == [0, 1, 2, 3, 4, 5]
    assert greys(sample(streams, 2, 1).train) == [0, 6]


def test_sample_of_an_unreadable_image(folder):
    streams = open_streams(folder)
    file = folder / "val" / "ant" / "000.png"
    file.write_text("hello")
    message = refusal(sample, streams, 1, 1)
    assert message.startswith(f"test: an image cannot be read: {file} (unknown format)")
    assert "function_node" not in message


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_broken_files_are_named_when_one_is_met(folder):
    streams = open_streams(folder)
    ant, bee = folder / "train" / "ant", folder / "val" / "bee"
    picture(60, 60).save(ant / "001.jpg")
    streams = open_streams(folder)
    for file in (ant / "001.jpg", ant / "002.png", bee / "001.png"):
        half(file)

    def read():
        with naming_unreadable(streams):
            loaded(streams.train)

    message = refusal(read)
    assert message.startswith(f"train: 2 of 8 images cannot be read: {ant / '001.jpg'} (jpeg::")
    unreadable = "(image file is truncated"
    assert f", {ant / '002.png'} {unreadable}" in message
    assert f"); test: 1 of 3 images cannot be read: {bee / '001.png'} {unreadable}" in message
    assert message.endswith("); replace or remove them and run it again")
    assert "{{" not in message


def test_what_is_no_fault_of_a_file_stays_what_it_is(folder):
    streams = open_streams(folder)
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="something else"),
        naming_unreadable(streams),
    ):
        tf.debugging.Assert(False, ["something else"])


# The crop


def test_center_crop_by_hand():
    """14 of 16 rows and 28 of 32 columns, from the second and third on; two become one."""
    rows, columns = np.meshgrid(np.arange(16), np.arange(32), indexing="ij")
    image = tf.constant(np.stack([rows, columns, 0 * rows], -1).astype(np.float32))
    cropped = center_crop(image, (7, 14, 3)).numpy()
    # Pixels count by 1, 3, 3, 1, those at the border, where one is missing, by 3, 3, 1.
    at_border = (0 * 3 + 1 * 3 + 2 * 1) / 7
    expected_rows = 1 + np.array([at_border, 2.5, 4.5, 6.5, 8.5, 10.5, 13 - at_border])
    expected_columns = 2 + np.r_[at_border, np.arange(2.5, 25, 2), 27 - at_border]
    np.testing.assert_allclose(cropped[..., 0], expected_rows[:, None] + np.zeros(14), rtol=1e-5)
    np.testing.assert_allclose(cropped[..., 1], expected_columns + np.zeros((7, 1)), rtol=1e-5)
    assert not cropped[..., 2].any()
    assert center_crop(image, (16, 32, 3)) is image  # of the network's size


# Arguments


def test_unknown_source():
    assert refusal(open_streams, Path("nowhere")).startswith(
        "data set 'nowhere': expected 'imagenet2012', or a folder with the folders 'train'"
    )


def test_sizes_refused(folder):
    assert refusal(open_streams, folder, image_size=0) == "image_size=0: expected 1 or more"
