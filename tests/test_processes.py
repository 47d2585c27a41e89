"""Who restarts whom, by a clock of the tests' own; and real processes where they are the point."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import is_alive

from keras_autoshrink.commands.processes import Child, Supervisor

ROOT = Path(__file__).parent.parent
KILLED = -signal.SIGKILL
RESUME = "interrupted; run it again, without --overwrite, to go on"


class Clock:
    """Time that passes only when somebody sleeps, until which nothing may be waited for."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        assert self.now < 10_000, "it waits forever"
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Played(Child):
    """A child without a process.

    Args:
        clock: that it lives by.
        *lives: for each start after how many seconds it ends, and with which status; the last one
            as often as it is started again.
        deaf: the signals that do not end it.
    """

    def __init__(self, name, clock, *lives, deaf=()):
        super().__init__(name, [], {})
        self._clock, self._lives, self._deaf = clock, lives, deaf
        self.starts = []  # when, and with which arguments
        self.signals = []
        self._end = None

    def start(self, parent_pipe, more=()):
        self.starts.append((round(self._clock(), 1), *more))
        seconds, status = self._lives[min(len(self.starts), len(self._lives)) - 1]
        self._end = (self._clock() + seconds, status)

    @property
    def status(self):
        return self._end[1] if self._end and self._clock() >= self._end[0] else None

    @property
    def runs(self):
        return bool(self._end) and self._clock() < self._end[0]

    def send(self, number):
        if self.runs:
            self.signals.append(number)
            if number not in self._deaf:
                # A chief that is interrupted says so itself.
                status = 130 if number == signal.SIGINT else -number
                self._end = (self._clock(), status)

    def last_line(self):
        return "of another search"


LIVES_ON = (1e9, 0)


@pytest.fixture
def clock():
    return Clock()


def supervise(clock, chief, *workers, listens=lambda: True, sleep=None, **options):
    supervisor = Supervisor(
        chief, lambda: [*workers], listens, clock=clock, sleep=sleep or clock.sleep, **options
    )
    result = supervisor.run()
    assert not any(child.runs for child in (chief, *workers) if child)
    return result


def test_workers_begin_when_the_chief_listens_and_end_after_it(clock):
    chief = Played("chief", clock, (30, 0))
    ready = Played("w1", clock, (26, 0))
    busy = Played("w2", clock, LIVES_ON, deaf=[signal.SIGTERM])
    assert supervise(clock, chief, ready, busy, listens=lambda: clock() > 5) == (0, "")
    assert ready.starts == busy.starts == [(5.1,)]
    assert ready.signals == []
    assert busy.signals == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_chiefs_status_is_that_of_the_search(clock, status):
    worker = Played("w1", clock, LIVES_ON)
    chief = Played("chief", clock, (3, status))
    assert supervise(clock, chief, worker, listens=lambda: False) == (status, "")
    assert worker.starts == []


def test_who_is_killed_is_started_again(clock, capfd):
    chief = Played("the chief", clock, (10, KILLED), (40, 0))
    worker = Played("worker w1", clock, (3, KILLED), (200, 0))
    assert supervise(clock, chief, worker, Played("w2", clock, LIVES_ON)) == (0, "")
    assert [when for (when,) in worker.starts] == pytest.approx([0, 3], abs=0.2)
    assert capfd.readouterr().err.splitlines() == [
        "worker w1 was killed (signal 9); starting it again",
        "the chief was killed (signal 9); starting it again",
    ]


def test_a_chief_that_has_listened_deletes_nothing_when_it_is_started_again(clock):
    chief = Played("chief", clock, (2, KILLED), (10, KILLED), (10, 0))
    worker = Played("w1", clock, LIVES_ON)
    listens = lambda: clock() > 5  # noqa: E731 - the first life ends before
    supervise(clock, chief, worker, listens=listens, first_arguments=["--overwrite"])
    assert [more for _, *more in chief.starts] == [["--overwrite"], ["--overwrite"], []]


def test_a_worker_that_has_ended_returns_to_a_new_chief(clock):
    # The first chief dies after its worker has heard from it that the search is over.
    chief = Played("chief", clock, (9, KILLED), (9, 0))
    worker = Played("w1", clock, (3, 0), LIVES_ON)
    assert supervise(clock, chief, worker) == (0, "")
    assert len(worker.starts) == 2


def test_quick_deaths_in_a_row_end_the_search(clock):
    chief, fragile = Played("chief", clock, LIVES_ON), Played("w1", clock, (1, KILLED))
    assert supervise(clock, chief, fragile) == (1, "w1 was killed 5 times in a row")
    assert len(fragile.starts) == 5
    chief = Played("chief", clock, (1, KILLED))
    assert supervise(clock, chief) == (1, "chief was killed 5 times in a row")
    # Those that come after some time are accidents.
    often = Played("w1", clock, *[(1, KILLED), (61, KILLED)] * 9, LIVES_ON)
    assert supervise(clock, Played("chief", clock, (2_000, 0)), often) == (0, "")
    assert len(often.starts) == 19


def test_an_error_of_a_worker_ends_the_search(clock):
    chief = Played("chief", clock, LIVES_ON)
    workers = [Played("worker w1", clock, LIVES_ON), Played("worker w2", clock, (2, 1))]
    message = "worker w2: of another search"
    assert supervise(clock, chief, *workers) == (1, message)
    assert chief.signals == [signal.SIGKILL]


def test_workers_of_a_chief_elsewhere_wait_for_it_and_end_with_its_search(clock):
    workers = [Played("w1", clock, (3, 0)), Played("w2", clock, (1, KILLED), (9, 0))]
    assert supervise(clock, None, *workers, listens=lambda: clock() > 50) == (0, "")
    assert [len(worker.starts) for worker in workers] == [1, 2]
    assert clock() > 50 + 1 + 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all(clock, number):
    before = signal.getsignal(number)

    def sleep(seconds):
        clock.sleep(seconds)
        if clock.now - seconds < 20 <= clock.now:
            os.kill(os.getpid(), number)

    chief, worker = Played("chief", clock, LIVES_ON), Played("w1", clock, LIVES_ON)
    assert supervise(clock, chief, worker, sleep=sleep) == (128 + number, "")
    assert (chief.signals, worker.signals) == ([signal.SIGINT], [signal.SIGTERM])
    assert signal.getsignal(number) == before


def test_a_chief_that_does_not_listen_yet_cannot_say_that_it_is_interrupted(clock):
    def sleep(seconds):
        clock.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    chief = Played("chief", clock, LIVES_ON)
    assert supervise(clock, chief, listens=lambda: False, sleep=sleep) == (130, RESUME)
    assert chief.signals == [signal.SIGTERM]


def test_a_second_signal_waits_for_nobody(clock):
    def sleep(seconds):
        clock.sleep(seconds)
        if clock.now > 20:
            os.kill(os.getpid(), signal.SIGINT)

    deaf = [signal.SIGINT, signal.SIGTERM]
    chief = Played("chief", clock, LIVES_ON, deaf=deaf)
    worker = Played("w1", clock, LIVES_ON, deaf=deaf)
    assert supervise(clock, chief, worker, sleep=sleep) == (130, RESUME)
    assert clock() < 21
    assert chief.signals[-1] == worker.signals[-1] == signal.SIGKILL


# Real processes: each script notes that it has started, and ends with its parent.

PROLOGUE = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from keras_autoshrink.commands.processes import end_with_parent
end_with_parent()
folder = pathlib.Path({folder!r})
life = len([*folder.glob({name!r} + ".*.pid")]) + 1
(folder / "starting").write_text(str(os.getpid()))
(folder / "starting").replace(folder / f"{name}.{{life}}.pid")  # whoever sees it, can read it
"""
CHIEF = """
try:
    (folder / "listens").touch()
    while not (folder / "done").exists(): time.sleep(0.01)
except KeyboardInterrupt:
    (folder / "interrupted").touch()
    sys.exit(130)
"""
WORKER = "time.sleep(600)"

# A supervisor as a process of its own.
ALONE = """
import pathlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_processes as here
sys.exit(here.real(pathlib.Path({folder!r}), here.CHIEF, here.WORKER).run()[0])
"""


def real(folder, chief, worker):
    def child(name, script):
        prologue = PROLOGUE.format(root=str(ROOT), folder=str(folder), name=name)
        log = (folder / f"{name}.log").open("wb")
        return Child(name, [sys.executable, "-c", prologue + script], dict(os.environ), log)

    listens = (folder / "listens").exists
    return Supervisor(child("chief", chief), lambda: [child("w1", worker)], listens)


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def alone(folder):
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "folder": str(folder)}
    return subprocess.Popen([sys.executable, "-c", ALONE.format(**places)])


def pids(folder):
    return [int(path.read_text()) for path in folder.glob("*.pid")]


def test_a_real_worker_that_is_killed_is_started_again(tmp_path, capfd):
    worker = (
        "print('life', life, flush=True)\n"
        "if life == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "(folder / 'done').touch()\n" + WORKER
    )
    supervisor = real(tmp_path, CHIEF, worker)
    assert supervisor.run() == (0, "")
    assert capfd.readouterr().err == "w1 was killed (signal 9); starting it again\n"
    assert (tmp_path / "w1.log").read_text() == "life 1\nlife 2\n"
    assert len(pids(tmp_path)) == 3
    assert not any(map(is_alive, pids(tmp_path)))


def test_a_parent_that_is_killed_takes_its_children_along(tmp_path):
    supervisor = alone(tmp_path)
    wait_for(tmp_path / "w1.1.pid")
    supervisor.kill()
    supervisor.wait()
    while any(map(is_alive, pids(tmp_path))):
        time.sleep(0.01)
    assert not (tmp_path / "interrupted").exists()


def test_a_real_signal_reaches_the_chief_even_in_the_background(tmp_path):
    # There a shell makes processes ignore Ctrl-C, and what they start inherits that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        supervisor = alone(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(tmp_path / "w1.1.pid")
    supervisor.send_signal(signal.SIGINT)
    supervisor.terminate()
    assert supervisor.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "interrupted").exists()
    assert not any(map(is_alive, pids(tmp_path)))
