"""Residual factors I + aW and I + aB of free products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from bntheory.spectra.factors import Array, Complex, Explicit, Factor, Local

SMALL = 1e-12  # p, from which the axis below zero is reached


@dataclass(frozen=True)
class ResidualGaussian(Explicit):
    """`count` factors I + aW, W square of iid entries of variance 1/N.

    With w = [1 − a² + √((1 − a²)² + 4a²p)]/2,  h = count · ln(w (w + a²)).
    """

    a: float
    count: int = 1

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
    """`count` factors I + aB, B square and free of everything else on both sides, 1/S_B = κ Π (c + v)^k.

    With w² = v (1 + v) S_B(v)/a² and (y − v)(p − v) = w²,  h = count · ln(y p/w²)
    = −count · ln((1 − v/y)(1 − v/p)).
    """

    a: float
    terms: tuple[tuple[Fraction, int], ...]
    log_scale: float
    count: int = 1
    rows = 1

    @property
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

    def _excess(self, v: Complex) -> tuple[Complex, Complex]:
        """w²/v − 1, which vanishes at v = 0 if aB and I are equally large, and its slope."""
        exponent, slope = _log1p(v) - self._log_mean, 1 / (1 + v)
        for c, k in self.terms:
            exponent, slope = exponent - k * _log1p(v / float(c)), slope - k / (float(c) + v)
        excess = _expm1(exponent)
        return excess, (1 + excess) * slope

    def _error(self, pair: Complex, v: Complex) -> tuple[Complex, Complex]:
        """(y − v)(p − v) − w², and its slope in v."""
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
        v = ((low + high) / 2).astype(complex)[None]
        under = np.flatnonzero(p < 0)
        if len(under):  # there v has no bracket, but a neighbour
            here, last = self.start(np.array([[SMALL], [SMALL - 1]], complex)), SMALL
        for index in under[np.argsort(-p[under])]:
            for place in np.geomspace(last, -p[index], 2 + int(4 * abs(math.log(-p[index] / last))))[1:]:
                here = self.follow(np.array([[-place], [-place - 1]], complex), here)
            v[:, index], last = here[:, 0], -p[index]
        return self.follow(pair, v)

    def local(self, pair: Complex, v: Complex) -> Local:
        (p, y), inner = pair, v[0]
        error, slope = self._error(pair, inner)
        miss, rate = -error / slope, (2 * inner - y - p) / slope
        log = _log1p(-inner / y) + _log1p(-inner / p) - (1 / (y - inner) + 1 / (p - inner)) * miss
        along = (rate - inner / y) / (y - inner) + (rate - inner / p) / (p - inner)
        return Local(-self.count * log, self.count * along, miss[None], rate[None])

    def shortened(self, v: Complex, step: Complex) -> Complex:
        return v + step  # it may pass through zero

    def integral(self, pair: Complex, v: Complex) -> Array:
        y, inner = pair[1], v[0]
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
