"""What a nonlinearity does to the size of a layer, and to its fluctuation: tables over u = ln q, h ~ N(0, q).

With f = φ² and Hermite polynomials He_k of g = h/√q, normalised to unit variance,

    L(u) = ln E f,   b_k(u) = E f(√q g) He_k(g) / (√k! E f),   c(u) = E f²/(E f)² − 1 = Σ_{k≥1} b_k²

so that over n independent units ln(mean f) fluctuates by Σ b_k X_k, with X_k the mean over units of He_k/√k!, of
variance 1/n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from bntheory import gaussian
from bntheory.activations import Activation

ORDERS = 24  # Hermite orders that are told apart; the last stands for itself and all beyond
LIMIT = 60.0  # |u| from which L is a straight line and the rest constant
_SPACING = 1 / 16
_BETWEEN_KINKS = 28  # nodes in a unit of ln |g|
_STEP = 1 / 32  # of ln |g|: finer than a smooth φ needs, because He_24 oscillates


class Size(NamedTuple):
    """L, L′, L″ and c at some u, each of its shape."""

    value: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    spread: np.ndarray


class Grid(NamedTuple):
    """Nodes g of both signs, their Gaussian weights, and He_k(g)/√k! for k = 1 … ORDERS."""

    g: np.ndarray
    weights: np.ndarray
    polynomials: np.ndarray


@functools.cache
def _grid() -> Grid:
    nodes = np.exp(np.arange(-38.0, 2.35, _STEP))
    return _both_signs(nodes, nodes * _STEP)


def _both_signs(nodes: np.ndarray, measure: np.ndarray) -> Grid:
    g = np.concatenate([-nodes[::-1], nodes])
    weights = np.concatenate([measure[::-1], measure]) * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    rows = [np.ones_like(g), g]
    for k in range(1, ORDERS):
        rows.append((g * rows[-1] - math.sqrt(k) * rows[-2]) / math.sqrt(k + 1))
    return Grid(g, weights, np.array(rows[1:]))


def _grid_between(kinks: tuple[float, ...], u: float) -> Grid:
    """The same for units of variance e^u, on panels that end at kinks."""
    nodes, measure = gaussian.rule(kinks, _BETWEEN_KINKS)
    g = nodes * math.exp(-u / 2)
    kept = (g > math.exp(-38.0)) & (g < math.exp(2.35))
    return _both_signs(g[kept], measure[kept] * math.exp(-u / 2))


class Table:
    """L, c and b_k of one function f of Gaussian units, with their derivatives by u."""

    def __init__(self, u: np.ndarray, columns: np.ndarray) -> None:
        self._size = interpolate.CubicSpline(u, columns[:, :2])
        self._hermite = interpolate.CubicSpline(u, columns[:, 2:])
        self._slope, self._hermite_slope = self._size.derivative(), self._hermite.derivative()
        self._curvature = self._slope.derivative()

    def size(self, u: np.ndarray) -> Size:
        """L, L′, L″ and c."""
        inside = np.clip(u, -LIMIT, LIMIT)
        value, spread = self._size(inside).T
        slope, curvature = self._slope(inside)[:, 0], self._curvature(inside)[:, 0]
        beyond = u - inside
        return Size(value + slope * beyond, slope, np.where(beyond == 0, curvature, 0.0), np.maximum(spread, 0.0))

    def hermite(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """b_k and b_k′, k = 1 … ORDERS, each of shape (len(u), ORDERS)."""
        inside = np.clip(u, -LIMIT, LIMIT)
        return self._hermite(inside), np.where((u == inside)[:, None], self._hermite_slope(inside), 0.0)


@functools.lru_cache(maxsize=64)
def squares(phi: Activation) -> Table:
    """The table of f = φ², made once."""
    return _table(phi.phi, phi.kinks)


@functools.lru_cache(maxsize=64)
def squared_slopes(phi: Activation) -> Table:
    """The table of f = φ′², made once."""
    return _table(phi.dphi, phi.kinks)


def _table(root: Callable[[np.ndarray], np.ndarray], kinks: tuple[float, ...]) -> Table:
    u = np.arange(-LIMIT, LIMIT + _SPACING / 2, _SPACING)
    grids = (_grid_between(kinks, float(at)) if kinks else _grid() for at in u)
    return Table(
        u, np.array([_columns(root(math.exp(at / 2) * grid.g), grid) for at, grid in zip(u, grids, strict=True)])
    )


def _columns(root: np.ndarray, grid: Grid) -> np.ndarray:
    """L, c and b_k of f = root², given on the grid."""
    g, weights, polynomials = grid
    top = np.abs(root[np.abs(g) < 5]).max() or 1.0
    f = (root / top) ** 2
    second = float(weights @ f)
    if second == 0:  # φ is constant here, or zero
        return np.concatenate([[-np.inf, 0.0], np.zeros(ORDERS)])
    f /= second
    spread = max(float(weights @ f**2) - 1, 0.0)
    projections = polynomials @ (weights * f)
    rest = math.sqrt(max(spread - float(projections[:-1] @ projections[:-1]), 0.0))
    projections[-1] = math.copysign(rest, projections[-1])
    return np.concatenate([[math.log(second) + 2 * math.log(top), spread], projections])
