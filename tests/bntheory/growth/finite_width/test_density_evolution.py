"""The law of ln‖h‖² with biases, against exact moments, quadrature, and sampling of the scalar chain."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from bntheory.growth.finite_width import density_evolution, fluctuations
from bntheory.growth.finite_width.fluctuations import LogChi2, Step
from simulations.statistics import binomial_interval, mean_with_error, tolerance

RELU, LINEAR = (lambda n: LogChi2(n, True)), (lambda n: LogChi2(n, False))
WIDTHS = (1, 300, 3, 50, 2)
CHAINS = {
    "width 1": [(2.0, 0.1, RELU(1))] * 8,
    "width 2, tiny bias": [(1.0, 1e-12, RELU(2))] * 12,
    "width 3, large bias": [(2 / 3, 30.0, RELU(3))] * 12,
    "linear": [(0.25, 0.2, LINEAR(4))] * 10,
    "widths 1, 300, 3, 50, 2": [(2 / n, 0.05, RELU(m)) for n, m in itertools.pairwise((7, *WIDTHS))],
    "first layer alone has a bias": [(0.5, 0.3, RELU(4)), *[(0.5, 0.0, RELU(4))] * 5],
    "last layer alone has a bias": [*[(0.5, 0.0, RELU(2))] * 5, (0.5, 0.3, RELU(2))],
    "width 30, depth 60": [(2 / 30, 0.01, RELU(30))] * 60,
    "one layer": [(2.0, 0.1, RELU(2))],
}
chains = pytest.mark.parametrize("layers", CHAINS.values(), ids=CHAINS)
START = math.log(7.0)  # ‖h‖² of the input


def steps(layers):
    return [Step(math.log(v), math.log(b) if b else -math.inf, law) for v, b, law in layers]


def sampled(layers, draws, seed):
    """‖h‖² after every layer: the chain itself, dead draws included."""
    rng, square, history = np.random.default_rng(seed), np.full(draws, math.exp(START)), []
    for v, b, law in layers:
        k = rng.binomial(law.units, 0.5, draws) if law.halved else np.full(draws, law.units)
        square = (v * square + b) * 2 * rng.standard_gamma(k / 2)
        history.append(square)
    return history


def exact_moments(layers):
    """E ‖h‖², E ‖h‖⁴ and the probability that the output is zero, layer by layer."""
    first, second, dead, table = math.exp(START), math.exp(2 * START), 0.0, []
    for v, b, law in layers:
        n = law.units
        factor, square = (n / 2, n * (n + 5) / 4) if law.halved else (n, n * (n + 2))
        first, second = (v * first + b) * factor, (v * v * second + 2 * v * b * first + b * b) * square
        dying = 0.5**n if law.halved else 0.0
        dead = dying if b else 1 - (1 - dead) * (1 - dying)  # a bias revives
        table.append((first, second, dead))
    return table


@chains
def test_exact_moments_are_reproduced(layers):
    for (_, density), (first, second, dead) in zip(
        density_evolution.evolve(START, steps(layers)), exact_moments(layers), strict=True
    ):
        size = np.exp(density.points)
        assert density.weights.sum() == pytest.approx(1, abs=1e-12)
        assert density.dead == pytest.approx(dead, rel=1e-12, abs=1e-15)
        alive, cut = 1 - density.dead, 2e-16 * len(layers)  # mass cut off beyond the last point
        assert alive * density.weights @ size == pytest.approx(first, rel=1e-9, abs=cut * size[-1])
        assert alive * density.weights @ size**2 == pytest.approx(second, rel=1e-9, abs=cut * size[-1] ** 2)


@chains
def test_mean_variance_and_quantiles_against_sampling(layers):
    """200,000 draws; 9 chains × (8 quantiles + 2 moments), 1e-6 each: false alarm below 1e-4."""
    draws, levels = 200_000, np.array([0.001, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999])
    square = sampled(layers, draws, seed=3)[-1]
    u = np.log(square[square > 0])
    source, density = list(density_evolution.evolve(START, steps(layers)))[-1]
    mean, error = mean_with_error(u)
    assert abs(mean - density.mean) < tolerance(error, 1e-6)
    second, error = mean_with_error((u - density.mean) ** 2)
    assert abs(second - density.variance) < tolerance(error, 1e-6)
    law = layers[-1][2]
    quantiles = density_evolution.quantiles(source, steps(layers)[-1], law, levels)
    for level, quantile in zip(levels, quantiles, strict=True):
        lower, upper = binomial_interval(int(np.sum(u <= quantile)), len(u), 1 - 1e-6)
        assert lower <= level <= upper
    lower, upper = binomial_interval(int(np.sum(square == 0)), draws, 1 - 1e-6)
    assert lower <= density.dead <= upper


def test_two_layers_with_a_revived_atom_by_quadrature():
    """Width 1, bias 0.1: the second layer starts from bias alone with probability 1/2."""
    v, b = 2.0, 0.1
    layers = steps([(v, b, RELU(1))] * 2)
    _, (source, density) = density_evolution.evolve(START, layers)
    scale = v * math.exp(START) + b  # ‖h_1‖² = scale · χ²_1, given alive
    mean, variance = fluctuations.mean_and_variance(RELU(1))

    def expectation(function):
        alive, _ = integrate.quad(
            lambda g: 2 * stats.norm.pdf(g) * function(math.log(v * scale * g * g + b)), 0, 12, epsabs=1e-13, limit=200
        )
        return (alive + function(math.log(b))) / 2

    first = expectation(lambda u: u)
    second = expectation(lambda u: (u - first) ** 2)
    assert (source.mean, source.variance, source.dead) == pytest.approx((first, second, 0.0), rel=1e-10)
    assert (density.mean, density.variance, density.dead) == pytest.approx(
        (first + mean, second + variance, 0.5), rel=1e-10
    )
    for level in (0.01, 0.5, 0.99):
        quantile = density_evolution.quantiles(source, layers[-1], RELU(1), np.array([level]))[0]
        below = expectation(lambda u, q=quantile: stats.chi2.cdf(math.exp(q - u), 1))
        assert below == pytest.approx(level, abs=1e-10)


def test_a_vanishing_bias_changes_nothing():
    levels = np.array([0.01, 0.5, 0.99])
    without, with_bias = (
        list(density_evolution.evolve(START, steps([(0.2, b, LINEAR(5))] * 6)))[-1][0] for b in (0.0, 1e-30)
    )
    np.testing.assert_allclose(
        density_evolution.quantiles(without, steps([(0.2, 0.0, LINEAR(5))])[0], LINEAR(5), levels),
        density_evolution.quantiles(with_bias, steps([(0.2, 1e-30, LINEAR(5))])[0], LINEAR(5), levels),
        rtol=0,
        atol=1e-10,
    )


def test_many_layers_forget_the_input():
    ends = [list(density_evolution.evolve(start, steps([(0.5, 0.1, RELU(2))] * 120)))[-1][1] for start in (-50.0, 50.0)]
    assert ends[0].mean == pytest.approx(ends[1].mean, abs=1e-6)
    assert ends[0].variance == pytest.approx(ends[1].variance, rel=1e-6)


@pytest.mark.parametrize("law", [RELU(1), RELU(3), RELU(60), LINEAR(1), LINEAR(1000)], ids=str)
def test_the_tabulated_kernel(law):
    """Its density is that of ln χ²_K − mean, and integrates to 1 with mean 0 and the exact variance."""
    kernel, (mean, variance) = density_evolution.kernel(law), fluctuations.mean_and_variance(law)
    x = np.linspace(kernel.lower, kernel.upper, 200_001)
    spacing = x[1] - x[0]
    density = kernel.pdf(x)
    assert spacing * density.sum() == pytest.approx(1, abs=1e-10)
    assert spacing * density @ x == pytest.approx(0, abs=1e-10)
    assert spacing * density @ x**2 == pytest.approx(variance, rel=1e-9)
    k = np.arange(1, law.units + 1) if law.halved else np.array([law.units])
    p = stats.binom.pmf(k, law.units, 0.5) / (1 - 0.5**law.units) if law.halved else np.ones(1)
    for point in np.linspace(-2, 2, 9) * math.sqrt(variance):
        size = math.exp(point + mean)
        assert kernel.pdf(point) == pytest.approx(p @ stats.chi2.pdf(size, k) * size, abs=1e-10)
        assert kernel.cdf(point) == pytest.approx(p @ stats.chi2.cdf(size, k), abs=1e-10)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_uniform_biases_narrow_the_law_to_first_order(activation):
    """Mean and std of ln‖z‖² for biases that carry 5/6 of the variance: the error falls faster than 1/n.

    200,000 draws a width; the Gaussian law would be wrong by 15% to 20% of the standard deviation at any width.
    """
    rng = np.random.default_rng(8)
    errors = []
    for n in (8, 32, 128):
        norms = []
        for _ in range(20):
            biases = rng.uniform(-1, 1, (10_000, n)) * math.sqrt(3 * 5 / 6)
            z = math.sqrt(1 / 6) * rng.standard_normal((10_000, n)) + biases
            z = np.maximum(z, 0) if activation == "relu" else z
            norms.append(np.sum(z**2, axis=1))
        u = np.log(np.concatenate(norms)[np.concatenate(norms) > 0])
        law = LogChi2(n, activation == "relu")
        step = Step(math.log(1 / 6), math.log(5 / 6), law, -1.2)
        ((source, density),) = density_evolution.evolve(0.0, [step])
        mean, variance = density_evolution.mean_and_variance(source, step, law)
        assert (mean, variance) == pytest.approx((density.mean, density.variance), rel=1e-7)
        gaussian = math.sqrt(fluctuations.mean_and_variance(law)[1])
        assert abs(u.std() / gaussian - 1) > 0.1
        errors.append((abs(u.std() / math.sqrt(variance) - 1), abs(u.mean() - mean) / math.sqrt(variance)))
        quantiles = density_evolution.quantiles(source, step, law, np.array([0.05, 0.95]))
        errors[-1] += (abs(np.mean((u > quantiles[0]) & (u < quantiles[1])) - 0.9),)
    noise = 4 / math.sqrt(200_000)
    for n, (std, mean, coverage) in zip((8, 32, 128), errors, strict=True):
        assert std < 2 / n + noise and mean < 1 / n + noise and coverage < 0.3 / n + noise, (n, std, mean, coverage)
