"""What the commands do about files of images that are cut in half."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_autoshrink.cell import Cell
from keras_autoshrink.commands.cli import main

pytestmark = pytest.mark.usefixtures("one_cell_in_each_stage")

OPTIONS = "--image-size 8 --nodes 2 --candidates 1 --keep-fraction 1 --epochs 1 --filters 4"


def write_images(folder, classes=("cats", "dogs"), count=20):
    """Noise in two shades, as JPEG and PNG files."""
    generator = np.random.default_rng(0)
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = generator.integers(0, 100, (80, 80, 3)) + 150 * shade
            suffix = "png" if number % 2 else "jpg"
            image = Image.fromarray(noise.astype(np.uint8))
            image.save(folder / name / f"{number:02}.{suffix}")
    return folder


def halve(*files):
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def refused(capsys, command, status=2):
    """The one line on standard error with which a command refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == status
    (line,) = [n for n in capsys.readouterr().err.splitlines() if "JPEG library" not in n]
    return line.removeprefix("autoshrink: error: ")


@pytest.mark.slow
def test_a_search_says_which_images_it_skipped(images, tmp_path):
    halve(images / "cats" / "02.jpg", images / "dogs" / "05.png")
    command = f"search --dataset {images} --directory {tmp_path}/runs {OPTIONS}"
    done = subprocess.run(
        [sys.executable, "-m", "keras_autoshrink.commands.cli", *command.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"{images}: skipped 2 of 40 images that cannot be read: cats/02.jpg (image file is trunc"
    )
    assert ", dogs/05.png (image file is trunc" in line


def test_strict_refuses_them(images, tmp_path, capsys):
    command = f"search --strict --dataset {images} --directory {tmp_path}/a {OPTIONS}"
    assert main(command.split()) == 0
    halve(images / "cats" / "02.jpg")
    commands = (
        f"search --directory {tmp_path}/runs {OPTIONS}",
        f"train shrinkcnn --output {tmp_path}/m.keras",
    )
    for command in commands:
        line = refused(capsys, f"{command} --dataset {images} --strict")
        assert line.startswith(f"{images}/cats/02.jpg: not a readable image: image file is trunc")
    assert not list(tmp_path.glob("m.keras*"))
    assert not (tmp_path / "runs").exists()
    line = refused(capsys, f"search --task text --directory {tmp_path}/runs --strict")
    assert line == "--strict: is for images, this is text"


@pytest.mark.slow
def test_a_repaired_image_is_noticed(images, tmp_path, capsys, caplog):
    """With it the images are split otherwise than the search split them."""
    broken = images / "cats" / "02.jpg"
    whole = broken.read_bytes()
    halve(broken)
    search = f"search --dataset {images} --directory {tmp_path}/runs {OPTIONS}"
    assert main(search.split()) == 0
    run, model = tmp_path / "runs" / "images", tmp_path / "m.keras"
    assert json.loads((run / "settings.json").read_text())["source_images"] == 39
    train = f"train {run} --epochs 1 --width 0.1 --output"
    caplog.clear()
    assert main(f"{train} {tmp_path}/as_searched.keras".split()) == 0
    assert len(caplog.messages) == 1
    assert "skipped 1 of 40 images" in caplog.messages[0]

    broken.write_bytes(whole)
    assert "source_images=39, not 40" in refused(capsys, search)
    caplog.clear()
    assert main(f"{train} {model}".split()) == 0
    assert caplog.messages == [
        f"{images}: has 40 images that can be read, it had 39: they are split otherwise; images "
        "that the search has seen may be in the test"
    ]
    assert json.loads((tmp_path / "m.keras.json").read_text())["source_images"] == 40

    halve(broken)
    line = refused(capsys, f"export {model} --quantization float32")
    assert line == (
        f"{model}: was trained on other data: {images}: has 39 images that can be read, it had "
        "40: they are split otherwise"
    )
    broken.write_bytes(whole)
    caplog.clear()
    assert main(f"export {model} --quantization float32".split()) in (0, 1)
    assert not caplog.messages


def test_a_training_on_a_stream_of_files_names_the_broken_ones(tmp_path, capsys):
    for part, count in (("train", 20), ("val", 5)):
        write_images(tmp_path / "images" / part, count=count)
    train, val = (tmp_path / "images" / part / "dogs" for part in ("train", "val"))
    shutil.copy(val / "02.jpg", tmp_path / "whole.jpg")
    halve(train / "05.png", train / "06.jpg", val / "02.jpg")
    Cell.dense(("input", "conv1x1")).save(tmp_path / "cell.json")
    command = f"train {tmp_path}/cell.json --dataset {tmp_path}/images --image-size 16"
    command += " --recipe imagenet --epochs 1 --batch-size 8 --width 0.2 --quiet"
    command += f" --output {tmp_path}/m.keras"
    line = refused(capsys, command)
    assert line.startswith(f"train: 2 of 40 images cannot be read: {train / '05.png'} (Invalid PNG")
    assert f", {train / '06.jpg'} (jpeg" in line
    assert f"; test: 1 of 10 images cannot be read: {val / '02.jpg'} (jpeg" in line
    assert line.endswith("; replace or remove them and run it again")

    for file in (train / "05.png", train / "06.jpg"):
        file.unlink()
    line = refused(capsys, command)
    assert line.startswith(f"test: 1 of 10 images cannot be read: {val / '02.jpg'} (jpeg")
    # What was trained is kept, and with it the same command ends.
    shutil.copy(tmp_path / "whole.jpg", val / "02.jpg")
    capsys.readouterr()
    assert main(command.split()) == 0
    assert "going on after epoch 1 of 1" in capsys.readouterr().out
