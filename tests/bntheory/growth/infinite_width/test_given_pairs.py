"""Pairs of given images: against the two-point map pair by pair, and against networks of explicit weights."""

import numpy as np
import pytest

import bntheory as bn
from bntheory import activation, predict_growth
from bntheory.growth.infinite_width import given_pairs
from bntheory.layers import Conv, Pool
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth
from simulations.statistics import mean_with_error, tolerance

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((3, 2, 3, 4)) * RNG.gamma(1.0, size=(3, 1, 3, 4))
RELU = activation("relu")


@pytest.mark.parametrize("phi", [RELU, activation("leaky_relu")], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-100])
def test_mean_distances_of_all_pairs(phi, scale):
    """`Activation.log_distance` of every pair of points of every pair of images."""
    layer = Conv(4, kernel=3, stride=2, bias=0.2 * scale**2)
    features = given_pairs.features(layer, IMAGES * scale)
    images, points, _ = features.shape
    unit = features / scale
    log_q = np.log(np.sum(unit**2, axis=2))
    within, between = np.zeros((points, points)), np.zeros((points, points))
    for i in range(images):
        for j in range(images):
            for p in range(points):
                for r in range(points):
                    if i == j and p == r:
                        continue
                    log_d = np.log(np.sum((unit[i, p] - unit[j, r]) ** 2))
                    d = np.exp(phi.log_distance(log_q[i, p], log_q[j, r], log_d))
                    (within if i == j else between)[p, r] += d / (images if i == j else images * (images - 1))
    found = given_pairs.activated(phi.homogeneous_slopes, features)
    for block, expected in zip(found, (within, between), strict=True):
        np.testing.assert_allclose(np.exp(block - 2 * np.log(scale)), expected, rtol=1e-7, atol=1e-12)


def test_features_are_patches():
    """Their products are the covariances that the convolution's weights give: 4000 channels, 5 standard errors."""
    layer = Conv(4000, kernel=3, bias=0.5)
    features = given_pairs.features(layer, IMAGES)
    weights = RNG.standard_normal((features.shape[2], 4000))
    units = features @ weights
    np.testing.assert_allclose(np.mean(units**2, axis=2), np.sum(features**2, axis=2), rtol=5 * np.sqrt(2 / 4000))
    inner = np.sum(IMAGES[:, :, 0:2, 0:2] ** 2, axis=(1, 2, 3)) * layer.weight_variance(
        (2, 3, 4)
    ) + layer.bias_variance((2, 3, 4))
    np.testing.assert_allclose(np.sum(features**2, axis=2)[:, 0], inner)


def test_too_many_pairs_are_left_to_the_mean_pair():
    assert given_pairs.features(Conv(2), np.ones((20, 1, 64, 64))) is None
    assert given_pairs.features(Conv(2, groups=2), np.ones((2, 2, 4, 4))) is None


C = 64


@pytest.mark.parametrize("blocks", [0, 3])
def test_differences_between_images_with_explicit_weights(blocks):
    """Means over all positions, of which differences between images alone are left: 300 networks of 64 channels whose
    images have content in different places; 5% besides sampling errors, at a false-alarm rate 1e-5, for finite width.
    The mean pair of images would be 20% off."""
    rng = np.random.default_rng(8)
    images = rng.standard_normal((5, 1, 8, 8)) * 0.1
    for image in images:
        row, column = rng.integers(0, 5, size=2)
        image[0, row : row + 3, column : column + 3] += rng.choice([-2.0, 2.0])
    branch = (Conv(C, init="torch_default"), RELU, Conv(C, init="torch_default"))
    net = Sequential(
        (Conv(C, init="torch_default"), RELU, *(Residual(branch), RELU) * blocks, Pool("average")), (1, 8, 8)
    )
    growth = predict_growth(net, images)
    samples = simulate_growth(net, 300, images, method="weights", gradients=False)
    mean, error = mean_with_error(np.exp(samples.log_channel_variance[:, -1:]))
    predicted = np.exp(growth.log_channel_variance[-1])
    assert abs(predicted - mean[0]) < tolerance(error, 1e-5, 1, 299)[0] + 0.05 * mean[0], (
        predicted / mean,
        error / mean,
    )


def test_no_pairs_are_taken_where_no_distances_are_asked_for():
    """Second moments alone: the first activation does not bring distances back."""
    batch = np.random.default_rng(0).standard_normal((3, 3, 6, 6))
    net = bn.cnn(3, 8, image=(3, 6, 6))
    alone, whole = bn.predict_growth(net, batch, covariances=False), bn.predict_growth(net, batch)
    assert np.isnan(alone.log_channel_variance[1:]).all()
    np.testing.assert_allclose(alone.log_second_moment, whole.log_second_moment, rtol=1e-12)
