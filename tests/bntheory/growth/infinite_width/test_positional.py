"""Layers that tell positions apart: moments and gradients by matrices, bands by drawn networks, what has no rule."""

import dataclasses
import math

import numpy as np
import pytest

from bntheory import activation, predict_growth
from bntheory.growth.backward import gradient_rows, gradients
from bntheory.growth.infinite_width import moments
from bntheory.growth.infinite_width.state import start
from bntheory.layers import Conv, Dense, Flatten, both
from bntheory.networks import Join, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll
from simulations import simulate_growth
from simulations.statistics import mean_with_error

RELU, TANH, SIGMOID = activation("relu"), activation("tanh"), activation("sigmoid")


def passed(layers, inputs, shape):
    """The state after some layers."""
    state = start(inputs, shape, None)
    for row, layer in enumerate(layers, start=1):
        state = moments.through(layer, state, shape, row)
        shape = shape if not hasattr(layer, "output_shape") else layer.output_shape(shape)
    return state


def product(*branches, before=None):
    """Whether a product of two branches has a rule."""
    layers = (*(before or (Dense(12), TANH)), Join(branches, "product"))
    return predict_growth(Sequential(layers, (5,))).unsupported is None


# --- Offset ----------------------------------------------------------------------------------------------------------


def test_constants_part_positions_and_not_inputs():
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 3))
    before = passed((Conv(8),), x, (2, 2, 3))
    after = moments.through(Offset(0.7), before, (8, 2, 3), 2)
    np.testing.assert_allclose(np.exp(after.log_q), np.exp(before.log_q) + 0.7)
    for log_d, given in zip(after.folded().blocks, before.folded().blocks, strict=True):
        np.testing.assert_allclose(np.exp(log_d), np.exp(given) + 1.4 * (1 - np.eye(6)), rtol=1e-12)
    vectors = passed((Dense(8), Offset(0.7)), x.reshape(3, -1), (12,))
    np.testing.assert_array_equal(vectors.log_d, passed((Dense(8),), x.reshape(3, -1), (12,)).log_d)
    assert moments.through(Offset(0.0), before, (8, 2, 3), 2) is before


def test_constants_are_those_of_their_own_row():
    """A product of one row with constants added twice is not one of independent rows."""
    assert not product((Offset(1.0),), (Offset(1.0),))
    assert product((Dense(4), Offset(1.0)), (Dense(4), Offset(1.0)))


def test_constants_of_given_vectors_have_no_exact_band():
    growth = predict_growth(Sequential((Offset(1.0), Dense(8)), (4,)), np.eye(4)[:2])
    assert growth.band_method == ("exact", "unsupported", "unsupported")


def test_bands_of_constants():
    """Of 400 networks of 24 channels: standard deviations within 20%."""
    net = Sequential((Conv(24), Offset(1.0), RELU, Conv(24), RELU, Conv(24), Offset(0.5)), (3, 4, 4))
    x = np.random.default_rng(5).standard_normal((1, 3, 4, 4))
    growth, samples = predict_growth(net, x), simulate_growth(net, 400, x, seed=1, method="weights", gradients=False)
    drawn = samples.log_second_moment[:, 1:].astype(float)
    np.testing.assert_allclose(growth.log_growth_std[1:], drawn.std(axis=0), rtol=0.2)
    active = predict_growth(Sequential((Conv(8), RELU, Offset(1.0)), (3, 4, 4)), x)
    assert active.band_method[-1] == "unsupported" and active.p_dead.tolist() == [0, 0, 1 / 256, 0]


# --- Mix -------------------------------------------------------------------------------------------------------------


def test_weights_over_positions_by_matrices():
    """K' = δ (σ_w² mean K + σ_b²), of one image and of two: 4,000 draws of the weights, five standard errors."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5, 1)) + np.arange(5)[:, None] / 4
    state = passed((Mix(2, "lecun_normal", bias=0.4),), x, (3, 5, 1))
    weights, bias = rng.standard_normal((4000, 2, 5)) / np.sqrt(5), rng.standard_normal((4000, 1, 1, 2)) * np.sqrt(0.4)
    h = np.einsum("nft,bct->nbcf", weights, x[..., 0]) + bias
    products = np.einsum("nbcf,ndcg->nbdfg", h, h) / 3
    mean, error = products.mean(axis=0), products.std(axis=0) / np.sqrt(4000)
    q = np.exp(state.log_q)
    within, cross = ((q[:, None] + q - np.exp(block)) / 2 for block in state.folded().blocks)
    assert np.all(np.abs(within - (mean[0, 0] + mean[1, 1]) / 2) < 5 * error.max(axis=(0, 1)))
    assert np.all(np.abs(cross - mean[0, 1]) < 5 * error[0, 1])


def test_channels_stay_what_they_are():
    """A sum with what was mixed is one of uncorrelated units, a product is none of independent ones."""
    before = (Dense(48), Unflatten((4, 12, 1)))
    assert predict_growth(Sequential((*before, Residual((Mix(12),))), (5,))).unsupported is None
    assert not product((), (Mix(12),), before=before)
    assert not product((Mix(12),), (Mix(12),), before=before)
    assert not product((), (Residual((Mix(12),)),), before=before)
    assert product((Channels(0, 2),), (Channels(2, 4), Mix(12)), before=before)
    assert product((), (Mix(12), Conv(4, 1)), before=before)


def test_weight_gradients_over_positions_need_a_mean_of_zero():
    net = Sequential((Conv(8), Unroll(), Mix(16), RELU, Mix(9), Flatten(), Dense(3)), (3, 4, 4))
    growth = predict_growth(net, batch_size=3)
    assert np.isfinite(growth.log_weight_gradient[3]) and np.isnan(growth.log_weight_gradient[5])
    assert np.isfinite(growth.log_gradient).all() and growth.band_method[3] == "unsupported"


def test_parts_are_mixed_part_by_part():
    """Behind ReLU and tanh parts, an activation sees two variances."""
    net = Sequential((Conv(8), Join(((RELU,), (Conv(8), TANH))), Unroll(), Mix(16), RELU), (3, 4, 4))
    growth = predict_growth(net)
    assert growth.second_moment[-2] == pytest.approx(growth.second_moment[-3] * 2)
    assert growth.second_moment[-1] == pytest.approx(growth.second_moment[-2] / 2)
    assert growth.unsupported is None


@pytest.mark.parametrize("count, allowed", [(16, 0.035), (64, 0.01)])
def test_how_many_positions_are_many(count, allowed):
    """tanh of mixed independent positions, mean over 200 networks of ln⟨h²⟩: 0.022 ± 0.002 below theory at 16
    positions, 0.006 ± 0.001 at 64: as 1/positions."""
    x = np.random.default_rng(6).standard_normal((1, 100, count, 1))
    net = Sequential((Mix(count), TANH), (100, count, 1))
    drawn = simulate_growth(net, 200, x, seed=2, method="weights", gradients=False).log_second_moment[:, -1]
    mean, error = mean_with_error(drawn.astype(float))
    assert abs(mean - predict_growth(net, x).log_second_moment[-1]) < allowed and error < 0.003


# --- transposed convolutions -----------------------------------------------------------------------------------------


TRANSPOSED = [ConvTranspose(6), ConvTranspose(6, (3, 2), (2, 3), (0, 1), (1, 2)), ConvTranspose(6, 1, 3, 0)]


def taps(layer, shape):
    """For every offset of the kernel, the matrix (output positions, input positions) of what it adds to what."""
    outputs, (stride, padding) = layer.output_shape(shape)[1:], (both(layer.stride), both(layer.padding))
    for offset in np.ndindex(*both(layer.kernel)):
        matrix = np.zeros((*outputs, *shape[1:]))
        for place in np.ndindex(*shape[1:]):
            at = tuple(p * s + o - cut for p, s, o, cut in zip(place, stride, offset, padding, strict=True))
            if all(0 <= a < side for a, side in zip(at, outputs, strict=True)):
                matrix[(*at, *place)] = 1
        yield matrix.reshape(math.prod(outputs), -1)


@pytest.mark.parametrize("layer", TRANSPOSED, ids=str)
def test_transposed_convolutions_by_matrices(layer):
    """K' = v C Σ_β A_β K A_βᵀ + σ_b², and gradients G' = v n Σ_β A_βᵀ G A_β, for images and correlated gradients."""
    layer, shape = dataclasses.replace(layer, bias=0.3), (4, 3, 2)
    x = np.random.default_rng(0).standard_normal((3, *shape))
    x /= np.sqrt(np.mean(x**2, axis=(1, 2, 3), keepdims=True))  # of one size, which biases do not change
    before = start(x, shape, None)
    state = moments.through(layer, before, shape, 1)
    flat = x.reshape(3, 4, -1)
    within = np.einsum("bcp,bcq->pq", flat, flat) / 12
    total = flat.sum(axis=0)
    cross = (total.T @ total / 4 - 3 * within) / 6
    variance, matrices = layer.weight_variance(shape), list(taps(layer, shape))
    assert variance == pytest.approx(2 / (6 * layer.area))
    expected = [variance * 4 * sum(a @ k @ a.T for a in matrices) + 0.3 for k in (within, cross)]
    q = np.exp(state.log_q)
    found = [(q[:, None] + q - np.exp(block)) / 2 for block in state.folded().blocks]
    np.testing.assert_allclose(q, np.diagonal(expected[0]), rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    points = len(q)
    given = np.eye(points) + 0.2, np.full((points, points), 0.1)
    gradient = gradient_rows.of_moments(tuple(block.astype(np.float32) for block in given), 1.0)
    back = gradients.pullback(layer, before, state, shape)(gradient)
    for block, wanted in zip(back.moments(), given, strict=True):
        wanted = variance * 6 * sum(a.T @ wanted @ a for a in matrices)
        np.testing.assert_allclose(block * math.exp(back.log_scale - 1), wanted, rtol=1e-5, atol=1e-6)


def test_bands_of_transposed_convolutions():
    """Of 400 networks of 24 channels: standard deviations within 20%."""
    layers = (Conv(24), RELU, ConvTranspose(24, init="lecun_normal"), RELU, ConvTranspose(24, 3, 2, 1, 1))
    net, x = Sequential(layers, (3, 4, 4)), np.random.default_rng(5).standard_normal((1, 3, 4, 4))
    growth, samples = predict_growth(net, x), simulate_growth(net, 400, x, seed=1, method="weights", gradients=False)
    drawn = samples.log_second_moment[:, 1:].astype(float)
    np.testing.assert_allclose(growth.log_growth_std[1:], drawn.std(axis=0), rtol=0.2)
    first = predict_growth(
        Sequential((ConvTranspose(8), RELU), (3, 4, 4)), np.random.default_rng(5).random((2, 3, 4, 4))
    )
    assert first.band_method == ("exact", "unsupported", "unsupported") and first.unsupported is None


def test_too_large_transposed_maps_are_refused_by_name():
    with pytest.raises(ValueError, match=r"row 0: ConvTranspose.* distances between at most 4096 positions"):
        predict_growth(Sequential((ConvTranspose(2),), (3, 40, 40)))
