"""AutoShrink: the tuner that people call `search()` on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from keras_autoshrink import settings
from keras_autoshrink.backends import check_tensorflow_backend
from keras_autoshrink.candidate_costs import CandidateCosts
from keras_autoshrink.oracle import AutoShrinkOracle
from keras_autoshrink.results import SearchResults
from keras_autoshrink.resumable import ResumableTuner
from keras_autoshrink.score import AccuracyScore, Score


class AutoShrink(SearchResults, ResumableTuner):
    """Finds a small network by shrinking a cell (Zhang et al., arXiv 1911.09251).

    A `keras_tuner.Tuner` with an `AutoShrinkOracle`, so all that works on a tuner works here.
    Each candidate is trained from scratch, scored at every epoch, and counts with its best
    epoch. Only the best cell's weights stay on disk. A search that was interrupted goes on when
    the same script is run again.

    Args:
        hypermodel: a `CNNCellHyperModel`, or any HyperModel, or a function `build(hp)`, that
            declares a cell's edges (see `declare_cell`).
        score: callable `score(logs, macs)` to be maximised (see `docs/api/scores`), which several
            threads may call at once; by default the hypermodel's `default_score` if it has one,
            else `AccuracyScore()`.
        num_candidates: k, how many cells are tried in a round, 1 or more.
        keep_fraction: the share of the initial edges, 0 to 1, at which "paper" stops; "bayesian"
            tries no smaller cells.
        max_seconds_per_trial: a candidate that trains for more seconds has failed; by default none.
            See `docs/guide/limits.md` for when the clock is looked at.
        seed: integer, 0 included. A candidate's draws follow from it and the cell alone; where
            it is built by itself, the global generators are seeded so.
        directory: folder of all projects.
        project_name: folder of this search in it.
        overwrite: whether to delete what is there and start anew.
        hyperparameters: as in `keras_tuner.Oracle`.
        allow_new_entries: as in `keras_tuner.Oracle`.
        tune_new_entries: as in `keras_tuner.Oracle`.
        max_retries_per_trial: how often to train a candidate again that raised.
        strategy: "bayesian" tries any parts of the complete DAG, those that are likely to score
            best by all scores so far; "paper" cells that lack one edge of the current one. In
            tables of all cells of 5 nodes "bayesian" found better ones for as many trained
            networks; of larger cells there are few searches (`benchmarks/search_quality.md`).
        max_candidates: how many networks "bayesian" trains; by default as many as "paper" would
            train at most. ("paper" ends by itself.)
        max_macs: a candidate of more multiply-accumulates for one image or token is not trained; by
            default all are. It is no failure, and does not count as a candidate.
        max_latency_ms: a candidate whose `.tflite` file takes LiteRT more milliseconds, measured
            as for `AccuracyScore`, is not trained either; by default none is measured.
        **kwargs: as for `keras_tuner.Tuner`, such as `executions_per_trial`, `max_model_size`
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
        strategy: str = "bayesian",
        max_candidates: int | None = None,
        max_macs: int | None = None,
        max_latency_ms: float | None = None,
        **kwargs: Any,
    ) -> None:
        for argument, instead in _NOT_HERE.items():
            if argument in kwargs:
                raise TypeError(f"{argument}: not an argument of AutoShrink; {instead}")
        if score is None:
            score = getattr(hypermodel, "default_score", AccuracyScore())
        if not callable(score):
            raise TypeError(f"score={score!r}: give a callable score(logs, macs)")
        costs = CandidateCosts(hypermodel, score, max_macs, max_latency_ms)
        devices = _search_devices(kwargs.get("distribution_strategy"), hypermodel)
        oracle = AutoShrinkOracle(
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
        oracle.costs = costs
        # Before KerasTuner deletes what overwrite=True says: these raise for what cannot be.
        shared = {
            "seed": oracle.seed,  # first: the ops of a hypermodel may follow from it
            "num_candidates": oracle.num_candidates,
            "keep_fraction": oracle.keep_fraction,
            "strategy": oracle.strategy,
            "max_candidates": oracle.max_candidates,
            "score": settings.describe(score),
            "hypermodel": settings.of_hypermodel(hypermodel),
            "hyperparameters": settings.describe(hyperparameters and hyperparameters.values),
            **({} if max_macs is None else {"max_macs": int(max_macs)}),
            **({} if max_latency_ms is None else {"max_latency_ms": float(max_latency_ms)}),
        }
        super().__init__(
            oracle,
            hypermodel,
            settings=shared,
            directory=directory,
            project_name=project_name,
            overwrite=overwrite,
            score=score,
            max_seconds_per_trial=max_seconds_per_trial,
            devices=devices,
            costs=costs,
            **kwargs,
        )

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Trains candidates until the search has trained as many as it may.

        Args:
            *args: as for `keras.Model.fit`: arrays, or a `tf.data.Dataset`.
            **kwargs: as for `keras.Model.fit`; `validation_data` is what the score is measured
                on, `epochs` the most that a candidate trains, 1 by default, `verbose` 0 silent,
                1 progress, 2 also Keras's own line for each epoch.

        Raises:
            ValueError: the data do not fit the networks; nothing has been trained then.
            RuntimeError: too many candidates failed, see `AutoShrinkOracle`; it quotes the last
                error. Or no network is within the limits.
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
        }
        self._settings["training"] = settings.describe(training)
        self._settings["backend"] = keras.backend.backend()  # each draws other initial weights
        super().search(*args, verbose=verbose, **kwargs)


# What people who know KerasTuner's tuners try first.
_NOT_HERE = {
    "objective": "the search maximises score=, a callable score(logs, macs)",
    "max_trials": "max_candidates says how many networks to train",
    "oracle": "it makes its own; give an AutoShrinkOracle to a keras_tuner.Tuner instead",
}


def _search_devices(strategy: Any, hypermodel: Any) -> Any:
    """The devices of a strategy; None without one."""
    if strategy is None:
        return None
    check_tensorflow_backend("distribution_strategy")
    from keras_autoshrink.search_devices import SearchDevices

    return SearchDevices(strategy, hypermodel)
