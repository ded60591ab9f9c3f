"""Diagonal factors of free products: masks, slopes, any law of finitely many values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from bntheory.spectra.factors import SMALLEST, Array, Complex, Factor, summed
from bntheory.spectra.inverted import CLOSEST, FARTHEST, Inverted, solved
from bntheory.spectra.law import solve_monotone
from bntheory.spectra.poles import Poles

CACHED = 2**15  # elements of a block of points × nodes: half a MB


@dataclass(frozen=True, eq=False)
class Diagonal(Inverted):
    """u^count of a diagonal factor whose squared entries λ have a given law.

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diagonal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[bytes, bytes, int, float]:
        return self.values.tobytes(), self.weights.tobytes(), self.count, self.share

    @cached_property
    def _rank(self) -> float:
        return float(self.weights.sum())

    @cached_property
    def _mean(self) -> float:
        return float(self._weighted.sum())

    @property
    def has_density(self) -> bool:
        return self.poles is not None or self.coarse is not None

    def smoothed(self) -> Diagonal:
        return replace(self, poles=None)

    def bare(self) -> Factor:
        return replace(self, reaches_zero=self.reaches_zero or self.tail)

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
    def atoms(self) -> list[tuple[float, float]]:
        """Its values and their probabilities; if they stand for a density, those of single points."""
        return list(self.points if self.poles else zip(self.values.tolist(), self.weights.tolist(), strict=True))

    @cached_property
    def _weighted(self) -> Array:
        return self.weights * self.values

    def _resolvents(self, place: Any, offsets: Array) -> Any:
        """Σ w λ/(place + offset), Σ w/(place + offset) and Σ w λ/(place + offset)², stacked."""
        sums, block = np.empty((3, len(place)), place.dtype), max(1, CACHED // len(offsets))
        weighted, weights = self._weighted.astype(place.dtype), self.weights.astype(place.dtype)
        for start in range(0, len(place), block):
            here = slice(start, start + block)
            inverse = 1 / (place[here, None] + offsets)
            sums[0, here], sums[1, here] = summed(inverse, weighted), summed(inverse, weights)
            sums[2, here] = summed(np.square(inverse), weighted)
        return sums

    def _sums(self, u: Any) -> tuple[Any, Any, Any]:
        """y_D, y_D + r and d y_D/d u."""
        first, zeroth, squared = self._resolvents(u, -self.values)
        slope = -squared
        if self.poles is None or not np.iscomplexobj(u):
            return first, u * zeroth, slope
        lacking, rate = self.poles.sums(u)
        return first + lacking, u * zeroth + lacking, slope + rate / u

    def start(self, pair: Complex) -> Complex:
        u = super().start(pair)
        with np.errstate(all="ignore"):
            return u if self.poles is None else self.follow(pair, u)

    def _above(self, y: Array) -> Array:
        largest = self.values.max()

        def log_y(s: Array) -> tuple[Array, Array]:
            beyond = largest * np.exp(s)
            first, _, squared = self._resolvents(beyond, largest - self.values)
            return np.log(first), -squared * beyond / first

        s = solved(log_y, np.log(y), -np.log(y), CLOSEST)
        return largest + largest * np.exp(s)

    def _beneath(self, minus_q: Array) -> Array:
        least = self.values.min()

        def log_q(s: Array) -> tuple[Array, Array]:
            u = least * expit(s)
            _, zeroth, squared = self._resolvents(least * expit(-s), self.values - least)
            return np.log(zeroth * u), expit(-s) * squared / zeroth

        return least * expit(solved(log_q, np.log(minus_q), np.log(minus_q), -FARTHEST, -CLOSEST))

    def start_inside(self, pair: Complex, top: bool) -> Complex:
        """u between the two lowest λ or the two highest, where y falls from ∞ to −∞."""
        low, high = self.values[-2:] if top else self.values[:2]
        wanted = self.share * pair[1].real

        def y(s: Array) -> tuple[Array, Array]:
            below, above = (high - low) * expit(s), (high - low) * expit(-s)
            ends = (low - self.values) + below[:, None], (high - self.values) - above[:, None]
            inverse = 1 / np.where(self.values <= low, *ends)
            sums, squares = summed(inverse, self._weighted), summed(np.square(inverse), self._weighted)
            size = np.hypot(1, sums)  # of a slope that does not overflow: arcsinh
            return np.arcsinh(sums), -squares * below * expit(-s) / size

        s = solve_monotone(y, np.arcsinh(wanted), np.zeros_like(wanted), -CLOSEST, CLOSEST)
        return (low + (high - low) * expit(s)).astype(complex)[None]

    def integral(self, pair: Complex, v: Complex) -> Array:
        """[E arg(1 − u/λ) − spare (arg u + π)]/share, the mean over nonzero λ."""
        u = v[0]
        angles = summed(np.angle(1 - u[:, None] / self.values), self.weights)
        if self.poles is not None:
            angles += self.poles.angles(u)
        return self.count * (angles - self._spare * (np.angle(u) + np.pi)) / self.share
