"""A search holds on to no candidate that it has trained, in memory or on disk."""

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from forked import outcome
from searches import ONE_STAGE

import keras_autoshrink as kas
from keras_autoshrink.backend import graphs_released, what_stays_frozen
from keras_autoshrink.training import step


def live_graphs():
    # The iterator of the last epoch, which a thread releases, has graphs of its own.
    for thread in threading.enumerate():
        if thread.name == step.RELEASING:
            thread.join()
    gc.collect()
    return sum(isinstance(thing, tf.Graph) for thing in gc.get_objects())


class Watched(kas.AutoShrink):
    """Notes how many graphs there are after each trial, and how many checkpoints at any time.

    And how many objects no garbage collection looks at, those of before the search.
    """

    def __init__(self, *args, **kwargs):
        self.graphs, self.checkpoints, self.frozen = [], [], set()
        super().__init__(*args, **kwargs)

    def count_checkpoints(self):
        self.checkpoints.append(len([*Path(self.project_dir).rglob("checkpoint.weights.*")]))

    def on_epoch_begin(self, trial, model, epoch, logs=None):
        self.count_checkpoints()

    def on_trial_end(self, trial):
        self.count_checkpoints()
        super().on_trial_end(trial)
        self.count_checkpoints()
        self.graphs.append(live_graphs())
        self.frozen.add(gc.get_freeze_count())


def least_loss(logs, macs):
    return -logs["val_loss"]  # no two candidates have the same


def search(folder):
    """In a process of its own, which begins without frozen objects."""
    gc.unfreeze()
    gc.enable()
    hypermodel = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        classes=2,
        num_nodes=3,
        filters=4,
        stem_filters=4,
        activation="swish",  # one more custom gradient in each graph
        **ONE_STAGE,
    )
    tuner = Watched(
        hypermodel,
        score=least_loss,
        num_candidates=2,
        max_candidates=4,
        directory=folder,
        project_name="search",
    )
    x, y = np.random.default_rng(0).random((32, 8, 8, 1), "float32"), np.arange(32) % 2
    tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
    assert len(tuner.graphs) >= 3
    assert max(tuner.graphs) == tuner.graphs[0]
    assert len(tuner.checkpoints) == 3 * len(tuner.graphs)
    assert max(tuner.checkpoints) == 2
    assert tuner.checkpoints[-1] == 1
    assert min(tuner.frozen) > 100_000
    assert gc.get_freeze_count() == 0
    # What somebody else has frozen stays so.
    gc.freeze()
    before = gc.get_freeze_count()
    with what_stays_frozen():
        assert gc.get_freeze_count() == before
    assert gc.get_freeze_count() == before


def test_a_search_holds_no_graph_and_two_checkpoints_at_most(tmp_path):
    assert outcome(search, tmp_path) == 0


def traced():
    """A function with a custom gradient, and its graph in the process's registry."""
    function = tf.function(lambda x: tf.nn.silu(x))
    function(tf.ones(3))
    return function


def derivative(function):
    x = tf.zeros(1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return float(tape.gradient(y, x)[0])


def test_graphs_are_released_and_functions_stay_differentiable(monkeypatch):
    outside = traced()
    before = live_graphs()

    @graphs_released()
    def fail():
        assert derivative(traced()) == 0.5
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert live_graphs() == before
    assert derivative(outside) == 0.5
    # Without TensorFlow there is no registry, and nothing to release.
    monkeypatch.delitem(sys.modules, "tensorflow.python.framework.ops")
    with graphs_released():
        inside = traced()
    assert derivative(inside) == 0.5
