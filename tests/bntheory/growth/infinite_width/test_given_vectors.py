"""BN over given vectors of any sizes and angles: against known laws, closed forms at extremes, and drawn networks."""

import math

import numpy as np
import pytest

from bntheory import Activation, mlp, predict_growth
from bntheory.growth.infinite_width.batch_norm import normalized_moments
from bntheory.growth.infinite_width.batch_products import normalized_and_activated
from bntheory.growth.infinite_width.given_vectors import MOST_VECTORS, Divided
from bntheory.layers import Affine, BatchNorm, Dense
from bntheory.networks import Sequential
from simulations import statistics

RELU, LINEAR = (1.0, 0.0), (1.0, 1.0)
RNG = np.random.default_rng(3)
UNEQUAL = RNG.standard_normal((8, 16)) * np.array([10, 1, 1, 3, 0.3, 1, 5, 2])[:, None]


def log_distances(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.sum((rows[:, None] - rows) ** 2, axis=2))


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("batch", [2, 3, 8, 64])
def test_inputs_that_are_alike_are_the_exchangeable_batch(batch, epsilon):
    apart = np.where(np.eye(batch) == 1, -math.inf, math.log(2.6))
    for slopes, phi in ((RELU, Activation("relu")), (LINEAR, Activation("linear"))):
        found = Divided(apart, epsilon, 0.7).activated(slopes)
        known = normalized_moments(phi, math.log(2.6), batch, epsilon, math.exp(0.35))
        np.testing.assert_allclose(found.log_q, known.log_second, rtol=0, atol=2e-12)
        np.testing.assert_allclose(found.log_d[np.triu_indices(batch, 1)], known.log_distance, rtol=0, atol=2e-12)
        assert np.all(np.isneginf(np.diag(found.log_d)))


@pytest.mark.parametrize("size", [1.0, 1e3, 1e10, 1e13])
def test_one_input_far_above_two_others(size):
    """Modes λ of s² = λ χ² + λ' χ'²: E y² along the first is 3 √λ/(√λ + √λ'). All digits of the smaller one are kept.

    In the limit all of the distance is from units in which χ is of the size of χ' √(λ'/λ), of constant density there:
    of a density 1/sin² θ at y = √3 (u cos θ + u' sin θ) for the directions u, u' of the modes.
    """
    log_d = np.log(size**2 + 1) * np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]) + math.log(2) * np.eye(3)[[0, 2, 1]]
    log_d[0, 0] = log_d[1, 1] = log_d[2, 2] = -math.inf
    ratio = math.sqrt((4 * size**2 + 2) / 6)
    law = Divided(log_d)
    expected = 6 / (1 + ratio)
    assert math.exp(law.activated(LINEAR).log_d[1, 2]) == pytest.approx(expected, rel=1e-9)
    if size > 1e9:
        theta = (np.arange(2**16) + 0.5) * 2 * math.pi / 2**16
        second, third = (-np.cos(theta) / math.sqrt(2) + sign * np.sin(theta) * math.sqrt(1.5) for sign in (1, -1))
        passed = np.mean((np.maximum(second, 0) - np.maximum(third, 0)) ** 2 / np.sin(theta) ** 2) / 6
        assert math.exp(law.activated(RELU).log_d[1, 2]) == pytest.approx(expected * passed, rel=1e-6)


def test_an_input_of_zero_and_two_that_are_equal():
    """y = ±(√2, −1/√2, −1/√2) whatever the weights: E φ² is 1 for the one and 1/4 for the others."""
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    moments = Divided(log_distances(rows)).activated(RELU)
    np.testing.assert_allclose(np.exp(moments.log_q), [1, 0.25, 0.25], rtol=1e-12)
    np.testing.assert_allclose(np.exp(moments.log_d[0, 1:]), 1.25, rtol=1e-12)
    assert moments.log_d[1, 2] == -math.inf


@pytest.mark.parametrize("gap", [1e-6, 1e-9, 1e-12])
def test_inputs_that_are_nearly_equal_remain_apart_in_proportion(gap):
    """d is of order gap², of which nothing is left in covariances."""
    rows = np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.5], [0, 0, 0, 1.5]])
    near, nearer = (log_distances(np.vstack([rows[:4], [0, 0, scale, 1.5]])) for scale in (1e-4, gap))
    nearer[3, 4] = nearer[4, 3] = 2 * math.log(gap)
    for slopes in (RELU, LINEAR):
        d, other = (Divided(log_d).activated(slopes).log_d[3, 4] for log_d in (near, nearer))
        ratio = d - other - 2 * math.log(1e-4 / gap)
        assert abs(ratio) < 1e-3 if gap > 1e-8 else abs(ratio) < 1  # the size, but no longer the direction


def test_without_epsilon_no_scale_matters_and_with_it_a_small_one_does():
    log_d = log_distances(UNEQUAL)
    law = Divided(log_d).activated(RELU)
    for shift in (-1e5, 1e5):
        shifted = Divided(log_d + shift).activated(RELU)
        np.testing.assert_allclose(shifted.log_q, law.log_q, rtol=0, atol=1e-9)
        np.testing.assert_allclose(shifted.log_d, law.log_d, rtol=0, atol=1e-9)
    small = Divided(log_d - 1e5, 0.1).activated(LINEAR)  # C/ε
    np.testing.assert_allclose(small.log_d, log_d - 1e5 - math.log(0.1), rtol=0, atol=1e-9)


def test_a_batch_that_looks_the_same_is_an_error_only_without_epsilon():
    same = np.full((3, 3), -math.inf)
    with pytest.raises(ValueError, match="epsilon=0 divides by zero"):
        Divided(same).activated(RELU)
    moments = Divided(same, 0.1).activated(RELU)
    assert np.all(np.isneginf(moments.log_q)) and np.all(np.isneginf(moments.log_d))


def drawn(x, depth, width, phi, rng):
    """Mean of h² and of 1 − cos of every row, and squared gradients over that at the output; explicit weights."""
    h, rows, layers, pairs = x.T, [], [], np.triu_indices(len(x), 1)
    for _ in range(depth):
        w = rng.standard_normal((width, len(h))) * math.sqrt(2 / len(h))
        z = w @ h
        centred, s = z - z.mean(axis=1, keepdims=True), np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
        layers.append((w, centred / s, s))
        h = phi.phi(centred / s)
        rows += [z, centred / s, h]
    sizes = []
    for row in rows:
        products = row.T @ row / len(row)
        root = np.sqrt(np.diag(products))
        sizes.append([np.mean(root**2), np.mean(1 - (products / np.outer(root, root))[pairs])])
    gradient = rng.standard_normal(h.shape)
    norms = [np.sum(gradient**2)]
    for w, y, s in reversed(layers):
        behind = gradient * phi.dphi(y)
        along = np.mean(behind * y, axis=1, keepdims=True)
        before = (behind - behind.mean(axis=1, keepdims=True) - y * along) / s
        gradient = w.T @ before
        norms += [np.sum(behind**2), np.sum(before**2), np.sum(gradient**2)]
    norms = (
        np.array(norms[:-1][::-1]) / norms[0]
    )  # but of the inputs, of which the weights before BN are not independent
    return np.column_stack([np.array(sizes), norms])


@pytest.mark.parametrize("phi", [Activation("relu"), Activation("leaky_relu", -0.5)], ids=str)
def test_drawn_wide_networks(phi):
    """12 networks of width 2048; false-alarm rate 1e-6 of 18 numbers. Mean field is 100 and more errors off in most."""
    rng, growth = np.random.default_rng(4), predict_growth(mlp(2, 2048, phi, batch_norm=True, input_width=16), UNEQUAL)
    columns = growth.log_second_moment, growth.log_cosine_distance, growth.log_gradient
    expected = np.exp(np.column_stack(columns))[1:]
    mean, error = statistics.mean_with_error(np.array([drawn(UNEQUAL, 2, 2048, phi, rng) for _ in range(12)]))
    off = np.abs(mean - expected) / (statistics.tolerance(error, 1e-6, error.size, 11) + 1e-5 * expected)
    assert off.max() < 1, off.round(2)


def test_two_inputs_that_rounding_cannot_tell_apart_beside_the_largest_are_refused():
    net, vectors = mlp(3, 64, batch_norm=True, input_width=16), UNEQUAL / np.linalg.norm(UNEQUAL, axis=1)[:, None]
    vectors[0] *= 0.9e14
    assert np.all(np.isfinite(predict_growth(net, vectors).log_gradient))
    vectors[0] *= 1e40
    with pytest.raises(ValueError, match=r"a factor 1e\+14, all but one, got a factor 10\^53.95: scale them alike"):
        predict_growth(net, vectors)


@pytest.mark.parametrize("size", [1e-20, 1e-100])
def test_a_single_input_may_be_as_small_as_it_likes(size):
    net, vectors = mlp(3, 64, batch_norm=True, input_width=16), UNEQUAL / np.linalg.norm(UNEQUAL, axis=1)[:, None]
    vectors[3] *= 1e-10
    expected = predict_growth(net, vectors).log_gradient
    vectors[3] *= size
    np.testing.assert_allclose(predict_growth(net, vectors).log_gradient, expected, rtol=0, atol=1e-8)


def test_a_factor_behind_bn_and_a_negative_one():
    """Units are symmetric about zero: the sign of a factor does not matter, as behind the ReLU its square does."""
    nets = [
        Sequential((Dense(9), BatchNorm(gamma=gamma), *between, Activation("relu")), (16,))
        for gamma, between in ((3.0, ()), (1.0, (Affine(3.0),)), (1.5, (Affine(-2.0),)))
    ]
    first, *others = (predict_growth(net, UNEQUAL) for net in nets)
    for other in others:
        assert other.log_second_moment[-1] == pytest.approx(first.log_second_moment[-1], abs=1e-12)
        assert other.log_cosine_distance[-1] == pytest.approx(first.log_cosine_distance[-1], abs=1e-12)
        assert other.log_gradient[1] == pytest.approx(first.log_gradient[1], abs=1e-5)


def test_larger_batches_than_are_taken_pair_by_pair_take_the_mean_of_the_variance():
    """C/(E s² + ε) for one input more, where cosines are those of the centred inputs."""
    x = RNG.standard_normal((MOST_VECTORS + 1, 8)) * np.exp(2 * RNG.standard_normal((MOST_VECTORS + 1, 1)))
    net = Sequential((Dense(20), BatchNorm(0.0)), (8,))

    def one_less_cosine(products):
        root = np.sqrt(np.diag(products))
        return np.mean(1 - (products / np.outer(root, root))[np.triu_indices(len(root), 1)])

    some, centred = x[:-1], x - x.mean(axis=0)
    exact = normalized_and_activated(Activation("linear"), some @ some.T)
    for inputs, products in ((some, exact), (x, centred @ centred.T)):
        found = predict_growth(net, inputs).log_cosine_distance[-1]
        assert math.exp(found) == pytest.approx(one_less_cosine(products), rel=1e-9)


def test_a_second_bn_leaves_what_the_first_has_made():
    layers = Dense(20), BatchNorm(1e-9), BatchNorm(1e-9)
    growth = predict_growth(Sequential(layers, (16,)), UNEQUAL)
    assert growth.log_cosine_distance[3] == pytest.approx(growth.log_cosine_distance[2], abs=1e-6)
