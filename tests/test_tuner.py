"""AutoShrink with real, very small trainings."""

import inspect
import json
import math
import shutil
import types
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from searches import ONE_STAGE, interrupting, timeless

import keras_autoshrink as kas
from keras_autoshrink.commands.arguments import build_parser
from keras_autoshrink.data.images import load_images
from keras_autoshrink.hypermodels.callbacks import ProxyStopping
from keras_autoshrink.search.shrink import ShrinkSearch


@pytest.fixture(scope="module")
def data():
    digits = load_images("digits", purpose="search")
    train, validation = digits.train, digits.validation
    return (train.x[:256], train.y[:256]), (validation.x[:128], validation.y[:128])


def hypermodel(**arguments):
    defaults = {"num_nodes": 3, "filters": 4, "stem_filters": 8, "batch_size": 64, **ONE_STAGE}
    return kas.CNNCellHyperModel(input_shape=(8, 8, 1), **{**defaults, **arguments})


def make(directory, model=None, **arguments):
    """A search by the paper's walk, unless the arguments say otherwise."""
    arguments = {"strategy": "paper", **arguments}
    return kas.AutoShrink(
        model or hypermodel(), directory=directory, project_name="search", **arguments
    )


def search(tuner, data, epochs=3, **arguments):
    (x, y), validation = data
    tuner.search(x, y, validation_data=validation, epochs=epochs, verbose=0, **arguments)
    return tuner


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    return search(make(tmp_path_factory.mktemp("finished")), data)


def test_records_hold_what_was_measured(finished):
    records = finished.trajectory()
    assert [record["round"] for record in records] == list(range(len(records)))
    assert records[0]["edges_left"] == 3
    assert records[-1]["edges_left"] == 1
    for record in records:
        expected = record["objective"] - 0.1 * (math.log10(record["macs"]) - 6)
        assert record["score"] == pytest.approx(expected)
        model = finished.hypermodel.build(values_of(finished, record))
        assert record["macs"] == kas.count_macs(model)
        assert record["params"] == kas.count_params(model)
        assert record["seconds"] > 0
    assert json.loads(json.dumps(records)) == records
    assert list(pd.DataFrame(records)["edges_left"]) == [r["edges_left"] for r in records]


def values_of(tuner, record):
    adopted = next(c for c in record["candidates"] if c["status"] == "adopted")
    return tuner.oracle.get_trial(adopted["trial_id"]).hyperparameters


def test_the_best_model_is_the_best_epoch_of_the_best_cell(finished, data):
    best = max(finished.trajectory(), key=lambda r: (r["score"], -r["edges_left"]))
    assert finished.best_cell() == kas.Cell.from_json(best["cell"]).prune()
    model = finished.get_best_models()[0]
    accuracy = model.evaluate(*data[1], verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(best["objective"])


def test_only_the_best_cells_weights_stay(finished):
    checkpoints = list(path_of(finished).rglob("checkpoint.weights.*"))
    assert [file.parent.name for file in checkpoints] == [
        f"trial_{finished.oracle.get_best_trials(1)[0].trial_id}"
    ]
    with pytest.raises(ValueError, match="only the best cell's are kept"):
        finished.get_best_models(2)


def path_of(tuner):
    return Path(tuner.project_dir)


def test_summaries_are_keras_tuners_own(finished, capsys):
    finished.search_space_summary()
    finished.results_summary(1)
    printed = capsys.readouterr().out
    assert "cell/edge_0_1 (Boolean)" in printed
    best = finished.oracle.get_best_trials(1)[0]
    assert f"Score: {best.score}" in printed
    assert len(finished.get_best_hyperparameters(2)) == 2


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_the_same(finished, tmp_path, data):
    with pytest.raises(KeyboardInterrupt):
        search(make(tmp_path), data, callbacks=[interrupting(3)])
    resumed = search(make(tmp_path), data)
    assert timeless(resumed.trajectory()) == timeless(finished.trajectory())
    again = search(make(tmp_path), data)
    assert again.trajectory() == resumed.trajectory()


def test_a_search_by_the_bayesian_strategy(data, tmp_path, capsys):
    settings = {"strategy": "bayesian", "num_candidates": 6, "max_candidates": 8}
    tuner = make(tmp_path, **settings)
    (x, y), validation = data
    tuner.search(x, y, validation_data=validation, epochs=1)
    printed = capsys.readouterr().out
    assert "Round 0 done: complete cell, edges left: 3" in printed
    assert "Round 1 done: edges removed: " in printed
    records = tuner.trajectory()
    # All parts of a cell of 3 nodes.
    assert 1 < len(tuner.oracle.trials) <= 7
    assert tuner.best_cell() == kas.Cell.from_json(tuner.oracle.search.best()["cell"]).prune()
    assert make(tmp_path, **settings).trajectory() == records
    for changed in ({"max_candidates": 9}, {"strategy": "paper", "max_candidates": None}):
        with pytest.raises(ValueError, match=rf"{next(iter(changed))}=.*overwrite=True"):
            make(tmp_path, **{**settings, **changed})


def test_the_default_strategy_is_one_everywhere(data, tmp_path):
    for made in (ShrinkSearch, kas.AutoShrinkOracle, kas.AutoShrink):
        assert inspect.signature(made).parameters["strategy"].default == "bayesian"
    assert build_parser().parse_args(["search"]).strategy == "bayesian"
    tuner = kas.AutoShrink(hypermodel(), directory=tmp_path, num_candidates=2)
    records = search(tuner, data, epochs=1).trajectory()
    assert all("added_edges" in record for record in records)
    # As many as the paper's walk would train at most, while there are others.
    assert sum(len(record["candidates"]) for record in records) == 1 + 2 + 2
    with pytest.raises(ValueError, match="strategy='bayesian', not 'paper'"):
        kas.AutoShrink(hypermodel(), directory=tmp_path, num_candidates=2, strategy="paper")


def test_a_directory_with_another_search_is_refused(finished):
    directory = path_of(finished).parent
    before = {p: p.read_bytes() for p in path_of(finished).rglob("*.json")}
    for changed, culprit in (
        ({"model": hypermodel(filters=8)}, r"another hypermodel: .*filters=4, not 8"),
        ({"model": hypermodel(num_nodes=4)}, r"another hypermodel: .*ops="),
        (
            {"score": kas.AccuracyScore(0.5)},
            r"another score: .*'weight': 0.1.*, not .*'weight': 0.5",
        ),
        ({"seed": 5}, "seed=0, not 5"),
        ({"num_candidates": 5}, "num_candidates=.*, not 5"),
        ({"strategy": "bayesian"}, "another strategy: strategy='paper', not 'bayesian'"),
    ):
        with pytest.raises(ValueError, match=rf"{culprit}.*overwrite=True"):
            make(directory, **changed)
    assert {p: p.read_bytes() for p in path_of(finished).rglob("*.json")} == before


def test_a_search_that_says_no_strategy_is_the_papers(finished, tmp_path):
    shutil.copytree(path_of(finished), tmp_path / "search")
    path = tmp_path / "search" / "tuner0.json"
    state = json.loads(path.read_text())
    del state["strategy"], state["max_candidates"]
    path.write_text(json.dumps(state))
    (tmp_path / "search" / "oracle.json").unlink()  # the trials say nothing of a strategy
    with pytest.raises(ValueError, match="another strategy: strategy='paper', not 'bayesian'"):
        make(tmp_path, strategy="bayesian")
    resumed = make(tmp_path, strategy="paper")
    assert timeless(resumed.trajectory()) == timeless(finished.trajectory())


def test_what_cannot_be_built_deletes_nothing(finished):
    before = sorted(path_of(finished).rglob("*"))
    for model in (hypermodel(stem_filters=0), hypermodel(filters=0), lambda hp: None):
        with pytest.raises(ValueError, match=r"stem_filters=0|filters=0|declare the edges"):
            make(path_of(finished).parent, model, overwrite=True)
    assert sorted(path_of(finished).rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../other"])
def test_a_project_name_that_is_no_name_is_refused(tmp_path, name):
    (tmp_path / "precious").mkdir()
    with pytest.raises(ValueError, match="project_name="):
        kas.AutoShrink(hypermodel(), directory=tmp_path, project_name=name, overwrite=True)
    assert (tmp_path / "precious").exists()


def test_functions_that_build_other_networks_are_told_apart(tmp_path):
    def builder(units):
        def build(hp):
            cell = kas.declare_cell(hp, kas.Cell.dense(("input", "tanh")))
            inputs = keras.Input((units,))
            return keras.Model(inputs, keras.layers.Dense(1, cell.ops[1])(inputs))

        return build

    make(tmp_path, builder(3)).save()
    make(tmp_path, builder(3))
    with pytest.raises(ValueError, match=r"another hypermodel: params=4, not 6"):
        make(tmp_path, builder(5))


def test_a_folder_of_another_tuner_is_refused(tmp_path):
    keras_tuner.RandomSearch(
        hypermodel(), "val_accuracy", 1, directory=tmp_path, project_name="search"
    ).save()
    with pytest.raises(ValueError, match=r"overwrite=True"):
        make(tmp_path)


def test_a_hypermodel_that_drops_its_callbacks_is_told_so(tmp_path, data):
    class Drops(kas.CNNCellHyperModel):
        def fit(self, hp, model, *args, callbacks, **kwargs):
            return model.fit(*args, **kwargs)

    model = Drops(input_shape=(8, 8, 1), num_nodes=2, filters=4, stem_filters=4)
    with pytest.raises(ValueError, match="pass its callbacks on"):
        search(make(tmp_path, model), data, epochs=1)


def test_a_failed_candidates_weights_do_not_stay(tmp_path, data):
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise ValueError("boom")

    tuner = make(tmp_path, keep_fraction=1)
    with pytest.raises(RuntimeError, match="ValueError: boom"):
        search(tuner, data, callbacks=[Fails()])
    assert not list(path_of(tuner).rglob("checkpoint.weights.*"))


def test_overwrite_starts_anew(tmp_path, data):
    search(make(tmp_path, keep_fraction=1), data, epochs=1)
    anew = make(tmp_path, keep_fraction=1, seed=3, overwrite=True)
    assert anew.trajectory() == []
    with pytest.raises(RuntimeError, match=r"run search\(\) first"):
        anew.best_cell()


def test_datasets_callbacks_and_executions(tmp_path, data):
    """What users of KerasTuner pass along; one candidate is enough to see it arrive."""

    seen = []  # KerasTuner copies callbacks: one of its own would be a copy's

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    train, validation = (tf.data.Dataset.from_tensor_slices(part).batch(64) for part in data)
    tuner = make(tmp_path, keep_fraction=1, executions_per_trial=2)
    tuner.search(
        train,
        validation_data=validation,
        epochs=2,
        verbose=0,
        callbacks=[Watch(), keras.callbacks.TensorBoard(tmp_path / "logs")],
    )
    assert len(seen) == 4
    assert {"score", "macs", "params", "val_accuracy"} <= set(seen[0])
    scores = [logs["score"] for logs in seen]
    assert tuner.trajectory()[0]["score"] == pytest.approx((max(scores[:2]) + max(scores[2:])) / 2)
    assert scores[0] != scores[2]  # the executions start from different weights
    for execution in ("execution0", "execution1"):
        assert list((tmp_path / "logs" / "0000" / execution).rglob("events*"))


def test_a_score_and_a_hypermodel_of_the_users_own(tmp_path):
    ops = ("input", "relu", "tanh")

    def build(hp):
        cell = kas.declare_cell(hp, kas.Cell.dense(ops))
        units = hp.Int("units", 4, 8, default=4)
        outputs = [keras.Input((6,))]
        for node in range(1, cell.num_nodes):
            inputs = [outputs[i] for i in cell.predecessors(node)] or outputs[:1]
            merged = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
            outputs.append(keras.layers.Dense(units, cell.ops[node])(merged))
        prediction = keras.layers.Dense(1)(outputs[cell.leaves[0]])
        model = keras.Model(outputs[0], prediction)
        model.compile("adam", "mse", metrics=["mae"])
        return model

    def error_and_cost(logs, macs):
        return -logs["val_mae"] - macs / 1000

    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 6)).astype("float32")
    tuner = kas.AutoShrink(build, score=error_and_cost, num_candidates=1, directory=tmp_path)
    tuner.search(x, x.sum(axis=1), validation_split=0.5, epochs=1, verbose=0)
    first = tuner.trajectory()[0]
    assert first["macs"] == 6 * 4 + 10 * 4 + 4
    assert first["objective"] == first["score"]


def test_seeds_of_python_and_numpy_come_from_the_cell_alone(tmp_path, data):
    drawn = []

    class Draws(kas.CNNCellHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            drawn.append(float(np.random.random()))
            return super().fit(hp, model, *args, **kwargs)

    for directory, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = Draws(input_shape=(8, 8, 1), num_nodes=2, filters=4, stem_filters=4, **ONE_STAGE)
        search(make(tmp_path / directory, model, seed=seed), data, epochs=1)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_score_that_is_not_a_number_is_a_failed_candidate(tmp_path, data):
    tuner = make(tmp_path, keep_fraction=1, score=lambda logs, macs: float("nan"))
    with pytest.raises(RuntimeError, match=r"round 0 failed .*score of epoch 1 is nan"):
        search(tuner, data, epochs=1)


def test_a_network_that_diverged_is_a_failed_candidate(tmp_path, data):
    (x, y), validation = data
    tuner = make(tmp_path, hypermodel(learning_rate=1e30), keep_fraction=1)
    with pytest.raises(RuntimeError, match=r"loss of epoch \d is (nan|inf)"):
        search(tuner, ((x * 1e18, y), validation), epochs=3)


def test_a_score_that_lacks_its_metric_says_what_to_pass(tmp_path, data):
    tuner = make(tmp_path, keep_fraction=1, score=lambda logs, macs: logs["val_f1"])
    with pytest.raises(ValueError, match="needs the metric 'val_f1', but training reports"):
        search(tuner, data, epochs=1)


def images(shape=(8, 8, 8, 1), classes=10, value=0.0):
    return np.full(shape, value, "float32"), np.arange(shape[0]) % classes


BAD_DATA = {
    "no data": ((), {}, "x: no training data"),
    "no validation": (images(), {}, "validation_data: missing"),
    "shape": (images((8, 9, 8, 1)), {}, r"x: images have shape \(9, 8, 1\)"),
    "rank": (images((8, 8, 8)), {}, r"x: images have shape \(8, 8, 8\)"),
    "labels": ((images()[0], np.full(8, 10)), {}, "x: label 10 is not one of 0 to 9"),
    "number": ((images()[0], np.zeros(7, int)), {}, r"8 images, but labels of shape \(7,\)"),
    "float labels": ((images()[0], np.zeros(8)), {}, "labels are float64"),
    "list": ((images()[0].tolist(), images()[1]), {}, "x: images are in a list"),
    "nan": (images(value=np.nan), {}, "8 of 8 images have pixels that are NaN"),
    "validation labels": (
        images(),
        {"validation_data": (images()[0], np.full(8, -1))},
        "validation_data: label -1",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_refused_before_anything_is_trained(tmp_path, case):
    arguments, options, culprit = BAD_DATA[case]
    if case not in ("no validation", "no data"):
        options = {"validation_data": images(), **options}
    tuner = make(tmp_path)
    with pytest.raises(ValueError, match=culprit):
        tuner.search(*arguments, **options)
    assert not tuner.oracle.trials
    assert not list(path_of(tuner).glob("trial_*"))


@pytest.mark.parametrize(
    ("arguments", "error", "culprit"),
    [
        ({"num_candidates": 0}, ValueError, "num_candidates=0"),
        ({"keep_fraction": -1}, ValueError, "keep_fraction=-1"),
        ({"seed": None}, TypeError, "seed=None"),
        ({"score": "accuracy"}, TypeError, "score='accuracy'"),
        ({"objective": "val_accuracy"}, TypeError, "objective: .* score="),
        ({"race": True, "strategy": "bayesian"}, ValueError, 'race=True: needs strategy="paper"'),
        ({"inherit": True, "strategy": "bayesian"}, ValueError, "inherit=True: needs strategy="),
        ({"max_trials": 3}, TypeError, "max_trials: .* max_candidates"),
        ({"race": "yes"}, TypeError, "race='yes'"),
        ({"model": lambda hp: None}, ValueError, "declare the edges of one cell"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(tmp_path, arguments, error, culprit):
    with pytest.raises(error, match=culprit):
        make(tmp_path, **arguments)
    with pytest.raises(error, match=culprit):
        make(tmp_path / "new" / "deep", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"directory=.*file.*cannot be created"):
        make(tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"num_nodes": 1}, "num_nodes=1"),
        ({"classes": 1}, "classes=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"operations": ()}, "operations"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"operations": ("conv9x9",)}, "'conv9x9'"),
    ],
)
def test_bad_hypermodels_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        hypermodel(**arguments)


def test_half_of_the_nodes_have_each_op_in_an_order_of_the_seed():
    cells = [kas.CNNCellHyperModel(seed=seed).cell for seed in range(6)]
    assert cells[0] == kas.CNNCellHyperModel(seed=0).cell
    assert len({cell.ops for cell in cells}) > 1
    for cell in cells:
        assert len(cell.edges) == 28
        assert sorted((cell.ops.count("sepconv3x3"), cell.ops.count("conv1x1"))) == [3, 4]


def stops_after(val_accuracy, val_loss, loss=1.0, classes=10, steps=40):
    """The epoch, counted from 1, after which ProxyStopping stops; None if it does not."""
    callback = ProxyStopping(classes)
    callback.set_model(types.SimpleNamespace(stop_training=False))
    callback.set_params({"steps": steps})
    callback.on_train_begin()
    for epoch in range(15):
        callback.on_epoch_end(
            epoch, {"loss": loss, "val_accuracy": val_accuracy, "val_loss": val_loss}
        )
        if callback.model.stop_training:
            return epoch + 1
    return None


def test_hopeless_candidates_are_stopped():
    assert stops_after(val_accuracy=0.19, val_loss=1) == 4
    assert stops_after(val_accuracy=0.21, val_loss=1) is None
    assert stops_after(val_accuracy=0.9, val_loss=3.1) == 4
    assert stops_after(val_accuracy=0.9, val_loss=2.9) is None
    # Twice chance is out of reach with two classes.
    assert stops_after(val_accuracy=0.8, val_loss=1, classes=2) is None
    assert stops_after(val_accuracy=0.7, val_loss=1, classes=2) == 4


def test_no_candidate_is_stopped_before_batchnorm_has_settled():
    hopeless = {"val_accuracy": 0.1, "val_loss": 9}
    assert stops_after(**hopeless, steps=25) == 4
    assert stops_after(**hopeless, steps=9) == 12
    assert stops_after(val_accuracy=0.1, val_loss=1, steps=9) == 12
    assert stops_after(**hopeless, steps=None) == 4  # data of unknown length


def test_the_oracle_serves_another_tuner_with_our_hypermodel(tmp_path, data):
    tuner = keras_tuner.Tuner(
        kas.AutoShrinkOracle("val_accuracy", keep_fraction=1),
        hypermodel(),
        directory=tmp_path,
    )
    (x, y), validation = data
    tuner.search(x, y, validation_data=validation, epochs=1, verbose=0)
    assert tuner.oracle.search.trajectory()[0]["score"] > 0
