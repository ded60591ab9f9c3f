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
from scipy.spatial.distance import cdist

from bntheory import arguments

Floats = NDArray[np.float64]
MOST_VECTORS = 10_000  # of an energy test: their distances take 800 MB
VALUES_AT_ONCE = 2**20  # of permuted weights in an energy test: 8 MB


class Estimate(NamedTuple):
    """A sample mean and its standard error, arrays of one shape."""

    mean: Floats
    standard_error: Floats


class QuantileInterval(NamedTuple):
    """A sample quantile and the ends of its confidence interval, arrays of one shape."""

    quantile: Floats
    lower: Floats
    upper: Floats


class EnergyTest(NamedTuple):
    """Energy distance of two samples and the p-value of the hypothesis that they have one law."""

    distance: float
    p_value: float


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


def quantile_with_interval(
    samples: ArrayLike, probability: ArrayLike, confidence: float, axis: int = 0
) -> QuantileInterval:
    """Return sample quantiles and confidence intervals [X_(j), X_(k)] that hold for every law of the samples.

    With K ~ Binomial(n, p), j is the largest rank with P(K < j) ≤ (1 − confidence)/2 and k the smallest with
    P(K ≥ k) ≤ (1 − confidence)/2: each end alone fails with at most that probability, ties and atoms included,
    whichever x_p with P(X < x_p) ≤ p ≤ P(X ≤ x_p) is meant. X_(0) = −∞, X_(n+1) = ∞: too few samples leave an end open.

    Parameters
    ----------
    samples : array_like
        Independent along `axis`, at least one; −∞ and ∞ allowed.
    probability : array_like
        p in (0, 1), one or several.
    confidence : float
        In (0, 1), of each interval by itself.
    axis : int

    Returns
    -------
    QuantileInterval
        quantile (the smallest sample with at least p · n samples up to it), lower and upper, of the shape of
        `probability` followed by that of `samples` without the axis. The quantile lies in its interval.

    Raises
    ------
    ValueError
        If there are no samples, one is NaN, or a probability or the confidence is not between 0 and 1.

    References
    ----------
    David, Nagaraja, Order Statistics (2003), section 7.1.

    Examples
    --------
    >>> median = quantile_with_interval(range(1, 101), 0.5, 0.95)
    >>> [float(value) for value in median]
    [50.0, 40.0, 61.0]
    >>> quantile_with_interval(range(1, 101), [0.01, 0.5], 0.95).lower
    array([-inf,  40.])
    """
    samples = _valid(samples, "samples", axis)
    tail = (1 - _probability("confidence", confidence)) / 2
    count, levels = len(samples), np.asarray(probability, dtype=float)
    ends = [_ranks(count, _probability("probability", level), tail) for level in levels.ravel()]
    lower, upper = np.moveaxis(np.reshape(ends, (*levels.shape, 2)).astype(int), -1, 0)
    # k/n against p, not k against p · n: both sides are then the same float if p was meant to be k/n
    middle = 1 + np.searchsorted(np.arange(1, count + 1) / count, levels)
    pad = [(1, 1)] + [(0, 0)] * (samples.ndim - 1)
    ordered = np.pad(np.sort(samples, axis=0), pad, constant_values=np.inf)
    ordered[0] = -np.inf
    return QuantileInterval(ordered[middle], ordered[lower], ordered[upper])


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
    samples = _valid(np.ravel(samples), "samples")
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


def two_sample_distance(one: ArrayLike, other: ArrayLike) -> float:
    """Return sup_x |F_m(x) − G_n(x)|, F_m and G_n the empirical distribution functions of two samples.

    A quotient of integers by m · n, so that comparing it with `two_sample_tolerance` is exact.

    Parameters
    ----------
    one, other : array_like
        Any shapes, flattened; ties and infinite values allowed.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If a sample is empty or has a NaN.

    Examples
    --------
    >>> two_sample_distance([-np.inf, 0, 1, 2], [0, 1])
    0.25
    """
    one, other = np.sort(_valid(np.ravel(one), "one")), np.sort(_valid(np.ravel(other), "other"))
    values = np.concatenate([one, other])
    below_one, below_other = (np.searchsorted(sample, values, side="right") for sample in (one, other))
    return int(np.abs(below_one * other.size - below_other * one.size).max()) / (one.size * other.size)


def two_sample_tolerance(count: int, other_count: int, false_alarm: float) -> float:
    """Return the distance that two independent samples of one law exceed with at most `false_alarm`.

    The probability is summed over the lattice paths that leave the band |i/m − j/n| ≤ distance (Hodges 1958): exact for
    continuous laws, a bound with atoms, without asymptotics. Nothing exceeds 1, the answer for samples too small.

    Parameters
    ----------
    count, other_count : int
        m and n, at least 1.
    false_alarm : float
        In (0, 1).

    Returns
    -------
    float
        The smallest such distance, or at most a thousandth of it more.

    Raises
    ------
    ValueError
        If a value is out of range.

    Notes
    -----
    √(ln(2/false_alarm)(m + n)/2mn) is a little more, but proven for large m = n only (Wei, Dudley 2012). Two samples of
    1000 take a quarter of a second, of 5000 one or two.

    Examples
    --------
    >>> two_sample_tolerance(100, 100, 0.01)
    0.22
    >>> two_sample_tolerance(3, 4, 0.01)
    1.0
    """
    m, n = arguments.integer("count", count), arguments.integer("other_count", other_count)
    step = math.gcd(m, n)  # distances are multiples of step/mn
    low, high = 0, m * n // step
    limit = math.sqrt(math.log(2 / _probability("false_alarm", false_alarm)) / 2 * (m + n) * m * n) / step
    probes = [0.95 * limit, limit]
    while high - low > 1 + high // 1000:
        probe = probes.pop() if probes else (low + high) / 2
        probe = min(max(int(probe), low + 1), high - 1)
        low, high = (low, probe) if _leaving(m, n, step * probe) <= false_alarm else (probe, high)
    return step * high / (m * n)


def energy_test(one: ArrayLike, other: ArrayLike, rng: np.random.Generator, permutations: int = 999) -> EnergyTest:
    """Test whether two samples of vectors have one joint law, by their energy distance and random permutations.

    2 E|X − Y| − E|X − X′| − E|Y − Y′| over the samples, X and Y replaced by their columns' mid-ranks in the pooled
    sample divided by m + n: scales do not matter, −∞ is one more value, a constant column adds nothing. If r of the
    random splits are at least as far apart, p = (1 + r)/(1 + permutations), and P(p ≤ level) ≤ level whatever the law.

    Parameters
    ----------
    one, other : array_like, shape (m, k) and (n, k), or (m,) and (n,)
        Independent rows, at most 10,000 together; −∞ and ∞ allowed.
    rng : numpy.random.Generator
    permutations : int
        At least 1. No p is below 1/(1 + permutations): a false-alarm rate of 1e-4 needs 9999.

    Returns
    -------
    EnergyTest
        distance (of the ranks) and p_value.

    Raises
    ------
    ValueError
        If the samples are empty, too many, of different widths or with a NaN, or `rng` is not a Generator.

    Notes
    -----
    Takes 8 (m + n)² bytes, and 2 (m + n)² · permutations operations of one matrix product: seconds for 2000 + 2000.

    References
    ----------
    Székely, Rizzo 2004, Testing for equal distributions in high dimension.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one, other = rng.standard_normal((2, 200, 2))
    >>> other[:, 1] = other[:, 0] + 0.1 * other[:, 1]  # normal margins again, but dependent
    >>> energy_test(one, other, rng).p_value
    0.001
    """
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, got {rng!r}: use numpy.random.default_rng(seed)")
    permutations = arguments.integer("permutations", permutations)
    one, other = _vectors(one, "one"), _vectors(other, "other")
    total = len(one) + len(other)
    if one.shape[1] != other.shape[1] or total > MOST_VECTORS:
        raise ValueError(
            f"one and other must have as many columns and at most {MOST_VECTORS:,} rows together, "
            f"got shapes {one.shape} and {other.shape}"
        )
    ranks = _mid_ranks(np.concatenate([one, other])) / total
    distances = cdist(ranks, ranks)
    split = np.repeat([1 / len(one), -1 / len(other)], [len(one), len(other)])
    observed = -split @ distances @ split
    slack = 1e-10 * distances.max()  # a split equal to the observed one up to rounding counts as equal
    farther, block = 0, max(1, VALUES_AT_ONCE // total)
    for done in range(0, permutations, block):
        splits = rng.permuted(np.tile(split, (min(block, permutations - done), 1)), axis=1)
        farther += int((-np.einsum("ij,ij->i", splits @ distances, splits) >= observed - slack).sum())
    return EnergyTest(max(0.0, float(observed)), (1 + farther) / (1 + permutations))


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


def _ranks(count: int, probability: float, tail: float) -> tuple[int, int]:
    """Ranks j, k of the order statistics around a quantile; 0 and count + 1 are open ends."""
    counts = np.arange(count)
    lower = np.count_nonzero(special.bdtr(counts, count, probability) <= tail)
    upper = 1 + np.count_nonzero(special.bdtrc(counts, count, probability) > tail)
    return int(lower), int(upper)


def _leaving(m: int, n: int, excess: int) -> float:
    """Probability that |i n − j m| > excess at some point of a uniform lattice path (i, j) from (0, 0) to (m, n).

    Only positive terms are added, so that small probabilities keep their relative precision.
    """
    total, steps = m + n, np.arange(m + n + 1)
    lows = np.maximum(0, -((excess - steps * m) // total)).tolist()
    highs = np.minimum(m, (steps * m + excess) // total).tolist()
    taken, left = np.arange(m + 1.0), np.arange(float(m), -1.0, -1.0)
    inside, outside = np.zeros(m + 2), 0.0  # over i, the steps so far spent on the first sample
    inside[0] = 1.0
    for step in range(total):
        low, end = lows[step], highs[step] + 1
        up = inside[low:end] * (left[low:end] / (total - step))
        inside[low:end] *= (taken[low:end] + (n - step)) / (total - step)
        inside[low + 1 : end + 1] += up
        if lows[step + 1] > low:
            outside, inside[low] = outside + inside[low], 0.0
        if highs[step + 1] < end:
            outside, inside[end] = outside + inside[end], 0.0
    return float(outside)


def _mid_ranks(samples: Floats) -> Floats:
    ranks = np.empty_like(samples)
    for column, values in zip(ranks.T, samples.T, strict=True):
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        column[:] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _vectors(samples: ArrayLike, name: str) -> Floats:
    samples = _valid(samples, name)
    if samples.ndim > 2:
        raise ValueError(f"{name} must be of shape (count,) or (count, columns), got {samples.shape}")
    return samples.reshape(len(samples), -1)


def _valid(samples: ArrayLike, name: str, axis: int = 0) -> Floats:
    """Samples as floats, their axis first: at least one, none NaN."""
    samples = np.moveaxis(np.atleast_1d(np.asarray(samples, dtype=float)), axis, 0)
    if not len(samples) or np.isnan(samples).any():
        raise ValueError(f"{name} must be at least one and not NaN, got {len(samples)}, {np.isnan(samples).sum()} NaN")
    return samples


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
