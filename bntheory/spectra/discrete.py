"""Laws of finitely many values, and laws of a density made so: factors of products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.law import DIGITS, Array, SpectralLaw
from bntheory.spectra.s_transform import Part, STransformLaw

POINTS = 200  # of the rule on one stretch of a density


@dataclass(frozen=True)
class DiscreteLaw(SpectralLaw):
    """Law of a squared singular value that takes finitely many values.

    Parameters
    ----------
    values : sequence of float
        At least 0, finite, all different.
    weights : sequence of float
        Their probabilities, positive; divided by their sum, which must be 1 to 1e-9.

    Raises
    ------
    ValueError
        If values and weights are not that.

    Examples
    --------
    >>> law = DiscreteLaw([1.0, 0.01], [0.5, 0.5])  # φ′² of a leaky ReLU of slope 0.1
    >>> law.mean, law.cdf([0.005, 0.5, 2.0])
    (0.505, array([0. , 0.5, 1. ]))
    >>> from bntheory import FussCatalan
    >>> (law @ FussCatalan(1)).mean
    0.505
    >>> (DiscreteLaw([1.0, 2.0], [0.75, 0.25]) ** 2).atoms  # where the masses of two values exceed 1
    ((1.0, 0.5),)
    """

    values: Sequence[float]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        values, weights = (_numbers(name, getattr(self, name)) for name in ("values", "weights"))
        if len(values) != len(weights) or not len(values):
            raise ValueError(f"as many weights as values are needed, got {len(weights)} and {len(values)}")
        if values.min() < 0 or len(np.unique(values)) < len(values):
            raise ValueError(f"values must be at least 0 and all different, got {values.tolist()!r:.80}")
        if weights.min() <= 0 or abs(weights.sum() - 1) > 1e-9:
            raise ValueError(f"weights must be positive and add up to 1, got {weights.tolist()!r:.80}")
        order = np.argsort(values)
        object.__setattr__(self, "values", tuple(values[order].tolist()))
        object.__setattr__(self, "weights", tuple((weights[order] / weights.sum()).tolist()))

    _mass = 0.0

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """The values and their probabilities."""
        return tuple(zip(self.values, self.weights, strict=True))

    def _log_support(self) -> tuple[Decimal, Decimal]:
        with localcontext() as context:
            context.prec = DIGITS
            low, high = (Decimal(value).ln() for value in (self.values[0], self.values[-1]))
            return low, high

    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        return np.full_like(depth, -np.inf), np.full_like(depth, -np.inf), np.zeros_like(depth)

    def _depth(self, below: Array, above: Array) -> Array:
        return np.zeros_like(below)

    def s_transform(self) -> STransformLaw:
        """The law as a factor: u, with y = E λ/(u − λ)."""
        values, weights = np.array(self.values), np.array(self.weights)
        alive = values > 0
        if not alive.any():
            raise ValueError("a law that is 0 has no S-transform")
        values, weights = values[alive], weights[alive]
        if len(values) == 1:  # a projection: u = λ (w + y)/y
            share = Fraction(float(weights[0])).limit_denominator(10**12)
            return STransformLaw([(0, -1), (share, 1)], math.log(values[0]))
        return STransformLaw((), 0.0, (Part(Diagonal(values, weights)),))


def _numbers(name: str, given: Any) -> Array:
    try:
        numbers = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {given!r:.80}") from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be a list of finite numbers, got {given!r:.80}")
    return numbers
