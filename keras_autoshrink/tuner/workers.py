"""The worker processes of a search on one machine: they train its candidates side by side.

A small network leaves most of a machine idle, whose threads wait for each other at every operation.
So each candidate trains on one thread, as many of them as there are cores; and in a process, as
what Python does while a network is built and traced takes one core for all threads of a process,
and as the global random generators are seeded for each candidate.

The process that searches hands trials out and takes their results over a pipe. Workers get the
tuner, and what `search()` was given, by cloudpickle: what a script or a notebook defines travels
by value, so that nobody has to import it. Arrays lie in a file that all workers map. These files
have no name, and the pipe is a pair of sockets: nobody else reads or writes them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import io
import itertools
import json
import mmap
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import IO, Any

import cloudpickle
import joblib
import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.backend import (
    keras_settings,
    set_keras_settings,
    trainer_environment,
    visible_gpus,
)
from keras_autoshrink.checks import whole
from keras_autoshrink.networks import operations
from keras_autoshrink.tuner import service

# The environment variable that says how many candidates train side by side where nobody else does.
COUNT = "KERAS_AUTOSHRINK_WORKERS"

# Of memory, in bytes, that a worker should find.
_MEMORY = 1.5e9

# How often to look whether a process has ended whose pipe another one holds open, in seconds.
_POLL = 0.5

# A worker that has not come so far as to take a trial so many times in a row never will.
_STARTS = 3

_ALIGNMENT = 64  # bytes, of arrays in a file

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # the environment variable of TensorFlow's

# TensorFlow announces its devices as it is imported. A fifth of the time that its import takes goes
# into collections, which find nothing; `work` lets them begin.
_PROGRAM = """
import gc, json, sys
gc.disable()
sys.path[:] = json.loads(sys.argv[1])
from tflite_export.runtime import native_output_silenced
with native_output_silenced():
    from keras_autoshrink.tuner import workers
workers.work(*map(int, sys.argv[2:]))
"""


def choose_count(workers: int | None) -> int:
    """Chooses how many candidates train side by side; 1 for none beside another.

    Args:
        workers: as somebody said; None for the environment's, else one for each core, as far as
            memory goes. Where there is a GPU, this process may hold all of its memory: 1.

    Raises:
        TypeError, ValueError: it is not 1 or more, or this is Windows, whose processes inherit no
            pipe.
    """
    if workers is None and (given := os.environ.get(COUNT)):
        count = whole(COUNT, int(given) if given.isdecimal() else given, 1)
    elif workers is not None:
        count = whole("workers", workers, 1)
    elif os.name == "nt" or visible_gpus():
        return 1
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(1, min(joblib.cpu_count(), int(memory / _MEMORY)))
    if count > 1 and os.name == "nt":
        raise ValueError(f"workers={count}: on Windows candidates train one by one")
    return count


class WorkerError(RuntimeError):
    """Worker processes cannot do the work; the message says why."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a trial.

    Args:
        state: of the `Trial` that has ended, with its status and message.
        metrics: for each metric its value; None if there are none.
        step: the epoch that they are of.
        fatal: what ends the search, or None.
    """

    state: dict[str, Any]
    metrics: dict[str, float] | None = None
    step: int = 0
    fatal: keras_tuner.errors.FatalError | None = None


class Workers:
    """The workers of one search: a context manager that ends them all.

    Args:
        tuner: a `WorkerTuner`, to be pickled.
        arguments: the positional and the named arguments of `search()`, to be pickled.
        count: how many.
    """

    def __init__(self, tuner: WorkerTuner, arguments: tuple[Any, Any], count: int) -> None:
        custom_objects = dict(keras.saving.get_custom_objects())
        self._job = (keras_settings(), custom_objects, operations.registered(), tuner)
        self._arguments = arguments
        self._count = count
        self._workers: list[Worker] = []

    def __enter__(self) -> Workers:
        """Starts them.

        Raises:
            WorkerError: something cannot be pickled, or not be read by a worker.
        """
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            try:
                for file, value in zip(files, (self._job, self._arguments), strict=True):
                    _dump(value, file)
            except Exception as error:  # of the user's objects, whatever they raise
                raise WorkerError(_line(error)) from error
            gpus = visible_gpus()
            for index in range(self._count):
                gpu = gpus[index % len(gpus)] if gpus else None
                self._workers.append(Worker(f"worker{index + 1}", files, gpu))
                stack.callback(self._workers[-1].kill)
            for worker in self._workers:
                worker.start()
            # The first says whether all can do it; the others go on with their imports meanwhile.
            while not self._workers[0].is_ready:
                self._workers[0].receive()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def idle(self) -> list[Worker]:
        """Those that can take a trial."""
        return [worker for worker in self._workers if worker.is_ready and worker.trial is None]

    def wait(self) -> list[tuple[Worker, Trial, Report | None]]:
        """Waits a while for results.

        Returns:
            Each worker that has ended its trial, the trial and its report; None for the report of
            one that was killed, and has been started again.

        Raises:
            WorkerError: one of them cannot be started again.
        """
        ready = {*wait([worker.connection for worker in self._workers], _POLL)}
        ended = []
        for worker in self._workers:
            if worker.connection not in ready and not worker.has_ended:
                continue
            trial = worker.trial
            report = worker.receive()
            if trial is not None:
                worker.trial = None
                ended.append((worker, trial, report))
        return ended


class Worker:
    """One worker process, as the search's process sees it.

    Args:
        name: by which the oracle knows it.
        files: that it reads.
        gpu: of its own, as CUDA_VISIBLE_DEVICES names it, or None.

    Attributes:
        trial: that it trains, or None.
        is_ready: whether it can take one.
        connection: of its pipe.
    """

    def __init__(self, name: str, files: list[IO[bytes]], gpu: str | None) -> None:
        self.name = name
        self.trial: Trial | None = None
        self.is_ready = False
        self._files = [file.fileno() for file in files]
        self._environment = trainer_environment(gpu)
        # What fails arrives as an exception. (Somebody who wants to read more says 0 or 2: 1 is
        # what JAX sets wherever it is imported, as it is by Keras.)
        if self._environment.get(_LOG_LEVEL, "1") == "1":
            self._environment[_LOG_LEVEL] = "3"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        """Starts the process, or starts it again.

        Raises:
            WorkerError: the system allows no further process.
        """
        self._starts += 1
        ours, theirs = socket.socketpair()
        given = [theirs.fileno(), *self._files]
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *map(str, given)]
        try:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=given,
                # What is typed on the terminal, such as Ctrl-C, is for the search.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"{self.name} cannot be started: {error}") from error
        finally:
            theirs.close()
        self.connection = Connection(ours.detach())

    def give(self, trial: Trial, best: float | None) -> None:
        """Gives it a trial.

        Args:
            trial: to be trained.
            best: the best score of the search so far; weights below it are of no use.
        """
        self.trial = trial
        # If the process has ended, that shows when its answer is read.
        with contextlib.suppress(OSError):
            self.connection.send((trial.get_state(), best))

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; its pipe may be open in others that it has started."""
        return self._process is not None and self._process.poll() is not None

    def receive(self) -> Report | None:
        """Takes its next message, or starts it again if the process has ended.

        Returns:
            What came of its trial; None if there is no such message.

        Raises:
            WorkerError: it cannot do the work, or ends each time before it takes a trial.
        """
        try:
            if self.has_ended and not self.connection.poll():
                raise EOFError
            message = self.connection.recv()
        except (OSError, EOFError):
            self.kill()
            if self._starts >= _STARTS:
                raise WorkerError(
                    f"{self.name} ended {self._starts} times as it started: too little memory?"
                ) from None
            self.start()
            return None
        if isinstance(message, Report):
            return message
        if message is not None:
            raise WorkerError(message)
        self.is_ready, self._starts = True, 0
        return None

    def kill(self) -> None:
        """Ends the process, and those that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process, self.is_ready = None, False
            self.connection.close()


# ---- in a worker --------------------------------------------------------------------------------


class WorkerTuner:
    """A tuner in a worker process, where it knows one trial and not the search.

    Args:
        tuner: an `AutoShrink`; its `try_trial` trains a trial.
    """

    def __init__(self, tuner: Any) -> None:
        self._tuner = copy.copy(tuner)
        self._tuner.oracle = service.TrialOracle(
            tuner.oracle.objective, tuner.oracle.seed, tuner.oracle.whole_space
        )
        self._tuner._progress = self._tuner._interrupts = None  # of the search's process
        self._tuner._trainer = copy.copy(tuner._trainer)
        self._tuner._trainer.is_started_again = True

    def train(
        self, trial: Trial, best: float | None, arguments: Callable[[], tuple[Any, Any]]
    ) -> Report:
        """Trains a trial.

        Args:
            trial: to be trained.
            best: the best score of the search so far, None if there is none.
            arguments: makes the positional and the named arguments of `search`.
        """
        self._tuner.oracle.trial, self._tuner.checkpoint_threshold = trial, best
        try:
            args, kwargs = arguments()
            self._tuner.try_trial(trial, args, kwargs)
        except keras_tuner.errors.FatalError as error:
            trial.message = traceback.format_exc()
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # of a class of the user's script
                error = keras_tuner.errors.FatalError(str(error))
            return Report(trial.get_state(), fatal=error)
        except Exception:  # of arguments that cannot be read again
            trial.status, trial.message = TrialStatus.INVALID, traceback.format_exc()
        found = self._tuner.oracle.reports.pop(trial.trial_id, {})
        return Report(trial.get_state(), **found)


def work(pipe: int, job: int, arguments: int) -> None:
    """Trains the trials that come over a pipe, until its other end closes.

    Args:
        pipe: descriptor of the pipe.
        job: descriptor of the file with the tuner and what it needs.
        arguments: descriptor of the file with the arguments of `search()`.
    """
    connection = Connection(pipe)
    trials: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, trials), daemon=True).start()
    try:
        settings, custom_objects, ops, tuner = _load(job)
        _set_keras(settings, custom_objects)
        operations.register_all(ops)
        # Lives on, for what its datasets cache.
        first = _load(arguments)  # noqa: F841
    except Exception as error:  # of the user's objects, whatever they raise
        connection.send(_line(error))
        return
    # KerasTuner asks for a collection before each candidate, which would look through a million
    # objects that stay.
    gc.collect()
    gc.freeze()
    gc.enable()
    connection.send(None)
    while True:
        state, best = trials.get()
        # Unpacked for each trial: what shuffles data then does so in the same way for all.
        report = tuner.train(Trial.from_state(state), best, lambda: _load(arguments))
        try:
            connection.send(report)
        except Exception:  # something in it cannot be pickled
            lost = {**state, "status": TrialStatus.INVALID, "message": traceback.format_exc()}
            connection.send(Report(lost))


def _receive(connection: Connection, trials: queue.SimpleQueue[Any]) -> None:
    """Passes on what comes, also while a candidate trains; ends with the search's process."""
    while True:
        try:
            trials.put(connection.recv())
        except (OSError, EOFError):
            # Not in an orderly way, which may take long or hang: only the search writes its state.
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _set_keras(settings: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> None:
    """Sets of Keras, in a new process, what the script has set and registered."""
    for name, value in custom_objects.items():
        package, named, registered = name.partition(">")
        if named and keras.saving.get_registered_name(value) != name:
            keras.saving.register_keras_serializable(package, registered)(value)
        keras.saving.get_custom_objects()[name] = value
    set_keras_settings(settings)


# ---- files of pickled objects -------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Pickles also a `tf.data.Dataset`, as the graph that it is."""

    def reducer_override(self, value: Any) -> Any:
        if _is_dataset(value):
            return _from_graph, _to_graph(value)
        return super().reducer_override(value)


def _dump(value: Any, file: IO[bytes]) -> None:
    """Writes an object: the arrays in it, what is left of it, and where that begins."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    # What the script is called in processes that multiprocessing has started: nobody can import it.
    if script := sys.modules.get("__mp_main__"):
        cloudpickle.register_pickle_by_value(script)
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    places = []
    for buffer in buffers:
        file.write(bytes(-file.tell() % _ALIGNMENT))
        places.append((file.tell(), buffer.raw().nbytes))
        file.write(buffer.raw())
    start = file.tell()
    pickle.dump(places, file)
    file.write(stream.getbuffer())
    file.write(start.to_bytes(8, "little"))
    file.flush()


def _load(descriptor: int) -> Any:
    """Reads an object that `_dump` has written; what is changed in its arrays stays here."""
    data = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
    rest = io.BytesIO(data[int.from_bytes(data[-8:], "little") :])
    places = pickle.load(rest)
    _making.number = next(_numbers)
    return pickle.load(rest, buffers=[data[start : start + size] for start, size in places])


def _line(error: BaseException) -> str:
    """Returns an error in one line."""
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]


# ---- datasets -----------------------------------------------------------------------------------

# A number for what is made at once: its datasets share the state of what shuffles them.
_numbers = itertools.count()
_making = threading.local()


def _is_dataset(value: Any) -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.data.Dataset)


def _to_graph(dataset: Any) -> tuple[bytes, Any]:
    """Describes a `tf.data.Dataset`, so that `_from_graph` makes it in another process.

    Raises:
        ValueError: it holds what no graph can: elements that Python makes, or a table.
    """
    import tensorflow as tf

    serialized = tf.raw_ops.DatasetToGraphV2(
        input_dataset=dataset._variant_tensor,
        external_state_policy=1,  # such as that of a random generator: begins anew
    )
    graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    functions = (function.node_def for function in graph.library.function)
    if any("PyFunc" in node.op for node in itertools.chain(graph.node, *functions)):
        raise ValueError(
            "a tf.data.Dataset whose elements Python makes (from_generator, py_function, "
            "numpy_function) stays in its process"
        )
    for handle in _resources(graph):
        if not any(known in handle.maybe_type_name for known in (_SHUFFLES, _CACHES)):
            kind = handle.maybe_type_name
            raise ValueError(f"a tf.data.Dataset that holds a {kind} stays in its process")
    return serialized.numpy(), dataset.element_spec


# Resources of datasets, which these make for themselves where they find none.
_SHUFFLES, _CACHES = "SeedGenerator", "MemoryCache"


def _resources(graph: Any) -> Iterator[Any]:
    """Yields the handles of the resources that a graph uses."""
    for node in graph.node:
        # To look an attribute up makes it, which TensorFlow then prints an error about.
        if "value" in node.attr:
            yield from node.attr["value"].tensor.resource_handle_val


def _from_graph(serialized: bytes, element_spec: Any) -> Any:
    import tensorflow as tf
    from tensorflow.python.data.ops import dataset_ops

    graph = tf.compat.v1.GraphDef.FromString(serialized)
    for handle in _resources(graph):
        # Or it would shuffle on from where another one is. What has been cached is there for all.
        if _SHUFFLES in handle.maybe_type_name:
            handle.name = f"{handle.name}_{_making.number}"
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return dataset_ops._VariantDataset(variant, element_spec)


class Resettable:
    """Arguments of `search()`, of which each `tf.data.Dataset` can be made anew.

    Args:
        arguments: nested. What no graph can hold stays as it is.
    """

    def __init__(self, arguments: Any) -> None:
        self._arguments = arguments
        self._graphs: dict[int, tuple[bytes, Any]] = {}
        for value in keras.tree.flatten(arguments):
            if _is_dataset(value):
                with contextlib.suppress(Exception):  # whatever TensorFlow raises
                    serialized, spec = _to_graph(value)
                    if _SHUFFLES.encode() in serialized:
                        self._graphs[id(value)] = (serialized, spec)

    def reset(self) -> Any:
        """Returns the arguments with datasets that shuffle as they did the first time."""
        if not self._graphs:
            return self._arguments
        _making.number = next(_numbers)
        return keras.tree.map_structure(
            lambda value: (
                _from_graph(*self._graphs[id(value)]) if id(value) in self._graphs else value
            ),
            self._arguments,
        )
