"""Laws by their S-transforms: products of free factors, of any shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logsumexp

from bntheory import arguments
from bntheory.spectra.atoms import atoms_above_zero
from bntheory.spectra.curve import Curve
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.factors import Factor, Powers, merged
from bntheory.spectra.inverted import Inverted
from bntheory.spectra.known import KnownLaw
from bntheory.spectra.law import Array, SpectralLaw, solve_monotone
from bntheory.spectra.series import Circle, circle, log_moment, moment, negative_hankel

LARGEST_ODDS = 330.0  # logarithm: nearer to an edge floats hold neither the depth nor its share
BORDER = 1e-9  # mass
ONE = 1e-9  # rounding of a rank that is one
FLAT = 1e-9  # Im p beside |p| in a gap
EXACT, ON_CIRCLE = 100, 8  # orders up to which moments are taken from the series of powers, and of other factors


@dataclass(frozen=True)
class Part:
    """A factor that is no power, and its size as a share of the law's dimension."""

    factor: Factor
    size: Fraction = Fraction(1)


class STransformLaw(SpectralLaw):
    r"""Law of the eigenvalues x of J Jᵀ by x(y) = κ Π (c_i + y)^(k_i), y = E λ/(x − λ) its moment generating function.

    A product of free factors has x(y) = (1+y)/y · Π 1/S_i(y), S_i their S-transforms. With n the dimension of J Jᵀ:

    ==================================================  =============================================
    start, n_0 inputs                                   (n_0/n + y)/y
    n_l × n_(l−1) matrix of iid entries of variance v   v n (n_l/n + y)
    σ times an orthogonal one                           σ² (min(n_l, n_(l−1))/n + y)/(n_(l−1)/n + y)
    mask that keeps k of n_l units (ReLU: half)         (k/n + y)/(n_l/n + y)
    ==================================================  =============================================

    On the curve where x(y) is positive and Im y > 0, x has the density Im y/(π x), and

        cdf = 1 + [Im y Σ k_i − Σ k_i c_i arg(c_i + y)]/π.

    Parameters
    ----------
    powers : mapping or sequence of pairs
        c_i ≥ 0 and integer k_i, of all factors: y itself has c = 0 and k = −1. Exact for int, Fraction and float.
    log_scale : float
        ln κ.
    parts : tuple of Part
        Factors that are no powers, e.g. from `DiscreteLaw` and `jacobian_law`.
    method : str
        "limit", or "approximate" if the factors are only taken for free, as `jacobian_law` says; printed with the law.

    Raises
    ------
    ValueError
        If a c is negative or not finite, a k not an integer, or if no law has this x(y): by its rank, its poles, or its
        moments up to the ninth. A few pass and are none all the same: their density has other moments, or is not found.

    Notes
    -----
    Laws multiply with ``@``, ``law ** n`` is the product of n free copies, and ``law * s`` has x multiplied by s > 0.
    Powers: pdf, cdf and sf are right to a relative 1e-8 up to 1000 factors, with 1e-12/(1 − x/x_max) more next to an
    edge. The support may have gaps; `support` is its hull. Moments of orders other than 1 to 8 (of powers
    alone: 100) are quadratures, right to 1e-10 in general and to 1e-5 where the density nearly vanishes inside.

    References
    ----------
    Voiculescu 1987 (S-transform). Müller 2002, IEEE Trans. Inf. Theory 48, 2086 (products of rectangular matrices).
    Pennington, Schoenholz, Ganguli 2018 (arXiv:1802.09979; Jacobians of networks).

    Examples
    --------
    >>> law = STransformLaw({0: -1, 1: 3})  # two square Gaussian matrices
    >>> round(law.support[1], 9), [round(law.moment(k), 9) for k in range(4)]
    (6.75, [1.0, 1.0, 3.0, 12.0])
    """

    def __init__(
        self,
        powers: Mapping[Any, int] | Iterable[tuple[float | Fraction, int]],
        log_scale: float = 0.0,
        parts: tuple[Part, ...] = (),
        method: str = "limit",
    ) -> None:
        pairs = powers.items() if isinstance(powers, Mapping) else powers
        self.powers = merged([_term(c, k) for c, k in pairs])
        self.log_scale = arguments.number("log_scale", log_scale)
        self.parts = tuple(parts)
        self.method = method
        self._check()

    def _check(self) -> None:
        orders = dict(self.powers)
        at_zero = orders.get(Fraction(0), 0) - sum(
            part.factor.count for part in self.parts if isinstance(part.factor, Inverted)
        )
        if at_zero != -1:
            raise ValueError(f"x(y) must have a simple pole at y = 0, got the power {at_zero}: it is (1 + y)/y · 1/S")
        first = next((c for c, _ in self.powers if c > 0), Fraction(0))
        if orders.get(first, 0) < 0 < first < min([part.size for part in self.parts], default=first + 1):
            raise ValueError(f"no law has this x(y): its pole at y = −{float(first):g} lies nearer to 0 than any zero")

        if self.rank > 1 + ONE:
            raise ValueError(
                f"no law has this x(y): its least c of a positive power, the rank, is {float(self.rank):g}"
            )
        signs = {k > 0 for c, k in self.powers if c > 0}
        if not self.parts and signs != {True} and negative_hankel(self.powers, self.rank):
            raise ValueError(f"no law has this x(y): no law on x ≥ 0 has its moments, got {self!r:.70}")

        factors = [(part.factor, part.size) for part in self.parts]
        if not self._alone and any(factor.has_density for factor, _ in factors):
            for x, mass in atoms_above_zero(self.powers, self.log_scale, factors, -BORDER):
                if mass < BORDER:
                    raise ValueError(
                        f"not available because atoms of the factors leave none at x = {x:.6g} by a hair: the density "
                        "has a singularity there; another number of factors or a Gaussian matrix among them has a law"
                    )

    def __repr__(self) -> str:
        shown = ", ".join(f"{float(c):g}: {k}" for c, k in self.powers)
        more = f", parts={len(self.parts)}" if self.parts else ""
        more += f", method={self.method!r}" if self.method != "limit" else ""
        return f"STransformLaw({{{shown}}}, log_scale={self.log_scale:g}{more})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, STransformLaw):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.powers, self.log_scale, self.parts, self.method

    def s_transform(self) -> STransformLaw:
        """The law itself."""
        return self

    # -- products ------------------------------------------------------------------------------------------------

    def times(self, other: STransformLaw) -> STransformLaw:
        """The law of a product of free factors of the same size: x = x_1 x_2 · y/(1 + y)."""
        shared = (Fraction(0), 1), (Fraction(1), -1)
        powers, log_scale = (*self.powers, *other.powers, *shared), self.log_scale + other.log_scale
        method = self.method if self.method != "limit" else other.method
        return STransformLaw(powers, log_scale, (*self.parts, *other.parts), method)

    def to_power(self, count: int) -> STransformLaw:
        """The law of a product of `count` free copies."""
        powers = [(c, count * k) for c, k in self.powers] + [(Fraction(0), count - 1), (Fraction(1), 1 - count)]
        return STransformLaw(powers, count * self.log_scale, self.parts * count, self.method)

    def scaled(self, log_factor: float) -> STransformLaw:
        """The law with x multiplied."""
        return STransformLaw(self.powers, self.log_scale + log_factor, self.parts, self.method)

    def accuracy(self, x: ArrayLike) -> float:
        """Largest relative change of pdf and cdf at x where densities among the factors are given half their nodes.

        The rules are exponentially accurate: what is left with all nodes is about its square. 0 if there are none.
        """
        parts = tuple(
            replace(part, factor=part.factor.coarse.counted(part.factor.count)) if part.factor.coarse else part
            for part in self.parts
        )
        half = STransformLaw(self.powers, self.log_scale, parts)
        pairs = ((self.pdf(x), half.pdf(x)), (self.cdf(x), half.cdf(x)))
        return max(float(np.max(np.abs(one - two) / np.abs(two))) for one, two in pairs)

    # -- rank, atoms, support ------------------------------------------------------------------------------------

    @cached_property
    def rank(self) -> Fraction:
        """Share of the eigenvalues that are not zero."""
        sizes = [c for c, k in self.powers if c > 0 and k > 0]
        sizes += [part.size * part.factor.rank for part in self.parts]
        return min(sizes, default=Fraction(1))

    @cached_property
    def curve(self) -> Curve:
        """The continuous part, in units of the rank."""
        terms = tuple((c / self.rank - 1, k) for c, k in self.powers)
        log_scale = self.log_scale + sum(k for _, k in self.powers) * math.log(self.rank)
        factors = (
            (part.factor.smoothed() if self._degree > 0 else part.factor.bare(), part.size) for part in self.parts
        )
        others = (factor.shared(float(self.rank / size)) for factor, size in factors)
        atoms = tuple((math.log(x), mass / float(self.rank)) for x, mass in self._above)
        return Curve((Powers(terms, log_scale), *others), atoms)

    @cached_property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """Point masses as (location, mass): at zero, and at the top where x stays finite as y → ∞."""
        zero = [(0.0, float(1 - self.rank))] if self.rank < 1 else []
        return (*zero, *self._above)

    @property
    def _degree(self) -> float:
        """d ln x/d ln y as y → ∞: above zero if there is a Gaussian matrix."""
        return sum(k for _, k in self.powers) + sum(part.factor.degree for part in self.parts)

    @cached_property
    def _above(self) -> list[tuple[float, float]]:
        if self._degree <= 0 and any(part.factor.needs_gaussian for part in self.parts):
            raise ValueError(
                "not available because nothing smooths a law given by its generating function: multiply it with a "
                "Gaussian matrix, as in law @ FussCatalan(1), or give its density to density_law"
            )
        return atoms_above_zero(self.powers, self.log_scale, [(part.factor, part.size) for part in self.parts])

    @property
    def _share(self) -> float:
        """Of the nonzero eigenvalues, those of the continuous part."""
        share = 1 - math.fsum(mass for _, mass in self._above) / float(self.rank)
        return share if share > 1e-12 else 0.0

    @property
    def _mass(self) -> float:
        return float(self.rank) * self._share

    @cached_property
    def _alone(self) -> KnownLaw | None:
        """The law of the one factor that has a density, if that is all."""
        factor = self.parts[0].factor if len(self.parts) == 1 and not self.powers else None
        return KnownLaw(factor) if isinstance(factor, Diagonal) and factor.poles and factor.count == 1 else None

    @property
    def _zero_exponent(self) -> float:
        if self._alone:
            return self._alone._zero_exponent
        return 1 / self.curve.order if self._mass and self.curve.lower is None else math.inf

    def _log_support(self) -> tuple[Decimal, Decimal]:
        if not self._mass:
            return Decimal(self._above[0][0]).ln(), Decimal(self._above[-1][0]).ln()
        if self._alone:
            low, high = self._alone._log_support()
            return low + Decimal(self.log_scale), high + Decimal(self.log_scale)
        lower = self.curve.lower
        low = Decimal("-Infinity") if lower is None else Decimal(lower.log_x)
        return low, Decimal(self.curve.upper.log_x)

    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        if not self._mass:
            return np.full_like(depth, -np.inf), np.full_like(depth, -np.inf), np.zeros_like(depth)
        if self._alone:
            return self._alone._continuous(depth)
        return self._logs(depth, self.curve.total - depth)

    def _logs(self, depth: Array, rest: Array) -> tuple[Array, Array, Array]:
        """Logarithms of (density of ln x, cdf, sf) at depths below the upper edge, `rest` above the lower."""
        curve, out = self.curve, np.empty((3, depth.size))
        near = depth <= curve.upper.reach
        low = ~near & ((depth > curve.ends[1]) if curve.lower is None else (rest <= curve.lower.reach))
        between = ~near & ~low
        if near.any():
            imaginary, above = curve.upper.within(depth[near])
            out[:, near] = imaginary / np.pi, self._share - above, above
        if between.any():
            point = curve.at(depth[between])
            below = curve.below(point) - curve.atoms_below(depth[between])
            out[:, between] = point.pair[0].imag / np.pi, below, self._share - below
        if curve.lower is not None and low.any():
            imaginary, below = curve.lower.within(rest[low])
            out[:, low] = imaginary / np.pi, below, self._share - below
        out = np.log(out / self._share)
        if curve.lower is None and low.any():
            out[:, low] = self._towards_zero(depth[low])
        return out[0], out[1], out[2]

    def _towards_zero(self, depth: Array) -> Array:
        """Where density and cdf are powers of x to rounding."""
        last = np.array([self.curve.ends[1]])
        point = self.curve.at(last)
        sizes = np.array([point.pair[0].imag / np.pi, self.curve.below(point)]) / self._share
        log_density, log_below = np.log(sizes) - (depth - last) / self.curve.order
        return np.array([log_density, log_below, np.log1p(-np.exp(log_below))])

    def _depth(self, below: Array, above: Array) -> Array:
        """Solve cdf/sf = odds, in the variable in which the curve is smooth."""
        if self._alone:
            return self._alone._depth(below, above)
        curve = self.curve

        def odds(place: Array) -> tuple[Array, Array]:
            depth, rest, moved = curve.unstretched(place)
            log_density, log_below, log_above = self._logs(depth, rest)
            slope = np.exp(log_density - log_below) + np.exp(log_density - log_above)
            return log_below - log_above, -slope * moved

        nodes, values, slopes, _ = self._odds_traced
        least = -math.inf if curve.lower is None else -LARGEST_ODDS
        target = np.clip(np.log(below) - np.log(above), least, LARGEST_ODDS)
        guess = np.interp(-target, -values, nodes)
        for end in (0, -1):
            beyond = target > values[0] if end == 0 else target < values[-1]
            guess = np.where(beyond, nodes[end] + (target - values[end]) / slopes[end], guess)
        bracket = np.concatenate([[-np.inf], nodes, [np.inf]])
        after = np.searchsorted(-values, -target)
        try:
            place = solve_monotone(odds, target, guess, bracket[after + 1], bracket[after])
        except ArithmeticError as error:
            raise curve.failure(str(error)) from None
        return curve.unstretched(place)[0]

    @cached_property
    def _odds_traced(self) -> tuple[Array, Array, Array, Array]:
        """Traced places, log-odds of the cdf there, their slopes, and ln cdf."""
        nodes, _ = self.curve.traced
        depth, rest, moved = self.curve.unstretched(nodes)
        log_density, log_below, log_above = self._logs(depth, rest)
        slope = np.exp(log_density - log_below) + np.exp(log_density - log_above)
        return nodes, log_below - log_above, -slope * moved, log_below

    # -- moments -------------------------------------------------------------------------------------------------

    @cached_property
    def _nodes(self) -> tuple[Array, Array]:
        """The double exponential rule on the stretches between gaps, where the quantile function jumps."""
        if self._alone:
            return self._alone._nodes
        found = self.curve.traced[1]
        flat = np.sin(found[0].imag) < FLAT
        levels = np.sort(np.exp(self._odds_traced[3][flat]))
        levels = levels[(levels > 1e-9) & (levels < 1 - 1e-9)]
        cuts = levels[np.diff(levels, append=2.0) > 1e-9]  # one a gap
        depth, weights = [], []
        y = np.arange(-388, 389) / 64
        for low, high in zip((0.0, *cuts), (*cuts, 1.0), strict=True):
            below, above = expit(np.pi * np.sinh(y)), expit(-np.pi * np.sinh(y))
            left, right = low + (high - low) * below, 1 - high + (high - low) * above
            depth.append(self._depth(left, right))
            weights.append((high - low) * below * above * np.pi * np.cosh(y) / 64)
        return np.concatenate(depth), np.concatenate(weights)

    @cached_property
    def _circle(self) -> Circle | None:
        return circle(self.curve.around_zero)

    def _log_moment(self, order: float) -> float:
        """From x(y) about y = 0 where the order is a small integer, and atoms do not cancel it."""
        total = self._log_whole(int(order)) if order == int(order) >= 1 else None
        if total is None:
            return super()._log_moment(order)
        atoms = sum(mass * math.exp(order * math.log(x) - total) for x, mass in self.atoms if x > 0)
        return total + math.log1p(-atoms) - math.log(self._mass) if atoms < 0.9 else super()._log_moment(order)

    def _log_whole(self, order: int) -> float | None:
        """ln E x^k, atoms included, where it is known from x(y) about y = 0."""
        if not self.parts:
            return log_moment(self.powers, order) + order * self.log_scale if order <= EXACT else None
        if not self.powers and isinstance(factor := self.parts[0].factor, Diagonal) and factor.count == 1:  # alone
            return float(logsumexp(order * np.log(factor.values), b=factor.weights)) + order * self.log_scale
        inner = self._circle.log_moment(order) if order <= ON_CIRCLE and self._circle else None
        return None if inner is None else inner + math.log(self.rank)

    @property
    def var(self) -> float:
        """Variance of x, from the first two moments."""
        if self.parts:
            log_mean, log_second = self.log_moment(1), self.log_moment(2)
            with np.errstate(over="ignore"):
                return float(-np.exp(log_second) * np.expm1(2 * log_mean - log_second))
        exact = moment(self.powers, 2) - moment(self.powers, 1) ** 2
        if not exact:
            return 0.0
        with np.errstate(over="ignore"):
            log_exact = math.log(exact.numerator) - math.log(exact.denominator)
            return float(np.exp(log_exact + 2 * self.log_scale))


def _term(c: float | Fraction, k: int) -> tuple[Fraction, int]:
    if not isinstance(c, Fraction):
        c = Fraction(arguments.number("c", c, at_least=0))
    if c < 0:
        raise ValueError(f"c must be at least 0, got {c}")
    if not isinstance(k, Real) or not math.isfinite(k) or int(k) != k:
        raise ValueError(f"k must be an integer, got {k!r}")
    return c, int(k)
