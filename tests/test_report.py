import io
import os

import pytest
from PIL import Image
from rich.console import Console
from test_shrink import dense, outcome, run

from keras_autoshrink import SHRINKCNN_CELL, Cell, plot_cell, plot_trajectory
from keras_autoshrink.report.plots import trajectory_table
from keras_autoshrink.search.records import Outcome


@pytest.fixture(scope="module")
def records():
    search = dense(num_candidates=3)
    run(search)
    return search.trajectory()


@pytest.mark.parametrize("cell", [SHRINKCNN_CELL, Cell.dense(SHRINKCNN_CELL.ops)])
def test_a_cells_picture_shows_all_its_nodes_and_edges(cell, tmp_path):
    figure = plot_cell(cell, tmp_path / "cell.png")
    axes = figure.axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"input", "output"} | {f"{n}\n{op}" for n, op in enumerate(cell.ops) if n}
    assert len(axes.patches) == len(cell.edges) + len(cell.leaves)
    with Image.open(tmp_path / "cell.png") as image:
        assert image.width > 500


@pytest.mark.parametrize("kind", ["cell", "trajectory"])
def test_a_picture_is_written_whole_or_not_at_all(kind, records, tmp_path, monkeypatch):
    def draw(path):
        return plot_cell(SHRINKCNN_CELL, path) if kind == "cell" else plot_trajectory(records, path)

    def full(descriptor):
        raise OSError("no space left on device")

    draw(tmp_path / "picture")  # without an ending, too
    path = tmp_path / "picture.png"
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            draw(path)
    assert path.read_bytes() == before
    for name in (".picture.png.0123abcd", ".picture.png.4567cdef"):
        (tmp_path / name).write_bytes(b"half a picture")
    os.utime(tmp_path / ".picture.png.0123abcd", (1e9, 1e9))  # of a kill; the other is under way
    draw(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        ".picture.png.4567cdef",
        "picture.png",
    ]
    draw(tmp_path / "picture.svg")
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()


def test_unreachable_nodes_are_not_drawn():
    cell = Cell(SHRINKCNN_CELL.ops, ((0, 4), (1, 3)))
    axes = plot_cell(cell).axes[0]
    assert {text.get_text() for text in axes.texts} == {"input", "output", "4\nconv1x1"}
    assert axes.get_title() == "1 edge, 1 leaf"


def test_the_trajectorys_picture_marks_the_chosen_cell(records, tmp_path):
    figure = plot_trajectory(records, tmp_path / "t.png")
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))
    for axes, name in zip(figure.axes, ("score", "objective", "macs"), strict=True):
        star = next(line for line in axes.lines if line.get_marker() == "*")
        assert star.get_xydata().tolist() == [[best["edges_left"], best[name]]]
        adopted = next(line for line in axes.lines if line.get_marker() == "o")
        assert len(adopted.get_xdata()) == len(records)
    assert figure.axes[-1].get_xlim()[0] > figure.axes[-1].get_xlim()[1]  # it shrinks rightwards
    assert (tmp_path / "t.png").stat().st_size > 10_000


def test_a_notebook_shows_the_pictures_without_pyplot(records):
    for figure in (plot_cell(SHRINKCNN_CELL), plot_trajectory(records)):
        with Image.open(io.BytesIO(figure._repr_png_())) as image:
            assert image.format == "PNG"
            assert image.width > 500


def test_a_search_without_macs_is_drawn_without_them():
    search = dense(keep_fraction=1)
    run(search, lambda cell: Outcome(1.0))
    assert len(plot_trajectory(search).axes) == 1
    with pytest.raises(ValueError, match="no round has finished"):
        plot_trajectory(dense())


def test_the_table_has_a_row_for_each_round_and_fits_80_columns(records, capsys):
    Console(width=200).print(trajectory_table(records))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if " of " in line]
    assert len(rows) == len(records)
    assert sum("chosen" in row for row in rows) == 1
    assert max(map(len, lines)) <= 80


def test_the_table_counts_failures():
    search = dense(num_candidates=2, keep_fraction=0.9)

    def fails_once(cell):
        if len(search.trajectory()) == 1 and len(search.pending()) == 2:
            return Outcome(None, error="boom")
        return outcome(cell)

    run(search, fails_once)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(trajectory_table(search.trajectory()))
    assert "1 failed" in capture.get()


def test_the_table_of_a_bayesian_search_says_what_was_removed_and_what_came_back():
    search = dense(strategy="bayesian", num_candidates=4, max_candidates=21)
    run(search)
    records = search.trajectory()
    console = Console(width=200)
    with console.capture() as capture:
        console.print(trajectory_table(records))
    header, _, *rows = [line for line in capture.get().splitlines() if line.strip()]
    assert header.split()[:3] == ["round", "removed", "added"]
    for record, row in zip(records, rows, strict=False):
        for i, j in (*record["removed_edges"], *record["added_edges"]):
            assert f"{i}-{j}" in row
    assert any(record["added_edges"] for record in records)
    axes = plot_trajectory(records).axes
    assert len(axes) == 3
    assert axes[-1].get_xlabel() == "round"
    (adopted,) = (line for line in axes[0].lines if line.get_marker() == "o")
    assert adopted.get_xdata().tolist() == [record["round"] for record in records]
    assert axes[-1].get_xlim()[0] < axes[-1].get_xlim()[1]
