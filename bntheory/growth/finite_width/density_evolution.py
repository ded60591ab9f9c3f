"""Finite width with biases: the law of u = ln‖h‖² carried from layer to layer on a grid.

u' = ln(v e^u + v_b) + X with X = ln χ²_K independent of u (`fluctuations`). The density of u' is a mixture of shifted
densities of X, which are analytic, so that the trapezoid rule on a uniform grid of u converges faster than any power of
its spacing. A dead layer (K = 0) is an atom at u = −∞, from which a bias revives the next one.

Biases that are not Gaussian change the fourth moment of a pre-activation, and with it the spread of X, at first order
in 1/n (weights that are not Gaussian only at second): with r the biases' share of the variance and κ their excess
kurtosis, Var X shrinks by the factor s² = 1 + κ r²/2 (linear) or 1 + 2 κ r²/5 (ReLU). X is then narrowed to
E X + (1 − s²) Var X / 2 + s (X − E X), which keeps the mean of e^X to that order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import interpolate, signal, special

from bntheory.growth.finite_width import fluctuations
from bntheory.growth.finite_width.fluctuations import LogChi2, Step

_TAIL = 1e-17  # weight cut off on either side, per layer


@dataclass(frozen=True)
class Density:
    """Law of u given that the layer is alive: points and their weights, and the probability that it is dead."""

    points: np.ndarray
    weights: np.ndarray
    dead: float

    @property
    def mean(self) -> float:
        """E u given alive."""
        return float(self.weights @ self.points)

    @property
    def variance(self) -> float:
        """Var u given alive."""
        return float(self.weights @ (self.points - self.mean) ** 2)


@dataclass(frozen=True)
class Kernel:
    """Density and distribution function of X − E X, with the interval outside of which its mass is negligible."""

    pdf: interpolate.BSpline
    cdf: interpolate.BSpline
    lower: float
    upper: float


@functools.lru_cache(maxsize=64)
def kernel(law: LogChi2) -> Kernel:
    """Tabulate the density of X − E X = ln χ²_K − E ln χ²_K by quintic splines, to about 1e-10."""
    mean, variance = fluctuations.mean_and_variance(law)
    scale = math.sqrt(variance)
    lower = -9 * scale - 75 / fluctuations.least_degree(law)
    upper = 9 * scale
    # Every K shares the left tail's resolution: the narrowest component has the width of ln χ² with all units.
    narrowest = math.sqrt(float(special.polygamma(1, law.units / 2)))
    x = np.arange(lower, upper + narrowest / 40, narrowest / 40)
    k, weights = fluctuations.degrees(law)
    log_chi2 = x + mean
    density = np.zeros(len(x))
    for block in np.array_split(np.arange(len(k)), max(1, len(k) * len(x) // 2_000_000)):
        half = k[block, None] / 2
        log_pdf = half * (log_chi2 - math.log(2)) - np.exp(log_chi2) / 2 - special.gammaln(half)
        density += weights[block] @ np.exp(log_pdf)
    relevant = np.flatnonzero(density > 1e-19 * density.max())
    kept = slice(relevant[0], relevant[-1] + 1)
    x, pdf = x[kept], interpolate.make_interp_spline(x[kept], density[kept], k=5)
    return Kernel(pdf, pdf.antiderivative(), float(x[0]), float(x[-1]))


def evolve(start: float, steps: Sequence[Step]) -> Iterator[tuple[Density, Density]]:
    """Yield, for every step, the law of ln(v‖h‖² + v_b) before its χ² factor, and that of u = ln‖h‖² after it.

    Parameters
    ----------
    start : float
        ln‖h_0‖² of the input.
    steps : sequence of Step

    Yields
    ------
    (Density, Density)
        Both conditional on being alive, with the probability that they are not.
    """
    spacing = min(min(0.45 * math.sqrt(fluctuations.mean_and_variance(step.law)[1]), 0.25) for step in steps)
    density, lattice_start = Density(np.array([start]), np.array([1.0]), 0.0), None
    transition = Transition(steps[0], spacing)
    for step in steps:
        if step != transition.step:
            transition = Transition(step, spacing)
        source = _before_factor(density, step)
        dead = -math.expm1(math.log1p(-source.dead) + fluctuations.log_alive(step.law))
        if lattice_start is None:
            first, weights = transition.mix(source.points, source.weights)
        else:
            first, weights = transition.from_lattice(lattice_start, density.weights)
            if len(source.points) > len(density.points):  # the atom that the bias revives
                atom = transition.mix(source.points[:1], source.weights[:1])
                first, weights = _added(first, weights * (1 - density.dead), *atom)
        lattice_start, weights = _trimmed(first, weights)
        density = Density((lattice_start + np.arange(len(weights))) * spacing, weights, dead)
        yield source, density


def _before_factor(density: Density, step: Step) -> Density:
    points = np.logaddexp(density.points + step.log_weight_variance, step.log_bias_variance)
    if step.log_bias_variance == -math.inf:
        return Density(points, density.weights, density.dead)
    if density.dead < _TAIL:
        return Density(points, density.weights, 0.0)
    revived = np.concatenate([[step.log_bias_variance], points])
    return Density(revived, np.concatenate([[density.dead], (1 - density.dead) * density.weights]), 0.0)


class Transition:
    """One step of the chain on the lattice u = j · spacing; what a lattice point sends where is computed once."""

    def __init__(self, step: Step, spacing: float) -> None:
        self.step, self.spacing = step, spacing
        self.kernel = kernel(step.law)
        self.reach = np.arange(math.ceil((self.kernel.upper - self.kernel.lower) / spacing) + 1)
        self.start, self.targets, self.values = 0, np.empty(0, int), np.empty((0, len(self.reach)))

    def _rows(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First target of every source point, and the kernel on the targets from there on."""
        center, scale = _narrowed(points, self.step, self.step.law)
        first = np.ceil((center + self.kernel.lower * scale) / self.spacing).astype(int)
        offset = ((first[:, None] + self.reach) * self.spacing - center[:, None]) / scale[:, None]
        values = self.kernel.pdf(np.minimum(offset, self.kernel.upper)) * (self.spacing / scale[:, None])
        return first, np.where(offset <= self.kernel.upper, np.maximum(values, 0.0), 0.0)

    def mix(self, points: np.ndarray, weights: np.ndarray) -> tuple[int, np.ndarray]:
        """First lattice index and weights after the step, from arbitrary points ln(v‖h‖² + v_b)."""
        return self._spread(*self._rows(points), weights)

    def _spread(self, targets: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[int, np.ndarray]:
        base = int(targets.min())
        index = (targets - base)[:, None] + self.reach
        return base, np.bincount(index.ravel(), (weights[:, None] * values).ravel())

    def from_lattice(self, first: int, weights: np.ndarray) -> tuple[int, np.ndarray]:
        """First lattice index and weights after the step, from weights on the lattice."""
        log_weight, log_bias = self.step.log_weight_variance, self.step.log_bias_variance
        free = math.ceil((log_bias + 40 - log_weight) / self.spacing) if log_bias > -math.inf else first
        cut = min(max(free - first, 0), len(weights))  # from here on the bias is below rounding: a convolution
        parts = []
        if cut:
            self._extend(first, first + cut)
            rows = slice(first - self.start, first - self.start + cut)
            parts.append(self._spread(self.targets[rows], self.values[rows], weights[:cut]))
        if cut < len(weights):
            targets, values = self._rows(np.array([(first + cut) * self.spacing + log_weight]))
            parts.append((int(targets[0]), _convolved(weights[cut:], values[0])))
        return parts[0] if len(parts) == 1 else _added(*parts[0], *parts[1])

    def _extend(self, first: int, end: int) -> None:
        known_end = self.start + len(self.targets)
        if len(self.targets) and self.start <= first and end <= known_end:
            return
        margin = end - first
        self.start, end = first - margin, end + margin
        lattice = np.arange(self.start, end) * self.spacing
        points = np.logaddexp(lattice + self.step.log_weight_variance, self.step.log_bias_variance)
        self.targets, self.values = self._rows(points)


def _convolved(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Convolution; by blocks of Fourier transforms, right to rounding of the largest weight, if it is long."""
    if len(weights) < 20 * len(values):
        return np.convolve(weights, values)
    return np.maximum(signal.oaconvolve(weights, values), 0.0)


def _added(first: int, weights: np.ndarray, other: int, more: np.ndarray) -> tuple[int, np.ndarray]:
    start, end = min(first, other), max(first + len(weights), other + len(more))
    total = np.zeros(end - start)
    total[first - start : first - start + len(weights)] += weights
    total[other - start : other - start + len(more)] += more
    return start, total


def _trimmed(first: int, weights: np.ndarray) -> tuple[int, np.ndarray]:
    """Cut negligible tails and restore the mass that they and the quadrature lost."""
    mass = np.cumsum(weights)
    begin, end = np.searchsorted(mass, [_TAIL, mass[-1] * (1 - 1e-16)])
    kept = weights[begin : end + 1]
    return first + int(begin), kept / kept.sum()


def _narrowed(points: np.ndarray, step: Step, law: LogChi2) -> tuple[np.ndarray, np.ndarray]:
    """Mean of u' and scale of X − E X for every point ln(v‖h‖² + v_b)."""
    mean, variance = fluctuations.mean_and_variance(law)
    share = np.exp(np.minimum(step.log_bias_variance - points, 0.0))
    narrowing = step.bias_excess * share**2 * (0.4 if law.halved else 0.5)
    return points + mean - narrowing * variance / 2, np.sqrt(1 + narrowing)


def mean_and_variance(source: Density, step: Step, law: LogChi2) -> tuple[float, float]:
    """Mean and variance of Y + X, with Y of the given law and X = ln χ²_K given K ≥ 1."""
    center, scale = _narrowed(source.points, step, law)
    mean = float(source.weights @ center)
    own = fluctuations.mean_and_variance(law)[1] * scale**2
    return mean, float(source.weights @ ((center - mean) ** 2 + own))


def quantiles(source: Density, step: Step, law: LogChi2, levels: np.ndarray) -> np.ndarray:
    """Quantiles of Y + X, with Y of the given law and X = ln χ²_K given K ≥ 1."""
    center, scale = _narrowed(source.points, step, law)
    order = np.argsort(center)
    mixture = Density(center[order], source.weights[order], source.dead)
    mean, variance = mean_and_variance(source, step, law)
    guesses = mean + math.sqrt(variance) * special.ndtri(levels)
    below = np.concatenate([[0.0], np.cumsum(mixture.weights)])
    pairs = zip(levels, guesses, strict=True)
    return np.array([_quantile(mixture, scale[order], below, kernel(law), *pair) for pair in pairs])


def _quantile(mixture: Density, scale: np.ndarray, below: np.ndarray, factor: Kernel, level: float, x: float) -> float:
    """Solve F(x) = level by safeguarded Newton steps; only points within the kernel's reach need evaluation."""
    points, weights = mixture.points, mixture.weights
    lower, upper = float(points[0]) + factor.lower, float(points[-1]) + factor.upper
    x = min(max(x, lower), upper)
    for _ in range(80):
        first, last = np.searchsorted(points, [x - factor.upper, x - factor.lower])
        near = slice(first, last)
        offset = np.clip((x - points[near]) / scale[near], factor.lower, factor.upper)
        excess = below[first] + weights[near] @ factor.cdf(offset) - level
        lower, upper = (x, upper) if excess < 0 else (lower, x)
        slope = float(weights[near] @ (factor.pdf(offset) / scale[near]))
        newton = x - excess / max(slope, 1e-300)
        new = newton if lower <= newton <= upper else (lower + upper) / 2
        if abs(new - x) < 1e-12 * (1 + abs(new)):
            return new
        x = new
    return x
