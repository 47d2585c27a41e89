"""The chief's oracle as a worker sees it: KerasTuner's client, with its gaps closed."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_autoshrink import service
from keras_autoshrink.cell import Cell
from keras_autoshrink.search_space import CellSpace

# For so long a worker waits for a chief that is away, in seconds.
_PATIENCE = 3_600


class WorkerOracle:
    """The chief's oracle, as a worker's tuner sees it.

    KerasTuner's client with its gaps closed: floats and tracebacks arrive as they are, a call
    that the chief's death cut off is made again once there is a new one, and a worker does not
    wait for a chief that has ended.

    Args:
        client: KerasTuner's `OracleClient`.
        seed: of the search.
        is_over: whether the search has ended, by its files; told whether a chief has answered.
    """

    def __init__(self, client: Any, seed: int, is_over: Callable[[bool], bool]) -> None:
        # By default a worker would look for a new chief ever less often, at last every two
        # minutes.
        options = [("grpc.max_reconnect_backoff_ms", 1_000)]
        channel = grpc.insecure_channel(service.address(), options=options)
        client.stub = type(client.stub)(grpc.intercept_channel(channel, _AtOnce()))
        self._client = client
        self._is_over = is_over
        self._reports: dict[str, dict[str, Any]] = {}
        self._trial: Trial | None = None
        self._token: str | None = None
        self._met_chief = False
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def search(self) -> Any:
        """Not here.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a worker knows its own trial alone; ask the chief, or a new tuner")

    def cell_of(self, trial: Trial) -> Cell:
        """The cell that a trial trains, numbered as the complete DAG."""
        values = trial.hyperparameters.values
        return CellSpace(trial.hyperparameters.space).sub_cell(values)

    def create_trial(self, tuner_id: str) -> Trial:
        """Asks the chief for a trial; waits for a chief that is away.

        Raises:
            RuntimeError: the chief has begun another search.
        """
        trial = self._call("create_trial", tuner_id)
        if trial is None:
            return Trial(keras_tuner.HyperParameters(), status=TrialStatus.STOPPED)
        letter = service.take_letter(trial)
        if letter and trial.status == TrialStatus.RUNNING:
            if self._token not in (None, letter["token"]):
                raise RuntimeError("the chief has begun another search; start this worker again")
            self._token = letter["token"]
            trial.hyperparameters.values.update(letter["values"])
        self._trial = trial
        return trial

    def get_trial(self, trial_id: str) -> Trial:
        """The trial under way, as it was handed out."""
        return self._trial

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Keeps the metrics; they go to the chief with the end of the trial."""
        self._reports[trial_id] = {"metrics": metrics, "step": step}
        return self.get_trial(trial_id)

    def end_trial(self, trial: Trial) -> None:
        """Tells the chief what came of the trial."""
        report = {**self._reports.pop(trial.trial_id, {}), "token": self._token}
        self._call("end_trial", service.with_report(trial, report))

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
            time.sleep(2 * service.POLL)
        raise RuntimeError(f"no chief of the search at {service.address()} for an hour")


class _Details(
    collections.namedtuple(
        "_Details", "method timeout metadata credentials wait_for_ready compression"
    ),
    grpc.ClientCallDetails,
):
    """How a call is made, in the terms of gRPC."""


class _AtOnce(grpc.UnaryUnaryClientInterceptor):
    """Has a call fail where there is no chief; KerasTuner's would wait for one for an hour."""

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
