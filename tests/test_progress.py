"""The lines that a search prints while it runs."""

import re
import statistics

import numpy as np
import pytest
from computed_searches import accuracy, at_budget, bayesian, noise, outcome, paper, run

from keras_autoshrink.report import final
from keras_autoshrink.report.progress import STILL, SearchProgress
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.tuner import tuner


def shown(search, capsys, evaluate=outcome, verbose=1, networks=1_000, **named):
    """What a search prints as a tuner runs it, for some networks, each of 100 s."""
    progress = SearchProgress(verbose, **named)
    with progress:
        progress.begin(search)
        while (pending := search.pending()) and networks:
            cell, networks = pending[0].cell, networks - 1
            progress.trial_begin(search, cell)
            found = evaluate(cell)
            search.elapsed_seconds += 100
            search.tell(cell, found)
            progress.trial_end(search, cell, found.score, found.error or "")
        progress.end(search)
    return capsys.readouterr().out


def test_each_candidate_and_round_has_a_line(capsys):
    search = bayesian()
    lines = shown(search, capsys, lambda cell: outcome(cell, latency_ms=0.25)).splitlines()
    records = search.trajectory()
    assert "28 edges; at most 21 networks to train" in lines[0]
    assert sum(": candidate " in line for line in lines) == 21
    rounds = [line for line in lines if " done: " in line]
    assert "Round 0 done: complete cell, edges left: 28, score" in rounds[0]
    for record, line in zip(records, rounds, strict=True):
        assert f"score {record['score']:.4f}, {record['macs']} MACs, latency 0.25 ms" in line
    assert f"best {search.best_score:.4f}, at most 0:00:0" in lines[-3]
    assert f"Best: round {search.best()['round']}" in lines[-1]


def test_a_search_that_goes_on_says_where(capsys):
    search = paper(num_candidates=3)
    shown(search, capsys, networks=5)
    going_on = shown(search, capsys, networks=1).splitlines()
    assert going_on[0].startswith(f"Going on in round 2; best {search.best_score:.4f}, at most")
    shown(search, capsys)
    assert shown(search, capsys).splitlines()[0] == "This search has finished already."


def test_failures_and_limits_are_said(capsys):
    search = paper(num_candidates=2)

    def fails(cell):
        if len(search.trajectory()) < 2 or not search.pending()[1:]:
            return outcome(cell)
        return Outcome(None, costs={"macs": 9}, over_limit="9 MACs, at most 8")

    assert "; 1 of 2 over the limit" in shown(search, capsys, fails, networks=5)
    printed = shown(search, capsys, lambda cell: Outcome(None, error="[red]boom"), networks=2)
    assert printed.count("failed: [red]boom") == 2  # what is no markup of ours
    assert shown(search, capsys).startswith("Trying again: all candidates of round 3 failed")


def test_quiet_is_quiet_and_a_terminal_keeps_rounds_alone(capsys, monkeypatch):
    assert shown(paper(num_candidates=2, keep_fraction=0.9), capsys, verbose=0) == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    printed = shown(paper(num_candidates=2, keep_fraction=0.9), capsys)
    assert printed.count("Round 0 done") == 1
    assert ": score " not in printed  # of a candidate


def test_a_candidate_that_takes_long_is_said_where_there_is_no_terminal(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("keras_autoshrink.report.progress.time.monotonic", lambda: now)
    search = paper(num_candidates=2, keep_fraction=0.9)
    progress = SearchProgress(1)
    progress.trial_begin(search, search.pending()[0].cell)
    printed = []
    while now < 1100:
        now += STILL
        progress.still()
        printed += [now - 1000] if capsys.readouterr().out else []
    assert printed == [15, 30, 45, 60, 75, 90]
    now += STILL
    progress.say("a line of another kind")
    now += 2 * STILL
    progress.still()
    now += 2 * STILL
    progress.still()
    assert capsys.readouterr().out.splitlines() == [
        "a line of another kind",
        "Round 0: candidate 1 of 1 with 28 of 28 edges, first of all: 0:02:05 so far",
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    on_terminal = SearchProgress(1)
    now += 10 * STILL
    on_terminal.still()
    assert capsys.readouterr().out == ""


def test_an_interrupt_says_how_to_go_on(capsys):
    with pytest.raises(KeyboardInterrupt), SearchProgress(1):
        raise KeyboardInterrupt
    assert "run the same again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ({}, "; at most 24 networks to train."),
        ({"max_candidates": None, "max_minutes": 30}, "; for 30 minutes."),
        ({"max_minutes": 30}, "; for 30 minutes, at most 24 networks to train."),
    ],
)
def test_a_search_at_a_budget_says_what_it_does_in_plain_words(capsys, settings, budget):
    search = at_budget(**settings)
    lines = shown(search, capsys, accuracy(0.6), networks=2).splitlines()
    assert lines[0].endswith(f"6 edges, and 2 other hyperparameters{budget}")
    assert lines[1] == "It begins with 1 cell and 2 references."
    assert lines[2].startswith("Networks train for 4 epochs; in the final the best of them")
    assert lines[4].startswith("Round 0: candidate 2 of 3, the reference chain-stride2: score 0.6")
    lines += shown(search, capsys, accuracy(0.6)).splitlines()
    printed = "\n".join(lines)
    if "max_minutes" in settings:
        assert lines[4].endswith("best 0.6056, 26 min left")
        assert "Going on in round 0; best 0.6056, 26 min left." in lines
        assert "at most 0:" not in printed
    trainings = len(search.round.candidates)
    assert [f"Final: {n + 1} of {trainings}" in printed for n in range(trainings)] == (
        [True] * trainings
    )
    assert "Final done: " in lines[-2]
    assert "mean score" in lines[-2]
    assert any(re.match(r"Round \d done: (edges .*; )?changed: .*units \d", each) for each in lines)
    for raw in ("tuner/", "00000", "reference chain-stride2 with", "network cell"):
        assert raw not in printed


@pytest.mark.parametrize(
    ("chain", "chance", "verdict"),
    [
        (
            0.6,
            0.1,
            r"The network found beats the best reference \(chain-stride2\) by \d+\.\d\d points of "
            r"accuracy \(standard error \d\.\d\d\), judged by 1,000 validation images\.",
        ),
        (
            0.9,
            None,
            r"The reference chain-stride2 is the result: the best network found is \d+\.\d\d "
            r"points of accuracy \(standard error .*\) below it, judged by 1,000 validation "
            r"images\.",
        ),
        (
            0.6,
            0.59,
            r"Too little training to tell: the best reference \(chain-stride2\) has an accuracy of "
            r"0\.6\d+, where chance is 0\.5900; the network found is \d+\.\d\d points of accuracy "
            r"\(standard error \d\.\d\d\) above it, judged by .*",
        ),
    ],
)
def test_a_final_ends_with_what_it_says_of_the_references(capsys, chain, chance, verdict):
    search = at_budget()
    named = {"objective": "accuracy", "by": "1,000 validation images", "chance": chance}
    last = shown(search, capsys, accuracy(chain), **named).splitlines()[-1]
    assert re.fullmatch(verdict, last)
    best, other = (
        next(r for r in search.final() if (r["reference"] is None) == found)
        for found in (True, False)
    )
    points = abs(best["mean"] - other["mean"]) * 100
    assert f"{points:.2f} points" in last
    pairs = [record["scores"] for record in search.final()]
    error = 100 * (statistics.fmean((a - b) ** 2 / 2 for a, b in pairs)) ** 0.5
    assert f"(standard error {error:.2f})" in last
    assert f"{points / 100:.4f} of the score" in final.verdict(search, "perplexity")
    assert final.verdict(search, "perplexity").endswith(", judged by the validation score.")


@pytest.mark.parametrize(("folds", "least"), [(1, 3.18), (3, 4.30)])
def test_no_network_beats_another_by_what_equal_ones_differ_by(folds, least):
    # Of three networks that were trained twice: Student's t of three degrees of freedom, and of two
    # where the images differ.
    said = {}
    for thousandths in range(1, 20):

        def evaluate(point, better=thousandths / 1_000):
            worth = {"cell": 0.5 + better, "chain-stride2": 0.5, "resnet8": 0.4}
            found = worth[dict(point.values)["network"]] + 0.01 * noise(point)
            return Outcome(found, found, {"macs": 9})

        verdict = final.verdict(run(at_budget(folds), evaluate), "perplexity")
        difference, error = map(float, re.findall(r"0\.\d{4}", verdict))
        said[difference / error] = "found beats" in verdict
    assert not any(beats for ratio, beats in said.items() if ratio < 0.95 * least)
    assert all(beats for ratio, beats in said.items() if ratio > 1.05 * least)
    assert any(2 < ratio < least for ratio in said)
    assert any(said.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"validation_data": (np.zeros((7, 1, 1, 1)), np.zeros(7))}, "7 validation images"),
        ({"validation_split": 0.25}, "3 validation images"),
        ({"validation_split": None}, "the validation score"),  # a HyperModel may split data itself
        ({"validation_data": iter(()), "validation_split": 0.25}, "the validation score"),
    ],
)
def test_by_how_many_images_networks_are_judged(arguments, said):
    x, y = np.zeros((12, 1, 1, 1)), np.zeros(12)
    assert tuner._judged_by(x, y, **arguments) == tuner._judged_by(x=x, y=y, **arguments) == said


def equal(point):
    """The same accuracy for all; references cost more."""
    return Outcome(0.6, 0.6, {"macs": 9 + (dict(point.values)["network"] != "cell")})


@pytest.mark.parametrize(
    ("settings", "evaluate", "trainings"),
    [
        ({"max_candidates": 9}, accuracy(0.6), "one training each"),
        ({}, equal, "standard error 0.0000"),
    ],
)
def test_one_training_each_and_equal_scores_beat_nothing(capsys, settings, evaluate, trainings):
    last = shown(at_budget(**settings), capsys, evaluate).splitlines()[-1]
    assert re.fullmatch(
        rf"The network found is .* \({trainings}\) above the best .*: not enough to say .*", last
    )
