"""Finite width of convolutional networks: known variances, and explicit weights."""

import dataclasses

import numpy as np
import pytest

from bntheory import activation, cnn, initialization, predict_growth
from bntheory.growth.finite_width import kernel_noise
from bntheory.growth.finite_width.noise import Noise
from bntheory.growth.infinite_width import moments
from bntheory.growth.infinite_width.state import State
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pad, Pool, both
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


CHANNELS = LayerNorm(over="channels")
V1 = (Conv(24), RELU, *(Residual((Conv(24), RELU, Conv(24))), RELU) * 3, Pool(), Flatten(), Dense(24))
TANH, XAVIER = activation("tanh"), initialization("xavier_normal")
NETWORKS = {
    "plain": (Conv(24), RELU, Conv(24, stride=2), RELU, Conv(24, bias=0.5), RELU),
    "tanh": (Conv(24, init=XAVIER), TANH) * 4,
    "version-1 blocks": V1,
    "2×2 means": (Conv(24), RELU, Pool("average", 2), Conv(24), TANH, Pool("average", 2)),
    "LayerNorm": (Conv(24), LayerNorm(), RELU, Conv(24), LayerNorm(), TANH, Conv(24), LayerNorm(), TANH),
    "LayerNorm over channels": (Conv(24), CHANNELS, RELU, Conv(24), CHANNELS, TANH, Conv(24), RELU),
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
    own = [growth.name.index(name) for name in ("1", "4", "6.branch.1")]
    assert np.all(growth.log_growth_std[own] == 0) and {growth.band_method[row] for row in own} == {"first-order"}
    assert {words[name] for name in ("2", "5", "6.sum", "7", "8", "9")} == {"unsupported"}
    known = np.flatnonzero(growth.log_growth_std > 0)
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


def covariance(points, seed):
    factor = np.random.default_rng(seed).standard_normal((points, 6)) * np.linspace(0.5, 2, points)[:, None]
    return factor @ factor.T


def state_of(matrix):
    square = np.diagonal(matrix)
    with np.errstate(divide="ignore"):
        log_d = np.log(np.maximum(square[:, None] + square - 2 * matrix, 0))
    np.fill_diagonal(log_d, -np.inf)
    return State(np.log(square), log_d, None, 1)


@pytest.mark.parametrize(
    "layer", [Conv(9), Conv(9, stride=2), Conv(9, kernel=2, padding=0, bias=0.3), Conv(9, (1, 3))], ids=str
)
@pytest.mark.parametrize("smallest", [1.0, 1e-200])
def test_what_a_convolution_reads_is_weighted_by_second_moments(layer, smallest):
    """Against shares A of one output position after another, A R Aᵀ; a corner may be as good as silent."""
    shape, rng = (4, 9, 8), np.random.default_rng(3)
    q = rng.uniform(0.5, 2, (9, 8))
    q[:4, :4] *= smallest
    before = State(np.log(q.ravel()), np.zeros((72, 72)), None, 1)
    after = moments.through(layer, before, shape, 1)
    noise = Noise(covariance(72, 1).astype(np.float32), None, rng.standard_normal(72))
    read = kernel_noise.through(layer, noise, before, after, shape)

    variance, (top, left) = layer.weight_variance(shape) * shape[0], both(layer.padding)
    kernel = both(layer.kernel)
    rows = []
    for y, x in np.ndindex(*layer.output_shape(shape)[1:]):
        share = np.zeros((9 + 2 * top, 8 + 2 * left))
        starts = layer.stride * y, layer.stride * x
        place = tuple(slice(at, at + size) for at, size in zip(starts, kernel, strict=True))
        share[place] = np.pad(q, ((top, top), (left, left)))[place]
        share *= variance / (variance * share.sum() + layer.bias_variance(shape))
        rows.append(share[top : top + 9, left : left + 8].ravel())
    kept = np.exp(after.log_q - after.log_q.max()) > 1e-20  # of outputs that are as good as silent only: no warning
    expected = np.array(rows)[kept]
    np.testing.assert_allclose(
        read.within[np.ix_(kept, kept)], expected @ noise.within @ expected.T, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(read.shift[kept], expected @ noise.shift, rtol=1e-5, atol=1e-5)
    assert np.isfinite(read.within).all()


def test_squares_of_a_sum_vary_with_its_branch():
    """Cov((x + f)², (x' + f')²) given x is 4 E xx' E ff' + 2 (E ff')² (Isserlis)."""
    x, f = covariance(5, 1), covariance(5, 2) / 50
    states = state_of(x), state_of(f), dataclasses.replace(state_of(x + f), gaussian=False)
    linked = np.zeros((5, 5), np.float32), None
    still = dataclasses.replace(kernel_noise.start(states[0]), linked=linked)
    own = kernel_noise.added(Residual(Sequential((RELU,))), still, still, states, channels=10).own[0]
    size = np.diagonal(x + f)
    np.testing.assert_allclose(own, (4 * x * f + 2 * f**2) / (10 * size * size[:, None]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize("behind", [(), (Conv(16, 3),)], ids=["last", "convolved"])
def test_zeros_around_an_image_count_nothing_twice(name, behind):
    """The same networks, number by number, with zeros before φ, after it, or in a padding."""
    layer, phi = Conv(16, 3, padding=1), activation(name)
    pairs = [
        ((layer, phi, layer, Pad(1), phi, *behind), (layer, phi, layer, phi, Pad(1), *behind)),
        ((layer, phi, layer, Pad(1), Pool("average", 2)), (layer, phi, layer, Pool("average", 2, padding=1))),
        ((layer, phi, Pad(2), Conv(16, 3, padding=0)), (layer, phi, Conv(16, 3, padding=2))),
    ]
    for one, other in pairs:
        first, second = (predict_growth(Sequential(layers, (3, 6, 6))) for layers in (one, other))
        assert second.log_growth_std[-1] > 0.03
        assert first.log_growth_std[-1] == pytest.approx(second.log_growth_std[-1], rel=1e-5)
        assert first.log_growth_mean[-1] == pytest.approx(second.log_growth_mean[-1], abs=1e-5)
