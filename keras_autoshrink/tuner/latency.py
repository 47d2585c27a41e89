"""What networks take as `.tflite` files on this machine, and how large they may be for a time."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np

import tflite_export
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.networks.language_model import is_language_model, step_model
from tflite_export.convert import Quantization

# What else runs on a machine only ever adds to a time, and comes and goes: so there are several
# blocks of runs, those of a round's files in turn, and the fastest block counts.
_BLOCKS = 7
_BLOCK_MS = 50.0
_FEWEST_RUNS, _MOST_RUNS = 20, 2_000

# Images of noise that an int8 file is calibrated on.
_CALIBRATION = 8
# What share of a time a network has to take, at how many it is looked for, and how often.
_ENOUGH, _AIM = 0.95, 0.975
_LOOKS = 6
# How often a first guess that is below the smallest network is doubled.
_DOUBLINGS = 6
# What a time grows by with the MACs: less than 1, as calls of kernels take time of their own.
_LEAST_POWER, _MOST_POWER = 0.4, 1.2

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


def convert(model: keras.Model, path: Path, quantization: Quantization = "float32") -> None:
    """Writes a candidate as a file for one image, or for one token of a text.

    Args:
        model: is not trained yet. The ranges of its activations, which say nothing of a time, are
            those of noise.
        path: of the file.
        quantization: the kind of file that `tflite_export.convert` is to write; "float32" for a
            language model.

    Raises:
        ValueError: TensorFlow Lite cannot convert it.
    """
    if is_language_model(model):
        model = step_model(model)
    noise = None
    if quantization == "int8":
        shape = (_CALIBRATION, *model.input_shape[1:])
        noise = np.random.default_rng(0).random(shape, "float32")
    tflite_export.convert(model, path, quantization, noise)


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


def solve_macs(
    build: Callable[[int], keras.Model],
    target_ms: float,
    quantization: Quantization,
    guess: int,
) -> tuple[int, Timed]:
    """Finds the multiply-accumulates for which a network's file takes as long as it may.

    Between two sizes the time is taken for a power of the multiply-accumulates. Each look is a
    conversion; a time scatters by some per cent, so no more than six are taken.

    Args:
        build: makes the network, as wide as so many multiply-accumulates allow. It raises an
            `OverBudgetError` where no width does.
        target_ms: milliseconds that the file takes on one thread, at most.
        quantization: of the file.
        guess: where to look first.

    Returns:
        The multiply-accumulates to be given to `build`, and the time of what it then makes: 95% to
        100% of the target, if one of the looks found such a network, else what came closest from
        below.

    Raises:
        OverBudgetError: all networks take longer, or all far less.
        ValueError: TensorFlow Lite cannot convert the network, or LiteRT not run it.
    """
    looks: dict[int, Timed] = {}
    macs = _buildable(build, guess)
    for _ in range(_LOOKS):
        try:
            timed = _time(build(macs), quantization)
        except OverBudgetError as error:
            way = "more" if macs < min(looks) else "less"
            nearest = min(looks) if macs < min(looks) else max(looks)
            raise OverBudgetError(
                f"target_latency_ms={target_ms:g}: the networks of this kind take {way}, of "
                f"{nearest:,} MACs {looks[nearest].latency_ms:.4g} ms"
            ) from error
        looks[macs] = timed
        if _ENOUGH * target_ms <= timed.latency_ms <= target_ms:
            break
        macs = _next_look({n: t.latency_ms for n, t in looks.items()}, _AIM * target_ms)
        if macs in looks:
            break
    within = {n: t for n, t in looks.items() if t.latency_ms <= target_ms}
    if not within:
        raise OverBudgetError(
            f"target_latency_ms={target_ms:g}: the network of {min(looks):,} MACs takes "
            f"{looks[min(looks)].latency_ms:.4g} ms"
        )
    return max(within.items(), key=lambda item: item[1].latency_ms)


def _buildable(build: Callable[[int], keras.Model], guess: int) -> int:
    """Returns the least multiple of a guess, by powers of 2, for which there is a network.

    Raises:
        OverBudgetError: there is none near.
    """
    for doubled in range(_DOUBLINGS + 1):
        try:
            build(guess * 2**doubled)
        except OverBudgetError:
            if doubled == _DOUBLINGS:
                raise
        else:
            return guess * 2**doubled
    raise AssertionError


def _time(model: keras.Model, quantization: Quantization) -> Timed:
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as folder:
        path = Path(folder, "network.tflite")
        convert(model, path, quantization)
        timed = time_files({path: path})[path]
    if isinstance(timed, Exception):
        raise timed
    return timed


def _next_look(looks: Mapping[int, float], aim: float) -> int:
    """Returns the multiply-accumulates that should take a time, by what some others take."""
    near, *others = sorted(looks, key=lambda macs: abs(math.log(looks[macs] / aim)))
    power = 1.0
    if others:
        # Beyond the aim if there is such a look, so that one goes between two.
        beyond = [n for n in others if (looks[n] < aim) != (looks[near] < aim)]
        other = (beyond or others)[0]
        power = math.log(looks[near] / looks[other]) / math.log(near / other)
        power = min(max(power, _LEAST_POWER), _MOST_POWER)
    return max(1, round(near * (aim / looks[near]) ** (1 / power)))
