"""How tests look at a command or a call that refuses."""

import pytest


def refused(capsys, command, status=2):
    """The one line on standard error with which a command refuses."""
    from keras_autoshrink.commands.cli import main  # most tests that look at a call need no command

    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command if isinstance(command, list) else command.split())
    assert stopped.value.code == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("autoshrink: error: ")
    assert "Traceback" not in captured.err
    return captured.err


def refusal(call, *arguments, **options):
    """The message of the ValueError of a call, which is one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its callers look at the message
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
