"""Laws of a logarithm as mixtures of Gaussians: broad and of any shape as a whole, Gaussian on a small scale."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

_NARROW = 0.1  # a component of a smaller standard deviation may be mapped by two derivatives
_CELLS = 16  # per standard deviation of the whole
_LEAST = 1e-8  # weight of a component that is kept
_REACH = 7.0  # standard deviations of a component that are kept when it is split


class Mixture(NamedTuple):
    """Gaussians with their weights, which sum to 1; arrays of one length."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def mean(self) -> float:
        """Mean of the whole."""
        return float(self.weights @ self.means)

    @property
    def std(self) -> float:
        """Standard deviation of the whole."""
        return math.sqrt(float(self.weights @ (self.variances + (self.means - self.mean) ** 2)))

    def quantile(self, level: float) -> float:
        """Solve F(x) = level by safeguarded Newton steps."""
        mean, std = self.mean, self.std
        x = mean + std * float(special.ndtri(level))
        if len(self.weights) == 1 or std == 0:
            return x
        lower, upper = mean - 40 * std, mean + 40 * std
        scales = np.sqrt(np.maximum(self.variances, 1e-6 * std**2))
        for _ in range(60):
            z = (x - self.means) / scales
            excess = float(self.weights @ special.ndtr(z)) - level
            lower, upper = (x, upper) if excess < 0 else (lower, x)
            slope = float((self.weights / scales) @ np.exp(-(z**2) / 2)) / math.sqrt(2 * math.pi)
            newton = x - excess / max(slope, 1e-300)
            x, before = newton if lower < newton < upper else (lower + upper) / 2, x
            if abs(x - before) < 1e-9 * std:
                break
        return x


def point(value: float) -> Mixture:
    """A value that does not fluctuate."""
    return Mixture(np.ones(1), np.full(1, value), np.zeros(1))


def regridded(mixture: Mixture) -> Mixture:
    """The same law with narrow components: wide ones split along a lattice, close ones merged by moments.

    A Gaussian of variance σ² ≥ 2h² is a sum of Gaussians of variance h² over a lattice of spacing h, to 1e-8 (trapezoid
    rule). Points instead would make steps of the distribution function, which quantiles show.
    """
    weights, means, variances = mixture
    if variances.max() < _NARROW**2:
        return mixture
    spacing = max(_NARROW, mixture.std / _CELLS) / math.sqrt(2)
    wide = variances >= 2 * spacing**2
    cells = np.rint(means / spacing)
    reach = math.ceil(_REACH * math.sqrt(variances.max()) / spacing)
    offsets = np.arange(-reach, reach + 1)
    split = cells[wide, None] + offsets
    mass = np.exp(-((split * spacing - means[wide, None]) ** 2) / (2 * (variances[wide, None] - spacing**2)))
    mass *= (weights[wide] / mass.sum(axis=1))[:, None]
    places = np.concatenate([split.ravel(), cells[~wide]])
    first = places.min()
    index = (places - first).astype(int)
    total = np.bincount(index, np.concatenate([mass.ravel(), weights[~wide]]))
    away, nothing, own = (means - cells * spacing)[~wide], np.zeros(mass.size), mass.ravel() * spacing**2
    shift: np.ndarray = np.bincount(index, np.concatenate([nothing, weights[~wide] * away]))
    square: np.ndarray = np.bincount(index, np.concatenate([own, weights[~wide] * (variances[~wide] + away**2)]))
    kept = np.flatnonzero(total > _LEAST)
    mass, shift, square = total[kept], shift[kept] / total[kept], square[kept] / total[kept]
    return Mixture(mass / mass.sum(), (first + kept) * spacing + shift, np.maximum(square - shift**2, 0.0))
