"""Finite width of convolutional networks: known variances, and explicit weights."""

import numpy as np
import pytest

from bntheory import activation, cnn, initialization, predict_growth
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pool
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth

RELU = activation("relu")


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
TANH, XAVIER = activation("tanh"), initialization("xavier_normal")
NETWORKS = {
    "plain": (Conv(24), RELU, Conv(24, stride=2), RELU, Conv(24, bias=0.5), RELU),
    "tanh": (Conv(24, init=XAVIER), TANH) * 4,
    "version-1 blocks": V1,
    "2×2 means": (Conv(24), RELU, Pool("average", 2), Conv(24), TANH, Pool("average", 2)),
    "LayerNorm": (Conv(24), LayerNorm(), RELU, Conv(24), LayerNorm(), TANH, Conv(24), LayerNorm(), TANH),
    "LayerNorm after ReLU": (Conv(24), RELU, LayerNorm(), Conv(24)),
    "GroupNorm": (Conv(24), GroupNorm(3), TANH, Conv(24), GroupNorm(2), RELU, Conv(24)),
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_variances_against_explicit_weights(layers):
    """300 networks, given images: a sample standard deviation errs by 4.1% (Gaussian), a mean by 0.06 of one; four of
    them, and 8% and 0.2 for the next order in 1/24. A row that has been normalized varies by less than 0.001."""
    net = Sequential(layers, (2, 6, 6))
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6))
    growth, samples = predict_growth(net, images), simulate_growth(net, 300, images, method="weights", gradients=False)
    measured = samples.log_second_moment.std(axis=0)
    varies = measured > 1e-3
    assert set(growth.band_method) == {"exact", "first-order"} and np.all(growth.log_growth_std[~varies] < 1e-3)
    np.testing.assert_allclose(growth.log_growth_std[varies], measured[varies], rtol=0.25)
    shift = samples.log_second_moment.mean(axis=0) - growth.log_growth_mean
    assert np.all(np.abs(shift) < 0.45 * measured + 1e-3)


def test_batch_norm_leaves_bands_to_rows_with_weights():
    """What a BatchNorm fixes does not vary; after it only convolutions and Dense layers have bands, within 25%."""
    block = (Conv(24), BatchNorm(), RELU)
    net = Sequential(
        (*block, *block, Residual((*block, Conv(24))), Pool("max", 2), Conv(24), Flatten(), Dense(9)), (2, 6, 6)
    )
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6))
    growth, samples = predict_growth(net, images), simulate_growth(net, 300, images, method="weights", gradients=False)
    words = dict(zip(growth.name, growth.band_method, strict=True))
    assert {words[name] for name in ("1", "4", "6.branch.1")} == {"exact"}  # BatchNorm's own
    assert {words[name] for name in ("2", "5", "6.sum", "7", "8", "9")} == {"unsupported"}
    known = np.flatnonzero(np.array(growth.band_method) == "first-order")
    assert [growth.name[row] for row in known] == ["0", "3", "6.branch.0", "6.branch.3", "10"]
    measured = samples.log_second_moment.std(axis=0)
    np.testing.assert_allclose(growth.log_growth_std[known], measured[known], rtol=0.25)


def test_maxima_have_bands_where_weights_before_vary_more_than_maxima_are_known():
    for width, known in ((16, True), (512, False)):
        net = Sequential((Conv(width), RELU, Conv(width), RELU, Pool("max", 2), Conv(width)), (3, 8, 8))
        words = predict_growth(net, np.random.default_rng(0).standard_normal((4, 3, 8, 8))).band_method[-2:]
        assert words == ("first-order",) * 2 if known else words == ("unsupported",) * 2


def test_means_of_weighted_sums_over_windows_are_left_out():
    """Of images that differ: the mean of two Gaussian units needs the spread of their covariance."""
    net = Sequential((Conv(8), Pool("average", 2), RELU), (3, 8, 8))
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8))
    assert predict_growth(net, images).band_method[2:] == ("unsupported", "first-order")
    assert predict_growth(net, batch_size=4).band_method[2:] == ("first-order", "first-order")


def test_given_images_do_not_vary_until_the_first_weights():
    images = np.random.default_rng(1).standard_normal((4, 2, 6, 6))
    growth = predict_growth(Sequential((RELU, Pool("average", 2), Conv(8)), (2, 6, 6)), images)
    assert growth.log_growth_std[:3].tolist() == [0, 0, 0] and growth.log_growth_std[3] > 0.1
