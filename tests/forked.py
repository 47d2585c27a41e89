"""Processes that start at once: copies of one that has imported the library and done nothing.

Not copies of the tests' own process, whose TensorFlow may be at work in other threads.
"""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["keras_autoshrink.tuner.tuner", "keras_autoshrink.hypermodels.cnn"]
)


def optimise_graphs(whether):
    """Says whether TensorFlow optimises graphs; for a few steps that takes longer than they do."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not whether})


def _run(function, *arguments):
    gc.freeze()  # as in conftest.py; memory that no collection looks at also stays shared
    optimise_graphs(False)
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


def _execute(source, arguments, environment, folder, optimised):
    optimise_graphs(optimised)
    for descriptor, name in enumerate(("printed", "errors"), start=1):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    tempfile.tempdir = None  # an import may have looked for it in the other environment
    sys.argv[1:] = arguments
    try:
        exec(source, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # which a process that was forked leaves out


class Script:
    """Python source at work, with arguments and variables of the environment of its own.

    Its graphs are optimised where its numbers are to be those of a process that no test starts so.
    """

    def __init__(self, source, *arguments, optimised=False, **environment):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._process = start(_execute, source, arguments, environment, folder, optimised)
        self.pid = self._process.pid

    def end(self):
        """Its exit status, and what it wrote to standard output and to standard error."""
        self._process.join(240)
        self._process.kill()  # what hangs
        self._process.join()
        with self._folder as folder:
            printed, errors = (Path(folder, name).read_text() for name in ("printed", "errors"))
        return self._process.exitcode, printed, errors


KILLED = -signal.SIGKILL


def _work(environment, connections):
    from keras_autoshrink.tuner import workers

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    workers.work(*(os.dup(one.fileno()) for one in connections))


class WorkerProcess:
    """What `workers.Worker` starts, as far as it uses a `subprocess.Popen`."""

    def __init__(self, command, *, env, pass_fds, **_):
        descriptors = map(int, command[-len(pass_fds) :])
        connections = [Connection(os.dup(descriptor)) for descriptor in descriptors]
        self._process = start(_work, env, connections)
        for one in connections:
            one.close()
        self.pid = self._process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()


def _optimise(folder, environment, *streams):
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream.fileno(), descriptor)
    sys.argv[1:] = [folder]
    from tflite_export.optimize import process

    process.main()


class Optimiser:
    """What `tflite_export.optimize.job` starts, as far as it uses a `subprocess.Popen`."""

    def __init__(self, command, *, env, stderr, **_):
        theirs, self._alive = processes.Pipe(duplex=False)
        printed, to_print = processes.Pipe(duplex=False)
        errors = Connection(os.dup(stderr.fileno()))
        given = (theirs, to_print, errors)
        self._process = start(_optimise, command[-1], env, *given)
        for one in given:
            one.close()
        self.stdout = os.fdopen(os.dup(printed.fileno()))
        printed.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stdout.close()
        self._alive.close()
        self._process.join()

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def kill(self):
        self._process.kill()
