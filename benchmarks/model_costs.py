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
import re
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
    "M: millions. MB: 10^6 bytes. ms: the median of the passes' medians; thr.: threads.",
    "top-1 is published by others, for their trained weights, on ImageNet; it is not ours.",
    "The weights are random, and so are the images that int8 is calibrated on: costs do not "
    "hang on them. BatchNorm has the statistics of such images, so that no bias is 0.",
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
        passes_ms: each pass's median, by quantization and threads; from `measure`.
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
        """Returns all of it, and what is published, as JSON takes it."""
        record = dataclasses.asdict(self)
        record["median_ms"] = {key: statistics.median(ms) for key, ms in self.passes_ms.items()}
        record["published"] = dataclasses.asdict(PUBLISHED[self.name])
        record["macs_agree"] = PUBLISHED[self.name].agrees(self.macs)
        return record


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
    paths = {key: folder / f"{name}-{key}.tflite" for key in _QUANTIZATIONS}
    tflite_export.convert(model, paths["float32"])
    try:
        tflite_export.convert(model, paths["int8"], "int8", images)
    except ValueError as error:
        notes.append(f"no int8 file: {error}")
    num_bytes = {key: path.stat().st_size if path.exists() else None for key, path in paths.items()}
    macs, file_macs = kas.count_macs(model), tflite_export.count_macs(paths["float32"])
    if file_macs != macs:
        notes.append(f"the converter rewrites it: {file_macs - macs:+,} MACs in the file")
    params = kas.count_params(model), kas.count_params(model, batchnorm=False)
    return Costs(name, *params, macs, file_macs, num_bytes, notes)


def measure(costs: list[Costs], folder: Path, threads: list[int], runs: int, passes: int) -> None:
    """Adds the latencies: in every pass some runs of every file, in an order of the pass's own.

    A shared machine drifts by more than networks differ. Interleaved, they drift together.
    """
    jobs = [
        (one.passes_ms.setdefault(f"{quantization} ms, {number} thr.", []), path, number)
        for one in costs
        for quantization in _QUANTIZATIONS
        for number in threads
        if (path := folder / f"{one.name}-{quantization}.tflite").exists()
    ]
    generator = random.Random(_SEED)
    for _ in range(passes):
        for passes_ms, path, number in generator.sample(jobs, len(jobs)):
            passes_ms.append(tflite_export.benchmark(path, number, runs).median_ms)


def environment() -> dict[str, str]:
    """Returns the processor and the versions behind the figures."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor()
    packages = ("ai-edge-litert", "keras", "tensorflow")
    return {
        "processor": f"{name} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def grids(costs: Sequence[Costs], facts: Sequence[dict[str, Any]]) -> list[Grid]:
    """Makes the tables of costs, of how far passes differ, of counts, and of the search space."""
    timings = list(dict.fromkeys(key for one in costs for key in one.passes_ms))
    sizes = [f"{quantization} MB" for quantization in _QUANTIZATIONS]
    summary, spread, counts, space = [], [], [], []
    for one in costs:
        theirs = PUBLISHED[one.name]
        row = [one.name, f"{theirs.top1}", f"{one.params / 1e6:.2f}", f"{one.macs / 1e6:,.0f}"]
        row += [f"{size / 1e6:.1f}" if size else "-" for size in one.num_bytes.values()]
        passes = [one.passes_ms.get(key) for key in timings]
        summary.append(row + [f"{statistics.median(ms):.2f}" if ms else "-" for ms in passes])
        spread.append([one.name, *(f"{min(ms):.2f}-{max(ms):.2f}" if ms else "-" for ms in passes)])
        in_file = "same" if one.file_macs == one.macs else f"{one.file_macs:,}"
        off = f"{one.macs / theirs.macs - 1:+.1%}" + ("" if theirs.agrees(one.macs) else " WRONG")
        exact = [f"{n:,}" for n in (one.params, one.params_without_batchnorm, one.macs)]
        counts.append([one.name, *exact, in_file, f"{theirs.macs / 1e6:,.0f}", off])
    for fact in facts:
        both = (f"{fact[key]:,}" for key in ("complete", "published"))
        space.append([fact["network"], fact["count"], *both, f"{fact['saving']:.0%}"])
    exact = ["parameters", "without BatchNorm", "MACs", "in file", "published M", "off by"]
    cells = ["network", "count", "complete cell", "published cell", "saving"]
    return [
        ("Costs", ["network", "top-1 %", "params M", "MACs M", *sizes, *timings], summary),
        ("Latency: least and most of the passes", ["network", *timings], spread),
        ("Counts", ["network", *exact], counts),
        ("Search space", cells, space),
    ]


def to_markdown(grid: Grid) -> str:
    """Writes a table as GitHub shows it."""
    title, headings, rows = grid
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def to_table(grid: Grid) -> Table:
    """Makes a table as `rich` prints it; it fits into 80 characters."""
    title, headings, rows = grid
    lines = (heading.replace(" ", "\n") for heading in headings)
    table = Table(*lines, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit status."""
    names = list(PUBLISHED)
    parser = argparse.ArgumentParser(description=f"{__doc__} NAME: {', '.join(names)}.")
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--runs", type=positive_integer, default=20, help="timed runs in a pass")
    parser.add_argument("--passes", type=positive_integer, default=5, help="passes over all files")
    parser.add_argument("--threads", type=positive_integer, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=_writable, metavar="FILE", help="all figures")
    parser.add_argument("--markdown", type=_writable, metavar="FILE", help="the tables")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    progress = Console(stderr=True, highlight=False)
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        facts = search_space()
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(options.models):
            progress.print(f"building and converting {name}")
            costs.append(convert(name, Path(folder)))
        progress.print("measuring latencies")
        measure(costs, Path(folder), options.threads, options.runs, options.passes)
    setting = {**environment(), "runs": options.runs, "passes": options.passes}
    tables = grids(costs, facts)
    remarks = [", ".join(f"{key}: {value}" for key, value in setting.items()), *_REMARKS]
    for one in costs:
        remarks.append(f"{one.name}: {'; '.join([PUBLISHED[one.name].sources(), *one.notes])}")
    console = Console(highlight=False)
    for table in tables:
        console.print(to_table(table))
    console.print(*remarks, sep="\n", soft_wrap=True)
    if options.json:
        record = {"setting": setting, "search_space": facts, "models": [x.record() for x in costs]}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        parts = [*map(to_markdown, tables), "\n".join(f"- {remark}" for remark in remarks)]
        options.markdown.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    wrong = [one for one in costs if not PUBLISHED[one.name].agrees(one.macs)]
    for one in wrong:
        theirs = PUBLISHED[one.name].macs
        progress.print(f"{one.name}: {one.macs:,} MACs, but {theirs:,} are published", style="red")
    return 1 if wrong else 0


def positive_integer(text: str) -> int:
    """Reads an argument; argparse names this function when it is no number at all."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _writable(text: str) -> Path:
    if not Path(text).parent.is_dir():  # said before minutes of measuring, not after
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
