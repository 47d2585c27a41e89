"""Language models of one budget: why one is better than another, and what a search finds.

`ablate` trains recurrent cells of equal parameters, with one thing changed at a time, and
`ablation` compares their perplexities on the validation text. `search` searches, `train` trains the
references and what was found from several seeds, and `table` compares their perplexities on the
test text, measured once, at the end of a training. `steps` times training steps, and measures the
memory that they take. Trainings that have ended are not repeated: each is a line of a file, and an
interrupted search goes on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from budget import one_on_each_core, read, write
from rich import box
from rich.console import Console
from rich.table import Table

import keras_autoshrink as kas
from keras_autoshrink.commands.arguments import count
from keras_autoshrink.training.recipes import TEXT_RECIPES, TextRecipe
from tflite_export.runtime import native_output_silenced

FOUND = "found"
_TRAINED, _ABLATION = "trained", "ablation"  # what a line of the file is of

_LSTM, _GRU, _PUBLISHED, _PTB = "lstm", "gru", "shrinkrnn", "ptb"
_ALL = (_LSTM, _GRU, _PTB, _PUBLISHED)  # the cell of benchmarks/ptb.md among them
_CELLS = (_PTB, _PUBLISHED)

_CHAIN = kas.Cell(("input", "tanh"), ((0, 1),))
_ALONE = kas.Cell(("input", "skip"), ((0, 1),))


@dataclasses.dataclass(frozen=True)
class Variant:
    """One thing that is changed.

    Attributes:
        networks: whose.
        cell: arguments of the cell, in place of its own.
        recipe: values of the recipe, in place of its own.
        scaled: whether embeddings that are looked up are multiplied by the root of the units.
    """

    networks: tuple[str, ...]
    cell: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scaled: bool = False


def _uniform(units: int) -> Any:
    import keras

    return keras.initializers.RandomUniform(-(units**-0.5), units**-0.5)


_NO_DROPOUT = {"output_dropout": 0.0, "recurrent_dropout": 0.0, "dropout": 0.0}
_ADAM = {"optimizer": "adam", "schedule": "one_cycle", "averaging_window": None}
VARIANTS = {
    "as it is": Variant(_ALL),
    # The gates' biases, and what they are at first.
    "no bias": Variant((_LSTM, _GRU), {"use_bias": False}),
    "forget bias 0": Variant((_LSTM,), {"unit_forget_bias": False}),
    "bias": Variant(_CELLS, {"use_bias": True}),
    "bias, forget bias 1": Variant(_CELLS, {"use_bias": True, "forget_bias": 1.0}),
    # The initial weights: Keras's are orthogonal and of Glorot, ours uniform.
    "uniform weights": Variant(
        (_LSTM, _GRU), {"kernel_initializer": _uniform, "recurrent_initializer": _uniform}
    ),
    "Glorot weights": Variant(_CELLS, {"kernel_initializer": "glorot_uniform"}),
    # The depth: of one edge, and node 0 alone, which is as wide as the budget then allows.
    "one edge": Variant((_PTB,), {"cell": _CHAIN}),
    "no edge": Variant((_PTB,), {"cell": _ALONE}),
    # Other steps of node 0.
    "gru": Variant((_PTB,), {"input_step": "gru", "use_bias": True}),
    "lstm": Variant((_PTB,), {"input_step": "lstm", "use_bias": True, "forget_bias": 1.0}),
    "lstm, one edge": Variant(
        (_PTB,), {"cell": _CHAIN, "input_step": "lstm", "use_bias": True, "forget_bias": 1.0}
    ),
    "layer normalisation": Variant(_CELLS, {"normalise": True}),
    # The recipe, of all alike.
    "no dropout": Variant(_ALL, recipe=_NO_DROPOUT),
    "SGD 10": Variant(_ALL, recipe={"learning_rate": 10.0}),
    "SGD 5": Variant(_ALL, recipe={"learning_rate": 5.0}),
    "Adam 0.003": Variant(_ALL, recipe={**_ADAM, "learning_rate": 0.003}),
    "Adam 0.01": Variant(_ALL, recipe={**_ADAM, "learning_rate": 0.01}),
    "scaled embedding": Variant(_ALL, scaled=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, searches or compares."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/language_budget.py ablate --data-dir ptb_proxy",
    )
    commands = {
        "ablate": ablate,
        "ablation": ablation,
        "search": search,
        "train": train,
        "table": table,
        "steps": steps,
    }
    parser.add_argument("what", choices=(*commands,))
    parser.add_argument("--data-dir", help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--target-params", type=count, default=911_145)
    parser.add_argument("--directory", type=Path, default=Path("runs/language_budget"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/language_budget.jsonl"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--found", type=Path, help="architecture.json of another search")
    parser.add_argument("--only", nargs="+", help="networks to train, such as found")
    parser.add_argument("--variants", nargs="+", choices=(*VARIANTS,), help="of an ablation")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import
    options.directory.mkdir(parents=True, exist_ok=True)
    commands[options.what](options)


def _load(options: argparse.Namespace, purpose: str) -> Any:
    return kas.load_text(options.data_dir or "pydoc", purpose=purpose)


def _text(options: argparse.Namespace) -> str:
    return Path(options.data_dir or "pydoc").name


# ---- the ablation -------------------------------------------------------------------------------


def ablate(options: argparse.Namespace) -> None:
    """Trains each variant of each network, one on each core."""
    jobs = [
        {**_job(options, network, seed), "of": _ABLATION, "variant": name}
        for seed in options.seeds  # what there is after an interruption can be compared
        for name in options.variants or VARIANTS
        for network in VARIANTS[name].networks
        if network in (options.only or _ALL)
    ]
    _train_all(options, jobs, _ablated)


def _ablated(job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Trains a variant of a network; the test text is not looked at."""
    variant = VARIANTS[job["variant"]]
    recipe = dataclasses.replace(TEXT_RECIPES["small"], epochs=job["epochs"], **variant.recipe)
    with native_output_silenced():
        from keras_autoshrink.networks.recurrent_references import solve_units

        data = _load(options, "train")
        build = functools.partial(_variant, job["network"], variant, len(data.vocabulary))
        plain = recipe.without_regularization()
        units = solve_units(functools.partial(build, plain), job["target"], "target_params")
        facts = _fit(lambda recipe: build(recipe, units), data, recipe, job["seed"])
    return {**job, "units": units, **{n: v for n, v in facts.items() if n != "test_perplexity"}}


def _variant(
    network: str, variant: Variant, vocabulary_size: int, recipe: TextRecipe, units: int
) -> Any:
    """Builds a variant of a network."""
    import keras

    from keras_autoshrink.networks.language_model import language_model

    makers: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        _LSTM: (keras.layers.LSTMCell, {}),
        _GRU: (keras.layers.GRUCell, {}),
        _PUBLISHED: (kas.ShrinkRNNCell, {"cell": kas.SHRINKRNN_CELL}),
        _PTB: (kas.ShrinkRNNCell, {"cell": _ptb_cell()}),
    }
    make, arguments = makers[network]
    arguments = {**arguments, **variant.cell}
    given = {n: v(units) if callable(v) else v for n, v in arguments.items()}
    return language_model(
        make(units=units, **given, **recipe.cell_dropouts()),
        vocabulary_size,
        **recipe.regularization(),
        embedding_scale=math.sqrt(units) if variant.scaled else 1.0,
    )


def _ptb_cell() -> kas.Cell:
    return kas.Cell.load(Path(__file__).parent / "cells" / "ptb_found.json")


def ablation(options: argparse.Namespace) -> None:
    """Prints what each variant changes, of a network with the same seed."""
    results = [each for each in _results(options) if each["of"] == _ABLATION]
    by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for each in results:
        by.setdefault((each["network"], each["variant"]), {})[each["seed"]] = each
    columns = ["network", "changed", "units", "params", "validation", "log, less as it is", "s"]
    shown = Table(*columns, box=box.MARKDOWN, title=f"{_text(options)}, {options.epochs} epochs")
    for (network, variant), runs in sorted(by.items(), key=lambda item: item[0][0]):
        base = by.get((network, "as it is"), {})
        changes = [
            math.log(run["validation_perplexity"] / base[seed]["validation_perplexity"])
            for seed, run in runs.items()
            if seed in base and variant != "as it is"
        ]
        first = next(iter(runs.values()))
        shown.add_row(
            network,
            variant,
            str(first["units"]),
            f"{first['params']:,}",
            _mean([run["validation_perplexity"] for run in runs.values()], ".1f"),
            _mean(changes, "+.3f"),
            f"{statistics.fmean(run['seconds'] for run in runs.values()):.0f}",
        )
    Console(width=160).print(shown)


# ---- a search, and what it found beside the references ------------------------------------------


def _project(options: argparse.Namespace) -> str:
    return f"{_text(options)}-{options.target_params}-seed-{options.seed}"


def _found(options: argparse.Namespace) -> Path:
    return Path(options.found or options.directory / f"{_project(options)}.json")


def search(options: argparse.Namespace) -> None:
    """Searches at a budget, and writes what it found into the folder."""
    with native_output_silenced():
        data = _load(options, "search")
        words = len(data.vocabulary)
        hypermodel = kas.RNNCellHyperModel(words, target_params=options.target_params)
    tuner = kas.AutoShrink(
        hypermodel,
        num_candidates=6,  # few at a time: each round learns from those before
        max_minutes=options.minutes,
        seed=options.seed,
        directory=options.directory,
        project_name=_project(options),
    )
    began = time.monotonic()
    tuner.search(data.train, validation_data=data.validation, epochs=options.epochs)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    for record in tuner.final():
        print(record["reference"] or FOUND, record["mean"], record["scores"])
    best = hypermodel.network(tuner.get_best_hyperparameters()[0])
    _found(options).write_text(json.dumps(best.to_json()))
    print(f"wrote {_found(options)}: {best.reference or best.arguments}")


def train(options: argparse.Namespace) -> None:
    """Trains what was found and the references, one on each core."""
    networks = _references(options)
    if _found(options).exists():
        networks[FOUND] = json.loads(_found(options).read_text())
    jobs = [
        {**_job(options, name, seed), "of": _TRAINED, "architecture": networks[name]}
        for seed in options.seeds
        for name in options.only or networks
    ]
    _train_all(options, jobs, _trained)


def _references(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the references' architectures."""
    import keras_tuner

    with native_output_silenced():
        words = len(_load(options, "search").vocabulary)
        hypermodel = kas.RNNCellHyperModel(words, target_params=options.target_params)
    found = {}
    for values in hypermodel.starting_values():
        if "network" in values:
            hp = keras_tuner.HyperParameters()
            hp.values.update(values)
            found[values["network"]] = hypermodel.network(hp).to_json()
    return found


def _trained(job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Trains a network by the recipe that is the default for it."""
    recipe = dataclasses.replace(TEXT_RECIPES["short"], epochs=job["epochs"])
    architecture = kas.Architecture.from_json(job["architecture"])

    def build(recipe: TextRecipe) -> Any:
        return architecture.build(**recipe.cell_dropouts(), **recipe.regularization())

    with native_output_silenced():
        return {**job, **_fit(build, _load(options, "train"), recipe, job["seed"])}


def table(options: argparse.Namespace) -> None:
    """Prints each network's perplexities, and how far what was found is from each reference."""
    results = [each for each in _results(options) if each["of"] == _TRAINED]
    found = {r["seed"]: r["test_perplexity"] for r in results if r["network"] == FOUND}
    columns = ["network", "MACs", "params", "s", "validation", "test", "log, less the found one's"]
    shown = Table(*columns, box=box.MARKDOWN, title=f"{_text(options)}, {options.epochs} epochs")
    by: dict[str, list[dict[str, Any]]] = {}
    for each in results:
        by.setdefault(each["network"], []).append(each)
    for name, runs in sorted(
        by.items(), key=lambda item: statistics.fmean(r["test_perplexity"] for r in item[1])
    ):
        shown.add_row(
            name,
            f"{runs[0]['macs']:,}",
            f"{runs[0]['params']:,}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
            _mean([run["validation_perplexity"] for run in runs], ".1f"),
            _mean([run["test_perplexity"] for run in runs], ".1f"),
            _mean(
                [
                    math.log(run["test_perplexity"] / found[run["seed"]])
                    for run in runs
                    if name != FOUND and run["seed"] in found
                ],
                "+.3f",
            ),
        )
    Console(width=160).print(shown)


# ---- what both share ----------------------------------------------------------------------------


def _job(options: argparse.Namespace, network: str, seed: int) -> dict[str, Any]:
    return {
        "text": _text(options),
        "target": options.target_params,
        "network": network,
        "epochs": options.epochs,
        "seed": seed,
    }


def _key(job: dict[str, Any]) -> str:
    names = ("of", "text", "target", "network", "epochs", "seed", "variant")
    found = job["architecture"] if job["network"] == FOUND else None
    return json.dumps([*(job.get(name) for name in names), found])


def _train_all(
    options: argparse.Namespace, jobs: list[dict[str, Any]], train_one: Callable[..., Any]
) -> None:
    """Trains what has not been trained yet, and adds each training to the file as it ends."""
    known = {_key(each) for each in read(options.results)}
    jobs = [job for job in jobs if _key(job) not in known]
    with one_on_each_core() as pool:
        for result in pool.imap_unordered(functools.partial(train_one, options=options), jobs):
            write(options.results, result)
            print({n: v for n, v in result.items() if n != "architecture"}, flush=True)


def _fit(build: Any, data: Any, recipe: TextRecipe, seed: int) -> dict[str, Any]:
    """Trains a language model in full; returns what came of it."""
    from keras_autoshrink.training.language_model import train_model

    began = time.monotonic()
    trained = train_model(build, data, recipe, seed=seed)
    return {
        "params": kas.count_params(trained.model),
        "macs": kas.count_macs(trained.model, input_shape=(1,)),
        "validation_perplexity": round(trained.validation_perplexity, 3),
        "test_perplexity": round(trained.test_perplexity, 3),
        "seconds": round(time.monotonic() - began, 1),
    }


def _results(options: argparse.Namespace) -> list[dict[str, Any]]:
    wanted = (_text(options), options.target_params, options.epochs)
    return [
        each
        for each in read(options.results)
        if (each["text"], each["target"], each["epochs"]) == wanted
    ]


def _mean(values: Sequence[float], form: str) -> str:
    """Writes a mean and its standard error."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):{form}} ± {error:{form.removeprefix('+')}}"


# ---- the time of a step, and its memory ---------------------------------------------------------

_ROUNDS, _STEPS = 3, 60  # of steps that are timed, the fastest round counts


def steps(options: argparse.Namespace) -> None:
    """Times training steps of each network and measures its memory, each in a fresh process."""
    networks = _references(options)
    if _found(options).exists():
        networks[FOUND] = json.loads(_found(options).read_text())
    networks = {name: networks[name] for name in options.only or networks}
    shown = Table("network", "params", "step", "ms", "peak memory, MB", box=box.MARKDOWN)
    spawn = multiprocessing.get_context("spawn")
    for name, architecture in networks.items():
        for lean in (True, False):
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
                params, ms, memory = process.submit(_time, architecture, options, lean).result()
            kind = "lean" if lean else "Keras's own"
            shown.add_row(name, f"{params:,}", kind, f"{ms:.1f}", f"{memory / 1e6:.0f}")
    Console(width=160).print(shown)


def _time(architecture: Any, options: argparse.Namespace, lean: bool) -> tuple[int, float, float]:
    """Returns parameters, milliseconds of a step and the bytes that the process had at most."""
    with native_output_silenced():
        import keras

        from keras_autoshrink.data.windows import training_windows
        from keras_autoshrink.networks.language_model import carrying
        from keras_autoshrink.training.step import accelerate

        recipe, data = TEXT_RECIPES["short"], _load(options, "search")
        network = kas.Architecture.from_json(architecture).build(
            **recipe.cell_dropouts(), **recipe.regularization()
        )
        model = carrying(network, recipe.batch_size, recipe.steps)
        model.compile(
            recipe.build_optimizer(_STEPS),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        if lean:
            accelerate(model)
        rows = _STEPS * recipe.batch_size
        x, y = (
            part[:rows] for part in training_windows(data.train, recipe.batch_size, recipe.steps)
        )
        how = {"batch_size": recipe.batch_size, "shuffle": False, "verbose": 0}
        model.fit(x, y, **how)  # traces
        times = []
        for _ in range(_ROUNDS):
            began = time.monotonic()
            model.fit(x, y, **how)
            times.append((time.monotonic() - began) / (len(x) // recipe.batch_size))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return kas.count_params(network), 1000 * min(times), memory


if __name__ == "__main__":
    main()
