"""One search on many workers, over KerasTuner's own chief and worker service.

A script becomes the chief or a worker by the environment variables KERASTUNER_TUNER_ID,
KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. What that service loses on the way (the exact
values of floats, tracebacks) travels here as JSON beside the hyperparameters of a trial.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial

# Names of values that are no hyperparameters but letters from one side to the other.
_VALUES = "keras_autoshrink/values"
_REPORT = "keras_autoshrink/report"

# A worker asks this often, in seconds: the round ends for it at most so much later.
POLL = 0.5

# How long the chief stays for workers that do not ask any more, in seconds. One that comes later
# learns from the files that the search is over.
_FAREWELL = 3.0


def role() -> str:
    """`"chief"` or `"worker"` by the environment, or `"alone"`."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    return "chief" if "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") else "worker"


def address() -> str:
    """Where the chief listens, as host:port."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


class Farewell:
    """When a chief may go: once all its workers know that the search is over, or seem dead.

    Args:
        oracle: the chief's; it counts the workers that have not been told.

    Attributes:
        finished: an event, set when no worker is left to be told.
    """

    def __init__(self, oracle: keras_tuner.Oracle) -> None:
        self._oracle = oracle
        self.finished = threading.Event()
        self._timer = threading.Timer(_FAREWELL, self.finished.set)  # not started yet

    def begin(self) -> None:
        """The search is over; to be called again whenever a worker has been told, or answers."""
        if not self._oracle.tuner_ids and not self._oracle.ongoing_trials:
            self.finished.set()
            return
        self._timer.cancel()
        self._timer = threading.Timer(_FAREWELL, self.finished.set)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Forgets the workers, so that KerasTuner's server ends."""
        self._timer.cancel()
        self.finished.set()
        self._oracle.tuner_ids.clear()
        self._oracle.ongoing_trials.clear()


def serve(run: Callable[[], None], farewell: Farewell) -> None:
    """Runs KerasTuner's server until the search has finished.

    Its loop looks every 20 seconds whether it may end. In a thread of its own nobody has to
    wait for that: until then it says to everybody that there is nothing to do yet.

    Args:
        run: serves, and returns some time after the end; what it raises is raised here.
        farewell: of the oracle that is served.
    """
    errors: list[BaseException] = []
    farewell.finished.clear()

    def target() -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="search service", daemon=True)
    thread.start()
    while thread.is_alive() and not farewell.finished.wait(POLL):
        pass
    if errors:
        raise ValueError(f"cannot serve at {address()}: {errors[0]}") from errors[0]
    farewell.end()


def with_exact_values(trial: Trial, token: str) -> Trial:
    """A copy of a trial that brings its values to a worker as they are.

    The service makes float32 of them.

    Args:
        trial: to be handed out.
        token: of the search, to come back with the report.
    """
    hyperparameters = trial.hyperparameters.copy()
    letter = {"values": trial.hyperparameters.values, "token": token}
    hyperparameters.values[_VALUES] = json.dumps(letter)
    return Trial(hyperparameters, trial.trial_id, trial.status)


def take_letter(trial: Trial) -> dict[str, Any]:
    """What `with_exact_values` gave a trial; removes it from the trial's values.

    Returns:
        `values` and `token`; empty if there is no letter.
    """
    return json.loads(trial.hyperparameters.values.pop(_VALUES, "{}"))


def with_report(trial: Trial, report: dict[str, Any]) -> Trial:
    """A copy of a trial that brings a worker's report to the chief.

    Args:
        trial: that has ended.
        report: the `token` of the search, and `metrics` and `step` if the trial has any. The
            values and the message of the trial are added.
    """
    report = {**report, "values": trial.hyperparameters.values, "message": trial.message}
    hyperparameters = trial.hyperparameters.copy()
    hyperparameters.values = {_REPORT: json.dumps(report, default=float)}
    return Trial(hyperparameters, trial.trial_id, trial.status)


def take_report(trial: Trial) -> dict[str, Any]:
    """What `with_report` gave a trial; the trial gets its values and its message back.

    Returns:
        `token`, and `metrics` and `step` if there are any; empty if there is no report.
    """
    values = trial.hyperparameters.values
    values.pop(_VALUES, None)
    report = json.loads(values.pop(_REPORT, "{}"))
    if report:
        trial.hyperparameters.values = report.pop("values")
        trial.message = report.pop("message")
    return report
