"""Pictures of cells and searches, and the table of a search."""

import io
import os
from types import SimpleNamespace

import keras_tuner
import numpy as np
import pytest
from computed_searches import bayesian, outcome, paper, run
from matplotlib.colors import to_hex
from PIL import Image
from rich.console import Console

from keras_autoshrink import SHRINKCNN_CELL, Cell, plot_cell, plot_trajectory
from keras_autoshrink.networks.operations import colours
from keras_autoshrink.report.plots import trajectory_table
from keras_autoshrink.search.records import Outcome


@pytest.fixture(scope="module")
def records():
    return run(paper(num_candidates=3), lambda cell: outcome(cell, params=999)).trajectory()


def printed(records):
    """The lines of a trajectory's table, its heading first."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(trajectory_table(records, "accuracy"))
    return [line for line in capture.get().splitlines() if line.strip()]


@pytest.mark.parametrize("cell", [SHRINKCNN_CELL, Cell.dense(SHRINKCNN_CELL.ops)])
def test_a_cells_picture_shows_all_its_nodes_and_edges(cell):
    figure = plot_cell(cell)
    axes = figure.axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"input", "output"} | {f"{n}\n{op}" for n, op in enumerate(cell.ops) if n}
    assert len(axes.patches) == len(cell.edges) + len(cell.leaves)
    with Image.open(io.BytesIO(figure._repr_png_())) as image:  # what a notebook shows
        assert image.width > 500


def test_unreachable_nodes_are_not_drawn():
    axes = plot_cell(Cell(SHRINKCNN_CELL.ops, ((0, 4), (1, 3)))).axes[0]
    assert {text.get_text() for text in axes.texts} == {"input", "output", "4\nconv1x1"}
    assert axes.get_title() == "1 edge, 1 leaf"


def test_ops_have_colours_of_their_own():
    cell = Cell.dense(("input", "tanh", "identity", "sigmoid", "relu"))
    found = colours((*cell.ops, "zeta"))
    assert len({*found.values()}) == 5
    assert found.items() >= colours(("zeta", "sigmoid")).items()
    drawn = list(map(to_hex, plot_cell(cell).axes[0].collections[0].get_facecolors()))
    assert drawn[1:5] == [found[op].lower() for op in cell.ops[1:]]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("no space left on device")

    plot_cell(SHRINKCNN_CELL, tmp_path / "picture")  # without an ending, too
    path = tmp_path / "picture.png"
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            plot_cell(SHRINKCNN_CELL, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]
    plot_cell(SHRINKCNN_CELL, tmp_path / "picture.svg")
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()


def test_the_trajectorys_picture_marks_the_chosen_cell(records, tmp_path):
    figure = plot_trajectory(records, tmp_path / "t.png", "accuracy")
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))
    names = ("score", "objective", "macs", "params")
    for axes, name in zip(figure.axes, names, strict=True):
        star = next(line for line in axes.lines if line.get_marker() == "*")
        assert star.get_xydata().tolist() == [[best["edges_left"], best[name]]]
        adopted = next(line for line in axes.lines if line.get_marker() == "o")
        assert adopted.get_ydata().tolist() == [record[name] for record in records]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["score", "accuracy", "MACs", "parameters"]
    metric = SimpleNamespace(metric=keras_tuner.Objective("val_accuracy", "max"))
    tuner = SimpleNamespace(trajectory=lambda: records, oracle=metric)
    assert plot_trajectory(tuner).axes[1].get_ylabel() == "val_accuracy"
    assert figure.axes[-1].get_xlim()[0] > figure.axes[-1].get_xlim()[1]  # it shrinks rightwards
    with Image.open(tmp_path / "t.png") as image:
        assert image.width > 500


def test_of_one_network_alone_the_numbers_are_drawn():
    records = run(paper(keep_fraction=1)).trajectory()
    axes = plot_trajectory(records).axes
    said = [text.get_text() for each in axes for text in each.texts]
    assert said == [f"{records[0][n]:.4f}" for n in ("score", "objective")] + ["29"]


def test_a_search_without_costs_is_drawn_without_them():
    search = run(paper(keep_fraction=1), lambda cell: Outcome(1.0))
    assert len(plot_trajectory(search).axes) == 1
    with pytest.raises(ValueError, match="no round has finished"):
        plot_trajectory(paper())


def test_a_cost_that_some_networks_lack_is_drawn_of_the_others():
    def evaluate(cell):
        return outcome(cell, **({"latency_ms": 1.0} if len(cell.edges) % 2 == 0 else {}))

    records = run(paper(num_candidates=2, keep_fraction=0.8), evaluate).trajectory()
    known = [record.get("latency_ms") for record in records]
    assert None in known
    if max(records, key=lambda r: r["score"]).get("latency_ms") is None:
        records[0]["score"] = 9.0  # the complete cell has 28 edges
    figure = plot_trajectory(records)
    line = next(line for line in figure.axes[-1].lines if line.get_marker() == "o")
    drawn = np.asarray(line.get_ydata(), dtype=float)
    assert np.isnan(drawn).tolist() == [value is None for value in known]
    assert len(printed(records)) == len(records) + 3


def test_the_table_has_a_row_for_each_round_and_fits_80_columns(records):
    heading, _, *rows, caption = printed(records)
    assert heading.split() == (
        ["round", "removed", "edges", "score", "accuracy", "MACs", "parameters", "trained"]
    )
    assert len(rows) == len(records)
    assert sum("chosen" in row for row in rows) == 1
    assert max(len(line.rstrip()) for line in (heading, *rows, caption)) <= 80


def test_the_table_counts_failures():
    search = paper(num_candidates=2, keep_fraction=0.9)

    def fails_once(cell):
        first = len(search.trajectory()) == 1 and len(search.pending()) == 2
        return Outcome(None, error="boom") if first else outcome(cell)

    assert "1 failed" in printed(run(search, fails_once).trajectory())[3]


def test_a_bayesian_search_says_what_was_removed_and_what_came_back():
    records = run(bayesian()).trajectory()
    heading, _, *rows, _ = printed(records)
    assert heading.split()[:3] == ["round", "removed", "added"]
    for record, row in zip(records, rows, strict=True):
        for i, j in (*record["removed_edges"], *record["added_edges"]):
            assert f"{i}-{j}" in row
    assert any(record["added_edges"] for record in records)
    axes = plot_trajectory(records).axes
    assert axes[-1].get_xlabel() == "round"
    (adopted,) = (line for line in axes[0].lines if line.get_marker() == "o")
    assert adopted.get_xdata().tolist() == [record["round"] for record in records]
    assert axes[-1].get_xlim()[0] < axes[-1].get_xlim()[1]
