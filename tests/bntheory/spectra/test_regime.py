"""Regimes and condition numbers: closed limiting laws, exact asymptotics, and sampled products."""

import math

import numpy as np
import pytest
from scipy.special import psi

from bntheory import activations, regime
from bntheory.architectures import mlp
from bntheory.layers import Dense
from bntheory.networks import Sequential
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.regime import DRAWS, SMALLEST, _counted, _wide
from simulations.products import log_singular_values
from simulations.statistics import mean_with_error, tolerance

FALSE_ALARM = 1e-6


def linear(*widths):
    return Sequential(tuple(Dense(width, "lecun_normal") for width in widths[1:]), (widths[0],))


def measured(net, trials, seed=6):
    """ln σ_1, ln σ_r and ln κ of every draw; σ_r the smallest above 0."""
    samples = log_singular_values(net, trials, seed)
    samples = samples[np.isfinite(samples[:, 0])]
    last = np.isfinite(samples).sum(axis=1) - 1
    smallest = np.take_along_axis(samples, last[:, None], axis=1)[:, 0]
    return np.stack([samples[:, 0], smallest, samples[:, 0] - smallest], axis=1)


@pytest.mark.parametrize(("width", "factors"), [(64, 1), (64, 4), (1000, 10), (10**6, 5), (10**8, 100)])
def test_wide_square_products_have_the_quantiles_of_fuss_catalan(width, factors):
    law = FussCatalan(factors).log
    found = _wide(_counted(np.full(factors + 1, width)))
    scale = factors * math.log(width)
    assert 2 * found.largest - scale == pytest.approx(law.support[1], abs=1e-9)
    assert 2 * found.smallest - scale == pytest.approx(float(law.ppf(SMALLEST / width)), rel=1e-7)


@pytest.mark.parametrize(("inputs", "outputs"), [(100, 50), (100, 99), (1000, 10), (50, 100)])
def test_wide_rectangular_matrices_have_the_quantiles_of_marchenko_pastur(inputs, outputs):
    law, found = MarchenkoPastur(outputs / inputs).nonzero.log, regime(linear(inputs, outputs))
    assert found.name == "wide" and found.rank == min(inputs, outputs)
    assert 2 * found.log_mean.largest == pytest.approx(law.support[1], abs=1e-9)
    quantile = float(law.ppf(SMALLEST / min(inputs, outputs)))
    assert 2 * found.log_mean.smallest == pytest.approx(quantile, abs=1e-7)


def test_one_large_square_matrix():
    """Edelman 1988: E ln κ = ln N + 1.537; the law at the place of the smallest eigenvalue gives ln(8/π) + γ."""
    found = regime(10**6, 1).log_mean.condition - math.log(10**6)
    assert found == pytest.approx(math.log(8 / math.pi) + np.euler_gamma, abs=1e-5)
    assert found == pytest.approx(1.537, abs=0.03)


@pytest.mark.parametrize(("width", "factors"), [(2, 50), (8, 40), (16, 1000), (64, 10_000)])
def test_deep_square_products(width, factors):
    found = regime(width, factors)
    assert found.name == "deep"
    expected = (factors + 2) / 2 * float(psi(width / 2) - psi(0.5))
    assert found.log_mean.condition == pytest.approx(expected, rel=1e-12)
    assert found.log_condition_bound == found.log_mean.condition


@pytest.mark.parametrize(
    ("net", "trials", "draws"),
    [
        (mlp(128, 8, "linear", "lecun_normal"), 600, math.inf),
        (linear(5, *(9, 4, 6) * 24), 600, math.inf),
        (mlp(200, 24), 400, DRAWS),
    ],
)
def test_deep_networks_against_sampled_ones(net, trials, draws):
    """Linear, of one width and of several, and relu with its falling ranks: means and variances of all three ends.

    Relu is predicted from a sample of masks: its standard errors are added.
    """
    found, samples = regime(net), measured(net, trials)
    assert found.name == "deep"
    more = math.sqrt(1 + trials / draws)
    squares = (samples - samples.mean(axis=0)) ** 2
    for values, expected in ((samples, found.log_mean), (squares, np.square(found.log_std))):
        mean, error = mean_with_error(values)
        assert np.all(np.abs(mean - expected) < tolerance(error * more, FALSE_ALARM, 6))


@pytest.mark.parametrize(
    ("net", "trials"),
    [
        (mlp(1, 16, "linear", "lecun_normal"), 2000),
        (mlp(4, 64, "linear", "lecun_normal"), 500),
        (linear(60, 120, 120, 30), 200),
        (mlp(2, 128), 300),
    ],
    ids=str,
)
def test_wide_networks_against_sampled_ones(net, trials):
    """The limiting law errs by 1/N: E ln σ_1 is too large by up to 0.16, E ln σ_r right to 0.12."""
    found, samples = regime(net), measured(net, trials)
    assert found.name == "wide"
    mean, error = mean_with_error(samples)
    room = tolerance(error * math.sqrt(1 + trials / DRAWS), FALSE_ALARM, 3)  # the masks of relu are a sample
    excess = np.array(found.log_mean) - mean
    assert -room[0] < excess[0] < 0.16 + room[0]
    assert abs(excess[1]) < 0.12 + room[1]
    assert found.log_condition_bound > mean[2] - room[2]


def test_between_neither_limit_holds():
    """At M = N/2 both limits miss E ln σ_1 by 0.3 and more, and the bound holds."""
    width, factors = 16, 8
    found, samples = regime(width, factors), measured(mlp(factors, width, "linear", "lecun_normal"), 1000)
    mean, error = mean_with_error(samples)
    assert found.name == "between" and np.isnan(found.log_mean).all()
    assert FussCatalan(factors).log.support[1] / 2 > mean[0] + 0.3
    assert found.log_condition_bound > mean[2] + 0.3
    assert np.all(error[[0]] < 0.02)


@pytest.mark.parametrize("width", [64, 1000])
def test_regimes_follow_factors_over_width(width):
    """Wide up to N/8, deep from 4N: growth_std² ≈ M/2N = 1/16, separation² ≈ M/4N = 1."""
    names = [regime(width, round(width * ratio)).name for ratio in (0.11, 0.14, 3.6, 4.2)]
    assert names == ["wide", "between", "between", "deep"]
    found = regime(width, width // 4)
    assert found.growth_std == pytest.approx(math.sqrt(1 / 8), rel=0.05)
    assert found.separation == pytest.approx(math.sqrt(1 / 16), rel=0.05)


def test_relu_halves_the_widths():
    names = [regime(mlp(depth, 1000)).name for depth in (57, 68, 1800, 2200)]
    assert names == ["wide", "between", "between", "deep"]


def test_one_singular_value_and_none():
    single = regime(linear(50, 20, 1))
    assert str(single).startswith("deep: one singular value, ln σ₁ is -0.03")
    assert single.log_mean.condition == single.log_std.condition == 0
    assert single.log_mean.largest == pytest.approx(
        (sum(psi(n / 2) + math.log(2 / n) for n in (50, 20))) / 2, abs=1e-12
    )
    dead = regime(mlp(1000, 8))
    assert dead.name == "dead" and dead.rank == 0 and "J = 0" in str(dead)


def test_scale_and_words():
    one, other = (
        regime(linear(30, 20, 30)),
        regime(mlp(2, 20, "linear", "lecun_normal", input_width=30, output_width=30)),
    )
    assert one.name == "wide" and "the limiting law holds" in str(one)
    assert other.rank == 20
    wide, scaled = regime(mlp(3, 100, "linear", "lecun_normal")), regime(mlp(3, 100, "linear", "he_normal"))
    shift = 1.5 * math.log(2)
    assert scaled.log_mean == pytest.approx(np.add(wide.log_mean, (shift, shift, 0)), abs=1e-12)
    assert "the limiting law holds" in str(wide) and "neither limit holds" in str(regime(9, 9))
    assert regime(mlp(3, 100, "leaky_relu(-1)", "lecun_normal")) == wide  # |z|: signs do not change J Jᵀ


def test_large_networks_stay_in_float64():
    assert regime(10**9, 10_000).name == "wide"
    assert regime(mlp(10_000, 100)).name in ("deep", "dead")
    assert math.isfinite(regime(2, 1_000_000).log_mean.condition)


def test_leaky_relu_is_refused():
    net = Sequential((Dense(4), activations.activation("leaky_relu")), (4,))
    with pytest.raises(ValueError, match=r"^regime is not available because of row 1 \(leaky_relu\(0.01\)\)"):
        regime(net)
