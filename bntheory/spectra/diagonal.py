"""Diagonal factors of free products: masks, slopes, any law of finitely many values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from bntheory.spectra.factors import SMALLEST, Array, Complex, Factor, Local
from bntheory.spectra.law import solve_monotone
from bntheory.spectra.poles import Poles

CLOSEST = -35.0  # ln of the relative distance of u from λ at which digits remain
LEAST_SPARE = 1e-12  # share
FARTHEST = 700.0  # |ln| of u that floats hold


@dataclass(frozen=True, eq=False)
class Diagonal(Factor):
    """u^count of a diagonal factor whose squared entries λ have a given law, `share` = rank/its size.

    With y_D = share · y the moment generating function of λ, y_D = E λ/(u − λ); 1/S = u y_D/(1 + y_D), of which this is
    u and `Powers` the rest. Im u < 0 where Im y > 0.

    Parameters
    ----------
    values, weights : array
        Positive λ and their probabilities; what the weights lack to one is at zero.
    count : int
        How many of them there are.
    zero_order : float
        d ln u/d ln(y_D + r) as y_D falls to −r, r the sum of the weights: 1 if E 1/λ is finite.
    share : float
    coarse : Diagonal, optional
        Of a density, which values and weights stand for: the same by half as many of them.
    poles : Poles, optional
        Of a density: what the sums lack close to it.
    points : tuple of (λ, mass)
        Of a density: atoms of the law.
    tail : bool
        Of a density: whether it falls off towards zero beyond the lowest value.
    """

    values: Array
    weights: Array
    count: int = 1
    zero_order: float = 1.0
    share: float = 1.0
    resolution: float = SMALLEST
    reaches_zero: bool = False
    coarse: Diagonal | None = None
    poles: Poles | None = None
    points: tuple[tuple[float, float], ...] = ()
    tail: bool = False
    rows = 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diagonal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[bytes, bytes, int, float]:
        return self.values.tobytes(), self.weights.tobytes(), self.count, self.share

    def shared(self, share: float) -> Factor:
        zero = self.reaches_zero and float(self.weights.sum()) - share < LEAST_SPARE  # else small λ are spared
        return replace(self, share=share, reaches_zero=zero)

    @property
    def rank(self) -> Fraction:
        return Fraction(float(self.weights.sum())).limit_denominator(10**12)

    @cached_property
    def _spare(self) -> float:
        """Share of nonzero λ beyond the rank of the product."""
        spare = float(self.weights.sum()) - self.share
        return spare if spare > LEAST_SPARE else 0.0

    @property
    def has_density(self) -> bool:
        return self.poles is not None or self.coarse is not None

    def smoothed(self) -> Factor:
        return replace(self, poles=None)

    def bare(self) -> Factor:
        return replace(self, reaches_zero=self.reaches_zero or self.tail)

    @property
    def order(self) -> float:
        return 0.0 if self._spare else self.count * self.zero_order

    @property
    def degree(self) -> float:
        return 0.0

    @property
    def residue(self) -> float:
        return self._share_at(self.values.max())

    @property
    def lower_residue(self) -> float:
        return self._share_at(self.values.min())

    def _share_at(self, value: float) -> float:
        masses = [mass for x, mass in self.atoms if x == value]
        return self.count * sum(masses) / self.share

    @property
    def lowest(self) -> float:
        return -self._spare / self.share if self._spare else -math.inf

    @property
    def atoms(self) -> list[tuple[float, float]]:
        """Its values and their probabilities; if they stand for a density, those of single points."""
        return list(self.points if self.poles else zip(self.values.tolist(), self.weights.tolist(), strict=True))

    @cached_property
    def _moments(self) -> Array:
        """Weights times λ, and weights."""
        return np.stack([self.weights * self.values, self.weights], axis=1)

    def _sums(self, u: Any) -> tuple[Any, Any, Any]:
        """y_D, y_D + r and d y_D/d u."""
        inverse = 1 / (u[:, None] - self.values)
        first, zeroth = (inverse @ self._moments).T
        slope = -(np.square(inverse) @ self._moments[:, 0])
        if self.poles is None or not np.iscomplexobj(u):
            return first, u * zeroth, slope
        lacking, rate = self.poles.sums(u)
        return first + lacking, u * zeroth + lacking, slope + rate / u

    def start(self, pair: Complex) -> Complex:
        u = self._from_sums(pair)
        with np.errstate(all="ignore"):
            return u if self.poles is None else self.follow(pair, u)

    def _from_sums(self, pair: Complex) -> Complex:
        """u at real (p, y), of the sums alone."""
        p, y = pair.real
        u, q = np.empty(len(p)), self._spare + self.share * p
        above, beneath = y > 0, q <= 0
        u[above] = self._above(self.share * y[above])
        u[beneath] = self._beneath(-q[beneath])
        between = ~(above | beneath)
        u[between] = self._negative(q[between], -self.share * y[between])
        return u.astype(complex)[None]

    def _above(self, y: Array) -> Array:
        """u beyond all λ."""
        largest, weighted = self.values.max(), self._moments[:, 0]

        def log_y(s: Array) -> tuple[Array, Array]:
            beyond = largest * np.exp(s)
            inverse = 1 / (beyond[:, None] + (largest - self.values))
            first = inverse @ weighted
            return np.log(first), -(np.square(inverse) @ weighted) * beyond / first

        s = _solved(log_y, np.log(y), -np.log(y), CLOSEST)
        return largest + largest * np.exp(s)

    def _negative(self, q: Array, minus_y: Array) -> Array:
        """u below zero, by the odds of q to −y."""

        def odds(s: Array) -> tuple[Array, Array]:
            first, second, slope = self._sums(-np.exp(s))
            return np.log(second) - np.log(-first), -np.exp(s) * slope * (1 / second - 1 / first)

        target = np.log(q) - np.log(minus_y)
        return -np.exp(_solved(odds, target, target + math.log(self._moments[:, 0].sum()), -FARTHEST))

    def _beneath(self, minus_q: Array) -> Array:
        """u between zero and all λ."""
        least, weighted = self.values.min(), self._moments

        def log_q(s: Array) -> tuple[Array, Array]:
            u = least * expit(s)
            inverse = 1 / (least * expit(-s)[:, None] + (self.values - least))
            second, slope = inverse @ weighted[:, 1] * u, np.square(inverse) @ weighted[:, 0]
            return np.log(second), u * expit(-s) * slope / second

        return least * expit(_solved(log_q, np.log(minus_q), np.log(minus_q), -FARTHEST, -CLOSEST))

    def start_inside(self, pair: Complex, top: bool) -> Complex:
        """u between the two lowest λ or the two highest, where y falls from ∞ to −∞."""
        low, high = self.values[-2:] if top else self.values[:2]
        wanted = self.share * pair[1].real

        def y(s: Array) -> tuple[Array, Array]:
            below, above = (high - low) * expit(s), (high - low) * expit(-s)
            ends = (low - self.values) + below[:, None], (high - self.values) - above[:, None]
            inverse = 1 / np.where(self.values <= low, *ends)
            sums, squares = inverse @ self._moments[:, 0], np.square(inverse) @ self._moments[:, 0]
            size = np.hypot(1, sums)  # of a slope that does not overflow: arcsinh
            return np.arcsinh(sums), -squares * below * expit(-s) / size

        s = solve_monotone(y, np.arcsinh(wanted), np.zeros_like(wanted), -CLOSEST, CLOSEST)
        return (low + (high - low) * expit(s)).astype(complex)[None]

    def local(self, pair: Complex, v: Complex) -> Local:
        u = v[0]
        y, q, slope = self._sums(u)
        wanted_y, wanted_q = self.share * pair[1], self._spare + self.share * pair[0]
        # a step on y_D + r, on y_D or on its inverse, whichever is best defined
        error = np.where(np.abs(wanted_q) < np.abs(wanted_y), wanted_q - q, wanted_y - y)
        miss = np.where(np.abs(wanted_y) > 1, y - y**2 / wanted_y, error) / slope
        rate = self.share / slope
        return Local(self.count * (np.log(u) + miss / u), self.count * rate / u, miss[None], rate[None])

    def moved(self, v: Complex, step: Complex) -> Complex:
        """Im u < 0 is kept."""
        after = self.shortened(v, step)
        return np.where((v.imag < 0) & (after.imag >= 0), after.real + 0.5j * v.imag, after)

    def integral(self, pair: Complex, v: Complex) -> Array:
        """[E arg(1 − u/λ) − spare (arg u + π)]/share, the mean over nonzero λ."""
        u = v[0]
        angles = np.angle(1 - u[:, None] / self.values) @ self.weights
        if self.poles is not None:
            angles += self.poles.angles(u)
        return self.count * (angles - self._spare * (np.angle(u) + np.pi)) / self.share


def _solved(
    function: Callable[[Array], tuple[Array, Array]],
    target: Array,
    guess: Array,
    floor: float,
    ceiling: float = FARTHEST,
) -> Array:
    """Solve function(s) = target between floor and ceiling; where it lies beyond, one of these."""
    found = solve_monotone(lambda s: function(np.clip(s, floor, ceiling)), target, guess, ceiling, floor)
    return np.clip(found, floor, ceiling)
