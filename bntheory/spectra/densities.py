"""Factors with a density: the law of φ′(√q g)², g ~ N(0, 1), and laws given by a pdf."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from bntheory import arguments
from bntheory.activations import Activation, activation
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.factors import SMALLEST
from bntheory.spectra.law import Array
from bntheory.spectra.poles import Poles
from bntheory.spectra.s_transform import Part, STransformLaw

GRID = np.linspace(-12, 12, 4801)  # of g, on which zeros of φ′ are looked for
FARTHEST = 10.5  # of |g|: e^−55
NEAREST = 20.0  # −ln of the distance from zeros and kinks
REACH = 60.0  # of ln of the distance from the ends of a density
RESOLUTION = 1e-6  # share of the values next to a singular zero that the rule resolves
RAREST = 1e-25  # of the highest and lowest values: u could not be told from rarer ones at the edge of a product
ZERO = 1e-9  # of the largest value: a smallest below stands for 0
WIDEST = 60  # |ln of the variance| up to which the nodes resolve a slope
MOST = 1e7  # nodes, which a smooth slope needs more of the narrower it is beside its inputs
TINY = 1e-120  # values below count as zero
REPEATED, LEAST = 5, 1e-6  # nodes of one value, and their probability, that are an atom
FALLING = 1e-9  # share by which φ′² falls towards the farthest g
NORMALISED = 1e-6  # how far the integral of a pdf may be from 1


class Stretch(NamedTuple):
    """Nodes of a rule at even places: values, their probabilities with what lies beyond the last, and without."""

    values: Array
    weights: Array
    density: Array


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
        The law itself, right to a relative 1e-8 and to 1e-11/(1 − x/x_max) next to its edge, and its products;
        `STransformLaw.accuracy` says how well. An unbounded one ends where 1e-25 is above; far out, where it falls from
        node to node (of exp(−x) from x = 5 on), the error is 1e-10 of the whole, and more points make it small again.

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
        The law itself, with atoms where φ′ is constant, and its products; `STransformLaw.accuracy` says how well.

    Raises
    ------
    ValueError
        If the slope is zero for all h, or q is beyond e^±60, or so large (tanh: e^21) that few h meet a slope.

    Notes
    -----
    Homogeneous φ have two values, ½ each. For others E λ/(u − λ) is an integral over g that is analytic between jumps
    and kinks of φ′: the rule is exponentially accurate away from the range of λ, and corrected by its residues next to
    it (see `bntheory.spectra.poles`). Tails of a product that are rarer than 1e-12, where no Gaussian matrix makes
    them, are continued as powers.

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
        raise ValueError(f"{phi} has no law for inputs of variance e^{log_variance:.3g}: beyond e^±{WIDEST}")
    root = math.exp(log_variance / 2)

    def slope(g: Array) -> Array:
        return np.asarray(phi.dphi(root * g), dtype=float)

    zeros, kinks = _cuts(slope, [place for kink in phi.kinks if abs(place := kink / root) < FARTHEST])
    largest = float(np.max(np.square(slope(GRID))))
    if not largest > TINY:
        raise ValueError(f"the slope of {phi} is zero for every input of variance e^{log_variance:.3g}")
    tails = np.log(np.square(slope(np.array([[-3.5, 2.5], [-2.5, 3.5]]))) + TINY)
    scale = min(1.0, 1 / root, 3 / np.abs(np.diff(tails, axis=0)).max(initial=3.0))
    if 2 * FARTHEST / scale * points > MOST:
        raise ValueError(f"{phi} has no law for inputs of variance e^{log_variance:.3g}: too few meet a slope")

    def rule(density: float) -> list[Stretch]:
        nodes = _normal_rule(zeros, kinks, scale, density)
        return [Stretch(slope(g) ** 2, weights, density) for g, weights, density in nodes]

    outer, inner = (np.square(slope(side * FARTHEST * np.array([-1.0, 1.0]))) for side in (1.0, 0.9))
    tail = not zeros and bool(np.any((outer < inner * (1 - FALLING)) & (outer <= outer.min())))
    return _law(rule, points, RESOLUTION if zeros else SMALLEST, tail)


def _law(rule: Callable[[float], list[Stretch]], points: float, resolution: float, tail: bool = False) -> STransformLaw:
    """The law of a rule's values and probabilities, and the same by a rule of half as many for comparison."""

    def factor(count: float, coarse: Diagonal | None) -> Diagonal:
        stretches = rule(count)
        values, weights = (np.concatenate(column) for column in list(zip(*stretches, strict=True))[:2])
        shares = weights / weights.sum()
        common = values[shares > RAREST]
        low, high = max(common.min(), TINY), common.max()
        alive = (values >= low) & (values <= high)
        found, place, times = np.unique(values[alive], return_inverse=True, return_counts=True)
        merged = np.bincount(place, shares[alive]).astype(float)
        at_points = (times >= REPEATED) & (merged > LEAST)
        reaches_zero = bool(found[0] < ZERO * found[-1])
        order = _zero_order(found, merged) if reaches_zero else 1.0
        poles = Poles([_kept(stretch, low, high, weights.sum()) for stretch in stretches])
        masses = tuple(zip(found[at_points].tolist(), merged[at_points].tolist(), strict=True))
        return Diagonal(found, merged, 1, order, 1.0, resolution, reaches_zero, coarse, poles, masses, tail)

    return STransformLaw((), 0.0, (Part(factor(points, factor(points / 2, None))),))


def _kept(stretch: Stretch, low: float, high: float, total: float) -> tuple[Array, Array]:
    """λ and probabilities where λ is in the range kept, which is one run of nodes."""
    kept = (stretch.values >= low) & (stretch.values <= high)
    return stretch.values[kept], stretch.density[kept] / total


def _density_rule(pdf: Callable[[Array], ArrayLike], ends: Sequence[float], points: float) -> list[Stretch]:
    """Nodes and probabilities, evenly spaced in ln of the distance from both ends of a stretch."""
    t = np.arange(-REACH, REACH, 1 / points)
    stretches = []
    for low, high in pairwise(ends):
        below, above = expit(t), expit(-t)
        x, slope = (low + np.exp(t), np.exp(t)) if math.isinf(high) else (low + (high - low) * below, below * above)
        shares = np.asarray(pdf(x), dtype=float) * slope * (1 if math.isinf(high) else high - low) / points
        stretches.append(Stretch(x, shares, shares))
    weights = np.concatenate([stretch.weights for stretch in stretches])
    if not np.all(weights >= 0) or abs(weights.sum() - 1) > NORMALISED:
        raise ValueError(f"the density must be positive and integrate to 1, got {weights.sum():.9g}")
    return stretches


def _cuts(slope: Callable[[Array], Array], told: list[float]) -> tuple[list[float], list[float]]:
    """Where φ′ changes its sign, and where it jumps or has a kink: places that are told, and 0 where it is so there."""
    values = slope(GRID)
    crossing = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    zeros = [zero for k in crossing if abs(zero := _zero(slope, GRID[k], GRID[k + 1])) < FARTHEST]
    step = np.array([1e-4, 2e-4])
    near, far = np.abs(slope(step) - 2 * slope(np.zeros(2)) + slope(-step))  # 1 : 4 if φ′ is smooth
    kink = near > 1e-9 * np.abs(values).max() and far < 3 * near
    return zeros, [*told, 0.0] if kink else told


def _zero(slope: Callable[[Array], Array], low: float, high: float) -> float:
    """Where φ′ changes its sign, by bisection: to the last float, so that small φ′ are right."""
    rising = float(slope(np.array([high]))[0]) > 0
    for _ in range(60):
        g = (low + high) / 2
        low, high = (low, g) if (float(slope(np.array([g]))[0]) > 0) == rising else (g, high)
    return high


def _normal_rule(zeros: list[float], kinks: list[float], scale: float, density: float) -> list[Stretch]:
    """Nodes g and probabilities of N(0, 1) on the stretches between −∞, zeros and kinks of φ′, and ∞.

    Evenly spaced on the whole line; towards the ends of a stretch evenly in ln of the distance, so that small λ are
    resolved on every scale, and what is left beyond the last node is its own.
    """
    stretches = []
    for low, high in pairwise([-math.inf, *sorted({*zeros, *kinks}), math.inf]):
        ends = [end for end in (low, high) if math.isfinite(end)]
        first = -NEAREST if ends else -FARTHEST / scale
        beyond = FARTHEST + (high if math.isinf(low) else -low) if len(ends) == 1 else FARTHEST  # to the farthest g
        last = NEAREST if len(ends) == 2 else beyond / scale
        count = math.ceil((last - first) * density)
        t = (first + last) / 2 + (np.arange(count) - (count - 1) / 2) / density
        if not ends:
            g, slope = scale * t, np.full_like(t, scale)
        elif len(ends) == 1:
            distance, slope = scale * np.logaddexp(0, t), scale * expit(t)
            g = high - distance if math.isinf(low) else low + distance
        else:
            g, slope = low + (high - low) * expit(t), (high - low) * expit(t) * expit(-t)
        shares: Array = np.exp(-(g**2) / 2) * slope / density / math.sqrt(2 * math.pi)
        weights = shares.copy()
        weights[[0, -1][: len(ends)]] /= -math.expm1(-1 / density)  # a geometric series beyond
        stretches.append(Stretch(np.asarray(g, float), weights, shares))
    return stretches


def _zero_order(values: Array, weights: Array) -> float:
    """d ln u/d ln E u/(u − λ) as u → 0−: 1 if E 1/λ is finite, else what the values near zero make of it."""
    u = -np.exp(np.array([-30.0, -20.0])) * values.max()
    shares = np.log((u[:, None] / (u[:, None] - values)) @ weights)
    return max(1.0, float(10 / (shares[1] - shares[0])))
