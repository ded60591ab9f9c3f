"""Infinite width, against a recursion of the full covariance matrix with another quadrature, and by hand."""

import math

import numpy as np
import pytest

from bntheory import activation, from_json, mlp, predict_growth
from bntheory.activations import KNOWN, Activation
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Dense, Flatten
from bntheory.networks import Residual, Sequential

RNG = np.random.default_rng(7)
INPUTS = RNG.standard_normal((5, 6)) * [[0.5], [1.0], [1.0], [2.0], [1.5]]
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
        centre = np.eye(len(k)) - 1 / len(k)
        k = centre @ k @ centre
        return k / (np.trace(k) / len(k) + layer.epsilon)
    return k


def recursion(sequence, k, width):
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from recursion(layer.branch, k, width)
            shortcut = yield from recursion(layer.shortcut, k, width)
            k = branch + shortcut
        elif isinstance(layer, Sequential):
            k = yield from recursion(layer, k, width)
            continue
        else:
            k = moved(layer, k, width)
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
    agree(mlp(3, 20, name, initialization("lecun_normal", gain=1.3), bias, input_width=6), INPUTS)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "linear"])
@pytest.mark.parametrize("options", [{"batch_norm": True}, {"residual": True}, {"batch_norm": True, "residual": True}])
def test_batch_norm_and_residual_blocks(name, options):
    many = np.concatenate([INPUTS, INPUTS[::-1] * 0.7 + 0.2, RNG.standard_normal((6, 6))])  # BatchNorm: 16 or more
    agree(mlp(3, 20, name, "he_normal", 0.1, input_width=6, **options), many)


def test_batch_norm_over_a_small_batch_has_a_rule_for_homogeneous_activations_only():
    """Over 2 … 15 inputs BatchNorm's outputs lie on a small sphere: infinite width does not make them Gaussian."""
    for batch in (2, 15):
        for name, known in (("relu", True), ("leaky_relu", True), ("linear", True), ("tanh", False), ("gelu", False)):
            growth = predict_growth(mlp(2, 8, name, batch_norm=True), batch_size=batch)
            assert (growth.unsupported is None) is known
            assert known or growth.unsupported.operation == name
    assert predict_growth(mlp(2, 8, "tanh", batch_norm=True), batch_size=16).unsupported is None


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
    assert predict_growth(mlp(2, 8)).channel_method == ("exact", *["mean-field"] * 4)


def dense_block(*layers, shortcut=()):
    return Residual(Sequential(layers), Sequential(shortcut))


RELU = activation("relu")
NO_RULE = {
    "activation twice": ((Dense(8), RELU, RELU), 3),
    "BN after an activation": ((Dense(8), RELU, BatchNorm()), 3),
    "version-1 block": ((Dense(8), RELU, dense_block(Dense(8), RELU, Dense(8)), RELU), 7),
    "branch ends in an activation": ((Dense(8), dense_block(Dense(8), RELU)), 4),
    "branch ends in BN": ((Dense(8), dense_block(Dense(8), BatchNorm())), 4),
    "empty branch": ((Dense(8), dense_block()), 2),
}


@pytest.mark.parametrize(("layers", "row"), NO_RULE.values(), ids=NO_RULE)
def test_no_rule_no_number(layers, row):
    """Where units are not Gaussian at infinite width, or branch and shortcut are dependent, nothing is claimed."""
    growth = predict_growth(Sequential(layers, (8,)), batch_size=4)
    assert growth.moment_method.index("unsupported") == row
    assert np.isnan(growth.log_second_moment[row:]).all()
    assert np.isfinite(growth.log_second_moment[:row]).all()


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
