"""Gradients of plain networks whose sizes spread so broadly that nothing is linear in them: backward on lattices.

Given u, the ln variance of a layer, what is behind it is a Markov chain: with M(u) and V(u) the mean and variance of
ln |g|² in that row given u, u′ = f(u) + X the layer above's and t what the stretch between them adds,

    M(u) = E t + E M′(u′),   V(u) = Var t + E V′(u′) + Var M′(u′) + 2 Cov(t, M′(u′))

by Gauss–Hermite quadrature over the narrow Gaussian X, with M′ and V′ as splines on the lattice above. The law of a
row is the mixture over u (`first_order_mixtures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from bntheory.growth.finite_width import first_order, first_order_streams
from bntheory.growth.finite_width.first_order import Place
from bntheory.growth.finite_width.first_order_mixtures import Mixture
from bntheory.growth.finite_width.first_order_streams import Base
from bntheory.growth.finite_width.first_order_stretches import Stretch
from bntheory.growth.finite_width.first_order_tables import squared_slopes, squares
from bntheory.layers import Shape

_SPACING, _MOST = 0.2, 200  # of the lattice, and its points
_REACH = 4.0  # standard deviations of the outermost components
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Curve(NamedTuple):
    """Mean and variance of a row's ln |g|² as functions of u, between two ends."""

    spline: interpolate.CubicSpline
    ends: tuple[float, float]

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """M and V."""
        both = self.spline(np.clip(u, *self.ends))
        return both[..., 0], both[..., 1]

    def law(self, base: Base) -> Mixture:
        """Of the row, over the law of u."""
        inside = np.clip(base.mean, *self.ends)
        mean, variance = self.at(inside)
        slope = self.spline(inside, 1)[:, 0]
        return Mixture(base.weights, mean, np.maximum(variance, 0.0) + slope**2 * base.variance)


def _curve(u: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Curve:
    return Curve(interpolate.CubicSpline(u, np.stack([mean, variance], axis=1)), (float(u[0]), float(u[-1])))


def laws(parts: Sequence[Stretch], excesses: Sequence[float], shape: Shape, log_start: float) -> dict[int, Mixture]:
    """Law of the gradient of every row of a plain network.

    Parameters
    ----------
    parts : sequence of Stretch
        Without blocks and normalizations.
    excesses : sequence of float
        D of every stretch.
    shape : tuple
        The input's.
    log_start : float
        ln mean square of the input.
    """
    places = _forward(parts, shape, log_start)
    found: dict[int, Mixture] = {}
    above: Curve | None = None
    for stretch, place, excess in zip(reversed(parts), reversed(places), reversed(excesses), strict=True):
        u = _lattice(place.base)
        base = first_order_streams.fresh(place.units, np.ones(len(u)), u, np.zeros(len(u)))
        stream, last = _through(stretch, place._replace(base=base, u=None), above, excess)
        for row, word in stretch.rows:
            stream_row = word == "" or (word == "linear" and row < _row_of_phi(stretch))
            found[row] = _curve(u, *(stream if stream_row else last)).law(place.base)
        above = _curve(u, *stream)
    return found


def _row_of_phi(stretch: Stretch) -> float:
    return next((row for row, word in stretch.rows if word == "phi"), math.inf)


def _forward(parts: Sequence[Stretch], shape: Shape, log_start: float) -> list[Place]:
    """The place of every stretch, with its mixture over u."""
    place = first_order.start(shape, log_start)
    places = []
    for stretch in parts:
        places.append(place._replace(phi=stretch.place.phi))
        if stretch.layer is not None:
            after = first_order.through(stretch.layer, places[-1], (place.units,), inside=False)
            assert after is not None
            place = after
    return places


def _lattice(base: Base) -> np.ndarray:
    reach = _REACH * np.sqrt(base.variance)
    low, high = float(np.min(base.mean - reach)), float(np.max(base.mean + reach))
    return np.linspace(low - 1e-3, high + 1e-3, min(max(9, math.ceil((high - low) / _SPACING)), _MOST))


def _over(stretch: Stretch, place: Place, above: Curve | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E M′(u′), its variance and E V′(u′) together, and Cov(X_k, M′(u′)) for every lattice point and k."""
    base = place.base
    if above is None or stretch.layer is None:
        return np.zeros(len(base.mean)), np.zeros(len(base.mean)), np.zeros_like(base.covariance)
    layer = stretch.layer
    bias, log_gain = layer.bias_variance((place.units,)), math.log(place.units) + stretch.dense[0][1]
    u = first_order_streams.dense(place.reading(), base, log_gain, math.log(bias) if bias else -math.inf)
    scale = np.sqrt(u.variance(base))
    mean, variance = above.at(u.mean[:, None] + scale[:, None] * _NODES)
    expected = mean @ _WEIGHTS
    slope = (mean * _NODES) @ _WEIGHTS / scale
    total = variance @ _WEIGHTS + (mean - expected[:, None]) ** 2 @ _WEIGHTS
    return expected, total, slope[:, None] * u.with_x(base)


def _through(
    stretch: Stretch, place: Place, above: Curve | None, excess: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Mean and variance in the stream's own row, and in the last row before Dense (or the last of all)."""
    units, white = place.units, stretch.layer is None
    mean, variance, with_x = _over(stretch, place, above)
    log_gain = 0.0 if white else math.log(units) + stretch.dense[0][1]
    last = (mean, variance) if white else (mean + log_gain + (excess - 1) / units, variance + 2 / units)
    if place.phi is None:
        return last, last
    t = first_order_streams.read(place.base, squared_slopes(place.phi))
    spread = squared_slopes(place.phi).size(place.base.mean).spread
    own = (2 * spread if white else 2 * (1 + spread)) / units
    both = 1 + np.sum(t.of_x * first_order_streams.read(place.base, squares(place.phi)).of_x, axis=1)
    mean = mean + t.mean + log_gain - own / 2 + excess * both / units
    return (mean, variance + own + t.variance(place.base) + 2 * np.sum(t.of_x * with_x, axis=1)), last
