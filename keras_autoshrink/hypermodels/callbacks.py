"""What watches a candidate while it trains, and what ends it before its time."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import keras
import keras_tuner

from keras_autoshrink.score import Score, cost_of
from keras_autoshrink.training.recipes import one_cycle

# A worker that has not come back so long after the limit, in seconds, never will.
_HANGS = 10.0


class Deadline(keras.callbacks.Callback):
    """Ends a trial that takes too long, after the batch under way.

    Args:
        seconds: from now on.

    Raises:
        keras_tuner.errors.FailedTrialError: the time is up.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the clock."""
        if time.monotonic() > self.end:
            raise keras_tuner.errors.FailedTrialError(
                f"took longer than max_seconds_per_trial={self.seconds:g}"
            )

    on_test_batch_end = on_train_batch_end


@contextlib.contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Kills this process, some time after the limit, if what is done within hangs.

    No callback is asked then any more. Only for a worker, which is started again.
    """
    timer = threading.Timer(seconds + _HANGS, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Interrupts:
    """A handler of Ctrl-C that no destructor can swallow.

    Python drops a KeyboardInterrupt that happens to be raised in a destructor or the callback
    of a weak reference, of which TensorFlow has many. Here it is remembered. A handler that
    somebody else has installed stays.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._installed = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was lost, if one was."""
        if self._pressed:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt


class OneCycle(keras.callbacks.Callback):
    """Lets the learning rate rise to its peak and fall to 0 within one training.

    As `training.recipes.OneCycleDecay`, where the number of steps is not known before.

    Args:
        peak: the highest learning rate.
    """

    def __init__(self, peak: float) -> None:
        super().__init__()
        self.peak = peak
        self._epoch = 0
        self._steps: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes the epoch, counted from 0."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the learning rate of a step."""
        # Of a data set of unknown length the first epoch tells it.
        steps = self.params["steps"] or (self._steps if self._epoch else None)
        done = (self._epoch + (batch / steps if steps else 0)) / self.params["epochs"]
        self.model.optimizer.learning_rate = self.peak * one_cycle(done)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts the steps of the first epoch."""
        if self._epoch == 0:
            self._steps = batch + 1


# What Keras warns of at the end of every data set whose length it does not know.
OUT_OF_DATA = "Your input ran out of data"


class DataEnd(keras.callbacks.Callback):
    """Stops the search where an epoch did not get the data that it was to have.

    Keras itself only warns: the epoch counts with what it got, and a validation without data
    leaves a metric out, or the one of the epoch before.

    Raises:
        keras_tuner.errors.FatalValueError: the data ended; it would be the same for every
            candidate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._trained = 0  # steps of this epoch
        self._validated = 0  # steps of this validation
        self._to_validate = 1

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins to count; `epoch` counts from 0."""
        self._epoch, self._trained = epoch + 1, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts; `batch` counts from 0, with several steps in one execution that of the last."""
        self._trained = batch + 1

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins to count."""
        self._check_training()  # before a callback that looks at the metrics
        self._validated = 0

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts; `batch` counts from 0, with several steps in one execution that of the last."""
        self._validated = batch + 1

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Looks whether this validation was as long as the one before."""
        if self._validated < self._to_validate and not self.model.stop_evaluating:
            self._fail("validation_data", self._validated, self._to_validate, "validation_steps")
        self._to_validate = self._validated

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Looks whether there was as much to train on as there should be."""
        self._check_training()

    def _check_training(self) -> None:
        wanted = self.params.get("steps") or 1  # None where Keras does not know
        if self._trained < wanted and not self.model.stop_training:
            self._fail("x", self._trained, wanted, "steps_per_epoch")

    def _fail(self, what: str, done: int, wanted: int, steps: str) -> None:
        after = f"after {done} of {wanted} steps" if wanted > 1 else "before its first step"
        raise keras_tuner.errors.FatalValueError(
            f"{what}: the data ended in epoch {self._epoch}, {after}; give arrays, or a "
            f"tf.data.Dataset that can be read again and that repeat() makes long enough, or "
            f"fewer {steps}"
        )


def score_of(
    score: Score,
    metrics: Mapping[str, float],
    costs: Mapping[str, float],
    who: str = "training reports",
    way_out: str = "pass validation_data=... to search(), and the metric to compile(); it is "
    "needed at every epoch",
) -> float:
    """Scores metrics of a network; they may be infinite or NaN.

    Args:
        score: callable `score(logs, macs)`.
        metrics: by their names.
        costs: of the network, by `Cost.name`.
        who: says whose metrics these are.
        way_out: says what to do where one is missing.

    Raises:
        keras_tuner.errors.FatalValueError: one is missing, or the score is no number. It would be
            the same for every candidate.
    """
    try:
        value = score(metrics, cost_of(score, costs))
    except KeyError as error:
        raise keras_tuner.errors.FatalValueError(
            f"the score needs the metric {error}, but {who} {', '.join(sorted(metrics))}; {way_out}"
        ) from error
    try:
        return float(value)
    except (TypeError, ValueError):
        raise keras_tuner.errors.FatalValueError(
            f"the score is {value!r}; score(logs, macs) has to return a number"
        ) from None


class ScoreCallback(DataEnd):
    """Puts the score and the costs into the logs of each epoch that had all its data.

    Args:
        score: callable `score(logs, macs)`.
        measured: what was measured of the network's costs, by `Cost.name`.
        count: counts the others, for one image or one token.
        may_lack: whether epochs may lack what the score needs, since whoever trains returns a score
            of their own.

    Raises:
        keras_tuner.errors.FatalValueError: the logs lack a metric that the score needs, or the
            data ended, or the score is no number.
        keras_tuner.errors.FailedTrialError: the score, a loss or the metric behind the score is
            not a finite number.
    """

    def __init__(
        self,
        score: Score,
        measured: Mapping[str, float],
        count: Callable[[keras.Model], Mapping[str, float]],
        may_lack: bool = False,
    ) -> None:
        super().__init__()
        self.may_lack = may_lack
        self.score = score
        self.measured = measured
        self._count = count
        self.costs: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Counts what the network costs, for one image or one token."""
        self.costs = {**self.measured, **self._count(self.model)}

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Adds to `logs`, which the callbacks after this one and the history see."""
        super().on_epoch_end(epoch, logs)
        try:
            value = score_of(self.score, logs, self.costs)
        except keras_tuner.errors.FatalValueError:
            if not self.may_lack:
                raise
            return
        objective = getattr(self.score, "objective", None)
        watched = ["loss", "val_loss", *([objective] if isinstance(objective, str) else [])]
        diverged = [name for name in watched if not math.isfinite(logs.get(name, 0))]
        if diverged:
            raise keras_tuner.errors.FailedTrialError(
                f"the {diverged[0]} of epoch {epoch + 1} is {logs[diverged[0]]}"
            )
        if not math.isfinite(value):
            raise keras_tuner.errors.FailedTrialError(f"the score of epoch {epoch + 1} is {value}")
        logs.update(score=value, **self.costs)


# Until so many steps have been done, BatchNorm's moving statistics are those of a network that is
# no more, and what is measured with them says nothing about this one.
_SETTLED = 100


class ProxyStopping(keras.callbacks.Callback):
    """Stops a candidate that will come to nothing (arXiv 1911.09251).

    After epoch 4 if the validation accuracy is less than twice chance, and from epoch 4 on if
    the validation loss is more than three times the training loss. Not before 100 steps: of a
    small data set, whose epochs are short, the epoch that they end in takes the place of epoch 4.

    Args:
        classes: number of classes; chance is 1 / classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self._looked = False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins anew."""
        self._looked = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the epoch's metrics; `epoch` counts from 0."""
        logs = logs or {}
        # Keras does not know the steps of data whose length it does not know.
        steps = (self.params or {}).get("steps") or _SETTLED
        if epoch < 3 or (epoch + 1) * steps < _SETTLED:
            return
        # With two classes twice chance would be 1: half of the way from chance to 1 will do.
        least = min(2 / self.classes, (1 + 1 / self.classes) / 2)
        hopeless = not self._looked and logs.get("val_accuracy", 1) < least
        overfitted = logs.get("val_loss", 0) > 3 * logs.get("loss", float("inf"))
        self._looked = True
        if hopeless or overfitted:
            self.model.stop_training = True
