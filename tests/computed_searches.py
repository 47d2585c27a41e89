"""Searches whose networks are computed instead of trained, and the folders that hold them."""

import dataclasses
import json
import random
from types import SimpleNamespace

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.points import Point, Space, with_fidelity
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch

OPS = ("input", "sepconv3x3", *["conv1x1", "conv1x1", "sepconv3x3"] * 2)
DENSE = Cell.dense(OPS)

# What no page may run, in an error, a name or a setting.
HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror='stolen = 1'>&amp;"


def paper(cell=DENSE, **settings):
    return ShrinkSearch(cell, **{"strategy": "paper", **settings})


def bayesian(cell=DENSE, **settings):
    known = {"num_candidates": 4, "max_candidates": 21}
    return ShrinkSearch(cell, **{"strategy": "bayesian", **known, **settings})


def at_budget(folds=1, **settings):
    """A search at a budget: it begins with a plain cell and references, and ends with a final."""
    ops = ("input", "conv1x1", "sepconv3x3", "conv1x1")
    dense, values = Cell.dense(ops), with_fidelity((("network", "cell"), ("units", 2)), 4)
    start = Point(ops, dense.edges, values)
    references = [
        dataclasses.replace(start, values=tuple({**dict(values), "network": name}.items()))
        for name in ("chain-stride2", "resnet8")
    ]
    space = Space(
        start,
        (("input",), *[("conv1x1", "sepconv3x3")] * 3),
        {"network": ("cell",), "units": (2, 4, 8)},
        first=(dataclasses.replace(start, edges=((0, 1),)), *references),
        rungs=(4, 8),
        folds=folds,
    )
    known = {"strategy": "evolution", "num_candidates": 4, "max_candidates": 24}
    return ShrinkSearch(start, **{**known, **settings}, space=space)


def accuracy(chain):
    """Returns what computes accuracies of the networks of `at_budget`, that of the chain given."""

    def evaluate(point):
        name = dict(point.values)["network"]
        of_network = noise(point.trained_for(0))
        worth = {"cell": 0.5 + 0.2 * of_network, "resnet8": 0.4, "chain-stride2": chain}[name]
        found = worth + 0.01 * noise(point)
        costs = {"macs": 9_000, "params": 100 + 100 * len(point.edges)}
        return Outcome(found, found, costs, seconds=2.0)

    return evaluate


def noise(cell):
    """A number from 0 to 1 that depends on the network alone."""
    return random.Random(f"0/{cell.key}").random()


def outcome(cell, **costs):
    """Returns a made-up outcome, of `costs` beside the MACs."""
    edges, found = len(cell.edges), noise(cell)
    return Outcome(found - edges / 30, found, {"macs": edges + 1, **costs}, seconds=2.0)


def some_fail(cell):
    """As `outcome`, but some parts of a cell fail, and some are over a limit."""
    if len(cell.edges) < 28 and noise(cell) < 0.2:
        return Outcome(None, error=f"ValueError: {HOSTILE}", seconds=2.0)
    if len(cell.edges) < 28 and noise(cell) < 0.4:
        return Outcome(None, costs={"macs": 99}, over_limit="99 MACs, at most 98")
    return outcome(cell)


def run(search, evaluate=outcome):
    """Runs a search to its end, and returns it."""
    while pending := search.pending():
        search.tell(pending[0].cell, evaluate(pending[0].cell))
    return search


def save(search, folder, metric="val_accuracy", direction="max", **others):
    """Writes a search into a folder as a tuner does; `others` are further JSON files of it."""
    folder.mkdir(exist_ok=True)
    about = {"metric": metric, "direction": direction, "max_seconds_per_trial": None}
    state = {"search": search.to_json(), "about": about}
    for name, content in {"oracle": state, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return SimpleNamespace(project_dir=str(folder), path=folder)
