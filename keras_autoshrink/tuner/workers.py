"""The worker processes of a search on one machine: they train its candidates side by side.

A small network leaves most of a machine idle, whose threads wait for each other at every operation.
So each candidate trains on one thread, as many of them as there are cores; and in a process, as
what Python does while a network is built and traced takes one core for all threads of a process,
and as the global random generators are seeded for each candidate.

The process that searches hands trials out and takes their results over a pipe. Workers get the
tuner, and what `search()` was given, by cloudpickle: what a script or a notebook defines travels
by value, so that nobody has to import it. Arrays are not copied: all workers map one file.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import keras
import keras_tuner
from keras_tuner.engine.trial import Trial

from keras_autoshrink.backend import trainer_environment, visible_gpus
from keras_autoshrink.checks import whole
from keras_autoshrink.networks import operations

# The environment variable that says how many candidates train side by side where nobody else does.
COUNT = "KERAS_AUTOSHRINK_WORKERS"

# A worker that has nothing to do is looked after this often, in seconds.
_POLL = 0.5

_JOB, _ARGUMENTS = "job", "arguments"  # files that workers read
_ALIGNMENT = 64  # bytes, of arrays in them

# TensorFlow announces its devices as it is imported, and as it is first used.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tflite_export.runtime import native_output_silenced
with native_output_silenced():
    from keras_autoshrink.tuner import workers
workers.work(int(sys.argv[2]), sys.argv[3])
"""


def choose_count(workers: int | None) -> int:
    """Returns how many candidates are to train side by side, 1 for none beside another.

    Args:
        workers: as somebody said; None for the environment's, else one for each core. Where there
            is a GPU, this process may hold all of its memory: 1.

    Raises:
        TypeError, ValueError: it is not 1 or more.
    """
    if workers is not None:
        return whole("workers", workers, 1)
    if given := os.environ.get(COUNT):
        return whole(COUNT, int(given) if given.isdigit() else given, 1)
    return 1 if os.name == "nt" or visible_gpus() else joblib.cpu_count()


# In place of a message, of a process that has ended.
_KILLED = "killed"


class CannotStartError(Exception):
    """Worker processes cannot do the work; the message says why."""


class Workers:
    """The workers of one search: a context manager that ends them all.

    Args:
        tuner: to be pickled; `train(trial, best, args, kwargs)` returns a `Report`.
        arguments: the positional and the named arguments of `search()`, to be pickled.
        count: how many.
    """

    def __init__(self, tuner: Any, arguments: tuple[Any, Any], count: int) -> None:
        self._job = (_keras_settings(), operations.added(), tuner)
        self._arguments = arguments
        self._count = count
        self._workers: list[Worker] = []

    def __enter__(self) -> Workers:
        """Starts them.

        Raises:
            CannotStartError: something cannot be pickled, or not be read by a worker.
        """
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoshrink-")))
            try:
                _dump(folder / _JOB, self._job)
                _dump(folder / _ARGUMENTS, self._arguments)
            except Exception as error:  # of the user's objects, whatever they raise
                raise CannotStartError(_line(error)) from error
            gpus = visible_gpus()
            for index in range(self._count):
                gpu = gpus[index % len(gpus)] if gpus else None
                self._workers.append(Worker(f"worker{index + 1}", folder, gpu))
                stack.callback(self._workers[-1].kill)
            for worker in self._workers:
                worker.start()
            # The first says whether all can do it; the others go on with their imports meanwhile.
            problem = self._workers[0].receive()
            if problem is not None:
                ended = CannotStartError("a worker's process ended as it started")
                raise ended if problem == _KILLED else problem
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def idle(self) -> list[Worker]:
        """Those that train nothing."""
        return [worker for worker in self._workers if worker.trial is None]

    def wait(self) -> list[tuple[Worker, Trial, Report | None]]:
        """Waits a while for results.

        Returns:
            Each worker that has ended its trial, the trial and its report; None of one that was
            killed, and has been started again.

        Raises:
            CannotStartError: one of them cannot read what the first could.
        """
        ended = []
        for connection in wait([worker.connection for worker in self._workers], _POLL):
            worker = next(each for each in self._workers if each.connection is connection)
            answer = worker.receive()
            if answer is None:  # it has started
                continue
            if isinstance(answer, CannotStartError):
                raise answer
            if answer == _KILLED:
                worker.start()
            trial, worker.trial = worker.trial, None
            if trial is not None:
                ended.append((worker, trial, None if answer == _KILLED else answer))
        return ended


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a trial.

    Args:
        status: of `TrialStatus`.
        message: the traceback of what failed, or None.
        metrics: for each metric its value; None if there are none.
        step: the epoch that they are of.
        fatal: what ends the search, or None.
    """

    status: str
    message: str | None = None
    metrics: dict[str, float] | None = None
    step: int = 0
    fatal: keras_tuner.errors.FatalError | None = None


class Worker:
    """One worker process, as the search's process sees it.

    Args:
        name: by which the oracle knows it.
        folder: with the files that it reads.
        gpu: of its own, as CUDA_VISIBLE_DEVICES names it, or None.

    Attributes:
        trial: that it trains, or None.
        connection: of its pipe.
    """

    def __init__(self, name: str, folder: Path, gpu: str | None) -> None:
        self.name = name
        self.trial: Trial | None = None
        self._folder = folder
        self._environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **trainer_environment(gpu)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, or starts it again."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(self._folder)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            # What is typed on the terminal, such as Ctrl-C, is for the search.
            start_new_session=True,
        )
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

    def receive(self) -> Any:
        """Returns its next message, or `_KILLED` if the process has ended."""
        try:
            return self.connection.recv()
        except (OSError, EOFError):
            self.kill()
            return _KILLED

    def kill(self) -> None:
        """Ends the process, and those that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.connection.close()


# ---- in a worker --------------------------------------------------------------------------------


def work(descriptor: int, folder: str) -> None:
    """Trains the trials that come over a pipe, until its other end closes.

    Args:
        descriptor: of the pipe.
        folder: that `Workers` has written to.
    """
    connection = Connection(descriptor)
    trials: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, trials), daemon=True).start()
    try:
        settings, ops, tuner = _load(Path(folder, _JOB))
        _set_keras(settings)
        operations.add(ops)
        _load(Path(folder, _ARGUMENTS))  # only to see whether that can be read
    except Exception as error:  # of the user's objects, whatever they raise
        connection.send(CannotStartError(_line(error)))
        return
    # KerasTuner asks for a collection before each candidate, which would look through a million
    # objects that stay.
    gc.collect()
    gc.freeze()
    connection.send(None)
    arguments = None
    while True:
        state, best = trials.get()
        if arguments is None or not _caches(arguments):
            # Unpacked for each trial: data that shuffle themselves begin in the same way then,
            # whoever trains it.
            arguments = _load(Path(folder, _ARGUMENTS))
        connection.send(tuner.train(Trial.from_state(state), best, *arguments))


def _receive(connection: Connection, trials: queue.SimpleQueue[Any]) -> None:
    """Passes on what comes, also while a candidate trains; ends with the search's process."""
    while True:
        try:
            trials.put(connection.recv())
        except (OSError, EOFError):
            # Not in an orderly way, which may take long or hang: only the search writes its state.
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _keras_settings() -> dict[str, Any]:
    config = keras.config
    return {
        "floatx": config.floatx(),
        "epsilon": config.epsilon(),
        "image_data_format": config.image_data_format(),
        "dtype_policy": config.dtype_policy().name,
        "custom_objects": dict(keras.saving.get_custom_objects()),
    }


def _set_keras(settings: dict[str, Any]) -> None:
    keras.saving.get_custom_objects().update(settings.pop("custom_objects"))
    for name, value in settings.items():
        getattr(keras.config, f"set_{name}")(value)


# ---- files of pickled objects -------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Pickles also a `tf.data.Dataset`, as the graph that it is."""

    def reducer_override(self, value: Any) -> Any:
        if _is_dataset(value):
            return _from_graph, _to_graph(value)
        return super().reducer_override(value)


def _is_dataset(value: Any) -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.data.Dataset)


def _graph(dataset: Any) -> Any:
    """Returns the graph that a `tf.data.Dataset` is, a GraphDef."""
    import tensorflow as tf

    serialized = tf.raw_ops.DatasetToGraphV2(
        input_dataset=dataset._variant_tensor,
        external_state_policy=1,  # such as that of a random generator: begins anew
    )
    return tf.compat.v1.GraphDef.FromString(serialized.numpy())


def _ops(graph: Any) -> set[str]:
    """Returns the names of the ops in a graph and its functions."""
    functions = (function.node_def for function in graph.library.function)
    return {node.op for node in itertools.chain(graph.node, *functions)}


def _to_graph(dataset: Any) -> tuple[bytes, Any]:
    """Describes a `tf.data.Dataset`, so that `_from_graph` makes it in another process.

    Raises:
        ValueError: it holds what no graph can: elements that Python makes, or a table.
    """
    graph = _graph(dataset)
    if any("PyFunc" in op for op in _ops(graph)):
        raise ValueError(
            "a tf.data.Dataset whose elements Python makes (from_generator, py_function, "
            "numpy_function) stays in its process"
        )
    kinds = {handle.maybe_type_name for handle in _resources(graph)}
    if others := [kind for kind in kinds if not any(known in kind for known in _MADE_ANEW)]:
        raise ValueError(f"a tf.data.Dataset that holds a {others[0]} stays in its process")
    return graph.SerializeToString(), dataset.element_spec


# The resources of datasets that they make for themselves where they find none: the states of what
# shuffles, and what has been cached.
_MADE_ANEW = ("SeedGenerator", "MemoryCache")


def _resources(graph: Any) -> Iterator[Any]:
    """Yields the handles of the resources that a graph uses."""
    for node in graph.node:
        yield from node.attr["value"].tensor.resource_handle_val


def _from_graph(serialized: bytes, element_spec: Any) -> Any:
    import tensorflow as tf
    from tensorflow.python.data.ops import dataset_ops

    graph = tf.compat.v1.GraphDef.FromString(serialized)
    for handle in _resources(graph):  # or it would go on where another one is
        handle.name = f"{handle.name}_{next(_numbers)}"
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return dataset_ops._VariantDataset(variant, element_spec)


_numbers = itertools.count()


def _caches(arguments: Any) -> bool:
    """Whether a dataset among the arguments keeps what it has read, which may take long to read."""
    datasets = filter(_is_dataset, keras.tree.flatten(arguments))
    return any("CacheDataset" in op for dataset in datasets for op in _ops(_graph(dataset)))


def fresh(arguments: Any) -> Any:
    """Makes each `tf.data.Dataset` anew, as it was before anybody read from it.

    Args:
        arguments: of `search()`, nested.

    Returns:
        The same with other datasets, unless one of them caches, or Python makes its elements.
    """
    if not any(map(_is_dataset, keras.tree.flatten(arguments))) or _caches(arguments):
        return arguments

    def remake(value: Any) -> Any:
        if _is_dataset(value):
            with contextlib.suppress(ValueError):
                return _from_graph(*_to_graph(value))
        return value

    return keras.tree.map_structure(remake, arguments)


def _dump(path: Path, value: Any) -> None:
    """Writes an object; the arrays in it go to a file of their own, to be mapped into memory."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    with path.open("wb") as file, path.with_suffix(".arrays").open("wb") as arrays:
        places = []
        for buffer in buffers:
            arrays.write(bytes(-arrays.tell() % _ALIGNMENT))
            places.append((arrays.tell(), buffer.raw().nbytes))
            arrays.write(buffer.raw())
        pickle.dump(places, file)
        file.write(stream.getbuffer())


def _load(path: Path) -> Any:
    """Reads an object that `_dump` has written; what is changed in its arrays stays here."""
    with path.open("rb") as file, path.with_suffix(".arrays").open("rb") as arrays:
        places = pickle.load(file)
        data = memoryview(b"")
        if any(size for _, size in places):  # an empty file cannot be mapped
            data = memoryview(mmap.mmap(arrays.fileno(), 0, access=mmap.ACCESS_COPY))
        return pickle.load(file, buffers=[data[start : start + size] for start, size in places])


def _line(error: BaseException) -> str:
    """Returns an error in one line."""
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
