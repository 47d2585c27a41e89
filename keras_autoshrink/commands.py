"""What the subcommands of `autoshrink` do; each takes its options and returns an exit status."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import (
    candidate_costs,
    html_report,
    image_commands,
    image_demo,
    pipeline,
    report,
    runs,
    tensorboard_log,
    text_commands,
    text_demo,
)
from keras_autoshrink.backends import check_tensorflow, check_tensorflow_backend
from keras_autoshrink.language_models import is_language_model
from keras_autoshrink.tasks import settle

_OF = {"images": image_commands, "text": text_commands}

_console = Console(soft_wrap=True, highlight=False)


def demo(options: argparse.Namespace) -> int:
    """The whole way from data to checked files."""
    check_tensorflow_backend("autoshrink demo")  # before the search, and not after it
    return {"images": image_demo, "text": text_demo}[options.task].demo(options)


def search(options: argparse.Namespace) -> int:
    """Finds a cell."""
    settle(options, options.task)
    return _OF[options.task].search(options)


def train(options: argparse.Namespace) -> int:
    """Trains a network of a cell in full."""
    check_tensorflow("autoshrink train")
    if options.output.suffix != ".keras":
        raise ValueError(f"--output {options.output}: must end in .keras")
    if options.output.is_dir():
        raise ValueError(f"--output {options.output}: is a folder")
    if options.tensorboard and options.tensorboard.is_file():
        raise ValueError(f"--tensorboard {options.tensorboard}: is a file; give a folder")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed {options.seed}: expected 0 to 2**32 - 1")
    cell = runs.read_cell(Path(options.cell))
    task = runs.task_of(cell)
    settle(options, task)
    if Path(options.cell).is_dir() and not runs.read_search(Path(options.cell)).done:
        _console.print(f"The search in {options.cell} has not ended: taking its best cell so far")
    return _OF[task].train(options, cell)


def export(options: argparse.Namespace) -> int:
    """Converts a trained model and checks what came of it."""
    check_tensorflow_backend("autoshrink export")
    model = tflite_export.load_model(options.model)
    task = "text" if is_language_model(model) else "images"
    settle(options, task)
    return _OF[task].export(options, model, runs.read_facts(options.model))


def show(options: argparse.Namespace) -> int:
    """Draws and describes a cell or a search."""
    picture = options.picture
    if picture and (picture.suffix not in (".png", ".svg", ".pdf") or picture.is_dir()):
        raise ValueError(f"--picture {picture}: expected a file that ends in .png, .svg or .pdf")
    if picture and not picture.parent.is_dir():
        raise ValueError(f"--picture {picture}: its folder does not exist")
    folder = Path(options.cell)
    page = _page(options.html, folder)
    if options.tensorboard and not folder.is_dir():
        raise ValueError(f"--tensorboard: is of a search, and {folder} is no search's folder")
    if folder.is_dir():
        _, searched, objective = runs.open_search(folder, None)
        records = searched.trajectory()
        # Before anything is written: a round under way may have the only scores, and no cell yet.
        found = searched.best() is not None
        if options.tensorboard:
            tensorboard_log.check(folder, records)
        if picture and not found:
            raise ValueError(
                f"--picture: {folder} has no cell yet: no round with a score has ended"
            )
        pipeline.print_table(report.trajectory_table(records, objective))
        for line in candidate_costs.describe(candidate_costs.read(folder / candidate_costs.FILE)):
            _console.print(line)
        if searched.error:
            _console.print(f"This search failed: {searched.error}")
        elif not searched.done:
            _console.print(
                f"This search is in round {searched.round.number}: chosen is the best so far."
            )
        if page:
            _console.print(f"wrote {html_report.write_report(folder, page, objective)}")
        if options.tensorboard:
            _console.print(f"wrote {tensorboard_log.write_tensorboard(folder, objective)}")
        if (page or options.tensorboard) and not found:
            return 0  # these are of a search without a cell, too; what follows is of the cell
    cell = runs.read_cell(Path(options.cell))
    edges = len(cell.edges)
    table = Table(title=f"cell with {edges} edge{'' if edges == 1 else 's'}")
    for heading in ("node", "op", "inputs", ""):
        table.add_column(heading)
    for node, op in enumerate(cell.ops):
        inputs = ", ".join(map(str, cell.predecessors(node))) or "-"
        table.add_row(str(node), op, inputs, "leaf" if node in cell.leaves else "")
    pipeline.print_table(table)
    if picture:
        report.plot_cell(cell, picture)
        _console.print(f"wrote {picture}")
    return 0


def _page(html: Path | bool | None, folder: Path) -> Path | None:
    """Where to write the report of a search; None if it was not asked for.

    Raises:
        ValueError: there can be none.
    """
    if html is None:
        return None
    if not folder.is_dir():
        raise ValueError(f"--html: is of a search, and {folder} is no search's folder")
    page = folder / html_report.NAME if html is True else Path(html)
    if page.suffix != ".html" or page.is_dir():
        raise ValueError(f"--html {page}: expected a file that ends in .html")
    if not page.parent.is_dir():
        raise ValueError(f"--html {page}: its folder does not exist")
    return page
