"""Factors, and γ and β of every unit: against quadrature, the same network written otherwise, and explicit weights."""

import math

import numpy as np
import pytest

from bntheory import activation, initialization, mlp, predict_growth
from bntheory.growth.infinite_width.affine import in_turn
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pool
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth
from simulations.statistics import mean_with_error, tolerance

RELU, TANH = activation("relu"), activation("tanh")
RARE = 1e-5  # false alarm of a network's comparisons together
COLUMNS = ("log_second_moment", "log_channel_variance", "log_cosine_distance", "log_gradient", "log_weight_gradient")


def pairs(channels, seed, spread=0.4):
    """Unequal γ around 1, some of them negative, and unequal β."""
    rng = np.random.default_rng(seed)
    gamma, beta = 1 + spread * rng.standard_normal(channels), spread * rng.standard_normal(channels)
    gamma[::7] *= -1
    return Affine(tuple(gamma.tolist()), tuple(beta.tolist()))


# --- one factor: the same network written otherwise ------------------------------------------------------------------


def network(init, factor=None, image=False):
    """Dense or Conv layers, each φ between two factors if there is one."""
    between = () if factor is None else (Affine(factor),)
    first, second = (
        (Conv(30, init=init), Conv(20, init=init, stride=2)) if image else (Dense(30, init), Dense(20, init))
    )
    return Sequential((first, *between, TANH, *between, second, RELU), (3, 6, 6) if image else (10,))


@pytest.mark.parametrize("factor", [0.5, -3.0])
@pytest.mark.parametrize("image", [False, True])
def test_a_factor_is_one_of_the_weights(factor, image):
    """Moments, distances, gradients and bands of all rows but those just before a factor, of given inputs too."""
    one = network(initialization("lecun_normal"), factor, image)
    two = network(initialization("lecun_normal", gain=abs(factor)), image=image)
    inputs = np.random.default_rng(0).standard_normal((4, *one.input_shape)) + 0.5
    for given, batch_size in ((None, 5), (inputs, None)):
        first, second = predict_growth(one, given, batch_size), predict_growth(two, given, batch_size)
        there, here = [2, 5, 6], [1, 3, 4]
        for name in (*COLUMNS[:4], "log_growth_mean", "log_growth_std"):
            mine, other = getattr(first, name)[there], getattr(second, name)[here]
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6, err_msg=name)
        assert [first.band_method[row] for row in there] == [second.band_method[row] for row in here]


def test_the_exact_law_of_a_relu_network_moves_by_the_factor():
    """Quantiles, of biased and unbiased networks, and of gradients."""
    for bias in (None, 0.2):
        plain = mlp(3, 6, bias=bias)
        first, second, *rest = plain.layers
        net = Sequential((first, second, Affine(-0.5), Affine(2.0), *rest, Affine(3.0)), (6,))
        one, two = predict_growth(net), predict_growth(plain)
        rows, same = [0, 1, 2, 4, 5, 6, 7, 8, 9], [0, 1, 2, 2, 3, 4, 5, 6, 6]
        moved = np.array([0, 0, 0, 0, 0, 0, 0, 0, 2 * math.log(3)])
        for mine, other in zip(one.band(0.9), two.band(0.9), strict=True):
            np.testing.assert_allclose(mine[rows], other[same] + moved, atol=1e-9)
        assert set(one.band_method) == {"exact"}
        if bias is None:
            assert set(one.gradient_band_method) == {"exact"}
            back = one.log_gradient_mean[rows] - 2 * math.log(3) + moved
            np.testing.assert_allclose(back, two.log_gradient_mean[same], atol=1e-9)
            np.testing.assert_allclose(one.log_gradient_std[rows], two.log_gradient_std[same], atol=1e-9)


def test_a_factor_of_zero_gives_zeros():
    for shape, layer in (((6,), Dense(6)), ((2, 4, 4), Conv(6))):
        growth = predict_growth(Sequential((layer, Affine(0.0), RELU, layer), shape), batch_size=3)
        assert np.isneginf(growth.log_second_moment[2:]).all()
        assert growth.p_dead[2:].tolist() == [1, 1, 1]
        assert "Affine(0) (row 1) gives zero" in growth.verdict()


def test_a_factor_after_a_sum_scales_its_parts():
    """Version-1 blocks: bands come from the parts of the sum, which the factor must not change."""
    block = Residual((Conv(20), RELU, Conv(20)))
    one = predict_growth(Sequential((Conv(20), RELU, block, Affine(0.1), RELU, Conv(20)), (3, 6, 6)))
    two = predict_growth(Sequential((Conv(20), RELU, block, RELU, Conv(20)), (3, 6, 6)))
    np.testing.assert_allclose(one.log_growth_std[-2:], two.log_growth_std[-2:], rtol=1e-5)
    np.testing.assert_allclose(one.log_second_moment[-2:] - 2 * math.log(0.1), two.log_second_moment[-2:], atol=1e-6)


def test_after_a_batch_norm_a_factor_is_its_gamma():
    """There and back, where a smooth activation reads a batch of few inputs."""
    for shape, layer in (((6,), Dense(6)), ((2, 4, 4), Conv(6))):
        one = Sequential((layer, BatchNorm(0.1), Affine(-2.0), TANH, layer, Pool() if len(shape) == 3 else RELU), shape)
        two = Sequential((layer, BatchNorm(0.1, gamma=2.0), TANH, *one.layers[4:]), shape)
        first, second = predict_growth(one, batch_size=5), predict_growth(two, batch_size=5)
        for name in COLUMNS:
            np.testing.assert_allclose(getattr(first, name)[[0, 1, 3, 4, 5, 6]], getattr(second, name), atol=1e-6)


# --- a pair for every unit -------------------------------------------------------------------------------------------


def test_moments_of_a_mixture_are_those_of_its_parts():
    """E φ(γ h + β)² by Gauss–Hermite for every pair; sampled to 2e-3."""
    layer = pairs(16, 0)
    growth = predict_growth(Sequential((Dense(16, bias=0.0), layer, TANH), (16,)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    h = math.sqrt(2) * nodes
    gamma, beta = (np.array(part)[:, None] for part in layer.pairs)
    before, after = (
        (function(gamma * h + beta) ** 2 @ weights).mean() / weights.sum() for function in (lambda x: x, np.tanh)
    )
    assert growth.log_second_moment[2] == pytest.approx(math.log(before), abs=1e-12)
    assert growth.log_second_moment[3] == pytest.approx(math.log(after), abs=2e-3)
    assert growth.moment_method[2:] == ("exact", "population")


def test_a_shift_of_units_whose_mean_is_not_zero():
    """E (γ relu + β)² = γ² q/2 + 2γβ √(q/2π) + β²."""
    growth = predict_growth(Sequential((Dense(8), RELU, Affine(2.0, -0.5)), (8,)))
    expected = 4.0 - 2 * math.sqrt(2 / (2 * math.pi)) + 0.25
    assert growth.second_moment[3] == pytest.approx(expected, rel=2e-3)
    assert growth.moment_method[3] == "population"


def test_shifts_at_any_size():
    """Nothing but β is left of small units, nothing but γ h of large ones."""
    for log_gain, expected in ((-400.0, math.log(0.09)), (400.0, 800.0 + math.log(4.0))):
        layers = (Dense(8), RELU, Affine(math.exp(log_gain / 2)), Affine(math.exp(log_gain / 2)))
        growth = predict_growth(Sequential((*layers, Affine(2.0, 0.3), RELU, Dense(8)), (8,)))
        assert growth.log_second_moment[5] == pytest.approx(expected, abs=1e-9)
        assert np.isfinite(growth.log_second_moment).all()


def test_pairs_are_drawn_evenly():
    layer = Affine(tuple(map(float, range(13))))
    for count in (512, 1000):
        counts = np.bincount(in_turn(layer, count)[0].astype(int), minlength=13)
        assert counts.sum() == count and np.ptp(counts) <= 4
        halves = [in_turn(layer, count)[0][part].mean() for part in (slice(0, count // 2), slice(count // 2, None))]
        assert halves == pytest.approx([6, 6], abs=0.1)


def standard(shape, *layers):
    return Sequential(layers, shape)


C, N = 48, 200
AGAINST_WEIGHTS = {
    "after a ReLU": (standard((N,), Dense(N), RELU, pairs(N, 1), Dense(N), pairs(N, 2), RELU, Dense(N)), 3, 300),
    "LayerNorm": (standard((N,), *(Dense(N), LayerNorm(), pairs(N, 3), TANH) * 3, Dense(N)), 2, 200),
    "LayerNorm of pairs": (standard((N,), Dense(N), Affine(pairs(N, 3).gamma), LayerNorm(), TANH, Dense(N)), 2, 200),
    "BN of vectors": (standard((N,), *(Dense(N), BatchNorm(), pairs(N, 4), RELU) * 3, Dense(N)), 8, 150),
    "GroupNorm": (standard((C, 5, 5), Conv(C), Affine(pairs(C, 5).gamma), GroupNorm(4), RELU, Conv(C)), 2, 100),
    "blocks": (
        standard(
            (C, 5, 5),
            *(Conv(C), BatchNorm(), pairs(C, 6), RELU),
            *(Residual((Conv(C), BatchNorm(), pairs(C, 7), RELU, Conv(C), BatchNorm(), pairs(C, 8, 0.2))), RELU),
            *(Pool("max", 2), Conv(C)),
        ),
        4,
        60,
    ),
    "BN of maps, averaged": (
        standard((C, 5, 5), *(Conv(C), BatchNorm(), pairs(C, 9), RELU) * 3, Pool(), Flatten(), Dense(N)),
        4,
        100,
    ),
}
WIDTH = 0.06  # what a finite width may move the logarithm of an expectation by


@pytest.mark.parametrize("name", AGAINST_WEIGHTS)
def test_moments_and_gradients_agree_with_explicit_weights(name):
    """Expectations over networks: moments of every row within 0.02 and their error, gradients within WIDTH."""
    net, batch, trials = AGAINST_WEIGHTS[name]
    growth = predict_growth(net, batch_size=batch)
    samples = simulate_growth(net, trials, batch=batch, seed=7, method="weights")
    rows = range(1, len(growth.rows))
    for column, allowed in (("log_second_moment", 0.02), ("log_channel_variance", 0.04), ("log_gradient", WIDTH)):
        predicted, sampled = getattr(growth, column), getattr(samples, column)
        for row in rows:
            if math.isnan(predicted[row]):
                assert column == "log_gradient" and name == "blocks"  # behind a sum with BatchNorm of sampled units
                continue
            mean, error = mean_with_error(np.exp(sampled[:, row] - predicted[row]))
            assert abs(mean - 1) < allowed + tolerance(error, RARE, 3 * len(rows)), (column, row, mean, error)


def test_bands_end_at_a_mixture():
    growth = predict_growth(Sequential((Conv(8), RELU, pairs(8, 0), Conv(8)), (3, 4, 4)))
    assert growth.band_method[2:] == ("first-order", "unsupported", "unsupported")
    growth = predict_growth(Sequential((Dense(8), RELU, pairs(8, 0), Dense(8)), (3,)))
    assert growth.band_method[2:] == ("exact", "unsupported", "unsupported")
    assert np.isnan(growth.p_dead[-2:]).tolist() == [False, False]
    dead = predict_growth(Sequential((Dense(8), pairs(8, 0), RELU, Dense(8), Dense(8, bias=0.1)), (3,))).p_dead
    assert np.isnan(dead).tolist() == [False, False, False, True, True, False]


def test_given_values_are_taken_as_they_are():
    """Standardisation of images channel by channel: the growth of the standardised images."""
    rng = np.random.default_rng(0)
    images = rng.random((5, 3, 6, 6)) ** np.array([1, 2, 3])[:, None, None]
    mean, std = images.mean(axis=(0, 2, 3)), images.std(axis=(0, 2, 3))
    layer = Affine(tuple((1 / std).tolist()), tuple((-mean / std).tolist()))
    rest = (Conv(16), RELU, Conv(8), Pool(), Flatten(), Dense(3))
    one = predict_growth(Sequential((layer, *rest), (3, 6, 6)), images)
    two = predict_growth(Sequential(rest, (3, 6, 6)), (images - mean[:, None, None]) / std[:, None, None])
    for name in (*COLUMNS, "log_growth_mean", "log_growth_std"):
        np.testing.assert_allclose(getattr(one, name)[1:], getattr(two, name), atol=1e-5)
