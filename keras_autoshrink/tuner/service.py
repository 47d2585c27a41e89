"""One search on many workers, over KerasTuner's own chief and worker service.

A script becomes the chief or a worker by the environment variables KERASTUNER_TUNER_ID,
KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. What that service loses on the way (the exact
values of floats, tracebacks) travels here as JSON beside the hyperparameters of a trial.
"""

from __future__ import annotations

import collections
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.search_space import CellSpace

# Names of values that are no hyperparameters but messages from one side to the other.
_VALUES = "keras_autoshrink/values"
_REPORT = "keras_autoshrink/report"

# A worker asks this often, in seconds: the round ends for it at most so much later.
POLL = 0.5

# How long the chief stays for workers that do not ask any more, in seconds. One that comes later
# learns from the files that the search is over.
_STAY = 3.0


def role() -> str:
    """Returns `"chief"` or `"worker"` by the environment, or `"alone"`."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    return "chief" if "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") else "worker"


def address() -> str:
    """Returns where the chief listens, as host:port."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


# A worker that stops a trial at its limit says so; this long it is waited for, in seconds.
_GRACE = 5.0

# A candidate that takes its worker down, say by all memory, or hangs, does so again.
_MOST_WORKERS = 3


class Attempts:
    """Trials that have been handed out and have not ended.

    A trial is taken over if it has been out for longer than it may, or if it was handed out
    before this process began and nothing has been heard of it since: the worker may be gone.

    Args:
        max_seconds: how long a trial may take; None for as long as it likes.
        clock: seconds that only grow.
    """

    def __init__(
        self, max_seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_seconds = max_seconds
        self._clock = clock
        self._since: dict[str, float] = {}
        self._unheard: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._taken: dict[str, int] = {}

    def begin(self, trial_id: str) -> None:
        """Notes that a worker has been given a trial."""
        self._since[trial_id] = self._clock()
        self._unheard.discard(trial_id)

    def restore(self, trial_ids: Iterable[str]) -> None:
        """Notes trials that were out when an earlier process ended; their workers may live on."""
        self._unheard = set(trial_ids)
        self._since = dict.fromkeys(self._unheard, self._clock())

    def begin_again(self, trial_id: str) -> bool:
        """Notes that a trial's worker asks for one: it died, and was started again.

        Returns:
            Whether it gets the trial again; not if the trial has cost too many workers.
        """
        # Where the service was away as well, the trial need not have been the reason.
        if trial_id not in self._unheard:
            self._deaths[trial_id] = self._deaths.get(trial_id, 0) + 1
        self.begin(trial_id)
        return self._deaths.get(trial_id, 0) < _MOST_WORKERS

    def end(self, trial_id: str) -> None:
        """Forgets a trial that has ended."""
        self._since.pop(trial_id, None)
        self._unheard.discard(trial_id)

    def is_out(self, trial_id: str) -> bool:
        """Tells whether a worker has a trial, and its answer counts."""
        return trial_id in self._since

    def unheard(self, trial_id: str) -> bool:
        """Tells whether a trial is out since before this process, and its worker silent."""
        return trial_id in self._unheard

    def overdue(self, trial_id: str) -> bool:
        """Tells whether a trial has been out for longer than a trial may."""
        if self.max_seconds is None or not self.is_out(trial_id):
            return False
        return self._clock() - self._since[trial_id] > self.max_seconds + _GRACE

    def take_from(self, network: str) -> bool:
        """Notes that a worker was too late with a network.

        Returns:
            Whether another one is to try; not if that has been so with three of them.
        """
        self._taken[network] = self._taken.get(network, 0) + 1
        return self._taken[network] < _MOST_WORKERS


class Shutdown:
    """The end of a chief: once all its workers know that the search is over, or seem dead.

    Args:
        oracle: the chief's; it counts the workers that do not know yet.

    Attributes:
        finished: an event, set when every worker knows.
    """

    def __init__(self, oracle: keras_tuner.Oracle) -> None:
        self._oracle = oracle
        self.finished = threading.Event()
        self._timer = threading.Timer(_STAY, self.finished.set)  # not started yet

    def begin(self) -> None:
        """Begins to wait for the workers, anew whenever one of them has asked or answered."""
        if not self._oracle.tuner_ids and not self._oracle.ongoing_trials:
            self.finished.set()
            return
        self._timer.cancel()
        self._timer = threading.Timer(_STAY, self.finished.set)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Forgets the workers, so that KerasTuner's server ends."""
        self._timer.cancel()
        self.finished.set()
        self._oracle.tuner_ids.clear()
        self._oracle.ongoing_trials.clear()


def serve(run: Callable[[], None], shutdown: Shutdown) -> None:
    """Runs KerasTuner's server until the search has finished.

    Its loop looks every 20 seconds whether it may end. In a thread of its own nobody has to
    wait for that: until then it says to everybody that there is nothing to do yet.

    Args:
        run: serves, and returns some time after the end; what it raises is raised here.
        shutdown: of the oracle that is served.
    """
    errors: list[BaseException] = []
    shutdown.finished.clear()

    def target() -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="search service", daemon=True)
    thread.start()
    while thread.is_alive() and not shutdown.finished.wait(POLL):
        pass
    if errors:
        raise ValueError(f"cannot serve at {address()}: {errors[0]}") from errors[0]
    shutdown.end()


def pack_values(trial: Trial, token: str) -> Trial:
    """Copies a trial so that it brings its values to a worker as they are, and their order.

    The service makes float32 of them, and sorts hyperparameters by their kind.

    Args:
        trial: to be handed out.
        token: of the search, to come back with the report.
    """
    hyperparameters = trial.hyperparameters.copy()
    names = [parameter.name for parameter in hyperparameters.space]
    message = {"values": trial.hyperparameters.values, "names": names, "token": token}
    hyperparameters.values[_VALUES] = json.dumps(message)
    return Trial(hyperparameters, trial.trial_id, trial.status)


def unpack_values(trial: Trial) -> dict[str, Any]:
    """Takes from a trial's values what `pack_values` put there.

    Returns:
        `values`, the `names` of all hyperparameters in their order, and `token`; empty if there
        is nothing.
    """
    return json.loads(trial.hyperparameters.values.pop(_VALUES, "{}"))


def pack_report(trial: Trial, report: dict[str, Any]) -> Trial:
    """Copies a trial so that it brings a worker's report to the chief.

    Args:
        trial: that has ended.
        report: the `token` of the search, and `metrics` and `step` if the trial has any. The
            values and the message of the trial are added.
    """
    report = {**report, "values": trial.hyperparameters.values, "message": trial.message}
    hyperparameters = trial.hyperparameters.copy()
    hyperparameters.values = {_REPORT: json.dumps(report, default=float)}
    return Trial(hyperparameters, trial.trial_id, trial.status)


def unpack_report(trial: Trial) -> dict[str, Any]:
    """Takes from a trial what `pack_report` gave it, and puts its values and message back.

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


# For so long a worker waits for a chief that is away, in seconds.
_PATIENCE = 3_600


class TrialOracle:
    """What a tuner asks of its oracle while it trains a trial, in a process that has but the trial.

    Args:
        objective: of the search.
        seed: of the search.
        whole_space: whether it searches more than edges.

    Attributes:
        trial: that is trained.
        reports: for each trial that has some its `metrics` and the `step` that they are of.
    """

    def __init__(
        self, objective: keras_tuner.Objective, seed: int, whole_space: bool = False
    ) -> None:
        self.objective = objective
        self.seed = seed
        self._whole_space = whole_space
        self.trial: Trial | None = None
        self.reports: dict[str, dict[str, Any]] = {}

    @property
    def search(self) -> Any:
        """Refuses: another process has the search.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a worker knows its own trial alone; ask the chief, or a new tuner")

    def cell_of(self, trial: Trial) -> Cell:
        """Returns the cell that a trial trains, numbered as the complete DAG."""
        values = trial.hyperparameters.values
        return CellSpace(trial.hyperparameters.space, self._whole_space).sub_cell(values)

    def get_trial(self, trial_id: str) -> Trial:
        """Returns the trial under way, as it was handed out."""
        return self.trial

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Keeps the metrics; they go to the search with the end of the trial."""
        self.reports[trial_id] = {"metrics": metrics, "step": step}
        return self.get_trial(trial_id)


class WorkerOracle(TrialOracle):
    """The chief's oracle, as a worker's tuner sees it.

    KerasTuner's client with its gaps closed: floats and tracebacks arrive as they are, a call
    that the chief's death cut off is made again once there is a new one, and a worker does not
    wait for a chief that has ended.

    Args:
        client: KerasTuner's `OracleClient`.
        seed: of the search.
        is_over: tells whether the search has ended, by its files; it is given whether a chief has
            ever answered.
        whole_space: whether more than edges is searched.
    """

    def __init__(
        self, client: Any, seed: int, is_over: Callable[[bool], bool], whole_space: bool
    ) -> None:
        super().__init__(client.objective, seed, whole_space)
        # By default a worker would look for a new chief ever less often, at last every two
        # minutes.
        options = [("grpc.max_reconnect_backoff_ms", 1_000)]
        channel = grpc.insecure_channel(address(), options=options)
        client.stub = type(client.stub)(grpc.intercept_channel(channel, _AtOnce()))
        self._client = client
        self._is_over = is_over
        self._token: str | None = None
        self._places: dict[str, int] = {}
        self._met_chief = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_trial(self, tuner_id: str) -> Trial:
        """Asks the chief for a trial; waits for a chief that is away.

        Raises:
            RuntimeError: the chief has begun another search.
        """
        trial = self._call("create_trial", tuner_id)
        if trial is None:
            return Trial(keras_tuner.HyperParameters(), status=TrialStatus.STOPPED)
        message = unpack_values(trial)
        if message and trial.status == TrialStatus.RUNNING:
            if self._token not in (None, message["token"]):
                raise RuntimeError("the chief has begun another search; start this worker again")
            self._token = message["token"]
            trial.hyperparameters.values.update(message["values"])
            self._places = {name: place for place, name in enumerate(message["names"])}
        self.trial = trial
        return trial

    def cell_of(self, trial: Trial) -> Cell:
        """Returns the cell that a trial trains, its values in the order of the chief's.

        What a candidate is seeded by follows from their order, too.
        """
        space = sorted(
            trial.hyperparameters.space,
            key=lambda parameter: self._places.get(parameter.name, len(self._places)),
        )
        return CellSpace(space, self._whole_space).sub_cell(trial.hyperparameters.values)

    def end_trial(self, trial: Trial) -> None:
        """Reports to the chief what came of the trial."""
        report = {**self.reports.pop(trial.trial_id, {}), "token": self._token}
        self._call("end_trial", pack_report(trial, report))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls the chief until it answers; it takes a repeated call for the same one.

        Returns:
            The answer; None if the search has ended, and with it the chief.

        Raises:
            RuntimeError: the chief refused, or is away for an hour.
        """
        patience = time.monotonic() + _PATIENCE
        while time.monotonic() < patience:
            try:
                answer = getattr(self._client, name)(*arguments)
                self._met_chief = True
                return answer
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise RuntimeError(
                        f"the chief of the search refused: {error.details()}"
                    ) from error
            if self._is_over(self._met_chief):
                return None
            time.sleep(2 * POLL)
        raise RuntimeError(f"no chief of the search at {address()} for an hour")


class _Details(
    collections.namedtuple(
        "_Details", "method timeout metadata credentials wait_for_ready compression"
    ),
    grpc.ClientCallDetails,
):
    """The details of a call, in the terms of gRPC."""


class _AtOnce(grpc.UnaryUnaryClientInterceptor):
    """An interceptor by which a call fails at once without a chief; else it waits for an hour."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Makes the call."""
        changed = _Details(
            details.method,
            details.timeout,
            details.metadata,
            details.credentials,
            False,
            details.compression,
        )
        return continuation(changed, request)
