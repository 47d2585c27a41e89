"""``peak_memory``: the arena is what lives at once, to the byte, as the runtime plans it."""

import pytest
from keras import Input, Model, layers

from tflite_export import check, convert, peak_memory, render_table
from tflite_export.__main__ import main

pytest.importorskip("tflite_micro", reason="tflite-micro is for Linux on x86-64")


def convolutions(residual):
    inputs = Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.Conv2D(4, 3, padding="same")(x)
    return Model(inputs, layers.Add()([inputs, x]) if residual else x)


def test_tensors_share_what_is_not_needed_at_once(tmp_path):
    thin, wide = 8 * 8 * 4, 8 * 8 * 8  # numbers in a tensor
    chain = peak_memory(convert(convolutions(residual=False), tmp_path / "chain.tflite"))
    assert chain.activation_bytes == 4 * (thin + wide)
    assert chain.num_bytes == chain.activation_bytes + chain.persistent_bytes
    assert chain.persistent_bytes > 0
    kept = peak_memory(convert(convolutions(residual=True), tmp_path / "residual.tflite"))
    assert kept.activation_bytes == 4 * (thin + wide + thin)  # the sum waits for its input


def test_commands_and_tables_show_it(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes(exported.path("int8").read_bytes())
    memory = peak_memory("m.tflite")
    assert memory.activation_bytes < peak_memory(exported.path()).activation_bytes / 3
    assert main(["describe", "m.tflite"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(row.startswith(f"peak memory {memory.num_bytes:,} bytes") for row in rows)
    images, _ = exported.test
    checks = [
        check(exported.model, path, images[:20], threads=[1])
        for path in (tmp_path / "m.tflite", exported.path("dynamic"))
    ]
    assert [one.peak_memory for one in checks] == [memory, None]
    row = next(c for c in render_table(checks).columns if c.header == "file")
    assert "peak memory, bytes" in [*row.cells]


def test_what_it_cannot_run_is_said(exported, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"Hybrid models are not supported .*; Node CONV_2D"):
        peak_memory(exported.path("dynamic"))
    assert main(["describe", str(exported.path("dynamic"))]) == 0
    assert "Hybrid models" in " ".join(capsys.readouterr().out.split())
