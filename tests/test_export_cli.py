"""``python -m tflite_export``: what it prints and how it exits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from exported import MACS, refusal
from forked import Script
from keras import layers
from searches import wait_for

import tflite_export
from tflite_export.__main__ import main

ROOT = str(Path(tflite_export.__file__).parents[1])
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], ROOT])}


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """Models, files and arrays, good and bad."""
    folder = tmp_path_factory.mktemp("cli")
    whole = exported.keras_path.read_bytes()
    (folder / "model.keras").write_bytes(whole)
    (folder / "model.tflite").write_bytes(exported.path().read_bytes())
    (folder / "nan.tflite").write_bytes(exported.nan_path.read_bytes())
    (folder / "broken.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.tflite").write_bytes((folder / "model.tflite").read_bytes()[:200])
    (folder / "text.npy").write_text("1, 2, 3")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with (folder / "huge.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    images, labels = exported.test
    np.save(folder / "images.npy", images[:100])
    np.save(folder / "labels.npy", labels[:100])
    np.save(folder / "short.npy", np.arange(5) % 3)
    np.savez(folder / "archive.npz", images)
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_convert_that_is_ended_leaves_nothing_behind(folder, tmp_path):
    converting = Script(
        "import os, runpy, sys; os.chdir(sys.argv.pop());"
        "runpy.run_module('tflite_export', run_name='__main__')",
        *("convert", str(folder / "model.keras"), "new.tflite", str(tmp_path)),
    )
    wait_for(lambda: [*tmp_path.iterdir()])
    os.kill(converting.pid, signal.SIGTERM)
    assert converting.end() == (130, "", "tflite_export: error: interrupted\n")
    assert not [*tmp_path.iterdir()]


def test_an_interrupt_that_a_destructor_drops_is_raised_again(folder):
    # What convert does lasts for minutes, or has ended before the interrupt could be raised again.
    code = """
import os, runpy, signal, sys, time
import tflite_export

seconds = float(sys.argv.pop())

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

def convert(*_, **__):
    Destroyed()
    time.sleep(seconds)
    raise ValueError("not interrupted")

tflite_export.load_model = lambda *_: None
tflite_export.convert = convert
runpy.run_module("tflite_export", run_name="__main__")
"""
    command = [sys.executable, "-c", code, "convert", "model.keras", "new.tflite"]
    for seconds in ("600", "0"):
        ended = subprocess.run(
            [*command, seconds],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.returncode, ended.stdout) == (130, "")
        assert ended.stderr == "tflite_export: error: interrupted\n"


@pytest.mark.parametrize(
    ("command", "package", "pip_name"),
    [
        ("convert model.keras new.tflite", "tensorflow", "tensorflow"),
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
        env=ENVIRONMENT,
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
        ("macs model.tflite --fast", "unrecognized arguments: --fast"),
        ("macs missing.tflite", "missing.tflite: not a .tflite file: No such file or directory"),
        ("benchmark broken.tflite", "broken.tflite: not a .tflite file: it is cut off or damaged"),
        ("macs \x1b[2J.tflite", "\\x1b[2J.tflite: not a .tflite file: No such file"),
        ("verify model.keras model.tflite --inputs missing.npy", "[Errno 2] No such file"),
        (
            "verify model.keras model.tflite --inputs images.npy --labels short.npy",
            "labels have shape (5,), but there are (100,) predictions",
        ),
    ],
)
def test_bad_input_is_one_line(there, capfd, command, message):
    assert refusal(capfd, command).startswith(message)


def test_what_is_no_array_is_one_line(there, capfd):
    for name in ("text.npy", "broken.npz", "huge.npy"):
        command = f"verify model.keras model.tflite --inputs {name}"
        assert refusal(capfd, command) == f"{name}: not a .npy array of numbers"
    command = "verify model.keras model.tflite --inputs archive.npz"
    assert refusal(capfd, command) == "archive.npz: not a .npy array but an .npz archive"


def test_several_inputs_are_for_python(there, capfd):
    inputs = [keras.Input((2,)), keras.Input((2,))]
    keras.Model(inputs, layers.Add()(inputs)).save("two.keras")
    options = "--quantization int8 --representative-data images.npy"
    assert refusal(capfd, f"convert two.keras new.tflite {options}").startswith(
        "two.keras: has 2 inputs, --representative-data an array for one; convert it in Python"
    )


def test_help_shows_an_example(capsys):
    commands = ("convert", "macs", "describe", "verify", "benchmark", "serve", "android")
    for command in ("", *commands):
        with pytest.raises(SystemExit) as exit_:
            main([*command.split(), "--help"])
        assert exit_.value.code == 0
        assert f"example:\n  python -m tflite_export {command}" in capsys.readouterr().out


def test_macs(there, capsys):
    assert main(["macs", "model.tflite"]) == 0
    assert capsys.readouterr().out == (
        f"model.tflite: {MACS:,} MACs: multiply-accumulates for one sample (1 MAC = 2 FLOPs)\n"
    )


def test_convert_to_int8(there, capsys):
    data = ["--quantization", "int8", "--representative-data", "images.npy"]
    data += ["--io-type", "uint8", "--batch-size", "2", "--c-array"]
    assert main(["convert", "model.keras", "int8.tflite", *data]) == 0
    source = tflite_export.describe("int8.tflite").inputs[0]
    assert (source.dtype, source.shape) == ("uint8", (2, 8, 8, 1))
    size = (there / "int8.tflite").stat().st_size
    assert capsys.readouterr().out == (
        f"int8.tflite: int8, {size:,} bytes\nint8.c, int8.h: the file as C source\n"
    )
    assert f"int8_tflite_len = {size};" in (there / "int8.c").read_text()


def test_verify(there, capsys):
    samples = ["--inputs", "images.npy", "--labels", "labels.npy"]
    assert main(["verify", "model.keras", "model.tflite", *samples]) == 0
    output = capsys.readouterr().out
    assert "same argmax        1.0000\n" in output
    assert "model accuracy" in output
    assert output.endswith("the file agrees\n")
    assert main(["verify", "model.keras", "nan.tflite", *samples]) == 1
    output = capsys.readouterr().out
    assert "largest difference nan" in output
    assert "DOES NOT AGREE" in output


def test_layers_of_ones_own(there, capfd, monkeypatch):
    """A module beside the model defines it, registered with Keras or not."""
    (there / "own_layers.py").write_text(
        "import keras\n\n\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, inputs):\n        return 2 * inputs\n"
    )
    (there / "broken_layers.py").write_text("1 / 0")
    (there / "trusting.py").write_text(
        "import keras\n\nkeras.config.enable_unsafe_deserialization()\n"
    )
    monkeypatch.syspath_prepend(str(there))
    own = __import__("own_layers").Twice()
    keras.Sequential([keras.Input((4,)), own]).save("own.keras")
    code = layers.Lambda(lambda x: 2 * x, output_shape=(4,))
    keras.Sequential([keras.Input((4,)), code]).save("code.keras")
    np.save("rows.npy", np.ones((3, 4), "float32"))
    message = refusal(capfd, "convert own.keras own.tflite")
    assert "needs 'Twice'" in message
    assert message.endswith("(--import MODULE)")
    message = refusal(capfd, "convert code.keras code.tflite")
    assert "holds Python code, of a Lambda layer" in message
    message = refusal(capfd, "convert own.keras own.tflite --import broken_layers")
    assert message == "--import broken_layers: ZeroDivisionError: division by zero"
    for name, module in (("own", "own_layers"), ("code", "trusting")):
        options = [f"{name}.keras", f"{name}.tflite", "--import", module]
        assert main(["convert", *options]) == 0
        assert main(["verify", *options, "--inputs", "rows.npy"]) == 0
    assert capfd.readouterr().out.endswith("the file agrees\n")


def test_benchmark(there, capsys):
    assert main(["benchmark", "model.tflite", "--threads", "1", "2", "--runs", "10"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "model.tflite: 10 runs"
    assert all("; LiteRT" in line for line in lines)
    assert [line.split(":")[0] for line in lines] == ["threads 1", "threads 2"]
