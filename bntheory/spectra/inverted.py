"""Factors whose S-transform is the inverse of their moment generating function: u, with y_D(u) = share · y."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np

from bntheory.spectra.factors import Array, Complex, Factor, Local
from bntheory.spectra.law import solve_monotone

CLOSEST = -35.0  # ln of the relative distance of u from λ at which digits remain
LEAST_SPARE = 1e-12  # share
FARTHEST = 700.0  # |ln| of u that floats hold


class Inverted(Factor):
    """u^count of a factor whose squared singular values λ have the moment generating function y_D(u) = E λ/(u − λ).

    y_D = share · y, share = rank of the product/size of the factor; 1/S = u y_D/(1 + y_D), of which this is u and
    `Powers` the rest. Im u < 0 where Im y > 0.

    zero_order : d ln u/d ln(y_D + r) as y_D falls to −r, r the probability of λ > 0: 1 if E 1/λ is finite.
    """

    zero_order: float
    share: float
    coarse: Inverted | None = None
    rows = 1

    @property
    @abstractmethod
    def _rank(self) -> float:
        """Probability of λ > 0."""

    @property
    @abstractmethod
    def _mean(self) -> float:
        """E λ."""

    @abstractmethod
    def _sums(self, u: Any) -> tuple[Any, Any, Any]:
        """y_D, y_D + r and d y_D/d u."""

    @abstractmethod
    def _above(self, y: Array) -> Array:
        """u beyond all λ, by y_D."""

    @abstractmethod
    def _beneath(self, minus_q: Array) -> Array:
        """u between zero and all λ, by −(y_D + r)."""

    @cached_property
    def _spare(self) -> float:
        """Share of nonzero λ beyond the rank of the product."""
        spare = self._rank - self.share
        return spare if spare > LEAST_SPARE else 0.0

    @property
    def rank(self) -> Fraction:
        return Fraction(self._rank).limit_denominator(10**12)

    def shared(self, share: float) -> Self:
        zero = self.reaches_zero and self._rank - share < LEAST_SPARE  # else small λ are spared
        return replace(self, share=share, reaches_zero=zero)  # type: ignore[type-var]

    def smoothed(self) -> Self:
        return self

    @property
    def order(self) -> float:
        return 0.0 if self._spare else self.count * self.zero_order

    @property
    def degree(self) -> float:
        return 0.0

    @property
    def lowest(self) -> float:
        return -self._spare / self.share if self._spare else -math.inf

    def start(self, pair: Complex) -> Complex:
        p, y = pair.real
        u, q = np.empty(len(p)), self._spare + self.share * p
        above, beneath = y > 0, q <= 0
        u[above] = self._above(self.share * y[above])
        u[beneath] = self._beneath(-q[beneath])
        between = ~(above | beneath)
        u[between] = self._negative(q[between], -self.share * y[between])
        return u.astype(complex)[None]

    def _negative(self, q: Array, minus_y: Array) -> Array:
        """u below zero, by the odds of q to −y."""

        def odds(s: Array) -> tuple[Array, Array]:
            first, second, slope = self._sums(-np.exp(s))
            return np.log(second) - np.log(-first), -np.exp(s) * slope * (1 / second - 1 / first)

        target = np.log(q) - np.log(minus_y)
        return -np.exp(solved(odds, target, target + math.log(self._mean), -FARTHEST))

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


def solved(
    function: Callable[[Array], tuple[Array, Array]],
    target: Array,
    guess: Array,
    floor: float,
    ceiling: float = FARTHEST,
) -> Array:
    """Solve function(s) = target between floor and ceiling; where it lies beyond, one of these."""
    found = solve_monotone(lambda s: function(np.clip(s, floor, ceiling)), target, guess, ceiling, floor)
    return np.clip(found, floor, ceiling)
