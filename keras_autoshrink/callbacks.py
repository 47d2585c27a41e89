"""What watches a candidate while it trains."""

from __future__ import annotations

import math

import keras
import keras_tuner

from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.language_models import is_language_model
from keras_autoshrink.score import Score


class ScoreCallback(keras.callbacks.Callback):
    """Puts `score`, `macs` and `params` into the logs of each epoch.

    Args:
        score: callable `score(logs, macs)`.

    Raises:
        keras_tuner.errors.FatalValueError: the logs lack a metric that the score needs.
        keras_tuner.errors.FailedTrialError: the score, a loss or the metric behind the score is
            not a finite number.
    """

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score
        self.costs: dict[str, int] = {}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Counts what the network costs, for one image or one token."""
        one = (1,) if is_language_model(self.model) else None
        self.costs = {
            "macs": count_macs(self.model, input_shape=one),
            "params": count_params(self.model),
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Adds to `logs`, which the callbacks after this one and the history see."""
        try:
            score = self.score(logs, self.costs["macs"])
        except KeyError as error:
            # Fatal: it would be the same for every candidate.
            raise keras_tuner.errors.FatalValueError(
                f"the score needs the metric {error}, but training reports "
                f"{', '.join(sorted(logs))}; pass validation_data=... to search(), and the "
                "metric to compile(); it is needed at every epoch"
            ) from error
        objective = getattr(self.score, "objective", None)
        watched = ["loss", "val_loss", *([objective] if isinstance(objective, str) else [])]
        diverged = [name for name in watched if not math.isfinite(logs.get(name, 0))]
        if diverged:
            raise keras_tuner.errors.FailedTrialError(
                f"the {diverged[0]} of epoch {epoch + 1} is {logs[diverged[0]]}"
            )
        if not math.isfinite(score):
            raise keras_tuner.errors.FailedTrialError(f"the score of epoch {epoch + 1} is {score}")
        logs.update(score=float(score), **self.costs)


class ProxyStopping(keras.callbacks.Callback):
    """Stops a candidate that will come to nothing (arXiv 1911.09251).

    After epoch 4 if the validation accuracy is less than twice chance, and from epoch 4 on if
    the validation loss is more than three times the training loss. (Not before: a small data
    set has few steps in an epoch, and until BatchNorm's statistics have settled the validation
    loss says nothing about the network.)

    Args:
        classes: number of classes; chance is 1 / classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the epoch's metrics; `epoch` counts from 0."""
        logs = logs or {}
        if epoch < 3:
            return
        # With two classes twice chance would be 1: half of the way from chance to 1 will do.
        chance = 1 / self.classes
        hopeless = epoch == 3 and logs.get("val_accuracy", 1) < min(2 * chance, (1 + chance) / 2)
        overfitted = logs.get("val_loss", 0) > 3 * logs.get("loss", float("inf"))
        if hopeless or overfitted:
            self.model.stop_training = True
