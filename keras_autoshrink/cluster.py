"""One search by all workers of a `MultiWorkerMirroredStrategy`: the first one decides.

Each worker runs the same script. The first has the real oracle and writes the files; the others
are told each trial over the strategy's own collectives, so that none can train another one.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

import keras_tuner
import numpy as np
import tensorflow as tf
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import distribution, search_state
from keras_autoshrink.oracle import AutoShrinkOracle

# Numbers in a message. No tensor of a network has this length: a worker that does not know of a
# message that the others wait for must not take it for a gradient.
_BLOCK = 65_521
# How long a worker whose candidate failed waits for the others to say the same. They are behind
# by what it takes them to build a network.
_PATIENCE = 300


class Cluster:
    """What the workers of a strategy say to each other; all have to call the same, in turn.

    Args:
        strategy: of several workers.

    Attributes:
        chief: whether this is the first worker.
        workers: their number.
    """

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy) -> None:
        self.strategy = strategy
        self.chief = distribution.is_chief(strategy)
        self._local = len(strategy.extended.worker_devices)
        self.workers = strategy.num_replicas_in_sync // self._local

    def share(self, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """The first worker's message, plain values; the others give none.

        Raises:
            keras_tuner.errors.FatalRuntimeError: a worker was lost.
        """
        text = json.dumps(message).encode() if self.chief else b""
        length = int(self._sum(np.array([len(text)]))[0])
        # A byte in each number, of which a float holds any sum exactly.
        numbers = np.zeros(-(-length // _BLOCK) * _BLOCK, np.float32)
        numbers[: len(text)] = np.frombuffer(text, np.uint8)
        received = [self._sum(block) for block in numbers.reshape(-1, _BLOCK)]
        return json.loads(np.concatenate(received)[:length].astype(np.uint8).tobytes())

    def count(self, yes: bool, patience: float = 0) -> int:
        """How many workers say yes.

        Args:
            yes: what this one says.
            patience: seconds to wait for the others, 0 for ever.

        Raises:
            keras_tuner.errors.FatalRuntimeError: a worker was lost, or does not answer.
        """
        return int(self._sum(np.array([float(yes)]), patience)[0])

    def meet(self, search: dict[str, Any]) -> None:
        """Makes sure that all workers run the same search.

        Args:
            search: what there is to tell about it, plain values.

        Raises:
            ValueError: they do not.
        """
        theirs = self.share(search)
        others = self.count(theirs != json.loads(json.dumps(search)))
        if others:
            raise ValueError(
                f"distribution_strategy: {others} of {self.workers} workers run another search "
                "than the first; start the same script everywhere"
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails within fails on all workers, or the search ends.

        Raises:
            keras_tuner.errors.FatalRuntimeError: a worker was lost, or some failed and others
                did not: they would wait for each other.
        """
        try:
            yield
        except Exception as error:
            try:
                failed = self.count(True, _PATIENCE)
            except keras_tuner.errors.FatalRuntimeError:
                if isinstance(error, tf.errors.OpError):
                    raise
                failed = 1  # the others are elsewhere
            if failed < self.workers:
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise _alone(reason) from error
            raise
        if failed := self.count(False):
            raise _alone(f"{failed} of {self.workers}")

    def _sum(self, numbers: np.ndarray[Any, Any], patience: float = 0) -> np.ndarray[Any, Any]:
        """The sum of what the workers give, at most `_BLOCK` numbers."""
        block = np.zeros(_BLOCK, np.float32)
        block[: len(numbers)] = numbers
        try:
            summed = self.strategy.run(self._summed(patience), args=(tf.constant(block),))
            result = self.strategy.experimental_local_results(summed)[0].numpy()
        except tf.errors.OpError as error:
            lines = str(error.message).strip().splitlines()
            reason = next((line for line in lines if "aborted by" in line), lines[0])
            raise keras_tuner.errors.FatalRuntimeError(
                "a worker of the distribution_strategy was lost; start all of them again to go on "
                f"after the last candidate that ended ({reason})"
            ) from error
        return (result / self._local)[: len(numbers)]  # each device of a worker has given it

    @functools.lru_cache  # noqa: B019, a search has one
    def _summed(self, patience: float) -> Any:
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=patience or None,
            # The only one that knows a timeout.
            implementation=tf.distribute.experimental.CommunicationImplementation.RING,
        )

        @tf.function
        def summed(block: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # An argument is on no device: what is summed has to be on the replica's.
            return replica.all_reduce("sum", tf.identity(block), options=options)

        return summed


class LeadingOracle(AutoShrinkOracle):
    """The first worker's oracle: it tells the others what it decides.

    Attributes:
        cluster: the workers; to be set before a trial is asked for.
    """

    cluster: Cluster

    def create_trial(self, tuner_id: str) -> Trial:
        """Hands out the next trial, to all workers."""
        with self._errors_told():
            trial = super().create_trial(tuner_id)
        if trial.status != TrialStatus.IDLE:  # KerasTuner asks again
            search = search_state.to_json(self.search)
            message = {"trial": trial.get_state(), "search": search, "trials": []}
            if trial.status == TrialStatus.STOPPED:
                message["trials"] = [each.get_state() for each in self.trials.values()]
            self.cluster.share(message)
        return trial

    def end_trial(self, trial: Trial) -> None:
        """Takes a trial's end."""
        with self._errors_told():
            super().end_trial(trial)

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.cluster.share({"error": str(error)})
            raise


class FollowingOracle(AutoShrinkOracle):
    """Another worker's oracle: it hands out what the first worker's does.

    What came of a trial it learns with the next one, which brings the first worker's state of
    the search. It writes to the folder of its tuner, as any oracle does: that has to be another
    than the search's.

    Attributes:
        cluster: the workers; to be set before a trial is asked for.
    """

    cluster: Cluster

    def create_trial(self, tuner_id: str) -> Trial:
        """Waits for the first worker's next trial.

        Raises:
            RuntimeError: the first worker cannot go on, or was lost.
        """
        message = self.cluster.share()
        if "error" in message:
            raise RuntimeError(message["error"])
        _ = self.space  # makes the ops of the space known before cells with them are read
        self._search = search_state.from_json(message["search"])
        for state in message["trials"]:
            self.trials[state["trial_id"]] = Trial.from_state(state)
        trial = Trial.from_state(message["trial"])
        if trial.status == TrialStatus.RUNNING:
            self.trials[trial.trial_id] = trial
        return trial

    def update_trial(self, trial_id: str, metrics: dict[str, Any], step: int = 0) -> Trial:
        """Nothing: the first worker has the same metrics."""
        return self.trials[trial_id]

    def end_trial(self, trial: Trial) -> None:
        """Nothing: the first worker ends it."""


def _alone(what: str) -> keras_tuner.errors.FatalRuntimeError:
    return keras_tuner.errors.FatalRuntimeError(
        f"a candidate failed on some workers of the distribution_strategy, not on all: {what}; "
        "the search cannot go on"
    )
