"""ShrinkCNNs beside networks of keras.applications: what each costs, measured in one run.

Parameters, multiply-accumulates (MACs; 1 MAC = 2 FLOPs) of the model and of its .tflite file, the
file's bytes, and LiteRT's time for one image of 224 x 224 x 3, 1000 classes. Exit status 1 if a
count of MACs is not the published one.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from published import INPUT_SHAPE, PUBLISHED, build, search_space
from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
import tflite_export
from tflite_export.runtime import native_output_silenced

_QUANTIZATIONS = ("float32", "int8")
_SEED = 0
_REMARKS = (
    "M: millions. MB: 10^6 bytes. ms: the median of the passes' medians (least-most of them).",
    "top-1 is published by others, for their trained weights, on ImageNet; it is not ours.",
    "The weights here are random, and so are the images that int8 is calibrated on: no cost "
    "hangs on their values. BatchNorm has the statistics of such images, so that no bias is 0.",
    "Search space: the complete cell has 8 nodes and 28 edges, its ops in the order of seed 0. "
    "The proxy is the network that the search trains, at 32 x 32 x 3, 10 classes.",
)

Grid = tuple[str, list[str], list[list[str]]]  # title, headings, rows


@dataclasses.dataclass
class Costs:
    """What one network costs.

    Args:
        name: a key of `PUBLISHED`.
        params: all parameters.
        params_without_batchnorm: those outside of BatchNorm layers.
        macs: multiply-accumulates of the Keras model for one image.
        file_macs: those counted in the float32 file.
        num_bytes: of each quantization's file; None where there is none.
        notes: what a reader has to know.
        passes_ms: each pass's median, by file and threads; `measure` adds them.
    """

    name: str
    params: int
    params_without_batchnorm: int
    macs: int
    file_macs: int
    num_bytes: dict[str, int | None]
    notes: list[str]
    passes_ms: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All of it, and what is published, as JSON takes it."""
        theirs = PUBLISHED[self.name]
        return {
            **dataclasses.asdict(self),
            "median_ms": {key: statistics.median(ms) for key, ms in self.passes_ms.items()},
            "published": dataclasses.asdict(theirs) | {"agrees": theirs.agrees(self.macs)},
        }


def convert(name: str, folder: Path) -> Costs:
    """Builds a network, counts it and writes its files, `<name>-<quantization>.tflite`."""
    import keras

    keras.utils.set_random_seed(_SEED)
    model = build(name)
    images = np.random.default_rng(_SEED).standard_normal((4, *INPUT_SHAPE), dtype=np.float32)
    # With BatchNorm's initial statistics all biases are 0, and a file stores equal ones once: an
    # int8 file would be up to 7% smaller. Without momentum, one step makes them the images'.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    notes = [PUBLISHED[name].note] if PUBLISHED[name].note else []
    num_bytes: dict[str, int | None] = {}
    for quantization in _QUANTIZATIONS:
        path = folder / f"{name}-{quantization}.tflite"
        data = images if quantization == "int8" else None
        try:
            tflite_export.convert(model, path, quantization, data)
        except ValueError as error:
            notes.append(f"no {quantization} file: {error}")
        num_bytes[quantization] = path.stat().st_size if path.exists() else None
    macs = kas.count_macs(model)
    file_macs = tflite_export.count_macs(folder / f"{name}-float32.tflite")
    if file_macs != macs:
        notes.append(f"the converter rewrites it: {file_macs - macs:+,} MACs in the file")
    params = kas.count_params(model), kas.count_params(model, batchnorm=False)
    keras.backend.clear_session()
    return Costs(name, *params, macs, file_macs, num_bytes, notes)


def measure(
    costs: Sequence[Costs], folder: Path, threads: Sequence[int], runs: int, passes: int
) -> None:
    """Adds the latencies: in every pass some runs of every file, in an order of the pass's own.

    A shared machine drifts by more than networks differ. Interleaved, they drift together.
    """
    jobs = [
        (one, quantization, number)
        for one in costs
        for quantization, num_bytes in one.num_bytes.items()
        for number in threads
        if num_bytes is not None
    ]
    for one, quantization, number in jobs:
        one.passes_ms[_timing(quantization, number)] = []
    generator = random.Random(_SEED)
    for _ in range(passes):
        for one, quantization, number in generator.sample(jobs, len(jobs)):
            path = folder / f"{one.name}-{quantization}.tflite"
            median = tflite_export.benchmark(path, number, runs).median_ms
            one.passes_ms[_timing(quantization, number)].append(median)


def _timing(quantization: str, threads: int) -> str:
    return f"{quantization}, {threads} thread{'s' if threads > 1 else ''}"


def environment() -> dict[str, str]:
    """The processor and the versions behind the figures."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "unknown processor"
    packages = ("ai-edge-litert", "keras", "tensorflow")
    return {
        "processor": f"{name}, {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def grids(costs: Sequence[Costs], facts: Sequence[dict[str, Any]]) -> list[Grid]:
    """The tables: the costs in short, the counts in full, the search space."""
    timings = list(dict.fromkeys(key for one in costs for key in one.passes_ms))
    headings = ["network", "top-1 %", "params M", "MACs M"]
    headings += [f"{key} MB" for key in _QUANTIZATIONS] + [f"{key}, ms" for key in timings]
    summary, counts, space = [], [], []
    for one in costs:
        theirs = PUBLISHED[one.name]
        row = [one.name, f"{theirs.top1}", f"{one.params / 1e6:.2f}", f"{one.macs / 1e6:,.0f}"]
        row += [f"{size / 1e6:.1f}" if size else "-" for size in one.num_bytes.values()]
        for passes in map(one.passes_ms.get, timings):
            values = (f(passes) for f in (statistics.median, min, max)) if passes else ()
            row.append(
                "{} ({}-{})".format(*(f"{x:#.3g}".rstrip(".") for x in values)) if passes else "-"
            )
        summary.append(row)
        exact = (one.params, one.params_without_batchnorm, one.macs, one.file_macs)
        off = f"{one.macs / theirs.macs - 1:+.1%}" + ("" if theirs.agrees(one.macs) else " WRONG")
        counts.append([one.name, *(f"{n:,}" for n in exact), f"{theirs.macs / 1e6:,.0f}", off])
    for fact in facts:
        both = (f"{fact[key]:,}" for key in ("complete", "published"))
        space.append([fact["network"], fact["count"], *both, f"{fact['saving']:.0%}"])
    exact_headings = ["parameters", "without BatchNorm", "MACs of model", "MACs in file"]
    published_headings = ["published M", "off by"]
    return [
        ("Costs for one image", headings, summary),
        ("Counts", ["network", *exact_headings, *published_headings], counts),
        ("Search space", ["network", "count", "complete cell", "published cell", "saving"], space),
    ]
