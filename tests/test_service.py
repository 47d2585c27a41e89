"""One search on a real chief and real workers, whose results are computed, not trained."""

import json
import os
import random
import socket
import time
from pathlib import Path

import pytest
from forked import KILLED, start
from searches import OPS, WithTuner, unassigned

import keras_autoshrink as kas
from keras_autoshrink.tuner.service import Attempts


def build(hp):
    hp.Boolean("wide")  # the service puts it behind those of other kinds
    hp.Float("learning_rate", 1e-4, 1e-1, default=1e-3)
    return kas.declare_cell(hp, kas.Cell.dense(OPS[:4]))


class Instant(kas.AutoShrink):
    """A tuner whose trials take no time, unless the test's files say otherwise.

    `log` gets a line for each trial that begins. A file named after the number of the trial
    says what befalls it: "raise", "wait" or "wait, raise".
    """

    def run_trial(self, trial, *args, **kwargs):
        folder = Path(self.directory)
        worker = os.environ.get("KERASTUNER_TUNER_ID", "alone")
        with (folder / "log").open("a") as log:
            log.write(f"{trial.trial_id} {worker}\n")
        order = folder / trial.trial_id
        what = order.read_text() if order.exists() else ""
        if what == "raise":
            raise ValueError("boom")
        if what.startswith("wait"):  # until the file is gone
            while order.exists():
                time.sleep(0.05)
        if what == "wait, raise":
            raise ValueError("boom")
        cell = self.oracle.cell_of(trial)
        return {
            "score": random.Random(cell.key).random(),
            "macs": 25_504_385 + len(cell.edges),  # no float32
            "rate": trial.hyperparameters.get("learning_rate"),
            "seconds": 0.1,
        }


def run(folder, environment, arguments):
    os.environ.update(environment)
    settings = {"num_candidates": 3, "strategy": "paper", **arguments}
    tuner = Instant(build, directory=folder, project_name="search", **settings)
    try:
        tuner.search(verbose=0)
    except RuntimeError as error:
        (folder / f"error-{environment.get('KERASTUNER_TUNER_ID')}").write_text(str(error))
        raise SystemExit(1) from error


class Service:
    """A chief and its workers."""

    def __init__(self, folder, **arguments):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.arguments = arguments
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.started = {}

    def start(self, name, listens=True):
        environment = {
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": f"{self.port}",
            "KERASTUNER_TUNER_ID": name,
        }
        self.started[name] = start(run, self.folder, environment, self.arguments)
        if name == "chief" and listens:
            self.wait_for(self.listens)
        return self.started[name]

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_for(self, condition):
        """Sleeps until a condition holds; pytest's timeout ends it else."""
        while not condition():
            time.sleep(0.05)

    def begun(self):
        log = self.folder / "log"
        return (
            [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []
        )

    def wait_for_trial(self, trial_id, times=1):
        self.wait_for(lambda: [i for i, _ in self.begun()].count(trial_id) >= times)

    def kill(self, name):
        self.started[name].kill()
        self.started[name].join()
        assert self.started[name].exitcode == KILLED

    def statuses(self):
        for process in self.started.values():
            process.join()
        return {name: process.exitcode for name, process in self.started.items()}

    def order(self, trial_id, what):
        (self.folder / trial_id).write_text(what)

    def carry_on(self, trial_id):
        (self.folder / trial_id).unlink()

    def state(self):
        return json.loads((self.folder / "search" / "oracle.json").read_text())

    def trials(self):
        paths = sorted((self.folder / "search").glob("trial_*/trial.json"))
        return {path.parent.name[6:]: json.loads(path.read_text()) for path in paths}

    def trajectory(self):
        settings = {"num_candidates": 3, "strategy": "paper", **self.arguments, "overwrite": False}
        tuner = Instant(build, directory=self.folder, project_name="search", **settings)
        return unassigned(tuner.trajectory())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    tuner = Instant(
        build,
        num_candidates=3,
        strategy="paper",
        directory=tmp_path_factory.mktemp("alone"),
        project_name="search",
    )
    tuner.search(verbose=0)
    return unassigned(tuner.trajectory())


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path / "service")
    yield made
    for process in made.started.values():
        process.kill()
        process.join()


def test_three_workers_of_which_one_is_killed_end_as_a_search_alone(service, alone):
    service.arguments["overwrite"] = True  # which only the chief does, before the first trial
    for trial_id in ("0001", "0002", "0003"):
        service.order(trial_id, "wait")
    for name in ("chief", "w1", "w2", "w3"):
        service.start(name)
    for trial_id in ("0001", "0002", "0003"):
        service.wait_for_trial(trial_id)  # the round trains at one time
    killed = dict(service.begun())["0002"]
    service.kill(killed)
    service.start(killed)  # it gets its trial again
    service.wait_for_trial("0002", times=2)
    for trial_id in ("0003", "0002", "0001"):
        service.carry_on(trial_id)
    assert set(service.statuses().values()) == {0}
    assert service.begun().count(("0002", killed)) == 2
    assert service.trajectory() == alone
    assert {worker for _, worker in service.begun()} == {"w1", "w2", "w3"}
    # Exact, though the service makes float32 of numbers.
    for trial in service.trials().values():
        assert trial["hyperparameters"]["values"] == {
            **trial["hyperparameters"]["values"],
            "learning_rate": 1e-3,
        }
        assert not [n for n in trial["hyperparameters"]["values"] if n.startswith("keras_auto")]
        rate = trial["metrics"]["metrics"]["rate"]["observations"][0]["value"]
        assert rate == [1e-3]
    # The state on the disk has all rounds, for who reads it there.
    assert len(service.state()["search"]["outcomes"]) == len(service.trials())


def test_values_are_searched_as_by_a_search_alone(service, tmp_path):
    service.arguments = {"strategy": "evolution", "max_candidates": 9}
    for name in ("chief", "worker-1", "worker-2"):
        service.start(name)
    assert service.statuses() == dict.fromkeys(service.started, 0)
    alone = Instant(build, directory=tmp_path / "alone", num_candidates=3, **service.arguments)
    alone.search(verbose=0)
    assert service.trajectory() == unassigned(alone.trajectory())


def test_a_search_goes_on_with_and_without_a_service(service, alone):
    service.start("chief")
    service.order("0004", "wait")
    service.start("w1")
    service.wait_for_trial("0004")
    service.kill("w1")
    service.kill("chief")
    service.carry_on("0004")
    tuner = Instant(
        build, num_candidates=3, strategy="paper", directory=service.folder, project_name="search"
    )
    tuner.search(verbose=0)
    assert unassigned(tuner.trajectory()) == alone
    service.start("chief", listens=False).join()
    assert service.started["chief"].exitcode == 0  # it is finished already


def test_a_chief_that_dies_goes_on_and_its_workers_with_it(service, alone):
    service.order("0003", "wait")
    service.start("chief")
    for name in ("w1", "w2"):
        service.start(name)
    service.wait_for_trial("0003")
    service.kill("chief")
    service.carry_on("0003")  # it answers while nobody listens
    service.start("chief")
    assert set(service.statuses().values()) == {0}
    assert service.trajectory() == alone
    # Nobody trained it again: its worker has lived on.
    assert len(service.begun()) == len(service.trials())


def test_a_worker_that_lives_on_without_a_chief_learns_that_all_is_over(service, alone):
    service.order("0002", "wait")
    service.order("0003", "wait")
    service.start("chief")
    for name in ("w1", "w2"):
        service.start(name)
    service.wait_for_trial("0003")
    service.wait_for_trial("0002")
    service.kill("chief")
    owner = dict(service.begun())["0003"]
    service.order("0003", "wait for long")
    service.carry_on("0002")
    service.start("chief").join()
    service.carry_on("0003")
    assert set(service.statuses().values()) == {0}
    assert owner in service.started
    assert service.trajectory() == alone


def test_a_round_without_survivors_ends_chief_and_workers(service, alone):
    for trial_id in ("0001", "0002"):
        service.order(trial_id, "wait, raise")
    service.order("0003", "raise")
    for name in ("chief", "w1", "w2"):
        service.start(name)
    for trial_id in ("0001", "0002"):
        service.wait_for_trial(trial_id)  # both have met the chief: a late one would wait for it
    for trial_id in ("0001", "0002"):
        service.carry_on(trial_id)
    assert service.statuses() == {"chief": 1, "w1": 0, "w2": 0}
    error = (service.folder / "error-chief").read_text()
    assert "all candidates of round 1 failed" in error
    assert "boom" in error
    service.carry_on("0003")
    for name in ("chief", "w1", "w2"):
        service.start(name)
    assert set(service.statuses().values()) == {0}
    assert service.trajectory() == alone


def test_a_port_that_cannot_be_served_is_named(tmp_path):
    service = Service(tmp_path / "service")
    environment = {
        "KERASTUNER_ORACLE_IP": "192.0.2.1",  # of nobody: it is for documentation
        "KERASTUNER_ORACLE_PORT": "4000",
        "KERASTUNER_TUNER_ID": "chief",
    }
    process = start(run_and_note, service.folder, environment)
    process.join()
    assert (service.folder / "error").read_text().startswith("cannot serve at 192.0.2.1:4000: ")


def run_and_note(folder, environment):
    try:
        run(folder, environment, {})
    except ValueError as error:
        (folder / "error").write_text(str(error))


# Which trials are out, by a clock that the test turns.


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_trial_is_overdue_some_seconds_after_its_limit(clock):
    attempts = Attempts(60, clock)
    attempts.begin("0000")
    clock.now += 60.1
    assert not attempts.overdue("0000")  # its worker may be about to say so
    clock.now += 10
    assert attempts.overdue("0000")
    assert not attempts.overdue("0001")
    attempts.begin("0000")
    assert not attempts.overdue("0000")


def test_without_a_limit_no_trial_is_overdue(clock):
    attempts = Attempts(None, clock)
    attempts.begin("0000")
    clock.now += 1e9
    assert not attempts.overdue("0000")


def test_what_is_out_counts_until_it_ends(clock):
    attempts = Attempts(None, clock)
    assert not attempts.is_out("0000")
    attempts.begin("0000")
    assert attempts.is_out("0000")
    attempts.end("0000")
    assert not attempts.is_out("0000")
    attempts.end("0000")  # twice is no matter


def test_three_deaths_are_too_many(clock):
    attempts = Attempts(None, clock)
    attempts.begin("0000")
    assert [attempts.begin_again("0000") for _ in range(3)] == [True, True, False]
    attempts.begin("0001")
    assert attempts.begin_again("0001")


def test_a_death_beside_that_of_the_service_does_not_count(clock):
    attempts = Attempts(None, clock)
    attempts.restore(["0000"])
    assert attempts.is_out("0000")
    assert attempts.unheard("0000")
    assert attempts.begin_again("0000")
    assert not attempts.unheard("0000")
    assert [attempts.begin_again("0000") for _ in range(3)] == [True, True, False]


def test_the_time_of_a_restored_trial_begins_anew(clock):
    attempts = Attempts(60, clock)
    attempts.restore(["0000"])
    clock.now += 60
    assert not attempts.overdue("0000")
    clock.now += 60
    assert attempts.overdue("0000")


def test_a_network_is_taken_from_three_workers_at_most(clock):
    attempts = Attempts(60, clock)
    assert [attempts.take_from("a") for _ in range(3)] == [True, True, False]
    assert attempts.take_from("b")


def test_a_worker_asks_the_files_whether_the_search_is_over(tmp_path):
    made = WithTuner.make(tmp_path, ops=OPS[:3])
    assert not made._is_over(True)  # there is none yet
    made.search(verbose=0)
    assert made._is_over(False)
    made._overwrite = True  # a chief may come to delete it
    assert not made._is_over(False)
    assert made._is_over(True)

    def fails(cell):
        raise ValueError("boom")

    failed = WithTuner.make(tmp_path / "failed", fails, OPS[:3])
    with pytest.raises(RuntimeError, match="boom"):
        failed.search(verbose=0)
    assert not failed._is_over(False)  # a chief may come to try again
    assert failed._is_over(True)
