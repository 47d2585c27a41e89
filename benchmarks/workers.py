"""A search by one process and by several workers: its seconds, what waiting costs, and kills.

Each row is the same search of scikit-learn's digits by the command `autoshrink search`, in a
folder of its own; start-up, about ten seconds of it for TensorFlow's import, counts. In two of
them a worker is killed while it trains, or the chief while a round is under way. All have to
end in the same trajectory.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

# How often to look at the processes, in seconds, and how long a worker has to have had a
# connection to the chief, and no candidate, to be waiting and not still starting or ending.
_LOOK = 0.25
_SETTLED = 3.0


@dataclasses.dataclass
class Usage:
    """CPU seconds that a process has spent in so many seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def add(self, cpu: float, wall: float) -> None:
        """Adds a while."""
        self.cpu += cpu
        self.wall += wall

    def __str__(self) -> str:
        return f"{self.cpu / self.wall:.1%} ({self.wall:.0f} s)" if self.wall else "-"


@dataclasses.dataclass
class Result:
    """What came of a search."""

    seconds: float
    trajectory: list[dict[str, Any]]
    waiting: Usage
    chief: Usage
    said: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if a search ended otherwise than that of one process."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/workers.py --nodes 4 --candidates 2 --epochs 2",
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--filters", type=int, default=4)
    options = parser.parse_args(arguments)
    rows: dict[str, tuple[list[str], Callable[[Observed], bool] | None]] = {
        "one process": ([], None)
    }
    for count in options.workers:
        name = f"{count} worker{'s' if count > 1 else ''}"
        rows[name] = (["--workers", str(count)], None)
    rows["2 workers, one killed while it trains"] = (["--workers", "2"], kill_a_worker)
    rows["2 workers, the chief killed in a round"] = (["--workers", "2"], kill_the_chief)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"one search, {options.nodes} nodes, {options.candidates} candidates a round, "
        f"{options.epochs} epochs, {options.filters} filters, on {psutil.cpu_count()} CPUs",
        caption="a waiting worker, the chief: of one CPU (measured over so many seconds)",
    )
    for heading in ("", "seconds", "same trajectory", "a waiting worker", "the chief"):
        table.add_column(heading, justify="right" if heading else "left")
    console = Console(width=140, highlight=False)
    expected = None
    status = 0
    for name, (more, kill) in rows.items():
        result = search(options, more, kill)
        expected = expected or result.trajectory
        same = result.trajectory == expected
        status |= not same
        for line in result.said:
            console.print(f"{name}: {line}")
        table.add_row(
            name,
            f"{result.seconds:.0f}",
            "yes" if same else "NO",
            str(result.waiting),
            str(result.chief),
        )
    console.print(table)
    return status


def search(
    options: argparse.Namespace, more: list[str], kill: Callable[[Observed], bool] | None
) -> Result:
    """Runs a search to its end.

    Args:
        options: of the benchmark.
        more: arguments of the command.
        kill: is asked again and again until it has killed a process of the search.
    """
    command = [
        sys.executable,
        "-m",
        "keras_autoshrink.commands.cli",
        "search",
        "--dataset",
        "digits",
    ]
    command += ["--strategy", "paper"]
    for name in ("nodes", "candidates", "epochs", "filters"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--stem-filters", str(options.filters), "--quiet", *more]
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        launched = subprocess.Popen(
            [*command, "--directory", directory],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        observed = Observed(launched.pid, Path(directory, "digits"))
        while launched.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
                observed.look()
                if kill is not None and kill(observed):
                    kill = None
            time.sleep(_LOOK)
        seconds = time.monotonic() - started
        assert launched.stderr is not None
        said = launched.stderr.read().splitlines()
        if launched.returncode or kill is not None:
            raise RuntimeError(f"{' '.join(more)}: failed, or nobody was killed: {said}")
        records = json.loads(Path(directory, "digits", "trajectory.json").read_text())
    return Result(seconds, _timeless(records), observed.waiting, observed.chief, said)


class Observed:
    """The processes of a search.

    Args:
        launcher: the ID of the one that started them.
        folder: of the search.

    Attributes:
        waiting: what workers spend that wait for the end of a round.
        chief: what the chief spends.
        training: which worker trains in which trial.
        trained: how many networks have been.
    """

    def __init__(self, launcher: int, folder: Path) -> None:
        self.waiting, self.chief = Usage(), Usage()
        self.training: dict[str, str] = {}
        self.trained = 0
        self._launcher = psutil.Process(launcher)
        self._folder = folder
        self._seen: dict[int, tuple[float, float]] = {}
        self._idle_since: dict[int, float] = {}

    def look(self) -> None:
        """Notes what has been spent since the last look."""
        self.training = dict(self._running())
        for name, process in self.processes().items():
            times = process.cpu_times()
            now, spent = time.monotonic(), times.user + times.system
            before, spent_before = self._seen.get(process.pid, (now, spent))
            self._seen[process.pid] = now, spent
            connected = bool(process.net_connections("tcp"))
            if name in self.training or not connected:
                self._idle_since[process.pid] = now
                continue
            if name == "chief":
                self.chief.add(spent - spent_before, now - before)
            elif before - self._idle_since.get(process.pid, now) > _SETTLED:
                self.waiting.add(spent - spent_before, now - before)

    def processes(self) -> dict[str, psutil.Process]:
        """Returns the chief and the workers, by their IDs in the search."""
        children = self._launcher.children()
        found = {child.environ().get("KERASTUNER_TUNER_ID"): child for child in children}
        return {name: child for name, child in found.items() if name}

    def _running(self) -> Iterator[tuple[str, str]]:
        # What has ended since the state was written says so in its own file.
        with contextlib.suppress(OSError):
            state = json.loads((self._folder / "oracle.json").read_text())
            self.trained = len((state["search"] or {"outcomes": ()})["outcomes"])
            for name, trial_id in state["ongoing_trials"].items():
                trial = json.loads((self._folder / f"trial_{trial_id}/trial.json").read_text())
                if trial["status"] == "RUNNING":
                    yield name, trial_id


def kill_a_worker(observed: Observed) -> bool:
    """Kills a worker that trains, once the complete cell has been trained."""
    for name in observed.training if observed.trained else ():
        observed.processes()[name].kill()
        return True
    return False


def kill_the_chief(observed: Observed) -> bool:
    """Kills the chief while workers train, once the complete cell has been trained."""
    if not (observed.trained and observed.training):
        return False
    observed.processes()["chief"].kill()
    return True


def _timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drops from a trajectory what may differ: seconds, and the order in which trials began."""
    for each in [
        *records,
        *(candidate for record in records for candidate in record["candidates"]),
    ]:
        del each["seconds"]
        each.pop("trial_id", None)
    return records


if __name__ == "__main__":
    sys.exit(main())
