"""What both packages' commands share: a command at work says so where its output is kept off."""

import threading

from tflite_export.command_line import still_at_work
from tflite_export.runtime import native_output_silenced


def test_a_command_at_work_is_heard_while_tensorflow_is_not(capfd):
    threads, heard = threading.active_count(), []
    with still_at_work("autoshrink", "export", seconds=0.01), native_output_silenced():
        while not heard:
            heard = capfd.readouterr().err.splitlines()
    assert heard[0] == "autoshrink: export, 0:00:00 so far"
    capfd.readouterr()
    assert threading.active_count() == threads  # and it is heard no more
