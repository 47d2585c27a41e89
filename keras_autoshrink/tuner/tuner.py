"""AutoShrink: the tuner that people call `search()` on."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import files
from keras_autoshrink.backend import (
    check_tensorflow_backend,
    keras_settings,
    set_keras_settings,
    what_stays_frozen,
)
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import check_same, enumerated, instance
from keras_autoshrink.data.checks import check_class_weight
from keras_autoshrink.hypermodels.callbacks import Interrupts
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.report import final, saved_search
from keras_autoshrink.report.progress import STILL, SearchProgress
from keras_autoshrink.score import AccuracyScore, Score, described
from keras_autoshrink.search.points import EPOCHS
from keras_autoshrink.tuner import project, service
from keras_autoshrink.tuner.arguments import check_constructor, check_search, has_own_fit
from keras_autoshrink.tuner.costs import CandidateCosts
from keras_autoshrink.tuner.oracle import AutoShrinkOracle
from keras_autoshrink.tuner.state import error_line
from keras_autoshrink.tuner.trainer import NUMBER, Trainer, drop_weights
from keras_autoshrink.tuner.workers import (
    Report,
    Resettable,
    WorkerError,
    Workers,
    WorkerTuner,
    choose_count,
)
from tflite_export.command_line import Heartbeat

FOUND = "found"  # what a network is called that is no reference

# What people who know KerasTuner's tuners try first.
_NOT_HERE = {
    "objective": "the search maximises score=, a callable score(logs, macs)",
    "max_trials": "max_candidates says how many networks to train",
    "oracle": "it makes its own; give an AutoShrinkOracle to a keras_tuner.Tuner instead",
}


class AutoShrink(keras_tuner.Tuner):
    """A tuner that finds a small network by shrinking a cell (Zhang et al., arXiv 1911.09251).

    A `keras_tuner.Tuner` with an `AutoShrinkOracle`, so all that works on a tuner works here.
    Each candidate is trained from scratch, scored at every epoch, and counts with its best
    epoch. Only the best cell's weights stay on disk. A search that was interrupted goes on when
    the same script is run again.

    Args:
        hypermodel: a `CNNCellHyperModel`, or any HyperModel, or a function `build(hp)`, that
            declares a cell's edges (see `declare_cell`).
        score: callable `score(logs, macs)` to be maximised (see `docs/api/scores`); by default the
            hypermodel's `default_score` if it has one, else `AccuracyScore()`. Where a HyperModel's
            own `fit` returns a dict, `logs` are its metrics; without `score` a "score" in it
            counts, and a number that it returns is minimised, as in KerasTuner.
        num_candidates: k, how many cells are tried in a round, 1 or more.
        keep_fraction: the share of the initial edges, 0 to 1, at which "paper" stops; the others
            try no smaller cells.
        max_seconds_per_trial: a candidate that trains for more seconds has failed; by default none.
            See `docs/guide/limits.md` for when the clock is looked at.
        seed: integer, 0 included. A candidate's draws follow from it and the cell alone: the
            global generators of Python, NumPy and Keras are seeded for each.
        directory: folder of all projects.
        project_name: folder of this search in it.
        overwrite: whether to delete what is there and start anew.
        hyperparameters: as in `keras_tuner.Oracle`.
        allow_new_entries: as in `keras_tuner.Oracle`.
        tune_new_entries: as in `keras_tuner.Oracle`.
        max_retries_per_trial: how often to train a candidate again that raised.
        strategy: "evolution" changes the best networks so far in one place each: an edge, a node's
            op, or another hyperparameter that the hypermodel declares. "bayesian" tries any parts
            of the complete DAG, those that are likely to score best by all scores so far; "paper"
            cells that lack one edge of the current one; both leave other hyperparameters at their
            defaults. By default the hypermodel's `default_strategy` if it has one, such as
            "evolution" at a budget, else "bayesian". In tables of all cells of 5 nodes "bayesian"
            found better ones than "paper" for as many trained networks; of larger cells there are
            few searches (`benchmarks/search_quality.md`).
        max_candidates: how many networks are trained; by default 40 by "evolution", and by
            "bayesian" as many as "paper" would train at most. ("paper" ends by itself.) A search
            that has ended goes on with more.
        max_minutes: how long the search takes, give or take a tenth, on a clock, its interruptions
            not counted; by default as long as its candidates need. Then `max_candidates` has no
            default.
        max_macs: a candidate of more multiply-accumulates for one image or token is not trained; by
            default all are. It is no failure, and does not count as a candidate.
        max_latency_ms: a candidate whose `.tflite` file takes LiteRT more milliseconds is not
            trained either; by default none is measured.
        workers: how many candidates train side by side, each on one thread in a process of its own;
            by default one for each core, or what the environment variable KERAS_AUTOSHRINK_WORKERS
            says; see `docs/guide/robustness.md`. 1 trains them in this process, one by one.
        **kwargs: of `keras_tuner.Tuner`, such as `executions_per_trial`, `max_model_size`
            and `distribution_strategy`: a MirroredStrategy or OneDeviceStrategy of TensorFlow. Its
            devices share each batch: `batch_size` stays that of a step, so that a score means the
            same on any number of them, and has to be a multiple of it.

    Raises:
        TypeError, ValueError: an argument is not as described, the directory cannot be
            written, or it holds a search with other settings; the message says which.

    Example:
        >>> import numpy as np
        >>> from keras_autoshrink import CNNCellHyperModel
        >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)  # 4x4 images of 2 classes
        >>> one_stage = {"stage_scales": [1], "stage_strides": [1], "stage_repeats": [1]}
        >>> hypermodel = CNNCellHyperModel((4, 4, 1), classes=2, num_nodes=2, **one_stage)
        >>> tuner = AutoShrink(hypermodel, directory="runs", project_name="search")
        >>> tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
        >>> tuner.best_cell()  # of two nodes there is but one
        Cell(ops=('input', 'conv1x1'), edges=((0, 1),))
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
        max_retries_per_trial: int = 0,
        strategy: str | None = None,
        max_candidates: int | None = None,
        max_minutes: float | None = None,
        max_macs: int | None = None,
        max_latency_ms: float | None = None,
        workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_constructor(type(self), kwargs, _NOT_HERE)
        has_own_score = score is not None
        if score is None:
            score = getattr(hypermodel, "default_score", AccuracyScore())
        if not callable(score):
            raise TypeError(f"score={score!r}: give a callable score(logs, macs)")
        if strategy is None:
            strategy = getattr(hypermodel, "default_strategy", "bayesian")
        self.score = score
        scores_last_epoch = getattr(hypermodel, "scores_last_epoch", False)
        which = "last" if scores_last_epoch else "best"
        self._score_said = f"{described(score)}, of the {which} epoch"
        if has_own_fit(hypermodel) and not has_own_score:
            self._score_said += ", unless HyperModel.fit() returns one of its own"
        self._costs = CandidateCosts(hypermodel, score, max_macs, max_latency_ms)
        devices = _search_devices(kwargs.get("distribution_strategy"), hypermodel)
        self._count = 1 if devices and workers is None else choose_count(workers)
        if devices and self._count > 1:
            raise ValueError(f"workers={workers}: the devices of a distribution_strategy train one")
        oracle = AutoShrinkOracle(
            metric=_metric(score),
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
            max_minutes=max_minutes,
        )
        oracle.costs = self._costs
        oracle.first = getattr(hypermodel, "starting_values", list)()
        oracle.without_effect = getattr(hypermodel, "without_effect", lambda values: ())
        oracle.on_begin, oracle.on_end = self._trial_begun, self._trial_ended
        self._trainer = Trainer(
            score,
            self._costs,
            max_seconds_per_trial,
            devices,
            has_own_score,
            has_own_fit(hypermodel),
            scores_last_epoch,
        )
        # What a search that goes on in the folder must have in common with this one.
        self._settings = {
            **dict(sorted(oracle.settings.items(), key=lambda item: item[0] != "seed")),
            "score": project.describe(score),
            "hypermodel": project.describe_hypermodel(hypermodel),
            "hyperparameters": project.describe(hyperparameters and hyperparameters.values),
            "max_macs": self._costs.limits.limits.get("macs"),
            "max_latency_ms": self._costs.limits.limits.get("latency_ms"),
        }
        self._overwrite = overwrite
        self._progress = SearchProgress(verbose=0)
        self._interrupts = Interrupts()
        self._idle = False
        self._keras_settings: dict[str, Any] = {}
        self._says_minimised = self._says_declared_later = True
        # The best score so far: nobody wants weights below it.
        self.checkpoint_threshold: float | None = None
        self._arguments: Resettable | None = None
        # Before KerasTuner deletes what overwrite=True says: these raise for what cannot be.
        project.check_place(directory, project_name)
        self.directory = os.fspath(directory or ".")
        self.project_name = project_name or "untitled_project"
        self._costs.folder = Path(self.directory, self.project_name)
        if not self._is_worker():
            project.prepare(self._get_tuner_fname(), self.get_state(), overwrite)
        super().__init__(
            oracle,
            hypermodel,
            directory=self.directory,
            project_name=self.project_name,
            # The chief deletes; a worker would delete the search that is under way.
            overwrite=overwrite and not self._is_worker(),
            **kwargs,
        )
        if self._is_worker():
            self.oracle = service.WorkerOracle(
                self.oracle, oracle.seed, self._is_over, oracle.whole_space
            )

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Trains candidates until the search has trained as many as it may.

        Of all processes that run a search one leads: it alone writes the state, shows progress and
        hears Ctrl-C. Others are workers of KerasTuner's service.

        Args:
            *args: those of `keras.Model.fit`: arrays, or a `tf.data.Dataset`.
            **kwargs: those of `keras.Model.fit`; `validation_data` is what the score is measured
                on, `epochs` the most that a candidate trains, 1 by default, `verbose` 0 silent,
                1 progress, 2 also Keras's own line for each epoch. With `validation_split` in place
                of `validation_data`, a `CNNCellHyperModel` holds out the last images, and in the
                repeated trainings of a final others: for few images, which say little of a network.

        Raises:
            TypeError: `callbacks` are none, or neither the hypermodel's `fit` nor
                `keras.Model.fit` takes an argument.
            ValueError: the data do not fit the networks, and nothing has been trained; or another
                process searches in the folder, or one did with other settings.
            RuntimeError: too many candidates failed, see `AutoShrinkOracle`; it quotes the last
                error. Or no network is within the limits.
        """
        verbose = kwargs.pop("verbose", 1)
        self._arguments = None
        # At a verbose of 2 KerasTuner would print tables of its own.
        self._trainer.verbose = 2 if verbose == 2 else 0
        # Another `run_trial` may take anything. A service's worker cannot ask the chief yet, which
        # checks the same.
        if type(self).run_trial is AutoShrink.run_trial and not self._is_worker():
            check_search(self.hypermodel, self.oracle.get_space(), self.loss, args, kwargs)
        if kwargs.get("epochs", 1) < 1:
            raise ValueError(f"epochs={kwargs['epochs']}: expected 1 or more")
        if kwargs.get("callbacks"):
            kwargs["callbacks"] = _as_callbacks(kwargs["callbacks"])
        check_class_weight(kwargs.get("class_weight"), kwargs.get("sample_weight"))
        if hasattr(self.hypermodel, "check_search_arguments"):
            compiled = {"loss": self.loss} if self.loss else {}
            self.hypermodel.check_search_arguments(*args, **compiled, **kwargs)
        # Candidates that were trained otherwise cannot be compared.
        training = {
            "epochs": kwargs.get("epochs", 1),
            "batch_size": kwargs.get("batch_size"),
            "validation_split": kwargs.get("validation_split") or None,
            "executions_per_trial": self.executions_per_trial,
            "with_strategy": self.distribution_strategy is not None,
        }
        self._settings["training"] = project.describe(training)
        self._settings["backend"] = keras.backend.backend()  # each draws other initial weights
        self.oracle.epochs = kwargs.get("epochs", 1)
        count_folds = getattr(self.hypermodel, "count_folds", None)
        self.oracle.folds = count_folds(*args, **kwargs) if count_folds else 1
        run = functools.partial(what_stays_frozen()(super().search), *args, **kwargs, verbose=0)
        if self._is_worker():
            run()
            return
        if service.role() == "alone" and self._count > 1:
            run = functools.partial(self._search_side_by_side, run, args, kwargs)
        objective = self.oracle.metric.name.removeprefix("val_")
        by = _judged_by(*args, **kwargs)
        chance = final.chance_of(self._settings)
        self._lead(run, SearchProgress(1 if verbose == "auto" else verbose, objective, by, chance))

    def _lead(self, run: Callable[[], None], progress: SearchProgress) -> None:
        """Searches as the one process that writes the search's files.

        Args:
            run: KerasTuner's search.
            progress: what shows it.
        """
        folder = Path(self.project_dir)
        self._interrupts = Interrupts()
        self._progress = progress
        self._costs.say = self._progress.say
        still = Heartbeat(self._progress.still, STILL)
        with project.locked(folder), self._progress, still, self._interrupts:
            files.remove_unfinished(folder)
            if Path(self._get_tuner_fname()).exists():
                self.reload()  # another process may have gone on meanwhile
            self.save()
            found = self.oracle.search
            self._progress.begin(found)
            if not found.done:
                self._progress.say(f"The score is {self._score_said}.")
            if kept := self.oracle.space.kept:
                self._progress.say(
                    f"Not searched by strategy={found.strategy!r}, which keeps the defaults of: "
                    f"{enumerated(kept)}."
                )
            if service.role() == "alone":
                run()
            elif found.error or not found.done:
                service.serve(run, self.oracle.shutdown)
                self.save()  # with what the last trial brought
            self._progress.end(self.oracle.search)
            if self.oracle.search.error:
                raise RuntimeError(f"the search cannot go on: {self.oracle.search.error}")
            drop_weights(self.oracle, self._weights_of)
            for line in self._costs.said():
                self._progress.say(line)

    def _search_side_by_side(self, run: Callable[[], None], args: Any, kwargs: Any) -> None:
        """Trains candidates in worker processes; in this one where they cannot take the work.

        Args:
            run: KerasTuner's search, in this process.
            args: those of `search`.
            kwargs: those of `search`.
        """
        found = self.oracle.search
        count = min(self._count, found.max_remaining()) or (self._count if found.error else 0)
        if not count:
            run()  # which finds that it has ended
            return
        with contextlib.ExitStack() as stack:
            workers = Workers(WorkerTuner(self), (args, kwargs), count)
            try:
                stack.enter_context(workers)
            except WorkerError as error:
                self._progress.say(f"Candidates train one by one, in this process: {error}.")
                run()
                return
            if count > 1:
                self._progress.say(f"{count} candidates train side by side, each in a process.")
            self.oracle.verbose = 0  # KerasTuner would print tables of its own
            self.on_search_begin()
            while self._hand_out(workers):
                for worker, trial, report in workers.wait():
                    if report is None:
                        self._progress.say(f"{worker.name} was killed; starting it again")
                    else:
                        self._end_trial(trial, report)
            self.on_search_end()

    def _hand_out(self, workers: Workers) -> bool:
        """Hands trials out to workers that are idle; returns whether the search goes on."""
        self._interrupts.check()
        for worker in workers.idle:
            # Also after one that got nothing: one that was killed gets its own trial again.
            trial = self.oracle.create_trial(worker.name)
            if trial.status == TrialStatus.STOPPED:
                return False
            if trial.status == TrialStatus.RUNNING:
                self.on_trial_begin(trial)
                worker.give(trial, self._threshold(trial))
        return True

    def _end_trial(self, trial: Trial, report: Report) -> None:
        """Tells the oracle what came of a trial of a worker process."""
        # Another trial object than the oracle's: it may have given the candidate to somebody else.
        ended = Trial.from_state(report.state)
        if report.fatal is not None:
            raise report.fatal from RuntimeError(ended.message)
        if report.metrics is not None:
            self.oracle.update_trial(trial.trial_id, report.metrics, report.step)
        self.on_trial_end(ended)

    # ---- results --------------------------------------------------------------------------------

    def trajectory(self) -> list[dict[str, Any]]:
        """Returns a record of each finished round; a `pandas.DataFrame` takes the list.

        Returns:
            A dict for each round, about the cell that the search went on from.

            - `round`: int; round 0 has the complete DAG alone.
            - `removed_edge`: list [i, j], the one edge by which it is less than the cell of the
              round before; None in round 0, and where they differ otherwise.
            - `removed_edges`, `added_edges`: lists of all edges [i, j] by which they differ, dead
              ones included.
            - `changed`: dict, the ops of nodes and the other hyperparameters by which they differ,
              and their values; only of a strategy that searches these, such as "evolution".
            - `reference`: str, its name; only of a reference, a network that was made by hand. What
              it differs in is not said, and a cell after it is held against the complete DAG.
            - `epochs`: int, for how many it was trained; only where the networks of a final are
              trained for more than others.
            - `edges_left`: int, the number of its edges; 0 of a reference, which has no cell.
            - `score`: float, what is maximised, at its best epoch, at a budget at its last; None if
              it was not trained.
            - `objective`: float, the metric behind the score at that epoch, which the score's
              attribute `objective` names: the validation accuracy, 0 to 1, of `AccuracyScore`,
              the validation perplexity of `PerplexityScore`; the score itself of one without
              the attribute. None if it was not trained.
            - `macs`: int, multiply-accumulates (1 MAC = 2 FLOPs) for one image or token, whatever
              the cost in the score is.
            - `params`: int, all parameters, those of BatchNorm among them.
            - `latency_ms`: float, milliseconds that LiteRT takes; only where it was measured.
            - `measured_cost`: float, what the score's callable `cost` returned; only where it has
              one.
            - `over_limit`: str, what of it was over a limit; only where it was not trained for
              that.
            - `seconds`: float, the sum of the round's candidates'. It is longer than the round
              took where they were trained side by side.
            - `cell`: a dict for JSON and `Cell.from_json`, its nodes numbered as those of the
              complete DAG, with the `values` of all other hyperparameters that are searched. Of a
              reference these alone say something.
            - `candidates`: list of the round's candidates in the order in which they were
              drawn, of each a dict.

            Where a round adopted none of its candidates, all but `round`, `seconds` and
            `candidates` is that of the round before, and no edge was removed or added.

            The dict of a candidate has the keys above but `round` and `candidates`, and:

            - `status`: str, "adopted", which the search went on from; "rejected", of a score that
              was not the best; "failed", without one; or "over limit", which was not trained.
            - `reused`: bool, whether the search had trained the same network before. Its outcome
              then counts here too, and its `seconds` are 0.
            - `trial_id`: str, its trial of the tuner; None if it was not trained.
            - `error`: str, the line that says what it failed with; None if it did not fail.

        Example:
            >>> import numpy as np
            >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
            >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)  # 4x4 images of 2 classes
            >>> tuner = AutoShrink(CNNCellHyperModel((4, 4, 1), classes=2, num_nodes=2))
            >>> tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
            >>> (record,) = tuner.trajectory()  # of two nodes there is but one cell
            >>> record["round"], record["edges_left"], record["objective"]
            (0, 1, 0.5)
            >>> [candidate["status"] for candidate in record["candidates"]]
            ['adopted']
            >>> Cell.from_json(record["cell"])
            Cell(ops=('input', 'conv1x1'), edges=((0, 1),))
        """
        return self.oracle.search.trajectory()

    def final(self) -> list[dict[str, Any]]:
        """Returns a record of each network of the search's final, the best first.

        In the final of a search by "evolution" the best networks are trained for all epochs, each
        several times with other seeds, beside the best references. Where there is the time for it,
        many are trained once, and only the best of them again. The first of the list is the result
        of the search.

        Returns:
            A dict for each network; an empty list before the final has ended, and where a search
            has none.

            - `reference`: str, the name of the reference that it is; None for one of the space.
            - `scores`: list of float, of each training.
            - `repeats`: list of int, the number of each training. With `validation_split`, those of
              one number were scored on the same images.
            - `mean`: float, of the scores. Where not all networks were scored on the same images,
              what it would be on those of all networks.
            - `trial_ids`: list of str, the tuner's trial of each training.
            - `cell`: a dict for JSON, with the `values` of all other hyperparameters.
            - `macs`, `params`: int, and the other costs of a candidate's record.

        Example:
            >>> import numpy as np
            >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
            >>> x, y = np.zeros((8, 8, 8, 1)), np.array([0, 1] * 4)  # 8x8 images of 2 classes
            >>> small = {"num_nodes": 3, "stage_strides": (1,), "stage_repeats": (1,)}
            >>> hypermodel = CNNCellHyperModel((8, 8, 1), classes=2, target_macs=50_000, **small)
            >>> tuner = AutoShrink(hypermodel, max_candidates=8)
            >>> tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
            >>> [len(record["scores"]) for record in tuner.final()]
            [1, 1]
        """
        return self.oracle.search.final()

    def finalists(self) -> dict[str, Architecture]:
        """Returns what to train in full and compare: the networks of the final, the best first.

        Of those that were found the best one alone; without a final, the result of the search.

        Returns:
            A dict from "found", or the name of a reference, to an `Architecture`, which
            `train_network` takes.

        Raises:
            RuntimeError: no network has a score; it says why.
            ValueError: the hypermodel cannot tell the architecture of a network.

        Example:
            >>> import numpy as np
            >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
            >>> x, y = np.zeros((8, 8, 8, 1)), np.array([0, 1] * 4)  # 8x8 images of 2 classes
            >>> hypermodel = CNNCellHyperModel((8, 8, 1), classes=2, target_macs=50_000)
            >>> tuner = AutoShrink(hypermodel, max_candidates=8)
            >>> tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
            >>> len(tuner.finalists()), "found" in tuner.finalists()
            (2, True)
        """
        best = self.oracle.search.best()
        if best is None:
            reason = self.oracle.search.error or "run search() first"
            raise RuntimeError(f"no network has a score yet: {reason}")
        network = getattr(self.hypermodel, "network", None)
        if network is None:
            raise ValueError(f"{type(self.hypermodel).__name__}: has no method network(hp)")
        trials: dict[str, Trial] = {}
        for each in self.final():
            trials.setdefault(each["reference"] or FOUND, self.oracle.trials[each["trial_ids"][0]])
        if not trials:
            trials[best.get("reference", FOUND)] = self.oracle.get_best_trials()[0]
        return {name: network(trial.hyperparameters) for name, trial in trials.items()}

    def best_cell(self) -> Cell:
        """Returns the best-scoring cell of the trajectory, pruned; ties go to fewer edges.

        Raises:
            RuntimeError: no network has a score; it says why. Or the best one is a reference, which
                has no cell.
        """
        best = self.oracle.search.best()
        if best is None:
            reason = self.oracle.search.error or "run search() first"
            raise RuntimeError(f"no network has a score yet: {reason}")
        if "reference" in best:
            raise RuntimeError(
                f"the best network is the reference {best['reference']}, which has no cell; "
                "hypermodel.network(tuner.get_best_hyperparameters()[0]) is its architecture "
                "(architecture.json of a command's search)"
            )
        return Cell.from_json(best["cell"]).prune()

    def load_model(self, trial: Trial) -> keras.Model:
        """Returns the trained model of a trial, on the default device.

        Raises:
            ValueError: it was not the best one, or not trained to its end; it has no weights.
        """
        if not self._weights_of(trial).exists():
            raise ValueError(f"trial {trial.trial_id}: {self._why_no_weights(trial)}")
        strategy, self.distribution_strategy = self.distribution_strategy, None
        try:
            with warnings.catch_warnings(), self._trainer.as_declared():
                # The checkpoint holds the state of an optimizer, which this model need not go on.
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                return super().load_model(trial)
        finally:
            self.distribution_strategy = strategy

    def _why_no_weights(self, trial: Trial) -> str:
        # KerasTuner lists trials that were not trained to their end behind those that were.
        if trial.status in (TrialStatus.FAILED, TrialStatus.INVALID):
            return f"has no weights, it failed: {error_line(trial.message)}"
        if trial.status != TrialStatus.COMPLETED:
            return "has no weights, its training has not ended; search() goes on with it"
        is_best = trial in self.oracle.get_best_trials(1)
        why = "its run_trial() saved none" if is_best else "only the best cell's are kept"
        return (
            f"its weights are gone, {why}; build it from get_best_hyperparameters() and train it "
            "again"
        )

    # ---- trials ---------------------------------------------------------------------------------

    def pre_create_trial(self) -> None:
        """Waits a little before asking again, where the oracle had nothing to do."""
        self._interrupts.check()
        if self._idle:
            time.sleep(service.POLL)
        self._idle = True

    def on_trial_begin(self, trial: Trial) -> None:
        """Notes that there is something to do."""
        self._idle = False

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> list[Any]:
        """Trains a candidate; see `keras_tuner.Tuner.run_trial`."""
        self._weights_of(trial).unlink(missing_ok=True)  # of a try that was killed
        callbacks = list(kwargs.pop("callbacks", None) or ())
        kwargs["epochs"] = trial.hyperparameters.values.get(EPOCHS, kwargs.get("epochs", 1))
        fit = functools.partial(super().run_trial, trial, *args, **kwargs)
        return self._trainer.train(self.oracle.cell_of(trial), self.oracle.seed, fit, callbacks)

    def _try_run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        if not self._is_worker():
            self.checkpoint_threshold = self._threshold(trial)
        if self._arguments is None:
            self._arguments = Resettable((args, kwargs))
        self.try_trial(trial, *self._arguments.reset())

    def _threshold(self, trial: Trial) -> float | None:
        """Returns the score below which nobody wants a trial's weights; None for none."""
        return None if self.oracle.is_final(trial) else self.oracle.search.best_score

    def try_trial(self, trial: Trial, args: Any, kwargs: Any) -> None:
        """Trains a trial, and notes in it what came of that.

        Args:
            trial: is changed.
            args: those of `search`.
            kwargs: those of `search`.

        Raises:
            keras_tuner.errors.FatalError: the search cannot go on.
        """
        # As KerasTuner's, but that one prints the traceback; it is in the trial's file anyway.
        try:
            with self._trainer.killed_when_hanging():
                self._run_and_update_trial(trial, *args, **kwargs)
            trial.status = TrialStatus.COMPLETED
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            failed = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = TrialStatus.FAILED if failed else TrialStatus.INVALID
            trial.message = traceback.format_exc()

    def _build_and_fit_model(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        checkpoint = kwargs["callbacks"][-1]  # KerasTuner's, which saves the best epoch
        if self.checkpoint_threshold is not None and hasattr(checkpoint, "best_value"):
            # To save weights takes longer than an epoch of a small network. A little less than the
            # threshold, as a score that is an average is rounded.
            least = self.checkpoint_threshold - 1e-6
            checkpoint.best_value = max(checkpoint.best_value, least)
        threshold = checkpoint.best_value
        if self._trainer.scores_last_epoch:
            checkpoint.best_value = math.inf  # its weights are saved below
        hp = trial.hyperparameters
        model = self._try_build(hp)
        # Not by KerasTuner's method of this name, which takes no dict without the score.
        results = self.hypermodel.fit(hp, model, *args, **kwargs)
        build_config = Path(self._get_build_config_fname(trial.trial_id))
        files.write_text(build_config, json.dumps(model.get_build_config()))
        scored = self._trainer.scored(results, model, self.oracle.cell_of(trial))
        if isinstance(scored, dict):
            # Of an epoch that has scored as much, where `fit` passed its callbacks on.
            has_weights = NUMBER not in scored and threshold < checkpoint.best_value < math.inf
            if not (has_weights and checkpoint.best_value >= scored["score"] - 1e-6):
                if scored["score"] > threshold:
                    model.save_weights(self._weights_of(trial))
                checkpoint.best_value = max(threshold, scored["score"])
        return scored

    def _try_build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        # It begins with clear_session(), which resets what the user has set of Keras.
        self._keras_settings = keras_settings()
        try:
            return super()._try_build(hp)
        finally:
            self._keras_settings = {}

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        set_keras_settings(self._keras_settings)
        return self._trainer.build(functools.partial(super()._build_hypermodel, hp))

    def _trial_begun(self, trial: Trial) -> None:
        """Shows which candidate trains."""
        self._progress.trial_begin(self.oracle.search, self.oracle.cell_of(trial))

    def _trial_ended(self, trial: Trial) -> None:
        """Drops the weights that nobody needs any more, and shows what came of the trial."""
        drop_weights(self.oracle, self._weights_of)
        if self._says_minimised and trial.metrics.exists(NUMBER):
            self._says_minimised = False
            self._progress.say(
                "HyperModel.fit() returns a number: the least is best, as in KerasTuner; return "
                "{'score': number} to have the greatest."
            )
        late = self.oracle.space.declared_later(self.oracle.hyperparameters.space)
        if late and self._says_declared_later:
            self._says_declared_later = False
            self._progress.say(
                f"Not searched, since build() did not declare it for the first network: "
                f"{enumerated(late)}. It keeps its default; declare it there, in all cases."
            )
        self._progress.trial_end(
            self.oracle.search, self.oracle.cell_of(trial), trial.score, error_line(trial.message)
        )

    def _weights_of(self, trial: Trial) -> Path:
        return Path(self._get_checkpoint_fname(trial.trial_id))

    # ---- files ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes the state, whole or not at all; KerasTuner's own way can be killed halfway."""
        if self._is_worker():
            return
        self.oracle.save()
        if not Path(self._get_tuner_fname()).exists():  # only a budget in it changes, by set_state
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
        """Returns what a search that goes on here must share, and the versions that it runs on."""
        return {**self._settings, "versions": project.versions()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Checks that the search on disk is this one.

        Raises:
            ValueError: it is another one.
        """
        # Another tuner's has none of them, and one that was saved before it began lacks some.
        ours = {name: value for name, value in self._settings.items() if name in state}
        theirs = project.raised(state, ours)
        check_same(theirs, ours, f"{self.project_dir} holds a search")
        if theirs != state and not self._is_worker():
            files.write_text(self._get_tuner_fname(), json.dumps(theirs))

    def _get_tuner_fname(self) -> str:
        # One name for the chief and for a search without one: either goes on with the other's.
        return str(Path(self.directory, self.project_name, "tuner0.json"))

    def _is_over(self, met_chief: bool) -> bool:
        """Whether the search has ended, as its files have it; a worker's oracle does not know.

        Args:
            met_chief: whether the worker has had an answer from its chief. If not, that may
                yet come, to delete the files or to try a failed round again.
        """
        try:
            search = saved_search.read_search(Path(self.directory, self.project_name))
        except ValueError:  # there is none yet
            return False
        return search.done and (met_chief or not (search.error or self._overwrite))


def _metric(score: Score) -> str | keras_tuner.Objective | None:
    """The metric behind a score that names one, and whether more of it is better if it says so."""
    name, direction = (getattr(score, attribute, None) for attribute in ("objective", "direction"))
    return keras_tuner.Objective(name, direction) if name and direction else name


def _judged_by(
    x: Any = None,
    *_args: Any,
    validation_data: Any = None,
    validation_split: float | None = None,
    **_kwargs: Any,
) -> str:
    """Says by what the networks are scored: how many images, if these are known."""
    given = isinstance(validation_data, (list, tuple)) and validation_data
    shape = getattr(validation_data[0] if given else x, "shape", ())
    if len(shape) != 4:
        return final.BY_SCORE
    if given:
        return final.by_images(shape[0])
    if validation_data is not None or not validation_split:
        return final.BY_SCORE
    return final.by_images(shape[0] - math.floor(shape[0] * (1 - validation_split)))


def _as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Returns callbacks in a list: one alone too, as `keras.Model.fit` takes it.

    Raises:
        TypeError: some are none.
    """
    callbacks = [given] if isinstance(given, keras.callbacks.Callback) else given
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks={callbacks!r}: expected a list of keras.callbacks.Callback")
    for callback in callbacks:
        instance("callbacks", callback, keras.callbacks.Callback)
    return list(callbacks)


def _search_devices(strategy: Any, hypermodel: Any) -> Any:
    """The devices of a strategy; None without one."""
    if strategy is None:
        return None
    check_tensorflow_backend("distribution_strategy")
    from keras_autoshrink.tuner.devices import SearchDevices

    return SearchDevices(strategy, hypermodel)
