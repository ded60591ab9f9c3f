"""Moments of laws from x(y) about y = 0: E x^k = [y^(k−1)] (y x(y))^k/k, by Lagrange's inversion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
ROUNDING = Fraction(1, 10**12)  # share of the product of a matrix's diagonal
ROOTS = np.exp(2j * np.pi * np.arange(128) / 128)  # of unity


def log_moment(powers: Iterable[tuple[Fraction, int]], order: int) -> float:
    """ln E x^k, κ apart, for x(y) = Π (c_i + y)^(k_i) with a simple pole at 0.

    With g = y x(y), Lagrange's inversion of y = g(y)/x gives E x^k = [y^(k−1)] g(y)^k/k.
    """
    value = moment(powers, order)
    return math.log(value.numerator) - math.log(value.denominator)


def moment(powers: Iterable[tuple[Fraction, int]], order: int) -> Fraction:
    """E x^k, as `log_moment`.

    >>> moment([(Fraction(0), -1), (Fraction(1), 1), (Fraction(1, 2), 2)], 3) * 4**3  # ReLU, two layers
    Fraction(33, 1)
    """
    powers = tuple(powers)
    first: Fraction = math.prod((c ** (order * k) for c, k in powers if c > 0), start=Fraction(1))
    return first * relative_moment(powers, order)


def relative_moment(powers: Iterable[tuple[Fraction, int]], order: int) -> Fraction:
    """E x^k/(E x)^k: a number of few digits, however many factors there are."""
    rest = [(c, order * k) for c, k in powers if c > 0]
    sums = [sum((-1) ** j * k / c ** (j + 1) for c, k in rest) for j in range(order)]  # of g′/g
    coefficients = [Fraction(1)]
    for n in range(1, order):
        coefficients.append(sum(sums[j] * coefficients[n - 1 - j] for j in range(n)) / n)
    return coefficients[order - 1] / order


def negative_hankel(powers: Iterable[tuple[Fraction, int]], rank: Fraction, size: int = 5) -> tuple[int, int] | None:
    """Order and size of a Hankel determinant of moments that is negative: no law on x > 0 of that mass has them.

    With m_0 = rank, det (m_{i+j+order})_{i,j < size} ≥ 0 for order 0 and 1 (Stieltjes 1894). The arithmetic is exact;
    a share of 1e-12 of the diagonal is left to the rounding of c's that are floats.

    >>> negative_hankel([(Fraction(0), -1), (Fraction(1), 1), (Fraction(2), -1)], Fraction(1))  # E x² < (E x)²
    (0, 2)
    """
    powers = tuple(powers)
    moments = [rank] + [relative_moment(powers, k) for k in range(1, 2 * size)]
    for order in (0, 1):
        for n in range(1, size + 1):
            rows = [moments[i + order : i + order + n] for i in range(n)]
            if _determinant(rows) < -ROUNDING * math.prod(rows[i][i] for i in range(n)):
                return order, n
    return None


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    """By Laplace's expansion: few rows."""
    if len(rows) == 1:
        return rows[0][0]
    minors = [[row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows))]
    return sum(((-1) ** j * rows[0][j] * _determinant(minor) for j, minor in enumerate(minors)), Fraction(0))


class Circle(NamedTuple):
    """ln(y x) on a circle about y = 0 within which it is analytic."""

    radius: float
    log_g: Complex

    def log_moment(self, order: int) -> float | None:
        """ln E x^k, or None where rounding leaves less than 12 digits: [y^(k−1)] is a mean over the circle."""
        top = self.log_g.real.max()
        mean = float(np.mean(np.exp(order * (self.log_g - top)) * ROOTS ** (1 - order)).real)
        return math.log(mean / order) + order * top - (order - 1) * math.log(self.radius) if mean > 1e-4 else None


def circle(log_x: Callable[[Complex], Complex]) -> Circle | None:
    """The largest circle, of radii halved, on which the Fourier series of y x has ended; None if there is none."""
    radius = 0.5
    while radius > 1e-9:
        log_g = log_x(radius * ROOTS) + np.log(radius * ROOTS)
        terms = np.abs(np.fft.fft(np.exp(log_g - log_g[0])))
        if terms[len(ROOTS) // 2 :].max() < 1e-13 * terms[0]:
            return Circle(radius, log_g)
        radius /= 2
    return None
