"""AutoShrinkOracle: the algorithm of `shrink.py` behind KerasTuner's Oracle interface."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import files
from keras_autoshrink.cell import Cell
from keras_autoshrink.search_space import CellSpace
from keras_autoshrink.shrink import ShrinkSearch, check_settings
from keras_autoshrink.trials import metric_of, outcome_of


class AutoShrinkOracle(keras_tuner.Oracle):
    """Shrinks the cell of a search space edge by edge (arXiv 1911.09251, figure 2).

    For use with any `keras_tuner.Tuner` whose HyperModel declares a cell's edges as Booleans
    named `<cell>/edge_i_j`. All declared edges make the first cell; other hyperparameters keep
    their defaults. `AutoShrink` is the tuner that goes with it and adds the score; with
    another tuner the objective is the score.

    A trial whose objective is not finite has failed. When all candidates of a round have
    failed, asking for another trial raises a RuntimeError that quotes the last error.

    Args:
        objective: name or `keras_tuner.Objective`; by default the "score" of `AutoShrink`, to
            be maximised. The trajectory's score is what is maximised: for an objective to be
            minimised, its negative.
        metric: name of the metric behind the objective, for the record; by default the
            objective itself.
        num_candidates: k, how many edges are tried in a round.
        keep_fraction: the share of the initial edges at which the search stops.
        seed: integer, 0 included; every random choice comes from it.
        hyperparameters: as in `keras_tuner.Oracle`.
        allow_new_entries: as in `keras_tuner.Oracle`.
        tune_new_entries: as in `keras_tuner.Oracle`.
        max_retries_per_trial: as in `keras_tuner.Oracle`.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective | None = None,
        metric: str | None = None,
        num_candidates: int = 10,
        keep_fraction: float = 0.01,
        seed: int = 0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
    ) -> None:
        check_settings(num_candidates, keep_fraction, seed)
        if isinstance(objective, (list, tuple)):
            raise ValueError("objective: one objective; weigh several in a score of your own")
        super().__init__(
            objective=objective or keras_tuner.Objective("score", "max"),
            # A limit would cut a round in two.
            max_trials=None,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            seed=operator.index(seed),
            max_retries_per_trial=max_retries_per_trial,
            # The round counts its failures; KerasTuner's limit would raise with its lock held.
            max_consecutive_failed_trials=None,
        )
        self.seed = operator.index(seed)  # KerasTuner replaces 0 by a random seed
        self.metric = metric or self.objective.name
        self.num_candidates = operator.index(num_candidates)
        self.keep_fraction = float(keep_fraction)
        self._space: CellSpace | None = None
        self._search: ShrinkSearch | None = None
        self._trial_ids: dict[str, str] = {}  # of each network that has been given out

    @property
    def search(self) -> ShrinkSearch:
        """The state of the search; it starts when the search space is known.

        Raises:
            ValueError: the search space does not declare the edges of one cell.
        """
        if self._search is None:
            self._search = ShrinkSearch(
                self.space.cell,
                num_candidates=self.num_candidates,
                keep_fraction=self.keep_fraction,
                seed=self.seed,
            )
        return self._search

    @property
    def space(self) -> CellSpace:
        """The cell that the hyperparameters declare.

        Raises:
            ValueError: they do not declare the edges of one cell.
        """
        if self._space is None:
            self._space = CellSpace(self.hyperparameters.space)
        return self._space

    def cell_of(self, trial: Trial) -> Cell:
        """The cell that a trial trains, numbered as the complete DAG."""
        return self.space.sub_cell(trial.hyperparameters.values)

    def create_trial(self, tuner_id: str) -> Trial:
        """Hands out the next trial; see `keras_tuner.Oracle.create_trial`.

        Raises:
            RuntimeError: all candidates of the last round failed.
            ValueError: the search space does not declare the edges of one cell.
        """
        # Not synchronized: what raises with KerasTuner's lock held would never release it.
        if self.search.error:
            raise RuntimeError(
                f"the search cannot go on: {self.search.error}; mend the cause and start anew, "
                "with another project_name or overwrite=True"
            )
        return super().create_trial(tuner_id)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next candidate that nobody trains yet, or word to wait, or to stop."""
        if self.search.done:
            return {"status": TrialStatus.STOPPED}
        for candidate in self.search.pending():
            if candidate.cell.key not in self._trial_ids:
                self._trial_ids[candidate.cell.key] = trial_id
                return {
                    "status": TrialStatus.RUNNING,
                    "values": {**self._defaults(), **self.space.values(candidate.cell)},
                }
        return {"status": TrialStatus.IDLE}

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes a trial's end; the last one of a round makes the search go on."""
        if trial.status == TrialStatus.COMPLETED and (
            metric_of(self.trials[trial.trial_id], self.objective.name) is None
        ):
            # KerasTuner would queue it again and then never run it.
            trial.status = TrialStatus.FAILED
            trial.message = f"the objective {self.objective.name!r} is not a finite number"
        super().end_trial(trial)
        # Not saved again at once: what the trial's own file says is settled at a reload too.
        self._settle(self.trials[trial.trial_id])

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best trials, the search's own choice before others of the same score."""
        best = self.search.best()
        adopted = [c for c in best["candidates"] if c["status"] == "adopted"] if best else []
        chosen = adopted[0]["trial_id"] if adopted else None
        trials = super().get_best_trials(len(self.trials))
        completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
        rest = [trial for trial in trials if trial.status != TrialStatus.COMPLETED]
        completed.sort(key=lambda trial: (-self._sign * trial.score, trial.trial_id != chosen))
        return (completed + rest)[:num_trials]

    def save(self) -> None:
        """Writes the state, whole or not at all; KerasTuner's own way can be killed halfway."""
        files.write_text(self._get_oracle_fname(), json.dumps(self.get_state()))

    def _save_trial(self, trial: Trial) -> None:
        path = Path(self._get_trial_dir(trial.trial_id)) / "trial.json"
        files.write_text(path, json.dumps(trial.get_state()))

    def get_state(self) -> dict[str, Any]:
        """KerasTuner's state, and the search's."""
        state = super().get_state()
        state["search"] = self._search.to_json() if self._search else None
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned.

        Raises:
            ValueError: the state is of a search with other settings.
        """
        if "search" not in state:
            raise ValueError(
                f"{self._project_dir} holds the search of another oracle; use another "
                "project_name, or overwrite=True to delete it"
            )
        settings = {name: getattr(self, name) for name in _SETTINGS}
        super().set_state(self._reconciled(state))
        if state.get("search") is not None:
            for name, value in settings.items():
                if state["search"].get(name) != value:
                    raise ValueError(
                        f"{name}={value}: the search in {self._project_dir} has "
                        f"{name}={state['search'].get(name)}; use the same value, another "
                        "project_name, or overwrite=True"
                    )
            self._space = None
            _ = self.space  # makes the ops of the space known before cells with them are read
            self._search = ShrinkSearch.from_json(state["search"])
        self.seed = settings["seed"]
        self._trial_ids = {self.cell_of(t).key: t.trial_id for t in self.trials.values()}
        # Each round that closes may make trials of the next one news to the search.
        rounds = -1
        while rounds < self.search.round.number:
            rounds = self.search.round.number
            for trial in self.trials.values():
                self._settle(trial)

    def reload(self) -> None:
        """Goes on from the files of an earlier run; see `keras_tuner.Oracle.reload`.

        Raises:
            ValueError: one of them is damaged, or of another search; the message names it.
        """
        for path in Path(self._project_dir).glob("trial_*/trial.json"):
            check_readable(path)
        check_readable(self._get_oracle_fname())
        super().reload()

    def _reconciled(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state as the trials' own files have it, where a kill came between the two."""
        ended = {trial_id for trial_id, trial in self.trials.items() if trial.status in _ENDED}
        ongoing = {
            tuner_id: trial_id
            for tuner_id, trial_id in state["ongoing_trials"].items()
            if trial_id in self.trials and trial_id not in ended
        }
        retries = [i for i in state["retry_queue"] if i in self.trials and i not in ended]
        # A trial that only its own file knows of would never be handed out again.
        again = {*ongoing.values(), *retries}
        for trial_id in set(self.trials) - ended - again:
            del self.trials[trial_id]
        for trial_id in again:
            # Trained again from the start: metrics of the first time would be averaged in.
            hyperparameters = self.trials[trial_id].hyperparameters
            self.trials[trial_id] = Trial(hyperparameters, trial_id, TrialStatus.INVALID)
        return {**state, "ongoing_trials": ongoing, "retry_queue": retries}

    def _settle(self, trial: Trial) -> None:
        """Tells the search what came of a trial, if that is known and news to it."""
        cell = self.cell_of(trial)
        pending = {candidate.cell.key for candidate in self.search.pending()}
        if trial.status in _ENDED and cell.key in pending:
            self.search.tell(cell, outcome_of(trial, self._sign, self.metric))

    @property
    def _sign(self) -> int:
        return 1 if self.objective.direction == "max" else -1

    def _defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.hyperparameters.space}


def check_readable(path: str | Path) -> None:
    """Raises the ValueError that says what is wrong with a search's file, if it is."""
    try:
        files.read_json(path)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: missing from the search in its folder; use another project_name, or "
            "overwrite=True to start anew"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{error}; restore the file, use another project_name, or overwrite=True to start anew"
        ) from error


_SETTINGS = ("num_candidates", "keep_fraction", "seed")
_ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
