"""The search for a recurrent cell, with real, very small trainings."""

import json
import math
from pathlib import Path

import keras_tuner
import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.networks.operations import RNN_OPERATIONS
from keras_autoshrink.networks.perplexity import PerplexityEvaluation
from keras_autoshrink.training.step import accelerate

VOCABULARY, UNITS, BATCH, STEPS = 30, 8, 4, 5


def make_text(length, seed):
    """A word mostly follows from the one before it."""
    rng = np.random.default_rng(seed)
    successors = np.random.default_rng(0).permutation(VOCABULARY)
    tokens = [0]
    while len(tokens) < length:
        random = rng.random() < 0.3
        tokens.append(int(rng.integers(VOCABULARY)) if random else int(successors[tokens[-1]]))
    return np.array(tokens, np.int32)


TRAIN, VALIDATION = make_text(400, 1), make_text(120, 2)


def hypermodel(**arguments):
    defaults = {
        "vocabulary_size": VOCABULARY,
        "num_nodes": 3,
        "units": UNITS,
        "batch_size": BATCH,
        "steps": STEPS,
    }
    return kas.RNNCellHyperModel(**{**defaults, **arguments})


# The search


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    paper = {"num_candidates": 1, "strategy": "paper", "keep_fraction": 0.6}
    tuner = kas.AutoShrink(hypermodel(), directory=directory, project_name="search", **paper)
    # What cannot be trained on is refused before anything is trained.
    with pytest.raises(ValueError, match="x: holds the token 30"):
        tuner.search(np.append(TRAIN, 30), validation_data=VALIDATION, epochs=2, verbose=0)
    assert not tuner.oracle.trials
    tuner.search(TRAIN, validation_data=VALIDATION, epochs=2, verbose=0)
    return tuner


def test_each_round_has_the_papers_score_and_the_costs_of_a_token(finished):
    records = finished.trajectory()
    assert [record["edges_left"] for record in records] == [3, 2]
    assert finished.score == kas.PerplexityScore()
    for record in records:
        for each in (record, *record["candidates"]):
            expected = (200 - each["objective"]) / 4 - (math.log10(each["macs"]) - 6)
            assert each["score"] == pytest.approx(expected)
            # W0, a matrix for each edge, and the softmax, which is the embedding with a bias.
            edges = len(kas.Cell.from_json(each["cell"]).live_edges)
            macs = 2 * UNITS * 2 * UNITS + edges * UNITS * 2 * UNITS + UNITS * VOCABULARY
            assert (each["macs"], each["params"]) == (macs, macs + VOCABULARY)
    # It is learnt from: with no idea of the text there is one in 30 words.
    assert 1 < records[0]["objective"] < 29


def test_the_best_model_is_the_best_epoch_of_the_best_cell(finished):
    best = max(finished.trajectory(), key=lambda r: (r["score"], -r["edges_left"]))
    assert finished.best_cell() == kas.Cell.from_json(best["cell"]).prune()
    model = finished.get_best_models()[0]
    measured = PerplexityEvaluation(model, VALIDATION, batch_size=10, steps=STEPS)()
    assert measured == pytest.approx(best["objective"])
    assert len(list(Path(finished.project_dir).rglob("*.weights.h5"))) == 1


def test_a_candidate_that_gets_no_better_is_stopped():
    # So small that no weight changes, and none of the perplexities.
    model, hp = hypermodel(learning_rate=1e-30), keras_tuner.HyperParameters()
    built = model.build(hp)
    accelerate(built)  # as a search does: Keras's own step takes longer to be traced
    trained = model.fit(hp, built, TRAIN, validation_data=VALIDATION, epochs=9, verbose=0)
    assert trained.epoch == [0, 1, 2, 3, 4, 5]


# Its cell


def test_each_node_draws_its_activation_by_the_seed():
    cells = [kas.RNNCellHyperModel(num_nodes=6, seed=seed).cell for seed in range(30)]
    assert cells == [kas.RNNCellHyperModel(num_nodes=6, seed=seed).cell for seed in range(30)]
    assert all(cell == kas.Cell.dense(cell.ops) for cell in cells)
    # Not a fixed number of each: some nodes have the same, and all occur in each place.
    assert any(len(set(cell.ops[1:])) < 3 for cell in cells)
    for node in range(1, 6):
        assert {cell.ops[node] for cell in cells} == set(RNN_OPERATIONS)
    cell = kas.RNNCellHyperModel(num_nodes=20, operations=("relu", "tanh")).cell
    assert set(cell.ops[1:]) == {"relu", "tanh"}


def test_its_config_holds_all_that_a_score_depends_on():
    config = hypermodel().get_config()
    assert json.loads(json.dumps(config)) == config
    for changed in (
        *({"units": 9}, {"learning_rate": 2.0}, {"clip_norm": 1.0}, {"batch_size": 5}),
        *({"steps": 6}, {"vocabulary_size": 31}, {"num_nodes": 4}, {"operations": ["relu"]}),
    ):
        assert hypermodel(**changed).get_config() != config


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size=1: expected"),
        ({"num_nodes": 1}, "num_nodes=1: expected"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"learning_rate": math.nan}, "learning_rate=nan: expected"),
        ({"clip_norm": -0.25}, "clip_norm=-0.25: expected"),
        ({"operations": ()}, r"operations=\(\): expected"),
        ({"operations": "tanh"}, "operations='tanh': expected"),
        ({"operations": ("tanh", "conv1x1")}, "op 'conv1x1': .* are activations, tanh, relu"),
    ],
)
def test_bad_hypermodels_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hypermodel(**arguments)


BAD_DATA = {
    "no text": ((), {}, "x: missing; a text is searched by"),
    "no validation": ((TRAIN,), {"validation_data": None}, "validation_data: missing"),
    "targets": ((TRAIN, TRAIN), {}, "y: is not for texts"),
    "batch size": ((TRAIN,), {"batch_size": 8}, "batch_size: is not for texts"),
    "floats": ((TRAIN / 1,), {}, r"x: has shape \(400,\) and dtype float64"),
    "rank": ((TRAIN.reshape(4, -1),), {}, r"x: has shape \(4, 100\) and dtype int32"),
    "ragged": ((TRAIN,), {"validation_data": (TRAIN, VALIDATION)}, "validation_data: has shape"),
    "nothing": ((np.zeros(0, int),), {}, "x: has 0 tokens"),
    "negative": ((np.append(TRAIN, -1),), {}, "x: holds the token -1; .* are 0 to 29"),
    "short": ((TRAIN[:20],), {}, "20 tokens: one window of 5 steps in each of 4 streams takes 21"),
}


@pytest.mark.parametrize(("arguments", "options", "culprit"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_are_named(arguments, options, culprit):
    with pytest.raises(ValueError, match=culprit):
        hypermodel().check_search_arguments(
            *arguments, **{"validation_data": VALIDATION, **options}
        )


def test_lists_and_a_text_of_one_window_are_enough():
    hypermodel().check_search_arguments(
        x=TRAIN[:21].tolist(), validation_data=VALIDATION[:2].tolist()
    )
