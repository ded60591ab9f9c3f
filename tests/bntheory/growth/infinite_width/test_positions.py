"""Images, against a slow recursion of the full covariance matrix over (image, position), offset by offset.

The recursion knows every image by itself. The theory knows mean images only: the two agree where images are alike, as
those here are: what they share is the same in all, and what they do not is the same up to the channels that hold it.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate

from bntheory import activation, predict_growth
from bntheory.activations import Activation
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.state import start
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, ZeroPad, both
from bntheory.networks import Residual, Sequential, output_shape

RELU, TANH = activation("relu"), activation("tanh")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def read(layer, shape):
    """Which position every output position reads at every offset of the kernel, None for padding."""
    height, width = shape[1:]
    (k_y, k_x), (s_y, s_x) = both(layer.kernel), both(layer.stride)
    (p_y, p_x), (d_y, d_x) = both(getattr(layer, "padding", 0) or 0), both(getattr(layer, "dilation", 1))
    rows = []
    for i, j in itertools.product(*(range(side) for side in layer.output_shape(shape)[1:])):
        row = []
        for a, b in itertools.product(range(k_y), range(k_x)):
            y, x = s_y * i + d_y * a - p_y, s_x * j + d_x * b - p_x
            row.append(y * width + x if 0 <= y < height and 0 <= x < width else None)
        rows.append(row)
    return rows


def offset_matrices(layer, shape):
    """For every offset the matrix that moves images there; rows of padding are zero."""
    rows = read(layer, shape)
    for offset in range(len(rows[0])):
        matrix = np.zeros((len(rows), math.prod(shape[1:])))
        for place, row in enumerate(rows):
            if row[offset] is not None:
                matrix[place, row[offset]] = 1
        yield matrix


def on_positions(matrix, k):
    return np.einsum("ap,ipjq,bq->iajb", matrix, k, matrix)


def diagonal(k):
    return np.einsum("ipip->ip", k)


def means(k):
    """K_ip,j: the mean over the positions of the second image; K_ij: over both."""
    return k.mean(axis=3), k.mean(axis=(1, 3))


def activated(phi, k):
    flat = k.reshape(k.shape[0] * k.shape[1], -1)
    size = np.sqrt(np.diag(flat))
    product = np.outer(size, size)
    rho = np.clip(np.divide(flat, product, out=np.zeros_like(flat), where=product > 0), -1, 1)
    if phi is RELU:  # Cho and Saul 2009
        new = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi) * product
    else:
        new = np.zeros_like(flat)
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            v = rho[..., None] * node + np.sqrt(1 - rho**2)[..., None] * NODES
            new += weight * phi.phi(size * node)[:, None] * (phi.phi(size[:, None] * v) @ WEIGHTS)
        new = (new + new.T) / 2
    return new.reshape(k.shape)


def normalized(k, epsilon):
    """E y y', y = h/√(s² + ε), s² the mean of h² over Gaussian points of covariance k: E of g² λ/(Σ λ g²/n + ε)."""
    modes, axes = np.linalg.eigh(k)
    modes = np.maximum(modes, 0)
    n, scale = len(modes), modes.mean()

    def share(log_t, mode):  # by 1/x = ∫ exp(−x t) dt
        t = math.exp(log_t) / scale
        log_laplace = -0.5 * np.log1p(2 * t * modes / n).sum() - epsilon * t
        return t * math.exp(log_laplace) * mode / (1 + 2 * t * mode / n)

    gained = [
        integrate.quad(share, -25, 25, (mode,), epsabs=1e-12, epsrel=1e-10, limit=400)[0] if mode > 1e-12 * scale else 0
        for mode in modes
    ]
    return (axes * gained) @ axes.T


def moved(layer, k, shape):
    """K_ip,jq = E h_ip h_jq over channels, (images, positions, images, positions), after a layer."""
    if isinstance(layer, Conv):
        total = sum(on_positions(matrix, k) for matrix in offset_matrices(layer, shape))
        return total * layer.weight_variance(shape) * shape[0] / layer.groups + layer.bias_variance(shape)
    if isinstance(layer, Dense):
        return k * layer.weight_variance(shape) * shape[0] + layer.bias_variance(shape)
    if isinstance(layer, Activation):
        return activated(layer, k)
    if isinstance(layer, BatchNorm) and not layer.training:
        return k * layer.gamma**2 / (1 + layer.epsilon)
    if isinstance(layer, BatchNorm):
        k = k - k.mean(axis=(0, 1)) - k.mean(axis=(2, 3))[..., None, None] + k.mean()
        return layer.gamma**2 * normalized(k.reshape(k.shape[0] * k.shape[1], -1), layer.epsilon).reshape(k.shape)
    if isinstance(layer, (LayerNorm, GroupNorm)):
        if isinstance(layer, GroupNorm):
            members = shape[0] // layer.groups
            one, all_of_them = means(k)
            other = np.moveaxis(one, 2, 0)
            k = k - (one[..., None] + other[:, None] - all_of_them[:, None, :, None]) / members
        alone = isinstance(layer, LayerNorm) and layer.over == "channels"
        size = np.sqrt((diagonal(k) if alone else diagonal(k).mean(axis=1, keepdims=True)) + layer.epsilon)
        return k / size[:, :, None, None] / size
    if isinstance(layer, Dropout):
        k = k.copy()
        np.einsum("ipip->ip", k)[:] /= 1 - layer.rate
        return k
    if isinstance(layer, Pool):
        assert layer.kind == "average"
        whole = layer.kernel is None
        matrix = np.full((1, k.shape[1]), 1 / k.shape[1]) if whole else sum(offset_matrices(layer, shape))
        return on_positions(matrix if whole else matrix / math.prod(both(layer.kernel)), k)
    if isinstance(layer, Pad):
        (top, bottom), (left, right) = layer.sides
        height, width = shape[1:]
        full = np.zeros((len(k), top + height + bottom, left + width + right) * 2)
        inside = (slice(None), slice(top, top + height), slice(left, left + width))
        full[inside * 2] = k.reshape((len(k), height, width) * 2)
        points = full[0, :, :, 0, 0, 0].size
        return full.reshape((len(k), points) * 2)
    if isinstance(layer, Flatten):
        return np.einsum("ipjp->ij", k)[:, None, :, None] / k.shape[1]
    assert isinstance(layer, ZeroPad)
    kept = np.arange(k.shape[1]).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()
    return k[:, kept][:, :, :, kept] * shape[0] / layer.channels


def recursion(sequence, k, shape):
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from recursion(layer.branch, k, shape)
            k = layer.scale**2 * branch + (yield from recursion(layer.shortcut, k, shape))
        else:
            k = moved(layer, k, shape)
        yield k
        shape = output_shape(layer, shape)
    return k


def alike(shape, seed=0):
    """Three images of one mean pattern in the first channels, and each one's own pattern in channels of its own."""
    channels, *sides = shape
    rng = np.random.default_rng(seed)
    images = np.zeros((3, *shape))
    images[:, : channels - 3] = rng.standard_normal((channels - 3, *sides)) + 0.3
    own = 1.5 * rng.standard_normal(sides)
    for index in range(3):
        images[index, channels - 3 + index] = own
    return images


def agree(net, inputs, tolerance):
    """Second moment, channel mean square, variance and 1 − cos of every row; inputs: given, or how many."""
    shape = net.input_shape
    points = math.prod(shape[1:])
    if isinstance(inputs, int):
        growth = predict_growth(net, batch_size=inputs)
        k = np.eye(inputs * points).reshape(inputs, points, inputs, points)
    else:
        growth = predict_growth(net, inputs)
        flat = inputs.reshape(*inputs.shape[:2], -1)
        k = np.einsum("icp,jcq->ipjq", flat, flat) / shape[0]
    states = [k, *recursion(net, k, shape)]
    assert len(states) == len(growth.rows) and growth.unsupported is None
    second = np.array([diagonal(k).mean() for k in states])
    np.testing.assert_allclose(growth.second_moment, second, rtol=tolerance)
    mean_square, variance = np.exp(growth.log_channel_mean_square), np.exp(growth.log_channel_variance)
    assert np.all(np.abs(mean_square - [k.mean() for k in states]) < tolerance * second)
    assert np.all(np.abs(variance - (second - [k.mean() for k in states])) < tolerance * second)
    if len(k) > 1:
        cross = [np.einsum("ipjp->ij", k)[0, 1] / k.shape[1] for k in states]
        apart = np.exp(growth.log_cosine_distance)
        assert np.all(np.abs(apart - (1 - cross / second)) < tolerance)
    return growth


WIDE = 6 * 10**8  # channels: what finite width does to distances falls as 1/channels
BRANCH = (BatchNorm(), RELU, Conv(WIDE, bias=0.1), BatchNorm(0.2), RELU, Conv(WIDE, 1))
INNER = Residual((RELU, Conv(WIDE)), scale=2.0)
POOLS = (Conv(WIDE), RELU, Pool("average", 2, 1), Conv(WIDE), Pool("average", 3, 2), RELU, Pool())
SIZES = (Conv(WIDE, 2), RELU, Conv(WIDE, 5), RELU, Conv(WIDE, 1), RELU, Conv(WIDE, 3, padding=0), RELU)
CHANNELS = LayerNorm(over="channels")
CLOSED = {
    "stride and bias": (Conv(WIDE, stride=2), RELU, Conv(WIDE, bias=0.2), RELU, Conv(WIDE, stride=3)),
    "kernels": (*SIZES, Conv(WIDE, 1, padding=1), RELU, Conv(WIDE, 9, padding=4), RELU),
    "unequal sides": (Conv(WIDE, (3, 1), (1, 2)), RELU, Conv(WIDE, (2, 3), padding=(1, 0), dilation=(2, 1)), RELU),
    "unequal pools": (Conv(WIDE, (1, 5)), Pool("average", (2, 3), (1, 2)), RELU, Conv(WIDE, 1, (2, 1)), RELU),
    "padded pools": (Conv(WIDE), Pool("average", 3, 2, 1), RELU, Conv(WIDE), Pool("average", (4, 3), 1, (2, 0)), RELU),
    "zeros around": (Conv(WIDE), Pad((1, 0, 2, 0)), RELU, Conv(WIDE, padding=0), Pad(1), BatchNorm(), RELU, Pool()),
    "dilation": (Conv(WIDE, dilation=2), RELU, Conv(WIDE, 2, dilation=3, padding=2, init="torch_default"), RELU),
    # ten channels a group: units of up to 32 weights are no Gaussian ones (test_kernels.py)
    "groups": (Conv(WIDE), RELU, Conv(WIDE, groups=WIDE // 10), RELU, Conv(WIDE, groups=3, init="xavier_normal"), RELU),
    "BatchNorm": (Conv(WIDE, bias=0.3), BatchNorm(), RELU, Conv(WIDE), BatchNorm(0.5, 2.0), RELU, Conv(WIDE)),
    "LayerNorm": (Conv(WIDE), LayerNorm(0.3), RELU, Conv(WIDE, bias=0.1), LayerNorm(), RELU),
    "LayerNorm over channels": (Conv(WIDE), LayerNorm(0.3, "channels"), RELU, Conv(WIDE), CHANNELS, RELU, Pool()),
    "LayerNorm beside zeros": (Conv(WIDE), Pad((0, 1, 1, 0)), CHANNELS, RELU, Conv(WIDE, bias=0.1), CHANNELS, RELU),
    "GroupNorm of two channels": (Conv(WIDE), GroupNorm(WIDE // 2, 0.1), RELU, Conv(WIDE), GroupNorm(WIDE // 2), RELU),
    "GroupNorm of single channels": (Conv(WIDE, bias=1.0), GroupNorm(WIDE), RELU, Conv(WIDE), GroupNorm(1), RELU),
    "Dropout": (Dropout(0.3), Conv(WIDE), RELU, Dropout(0.5), Conv(WIDE), Dropout(0.9), Conv(WIDE)),
    "average pools": (*POOLS, Flatten(), Dense(WIDE)),
    "flattened": (Conv(WIDE), RELU, Flatten(), Dense(WIDE, bias=0.2), RELU, Dense(WIDE)),
    "zero-padded": (Conv(WIDE // 3), ZeroPad(WIDE, 2), Conv(WIDE), RELU, Conv(WIDE)),
    "a zero-padded shortcut": (Conv(WIDE // 3), Residual((RELU, Conv(WIDE, stride=2)), (ZeroPad(WIDE, 2),), 0.5)),
    "pre-activation blocks": (Conv(WIDE), Residual(BRANCH), Residual(BRANCH, scale=0.3), BatchNorm(), RELU, Pool()),
    "a projected shortcut": (Conv(WIDE), Residual((*BRANCH[:-1], Conv(WIDE, 1, 2)), (Conv(WIDE, 1, 2),)), RELU),
    "a block in a block": (Conv(WIDE), Residual((RELU, Conv(WIDE), INNER, RELU, Conv(WIDE))), RELU),
    "no training": (Conv(WIDE), BatchNorm(0.5, gamma=2.0, training=False), RELU, Conv(WIDE)),
}


@pytest.mark.parametrize("layers", CLOSED.values(), ids=CLOSED)
def test_images_against_the_full_covariance_matrix(layers):
    """Given images that are alike, uncorrelated ones, and a single one; on a map that is not square."""
    net = Sequential(layers, (6, 5, 6))
    for inputs in (alike(net.input_shape), 2, 1):
        agree(net, inputs, 1e-7)


def test_smooth_activations_against_the_full_covariance_matrix():
    """The Hermite series has an error of 1e-3 at worst (`bntheory.growth.infinite_width.hermite`)."""
    for phi in (TANH, activation("gelu")):
        layers = (Conv(WIDE, bias=0.2), phi, Conv(WIDE), BatchNorm(0.1), phi, Pool("average", 2), Conv(WIDE), phi)
        agree(Sequential(layers, (6, 4, 4)), alike((6, 4, 4), seed=1), 1e-3)


def test_the_recursion_can_fail():
    net = Sequential((Conv(30), RELU, Conv(30)), (6, 5, 6))
    other = Sequential((Conv(30), RELU, Conv(30, dilation=2)), (6, 5, 6))
    k = np.eye(30).reshape(1, 30, 1, 30)
    predicted = predict_growth(net, batch_size=1).second_moment[-1]
    assert predicted != pytest.approx(diagonal([*recursion(other, k, (6, 5, 6))][-1]).mean(), rel=0.01)


@pytest.mark.parametrize(
    "layer",
    [Pool("average", 3, 2), Pool("max", 2), Pool("max", 2, 1), Pool("max", (1, 3), (2, 1)), Pool("max", (3, 2), 2, 1)],
    ids=str,
)
def test_windows_are_read_as_by_hand(layer):
    shape = (1, 5, 6)
    places = [[-1 if place is None else place for place in row] for row in read(layer, shape)]
    assert positions.windows(layer, shape).tolist() == places
    matrix = positions.averaging(layer, shape)
    image = np.append(np.random.default_rng(0).standard_normal(30), 0.0)
    expected = [np.mean(image[row]) for row in places]
    image = image[:-1]
    np.testing.assert_allclose(matrix @ image, expected, rtol=1e-12)


def test_zero_padding_lowers_second_moments():
    """What a padded 3×3 kernel keeps on an n×n map: ((3n − 2)/3n)² in the first layer, then ((1 + 2 cos(π/(n + 1)))/3)²
    a layer, the largest eigenvalue of a path's adjacency matrix."""
    for side, first, later in ((8, 0.840, 0.92121), (16, 0.918, 0.97743), (32, 0.959, 0.99397)):
        net = Sequential((Conv(16), RELU) * (8 * side), (3, side, side))
        logs = predict_growth(net, covariances=False).log_second_moment[2::2]
        assert math.exp(logs[0]) == pytest.approx(((3 * side - 2) / (3 * side)) ** 2, rel=1e-12)
        assert math.exp(logs[0]) == pytest.approx(first, abs=5e-4)
        assert math.exp(logs[-1] - logs[-2]) == pytest.approx(
            ((1 + 2 * math.cos(math.pi / (side + 1))) / 3) ** 2, rel=1e-4
        )
        assert math.exp(logs[-1] - logs[-2]) == pytest.approx(later, abs=1e-4)


def test_distances_far_outside_float64():
    """A factor 10^±200 on second moments shifts logarithms only."""
    state = start(alike((6, 4, 4)), (6, 4, 4), None)
    layer = Conv(8, stride=2)
    log_q, blocks, _ = positions.convolved(layer, state, (6, 4, 4))
    for shift in (-1000.0, 1000.0):
        moved_state = state.mapped(lambda block, by=shift: block + by)
        moved_state = type(state)(state.log_q + shift, moved_state.log_d, moved_state.log_cross, 3)
        shifted_q, shifted, _ = positions.convolved(layer, moved_state, (6, 4, 4))
        np.testing.assert_allclose(shifted_q, log_q + shift, rtol=1e-13)
        for block, other in zip(blocks, shifted, strict=True):
            np.testing.assert_allclose(other, block + shift, rtol=1e-13)


@pytest.mark.parametrize(
    "layer",
    [
        Conv(1),
        Conv(1, kernel=2, padding=0),
        Conv(1, stride=2),
        Conv(1, kernel=2, padding=2, dilation=3),
        Conv(1, (2, 3), (2, 1), (0, 2)),
    ],
    ids=str,
)
def test_window_sums_are_taken_as_by_hand(layer):
    shape = (1, 5, 6)
    values = np.random.default_rng(0).standard_normal((3, 30))
    expected = [
        [sum(row[place] for place in places if place is not None) for places in read(layer, shape)] for row in values
    ]
    np.testing.assert_allclose(positions.window_sums(layer, shape, values), expected, rtol=1e-12, atol=1e-14)


def test_sums_of_logarithms():
    edges = [-math.inf, -1e300, -800.0, -1.0, 0.0, 1e-9, 37.0, 800.0, 1e300]
    first, second = (np.concatenate([part.ravel(), np.arange(200.0)]) for part in np.meshgrid(edges, edges))
    np.testing.assert_allclose(positions.log_sum(first, second), np.logaddexp(first, second), rtol=1e-15)
