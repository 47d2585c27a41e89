"""What the candidates of a search cost, counted and measured before they are trained.

What takes a network to be built is kept in the search's folder, by `Cell.key`: a search that
goes on sees the numbers that it saw before, and no network is measured twice. Latencies are the
time that candidates take as `.tflite` files with LiteRT on this machine's CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import keras_tuner

import tflite_export
from keras_autoshrink import files
from keras_autoshrink.backend import check_tensorflow_backend, graphs_released
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.networks.language_model import is_language_model, step_model
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import RECORDED_COSTS, Score, check_cost
from keras_autoshrink.search.records import CostLimits, Outcome

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


class CandidateCosts:
    """Counts and measures candidates, and says which of them are over the limits.

    Args:
        hypermodel: of the search: a HyperModel, or a function `build(hp)`.
        score: of the search; its attribute `cost` says what to measure.
        max_macs: the most multiply-accumulates for one image or token; None for any number.
        max_latency_ms: the most milliseconds that LiteRT may take; None for any number.

    Attributes:
        limits: of the search.
        folder: the search's; to be set before anything is measured.
        say: called with a line before what takes a while.

    Raises:
        ValueError: a limit or a cost is not as described, or takes another backend.
    """

    def __init__(
        self,
        hypermodel: Any,
        score: Score,
        max_macs: int | None = None,
        max_latency_ms: float | None = None,
    ) -> None:
        cost = getattr(score, "cost", "macs")
        check_cost(cost)
        self._build = hypermodel.build if hasattr(hypermodel, "build") else hypermodel
        self._count = cost if callable(cost) else None
        limits: dict[str, float] = {}
        if max_macs is not None:
            limits["macs"] = whole("max_macs", max_macs, 1)
        if max_latency_ms is not None:
            limits["latency_ms"] = positive("max_latency_ms", max_latency_ms)
        self.limits = CostLimits(limits)
        self._times = cost == "latency" or max_latency_ms is not None
        self.folder: Path | None = None
        self.say: Callable[[str], None] = lambda line: None
        self._known: dict[str, dict[str, Any]] | None = None
        if self._times:
            what = "max_latency_ms" if max_latency_ms is not None else 'cost="latency"'
            check_tensorflow_backend(what)

    def __bool__(self) -> bool:
        """Whether there is anything to do before a candidate is trained."""
        return bool(self.limits) or self.measures

    def __getstate__(self) -> dict[str, Any]:
        # A worker process has nobody to say anything to.
        return {**vars(self), "say": None}

    @property
    def measures(self) -> bool:
        """Whether candidates have numbers that no worker can count for itself."""
        return self._times or self._count is not None

    def measured(self, cell: Cell) -> dict[str, float]:
        """Returns what was counted and measured of a candidate before its training, by `Cost.name`.

        Raises:
            ValueError: it has not been measured, or not in this folder.
        """
        if not self.measures:
            return {}
        if cell.key not in self._costs:
            self._known = None  # another process may have written it since
        if cell.key not in self._costs:
            raise ValueError(f"{self._path}: has no costs of this candidate; the chief writes them")
        return _recorded(self._costs[cell.key])

    def examine(
        self,
        cells: Sequence[Cell],
        hyperparameters: Callable[[Cell], keras_tuner.HyperParameters],
    ) -> dict[Cell, Outcome | None]:
        """Counts and measures candidates before any of them is trained.

        Args:
            cells: the candidates.
            hyperparameters: of a candidate.

        Returns:
            None of each that is to be trained; of one over a limit, or of which there is no cost,
            what came of it.
        """
        costs: dict[Cell, dict[str, Any]] = {}
        errors: dict[Cell, Exception] = {}
        to_time: dict[Cell, Path] = {}
        new = False
        self._known = None  # another process may have gone on since
        unknown = sum(cell.key not in self._costs for cell in cells) if self._times else 0
        if unknown:
            what = "one network" if unknown == 1 else f"{unknown} networks"
            self.say(f"Measuring the latency of {what}, before training.")
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as folder, graphs_released():
            for number, cell in enumerate(cells):
                costs[cell] = found = dict(self._costs.get(cell.key, {}))
                build = functools.cache(lambda cell=cell: self._build(hyperparameters(cell)))
                try:
                    if not _COUNTERS.keys() <= found.keys():
                        found.update(count_costs(build()))
                        new = True
                    if self.limits.over(found):
                        continue  # whatever else it costs
                    if self._count is not None and "measured_cost" not in found:
                        found["measured_cost"] = _checked(self._count, build())
                        new = True
                    if self._times and "latency_ms" not in found:
                        path = Path(folder, f"{number}.tflite")
                        convert(build(), path)
                        to_time[cell] = path
                except Exception as error:  # of the user's code, of Keras or of the converter
                    errors[cell] = error
            if to_time:
                new = True
                for cell, timed in time_files(to_time).items():
                    if isinstance(timed, Exception):
                        errors[cell] = timed
                    else:
                        costs[cell].update(dataclasses.asdict(timed))
        if new:
            self._keep({cell.key: costs[cell] for cell in cells if cell not in errors})
        return {cell: self._outcome(costs[cell], errors.get(cell)) for cell in cells}

    def said(self) -> list[str]:
        """Returns how latencies were measured, and how far they scattered, in lines."""
        return saved_search.describe_costs(self._costs)

    def _outcome(self, costs: Mapping[str, Any], error: Exception | None) -> Outcome | None:
        if isinstance(error, OverBudgetError):
            return Outcome(None, over_limit=str(error))
        if error is not None:
            line = (str(error).strip() or "no message").splitlines()[0]
            return Outcome(None, error=f"{type(error).__name__}: {line}")
        over = self.limits.over(costs)
        if over is None:
            return None
        return Outcome(None, over_limit=over, costs=_recorded(costs))

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / saved_search.COSTS

    @property
    def _costs(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            self._known = saved_search.read_costs(self.folder)
        return self._known

    def _keep(self, costs: Mapping[str, dict[str, Any]]) -> None:
        self._costs.update(costs)
        files.write_text(self._path, json.dumps(self._costs, indent=1) + "\n")


def _macs(model: keras.Model) -> int:
    return count_macs(model, input_shape=(1,) if is_language_model(model) else None)


# What is counted in a network, for one image or one token, by `Cost.name`; others are measured.
_COUNTERS: dict[str, Callable[[keras.Model], float]] = {"macs": _macs, "params": count_params}


def count_costs(model: keras.Model) -> dict[str, float]:
    """Counts what can be counted of the costs of a network, by `Cost.name`."""
    return {name: count(model) for name, count in _COUNTERS.items()}


def _recorded(costs: Mapping[str, Any]) -> dict[str, float]:
    return {cost.name: costs[cost.name] for cost in RECORDED_COSTS if cost.name in costs}


def _checked(count: Callable[[Any], Any], model: keras.Model) -> float:
    """Returns what a callable says that a model costs.

    Raises:
        ValueError: that is no finite number greater than 0.
    """
    cost = count(model)
    try:
        if 0 < cost < math.inf:
            return float(cost)
    except (TypeError, ValueError):  # no number, an array
        pass
    name = getattr(count, "__qualname__", type(count).__qualname__)
    raise ValueError(f"cost={name}: returned {cost!r}; a cost is a number greater than 0")
