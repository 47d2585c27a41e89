"""Points of a space: what a search chooses beside edges, and how hyperparameters say it."""

import json
import random

import keras_tuner
import pytest

from keras_autoshrink.cell import Cell
from keras_autoshrink.hypermodels.search_space import CellSpace, declare_cell
from keras_autoshrink.search.points import Point
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch

OPS = ("tanh", "relu", "sigmoid")


@pytest.fixture
def declared():
    """The space of a HyperModel that declares values of all kinds beside its cell."""
    hp = keras_tuner.HyperParameters()
    declare_cell(hp, Cell.dense(("input", "relu", "relu", "tanh")), operations=OPS)
    hp.Choice("optimizer", ["adam", "sgd"], default="sgd")
    hp.Int("units", 8, 32, step=8)
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    hp.Boolean("residual")
    hp.Fixed("epochs", 3)
    return CellSpace(hp.space, whole=True)


def differences(one, other):
    """In how many places two points differ."""
    edges = len({*one.edges} ^ {*other.edges})
    ops = sum(a != b for a, b in zip(one.ops, other.ops, strict=True))
    return edges, ops, sum(a != b for a, b in zip(one.values, other.values, strict=True))


def test_a_space_is_what_is_declared(declared):
    space = declared.space
    assert space.start == Point(
        ("input", "relu", "relu", "tanh"),
        ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),
        (("optimizer", "sgd"), ("units", 8), ("learning_rate", 1e-3), ("residual", False)),
    )
    assert {*space.ops[1:]} == {("relu", "tanh", "sigmoid"), ("tanh", "relu", "sigmoid")}
    assert space.choices["optimizer"] == ("sgd", "adam")
    assert space.choices["units"] == (8, 16, 24, 32)
    assert space.choices["residual"] == (False, True)
    rates = space.choices["learning_rate"]
    assert rates[0] == 1e-3
    assert 5 <= len(rates) <= 11
    assert 1e-4 <= rates[1] < rates[-1] <= 1e-1


def test_neighbours_differ_in_one_place_and_lead_everywhere(declared):
    space, generator = declared.space, random.Random(0)
    for _ in range(5):
        point = space.at_random(generator, least_edges=2)
        found = list(space.neighbours(point, least_edges=2))
        assert len({each.key for each in found}) > 10
        for each in found:
            assert len(each.edges) >= 2
            assert each.edges == each.live_edges
            edges, ops, values = differences(point, each)
            assert (edges > 0, ops, values) in {(True, 0, 0), (False, 1, 0), (False, 0, 1)}
    seen = {name: set() for name in space.choices}
    for _ in range(100):
        for name, value in space.at_random(generator, least_edges=1).values:
            seen[name].add(value)
    assert all(seen[name] == {*choices} for name, choices in space.choices.items())


def test_hyperparameters_say_a_point_and_back(declared):
    generator = random.Random(1)
    for _ in range(20):
        point = declared.space.at_random(generator, least_edges=1)
        assert declared.sub_cell(declared.values(point)) == point


def test_the_best_value_is_found_and_kept_as_json(declared):
    space = declared.space
    found = ShrinkSearch(
        space.start, strategy="evolution", num_candidates=4, max_candidates=60, space=space
    )
    while pending := found.pending():
        point = pending[0].cell
        values = dict(point.values)
        worth = values["units"] / 32 + (values["optimizer"] == "adam") + point.ops.count("tanh")
        found.tell(point, Outcome(worth))
        if len(found.outcomes) == 30:
            found = ShrinkSearch.from_json(json.loads(json.dumps(found.to_json())))
    best = found.best()
    assert best["cell"]["values"]["optimizer"] == "adam"
    assert best["cell"]["values"]["units"] == 32
    assert best["score"] >= 4
