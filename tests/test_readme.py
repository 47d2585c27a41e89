"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_autoshrink.cli import main

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
def test_a_command_is_understood(command, capsys):
    """Each with --help at its end: the words before it are parsed."""
    if command.startswith("python"):
        from tflite_export.__main__ import main as run

        words = command.split()[3:]
    else:
        run, words = main, command.split()[1:]
    with pytest.raises(SystemExit) as stopped:
        run([*words, "--help"])
    assert stopped.value.code == 0


def test_the_counts_are_true():
    import keras_autoshrink as kas

    model = kas.ShrinkCNN(classes=1001)
    assert str((kas.count_macs(model), kas.count_params(model, batchnorm=False))) in README
