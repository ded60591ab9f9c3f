"""Edges of a law's support: p in powers of the root of the distance of ln x from the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bntheory.spectra.factors import Array, Complex

TERMS = 32  # of the series, used where the next is below 3^-TERMS


class Edge(NamedTuple):
    """A soft edge: ln x there, Taylor coefficients a_n of ln x − ln x_edge in p − p_edge, and how far they reach.

    The linear term is zero by definition, so that relative accuracy holds up to the edge.
    """

    log_x: float
    series: Array
    reach: float  # in |ln x − ln x_edge|

    def within(self, depth: Array) -> tuple[Array, Array]:
        """Im p, and ∫ Im p d ln x/π from the edge, at this distance of ln x from it."""
        sign = -1 if self.series[2] > 0 else 1  # the upper edge is a minimum of x(p), the lower a maximum
        w = _root(self.series, sign * depth)
        n = np.arange(TERMS)
        series = np.concatenate([[0.0], n / (n + 1) * self.series])
        return w.imag, np.abs(_polynomial(series, w).imag) / np.pi


class InfiniteEdge(NamedTuple):
    """An edge where y and the density are infinite: the same with the Taylor series in 1/y."""

    log_x: float
    series: Array
    reach: float

    def within(self, depth: Array) -> tuple[Array, Array]:
        """As for `Edge`."""
        w = _root(self.series, (-1 if self.series[2] > 0 else 1) * depth).conj()
        n = np.arange(2, TERMS)
        series = np.concatenate([[0.0], n / (n - 1) * self.series[2:]])
        return (1 / w).imag, np.abs(_polynomial(series, w).imag) / np.pi


def _root(series: Array, value: Array) -> Complex:
    """w in the upper half-plane with Σ a_n w^n = value, a small number of the sign opposite to a_2."""
    w = 1j * np.sqrt(np.abs(value / series[2]))
    slopes = np.arange(1, TERMS) * series[1:]
    for _ in range(8):
        w = w - (_polynomial(series, w) - value) / _polynomial(slopes, w)
    return w


def _polynomial(coefficients: Array, w: Complex) -> Complex:
    total = np.zeros_like(w)
    for value in coefficients[::-1]:
        total = total * w + value
    return total


def taylor(slope: Callable[[Complex], Complex], radius: float) -> tuple[Array, float]:
    """Coefficients of a function from its slope on a circle that they converge well on; how far they reach."""
    angles = np.exp(2j * np.pi * np.arange(4 * TERMS) / (4 * TERMS))
    for _ in range(40):
        a = np.fft.fft(slope(radius * angles))[:TERMS].real / len(angles)  # of the slope, times radius^n
        a = np.concatenate([[0.0, 0.0], a[1:-1] / np.arange(2, TERMS)])
        if np.max(np.abs(a[TERMS // 2 :])) < 1e-4 * abs(a[2]):
            break
        radius /= 2
    series = a / radius ** (np.arange(TERMS) - 1.0)
    return series, float(abs(series[2]) * (radius / 3) ** 2)
