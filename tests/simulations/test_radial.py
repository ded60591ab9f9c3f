"""The law of one input without its units, against networks with explicit weights and against exact moments.

False alarms: the comparisons of two samples share 1e-5, every test of moments has at most 1e-5; below 1e-4 in all.
"""

import math

import numba
import numpy as np
import pytest
from scipy import special, stats

from bntheory import activation, initialization, mlp
from bntheory.activations import Activation
from bntheory.initializations import Initialization
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool
from bntheory.networks import Residual, Sequential
from simulations import radial, streams
from simulations.signal import Signal
from simulations.statistics import binomial_interval, kolmogorov_tolerance, mean_with_error, tolerance
from simulations.steps import steps

SECOND, COSINE, GRADIENT, WEIGHT = 0, 3, 4, 5
TRIALS = 300 if numba.config.DISABLE_JIT else 8_000
FALSE_ALARM = 1e-5


def network(widths, slopes, gain, bias):
    layers = []
    for width, slope in zip(widths[1:], slopes, strict=True):
        layers.append(Dense(width, initialization("lecun_normal", gain=gain), bias))
        if slope != 1:
            layers.append(Activation("leaky_relu", slope))
    return Sequential(tuple(layers), (widths[0],))


def drawn(net, x, trials=TRIALS, seed=0, gradients=True):
    draw = radial.prepare(steps(net), Signal(np.asarray(x, dtype=float)[None], 0.0), gradients)
    rng = np.random.default_rng(seed)
    return np.array([draw(rng) for _ in range(trials)])


def explicit(widths, slopes, gain, bias, x, trials, seed=1):
    """ln of |row|²/units, |∂row|² and |∂W|², with every weight drawn and the chain rule written out."""
    rng = np.random.default_rng(seed)
    rows, record = [np.tile(np.asarray(x, dtype=float), (trials, 1))], []
    for fan_in, width, slope in zip(widths, widths[1:], slopes, strict=False):
        weights = rng.standard_normal((trials, width, fan_in)) * gain / math.sqrt(fan_in)
        record.append(weights)
        rows.append(np.einsum("tij,tj->ti", weights, rows[-1]) + rng.standard_normal((trials, width)) * math.sqrt(bias))
        if slope != 1:
            record.append(np.where(rows[-1] > 0, 1.0, slope))
            rows.append(rows[-1] * record[-1])
    gradients, of_weights = [rng.standard_normal((trials, widths[-1]))], []
    for h, derivative in zip(reversed(rows[:-1]), reversed(record), strict=True):
        g = gradients[0]
        is_dense = derivative.ndim == 3
        of_weights.insert(0, np.sum((g[:, :, None] * h[:, None, :]) ** 2, axis=(1, 2)) if is_dense else None)
        gradients.insert(0, np.einsum("ti,tij->tj", g, derivative) if is_dense else g * derivative)
    last = np.sum(gradients[-1] ** 2, axis=1)
    with np.errstate(divide="ignore"):
        sizes = np.log([np.mean(row**2, axis=1) for row in rows])
        gradients = np.log([np.sum(g**2, axis=1) / last for g in gradients])
        of_weights = np.log([np.full(trials, np.nan) if w is None else w / last for w in [None, *of_weights]])
    return np.stack([sizes, gradients, of_weights], axis=-1).transpose(1, 0, 2)


def statistics(samples):
    """Every row by itself and what ties rows to one another; −inf becomes one far value."""
    sizes, gradients, weights = np.where(samples == -np.inf, -1e3, samples).transpose(2, 1, 0)
    weights = weights[~np.isnan(weights[:, 0])]
    by_size, by_gradient = np.diff(sizes, axis=0), np.diff(gradients, axis=0)
    return np.concatenate(
        [
            *(sizes[1:], gradients[:-1], weights, gradients + sizes, gradients - sizes, np.diff(weights, axis=0)),
            *(by_size, by_gradient, by_size + by_gradient, by_size[1:] + by_gradient[:-1]),
            [gradients[0] - sizes[-1], gradients[0] + sizes[-1], weights[0] - sizes[-1], weights[0] + weights[-1]],
        ]
    )


def distance(one, other):
    """Kolmogorov's, of two samples of n: as large as that of one sample of n/2 to its law."""
    at = np.sort(np.concatenate([one, other]))
    counts = [np.searchsorted(np.sort(sample), at, side="right") for sample in (one, other)]
    return np.abs(counts[0] - counts[1]).max() / TRIALS


CASES = {
    "linear": ((3, 3, 3), (1, 1), 1.0, 0.0),
    "linear of width 1": ((1, 1, 1, 1), (1, 1, 1), 1.2, 0.3),
    "relu": ((2, 3, 5, 3), (0, 0, 0), 1.5, 0.0),
    "relu of width 1": ((1, 1, 1, 1), (0, 0, 0), 1.4, 0.0),
    "relu of width 1, bias": ((1, 1, 1, 1), (0, 0, 0), 1.4, 0.5),
    "relu of width 2, bias": ((2, 2, 2, 2), (0, 0, 0), 1.4, 0.2),
    "relu, bias, an output layer": ((5, 5, 3, 2, 1), (0, 0, 0, 1), 1.2, 0.7),
    "leaky": ((3, 2, 2, 2), (0.2, 0.2, 0.2), 1.5, 0.0),
    "leaky, bias": ((2, 5, 3, 2), (0.2, 0.2, 0.2), 1.0, 1.0),
    "falling for x < 0": ((3, 2, 3), (-0.5, -0.5), 1.0, 0.4),
    "|x|": ((2, 3, 2, 2), (-1, -1, -1), 1.0, 0.1),
    "mixed": ((5, 1, 3, 2, 5), (0, 1, -0.5, 0.2), 1.3, 0.6),
    "steep": ((2, 3, 1, 3), (3, 3, 0), 0.8, 0.2),
}
ZERO = ("linear", "relu of width 2, bias", "leaky", "mixed")  # also with the input 0, where no direction is special


@pytest.mark.parametrize("name, zero", [*((name, False) for name in CASES), *((name, True) for name in ZERO)])
def test_every_row_and_how_rows_vary_together(name, zero):
    widths, slopes, gain, bias = CASES[name]
    x = np.zeros(widths[0]) if zero else np.linspace(-0.5, 2.5, widths[0])
    ours = statistics(drawn(network(*CASES[name]), x)[:, :, [SECOND, GRADIENT, WEIGHT]])
    theirs = statistics(explicit(widths, slopes, gain, bias, x, TRIALS))
    distances = [distance(*pair) for pair in zip(ours.round(9), theirs.round(9), strict=True)]
    comparisons = len(distances) * (len(CASES) + len(ZERO))
    assert max(distances) < kolmogorov_tolerance(TRIALS // 2, FALSE_ALARM / comparisons), np.argmax(distances)


@pytest.mark.parametrize("slope", [0.0, 1.0, 0.2, -0.5])
def test_from_one_number_to_one_number_the_gradient_is_the_ratio(slope):
    """Euler: without biases the output is its derivative times the input, in every single network."""
    samples = drawn(network((1, 4, 1, 3, 1), (slope,) * 4, 1.5, 0.0), [2.0], trials=200)
    np.testing.assert_allclose(samples[:, 0, GRADIENT] + math.log(4), samples[:, -1, SECOND], rtol=1e-12)


@pytest.mark.parametrize("case", ["mixed", "relu of width 1, bias"])
def test_the_weight_gradient_is_an_outer_product(case):
    net = network(*CASES[case])
    samples = drawn(net, np.ones(net.input_shape), trials=200)
    sizes = [math.prod(net.input_shape), *(step.shape[0] for step in steps(net))]
    for step in steps(net):
        made = samples[:, step.row - 1, SECOND] + math.log(sizes[step.row - 1]) + samples[:, step.row, GRADIENT]
        expected = made if isinstance(step.layer, Dense) else np.full(200, np.nan)
        np.testing.assert_allclose(samples[:, step.row, WEIGHT], expected, atol=1e-12)


@pytest.mark.parametrize("phi", ["relu", "linear"])
def test_mean_and_variance_of_the_logarithm(phi):
    """Independent factors χ²_K · 2/n with K ~ Binomial(n, ½) given K ≥ 1; the network survives (1 − 2⁻ⁿ)^L."""
    width, depth = 6, 8
    samples = drawn(mlp(depth, width, phi), np.ones(width))[:, -1, SECOND]
    alive = samples[samples > -np.inf]
    k = np.arange(1, width + 1)
    weight = stats.binom.pmf(k, width, 0.5) / (1 - 0.5**width) if phi == "relu" else (k == width).astype(float)
    log_factor = special.digamma(k / 2) + math.log(2) + math.log(2 / width)
    mean = weight @ log_factor
    variance = weight @ (special.polygamma(1, k / 2) + (log_factor - mean) ** 2)
    estimate, spread = mean_with_error(alive), mean_with_error((alive - depth * mean) ** 2)
    assert abs(estimate.mean - depth * mean) < tolerance(estimate.standard_error, FALSE_ALARM / 3)
    assert abs(spread.mean - depth * variance) < tolerance(spread.standard_error, FALSE_ALARM / 3)
    survival = (1 - 0.5**width) ** depth if phi == "relu" else 1.0
    lower, upper = binomial_interval(len(alive), len(samples), 1 - FALSE_ALARM / 3)
    assert lower <= survival <= upper


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_mean_square_of_the_gradient(bias):
    """E |g_0|²/|g_L|² = Π s² n_{l−1} (1 + slope²)/2, whatever the biases."""
    gain, slope, depth = 1.3, 0.3, 5
    ratio = np.exp(drawn(network((10,) + (20,) * depth, (slope,) * depth, gain, bias), np.ones(10))[:, 0, GRADIENT])
    estimate = mean_with_error(ratio)
    expected = (gain**2 * (1 + slope**2) / 2) ** depth
    assert abs(estimate.mean - expected) < tolerance(estimate.standard_error, FALSE_ALARM)


@pytest.mark.parametrize("gain", [0.1, 10.0])
def test_ten_thousand_layers(gain):
    width, depth = 50, 10_000
    samples = drawn(mlp(depth, width, "linear", initialization("lecun_normal", gain=gain)), np.ones(width), trials=1)[0]
    factor = special.digamma(width / 2) + math.log(2 * gain**2 / width)
    allowed = tolerance(math.sqrt(depth * special.polygamma(1, width / 2)), FALSE_ALARM / 2)
    assert abs(samples[-1, SECOND] - depth * factor) < allowed
    assert abs(samples[0, GRADIENT] - depth * factor) < allowed  # Wᵀ acts on one vector as W does
    assert np.isfinite(samples[:, [SECOND, GRADIENT]]).all() and np.isfinite(samples[1::2, WEIGHT]).all()


def test_a_billion_units_are_their_mean():
    samples = drawn(mlp(3, 10**9, "relu", input_width=4), np.ones(4), trials=3)
    np.testing.assert_allclose(samples[:, [2, 4, 6], SECOND], 0, atol=1e-3)
    np.testing.assert_allclose(samples[:, [2, 4, 6], GRADIENT], 0, atol=1e-3)


def test_the_scale_of_the_input_passes_through():
    net = steps(mlp(20, 7, "leaky_relu"))
    draws = [radial.prepare(net, Signal(np.ones((1, 7)), log_scale), True) for log_scale in (0.0, 1e5)]
    one, other = (draw(np.random.default_rng(3)) for draw in draws)
    np.testing.assert_allclose(other[:, SECOND] - one[:, SECOND], 2e5)
    np.testing.assert_allclose(other[1::2, WEIGHT] - one[1::2, WEIGHT], 2e5)
    np.testing.assert_allclose(other[:, GRADIENT], one[:, GRADIENT], atol=1e-9)


def test_dead_rows_and_rows_that_a_bias_revives():
    samples = drawn(network((3, 1, 2), (0, 0), 1.0, 0.5), np.ones(3), trials=200)
    dead = samples[:, 2, SECOND] == -np.inf
    assert 0 < dead.sum() < 200
    assert (samples[:, 3, SECOND] > -np.inf).all()
    assert (samples[dead, 3, WEIGHT] == -np.inf).all()  # its input is zero …
    alive_after = samples[:, 4, SECOND] > -np.inf
    assert (samples[dead & alive_after, 2, GRADIENT] > -np.inf).all()  # … but the gradient reaches that input
    assert (samples[dead][:, [0, 1], GRADIENT] == -np.inf).all()
    assert not np.isnan(samples[:, :, [SECOND, GRADIENT]]).any()


def test_one_stream_one_network():
    draw = radial.prepare(steps(mlp(9, 30, bias=0.1)), Signal(np.ones((1, 30)), 0.0), True)
    np.testing.assert_array_equal(draw(streams.stream(1, 5)), draw(streams.stream(1, 5)))
    assert (draw(streams.stream(1, 5))[1:, SECOND] != draw(streams.stream(1, 6))[1:, SECOND]).all()


def test_without_gradients_the_same_sizes():
    both, sizes = (drawn(mlp(9, 30), np.ones(30), trials=1, gradients=gradients)[0] for gradients in (True, False))
    np.testing.assert_array_equal(both[:, : COSINE + 1], sizes[:, : COSINE + 1])
    assert np.isnan(sizes[:, COSINE:]).all() and np.isnan(both[:, COSINE]).all()
    assert (both[:, 2] == -np.inf).all()
    np.testing.assert_array_equal(both[:, 1], both[:, 0])


def test_flatten_and_linear_repeat_the_row_before():
    flat, linear, relu = Flatten(), activation("linear"), activation("relu")
    net = Sequential((linear, flat, Dense(5), flat, linear, relu, linear, Dense(4), linear), (2, 2, 3))
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 3))
    rows = radial.prepare(steps(net), Signal(x, 0.5), True)(np.random.default_rng(0))
    for first, last in ((0, 2), (3, 5), (6, 7), (8, 9)):
        np.testing.assert_allclose(np.ptp(rows[first : last + 1][:, [SECOND, GRADIENT]], axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(rows[0, :3], Signal(x, 0.5).log_moments())
    np.testing.assert_array_equal(rows[2:, 1], rows[2:, 0])
    assert rows[5, SECOND] > rows[6, SECOND] and rows[5, GRADIENT] < rows[6, GRADIENT]
    assert np.isnan(np.delete(rows[:, WEIGHT], [3, 8])).all() and np.isfinite(rows[[3, 8], WEIGHT]).all()


RELU, DENSE = activation("relu"), Dense(4)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((DENSE, RELU, DENSE), True),
        ((DENSE, Activation("leaky_relu", -7.0), DENSE, RELU), True),
        ((Sequential((DENSE, RELU)), Flatten(), Sequential((DENSE, RELU))), True),
        ((activation("linear"), DENSE, Activation("leaky_relu", 1.0), RELU), True),
        ((Dense(4, bias=0.5), RELU), True),
        ((Dense(4, "torch_default"),), False),
        ((Dense(4, "he_uniform"),), False),
        ((Dense(4, "orthogonal"),), False),
        ((Dense(4, Initialization("normal", 1.0, bias_gain=0.5)), RELU), False),
        ((RELU, DENSE), False),
        ((DENSE, RELU, RELU), False),
        ((DENSE, Activation("leaky_relu", 1e-200)), False),
        ((DENSE, activation("tanh")), False),
        ((DENSE, BatchNorm()), False),
        ((DENSE, Residual(Sequential((DENSE,)))), False),
        ((Residual(Sequential((DENSE, RELU))),), False),
        ((RELU,), False),
        ((), False),
    ],
    ids=str,
)
def test_where_it_applies(layers, expected):
    made = steps(Sequential(layers, (4,)))
    assert radial.applies(made, 1) is expected
    assert radial.applies(made, 2) is False
    if not expected:
        with pytest.raises(ValueError, match=r"^this law .* take another engine$"):
            radial.prepare(made, Signal(np.ones((1, 4)), 0.0), True)


def test_images_do_not_enter():
    assert not radial.applies(steps(Sequential((Conv(3), Pool(), Flatten(), DENSE), (1, 4, 4))), 1)
    with pytest.raises(ValueError, match="a batch of 3"):
        radial.prepare(steps(mlp(2, 4)), Signal(np.ones((3, 4)), 0.0), True)
