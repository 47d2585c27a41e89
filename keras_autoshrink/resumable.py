"""A tuner whose search one process leads in one folder, and which goes on after interruptions."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import Trial

from keras_autoshrink import files, runs, search_folder, service, settings
from keras_autoshrink.candidate_costs import CandidateCosts
from keras_autoshrink.candidate_tuner import CandidateTuner
from keras_autoshrink.limits import Interrupts
from keras_autoshrink.oracle import AutoShrinkOracle
from keras_autoshrink.progress import SearchProgress
from keras_autoshrink.trials import error_line
from keras_autoshrink.worker import WorkerOracle


class ResumableTuner(CandidateTuner):
    """Runs a search whose files are whole at any moment; `AutoShrink` says what it searches.

    Of all processes that run a search one leads: it alone writes, shows progress and hears
    Ctrl-C. Others are workers of KerasTuner's service.

    Args:
        oracle: of the search.
        *args: as for `CandidateTuner`.
        settings: what a search that goes on in the folder must have in common with this one,
            plain values.
        directory: folder of all projects.
        project_name: folder of this search in it.
        overwrite: whether to delete what is there and start anew.
        devices: as for `CandidateTuner`.
        costs: likewise.
        **kwargs: likewise.

    Raises:
        ValueError: the directory cannot be written, or it holds a search with other settings.
    """

    def __init__(
        self,
        oracle: AutoShrinkOracle,
        *args: Any,
        settings: dict[str, Any],
        directory: str | os.PathLike[str] | None,
        project_name: str | None,
        overwrite: bool,
        devices: Any,
        costs: CandidateCosts,
        **kwargs: Any,
    ) -> None:
        self._settings = settings
        self._overwrite = overwrite
        self._progress = SearchProgress(verbose=0)
        self._interrupts = Interrupts()
        self._idle = False
        oracle.on_begin, oracle.on_end = self._trial_begun, self._trial_ended
        # Before KerasTuner deletes what overwrite=True says: this raises for what cannot be.
        search_folder.check_place(directory, project_name)
        self.directory = os.fspath(directory or ".")
        self.project_name = project_name or "untitled_project"
        costs.folder = Path(self.directory, self.project_name)
        if not self._is_worker():
            search_folder.prepare(self._get_tuner_fname(), settings, overwrite)
        super().__init__(
            oracle,
            *args,
            directory=self.directory,
            project_name=self.project_name,
            # The chief deletes; a worker would delete the search that is under way.
            overwrite=overwrite and not self._is_worker(),
            devices=devices,
            costs=costs,
            **kwargs,
        )
        if self._is_worker():
            self.oracle = WorkerOracle(self.oracle, oracle.seed, self._is_over)

    def _is_over(self, met_chief: bool) -> bool:
        """Whether the search has ended, as its files have it; a worker's oracle knows not.

        Args:
            met_chief: whether the worker has had an answer from its chief. If not, that may
                yet come, to delete the files or to try a failed round again.
        """
        try:
            search = runs.read_search(Path(self.directory, self.project_name))
        except ValueError:  # there is none yet
            return False
        return search.done and (met_chief or not (search.error or self._overwrite))

    def search(self, *args: Any, verbose: int = 1, **kwargs: Any) -> None:
        """Searches, as the process that leads or as another.

        Args:
            *args: as for `keras.Model.fit`.
            verbose: as of `SearchProgress`; only the process that leads shows anything.
            **kwargs: as for `keras.Model.fit`.

        Raises:
            ValueError: another process searches in the folder, or one did with other settings.
            RuntimeError: too many candidates failed, see `AutoShrinkOracle`; it quotes the last
                error.
        """
        if self._is_worker():
            super().search(*args, verbose=0, **kwargs)
        else:
            self._lead(functools.partial(super().search, *args, verbose=0, **kwargs), verbose)

    def _lead(self, run: Callable[[], None], verbose: int) -> None:
        """Searches as the one process that writes the search's files.

        Args:
            run: KerasTuner's search.
            verbose: as of `search`.
        """
        folder = Path(self.project_dir)
        self._interrupts = Interrupts()
        self._progress = SearchProgress(verbose)
        self._costs.say = self._progress.say
        with search_folder.alone(folder), self._progress, self._interrupts:
            files.remove_unfinished(folder)
            if Path(self._get_tuner_fname()).exists():
                self.reload()  # another process may have gone on meanwhile
            self.save()
            found = self.oracle.search
            self._progress.begin(found)
            if service.role() == "alone":
                run()
            elif found.error or not found.done:
                service.serve(run, self.oracle.farewell)
                self.save()  # what the last trial told the search
            if self.oracle.search.error:
                self._progress.end(self.oracle.search)
                raise RuntimeError(f"the search cannot go on: {self.oracle.search.error}")
            self._drop_checkpoints()
            self._progress.end(self.oracle.search)
            for line in self._costs.said():
                self._progress.say(line)

    def save(self) -> None:
        """Writes the state, whole or not at all; KerasTuner's own way can be killed halfway."""
        if self._is_worker():
            return
        self.oracle.save()
        if not Path(self._get_tuner_fname()).exists():  # it never changes
            files.write_text(self._get_tuner_fname(), json.dumps(self.get_state()))

    def reload(self) -> None:
        """Goes on from the files of an earlier run.

        Raises:
            ValueError: they are of another search, or too much of them is damaged; the message
                names them.
        """
        if self._is_worker() and self._overwrite:
            return  # an older search, which the chief is going to delete
        path = self._get_tuner_fname()
        try:
            state = files.read_json(path)
        except ValueError as error:
            raise ValueError(
                f"{error}; restore it, or delete it if your score and hypermodel are still those "
                "of the search; or use another project_name, or overwrite=True to start anew"
            ) from error
        self.set_state(state)
        if not self._is_worker():
            self.oracle.reload()

    def get_state(self) -> dict[str, Any]:
        """What a search that goes on here must have in common with this one; and the versions."""
        return {**self._settings, "versions": settings.versions()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Checks that the search on disk is this one.

        Raises:
            ValueError: it is another one.
        """
        settings.check_same(state, self._settings, self.project_dir)

    def pre_create_trial(self) -> None:
        """Waits a little before asking again, where the oracle had nothing to do."""
        self._interrupts.check()
        if self._idle:
            time.sleep(service.POLL)
        self._idle = True

    def on_trial_begin(self, trial: Trial) -> None:
        """Notes that there is something to do."""
        self._idle = False

    def _get_tuner_fname(self) -> str:
        # One name for the chief and for a search without one: either goes on with the other's.
        return str(Path(self.directory, self.project_name, "tuner0.json"))

    def _trial_begun(self, trial: Trial) -> None:
        """Shows which candidate trains."""
        self._progress.trial_begin(self.oracle.search, self.oracle.cell_of(trial))

    def _trial_ended(self, trial: Trial) -> None:
        """Drops the weights that nobody needs any more, and shows what came of the trial."""
        self._drop_checkpoints()
        self._progress.trial_end(
            self.oracle.search, self.oracle.cell_of(trial), trial.score, error_line(trial.message)
        )
