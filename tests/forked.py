"""Processes that start at once: copies of one that has imported the library and done nothing.

Not copies of the tests' own process, whose TensorFlow may be at work in other threads.
"""

import gc
import multiprocessing
import signal

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["keras_autoshrink.tuner", "keras_autoshrink.hypermodels"])


def _run(function, *arguments):
    gc.freeze()  # as in conftest.py; memory that no collection looks at also stays shared
    function(*arguments)


def start(function, *arguments):
    process = processes.Process(target=_run, args=(function, *arguments), daemon=True)
    process.start()
    return process


def outcome(function, *arguments):
    """The exit status of a function in a process of its own; negative for a signal's number."""
    process = start(function, *arguments)
    process.join()
    return process.exitcode


KILLED = -signal.SIGKILL
