"""Lyapunov exponents against quadrature, explicit orthogonal matrices and sampled products."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from bntheory import lyapunov_exponents
from bntheory.architectures import mlp
from bntheory.spectra.lyapunov import corner_moments, trigamma, volume_moments
from simulations.products import log_singular_values
from simulations.statistics import mean_with_error, tolerance

FALSE_ALARM = 1e-6


def variance_with_error(samples):
    """Sample variances of columns, and their standard errors from the fourth moments."""
    return mean_with_error((samples - samples.mean(axis=0)) ** 2)


def test_trigamma_is_scipys():
    x = np.arange(1, 2000) / 2
    np.testing.assert_allclose(trigamma(x), special.polygamma(1, x), rtol=2e-15)
    np.testing.assert_array_equal(trigamma(x[:3]), special.polygamma(1, x[:3]))
    found = lyapunov_exponents(500)
    mean, variance = volume_moments([500], [1], np.arange(1, 501))
    offset, deficit = corner_moments(500, np.arange(1, 501))
    expected = mean - np.log(500) / 2, variance, offset, deficit
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_exponents_are_mean_and_variance_of_the_logarithm_of_chi(width):
    found = lyapunov_exponents(width)
    for i in range(width):
        y = np.linspace(-60, 4, 400_001)
        density = np.exp(y) * stats.chi(width - i).pdf(np.exp(y))
        moments = [integrate.simpson((y - np.log(width) / 2) ** k * density, x=y) for k in (0, 1, 2)]
        assert moments[0] == pytest.approx(1, abs=1e-9)
        assert found.exponents[i] == pytest.approx(moments[1], abs=1e-7)
        assert found.variances[i] == pytest.approx(moments[2] - moments[1] ** 2, abs=1e-7)


def test_corners_of_orthogonal_matrices():
    """ln |det V_j / det V_{j−1}| of 20,000 Haar matrices, every j; mean −b and variance w."""
    rng, rank = np.random.default_rng(2), 5
    unitary = np.linalg.qr(rng.standard_normal((20_000, rank, rank)))[0]
    logs = np.stack([np.linalg.slogdet(unitary[:, :j, :j])[1] for j in range(rank + 1)], axis=1)
    ratios, (offset, deficit) = np.diff(logs, axis=1), corner_moments(rank, np.arange(1, rank + 1))
    for (found, error), expected in ((mean_with_error(ratios), -offset), (variance_with_error(ratios), deficit)):
        assert np.all(np.abs(found - expected) < tolerance(error, FALSE_ALARM, 2 * rank))
        assert error.max() < 0.05


@pytest.mark.parametrize("width", [1, 2, 3, 50])
def test_the_determinant_is_exact(width):
    """Σ ln σ_i = ln |det J| has Σ offsets = 0 at every depth."""
    found = lyapunov_exponents(width)
    assert found.offsets.sum() == pytest.approx(0, abs=1e-11)
    assert found.mean(7).sum() == pytest.approx(7 * found.exponents.sum(), abs=1e-10)
    assert np.all(np.diff(found.exponents) < 0) and np.all(np.diff(found.variances) > 0)


def sampled_products(width, factors, trials, seed=4):
    """Log singular values of products of R's, whose decreasing rows keep the small ones accurate."""
    rng = np.random.default_rng(seed)
    product, diagonal = np.eye(width), np.arange(width)
    for _ in range(factors):
        factor = np.triu(rng.standard_normal((trials, width, width)), 1)
        factor[:, diagonal, diagonal] = np.sqrt(rng.chisquare(width - diagonal, (trials, width)))
        product = factor / np.sqrt(width) @ product
    return np.log(np.linalg.svd(product, compute_uv=False))


@pytest.mark.parametrize(("width", "factors", "trials"), [(2, 40, 100_000), (4, 80, 40_000)])
def test_deep_products(width, factors, trials):
    """Means and variances of all singular values; without offsets and deficits the test would fail."""
    samples, found = sampled_products(width, factors, trials), lyapunov_exponents(width)
    mean, error = mean_with_error(samples)
    room = tolerance(error, FALSE_ALARM, 2 * width)
    assert np.all(np.abs(mean - found.mean(factors)) < room)
    assert np.all(np.abs(mean - factors * found.exponents)[[0, -1]] > 2 * room[[0, -1]])
    variance, error = variance_with_error(samples)
    room = tolerance(error, FALSE_ALARM, 2 * width)
    assert np.all(np.abs(variance - found.variance(factors)) < room)
    assert abs(variance[0] - factors * found.variances[0]) > room[0]


def test_what_is_left_out_vanishes_exponentially_with_depth():
    """E ln σ_1 of 2×2 products: the errors at M = 2, 4, 6, 8 fall by equal factors; 0.15 at M = 2, below 0.03 at 8."""
    left = []
    for factors in (2, 4, 6, 8):
        mean, error = mean_with_error(sampled_products(2, factors, 200_000)[:, 0])
        left.append(float(lyapunov_exponents(2).mean(factors)[0] - mean))
        assert error < 0.005
    ratios = np.divide(left[1:], left[:-1])
    assert np.all((ratios > 0.35) & (ratios < 0.7)) and left[0] > 0.1 and left[-1] < 0.04


def test_bounds_hold_at_every_depth():
    """E ln σ_1 ≤ M λ_1 + b_1 and E ln σ_N ≥ M λ_N + b_N, with room to spare in shallow products."""
    found = lyapunov_exponents(6)
    for factors in (1, 2, 4, 8):
        mean, error = mean_with_error(log_singular_values(mlp(factors, 6, "linear", "lecun_normal"), 1000, seed=8))
        slack = found.mean(factors) - mean
        room = tolerance(error, FALSE_ALARM, 8)
        assert slack[0] > -room[0] and slack[-1] < room[-1]
        if factors == 1:
            assert slack[0] > 10 * room[0] and slack[-1] < -room[-1]


def test_rectangular_chains_are_sums_over_their_sizes():
    """A volume of dimension j meets one χ of every size, repeated ones as often as they occur."""
    index = [1, 3]
    mean, variance = volume_moments([5, 3, 9], [2, 1, 4], index)
    parts = [volume_moments([size], [1], index) for size in (5, 5, 3, 9, 9, 9, 9)]
    assert mean == pytest.approx(sum(part[0] for part in parts), abs=1e-13)
    assert variance == pytest.approx(sum(part[1] for part in parts), abs=1e-13)


@pytest.mark.parametrize(
    ("width", "message"), [(0, "at least 1, got 0"), (2.0, "integer"), (10**8, "at most 10,000,000")]
)
def test_arguments_are_checked(width, message):
    with pytest.raises(ValueError, match=f"^width .*{message}"):
        lyapunov_exponents(width)
    with pytest.raises(ValueError, match=r"^factors must be at least 1, got 0$"):
        lyapunov_exponents(3).mean(0)
