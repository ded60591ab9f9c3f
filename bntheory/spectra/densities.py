"""Factors with a density: the law of φ′(√q g)², g ~ N(0, 1), and laws given by a pdf."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from bntheory import arguments
from bntheory.activations import Activation, activation
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.factors import SMALLEST
from bntheory.spectra.law import Array
from bntheory.spectra.s_transform import Part, STransformLaw

GRID = np.linspace(-12, 12, 4801)  # of g, on which zeros of φ′ are looked for
FARTHEST = 10.5  # of |g|: e^−55
NEAREST = 20.0  # −ln of the distance from zeros and kinks
REACH = 60.0  # of ln of the distance from the ends of a density
RESOLUTION = 1e-6  # share of the values next to a singular zero that the rule resolves
RAREST = 1e-25  # of the highest and lowest values: u could not be told from rarer ones at the edge of a product
ZERO = 1e-9  # of the largest value: a smallest below stands for 0
WIDEST = 60  # |ln of the variance| up to which the nodes resolve a slope
TINY = 1e-120  # values below count as zero
NORMALISED = 1e-6  # how far the integral of a pdf may be from 1


def density_law(
    pdf: Callable[[Array], ArrayLike], ends: Sequence[float] = (0.0, math.inf), points: float = 8.0
) -> STransformLaw:
    """Return a law of a given density, as a factor of products.

    Parameters
    ----------
    pdf : callable
        Density at an array of x.
    ends : sequence of float
        At least 0, increasing: the ends of the support, the last of which may be inf, and between them every place
        where the density is not analytic. It may diverge there.
    points : float
        Nodes per e-fold of the distance from an end, at least 2.

    Returns
    -------
    STransformLaw
        Its moments are known, and its products with Gaussian matrices; `STransformLaw.accuracy` says how well. Where
        the density of such a product is small and that of the factor is not, as far out in an unbounded one, the
        nodes show.

    Raises
    ------
    ValueError
        If the ends do not increase from at least 0, or the density is negative or does not integrate to 1 to 1e-6.

    Examples
    --------
    >>> from bntheory import FussCatalan
    >>> exponential = density_law(lambda x: np.exp(-x))
    >>> law = exponential @ FussCatalan(1)
    >>> round(exponential.moment(2), 9), round(law.moment(2), 9), law.accuracy(1.0) < 1e-5
    (2.0, 3.0, True)
    """
    numbers = [float(end) for end in ends]
    rising = all(low < high for low, high in pairwise(numbers))
    if len(numbers) < 2 or numbers[0] < 0 or not rising:
        raise ValueError(f"ends must increase from at least 0, got {ends!r:.80}")
    arguments.number("points", points, at_least=2)
    return _law(lambda count: _density_rule(pdf, numbers, count), points, SMALLEST)


def slope_law(phi: str | Activation, log_variance: float = 0.0, points: float = 10.0) -> STransformLaw:
    """Return the law of φ′(h)², h ~ N(0, q): what an activation does to squared singular values of a Jacobian.

    Parameters
    ----------
    phi : str or Activation
    log_variance : float
        ln q.
    points : float
        Nodes per unit of g, and per e-fold of the distance from zeros, jumps and kinks of φ′; at least 2.

    Returns
    -------
    STransformLaw
        Its moments are known, and its products with Gaussian matrices; `STransformLaw.accuracy` says how well.

    Raises
    ------
    ValueError
        If the slope is zero for all h.

    Notes
    -----
    Homogeneous φ have two values, ½ each. For others E λ/(u − λ) is an integral over g that is analytic between jumps
    and kinks of φ′: the rule is exponentially accurate away from the range of λ. One Gaussian matrix keeps u away
    enough for 1e-8 in most cases, two for 1e-12. One is not enough if most units are saturated (q ≫ 1), and a single
    one of fewer rows than columns leaves a lower tail in which the nodes show: see `STransformLaw.accuracy`.

    Examples
    --------
    >>> from bntheory import FussCatalan
    >>> law = slope_law("tanh", math.log(0.5)) @ FussCatalan(1)
    >>> round(law.mean, 9), law.accuracy(0.5) < 1e-5
    (0.592425793, True)
    """
    arguments.number("points", points, at_least=2)
    phi, log_variance = activation(phi), arguments.number("log_variance", log_variance)
    if phi.homogeneous_slopes is not None:
        values, counts = np.unique(np.square(phi.homogeneous_slopes), return_counts=True)
        return DiscreteLaw(values.tolist(), (counts / 2).tolist()).s_transform()
    if abs(log_variance) > WIDEST:
        raise ValueError(f"not available for inputs of variance e^{log_variance:.3g}: beyond e^±{WIDEST}")
    root = math.exp(log_variance / 2)

    def slope(g: Array) -> Array:
        return np.asarray(phi.dphi(root * g), dtype=float)

    zeros, kinks = _cuts(slope)
    largest = float(np.max(np.square(slope(GRID))))
    if not largest > TINY:
        raise ValueError(f"the slope of {phi} is zero for every input of variance e^{log_variance:.3g}")
    tails = np.log(np.square(slope(np.array([[-3.5, 2.5], [-2.5, 3.5]]))) + TINY)
    scale = min(1.0, 1 / root, 3 / np.abs(np.diff(tails, axis=0)).max(initial=3.0))

    def rule(density: float) -> tuple[Array, Array]:
        g, weights = _normal_rule(zeros, kinks, scale, density)
        return slope(g) ** 2, weights

    return _law(rule, points, RESOLUTION if zeros else SMALLEST)


def _law(rule: Callable[[float], tuple[Array, Array]], points: float, resolution: float) -> STransformLaw:
    """The law of a rule's values and probabilities, and the same by a rule of half as many for comparison."""

    def factor(count: float, coarse: Diagonal | None) -> Diagonal:
        values, weights = rule(count)
        shares = weights / weights.sum()
        common = values[shares > RAREST]
        alive = (values > TINY) & (values >= common.min()) & (values <= common.max())
        found, place = np.unique(values[alive], return_inverse=True)
        merged = np.bincount(place, shares[alive]).astype(float)
        reaches_zero = bool(found[0] < ZERO * found[-1])
        order = _zero_order(found, merged) if reaches_zero else 1.0
        return Diagonal(found, merged, 1, order, 1.0, resolution, reaches_zero, coarse)

    return STransformLaw((), 0.0, (Part(factor(points, factor(points / 2, None))),))


def _density_rule(pdf: Callable[[Array], ArrayLike], ends: Sequence[float], points: float) -> tuple[Array, Array]:
    """Nodes and probabilities, evenly spaced in ln of the distance from both ends of a stretch."""
    t = np.arange(-REACH, REACH, 1 / points)
    nodes, shares = [], []
    for low, high in pairwise(ends):
        below, above = expit(t), expit(-t)
        x, slope = (low + np.exp(t), np.exp(t)) if math.isinf(high) else (low + (high - low) * below, below * above)
        nodes.append(x)
        shares.append(np.asarray(pdf(x), dtype=float) * slope * (1 if math.isinf(high) else high - low) / points)
    weights = np.concatenate(shares)
    if not np.all(weights >= 0) or abs(weights.sum() - 1) > NORMALISED:
        raise ValueError(f"the density must be positive and integrate to 1, got {weights.sum():.9g}")
    return np.concatenate(nodes), weights


def _cuts(slope: Callable[[Array], Array]) -> tuple[list[float], list[float]]:
    """Where φ′ changes its sign, and 0 if it jumps or has a kink there, the only place where it may."""
    values = slope(GRID)
    crossing = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    zeros = [_zero(slope, GRID[k], GRID[k + 1]) for k in crossing]
    step = np.array([1e-4, 2e-4])
    near, far = np.abs(slope(step) - 2 * slope(np.zeros(2)) + slope(-step))  # 1 : 4 if φ′ is smooth
    kink = near > 1e-9 * np.abs(values).max() and far < 3 * near
    return zeros, [0.0] if kink else []


def _zero(slope: Callable[[Array], Array], low: float, high: float) -> float:
    """Where φ′ changes its sign, by bisection: to the last float, so that small φ′ are right."""
    rising = float(slope(np.array([high]))[0]) > 0
    for _ in range(60):
        g = (low + high) / 2
        low, high = (low, g) if (float(slope(np.array([g]))[0]) > 0) == rising else (g, high)
    return high


def _normal_rule(zeros: list[float], kinks: list[float], scale: float, density: float) -> tuple[Array, Array]:
    """Nodes g and probabilities of N(0, 1) on the stretches between −∞, zeros and kinks of φ′, and ∞.

    Evenly spaced on the whole line; towards the ends of a stretch evenly in ln of the distance, so that small λ are
    resolved on every scale, and what is left beyond the last node is its own.
    """
    nodes, weights = [], []
    for low, high in pairwise([-math.inf, *sorted({*zeros, *kinks}), math.inf]):
        ends = [end for end in (low, high) if math.isfinite(end)]
        first = -NEAREST if ends else -FARTHEST / scale
        last = NEAREST if len(ends) == 2 else FARTHEST / scale
        count = math.ceil((last - first) * density)
        t = (first + last) / 2 + (np.arange(count) - (count - 1) / 2) / density
        if not ends:
            g, slope = scale * t, np.full_like(t, scale)
        elif len(ends) == 1:
            distance, slope = scale * np.logaddexp(0, t), scale * expit(t)
            g = high - distance if math.isinf(low) else low + distance
        else:
            g, slope = low + (high - low) * expit(t), (high - low) * expit(t) * expit(-t)
        slope[[0, -1][: len(ends)]] /= -math.expm1(-1 / density)  # a geometric series beyond
        nodes.append(g)
        weights.append(np.exp(-(g**2) / 2) * slope / density / math.sqrt(2 * math.pi))
    return np.concatenate(nodes), np.concatenate(weights)


def _zero_order(values: Array, weights: Array) -> float:
    """d ln u/d ln E u/(u − λ) as u → 0−: 1 if E 1/λ is finite, else what the values near zero make of it."""
    u = -np.exp(np.array([-30.0, -20.0])) * values.max()
    shares = np.log((u[:, None] / (u[:, None] - values)) @ weights)
    return max(1.0, float(10 / (shares[1] - shares[0])))
