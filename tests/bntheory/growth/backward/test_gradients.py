"""Gradients and their covariances between points, against exact pullbacks of sampled units and explicit weights."""

import json
import math
import pathlib

import numpy as np
import pytest

from bntheory import Activation, activation, from_json, mlp, predict_growth, resnet
from bntheory.growth.backward import covariances, gradient_rows, gradients
from bntheory.growth.backward.covariances import Field
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.growth.infinite_width import batch_norm
from bntheory.growth.infinite_width.moments import through
from bntheory.growth.infinite_width.state import State
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool, both
from bntheory.networks import Residual, Sequential
from simulations import pullbacks
from simulations.growth import simulate_growth, uncorrelated_inputs
from simulations.signal import Signal
from simulations.statistics import mean_with_error, tolerance
from simulations.steps import steps

DRAWS = pathlib.Path(__file__).parents[3] / "agreement" / "convolutional_draws"
RARE = 1e-5  # false alarm of a test's comparisons together
RELU = activation("relu")


def fields(side, copies, shared=0.5):
    """Covariances of smooth images within one and between two, and their state."""
    x, y = np.divmod(np.arange(side**2), side)
    distance = np.subtract.outer(x, x) ** 2 + np.subtract.outer(y, y) ** 2
    size = 1 + 0.3 * np.cos(x + 2 * y)
    cross = shared * np.exp(-distance / 8) * np.multiply.outer(size, size)
    within = cross + (1 - shared) * np.exp(-distance / 2) * np.multiply.outer(size, size)
    q = np.diagonal(within)
    with np.errstate(divide="ignore"):
        log_d, log_cross = (np.log(q[:, None] + q - 2 * block) for block in (within, cross))
    return within, cross, State(np.log(q), log_d, log_cross, copies, method="mean-field", lineage=frozenset((1,)))


def drawn(within, cross, copies, units, seed):
    """Units over a batch of images, (copies, units, side, side)."""
    whole = np.kron(np.eye(copies), within - cross) + np.kron(np.ones((copies, copies)), cross)
    rng, side = np.random.default_rng(seed), math.isqrt(len(within))
    values = rng.standard_normal((units, len(whole))) @ np.linalg.cholesky(whole + 1e-9 * np.eye(len(whole))).T
    return Signal(np.ascontiguousarray(values.reshape(units, copies, side, side).swapaxes(0, 1)), 0.0)


def measured(gradient):
    """Means over units, within an image and between two, the latter times the number of others."""
    values = (gradient.values * math.exp(gradient.log_scale)).reshape(*gradient.values.shape[:2], -1)
    copies, units, _ = values.shape
    within = np.einsum("iup,iuq->pq", values, values) / (copies * units)
    total = values.sum(axis=0)
    return within, total.T @ total / (copies * units) - within


def predicted(gradient):
    return [block * math.exp(gradient.log_scale) for block in gradient.moments() if block is not None]


def unequal(points, strength):
    """Covariances of a gradient: within an image and between two."""
    within = np.diag(1 + 0.5 * np.sin(np.arange(points))) + strength
    return within, np.full((points, points), 0.4 * strength)


# --- activations -----------------------------------------------------------------------------------------------------


def pair(log_q, rho):
    correlation = np.array([[1, rho], [rho, 1]], np.float32)
    return Field(np.array(log_q), (correlation, None))


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.4, 0.95, 1.0])
def test_slopes_of_pairs(rho):
    """E φ′(u)φ′(v) and E φ′(u)φ′(v)uv of variances 0.8, 1.7: Gauss–Hermite for smooth φ, 200,000 pairs at kinks."""
    q = np.array([0.8, 1.7])
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    smooth = np.repeat(node, 80), np.tile(node, 80), np.outer(weight, weight).ravel() / (2 * math.pi)
    g, e = np.random.default_rng(1).standard_normal((2, 200_000))
    for name in ("relu", "leaky_relu", "tanh", "gelu"):
        phi = activation(name)
        kinked = phi.homogeneous_slopes is not None
        first, second, weight = (g, e, np.full(len(g), 1 / len(g))) if kinked else smooth
        u, v = math.sqrt(q[0]) * first, math.sqrt(q[1]) * (rho * first + math.sqrt(1 - rho**2) * second)
        size = np.exp(phi.log_moments(np.log(q)).log_derivative.sum() / 2)
        for rule, factor in ((covariances.slopes, 1.0), (covariances.radial, u * v / q.mean())):
            values = phi.dphi(u) * phi.dphi(v) * factor / size
            mean = weight @ values
            error = values.std() / math.sqrt(len(values)) if kinked else 0.0
            found = rule(phi, pair(np.log(q), rho))[0][0, 1]
            assert abs(found - mean) < tolerance(error, RARE, 20) + (1e-6 if kinked else 3e-3)


def test_links_of_uncorrelated_gradients_stay_none():
    state, shape = fields(4, 2)[2], (8, 4, 4)
    gradient = gradient_rows.white(state)
    for layer in (RELU, Conv(8), Dropout(0.2), Pool("max", 2)):
        after = state
        if isinstance(layer, Pool):
            gradient = Gradient(np.ones(4), 0.0)
        assert gradients.pullback(layer, state, after, shape)(gradient).links is None


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Conv(6),
        Conv(6, 5, stride=2, padding=1),
        Conv(6, 2, dilation=2, padding=2, groups=2),
        Conv(6, (3, 2), (1, 2), (0, 3), (2, 1)),
    ],
)
def test_convolution_by_its_matrices(layer):
    """Σ_β R_βᵀ Π R_β with R_β what every output reads at that offset, times the variance of n outputs' weights."""
    shape = (4, 6, 5)
    outputs = layer.output_shape(shape)[1:]
    count, points = math.prod(outputs), 30
    within, cross = unequal(count, 0.7)
    expected = np.zeros((2, points, points))
    (height, width), stride = both(layer.kernel), both(layer.stride)
    padding, dilation = both(layer.padding), both(layer.dilation)
    for row, column in np.ndindex(height, width):
        read = np.zeros((count, points))
        for place in range(count):
            y = place // outputs[1] * stride[0] + row * dilation[0] - padding[0]
            x = place % outputs[1] * stride[1] + column * dilation[1] - padding[1]
            if 0 <= y < 6 and 0 <= x < 5:
                read[place, y * 5 + x] = 1
        expected += [read.T @ block @ read for block in (within, cross)]
    expected *= layer.weight_variance(shape) * 6 / layer.groups
    state = State(np.zeros(points), None, None, 3)
    given = gradient_rows.of_moments((within.astype(np.float32), cross.astype(np.float32)), 2.0)
    back = gradients.pullback(layer, state, state, shape)(given)
    for found, block in zip(predicted(back), expected, strict=True):
        np.testing.assert_allclose(found, block * math.exp(2), rtol=1e-5, atol=1e-5)
    diagonal = gradients.pullback(layer, state, state, shape)(Gradient(np.diagonal(within).copy(), 2.0))
    np.testing.assert_allclose(
        diagonal.points * math.exp(diagonal.log_scale), back.points * math.exp(back.log_scale), 1e-6
    )


@pytest.mark.parametrize(
    "layer", [Pool("average", 2), Pool("average", 3, 1), Pool(), Pool("max", 2), Pool("max", 3, 1)]
)
def test_pools_against_sampled_units(layer):
    """6,000 units pooled and pulled back: entries within 6% of the largest, or 16% where 512 fields choose the maxima.

    A share of ¼ has a standard error of 2% by 512 draws, 8% of itself, and less if it is larger.
    """
    within, cross, state = fields(6, 2)
    shape = (6000, 6, 6)
    outputs = layer.output_shape(shape)
    count = math.prod(outputs[1:])
    given = unequal(count, 0.7)
    _, back = pullbacks.pool(layer, drawn(within, cross, 2, 6000, seed=1))
    noise = drawn(*given, 2, 6000, seed=2) if outputs[1] ** 2 == count else None
    assert noise is not None
    sample = measured(back(noise))
    links = (given[0].astype(np.float32), given[1].astype(np.float32))
    after = through(layer, state, shape, 2)
    result = predicted(gradients.pullback(layer, state, after, shape)(gradient_rows.of_moments(links, 0.0)))
    for found, block in zip(result, sample, strict=True):
        assert np.max(np.abs(found - block)) < (0.16 if layer.kind == "max" else 0.06) * sample[0].max()
    assert np.trace(result[0]) == pytest.approx(np.trace(sample[0]), rel=0.02)


def test_dense_after_flatten():
    """Weights of different positions are independent: only images remain correlated, each position with itself."""
    state = State(np.zeros(4), np.zeros((4, 4)), np.zeros((4, 4)), 3)
    vector = gradient_rows.of_moments((np.ones((1, 1), np.float32), np.full((1, 1), 0.8, np.float32)), 0.0)
    back = gradients.pullback(Flatten(), state, state, (5, 2, 2))(vector)
    np.testing.assert_allclose(back.moments()[0], np.eye(4))
    np.testing.assert_allclose(back.moments()[1], 0.8 * np.eye(4), rtol=1e-6)


def test_dropout_parts_points():
    state = State(np.zeros(3), np.zeros((3, 3)), None, 1)
    given = gradient_rows.of_moments((unequal(3, 0.7)[0].astype(np.float32), None), 0.0)
    back = gradients.pullback(Dropout(0.2), state, state, (4, 3, 1))(given)
    expected = unequal(3, 0.7)[0] + np.diag(np.diagonal(unequal(3, 0.7)[0])) * 0.25
    np.testing.assert_allclose(predicted(back)[0], expected, rtol=1e-6)


# --- batch normalization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, copies", [(1, 8), (2, 4), (2, 8), (4, 8)])
@pytest.mark.parametrize("phi", [RELU, activation("linear"), activation("tanh")], ids=str)
def test_batch_norm_against_sampled_fields(side, copies, phi):
    """Units of the state's law normalized, activated and pulled back exactly, with a correlated gradient.

    The squared norm within 1% (3% for tanh: y is taken for Gaussian) and five standard errors, which is exceeded once
    in 10⁶; entries, which are approximate, within 10% of the Frobenius norm; the sum over the batch is zero.
    """
    units = 8000 if side < 4 else 4000
    within, cross, state = fields(side, copies)
    layer, shape, points = BatchNorm(epsilon=0), (units, side, side), side**2
    given = unequal(points, 0.5)
    y, back = pullbacks.normalization(layer, drawn(within, cross, copies, units, seed=3))
    _, back_phi = pullbacks.activation(phi, y)
    pulled = back(back_phi(drawn(*given, copies, units, seed=4)))
    sample = measured(pulled)
    after = through(layer, state, shape, 2)
    moments = given[0].astype(np.float32), (given[1] * (copies - 1)).astype(np.float32)
    gradient = gradients.pullback(phi, after, after, shape)(gradient_rows.of_moments(moments, 0.0))
    result = predicted(gradients.pullback(layer, state, after, shape)(gradient))
    squares = np.sum(pulled.values**2, axis=(0, 2, 3)) * math.exp(2 * pulled.log_scale) / copies
    mean, error = mean_with_error(squares)
    assert abs(np.trace(result[0]) - mean) < 5 * error + (0.03 if str(phi) == "tanh" else 0.01) * mean
    for found, block in zip(result, sample, strict=True):
        assert np.linalg.norm(found - block) < 0.1 * np.linalg.norm(sample[0])
    assert abs(sum(block.sum() for block in result)) < 1e-4 * np.abs(result[0]).sum()


@pytest.mark.parametrize("phi", [RELU, activation("tanh")], ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_vectors_explode_at_the_known_rate(phi, given):
    """Deep inside, the squared gradient grows by `growth_rate` a layer, whether inputs are given or not."""
    net = mlp(30, 4000, phi, batch_norm=True)
    inputs = uncorrelated_inputs((4000,), 8, 0) if given else None
    growth = predict_growth(net, inputs, None if given else 8)
    rates = np.diff(growth.log_gradient[1::3])[8:-8]
    np.testing.assert_allclose(
        -rates, math.log(batch_norm.growth_rate(phi, 8)), atol=2e-4 if str(phi) == "relu" else 5e-3
    )


def test_a_map_of_one_position_is_a_vector():
    """The rule of images agrees with the exact one of vectors at ReLU and at nothing."""
    _, _, state = fields(1, 8)
    layer = BatchNorm(epsilon=1e-3, gamma=1.5)
    after = through(layer, state, (5, 1, 1), 2)
    for phi in (RELU, activation("linear")):
        gradient = gradients.pullback(phi, after, after, (5, 1, 1))(Gradient(np.ones(1), 0.0))
        exact = gradients.pullback(layer, state, after, (5, 1, 1))(gradient)
        radial = gradient.above.radial if gradient.above is not None else lambda: covariances.diagonal(1)
        gradient = Gradient(gradient.values, gradient.log_scale, None, gradient_rows.Above(radial))
        field = gradients.pullback(layer, state, after, (5, 1, 1))(gradient)
        assert field.log_total(1) == pytest.approx(exact.log_total(1), abs=2e-3)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain_8", "pooled_8", "resnet20_8", "plain_bn_8", "pooled_bn_8", "resnet20_bn_8"])
def test_networks_with_explicit_weights(name):
    """200 networks a file: ln E of squared gradients of every row within 0.05 + 1/(2C) and four standard errors.

    A weight's norm varies from channel to channel if it reads n numbers only, and E 1/s² is larger, up to n/(n − 2):
    that is allowed before a BatchNorm. Four standard errors are exceeded once in 16,000 (Gaussian).
    """
    record = np.load(DRAWS / f"gradients_{name}.npz")
    about = json.loads(str(record["about"]))
    net, shape = from_json(json.dumps(about["network"])), tuple(about["network"]["input_shape"])
    growth = predict_growth(net, uncorrelated_inputs(shape, 8, int(about["seed"])))
    channels = min(row.shape[0] for row in growth.rows if isinstance(row.layer, Conv))
    normalized = any(isinstance(row.layer, BatchNorm) for row in growth.rows)
    inputs = {step.row: step.input_shape[0] for step in steps(net)}
    for column in ("log_gradient", "log_weight_gradient"):
        values = np.exp(record[column].astype(float))
        for k, row in enumerate(growth.rows):
            if column == "log_weight_gradient" and not isinstance(row.layer, (Conv, Dense)):
                continue
            mean, error = mean_with_error(values[:, k])
            allowed = 0.05 + 4 * error / mean + 1 / (2 * channels)
            if normalized and isinstance(row.layer, Conv):
                allowed -= math.log1p(-2 / (inputs[k] * row.layer.kernel**2))
            predicted_log = getattr(growth, column)[k]
            assert abs(predicted_log - math.log(mean)) < allowed, (row.name, column)


def test_depth_and_no_distances():
    """Nothing overflows at depth 900; without distances, weight gradients remain where nothing mixes points."""
    deep = Sequential(tuple(part for _ in range(300) for part in (Conv(4), BatchNorm(), RELU)), (4, 3, 3))
    assert np.all(np.isfinite(predict_growth(deep, batch_size=6).log_gradient))
    plain = Sequential((Conv(4), RELU, Conv(4), RELU, Flatten(), Dense(3)), (2, 5, 5))
    with_distances = predict_growth(plain, batch_size=6)
    without = predict_growth(plain, batch_size=6, covariances=False)
    np.testing.assert_allclose(without.log_weight_gradient, with_distances.log_weight_gradient, rtol=1e-12)
    assert np.isfinite(predict_growth(resnet(8, image=(3, 8, 8)), batch_size=6).log_weight_gradient[-1])


def test_covariances_that_rounding_left_below_zero_are_zero():
    within = np.array([[-1e-20, 0.0], [0.0, 1.0]], np.float32)
    gradient = gradient_rows.of_moments((within, None), 0.0)
    assert gradient.points.tolist() == [0.0, 1.0]
    assert gradient.mean_part == pytest.approx(0.5)


def test_a_maximum_over_activations_of_a_sum():
    """The maximum is where the slope is 1: the gradient before the activation is that after it, within 3%."""
    conv = (Conv(32), BatchNorm())
    net = Sequential((*conv, RELU, Residual((*conv, RELU, *conv)), RELU, Pool("max", 2), Conv(32)), (3, 6, 6))
    growth = predict_growth(net, batch_size=4)
    samples = simulate_growth(net, 40, batch=4, seed=1, method="weights")
    row = growth.name.index("3.sum")
    mean, error = mean_with_error(np.exp(samples.log_gradient[:, row] - growth.log_gradient[row]))
    assert abs(mean - 1) < 0.03 + tolerance(error, RARE)
    assert growth.log_gradient[row + 1] - growth.log_gradient[row] < 0.05  # ln 2 if slopes were independent of it


ON_RELU = {
    "vectors": ((60,), (Dense(200), RELU, LayerNorm(), Dense(200), RELU, LayerNorm(0.3), Dense(200))),
    "images": ((9, 5, 5), (Conv(128), RELU, LayerNorm(), Conv(128), RELU, LayerNorm(0.3), Conv(128))),
    "channels": ((9, 5, 5), (*(Conv(128), RELU, LayerNorm(over="channels")) * 2, Conv(128))),
    "groups of one or two channels": (
        (9, 5, 5),
        (Conv(128), GroupNorm(128), RELU, Conv(128), GroupNorm(64, 0.1), RELU, Conv(128)),
    ),
    "channels, centred": ((9, 5, 5), (*(Conv(128), LayerNorm(0.1, "channels"), RELU) * 2, Conv(128))),
}


@pytest.mark.parametrize("name", ON_RELU)
def test_layer_norms_divide_gradients_by_the_standard_deviation(name):
    """Not by the root of the second moment, which is 1/(1 − 1/π) times the variance after a ReLU: against weights."""
    shape, layers = ON_RELU[name]
    net = Sequential(layers, shape)
    growth = predict_growth(net, batch_size=2)
    samples = simulate_growth(net, 60, batch=2, seed=3, method="weights")
    for row in range(2, len(growth.rows)):
        mean, error = mean_with_error(np.exp(samples.log_gradient[:, row] - growth.log_gradient[row]))
        assert abs(mean - 1) < 0.05 + tolerance(error, RARE, len(growth.rows)), growth.name[row]


@pytest.mark.parametrize("inner", ["relu", "leaky_relu"])
def test_two_activations_in_turn_are_one(inner):
    """tanh after φ, and their composition: the same networks. Images are smooth, so that slopes go together."""
    first, second = activation(inner), activation("tanh")
    whole = Activation.from_function(
        "whole", lambda h: second.phi(first.phi(h)), lambda h: second.dphi(first.phi(h)) * first.dphi(h)
    )
    images = np.random.default_rng(0).standard_normal((8, 3, 12, 12)).cumsum(axis=2).cumsum(axis=3)[..., 4:, 4:]
    images /= np.sqrt(np.mean(images**2, axis=(1, 2, 3), keepdims=True))
    conv, tail = Conv(64, 3, padding=1), (Pool("average"), Flatten(), Dense(8))
    one, other = (
        predict_growth(Sequential((conv, conv, *phis, *tail), (3, 8, 8)), inputs=images)
        for phis in ((first, second), (whole,))
    )
    np.testing.assert_allclose(one.log_weight_gradient[1:3], other.log_weight_gradient[1:3], rtol=0, atol=0.02)
    np.testing.assert_allclose(one.log_gradient[:3], other.log_gradient[:3], rtol=0, atol=0.005)
