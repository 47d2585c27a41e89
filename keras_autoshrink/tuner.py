"""AutoShrink: the tuner that people call `search()` on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial

from keras_autoshrink import files, runs, search_folder, service, settings
from keras_autoshrink.backends import check_tensorflow_backend
from keras_autoshrink.candidate_tuner import CandidateTuner
from keras_autoshrink.cell import Cell
from keras_autoshrink.limits import Interrupts
from keras_autoshrink.oracle import AutoShrinkOracle
from keras_autoshrink.progress import SearchProgress
from keras_autoshrink.score import AccuracyScore, Score
from keras_autoshrink.trials import error_line


class AutoShrink(CandidateTuner):
    """Finds a small network by shrinking a cell (Zhang et al., arXiv 1911.09251).

    A `keras_tuner.Tuner` with an `AutoShrinkOracle`, so all that works on a tuner works here.
    Each candidate is trained from scratch, scored at every epoch, and counts with its best
    epoch. Only the best cell's weights stay on disk. A search that was interrupted goes on when
    the same script is run again. The README says how candidates share one compiled graph.

    Args:
        hypermodel: a `CNNCellHyperModel`, or any HyperModel, or a function `build(hp)`, that
            declares a cell's edges (see `declare_cell`).
        score: callable `score(logs, macs)` to be maximised, by several threads too; by default
            the hypermodel's `default_score` if it has one, else `AccuracyScore()`.
        num_candidates: k, how many cells are tried in a round.
        keep_fraction: the share of the initial edges at which "paper" stops; "bayesian" tries no
            smaller cells.
        max_seconds_per_trial: a candidate that takes longer has failed; by default none does.
        seed: integer, 0 included. A candidate's draws follow from it and the cell alone; where
            it is built by itself, the global generators are seeded so.
        directory: folder of all projects.
        project_name: folder of this search in it.
        overwrite: whether to delete what is there and start anew.
        hyperparameters: as in KerasTuner's tuners; so are the next two.
        allow_new_entries: likewise.
        tune_new_entries: likewise.
        race: see `CandidateTuner`; off by default: cheaper rounds, scored less surely.
        inherit: likewise.
        max_retries_per_trial: how often to train a candidate again that raised.
        strategy: "bayesian" tries any parts of the complete DAG, those that are likely to score
            best by all scores so far; "paper" cells that lack one edge of the current one. For
            as many trained networks the first finds better ones (benchmarks/search_quality.md).
        max_candidates: how many networks "bayesian" trains; by default as many as "paper" would
            train at most. ("paper" ends by itself.)
        **kwargs: as for `keras_tuner.Tuner`, such as `executions_per_trial`, `max_model_size`
            and `distribution_strategy`: a MirroredStrategy, MultiWorkerMirroredStrategy (all
            workers run the same script; the first decides and writes) or OneDeviceStrategy of
            TensorFlow. Its devices share each batch: `batch_size` stays that of a step, so that
            a score means the same on any number of them, and has to be a multiple of it.

    Raises:
        TypeError, ValueError: an argument is not as described, the directory cannot be
            written, or it holds a search with other settings; the message says which.

    Example:
        See the README.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable[..., keras.Model],
        score: Score | None = None,
        num_candidates: int = 10,
        keep_fraction: float = 0.01,
        seed: int = 0,
        max_seconds_per_trial: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        race: bool = False,
        inherit: bool = False,
        max_retries_per_trial: int = 0,
        strategy: str = "bayesian",
        max_candidates: int | None = None,
        **kwargs: Any,
    ) -> None:
        for argument, instead in _NOT_HERE.items():
            if argument in kwargs:
                raise TypeError(f"{argument}: not an argument of AutoShrink; {instead}")
        if score is None:
            score = getattr(hypermodel, "default_score", AccuracyScore())
        if not callable(score):
            raise TypeError(f"score={score!r}: give a callable score(logs, macs)")
        self._progress = SearchProgress(verbose=0)
        self._interrupts = Interrupts()
        self._idle = False
        self._overwrite = overwrite
        devices = _search_devices(kwargs.get("distribution_strategy"), hypermodel)
        oracle = (devices.oracle if devices else AutoShrinkOracle)(
            metric=getattr(score, "objective", None),
            num_candidates=num_candidates,
            keep_fraction=keep_fraction,
            seed=seed,
            max_seconds_per_trial=max_seconds_per_trial,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            strategy=strategy,
            max_candidates=max_candidates,
        )
        oracle.on_begin, oracle.on_end = self._trial_begun, self._trial_ended
        # Before KerasTuner deletes what overwrite=True says: these raise for what cannot be.
        self._settings = {
            "seed": oracle.seed,  # first: the ops of a hypermodel may follow from it
            "num_candidates": oracle.num_candidates,
            "keep_fraction": oracle.keep_fraction,
            "strategy": oracle.strategy,
            "max_candidates": oracle.max_candidates,
            "score": settings.describe(score),
            "hypermodel": settings.of_hypermodel(hypermodel),
            "hyperparameters": settings.describe(hyperparameters and hyperparameters.values),
        }
        search_folder.check_place(directory, project_name)
        if devices:
            directory = devices.folder(directory)
        self.directory = os.fspath(directory or ".")
        self.project_name = project_name or "untitled_project"
        if not self._is_worker():
            search_folder.prepare(self._get_tuner_fname(), self._settings, overwrite)
        super().__init__(
            oracle,
            hypermodel,
            directory=self.directory,
            project_name=self.project_name,
            # The chief deletes; a worker would delete the search that is under way.
            overwrite=overwrite and not self._is_worker(),
            score=score,
            max_seconds_per_trial=max_seconds_per_trial,
            devices=devices,
            race=race,
            inherit=inherit,
            **kwargs,
        )
        if self._is_worker():
            self.oracle = service.WorkerOracle(self.oracle, oracle.seed, self._is_over)

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

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Trains candidates until the search has trained as many as it may.

        Args:
            *args: as for `keras.Model.fit`: arrays, or a `tf.data.Dataset`.
            **kwargs: likewise; `validation_data` is what the score is measured on, `epochs`
                the most that a candidate trains, `verbose` 0 silent, 1 progress, 2 also
                Keras's own line for each epoch.

        Raises:
            ValueError: the data do not fit the networks; nothing has been trained then.
            RuntimeError: all candidates of a round failed; it quotes the last error.
        """
        verbose = kwargs.pop("verbose", 1)
        verbose = 1 if verbose == "auto" else verbose
        # KerasTuner would take a verbose of 2 for word to print tables of its own.
        self._fit_verbose = 2 if verbose == 2 else 0
        if kwargs.get("epochs", 1) < 1:
            raise ValueError(f"epochs={kwargs['epochs']}: expected 1 or more")
        if hasattr(self.hypermodel, "check_search_arguments"):
            self.hypermodel.check_search_arguments(*args, **kwargs)
        # Candidates that were trained otherwise cannot be compared.
        training = {
            "epochs": kwargs.get("epochs", 1),
            "batch_size": kwargs.get("batch_size"),
            "executions_per_trial": self.executions_per_trial,
            "with_strategy": self.distribution_strategy is not None,
            **({"race": True} if self._race else {}),
            **({"inherit": True} if self._inherit else {}),
        }
        self._settings["training"] = settings.describe(training)
        self._settings["backend"] = keras.backend.backend()  # each draws other initial weights
        together: Any = contextlib.nullcontext()
        if self._devices:
            ours = {**self._settings, "arguments": settings.describe(kwargs)}
            together = self._devices.searching(self, ours)
        with together:
            if self._is_worker() or (self._devices and self._devices.follows):
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
                service.serve(run, self.oracle)
                self.save()  # what the last trial told the search
            if self.oracle.search.error:
                raise RuntimeError(f"the search cannot go on: {self.oracle.search.error}")
            self._drop_checkpoints()
            self._progress.end(self.oracle.search)

    def trajectory(self) -> list[dict[str, Any]]:
        """One record for each finished round; see `trajectory.round_record`."""
        return self.oracle.search.trajectory()

    def best_cell(self) -> Cell:
        """The best-scoring cell of the trajectory, pruned; ties go to fewer edges.

        Raises:
            RuntimeError: no round has finished yet.
        """
        best = self.oracle.search.best()
        if best is None:
            raise RuntimeError("no round has finished yet: run search() first")
        return Cell.from_json(best["cell"]).prune()

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
        """What a search that goes on here must have in common with this one."""
        return self._settings

    def set_state(self, state: dict[str, Any]) -> None:
        """Checks that the search on disk is this one.

        Raises:
            ValueError: it is another one.
        """
        if "num_candidates" in state:  # a search of ours; one that does not say is the paper's
            state = {"strategy": "paper", **state}
        # A folder of another tuner, or of an older version, has not all of them.
        for name in [n for n in self._settings if n in state]:
            theirs, ours = state[name], self._settings[name]
            if ours != theirs:
                differs = settings.difference(theirs, ours, "" if name in _DETAILED else name)
                raise ValueError(
                    f"{self.project_dir} holds a search with another {name}: {differs}; use "
                    "another project_name, or overwrite=True to delete it"
                )

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


# Their differences name what differs in them.
_DETAILED = ("score", "hypermodel", "hyperparameters", "training")

# What people who know KerasTuner's tuners try first.
_NOT_HERE = {
    "objective": "the search maximises score=, a callable score(logs, macs)",
    "max_trials": "the search ends by itself; keep_fraction and num_candidates say when",
    "oracle": "it makes its own; give an AutoShrinkOracle to a keras_tuner.Tuner instead",
}


def _search_devices(strategy: Any, hypermodel: Any) -> Any:
    """The devices of a strategy; None without one."""
    if strategy is None:
        return None
    check_tensorflow_backend("distribution_strategy")
    from keras_autoshrink.search_devices import SearchDevices

    return SearchDevices(strategy, hypermodel)
