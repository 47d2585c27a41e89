"""The surrogate and the choice of cells by it."""

import itertools
import random

import numpy as np
import pytest

from keras_autoshrink.cell import Cell
from keras_autoshrink.search.bayesian import Parts, best_parts, expected_improvement, first_parts
from keras_autoshrink.search.surrogate import Posterior, Surrogate

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
    posterior = Posterior(surrogate, features)
    before, sure = posterior.moments()
    posterior.assume(8)
    after, surer = posterior.moments()
    np.testing.assert_allclose(after, before)
    assert (surer <= sure + 1e-9).all()
    assert surer[8] < sure[8]


def refitted(surrogate, known, added, asked):
    """Means and deviations as `Posterior`'s, from textbook formulas, with features added.

    Their values are the means that each part of the mixture expects of them.
    """
    means, squares = np.zeros(len(asked)), np.zeros(len(asked))
    for part in surrogate._components:

        def covariance(one, other, length=part.length):
            shared = (2 * one - 1) @ (2 * other - 1).T / one.shape[1]
            distances = ((one[:, None] - other[None]) ** 2).sum(axis=2)
            likeness = np.exp(-2 * distances / (one.shape[1] * length))
            return 10 + 0.5 * shared + 0.5 * likeness

        def conditioned(seen, values, at, covariance=covariance, noise=part.noise):
            inverse = np.linalg.inv(covariance(seen, seen) + noise * np.eye(len(seen)))
            cross = covariance(at, seen)
            spread = covariance(at, at) - cross @ inverse @ cross.T
            return cross @ inverse @ values, np.diag(spread)

        noisy = covariance(known, known) + part.noise * np.eye(len(known))
        values = noisy @ part.coefficients  # less their mean
        for one in added:
            expected, _ = conditioned(known, values, one[None])
            known, values = np.vstack([known, one]), np.append(values, expected)
        mean, spread = conditioned(known, values, asked)
        known = known[: len(known) - len(added)]
        means += part.weight * mean
        squares += part.weight * (part.variance * spread + mean**2)
    return surrogate._offset + means, np.sqrt(squares - means**2)


def test_assuming_values_is_as_fitting_them_with_the_same_settings():
    generator = np.random.default_rng(3)
    features = generator.integers(0, 2, (14, 7)).astype(float)
    values = features[:8] @ np.arange(7) + generator.normal(size=8)
    surrogate = Surrogate(features[:8], values)
    posterior = Posterior(surrogate, features[8:])
    np.testing.assert_allclose(
        posterior.moments(), refitted(surrogate, features[:8], [], features[8:]), atol=1e-6
    )
    posterior.assume(2)
    posterior.assume(4)
    added = features[[10, 12]]
    np.testing.assert_allclose(
        posterior.moments(), refitted(surrogate, features[:8], added, features[8:]), atol=1e-6
    )


# Nodes that are never alike, so that an edge is worth the same wherever it is.
APART = ("input", "node1", "node2", "node3", "node4", "node5")


def scored(count, seed, noise=0.05):
    """Parts of a cell and made-up scores: some edges are good, others bad."""
    parts = Parts(Cell.dense(APART))
    generator = random.Random(seed)
    worth = {edge: generator.gauss(0, 0.1) for edge in parts.cell.edges}
    cells = first_parts(parts, [], count, str(seed))
    return parts, {
        cell: sum(worth[edge] for edge in cell.edges) + generator.gauss(0, noise) for cell in cells
    }


def surrogate_of(parts, scores):
    known = parts.masks([*scores])
    surrogate = Surrogate(parts.features(known), np.array([*scores.values()]))
    return surrogate, surrogate.predict(parts.features(known))[0].max()


def improvements(parts, scores, cells):
    surrogate, best = surrogate_of(parts, scores)
    return expected_improvement(*surrogate.predict(parts.features(parts.masks(cells))), best)


def in_turn(parts, scores, batch, best):
    """Whether each of a batch is the best of those that are left, the ones before being known."""
    posterior = Posterior(surrogate_of(parts, scores)[0], parts.features(parts.masks(batch)))
    for place in range(len(batch)):
        left = expected_improvement(*posterior.moments(), best)
        left[:place] = -1
        if left.argmax() != place:
            return False
        posterior.assume(place)
    return True


@pytest.mark.parametrize("seed", range(2))
def test_several_are_chosen_as_if_each_before_were_known(seed):
    parts, scores = scored(25, seed)
    batch = best_parts(parts, scores, [], 8, "0")
    # The first is the best of all; the others are not the next ones by the same measure.
    found = improvements(parts, scores, batch)
    assert found.argmax() == 0
    assert (np.diff(found) > 0).any()
    # But the best each time, once the ones before are taken for known.
    assert in_turn(parts, scores, batch, surrogate_of(parts, scores)[1])


@pytest.mark.parametrize("seed", range(2))
def test_climbing_finds_better_ones_than_were_drawn(seed):
    parts, scores = scored(25, seed)
    drawn = first_parts(parts, [*scores], 1000, "0")
    (chosen,) = best_parts(parts, scores, [], 1, "0")
    best_drawn = improvements(parts, scores, drawn).max()
    assert improvements(parts, scores, [chosen])[0] >= best_drawn
    # Nothing next to it is better.
    around = parts.neighbours(parts.masks([chosen]))
    known = {cell.key for cell in scores}
    near = [cell for cell in map(parts.part, around) if cell.key not in known]
    assert improvements(parts, scores, [chosen])[0] >= improvements(parts, scores, near).max()


def test_what_failed_counts_as_the_worst_and_not_as_the_middle():
    parts, scores = scored(20, 0)
    failed = first_parts(parts, [*scores], 3, "9")
    worst = {**scores, **dict.fromkeys(failed, min(scores.values()))}
    assert best_parts(parts, scores, failed, 5, "0") == best_parts(parts, worst, [], 5, "0")


@pytest.mark.parametrize("seed", range(2))
def test_one_lucky_score_is_not_what_others_have_to_exceed(seed):
    parts, scores = scored(30, seed, noise=0.3)
    _, believed = surrogate_of(parts, scores)
    lucky = max(scores.values())
    assert believed < lucky - 0.1
    batch = best_parts(parts, scores, [], 8, "0")
    assert in_turn(parts, scores, batch, believed)
    assert not in_turn(parts, scores, batch, lucky)


def test_the_same_scores_propose_the_same_and_the_last_bits_decide_nothing():
    parts, scores = scored(25, 2)
    batch = best_parts(parts, scores, [], 6, "0")
    assert batch == best_parts(parts, scores, [], 6, "0")
    shifted = {cell: score * (1 + 3e-16) for cell, score in scores.items()}
    assert batch == best_parts(parts, shifted, [], 6, "0")
    # Of these parts all of as many edges have the same prospects, but for rounding: the first
    # that was drawn is chosen.
    star = Cell(("input", *(f"node{n}" for n in range(1, 8))), [(0, n) for n in range(1, 8)])
    parts = Parts(star)
    scores = {star: 0.3, **{Cell(star.ops, (edge,)): 0.1 for edge in star.edges}}
    for seed in "0123456789":
        (chosen,) = best_parts(parts, scores, [], 1, seed)
        drawn = first_parts(parts, [*scores], 1000, seed)
        assert chosen == next(part for part in drawn if len(part.edges) == len(chosen.edges))


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
