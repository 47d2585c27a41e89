"""What the commands do about files of images that are cut in half."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from PIL import Image
from refusals import refused

import keras_autoshrink as kas
from keras_autoshrink.report import saved_search

CELL = kas.Cell.dense(("input", "conv1x1"))


@pytest.fixture
def images(tmp_path):
    """20 PNG files of noise in each of two shades."""
    generator = np.random.default_rng(0)
    for shade, name in enumerate(("cats", "dogs")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            noise = generator.integers(0, 100, (20, 20, 3)) + 150 * shade
            image = Image.fromarray(noise.astype(np.uint8))
            image.save(tmp_path / "images" / name / f"{number:02}.png")
    return tmp_path / "images"


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_strict_refuses_them(images, tmp_path, capsys):
    halve(images / "cats" / "02.png")
    CELL.save(tmp_path / "cell.json")
    for command in (
        f"search --directory {tmp_path}/runs --nodes 2",
        f"train {tmp_path}/cell.json --output {tmp_path}/m.keras",
    ):
        line = refused(capsys, f"{command} --dataset {images} --strict")
        assert f"error: {images}/cats/02.png: not a readable image: image file is trunc" in line
    assert not list(tmp_path.glob("m.keras*"))
    assert not (tmp_path / "runs").exists()
    line = refused(capsys, f"search --task text --directory {tmp_path}/runs --strict")
    assert "--strict: is for images, this is text" in line


def test_an_image_that_broke_or_was_repaired_is_noticed(
    images, tmp_path, monkeypatch, capsys, caplog
):
    """Without it, or with it, the images are split otherwise than before."""
    halve(images / "cats" / "02.png")
    before = {"dataset": str(images), "image_size": 8, "split_seed": 0, "source_images": 40}
    changed = f"{images}: has 39 images that can be read, it had 40: they are split otherwise"
    monkeypatch.setattr(saved_search, "settings_of", lambda cell: before)
    CELL.save(tmp_path / "cell.json")
    # It ends before it trains: no width fits.
    refused(capsys, f"train {tmp_path}/cell.json --target-macs 1 --output {tmp_path}/m.keras")
    assert caplog.messages[1] == f"{changed}; images that the search has seen may be in the test"

    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(tmp_path / "m.keras")
    facts = {**before, "mean": [0.5] * 3, "std": [1.0] * 3}
    (tmp_path / "m.keras.json").write_text(json.dumps(facts))
    line = refused(capsys, f"export {tmp_path}/m.keras --quantization float32")
    assert f"{tmp_path}/m.keras: was trained on other data: {changed}" in line
