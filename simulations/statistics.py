"""Estimates with their errors, and the tolerances of statistical tests.

A tolerance is what a correct program exceeds with a stated probability, the false-alarm rate; tests with fixed seeds
use a small one, so that a failure means an error and not bad luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bntheory import arguments

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A sample mean and its standard error, arrays of one shape."""

    mean: Floats
    standard_error: Floats


def mean_with_error(samples: ArrayLike, axis: int = 0) -> Estimate:
    """Return the mean of independent samples and its standard error, s/√n with s² = Σ (x − mean)²/(n − 1).

    Parameters
    ----------
    samples : array_like
        At least two samples along `axis`, finite.
    axis : int

    Returns
    -------
    Estimate
        mean and standard_error, of the shape of `samples` without that axis.

    Raises
    ------
    ValueError
        If there are fewer than two samples, or one is not finite.

    Examples
    --------
    >>> mean, error = mean_with_error([1.0, 2.0, 3.0])
    >>> float(mean), float(error.round(6))
    (2.0, 0.57735)
    """
    samples = np.asarray(samples, dtype=float)
    count = samples.shape[axis] if samples.ndim else 1
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 samples, got {count}")
    if not np.isfinite(samples).all():
        raise ValueError(f"samples must be finite, got {samples[~np.isfinite(samples)][0]}")
    return Estimate(samples.mean(axis=axis), samples.std(axis=axis, ddof=1) / math.sqrt(count))


def tolerance(
    standard_error: ArrayLike, false_alarm: float, comparisons: int = 1, degrees_of_freedom: float = math.inf
) -> Floats:
    """Return the deviation that a mean exceeds, in absolute value, with probability `false_alarm`.

    −t⁻¹(false_alarm / 2 / comparisons) · standard_error, with t⁻¹ the quantile function of Student's law: exact for
    Gaussian samples and a standard error estimated from degrees_of_freedom + 1 of them, asymptotic for others.

    Parameters
    ----------
    standard_error : array_like
    false_alarm : float
        In (0, 1).
    comparisons : int
        Deviations compared: `false_alarm` is the probability that any of them exceeds (Bonferroni's bound).
    degrees_of_freedom : float
        n − 1 for a standard error from n samples; infinite: a known standard error.

    Returns
    -------
    ndarray
        Of the shape of `standard_error`.

    Raises
    ------
    ValueError
        If `false_alarm` is not between 0 and 1, or there are no comparisons or degrees of freedom.

    Examples
    --------
    >>> float(tolerance(1.0, 0.05).round(4)), float(tolerance(1.0, 0.05, degrees_of_freedom=4).round(4))
    (1.96, 2.7764)
    """
    tail = _probability("false_alarm", false_alarm) / 2 / arguments.integer("comparisons", comparisons)
    if not degrees_of_freedom > 0:
        raise ValueError(f"degrees_of_freedom must be above 0, got {degrees_of_freedom}")
    quantile = special.ndtri(tail) if math.isinf(degrees_of_freedom) else special.stdtrit(degrees_of_freedom, tail)
    return -quantile * np.asarray(standard_error, dtype=float)


def kolmogorov_distance(samples: ArrayLike, cdf: Callable[[Floats], ArrayLike]) -> float:
    """Return sup_x |F_n(x) − F(x)|, F_n the samples' empirical distribution function.

    F_n is constant between samples, so the supremum is reached at a sample or just below one; both sides are evaluated,
    with F(x−) at the next float below x. Exact with ties and atoms, those of F between samples included.

    Parameters
    ----------
    samples : array_like
        Any shape, flattened; infinite values allowed (an atom of F at −inf is cdf(−inf)).
    cdf : callable
        F, right-continuous, on an array.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If there are no samples, a sample is NaN, or the cdf leaves [0, 1] or returns another shape.

    Notes
    -----
    Singular values of one matrix repel one another: their distance to the law is far below `kolmogorov_tolerance`.

    Examples
    --------
    >>> kolmogorov_distance([0.25, 0.75], lambda x: np.clip(x, 0, 1))
    0.25
    """
    samples = np.asarray(samples, dtype=float).ravel()
    if not samples.size or np.isnan(samples).any():
        raise ValueError(f"samples must be at least one and not NaN, got {samples.size}, {np.isnan(samples).sum()} NaN")
    values, counts = np.unique(samples, return_counts=True)
    at, below = _distribution(cdf, values), _distribution(cdf, np.nextafter(values, -np.inf))
    below[values == -np.inf] = 0.0
    empirical = np.cumsum(counts) / samples.size
    before = np.concatenate([[0.0], empirical[:-1]])
    return float(max(np.abs(empirical - at).max(), np.abs(before - below).max()))


def kolmogorov_tolerance(count: int, false_alarm: float) -> float:
    """Return the Kolmogorov distance that independent samples of the law itself exceed with at most `false_alarm`.

    Twice the one-sided tail, which is known exactly (Birnbaum, Tingey 1951), bounds the two-sided one: the
    Dvoretzky–Kiefer–Wolfowitz argument without its inequality, so sharper than √(ln(2/false_alarm)/2n).

    Parameters
    ----------
    count : int
        Number of samples, at least 1.
    false_alarm : float
        In (0, 1).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> round(kolmogorov_tolerance(1000, 1e-6), 4)  # Massart's constant gives 0.0852
    0.0849
    """
    tail = _probability("false_alarm", false_alarm) / 2
    return float(special.smirnovi(arguments.integer("count", count), tail))


def binomial_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper–Pearson interval of a probability: it covers with at least that confidence.

    Parameters
    ----------
    successes, trials : int
        0 ≤ successes ≤ trials.
    confidence : float
        In (0, 1); 1 − confidence is the false-alarm rate of a test against the interval.

    Returns
    -------
    (float, float)

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    Clopper, Pearson 1934.

    Examples
    --------
    >>> [round(end, 4) for end in binomial_interval(95, 100, 0.95)]
    [0.8872, 0.9836]
    """
    trials = arguments.integer("trials", trials)
    successes = arguments.integer("successes", successes, at_least=0)
    if successes > trials:
        raise ValueError(f"successes must be at most trials = {trials}, got {successes}")
    tail = (1 - _probability("confidence", confidence)) / 2
    failures = trials - successes
    lower = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    upper = special.betainccinv(successes + 1, failures, tail) if failures else 1.0
    return float(lower), float(upper)


def _distribution(cdf: Callable[[Floats], ArrayLike], values: Floats) -> Floats:
    result = np.array(cdf(values), dtype=float)
    if result.shape != values.shape:
        raise ValueError(f"the cdf must return an array of the shape it is given, {values.shape}, got {result.shape}")
    if not ((result >= 0) & (result <= 1)).all():
        raise ValueError(f"the cdf must lie in [0, 1], got {result[~((result >= 0) & (result <= 1))][0]}")
    return result


def _probability(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)
