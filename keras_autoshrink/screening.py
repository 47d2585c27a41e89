"""What becomes of a search's candidates before they are trained: they are counted and measured."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.candidate_costs import CandidateCosts
from keras_autoshrink.cell import Cell
from keras_autoshrink.cost_limits import CostLimits
from keras_autoshrink.persistence import PersistentOracle
from keras_autoshrink.trajectory import Outcome


class ScreeningOracle(PersistentOracle):
    """An Oracle that knows what a candidate costs before it hands it out.

    Attributes:
        costs: what counts and measures; None where candidates are handed out as they are
            proposed. To be set before the search begins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.costs: CandidateCosts | None = None
        self._screened: set[str] = set()
        self._screening = threading.Lock()

    @property
    def _limits(self) -> CostLimits | None:
        return self.costs.limits if self.costs else None

    def _examine(self, cells: list[Cell]) -> Mapping[Cell, Outcome | None]:
        return self.costs.examine(cells, self._hyperparameters) if self.costs else {}

    def _passed(self, cell: Cell) -> bool:
        """Whether a pending candidate may be handed out."""
        return not self.costs or cell.key in self._screened

    def _screen(self) -> None:
        """Looks at what the candidates of a round cost before any of them is handed out.

        So nothing of this search trains while latencies are measured. Not synchronized: what
        raises with KerasTuner's lock held would never release it.
        """
        with self._screening:
            while self.costs:
                pending = [c.cell for c in self.search.pending()]
                unknown = [cell for cell in pending if cell.key not in self._screened]
                if not unknown:
                    break
                self._take_screened(self._examine(unknown))

    @keras_tuner.synchronized
    def _take_screened(self, found: Mapping[Cell, Outcome | None]) -> None:
        self._screened.update(cell.key for cell in found)
        told = {cell: outcome for cell, outcome in found.items() if outcome is not None}
        for cell, outcome in told.items():
            if all(candidate.cell.key != cell.key for candidate in self.search.pending()):
                continue  # a worker of an earlier run has answered meanwhile
            self.search.tell(cell, outcome)
            # Of an earlier run, which measured it otherwise.
            given = self.trials.get(self._trial_ids.pop(cell.key, ""))
            if given is not None:
                self._stop(given, str(outcome.over_limit or outcome.error))
        if told:
            self.save()

    def _stop(self, trial: Trial, message: str) -> None:
        """Ends a trial that does not count."""
        trial.status, trial.message = TrialStatus.STOPPED, message
        self._attempts.end(trial.trial_id)
        self._retry_queue = [i for i in self._retry_queue if i != trial.trial_id]
        self._save_trial(trial)

    def _reopen(self) -> None:
        self._screened.clear()
        super()._reopen()
