"""Checks of a figure: what was expected, what came out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Check(NamedTuple):
    """One comparison behind a figure.

    Attributes
    ----------
    what : str
        Quantity, with the allowance in words where it is not plain.
    expected : str
        What is allowed, as the report prints it.
    got : float
    passed : bool
    """

    what: str
    expected: str
    got: float
    passed: bool


def between(what: str, got: float, low: float, high: float) -> Check:
    """Check low ≤ got ≤ high; NaN fails.

    >>> between("share inside", 0.92, 0.85, 0.95).expected
    '0.85 … 0.95'
    """
    return Check(what, f"{low:.3g} … {high:.3g}", float(got), bool(low <= got <= high))


def near(what: str, got: float, expected: float, tolerance: float) -> Check:
    """Check |got − expected| ≤ tolerance; NaN fails.

    >>> near("edge", 2.004, 2.0, 0.005)
    Check(what='edge', expected='2.0000 ± 0.0050', got=2.004, passed=True)
    """
    digits = max(0, 1 - math.floor(math.log10(tolerance))) if tolerance > 0 and math.isfinite(tolerance) else 3
    return Check(
        what, f"{expected:.{digits}f} ± {tolerance:.{digits}f}", float(got), bool(abs(got - expected) <= tolerance)
    )


def near_mean(what: str, drawn: np.ndarray, theory: float, beside: float, false_alarm: float) -> Check:
    """Check the mean of draws: off by `beside` at most, and what chance exceeds in a share `false_alarm` of cases.

    >>> near_mean("mean", np.array([0.9, 1.0, 1.1, 1.0]), 1.0, 0.0, 0.05).expected
    '1.00 ± 0.13'
    """
    from simulations.statistics import mean_with_error, tolerance

    mean, error = mean_with_error(drawn)
    allowed = float(tolerance(error, false_alarm, degrees_of_freedom=len(drawn) - 1)) + beside
    return near(what, float(mean), float(theory), allowed)


def covered(what: str, inside: np.ndarray, level: float, false_alarm: float) -> Check:
    """Check that so many are inside as a probability of `level` gives, all but a `false_alarm` of the times.

    >>> covered("share inside", np.arange(10) < 10, 0.9, 1e-4).expected
    '0.4 … 1'
    """
    from scipy.stats import binom

    low, high = np.array(binom.interval(1 - false_alarm, len(inside), level)) / len(inside)
    return between(what, float(np.mean(inside)), low, high)


def at_most(what: str, got: float, limit: float) -> Check:
    """Check got ≤ limit; NaN fails.

    >>> at_most("distance", 0.2, 0.1).passed
    False
    """
    return Check(what, f"≤ {limit:.3g}", float(got), bool(got <= limit))


def at_least(what: str, got: float, limit: float) -> Check:
    """Check got ≥ limit; NaN fails.

    >>> at_least("share", 0.97, 0.95).expected
    '≥ 0.95'
    """
    return Check(what, f"≥ {limit:.3g}", float(got), bool(got >= limit))
