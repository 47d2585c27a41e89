"""What data sets are split into, normalised by, and refused for."""

from __future__ import annotations

import contextlib
import shutil
import socket
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refusals
from PIL import Image
from sklearn.datasets import load_digits

from keras_autoshrink.data import images
from keras_autoshrink.data.images import ImageData, Split, load_images

CIFAR10_IN_SMALL = Path("cifar10", "3.0.2")


def numbered(count: int, height: int = 4, width: int = 5, first: int = 0) -> np.ndarray:
    """Pictures of one colour each, no two alike: red and green spell the picture's number."""
    number = np.arange(first, first + count)
    x = np.zeros((count, height, width, 3), np.uint8)
    x[..., 0], x[..., 1] = (part[:, None, None] for part in (number % 256, number // 256))
    x[..., 2] = 7
    return x


def write_folder(root: Path, classes: dict[str, int]) -> Path:
    """A folder of PNG files: so many numbered pictures for each class."""
    first = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(numbered(count, first=first)):
            Image.fromarray(image).save(root / name / f"{number}.png")
        first += count
    return root


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes an .npz file of 40 numbered pictures in 4 classes; arguments add or replace."""

    def write(**arrays: Any) -> Path:
        path = tmp_path / "data.npz"
        arrays = {"x_train": numbered(40), "y_train": np.arange(40) % 4, **arrays}
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path

    return write


@pytest.fixture(scope="session")
def small_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with CIFAR-10 as tensorflow-datasets prepares it, of other and fewer pictures.

    70 of them to train on, 30 to test on.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import cifar

    with registered.skip_registration():

        class Small(cifar.Cifar10):
            name = "cifar10"

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                self.info.features["label"].names = [f"class {label}" for label in range(10)]
                return {"train": self.pictures(0, 70), "test": self.pictures(100, 30)}

            def pictures(self, first: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
                for key, image in enumerate(numbered(count, 32, 32, first)):
                    yield key, {"id": str(key), "image": image, "label": key % 10}

    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Small(data_dir=folder).download_and_prepare()
    return folder


def pixels(split: Split, data: ImageData) -> np.ndarray:
    """The pictures as they were before normalisation."""
    restored = split.x * np.float32(data.std) + np.float32(data.mean)
    np.testing.assert_allclose(restored, np.rint(restored), atol=1e-3)
    return np.rint(restored).astype(np.uint8)


def numbers(split: Split, data: ImageData) -> set[int]:
    """The numbers of numbered pictures."""
    first = pixels(split, data)[:, 0, 0].astype(int)
    found = set((first[:, 0] + 256 * first[:, 1]).tolist())
    assert len(found) == len(split)
    return found


def contents(*labelled: tuple[np.ndarray, np.ndarray]) -> Counter[tuple[bytes, int]]:
    """How often each picture occurs with each label."""
    return Counter(
        (image.tobytes(), int(label))
        for x, y in labelled
        for image, label in zip(x.astype(np.uint8), y, strict=True)
    )


def same(first: Split | None, second: Split | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first.x, second.x) and np.array_equal(first.y, second.y)


def refusal(source: Any, purpose: str = "train", **options: Any) -> str:
    return refusals.refusal(load_images, source, purpose=purpose, **options)


# Sources without parts of their own: all of them are split alike.


@pytest.fixture(scope="session")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """Source, pixels, labels and class names."""
    folder = tmp_path_factory.mktemp("undivided")
    x, y = numbered(60), np.arange(60) // 10 % 3
    np.savez(folder / "data.npz", x_train=x, y_train=y)
    classes = {"ant": 20, "bee": 25, "cat": 15}
    digits = load_digits()
    return {
        "digits": ("digits", digits.images[..., None], digits.target, tuple("0123456789")),
        "npz": (folder / "data.npz", x, y, ("0", "1", "2")),
        "folder": (
            write_folder(folder / "pictures", classes),
            numbered(60, 6, 6),
            np.repeat([0, 1, 2], [20, 25, 15]),
            ("ant", "bee", "cat"),
        ),
    }


@pytest.mark.parametrize("name", ["digits", "npz", "folder"])
def test_an_undivided_source_is_split_by_its_seed(undivided, name):
    source, x, y, names = undivided[name]
    data, again, other = (
        load_images(source, purpose="train", seed=seed, image_size=6) for seed in (0, 0, 1)
    )
    assert data.class_names == names
    assert data.input_shape == x.shape[1:]
    # A search sees two splits of what a training trains on, so nothing of the test part.
    searched = load_images(source, purpose="search", seed=0, image_size=6)
    assert (data.validation, searched.test) == (None, None)
    halves = (searched.train, searched.validation)
    trained_on = contents((pixels(data.train, data), data.train.y))
    assert contents(*((pixels(s, searched), s.y) for s in halves)) == trained_on
    # Every image is in one of them, and each class has the same share of all.
    splits = (data.train, data.test)
    assert contents(*((pixels(s, data), s.y) for s in splits)) == contents((x, y))
    shares = (0.8, 0.2, 0.64, 0.16)
    for split, share in zip((*splits, *halves), shares, strict=True):
        np.testing.assert_allclose(np.bincount(split.y), share * np.bincount(y), atol=1.5)
        assert (split.x.dtype, split.y.dtype) == (np.float32, np.int32)
        assert split.x.shape == (len(split), *data.input_shape)
    for part in ("train", "test"):
        assert same(getattr(data, part), getattr(again, part))
        assert not same(getattr(data, part), getattr(other, part))
    # Normalised by the training images.
    train = pixels(data.train, data).astype(float)
    np.testing.assert_allclose(data.mean, train.mean(axis=(0, 1, 2)), rtol=1e-9)
    std = train.std(axis=(0, 1, 2))
    np.testing.assert_allclose(data.std, np.where(std > 0, std, 1), rtol=1e-9)


# .npz files

VAL = {"x_val": numbered(8, first=100), "y_val": np.arange(8) % 4}
TEST = {"x_test": numbered(8, first=200), "y_test": np.arange(8) % 4}


@pytest.mark.parametrize(
    ("arrays", "sizes"),
    [
        ({}, (25, 7, 8)),
        (VAL, (32, 8, 8)),
        (TEST, (32, 8, 8)),
        ({**VAL, **TEST}, (40, 8, 8)),
    ],
    ids=["train", "train-val", "train-test", "train-val-test"],
)
def test_npz_parts_are_taken_as_they_are_and_the_others_split_off(npz, arrays, sizes):
    path = npz(**arrays)
    data = load_images(path, purpose="train")
    searched = load_images(path, purpose="search")
    splits = (searched.train, searched.validation, data.test)
    assert tuple(map(len, splits)) == sizes
    pairs = zip(splits, (searched, searched, data), strict=True)
    found = [numbers(split, of) for split, of in pairs]
    assert found[1] == set(range(100, 108)) if "x_val" in arrays else found[1] < set(range(40))
    assert found[2] == set(range(200, 208)) if "x_test" in arrays else found[2] < set(range(40))
    assert len(set.union(*found)) == sum(sizes)
    assert searched.test is None
    # A training has no validation images but the source's own.
    if "x_val" in arrays:
        assert same(searched.train, data.train)
        assert same(searched.validation, data.validation)
    else:
        assert data.validation is None
        assert numbers(data.train, data) == found[0] | found[1]


def test_npz_parts_are_normalised_by_the_training_part(npz):
    data = load_images(npz(**VAL, **TEST), purpose="train")
    # The red of 0 to 39; of 100 to 107; of 200 to 207.
    assert data.mean[0] == pytest.approx(19.5)
    assert data.std[0] == pytest.approx(np.arange(40).std())
    assert data.train.x[..., 0].mean() == pytest.approx(0, abs=1e-6)
    assert data.train.x[..., 0].std() == pytest.approx(1)
    assert data.validation.x[..., 0].mean() * data.std[0] == pytest.approx(103.5 - 19.5)
    assert data.test.x[..., 0].mean() * data.std[0] == pytest.approx(203.5 - 19.5)


def test_constant_channel_is_only_centred(npz):
    x = numbered(40).astype(np.float32)
    x[..., 2] = 0.1
    test = x.copy()
    test[..., 2] += 3
    data = load_images(npz(x_train=x, x_test=test, y_test=np.arange(40) % 4), purpose="train")
    assert data.std[2] == 1
    assert data.mean[2] == pytest.approx(0.1)
    assert not data.train.x[..., 2].any()
    np.testing.assert_allclose(data.test.x[..., 2], 3, rtol=1e-6)


def test_statistics_of_many_pixels(npz):
    """A float32 sum of these pixels is wrong in the fourth digit."""
    x = np.zeros((48, 320, 320, 3), np.uint8)
    x[...] = np.random.default_rng(0).integers(200, 256, (48, 320, 320, 1))
    y = np.arange(48) % 4
    data = load_images(
        npz(x_train=x, y_train=y, x_val=x[:4], y_val=y[:4], **{"x_test": x[:4], "y_test": y[:4]}),
        purpose="search",
    )
    np.testing.assert_allclose(data.mean, x[..., 0].sum(dtype=np.int64) / x[..., 0].size, rtol=1e-9)
    np.testing.assert_allclose(data.std, x[..., 0].std(dtype=np.float64), rtol=1e-9)


def test_npz_grayscale(npz):
    gray = np.arange(40 * 20).reshape(40, 4, 5) % 251
    data = load_images(
        npz(x_train=gray, x_val=gray[..., None], y_val=np.arange(40) % 4), purpose="search"
    )
    assert data.input_shape == (4, 5, 1)
    assert data.train.x.dtype == np.float32
    restored = data.validation.x[..., 0] * data.std[0] + data.mean[0]
    np.testing.assert_allclose(restored, gray.astype(float), atol=1e-3)


def test_npz_of_named_classes(npz):
    names = np.array(["dog", "ant", "cat", "bee"])
    arrays = {**TEST, "y_train": names[np.arange(40) % 4], "y_test": names[TEST["y_test"]]}
    path = npz(**arrays)
    data = load_images(path.rename(path.with_name("DATA.NPZ")), purpose="train")
    assert data.class_names == ("ant", "bee", "cat", "dog")
    first = pixels(data.train, data)[:, 0, 0, 0]
    assert data.train.y.tolist() == [[3, 0, 2, 1][number % 4] for number in first]
    assert data.test.y.tolist() == [3, 0, 2, 1] * 2
    path = npz(**{**arrays, "y_test": np.array(["emu"] * 8)})
    assert refusal(path) == f"{path}: y_test: has the label 'emu', which y_train has not"


def test_npz_search_does_not_read_the_test_part_or_other_arrays(npz):
    unreadable = np.array([None])
    path = npz(x_test=unreadable, y_test=unreadable, notes=unreadable)
    assert len(load_images(path, purpose="search").train) == 32
    assert refusal(path).startswith(f"{path}: not a readable .npz file: Object arrays")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y_train": None}, "has no array 'y_train' (its arrays: ['x_train'])"),
        ({"x_val": VAL["x_val"]}, "has no array 'y_val' (its arrays: "),
        ({"x_train": np.array(3)}, "train: images have shape (); expected (n, height"),
        # All that check_parts refuses is in test_image_checks.py.
        ({"y_train": np.arange(40) % 4 + 1}, "train: label 4 is not one of 0 to 3"),
        ({**VAL, "x_val": numbered(8, 5, 5)}, "images of val have shape (5, 5, 3), those of train"),
        # Here a fifth of a fifth's rest holds none of them.
        (
            {"x_train": numbered(50), "y_train": np.r_[[0] * 48, 1, 1]},
            "too few images to split by class: 2 of class '1'; 7 of each are enough",
        ),
        ({"y_train": np.r_[[0] * 39, 1]}, "too few images to split by class: 1 of class '1'; 7 of"),
    ],
)
def test_npz_refused(npz, arrays, problem):
    path = npz(**arrays)
    for purpose in ("search", "train"):
        assert refusal(path, purpose).startswith(f"{path}: {problem}")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[600:700] = bytes(byte ^ 255 for byte in content[600:700])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "No such file or directory"),
        (halve, "no zip archive, or one cut short"),
        (flip, "Bad CRC-32 for file 'x_train.npy'"),
    ],
    ids=["absent", "truncated", "corrupt"],
)
def test_npz_unreadable(npz, spoil, problem):
    path = npz()
    spoil(path)
    assert refusal(path) == f"{path}: not a readable .npz file: {problem}"


# Folders of images


def test_folder_of_all_kinds_of_images(tmp_path, caplog):
    """Formats, modes and sizes; what is hidden is passed over, and what is no image is named."""
    # A gray that the palette of GIF and of convert("P") has.
    colours = {"blue": (0, 0, 255), "gray": (102, 102, 102)}
    for name, colour in colours.items():
        (tmp_path / name / "more").mkdir(parents=True)
        (tmp_path / name / "notes.txt").write_text("not a picture")
        (tmp_path / name / "._0.png").write_bytes(b"what macOS leaves")
        image = Image.new("RGB", (12, 9), colour)
        for number, suffix in enumerate(("bmp", "GIF", "jpeg", "JPG", "png", "webp", "tif")):
            image.resize((9 + number, 12)).save(tmp_path / name / f"{number}.{suffix}")
        image.save(tmp_path / name / "more" / "7.TIFF")
        image.save(tmp_path / name / "more" / "8.jfif", "JPEG")
        (tmp_path / name / "more" / "back").symlink_to(tmp_path / name)
        image.convert("P").save(tmp_path / name / "palette.png")
        image.convert("RGBA").save(tmp_path / name / "alpha.png")
    Image.new("L", (5, 5), 102).save(tmp_path / "gray" / "gray.png")
    Image.fromarray(np.full((5, 5), 102 * 256 + 17, np.uint16)).save(tmp_path / "gray" / "deep.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "README.md").write_text("not a class")
    (tmp_path / "gray" / "phone.heic").touch()
    (tmp_path / "gray" / "Thumbs.db").touch()
    image.save(tmp_path / "of_no_class.png")

    data = load_images(tmp_path, purpose="train", image_size=10)
    assert data.class_names == ("blue", "gray")
    assert data.input_shape == (10, 10, 3)
    splits = (data.train, data.test)
    assert sum(np.bincount(split.y, minlength=2) for split in splits).tolist() == [11, 13]
    assert caplog.messages == [
        f"{tmp_path}: passed over 4 files beside 24 images, in no class or of no suffix of an "
        "image: blue/notes.txt, gray/notes.txt, gray/phone.heic, of_no_class.png"
    ]
    for split in splits:
        restored = split.x * np.float32(data.std) + np.float32(data.mean)
        expected = np.array(list(colours.values()))[split.y][:, None, None]
        np.testing.assert_allclose(*np.broadcast_arrays(restored, expected), atol=5)


@pytest.mark.parametrize(
    ("classes", "place", "problem"),
    [
        ({"ant": 9}, "", "expected two or more folders, one a class; found 1"),
        ({"ant": 9, "bee": 1}, "", "too few images to split by class: 1 of class 'bee'; 7 of each"),
        ({"ant": 9, "bee": 0, "cat": 9}, "/bee", "holds no images (.bmp, .gif, "),
    ],
)
def test_folder_refused(tmp_path, classes, place, problem):
    write_folder(tmp_path, classes)
    assert refusal(tmp_path).startswith(f"{tmp_path}{place}: {problem}")


@pytest.mark.parametrize(
    ("parts", "searched", "trained"),
    [
        # The sizes of training, validation and test part; of each class there are half as many.
        ({"train": 20, "test": 10}, (16, 4), (20, None, 10)),
        ({"train": 20, "valid": 8, "test": 10}, (20, 8), (20, 8, 10)),
        ({"train": 20, "val": 8}, (20, 8), (20, None, 8)),
        ({"Train": 20, "Validation": 8}, (20, 8), (20, None, 8)),
        ({"TRAINING": 20, "testing": 10}, (16, 4), (20, None, 10)),
        ({"train": 20}, (12, 4), (16, None, 4)),
    ],
)
def test_folders_of_parts(tmp_path, parts, searched, trained):
    for part, count in parts.items():
        write_folder(tmp_path / part, {"ant": count // 2, "bee": count // 2})
    search = load_images(tmp_path, purpose="search", image_size=4)
    training = load_images(tmp_path, purpose="train", image_size=4)
    assert search.class_names == training.class_names == ("ant", "bee")
    assert (len(search.train), len(search.validation), search.test) == (*searched, None)
    sizes = (training.train, training.validation, training.test)
    assert tuple(part and len(part) for part in sizes) == trained


def test_a_part_without_classes_is_passed_over(tmp_path, caplog):
    write_folder(tmp_path / "train", {"ant": 10, "bee": 10})
    write_folder(tmp_path, {"test": 3, "notes": 0})
    assert len(load_images(tmp_path, purpose="train").test) == 4
    assert caplog.messages == [
        f"{tmp_path}: passed over 'notes', 'test', in which no part of the data has its folders of "
        "classes"
    ]


@pytest.mark.parametrize(
    ("folders", "place", "problem"),
    [
        (("train", "test"), "/train", "expected two or more folders, one a class; found 0 (3 im"),
        ((), "", "expected two or more folders, one a class; found 0; give a folder with one fo"),
        (("only",), "", "expected two or more folders, one a class; found 1 ('only'); give a fo"),
        (("val/a", "val/b", "test/a"), "", "has no folder 'train' beside 'test', 'val'; expected"),
        (("train/a", "val/a", "valid/a"), "", "'val' and 'valid' are the same part of a data set"),
        (
            ("train/a", "train/b", "test/a"),
            "/test",
            "has no folder 'b', but {0}/train has; both need the same classes",
        ),
        (
            ("training_set/a", "training_set/b", "test_set/a", "test_set/b"),
            "",
            "its folders 'test_set', 'training_set' all hold the folders 'a', 'b', and no images",
        ),
        (("a/train", "a/test", "b/train", "b/test"), "", "its folders 'a', 'b' all hold the fold"),
    ],
)
def test_layouts_refused(tmp_path, folders, place, problem):
    for folder in folders:
        write_folder(tmp_path, {folder: 3})
    for purpose in ("search", "train"):
        message = refusal(tmp_path, purpose)
        assert message.startswith(f"{tmp_path}{place}: {problem.format(tmp_path)}")


@pytest.fixture
def noisy_folder(tmp_path: Path) -> Path:
    """20 JPEG and PNG files of noise in each of two classes."""
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(20):
            noise = generator.integers(0, 256, (40, 40, 3), np.uint8)
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(noise).save(tmp_path / name / f"{number:02}.{suffix}")
    return tmp_path


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (halve, "image file is truncated"),
        (lambda file: file.write_text("hello"), "unknown format"),
        (lambda file: (file.unlink(), file.mkdir()), "Is a directory"),
    ],
    ids=["truncated", "text", "folder"],
)
def test_folder_with_a_file_that_is_no_image(noisy_folder, caplog, spoil, problem):
    file = noisy_folder / "bee" / "03.png"
    spoil(file)
    assert refusal(noisy_folder, strict=True).startswith(f"{file}: not a readable image: {problem}")
    assert not caplog.messages
    data = load_images(noisy_folder, purpose="train")
    assert data.source_images == 39
    (line,) = caplog.messages
    begin = f"{noisy_folder}: skipped 1 of 40 images that cannot be read: bee/03.png ({problem}"
    assert line.startswith(begin)
    assert "\n" not in line
    caplog.clear()
    # As if it had never been there.
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    without = load_images(noisy_folder, purpose="train", strict=True)
    for split in ("train", "test"):
        assert same(getattr(data, split), getattr(without, split))
    assert not caplog.messages


def test_a_class_of_which_nothing_is_left_is_refused(noisy_folder):
    for file in (noisy_folder / "bee").iterdir():
        halve(file)
    message = refusal(noisy_folder)
    assert message.startswith(
        f"{noisy_folder / 'bee'}: none of its 20 images can be read: bee/00.jpg (image file is"
    )


# Classes that one part alone has


def test_our_own_split_never_misses_a_class(npz):
    """Of two, three or so images a fifth can be none: it is refused then."""
    for rare in range(2, 8):
        y = np.r_[np.zeros(60, int), np.ones(rare, int), np.full(rare, 2)]
        path = npz(x_train=numbered(len(y)), y_train=y)
        for seed in range(8):
            try:
                data = load_images(path, purpose="search", seed=seed)
            except ValueError as error:
                assert rare < 7
                # As many as there are, not as are left once a test part is split off.
                assert f"too few images to split by class: {rare} of" in str(error)  # noqa: PT017
            else:
                assert set(data.train.y) == set(data.validation.y) == {0, 1, 2}


def test_validation_part_that_misses_a_class(npz, caplog):
    missing = {"x_val": numbered(8, first=100), "y_val": np.arange(8) % 3}
    path = npz(**missing)
    problem = "has no image of class '3' of 4, which {0}: train has; the score would not see it"
    assert refusal(path, "search") == f"{path}: val: {problem.format(path)}"
    assert load_images(path, purpose="train").class_names == ("0", "1", "2", "3")  # only watched
    assert not caplog.messages


# CIFAR-10


@pytest.fixture
def small_proxy(monkeypatch):
    assert images._CIFAR10_PROXY == (5_000, 1_000)
    monkeypatch.setattr(images, "_CIFAR10_PROXY", (50, 10))


@pytest.mark.usefixtures("small_proxy")
def test_cifar10_search_draws_from_the_training_part(small_cifar10):
    data, again, other = (
        load_images("cifar10", purpose="search", seed=seed, data_dir=str(small_cifar10))
        for seed in (0, 0, 1)
    )
    assert data.test is None
    assert data.class_names == tuple(f"class {label}" for label in range(10))
    assert data.input_shape == (32, 32, 3)
    assert np.bincount(data.train.y).tolist() == [5] * 10
    assert np.bincount(data.validation.y).tolist() == [1] * 10
    trained_on, scored_on = numbers(data.train, data), numbers(data.validation, data)
    assert not trained_on & scored_on
    assert trained_on | scored_on < set(range(70))
    # Labels went with their images.
    np.testing.assert_array_equal(pixels(data.train, data)[:, 0, 0, 0] % 10, data.train.y)
    assert same(data.train, again.train)
    assert same(data.validation, again.validation)
    assert trained_on != numbers(other.train, other)


def test_cifar10_training_takes_everything(small_cifar10):
    data = load_images("cifar10", purpose="train", data_dir=small_cifar10)
    assert data.validation is None
    assert numbers(data.train, data) == set(range(70))
    assert numbers(data.test, data) == set(range(100, 130))


@pytest.mark.usefixtures("small_proxy")
def test_cifar10_search_does_not_read_the_test_part(small_cifar10, tmp_path):
    shutil.copytree(small_cifar10 / "cifar10", tmp_path / "cifar10")
    (test,) = tmp_path.rglob("*test.tfrecord*")
    test.write_bytes(b"not a record")
    assert len(load_images("cifar10", purpose="search", data_dir=tmp_path).train) == 50
    place = tmp_path / CIFAR10_IN_SMALL
    assert f"cifar10: cannot be loaded from {place}: " in refusal("cifar10", data_dir=tmp_path)


def test_cifar10_prepared_badly(small_cifar10, tmp_path):
    shutil.copytree(small_cifar10 / "cifar10", tmp_path / "cifar10")
    (spoilt,) = tmp_path.rglob("*train.tfrecord*")
    spoilt.write_bytes(b"hello" * 99)
    message = refusal("cifar10", "search", data_dir=tmp_path)
    assert message.startswith(f"cifar10: cannot be loaded from {tmp_path}")
    assert "corrupted record at 0" in message
    assert "{{function_node" not in message


@pytest.mark.timeout(60)
def test_cifar10_absent_and_out_of_reach(tmp_path, monkeypatch, capfd):
    """Without a network: said at once, in silence, and nothing is left behind."""
    with contextlib.closing(socket.socket()) as unanswered:
        unanswered.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unanswered.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.upper(), address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        # As if this process had asked for something before there were these proxies.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        monkeypatch.setattr(urllib.request, "_opener", direct)
        message = refusal("cifar10", data_dir=tmp_path / "data")
    folder = tmp_path / "data" / CIFAR10_IN_SMALL
    assert message.startswith(f"cifar10: cannot be loaded from {folder}: not there, and https://")
    assert " does not answer: " in message
    assert message.endswith("Connection refused")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# Proxies


def test_a_proxy_is_balanced_and_drawn_from_what_a_search_may_see(npz):
    path = npz()
    whole = load_images(path, purpose="search")
    trained = load_images(path, purpose="train")
    data = load_images(path, purpose="search", proxy=(12, 8))
    assert np.bincount(data.train.y).tolist() == [3] * 4
    assert np.bincount(data.validation.y).tolist() == [2] * 4
    drawn = [numbers(split, data) for split in (data.train, data.validation)]
    assert not drawn[0] & drawn[1]
    assert not (drawn[0] | drawn[1]) & numbers(trained.test, trained)
    assert (drawn[0] | drawn[1]) < numbers(whole.train, whole) | numbers(whole.validation, whole)
    # Normalised by its own statistics, not by those of all images.
    assert data.train.x.mean(axis=(0, 1, 2))[:2] == pytest.approx([0, 0], abs=1e-6)
    assert same(load_images(path, purpose="search", proxy=(12, 8)).train, data.train)
    other = load_images(path, purpose="search", proxy=(12, 8), seed=1)
    assert numbers(other.train, other) != drawn[0]


def test_a_proxy_is_scored_on_the_sources_own_validation_part(npz):
    data = load_images(npz(**VAL, **TEST), purpose="search", proxy=(20, 4))
    assert (len(data.train), len(data.validation)) == (20, 4)
    assert numbers(data.validation, data) < set(range(100, 108))


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ((12, 0), "0 images cannot be balanced over its 4 classes; take a multiple of 4"),
        ((24, 12), "has 8 images of class '0'; 24 + 12 images take 9 of each class"),
    ],
)
def test_proxy_refused(npz, proxy, problem):
    path = npz()
    assert refusal(path, "search", proxy=proxy) == f"{path}: train: {problem}"


# Arguments


def test_unknown_source():
    assert refusal(Path("mnist")).startswith("data set 'mnist': expected 'digits', 'cifar10', ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"purpose": "test"}, "purpose='test': expected 'search' or 'train'"),
        ({"seed": 2**32}, "seed=4294967296: expected 0 to 2**32 - 1"),
        ({"image_size": 0}, "image_size=0: expected 1 or more"),
        ({"proxy": (10, 10)}, "proxy=(10, 10): only a search has one; expected None"),
    ],
)
def test_argument_refused(options, message):
    assert refusal("digits", **options) == message


def test_what_is_streamed_is_not_loaded():
    assert "is for training a network only, by data.streams.open_streams" in refusal("imagenet2012")
