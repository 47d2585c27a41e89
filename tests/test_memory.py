"""A search holds on to no candidate that it has trained, in memory or on disk."""

import gc
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from searches import ONE_STAGE
from sklearn.datasets import load_digits

import keras_autoshrink as kas
from keras_autoshrink.backend import graphs_released

pytestmark = pytest.mark.slow


class Watched(kas.AutoShrink):
    """Notes how many graphs there are after each trial, and how many checkpoints at any time."""

    def __init__(self, *args, **kwargs):
        self.graphs, self.checkpoints = [], []
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


def live_graphs():
    gc.collect()
    return sum(isinstance(thing, tf.Graph) for thing in gc.get_objects())


def least_loss(logs, macs):
    return -logs["val_loss"]  # no two candidates have the same


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    model = kas.CNNCellHyperModel(
        input_shape=(8, 8, 1),
        num_nodes=3,
        filters=4,
        stem_filters=4,
        activation="swish",  # one more custom gradient in each graph
        **ONE_STAGE,
    )
    directory = tmp_path_factory.mktemp("searched")
    tuner = Watched(model, score=least_loss, directory=directory, project_name="search")
    validation = x[64:128], y[64:128]
    tuner.search(x[:64], y[:64], validation_data=validation, epochs=2, verbose=0)
    return tuner


def test_a_search_holds_no_graph_of_a_candidate(searched):
    assert len(searched.graphs) >= 4
    assert max(searched.graphs) == searched.graphs[0]


def test_there_are_never_more_than_two_checkpoints(searched):
    assert len(searched.checkpoints) == 4 * len(searched.graphs)
    assert max(searched.checkpoints) == 2
    assert searched.checkpoints[-1] == 1


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


def test_graphs_are_released_after_an_error_too():
    @graphs_released()
    def fail():
        traced()
        raise KeyError

    before = live_graphs()
    with pytest.raises(KeyError):
        fail()
    assert live_graphs() == before


def test_what_was_traced_outside_stays_differentiable():
    outside = traced()
    with graphs_released():
        assert derivative(traced()) == 0.5
    assert derivative(outside) == 0.5


def test_nothing_happens_where_tensorflow_is_not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow.python.framework.ops")
    with graphs_released():
        inside = traced()
    assert derivative(inside) == 0.5
