"""Mistakes of a command line are told before Keras is loaded, which takes seconds."""

import json
import subprocess
import sys
import zipfile

import pytest

import keras_autoshrink as kas
from keras_autoshrink.report import saved_search

# Runs commands one after another in one process; each ends with status 2 and one line.
SCRIPT = """
import sys

sys.modules["keras"] = sys.modules["tensorflow"] = None  # an import of theirs fails
from keras_autoshrink.commands import cli
from tflite_export import __main__ as export

for line in sys.stdin:
    program, *arguments = line.split()
    try:
        {"autoshrink": cli, "tflite_export": export}[program].main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 2, line
    else:
        sys.exit(f"{line}: not refused")
"""
TO = "--output m.keras"
SETTINGS = {"dataset": "digits", "image_size": 32, "split_seed": 0, "epochs": 20}
COMMANDS = {
    "autoshrink search --seed -1": "--seed -1: expected 0 to 2**32 - 1",
    "autoshrink search --nodes 1": "--nodes 1: expected 2 or more",
    "autoshrink search --keep-fraction 2": "--keep-fraction 2: expected 0 to 1",
    "autoshrink search --target-macs 1M --filters 8": "--filters: widths follow from it, with --t",
    "autoshrink search --target-params 1M --cost=macs": "--cost: the score is the accuracy alone",
    "autoshrink search --latency-of int8": "--latency-of: is for --target-latency-ms",
    "autoshrink search --strategy paper --max-candidates 5": "--max-candidates 5: is for --strat",
    "autoshrink search --dataset absent.npz": "absent.npz: not a readable .npz file: No such file",
    "autoshrink search --dataset absent": "data set 'absent': expected 'digits', 'cifar10', an",
    "autoshrink search --dataset imagenet2012": "for training a network only",
    "autoshrink search --data-dir runs": "--data-dir runs: is where tensorflow-datasets keeps",
    "autoshrink design absent --target-macs 1M": "data set 'absent': expected 'digits', ",
    "autoshrink search --task text --data-dir absent": "absent: no such folder",
    "autoshrink search --seed 3": "runs/digits holds a search with seed=0, not 3; use another",
    f"autoshrink train absent.json {TO}": "absent.json: cannot be read",
    f"autoshrink train chain.json {TO} --width 1": "--width: is for a cell; the network of chain",
    f"autoshrink train chain.json {TO} --target-macs 1M": "--target-macs: is for a cell; the netw",
    f"autoshrink train chain.json {TO} --activation relu": "--activation: is for a cell; the net",
    f"autoshrink train shrinkcnn {TO} --dataset absent": "data set 'absent': expected",
    f"autoshrink train shrinkcnn {TO} --ema 1.5": "--ema=1.5: expected 0 or more and less than 1",
    f"autoshrink train shrinkrnn {TO} --data-dir absent": "absent: no such folder",
    "autoshrink export absent.keras": "absent.keras: no such file",
    "autoshrink export corrupt.keras": "corrupt.keras: not a .keras file",
    "autoshrink export m.keras": "m.keras: was not trained by autoshrink, which writes m.kera",
    "autoshrink export m.keras --output-dir chain.json": "--output-dir chain.json: is a file",
    "autoshrink export m.keras --epochs 2": "--epochs: is for --qat and --prune",
    "autoshrink export m.keras --prune 1.5": "--prune 1.5: expected more than 0 and less than 1",
    "autoshrink export m.keras --max-accuracy-drop 1": "--max-accuracy-drop 1: expected 0 to 0.02",
    "autoshrink show shrinkcnn --tensorboard": "--tensorboard: is of a search, and shrinkcnn is",
    "autoshrink show shrinkcnn --html": "--html: is of a search, and shrinkcnn is no search's fol",
    "autoshrink show runs --html a.txt": "a.txt: expected a file that ends in .html",
    "autoshrink show shrinkcnn --picture no/a.png": "no/a.png: its folder does not exist",
    "tflite_export convert absent.keras m.tflite": "absent.keras: no such file",
    "tflite_export convert corrupt.keras m.tflite": "corrupt.keras: not a .keras file: it is cut",
    "tflite_export convert m.keras m.bin": "path must end in .tflite: m.bin",
    "tflite_export convert m.keras no/m.tflite": "path is in a folder that does not exist",
    "tflite_export convert m.keras m.tflite --batch-size 0": "--batch-size: '0' is no whole nu",
    "tflite_export convert m.keras m.tflite --input-shape 8 0": "--input-shape: '0' is no whole",
    "tflite_export convert m.keras m.tflite --io-type int8": "io_type int8 is for quantization",
    "tflite_export convert m.keras m.tflite --quantization int8": "--representative-data is miss",
    "tflite_export convert m.keras m.tflite --max-difference 0.1": "--max-difference needs --inp",
    "tflite_export convert m.keras m.tflite --max-difference -1 --inputs x": "--max-difference -1",
    "tflite_export convert m.keras m.tflite --representative-data x.npy": "No such file",
    "tflite_export benchmark m.tflite --threads 0": "--threads: '0' is no whole number of 1 or mor",
    "tflite_export verify absent.keras m.tflite --inputs x.npy": "absent.keras: no such file",
}


@pytest.fixture
def folder(tmp_path):
    """Files of a kind that is expected, and one that is not."""
    (tmp_path / "corrupt.keras").write_bytes(b"PK\x03\x04 not a zip")
    zipfile.ZipFile(tmp_path / "m.keras", "w").close()
    network = {"input_shape": (4, 4, 1), "classes": 2, "filters": (4, 4, 4, 4), "stem_stride": 1}
    chain = kas.Architecture(network, "chain")
    (tmp_path / "chain.json").write_text(json.dumps(chain.to_json()))
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    saved_search.write_settings(tmp_path / "runs" / "digits", SETTINGS, [])
    return tmp_path


def test_no_mistake_waits_for_keras(folder):
    before = sorted(folder.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(COMMANDS),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stderr.splitlines()
    for (command, culprit), line in zip(COMMANDS.items(), lines, strict=True):
        assert line.startswith(f"{command.split()[0]}: error: "), line
        assert culprit in line
    assert ran.stdout == ""
    assert sorted(folder.rglob("*")) == before
