"""Factors of free products, by their S-transforms: what each multiplies onto x(y).

With y the moment generating function E λ/(x − λ) of a law on [0, ∞), x = (1+y)/y · 1/S(y), and S multiplies over free
factors. A product of rank r, as a share of its dimension, has y ≥ −r on the negative axis; everything is written in

    p = 1 + y/r,

0 at x = 0 and 1 at x = ∞, and in y/r = p − 1: both are kept, so that neither small x nor deep products lose digits.
A factor adds h(p) to ln x. Where h is no function of p in closed form it is one of variables v that p determines by an
equation of its own; these are followed from point to point, so that of several branches always the right one is taken,
and Newton's method moves them together with p.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-18  # p, below which ln x is linear in ln p to rounding
ITERATIONS = 60  # of Newton's method in v at most

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


class Local(NamedTuple):
    """A factor linearised about (p, v).

    log : h there, and after a step to the solution of the factor's own equation, up to multiples of 2πi;
    slope : d h/d p;
    miss : that step, of v at given p;
    rate : d v/d p.
    """

    log: Complex
    slope: Complex
    miss: Complex
    rate: Complex


class Factor(ABC):
    """h(p) and what the solver asks of it.

    count : how many of them there are;
    rows : variables v of its own, an array (rows, points);
    resolution : p below which it is only extrapolated;
    reaches_zero : whether it has a density down to zero;
    coarse : of one that stands for a density by quadrature, the same with half as many nodes.
    """

    count: int = 1
    rows: int = 0
    resolution: float = SMALLEST
    reaches_zero: bool = False
    coarse: Factor | None = None

    @property
    def has_density(self) -> bool:
        """Whether it stands for a density by quadrature."""
        return False

    @property
    def needs_gaussian(self) -> bool:
        """Whether only products with a factor of positive degree have a law that is found."""
        return False

    @property
    @abstractmethod
    def order(self) -> float:
        """d h/d ln p as p → 0."""

    @property
    @abstractmethod
    def degree(self) -> float:
        """d h/d ln p as p → ∞."""

    @property
    def residue(self) -> Fraction | float:
        """lim y (h − degree · ln y − constant) as y = p − 1 → ∞; asked for where no factor has a positive degree."""
        return math.nan

    @property
    def lower_residue(self) -> Fraction | float:
        """The same as y → −∞ below the support."""
        return self.residue

    @property
    def rank(self) -> Fraction:
        """Share of its squared singular values that are not zero."""
        return Fraction(1)

    @property
    def lowest(self) -> float:
        """The end of the interval below p = 0 where h is real and regular up to a power of p; −∞ if there is none."""
        return -math.inf

    @property
    def atoms(self) -> list[tuple[float, float]]:
        """Values that h takes as y → ∞, each as e^h, and their probabilities; none for a positive degree."""
        return []

    def start(self, pair: Complex) -> Complex:
        """v at real (p, y): p in (0, 1) as for x < 0, above 1 as for x beyond the support, or just below 0."""
        return np.empty((0, pair.shape[1]), complex)

    def start_inside(self, pair: Complex, top: bool) -> Complex:
        """v at real (p, y) next to an atom, above the lowest or below the highest: the same where h takes no values."""
        return self.start(pair)

    @abstractmethod
    def local(self, pair: Complex, v: Complex) -> Local:
        """The factor about (p, y) and v, which need not belong together to the last digit."""

    @abstractmethod
    def integral(self, pair: Complex, v: Complex) -> Array:
        """Im ∫ p dh from p = 0."""

    def moved(self, v: Complex, step: Complex) -> Complex:
        """v after a step of Newton's method on the curve's side of the real axis."""
        return self.shortened(v, step)

    def shortened(self, v: Complex, step: Complex) -> Complex:
        """v after a step of Newton's method anywhere, of at most half of |v|."""
        return v + step / np.maximum(1, 2 * np.abs(step) / np.maximum(np.abs(v), 1e-300))

    def follow(self, pair: Complex, v: Complex) -> Complex:
        """v at (p, y), given that of a point nearby."""
        for _ in range(ITERATIONS if self.rows else 0):
            step = self.local(pair, v).miss
            v = self.shortened(v, step)
            if np.all(np.abs(step) <= 1e-9 * np.abs(v)):
                break
        return v

    def counted(self, count: int) -> Factor:
        """So many of this factor."""
        return replace(self, count=count)  # type: ignore[type-var]

    def smoothed(self) -> Factor:
        """The same factor in a product with Gaussian matrices, which keep u away from its values."""
        return self

    def bare(self) -> Factor:
        """The same factor in a product without Gaussian matrices."""
        return self

    def shared(self, share: float) -> Factor:
        """The same factor where the rank of the product is that share of its size."""
        return self if share == 1 else Shared(self, share)


@dataclass(frozen=True)
class Shared(Factor):
    """A factor of full rank in a product of lower rank: it sees share · y."""

    factor: Factor
    share: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", self.factor.rows)

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
    def lower_residue(self) -> float:
        return float(self.factor.lower_residue) / self.share

    @property
    def lowest(self) -> float:
        return (self.factor.lowest - (1 - self.share)) / self.share

    def _pair(self, pair: Complex) -> Complex:
        return np.array([(1 - self.share) + self.share * pair[0], self.share * pair[1]])

    def start(self, pair: Complex) -> Complex:
        return self.factor.start(self._pair(pair))

    def start_inside(self, pair: Complex, top: bool) -> Complex:
        return self.factor.start_inside(self._pair(pair), top)

    def local(self, pair: Complex, v: Complex) -> Local:
        log, slope, miss, rate = self.factor.local(self._pair(pair), v)
        return Local(log, self.share * slope, miss, self.share * rate)

    def moved(self, v: Complex, step: Complex) -> Complex:
        return self.factor.moved(v, step)

    def integral(self, pair: Complex, v: Complex) -> Array:
        inner = self._pair(pair)
        lost = (1 - self.share) * self.factor.local(inner, v).log.imag
        return (self.factor.integral(inner, v) - lost) / self.share


class Explicit(Factor):
    """A factor whose h is a function of p."""

    @abstractmethod
    def values(self, pair: Complex) -> tuple[Complex, Complex]:
        """h and d h/d p."""

    def local(self, pair: Complex, v: Complex) -> Local:
        return Local(*self.values(pair), v, v)


@dataclass(frozen=True)
class Powers(Explicit):
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

    @cached_property
    def _columns(self) -> tuple[Array, Any]:
        """b as a column, and k."""
        return np.array([float(b) for b, _ in self.terms])[:, None], np.array([float(k) for _, k in self.terms])

    def _shifted(self, pair: Complex) -> Complex:
        """b + p, one row a term."""
        column, _ = self._columns
        return np.where(column == -1, pair[1], column + pair[0])

    def values(self, pair: Complex) -> tuple[Complex, Complex]:
        shifted, (_, k) = self._shifted(pair), self._columns
        return self.log_scale + summed(np.log(shifted).T, k), summed(1 / shifted.T, k)

    def integral(self, pair: Complex, v: Complex) -> Array:
        """k [p − b ln(1 + p/b)]."""
        column, k = self._columns
        sign = np.where(column < 0, -1, 1)
        return k.sum() * pair[0].imag - summed(np.angle(sign * self._shifted(pair)).T, k * column[:, 0])


def merged(terms: Iterable[tuple[Fraction, int]]) -> tuple[tuple[Fraction, int], ...]:
    """Equal c's together, in increasing order, those that cancel left out."""
    total: dict[Fraction, int] = {}
    for c, k in terms:
        total[c] = total.get(c, 0) + k
    return tuple((c, k) for c, k in sorted(total.items()) if k)


def summed(terms: Any, weights: NDArray[Any]) -> Any:
    """Σ terms · weights of an array (points, terms).

    Row by row: of a matrix times a vector BLAS shares the work among threads, and waits longer for them than it takes.
    """
    return (terms[:, None] @ weights)[:, 0]
