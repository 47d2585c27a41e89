"""Language models at a budget: their units, their references, and a search among them."""

import functools
import json
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
from refusals import refused
from searches import interrupting

import keras_autoshrink as kas
from keras_autoshrink.commands import pipeline
from keras_autoshrink.commands.cli import main
from keras_autoshrink.networks.language_model import ShrinkRNN
from keras_autoshrink.networks.recurrent_references import (
    INPUT_STEP_ALONE,
    RECURRENT_REFERENCES,
    TOKEN_COSTS,
)
from keras_autoshrink.report import saved_search
from keras_autoshrink.tuner import workers

VOCABULARY = 30
TARGETS = {"target_macs": 12_000, "target_params": 9_000}


def make_text(length, seed):
    """A word mostly follows from the one before it."""
    generator = np.random.default_rng(seed)
    successors = np.random.default_rng(0).permutation(VOCABULARY)
    tokens = [0]
    while len(tokens) < length:
        at_random = generator.random() < 0.3
        tokens.append(generator.integers(VOCABULARY) if at_random else successors[tokens[-1]])
    return np.array(tokens, np.int32)


TRAIN, VALIDATION = make_text(400, 1), make_text(120, 2)


def at_budget(**arguments):
    small = {"vocabulary_size": VOCABULARY, "num_nodes": 3, "batch_size": 4, "steps": 5}
    return kas.RNNCellHyperModel(**{**small, "target_params": 2_000, **arguments})


@pytest.mark.parametrize("name", TARGETS)
def test_each_network_costs_what_the_budget_allows(name):
    target, cost = TARGETS[name], TOKEN_COSTS[name]
    models = kas.reference_language_models(VOCABULARY, **{name: target})
    assert [*models] == ["lstm", "gru", "mgu", "shrinkrnn"]
    of_space = at_budget(**{"target_params": None, name: target})
    for values in of_space.starting_values():
        hp = keras_tuner.HyperParameters()
        hp.values.update(values)
        found = of_space.network(hp)
        assert kas.Architecture.from_json(found.to_json()) == found
        models[str(values)] = found.build()
    for label, model in models.items():
        assert 0.95 * target <= cost(model) <= target, label
        assert kas.count_params(model) == model.count_params()
        assert model.output_shape == (None, None, VOCABULARY)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_keras_cells_are_points_of_the_space(name):
    units = 6
    theirs = RECURRENT_REFERENCES[name].build(VOCABULARY, units)
    keeping = 1.0 if name == "lstm" else 0.0
    ours = ShrinkRNN(
        INPUT_STEP_ALONE, VOCABULARY, units, input_step=name, use_bias=True, forget_bias=keeping
    )
    assert TOKEN_COSTS["target_macs"](ours) == TOKEN_COSTS["target_macs"](theirs)
    # Ours has the gates first; what Keras's GRU keeps by its update gate, ours lets go.
    order, sign = ([0, 1, 3, 2], 1) if name == "lstm" else ([0, 1, 2], -1)

    def moved(kernel):
        blocks = np.split(np.asarray(kernel), len(order), axis=1)
        return np.concatenate([sign * blocks[0], *(blocks[i] for i in order[1:])], axis=1)

    cells = [model.get_layer("recurrent").cell for model in (ours, theirs)]
    for kernel in ("kernel", "recurrent_kernel"):
        getattr(cells[0], kernel).assign(moved(getattr(cells[1], kernel).value))
    embeddings = theirs.get_layer("embedding").embeddings
    ours.get_layer("embedding").embeddings.assign(embeddings)
    tokens = TRAIN[:20].reshape(2, 10)
    np.testing.assert_allclose(ours(tokens), theirs(tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_macs": 1}, "target_macs=1, target_params=2000: expected one of"),
        ({"target_params": 0}, "target_params=0: expected a whole number of 1 or more"),
        ({"units": 8}, "units=8: follows from the target"),
        ({"operations": ("conv1x1",)}, "op 'conv1x1': .* are activations, tanh, relu"),
    ],
)
def test_bad_budgets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        at_budget(**arguments)


def test_a_target_out_of_reach_is_named_with_both_ends():
    with pytest.raises(ValueError, match=r"target_params=9: the smallest .* the widest"):
        kas.reference_language_models(VOCABULARY, target_params=9)


def write_text(folder):
    folder.mkdir()
    for seed, (part, length) in enumerate({"train": 1_500, "valid": 300, "test": 300}.items()):
        words = [f"w{token}" for token in make_text(length, seed)]
        lines = [" ".join(words[i : i + 10]) for i in range(0, length, 10)]
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def tuners(monkeypatch):
    """Those that commands search with, in rounds of four: few networks take several."""
    made = []

    def make(*args, **settings):
        made.append(kas.AutoShrink(*args, **{**settings, "num_candidates": 4}))
        return made[-1]

    monkeypatch.setattr(pipeline, "AutoShrink", make)
    return made


def test_a_design_ends_with_a_file_that_continues_a_text(
    tmp_path, monkeypatch, capsys, tuners, workers_at_once
):
    monkeypatch.chdir(tmp_path)
    write_text(Path("words"))
    of_search = "--target-params 30K --max-candidates 10 --epochs 2"
    monkeypatch.setenv(workers.COUNT, "2")
    assert main(f"design words {of_search} --output d".split()) == 0
    assert len(workers_at_once) == 2
    printed = " ".join(capsys.readouterr().out.split())
    record = json.loads(Path("d/run.json").read_text())
    assert record["advice"] in printed
    for each in record["networks"]:
        assert 28_500 <= each["params"] <= 30_000
        assert each["bytes"] == Path(each["file"]).stat().st_size
        assert f"{each['name']} {each['perplexity']:.2f} ± " in printed
        facts = saved_search.read_facts(Path(f"d/{each['name']}.keras"))
        assert facts["test_perplexity"] == pytest.approx(each["perplexity"], rel=1e-4)
        assert facts["epochs"] == 2  # as in the search
    assert any(each["name"] in RECURRENT_REFERENCES for each in record["networks"])
    assert main(["generate", record["networks"][0]["file"], "w1 w2", "--words", "5"]) == 0
    assert len(capsys.readouterr().out.split()) >= 2
    assert Path("d/report.html").is_file()

    # Its search returned no less than the best reference.
    (tuner,) = tuners
    first, *others = tuner.final()
    assert any(each["reference"] for each in (first, *others))
    assert all(first["mean"] >= each["mean"] for each in others)
    candidates = [c for record in tuner.trajectory() for c in record["candidates"]]
    assert {c.get("reference") for c in candidates} == {None, *RECURRENT_REFERENCES}
    assert all(28_500 <= c["params"] <= 30_000 for c in candidates)
    assert all(c["score"] == -np.log(c["objective"]) for c in candidates)
    best = tuner.hypermodel.network(tuner.get_best_hyperparameters()[0])
    assert best.reference == first["reference"]
    assert kas.count_params(tuner.get_best_models()[0]) == first["params"]

    # One process finds what two did, as far as it comes.
    monkeypatch.setenv(workers.COUNT, "1")
    stopped = functools.partialmethod(kas.AutoShrink.search, callbacks=[interrupting(6)])
    monkeypatch.setattr(kas.AutoShrink, "search", stopped)
    search = f"search --task text --data-dir words {of_search} --directory one"
    assert "interrupted" in refused(capsys, search, status=130)
    by_two, by_one = (
        {
            each.oracle.cell_of(trial): trial.score
            for trial in each.oracle.trials.values()
            if trial.score is not None
        }
        for each in tuners
    )
    assert len(by_one) == 5
    assert by_one.items() <= by_two.items()


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("design words --target-params 9", "target_params=9: the smallest network of this kind"),
        (
            "design words --target-latency-ms 1",
            "one of the arguments --target-macs --target-params",
        ),
        ("search --task text --target-params 3K --units 4", "--units: they follow from it, with"),
    ],
)
def test_bad_commands_are_named(line, culprit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text(Path("words"))
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert culprit in capsys.readouterr().err
