"""The demo on a text: the whole way from Python's own documentation to a file that writes."""

from __future__ import annotations

import argparse
import time

import keras
from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink import pipeline, report, runs, text_commands
from keras_autoshrink.cell import Cell
from keras_autoshrink.costs import count_params
from keras_autoshrink.language_hypermodel import RNNCellHyperModel
from keras_autoshrink.pydoc_text import PYDOC
from keras_autoshrink.score import PerplexityScore
from keras_autoshrink.text_data import unigram_perplexity
from keras_autoshrink.text_recipes import TEXT_RECIPES
from keras_autoshrink.tuner import AutoShrink
from keras_autoshrink.vocabulary import END

_NODES, _CANDIDATES = 5, 10
_UNITS = 100
_SEARCH_EPOCHS = 3
_RECIPE = TEXT_RECIPES["small"]
_PROMPT = "the value of the"
_WORDS = 15


def demo(options: argparse.Namespace) -> int:
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
        len(data.vocabulary), num_nodes=_NODES, units=_UNITS, batch_size=32, seed=options.seed
    )
    tuner = AutoShrink(
        hypermodel,
        score=PerplexityScore(),
        num_candidates=2,
        max_candidates=_CANDIDATES,
        seed=options.seed,
        directory=folder,
        project_name="search",
        overwrite=options.overwrite,
    )
    tuner.search(data.train, validation_data=data.validation, epochs=_SEARCH_EPOCHS)
    objective = text_commands.OBJECTIVE
    pipeline.print_table(report.trajectory_table(tuner.trajectory(), objective))
    written = runs.write_results(folder / "search", objective)

    console.rule("2. Full training")
    console.print(
        f"ShrinkRNNs of the cell found and of the complete cell, {_RECIPE.epochs} epochs each"
    )
    data = text_commands.load(source, "train")
    cells: dict[str, Cell] = {"found": tuner.best_cell(), "complete": hypermodel.cell}
    models = {
        name: text_commands.train_and_save(
            cell,
            data,
            folder / f"{name}.keras",
            source,
            _RECIPE,
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
    pipeline.print_table(_comparison(models, checks))
    words = _PROMPT.split()
    prompt = data.vocabulary.encode([END, *words])
    continuation = tflite_export.generate(folder / "found.float32.tflite", prompt, _WORDS)
    text = " ".join([*words, *data.vocabulary.decode(continuation)])
    console.print(f"found.float32.tflite goes on: {text}", markup=False)
    console.print(f"pictures: {', '.join(str(path) for path in written if path.suffix == '.png')}")
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return pipeline.report_checks(all_checks)


def _comparison(
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
