"""Gradients through concatenations and products, against explicit weights and by hand."""

import math

import numpy as np
import pytest

from bntheory import activation, kernel_alignment, predict_growth
from bntheory.growth.backward import gradient_rows
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool, ZeroPad
from bntheory.networks import Join, Residual, Sequential
from simulations import simulate_growth
from simulations.growth import uncorrelated_inputs
from simulations.statistics import mean_with_error, tolerance

RELU, TANH, SIGMOID = map(activation, ("relu", "tanh", "sigmoid"))
RARE = 1e-6  # false-alarm rate of a test
N, C = 300, 48


def rows_of(gradient):
    return gradient.points * math.exp(gradient.log_scale)


def test_parts_are_put_together_cut_and_added_by_their_channels():
    one, other = Gradient(np.array([1.0, 3.0]), 2.0), Gradient(np.array([5.0, 1.0]), -1.0, evenness=0.5)
    both = gradient_rows.together([(2, one), (6, other)])
    np.testing.assert_allclose(rows_of(both), (2 * rows_of(one) + 6 * rows_of(other)) / 8)
    squares = [rows_of(part).mean() for part in (one, other)]
    mean_size = (2 * math.sqrt(squares[0]) + 6 * 0.5 * math.sqrt(squares[1])) / 8
    assert both.evenness == pytest.approx(mean_size / math.sqrt((2 * squares[0] + 6 * squares[1]) / 8))
    first, middle, last = gradient_rows.cut(both, [1, 3, 4])
    assert first is one and last is other
    np.testing.assert_allclose(rows_of(middle), (rows_of(one) + 2 * rows_of(other)) / 3)
    summed = gradient_rows.added(both, gradient_rows.together([(4, other), (4, one)]))
    assert [channels for channels, _ in summed.parts] == [2, 2, 4]
    np.testing.assert_allclose(rows_of(summed), rows_of(both) + (rows_of(one) + rows_of(other)) / 2)


def test_links_of_parts_are_the_links_of_all():
    """E g g′ over all channels is the mean of the parts'."""
    within, cross = np.array([[2.0, 1.0], [1.0, 4.0]], np.float32), np.full((2, 2), 0.5, np.float32)
    one = gradient_rows.of_moments((within, cross), 1.0)
    both = gradient_rows.together([(1, one), (3, Gradient(np.array([1.0, 2.0]), 0.0))])
    found = [block * math.exp(both.log_scale) for block in both.moments()]
    np.testing.assert_allclose(found[0], (math.e * within + 3 * np.diag([1, 2])) / 4, rtol=1e-6)
    np.testing.assert_allclose(found[1], math.e * cross / 4, rtol=1e-6)


def block(*layers, shortcut=()):
    return Residual(Sequential(layers), Sequential(shortcut))


def dense_block(channels):
    return Join(((), (BatchNorm(), RELU, Conv(channels))))


def excite(channels):
    return Join(((), (Pool(), Conv(channels // 4, 1), RELU, Conv(channels, 1), SIGMOID)), "product")


VECTORS = {
    "read unlike": (Dense(N), Join((((Dense(N),)), (RELU, Dense(N // 3)))), TANH, Dense(N)),
    "identity beside": (Dense(N), RELU, Join(((), (Dense(N, bias=1.0), TANH))), Dense(N)),
    "BN of a mixture": (Dense(N), Join(((), (RELU, Dense(N, bias=1.0)))), BatchNorm(), RELU, Dense(N)),
    "parts that do not end together": (
        *(Dense(N), Join(((), (RELU, Dense(2 * N)))), block(Dense(N), TANH, Join(((Dense(2 * N),), (Dense(N), TANH))))),
        *(TANH, Dense(N)),
    ),
    "gated unit": (Dense(N), RELU, Join(((Dense(N),), (Dense(N), SIGMOID)), "product"), Dense(N)),
    "gated mixture": (Dense(N), Join(((Join(((), (RELU, Dense(N)))),), (Dense(2 * N), SIGMOID)), "product"), Dense(N)),
}
IMAGES = {
    "dense blocks": (
        Conv(C),
        dense_block(C),
        dense_block(C),
        BatchNorm(),
        RELU,
        Conv(C, 1),
        Pool(),
        Flatten(),
        Dense(C),
    ),
    "inception": (Conv(C), RELU, Join(((Conv(C, 1), RELU), (Conv(C), TANH))), Conv(C), RELU, Pool(), Flatten()),
    "depthwise": (Conv(C), Join(((), (RELU, Conv(C)))), Conv(2 * C, groups=2 * C), RELU, Conv(C, 1), RELU),
    "pooled": (Conv(C), Join(((), (RELU, Conv(C)))), Pool("average", 2), RELU, Flatten(), Dense(C)),
    "maximum": (Conv(C), Join(((), (RELU, Conv(C)))), Pool("max", 2), Conv(C), RELU),
    "excited": (Conv(C), BatchNorm(), excite(C), Conv(C), RELU),
    "excited block": (Conv(C), RELU, block(Conv(C), BatchNorm(), excite(C)), RELU, Pool(), Flatten(), Dense(C)),
}


def agrees(layers, inputs, trials, width):
    """Every row's squared gradient, and that of every weight: sampling errors, and 5/width."""
    net = Sequential(layers, inputs.shape[1:])
    growth, samples = predict_growth(net, inputs), simulate_growth(net, trials, inputs, method="weights", seed=2)
    for name in ("log_gradient", "log_weight_gradient"):
        predicted, measured = getattr(growth, name), np.exp(getattr(samples, name))
        known = np.isfinite(measured).all(axis=0)
        assert np.isfinite(predicted[known]).all() or name == "log_weight_gradient"
        known &= np.isfinite(predicted)
        mean, error = mean_with_error(measured[:, known] / np.exp(predicted[known]))
        allowed = tolerance(error, RARE, 2 * len(mean), trials - 1) + 5 / width
        assert np.all(np.abs(mean - 1) < allowed), (name, (mean - 1) / allowed)
        assert np.median(allowed) < 0.35  # sharp enough to fail
    return growth


@pytest.mark.parametrize("layers", VECTORS.values(), ids=VECTORS)
def test_vectors_with_explicit_weights(layers):
    """60 networks of 300 units, on inputs of as many that are alike, as the rule of BatchNorm takes them to be."""
    growth = agrees(layers, uncorrelated_inputs((N,), 16, 0), 60, N)
    assert "unsupported" not in growth.gradient_method


@pytest.mark.parametrize("layers", IMAGES.values(), ids=IMAGES)
def test_images_with_explicit_weights(layers):
    """60 networks of 48 channels, on inputs of as many."""
    growth = agrees(layers, uncorrelated_inputs((C, 4, 4), 6, 0), 60, C)
    assert "unsupported" not in growth.gradient_method


WITHOUT_NUMBERS = {  # layers, and the first row that still has a gradient
    "functions of the same units": ((Dense(8), Join(((), (SIGMOID,)), "product"), Dense(8)), (8,), "1.product"),
    "a sum of functions of the same units": ((Dense(8), Residual((RELU,)), Dense(8)), (8,), "1.sum"),
    "slopes that both factors decide": (
        (Join(((Dense(8),), (Dense(8),)), "product"), RELU, Dense(8)),
        (8,),
        "0.product",
    ),
    "channels that a shortcut adds": ((Conv(4), Join(((), (RELU, Conv(4)))), ZeroPad(12), Conv(4)), (2, 3, 3), "2"),
}


@pytest.mark.parametrize(("layers", "shape", "first"), WITHOUT_NUMBERS.values(), ids=WITHOUT_NUMBERS)
def test_without_numbers_where_they_would_be_guessed(layers, shape, first):
    """Squares do not add up: of x + φ(x), E (1 + φ′)² is 1 + 2 E φ′ + E φ′²."""
    growth = predict_growth(Sequential(layers, shape), batch_size=3)
    row = growth.name.index(first)
    assert growth.unsupported is None
    assert np.isnan(growth.log_gradient[:row]).all() and np.isfinite(growth.log_gradient[row:]).all()
    assert growth.gradient_method[:row] == ("unsupported",) * row


def test_gates_of_all_but_the_last_block_are_not_shown_and_hardly_count():
    """Three blocks of squeeze-and-excitation with an activation after each, 60 networks of 32 channels."""
    blocks = tuple(layer for _ in range(3) for layer in (block(Conv(32), BatchNorm(), excite(32)), RELU))
    net = Sequential((Conv(32), RELU, *blocks, Pool(), Flatten(), Dense(10)), (32, 4, 4))
    inputs = uncorrelated_inputs((32, 4, 4), 6, 0)
    growth, samples = predict_growth(net, inputs), simulate_growth(net, 60, inputs, method="weights", seed=1)
    unknown = [name for name, value in zip(growth.name, growth.log_gradient, strict=True) if math.isnan(value)]
    gates = [name for name in growth.name if "branches.1" in name]
    assert unknown == gates[:-5]
    known = np.isfinite(growth.log_gradient)
    mean, error = mean_with_error(np.exp(samples.log_gradient[:, known] - growth.log_gradient[known]))
    assert np.all(np.abs(mean - 1) < tolerance(error, RARE, len(mean), 59) + 0.1 + 1 / 32)


def test_alignment_passes_joins():
    """The gate's slopes even out what is read: defined for every weight before and in a join."""
    net = Sequential(
        (Conv(8), Join(((), (RELU, Conv(8)))), Join(((), (Conv(16), SIGMOID)), "product"), Conv(4)), (3, 4, 4)
    )
    ratios = kernel_alignment(net, batch_size=8)
    weights = np.array([isinstance(row.layer, Conv) for row in predict_growth(net, batch_size=8).rows])
    assert np.isfinite(ratios[weights]).all() and (ratios[weights] > 1).all()
