"""Residual factors I + aW and I + aB of free products."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from scipy import optimize

from bntheory.spectra.factors import Array, Complex, Explicit, Factor, Local
from bntheory.spectra.inverted import Inverted

SMALL = 1e-12  # p, from which the axis below zero is reached
EQUAL, NEARLY = 1e-14, 1e-5  # |ln| of the mean square of aB
RESOLUTION = 1e-10  # p
SETTLED = 1e-9  # share of the lowest p
WEAKEST = 0.5e-8  # size of aB, below which what it does is lost in the rounding of I
STRONGEST, STRONGEST_GAUSSIAN = 30.0, 1e50  # above which its variables part so far that the curve is lost
FAR = np.logspace(-18, 9, 540)  # of v, among which p turns
BRACKETED, NARROW = 128, 1e-8  # steps of a bracket at most, and the last of them beside v, y − v and p − v


@dataclass(frozen=True)
class ResidualGaussian(Explicit):
    """`count` factors I + aW, W square of iid entries of variance 1/N.

    With w = [1 − a² + √((1 − a²)² + 4a²p)]/2,  h = count · ln(w (w + a²)).
    """

    a: float
    count: int = 1

    def refusal(self) -> str:
        """Say why there is no law of it, or nothing."""
        return _too_unlike(self.a, STRONGEST_GAUSSIAN)

    @property
    def order(self) -> float:
        return self.count * (0.0 if self.a < 1 else 0.5 if self.a == 1 else 1.0)

    @property
    def degree(self) -> float:
        return float(self.count)

    @property
    def lowest(self) -> float:
        return -((1 - self.a**2) ** 2) / (4 * self.a**2)

    def values(self, pair: Complex) -> tuple[Complex, Complex]:
        square = self.a**2
        root = np.sqrt((1 - square) ** 2 + 4 * square * pair[0])  # 2w + a² − 1
        w = ((1 - square) + root) / 2 if square <= 1 else 2 * square * pair[0] / (root + square - 1)
        slope = square / root * (1 / w + 1 / (w + square))
        return self.count * (np.log(w) + np.log(w + square)), self.count * slope

    def integral(self, pair: Complex, v: Complex) -> Array:
        """w²/b + (1 − 2/b) w + ln(b + w), b = a², less its value at p = 0."""
        b = self.a**2
        first, root = max(1 - b, 0.0), np.sqrt((1 - b) ** 2 + 4 * b * pair[0])
        moved = 2 * b * pair[0] / (root + abs(1 - b))  # w − first
        whole = moved * (moved + 2 * first) / b + (1 - 2 / b) * moved
        return self.count * (whole.imag + np.angle(1 + moved / (b + first)))


@dataclass(frozen=True)
class ResidualBranch(Factor):
    """`count` factors I + aB, B square and free of everything else on both sides, 1/S_B = κ Π (c + v)^k Π u_i.

    With w² = v (1 + v) S_B(v)/a² and (y − v)(p − v) = w²,  h = count · ln(y p/w²)
    = −count · ln((1 − v/y)(1 − v/p)).

    Parameters
    ----------
    a : float
    terms : sequence of (c, k)
    log_scale : float
        ln κ.
    inner : sequence of (factor, size)
        Slopes inside the branch with their u, whose terms are among the others: as `Inverted` factors of rank 1 in
        units of themselves, and the number of their nonzero values over the dimension of B.
    """

    a: float
    terms: tuple[tuple[Fraction, int], ...]
    log_scale: float
    count: int = 1
    inner: tuple[tuple[Inverted, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", 1 + len(self.inner))
        if self.inner and self.critical:  # v is of the order of √p, and w²/v − 1 known to rounding
            object.__setattr__(self, "resolution", RESOLUTION)
        if any(factor.coarse for factor, _ in self.inner):
            coarse = tuple(
                (factor.coarse.smoothed().shared(factor.share) if factor.coarse else factor, size)
                for factor, size in self.inner
            )
            object.__setattr__(self, "coarse", replace(self, inner=coarse))

    @property
    def _log_mean(self) -> float:
        """ln of the mean square of aB, over which I does not prevail at small x."""
        inner = sum(factor.count * math.log(_first(factor, size)) for factor, size in self.inner)
        return 2 * math.log(self.a) + self.log_scale + inner + sum(k * math.log(c) for c, k in self.terms if c)

    @property
    def critical(self) -> bool:
        """Whether aB and I are equally large at small x."""
        return abs(self._log_mean) < EQUAL

    def refusal(self) -> str:
        """Say why there is no law of it, or nothing; of two that are nearly equal a lower edge is lost in rounding."""
        if self.inner and EQUAL <= abs(self._log_mean) < NEARLY:
            return "its branch weighs as much as the identity but for less than 1e-5: another scale has a law"
        return _too_unlike(math.exp(self._log_mean / 2), STRONGEST)

    @property
    def order(self) -> float:
        if self.critical:
            return self.count / 2
        return float(self.count) if self._log_mean > 0 else 0.0

    @property
    def degree(self) -> float:
        return float(self.count * sum(k for _, k in self.terms))

    def _inside(self, v: Complex, own: Complex) -> list[Local]:
        """The slopes of the branch about v and their u."""
        return [factor.local(_units(v, size), u[None]) for (factor, size), u in zip(self.inner, own, strict=True)]

    def _excess(self, v: Complex, own: Complex) -> tuple[Complex, Complex]:
        """w²/v − 1, which vanishes at v = 0 if aB and I are equally large, and its slope."""
        exponent, slope = _log1p(v) - self._log_mean, 1 / (1 + v)
        for c, k in self.terms:
            if c:
                exponent, slope = exponent - k * _log1p(v / float(c)), slope - k / (float(c) + v)
        for (factor, size), u, local in zip(self.inner, own, self._inside(v, own), strict=True):
            near = local.log - factor.count * np.log(u)  # what the last step adds
            exponent = exponent - factor.count * np.log(u * v / _first(factor, size)) - near
            slope = slope - local.slope / size - factor.count / v
        excess = _expm1(exponent)
        return excess, (1 + excess) * slope

    def _error(self, pair: Complex, v: Complex, own: Complex) -> tuple[Complex, Complex]:
        """(y − v)(p − v) − w², and its slope in v."""
        p, y = pair
        excess, slope = self._excess(v, own)
        near, far = y * p + v * (v - 2 * p - excess), (y - v) * (p - v) - v * (1 + excess)
        return np.where(np.abs(v) < 1, near, far), 2 * v - 2 * p - excess - v * slope

    def _own(self, v: Complex) -> Complex:
        """u of the slopes at real v."""
        rows = [factor.start(_units(v, size)) for factor, size in self.inner]
        return np.concatenate([np.empty((0, len(v)), complex), *rows])

    def _falls(self, v: Array) -> tuple[Array, Array]:
        """p = v + [1 − √(1 + 4w²)]/2 at v > 0, where I prevails, and its slope."""
        inner = v.astype(complex)
        excess, slope = (part.real for part in self._excess(inner, self._own(inner)))
        root = np.sqrt(1 + 4 * v * (1 + excess))
        return v - 2 * v * (1 + excess) / (1 + root), 1 - (1 + excess + v * slope) / root

    @cached_property
    def _fold(self) -> tuple[float, float]:
        """v and p where, from v = p = 0 on, p is lowest: two branches of v meet."""
        rising = np.flatnonzero(self._falls(FAR)[1] >= 0)
        if self.order or not len(rising):
            return float(FAR[-1]), -math.inf
        low, high = FAR[rising[0] - 1], FAR[rising[0]]
        v = optimize.brentq(lambda v: float(self._falls(np.array([v]))[1][0]), low, high, xtol=1e-300, rtol=1e-14)
        return float(v), float(self._falls(np.array([v]))[0][0])

    @property
    def lowest(self) -> float:
        return self._fold[1]

    def start(self, pair: Complex) -> Complex:
        p, y = pair.real
        if math.isfinite(self.lowest) and (p < self.lowest).any():  # beyond, v is not real: the last that is
            p = np.maximum(p, self.lowest * (1 - SETTLED))
            y = np.where(p == pair[0].real, y, p - 1)
        under, weak = p < 0, self.order == 0
        pole = -min([float(c) for c, _ in self.terms if c] + [size for _, size in self.inner])
        low, high = np.where((y > 0) | under, 0, np.maximum(y, pole)), np.where(y > 0, y, 0.0)
        v = self._bracketed(p, y, low, np.where(under, self._fold[0], high)).astype(complex)
        found = np.concatenate([v[None], self._own(v)])
        beyond = np.flatnonzero(under) if not weak else np.empty(0, int)
        if len(beyond):  # there v has no bracket, but a neighbour
            here, last = self.start(np.array([[SMALL], [SMALL - 1]], complex)), SMALL
        for index in beyond[np.argsort(-p[beyond])]:
            for place in np.geomspace(last, -p[index], 2 + int(4 * abs(math.log(-p[index] / last))))[1:]:
                here = self.follow(np.array([[-place], [-place - 1]], complex), here)
            found[:, index], last = here[:, 0], -p[index]
        return found

    def _bracketed(self, p: Array, y: Array, low: Array, high: Array) -> Array:
        """v at real p and y between two places, above the first of which (y − v)(p − v) > w²."""
        v, done = (low + high) / 2, np.zeros(len(p), dtype=bool)
        for step in range(BRACKETED):
            inner = v.astype(complex)
            error, slope = (part.real for part in self._error(np.array([p, y]), inner, self._own(inner)))
            low, high = np.where(error > 0, v, low), np.where(error > 0, high, v)
            newton = v - error / slope
            inside = (newton > low) & (newton < high) & (step % 4 < 3)
            room = np.minimum(np.abs(v), np.minimum(np.abs(y - v), np.abs(p - v)))
            close = np.abs(newton - v) <= np.maximum(NARROW * room, 4e-16 * np.abs(v))
            v = np.where(done, v, np.where(inside | close, newton, (low + high) / 2))
            done |= close
            if np.all(done):
                break
        return v

    def local(self, pair: Complex, v: Complex) -> Local:
        (p, y), inner, own = pair, v[0], v[1:]
        error, slope = self._error(pair, inner, own)
        miss, rate = -error / slope, (2 * inner - y - p) / slope
        log = _log1p(-inner / y) + _log1p(-inner / p) - (1 / (y - inner) + 1 / (p - inner)) * miss
        along = (rate - inner / y) / (y - inner) + (rate - inner / p) / (p - inner)
        misses, rates = [miss], [rate]
        for (_, size), local in zip(self.inner, self._inside(inner, own), strict=True):
            misses.append(local.miss[0] + local.rate[0] / size * miss)
            rates.append(local.rate[0] / size * rate)
        return Local(-self.count * log, self.count * along, np.array(misses), np.array(rates))

    def moved(self, v: Complex, step: Complex) -> Complex:
        return self.shortened(v, step)  # v and u may cross the real axis below zero

    def shortened(self, v: Complex, step: Complex) -> Complex:
        own = [factor.shortened(u, du) for (factor, _), u, du in zip(self.inner, v[1:], step[1:], strict=True)]
        return np.array([v[0] + step[0], *own])  # v may pass through zero

    def integral(self, pair: Complex, v: Complex) -> Array:
        y, inner = pair[1], v[0]
        total = np.angle(-y) - np.angle(inner - y) + np.angle(1 + inner)
        for c, k in self.terms:
            total += k * (inner.imag - float(c) * np.angle(float(c) + inner))
        for (factor, size), u in zip(self.inner, v[1:], strict=True):
            whole = factor.integral(_units(inner, size), u[None])
            total += size * (whole - factor.count * np.angle(-u))
        return self.count * total


def _too_unlike(size: float, strongest: float) -> str:
    """Say so where aB is of another order of magnitude than I."""
    if WEAKEST <= size <= strongest:
        return ""
    return f"its branch weighs {size:.3g} times the identity: one of {2 * WEAKEST:g} to {strongest:g} has a law"


def _first(factor: Inverted, size: float) -> float:
    """lim u v as v → 0."""
    return factor._mean * size / factor.share


def _units(v: Complex, size: float) -> Complex:
    """p and y of a factor of that size."""
    return np.array([1 + v / size, v / size])


def _log1p(z: Complex) -> Complex:
    """ln(1 + z), its real part as accurate as z for small z."""
    small = np.abs(z) < 0.5
    change = np.where(small, 2 * z.real + z.real**2 + z.imag**2, 0)
    return np.where(small, np.log1p(change) / 2, np.log(np.abs(1 + z))) + 1j * np.angle(1 + z)


def _expm1(z: Complex) -> Complex:
    """e^z − 1 likewise."""
    size, half = np.expm1(z.real), np.sin(z.imag / 2)
    return size - 2 * (1 + size) * half**2 + 1j * (1 + size) * np.sin(z.imag)
