"""What the candidates of a search cost, counted and measured before they are trained.

What takes a network to be built is kept in the search's folder, by its key: a search that
goes on sees the numbers that it saw before, and no network is measured twice. Latencies are the
time that candidates take as `.tflite` files with LiteRT on this machine's CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_autoshrink import files
from keras_autoshrink.backend import check_tensorflow_backend, graphs_released
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.networks.budget import MACS, LatencyTarget, OverBudgetError
from keras_autoshrink.networks.language_model import is_language_model
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import RECORDED_COSTS, Score, check_cost
from keras_autoshrink.search.points import Point
from keras_autoshrink.search.records import CostLimits, Outcome
from keras_autoshrink.tuner.latency import convert, solve_macs, time_files


class CandidateCosts:
    """Counts and measures candidates, and says which of them are over the limits.

    Args:
        hypermodel: of the search: a HyperModel, or a function `build(hp)`.
        score: of the search; its attribute `cost` says what to measure. A hypermodel with a
            `latency_target` has networks whose multiply-accumulates follow from what they take.
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
        self._target: LatencyTarget | None = getattr(hypermodel, "latency_target", None)
        if self._target is not None and max_latency_ms is not None:
            raise ValueError(
                f"max_latency_ms={max_latency_ms!r}: the hypermodel has a target_latency_ms; leave "
                "out one of the two"
            )
        self._times = cost == "latency" or max_latency_ms is not None or self._target is not None
        self.folder: Path | None = None
        self.say: Callable[[str], None] = lambda line: None
        self._known: dict[str, dict[str, Any]] | None = None
        if self._times:
            what = "max_latency_ms" if max_latency_ms is not None else 'cost="latency"'
            check_tensorflow_backend("target_latency_ms" if self._target else what)

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
        if _key(cell) not in self._costs:
            self._known = None  # another process may have written it since
        if _key(cell) not in self._costs:
            raise ValueError(f"{self._path}: has no costs of this candidate; the chief writes them")
        return _recorded(self._costs[_key(cell)])

    def values(self, cell: Cell) -> dict[str, Any]:
        """Returns the values of a candidate's hyperparameters that follow from measurements."""
        if self._target is None or MACS not in (found := self._costs.get(_key(cell), {})):
            return {}
        return {MACS: found[MACS]}

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
        unknown = len({_key(c) for c in cells} - self._costs.keys()) if self._times else 0
        if unknown:
            what = "one network" if unknown == 1 else f"{unknown} networks"
            self.say(f"Measuring the latency of {what}, before training.")
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as folder, graphs_released():
            for number, cell in enumerate(cells):
                costs[cell] = found = dict(self._costs.get(_key(cell), {}))
                hp = hyperparameters(cell)
                build = functools.cache(lambda hp=hp: self._build(hp))
                try:
                    if self._target is not None and MACS not in found:
                        found.update(self._solve(hp, self._target))
                        hp.values[MACS] = found[MACS]
                        self._keep({_key(cell): found})
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
            self._keep({_key(cell): costs[cell] for cell in cells if cell not in errors})
        return {cell: self._outcome(costs[cell], errors.get(cell)) for cell in cells}

    def _solve(self, hp: keras_tuner.HyperParameters, target: LatencyTarget) -> dict[str, Any]:
        """Finds the multiply-accumulates with which a candidate takes the target's time."""
        # What others needed is closer than any guess from the time alone.
        known = [each[MACS] for each in self._costs.values() if MACS in each]
        guess = round(statistics.median(known)) if known else target.guess

        def build(macs: int) -> keras.Model:
            hp.values[MACS] = macs
            return self._build(hp)

        macs, timed = solve_macs(build, target.ms, target.quantization, guess)
        return {MACS: macs, **dataclasses.asdict(timed)}

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


def _key(cell: Cell) -> str:
    """What tells a network from others, however it is trained."""
    return cell.network if isinstance(cell, Point) else cell.key


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
