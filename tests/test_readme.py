"""What the README shows runs as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from keras_autoshrink.arguments import build_parser
from tflite_export.__main__ import _parser as tflite_parser

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SCRIPTS = [s for s in re.findall(r"```python\n(.*?)```", README, re.S) if ">>>" not in s]
COMMANDS = re.findall(r"^(?:autoshrink|python -m tflite_export) .*$", README, re.M)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_a_script_runs(number, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPTS[number])
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    if "tuner.search(" in SCRIPTS[number]:
        model_macs = re.search(r"\) (\d+)$", ran.stdout, re.M)[1]
        file_macs = re.search(r"^(\d+) Latency", ran.stdout, re.M)[1]
        assert model_macs == file_macs


def test_the_quick_start_has_15_lines():
    assert len([line for line in SCRIPTS[0].splitlines() if line]) == 15


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    if command.startswith("python"):
        assert tflite_parser().parse_args(command.split()[3:]).command
    else:
        assert build_parser().parse_args(shlex.split(command)[1:]).command


def test_the_counts_are_true():
    import keras_autoshrink as kas

    model = kas.ShrinkCNN(classes=1001)
    assert str((kas.count_macs(model), kas.count_params(model, batchnorm=False))) in README
    model = kas.ShrinkRNN()
    assert str((kas.count_params(model), kas.count_macs(model, input_shape=(1,)))) in README
