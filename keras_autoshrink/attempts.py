"""Which trials are out with a worker, and which of them another worker may take over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

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
        """A worker has been given the trial."""
        self._since[trial_id] = self._clock()
        self._unheard.discard(trial_id)

    def restore(self, trial_ids: Iterable[str]) -> None:
        """These were out when an earlier process ended; their workers may live on."""
        self._unheard = set(trial_ids)
        self._since = dict.fromkeys(self._unheard, self._clock())

    def begin_again(self, trial_id: str) -> bool:
        """The trial's worker asks for one: it died, and was started again.

        Returns:
            Whether it gets the trial again; not if the trial has cost too many workers.
        """
        # Where the service was away as well, the trial need not have been the reason.
        if trial_id not in self._unheard:
            self._deaths[trial_id] = self._deaths.get(trial_id, 0) + 1
        self.begin(trial_id)
        return self._deaths.get(trial_id, 0) < _MOST_WORKERS

    def end(self, trial_id: str) -> None:
        """The trial has ended."""
        self._since.pop(trial_id, None)
        self._unheard.discard(trial_id)

    def is_out(self, trial_id: str) -> bool:
        """Whether a worker has the trial, and its answer counts."""
        return trial_id in self._since

    def unheard(self, trial_id: str) -> bool:
        """Whether the trial is out since before this process, and its worker silent."""
        return trial_id in self._unheard

    def overdue(self, trial_id: str) -> bool:
        """Whether the trial has been out for longer than a trial may."""
        if self.max_seconds is None or not self.is_out(trial_id):
            return False
        return self._clock() - self._since[trial_id] > self.max_seconds + _GRACE

    def take_from(self, network: str) -> bool:
        """A worker was too late with this network.

        Returns:
            Whether another one is to try; not if that has been so with three of them.
        """
        self._taken[network] = self._taken.get(network, 0) + 1
        return self._taken[network] < _MOST_WORKERS
