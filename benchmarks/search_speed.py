r"""The same candidates by a plain KerasTuner loop and by `AutoShrink`: seconds, and their scores.

    python benchmarks/search_speed.py digits
    python benchmarks/search_speed.py digits --data callback
    python benchmarks/search_speed.py digits --data dataset
    python benchmarks/search_speed.py cifar10 --data-dir DIR --target-macs 4M --images 10000 \
        --epochs 4 --max-candidates 6 --runs 1

First `AutoShrink` searches with each of `--workers`, by default one candidate for each core, and
its trajectory has to be the same each time. Then a plain `keras_tuner.Tuner` trains the same
candidates in the same order, from the same weights, on the same data, for as many epochs: it
builds, compiles and fits each, and saves its weights whenever an epoch is the best so far. Each
runs in a process of its own, by turns. The time is that of `search()`, without the import of
TensorFlow.

Rounding differs between the two, by BatchNorm's kernel and the number of threads, and a training
makes much of it: the last column says how far the accuracies of candidates are from those of the
first row, in the mean. `--threads` trains the plain loop with other numbers of threads besides,
which shows what rounding alone does.

"Nobody trains" is the share of the time in which no candidate trains, "no training" the share of
all the workers' time: start-up, building, tracing, saving, and waiting for the end of a round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if two trajectories differ."""
    options = parser().parse_args(arguments)
    if options.one:
        print(json.dumps(one_search(options)))
        return 0
    given = sys.argv[1:] if arguments is None else list(arguments)
    ours = [f"AutoShrink, workers={count}" for count in options.workers]
    plain = [f"KerasTuner{f', {n} threads' if n else ''}" for n in (0, *options.threads)]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in (*plain, *ours)}
    with tempfile.TemporaryDirectory() as folder:
        candidates = Path(folder, "candidates.json")
        for _ in range(options.runs):
            for name in (*ours, *plain):
                command = [sys.executable, __file__, *given, "--one", name]
                command += ["--file", str(candidates)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    found = [(r["trajectory"], r["scores"]) for name in ours for r in results[name]]
    same = all(each == found[0] for each in found)
    print_results(options, results, plain[0], ours[0], same)
    return 0 if same else 1


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python benchmarks/search_speed.py digits --runs 5",
    )
    made.add_argument("task", help="digits, cifar10 or an .npz file (see load_images)")
    made.add_argument("--data-dir", help="of tensorflow_datasets, for cifar10")
    made.add_argument("--images", type=int, help="to train on (default: as a search takes them)")
    made.add_argument("--data", choices=("arrays", "callback", "dataset"), default="arrays")
    made.add_argument("--target-macs", help="such as 4M: a search at this budget")
    made.add_argument("--nodes", type=int, default=5, help="of the complete cell")
    made.add_argument("--epochs", type=int, default=10, help="of a candidate")
    made.add_argument("--max-candidates", type=int, default=21, help="to train")
    made.add_argument("--runs", type=int, default=3, help="of each")
    made.add_argument("--workers", type=int, nargs="+", default=[os.cpu_count()])
    made.add_argument("--threads", type=int, nargs="*", default=[])
    made.add_argument("--one", help=argparse.SUPPRESS)
    made.add_argument("--file", help=argparse.SUPPRESS)
    return made


def print_results(
    options: argparse.Namespace,
    results: dict[str, list[dict[str, Any]]],
    plain: str,
    ours: str,
    same: bool,
) -> None:
    """Prints the seconds, and how far the scores of the same candidates are apart."""
    trained = len(results[ours][0]["scores"])
    epochs = f"{options.epochs} epoch{'' if options.epochs == 1 else 's'}"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{options.task}, {options.data}: {trained} candidates of {epochs}, "
        f"{os.cpu_count()} cores; median (range) of {options.runs} runs",
        caption="one trajectory by AutoShrink" if same else "THE TRAJECTORIES DIFFER",
    )
    headings = (
        "",
        "seconds",
        "a candidate",
        "times as fast",
        "nobody trains",
        "no training",
        "accuracy",
    )
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    base = statistics.median(result["seconds"] for result in results[plain])
    for name, runs in results.items():
        walls = [result["seconds"] for result in runs]
        median = statistics.median(walls)
        idle = [1 - r["training"] / (r["seconds"] * r["workers"]) for r in runs]
        nobody = [1 - r["covered"] / r["seconds"] for r in runs]
        apart = [
            abs(theirs - score)
            for theirs, score in zip(runs[0]["scores"], results[plain][0]["scores"], strict=True)
        ]
        table.add_row(
            name,
            f"{median:.1f} ({min(walls):.1f} to {max(walls):.1f})",
            f"{median / trained:.2f} s",
            f"{base / median:.2f}",
            f"{statistics.median(nobody):.0%}",
            f"{statistics.median(idle):.0%}",
            f"{statistics.mean(apart):.4f}",
        )
    Console(width=140, highlight=False).print(table)


def one_search(options: argparse.Namespace) -> dict[str, Any]:
    """Searches, and says how long that took and what it came to."""
    name, _, setting = options.one.partition(", ")
    number = int("".join(filter(str.isdigit, setting)) or 0)
    # Before TensorFlow does anything. A worker has one thread, and so has to have this process
    # where it trains itself, to find the same.
    if number and (name == "KerasTuner" or number == 1):
        os.environ.update(TF_NUM_INTRAOP_THREADS=str(number), TF_NUM_INTEROP_THREADS=str(number))
    import keras_autoshrink as kas
    from keras_autoshrink.hypermodels.seeding import training_seed

    # A tenth as many to validate.
    proxy = (options.images, options.images // 10) if options.images else None
    images = kas.load_images(options.task, purpose="search", data_dir=options.data_dir, proxy=proxy)
    x, y = images.train.x, images.train.y
    hypermodel = make_hypermodel(options, images)
    validation = (images.validation.x, images.validation.y)
    with tempfile.TemporaryDirectory() as folder:
        clock = make_clock(folder)
        arguments: dict[str, Any] = {"x": x, "y": y, "validation_data": validation}
        arguments["callbacks"] = [clock]
        if options.data == "callback":
            arguments["callbacks"].append(make_users_callback())
        elif options.data == "dataset":
            import tensorflow as tf

            pairs = tf.data.Dataset.from_tensor_slices
            del arguments["y"]
            size = hypermodel.batch_size
            arguments["x"] = pairs((x, y)).shuffle(len(x), seed=1).batch(size)
            arguments["validation_data"] = pairs(validation).batch(size)
        place = {"directory": folder, "project_name": "search"}
        if name == "KerasTuner":
            tuner = plain_tuner(hypermodel, json.loads(Path(options.file).read_text()), **place)
        else:
            tuner = kas.AutoShrink(
                hypermodel, max_candidates=options.max_candidates, workers=number, **place
            )
        started = time.monotonic()
        tuner.search(**arguments, epochs=options.epochs, verbose=0)
        seconds = time.monotonic() - started
        clocks = [json.loads(path.read_text()) for path in Path(folder).glob("*.clock")]
    trials = [tuner.oracle.trials[trial_id] for trial_id in sorted(tuner.oracle.trials)]
    result = {
        "seconds": seconds,
        "training": sum(spent for spent, _, _ in clocks),
        "covered": covered([(begin, end) for _, begin, end in clocks]),
        "workers": 1 if name == "KerasTuner" else number,
        "scores": [float(trial.metrics.get_best_value("val_accuracy")) for trial in trials],
        "trajectory": None,
    }
    if name != "KerasTuner":
        kept = ("removed_edges", "added_edges", "changed", "score", "objective", "macs")
        result["trajectory"] = [[record.get(key) for key in kept] for record in tuner.trajectory()]
        space, seed = tuner.oracle.space, tuner.oracle.seed
        values = [trial.hyperparameters.values for trial in trials]
        seeds = [training_seed(seed, space.sub_cell(each)) for each in values]
        Path(options.file).write_text(json.dumps([*zip(values, seeds, strict=True)]))
    return result


def make_hypermodel(options: argparse.Namespace, images: Any) -> Any:
    """Makes a HyperModel whose candidates all train for as many epochs."""
    import keras_autoshrink as kas
    from keras_autoshrink.commands.arguments import count
    from keras_autoshrink.training.recipes import has_photographs

    shape, classes = images.input_shape, len(images.class_names)
    if options.target_macs:
        return kas.CNNCellHyperModel(
            shape,
            classes,
            target_macs=count(options.target_macs),
            photographs=has_photographs(options.task),
        )

    class OfFixedLength(kas.CNNCellHyperModel):
        def stopping_rules(self) -> list[Any]:
            return []

    return OfFixedLength(shape, classes, num_nodes=options.nodes)


def make_clock(folder: str) -> Any:
    """Makes a callback that writes, for each candidate, the seconds of its steps, and when."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.steps: dict[str, list[float]] = {"train": [], "test": []}

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.begun = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if not self.steps["train"]:
                self.from_ = time.monotonic()
            self.steps["train"].append(time.monotonic() - self.begun)

        on_test_batch_begin = on_train_batch_begin

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps["test"].append(time.monotonic() - self.begun)

        def on_train_end(self, logs: Any = None) -> None:
            # The first step of a kind is traced, and its graph optimised: that is no training.
            spent = sum(
                sum(seconds[1:]) + statistics.median(seconds) for seconds in self.steps.values()
            )
            figures = json.dumps([spent, self.from_, time.monotonic()])
            Path(folder, f"{time.monotonic_ns()}-{os.getpid()}.clock").write_text(figures)

    return Clock()


def covered(spans: list[tuple[float, float]]) -> float:
    """Returns for how many seconds at least one of some spans of time lasted."""
    seconds, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        seconds += max(0.0, end - max(begin, until))
        until = max(until, end)
    return seconds


def make_users_callback() -> Any:
    """Makes a callback as people write them: it looks at each step, and changes the rate."""
    import keras

    class Warmup(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.rate = float(self.model.optimizer.learning_rate)
            self.worst = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = self.rate * min(1.0, (epoch + 1) / 3)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.worst = max(self.worst, float(logs["loss"]))

    return Warmup()


def plain_tuner(hypermodel: Any, candidates: list[Any], **place: str) -> Any:
    """Makes a `keras_tuner.Tuner` as its documentation has it, but for each candidate's seed.

    Args:
        hypermodel: of the search.
        candidates: the values of the hyperparameters of each, and its seed.
        **place: `directory` and `project_name`.
    """
    import keras
    import keras_tuner
    from keras_tuner.engine.trial import TrialStatus

    class Listed(keras_tuner.Oracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            if len(self.start_order) == len(candidates):
                return {"status": TrialStatus.STOPPED}
            values, _ = candidates[len(self.start_order)]
            return {"status": TrialStatus.RUNNING, "values": values}

    class Plain(keras_tuner.Tuner):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            _, seed = candidates[self.oracle.start_order.index(trial.trial_id)]
            keras.utils.set_random_seed(seed)
            return super().run_trial(trial, *args, **kwargs)

    return Plain(Listed(keras_tuner.Objective("val_accuracy", "max")), hypermodel, **place)


if __name__ == "__main__":
    sys.exit(main())
