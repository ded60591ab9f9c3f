"""Moments of laws from the series of their S-transforms, exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction


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
