"""The time that candidates take as `.tflite` files with LiteRT on this machine's CPU."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import keras

import tflite_export
from keras_autoshrink.language_models import is_language_model, step_model

# What else runs on a machine only ever adds to a time, and comes and goes: so there are several
# blocks of runs, those of a round's files in turn, and the fastest block counts.
_BLOCKS = 7
_BLOCK_MS = 50.0
_FEWEST_RUNS, _MOST_RUNS = 20, 2_000

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Timed:
    """What came of timing a file.

    Attributes:
        latency_ms: milliseconds of a run: the least of the blocks' medians.
        spread: by how much of that the largest of these medians is more.
        measured_by: the runtime, its threads and the processor.
    """

    latency_ms: float
    spread: float
    measured_by: str


def convert(model: keras.Model, path: Path) -> None:
    """Writes a candidate as a float32 file for one image, or for one token of a text.

    Raises:
        ValueError: TensorFlow Lite cannot convert it.
    """
    tflite_export.convert(step_model(model) if is_language_model(model) else model, path)


def time_files(paths: Mapping[Key, Path]) -> dict[Key, Timed | Exception]:
    """Times files on one thread.

    Returns:
        Of each file what came of it, or why LiteRT cannot run it.
    """
    found: dict[Key, Timed | Exception] = {}
    runs: dict[Key, int] = {}
    for key, path in paths.items():
        try:
            first = tflite_export.benchmark(path, runs=_FEWEST_RUNS)
        except ValueError as error:
            found[key] = error
            continue
        wanted = round(_BLOCK_MS / max(first.median_ms, 1e-3))
        runs[key] = min(max(wanted, _FEWEST_RUNS), _MOST_RUNS)
    blocks: dict[Key, list[tflite_export.Latency]] = {key: [] for key in runs}
    for _ in range(_BLOCKS):
        for key, number in runs.items():
            blocks[key].append(tflite_export.benchmark(paths[key], runs=number))
    for key, measured in blocks.items():
        medians = [each.median_ms for each in measured]
        least = min(medians)
        found[key] = Timed(least, max(medians) / least - 1, measured[0].measured_by)
    return found


def describe(spreads: Mapping[str, list[float]]) -> list[str]:
    """Says by what latencies were measured, and how far apart blocks of a file were: lines.

    Args:
        spreads: of the files, by `Timed.measured_by`.
    """
    return [
        f"Latency: {by}; {_BLOCKS} blocks of a file differ by {statistics.median(each):.0%} "
        f"(median of {len(each)})"
        for by, each in spreads.items()
    ]
