"""What tests of searches share: searches whose results are computed, not trained."""

import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import keras
import keras_tuner

import keras_autoshrink as kas
from keras_autoshrink.hypermodels.search_space import CellSpace
from keras_autoshrink.search import STRATEGIES
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch

# How many stages small networks have, each of one cell.
ONE_STAGE = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}
TWO_STAGES = {"stage_scales": (1, 2), "stage_strides": (1, 2), "stage_repeats": (1, 1)}

OPS = (
    *("input", "sepconv3x3", "conv1x1", "conv1x1", "sepconv3x3"),
    *("conv1x1", "sepconv3x3", "conv1x1"),
)


def computed(cell):
    """A made-up score that depends on the network alone, as a real one does."""
    return random.Random(cell.key).random() - len(cell.edges) / 30


def timeless(records):
    """A copy of a trajectory without what a clock measured."""
    records = json.loads(json.dumps(records))
    for record in records:
        for each in (record, *record["candidates"]):
            del each["seconds"]
    return records


def unassigned(records):
    """A copy of a trajectory but for which trial trained what: that is who asked first."""
    records = timeless(records)
    for record in records:
        for candidate in record["candidates"]:
            del candidate["trial_id"]
    return records


class Declares(keras_tuner.HyperModel):
    """A search space of a cell and a learning rate."""

    def __init__(self, ops=OPS[:5]):
        super().__init__()
        self.ops = ops

    def build(self, hp):
        hp.Float("learning_rate", 1e-4, 1e-1, default=1e-3)
        return kas.declare_cell(hp, kas.Cell.dense(self.ops))


class Eager(kas.CNNCellHyperModel):
    """Its networks are not traced, which takes longer than to train them for some steps.

    That a search trains in graphs as well is seen where scripts and commands search.
    """

    def build(self, hp):
        model = super().build(hp)
        model.run_eagerly = True
        return model


class _Computes:
    """A tuner whose results are a function of the cell; `ran` has the cells in their order."""

    function = staticmethod(computed)

    def run_trial(self, trial, *args, **kwargs):
        cell = self.oracle.cell_of(trial)
        self.__dict__.setdefault("ran", []).append(cell)
        return {self.oracle.objective.name: self.function(cell)}


class Computes(_Computes, keras_tuner.Tuner):
    """A tuner of KerasTuner's own with our oracle."""


class ComputesShrink(_Computes, kas.AutoShrink):
    """AutoShrink, but that it trains nothing."""


def in_memory(ops, **settings):
    """The search that begins in the space of `Declares`."""
    hp = keras_tuner.HyperParameters()
    Declares(ops).build(hp)
    space = CellSpace(hp.space, STRATEGIES[settings["strategy"]].whole_space).space
    return ShrinkSearch(space.start, **settings, space=space)


class InMemory:
    """A search without KerasTuner, kept as JSON between two runs."""

    @staticmethod
    def run(folder, function=computed, ops=OPS[:5], **settings):
        """Goes on with the search in a folder; returns it and the cells that were trained."""
        folder.mkdir(exist_ok=True)
        path = folder / "search.json"
        made = in_memory(ops, **settings)
        if path.exists():
            made = ShrinkSearch.from_json(json.loads(path.read_text()))
            made.reopen()
        ran = []
        try:
            while pending := made.pending():
                ran.append(pending[0].cell)
                try:
                    outcome = Outcome(function(ran[-1]))
                except ValueError as error:
                    outcome = Outcome(None, error=f"ValueError: {error}")
                made.tell(ran[-1], outcome)
        finally:
            path.write_text(json.dumps(made.to_json()))
        return made, ran


class WithOracle:
    """The oracle under KerasTuner's own Tuner, kept by its files."""

    @staticmethod
    def make(folder, function=computed, ops=OPS[:5], overwrite=False, hypermodel=None, **settings):
        oracle = kas.AutoShrinkOracle(keras_tuner.Objective("accuracy", "max"), **settings)
        made = Computes(
            oracle,
            hypermodel or Declares(ops),
            directory=folder,
            project_name="search",
            overwrite=overwrite,
        )
        made.function, made.ran = function, []
        return made

    @classmethod
    def run(cls, folder, *args, **settings):
        """Goes on with the search in a folder; returns it and the cells that were trained."""
        made = cls.make(folder, *args, **settings)
        try:
            made.search(verbose=0)
        except RuntimeError:  # it failed as a whole, which the search says too
            assert made.oracle.search.error
        return made.oracle.search, made.ran


class WithTuner(WithOracle):
    """AutoShrink itself, kept by its files."""

    @staticmethod
    def make(folder, function=computed, ops=OPS[:5], overwrite=False, hypermodel=None, **settings):
        made = ComputesShrink(
            hypermodel or Declares(ops),
            directory=folder,
            project_name="search",
            overwrite=overwrite,
            **settings,
        )
        made.function, made.ran = function, []
        return made


def die_writing(count):
    """Has this process killed in a write of a file to come, before that is in its place."""
    written = iter(range(count))
    replace = Path.replace

    def replace_or_die(self, target):
        if next(written, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = replace_or_die


def interrupting(training):
    """A callback that interrupts one of a search's trainings, counted from 1."""
    begun = itertools.count(1)

    class Interrupt(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if next(begun) == training:
                raise KeyboardInterrupt

    return Interrupt()


def wait_for(condition):
    """Sleeps until a condition holds; pytest's timeout ends it else."""
    while not condition():
        time.sleep(0.05)


def folder_of(tuner):
    return Path(tuner.project_dir)
