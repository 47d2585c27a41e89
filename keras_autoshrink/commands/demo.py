"""The command `autoshrink demo`: the way from data to checked files, on data that come along."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink.commands import pipeline, text
from keras_autoshrink.commands.arguments import PROGRAM
from keras_autoshrink.commands.design import design
from keras_autoshrink.commands.generate import generate
from keras_autoshrink.report import saved_search
from tflite_export.command_line import still_at_work

# No minutes: the slower a machine, the fewer networks fit, and at last too few.
_DESIGN = "digits --target-macs 30K --max-candidates 32 --epochs 24"

# Options of the commands on a text, and what the file of its language model continues.
_SEARCH = (
    "--task text --nodes 5 --candidates 2 --max-candidates 10 --epochs 3 --units 100 "
    "--batch-size 32"
)
_TRAIN = "--recipe small --units 100"
_EXPORT = "--quantization float32 dynamic int8"
_PROMPT = "the value of the"


def demo(options: argparse.Namespace) -> int:
    """Designs a network for handwritten digits, or searches a cell for a text's language model.

    Returns:
        The exit status: 1 if a file is not as its model.
    """
    again = ["--overwrite"] if options.overwrite else []
    more = ["--seed", str(options.seed), *again]
    if options.task == "text":
        return _text(options.directory, more)
    line = ["design", *_DESIGN.split(), "--output", str(options.directory), *more]
    return design(pipeline.command(*line))


def _text(folder: Path, more: list[str]) -> int:
    """Searches, trains the cell found and the complete one, exports both and compares them."""
    started = time.monotonic()
    console = Console(soft_wrap=True, highlight=False, markup=False)

    console.rule("1. The search")
    place = ["--directory", str(folder), "--project-name", "search"]
    text.search(pipeline.command("search", *_SEARCH.split(), *place, *more))
    # Beside the search, so that its training, too, takes the data as the search has split them.
    complete = folder / "search" / "complete.json"
    saved_search.read_search(folder / "search").cell.save(complete)

    console.rule("2. Full training, of the cell found and of the complete cell")
    cells = {"found": folder / "search", "complete": complete}
    networks = {name: folder / f"{name}.keras" for name in cells}
    for name, cell in cells.items():
        arguments = [str(cell), *_TRAIN.split(), "--output", str(networks[name]), "--quiet"]
        train = pipeline.command("train", *arguments, *more)
        with still_at_work(PROGRAM, f"training {networks[name]}"):
            text.train(train, saved_search.read_cell(cell))

    console.rule("3. Export and checks")
    status, checks = 0, {}
    for name, path in networks.items():
        export = pipeline.command("export", str(path), *_EXPORT.split())
        model, facts = tflite_export.load_model(path), saved_search.read_facts(path)
        with still_at_work(PROGRAM, f"exporting {path}"):
            checks[name] = text.export(export, model, facts)
        status = max(status, pipeline.report_checks(checks[name]))
    params = {name: saved_search.read_facts(path)["params"] for name, path in networks.items()}
    pipeline.print_table(_comparison(params, checks))
    generate(pipeline.command("generate", str(folder / "found.float32.tflite"), _PROMPT))
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return status


def _comparison(params: dict[str, int], checks: dict[str, list[tflite_export.Check]]) -> Table:
    """Compares the cell found with the complete one, as trained and as exported."""
    tokens = next(iter(checks.values()))[0].agreement.num_tokens
    title = f"the cell found against the complete cell ({tokens:,} test words)"
    table = Table(box=box.SIMPLE_HEAD, title=title)
    table.add_column("")
    for heading in ("found", "complete", "found / complete"):
        table.add_column(heading, justify="right")

    def add(what: str, found: float, complete: float, form: str) -> None:
        ratio = f"{found / complete:.2f}"
        table.add_row(what, format(found, form), format(complete, form), ratio)

    add("MACs for one word", *(checks[name][0].file_macs for name in params), ",")
    add("parameters", *params.values(), ",")
    for files in zip(*checks.values(), strict=True):
        kind = files[0].quantization
        add(f"{kind}: perplexity", *(file.agreement.file_perplexity for file in files), ".2f")
        add(f"{kind}: bytes", *(file.num_bytes for file in files), ",")
        for latencies in zip(*(file.latencies for file in files), strict=True):
            threads = f"{latencies[0].num_threads} thread" + "s" * (latencies[0].num_threads > 1)
            medians = (latency.median_ms for latency in latencies)
            add(f"{kind}: median ms, {threads}", *medians, ".3f")
    return table
