"""The surrogate and the choice of cells by it."""

import itertools
import random

import numpy as np
import pytest

from keras_autoshrink.acquisition import Parts, best_parts, expected_improvement, first_parts
from keras_autoshrink.cell import Cell
from keras_autoshrink.surrogate import Outlook, Surrogate

OPS = ("input", "sepconv3x3", "sepconv3x3", "conv1x1", "conv1x1")


def every_mask(edges):
    return np.array(list(itertools.product([False, True], repeat=edges)))


@pytest.mark.parametrize(
    "cell", [Cell.dense(OPS), Cell(OPS, ((0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (3, 4)))]
)
def test_parts_are_the_same_rows_if_and_only_if_they_are_the_same_network(cell):
    parts = Parts(cell)
    masks = parts.canonical(every_mask(len(cell.edges)))
    keys = [parts.part(mask).key for mask in masks]
    assert len(set(keys)) == len(keys)
    every = {
        Cell(OPS, edges).key
        for count in range(1, len(cell.edges) + 1)
        for edges in itertools.combinations(cell.edges, count)
        if any(i == 0 for i, _ in edges)
    }
    assert set(keys) == every
    assert (parts.masks([parts.part(mask) for mask in masks]) == masks).all()


def test_features_are_the_edges_and_a_summary_of_the_graph():
    parts = Parts(Cell.dense(OPS))
    # A chain of a sepconv3x3 and a conv1x1, and the other sepconv3x3 beside it.
    mask = parts.masks([Cell(OPS, ((0, 1), (0, 2), (1, 3)))])
    features = parts.features(mask)[0]
    assert features[:10].tolist() == mask[0].tolist()
    # The longest path, edges, leaves, a leaf's mean and least depth; the nodes of each op, and
    # those on a path.
    summary = [2 / 4, 3 / 10, 2 / 4, 1.5 / 4, 1 / 4, 2 / 2, 1 / 2, 1 / 2, 1 / 2]
    assert features[10:].tolist() == pytest.approx([2 * share - 0.5 for share in summary])
    assert parts.features(parts.masks([Cell.dense(OPS)])).max() <= 1.5


def test_many_alike_nodes_are_left_as_they_are_numbered():
    parts = Parts(Cell.dense(("input", *["conv1x1"] * 7)))
    drawn = parts.at_random(20, random.Random(0))
    assert (parts.masks([parts.part(mask) for mask in drawn]) == drawn).all()


def test_first_parts_are_distinct_and_new():
    parts = Parts(Cell.dense(OPS), least_edges=3)
    trained = [Cell.dense(OPS)]
    cells = first_parts(parts, trained, 50, "0/1")
    assert len({cell.key for cell in [*cells, *trained]}) == 51
    assert min(len(cell.edges) for cell in cells) == 3
    assert cells == first_parts(parts, trained, 50, "0/1") != first_parts(parts, trained, 50, "0/2")


def test_what_has_failed_is_avoided():
    parts = Parts(Cell.dense(OPS))
    drawn = first_parts(parts, [], 60, "0")
    scores = {cell: random.Random(cell.key).random() for cell in drawn if (0, 1) in cell.edges}
    failed = [cell for cell in drawn if (0, 1) not in cell.edges]
    for cell in best_parts(parts, scores, failed, 5, "0"):
        assert (0, 1) in cell.edges


def test_the_surrogate_learns_a_linear_function_and_knows_what_it_does_not():
    generator = np.random.default_rng(0)
    features = generator.integers(0, 2, (40, 8)).astype(float)
    weights = np.arange(8) / 8
    surrogate = Surrogate(features[:30], features[:30] @ weights + generator.normal(0, 0.01, 30))
    means, deviations = surrogate.predict(features)
    np.testing.assert_allclose(means[30:], features[30:] @ weights, atol=0.15)
    assert deviations[30:].mean() > deviations[:30].mean() > 0


def test_of_equal_scores_nothing_can_be_learnt():
    features = np.eye(7)
    means, deviations = Surrogate(features, np.full(7, 0.3)).predict(features)
    np.testing.assert_allclose(means, 0.3, atol=1e-6)
    assert np.isfinite(deviations).all()


def test_assuming_a_value_is_as_learning_that_it_is_what_was_expected():
    generator = np.random.default_rng(1)
    features = generator.integers(0, 2, (12, 6)).astype(float)
    surrogate = Surrogate(features[:6], generator.normal(size=6))
    outlook = Outlook(surrogate, features)
    before, sure = outlook.moments()
    outlook.assume(8)
    after, surer = outlook.moments()
    np.testing.assert_allclose(after, before)
    assert (surer <= sure + 1e-9).all()
    assert surer[8] < sure[8]


def test_expected_improvement():
    generator = np.random.default_rng(2)
    means, deviations = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 2.0])
    drawn = generator.normal(means, deviations, (200_000, 3))
    found = expected_improvement(means, deviations, 0.5)
    np.testing.assert_allclose(found, np.maximum(drawn - 0.5, 0).mean(axis=0), atol=0.01)


def test_expected_improvement_far_below_the_best_is_small_and_still_a_number():
    ratio = np.array([-6.0, -9.0, -15.0, -30.0])
    found = expected_improvement(2 * ratio + 1, np.full(4, 2.0), 1.0)
    # By the asymptotic series of the normal's tail (Abramowitz and Stegun 26.2.12).
    series = sum(
        sign * product * (1 / ratio**2) ** power
        for power, (sign, product) in enumerate([(1, 1), (-1, 3), (1, 15), (-1, 105), (1, 945)], 1)
    )
    density = np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found[1:], 2 * (density * series)[1:], rtol=1e-4)
    assert (np.diff(found) < 0).all()
    assert found[-1] > 0
