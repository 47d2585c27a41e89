"""Runs a pruning or a quantization-aware training in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.optimize.layer_graph import LayerGraph, Node, set_weights, weights_of
from tflite_export.runtime import cause_of, python_command, python_environment

if TYPE_CHECKING:
    import keras

# The exit statuses of a process that refuses its job or whose training diverges; the last line of
# its standard error says why.
REFUSED, DIVERGED = 3, 4

# How far the outputs of the two copies may be apart, as a share of the largest output: they add
# the same numbers in another order.
TOLERANCE = 1e-4

_CHECKED = 8  # samples


@dataclasses.dataclass(frozen=True)
class Job:
    """Describes a job to the process that does it; the arrays lie beside it.

    Attributes:
        task: "prune" or "quantize".
        graph: The network.
        epochs: Passes over the samples.
        batch_size: Samples of a step.
        learning_rate: Learning rate of Adam.
        seed: Seed of the order of the samples and of dropout.
        sparsity: Share of zeros, for "prune".
    """

    task: str
    graph: LayerGraph
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    sparsity: float = 0.0

    def to_json(self) -> str:
        """Converts the job to JSON, numbers of NumPy to plain ones."""
        return json.dumps(dataclasses.asdict(self), default=lambda number: number.item())

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads a job from JSON; tuples among the arguments of its nodes become lists."""
        job = json.loads(text)
        graph = job.pop("graph")
        nodes = [
            Node(
                node["name"],
                node["kind"],
                node["arguments"],
                tuple(node["inputs"]),
                tuple((layer, place) for layer, place in node["sources"]),
            )
            for node in graph["nodes"]
        ]
        shape = tuple(graph["input_shape"])
        return cls(graph=LayerGraph(graph["input"], shape, graph["output"], tuple(nodes)), **job)


def run(
    job: Job,
    model: keras.Model,
    samples: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    folder: Path,
    verbose: bool,
) -> keras.Model:
    """Runs a job in a folder, and returns a copy of the model with the weights that come of it."""
    import keras

    few = samples[:_CHECKED]
    save_arrays(folder / "weights.npz", weights_of(model, job.graph))
    np.save(folder / "x.npy", samples)
    np.save(folder / "y.npy", labels)
    outputs = outputs_of(model, few)
    if not np.isfinite(outputs).all():
        raise ValueError("model gives NaN or infinity for the first samples of x")
    np.save(folder / "outputs.npy", outputs)
    (folder / "job.json").write_text(job.to_json(), encoding="utf-8")
    _start(job.task, folder, verbose)
    optimised = keras.models.clone_model(model)
    optimised.set_weights(model.get_weights())  # those of Normalization are no node's
    with np.load(folder / "optimised.npz") as weights:
        set_weights(optimised, job.graph, weights)
    expected = np.load(folder / "optimised_outputs.npy")
    if not close(outputs_of(optimised, few), expected):
        raise RuntimeError(f"{job.task}: the weights came back, but not what they compute")
    return optimised


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays by name, for ``numpy.load``."""
    named: dict[str, Any] = dict(arrays)
    np.savez(path, **named)


def outputs_of(model: Any, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Runs a model of either Keras on the CPU: GPUs may round more."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return np.asarray(model(np.asarray(samples), training=False))


def close(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    """Returns whether two outputs are those of the same network."""
    return bool(np.allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max()))


def _start(task: str, folder: Path, verbose: bool) -> None:
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # This process may hold most of a GPU's memory.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **python_environment(),
        "TF_USE_LEGACY_KERAS": "1",
    }
    with (
        (folder / "errors.txt").open("w+b") as errors,
        subprocess.Popen(
            python_command("tflite_export.optimize.process", os.fspath(folder)),
            env=environment,
            # Nothing is written into it: its end tells the process that this one is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if verbose:
                    print(line, end="", flush=True)
            status = process.wait()
        except BaseException:  # Ctrl-C: nothing goes on behind the caller's back
            process.kill()
            raise
        errors.seek(0)
        lines = errors.read().decode(errors="replace").split("\n")
    if not status:
        return
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    if status == REFUSED:
        raise ValueError(last)
    if status == DIVERGED:
        raise RuntimeError(last)
    raise RuntimeError(f"{task}: the process that trains ended with {cause_of(status)}: {last}")
