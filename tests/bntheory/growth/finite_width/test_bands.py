"""Which law the fluctuations of a row get, and that its quantiles are those of a normal law where it is one."""

import numpy as np
import pytest
from scipy import stats

from bntheory import activation, cnn, mlp, predict_growth
from bntheory.layers import BatchNorm, Conv, Dense, Flatten
from bntheory.networks import Residual, Sequential

RELU = activation("relu")


def test_labels():
    assert set(predict_growth(mlp(3, 9)).band_method) == {"exact"}
    assert predict_growth(mlp(3, 9, "tanh")).band_method == ("exact", "exact", *["first-order"] * 5)
    assert predict_growth(cnn(2, 9, image=(1, 4, 4))).band_method == ("exact", *["first-order"] * 4)
    mixed = Sequential((Dense(9), RELU, Residual((Dense(9),)), RELU), (9,))
    assert predict_growth(mixed).band_method == ("exact", "exact", "exact", "first-order", "unsupported", "unsupported")


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_images_have_a_normal_band_around_the_typical_draw(level):
    """The mean of the exponential of a normal law is the second moment."""
    growth = predict_growth(cnn(4, 16, image=(2, 6, 6)), batch_size=2)
    lower, upper = growth.band(level)
    reach = stats.norm.ppf((1 + level) / 2) * growth.log_growth_std
    np.testing.assert_allclose(growth.log_growth_mean - lower, reach, atol=1e-12)
    np.testing.assert_allclose(upper - growth.log_growth_mean, reach, atol=1e-12)
    np.testing.assert_allclose(growth.log_growth_mean + growth.log_growth_std**2 / 2, growth.log_second_moment)


def test_without_covariances_images_have_no_band():
    growth = predict_growth(Sequential((Conv(8), RELU), (2, 6, 6)), covariances=False)
    assert set(growth.band_method) == {"unsupported"} and np.isnan(growth.log_growth_std).all()
    assert np.isfinite(growth.p_dead).all()


def test_given_vectors_normalized_over_the_batch_share_weights():
    """From the first BatchNorm on the law is the batch's, of which no law of one input tells."""
    inputs = np.random.default_rng(0).standard_normal((8, 16)) * np.arange(1, 9)[:, None]
    net = Sequential((BatchNorm(), Dense(32), activation("relu"), Dense(32)), (16,))
    growth = predict_growth(net, inputs)
    assert growth.band_method == ("exact", "exact", "unsupported", "unsupported", "unsupported")
    assert np.isnan(growth.log_growth_mean[2:]).all() and np.isnan(growth.band()).sum() == 6
    still = predict_growth(Sequential((BatchNorm(training=False), *net.layers[1:]), (16,)), inputs)
    assert set(still.band_method) == {"exact"}


@pytest.mark.parametrize("given", [False, True])
def test_a_network_that_flattens_its_images_has_the_bands_of_one_of_vectors(given):
    """The same numbers, one input at a time."""
    vectors = mlp(6, 32, "tanh", input_width=48)
    images = Sequential((Flatten(), *vectors.layers), (3, 4, 4))
    batch = np.random.default_rng(0).standard_normal((5, 3, 4, 4)) if given else None
    first = predict_growth(vectors, None if batch is None else batch.reshape(5, 48))
    second = predict_growth(images, batch)
    for name in ("log_growth_mean", "log_growth_std", "p_dead", "log_gradient_mean", "log_gradient_std"):
        np.testing.assert_allclose(getattr(second, name)[1:], getattr(first, name), rtol=1e-12, err_msg=name)
    assert second.band_method[1:] == first.band_method
    np.testing.assert_allclose(second.band(0.8)[0][1:], first.band(0.8)[0])
    np.testing.assert_allclose(second.gradient_band(0.8)[1][1:], first.gradient_band(0.8)[1])
    assert second.log_gradient_mean[0] == second.log_gradient_mean[1]
