"""Which trials are out, by a clock that the test turns."""

import pytest

from keras_autoshrink.tuner.service import Attempts


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
