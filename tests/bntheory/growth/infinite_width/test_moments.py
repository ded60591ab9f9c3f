"""Infinite width, against a recursion of the full covariance matrix with another quadrature, and by hand."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate

from bntheory import activation, from_json, mlp, predict_growth
from bntheory.activations import KNOWN, Activation
from bntheory.gaussian import homogeneous_product
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth, statistics
from simulations.growth import uncorrelated_inputs

RNG = np.random.default_rng(7)
INPUTS = RNG.standard_normal((5, 6)) * [[0.5], [1.0], [1.0], [2.0], [1.5]]
RELU, TANH = activation("relu"), activation("tanh")
ANGLE_NODES, ANGLE_WEIGHTS = np.polynomial.legendre.leggauss(40)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
RADIUS, RADIUS_WEIGHTS = 6.5 * (NODES + 1), 6.5 * WEIGHTS * 6.5 * (NODES + 1) * np.exp(-((6.5 * (NODES + 1)) ** 2) / 2)


def product_moment(phi, a, b, c):
    """E φ(u)φ(v) for variances a, b and correlation c: polar coordinates, panels between the rays u = 0 and v = 0."""
    angle = math.acos(min(1.0, max(-1.0, c)))
    rays = np.mod([math.pi / 2, -math.pi / 2, angle + math.pi / 2, angle - math.pi / 2], 2 * math.pi)
    edges = np.sort(rays)
    edges = np.append(edges, edges[0] + 2 * math.pi)
    total = 0.0
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        theta = first + (last - first) * (ANGLE_NODES + 1) / 2
        u = math.sqrt(a) * np.outer(np.cos(theta), RADIUS)
        v = math.sqrt(b) * np.outer(np.cos(theta - angle), RADIUS)
        total += (last - first) / 2 * ANGLE_WEIGHTS @ (phi(u) * phi(v)) @ RADIUS_WEIGHTS / (2 * math.pi)
    return total


def normalized(k, epsilon, slopes=(1.0, 1.0)):
    """Behind BatchNorm, adaptively: with weights e^{−t s²}, units have the covariances A (1 + 2tA/B)^{−1}."""
    centre = np.eye(len(k)) - 1 / len(k)
    a = centre @ k @ centre

    def at(t):
        damping = np.eye(len(k)) + 2 * t / len(k) * a
        tilted = np.linalg.solve(damping, a)
        size = np.sqrt(np.diag(tilted))
        product = homogeneous_product(slopes, np.clip(tilted / np.outer(size, size), -1, 1)) * np.outer(size, size)
        return math.exp(-epsilon * t) / math.sqrt(np.linalg.det(damping)) * product

    return integrate.quad_vec(at, 0, math.inf, epsabs=1e-11, epsrel=1e-10)[0]


def moved(layer, k, fan_in):
    """The covariance matrix E h_i h_j over units, after a layer."""
    if isinstance(layer, Dense):
        return k * fan_in * layer.weight_variance((fan_in,)) + layer.bias_variance((fan_in,))
    if isinstance(layer, Activation):
        size, new = np.sqrt(np.diag(k)), np.empty_like(k)
        for i, j in np.ndindex(k.shape):
            new[i, j] = product_moment(layer.phi, k[i, i], k[j, j], k[i, j] / (size[i] * size[j]))
        return new
    if isinstance(layer, BatchNorm):
        return normalized(k, layer.epsilon)
    if isinstance(layer, LayerNorm):
        size = np.sqrt(np.diag(k) + layer.epsilon)
        return k / np.outer(size, size)
    if isinstance(layer, Dropout):
        return k + np.diag(np.diag(k)) * layer.rate / (1 - layer.rate)
    return k


def recursion(sequence, k, width):
    before, divided = None, k
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from recursion(layer.branch, k, width)
            shortcut = yield from recursion(layer.shortcut, k, width)
            k = layer.scale**2 * branch + shortcut
        elif isinstance(layer, Sequential):
            k = yield from recursion(layer, k, width)
            continue
        elif isinstance(before, BatchNorm) and getattr(layer, "homogeneous_slopes", None):
            k = normalized(divided, before.epsilon, layer.homogeneous_slopes)
        else:
            divided, k = k, moved(layer, k, width)
        before = layer
        yield k
        width = getattr(layer, "features", width)
    return k


def agree(net, inputs, tolerance=1e-8):
    k = inputs @ inputs.T / inputs.shape[1]
    growth = predict_growth(net, inputs)
    states = [k, *recursion(net, k, net.input_shape[0])]
    assert len(states) == len(growth.rows)
    np.testing.assert_allclose(growth.second_moment, [np.trace(k) / len(k) for k in states], rtol=tolerance)
    scale = np.array([np.trace(k) / len(k) for k in states])
    mean_square, variance = np.exp(growth.log_channel_mean_square), np.exp(growth.log_channel_variance)
    assert np.all(np.abs(mean_square - [k.mean() for k in states]) < tolerance * scale)
    assert np.all(np.abs(variance - [np.trace(k) / len(k) - k.mean() for k in states]) < tolerance * scale)


@pytest.mark.parametrize("name", [*KNOWN, "leaky_relu(-0.5)"])
@pytest.mark.parametrize("bias", [None, 0.2])
def test_plain_networks(name, bias):
    """The quadrature here errs by up to 1e-4 at kinks away from 0."""
    net = mlp(3, 20, name, initialization("lecun_normal", gain=1.3), bias, input_width=6)
    agree(net, INPUTS, 1e-4 if activation(name).kinks else 1e-8)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "linear"])
@pytest.mark.parametrize("options", [{"batch_norm": True}, {"residual": True}, {"batch_norm": True, "residual": True}])
def test_batch_norm_and_residual_blocks(name, options):
    many = np.concatenate([INPUTS, INPUTS[::-1] * 0.7 + 0.2, RNG.standard_normal((6, 6))])  # BatchNorm: 16 or more
    agree(mlp(3, 20, name, "he_normal", 0.1, input_width=6, **options), many)


@pytest.mark.parametrize("batch", [2, 3, 7])
@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
def test_batch_norm_over_a_small_batch(name, batch):
    """Over 2 … 15 inputs BatchNorm's outputs lie on a small sphere, here by sampling units one by one.

    400,000 units of a first layer; uncorrelated inputs of batch statistics; false-alarm rate 1e-6 of six comparisons.
    """
    phi, epsilon = activation(name), 1e-14  # a large one counts where a unit hardly varies
    growth = predict_growth(Sequential((Dense(8, "lecun_normal"), BatchNorm(epsilon), phi), (8,)), batch_size=batch)
    assert growth.unsupported is None
    u = np.random.default_rng(11).standard_normal((400_000, batch))
    h = phi.phi((u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + epsilon))
    for values, log in (
        (np.mean(h**2, axis=1), growth.log_second_moment),
        (h.var(axis=1), growth.log_channel_variance),
        (h.mean(axis=1) ** 2, growth.log_channel_mean_square),
    ):
        mean, error = statistics.mean_with_error(values)
        assert abs(mean - math.exp(log[-1])) < statistics.tolerance(error, 1e-6, 6) + 1e-6


def test_batch_norm_over_few_given_inputs_of_unlike_sizes():
    """The first layer's units one by one, 400,000 of them: within 1/B of E s/Var u, which mean field replaces by 1."""
    x = INPUTS[:4]
    growth = predict_growth(Sequential((Dense(8), BatchNorm(), TANH), (6,)), x)
    u = np.random.default_rng(12).standard_normal((400_000, 6)) @ x.T / math.sqrt(3)  # He: 2/6
    h = np.tanh((u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + 1e-5))
    assert growth.moment_method[-1] == "population"
    assert growth.second_moment[-1] == pytest.approx(np.mean(h**2), rel=0.005)
    assert np.exp(growth.log_channel_variance[-1]) == pytest.approx(np.mean(h.var(axis=1)), rel=0.005)


def test_given_inputs_pass_through_layers_without_weights_as_they_are():
    """Activation, Flatten and BatchNorm before the first weights are applied to the inputs; images keep channels."""
    rng = np.random.default_rng(4)
    images = rng.standard_normal((4, 3, 5, 5)) + np.array([1.0, -2.0, 0.5])[:, None, None]
    net = Sequential((activation("tanh"), BatchNorm(0.01), Flatten(), activation("relu"), Dense(7)), (3, 5, 5))
    growth = predict_growth(net, images)
    h = np.tanh(images)
    normal = (h - h.mean((0, 2, 3), keepdims=True)) / np.sqrt(h.var((0, 2, 3), keepdims=True) + 0.01)
    values = [images, h, normal, normal.reshape(4, -1), np.maximum(normal, 0).reshape(4, -1)]
    for row, value in enumerate(values):
        rest = tuple(axis for axis in range(value.ndim) if axis != 1)
        assert growth.second_moment[row] == pytest.approx(np.mean(value**2), rel=1e-12)
        assert np.exp(growth.log_channel_variance[row]) == pytest.approx(np.mean(value.var(axis=rest)), rel=1e-12)
        mean_square = np.mean(value.mean(axis=rest) ** 2)
        assert np.exp(growth.log_channel_mean_square[row]) == pytest.approx(mean_square, rel=1e-10)
        assert growth.moment_method[row] == "exact"
    assert growth.second_moment[-1] == pytest.approx(2 * np.mean(values[-1] ** 2), rel=1e-12)  # He: fan_in · Var w = 2


def test_torch_default_has_its_own_bias():
    """Weights and biases uniform on ±1/√fan_in: σ_w² = 1/3 and σ_b² = 1/(3 fan_in)."""
    growth = predict_growth(mlp(2, 20, "linear", "torch_default", input_width=6))
    first = 1 / 3 + 1 / 18
    assert growth.second_moment[[1, 3]] == pytest.approx([first, first / 3 + 1 / 60])
    agree(mlp(3, 20, "relu", "torch_default", input_width=6), INPUTS)


@pytest.mark.parametrize("init", ["orthogonal", "xavier_normal", "lecun_uniform"])
def test_other_initializations_and_widths(init):
    layers = [Dense(7, init), activation("relu"), Dense(90, init), activation("tanh"), Dense(1, init, bias=0.3)]
    agree(Sequential(tuple(layers), (6,)), INPUTS)


@pytest.mark.parametrize("size", [1, 2, 5, None])
def test_without_inputs(size):
    """Uncorrelated inputs of size 1: after He ReLU layers, c ↦ [√(1−c²) + c(π − arccos c)]/π, and the mean² is
    q[c + (1 − c)/B] (Cho and Saul 2009)."""
    growth = predict_growth(mlp(30, 10), batch_size=size)
    share, c = 0.0 if size is None else 1 / size, 0.0
    for layer in range(30):
        c = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        row = 2 + 2 * layer
        assert growth.log_second_moment[row] == pytest.approx(0, abs=1e-13)
        assert np.exp(growth.log_channel_mean_square[row]) == pytest.approx(c + (1 - c) * share, rel=1e-9)
        variance = np.exp(growth.log_channel_variance[row])
        assert variance == pytest.approx((1 - c) * (1 - share), rel=1e-8, abs=1e-12)


def test_nearly_equal_inputs_keep_their_distance():
    """Relative difference 1e-8: distances, not differences of covariances. ReLU keeps d, up to terms d^(3/2)."""
    inputs = np.array([INPUTS[0], INPUTS[0] * (1 + 1e-8)])
    growth = predict_growth(mlp(20, 10, input_width=6), inputs)
    parallel = 1e-16 / 4 * np.mean(INPUTS[0] ** 2)  # variance over the batch of two parallel inputs
    np.testing.assert_allclose(growth.log_channel_variance[::2], math.log(parallel), atol=1e-6)


def test_equal_inputs():
    equal = np.repeat(INPUTS[:1], 3, axis=0)
    growth = predict_growth(mlp(4, 10, "tanh", bias=0.1, input_width=6), equal)
    assert np.all(growth.log_channel_variance == -np.inf)
    np.testing.assert_allclose(growth.log_channel_mean_square, growth.log_second_moment)
    with pytest.raises(ValueError, match=r"row 1: BatchNorm with epsilon=0 divides by zero"):
        layers = (Dense(4), BatchNorm(0.0), activation("relu"))
        predict_growth(Sequential(layers, (6,)), equal)


def test_input_scale_is_free():
    """Sizes from 1e-140 to 1e140 shift the logarithms of a bias-free ReLU network, to the last digits."""
    net = mlp(5, 10, input_width=6)
    middle = predict_growth(net, INPUTS).log_second_moment
    for scale in (1e-140, 1e140, 1e-300, 1e300):
        shifted = predict_growth(net, INPUTS * scale).log_second_moment
        np.testing.assert_allclose(shifted, middle + 2 * math.log(scale), rtol=1e-12)


def test_symmetric_laws_are_exact_and_the_rest_is_said_to_be_mean_field():
    assert set(predict_growth(mlp(3, 8)).moment_method) == {"exact"}
    assert predict_growth(mlp(2, 8, "tanh")).moment_method == ("exact", "exact", *["mean-field"] * 3)
    assert predict_growth(mlp(2, 8, batch_norm=True)).moment_method[1:3] == ("exact", "mean-field")
    # a first Dense layer is linear in inputs whose distances are known
    assert predict_growth(mlp(2, 8)).channel_method == ("exact", "exact", *["mean-field"] * 3)


def dense_block(*layers, shortcut=()):
    return Residual(Sequential(layers), Sequential(shortcut))


N = 300
BY_SAMPLED_UNITS = {
    "activation twice": (Dense(N), RELU, TANH),
    "BN after an activation": (Dense(N), RELU, BatchNorm(), Dense(N), TANH, BatchNorm(0.1)),
    "version-1 blocks": (Dense(N), RELU, *(dense_block(Dense(N), RELU, Dense(N)), RELU) * 3),
    "version-1 blocks of tanh": (Dense(N), TANH, *(dense_block(Dense(N), TANH, Dense(N)), TANH) * 2),
    "branch ends in an activation": (Dense(N), dense_block(Dense(N), RELU), TANH),
    "branch ends in BN": (Dense(N), dense_block(Dense(N), BatchNorm()), RELU),
    "empty branch": (Dense(N), dense_block(), RELU),
    "branch of an activation": (Dense(N), dense_block(TANH), RELU),
    "LayerNorm after an activation": (Dense(N), RELU, LayerNorm(), Dense(N)),
    "version-1 block with LayerNorm": (Dense(N), RELU, dense_block(Dense(N)), LayerNorm(), Dense(N)),
    "activation after Dropout": (Dense(N), Dropout(0.3), TANH, Dense(N)),
    "BN after Dropout": (Dense(N), Dropout(0.3), BatchNorm(), RELU),
    "activation after a branch's Dropout": (Dense(N), dense_block(Dense(N), Dropout(0.1)), TANH),
    "branch of Dropout": (Dense(N), dense_block(Dropout(0.3)), RELU),
}


@pytest.mark.parametrize("layers", BY_SAMPLED_UNITS.values(), ids=BY_SAMPLED_UNITS)
def test_rows_that_are_not_gaussian(layers):
    """40 networks of 300 units with explicit weights: sampling errors, false-alarm rate 1e-6, and 5/300 for width."""
    inputs = uncorrelated_inputs((8,), 4, 0)
    net = Sequential(layers, (8,))
    growth, samples = predict_growth(net, inputs), simulate_growth(net, 40, inputs, method="weights", gradients=False)
    assert growth.unsupported is None and "population" in growth.moment_method
    for name in ("log_second_moment", "log_channel_variance", "log_channel_mean_square"):
        predicted, measured = np.exp(getattr(growth, name)[1:]), np.exp(getattr(samples, name)[:, 1:])
        mean, error = statistics.mean_with_error(measured)
        allowed = statistics.tolerance(error, 1e-6, 3 * len(mean), 39) + 5 / N * growth.second_moment[1:]
        assert np.all(np.abs(mean - predicted) < allowed), (name, mean / predicted - 1)


NO_RULE = {  # layers, covariances, the first row without a rule
    "parts that share weights but not units": ((Dense(8), dense_block(dense_block(Dense(8))), RELU), True, 4),
    "BN without covariances": ((Dense(8), RELU, BatchNorm(), Dense(8)), False, 3),
    "sampled BN without covariances": ((Dense(8), RELU, RELU, BatchNorm()), False, 4),
    "LayerNorm of activations without covariances": ((Dense(8), RELU, LayerNorm()), False, 3),
}
NO_RULE_OF_IMAGES = {
    "pool without covariances": ((Conv(8), RELU, Pool("average", 2), RELU), False, 3),
    "maximum without covariances": ((Conv(8), RELU, Pool("max", 2), RELU), False, 3),
    "GroupNorm of activations": ((Conv(8), RELU, GroupNorm(4)), True, 3),
    "GroupNorm without covariances": ((Conv(8), GroupNorm(4), RELU), False, 2),
}


@pytest.mark.parametrize(
    ("shape", "case"),
    [((8,), case) for case in NO_RULE.values()] + [((2, 4, 4), case) for case in NO_RULE_OF_IMAGES.values()],
    ids=[*NO_RULE, *NO_RULE_OF_IMAGES],
)
def test_no_rule_no_number(shape, case):
    layers, covariances, row = case
    growth = predict_growth(Sequential(layers, shape), batch_size=4, covariances=covariances)
    assert growth.moment_method.index("unsupported") == row and growth.unsupported is growth.rows[row]
    assert np.isnan(growth.log_second_moment[row:]).all()
    assert np.isfinite(growth.log_second_moment[:row]).all()


def test_orthogonal_weights_have_no_band():
    growth = predict_growth(mlp(2, 8, init="orthogonal"))
    assert growth.unsupported is None and set(growth.band_method[1:]) == {"unsupported"}
    assert np.isnan(growth.log_growth_std[1:]).all()


def test_a_sum_of_given_inputs_is_their_sum():
    """A block without weights at the input: h + 2 tanh(h), number by number, for vectors and images."""
    block = Residual((TANH,), scale=2.0)
    images = np.random.default_rng(5).standard_normal((3, 6, 1, 1)) + 1
    for values in (INPUTS, images):
        growth = predict_growth(Sequential((block, RELU), values.shape[1:]), values)
        summed = values + 2 * np.tanh(values)
        assert growth.moment_method == ("exact",) * 4
        assert growth.second_moment[2:] == pytest.approx([np.mean(summed**2), np.mean(np.maximum(summed, 0) ** 2)])
        assert np.exp(growth.log_channel_variance[2]) == pytest.approx(np.mean(summed.var(axis=0)))


PRE_NORM = dense_block(LayerNorm(0.1), Dense(20), activation("gelu"), Dropout(0.2), Dense(9, bias=0.1), Dropout(0.1))
NEW_RULES = {
    "LayerNorm": (Dense(20), LayerNorm(), TANH, Dense(9, bias=0.1), LayerNorm(0.5), RELU),
    "Dropout": (Dropout(0.4), Dense(20), TANH, Dropout(0.5), Dense(9), RELU, Dropout(0.9), Dense(5)),
    "branch ends in LayerNorm": (Dense(9), dense_block(Dense(9), LayerNorm(0.1)), RELU, Dense(5)),
    "both on one row": (Dense(20), Dropout(0.3), LayerNorm(0.2), Dense(9), TANH),
    "BatchNorm after LayerNorm": (Dense(20), LayerNorm(0.3), BatchNorm(), RELU),
    "scaled blocks": (Dense(9), *(Residual((TANH, Dense(9)), (Dense(9),), scale) for scale in (0.3, 2.0, 1e-3)), TANH),
    "pre-norm blocks": (Dense(9), PRE_NORM, dataclasses.replace(PRE_NORM, scale=0.5), LayerNorm(), Dense(3), RELU),
}


@pytest.mark.parametrize("layers", NEW_RULES.values(), ids=NEW_RULES)
def test_layer_norm_dropout_and_scaled_blocks(layers):
    agree(Sequential(layers, (6,)), INPUTS)


def sampled(sequence, h, rng):
    """Explicit weights and masks in float64, (units, inputs); yields every row."""
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from sampled(layer.branch, h, rng)
            h = layer.scale * branch + h
        elif isinstance(layer, Dense):
            w = rng.standard_normal((layer.features, len(h))) * math.sqrt(layer.weight_variance((len(h),)))
            h = w @ h + rng.standard_normal((layer.features, 1)) * math.sqrt(layer.bias_variance((len(h),)))
        elif isinstance(layer, LayerNorm):
            h = (h - h.mean(0)) / np.sqrt(h.var(0) + layer.epsilon)
        elif isinstance(layer, Dropout):
            h = h * (rng.random(h.shape) >= layer.rate) / (1 - layer.rate)
        else:
            h = layer.phi(h)
        yield h
    return h


def compared_with_samples(net, inputs, trials, false_alarm=1e-6):
    rng, values = np.random.default_rng(2), []
    for _ in range(trials):
        rows = sampled(net, inputs.T, rng)
        values.append([(np.mean(h**2), np.mean(h.var(axis=1))) for h in rows])
    mean, error = statistics.mean_with_error(values)
    growth = predict_growth(net, inputs)
    expected = np.exp(np.column_stack([growth.log_second_moment, growth.log_channel_variance]))[1:]
    allowed = statistics.tolerance(error, false_alarm, error.size, trials - 1) + 1e-12 * expected
    worst = np.max(np.abs(mean - expected) / allowed)
    assert worst < 1, f"{worst:.2f} times the tolerance"
    assert np.median(error / expected) < 0.02  # sharp enough to fail
    return growth


def test_dropout_is_exact_in_the_mean_at_any_width():
    """Width 12, against 2000 networks; false-alarm rate 1e-6."""
    layers = (Dropout(0.2), Dense(12), RELU, Dropout(0.5), Dense(12, bias=0.1), RELU, Dense(12), Dropout(0.3), Dense(3))
    growth = compared_with_samples(Sequential(layers, (6,)), INPUTS[:3], 2000)
    assert set(growth.moment_method) == {"exact"}


def test_layer_norm_and_pre_norm_blocks_are_right_at_large_width():
    """Width 400, against 60 networks (the error of infinite width, 1/400, is below theirs); false-alarm rate 1e-6."""
    branch = (LayerNorm(0.1), Dense(400), activation("relu"), Dropout(0.2), Dense(400, bias=0.1), Dropout(0.1))
    layers = (Dense(400), Residual(branch, scale=0.7), Residual(branch), LayerNorm(), Dense(400), activation("relu"))
    growth = compared_with_samples(Sequential(layers, (6,)), INPUTS, 60)
    assert growth.moment_method[:2] == ("exact", "exact") and set(growth.moment_method[2:]) == {"mean-field"}


def test_layer_norm_keeps_the_distance_of_nearly_equal_and_of_parallel_inputs():
    """Inputs that differ by 1e-9 across: d/(q + ε); parallel ones, h and 2h: the difference of the two scales only."""
    x = INPUTS[0] / np.sqrt(np.mean(INPUTS[0] ** 2))
    across = np.array([1.0, -1.0, 0, 0, 0, 0])
    across -= x * (across @ x) / (x @ x)
    net = Sequential((Dense(8, "lecun_normal"), LayerNorm(0.5)), (6,))
    close = predict_growth(net, np.array([x, x + 1e-9 * across])).log_channel_variance
    assert close[2] == pytest.approx(math.log(1e-18 * np.mean(across**2) / 4 / 1.5), abs=1e-6)
    parallel = predict_growth(net, np.array([x, 2 * x])).log_channel_variance[2]
    assert parallel == pytest.approx(2 * math.log((2 / math.sqrt(4.5) - 1 / math.sqrt(1.5)) / 2), rel=1e-12)
    without = Sequential((Dense(8, "lecun_normal"), LayerNorm(0.0)), (6,))
    for other in (2.0, 0.1, 1e150):
        assert predict_growth(without, np.array([x, other * x])).log_channel_variance[2] == -np.inf
    assert predict_growth(without, np.array([x, x])).log_channel_variance[2] == -np.inf
    assert predict_growth(without, np.array([x, -x])).log_channel_variance[2] == pytest.approx(0, abs=1e-12)


def test_layer_norm_of_given_inputs_is_applied_to_them():
    images = np.random.default_rng(4).standard_normal((4, 3, 5, 5)) + np.array([1.0, -2.0, 0.5])[:, None, None]
    normal = (images - images.mean((1, 2, 3), keepdims=True)) / np.sqrt(images.var((1, 2, 3), keepdims=True) + 0.01)
    growth = predict_growth(Sequential((LayerNorm(0.01), Flatten(), Dense(4)), (3, 5, 5)), images)
    assert growth.moment_method == ("exact",) * 4
    assert growth.second_moment[1] == pytest.approx(np.mean(normal**2), rel=1e-12)
    assert np.exp(growth.log_channel_variance[1]) == pytest.approx(np.mean(normal.var(axis=(0, 2, 3))), rel=1e-12)
    for net, match in (
        (Sequential((LayerNorm(0.0),), (6,)), "row 0: LayerNorm with epsilon=0 divides by zero: one of the inputs"),
        (Sequential((RELU, Dense(3), LayerNorm(0.0)), (6,)), "row 2: LayerNorm with epsilon=0 divides by zero: every"),
    ):
        with pytest.raises(ValueError, match=match):
            predict_growth(net, np.array([INPUTS[0], -np.ones(6)]))


def test_dropout_of_rate_0_changes_nothing():
    with_none = predict_growth(Sequential((Dense(8), Dropout(0), TANH), (6,)), INPUTS)
    plain = predict_growth(Sequential((Dense(8), TANH), (6,)), INPUTS)
    np.testing.assert_array_equal(with_none.log_second_moment[[1, 3]], plain.log_second_moment[1:])


@pytest.mark.parametrize("layer", [LayerNorm(), Dropout(0.1), dense_block(Dense(8))], ids=str)
def test_the_exact_band_ends_and_that_of_first_order_goes_on(layer):
    growth = predict_growth(Sequential((Dense(8), layer, Dense(8)), (8,)))
    assert growth.band_method[:2] == ("exact", "exact") and set(growth.band_method[2:]) == {"first-order"}
    lower, upper = growth.band()
    assert np.all(lower[1:] < upper[1:]) and np.isfinite(growth.p_dead).all()


def test_scale_of_a_block_is_that_of_its_last_weights():
    """scale · W φ(h) is W′ φ(h) with the gain of W′ that much larger; extreme scales stay logarithms."""
    for scale in (0.1, 3.0, 1e-200, 1e90):
        inner, gain = (
            Dense(6, "lecun_normal"),
            initialization("lecun_normal", gain=scale) if 1e-9 < scale < 1e9 else None,
        )
        growth = predict_growth(Sequential((Dense(6), Residual((TANH, inner), scale=scale)), (6,)), INPUTS)
        q, branch = growth.log_second_moment[1], growth.log_second_moment[3]
        assert growth.log_second_moment[4] == pytest.approx(np.logaddexp(q, branch + 2 * math.log(scale)), rel=1e-13)
        if gain is not None:
            other = predict_growth(Sequential((Dense(6), Residual((TANH, Dense(6, gain)))), (6,)), INPUTS)
            for name in ("log_second_moment", "log_channel_variance", "log_channel_mean_square"):
                assert getattr(other, name)[-1] == pytest.approx(getattr(growth, name)[-1], rel=1e-12)


def test_linear_flatten_and_nested_sequences_change_nothing():
    plain = predict_growth(mlp(2, 8, "tanh"))
    layers = (Flatten(), Sequential((Dense(8), activation("linear"))), activation("tanh"))
    nested = predict_growth(Sequential((*layers, Dense(8), activation("tanh")), (2, 2, 2)))
    assert nested.log_second_moment[-1] == pytest.approx(plain.log_second_moment[-1], abs=1e-14)
    net = mlp(2, 8, "tanh", batch_norm=True)
    np.testing.assert_array_equal(
        predict_growth(from_json(net.to_json())).log_second_moment, predict_growth(net).log_second_moment
    )


def test_many_inputs_and_a_function_of_ones_own():
    """More than 64 inputs take the way without memory; x·|x| has moments 3q² and a kink in its slope."""
    inputs = RNG.standard_normal((70, 6))
    square = Activation.from_function("signed square", lambda x: x * abs(x), lambda x: 2 * abs(x))
    growth = predict_growth(Sequential((Dense(9), square), (6,)), inputs)
    q = 2 * np.mean(inputs**2, axis=1)
    assert growth.second_moment[-1] == pytest.approx(np.mean(3 * q**2), rel=1e-8)


BAD_INPUTS = {
    "shape": (np.ones((2, 7)), r"inputs must have shape \(batch, 6\), got \(2, 7\)"),
    "one input without a batch": (np.ones(6), "inputs must have shape"),
    "number": (1.0, "inputs must have shape"),
    "empty": (np.ones((0, 6)), "at least one example"),
    "NaN": (np.full((2, 6), np.nan), "12 of 12 values that are NaN or infinite"),
    "infinite": (np.full((1, 6), np.inf), "NaN or infinite"),
    "zero": (np.zeros((3, 6)), "must not be all zero, got a zero example at index 0 of 3"),
    "one of them zero": (np.eye(6)[:3] * [[1], [1], [0]], "zero example at index 2 of 3"),
    "constant": (np.full((2, 6), 0.5), "must not be constant, got 0.5"),
    "complex": (np.ones((2, 6)) * 1j, "real numbers, got dtype complex128"),
    "words": (np.array([["a"] * 6]), "real numbers"),
    "ragged": ([[1.0] * 6, [1.0] * 5], "ragged"),
}


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_refused_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        predict_growth(mlp(2, 8, input_width=6), inputs)


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True])
def test_refused_batch_sizes(size):
    with pytest.raises(ValueError, match="batch_size must be"):
        predict_growth(mlp(2, 8), batch_size=size)


def test_refused_combinations():
    with pytest.raises(ValueError, match="batch_size must be left out or equal the number of inputs, 5; got 4"):
        predict_growth(mlp(2, 8, input_width=6), INPUTS, batch_size=4)
    with pytest.raises(ValueError, match="row 1: BatchNorm needs a batch of at least 2, got 1"):
        predict_growth(mlp(2, 8, batch_norm=True), batch_size=1)
    with pytest.raises(ValueError, match="row 1: BatchNorm needs a batch"):
        predict_growth(mlp(2, 8, batch_norm=True, input_width=6), INPUTS[:1])


@pytest.mark.parametrize("before", [(), (Conv(8, 3, padding=1),)], ids=["given", "drawn"])
@pytest.mark.parametrize(
    ("branch", "shortcut"),
    [
        ((Pool("max", 2),), (Pool("average", 2),)),
        ((Pool("average", 3, 1, 1),), (Pool("max", 3, 1, 1),)),
        ((Pool("max", 3, 1, 1),), ()),
    ],
)
def test_sums_of_pools_of_the_same_units_have_no_rule(before, branch, shortcut):
    """The sum needs a unit's positions together: it is named, not added as if they were of different units."""
    growth = predict_growth(Sequential((*before, Residual(branch, shortcut), RELU), (3, 8, 8)))
    assert growth.unsupported is not None and growth.unsupported.operation == "sum"
    apart = predict_growth(
        Sequential((*before, Residual((*branch, Conv(3 + 5 * len(before), 3, padding=1)), shortcut)), (3, 8, 8))
    )
    assert apart.unsupported is None


def test_sums_of_pools_of_given_numbers_are_exact():
    inputs = np.random.default_rng(0).standard_normal((4, 3, 8, 8))
    net = Sequential((Residual((Pool("max", 2),), (Pool("average", 2),)),), (3, 8, 8))
    windows = inputs.reshape(4, 3, 4, 2, 4, 2)
    expected = np.mean((windows.max(axis=(3, 5)) + windows.mean(axis=(3, 5))) ** 2)
    assert predict_growth(net, inputs=inputs).log_second_moment[-1] == pytest.approx(math.log(expected), rel=1e-12)
