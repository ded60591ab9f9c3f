"""Which law the fluctuations of a row get, and that its quantiles are those of a normal law where it is one."""

import numpy as np
import pytest
from scipy import stats

from bntheory import activation, cnn, mlp, predict_growth
from bntheory.layers import Conv, Dense
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
