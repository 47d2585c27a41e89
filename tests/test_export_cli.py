"""``python -m tflite_export``: what it prints and how it exits."""

import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tflite_export.__main__ import main


def run(*arguments, cwd):
    """In a process of its own, where TensorFlow is not yet imported."""
    return subprocess.run(
        [sys.executable, "-m", "tflite_export", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(Path(tflite_export.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, files and arrays, good and bad."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )
    model.save(folder / "model.keras")
    tflite_export.convert(model, folder / "model.tflite")
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    tflite_export.convert(model, folder / "nan.tflite")
    whole = (folder / "model.keras").read_bytes()
    (folder / "broken.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.tflite").write_bytes((folder / "model.tflite").read_bytes()[:200])
    (folder / "text.npy").write_text("1, 2, 3")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with (folder / "huge.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    images = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(20) % 3)
    np.save(folder / "short.npy", np.arange(5) % 3)
    np.savez(folder / "archive.npz", images)
    return folder


def test_a_convert_that_is_ended_leaves_nothing_behind(folder, tmp_path):
    ended = subprocess.Popen(
        [sys.executable, "-m", "tflite_export", "convert", folder / "model.keras", "new.tflite"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(tflite_export.__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not [*tmp_path.iterdir()]:
        assert ended.poll() is None
        time.sleep(0.01)
    ended.terminate()
    assert ended.communicate()[1] == "tflite_export: error: interrupted\n"
    assert ended.returncode == 130
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_convert_in_a_new_process_prints_one_line(folder):
    result = run("convert", "model.keras", "new.tflite", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    size = (folder / "new.tflite").stat().st_size
    assert result.stdout == f"new.tflite: float32, {size:,} bytes\n"


@pytest.mark.slow
def test_nan_in_a_new_process_exits_1(folder):
    result = run("verify", "model.keras", "nan.tflite", "--inputs", "images.npy", cwd=folder)
    assert (result.returncode, result.stderr) == (1, "")
    assert "largest difference nan" in result.stdout
    assert "DOES NOT AGREE" in result.stdout


@pytest.mark.slow
def test_error_in_a_new_process_is_one_line(folder):
    result = run("convert", "model.keras", "new.tflite", "--quantization", "int8", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "tflite_export: error: representative_data is missing "
        "(--representative-data): int8 and int16x8 need samples to measure ranges on\n"
    )


@pytest.mark.parametrize(
    ("command", "package", "pip_name"),
    [
        ("convert model.keras new.tflite", "tensorflow", "tensorflow"),
        ("verify model.keras model.tflite --inputs images.npy", "tensorflow", "tensorflow"),
        ("convert model.keras new.tflite", "keras", "keras"),
        ("macs model.tflite", "ai_edge_litert", "ai-edge-litert"),
    ],
)
def test_a_missing_package_is_one_line_that_says_what_to_install(
    folder, command, package, pip_name
):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from tflite_export.__main__ import main; "
        "main(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        cwd=folder,
        env={"PYTHONPATH": str(Path(tflite_export.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"tflite_export: error: {command.split()[0]}: needs {pip_name}, not installed here: "
        f"pip install {pip_name}\n"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("frobnicate", "argument COMMAND: invalid choice: 'frobnicate'"),
        ("macs", "the following arguments are required: FILE.tflite"),
        ("macs model.tflite --fast", "unrecognized arguments: --fast"),
        ("macs missing.tflite", "missing.tflite: not a .tflite file: No such file or directory"),
        ("macs broken.tflite", "broken.tflite: not a .tflite file: it is cut off or damaged"),
        ("macs images.npy", "images.npy: not a .tflite file: bytes 4 to 7 are"),
        ("convert missing.keras new.tflite", "missing.keras: no such file"),
        ("convert broken.keras new.tflite", "broken.keras: not a .keras file: it is cut off"),
        ("convert model.tflite new.tflite", "model.tflite: a .tflite file; give the .keras file"),
        ("convert model.keras new.bin", "path must end in .tflite: new.bin"),
        ("convert model.keras new.tflite --quantization int4", "argument --quantization: invalid"),
        (
            "convert model.keras new.tflite --quantization int8 --representative-data text.npy",
            "text.npy: not a .npy array of numbers",
        ),
        (
            "convert model.keras new.tflite --quantization int8 --representative-data archive.npz",
            "archive.npz: not a .npy array but an .npz archive",
        ),
        (
            "verify model.keras model.tflite --inputs broken.npz",
            "broken.npz: not a .npy array of numbers",
        ),
        (
            "verify model.keras model.tflite --inputs huge.npy",
            "huge.npy: not a .npy array of numbers",
        ),
        ("verify model.keras model.tflite", "the following arguments are required: --inputs"),
        (
            "verify model.keras model.tflite --inputs missing.npy",
            "[Errno 2] No such file or directory: 'missing.npy'",
        ),
        (
            "verify model.keras model.tflite --inputs images.npy --labels short.npy",
            "labels have shape (5,), but there are (20,) predictions",
        ),
        ("macs \x1b[2J.tflite", "\\x1b[2J.tflite: not a .tflite file: No such file"),
        ("benchmark broken.tflite", "broken.tflite: not a .tflite file"),
        ("benchmark model.tflite --threads 0", "num_threads must be at least 1, not 0"),
        ("benchmark model.tflite --runs 0", "runs must be at least 1, not 0"),
        ("benchmark model.tflite --runs few", "argument --runs: invalid int value: 'few'"),
    ],
)
def test_bad_input_is_one_line(folder, monkeypatch, capfd, command, message):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit_:
        main(command.split())
    assert exit_.value.code == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"tflite_export: error: {message}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["", "convert", "macs", "describe", "verify", "benchmark", "serve", "android"]
)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert f"example:\n  python -m tflite_export {command}" in output
    if command in ("", "macs"):
        assert "1 MAC = 2 FLOPs" in output


def test_macs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["macs", "model.tflite"]) == 0
    macs = 6 * 6 * 9 * 4 + 6 * 6 * 4 * 3
    assert capsys.readouterr().out == (
        f"model.tflite: {macs:,} MACs: multiply-accumulates for one sample (1 MAC = 2 FLOPs)\n"
    )


def test_convert_to_int8(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    data = ["--quantization", "int8", "--representative-data", "images.npy"]
    assert main(["convert", "model.keras", "int8.tflite", *data]) == 0
    assert capsys.readouterr().out.startswith("int8.tflite: int8, ")


def test_verify(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    samples = ["--inputs", "images.npy", "--labels", "labels.npy"]
    assert main(["verify", "model.keras", "model.tflite", *samples]) == 0
    output = capsys.readouterr().out
    assert "same argmax        1.0000\n" in output
    assert "model accuracy" in output
    assert output.endswith("the file agrees\n")


def test_benchmark(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["benchmark", "model.tflite", "--threads", "1", "2", "--runs", "10"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "model.tflite: 10 runs"
    assert all("; LiteRT" in line for line in lines)
    assert [line.split(":")[0] for line in lines] == ["threads 1", "threads 2"]
