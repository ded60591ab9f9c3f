"""Factors of free products, by their S-transforms: what each multiplies onto x(y).

With y the moment generating function E λ/(x − λ) of a law on [0, ∞), x = (1+y)/y · 1/S(y), and S multiplies over free
factors. A product of rank r, as a share of its dimension, has y ≥ −r on the negative axis; everything is written in

    p = 1 + y/r,

0 at x = 0 and 1 at x = ∞, and in y/r = p − 1: both are kept, so that neither small x nor deep products lose digits.
A factor adds h(p) to ln x. It works in a variable v of its own, the pair (p, y) itself where h is a function of p; the
others follow theirs from point to point, so that of several branches always the right one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

SMALLEST = 1e-18  # p, below which ln x is linear in ln p to rounding
SMALL = 1e-12  # p, from which the axis below zero is reached
CLOSEST = -35.0  # ln of the relative distance of u from λ at which digits remain

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


class Factor(Protocol):
    """h(p) and what the solver asks of it.

    rows : of the array that its variable is, 1 for a one-dimensional one;
    resolution : p below which it is only extrapolated;
    reaches_zero : whether it has a density down to zero.
    """

    rows: int
    resolution: float = SMALLEST
    reaches_zero: bool = False

    @property
    def order(self) -> float:
        """d h/d ln p as p → 0."""

    @property
    def degree(self) -> float:
        """d h/d ln p as p → ∞."""

    @property
    def residue(self) -> Fraction | float:
        """lim y (h − degree · ln y − constant) as y = p − 1 → ∞."""

    @property
    def rank(self) -> Fraction:
        """Share of its squared singular values that are not zero."""
        return Fraction(1)

    @property
    def lowest(self) -> float:
        """The end of the interval below p = 0 where h is real and regular up to a power of p; −∞ if there is none."""

    def start(self, pair: Complex) -> Complex:
        """v at real (p, y): p in (0, 1) as for x < 0, above 1 as for x beyond the support, or just below 0."""

    def follow(self, pair: Complex, v: Complex) -> Complex:
        """v at (p, y), given that of a point nearby."""

    def log(self, v: Complex) -> Complex:
        """h, up to multiples of 2πi."""

    def slope(self, v: Complex) -> Complex:
        """d h/d p."""

    def integral(self, v: Complex) -> Array:
        """Im ∫ p dh from p = 0."""

    def alike(self, other: Factor) -> bool:
        """Whether they differ in their count only."""
        return type(self) is type(other) and replace(self, count=1) == replace(other, count=1)  # type: ignore[type-var]

    def shared(self, share: float) -> Factor:
        """The same factor where the rank of the product is that share of its size."""
        return self if share == 1 else Shared(self, share)


@dataclass(frozen=True)
class Shared(Factor):
    """A factor of full rank in a product of lower rank: it sees share · y."""

    factor: Factor
    share: float

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.factor.rows

    @property
    def order(self) -> float:
        return 0.0

    @property
    def degree(self) -> float:
        return self.factor.degree

    @property
    def residue(self) -> float:
        return float(self.factor.residue) / self.share

    @property
    def lowest(self) -> float:
        return (self.factor.lowest - (1 - self.share)) / self.share

    def _pair(self, pair: Complex) -> Complex:
        return np.array([(1 - self.share) + self.share * pair[0], self.share * pair[1]])

    def start(self, pair: Complex) -> Complex:
        return self.factor.start(self._pair(pair))

    def follow(self, pair: Complex, v: Complex) -> Complex:
        return self.factor.follow(self._pair(pair), v)

    def log(self, v: Complex) -> Complex:
        return self.factor.log(v)

    def slope(self, v: Complex) -> Complex:
        return self.share * self.factor.slope(v)

    def integral(self, v: Complex) -> Array:
        return (self.factor.integral(v) - (1 - self.share) * self.factor.log(v).imag) / self.share


class OfP(Factor):
    """A factor whose variable is (p, y), an array (2, points)."""

    rows = 2

    def start(self, pair: Complex) -> Complex:
        return pair

    def follow(self, pair: Complex, v: Complex) -> Complex:
        return pair


@dataclass(frozen=True)
class Powers(OfP):
    """κ Π (c_i + y)^(k_i), as (b + p)^k with b = c − 1 in units of the rank.

    Parameters
    ----------
    terms : sequence of (b, k)
    log_scale : float
        ln κ.
    """

    terms: tuple[tuple[Fraction, int], ...]
    log_scale: float

    @property
    def order(self) -> float:
        return float(sum(k for b, k in self.terms if b == 0))

    @property
    def degree(self) -> float:
        return float(sum(k for _, k in self.terms))

    @property
    def residue(self) -> Fraction:
        return sum((k * (b + 1) for b, k in self.terms), Fraction(0))

    @property
    def lowest(self) -> float:
        return -min((float(b) for b, _ in self.terms if b > 0), default=math.inf)

    def log(self, v: Complex) -> Complex:
        total = np.full_like(v[0], self.log_scale)
        for b, k in self.terms:
            total += k * np.log(_shifted(v, b))
        return total

    def slope(self, v: Complex) -> Complex:
        total = np.zeros_like(v[0])
        for b, k in self.terms:
            total += k / _shifted(v, b)
        return total

    def integral(self, v: Complex) -> Array:
        """k [p − b ln(1 + p/b)]."""
        total = np.zeros(v.shape[1])
        for b, k in self.terms:
            total += k * (v[0].imag - (float(b) * np.angle(_shifted(v, b) / float(b)) if b else 0))
        return total


def _shifted(v: Complex, b: Fraction) -> Complex:
    """b + p."""
    return v[1] if b == -1 else float(b) + v[0]


@dataclass(frozen=True)
class ResidualGaussian(OfP):
    """`count` factors I + aW, W square of iid entries of variance 1/N.

    With w = [1 − a² + √((1 − a²)² + 4a²p)]/2,  h = count · ln(w (w + a²)).
    """

    a: float
    count: int

    @property
    def order(self) -> float:
        return self.count * (0.0 if self.a < 1 else 0.5 if self.a == 1 else 1.0)

    @property
    def degree(self) -> float:
        return float(self.count)

    @property
    def residue(self) -> float:
        return math.nan  # the degree is positive

    @property
    def lowest(self) -> float:
        return -((1 - self.a**2) ** 2) / (4 * self.a**2)

    def _root(self, v: Complex) -> tuple[Complex, Complex]:
        """w and 2w + a² − 1."""
        square = self.a**2
        root = np.sqrt((1 - square) ** 2 + 4 * square * v[0])
        return ((1 - square) + root) / 2 if square <= 1 else 2 * square * v[0] / (root + square - 1), root

    def log(self, v: Complex) -> Complex:
        w, _ = self._root(v)
        return self.count * (np.log(w) + np.log(w + self.a**2))

    def slope(self, v: Complex) -> Complex:
        w, root = self._root(v)
        return self.count * self.a**2 / root * (1 / w + 1 / (w + self.a**2))

    def integral(self, v: Complex) -> Array:
        """w²/b + (1 − 2/b) w + ln(b + w), b = a², less its value at p = 0."""
        b = self.a**2
        _, root = self._root(v)
        first = max(1 - b, 0.0)
        moved = 2 * b * v[0] / (root + abs(1 - b))  # w − first
        whole = moved * (moved + 2 * first) / b + (1 - 2 / b) * moved
        return self.count * (whole.imag + np.angle(1 + moved / (b + first)))


@dataclass(frozen=True, eq=False)
class Diagonal(Factor):
    """u^count of a diagonal factor whose squared entries λ have a given law, `share` = rank/its size.

    With y_D = share · y the moment generating function of λ, y_D = E λ/(u − λ); 1/S = u y_D/(1 + y_D), of which this is u
    and `Powers` the rest. Im u < 0 where Im y > 0.

    Parameters
    ----------
    values, weights : array
        Positive λ and their probabilities; what the weights lack to one is at zero.
    count : int
        How many of them there are.
    zero_order : float
        d ln u/d ln(y_D + r) as y_D falls to −r, r the sum of the weights: 1 if E 1/λ is finite.
    share : float
    """

    values: Array
    weights: Array
    count: int = 1
    zero_order: float = 1.0
    share: float = 1.0
    resolution: float = SMALLEST
    reaches_zero: bool = False
    rows = 1

    def alike(self, other: Factor) -> bool:
        return isinstance(other, Diagonal) and all(
            np.array_equal(one, two) for one, two in ((self.values, other.values), (self.weights, other.weights))
        )

    def shared(self, share: float) -> Factor:
        return replace(self, share=share)

    @property
    def rank(self) -> Fraction:
        return Fraction(float(self.weights.sum())).limit_denominator(10**12)

    @cached_property
    def _spare(self) -> float:
        """Share of nonzero λ beyond the rank of the product."""
        spare = float(self.weights.sum()) - self.share
        return spare if spare > 1e-12 else 0.0

    @property
    def order(self) -> float:
        return 0.0 if self._spare else self.count * self.zero_order

    @property
    def degree(self) -> float:
        return 0.0

    @property
    def residue(self) -> float:
        return self.count * float(self.weights[self.values == self.values.max()].sum()) / self.share

    @property
    def lowest(self) -> float:
        return -self._spare / self.share if self._spare else -math.inf

    def _sums(self, u: Complex) -> tuple[Complex, Complex, Complex]:
        """y_D, y_D + r and d y_D/d u."""
        inverse = 1 / (u[:, None] - self.values)
        first, zeroth = (inverse @ self._moments).T
        return first, u * zeroth, -((inverse * inverse) @ self._moments[:, 0])

    @property
    def atoms(self) -> list[tuple[float, float]]:
        """Its values and their probabilities, none if they stand for a density."""
        return [] if self.reaches_zero else list(zip(self.values.tolist(), self.weights.tolist(), strict=True))

    @cached_property
    def _moments(self) -> Array:
        """Weights times λ, and weights."""
        return np.stack([self.weights * self.values, self.weights], axis=1)

    def _error(self, pair: Complex, u: Complex) -> Complex:
        """A Newton step of u, on y_D + r, on y_D or on its inverse, whichever is best defined."""
        y, q, slope = self._sums(u)
        wanted_y, wanted_q = self.share * pair[1], self._spare + self.share * pair[0]
        step = np.where(np.abs(wanted_q) < np.abs(wanted_y), wanted_q - q, wanted_y - y)
        return np.where(np.abs(wanted_y) > 1, (y - y**2 / wanted_y), step) / slope

    def start(self, pair: Complex) -> Complex:
        p, y = pair.real
        u, largest, least = np.empty(len(p)), self.values.max(), self.values.min()
        q = self._spare + self.share * p
        for part, logit in (
            (y > 0, lambda s: largest + largest * np.exp(np.maximum(s, CLOSEST))),
            ((y <= 0) & (q > 0), lambda s: -np.exp(s)),
            (q <= 0, lambda s: least * expit(np.minimum(s, -CLOSEST))),
        ):
            if not part.any():
                continue
            above = y[part] > 0
            target = np.log(np.where(above, self.share * np.abs(y[part]), np.abs(q[part])))
            u[part] = logit(_bisected(lambda s: self._logarithm(logit(s), above), target))
        return u.astype(complex)

    def _logarithm(self, u: Array, above: Array) -> Array:
        y, q, _ = self._sums(u.astype(complex))
        return np.log(np.abs(np.where(above, y.real, q.real)))

    def follow(self, pair: Complex, v: Complex) -> Complex:
        for _ in range(40):
            step = self._error(pair, v)
            step = step * np.minimum(1, 0.5 * np.abs(v) / np.maximum(np.abs(step), 1e-300))
            v = v + step
            if np.all(np.abs(step) <= 1e-9 * np.abs(v)):
                break
        return v

    def log(self, v: Complex) -> Complex:
        return self.count * np.log(v)

    def slope(self, v: Complex) -> Complex:
        return self.count * self.share / (v * self._sums(v)[2])

    def integral(self, v: Complex) -> Array:
        """[E arg(1 − u/λ) − spare (arg u + π)]/share, the mean over nonzero λ."""
        angles = np.angle(1 - v[:, None] / self.values) @ self.weights
        return self.count * (angles - self._spare * (np.angle(v) + np.pi)) / self.share


def _bisected(function: Callable[[Array], Array], target: Array) -> Array:
    """Where a monotone function of the whole line takes the values."""
    low, high = np.full(len(target), -700.0), np.full(len(target), 700.0)
    rising = np.sign(function(np.zeros(len(target)) + 1) - function(np.zeros(len(target)) - 1))
    for _ in range(70):
        middle = (low + high) / 2
        under = rising * (function(middle) - target) < 0
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class ResidualBranch(Factor):
    """`count` factors I + aB, B square and free of everything else on both sides, 1/S_B = κ Π (c + v)^k.

    With w² = v (1 + v) S_B(v)/a² and (y − v)(p − v) = w²,  h = count · ln(y p/w²)
    = −count · ln((1 − v/y)(1 − v/p)). Its variable is (p, y, v).
    """

    a: float
    terms: tuple[tuple[Fraction, int], ...]
    log_scale: float
    count: int
    rows = 3

    @cached_property
    def _log_mean(self) -> float:
        """ln of the mean square of aB, over which I does not prevail at small x."""
        return 2 * math.log(self.a) + self.log_scale + sum(k * math.log(c) for c, k in self.terms)

    @property
    def order(self) -> float:
        if abs(self._log_mean) < 1e-14:
            return self.count / 2
        return float(self.count) if self._log_mean > 0 else 0.0

    @property
    def degree(self) -> float:
        return float(self.count * sum(k for _, k in self.terms))

    @property
    def residue(self) -> float:
        return math.nan  # the degree is positive

    @property
    def lowest(self) -> float:
        return -math.inf

    def _excess(self, v: Complex) -> tuple[Complex, Complex]:
        """w²/v − 1, which vanishes at v = 0 if aB and I are equally large, and its slope."""
        exponent, slope = _log1p(v) - self._log_mean, 1 / (1 + v)
        for c, k in self.terms:
            exponent, slope = exponent - k * _log1p(v / float(c)), slope - k / (float(c) + v)
        excess = _expm1(exponent)
        return excess, (1 + excess) * slope

    def _error(self, pair: Complex, v: Complex) -> tuple[Complex, Complex]:
        """(y − v)(p − v) − w², and its slope."""
        p, y = pair
        excess, slope = self._excess(v)
        return y * p + v * (v - 2 * p - excess), 2 * v - 2 * p - excess - v * slope

    def start(self, pair: Complex) -> Complex:
        p, y = pair.real
        pole = -min(float(c) for c, _ in self.terms)
        low, high = np.where(y > 0, 0, np.maximum(y, pole)), np.where(y > 0, y, 0.0)
        for _ in range(64):
            middle = (low + high) / 2
            over = self._error(pair, middle.astype(complex))[0].real > 0
            low, high = np.where(over, middle, low), np.where(over, high, middle)
        own = np.array([*pair, (low + high) / 2])
        under = np.flatnonzero(p < 0)
        if len(under):  # there v has no bracket, but a neighbour
            here, last = self.start(np.array([[SMALL], [SMALL - 1]], complex)), SMALL
        for index in under[np.argsort(-p[under])]:
            for place in np.geomspace(last, -p[index], 2 + int(4 * abs(math.log(-p[index] / last))))[1:]:
                here = self.follow(np.array([[-place], [-place - 1]], complex), here)
            own[:, index], last = here[:, 0], -p[index]
        return self.follow(pair, own)

    def follow(self, pair: Complex, v: Complex) -> Complex:
        inner = v[2]
        for _ in range(40):
            error, slope = self._error(pair, inner)
            inner = inner - error / slope
            if np.all(np.abs(error) <= 1e-9 * np.abs(slope * inner)):
                break
        return np.array([*pair, inner])

    def log(self, v: Complex) -> Complex:
        p, y, inner = v
        return -self.count * (_log1p(-inner / y) + _log1p(-inner / p))

    def slope(self, v: Complex) -> Complex:
        p, y, inner = v
        moved = (2 * inner - y - p) / self._error(v[:2], inner)[1]  # d v/d p
        return self.count * ((moved - inner / y) / (y - inner) + (moved - inner / p) / (p - inner))

    def integral(self, v: Complex) -> Array:
        p, y, inner = v
        total = np.angle(-y) - np.angle(inner - y) + np.angle(1 + inner)
        for c, k in self.terms:
            total += k * (inner.imag - float(c) * np.angle(float(c) + inner))
        return self.count * total


def _log1p(z: Complex) -> Complex:
    """ln(1 + z), its real part as accurate as z for small z."""
    near = np.log1p(2 * z.real + z.real**2 + z.imag**2) / 2
    return np.where(np.abs(z) < 0.5, near, np.log(np.abs(1 + z))) + 1j * np.angle(1 + z)


def _expm1(z: Complex) -> Complex:
    """e^z − 1 likewise."""
    size, half = np.expm1(z.real), np.sin(z.imag / 2)
    return size - 2 * (1 + size) * half**2 + 1j * (1 + size) * np.sin(z.imag)


def merged(terms: Sequence[tuple[Fraction, int]]) -> tuple[tuple[Fraction, int], ...]:
    """Equal c's together, in increasing order, those that cancel left out."""
    total: dict[Fraction, int] = {}
    for c, k in terms:
        total[c] = total.get(c, 0) + k
    return tuple((c, k) for c, k in sorted(total.items()) if k)
