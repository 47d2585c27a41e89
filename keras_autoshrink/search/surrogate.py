"""Gaussian process regression: what the scores of some cells say about others.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# How far a score reaches, and the part of its variance that is noise: few, widely spaced, and
# weighed by the evidence, so that nothing has to be set by anyone.
_LENGTHS = (0.3, 1.0, 3.0)
_NOISES = (0.05, 0.2, 0.6)
# Of the prior mean, in units of the scores' own: wide, so that the scores say where they lie.
# Chosen, not tuned: 0.01 leaves a regret as good in benchmarks/quality_cifar10.json.
_MEAN_VARIANCE = 10.0


@dataclasses.dataclass(frozen=True)
class _Component:
    """The posterior for one length and noise."""

    weight: float
    length: float
    noise: float
    variance: float
    cholesky: Array
    coefficients: Array


class Surrogate:
    """A function of features, learnt from noisy values: half of it linear, half of it smooth.

    The kernel is a linear one plus a squared exponential; lengths and noises are averaged by
    their evidence.

    Args:
        features: shape (n, p), each 0 or 1 (or between).
        values: shape (n,).

    Example:
        >>> surrogate = Surrogate(np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([1, 3, 1, 3.0]))
        >>> mean, deviation = surrogate.predict(np.array([[1.0]]))
        >>> round(float(mean[0]))
        3
    """

    def __init__(self, features: Array, values: Array) -> None:
        self._features = features
        self._offset = float(values.mean())
        scale = float(values.std()) + 1e-9
        centred = values - self._offset
        count = len(values)
        found = []
        for length in _LENGTHS:
            kernel = _kernel(features, features, length)
            for noise in _NOISES:
                cholesky = _lower(kernel + noise * np.eye(count))
                whitened = np.linalg.solve(cholesky, centred)
                # As if one more value had been seen, of the scores' own variance.
                variance = (float(whitened @ whitened) + scale**2) / (count + 1)
                evidence = -0.5 * (count + 1) * math.log(variance) - float(
                    np.log(np.diag(cholesky)).sum()
                )
                coefficients = np.linalg.solve(cholesky.T, whitened)
                found.append(_Component(evidence, length, noise, variance, cholesky, coefficients))
        most = max(component.weight for component in found)
        found = [c for c in found if c.weight > most - 3]  # the others weigh less than 5% of it
        total = sum(math.exp(c.weight - most) for c in found)
        self._components = [
            dataclasses.replace(c, weight=math.exp(c.weight - most) / total) for c in found
        ]

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Predicts the values of other features.

        Args:
            features: shape (m, p).

        Returns:
            Means and standard deviations, without the noise, each of shape (m,).
        """
        return Posterior(self, features).moments()


class Posterior:
    """The posterior at some features, which values that are assumed there make surer.

    Args:
        surrogate: what has been learnt.
        features: shape (m, p).
    """

    def __init__(self, surrogate: Surrogate, features: Array) -> None:
        self._features = features
        self._offset = surrogate._offset
        self._parts = []
        for component in surrogate._components:
            cross = _kernel(surrogate._features, features, component.length)
            whitened = np.linalg.solve(component.cholesky, cross)
            mean = cross.T @ component.coefficients
            spread = _prior(features) - (whitened**2).sum(axis=0)
            self._parts.append((component, mean, whitened, spread))

    def moments(self) -> tuple[Array, Array]:
        """Returns means and standard deviations, without the noise, each of shape (m,)."""
        mean = np.zeros(len(self._features))
        square = np.zeros(len(self._features))
        for component, part, _, spread in self._parts:
            mean += component.weight * part
            variance = component.variance * np.maximum(spread, 1e-9)
            square += component.weight * (variance + part**2)
        return self._offset + mean, np.sqrt(np.maximum(square - mean**2, 1e-18))

    def assume(self, index: int) -> None:
        """Goes on as if one had turned out as expected: that leaves all means as they are."""
        parts = []
        for component, mean, whitened, spread in self._parts:
            one = self._features[index : index + 1]
            known = _kernel(one, self._features, component.length)[0]
            known = known - whitened[:, index] @ whitened
            row = known / math.sqrt(max(float(spread[index]), 0.0) + component.noise)
            parts.append((component, mean, np.vstack([whitened, row]), spread - row**2))
        self._parts = parts


def _kernel(first: Array, second: Array, length: float) -> Array:
    """The prior covariances of two sets of features, in units of the scores' variance."""
    count = first.shape[1]
    linear = (2 * first - 1) @ (2 * second - 1).T / count
    # Of features at random half differ.
    distance = 2 * (
        (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    )
    smooth = np.exp(-np.maximum(distance, 0) / (count * length))
    return np.asarray(_MEAN_VARIANCE + 0.5 * linear + 0.5 * smooth)


def _lower(matrix: Array) -> Array:
    return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)


def _prior(features: Array) -> Array:
    linear = ((2 * features - 1) ** 2).sum(axis=1) / features.shape[1]
    return np.asarray(_MEAN_VARIANCE + 0.5 * linear + 0.5)
