"""The search for a recurrent cell, with real, very small trainings."""

import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from searches import interrupting, timeless

import keras_autoshrink as kas
from keras_autoshrink.networks.operations import RNN_OPERATIONS
from keras_autoshrink.networks.perplexity import PerplexityEvaluation

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


def hypermodel(kind=kas.RNNCellHyperModel, **arguments):
    defaults = {
        "vocabulary_size": VOCABULARY,
        "num_nodes": 3,
        "units": UNITS,
        "batch_size": BATCH,
        "steps": STEPS,
    }
    return kind(**{**defaults, **arguments})


def make(directory, model=None, **arguments):
    arguments = {"num_candidates": 2, "strategy": "paper", **arguments}
    return kas.AutoShrink(
        model or hypermodel(), directory=directory, project_name="search", **arguments
    )


def search(tuner, epochs=2, **arguments):
    tuner.search(TRAIN, validation_data=VALIDATION, epochs=epochs, verbose=0, **arguments)
    return tuner


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return search(make(tmp_path_factory.mktemp("finished")))


def macs_by_hand(cell, units=UNITS, vocabulary=VOCABULARY):
    """For a token: W0, a matrix for each edge, the softmax."""
    return 2 * units * 2 * units + len(cell.edges) * units * 2 * units + units * vocabulary


# The search


def test_it_goes_from_the_complete_cell_to_one_edge(finished):
    records = finished.trajectory()
    assert [record["round"] for record in records] == [0, 1, 2]
    assert [record["edges_left"] for record in records] == [3, 2, 1]
    assert finished.oracle.search.done
    assert json.loads(json.dumps(records)) == records


def test_the_score_is_the_papers_by_default(finished):
    assert finished.score == kas.PerplexityScore()
    for record in finished.trajectory():
        for each in (record, *record["candidates"]):
            expected = (200 - each["objective"]) / 4 - (math.log10(each["macs"]) - 6)
            assert each["score"] == pytest.approx(expected)
    # It is learnt from: with no idea of the text there is one in 30 words.
    assert 1 < finished.trajectory()[0]["objective"] < 29


def test_costs_are_those_of_a_token(finished):
    counted = set()
    for record in finished.trajectory():
        for each in (record, *record["candidates"]):
            macs = macs_by_hand(kas.Cell.from_json(each["cell"]).prune())
            # The embedding is the softmax's weights, which has a bias.
            assert (each["macs"], each["params"]) == (macs, macs + VOCABULARY)
            counted.add(macs)
    assert counted == {256 + edges * 128 + 240 for edges in (1, 2, 3)}


def test_the_best_model_is_the_best_epoch_of_the_best_cell(finished):
    best = max(finished.trajectory(), key=lambda r: (r["score"], -r["edges_left"]))
    assert finished.best_cell() == kas.Cell.from_json(best["cell"]).prune()
    model = finished.get_best_models()[0]
    measured = PerplexityEvaluation(model, VALIDATION, batch_size=10, steps=STEPS)()
    assert measured == pytest.approx(best["objective"])
    files = list(Path(finished.project_dir).rglob("*.weights.h5"))
    assert len(files) == 1


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_the_same(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(make(tmp_path), callbacks=[interrupting(3)])
    resumed = make(tmp_path)
    assert len(resumed.trajectory()) == 1
    search(resumed)
    assert timeless(resumed.trajectory()) == timeless(finished.trajectory())


@pytest.mark.slow
def test_the_seed_decides(finished, tmp_path):
    """The same one was just resumed with: this is about another one, and the first round."""
    baselines = [
        search(make(tmp_path / f"{seed}", keep_fraction=1, seed=seed)).trajectory()[0]
        for seed in (0, 1)
    ]
    assert timeless(baselines[:1]) == timeless(finished.trajectory()[:1])
    assert baselines[1]["score"] != baselines[0]["score"]
    assert baselines[1]["cell"] == baselines[0]["cell"]


class Unlucky(kas.RNNCellHyperModel):
    """Two of its cells overflow, each in its own way."""

    def fit(self, hp, model, *args, **kwargs):
        if not hp.get("cell/edge_0_1"):
            model.optimizer.learning_rate = 1e30
        if not hp.get("cell/edge_0_2"):
            # All words but one are impossible: a loss that is finite, exp of it is not.
            embedding = model.get_layer("embedding")
            bias = np.zeros(VOCABULARY)
            bias[7] = 1e4
            embedding.set_weights([embedding.get_weights()[0], bias])
        return super().fit(hp, model, *args, **kwargs)


@pytest.mark.slow
def test_candidates_that_overflow_fail_and_the_search_goes_on(tmp_path):
    # Of 3 edges 2 are to be left.
    tuner = search(make(tmp_path, hypermodel(Unlucky), num_candidates=3, keep_fraction=0.6), 1)
    _, record = tuner.trajectory()
    candidates = {tuple(each["removed_edge"]): each for each in record["candidates"]}
    assert {edge: each["status"] for edge, each in candidates.items()} == {
        (0, 1): "failed",
        (0, 2): "failed",
        (1, 2): "adopted",
    }
    assert record["removed_edge"] == [1, 2]
    for edge, value in (((0, 1), "(nan|inf)"), ((0, 2), "inf")):
        error = candidates[edge]["error"]
        assert "\n" not in error
        found = re.search(rf"the (loss|val_loss|val_perplexity) of epoch 1 is {value}$", error)
        assert found, error
        assert candidates[edge]["score"] is None


def test_a_candidate_that_gets_no_better_is_stopped(tmp_path):
    began = []

    class Counts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            began.append(epoch)

    # So small that no weight changes, and none of the perplexities.
    tuner = make(tmp_path, hypermodel(learning_rate=1e-30), keep_fraction=1)
    search(tuner, epochs=9, callbacks=[Counts()])
    assert began == [0, 1, 2, 3, 4, 5]


def test_a_score_of_the_users_own(tmp_path):
    def by_loss(logs, macs):
        return -logs["val_loss"] - macs / 1e4

    tuner = search(make(tmp_path, score=by_loss, keep_fraction=1), epochs=1)
    record = tuner.trajectory()[0]
    logs = tuner.oracle.get_best_trials(1)[0].metrics
    assert record["macs"] == macs_by_hand(tuner.hypermodel.cell)
    assert record["score"] == -logs.get_best_value("val_loss") - record["macs"] / 1e4
    assert tuner.score is by_loss


@pytest.mark.parametrize(
    ("perplexity", "macs", "expected"),
    [(100.0, 10**7, 24.0), (200.0, 10**6, 0.0), (60.0, 10**8, 33.0), (1000.0, 10**5, -199.0)],
)
def test_the_perplexity_score(perplexity, macs, expected):
    score = kas.PerplexityScore()
    assert score.objective == "val_perplexity"
    assert score({"val_perplexity": perplexity, "loss": 1.0}, macs) == pytest.approx(expected)


# Its cell


def test_each_node_draws_its_activation_by_the_seed():
    cells = [kas.RNNCellHyperModel(num_nodes=6, seed=seed).cell for seed in range(30)]
    again = [kas.RNNCellHyperModel(num_nodes=6, seed=seed).cell for seed in range(30)]
    assert cells == again
    assert len({cell.ops for cell in cells}) > 20
    for cell in cells:
        assert cell == kas.Cell.dense(cell.ops)
        assert (len(cell.ops), len(cell.edges)) == (6, 15)
        assert set(cell.ops[1:]) <= set(RNN_OPERATIONS)
    # Not half of each: some nodes have the same, and all occur in each place.
    assert any(len(set(cell.ops[1:])) < 3 for cell in cells)
    for node in range(1, 6):
        assert {cell.ops[node] for cell in cells} == set(RNN_OPERATIONS)


def test_it_draws_from_the_operations_that_it_is_given():
    cell = kas.RNNCellHyperModel(num_nodes=20, operations=("relu", "tanh")).cell
    assert set(cell.ops[1:]) == {"relu", "tanh"}


def test_a_search_with_other_settings_is_another_search(finished):
    directory = Path(finished.project_dir).parent
    for changed, culprit in (
        ({"units": 9}, "units=8, not 9"),
        ({"learning_rate": 2.0}, "learning_rate=20.0, not 2.0"),
        ({"clip_norm": 1.0}, "clip_norm=0.25, not 1.0"),
        ({"batch_size": 5}, "batch_size=4, not 5"),
        ({"steps": 6}, "steps=5, not 6"),
        ({"vocabulary_size": 31}, "vocabulary_size=30, not 31"),
        ({"num_nodes": 4}, "ops="),
    ):
        with pytest.raises(ValueError, match=rf"another hypermodel: .*{culprit}"):
            make(directory, hypermodel(**changed))


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size=1: expected a whole number of 2 or more"),
        ({"num_nodes": 1}, "num_nodes=1: expected a whole number of 2 or more"),
        ({"units": 0}, "units=0: expected a whole number of 1 or more"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number of 1 or more"),
        ({"steps": -1}, "steps=-1: expected a whole number of 1 or more"),
        ({"learning_rate": 0}, "learning_rate=0: expected a number greater than 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan: expected a number greater than 0"),
        ({"clip_norm": math.inf}, "clip_norm=inf: expected a number greater than 0"),
        ({"clip_norm": -0.25}, "clip_norm=-0.25: expected a number greater than 0"),
        ({"operations": ()}, "operations=(): expected activations, such as ('tanh',)"),
    ],
)
def test_bad_hypermodels_are_named(arguments, message):
    with pytest.raises(ValueError, match=next(iter(arguments))) as caught:
        hypermodel(**arguments)
    assert str(caught.value) == message


def test_operations_that_no_recurrent_cell_has_are_named(tmp_path):
    with pytest.raises(ValueError, match="gelu"):
        hypermodel(operations=("gelu",))
    with pytest.raises(ValueError, match=r"op 'conv1x1' of node 1: .* are activations, tanh, relu"):
        make(tmp_path, hypermodel(operations=("conv1x1",)))
    assert not list(tmp_path.iterdir())


def changed(tokens, value):
    return np.append(tokens[:-1], value)


BAD_DATA = {
    "validation of one": ((TRAIN,), {"validation_data": VALIDATION[:1]}, "validation_data: "),
    "no text": ((), {}, "x: missing"),
    "targets behind it": ((TRAIN, TRAIN), {}, "y: is not for texts"),
    "ragged": ((TRAIN,), {"validation_data": (TRAIN, VALIDATION)}, "validation_data: "),
    "no validation": (
        (TRAIN,),
        {"validation_data": None},
        "validation_data: missing; a text is searched by",
    ),
    "targets": (
        (TRAIN,),
        {"y": TRAIN},
        r"y: is not for texts; a text is searched by search\(train_tokens, valid",
    ),
    "batch size": ((TRAIN,), {"batch_size": 8}, "batch_size: is not for texts"),
    "split": ((TRAIN,), {"validation_split": 0.1}, "validation_split: is not for texts"),
    "weights": ((TRAIN,), {"sample_weight": TRAIN}, "sample_weight: is not for texts"),
    "floats": ((TRAIN / 1,), {}, r"x: has shape \(400,\) and dtype float64; expected the tokens"),
    "rank": ((TRAIN.reshape(4, -1),), {}, r"x: has shape \(4, 100\) and dtype int32"),
    "words": ((["a", "b"],), {}, r"x: has shape \(2,\) and dtype <U1; expected the tokens"),
    "nothing": ((np.zeros(0, int),), {}, "x: has 0 tokens; expected 2 or more"),
    "large": (
        (changed(TRAIN, 30),),
        {},
        "x: holds the token 30; those of vocabulary_size=30 are 0",
    ),
    "negative": ((changed(TRAIN, -1),), {}, "x: holds the token -1; .* are 0 to 29"),
    "short": ((TRAIN[:20],), {}, "20 tokens: one window of 5 steps in each of 4 streams takes 21"),
    "validation rank": (
        (TRAIN,),
        {"validation_data": (VALIDATION, VALIDATION)},
        r"validation_data: has shape \(2, 120\)",
    ),
    "validation nothing": (
        (TRAIN,),
        {"validation_data": []},
        r"validation_data: (holds no token|has shape \(0,\))",
    ),
    "validation large": (
        (TRAIN,),
        {"validation_data": changed(VALIDATION, 99)},
        "validation_data: holds the token 99",
    ),
    "no epoch": ((TRAIN,), {"epochs": 0}, "epochs=0: expected 1 or more"),
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return make(tmp_path_factory.mktemp("untrained"))


@pytest.mark.parametrize(
    "case",
    BAD_DATA.values(),
    ids=BAD_DATA,
)
def test_bad_data_are_refused_before_anything_is_trained(untrained, case):
    arguments, options, culprit = case
    with pytest.raises(ValueError, match=culprit) as caught:
        untrained.search(*arguments, **{"validation_data": VALIDATION, **options})
    assert "\n" not in str(caught.value)
    assert not untrained.oracle.trials
    assert not list(Path(untrained.project_dir).glob("trial_*"))


def test_a_text_of_one_window_is_enough(tmp_path):
    tuner = make(tmp_path, keep_fraction=1)
    tuner.search(TRAIN[:21], validation_data=VALIDATION[:2].tolist(), epochs=1, verbose=0)
    assert tuner.trajectory()[0]["objective"] > 1
