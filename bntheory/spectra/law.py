"""What every limiting law of squared singular values shares, and the views of it.

A law describes the eigenvalues x ≥ 0 of J Jᵀ. It may carry atoms; the rest is its continuous part, of mass 1 − Σ atoms.
The formulas of the laws are written in the *depth* below the upper edge,

    t = ln(x_max / x),        0 ≤ t ≤ ∞,

because a logarithm reaches where plain x underflows, because t resolves the upper edge where x does not, and because
``scale`` cancels from it. The same t belongs to x, to s = √x and to ln x, so a view is a change of variable only:

    v = x^power  (power = 1 for x, 1/2 for s),        v = ln x  (written as power = 0).

ln x_max is kept to 50 decimal digits; the distance x_max − x is therefore right to the last float below the edge.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp

from bntheory.arguments import integer, number

if TYPE_CHECKING:
    from bntheory.spectra.s_transform import STransformLaw

Array = NDArray[np.float64]
Seed = int | np.random.Generator | np.random.SeedSequence | None

DIGITS = 50  # of the decimal arithmetic that places the upper edge


def solve_monotone(
    function: Callable[[Array], tuple[Array, Array]],
    target: Array,
    guess: Array,
    ceiling: float | Array,
    floor: float | Array = -math.inf,
) -> Array:
    """Solve function(y) = target for floor < y < ceiling, elementwise, for a monotone function.

    Newton's method; every evaluation narrows a bracket, and a step that leaves it becomes a bisection.

    Parameters
    ----------
    function
        Returns the values and the slopes at y, both of the shape of y.
    target, guess
        One-dimensional arrays of the same length.
    ceiling, floor
        Ends of the bracket.
    """
    low, high = np.full_like(guess, floor), np.full_like(guess, ceiling)
    y, done = np.minimum(guess, ceiling), np.zeros(guess.shape, dtype=bool)
    for _ in range(100):
        value, slope = function(y)
        step = (target - value) / slope
        low, high = np.where(step > 0, y, low), np.where(step < 0, y, high)
        # The convergence is quadratic: a last step of 1e-8 leaves an error of the order of its square.
        settled = (np.abs(step) <= 1e-8 * np.maximum(1, np.abs(y))) | (high - low <= 4e-16 * np.maximum(1, np.abs(y)))
        outside = (y + step <= low) | (y + step >= high)  # at an end Newton would go to and fro
        proposal = np.where(outside & ~settled, (low + high) / 2, y + step)
        proposal = np.where(np.isfinite(proposal), proposal, y)  # a jump is met where the function has no slope
        y = np.where(done, y, proposal)  # a settled element stays: it does not depend on its company
        done |= settled
        if np.all(done):
            return y
    raise ArithmeticError("Newton's method did not converge in 100 steps")


class SpectralLaw(ABC):
    """Law of the squared singular values x, or of a function v of them: √x in `singular`, ln x in `log`.

    All methods take a number or an array of any shape and return the same shape. Outside the support the density
    is 0 and the distribution function 0 or 1; NaN gives NaN; a density that diverges at 0 is inf there.

    A law supplies `_log_support`, `_continuous` and `_depth` for the continuous part, normalised to mass 1, and where
    they apply `atoms`, `_mass`, `_zero_exponent` and `_log_moment`.
    """

    power: float = 1.0
    conditional: bool = False
    method: str = "limit"  # of large matrices, exact there; or "approximate" there too

    # -- what a law supplies -------------------------------------------------------------------------------------

    @abstractmethod
    def _log_support(self) -> tuple[Decimal, Decimal]:
        """ln x_min and ln x_max, to 50 digits where the law knows them that well; −Infinity for x_min = 0."""

    @abstractmethod
    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        """Logarithms of (density of ln x, cdf, sf) of the continuous part at depths strictly inside the support."""

    @abstractmethod
    def _depth(self, below: Array, above: Array) -> Array:
        """Depth with cdf = below and sf = above = 1 − below in the continuous part, both in (0, 1)."""

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """Point masses as (location, mass), in increasing order of location."""
        return ()

    @property
    def _mass(self) -> float:
        """Mass of the continuous part."""
        return 1.0 - math.fsum(mass for _, mass in self.atoms)

    @property
    def _zero_exponent(self) -> float:
        """The e in cdf ~ x^e as x → 0; inf when the support ends before 0."""
        return math.inf

    def _log_moment(self, order: float) -> float:
        """ln E x^order of the continuous part."""
        depth, weights = self._nodes
        exponent = order * (self._log_edge - depth)
        return float(exponent.max() + np.log(weights @ np.exp(exponent - exponent.max())))

    # -- products ------------------------------------------------------------------------------------------------

    def s_transform(self) -> STransformLaw:
        """The same law by its S-transform, which multiplies over free factors.

        Raises
        ------
        TypeError
            If the law has none that is known.
        """
        raise TypeError(f"{self!r:.60} has no S-transform that is known")

    def __matmul__(self, other: SpectralLaw) -> STransformLaw:
        """The law of the product of two free matrices of the same size, one of each law."""
        if not isinstance(other, SpectralLaw):
            return NotImplemented
        return self.s_transform().times(other.s_transform())

    def __pow__(self, count: int) -> STransformLaw:
        """The law of the product of `count` free matrices of this one."""
        return self.s_transform().to_power(integer("count", count))

    def __mul__(self, factor: float) -> STransformLaw:
        """The law of `factor` times x."""
        return self.s_transform().scaled(math.log(number("factor", factor, above=0)))

    __rmul__ = __mul__

    # -- views ---------------------------------------------------------------------------------------------------

    @cached_property
    def singular(self) -> SpectralLaw:
        """The law of the singular values s = √x."""
        return self._view(0.5, self.conditional)

    @cached_property
    def log(self) -> SpectralLaw:
        """The law of ln x; an atom at x = 0 is an atom at −inf here."""
        return self._view(0.0, self.conditional)

    @cached_property
    def nonzero(self) -> SpectralLaw:
        """The law conditional on x > 0."""
        return self._view(self.power, True)

    def _view(self, power: float, conditional: bool) -> SpectralLaw:
        return View(self, power, conditional)

    # -- the variable and the depth ------------------------------------------------------------------------------

    @cached_property
    def _edges(self) -> tuple[float, float, float]:
        """Lower edge in this variable, and the upper as an unevaluated sum of two floats."""
        with localcontext() as context:
            context.prec = DIGITS
            lower, upper = ((Decimal(self.power) * end).exp() if self.power else end for end in self._log_support())
            high = float(upper)
            return float(lower), high, float(upper - Decimal(high)) if math.isfinite(high) else 0.0

    @cached_property
    def _log_edge(self) -> float:
        return float(self._log_support()[1])

    @cached_property
    def _lower_depth(self) -> float:
        with localcontext() as context:
            context.prec = DIGITS
            lower, upper = self._log_support()
            return float(upper - lower)

    @property
    def support(self) -> tuple[float, float]:
        """Ends of the support of the continuous part, rounded to floats; atoms may lie outside it."""
        return self._edges[:2]

    def _to_depth(self, value: Array) -> Array:
        _, high, low = self._edges
        if not self.power:
            return (high - value) + low
        gap = ((high - value) + low) / high  # from high/2 on, high − value is exact
        near, far = -np.log1p(-gap) / self.power, self._log_edge - np.log(value) / self.power
        return np.where(value < 0, np.inf, np.where(gap < 0.5, near, far))

    def _from_depth(self, depth: Array) -> Array:
        _, high, low = self._edges
        if not self.power:
            return (high - depth) + low
        ratio = np.exp(-self.power * depth)
        logarithmic = np.exp(self.power * (self._log_edge - depth))
        return np.where((ratio > 1e-290) & math.isfinite(high), high * ratio, logarithmic)

    def _at(self, value: Array) -> Array:
        """Logarithms of (density of ln x, cdf, sf) of the continuous part, stacked, for any value."""
        depth = self._to_depth(value.ravel())
        out = np.full((3, depth.size), np.nan)
        out[:, depth <= 0] = [[-np.inf], [0.0], [-np.inf]]
        out[:, depth >= self._lower_depth] = [[-np.inf], [-np.inf], [0.0]]
        inside = (depth > 0) & (depth < self._lower_depth)
        if np.any(inside):
            out[:, inside] = self._continuous(depth[inside])
        return out.reshape(3, *value.shape)

    def _log_density_at_zero(self) -> float:
        """Limit of the log-density at v = 0, which cdf ~ v^(e/power) decides."""
        exponent = self._zero_exponent / self.power
        if exponent != 1:
            return math.inf if exponent < 1 else -math.inf
        depth = np.array([100 / self.power])  # v / v_max = e^-100: the limit, to rounding
        log_value = self.power * (self._log_edge - depth[0])
        return float(self._continuous(depth)[0][0] + math.log(self._mass) - log_value - math.log(self.power))

    # -- the public methods --------------------------------------------------------------------------------------

    def logpdf(self, x: ArrayLike) -> Array:
        """Natural logarithm of the density of the continuous part; −inf outside the support."""
        value = np.asarray(x, dtype=float)
        with np.errstate(all="ignore"):
            log_density = self._at(value)[0] + np.log(self._mass)
            if self.power:
                inside = log_density > -np.inf
                log_density = np.where(inside, log_density - np.log(value) - math.log(self.power), log_density)
                log_density = np.where(value == 0, self._log_density_at_zero(), log_density)
        return log_density[()]

    def pdf(self, x: ArrayLike) -> Array:
        """Density of the continuous part; it integrates to 1 − Σ atoms. An atom is not part of the density."""
        with np.errstate(all="ignore"):
            return np.exp(self.logpdf(x))

    def cdf(self, x: ArrayLike) -> Array:
        """Probability of a value ≤ x, atoms included."""
        value = np.asarray(x, dtype=float)
        with np.errstate(all="ignore"):
            total = self._mass * np.exp(self._at(value)[1])
        for location, mass in self.atoms:
            total = total + mass * (value >= location)
        return np.minimum(total, 1.0)[()]

    def sf(self, x: ArrayLike) -> Array:
        """Probability of a value > x, atoms included; accurate where cdf rounds to 1."""
        value = np.asarray(x, dtype=float)
        with np.errstate(all="ignore"):
            total = self._mass * np.exp(self._at(value)[2])
        for location, mass in self.atoms:
            total = total + mass * (value < location)
        return np.minimum(total, 1.0)[()]

    def ppf(self, q: ArrayLike) -> Array:
        """Quantile: the least x with cdf(x) ≥ q; at q = 0 the lowest x, atoms included, at q = 1 the highest.

        Raises
        ------
        ValueError
            If an element of `q` lies outside [0, 1].
        """
        level = np.asarray(q, dtype=float)
        outside = (level < 0) | (level > 1)
        if np.any(outside):
            raise ValueError(f"q must lie between 0 and 1, got {level[outside].flat[0]}")
        with np.errstate(all="ignore"):
            return self._quantile(level.ravel()).reshape(level.shape)[()]

    def _quantile(self, level: Array) -> Array:
        if not self._mass:
            locations, masses = (np.array(column) for column in zip(*self.atoms, strict=True))
            place = np.searchsorted(np.cumsum(masses) * (1 + 1e-15), level)
            return np.where(np.isnan(level), np.nan, locations[np.minimum(place, len(locations) - 1)])
        below, above, at_atom = level, 1 - level, np.full(level.shape, np.nan)
        for location, mass in self.atoms:
            under = self._mass * math.exp(self._at(np.array(location))[1])
            last = location == self.atoms[-1][0] and location >= self.support[1]
            hit = (below >= under) & ((below <= under + mass) | last) & np.isnan(at_atom)
            at_atom = np.where(hit, location, at_atom)
            above = np.where(below < under, above - mass, above)
            below = np.where(below > under + mass, below - mass, below)
        below, above = below / self._mass, above / self._mass
        depth = np.full(level.shape, np.nan)
        depth[above <= 0], depth[below <= 0] = 0, self._lower_depth
        inside = (below > 0) & (above > 0) & np.isnan(at_atom)
        if np.any(inside):
            depth[inside] = self._depth(below[inside], above[inside])
        low, high = self.support
        value = np.where(depth == self._lower_depth, low, np.clip(self._from_depth(depth), low, high))
        return np.where(np.isnan(at_atom), value, at_atom)

    def rvs(self, size: int | tuple[int, ...] | None = None, seed: Seed = None) -> Array:
        """Draw independent values by inversion, ppf(U) with U uniform on the multiples of 2⁻⁵³ in (0, 1].

        Parameters
        ----------
        size
            Shape of the result; None for one number.
        seed
            An integer, SeedSequence or Generator; None draws fresh entropy. The views of one law drawn with one seed
            are functions of each other: ``law.singular.rvs(9, 0)**2`` is ``law.rvs(9, 0)`` to rounding.

        Raises
        ------
        ValueError
            If a length is negative or not an integer, or `seed` is none of the above.
        """
        shape = () if size is None else size if isinstance(size, tuple) else (size,)
        shape = tuple(integer("size", length, at_least=0) for length in shape)
        try:
            generator = np.random.default_rng(seed)
        except (TypeError, ValueError):
            raise ValueError(f"seed must be a non-negative integer or a numpy Generator, got {seed!r}") from None
        return self.ppf(1 - generator.random(shape))

    # -- moments -------------------------------------------------------------------------------------------------

    @cached_property
    def _nodes(self) -> tuple[Array, Array]:
        """Depths and weights of the continuous part: the double exponential rule in the probability."""
        y = np.arange(-388, 389) / 64
        below, above = expit(np.pi * np.sinh(y)), expit(-np.pi * np.sinh(y))
        return self._depth(below, above), below * above * np.pi * np.cosh(y) / 64

    def log_moment(self, k: float) -> float:
        """ln E v^k for real k, atoms included; inf where the moment diverges. Not defined for v = ln x."""
        order = number("k", k)
        if not self.power:
            raise ValueError("log_moment is not defined for ln x, which takes both signs; use moment")
        if order == 0:
            return 0.0
        if order * self.power <= -self._zero_exponent:
            return math.inf
        with np.errstate(all="ignore"):
            parts = [np.log(self._mass) + self._log_moment(order * self.power)] if self._mass else []
            parts += [np.log(mass) + order * np.log(location) for location, mass in self.atoms]
            return float(logsumexp(parts))

    def moment(self, k: float) -> float:
        """E v^k, atoms included, for real k (for v = ln x: integers k ≥ 0).

        It is inf where it diverges or overflows, and otherwise accurate to a relative 1e-12. A closed form is used
        where the law has one, and else the double exponential rule in the probability, good for up to 1e6 factors.
        """
        order = number("k", k)
        with np.errstate(all="ignore"):
            if self.power:
                return float(np.exp(self.log_moment(order)))
            if order < 0 or order != int(order):
                raise ValueError(f"k must be a non-negative integer for ln x, got {k}")
            return self._expectation(lambda value: value ** int(order))

    def _expectation(self, function: Callable[[Array], Array]) -> float:
        total = 0.0
        if self._mass:
            depth, weights = self._nodes
            total = self._mass * float(weights @ function(self._from_depth(depth)))
        return total + sum(mass * float(function(np.array(location))) for location, mass in self.atoms)

    @property
    def mean(self) -> float:
        """E v."""
        return self.moment(1)

    @property
    def var(self) -> float:
        """Variance of v, by quadrature where no closed form is known; NaN for ln x with an atom at −inf."""
        mean = self.mean
        with np.errstate(all="ignore"):
            return self._expectation(lambda value: (value - mean) ** 2)


@dataclass(frozen=True)
class View(SpectralLaw):
    """A law seen in another variable, x^power or ln x (power 0), or conditional on x > 0."""

    law: SpectralLaw
    power: float = 1.0
    conditional: bool = False

    def _view(self, power: float, conditional: bool) -> SpectralLaw:
        return View(self.law, power, conditional)

    @property
    def method(self) -> str:  # type: ignore[override]
        """That of the law."""
        return self.law.method

    def _kept(self) -> float:
        """Probability of the event the view conditions on."""
        if not self.conditional:
            return 1.0
        return self.law._mass + math.fsum(mass for location, mass in self.law.atoms if location > 0)

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """Point masses as (location, mass), in increasing order of location."""
        kept = [(x, mass / self._kept()) for x, mass in self.law.atoms if x > 0 or not self.conditional]
        with np.errstate(divide="ignore"):
            return tuple((float(x**self.power if self.power else np.log(x)), mass) for x, mass in kept)

    @property
    def _mass(self) -> float:
        return self.law._mass / self._kept()

    @property
    def _zero_exponent(self) -> float:
        return self.law._zero_exponent

    @property
    def _nodes(self) -> tuple[Array, Array]:
        return self.law._nodes

    def _log_support(self) -> tuple[Decimal, Decimal]:
        return self.law._log_support()

    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        return self.law._continuous(depth)

    def _depth(self, below: Array, above: Array) -> Array:
        return self.law._depth(below, above)

    def _log_moment(self, order: float) -> float:
        return self.law._log_moment(order)
