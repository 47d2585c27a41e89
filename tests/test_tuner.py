"""AutoShrink with real, very small trainings."""

import itertools
import json
import math
import os
import signal

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from forked import KILLED, outcome
from searches import ONE_STAGE, Eager, WithTuner, die_writing, folder_of, timeless

import keras_autoshrink as kas
from keras_autoshrink import backend
from keras_autoshrink.data.images import load_images


@pytest.fixture(scope="module")
def data():
    digits = load_images("digits", purpose="search")
    train, validation = digits.train, digits.validation
    return (train.x[:128], train.y[:128]), (validation.x[:64], validation.y[:64])


def hypermodel(kind=Eager, **arguments):
    defaults = {"num_nodes": 3, "filters": 4, "stem_filters": 8, "batch_size": 64, **ONE_STAGE}
    return kind(input_shape=(8, 8, 1), **{**defaults, **arguments})


def make(directory, model=None, **arguments):
    """A search by the paper's walk, unless the arguments say otherwise."""
    arguments = {"strategy": "paper", "num_candidates": 1, **arguments}
    return kas.AutoShrink(
        model or hypermodel(), directory=directory, project_name="search", **arguments
    )


def search(tuner, data, epochs=1, **arguments):
    (x, y), validation = data
    tuner.search(x, y, validation_data=validation, epochs=epochs, **{"verbose": 0, **arguments})
    return tuner


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    return search(make(tmp_path_factory.mktemp("finished")), data, epochs=2)


def test_records_hold_what_was_measured(finished):
    records = finished.trajectory()
    assert [record["round"] for record in records] == list(range(len(records)))
    assert records[0]["edges_left"] == 3
    assert records[-1]["edges_left"] == 1
    for record in records:
        expected = record["objective"] - 0.1 * (math.log10(record["macs"]) - 6)
        assert record["score"] == pytest.approx(expected)
        assert record["seconds"] > 0
    first = next(iter(finished.oracle.trials.values()))
    model = finished.hypermodel.build(first.hyperparameters)
    assert records[0]["macs"] == kas.count_macs(model)
    assert records[0]["params"] == kas.count_params(model)
    assert json.loads(json.dumps(records)) == records
    assert list(pd.DataFrame(records)["edges_left"]) == [r["edges_left"] for r in records]


def test_the_best_model_is_the_best_epoch_of_the_best_cell_and_alone_stays(finished, data):
    best = max(finished.trajectory(), key=lambda r: (r["score"], -r["edges_left"]))
    assert finished.best_cell() == kas.Cell.from_json(best["cell"]).prune()
    model = finished.get_best_models()[0]
    accuracy = model.evaluate(*data[1], verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(best["objective"])
    checkpoints = list(folder_of(finished).rglob("checkpoint.weights.*"))
    assert [file.parent.name for file in checkpoints] == [
        f"trial_{finished.oracle.get_best_trials(1)[0].trial_id}"
    ]
    with pytest.raises(ValueError, match="only the best cell's are kept"):
        finished.get_best_models(2)


@pytest.mark.parametrize("last", [True, False])
def test_a_hypermodel_may_score_the_last_epoch_as_at_a_budget(tmp_path, data, last):
    class GoesWrong(Eager):
        def fit(self, hp, model, *args, callbacks, **kwargs):
            def go_wrong(epoch, logs):
                for weight in model.trainable_weights if epoch else ():
                    weight.assign(weight * -100)

            last_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=go_wrong)
            history = model.fit(*args, callbacks=[last_epoch, *callbacks], **kwargs)
            losses.extend(history.history["val_loss"])
            return history

    losses = []
    model = hypermodel(GoesWrong, num_nodes=2)
    model.scores_last_epoch = last
    tuner = make(tmp_path, model, score=lambda logs, macs: -logs["val_loss"])
    search(tuner, data, epochs=2)
    assert losses[0] < losses[1]
    (record,) = tuner.trajectory()
    assert record["score"] == pytest.approx(-losses[last])
    measured = tuner.get_best_models()[0].evaluate(*data[1], verbose=0)
    assert measured[0] == pytest.approx(losses[last])
    assert kas.CNNCellHyperModel((8, 8, 1), num_nodes=2, target_macs=100_000).scores_last_epoch
    assert kas.RNNCellHyperModel(9, target_params=20_000).scores_last_epoch


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (ValueError, "trial 0000: has no weights, it failed: ValueError: broken$"),
        (
            keras_tuner.errors.FatalValueError,
            r"trial 0000: has no weights, its training has not ended; search\(\) goes on with it$",
        ),
    ],
)
def test_a_network_that_was_not_trained_to_its_end_has_no_model_for_that_reason(
    tmp_path, kind, why
):
    def fail(cell):
        raise kind("broken")

    tuner = WithTuner.make(tmp_path, fail, workers=1)
    with pytest.raises((RuntimeError, ValueError), match="broken"):
        tuner.search(verbose=0)
    with pytest.raises(ValueError, match=why):
        tuner.get_best_models()


def test_summaries_are_keras_tuners_own(finished, capsys):
    finished.search_space_summary()
    finished.results_summary(1)
    printed = capsys.readouterr().out
    assert "cell/edge_0_1 (Boolean)" in printed
    assert f"Score: {finished.oracle.get_best_trials(1)[0].score}" in printed


def killed(folder, data):
    die_writing(11)
    search(make(folder), data, epochs=2)


def test_killed_in_a_write_it_ends_the_same(finished, tmp_path, data):
    assert outcome(killed, tmp_path, data) == KILLED
    assert len(list(tmp_path.rglob("trial.json"))) > 1
    assert list(tmp_path.rglob(".*.json.*"))
    resumed = search(make(tmp_path), data, epochs=2)
    assert timeless(resumed.trajectory()) == timeless(finished.trajectory())
    # What the kill left of a write is gone.
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]


def interrupted(folder, data):
    begun = itertools.count()

    def press(logs):
        if next(begun) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    ctrl_c = keras.callbacks.LambdaCallback(on_train_begin=press)
    with (folder / "said").open("w") as said:
        os.dup2(said.fileno(), 1)
        try:
            search(make(folder), data, verbose=1, callbacks=[ctrl_c])
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def test_ctrl_c_says_that_what_has_been_trained_is_kept(tmp_path, data):
    assert outcome(interrupted, tmp_path, data) == 130
    assert "run the same again, without overwriting, to go on" in (tmp_path / "said").read_text()
    assert [record["round"] for record in make(tmp_path).trajectory()] == [0]


def test_a_bayesian_search_is_the_default_and_says_what_it_does(tmp_path, capsys):
    tuner = WithTuner.make(tmp_path, num_candidates=6, max_candidates=4)
    tuner.search(verbose=1)
    printed = capsys.readouterr().out
    assert "The score is val_accuracy - 0.1 * (log10(MACs) - 6), of the best epoch." in printed
    assert "Round 0 done" in printed
    assert "Round 1 done" in printed
    assert tuner.oracle.search.strategy == "bayesian"
    assert len(tuner.oracle.trials) == 4
    assert tuner.best_cell() == kas.Cell.from_json(tuner.oracle.search.best()["cell"]).prune()


def test_a_directory_with_another_search_is_refused(finished):
    folder = folder_of(finished)
    before = {p: p.read_bytes() for p in folder.rglob("*.json")}
    for changed, culprit in (
        ({"model": hypermodel(filters=8)}, "hypermodel.config.filters=4, not 8"),
        ({"score": kas.AccuracyScore(0.5)}, r"score=.*0.1.*, not .*0.5"),
        ({"seed": 5}, "seed=0, not 5"),
        ({"strategy": "bayesian"}, "strategy='paper', not 'bayesian'"),
        ({"max_macs": 10**9}, "max_macs=None, not 1000000000"),
    ):
        with pytest.raises(ValueError, match=rf"{culprit}.*overwrite=True"):
            make(folder.parent, **changed)
    for model in (hypermodel(stem_filters=0), lambda hp: None):  # nor does it delete anything
        with pytest.raises(ValueError, match=r"stem_filters=0|declare the edges"):
            make(folder.parent, model, overwrite=True)
    assert {p: p.read_bytes() for p in folder.rglob("*.json")} == before


def test_candidates_trained_otherwise_are_not_compared(finished, data):
    tuner = make(folder_of(finished).parent)
    with pytest.raises(ValueError, match=r"training\.epochs=2, not 1"):
        search(tuner, data)
    path = folder_of(finished) / "tuner0.json"
    content = path.read_text()
    path.write_text(content.replace('"tensorflow"', '"jax"'))
    try:
        again = make(folder_of(finished).parent)
        assert again.trajectory() == finished.trajectory()  # to look at it is no matter
        with pytest.raises(ValueError, match="backend='jax', not 'tensorflow'"):
            search(again, data, epochs=2)
    finally:
        path.write_text(content)


def test_a_failed_candidates_weights_do_not_stay(tmp_path, data):
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise ValueError("boom")

    tuner = make(tmp_path, hypermodel(num_nodes=2))
    with pytest.raises(RuntimeError, match="ValueError: boom"):
        search(tuner, data, epochs=2, callbacks=[Fails()])
    assert not list(folder_of(tuner).rglob("checkpoint.weights.*"))
    anew = make(tmp_path, hypermodel(num_nodes=2), seed=3, overwrite=True)
    with pytest.raises(RuntimeError, match=r"run search\(\) first"):
        anew.best_cell()


def test_datasets_callbacks_and_executions(tmp_path, data):
    """What users of KerasTuner pass along; one candidate is enough to see it arrive."""
    seen = []  # KerasTuner copies callbacks: one of its own would be a copy's

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    train, validation = (tf.data.Dataset.from_tensor_slices(part).batch(64) for part in data)
    tuner = make(tmp_path, hypermodel(num_nodes=2), executions_per_trial=2)
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
    drawn = []

    def build(hp):
        cell = kas.declare_cell(hp, kas.Cell.dense(("input", "relu", "tanh")))
        units = hp.Int("units", 4, 8, default=4)
        drawn.append(float(np.random.random()))
        outputs = [keras.Input((6,))]
        for node in range(1, cell.num_nodes):
            inputs = [outputs[i] for i in cell.predecessors(node)] or outputs[:1]
            merged = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
            outputs.append(keras.layers.Dense(units, cell.ops[node])(merged))
        prediction = keras.layers.Dense(1)(outputs[cell.leaves[0]])
        model = keras.Model(outputs[0], prediction)
        model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)  # to trace it takes longer
        return model

    def error_and_cost(logs, macs):
        return -logs["val_mae"] - macs / 1000

    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    last_drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tuner = make(tmp_path / name, build, score=error_and_cost, keep_fraction=1, seed=seed)
        # Keras warns of each dataset that it does not shuffle it.
        batches = tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1))).batch(32)
        tuner.search(batches, validation_data=batches, epochs=1, verbose=0)
        last_drawn.append(drawn[-1])
    first = tuner.trajectory()[0]
    assert first["macs"] == 6 * 4 + 10 * 4 + 4
    assert first["objective"] == first["score"]
    # NumPy's generator, too, is seeded by the seed and the cell alone.
    assert last_drawn[0] == last_drawn[1] != last_drawn[2]


def test_a_hypermodel_that_drops_its_callbacks_is_told_so(tmp_path, data):
    class Drops(Eager):
        def fit(self, hp, model, *args, callbacks, **kwargs):
            return model.fit(*args, **kwargs)

    with pytest.raises(ValueError, match="pass its callbacks on"):
        search(make(tmp_path, hypermodel(Drops, num_nodes=2)), data)


def test_what_a_fit_alone_declares_is_said_not_to_be_searched(tmp_path, data, capsys):
    class Declares(Returns):
        def fit(self, hp, model, *args, **kwargs):
            hp.Choice("rate", [0.1, 0.2])
            hp.Fixed("one", 1)
            return super().fit(hp, model, *args, **kwargs)

    model = Declares(lambda loss, accuracy: {"val_accuracy": accuracy})
    tuner = make(tmp_path, model, strategy="evolution", max_candidates=2, workers=2)
    search(tuner, data, verbose=1)
    said = capsys.readouterr().out
    assert said.count("did not declare it for the first network: rate. It keeps its default;") == 1


class Returns(keras_tuner.HyperModel):
    """Its `fit` passes no callbacks on, and returns what it is asked for of loss and accuracy."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def build(self, hp):
        kas.declare_cell(hp, kas.Cell.dense(("input", "relu")))
        stack = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential(stack)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)  # to trace takes longer
        return model

    def fit(self, hp, model, x, y, validation_data, **_):
        model.fit(x, y, epochs=2, verbose=0)
        return self.result(*model.evaluate(*validation_data, verbose=0))


def returns(directory, data, result, **arguments):
    return search(make(directory, Returns(result), **arguments), data)


@pytest.mark.parametrize(
    ("result", "score", "expected"),
    [
        # A number is minimised, as KerasTuner documents it.
        (lambda loss, accuracy: loss, None, lambda loss, accuracy, macs: -loss),
        (lambda loss, accuracy: np.float32(loss), None, lambda loss, accuracy, macs: -loss),
        (lambda loss, accuracy: [loss, loss + 2], None, lambda loss, accuracy, macs: -loss - 1),
        # Of a dict the metrics are scored.
        (
            lambda loss, accuracy: {"val_accuracy": accuracy},
            lambda logs, macs: logs["val_accuracy"] - macs / 1e5,
            lambda loss, accuracy, macs: accuracy - macs / 1e5,
        ),
        (
            lambda loss, accuracy: {"val_accuracy": accuracy},
            None,
            lambda loss, accuracy, macs: accuracy - 0.1 * (math.log10(macs) - 6),
        ),
        (lambda loss, accuracy: {"score": 3 * accuracy}, None, lambda loss, acc, macs: 3 * acc),
    ],
)
def test_what_a_fit_of_ones_own_returns_is_scored(tmp_path, data, result, score, expected):
    tuner = returns(tmp_path, data, result, score=score)
    # The weights of the best are kept, as `fit` left them.
    loss, accuracy = tuner.get_best_models()[0].evaluate(*data[1], verbose=0)
    best = max(tuner.trajectory(), key=lambda record: record["score"])
    assert best["score"] == pytest.approx(expected(loss, accuracy, best["macs"]), abs=1e-5)
    assert best["seconds"] > 0


@pytest.mark.parametrize(
    ("result", "score", "culprit"),
    [
        (lambda *_: None, None, r"fit\(\) returned None; return the history"),
        (lambda *_: 1.5, kas.AccuracyScore(), r"returned the number 1\.5, which score= cannot"),
        (lambda *_: {"loss": 1}, None, r"metric 'val_accuracy', but HyperModel.fit\(\) returned l"),
        (lambda *_: {"score": 1}, kas.AccuracyScore(), "metric 'val_accuracy', but HyperModel.fi"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tmp_path, data, result, score, culprit):
    with pytest.raises((TypeError, ValueError), match=culprit) as caught:
        returns(tmp_path, data, result, score=score)
    assert "\n" not in str(caught.value)


def test_what_a_fit_returns_needs_no_metrics_of_its_epochs(tmp_path):
    class Regression(keras_tuner.HyperModel):
        def build(self, hp):
            kas.declare_cell(hp, kas.Cell.dense(("input", "relu")))
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile("adam", "mse", run_eagerly=True)
            return model

        def fit(self, hp, model, *args, **kwargs):
            history = model.fit(*args, **kwargs)
            return self.result(history)

    x = np.ones((8, 3))
    given = {"validation_data": (x, x[:, 0]), "epochs": 2, "verbose": 0}
    model = Regression()
    for name, result, score in (
        ("number", lambda history: min(history.history["val_loss"]), None),
        # Nor need its epochs have those of a score that was given.
        (
            "dict",
            lambda history: {"mine": min(history.history["val_loss"])},
            lambda metrics, macs: -metrics["mine"],
        ),
    ):
        model.result = result
        tuner = make(tmp_path / name, model, score=score)
        tuner.search(x, x[:, 0], **given)
        best = tuner.get_best_models()[0].evaluate(x, x[:, 0], verbose=0)
        assert max(r["score"] for r in tuner.trajectory()) == pytest.approx(-best, rel=1e-5)
    model.result = lambda history: history
    with pytest.raises(ValueError, match="the score needs the metric 'val_accuracy', but training"):
        make(tmp_path / "history", model).search(x, x[:, 0], **given)


def test_the_weights_are_those_of_the_epoch_that_a_dict_tells_of(tmp_path, data):
    class BestEpoch(Eager):
        def fit(self, hp, model, *args, **kwargs):
            model.optimizer.learning_rate = 0.05  # so that an epoch may be worse
            history = model.fit(*args, **kwargs).history
            accuracies.append(history["val_accuracy"])
            return {"val_accuracy": max(history["val_accuracy"])}

    accuracies = []
    tuner = search(make(tmp_path, hypermodel(BestEpoch, num_nodes=2)), data, epochs=6)
    _, accuracy = tuner.get_best_models()[0].evaluate(*data[1], verbose=0)
    assert accuracy == pytest.approx(max(accuracies[0]))
    assert tuner.trajectory()[0]["objective"] == pytest.approx(accuracy)


def test_keras_stays_as_its_user_has_set_it(tmp_path, data):
    def settings():
        config = keras.config
        return (
            config.dtype_policy().name,
            config.is_traceback_filtering_enabled(),
            config.is_interactive_logging_enabled(),
            config.image_data_format(),
            config.floatx(),
            config.epsilon(),
        )

    class Looks(kas.CNNCellHyperModel):
        def build(self, hp):
            model = super().build(hp)
            seen.append((model.get_layer("stem").compute_dtype, settings()))
            assert keras.models.load_model(unsafe, compile=False).output_shape == (None, 2)
            assert keras.layers.deserialize({"class_name": "Mine", "config": {"rate": 0}})
            return model

    seen = []
    unsafe = tmp_path / "lambda.keras"
    layers = [keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x)]
    keras.Sequential(layers).save(unsafe)
    before = backend.keras_settings()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.disable_traceback_filtering()
        keras.config.disable_interactive_logging()
        keras.config.set_image_data_format("channels_first")
        keras.config.set_epsilon(1e-6)
        ours = settings()
        keras.config.enable_unsafe_deserialization()
        with keras.saving.custom_object_scope({"Mine": keras.layers.Dropout}):
            tuner = search(make(tmp_path, hypermodel(Looks, num_nodes=2)), data)
            model = tuner.get_best_models()[0]
            assert keras.layers.deserialize({"class_name": "Mine", "config": {"rate": 0}})
        assert settings() == ours
        assert keras.models.load_model(unsafe)
    finally:
        backend.set_keras_settings(before)
    assert set(seen) == {("bfloat16", ours)}
    assert model.get_layer("stem").compute_dtype == "bfloat16"
    # Its images have their channels last, whatever the setting.
    assert model.get_layer("stem").kernel.shape == (3, 3, 1, 8)


def test_it_says_what_is_not_searched(tmp_path, capsys):
    tuner = WithTuner.make(tmp_path, strategy="bayesian", max_candidates=1)
    tuner.search(verbose=1)
    line = "Not searched by strategy='bayesian', which keeps the defaults of: learning_rate.\n"
    assert capsys.readouterr().out.count(line) == 1


def test_callbacks_are_as_keras_takes_them(tmp_path, data):
    seen = []
    alone = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    search(make(tmp_path / "a", hypermodel(num_nodes=2), workers=1), data, callbacks=alone)
    assert seen == [0]
    for wrong in ("stop", [keras.callbacks.EarlyStopping]):
        with pytest.raises(TypeError, match="callbacks="):
            search(make(tmp_path / "b", hypermodel(num_nodes=2)), data, callbacks=wrong)


def test_a_candidate_that_takes_too_long_has_failed(tmp_path, data):
    tuner = make(tmp_path, hypermodel(num_nodes=2), max_seconds_per_trial=1e-3)
    with pytest.raises(RuntimeError, match=r"took longer than max_seconds_per_trial=0\.001"):
        search(tuner, data)


def test_measured_costs_reach_the_score_of_a_training(tmp_path, data):
    def size_of(model):
        return 7.0 * kas.count_params(model)

    score = kas.AccuracyScore(cost=size_of)
    tuner = search(make(tmp_path, hypermodel(num_nodes=2), score=score, max_latency_ms=1e3), data)
    (record,) = tuner.trajectory()
    assert record["measured_cost"] == 7 * record["params"]
    assert record["latency_ms"] > 0
    expected = record["objective"] - 0.1 * (math.log10(record["measured_cost"]) - 6)
    assert record["score"] == pytest.approx(expected)


def test_the_optimizer_is_built_before_it_is_traced(data, tmp_path):
    built = []

    class Looks(kas.CNNCellHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            built.append(model.optimizer.built)
            return super().fit(hp, model, *args, **kwargs)

    tuner = search(make(tmp_path, hypermodel(Looks, num_nodes=2)), data)
    assert built == [True]
    # A model to go on with is as the HyperModel makes it.
    assert not tuner.get_best_models()[0].optimizer.built


def images(shape=(8, 8, 8, 1), classes=10):
    return np.zeros(shape, "float32"), np.arange(shape[0]) % classes


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((), "x: no training data"),
        (images((8, 9, 8, 1)), r"x: images have shape \(9, 8, 1\)"),
        ((images()[0], np.full(8, 10)), "y: label 10 is not one of 0 to 9"),
        ((images()[0], np.eye(10)[:8]), r"give y.argmax\(1\), or compile another loss"),
    ],
)
def test_bad_data_are_refused_before_anything_is_trained(tmp_path, arguments, culprit):
    tuner = make(tmp_path)
    with pytest.raises(ValueError, match=culprit):
        tuner.search(*arguments, validation_data=images())
    assert not list(folder_of(tuner).glob("trial_*"))


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"num_candidates": 0}, "num_candidates=0"),
        ({"score": "accuracy"}, "score='accuracy'"),
        ({"objective": "val_accuracy"}, "objective: .* score="),
        ({"max_trials": 3}, "max_trials: .* max_candidates"),
        ({"max_candidate": 3}, "max_candidate: .* did you mean max_candidates"),
        ({"max_seconds_per_trial": 0}, "max_seconds_per_trial"),
        ({"max_macs": 2.5}, "max_macs=2.5: expected a whole number"),
        ({"max_latency_ms": math.nan}, "max_latency_ms=nan: expected a number"),
        ({"model": lambda hp: None}, "declare the edges of one cell"),
        ({"distribution_strategy": "mirrored"}, "give a tf.distribute.Strategy"),
        ({"distribution_strategy": tf.distribute.get_strategy()}, "expected a MirroredStrategy or"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(tmp_path, arguments, culprit):
    with pytest.raises((TypeError, ValueError), match=culprit):
        make(tmp_path / "new" / "deep", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_limit_that_nothing_is_within_and_one_that_some_are(tmp_path, data):
    with pytest.raises(RuntimeError, match=r"no network was within the limits; the smallest had"):
        search(make(tmp_path / "a", max_macs=9), data)
    most = 12_000
    tuner = search(make(tmp_path / "b", num_candidates=2, max_macs=most), data)
    candidates = [c for record in tuner.trajectory() for c in record["candidates"]]
    over = [c for c in candidates if c["status"] == "over limit" or "over_limit" in c]
    assert over
    assert all(c["macs"] > most and c["score"] is None and c["trial_id"] is None for c in over)
    assert kas.count_macs(tuner.get_best_models()[0]) <= most


def test_the_oracle_serves_another_tuner_with_our_hypermodel(tmp_path, data):
    oracle = kas.AutoShrinkOracle("val_accuracy", strategy="paper")
    tuner = keras_tuner.Tuner(oracle, hypermodel(num_nodes=2), directory=tmp_path)
    search(tuner, data)
    assert tuner.oracle.search.trajectory()[0]["score"] > 0
