"""Statistics against brute force, SciPy and their own coverage."""

import numpy as np
import pytest
from scipy import stats

from simulations.statistics import (
    binomial_interval,
    kolmogorov_distance,
    kolmogorov_tolerance,
    mean_with_error,
    tolerance,
)

FALSE_ALARM = 1e-6


def test_mean_with_error():
    samples = np.random.default_rng(0).standard_normal((50, 3, 4))
    for axis in (0, 1, -1):
        mean, error = mean_with_error(samples, axis)
        np.testing.assert_allclose(mean, samples.mean(axis=axis), rtol=1e-14)
        np.testing.assert_allclose(error, stats.sem(samples, axis=axis), rtol=1e-12)


@pytest.mark.parametrize("degrees", [1, 9, np.inf])
def test_tolerance_is_students(degrees):
    expected = 0.3 * stats.t.isf(0.5e-3 / 7, degrees)
    assert tolerance(0.3, 1e-3, comparisons=7, degrees_of_freedom=degrees) == pytest.approx(expected, rel=1e-9)
    assert tolerance([0.0, 1.0], 0.1).shape == (2,)


def test_tolerance_alarms_as_often_as_it_says():
    samples = np.random.default_rng(1).standard_normal((6, 20_000))
    mean, error = mean_with_error(samples)
    alarms = int((np.abs(mean) > tolerance(error, 0.05, degrees_of_freedom=5)).sum())
    low, high = binomial_interval(alarms, 20_000, 1 - FALSE_ALARM)
    assert low < 0.05 < high


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_distance_to_a_continuous_law(count):
    samples = np.random.default_rng(2).standard_normal(count)
    expected = stats.kstest(samples, stats.norm.cdf).statistic
    assert kolmogorov_distance(samples.reshape(1, -1), stats.norm.cdf) == pytest.approx(expected, rel=1e-12)


def mixed(x):
    """Atom ½ at 0, atom ¼ at 1, uniform on (1, 2) with weight ¼."""
    x = np.asarray(x)
    return np.where(x < 0, 0.0, np.where(x < 1, 0.5, 0.75 + np.clip(x - 1, 0, 1) / 4))


@pytest.mark.parametrize(
    ("samples", "distance"),
    [
        ([0, 0, 1, 1.5], 0.125),  # at 1.5−: ¾ against ⅞
        ([0, 0, 0, 0], 0.5),
        ([0.5], 0.5),  # the atom at 0 lies below every sample
        ([-1, -1, 0, 0], 0.5),
        ([3.0], 1.0),
        ([1, 2], 0.5),
    ],
)
def test_atoms_and_ties(samples, distance):
    assert kolmogorov_distance(samples, mixed) == pytest.approx(distance, abs=1e-15)
    grid = np.linspace(-2, 4, 6001)
    empirical = (np.asarray(samples)[:, None] <= grid).mean(axis=0)
    assert np.abs(empirical - mixed(grid)).max() == pytest.approx(distance, abs=1e-3)


def test_atom_at_minus_infinity():
    def cdf(x):
        return 0.25 + 0.75 * stats.norm.cdf(x)

    quantiles = stats.norm.ppf((np.arange(75) + 0.5) / 75)
    assert kolmogorov_distance([-np.inf] * 25 + quantiles.tolist(), cdf) == pytest.approx(0.005, rel=1e-9)
    assert kolmogorov_distance(quantiles, cdf) == pytest.approx(0.25, abs=0.01)
    assert kolmogorov_distance([-np.inf, np.inf], cdf) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_kolmogorov_tolerance(count):
    exact, massart = stats.kstwo.isf(1e-6, count), np.sqrt(np.log(2e6) / 2 / count)
    assert exact * (1 - 1e-12) <= kolmogorov_tolerance(count, 1e-6) <= min(1.001 * exact, massart)


def test_kolmogorov_tolerance_alarms_as_often_as_it_says():
    samples = np.random.default_rng(3).random((4000, 30))
    bound = kolmogorov_tolerance(30, 0.1)
    alarms = sum(kolmogorov_distance(row, lambda x: np.clip(x, 0, 1)) > bound for row in samples)
    low, high = binomial_interval(alarms, 4000, 1 - FALSE_ALARM)
    assert low < 0.1 < high


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (950, 1000)])
def test_binomial_interval(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.99, method="exact")
    np.testing.assert_allclose(binomial_interval(successes, trials, 0.99), expected, rtol=1e-9)


def test_binomial_interval_covers():
    """Coverage summed exactly over the binomial law: at least the confidence, for every probability."""
    intervals = np.array([binomial_interval(k, 40, 0.9) for k in range(41)])
    coverages = []
    for p in np.linspace(0.01, 0.99, 99):
        covered = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
        coverages.append(stats.binom.pmf(np.arange(41), 40, p)[covered].sum())
    assert 0.9 <= min(coverages) < 0.93


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_with_error([1.0]), "a standard error needs at least 2 samples, got 1"),
        (lambda: mean_with_error(1.0), "a standard error needs at least 2 samples, got 1"),
        (lambda: mean_with_error([1.0, np.nan]), "samples must be finite, got nan"),
        (lambda: mean_with_error([1.0, -np.inf]), "samples must be finite, got -inf"),
        (lambda: tolerance(1.0, 0.0), "false_alarm must be between 0 and 1, got 0.0"),
        (lambda: tolerance(1.0, 0.1, comparisons=0), "comparisons must be at least 1, got 0"),
        (lambda: tolerance(1.0, 0.1, degrees_of_freedom=0), "degrees_of_freedom must be above 0, got 0"),
        (lambda: kolmogorov_distance([], stats.norm.cdf), "samples must be at least one and not NaN, got 0"),
        (lambda: kolmogorov_distance([0.0, np.nan], stats.norm.cdf), "samples must .* got 2, 1 NaN"),
        (lambda: kolmogorov_distance([0.0, 1.0], lambda x: 0.5), "the cdf must return an array of the shape"),
        (lambda: kolmogorov_distance([0.0, 2.0], lambda x: x), r"the cdf must lie in \[0, 1\], got 2.0"),
        (lambda: kolmogorov_distance([0.0], lambda x: x * np.nan), r"the cdf must lie in \[0, 1\], got nan"),
        (lambda: kolmogorov_tolerance(0, 0.1), "count must be at least 1, got 0"),
        (lambda: kolmogorov_tolerance(10, 1.0), "false_alarm must be between 0 and 1, got 1.0"),
        (lambda: binomial_interval(11, 10, 0.9), "successes must be at most trials = 10, got 11"),
        (lambda: binomial_interval(-1, 10, 0.9), "successes must be at least 0, got -1"),
        (lambda: binomial_interval(1, 10, 90), "confidence must be between 0 and 1, got 90"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
