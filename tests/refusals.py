"""How tests look at a command that refuses."""

import pytest

from keras_autoshrink.commands.cli import main


def refused(capsys, command, status=2):
    """The one line on standard error with which a command refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command if isinstance(command, list) else command.split())
    assert stopped.value.code == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("autoshrink: error: ")
    assert "Traceback" not in captured.err
    return captured.err
