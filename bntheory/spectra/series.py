"""Moments of laws from x(y) about y = 0: E x^k = [y^(k−1)] (y x(y))^k/k, by Lagrange's inversion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
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
    rest = [(c, order * k) for c, k in powers if c > 0]
    first = math.prod((c**k for c, k in rest), start=Fraction(1))
    sums = [sum((-1) ** j * k / c ** (j + 1) for c, k in rest) for j in range(order)]  # of g′/g
    coefficients = [first]
    for n in range(1, order):
        coefficients.append(sum(sums[j] * coefficients[n - 1 - j] for j in range(n)) / n)
    return coefficients[order - 1] / order


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
