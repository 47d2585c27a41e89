"""The whole way from data to checked files, on small data that come along."""

from __future__ import annotations

import argparse
import time

import keras
from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands import images, pipeline
from keras_autoshrink.commands import text as text_commands
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.data.images import load_images
from keras_autoshrink.data.text import END, PYDOC, unigram_perplexity
from keras_autoshrink.hypermodels.cnn import CNNCellHyperModel
from keras_autoshrink.hypermodels.rnn import RNNCellHyperModel
from keras_autoshrink.report import plots, saved_search
from keras_autoshrink.score import AccuracyScore, PerplexityScore
from keras_autoshrink.training.recipes import RECIPES, TEXT_RECIPES
from keras_autoshrink.tuner.tuner import AutoShrink

_NODES, _CANDIDATES = 5, 20
_SEARCH_EPOCHS = 10
_RECIPE = RECIPES["plain"]


def image_demo(options: argparse.Namespace) -> int:
    """Searches, trains the cell it found and the complete one, exports both."""
    started = time.monotonic()
    console = Console(soft_wrap=True, highlight=False)
    folder = options.directory
    console.rule("1. The search")
    data = load_images("digits", purpose="search", seed=options.seed)
    hypermodel = CNNCellHyperModel(
        input_shape=data.input_shape,
        classes=len(data.class_names),
        num_nodes=_NODES,
        filters=8,
        stem_filters=16,
        batch_size=64,
        seed=options.seed,
    )
    tuner = AutoShrink(
        hypermodel,
        # Nearly all cells read the digits to within 3 points of accuracy. At the paper's weight,
        # where ten times the MACs have to buy 10 points, the cost alone would decide.
        score=AccuracyScore(weight=0.03),
        num_candidates=4,
        max_candidates=_CANDIDATES,
        seed=options.seed,
        directory=folder,
        project_name="search",
        overwrite=options.overwrite,
    )
    tuner.search(
        data.train.x,
        data.train.y,
        validation_data=(data.validation.x, data.validation.y),
        epochs=_SEARCH_EPOCHS,
    )
    pipeline.print_table(plots.trajectory_table(tuner.trajectory(), images.OBJECTIVE))
    pictures = [
        path
        for path in saved_search.write_results(folder / "search", images.OBJECTIVE)
        if path.suffix == ".png"
    ]

    console.rule("2. Full training")
    console.print(
        f"ShrinkCNNs of the cell found and of the complete cell, {_RECIPE.epochs} epochs each"
    )
    data = load_images("digits", purpose="train", seed=options.seed)
    source = {"dataset": "digits", "split_seed": options.seed}
    cells: dict[str, Cell] = {"found": tuner.best_cell(), "complete": hypermodel.cell}
    models = {
        name: images.train_and_save(
            cell,
            data,
            folder / f"{name}.keras",
            source,
            _RECIPE,
            seed=options.seed,
            overwrite=options.overwrite,
        )
        for name, cell in cells.items()
    }

    console.rule("3. Export and checks")
    checks = {
        name: images.export_and_check(model, data, folder / name, ["float32", "int8"])
        for name, model in models.items()
    }
    all_checks = [check for of_one in checks.values() for check in of_one]
    pipeline.print_table(tflite_export.render_table(all_checks))

    pipeline.print_table(_comparison(models, checks))
    console.print(f"pictures: {', '.join(map(str, pictures))}")
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return pipeline.report_checks(all_checks)


def _comparison(
    models: dict[str, keras.Model], checks: dict[str, list[tflite_export.Check]]
) -> Table:
    """The cell found against the complete one, as trained and as exported."""
    samples = checks["found"][0].agreement.num_samples
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"the cell found against the complete cell ({samples} test images)",
    )
    table.add_column("")
    for heading in ("found", "complete", "found / complete"):
        table.add_column(heading, justify="right")

    def add(what: str, values: list[float], form: str, ratio: bool = True) -> None:
        quotient = f"{values[0] / values[1]:.2f}" if ratio else f"{values[0] - values[1]:+.4f}"
        table.add_row(what, *(format(value, form) for value in values), quotient)

    names = ("found", "complete")
    add("MACs for one image", [count_macs(models[name]) for name in names], ",")
    add("parameters", [count_params(models[name]) for name in names], ",")
    for place, check in enumerate(checks["found"]):
        files = [checks[name][place] for name in names]
        kind = check.quantization
        accuracies = [file.agreement.file_accuracy or 0.0 for file in files]
        add(f"{kind}: accuracy", accuracies, ".4f", ratio=False)
        add(f"{kind}: bytes", [file.num_bytes for file in files], ",")
        for thread, latency in enumerate(check.latencies):
            threads = f"{latency.num_threads} thread" + "s" * (latency.num_threads > 1)
            medians = [file.latencies[thread].median_ms for file in files]
            add(f"{kind}: median ms, {threads}", medians, ".3f")
    return table


_TEXT_NODES, _TEXT_CANDIDATES = 5, 10
_UNITS = 100
_TEXT_SEARCH_EPOCHS = 3
_TEXT_RECIPE = TEXT_RECIPES["small"]
_PROMPT = "the value of the"
_WORDS = 15


def text_demo(options: argparse.Namespace) -> int:
    """Searches, trains the cell it found and the complete one, exports both."""
    started = time.monotonic()
    console = Console(soft_wrap=True, highlight=False)
    folder = options.directory
    console.rule("1. The search")
    source = {"task": "text", "text": PYDOC, "vocabulary_size": None}
    data = text_commands.load(source, "search")
    console.print(
        f"{len(data.train):,} words of Python's documentation, {len(data.vocabulary):,} different "
        f"ones; perplexity by their frequencies alone: {unigram_perplexity(data):.0f}"
    )
    hypermodel = RNNCellHyperModel(
        len(data.vocabulary), num_nodes=_TEXT_NODES, units=_UNITS, batch_size=32, seed=options.seed
    )
    tuner = AutoShrink(
        hypermodel,
        score=PerplexityScore(),
        num_candidates=2,
        max_candidates=_TEXT_CANDIDATES,
        seed=options.seed,
        directory=folder,
        project_name="search",
        overwrite=options.overwrite,
    )
    tuner.search(data.train, validation_data=data.validation, epochs=_TEXT_SEARCH_EPOCHS)
    objective = text_commands.OBJECTIVE
    pipeline.print_table(plots.trajectory_table(tuner.trajectory(), objective))
    written = saved_search.write_results(folder / "search", objective)

    console.rule("2. Full training")
    console.print(
        f"ShrinkRNNs of the cell found and of the complete cell, {_TEXT_RECIPE.epochs} epochs each"
    )
    data = text_commands.load(source, "train")
    cells: dict[str, Cell] = {"found": tuner.best_cell(), "complete": hypermodel.cell}
    models = {
        name: text_commands.train_and_save(
            cell,
            data,
            folder / f"{name}.keras",
            source,
            _TEXT_RECIPE,
            units=_UNITS,
            seed=options.seed,
            overwrite=options.overwrite,
        )
        for name, cell in cells.items()
    }

    console.rule("3. Export and checks")
    checks = {
        name: text_commands.export_and_check(
            model, data, folder / name, ["float32", "dynamic", "int8"]
        )
        for name, model in models.items()
    }
    all_checks = [check for of_one in checks.values() for check in of_one]
    pipeline.print_table(tflite_export.render_table(all_checks))
    pipeline.print_table(_text_comparison(models, checks))
    words = _PROMPT.split()
    prompt = data.vocabulary.encode([END, *words])
    continuation = tflite_export.generate(folder / "found.float32.tflite", prompt, _WORDS)
    text = " ".join([*words, *data.vocabulary.decode(continuation)])
    console.print(f"found.float32.tflite goes on: {text}", markup=False)
    console.print(f"pictures: {', '.join(str(path) for path in written if path.suffix == '.png')}")
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return pipeline.report_checks(all_checks)


def _text_comparison(
    models: dict[str, keras.Model], checks: dict[str, list[tflite_export.Check]]
) -> Table:
    """The cell found against the complete one, as trained and as exported."""
    tokens = checks["found"][0].agreement.num_tokens
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"the cell found against the complete cell ({tokens:,} words of the test text)",
    )
    table.add_column("")
    names = ("found", "complete")
    for heading in (*names, "found / complete"):
        table.add_column(heading, justify="right")

    def add(what: str, values: list[float], form: str) -> None:
        table.add_row(
            what, *(format(value, form) for value in values), f"{values[0] / values[1]:.2f}"
        )

    add("MACs for a word", [checks[name][0].file_macs for name in names], ",")
    add("parameters", [count_params(models[name]) for name in names], ",")
    for place, check in enumerate(checks["found"]):
        files = [checks[name][place] for name in names]
        kind = check.quantization
        add(f"{kind}: perplexity", [file.agreement.file_perplexity for file in files], ".2f")
        add(f"{kind}: bytes", [file.num_bytes for file in files], ",")
        medians = [file.latencies[0].median_ms for file in files]
        add(f"{kind}: median ms, 1 thread", medians, ".3f")
    return table
