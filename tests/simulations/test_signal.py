"""Values with a logarithmic scale: the same results as plain arithmetic where it reaches, and their limits beyond."""

import math

import numpy as np
import pytest

from bntheory import activation
from bntheory.activations import KNOWN, Activation
from bntheory.layers import BatchNorm, LayerNorm
from simulations.pullbacks import normalization
from simulations.signal import Signal, activated, added, at_scale, log_square_norm, scaled, weighted

SCALES = [-1e4, -160.0, -150.0, -20.0, 0.0, 20.0, 150.0, 160.0, 1e4]


def plain(h):
    return h.values * math.exp(h.log_scale)


def test_scaled():
    found = scaled(np.array([[3.0, -4e200]]), 7.0)
    assert np.abs(found.values).max() == 1
    assert found.log_scale == pytest.approx(7 + math.log(4e200))
    assert scaled(np.zeros((1, 2)), 7.0).log_scale == 0
    assert scaled(np.array([[1.0, np.inf]]), 7.0).log_scale == 7
    assert scaled(np.array([[1, -3]], np.float32)).values.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3e-300, 4e-300], 2 * math.log(5e-300)),
        ([-3e300, 4e300], 2 * math.log(5e300)),
        ([0.0, 0.0], -math.inf),
        ([0.0, math.inf], math.inf),
        ([math.nan, 1.0], math.inf),
    ],
)
def test_norms_at_the_ends_of_the_range(values, expected):
    assert log_square_norm(np.array(values)) == pytest.approx(expected, rel=1e-14)
    assert Signal(np.array(values), 5.0).log_square_norm() == pytest.approx(expected + 10, rel=1e-14)


def test_norms_are_summed_in_float64():
    values = np.full(10**6, 1 / 3, np.float32)
    assert log_square_norm(values) == pytest.approx(math.log(1e6) + 2 * math.log(np.float32(1 / 3)), abs=1e-12)


def test_sums_of_very_different_sizes():
    one, other = Signal(np.array([[1.0, -1.0]]), 5000.0), Signal(np.array([[1.0, 1.0]]), -5000.0)
    assert added(one, other).log_moments()[0] == pytest.approx(10_000)
    assert added(other, other).log_moments()[0] == pytest.approx(2 * (math.log(2) - 5000))
    for zero in (scaled(np.zeros((1, 2))), Signal(np.zeros((1, 2)), 1e4), Signal(np.zeros((1, 2)), -1e4)):
        assert added(zero, other).log_moments()[0] == pytest.approx(-10_000)
        assert added(zero, one).log_moments()[0] == pytest.approx(10_000)
        assert added(zero, zero).log_moments()[0] == -math.inf


def test_weights_of_groups():
    """Each column by its own weight; beyond the range of float64 the largest column is all that is left."""
    values = np.array([[1.0, 2.0, 0.0], [-0.5, 1.0, 0.0]])
    found = weighted(Signal(values, 1.0), np.array([[3.0, -2.0, 900.0]]), (0,))
    np.testing.assert_allclose(plain(found), values * np.exp([4.0, -1.0, 0.0]), rtol=1e-14)
    found = weighted(Signal(values, 0.0), np.array([[5000.0, -5000.0, 9000.0]]), (0,))
    np.testing.assert_array_equal(found.values, [[1, 0, 0], [-0.5, 0, 0]])
    assert found.log_scale == 5000


@pytest.mark.parametrize("phi", [activation(name) for name in KNOWN], ids=str)
def test_activations_at_any_scale(phi):
    for log_scale in SCALES:
        h = Signal(np.array([[-1.0, 0.3, -0.5, 1.0]]), log_scale)
        continues_the_line(phi.phi, h, activated(phi, h).log_square_norm())
        continues_the_line(phi.dphi, h, at_scale(phi.dphi, h).log_square_norm())


def continues_the_line(function, h, found):
    """ln Σ f(h)² is what plain arithmetic gives where it can, then the line through e^±100 and e^±140."""
    log_scale = h.log_scale

    def expected(scale):
        return log_square_norm(function(h.values * math.exp(scale)))

    if abs(log_scale) <= 150 or expected(math.copysign(140, log_scale)) == -math.inf:
        assert found == pytest.approx(expected(min(log_scale, 150)), rel=1e-12, abs=1e-12)
    else:
        near, nearer = math.copysign(140, log_scale), math.copysign(100, log_scale)
        slope = (expected(near) - expected(nearer)) / (near - nearer)
        assert found == pytest.approx(expected(near) + slope * (log_scale - near), rel=1e-11, abs=1e-11)


def test_a_power_of_ones_own():
    square = Activation.from_function("square", lambda x: x * x, lambda x: 2 * x)
    h = Signal(np.array([[1.0, -0.5]]), 400.0)
    assert activated(square, h).log_moments()[0] == pytest.approx(1600 + math.log((1 + 1 / 16) / 2))
    assert at_scale(square.dphi, h).log_square_norm() == pytest.approx(800 + math.log(5))
    single = Signal(h.values.astype(np.float32), 100.0)  # e^200 is beyond float32
    assert activated(square, single).values.dtype == np.float32
    assert activated(square, single).log_square_norm() == pytest.approx(400 + math.log(17 / 16))


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm])
@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2, 3)], ids=["vectors", "images"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 2.0])
def test_normalization_is_its_formula(layer, shape, epsilon):
    h = np.random.default_rng(0).standard_normal(shape) + 2
    axes = (0, 2, 3)[: len(shape) - 1] if layer is BatchNorm else tuple(range(1, len(shape)))
    centred = h - h.mean(axis=axes, keepdims=True)
    expected = centred / np.sqrt(h.var(axis=axes, keepdims=True) + epsilon)
    np.testing.assert_allclose(
        plain(normalization(layer(epsilon), Signal(h, 0.0))[0]), expected, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("log_scale", [-3000.0, -400.0, -5.0, 0.0, 5.0, 400.0, 3000.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_normalization_at_any_scale(log_scale, epsilon):
    """(h − mean)/√(variance + ε), from variances e^−6000 to e^6000."""
    values = np.array([[1.0, 0.2], [0.1, 0.6], [-0.7, 0.2]])
    variance = values.var(axis=0)
    log_variance = np.log(variance) + 2 * log_scale
    log_total = np.logaddexp(log_variance, math.log(epsilon) if epsilon else -math.inf)
    expected = np.logaddexp.reduce(log_variance - log_total) - math.log(2)
    for layer, h in ((BatchNorm(epsilon), values), (LayerNorm(epsilon), values.T)):
        found = normalization(layer, Signal(h, log_scale))[0]
        assert found.log_moments()[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("constant", [0.5, 0.1])
def test_batch_norm_of_a_constant_unit(constant):
    """ε > 0: exactly 0 at any scale, as in PyTorch (the mean of three 0.1 is not 0.1); ε = 0: 0/0, out of range."""
    values = np.array([[1.0, constant], [0.0, constant], [0.3, constant]])
    for log_scale in (-500.0, 0.0, 500.0):
        assert np.all(normalization(BatchNorm(), Signal(values, log_scale))[0].values[:, 1] == 0)
    found = normalization(BatchNorm(0.0), Signal(values, 0.0))[0]
    assert found.log_moments() == (math.inf,) * 3
    assert np.isfinite(found.values[:, 0]).all()


def test_units_of_very_different_sizes():
    """Without ε each unit has variance 1, also one 1e-250 of the size of another."""
    values = np.random.default_rng(0).standard_normal((6, 2)) * [1, 1e-250]
    found = normalization(BatchNorm(0.0), Signal(values, -30.0))[0]
    np.testing.assert_allclose(plain(found).var(axis=0), 1, rtol=1e-13)
