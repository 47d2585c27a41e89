"""What KerasTuner's trials say, in the terms of the search, and the other way round."""

from __future__ import annotations

import math

from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.trajectory import Outcome

# A stopped trial has ended without an outcome: another trial has its candidate.
ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED, TrialStatus.STOPPED)


def outcome_of(trial: Trial, sign: int, metric: str) -> Outcome:
    """What came of a trial that has ended.

    Args:
        trial: completed, or failed for good.
        sign: 1 if its score is to be maximised, -1 if minimised.
        metric: the metric behind the score.
    """
    if trial.status != TrialStatus.COMPLETED:
        return Outcome(None, trial_id=trial.trial_id, error=error_line(trial.message))
    macs, params = metric_of(trial, "macs"), metric_of(trial, "params")
    return Outcome(
        score=sign * float(trial.score),
        objective=metric_of(trial, metric),
        macs=None if macs is None else round(macs),
        params=None if params is None else round(params),
        seconds=metric_of(trial, "seconds") or 0.0,
        trial_id=trial.trial_id,
        latency_ms=metric_of(trial, "latency_ms"),
        measured_cost=metric_of(trial, "measured_cost"),
    )


def metrics_of(outcome: Outcome, sign: int, metric: str, objective: str) -> dict[str, float]:
    """The metrics of a completed trial that this came of, for KerasTuner: `outcome_of` undone.

    Args:
        outcome: one with a score.
        sign: as of `outcome_of`; so is the next.
        metric: likewise.
        objective: name of the trial's score.
    """
    metrics = {
        "macs": outcome.macs,
        "params": outcome.params,
        "seconds": outcome.seconds,
        "latency_ms": outcome.latency_ms,
        "measured_cost": outcome.measured_cost,
        metric: outcome.objective,
        objective: sign * outcome.score,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def fresh(trial: Trial, status: str) -> Trial:
    """The trial as it was before it was trained."""
    return Trial(trial.hyperparameters, trial.trial_id, status)


def metric_of(trial: Trial, name: str) -> float | None:
    """A metric of a trial; None if it has none of this name, or one that is not finite."""
    if not trial.metrics.exists(name):
        return None
    value = float(trial.metrics.get_best_value(name))
    return value if math.isfinite(value) else None


def error_line(message: str | None) -> str:
    """The line of a traceback that says what was wrong: the first after the last frame."""
    lines = (message or "no error message").strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith("Traceback (")), default=-1)
    return next((line for line in lines[last + 1 :] if line[:1].strip()), lines[-1])
