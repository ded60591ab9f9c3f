"""Layers and joins of given images of unequal sizes: against sums over all pairs of images, and explicit weights."""

import numpy as np
import pytest

from bntheory import activation, predict_growth
from bntheory.growth.infinite_width import joins
from bntheory.growth.infinite_width.moments import through
from bntheory.growth.infinite_width.state import start
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, Flatten, LayerNorm, Pad, Pool
from bntheory.networks import Join, Residual, Sequential
from bntheory.rearrangements import Channels, Unroll
from simulations import simulate_growth, statistics

RNG = np.random.default_rng(11)
RELU, SIGMOID = activation("relu"), activation("sigmoid")
COPIES, CHANNELS, SIDE = 4, 12, 3
R = RNG.gamma(1.0, size=(COPIES, 1, SIDE, SIDE)) + 0.1
ALIKE = RNG.standard_normal((CHANNELS, SIDE, SIDE))
IMAGES = R * ALIKE  # of one direction a place, so that correlations are those of every pair
OTHER = RNG.gamma(1.0, size=R.shape) * ALIKE[::-1]
K = Conv(8, kernel=1, init="lecun_normal")
BIASED = Conv(8, kernel=1, init="lecun_normal", bias=0.7)


def covariances(images, other=None):
    """E h h' of units of 1×1 weights without bias, (images, images, points, points)."""
    flat = np.moveaxis(images.reshape(*images.shape[:2], -1), 1, 2)
    return np.einsum("ipc,jqc->ijpq", flat, flat) / images.shape[1]


def state_of(images, layer, row):
    return through(layer, start(images, images.shape[1:], None), images.shape[1:], row)


def has(state, pairs):
    """Second moments and distances at the images' own sizes are those of all pairs: in single precision."""
    points, own = np.arange(pairs.shape[2]), np.arange(len(pairs))
    square = pairs[own[:, None], own[:, None], points, points]
    q, q_of = square.mean(axis=0), np.exp(state.log_q)
    np.testing.assert_allclose(q_of, q, rtol=1e-6)
    if state.sizes is not None:
        np.testing.assert_allclose(state.sizes**2 * q, square, rtol=1e-5, atol=1e-9 * q.max())
    within = pairs[own, own].mean(axis=0)
    between = (pairs.sum(axis=(0, 1)) - pairs[own, own].sum(axis=0)) / (len(pairs) * (len(pairs) - 1))
    folded = state.folded()
    for block, product in ((folded.log_d, within), (folded.log_cross, between)):
        expected = q[:, None] + q - 2 * product
        np.testing.assert_allclose(np.exp(block), expected, rtol=2e-5, atol=2e-6 * q.max())


def test_products_of_two_rows():
    """K_1 K_2 pair by pair; the sizes of both factors raise its second moments by 60% or more somewhere."""
    one, other = state_of(IMAGES, K, 1), state_of(OTHER, K, 2)
    made = joins.product(one, other, 3)
    has(made, covariances(IMAGES) * covariances(OTHER))
    assert np.max(made.log_q - one.log_q - other.log_q) > np.log(1.6)


def test_a_factor_at_every_position():
    """That of a pooled row, whose images have a size of their own at all places."""
    one = state_of(IMAGES, K, 1)
    gate = state_of(OTHER[:, :, :1, :1], K, 2)
    gates = np.broadcast_to(covariances(OTHER[:, :, :1, :1]), (COPIES, COPIES, SIDE**2, SIDE**2))
    has(joins.product(one, gate, 3), covariances(IMAGES) * gates)


def test_mixtures_of_unequal_images():
    """Channels 1 : 3, with a bias at first; multiplied part by part, and normalized by sizes of all of them."""
    one, other = state_of(IMAGES, K, 1), state_of(OTHER, K, 2)
    biased = joins.concatenated([4, 12], [one, state_of(OTHER, BIASED, 4)], 5)
    has(biased, covariances(IMAGES) / 4 + (covariances(OTHER) + 0.7) * 3 / 4)
    made = joins.concatenated([4, 12], [one, other], 3)
    pairs = covariances(IMAGES) / 4 + covariances(OTHER) * 3 / 4
    has(made, pairs)
    has(joins.product(made, state_of(IMAGES[::-1], K, 6), 7), pairs * covariances(IMAGES[::-1]))
    for layer, axes in ((LayerNorm(0.3, "channels"), ()), (LayerNorm(0.3), (1,))):
        square = np.einsum("iipp->ip", pairs)
        s = np.sqrt((square.mean(axis=axes, keepdims=True) if axes else square) + 0.3)
        s = np.broadcast_to(s, square.shape)
        has(through(layer, made, (16, SIDE, SIDE), 7), pairs / (s[:, None, :, None] * s[:, None]))


@pytest.mark.parametrize("over", ["channels", "all"])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_every_image_is_divided_by_its_own_size(over, epsilon):
    pairs = covariances(IMAGES)
    square = np.einsum("iipp->ip", pairs)
    if over == "all":
        square = np.repeat(square.mean(axis=1, keepdims=True), SIDE**2, axis=1)
    s = np.sqrt(square + epsilon)
    state = through(LayerNorm(epsilon, over), state_of(IMAGES, K, 1), (8, SIDE, SIDE), 2)
    has(state, pairs / (s[:, None, :, None] * s[:, None]))
    if over == "channels" and epsilon == 0:
        np.testing.assert_allclose(state.sizes, 1, rtol=1e-6)


def test_layers_that_move_points():
    """Zeros around the map, other shapes, some of the channels, factors, a shift, dropout and weights with a bias."""
    state, pairs = state_of(IMAGES, K, 1), covariances(IMAGES)
    maps = pairs.reshape(COPIES, COPIES, SIDE, SIDE, SIDE, SIDE)
    padded = np.pad(maps, ((0, 0), (0, 0), *((1, 0), (0, 2)) * 2)).reshape(COPIES, COPIES, 20, 20)
    shape = (8, SIDE, SIDE)
    has(through(Pad((0, 2, 1, 0)), state, shape, 2), padded)
    has(through(Unroll(), state, shape, 2), pairs)
    has(through(Channels(2, 5), state, shape, 2), pairs)
    gamma, beta = tuple(np.linspace(0.5, 2, 8)), tuple(np.linspace(-1, 1.5, 8))
    square, shift = np.mean(np.square(gamma)), np.mean(np.square(beta))
    has(through(Affine(gamma, beta), state, shape, 2), square * pairs + shift)
    diagonal = np.zeros_like(pairs)
    own, points = np.arange(COPIES)[:, None], np.arange(SIDE**2)
    diagonal[own, own, points, points] = pairs[own, own, points, points] / 3
    has(through(Dropout(0.25), state, shape, 2), pairs + diagonal)
    flat = through(Flatten(), state, shape, 2)
    mean = np.einsum("ijpp->ij", pairs)[:, :, None, None] / SIDE**2
    has(flat, mean)
    has(through(Dense(5, "lecun_normal", 0.4), flat, (8 * SIDE**2,), 3), mean + 0.4)


C = 48
NETS = {
    "gated unit": (Conv(C), Join(((Conv(C),), (Conv(C), RELU)), "product"), Conv(C)),
    "gated activations": (Conv(C), RELU, Join(((Conv(C),), (Conv(C, kernel=1), RELU)), "product"), Pool("average")),
    "excited": (Conv(C), RELU, Join(((), (Pool(), Conv(C, 1), RELU)), "product"), Conv(C)),
    "its own gate": (Conv(C), Join(((), (RELU,)), "product"), Conv(C)),
    "dense block": (Conv(C), RELU, Join(((), (Conv(C, bias=0.5), RELU))), Conv(C), Pool("average")),
    "product of mixtures": (
        *(Conv(C), RELU, Join((((Join(((), (Conv(C, bias=1.0),))),)), (Conv(2 * C), RELU)), "product"), Conv(C)),
    ),
    "normalized channels": (
        Conv(C),
        LayerNorm(over="channels"),
        RELU,
        Conv(C),
        Join(((Conv(C),), (Conv(C),)), "product"),
    ),
    "normalized activations": (Conv(C), RELU, LayerNorm(over="channels"), Conv(C), RELU, Pool("average")),
    "rectangular": (Pad((0, 1, 1, 0)), Conv(C, kernel=(1, 3), padding=(0, 2)), RELU, Conv(C, stride=2), RELU),
    "dropped": (Conv(C), RELU, Dropout(0.2), Conv(C), RELU, Flatten(), Dense(C)),
    "gates after a sum": (
        *(Conv(C), RELU, Residual(Sequential((Conv(C), RELU, Conv(C))))),
        *(RELU, Join(((), (Conv(C), RELU)), "product"), Conv(C)),
    ),
}


AFTER_BATCH_NORM = {
    "BatchNorm of a mixture": (Conv(C), Join(((), (RELU, Conv(C, bias=0.5)))), BatchNorm(), RELU, Conv(C)),
    "BatchNorm of activations": (Conv(C), RELU, BatchNorm(), Conv(C), RELU),
}


def agrees(layers, largest):
    """60 networks of 48 channels: sampling errors, at a false-alarm rate 1e-6, and 6/48 of a second moment."""
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((5, C, 4, 4)) * rng.gamma(2.0, size=(5, 1, 4, 4))
    inputs *= np.geomspace(1 / largest, 1, 5)[:, None, None, None]
    net, trials = Sequential(layers, inputs.shape[1:]), 60
    growth = predict_growth(net, inputs)
    samples = simulate_growth(net, trials, inputs, method="weights", gradients=False, seed=2)
    assert growth.unsupported is None
    for name in ("log_second_moment", "log_channel_variance"):
        predicted, measured = np.exp(getattr(growth, name)[1:]), np.exp(getattr(samples, name)[:, 1:])
        mean, error = statistics.mean_with_error(measured)
        allowed = statistics.tolerance(error, 1e-6, 2 * len(mean), trials - 1) + 6 / C * growth.second_moment[1:]
        assert np.all(np.abs(mean - predicted) < allowed), (name, (mean - predicted) / allowed)
        assert np.median(allowed / growth.second_moment[1:]) < 0.35  # sharp enough to fail


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
def test_explicit_weights(layers):
    """Images that differ by a factor of 5."""
    agrees(layers, largest=5)


@pytest.mark.parametrize("layers", AFTER_BATCH_NORM.values(), ids=AFTER_BATCH_NORM)
def test_explicit_weights_after_batch_norm(layers):
    """Images that differ from place to place only: from a BatchNorm on, all count as if they were alike."""
    agrees(layers, largest=1)


def test_second_moments_alone_know_the_sizes():
    net = Sequential(NETS["gated unit"], (C, 4, 4))
    inputs = np.random.default_rng(2).standard_normal((5, C, 4, 4)) * RNG.gamma(1.0, size=(5, 1, 4, 4))
    with_distances, without = (predict_growth(net, inputs, covariances=wanted) for wanted in (True, False))
    np.testing.assert_allclose(without.log_second_moment, with_distances.log_second_moment, rtol=1e-9)
