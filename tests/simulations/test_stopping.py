"""Sampling until the mean is known: the interval still covers, the cost is that of the error asked for."""

import numpy as np
import pytest

from simulations.statistics import binomial_interval, mean_with_error, tolerance
from simulations.stopping import sample_until

FALSE_ALARM = 1e-6  # of each of six comparisons


def drawing(law, seed=0):
    """Samples of one law as draw(start, count), from one generator."""
    rng = np.random.default_rng(seed)
    return lambda start, count: law(rng, count)


def gaussian(rng, count):
    return 1 + rng.standard_normal(count)


def exponential(rng, count):
    return rng.exponential(size=count)


def lognormal(rng, count):
    return rng.lognormal(-0.5, size=count)


@pytest.mark.parametrize("law", [gaussian, exponential, lognormal])
def test_interval_covers_where_sampling_stops(law):
    """All three have mean 1; 1500 repetitions show that the interval misses it in at most 5 of 100."""
    draw = drawing(law)
    missed = 0
    for _ in range(1500):
        result = sample_until(draw, relative_error=0.2, confidence=0.95)
        assert result.reached and result.half_width < 0.2 * abs(result.mean)
        missed += abs(result.mean - 1) > result.half_width
    assert binomial_interval(missed, 1500, 1 - FALSE_ALARM)[1] < 0.05


def test_looking_without_a_price_does_not_cover():
    """Mean 0: each stop at a relative error of 1 is an interval that misses 0. Ordinary intervals do so too often."""
    repetitions, most = 1000, 64 * 2**6
    rng = np.random.default_rng(1)
    stops = naive = 0
    for _ in range(repetitions):
        samples = rng.standard_normal(most)
        stops += sample_until(lambda start, count: samples[start : start + count], 1.0, most=most).reached  # noqa: B023
        estimates = [(mean_with_error(samples[: 64 * 2**look]), 64 * 2**look) for look in range(7)]
        naive += any(abs(e.mean) > tolerance(e.standard_error, 0.05, degrees_of_freedom=n - 1) for e, n in estimates)
    assert binomial_interval(stops, repetitions, 1 - FALSE_ALARM)[0] < 0.05
    assert binomial_interval(naive, repetitions, 1 - FALSE_ALARM)[0] > 0.1


def test_half_the_error_costs_four_times_the_samples():
    draw, errors = drawing(exponential, seed=2), 0.2 / 2 ** np.arange(5)
    counts = [np.mean([len(sample_until(draw, error).samples) for _ in range(20)]) for error in errors]
    slope = np.polyfit(np.log(errors), np.log(counts), 1)[0]
    assert -2.4 < slope < -1.8  # the later looks, at higher confidence, cost a little more than 1/error²


def test_draws_are_consecutive_and_kept():
    calls = []

    def draw(start, count):
        calls.append((start, count))
        return np.sin(np.arange(start, start + count, dtype=float))

    result = sample_until(draw, 0.01, first=10, most=100)
    assert calls == [(0, 10), (10, 10), (20, 20), (40, 40), (80, 20)]
    assert not result.reached
    np.testing.assert_array_equal(result.samples, np.sin(np.arange(100.0)))
    mean, error = mean_with_error(result.samples)
    assert (result.mean, result.standard_error) == (mean, error)
    assert result.half_width == pytest.approx(tolerance(error, 0.05 / 30, degrees_of_freedom=99))


def test_all_components_must_be_known():
    """A component eight times as noisy decides, and Bonferroni widens the intervals of all."""

    def law(rng, count):
        return 1 + rng.standard_normal((count, 2, 2)) * [[0.1, 0.1], [0.1, 0.8]]

    result = sample_until(drawing(law), 0.05)
    assert result.reached and result.mean.shape == result.half_width.shape == (2, 2)
    looks = 1 + np.log2(len(result.samples) / 64)
    error = mean_with_error(result.samples).standard_error
    expected = tolerance(error, 0.05 / looks / (looks + 1), 4, len(result.samples) - 1)
    np.testing.assert_allclose(result.half_width, expected, rtol=1e-12)
    quiet = sample_until(drawing(lambda rng, count: law(rng, count)[:, 0]), 0.05)
    assert len(quiet.samples) * 16 <= len(result.samples)


def test_either_error_is_enough():
    assert sample_until(drawing(lambda rng, count: rng.standard_normal(count)), absolute_error=0.2).reached
    draw = drawing(gaussian)
    alone = sample_until(draw, relative_error=0, absolute_error=0.05)
    assert alone.reached and 0.02 < alone.half_width < 0.05


@pytest.mark.parametrize(
    ("value", "absolute", "reached"), [(0.0, 0.0, False), (0.0, 0.1, True), (3.0, 0.0, True), (-3.0, 0.0, True)]
)
def test_constant_samples(value, absolute, reached):
    """A first look without a single event, all zeros, is no knowledge of the mean to a relative error."""
    result = sample_until(lambda start, count: np.full(count, value), most=500, absolute_error=absolute)
    assert result.reached is reached and len(result.samples) == (64 if reached else 500)


def ones(start, count):
    return np.ones(count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relative_error": -0.1}, "relative_error must be finite and at least 0, got -0.1"),
        ({"relative_error": np.nan}, "relative_error must be finite and at least 0, got nan"),
        ({"absolute_error": np.inf}, "absolute_error must be finite and at least 0, got inf"),
        ({"relative_error": 0}, "relative_error or absolute_error must be above 0, got 0 for both"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"first": 1}, "first must be at least 2, got 1"),
        ({"most": 1e6}, "most must be an integer of at least 2, got 1000000.0"),
        ({"first": 100, "most": 50}, "first must be at most most = 50, got 100"),
        ({"draw": lambda start, count: [1.0, np.nan] * (count // 2)}, "samples must be finite, got nan"),
        ({"draw": lambda start, count: np.full(count, -np.inf)}, "samples must be finite, got -inf"),
        ({"draw": lambda start, count: np.ones(count + 1)}, r"draw\(0, 64\) must return 64 samples, .* \(65,\)"),
        ({"draw": lambda start, count: 1.0}, r"draw\(0, 64\) must return 64 samples, .* got shape \(\)"),
        ({"draw": lambda start, count: np.ones((count, 0))}, r"draw\(0, 64\) must return 64 samples, .* \(64, 0\)"),
        (
            {"draw": lambda start, count: np.zeros((count, 1 + start))},
            r"draw must return samples of one shape, got \(65",
        ),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sample_until(**{"draw": ones, **arguments})
