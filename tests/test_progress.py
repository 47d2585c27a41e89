"""The lines that a search prints while it runs."""

import pytest
from computed_searches import bayesian, outcome, paper

from keras_autoshrink.report.progress import SearchProgress
from keras_autoshrink.search.records import Outcome


def shown(search, capsys, evaluate=outcome, verbose=1, networks=1_000):
    """What a search prints as a tuner runs it, for some networks."""
    progress = SearchProgress(verbose)
    with progress:
        progress.begin(search)
        while (pending := search.pending()) and networks:
            cell, networks = pending[0].cell, networks - 1
            progress.trial_begin(search, cell)
            found = evaluate(cell)
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


def test_an_interrupt_says_how_to_go_on(capsys):
    with pytest.raises(KeyboardInterrupt), SearchProgress(1):
        raise KeyboardInterrupt
    assert "run the same again" in capsys.readouterr().out
