"""Laws given by their moment generating functions, as factors of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from bntheory import arguments
from bntheory.spectra.factors import SMALLEST, Array, Complex, summed
from bntheory.spectra.inverted import FARTHEST, Inverted, solved
from bntheory.spectra.s_transform import Part, STransformLaw

TERMS = 32  # of the series about z = 0 and, where all λ are above zero, about 1/z = 0
FAR, NEAR = 4.0, 0.25  # |u| beside the ends, from where and up to where the series are used
CIRCLE = 0.25  # radius of the circle of a derivative beside the distance from the ends
PANEL = 3.0  # of ln |θ|, from whose ends the integrand's singularities are some 0.7 away
CLOSEST = -23.0  # ln of the relative distance of u from the ends at which digits remain
RESOLUTION = 1e-7  # ψ + r, below which ψ leaves too few digits
AGREEING = 1e-6  # of a function with its mean, its conjugate and its series
SIGHTED = -1e-9  # of Im ψ beside |ψ|
BEYOND = 1 + np.logspace(-3, 1, 5)  # of the ends: real u where ψ is real
DEEP, LEFT = 1e-30, 1e-2  # |u| beside the upper end where ψ + r must have fallen so far: orders of 15 do


@dataclass(frozen=True, eq=False)
class Generated(Inverted):
    """u^count of a factor with ψ(1/u) = E λ/(u − λ).

    Far from the law ψ is a power series; elsewhere the function itself, its derivative a mean over a circle, and the
    probability below an integral over an arc.

    Parameters
    ----------
    psi : callable
    low, high : float
        Between which all λ > 0 lie; low is 0 if they reach down to it.
    mean : float
        E λ.
    total : float
        r, the probability of λ > 0.
    points : int
        Nodes of a circle, and of a panel of an arc.
    """

    psi: Callable[[Complex], ArrayLike]
    low: float
    high: float
    mean: float
    total: float
    points: int
    count: int = 1
    zero_order: float = 1.0
    share: float = 1.0
    resolution: float = SMALLEST
    reaches_zero: bool = False
    coarse: Generated | None = None

    @property
    def _rank(self) -> float:
        return self.total

    @property
    def _mean(self) -> float:
        return self.mean

    @property
    def needs_gaussian(self) -> bool:
        return True  # of atoms, which matter without one, the function tells nothing

    def at(self, u: Complex) -> Complex:
        """ψ(1/u)."""
        return np.asarray(self.psi(1 / u), complex)

    @cached_property
    def above(self) -> Array:
        """E (λ/high)^k, k = 0 … TERMS, zeroth term 0, of the series in high/u."""
        return _series(lambda w: self.at(self.high / w))

    @cached_property
    def beneath(self) -> Array:
        """The same of ψ + r in u/low."""
        return _series(lambda w: self.at(self.low * w) + self.total)

    def _sums(self, u: Any) -> tuple[Any, Any, Any]:
        place = np.asarray(u, complex)
        y, slope = np.empty_like(place), np.empty_like(place)
        q = np.empty_like(place)
        far, near = np.abs(place) > FAR * self.high, np.abs(place) < NEAR * self.low
        if far.any():
            w = self.high / place[far]
            y[far], slope[far] = _polynomial(self.above, w)
            slope[far] *= -w / place[far]
            q[far] = y[far] + self.total
        if near.any():
            q[near], slope[near] = _polynomial(self.beneath, place[near] / self.low)
            slope[near] /= self.low
            y[near] = q[near] - self.total
        rest = ~(far | near)
        if rest.any():
            y[rest], slope[rest] = self._direct(place[rest])
            q[rest] = y[rest] + self.total
        return (y, q, slope) if np.iscomplexobj(u) else (y.real, q.real, slope.real)

    def _direct(self, u: Complex) -> tuple[Complex, Complex]:
        """y and its slope, the mean over a circle that the ends leave room for."""
        apart = np.abs(u - np.clip(u.real, self.low, self.high))
        roots = np.exp(2j * np.pi * np.arange(self.points) / self.points)
        steps = CIRCLE * apart[:, None] * roots
        return self.at(u), np.mean(self.at(u[:, None] + steps) / steps, axis=1)

    def _above(self, y: Array) -> Array:
        def log_y(s: Array) -> tuple[Array, Array]:
            beyond = self.high * np.exp(s)
            first, _, slope = self._sums(self.high + beyond)
            return np.log(first), beyond * slope / first

        s = solved(log_y, np.log(y), np.log(self.mean / self.high / y), CLOSEST)
        return self.high + self.high * np.exp(s)

    def _beneath(self, minus_q: Array) -> Array:
        if not self.low:
            return np.full_like(minus_q, -DEEP * self.high)  # there is no place: next to the last

        def log_q(s: Array) -> tuple[Array, Array]:
            u = self.low * expit(s)
            _, second, slope = self._sums(u)
            return np.log(-second), u * expit(-s) * slope / second

        return self.low * expit(solved(log_q, np.log(minus_q), np.log(minus_q), -FARTHEST, -CLOSEST))

    def integral(self, pair: Complex, v: Complex) -> Array:
        """∫ (1 + Re y) dθ over the arc from −|u| to u, in panels of ln |θ|, by Gauss's rule."""
        size, angle = np.abs(v[0]), -np.minimum(np.angle(v[0]), -np.exp(CLOSEST))
        length, total = np.log(np.pi / angle), np.zeros(len(size))
        nodes, weights = np.polynomial.legendre.leggauss(self.points)
        for begin in np.arange(0, length.max(initial=0), PANEL):
            here = np.flatnonzero(length > begin)
            half = np.minimum(length[here] - begin, PANEL)[:, None] / 2
            theta = np.pi * np.exp(-begin - half * (1 + nodes))
            _, q, _ = self._sums((size[here, None] * np.exp(-1j * theta)).ravel())
            total[here] += summed(half * theta * (q.real.reshape(theta.shape) - self._spare), weights)
        return self.count * total / self.share


def generating_law(
    psi: Callable[[Complex], ArrayLike], mean: float, ends: Sequence[float], zero: float = 0.0, points: int = 24
) -> STransformLaw:
    r"""Return the law of a given moment generating function ψ(z) = E zλ/(1 − zλ), as a factor of products.

    Parameters
    ----------
    psi : callable
        ψ at an array of complex z, analytic off the cut from 1/high to 1/low.
    mean : float
        E λ = ψ′(0), above 0.
    ends : (low, high)
        Of the support, an atom at zero apart; low is 0 if and only if it reaches down to zero. With a high that is too
        high there is no law where the edge of a product should lie below.
    zero : float
        Probability of λ = 0.
    points : int
        Nodes of the integral that is ψ′, and per factor e³ of the angle of those for the distribution; at least 16.

    Returns
    -------
    STransformLaw
        For products with a Gaussian matrix or residual block among them; the law itself is refused when it is asked
        for. Right to a relative 1e-8 if ψ is to 1e-14, where the cdf is above 1e-7; below it is continued as a power.
        `STransformLaw.accuracy` says how well the nodes do, not how well ψ does.

    Raises
    ------
    ValueError
        If ψ is not a function of arrays, or not finite; if ψ(z)/z does not tend to the mean, or ψ not to zero − 1 as
        z → −∞; if it has not the sign of Im z, or is not analytic for |z| < 1/high; if the ends do not increase from at
        least 0 to a finite number.

    Notes
    -----
    The S-transform is (1 + y)/(y u) where ψ(1/u) = y: the equation is solved together with that of the product, from
    point to point of its curve, so that no branch of the inverse is chosen.

    References
    ----------
    Voiculescu 1987; Bercovici, Voiculescu 1993 (inverses of ψ off the positive axis).

    Examples
    --------
    >>> from bntheory import FussCatalan
    >>> def psi(z):  # of one Gaussian matrix, by y = z (1 + y)²
    ...     return (1 - np.sqrt(1 - 4 * z)) ** 2 / (4 * z)
    >>> law = generating_law(psi, mean=1.0, ends=(0, 4)) @ FussCatalan(1)
    >>> round(law.support[1], 9), f"{law.cdf(2.0) / FussCatalan(2).cdf(2.0):.9f}", law.accuracy(2.0) < 1e-5
    (6.75, '1.000000000', True)
    """
    if not callable(psi):
        raise ValueError(f"psi must be a function of arrays of complex numbers, got {psi!r:.60}")
    mean = arguments.number("mean", mean, above=0)
    low, high = _ends(ends)
    zero = arguments.number("zero", zero, at_least=0)
    if zero >= 1:
        raise ValueError(f"zero must be below 1, got {zero!r}")
    points = arguments.integer("points", points, at_least=16)
    factor = Generated(psi, low, high, mean, 1 - zero, points, reaches_zero=low == 0)
    _check(factor)
    if low == 0:
        factor = replace(factor, zero_order=_zero_order(factor), resolution=RESOLUTION / (1 - zero))
    return STransformLaw((), 0.0, (Part(replace(factor, coarse=replace(factor, points=points // 2))),))


def _ends(ends: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        raise ValueError(f"ends must be two numbers, got {ends!r:.80}") from None
    if not 0 <= low < high < math.inf:
        raise ValueError(f"ends must increase from at least 0 to a finite number, got {ends!r:.80}")
    return low, high


def _check(factor: Generated) -> None:
    """Refuse what is no moment generating function of such a law, by what it is at some places off the cut."""
    radii, angles = np.geomspace(1e-3, 1e3, 25), np.pi * np.array([0.02, 0.2, 0.5, 0.8])
    off = factor.high * radii[:, None] * np.exp(-1j * angles)
    real = np.concatenate([-factor.high * radii, factor.high * BEYOND, factor.low / BEYOND if factor.low else []])
    u = np.concatenate([off.ravel(), real.astype(complex)])
    z, upper, negative = np.asarray(1 / u, complex), u.imag < 0, u.real == -np.abs(u)
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(factor.psi(z), complex)
            mirrored = np.asarray(factor.psi(z.conj()), complex)
    except (TypeError, ValueError) as error:
        raise ValueError(f"psi must take arrays of complex numbers, got {type(error).__name__}: {error}") from None
    if values.shape != z.shape:
        raise ValueError(f"psi must return an array of the shape of z, got {values.shape} for {z.shape}")
    below = upper & (values.imag < SIGHTED * np.abs(values))
    unlike = np.abs(mirrored - values.conj()) > AGREEING * np.abs(values)
    unlike |= ~upper & (np.abs(values.imag) > AGREEING * np.abs(values))
    outside = negative & ((values.real > 0) | (values.real < -factor.total - AGREEING))
    _refuse(~np.isfinite(values), z, values, "psi must be finite off the cut")
    _refuse(below, z, values, "psi must have an imaginary part of the sign of that of z")
    _refuse(unlike, z.conj(), mirrored, "psi must be conjugate at conjugate z, and real at real z off the cut")
    _refuse(outside, z, values, f"psi must lie between zero − 1 = {-factor.total:g} and 0 for z < 0")
    first, slope = factor.above[:2] * np.array([1, factor.high])
    if abs(first) > AGREEING or abs(slope - factor.mean) > AGREEING * factor.mean:
        raise ValueError(
            f"psi(z)/z must tend to the mean {factor.mean:g} as z → 0, got psi = {first:.6g} + {slope:.6g} z"
        )
    if factor.low and abs(factor.beneath[0]) > AGREEING:
        limit = factor.beneath[0] - factor.total
        raise ValueError(f"psi must tend to zero − 1 = {-factor.total:g} as z → −∞, got {limit:.6g}")


def _refuse(where: NDArray[np.bool_], z: Complex, values: Complex, what: str) -> None:
    if where.any():
        raise ValueError(f"{what}, got {values[where][0]:.6g} at z = {z[where][0]:.6g}")


def _series(function: Callable[[Complex], Complex]) -> Array:
    """Taylor coefficients of a function that is analytic in the unit disc and real on the axis."""
    count = 2 * TERMS
    terms = np.fft.fft(function(0.5 * np.exp(2j * np.pi * np.arange(count) / count))) / count
    beyond = float(np.abs(terms[TERMS:]).max() / np.abs(terms).max())
    if not beyond < AGREEING:
        raise ValueError(
            f"psi must be analytic off the cut between the ends, got a Laurent series with {beyond:.2g} left"
        )
    return terms[:TERMS].real * 2.0 ** np.arange(TERMS)


def _polynomial(coefficients: Array, w: Complex) -> tuple[Complex, Complex]:
    """Σ c_k w^k without c_0, and its derivative."""
    total, slope = np.zeros_like(w), np.zeros_like(w)
    for k in range(len(coefficients) - 1, 0, -1):
        total, slope = (total + coefficients[k]) * w, slope * w + k * coefficients[k]
    return total, slope


def _zero_order(factor: Generated) -> float:
    """d ln u/d ln (ψ + r) as u → 0−, from where ψ + r is small, and what that changes as it grows smaller."""
    deep = np.array([-DEEP * factor.high])
    value, rest, _ = factor._sums(deep)
    if not 0 <= rest[0] < LEFT:
        limit = f"{-factor.total:g} as z → −∞, got {value[0]:.6g} at z = {1 / deep[0]:.3g}"
        raise ValueError(f"psi must tend to zero − 1 = {limit}")
    small = np.array([1e-5, 1e-6]) * factor.total
    u = factor._negative(small, factor.total - small)
    _, q, slope = factor._sums(u)
    local = q / (u * slope)
    return max(1.0, float(local[1] + (local[1] - local[0]) / 9))
