"""The Fuss–Catalan laws of products of square random matrices, and the Marchenko–Pastur law of one rectangular one.

Both are parametrised by an angle, θ = 0 at the upper edge of the support and θ = π at the lower. Each half is computed
in the angle to its own edge, θ for the upper and δ = π − θ for the lower, in formulas whose terms are all positive or
cancel mildly: relative accuracy then holds up to the edges. The logarithm of that angle is the unknown, since x spans
hundreds of thousands of decades when there are many factors.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, hyp2f1, zeta

from bntheory.arguments import integer, number
from bntheory.spectra.law import DIGITS, Array, SpectralLaw, solve_monotone
from bntheory.spectra.s_transform import STransformLaw

LOG_HALF = math.log(math.pi / 2)  # where the halves meet, in the logarithm of the angle
TERMS = np.arange(1, 31)  # powers of (θ/π)² ≤ 1/4 kept in the series at the upper edge: the next is 4^-31 ~ 2e-19
NODES, WEIGHTS = (np.polynomial.legendre.leggauss(24) + np.array([[1.0], [0.0]])) / 2  # Gauss's rule on (0, 1)


class Point(NamedTuple):
    """The law at given angles: depth t, dt/d ln(angle), and logarithms of the density of ln x, of cdf and of sf."""

    depth: Array
    slope: Array
    log_density: Array
    log_cdf: Array
    log_sf: Array


class AngleLaw(SpectralLaw):
    """A law known along an angle, in closed form."""

    @abstractmethod
    def _point(self, log_angle: Array, upper: bool) -> Point:
        """The law at the angle to the upper or the lower edge, for angles up to about π/2."""

    @abstractmethod
    def _log_angle(self, depth: Array, upper: bool) -> Array:
        """The inverse of `_point`'s depth."""

    @cached_property
    def _half(self) -> Point:
        return self._point(np.array([LOG_HALF]), upper=True)

    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        out = np.empty((3, depth.size))
        for upper in (True, False):
            part = (depth <= self._half.depth) == upper
            if np.any(part):
                out[:, part] = self._point(self._log_angle(depth[part], upper), upper)[2:]
        return out[0], out[1], out[2]

    def _depth(self, below: Array, above: Array) -> Array:
        depth = np.empty(below.size)
        log_odds = np.log(below) - np.log(above)
        for upper in (True, False):
            part = (log_odds >= self._half.log_cdf - self._half.log_sf) == upper
            if np.any(part):
                depth[part] = self._depth_at_odds(log_odds[part], upper)
        return depth

    def _depth_at_odds(self, log_odds: Array, upper: bool) -> Array:
        """Solve cdf/sf = odds in the logarithm of the angle, of which the log-odds are nearly a linear function."""

        def odds(log_angle: Array) -> tuple[Array, Array]:
            at = self._point(log_angle, upper)
            slope = at.slope * (np.exp(at.log_density - at.log_cdf) + np.exp(at.log_density - at.log_sf))
            return at.log_cdf - at.log_sf, -slope

        value, slope = odds(np.array([LOG_HALF]))
        log_angle = solve_monotone(odds, log_odds, LOG_HALF + (log_odds - value) / slope, LOG_HALF)
        return self._point(log_angle, upper).depth


@dataclass(frozen=True)
class FussCatalan(AngleLaw):
    r"""Law of the eigenvalues x of J Jᵀ for J a product of M square matrices of iid entries, of large size.

    With φ ∈ (0, π/(M+1)),

        x(φ)   = scale · sin((M+1)φ)^(M+1) / (sin φ · sin(Mφ)^M),      0 < x < scale · (M+1)^(M+1)/M^M,
        pdf(x) = sin φ · sin((M+1)φ) / (π x sin(Mφ)),
        cdf(x) = 1 − [(M+1)φ − M sin φ sin((M+1)φ) / sin(Mφ)] / π,
        E x^k  = scale^k · C((M+1)k, k) / (Mk+1),      k > −1/(M+1).

    As x → 0 the density grows like x^(−M/(M+1)). M = 1 is the Marchenko–Pastur law of a square matrix.

    Parameters
    ----------
    factors
        The number M ≥ 1 of matrices.
    scale
        Multiplies x. N×N matrices of entries of variance σ_i²/N, real or complex, have scale = Π σ_i².

    Raises
    ------
    ValueError
        If `factors` is not an integer of at least 1, or `scale` not a positive finite number.

    Notes
    -----
    pdf, cdf and sf have relative errors below 1e-12 for 1 to 1,000,000 factors and any scale: from x = 1e-300 to the
    last float below the upper edge, and in `log` down to where they underflow.

    References
    ----------
    D.-Z. Liu, D. Wang, L. Zhang, Bulk and soft-edge universality for singular values of products of Ginibre matrices,
    arXiv:1412.6777 (2014).
    K. A. Penson, K. Życzkowski, Product of Ginibre matrices: Fuss–Catalan and Raney distributions,
    Phys. Rev. E 83, 061118 (2011).

    Examples
    --------
    >>> law = FussCatalan(factors=2)
    >>> law.support
    (0.0, 6.75)
    >>> [round(law.moment(k), 12) for k in range(5)]
    [1.0, 1.0, 3.0, 12.0, 55.0]
    >>> float(law.singular.ppf(1.0)) == 6.75**0.5
    True
    >>> float(FussCatalan(1000).ppf(0.4)), float(FussCatalan(1000).log.ppf(0.4).round(3))
    (0.0, -916.695)
    """

    factors: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", integer("factors", self.factors))
        object.__setattr__(self, "scale", number("scale", self.scale, above=0))

    def _log_support(self) -> tuple[Decimal, Decimal]:
        with localcontext() as context:
            context.prec = DIGITS
            m, n = Decimal(self.factors), Decimal(self.factors + 1)
            return Decimal("-Infinity"), n * n.ln() - m * m.ln() + Decimal(self.scale).ln()

    @property
    def _zero_exponent(self) -> float:
        return 1 / (self.factors + 1)

    def s_transform(self) -> STransformLaw:
        """x = scale (1 + y)^(M+1)/y."""
        return STransformLaw({0: -1, 1: self.factors + 1}, math.log(self.scale))

    @cached_property
    def _series(self) -> Array:
        """Coefficients in powers of (θ/π)² of t, of dt/d ln θ and of ε, where density = θ/(πM(1+ε)).

        They come from ln(sin u / u) = −Σ ζ(2k)/k (u/π)^2k and u cot u = 1 − Σ 2ζ(2k) (u/π)^2k; all are positive.
        """
        m, n, twice = float(self.factors), self.factors + 1.0, 2.0 * TERMS
        # n − n^−2k − M (M/n)^2k without its cancellation
        bracket = -n * np.expm1((twice + 1) * math.log1p(-1 / n)) - n**-twice
        depth = zeta(twice) / TERMS * bracket
        return np.stack([depth, twice * depth, 2 * zeta(twice) * (1 - n ** (1 - twice)) / m], axis=1)

    def _point(self, log_angle: Array, upper: bool) -> Point:
        return self._upper_point(log_angle) if upper else self._lower_point(log_angle)

    def _upper_point(self, log_theta: Array) -> Point:
        square = np.exp(2 * log_theta) / math.pi**2
        powers = np.multiply.accumulate(np.broadcast_to(square[:, None], (square.size, TERMS.size)), axis=1)
        depth, slope, epsilon = np.einsum("ij,jk->ki", powers, self._series)
        log_density = log_theta - math.log(math.pi * self.factors) - np.log1p(epsilon)
        log_sf = log_theta + np.log(epsilon) - np.log1p(epsilon) - math.log(math.pi)
        return Point(depth, slope, log_density, np.log1p(-np.exp(log_sf)), log_sf)

    def _lower_point(self, log_delta: Array) -> Point:
        """With a = cot φ and b = cot δ the density of ln x is 1/(π(a+b)), and cdf = δ/π + M · density."""
        m, n = float(self.factors), self.factors + 1.0
        delta = np.exp(log_delta)
        phi = (math.pi - delta) / n
        tiny = log_delta < -300  # δ may underflow, but b = 1/δ and a is negligible beside it
        a, b = 1 / np.tan(phi), 1 / np.tan(np.exp(np.maximum(log_delta, -300)))
        log_sum = np.where(tiny, -log_delta, np.log(a + b))
        log_sin_phi = np.log(np.sin(phi))
        # ln(sin(δ+φ)/sin δ), where for many factors the ratio is close to 1 over most of the range
        excess = b * np.sin(phi) - 2 * np.sin(phi / 2) ** 2
        log_ratio = np.where(excess < 1, np.log1p(np.minimum(excess, 1)), log_sin_phi + log_sum)
        log_sin_delta = np.where(tiny, log_delta, np.log(np.sin(delta)))
        depth = math.log(n) + log_sin_phi - log_sin_delta + m * math.log1p(1 / m) + m * log_ratio
        slope = np.where(tiny, -n, -delta * ((a + n * b) ** 2 + m**2) / (n * (a + b)))
        log_density = -math.log(math.pi) - log_sum
        delta_sum = np.where(tiny, 1.0, delta * (a + b))
        log_cdf = log_density + np.log(m + delta_sum)
        beyond = log_density + np.log1p((math.pi - delta) * b - self._one_minus_theta_cot(phi))
        log_sf = np.where(log_cdf < -math.log(2), np.log1p(-np.exp(log_cdf)), beyond)
        return Point(depth, slope, log_density, log_cdf, log_sf)

    def _one_minus_theta_cot(self, phi: Array) -> Array:
        """θ (1/φ − cot φ) for θ = (M+1)φ, by its series in (φ/π)² ≤ 1/(M+1)²."""
        n = self.factors + 1.0
        count = min(TERMS.size, 2 + math.ceil(19 / math.log(n)))
        return 2 * n * np.polyval(np.append(zeta(2.0 * TERMS[:count])[::-1], 0), (phi / math.pi) ** 2)

    def _log_angle(self, depth: Array, upper: bool) -> Array:
        """Solve for the angle in ln(e^{t/(M+1)} − 1), which is nearly linear in its logarithm in either half."""
        n = self.factors + 1.0

        def spread(log_angle: Array) -> tuple[Array, Array]:
            at = self._point(log_angle, upper)
            part = -np.expm1(-at.depth / n)
            return at.depth / n + np.log(part), at.slope / (n * part)

        target = depth / n + np.log(-np.expm1(-depth / n))
        if upper:
            guess = np.log(depth / self._series[0, 0]) / 2 + math.log(math.pi)
        else:
            log_edge = math.log(n) + self.factors * math.log1p(1 / self.factors)
            guess = math.log(math.sin(math.pi / n)) + log_edge / n - target
        return solve_monotone(spread, target, guess, LOG_HALF)

    def _log_moment(self, order: float) -> float:
        m, n = self.factors, self.factors + 1
        shift = order * math.log(self.scale)
        if 0 <= order <= 1000 and order == int(order):
            k = int(order)
            return math.log(math.comb(n * k, k) // (m * k + 1)) + shift
        return log_gamma_ratio(m * order + 2, order - 1) - float(gammaln(order + 1)) + shift

    @property
    def mean(self) -> float:
        """E x = scale."""
        return self.scale

    @property
    def var(self) -> float:
        """Variance of x, M scale²."""
        return self.factors * self.scale * self.scale


def log_gamma_ratio(y: float, shift: float) -> float:
    """ln Γ(y + shift) − ln Γ(y) for y ≥ 1, without the cancellation of the two at large y."""
    if min(y, y + shift) < 20:
        return float(gammaln(y + shift) - gammaln(y))

    def stirling(z: float) -> float:
        return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / z**2) / z**2) / z**2) / z

    return (y - 0.5) * math.log1p(shift / y) + shift * (math.log(y + shift) - 1) + stirling(y + shift) - stirling(y)


@dataclass(frozen=True)
class MarchenkoPastur(AngleLaw):
    r"""Law of the eigenvalues x of J Jᵀ for one large n_out × n_in matrix J of iid entries of variance 1/n_in.

    With c = n_out/n_in the ratio and x± = scale · (1 ± √c)²,

        pdf(x) = √((x₊ − x)(x − x₋)) / (2π c x scale),      x₋ < x < x₊,

    an atom of mass 1 − 1/c at x = 0 when c > 1, mean = scale and variance = c scale². On x = scale · |1 + √c e^{iα}|²
    and for c ≤ 1,

        sf = [α − sin α / √c + (1 − c)/c · arg(1 + √c e^{iα})] / π,

    and the nonzero eigenvalues at c > 1 are those of Jᵀ J, c times the law of ratio 1/c.

    Parameters
    ----------
    ratio
        n_out/n_in > 0. At 1 the law is `FussCatalan(1)`.
    scale
        Multiplies x; entries of variance σ²/n_in have scale = σ².

    Raises
    ------
    ValueError
        If `ratio` or `scale` is not a positive finite number.

    Notes
    -----
    pdf, cdf and sf are accurate to a relative 1e-12 · (1 + x/(x − x₋)) for ratios from 1e-12 to 1e12: also at the
    upper edge, while the lower is as sharp as ln x.

    References
    ----------
    V. A. Marchenko, L. A. Pastur, Distribution of eigenvalues for some sets of random matrices,
    Math. USSR Sbornik 1, 457 (1967).

    Examples
    --------
    >>> law = MarchenkoPastur(ratio=4)
    >>> law.atoms, law.support
    (((0.0, 0.75),), (1.0, 9.0))
    >>> float(law.cdf(0.5)), float(law.nonzero.cdf(0.5)), float(law.ppf(0.75))
    (0.75, 0.0, 0.0)
    """

    ratio: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", number("ratio", self.ratio, above=0))
        object.__setattr__(self, "scale", number("scale", self.scale, above=0))

    def _log_support(self) -> tuple[Decimal, Decimal]:
        with localcontext() as context:
            context.prec = DIGITS
            root, shift = Decimal(self.ratio).sqrt(), Decimal(self.scale).ln()
            return 2 * abs(1 - root).ln() + shift, 2 * (1 + root).ln() + shift  # the logarithm of 0 is -Infinity

    def s_transform(self) -> STransformLaw:
        """x = scale (1 + y)(1 + c y)/y."""
        inverse = 1 / Fraction(self.ratio)
        return STransformLaw([(0, -1), (1, 1), (inverse, 1)], math.log(self.scale) - math.log(inverse))

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """The zero eigenvalues of J Jᵀ when J has more rows than columns."""
        return ((0.0, (self.ratio - 1) / self.ratio),) if self.ratio > 1 else ()

    @property
    def _mass(self) -> float:
        return min(1.0, 1 / self.ratio)

    @cached_property
    def _root(self) -> float:
        """r, the root of the ratio or of its inverse, whichever is at most 1."""
        return math.sqrt(min(self.ratio, 1 / self.ratio))

    @cached_property
    def _one_minus_root(self) -> float:
        return abs(self.ratio - 1) / max(self.ratio, 1.0) / (1 + self._root)

    @property
    def _zero_exponent(self) -> float:
        return math.inf if self._one_minus_root else 0.5

    def _point(self, log_angle: Array, upper: bool) -> Point:
        """In units where r is the root of the ratio: x = (1+r)² − 4r sin²(angle/2) above, (1−r)² + 4r sin² below."""
        r, gap, angle = self._root, self._one_minus_root, np.exp(log_angle)
        chord = 2 * math.sqrt(r) * np.sin(angle / 2)
        log_density = log_angle + np.log(np.sinc(angle / math.pi)) - math.log(math.pi * r)
        if upper:
            depth = -np.log1p(-((chord / (1 + r)) ** 2))
            slope = 2 * r * angle * np.sin(angle) / ((1 + r) ** 2 - chord**2)
            log_sf = self._log_tail(log_angle, upper)
            return Point(depth, slope, log_density, np.log1p(-np.exp(log_sf)), log_sf)
        root_x = np.hypot(gap, chord)
        depth = -2 * np.log(root_x / (1 + r))
        slope = -2 * r * (angle / root_x) * (np.sin(angle) / root_x)
        log_cdf = self._log_tail(log_angle, upper)
        return Point(depth, slope, log_density, log_cdf, np.log1p(-np.exp(log_cdf)))

    def _log_tail(self, log_angle: Array, upper: bool) -> Array:
        """Log-probability between the edge and the angle: (2/π) ∫ sin²a / x(a) da, over angle³ by Gauss's rule.

        The rule fails where x(a) nearly vanishes within the range, r → 1 and angle > 1 − r at the lower edge; there the
        closed form loses nothing.
        """
        r, gap = self._root, self._one_minus_root
        angle = np.exp(np.maximum(log_angle, -700))  # below it the ratios to the angle have long reached their limits
        sine = np.sin(angle[:, None] * (NODES / 2))
        square = 4 * r * sine**2
        x = (1 + r) ** 2 - square if upper else gap**2 + square
        integrand = (sine / angle[:, None]) ** 2 * (1 - sine**2) / x  # sin²a / (2 angle)² / x
        rule = 3 * log_angle + np.log(8 / math.pi * np.sum(WEIGHTS * integrand, axis=1))
        if upper or r < 0.5:
            return rule
        argument = np.arctan2(r * np.sin(angle), gap + 2 * r * np.sin(angle / 2) ** 2)
        bracket = angle + np.sin(angle) / r - gap * (1 + r) * argument / r**2
        resolved = angle > gap
        return np.where(resolved, log_angle + np.log(np.where(resolved, bracket / angle, 1.0) / math.pi), rule)

    def _log_angle(self, depth: Array, upper: bool) -> Array:
        r, gap = self._root, self._one_minus_root
        if upper:
            log_sine = np.log(-np.expm1(-depth)) / 2 + math.log((1 + r) / 2 / math.sqrt(r))
        elif gap:
            log_sine = np.log(np.expm1(self._lower_depth - depth)) / 2 + math.log(gap / 2 / math.sqrt(r))
        else:
            log_sine = -depth / 2
        return math.log(2) + np.where(log_sine < -20, log_sine, np.log(np.arcsin(np.exp(log_sine))))

    def _log_moment(self, order: float) -> float:
        """The nonzero x have E x^k = ₂F₁(−k, 1−k; 2; r²) in units where r is the root of the ratio."""
        if order < -0.5:  # the law of ln x times √x is even about ln √(x₋ x₊)
            lower, upper = self._log_support()
            return (order + 0.5) * float(lower + upper) + self._log_moment(-1 - order)
        if order > 50:  # the function overflows sooner or later, and the sum over the nodes is as good
            return super()._log_moment(order)
        unit = math.log(self.scale) + max(0.0, math.log(self.ratio))
        return math.log(hyp2f1(-order, 1 - order, 2, min(self.ratio, 1 / self.ratio))) + order * unit

    @property
    def mean(self) -> float:
        """E x = scale, zeros included."""
        return self.scale

    @property
    def var(self) -> float:
        """Variance of x, ratio · scale², zeros included."""
        return self.ratio * self.scale * self.scale
