"""Predicted growth against simulated growth: exact laws at any width, infinite-width moments at large width."""

import json
import math
import pathlib
from itertools import product

import numpy as np
import pytest

from bntheory import activation, initialization, mlp, predict_growth
from bntheory.activations import KNOWN
from bntheory.layers import Dense
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth
from simulations.statistics import binomial_interval, mean_with_error, tolerance

STUDY = pathlib.Path(__file__).parents[1] / "benchmarks" / "explicit_weights_study.json"
RELU = activation("relu")
RARE = 1e-5  # false alarm of a test function's comparisons together


def std_with_error(values):
    """Standard deviation and its standard error, from the sampled fourth moment."""
    centred = values - values.mean()
    variance = np.mean(centred**2)
    return math.sqrt(variance), math.sqrt(np.var(centred**2) / len(values) / (4 * variance))


def judge(growth, *several, rows=(-1,)):
    """Mean, standard deviation, deaths and bands of rows, all at once below the false-alarm rate RARE."""
    bands = {level: growth.band(level) for level in (0.5, 0.8, 0.9, 0.99)}
    comparisons = 7 * len(several) * len(rows)
    for samples, row in product(several, rows):
        values = samples.log_second_moment[:, row]
        alive = values[np.isfinite(values)]
        mean, error = mean_with_error(alive)
        assert abs(mean - growth.log_growth_mean[row]) < tolerance(error, RARE, comparisons)
        std, error = std_with_error(alive)
        assert abs(std - growth.log_growth_std[row]) < tolerance(error, RARE, comparisons)
        interval = binomial_interval(len(values) - len(alive), len(values), 1 - RARE / comparisons)
        assert interval[0] <= growth.p_dead[row] <= interval[1]
        for level, (lower, upper) in bands.items():
            inside = int(np.sum((lower[row] <= alive) & (alive <= upper[row])))
            interval = binomial_interval(inside, len(alive), 1 - RARE / comparisons)
            assert interval[0] <= level <= interval[1]


# --- explicit weights ------------------------------------------------------------------------------------------------


def test_twenty_thousand_networks_with_explicit_weights():
    """The recorded study: within four standard errors of the theory, and 90 ± 1 % inside the 90 % band."""
    study = json.loads(STUDY.read_text())
    assert (study["trials"], study["depth"], study["width"], study["band_level"]) == (20_000, 100, 128, 0.9)
    growth = predict_growth(mlp(100, 128))
    assert study["mean_standard_error"] == pytest.approx(growth.log_growth_std[-1] / math.sqrt(20_000), rel=0.03)
    assert abs(study["mean"] - growth.log_growth_mean[-1]) < 4 * study["mean_standard_error"]
    assert abs(study["std"] - growth.log_growth_std[-1]) < 4 * study["std_standard_error"]
    assert study["std_standard_error"] < 0.012
    assert abs(study["coverage"] - 0.9) < 0.01
    assert study["dead"] == 0


def test_width_128_depth_100():
    """2000 draws without weights, standard error 0.045, against mean −1.979, std 2.006; with weights see above."""
    net = mlp(100, 128)
    judge(predict_growth(net), simulate_growth(net, 2000, seed=1, method="conditional", gradients=False))


# --- exact at any width ----------------------------------------------------------------------------------------------

NARROW = {
    "width 1": mlp(3, 1),
    "width 1, revived by a bias": mlp(4, 1, bias=0.3),
    "width 2": mlp(4, 2),
    "width 3": mlp(4, 3, init="xavier_normal", input_width=8),
    "width 4, bias": mlp(4, 4, bias=0.05),
    "width 5": mlp(6, 5, init=initialization("he_normal", gain=10)),
    "widths 6, 1, 60, 3": Sequential(tuple(part for n in (6, 1, 60, 3) for part in (Dense(n), RELU)), (4,)),
    "linear": mlp(4, 3, "linear", "lecun_normal", bias=0.2),
    "linear and ReLU": Sequential((Dense(4, bias=0.1), activation("linear"), Dense(3), RELU, Dense(2)), (5,)),
    "one layer": mlp(1, 7),
}


@pytest.mark.parametrize("net", NARROW.values(), ids=NARROW)
def test_the_law_at_small_width(net):
    """1,000 draws of every network by either method, judged at the last two rows."""
    drawn = (simulate_growth(net, 1000, seed=3, method=m, gradients=False) for m in ("conditional", "weights"))
    judge(predict_growth(net), *drawn, rows=(-2, -1))


def test_the_law_given_an_input():
    x = np.random.default_rng(0).standard_normal((1, 6)) * 30
    net = mlp(4, 5, bias=2.0, input_width=6)
    judge(predict_growth(net, x), simulate_growth(net, 1000, x, seed=4, gradients=False))


def test_the_judge_can_fail():
    growth = predict_growth(mlp(4, 4))
    with pytest.raises(AssertionError):
        judge(growth, simulate_growth(mlp(4, 6), 1000, seed=3, method="conditional", gradients=False))


@pytest.mark.parametrize("init", ["he_uniform", "he_normal", "torch_default", initialization("orthogonal", gain=1.4)])
def test_the_second_moment_of_relu_networks_is_exact_for_any_weights(init):
    """Width 6: E h² itself, where infinite width would be far off for anything not exact."""
    net = mlp(3, 6, init=init)
    growth = predict_growth(net)
    assert set(growth.moment_method) == {"exact"}
    values = np.exp(simulate_growth(net, 1500, seed=5, method="weights", gradients=False).log_second_moment[:, 1:])
    mean, error = mean_with_error(values)
    allowed = tolerance(error, RARE, comparisons=len(mean)) + 1e-11  # an orthogonal matrix keeps the first row exactly
    assert np.all(np.abs(mean - growth.second_moment[1:]) < allowed)


def test_uniform_weights_to_first_order():
    """Width 60: mean −5/2n a layer and std √(5L/n) for any weights, as the band's method "first-order" says.

    The fourth moment of uniform weights lowers the variance by 1.2 Σ h⁴/(Σ h²)² a layer, of higher order in a wide net.
    """
    net = mlp(10, 60, init="he_uniform")
    growth, values = predict_growth(net), simulate_growth(net, 1000, seed=6, gradients=False).log_second_moment[:, -1]
    mean, error = mean_with_error(values)
    assert abs(mean - growth.log_growth_mean[-1]) < tolerance(error, RARE) + 10 / 60**2
    assert values.std() == pytest.approx(growth.log_growth_std[-1], rel=0.15)


# --- infinite width --------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(8)
INPUTS = RNG.standard_normal((5, 40)) * [[0.5], [1.0], [1.0], [2.0], [1.5]] + 0.4 * RNG.standard_normal(40)


def compare_moments(net, inputs, trials, slack, method="conditional"):
    """The three moments of every row: sampling error, plus a relative `slack` for finite width."""
    growth, samples = (
        predict_growth(net, inputs),
        simulate_growth(net, trials, inputs, seed=7, method=method, gradients=False),
    )
    for quantity in ("log_second_moment", "log_channel_mean_square", "log_channel_variance"):
        predicted, measured = np.exp(getattr(growth, quantity)), np.exp(getattr(samples, quantity))
        rows = [row for row in range(len(predicted)) if predicted[row] > 1e-9]
        assert len(rows) > len(predicted) / 2
        mean, error = mean_with_error(measured[:, rows])
        allowed = tolerance(error, RARE, 3 * len(predicted), degrees_of_freedom=trials - 1)
        assert np.all(np.abs(mean - predicted[rows]) < allowed + slack * predicted[rows])


@pytest.mark.parametrize("name", KNOWN)
def test_every_activation_at_width_2000(name):
    init = initialization("lecun_normal", gain=1.3)
    compare_moments(mlp(4, 2000, name, init, 0.1, input_width=40), INPUTS, 20, 0.005)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_residual_blocks_at_width_2000(name):
    compare_moments(mlp(4, 2000, name, "he_normal", residual=True, input_width=40), INPUTS, 20, 0.005)


def test_a_projected_shortcut():
    block = Residual(Sequential((activation("tanh"), Dense(900))), Sequential((Dense(900, "lecun_normal"),)))
    compare_moments(Sequential((Dense(1500), block, RELU, Dense(1200)), (40,)), INPUTS, 30, 0.01)


@pytest.mark.parametrize(("name", "residual"), [("relu", False), ("relu", True), ("tanh", False), ("gelu", True)])
def test_batch_norm_over_32_inputs(name, residual):
    """BatchNorm divides by each unit's own variance: an error of order 1/B, here 1/32, remains at infinite width."""
    inputs = np.random.default_rng(9).standard_normal((32, 40))
    net = mlp(3, 1000, name, batch_norm=True, residual=residual, input_width=40)
    compare_moments(net, inputs, 8, 1.5 / 32)


@pytest.mark.parametrize("init", ["torch_default", "orthogonal"])
def test_other_weights_at_width_600(init):
    compare_moments(mlp(3, 600, "tanh", init, input_width=40), INPUTS, 12, 0.01, method="weights")


def test_the_error_of_infinite_width_falls_as_one_over_the_width():
    """tanh, gain 1, depth 3: relative deviation of E h² at widths 3 and 9, from 5,000 draws each."""
    deviations = []
    for width in (3, 9):
        net = mlp(3, width, "tanh", "lecun_normal")
        values = np.exp(
            simulate_growth(net, 5000, seed=10, method="conditional", gradients=False).log_second_moment[:, -1]
        )
        mean, error = mean_with_error(values)
        predicted = predict_growth(net).second_moment[-1]
        deviations.append((mean / predicted - 1, error / predicted))
    (coarse, coarse_error), (fine, error) = deviations
    assert abs(fine) > 4 * error  # seen, not drowned
    assert abs(coarse - 3 * fine) < 4 * math.hypot(coarse_error, 3 * error) + 0.2 * abs(coarse)
