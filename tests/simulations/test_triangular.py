"""The triangular chain of Gaussian networks, against exact arithmetic, explicit weights and closed forms."""

import functools

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.special import erf, polygamma, psi

from bntheory.architectures import mlp
from bntheory.layers import Dense, Flatten
from bntheory.networks import Sequential
from simulations import streams
from simulations.products import dense_log_singular_values, log_singular_values
from simulations.statistics import (
    binomial_interval,
    kolmogorov_distance,
    kolmogorov_tolerance,
    mean_with_error,
    tolerance,
)
from simulations.triangular import triangle

FALSE_ALARM = 1e-6  # of every statistical assertion here; the seeds are fixed

linear = functools.partial(mlp, activation="linear", init="lecun_normal")


# ---------------------------------------------------------------- exactness of the arithmetic


def triangles(width, depth, seed):
    """The factors that a linear network's first trial multiplies."""
    rng = streams.stream(seed, 0)
    return [triangle(rng, width, width) for _ in range(depth)]


@pytest.mark.parametrize(("width", "depth", "rate"), [(16, 60, 3.5), (12, 500, 3.2), (6, 3000, 2.2)])
def test_every_value_of_a_network(exact, width, depth, rate):
    expected = exact(triangles(width, depth, 9), rate)
    found = log_singular_values(linear(depth, width), trials=1, seed=9)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-11)
    if depth == 3000:
        assert found[-1] < -4000 and found[0] > -1000


@pytest.mark.parametrize("depth", [5, 50])
def test_larger_network_against_preconditioned_jacobi(depth):
    product = functools.reduce(lambda done, factor: factor @ done, triangles(200, depth, 10))
    values, _, _, work, _, info = linalg.lapack.dgejsv(np.asfortranarray(product.T), joba=2, jobu=3, jobv=3)
    assert info == 0
    expected = np.log(values) + np.log(work[0] / work[1])
    found = log_singular_values(linear(depth, 200), trials=1, seed=10)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


# ---------------------------------------------------------------- the law

RELU, LINEAR = mlp(1, 2).layers[1], linear(1, 2).layers[1]
BIASED = [Flatten(), Dense(8, bias=0.5), RELU, Dense(6, bias=0.5), RELU]
NETWORKS = {
    "square": linear(4, 5),
    "widening": Sequential([Dense(n, "lecun_normal") for n in (5, 7, 11)], (3,)),
    "narrowing": Sequential([Dense(n, "xavier_normal") for n in (9, 6, 4)], (11,)),
    "bottleneck": Sequential([Dense(n, "he_normal") for n in (6, 2, 5)], (4,)),
    "relu": mlp(3, 6),
    "relu, narrowing, unmasked output": mlp(2, 7, input_width=9, output_width=4),
    "relu with biases on an image": Sequential(BIASED, (1, 2, 5)),
    "relu after some layers": Sequential([Dense(6), Dense(6), RELU, RELU, Dense(5), LINEAR], (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_law_as_explicit_weights(name):
    net, trials = NETWORKS[name], 2000
    chain, dense = (f(net, trials, seed=s) for f, s in ((log_singular_values, 12), (dense_log_singular_values, 13)))
    assert chain.shape == dense.shape
    for logs in (chain, dense):
        logs[logs < -30] = -100  # exact zeros, which are rounding in the dense product
    views = [*np.eye(chain.shape[1]), np.ones(chain.shape[1])]  # every value, and their sum
    pairs = [(chain @ view, dense @ view) for view in views]
    for ours, theirs in [*pairs, ((chain > -100).sum(axis=1), (dense > -100).sum(axis=1))]:
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > FALSE_ALARM / (len(pairs) + 1)
    ours, theirs = (np.exp(2 * logs).sum(1) for logs in (chain, dense))
    (mean, error), (reference, other) = mean_with_error(ours), mean_with_error(theirs)
    assert abs(mean - reference) < tolerance(np.hypot(error, other), FALSE_ALARM)


def test_one_unit():
    """Width 1: the sum of independent ln |N(0, 1)|."""
    logs = log_singular_values(linear(1, 1), trials=2000, seed=14)[:, 0]
    assert kolmogorov_distance(logs, lambda v: erf(np.exp(v) / np.sqrt(2))) < kolmogorov_tolerance(2000, FALSE_ALARM)
    mean, error = mean_with_error(log_singular_values(linear(7, 1), trials=2000, seed=15))
    assert abs(mean[0] - 3.5 * (psi(0.5) + np.log(2))) < tolerance(error[0], FALSE_ALARM)


def test_dead_networks():
    """Two units, four ReLU layers: dead unless every layer keeps one, with probability 1 − (3/4)⁴."""
    logs = log_singular_values(mlp(4, 2), trials=3000, seed=16)
    assert not np.isnan(logs).any() and logs.shape == (3000, 2)
    dead = int(np.isneginf(logs[:, 0]).sum())
    low, high = binomial_interval(dead, 3000, 1 - FALSE_ALARM)
    assert low < 1 - 0.75**4 < high


def second_moments(widths, masked):
    """E tr JᵀJ and E tr (JᵀJ)² of real Gaussian networks of variance σ²/fan_in, σ² = 2 with masks and 1 without.

    With d = E φ′² = E φ′⁴ the pair (E tr S², E (tr S)²) is multiplied by a 2×2 matrix in every layer.
    """
    d, variance = (0.5, 2.0) if masked else (1.0, 1.0)
    first, pair = float(widths[0]), np.array([widths[0], widths[0] ** 2.0])
    for n, m in zip(widths, widths[1:], strict=False):
        p, q = m * d, m * d + m * (m - 1) * d**2
        first *= variance * d * m / n
        pair = (variance / n) ** 2 * np.array([[q + p, p], [2 * p, q]]) @ pair
    return first, *pair


@pytest.mark.parametrize(
    ("net", "widths"),
    [
        (linear(1, 6), (6, 6)),
        (linear(3, 6), (6,) * 4),
        (linear(5, 10), (10,) * 6),
        (linear(2, 8, input_width=5, output_width=3), (5, 8, 8, 3)),
        (mlp(3, 8), (8,) * 4),
        (mlp(2, 12, input_width=4), (4, 12, 12)),
    ],
    ids=str,
)
def test_exact_moments(net, widths):
    squares = np.exp(2 * log_singular_values(net, trials=3000, seed=17))
    trace = squares.sum(axis=1)
    samples = np.stack([trace, (squares**2).sum(axis=1), trace**2], axis=1)
    masked = "relu" in str(net)
    mean, error = mean_with_error(samples)
    expected = second_moments(widths, masked)
    if widths == (6, 6):
        assert expected[1] / 6 == pytest.approx(13 / 6)  # E tr S² / N of one square matrix: 2 + 1/N
    assert (np.abs(mean - expected) < tolerance(error, FALSE_ALARM, comparisons=3)).all()


def test_lyapunov_exponents_at_ten_thousand_layers():
    """ln σ_i / M → ½[ψ((N−i+1)/2) + ln(2/N)], variance ψ′((N−i+1)/2)/4M (Newman 1986); their sum exactly so."""
    depth, width, trials = 10_000, 5, 4
    logs = log_singular_values(linear(depth, width), trials=trials, seed=18) / depth
    k = np.arange(width, 0, -1)
    exponents, variances = (psi(k / 2) + np.log(2 / width)) / 2, polygamma(1, k / 2) / 4 / depth
    allowed = tolerance(np.sqrt(variances / trials), FALSE_ALARM, comparisons=width)
    constant = 3 / depth  # ln σ_i = M · exponent + O(1)
    assert np.isfinite(logs).all() and (np.abs(logs.mean(axis=0) - exponents) < allowed + constant).all()
    total = tolerance(np.sqrt(variances.sum() / trials), FALSE_ALARM)
    assert abs(logs.sum(axis=1).mean() - exponents.sum()) < total
    assert (logs * depth).min() < -14_000
