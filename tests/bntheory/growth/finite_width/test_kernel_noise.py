"""Finite width of convolutional networks: the covariance of squares by quadrature, and known variances."""

import numpy as np
import pytest

from bntheory import activation, cnn, initialization, predict_growth
from bntheory.growth.finite_width.given_images import relu_covariance
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth

RELU = activation("relu")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.2, 0.7, 0.95])
def test_covariance_of_rectified_squares(rho):
    """G(ρ) = 4 E u₊² v₊² − 1, the inner expectation over u ∈ (0, 12) by Gauss-Legendre, that over v given u closed."""
    from scipy import stats

    x, weights = np.polynomial.legendre.leggauss(200)
    u, weights = 6 * (x + 1), 6 * weights
    mean, size = rho * u, np.sqrt(1 - rho**2)
    inner = (mean**2 + size**2) * stats.norm.cdf(mean / size) + mean * size * stats.norm.pdf(mean / size)
    expected = 4 * np.sum(weights * stats.norm.pdf(u) * u**2 * inner) - 1
    assert relu_covariance(np.array(rho)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_variance_of_a_plain_network():
    """8×8, 12 layers of 64 channels: .4271 by the formula in double sums over positions, .4265 simulated."""
    growth = predict_growth(cnn(12, 64, image=(3, 8, 8)), batch_size=1)
    assert growth.log_growth_std[-1] ** 2 == pytest.approx(0.4271, rel=0.01)
    assert growth.log_growth_mean[-1] == pytest.approx(growth.log_second_moment[-1] - 0.4271 / 2, abs=0.005)


def test_one_position_is_a_dense_network():
    """On 1×1 images He ReLU has Var = Σ 5/n for every layer of n channels, the last row its own share included."""
    for width, depth in ((50, 3), (20, 6)):
        growth = predict_growth(cnn(depth, width, image=(4, 1, 1), kernel=1), batch_size=1)
        np.testing.assert_allclose(growth.log_growth_std[2::2] ** 2, 5 / width * np.arange(1, depth + 1), rtol=1e-5)
        np.testing.assert_allclose(growth.log_growth_std[1] ** 2, 2 / width, rtol=1e-5)


def test_the_variance_falls_as_one_over_the_channels():
    deep = [predict_growth(cnn(6, width, image=(2, 6, 6)), batch_size=1).log_growth_std[1:] ** 2 for width in (20, 200)]
    np.testing.assert_allclose(deep[0], 10 * deep[1], rtol=1e-4)


V1 = (Conv(24), RELU, *(Residual((Conv(24), RELU, Conv(24))), RELU) * 3, Pool(), Flatten(), Dense(24))
XAVIER = initialization("xavier_normal")
NETWORKS = {
    "plain": (Conv(24), RELU, Conv(24, stride=2), RELU, Conv(24, bias=0.5), RELU),
    "tanh": (Conv(24, init=XAVIER), activation("tanh")) * 4,
    "version-1 blocks": V1,
    "BatchNorm": (Conv(24), BatchNorm(), RELU, Conv(24), BatchNorm(), RELU, Conv(24), Flatten(), Dense(9)),
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_variances_against_explicit_weights(layers):
    """300 networks, given images; a sample standard deviation errs by 4.1% (Gaussian), five of them is 20%, and 5%
    for the next order in 1/24; tanh is 30% too high at its fourth layer, a known defect. Rows that vary by less than
    2% are left out: BatchNorm's own."""
    net = Sequential(layers, (2, 6, 6))
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6))
    growth, samples = predict_growth(net, images), simulate_growth(net, 300, images, method="weights", gradients=False)
    measured = samples.log_second_moment.std(axis=0)
    varies = measured > 0.02
    assert varies.sum() >= len(growth.rows) / 2 and set(growth.band_method) == {"exact", "first-order"}
    np.testing.assert_allclose(
        growth.log_growth_std[varies], measured[varies], rtol=0.35 if "tanh" in str(net) else 0.25
    )
    shift = samples.log_second_moment.mean(axis=0) - growth.log_growth_mean
    assert np.all(np.abs(shift) < 5 * measured / np.sqrt(300) + 0.03)


def test_given_images_do_not_vary_until_the_first_weights():
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6))
    growth = predict_growth(Sequential((RELU, Pool("average", 2), Conv(8)), (2, 6, 6)), images)
    assert growth.log_growth_std[:3].tolist() == [0, 0, 0] and growth.log_growth_std[3] > 0.1
