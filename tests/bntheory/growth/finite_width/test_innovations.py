"""What sampling channels adds: covariances of squares against quadrature, and pooled ones against sampled units."""

import numpy as np
import pytest
from scipy import integrate, stats

from bntheory import activation
from bntheory.growth.finite_width import innovations
from bntheory.growth.infinite_width import moments, state
from bntheory.layers import Conv, Pool

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def by_quadrature(phi, q1, q2, rho):
    """Cov(φ(u)², φ(v)²)/(E φ² E φ²), v = ρ u + √(1−ρ²) w in units of its own size."""
    u, w = np.meshgrid(NODES, NODES, indexing="ij")
    weight = np.outer(WEIGHTS, WEIGHTS)
    first, second = phi(np.sqrt(q1) * u) ** 2, phi(np.sqrt(q2) * (rho * u + np.sqrt(1 - rho**2) * w)) ** 2
    return np.sum(weight * first * second) / np.sum(weight * first) / np.sum(weight * second) - 1


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.2, 0.7, 0.95])
def test_covariance_of_rectified_squares(rho):
    """G(ρ) = 4 E u₊² v₊² − 1, the inner expectation over u ∈ (0, 12) by Gauss-Legendre, that over v given u closed."""
    x, weights = np.polynomial.legendre.leggauss(200)
    u, weights = 6 * (x + 1), 6 * weights
    mean, size = rho * u, np.sqrt(1 - rho**2)
    inner = (mean**2 + size**2) * stats.norm.cdf(mean / size) + mean * size * stats.norm.pdf(mean / size)
    expected = 4 * np.sum(weights * stats.norm.pdf(u) * u**2 * inner) - 1
    found = innovations.homogeneous_covariance(activation("relu"), np.array(rho))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_squares_of_relu_and_of_its_mirror_image_share_the_odd_part():
    """u² = u₊² + u₋², and that of u₊² − u₋² is the odd part alone: 2ρ² for |u|, G for ReLU, G(1) = 5."""
    rho = np.linspace(-1, 1, 9)
    relu, absolute = (innovations.homogeneous_covariance(activation(name), rho) for name in ("relu", "linear"))
    np.testing.assert_allclose(absolute, 2 * rho**2, atol=1e-12)
    np.testing.assert_allclose((relu + relu[::-1]) / 2, 2 * rho**2, atol=1e-6)
    assert relu[-1] == pytest.approx(5)


def power(g, phi, q, k):
    return stats.norm.pdf(g) * phi.phi(np.sqrt(q) * g) ** k


@pytest.mark.parametrize("name", ["tanh", "gelu", "sigmoid"])
@pytest.mark.parametrize("q", [(0.1, 0.1), (1.0, 0.5), (4.0, 3.0)])
def test_the_series_of_smooth_squares(name, q):
    """Ten terms and a rest: within 3% of the variance, and exact at ρ = 1."""
    phi = activation(name)
    table = innovations.square_series(phi, np.log(q))
    degrees = np.arange(1, innovations.TERMS + 1)
    variance = []
    for each in q:
        second, fourth = (integrate.quad(power, -12, 12, args=(phi, each, k))[0] for k in (2, 4))
        variance.append(fourth / second**2 - 1)
    np.testing.assert_allclose(np.sum(table[:, 1:] ** 2, axis=1), variance, rtol=1e-6)
    for rho in (-0.8, 0.3, 0.9):
        series = np.sum(table[0, 1:] * table[1, 1:] * rho**degrees)
        assert series == pytest.approx(by_quadrature(phi.phi, *q, rho), abs=0.03 * np.sqrt(np.prod(variance)))


def row(shape=(3, 4, 4)):
    """A Gaussian row of uncorrelated inputs that a convolution has mixed."""
    return moments.through(Conv(8), state.start(None, shape, 4), shape, 1)


def test_after_a_normalization_of_images_nothing_varies_for_linear_units():
    """The mean of u² is fixed, and a function whose square is that of u is left with nothing; nor does |u| vary."""
    within, cross = innovations.of_activation(activation("linear"), row(), "image")
    np.testing.assert_allclose(within, 0, atol=1e-6)
    np.testing.assert_allclose(cross, 0, atol=1e-6)


def test_what_points_of_an_image_share_is_lost():
    """Projecting the linear part, for equal second moments: rows of ρ less their means have mean zero."""
    relu, before = activation("relu"), row()
    full, fixed = (innovations.of_activation(relu, before, norm)[0] for norm in ("batch", "image"))
    q = np.exp(before.log_q)
    size = np.sqrt(np.outer(q, q))
    linear = (full - fixed) * np.pi / 8 * size
    kernel = innovations.correlations(before)[0] * size
    mean = kernel.mean(axis=1)
    np.testing.assert_allclose(linear, mean[:, None] + mean - mean.mean(), atol=1e-5)


def test_maxima_against_units_drawn_here():
    """Variance of the mean over windows of a maximum's square, beyond that of the mean of squares: 4·10⁵ Gaussian
    units drawn from the covariance itself; the rule's 1024 err by 5%, of which four are allowed."""
    before = row()
    after = moments.through(Pool("max", 2), before, (8, 4, 4), 2)
    shares = np.zeros((4, 16))
    for window in range(4):
        y, x = divmod(window, 2)
        shares[window, [8 * y + 2 * x + step for step in (0, 1, 4, 5)]] = 0.25
    q = np.exp(before.log_q)
    covariance = innovations.correlations(before)[0] * np.sqrt(np.outer(q, q))
    units = np.random.default_rng(0).multivariate_normal(np.zeros(16), covariance, size=400_000)
    windows = np.stack([units[:, np.flatnonzero(share)] for share in shares], axis=1)
    largest, squares = windows.max(axis=2) ** 2, units**2 / np.mean(units**2, axis=0) @ shares.T
    expected = np.var((largest / largest.mean(axis=0)).mean(axis=1)) - np.var(squares.mean(axis=1))
    found = innovations.of_pool(before, after, shares)[0].mean()
    assert found == pytest.approx(expected, abs=0.2 * np.var((largest / largest.mean(axis=0)).mean(axis=1)))
