"""Checks the options of a command before Keras is loaded, which takes seconds.

What only the data or a network can tell is checked later.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from keras_autoshrink.checks import check_same, share
from keras_autoshrink.commands.arguments import default_project
from keras_autoshrink.commands.sources import image_source, searched_images, text_source
from keras_autoshrink.data import images, text
from keras_autoshrink.report import saved_search
from tflite_export.convert import check_model_file
from tflite_export.verify import MAX_ACCURACY_LOSS

# Beside a target these say nothing, or something else.
_NOT_AT_BUDGET = {
    "--filters": "widths follow from it",
    "--stem-filters": "widths follow from it",
    "--units": "they follow from it",
    "--cost": "the score is {} alone",
    "--mac-weight": "the score is {} alone",
    "--max-macs": "it says what networks cost",
}

# What the settings of a search are called on the command line, where it is not the same.
_OPTION = {"split_seed": "seed"}


def check_options(options: argparse.Namespace) -> None:
    """Refuses options of a command that cannot work.

    Raises:
        ValueError: a value is out of its range, a file or folder is not there or not what it has to
            be, or two options contradict one another; the message names the option.
    """
    seed = getattr(options, "seed", 0)
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: expected 0 to 2**32 - 1")
    check = {
        "design": _check_design,
        "search": _check_search,
        "train": _check_train,
        "export": _check_export,
        "show": _check_show,
    }.get(options.command)
    if check:
        check(options)


def check_search_folder(
    options: argparse.Namespace, settings: Mapping[str, Any], worker: bool
) -> None:
    """Refuses a folder that holds a search with other settings, unless it is to be deleted.

    Args:
        options: of the command `search`.
        settings: plain values, some or all of those that a search in the folder must share.
        worker: whether this process is a worker, for which the chief deletes.
    """
    folder = options.directory / (options.project_name or default_project(options))
    theirs = saved_search.read_settings(folder)
    if theirs and (worker or not options.overwrite):
        # The split follows from the option --seed.
        named = ({_OPTION.get(n, n): v for n, v in s.items()} for s in (theirs, settings))
        check_same(*named, f"{folder} holds a search")


def _check_search(options: argparse.Namespace) -> None:
    given: Set[str] = {argument.partition("=")[0] for argument in options.argv}
    if options.strategy == "paper" and options.max_candidates:
        raise ValueError(
            f"--max-candidates {options.max_candidates}: is for --strategy bayesian; paper ends by "
            "itself, --keep-fraction and --candidates say when"
        )
    for target in ("--target-macs", "--target-params", "--target-kb", "--target-latency-ms"):
        for option, why in _NOT_AT_BUDGET.items():
            if {target, option} <= given:
                what = "the validation loss" if options.task == "text" else "the accuracy"
                raise ValueError(
                    f"{option}: {why.format(what)}, with {target}; leave out one of the two"
                )
    if "--latency-of" in given and "--target-latency-ms" not in given:
        raise ValueError("--latency-of: is for --target-latency-ms")
    if options.nodes == 1:
        raise ValueError("--nodes 1: expected 2 or more, the input is one of them")
    if not 0 <= options.keep_fraction <= 1:
        raise ValueError(f"--keep-fraction {options.keep_fraction:g}: expected 0 to 1")
    if options.task == "text":
        source = text_source(options, {})
        text.check_source(source["text"])
    else:
        source = searched_images(options)
        images.check_source(source["dataset"], "search")
    if not options.worker:  # the chief of which has the folder
        epochs = {"epochs": options.epochs} if options.epochs else {}
        check_search_folder(options, {**source, **epochs}, worker=False)


def _check_design(options: argparse.Namespace) -> None:
    if options.task == "text":
        text.check_source(options.data)
        return
    options.dataset = options.data
    images.check_source(searched_images(options)["dataset"], "search")


def _check_train(options: argparse.Namespace) -> None:
    searched = saved_search.settings_of(options.cell)
    if saved_search.is_architecture(Path(options.cell)):
        for name in ("width", "target_macs", "activation", "units"):
            if getattr(options, name, None) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')}: is for a cell; the network of {options.cell} is "
                    "trained as it was found, so leave it out"
                )
    if options.task == "text":
        text.check_source(text_source(options, searched)["text"])
        return
    for option in ("label_smoothing", "ema"):
        if (value := getattr(options, option)) is not None:
            share(f"--{option.replace('_', '-')}", value)
    images.check_source(image_source(options, searched)["dataset"], "train")


def _check_export(options: argparse.Namespace) -> None:
    check_model_file(options.model)
    if options.output_dir and options.output_dir.is_file():
        raise ValueError(f"--output-dir {options.output_dir}: is a file; give a folder")
    facts = saved_search.read_facts(options.model)
    if options.task == "text":
        text.check_source(text_source(options, facts)["text"])
        return
    drop = options.max_accuracy_drop
    if drop is not None and not 0 <= drop <= MAX_ACCURACY_LOSS:
        raise ValueError(
            f"--max-accuracy-drop {drop:g}: expected 0 to {MAX_ACCURACY_LOSS:g}; a file that loses "
            "more of the test images does not pass the check at the end"
        )
    if options.epochs is not None and not options.qat and options.prune is None:
        raise ValueError("--epochs: is for --qat and --prune")
    if options.prune is not None and not 0 < options.prune < 1:
        raise ValueError(f"--prune {options.prune:g}: expected more than 0 and less than 1")
    images.check_source(image_source(options, facts)["dataset"], "train")
    if not {"mean", "std"} <= facts.keys():
        raise ValueError(
            f"{options.model}: was not trained by autoshrink, which writes "
            f"{options.model.name}.json beside it; how it takes its pixels is unknown: "
            "convert it by 'python -m tflite_export convert'"
        )


def _check_show(options: argparse.Namespace) -> None:
    folder, picture = Path(options.cell), options.picture
    if picture and (picture.suffix not in (".png", ".svg", ".pdf") or picture.is_dir()):
        raise ValueError(f"--picture {picture}: expected a file that ends in .png, .svg or .pdf")
    if picture and not picture.parent.is_dir():
        raise ValueError(f"--picture {picture}: its folder does not exist")
    for option in ("html", "tensorboard"):
        if getattr(options, option) and not folder.is_dir():
            raise ValueError(f"--{option}: is of a search, and {folder} is no search's folder")
    if options.html:
        report = report_path(options)
        if report.suffix != ".html" or report.is_dir():
            raise ValueError(f"--html {report}: expected a file that ends in .html")
        if not report.parent.is_dir():
            raise ValueError(f"--html {report}: its folder does not exist")


def report_path(options: argparse.Namespace) -> Path:
    """Returns where `show` writes the report of a search, which `--html` may leave open."""
    from keras_autoshrink.report.page import NAME  # which no other command takes

    path: Path = Path(options.cell) / NAME if options.html is True else options.html
    return path
