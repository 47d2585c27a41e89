"""What the candidates of a search cost, counted and measured before they are trained.

What takes a network to be built is kept in the search's folder, by `Cell.key`: a search that
goes on sees the numbers that it saw before, and no network is measured twice.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_autoshrink import files
from keras_autoshrink.backends import check_tensorflow_backend
from keras_autoshrink.cell import Cell
from keras_autoshrink.cost_limits import CostLimits
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.language_models import is_language_model
from keras_autoshrink.memory import graphs_released
from keras_autoshrink.score import Score, check_cost
from keras_autoshrink.trajectory import Outcome

FILE = "costs.json"

# What a score and a trajectory are told of what was measured.
_MEASURED = ("latency_ms", "measured_cost")


class CandidateCosts:
    """Counts and measures candidates, and says which of them are over the limits.

    Args:
        hypermodel: of the search: a HyperModel, or a function `build(hp)`.
        score: of the search; its attribute `cost` says what to measure.
        max_macs: as of `CostLimits`.
        max_latency_ms: likewise.

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
        self.limits = CostLimits(max_macs, max_latency_ms)
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

    @property
    def measures(self) -> bool:
        """Whether candidates have numbers that no worker can count for itself."""
        return self._times or self._count is not None

    def measured(self, cell: Cell) -> dict[str, float]:
        """What was measured of a candidate: `latency_ms`, `measured_cost` by the score's callable.

        Raises:
            ValueError: it was not, or not in this folder.
        """
        if not self.measures:
            return {}
        if cell.key not in self._costs:
            self._known = None  # another process may have written it since
        if cell.key not in self._costs:
            raise ValueError(f"{self._path}: has no costs of this candidate; the chief writes them")
        found = self._costs[cell.key]
        return {name: found[name] for name in _MEASURED if name in found}

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
                    if "macs" not in found:
                        found.update(_counted(build()))
                        new = True
                    if self.limits.over(found["macs"]):
                        continue  # whatever else it costs
                    if self._count is not None and "measured_cost" not in found:
                        found["measured_cost"] = _checked(self._count, build())
                        new = True
                    if self._times and "latency_ms" not in found:
                        from keras_autoshrink import candidate_latency

                        path = Path(folder, f"{number}.tflite")
                        candidate_latency.convert(build(), path)
                        to_time[cell] = path
                except Exception as error:  # of the user's code, of Keras or of the converter
                    errors[cell] = error
            if to_time:
                new = True
                for cell, timed in candidate_latency.time_files(to_time).items():
                    if isinstance(timed, Exception):
                        errors[cell] = timed
                    else:
                        costs[cell].update(dataclasses.asdict(timed))
        if new:
            self._keep({cell.key: costs[cell] for cell in cells if cell not in errors})
        return {cell: self._outcome(costs[cell], errors.get(cell)) for cell in cells}

    def said(self) -> list[str]:
        """How latencies were measured, and how far they scattered: lines to print."""
        return describe(self._costs)

    def _outcome(self, costs: Mapping[str, Any], error: Exception | None) -> Outcome | None:
        if error is not None:
            line = (str(error).strip() or "no message").splitlines()[0]
            return Outcome(None, error=f"{type(error).__name__}: {line}")
        over = self.limits.over(costs["macs"], costs.get("latency_ms"))
        if over is None:
            return None
        known = {name: costs.get(name) for name in ("macs", "params", *_MEASURED)}
        return Outcome(None, over_limit=over, **known)

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / FILE

    @property
    def _costs(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            self._known = read(self._path)
        return self._known

    def _keep(self, costs: Mapping[str, dict[str, Any]]) -> None:
        self._costs.update(costs)
        files.write_text(self._path, json.dumps(self._costs, indent=1) + "\n")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The costs in a file, by `Cell.key`; none if it is not there.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return files.read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or delete it to measure anew") from error


def describe(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the latencies among some costs were measured: lines; see `candidate_latency.describe`."""
    spreads: dict[str, list[float]] = {}
    for each in costs.values():
        if "measured_by" in each:
            spreads.setdefault(each["measured_by"], []).append(each["spread"])
    if not spreads:
        return []
    from keras_autoshrink import candidate_latency

    return candidate_latency.describe(spreads)


def _counted(model: keras.Model) -> dict[str, int]:
    one = (1,) if is_language_model(model) else None
    return {"macs": count_macs(model, input_shape=one), "params": count_params(model)}


def _checked(count: Callable[[Any], Any], model: keras.Model) -> float:
    """What a callable says that a model costs.

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
