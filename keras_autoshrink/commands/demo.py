"""The command `autoshrink demo`: the way from data to checked files, by the other commands."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from pathlib import Path
from types import ModuleType

from rich import box
from rich.console import Console
from rich.table import Table

import tflite_export
from keras_autoshrink.commands import images, pipeline, text
from keras_autoshrink.commands.arguments import PROGRAM, parse
from keras_autoshrink.commands.generate import generate
from keras_autoshrink.report import saved_search
from tflite_export.command_line import still_at_work


@dataclasses.dataclass(frozen=True)
class _Demo:
    """The demo of a task.

    Attributes:
        module: of the task's commands.
        search: options of `autoshrink search`.
        train: options of `autoshrink train`.
        export: options of `autoshrink export`.
        quality: of a file, as an attribute of its check's agreement is called.
        sample: for which a network's MACs are counted.
        prompt: that the file of a language model continues, or "".
    """

    module: ModuleType
    search: str
    train: str
    export: str
    quality: str
    sample: str
    prompt: str = ""


_DEMOS = {
    "images": _Demo(
        images,
        # Nearly all cells read the digits to within 3 points of accuracy. At the paper's weight,
        # where ten times the MACs have to buy 10 points, the cost alone would decide.
        search="--dataset digits --nodes 5 --candidates 4 --max-candidates 20 --epochs 10 "
        "--filters 8 --stem-filters 16 --batch-size 64 --mac-weight 0.03",
        train="--recipe plain",
        export="--quantization float32 int8",
        quality="accuracy",
        sample="image",
    ),
    "text": _Demo(
        text,
        search="--task text --nodes 5 --candidates 2 --max-candidates 10 --epochs 3 --units 100 "
        "--batch-size 32",
        train="--recipe small --units 100",
        export="--quantization float32 dynamic int8",
        quality="perplexity",
        sample="word",
        prompt="the value of the",
    ),
}


def demo(options: argparse.Namespace) -> int:
    """Searches, trains the cell found and the complete one, exports both and compares them.

    Returns:
        The exit status: 1 if a file is not as its model.
    """
    started = time.monotonic()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    plan = _DEMOS[options.task]
    folder: Path = options.directory
    again = ["--overwrite"] if options.overwrite else []
    seed = ["--seed", str(options.seed)]

    def command(name: str, *arguments: str | Path) -> argparse.Namespace:
        line = [name, *map(str, arguments)]
        console.print(f"$ {PROGRAM} {shlex.join(line)}")
        return parse(line)

    console.rule("1. The search")
    place = ["--directory", folder, "--project-name", "search"]
    plan.module.search(command("search", *plan.search.split(), *place, *seed, *again))
    # Beside the search, so that its training, too, takes the data as the search has split them.
    complete = folder / "search" / "complete.json"
    saved_search.read_search(folder / "search").cell.save(complete)

    console.rule("2. Full training, of the cell found and of the complete cell")
    cells = {"found": folder / "search", "complete": complete}
    networks = {name: folder / f"{name}.keras" for name in cells}
    for name, cell in cells.items():
        arguments = [cell, *plan.train.split(), "--output", networks[name], "--quiet"]
        train = command("train", *arguments, *seed, *again)
        with still_at_work(PROGRAM, f"training {networks[name]}"):
            plan.module.train(train, saved_search.read_cell(cell))

    console.rule("3. Export and checks")
    status, checks = 0, {}
    for name, path in networks.items():
        export = command("export", path, *plan.export.split())
        model, facts = tflite_export.load_model(path), saved_search.read_facts(path)
        with still_at_work(PROGRAM, f"exporting {path}"):
            checks[name] = plan.module.export(export, model, facts)
        status = max(status, pipeline.report_checks(checks[name]))
    params = {name: saved_search.read_facts(path)["params"] for name, path in networks.items()}
    pipeline.print_table(_comparison(plan, params, checks))
    if plan.prompt:
        generate(command("generate", folder / "found.float32.tflite", plan.prompt))
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return status


def _comparison(
    plan: _Demo, params: dict[str, int], checks: dict[str, list[tflite_export.Check]]
) -> Table:
    """Compares the cell found with the complete one, as trained and as exported."""
    agreement = next(iter(checks.values()))[0].agreement
    samples = getattr(agreement, "num_samples", None) or agreement.num_tokens
    what = f"the cell found against the complete cell ({samples:,} test {plan.sample}s)"
    table = Table(box=box.SIMPLE_HEAD, title=what)
    table.add_column("")
    for heading in ("found", "complete", "found / complete"):
        table.add_column(heading, justify="right")

    def add(what: str, found: float, complete: float, form: str) -> None:
        ratio = f"{found / complete:.2f}"
        table.add_row(what, format(found, form), format(complete, form), ratio)

    add(f"MACs for one {plan.sample}", *(checks[name][0].file_macs for name in params), ",")
    add("parameters", *params.values(), ",")
    for files in zip(*checks.values(), strict=True):
        kind = files[0].quantization
        quality = [getattr(file.agreement, f"file_{plan.quality}") for file in files]
        if plan.quality == "accuracy":  # of which a share says nothing
            shown = (*(f"{each:.4f}" for each in quality), f"{quality[0] - quality[1]:+.4f}")
            table.add_row(f"{kind}: accuracy", *shown)
        else:
            add(f"{kind}: {plan.quality}", *quality, ".2f")
        add(f"{kind}: bytes", *(file.num_bytes for file in files), ",")
        for latencies in zip(*(file.latencies for file in files), strict=True):
            threads = f"{latencies[0].num_threads} thread" + "s" * (latencies[0].num_threads > 1)
            medians = (latency.median_ms for latency in latencies)
            add(f"{kind}: median ms, {threads}", *medians, ".3f")
    return table
