"""The law of φ′(√q g)², g ~ N(0, 1): the squared slopes of an activation over its units."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize
from scipy.special import expit, ndtr, ndtri

from bntheory.activations import Activation
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.factors import SMALLEST
from bntheory.spectra.law import Array

GRID = np.linspace(-12, 12, 4801)  # of g, on which φ′ is searched for zeros
POINTS = 64  # of the rule between two of them
RESOLUTION = 1e-6  # share of the units whose slopes near a zero of φ′ the rule resolves
TINY = 1e-120  # squared slopes below count as zero


def slope_factor(phi: Activation, log_q: float, points: int = POINTS) -> Diagonal:
    """Return φ′(h)² for h ~ N(0, q) as a factor of products.

    Parameters
    ----------
    phi : Activation
    log_q : float
        ln q.
    points : int
        Of the double exponential rule between two zeros of φ′, where it is dense.

    Raises
    ------
    ValueError
        If the slope is zero everywhere.

    Notes
    -----
    Homogeneous φ have two values, ½ each. For others E λ/(u − λ) is an integral over g, which is analytic between the
    zeros of φ′: the rule is exponentially accurate away from the range of λ.
    """
    if phi.homogeneous_slopes is not None:
        values = np.square(phi.homogeneous_slopes)
        values, counts = np.unique(values[values > 0], return_counts=True)
        if not len(values):
            raise ValueError(f"the slope of {phi} is zero everywhere")
        return Diagonal(values, counts / 2)
    root = math.exp(log_q / 2)

    def slope(g: Array) -> Array:
        return np.asarray(phi.dphi(root * g), dtype=float)

    g, weights = _rule(_zeros(slope), points)
    if np.allclose(np.abs(slope(GRID)), np.abs(slope(-GRID)), rtol=1e-13, atol=0):  # half of the nodes will do
        g, weights = g[g > 0], weights[g > 0]
    values = slope(g) ** 2
    alive = (values > TINY) & (weights > 0)
    if not alive.any():
        raise ValueError(f"the slope of {phi} is zero for every input of variance e^{log_q:.3g}")
    values, weights = values[alive], weights[alive]
    order = _zero_order(values, weights)
    resolution = RESOLUTION if order > 1.01 else SMALLEST
    return Diagonal(values, weights / weights.sum(), 1, order, resolution=resolution, reaches_zero=True)


def _zeros(slope: Callable[[Array], Array]) -> list[float]:
    """Where φ′ changes its sign."""
    values = slope(GRID)
    change = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    return [float(optimize.brentq(lambda g: float(slope(np.array([g]))[0]), *GRID[k : k + 2])) for k in change]


def _rule(cuts: list[float], points: int) -> tuple[Array, Array]:
    """Nodes g and probabilities: the double exponential rule in the probability between −∞, the cuts, 0 and ∞."""
    ends = [-math.inf, *sorted({*cuts, 0.0}), math.inf]
    t = np.linspace(-4.6, 4.6, points)
    below, above = expit(np.pi * np.sinh(t)), expit(-np.pi * np.sinh(t))
    shares = below * above * np.pi * np.cosh(t) * (t[1] - t[0])
    nodes, weights = [], []
    for low, high in zip(ends, ends[1:], strict=False):
        mass = float(ndtr(high) - ndtr(low))
        if high == math.inf:
            g = -ndtri(mass * above)
        elif low == -math.inf:
            g = ndtri(mass * below)
        else:
            g = ndtri(ndtr(low) + mass * below)
        nodes.append(g)
        weights.append(mass * shares)
    return np.concatenate(nodes), np.concatenate(weights)


def _zero_order(values: Array, weights: Array) -> float:
    """d ln u/d ln E u/(u − λ) as u → 0−: 1 if E 1/λ is finite, else what the slopes near zero make of it."""
    u = -np.exp(np.array([-60.0, -40.0]))
    shares = np.log((u[:, None] / (u[:, None] - values)) @ weights)
    return max(1.0, float(20 / (shares[1] - shares[0])))
