"""The reflected random walk: Spitzer's closed form, the density on panels, by hand, by quadrature and by sampling."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from bntheory.growth.residual import reflected_walk_moments, walk_moments
from simulations.statistics import mean_with_error, tolerance


def test_first_steps_by_hand():
    """W_1 = max(0, g): mean 1/√2π, second moment 1/2. E W_2 adds E max(0, S_2)/2 = 1/√4π; E W_2² = 1 + 1/2π."""
    mean, second = reflected_walk_moments(2)
    first = 1 / math.sqrt(2 * math.pi)
    assert mean == pytest.approx([0, first, first + 1 / math.sqrt(4 * math.pi)])
    assert second == pytest.approx([0, 1 / 2, 1 + 1 / (2 * math.pi)])


def test_density_gives_spitzers_moments():
    mean, second = walk_moments(60, first_variance=1.0)
    exact_mean, exact_second = reflected_walk_moments(60)
    np.testing.assert_allclose(mean, exact_mean[1:], rtol=1e-13)
    np.testing.assert_allclose(second, exact_second[1:], rtol=1e-13)


@pytest.mark.parametrize("variance", [0.01, 0.3, 2.0, 50.0])
def test_two_steps_by_quadrature(variance):
    """E max(0, y + g) = y Φ(y) + φ(y) and E max(0, y + g)² = (y² + 1) Φ(y) + y φ(y), averaged over y = max(0, √v g)."""
    mean, second = walk_moments(2, variance)
    assert (mean[0], second[0]) == pytest.approx((math.sqrt(variance / (2 * math.pi)), variance / 2), rel=1e-12)
    cdf, pdf, scale = stats.norm.cdf, stats.norm.pdf, math.sqrt(variance)
    for value, moment in (
        (mean[1], lambda y: y * cdf(y) + pdf(y)),
        (second[1], lambda y: (y * y + 1) * cdf(y) + y * pdf(y)),
    ):
        positive, _ = integrate.quad(lambda y, f=moment: f(y) * pdf(y, scale=scale), 0, 12 * scale, epsabs=1e-14)
        assert value == pytest.approx(positive + moment(0) / 2, rel=1e-12)


@pytest.mark.parametrize("variance", [1.0, 2.0])
def test_against_sampling(variance):
    """400,000 walks of 15 steps; 60 comparisons in all, false alarm 1e-5."""
    rng = np.random.default_rng(5)
    x = np.maximum(0, math.sqrt(variance) * rng.standard_normal(400_000))
    mean, second = walk_moments(15, variance)
    for step in range(15):
        for values, expected in ((x, mean[step]), (x**2, second[step])):
            estimate, error = mean_with_error(values)
            assert abs(estimate - expected) < tolerance(error, 1e-5, comparisons=60)
        x = np.maximum(0, x + rng.standard_normal(len(x)))


def test_growth_is_a_square_root_of_the_depth():
    """E W_n → √(2n/π), the mean of a reflected Brownian motion, with a correction that falls as 1/√n."""
    mean, second = reflected_walk_moments(10_000)
    n = np.array([100, 1000, 10_000])
    excess = mean[n] / np.sqrt(2 * n / math.pi) - 1
    assert np.all(np.abs(np.diff(np.log10(-excess)) + 0.5) < 0.02)
    assert second[10_000] / 10_000 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3", None])
def test_refused_steps(steps):
    for function in (reflected_walk_moments, walk_moments):
        with pytest.raises(ValueError, match=r"steps must be .* got"):
            function(steps)


@pytest.mark.parametrize("variance", [0, -1.0, math.nan, math.inf, "1"])
def test_refused_variance(variance):
    with pytest.raises(ValueError, match="first_variance must be"):
        walk_moments(3, variance)


def test_no_steps():
    assert [part.tolist() for part in reflected_walk_moments(0)] == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        walk_moments(0)
