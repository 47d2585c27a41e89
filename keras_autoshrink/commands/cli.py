"""The command `autoshrink`: each subcommand takes its options and returns an exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from keras_autoshrink.backend import check_tensorflow, check_tensorflow_backend, visible_gpus
from keras_autoshrink.cell import SHRINKCNN_CELL
from keras_autoshrink.commands.arguments import PROGRAM, parse
from keras_autoshrink.commands.preflight import check_options, report_path
from keras_autoshrink.commands.processes import end_with_parent
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.report import saved_search
from tflite_export.command_line import (
    fail,
    imported_objects,
    still_at_work,
    warnings_in_one_line,
)
from tflite_export.runtime import native_output_silenced

_console = Console(soft_wrap=True, highlight=False, markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0, or 1 if a check failed.

    Raises:
        SystemExit: with 2 for bad input and 1 for a search or training that failed, after one
            line on standard error; with 130 after Ctrl-C.
    """
    # TensorFlow reads it when it is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    end_with_parent()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(arguments)
        check_options(options)
        if options.command == "search" and _takes_several_machines(options):
            from keras_autoshrink.commands.launcher import launch

            return launch(options, arguments)
        return _run(options)
    except ModuleNotFoundError as error:
        reason = str(error)
        if error.name == "tensorflow":  # Keras, which takes it where nothing else is set
            reason = (
                "TensorFlow is not installed: pip install tensorflow, or set KERAS_BACKEND to jax: "
                "a search runs on either"
            )
        fail(PROGRAM, reason, 2)
    except (ValueError, TypeError, OSError) as error:
        fail(PROGRAM, str(error), 2)
    except RuntimeError as error:  # a search without survivors, a training that diverged
        fail(PROGRAM, str(error), 1)
    except KeyboardInterrupt:
        resumes = arguments and arguments[0] in ("demo", "design", "search", "train")
        resume = "; run it again, without --overwrite, to go on" if resumes else ""
        fail(PROGRAM, f"interrupted{resume}", 130)
    except Exception as error:
        # Whatever TensorFlow and Keras raise of their own: still one line for the user.
        fail(PROGRAM, f"{type(error).__name__}: {error}", 1)


def _takes_several_machines(options: argparse.Namespace) -> bool:
    """Whether a search takes a chief: for workers on other machines, or with a GPU each.

    (A process that searches holds the memory of a GPU; a chief does not.)
    """
    return bool(options.chief or options.worker or (options.workers and visible_gpus()))


def _run(options: argparse.Namespace) -> int:
    """Runs a subcommand in this process, with no more loaded than it takes."""
    # Each candidate is a graph of its own: TensorFlow would warn that it traces so many.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        if options.command == "generate":  # with LiteRT alone, as on a phone
            from keras_autoshrink.commands.generate import generate
        else:
            import keras  # noqa: F401 - takes seconds: not for --help or a typing error
    if options.command == "generate":
        return generate(options)
    run = {
        "demo": _demo,
        "design": _design,
        "search": _search,
        "train": _train,
        "export": _export,
        "show": _show,
    }
    if options.command in ("train", "export") and not getattr(options, "quiet", False):
        with still_at_work(PROGRAM, options.command):
            return run[options.command](options)
    return run[options.command](options)


def _task_module(task: str) -> ModuleType:
    """Returns the module of a task's subcommands, which loads Keras and KerasTuner."""
    from keras_autoshrink.commands import images, text

    return {"images": images, "text": text}[task]


def _demo(options: argparse.Namespace) -> int:
    check_tensorflow_backend("autoshrink demo")  # before the search, and not after it
    from keras_autoshrink.commands.demo import demo

    return demo(options)


def _design(options: argparse.Namespace) -> int:
    check_tensorflow_backend("autoshrink design")  # before the search, and not after it
    from keras_autoshrink.commands.design import design

    with warnings_in_one_line(PROGRAM):
        return design(options)


def _search(options: argparse.Namespace) -> int:
    _task_module(options.task).search(options)
    return 0


def _train(options: argparse.Namespace) -> int:
    check_tensorflow("autoshrink train")
    network = saved_search.read_network(Path(options.cell))
    if Path(options.cell).is_dir() and not saved_search.read_search(Path(options.cell)).done:
        _console.print(f"The search in {options.cell} has not ended: taking the best of its rounds")
    _task_module(options.task).train(options, network)
    return 0


def _export(options: argparse.Namespace) -> int:
    check_tensorflow_backend("autoshrink export")
    import tflite_export
    from keras_autoshrink.commands import pipeline

    model = tflite_export.load_model(options.model, imported_objects(options.imports))
    facts = saved_search.read_facts(options.model)
    with warnings_in_one_line(PROGRAM):
        checks = _task_module(options.task).export(options, model, facts)
    return pipeline.report_checks(checks)


def _show(options: argparse.Namespace) -> int:
    from keras_autoshrink.commands import pipeline
    from keras_autoshrink.report import plots

    folder, picture = Path(options.cell), options.picture
    architecture = saved_search.read_architecture(folder)
    if picture and architecture and architecture.reference:
        raise ValueError(f"--picture: the network of {folder} is a reference, it has no cell")
    if folder.is_dir() and not _show_search(folder, options):
        return 0  # it has no cell to be shown yet
    if architecture:
        pipeline.print_table(_architecture_table(architecture))
        if architecture.reference:
            return 0
        cell = architecture.arguments.get("cell", SHRINKCNN_CELL)
    elif folder.is_dir() and (name := saved_search.best_reference(folder)):
        _console.print(f"The best network so far is the reference {name}, which has no cell.")
        return 0
    else:
        cell = saved_search.read_cell(folder)
    if folder.is_dir():
        cell = saved_search.searched_cell(folder)  # with the numbers of the rounds
    edges = len(cell.live_edges)
    table = Table(title=f"cell with {edges} edge{'' if edges == 1 else 's'}")
    for heading in ("node", "op", "inputs", ""):
        table.add_column(heading)
    for node in cell.reachable:
        inputs = ", ".join(map(str, cell.predecessors(node))) or "-"
        table.add_row(str(node), cell.ops[node], inputs, "leaf" if node in cell.leaves else "")
    pipeline.print_table(table)
    if picture:
        plots.plot_cell(cell, picture)
        _console.print(f"wrote {picture}")
    return 0


def _architecture_table(architecture: Architecture) -> Table:
    """Makes a table of what a network is built of, but for its cell."""
    kind = "ShrinkRNN" if architecture.task == "text" else "ShrinkCNN"
    table = Table("argument", "value", title=f"network: {architecture.reference or kind}")
    for name, value in architecture.arguments.items():
        if name != "cell":
            table.add_row(name, str(value))
    return table


def _show_search(folder: Path, options: argparse.Namespace) -> bool:
    """Prints a search's trajectory, and writes its report and TensorBoard's files.

    Returns:
        Whether to go on with its cell: not if there is none, and something else was asked for.
    """
    from keras_autoshrink.commands import pipeline
    from keras_autoshrink.report import final, page, plots, tensorboard

    report = report_path(options) if options.html else None
    _, search, objective = saved_search.open_search(folder, None)
    records = search.trajectory()
    # Before anything is written: a round under way may have the only scores, and no cell yet.
    if options.tensorboard:
        tensorboard.check(folder, records)
    found = search.best() is not None
    if options.picture and not found:
        raise ValueError(f"--picture: {folder} has no cell yet: no round with a score has ended")
    if options.picture and (name := saved_search.best_reference(folder)):
        raise ValueError(f"--picture: the best network of {folder} is the reference {name}")
    pipeline.print_table(plots.trajectory_table(records, objective))
    if search.final():
        pipeline.print_table(plots.final_table(search))
        _console.print(final.verdict(search, objective, *final.judged_by(folder)))
    for line in saved_search.describe_costs(saved_search.read_costs(folder)):
        _console.print(line)
    if search.error:
        _console.print(f"This search failed: {search.error}")
    elif not search.done:
        number = search.round.number
        _console.print(f"This search is in round {number}: chosen is the best of those before.")
    if report:
        _console.print(f"wrote {page.write_report(folder, report, objective)}")
    if options.tensorboard:
        _console.print(f"wrote {tensorboard.write_tensorboard(folder, objective)}")
    return found or not (report or options.tensorboard)


if __name__ == "__main__":
    sys.exit(main())
