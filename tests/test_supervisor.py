"""Real processes and signals, with scripts of a few lines in the place of chief and workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import is_alive

from keras_autoshrink.commands.processes import Child, Supervisor

ROOT = Path(__file__).parent.parent

# Before each script: how often it has been started, with which arguments, and what ends it.
PROLOGUE = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
folder = pathlib.Path({folder!r})
from keras_autoshrink import lifeline
lifeline.hold()
def note(what):
    with (folder / {name!r}).open("a") as file:
        file.write(what + "\\n")
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def wait(what):
    while not (folder / what).exists():
        time.sleep(0.01)
note(" ".join(["started", *sys.argv[1:]]))
life = (folder / {name!r}).read_text().count("started")
(folder / f"{name}.pid").write_text(str(os.getpid()))
"""

# A chief that is there for its workers, and one that ends in time.
SERVE = "(folder / 'listens').touch()\ntime.sleep(600)"
SERVE_UNTIL = "(folder / 'listens').touch()\nwait('{}')"
WORK = "time.sleep(600)"


class Stage:
    """A folder in which a chief and workers run and say what they met."""

    def __init__(self, folder):
        self.folder = folder

    def child(self, name, script):
        prologue = PROLOGUE.format(root=str(ROOT), folder=str(self.folder), name=name)
        log = None if name == "chief" else (self.folder / f"{name}.log").open("wb")
        title = "the chief" if name == "chief" else f"worker {name}"
        return Child(title, [sys.executable, "-c", prologue + script], dict(os.environ), log)

    def supervisor(self, chief, *workers, **options):
        return Supervisor(
            chief and self.child("chief", chief),
            lambda: [self.child(f"w{i}", script) for i, script in enumerate(workers)],
            (self.folder / "listens").exists,
            **options,
        )

    def notes(self, name):
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def wait_for(self, *names):
        while not all((self.folder / name).exists() for name in names):
            time.sleep(0.01)

    def nobody_is_left(self):
        pids = [int(path.read_text()) for path in self.folder.glob("*.pid")]
        return pids and not any(map(is_alive, pids))


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def meanwhile(do):
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def test_workers_begin_when_the_chief_listens_and_end_with_it(stage):
    chief = "time.sleep(0.5)\nnote('listens')\n" + SERVE_UNTIL.format("w1.pid")
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    hired = []
    supervisor = stage.supervisor(chief, WORK, stubborn)
    hire = supervisor._hire
    supervisor._hire = lambda: hired.append(stage.notes("chief")) or hire()
    assert supervisor.run() == (0, "")
    assert hired == [["started", "listens"]]
    assert stage.nobody_is_left()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_chief_that_ends_before_it_listens_needs_no_workers(stage, status):
    assert stage.supervisor(f"sys.exit({status})", WORK).run() == (status, "")
    assert not stage.notes("w0")


def test_a_worker_that_was_killed_is_started_again(stage, capfd):
    worker = "print('life', life, flush=True)\nif life < 3: die()\n(folder / 'done').touch()"
    assert stage.supervisor(SERVE_UNTIL.format("done"), worker, WORK).run() == (0, "")
    assert (stage.folder / "w0.log").read_text().split("\n") == ["life 1", "life 2", "life 3", ""]
    assert stage.notes("w1") == ["started"]
    line = "worker w0 was killed (signal 9); starting it again\n"
    assert capfd.readouterr().err == 2 * line


def test_a_worker_that_dies_at_each_start_is_given_up_and_its_candidate_freed(stage, capfd):
    # The chief waits for whom it has given a candidate, until it is started again.
    chief = "(folder / 'listens').touch()\nif life == 1: time.sleep(600)\nwait('w1.pid')"
    supervisor = stage.supervisor(chief, "die()", WORK, once=["--overwrite"])
    assert supervisor.run() == (0, "")
    assert len(stage.notes("w0")) == 5
    assert stage.notes("chief") == ["started --overwrite", "started"]
    lines = capfd.readouterr().err.split("\n")
    assert lines[-3].startswith("worker w0 was killed 5 times in a row; see ")
    assert lines[-3].endswith("w0.log")
    assert lines[-2] == "starting the chief again, so that another worker has its candidate"


def test_a_search_without_any_worker_left_ends(stage):
    assert stage.supervisor(SERVE, "die()", "die()").run() == (1, "no worker is left")
    assert stage.nobody_is_left()


def test_a_chief_with_workers_elsewhere_goes_on_without_those_here(stage):
    chief = "(folder / 'listens').touch()\nif life == 1: time.sleep(600)\ntime.sleep(0.5)"
    assert stage.supervisor(chief, "die()", others=True).run() == (0, "")


def test_an_error_of_a_worker_ends_the_search(stage):
    worker = "print('Loading')\nsys.exit('of another search')"
    status, message = stage.supervisor(SERVE, WORK, worker).run()
    assert (status, message) == (1, "worker w1: of another search")
    assert stage.nobody_is_left()


def test_a_chief_that_was_killed_is_started_again_but_deletes_nothing(stage, capfd):
    chief = (
        "if life == 1: die()\n"  # before anything can have been trained
        "(folder / 'listens').touch()\n"
        "wait('w0.pid')\n"
        "if life == 2: (folder / 'listens').unlink(); die()"
    )
    assert stage.supervisor(chief, WORK, once=["--overwrite"]).run() == (0, "")
    assert stage.notes("chief") == ["started --overwrite", "started --overwrite", "started"]
    assert stage.notes("w0") == ["started"]
    line = "the chief was killed (signal 9); starting it again\n"
    assert capfd.readouterr().err == 2 * line


def test_a_worker_that_was_sent_away_returns_to_a_new_chief(stage):
    # The first chief dies after it has told its worker that the search is over.
    chief = (
        "if life == 1: (folder / 'listens').touch(); wait('sent'); time.sleep(0.5); die()\n"
        "wait('back')"
    )
    worker = "(folder / ('sent' if life == 1 else 'back')).touch()"
    assert stage.supervisor(chief, worker).run() == (0, "")


def test_a_chief_that_dies_at_each_start_ends_the_search(stage):
    status, message = stage.supervisor("die()", WORK).run()
    assert (status, message) == (1, "the chief was killed 5 times in a row")
    assert len(stage.notes("chief")) == 5


CHIEF_THAT_SAYS_SO = (
    "(folder / 'listens').touch()\n"
    "try: time.sleep(600)\n"
    "except KeyboardInterrupt: note('interrupted'); sys.exit(130)"
)
RESUME = "interrupted; run it again, without --overwrite, to go on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(stage, number):
    before = signal.getsignal(number)

    def send():
        stage.wait_for("w0.pid", "w1.pid")
        os.kill(os.getpid(), number)

    thread = meanwhile(send)
    assert stage.supervisor(CHIEF_THAT_SAYS_SO, WORK, WORK).run() == (128 + number, "")
    thread.join()
    assert stage.notes("chief") == ["started", "interrupted"]
    assert stage.nobody_is_left()
    assert signal.getsignal(number) == before


def test_a_chief_that_has_not_come_far_dies_quietly(stage, capfd):
    def send():
        stage.wait_for("chief.pid")
        os.kill(os.getpid(), signal.SIGINT)

    meanwhile(send)
    assert stage.supervisor("time.sleep(600)", WORK).run() == (130, RESUME)
    assert capfd.readouterr().err == ""


def test_a_second_signal_waits_for_nobody(stage):
    deaf = "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"

    def send():
        stage.wait_for("w0.pid")
        time.sleep(0.2)  # until they are deaf
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    thread = meanwhile(send)
    assert stage.supervisor(deaf + SERVE, deaf + WORK).run() == (130, RESUME)
    thread.join()
    assert stage.nobody_is_left()


def test_workers_of_a_chief_elsewhere_wait_for_it_and_end_when_told(stage, capfd):
    def appear():
        time.sleep(0.5)
        (stage.folder / "listens").touch()

    meanwhile(appear)
    assert stage.supervisor(None, "pass", "if life == 1: die()").run() == (0, "")
    assert stage.notes("w0") == ["started"]
    assert stage.notes("w1") == ["started", "started"]
    said = "worker w1 was killed (signal 9); starting it again\n"
    assert capfd.readouterr().err == said


def test_workers_of_a_chief_elsewhere_that_all_die(stage, capfd):
    (stage.folder / "listens").touch()
    assert stage.supervisor(None, "die()").run() == (1, "no worker is left")
    assert "if it had a candidate, that waits until the chief is" in capfd.readouterr().err


# A supervisor as a process of its own, with a chief and a worker from this module.
ALONE = """
import pathlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_supervisor as here
stage = here.Stage(pathlib.Path({folder!r}))
sys.exit(stage.supervisor(here.CHIEF_THAT_SAYS_SO, here.WORK).run()[0])
"""


def alone(stage):
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "folder": str(stage.folder)}
    return [sys.executable, "-c", ALONE.format(**places)]


def test_a_supervisor_that_is_killed_takes_all_with_it(stage):
    supervisor = subprocess.Popen(alone(stage))
    stage.wait_for("w0.pid")
    supervisor.kill()
    supervisor.wait()
    while not stage.nobody_is_left():
        time.sleep(0.01)


def test_in_the_background_of_a_script_the_chief_still_hears_of_an_end(stage):
    # There a shell makes processes ignore Ctrl-C, and what they start inherits that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        supervisor = subprocess.Popen(alone(stage))
    finally:
        signal.signal(signal.SIGINT, before)
    stage.wait_for("w0.pid")
    supervisor.send_signal(signal.SIGINT)
    supervisor.terminate()
    assert supervisor.wait() == 128 + signal.SIGTERM
    assert stage.notes("chief") == ["started", "interrupted"]
    assert stage.nobody_is_left()
