"""A pipe by which processes notice that the one that started them is gone.

Only the starter holds the end to write into, and never writes. However it ends, by SIGKILL too,
the system closes that end, and who reads the other one reads the end of the file.
"""

from __future__ import annotations

import os
import signal
import threading

# Tells a process which descriptor to read.
_VARIABLE = "KERAS_AUTOSHRINK_LIFELINE"


class Lifeline:
    """The starter's side.

    Attributes:
        descriptor: to be passed on to each process that shall end with this one. The other end
            of the pipe is closed in all of them, as all that Python opens.
    """

    def __init__(self) -> None:
        self.descriptor, self._held = os.pipe()

    def environment(self) -> dict[str, str]:
        """What has to stand in the environment of these processes."""
        return {_VARIABLE: str(self.descriptor)}

    def close(self) -> None:
        """Ends the processes that are left."""
        os.close(self._held)
        os.close(self.descriptor)


def hold() -> None:
    """Ends this process, and what it started in turn, with the one that started it.

    For processes that lead a process group of their own; without a lifeline in the environment
    nothing happens.
    """
    # Not for processes that this one starts: they do not have the descriptor.
    descriptor = os.environ.pop(_VARIABLE, None)
    if descriptor is not None:
        threading.Thread(target=_watch, args=(int(descriptor),), daemon=True).start()


def _watch(descriptor: int) -> None:
    os.read(descriptor, 1)
    # Not in an orderly way, which may take long or hang; all files are whole at any moment.
    os.killpg(os.getpgrp(), signal.SIGKILL)
