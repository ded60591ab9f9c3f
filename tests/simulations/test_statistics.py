"""Statistics against brute force, SciPy and their own coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from simulations.statistics import (
    binomial_interval,
    energy_test,
    kolmogorov_distance,
    kolmogorov_tolerance,
    mean_with_error,
    quantile_with_interval,
    tolerance,
    two_sample_distance,
    two_sample_tolerance,
)

FALSE_ALARM = 1e-6  # of each of about 30 comparisons
RNG = np.random.default_rng(0)


def test_mean_with_error():
    samples = np.random.default_rng(0).standard_normal((50, 3, 4))
    for axis in (0, 1, -1):
        mean, error = mean_with_error(samples, axis)
        np.testing.assert_allclose(mean, samples.mean(axis=axis), rtol=1e-14)
        np.testing.assert_allclose(error, stats.sem(samples, axis=axis), rtol=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999999])
@pytest.mark.parametrize("probability", [1e-9, 0.07, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 30, 1001])
def test_quantile_interval_is_the_narrowest_with_both_tails(count, probability, confidence):
    """Samples 1 … n show the ranks j, k: for a continuous law each end fails with a binomial probability."""
    quantile, lower, upper = quantile_with_interval(np.arange(1, count + 1), probability, confidence)
    j, k = max(lower, 0), min(upper, count + 1)
    law, tail = stats.binom(count, probability), (1 - confidence) / 2
    assert law.cdf(j - 1) <= tail * (1 + 1e-9) and law.sf(k - 1) <= tail * (1 + 1e-9)
    assert law.cdf(j) > tail * (1 - 1e-9) and law.sf(k - 2) > tail * (1 - 1e-9)
    assert j <= quantile <= k
    assert (lower == -np.inf) == (j == 0) and (upper == np.inf) == (k == count + 1)


def test_quantile_is_the_inverse_of_the_empirical_distribution():
    samples, levels = np.random.default_rng(4).permutation(100), np.arange(1, 100) / 100
    np.testing.assert_array_equal(quantile_with_interval(samples, levels, 0.9).quantile, np.arange(99))
    expected = np.quantile(samples[:37], [0.011, 0.5, 0.99], method="inverted_cdf")
    np.testing.assert_array_equal(quantile_with_interval(samples[:37], [0.011, 0.5, 0.99], 0.9).quantile, expected)


def test_quantiles_of_many_rows():
    samples = np.random.default_rng(5).standard_normal((3, 40, 2))
    together = quantile_with_interval(samples, [[0.2, 0.5]], 0.9, axis=1)
    for part in together:
        assert part.shape == (1, 2, 3, 2)
    for row, column, (place, level) in itertools.product(range(3), range(2), enumerate((0.2, 0.5))):
        alone = quantile_with_interval(samples[row, :, column], level, 0.9)
        assert tuple(part[0, place, row, column] for part in together) == alone
    assert quantile_with_interval(samples, 0.5, 0.9, axis=-1).lower.shape == (3, 40)


def test_quantiles_of_infinite_samples():
    samples = np.concatenate([np.full(30, -np.inf), np.arange(60.0), np.full(10, np.inf)])
    result = quantile_with_interval(samples, [0.1, 0.3, 0.95], 0.95)
    np.testing.assert_array_equal(result.quantile, [-np.inf, -np.inf, np.inf])
    np.testing.assert_array_equal(result.lower, [-np.inf, -np.inf, 59])
    np.testing.assert_array_equal(result.upper, [-np.inf, 9, np.inf])


LEVELS = np.array([0.1, 0.5, 0.8])


@pytest.mark.parametrize("law", [stats.norm(), stats.expon(), stats.poisson(2), stats.bernoulli(0.5)])
def test_quantile_intervals_cover(law):
    """Coverage over 10,000 repetitions: the binomial one for continuous laws, at least the confidence for all."""
    samples = law.rvs((60, 10_000), random_state=np.random.default_rng(6))
    _, lower, upper = quantile_with_interval(samples, LEVELS, 0.9)
    _, first, last = quantile_with_interval(np.arange(1, 61), LEVELS, 0.9)
    nominal = stats.binom.cdf(last - 1, 60, LEVELS) - stats.binom.cdf(first - 1, 60, LEVELS)
    true = law.ppf(LEVELS)[:, None]
    for count, expected in zip(((lower <= true) & (true <= upper)).sum(axis=1), nominal, strict=True):
        low, high = binomial_interval(int(count), 10_000, 1 - FALSE_ALARM)
        assert high > expected >= 0.9
        assert low < expected or isinstance(law.dist, stats.rv_discrete)


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


@pytest.mark.parametrize("sizes", [(1, 3), (7, 30), (100, 99)])
def test_distance_of_two_samples(sizes):
    rng = np.random.default_rng(7)
    for draw in (rng.standard_normal, lambda count: rng.integers(0, 4, count)):
        one, other = (draw(count) for count in sizes)
        expected = stats.ks_2samp(one, other, method="exact").statistic
        assert two_sample_distance(one, other) == pytest.approx(expected, abs=1e-14)
        assert two_sample_distance(other, one) == two_sample_distance(one, other)
        assert two_sample_distance(one, one) == 0


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ([-np.inf, -np.inf, 1], [-np.inf, 1, 2], 1 / 3),
        ([-np.inf], [0, np.inf], 1),
        ([0, np.inf], [0, 5], 1 / 2),
        ([[np.inf, -np.inf]], [-np.inf, np.inf, np.inf], 1 / 6),
    ],
)
def test_distance_of_infinite_samples(one, other, distance):
    assert two_sample_distance(one, other) == pytest.approx(distance, abs=1e-15)


def distances_of_all_splits(m, n):
    """Distances of two samples of a continuous law: every choice of m ranks is equally likely."""
    ranks = set(range(m + n))
    return np.array([two_sample_distance(s, list(ranks - set(s))) for s in itertools.combinations(range(m + n), m)])


@pytest.mark.parametrize("false_alarm", [0.5, 0.2, 0.1, 0.03, 0.005])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 9), (4, 3), (6, 4), (5, 5)])
def test_two_sample_tolerance_over_all_splits(sizes, false_alarm):
    """The smallest distance that so few splits exceed: the next smaller one is exceeded too often."""
    distances, bound = distances_of_all_splits(*sizes), two_sample_tolerance(*sizes, false_alarm)
    assert (distances > bound).mean() <= false_alarm < (distances > bound - 1 / math.lcm(*sizes)).mean()


def leaving(m, n, excess):
    """Share of lattice paths with |i n − j m| > excess somewhere, counted in integers."""
    inside = [[0] * (n + 1) for _ in range(m + 1)]
    for i, j in itertools.product(range(m + 1), range(n + 1)):
        if abs(i * n - j * m) <= excess:
            inside[i][j] = 1 if i + j == 0 else (i and inside[i - 1][j]) + (j and inside[i][j - 1])
    return (math.comb(m + n, m) - inside[m][n]) / math.comb(m + n, m)


@pytest.mark.parametrize("false_alarm", [0.1, 1e-6, 1e-20])
@pytest.mark.parametrize("sizes", [(60, 60), (150, 100), (80, 81), (200, 7)])
def test_two_sample_tolerance_counts_paths(sizes, false_alarm):
    (m, n), bound = sizes, two_sample_tolerance(*sizes, false_alarm)
    assert bound == two_sample_tolerance(n, m, false_alarm)
    excess = round(bound * m * n)
    smaller = excess - max(math.gcd(m, n), excess // 1000 + 1)  # within a thousandth
    assert leaving(m, n, excess) <= false_alarm * (1 + 1e-9)
    assert leaving(m, n, smaller) > false_alarm


@pytest.mark.parametrize("false_alarm", [0.01, 1e-6])
def test_two_sample_tolerance_of_equal_sizes(false_alarm):
    """P(D ≥ h/n) = 2 Σ_k (−1)^{k−1} C(2n, n − kh)/C(2n, n) (Gnedenko, Korolyuk 1951)."""
    n = 1000
    h = round(two_sample_tolerance(n, n, false_alarm) * n)

    def tail(h):
        return 2 * sum((-1) ** (k - 1) * (math.comb(2 * n, n - k * h) / math.comb(2 * n, n)) for k in range(1, n // h))

    assert tail(h + 1) <= false_alarm < tail(h)


@pytest.mark.parametrize("discrete", [False, True])
def test_two_sample_tolerance_alarms_as_often_as_it_says(discrete):
    samples = np.random.default_rng(8).random((4000, 65))
    samples = np.floor(4 * samples) if discrete else samples
    bound = two_sample_tolerance(40, 25, 0.1)
    alarms = sum(two_sample_distance(row[:40], row[40:]) > bound for row in samples)
    low, high = binomial_interval(alarms, 4000, 1 - FALSE_ALARM)
    assert low < 0.1
    assert discrete or high > 0.095


def ranked(one, other):
    """Mid-ranks in the pooled sample over its size, one column."""
    ranks = stats.rankdata(np.concatenate([one, other])) / (len(one) + len(other))
    return ranks[: len(one)], ranks[len(one) :]


def test_energy_distance_of_one_column():
    """Székely's identity: the energy distance is 2 ∫ (F − G)², which SciPy computes from the distribution functions."""
    rng = np.random.default_rng(9)
    one, other = rng.standard_normal(30), rng.integers(-1, 2, 20).astype(float)
    one[:5], other[:2] = -np.inf, -np.inf
    expected = stats.energy_distance(*ranked(one, other)) ** 2
    assert energy_test(one, other, rng, permutations=1).distance == pytest.approx(expected, rel=1e-9)


def test_energy_distance_of_vectors():
    rng = np.random.default_rng(10)
    one, other = rng.standard_normal((12, 3)), rng.standard_normal((9, 3)) + 0.5
    columns = [ranked(*pair) for pair in zip(one.T, other.T, strict=True)]
    x, y = (np.transpose([column[side] for column in columns]) for side in (0, 1))

    def apart(a, b):
        return np.mean([np.linalg.norm(p - q) for p in a for q in b])

    expected = 2 * apart(x, y) - apart(x, x) - apart(y, y)
    result = energy_test(one, other, np.random.default_rng(0), permutations=99)
    assert result.distance == pytest.approx(expected, rel=1e-9)
    assert energy_test(np.exp(one), np.exp(other), np.random.default_rng(0), permutations=99) == result


def test_energy_p_value_over_all_splits():
    """Of 3 + 3 samples apart from one another 2 of 20 splits are as far apart, also after rounding."""
    one, other = [[0.0, 1], [0.1, 1.1], [0.2, 1.2]], [[1.0, 0], [1.1, 0.1], [1.2, 0.2]]
    p_value = energy_test(one, other, np.random.default_rng(11), permutations=20_000).p_value
    low, high = binomial_interval(round(p_value * 20_001) - 1, 20_000, 1 - FALSE_ALARM)
    assert low < 0.1 < high


@pytest.mark.parametrize("law", ["normal", "atoms"])
def test_energy_test_alarms_as_often_as_it_says(law):
    """With 19 permutations p ≤ 0.1 in 2 of 20 cases without ties, in no more with them."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(3000):
        samples = rng.standard_normal((18, 2)) @ [[1, 1], [0, 1]]
        if law == "atoms":
            samples = np.where(samples < 0, -np.inf, np.round(samples))
        alarms += energy_test(samples[:8], samples[8:], rng, permutations=19).p_value <= 0.1
    low, high = binomial_interval(alarms, 3000, 1 - FALSE_ALARM)
    assert low < 0.1
    assert law == "atoms" or high > 0.1


def test_energy_test_sees_what_margins_do_not():
    """Two independent normals against two dependent ones: every column alone passes, together they do not."""
    rng = np.random.default_rng(13)
    one, other = rng.standard_normal((2, 300, 2))
    other[:, 1] = 0.8 * other[:, 0] + 0.6 * other[:, 1]
    assert energy_test(one, other, rng).p_value == 0.001
    for column, other_column in zip(one.T, other.T, strict=True):
        assert two_sample_distance(column, other_column) < two_sample_tolerance(300, 300, 1e-4)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_energy_test_of_points_at_equal_distances(size):
    """All splits are equally far apart; rounding must not make the observed one look special."""
    points = np.eye(11)
    for seed in range(5):
        assert energy_test(points[:size], points[size:], np.random.default_rng(seed)).p_value == 1.0


def test_energy_test_of_equal_samples():
    same = np.random.default_rng(14).integers(0, 3, (20, 2)).astype(float)
    assert energy_test(same, same, np.random.default_rng(0)) == (pytest.approx(0, abs=1e-12), 1.0)
    assert energy_test(np.full(5, -np.inf), np.full(7, -np.inf), np.random.default_rng(0)) == (0.0, 1.0)
    assert energy_test([0.0], [1.0], np.random.default_rng(0)).p_value == 1.0


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
        (lambda: quantile_with_interval([], 0.5, 0.9), "samples must be at least one and not NaN, got 0, 0 NaN"),
        (lambda: quantile_with_interval(np.ones((0, 3)), 0.5, 0.9), "samples must be at least one and not NaN, got 0"),
        (lambda: quantile_with_interval([1.0, np.nan], 0.5, 0.9), "samples must be at least one .* got 2, 1 NaN"),
        (lambda: quantile_with_interval([1.0], 1.0, 0.9), "probability must be between 0 and 1, got 1.0"),
        (lambda: quantile_with_interval([1.0], [0.5, np.nan], 0.9), "probability must be between 0 and 1, got nan"),
        (lambda: quantile_with_interval([1.0], 0.5, 95), "confidence must be between 0 and 1, got 95"),
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
        (lambda: two_sample_distance([], [1.0]), "one must be at least one and not NaN, got 0"),
        (lambda: two_sample_distance([1.0], [np.nan, 1]), "other must be at least one and not NaN, got 2, 1 NaN"),
        (lambda: two_sample_tolerance(0, 5, 0.1), "count must be at least 1, got 0"),
        (lambda: two_sample_tolerance(5, 2.5, 0.1), "other_count must be an integer of at least 1, got 2.5"),
        (lambda: two_sample_tolerance(5, 5, 0), "false_alarm must be between 0 and 1, got 0"),
        (lambda: energy_test([1.0], [2.0], 0), "rng must be a numpy.random.Generator, got 0: use"),
        (lambda: energy_test([1.0], [2.0], RNG, 0), "permutations must be at least 1, got 0"),
        (lambda: energy_test([np.nan], [2.0], RNG), "one must be at least one and not NaN, got 1, 1 NaN"),
        (lambda: energy_test([1.0], [], RNG), "other must be at least one and not NaN, got 0"),
        (lambda: energy_test([[[1.0]]], [2.0], RNG), r"one must be of shape \(count,\) or \(count, columns\), got"),
        (lambda: energy_test([[1.0, 2.0]], [2.0], RNG), r"one and other must .* got shapes \(1, 2\) and \(1, 1\)"),
        (lambda: energy_test(np.ones(9999), [1, 2], RNG), "one and other must have .* at most 10,000 rows together"),
        (lambda: binomial_interval(11, 10, 0.9), "successes must be at most trials = 10, got 11"),
        (lambda: binomial_interval(-1, 10, 0.9), "successes must be at least 0, got -1"),
        (lambda: binomial_interval(1, 10, 90), "confidence must be between 0 and 1, got 90"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
