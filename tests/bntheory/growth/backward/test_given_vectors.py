"""Gradients through BN over given vectors: against single units and the exchangeable batch, and infinite ones."""

import math

import numpy as np
import pytest

from bntheory import Activation, mlp, predict_growth
from bntheory.growth.backward.given_vectors import pulled_back
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.growth.infinite_width.batch_norm import growth_rate, pullback
from bntheory.growth.infinite_width.given_vectors import Divided
from simulations import simulate_growth, statistics

SLOPES = {"relu": (1.0, 0.0), "linear": (1.0, 1.0), "leaky_relu(-0.5)": (1.0, -0.5)}


def log_distances(factor):
    with np.errstate(divide="ignore"):
        return np.log(np.sum((factor[:, None] - factor) ** 2, axis=2))


def gradient(covariance):
    size = np.sqrt(np.diag(covariance))
    return Gradient(size**2, 0.3, (covariance / np.outer(size, size), None))


def covariances(back):
    size = np.sqrt(back.points)
    return back.links[0] * np.outer(size, size) * math.exp(back.log_scale)


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_units_one_by_one(name, epsilon):
    """200,000 units of 9 inputs 30 times apart, and gradients of any covariances, the same for all; false-alarm 1e-6.

    Gradients are independent of units: E over them is taken at their covariances G, at every unit.
    """
    rng, phi = np.random.default_rng(8), Activation(*((name,) if "(" not in name else ("leaky_relu", -0.5)))
    factor = rng.standard_normal((9, 12)) * np.geomspace(0.2, 6, 9)[:, None]
    given = rng.standard_normal((9, 9)) / np.geomspace(1, 4, 9)[:, None]
    sums = []
    for _ in range(20):
        z = rng.standard_normal((10_000, 12)) @ factor.T
        z -= z.mean(axis=1, keepdims=True)
        variance = np.mean(z**2, axis=1)[:, None, None] + epsilon
        behind = phi.dphi(z)[:, :, None] * given  # G = given givenᵀ
        along = np.einsum("ui,uik->uk", z, behind)[:, None, :] / 9 / variance
        before = (behind - behind.mean(axis=1, keepdims=True) - z[:, :, None] * along) / np.sqrt(variance)
        sums.append(np.tensordot(before, before, axes=((0, 2), (0, 2))) / len(z))
    mean, error = statistics.mean_with_error(np.array(sums))
    found = covariances(
        pulled_back(gradient(given @ given.T), Divided(log_distances(factor), epsilon), SLOPES[name], 0)
    )
    off = np.abs(found - mean * math.exp(0.3)) / statistics.tolerance(error * math.exp(0.3), 1e-6, 45, 19)
    assert off.max() < 1, off.max()
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-12 * found.max())


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("batch, epsilon", [(3, 0.2), (4, 0.0), (9, 1e-3), (64, 0.0)])
def test_inputs_that_are_alike_are_the_exchangeable_batch(name, batch, epsilon):
    """Of gradients of any covariances only the total and the part along 1 count."""
    rng, phi = np.random.default_rng(9), Activation(*((name,) if "(" not in name else ("leaky_relu", -0.5)))
    given = rng.standard_normal((batch, batch))
    given = given @ given.T
    total, mean = float(np.trace(given)), float(given.sum() / batch)
    apart = np.where(np.eye(batch) == 1, -math.inf, math.log(2.6))
    back = pulled_back(gradient(given), Divided(apart, epsilon), SLOPES[name], 2 * math.log(1.7))
    known = pullback(phi, math.log(2.6), batch, epsilon, 1.7)
    expected = 0.3 + known.log_scale + math.log(known.on_total * total + known.on_mean * mean)
    assert back.log_total(1) == pytest.approx(expected, abs=1e-10)


def test_few_modes_without_epsilon_are_infinite():
    """E 1/s² of two modes, of three different inputs, diverges; a third mode ends it."""
    rows = np.eye(4)
    for many, infinite in ((3, True), (4, False)):
        law = Divided(log_distances(rows[[0, 1, 2, many - 1, 0]]))
        assert (pulled_back(gradient(np.eye(5)), law, (1.0, 0.0), 0.0).log_total(1) == math.inf) == infinite


def test_two_inputs_of_any_sizes_are_alike():
    """What BN leaves of two inputs is their difference."""
    inputs = np.array([[3.0, 1.0, 0.0], [0.0, 0.1, 0.2]])
    growth = predict_growth(mlp(1, 20, batch_norm=True, input_width=3), inputs)
    known = pullback(Activation("relu"), math.log(2 * np.mean(np.diff(inputs, axis=0) ** 2)), 2, 1e-5)
    expected = known.log_scale + math.log(known.on_total + known.on_mean / 2)  # of a white gradient
    assert growth.log_gradient[1] == pytest.approx(expected, abs=1e-10)


def test_deep_networks_explode_at_the_rate_of_inputs_that_are_alike():
    """Layers bring any inputs to one size and one angle: Yang et al. 2019 have e^0.401 a layer at B = 64.

    The mean of s² alone would let them collapse into clusters, and gradients grow by e^0.10.
    """
    inputs, net = np.random.default_rng(6).standard_normal((64, 20)), mlp(60, 20, batch_norm=True, input_width=20)
    growth = predict_growth(net, inputs)
    rate = (growth.log_gradient[151] - growth.log_gradient[178]) / 9
    assert rate == pytest.approx(math.log(growth_rate(Activation("relu"), 64)), abs=2e-3)
    assert growth.log_cosine_distance[180] == pytest.approx(
        predict_growth(net, batch_size=64).log_cosine_distance[180], abs=1e-3
    )


def test_smooth_activations_take_the_sizes_of_vectors_into_account():
    """As drawn networks of width 2048 have it, within e^0.3; the rule of vectors that are alike is e^1.2 off."""
    inputs = np.random.default_rng(3).standard_normal((8, 16)) * np.array([10, 1, 1, 3, 0.3, 1, 5, 2])[:, None]
    net = mlp(1, 2048, "tanh", batch_norm=True, input_width=16)
    drawn = simulate_growth(net, trials=40, inputs=inputs, seed=2).log_gradient[:, 1]
    assert abs(predict_growth(net, inputs).log_gradient[1] - math.log(np.exp(drawn).mean())) < 0.3
    even = np.random.default_rng(3).standard_normal((8, 16)) * math.sqrt(np.mean(inputs**2))
    assert abs(predict_growth(net, even).log_gradient[1] - math.log(np.exp(drawn).mean())) > 1
