"""`simulate_growth`: reproducible whatever the workers, the same law by either method, nothing that overflows."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from bntheory import activation, initialization, leaves, mlp, resnet
from bntheory.activations import KNOWN, Activation
from bntheory.layers import BatchNorm, Dense, Flatten
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth
from simulations.samples import QUANTITIES
from simulations.signal import Signal, activated, added, normalized, scaled
from simulations.statistics import mean_with_error, tolerance
from simulations.weights import draw_weights

RELU = activation("relu")
METHODS = pytest.mark.parametrize("method", ["conditional", "weights"])


def same(one, other, trials=None):
    for quantity in QUANTITIES:
        np.testing.assert_array_equal(getattr(one, quantity)[:trials], getattr(other, quantity)[:trials])


NET = mlp(4, 9, bias=0.1, batch_norm=True, residual=True, input_width=5)


@METHODS
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_bits_on_any_number_of_workers(method, workers):
    same(
        simulate_growth(NET, 12, batch=3, method=method, workers=workers),
        simulate_growth(NET, 12, batch=3, method=method),
    )


@METHODS
def test_the_first_trials_of_a_longer_run(method):
    same(
        simulate_growth(NET, 7, batch=3, seed=4, method=method),
        simulate_growth(NET, 30, batch=3, seed=4, method=method),
        trials=7,
    )


@METHODS
def test_trials_and_seeds_differ(method):
    one, other = (simulate_growth(NET, 5, batch=3, seed=seed, method=method) for seed in (0, 1))
    values = np.concatenate([one.log_second_moment[:, 1], other.log_second_moment[:, 1]])
    assert len(set(values.tolist())) == 10


def test_a_generator_is_a_seed_once():
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        runs.append([simulate_growth(NET, 3, batch=3, seed=rng) for _ in range(2)])
    same(runs[0][0], runs[1][0])
    assert runs[0][0].seed == runs[1][0].seed != runs[0][1].seed
    same(simulate_growth(NET, 3, batch=3, seed=runs[0][1].seed), runs[0][1])


def test_rows_are_the_leaves():
    samples = simulate_growth(NET, 2, batch=3)
    assert samples.rows == tuple(leaves(NET))
    assert samples.log_second_moment.shape == (2, len(samples.rows))
    json.dumps(samples.to_dict(), allow_nan=False)
    assert samples.table()


@pytest.mark.parametrize("batch", [1, 4, 5, 9])
def test_the_inputs_are_of_size_one_and_orthogonal(batch):
    """Up to the dimension, 5: every input has second moment 1, and the mean square is 1/B."""
    samples = simulate_growth(Sequential((Dense(3),), (5,)), 4, batch=batch)
    np.testing.assert_allclose(samples.log_second_moment[:, 0], 0, atol=1e-14)
    if batch <= 5:
        np.testing.assert_allclose(samples.log_channel_mean_square[:, 0], -math.log(batch), atol=1e-13)


def test_given_inputs_are_used():
    inputs = np.random.default_rng(0).standard_normal((4, 5)) + 1
    samples = simulate_growth(NET, 2, inputs=inputs)
    assert samples.log_second_moment[:, 0] == pytest.approx(math.log(np.mean(inputs**2)))
    assert samples.log_channel_mean_square[:, 0] == pytest.approx(math.log(np.mean(inputs.mean(axis=0) ** 2)))
    assert samples.log_channel_variance[:, 0] == pytest.approx(math.log(np.mean(inputs.var(axis=0))))


def test_the_method_is_chosen_by_cost_and_law():
    assert simulate_growth(mlp(1, 64), 1).method == "conditional"
    assert simulate_growth(mlp(1, 64), 1, batch=3).method == "weights"
    assert simulate_growth(mlp(1, 64, init="he_uniform"), 1).method == "weights"
    assert simulate_growth(mlp(1, 64, init="torch_default", bias=0.1), 1).method == "weights"


# --- the law ---------------------------------------------------------------------------------------------------------

LAW_NETWORKS = {
    "width 3, ReLU": (mlp(3, 3, init="lecun_normal", bias=0.3), 1),
    "width 5, tanh, B = 2": (mlp(4, 5, "tanh", initialization("lecun_normal", gain=2)), 2),
    "width 4, ReLU and bias, B = 5 > n": (mlp(4, 4, bias=0.2), 5),
    "width 8, BN, B = 5": (mlp(3, 8, batch_norm=True), 5),
    "width 3, BN and bias, B = 7 > n": (mlp(3, 3, "tanh", batch_norm=True, bias=1.0), 7),
    "width 6, residual, B = 2": (mlp(3, 6, "gelu", residual=True, bias=0.1, input_width=4), 2),
    "residual with BN, B = 5": (mlp(3, 5, batch_norm=True, residual=True, input_width=3), 5),
    "widths 4, 1, 7, 2, linear": (
        Sequential(tuple(part for n in (4, 1, 7, 2) for part in (Dense(n, bias=0.5), activation("linear"))), (3,)),
        3,
    ),
    "version-1 block": (
        Sequential((Dense(6), RELU, Residual(Sequential((Dense(6), RELU, Dense(6)))), RELU, Dense(2)), (6,)),
        3,
    ),
}
TRIALS, FALSE_ALARM = 800, 1e-4  # of all comparisons of all networks together
COMPARISONS = 3 * sum(len(tuple(leaves(net))) - 1 for net, _ in LAW_NETWORKS.values())


@pytest.mark.parametrize(("net", "batch"), LAW_NETWORKS.values(), ids=LAW_NETWORKS)
def test_both_methods_sample_one_law(net, batch):
    """Two-sample Kolmogorov–Smirnov tests of the three quantities at every row; Bonferroni over all of them.

    Dead draws, −inf, count as one smallest value; the seeds differ, the inputs are the same.
    """
    inputs = np.random.default_rng(1).standard_normal((batch, net.input_shape[0])) + 0.5
    one = simulate_growth(net, TRIALS, inputs, seed=10, method="conditional")
    other = simulate_growth(net, TRIALS, inputs, seed=11, method="weights")
    compared = 0
    for quantity in QUANTITIES:
        for row in range(1, len(one.rows)):
            pair = [np.maximum(getattr(samples, quantity)[:, row], -1e6) for samples in (one, other)]
            pair = [np.where(values < -30, -60.0, values) for values in pair]  # zeros and what rounding leaves of them
            if min(np.ptp(values) for values in pair) < 1e-9:  # a constant, e.g. right after BN
                np.testing.assert_allclose(*[values.mean() for values in pair], atol=1e-9)
                continue
            assert stats.ks_2samp(*pair, method="asymp").pvalue > FALSE_ALARM / COMPARISONS
            compared += 1
    assert compared > len(one.rows)


def test_the_comparison_can_fail():
    """A gain a fifth larger is seen at once."""
    nets = [mlp(3, 8, init=initialization("he_normal", gain=gain)) for gain in (1.4, 1.7)]
    pair = [simulate_growth(net, TRIALS, seed=seed).log_second_moment[:, -1] for seed, net in enumerate(nets)]
    assert stats.ks_2samp(*pair, method="asymp").pvalue < FALSE_ALARM / COMPARISONS


def test_nearly_equal_inputs():
    """Relative difference 1e-8: both methods give the distance of a linear layer's outputs, d χ²_n σ²/n."""
    x = np.random.default_rng(2).standard_normal(6)
    inputs = np.stack([x, x + 1e-8 * np.random.default_rng(3).standard_normal(6)])
    net = Sequential((Dense(40, "lecun_normal"),), (6,))
    variance = math.log(np.mean((inputs[0] - inputs[1]) ** 2) / 4)
    for method in ("conditional", "weights"):
        samples = simulate_growth(net, 3000, inputs, seed=5, method=method)
        ratio, error = mean_with_error(np.exp(samples.log_channel_variance[:, 1] - variance))
        assert abs(ratio - 1) < tolerance(error, 1e-5) + 1e-6


def test_a_bias_alone():
    """Tiny weights: what comes out is the bias, the same for every input."""
    net = Sequential((Dense(50, initialization("lecun_normal", gain=1e-9), bias=4.0),), (6,))
    for method in ("conditional", "weights"):
        samples = simulate_growth(net, 500, batch=3, seed=1, method=method)
        mean, error = mean_with_error(np.exp(samples.log_second_moment[:, 1]))
        assert abs(mean - 4) < tolerance(error, 1e-5)
        assert np.all(samples.log_channel_variance[:, 1] < -35)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4)])
def test_orthogonal_weights(shape):
    law = initialization("orthogonal", gain=3.0)
    w = draw_weights(law, 0.0, shape, np.random.default_rng(0))
    assert w.shape == shape
    singular = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(singular, 3.0, rtol=1e-13)


def test_uniform_weights_and_torchs_bias():
    """Second moment after one Dense layer by torch's default: q/3 + 1/(3 fan_in); and its bound ±1/√fan_in."""
    w = draw_weights(initialization("torch_default"), 1 / 48, (16, 4000), np.random.default_rng(0))
    assert abs(w).max() <= 0.25 and abs(w).max() > 0.2499
    samples = simulate_growth(Sequential((Dense(30, "torch_default"),), (16,)), 4000, seed=1)
    mean, error = mean_with_error(np.exp(samples.log_second_moment[:, 1]))
    assert abs(mean - (1 / 3 + 1 / 48)) < tolerance(error, 1e-5)


# --- far ends --------------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "bias": {"bias": 0.1},
    "BN": {"batch_norm": True},
    "residual": {"residual": True},
    "all": {"bias": 0.1, "batch_norm": True, "residual": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", KNOWN)
def test_gain_ten_neither_overflows_nor_warns(name, options):
    """400 layers of width 64: up to e^1800, ten times what float64 holds in h²."""
    net = mlp(400, 64, name, initialization("lecun_normal", gain=10), **options)
    samples = simulate_growth(net, 1, batch=2, method="conditional")
    assert np.isfinite(samples.log_second_moment).all()
    assert not samples.overflowed.any()


@METHODS
def test_gain_ten_at_depth_ten_thousand(method):
    net = mlp(10_000, 16, "leaky_relu", initialization("lecun_normal", gain=10), bias=0.1)
    samples = simulate_growth(net, 1, method=method)
    assert np.isfinite(samples.log_second_moment).all()
    assert samples.log_second_moment[0, -1] > 30_000


@pytest.mark.parametrize("name", ["linear", "relu", "tanh", "gelu", "silu", "elu", "selu", "erf"])
def test_tiny_activations_are_not_lost(name):
    """Gain 1e-3 over 500 layers: e^−7000. φ(x) = φ′(0)x there, and only ReLU-like halving acts."""
    net = mlp(500, 64, name, initialization("lecun_normal", gain=1e-3))
    samples = simulate_growth(net, 1, seed=2)
    assert np.isfinite(samples.log_second_moment).all()
    slopes = [abs(float(activation(name).phi(s * 1e-9))) * 1e9 for s in (-1, 1)]
    rate = 2 * math.log(1e-3) + math.log((slopes[0] ** 2 + slopes[1] ** 2) / 2)
    assert samples.log_second_moment[0, -1] == pytest.approx(500 * rate, rel=0.01)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("log_scale", [-1e4, -160.0, -150.0, -20.0, 0.0, 20.0, 150.0, 160.0, 1e4])
def test_activations_at_any_scale(name, log_scale):
    """ln E φ(h)² continues what plain arithmetic gives where it can: along the line through e^±100 and e^±140."""
    phi = activation(name)
    values = np.array([[-1.0, 0.3, -0.5, 1.0]])
    found = activated(phi, Signal(values, log_scale)).log_moments()[0]

    def plain(scale):
        return math.log(np.mean(phi.phi(values * math.exp(scale)) ** 2))

    if abs(log_scale) <= 150:
        assert found == pytest.approx(plain(log_scale), rel=1e-12, abs=1e-12)
    else:
        near, nearer = math.copysign(140, log_scale), math.copysign(100, log_scale)
        slope = (plain(near) - plain(nearer)) / (near - nearer)
        assert found == pytest.approx(plain(near) + slope * (log_scale - near), rel=1e-11, abs=1e-11)


def test_a_power_of_ones_own():
    square = Activation.from_function("square", lambda x: x * x, lambda x: 2 * x)
    found = activated(square, Signal(np.array([[1.0, -0.5]]), 400.0))
    assert found.log_moments()[0] == pytest.approx(1600 + math.log((1 + 1 / 16) / 2))


@pytest.mark.parametrize("log_scale", [-3000.0, -400.0, -5.0, 0.0, 5.0, 400.0, 3000.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_batch_norm_at_any_scale(log_scale, epsilon):
    """(h − mean)/√(variance + ε), from variances e^−6000 to e^6000."""
    values = np.array([[1.0, 0.2], [0.1, 0.6], [-0.7, 0.2]])
    found = normalized(BatchNorm(epsilon), Signal(values, log_scale))
    variance = values.var(axis=0)
    log_variance = np.log(variance) + 2 * log_scale
    log_total = np.logaddexp(log_variance, math.log(epsilon) if epsilon else -math.inf)
    expected = np.logaddexp.reduce(log_variance - log_total) - math.log(2)
    assert found.log_moments()[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_batch_norm_of_a_constant_unit():
    """ε > 0: exactly 0 at any scale, as in PyTorch; ε = 0: 0/0, reported as out of range."""
    values = np.array([[1.0, 0.5], [0.0, 0.5]])
    for log_scale in (-500.0, 0.0, 500.0):
        assert np.all(normalized(BatchNorm(), Signal(values, log_scale)).values[:, 1] == 0)
    assert normalized(BatchNorm(0.0), Signal(values, 0.0)).log_moments() == (math.inf,) * 3


def test_sums_of_very_different_sizes():
    one, other = Signal(np.array([[1.0, -1.0]]), 5000.0), Signal(np.array([[1.0, 1.0]]), -5000.0)
    assert added(one, other).log_moments()[0] == pytest.approx(10_000)
    assert added(other, other).log_moments()[0] == pytest.approx(2 * (math.log(2) - 5000))
    for zero in (scaled(np.zeros((1, 2))), Signal(np.zeros((1, 2)), 1e4), Signal(np.zeros((1, 2)), -1e4)):
        assert added(zero, other).log_moments()[0] == pytest.approx(-10_000)
        assert added(zero, one).log_moments()[0] == pytest.approx(10_000)
        assert added(zero, zero).log_moments()[0] == -math.inf


def test_dead_networks_stay_dead_or_are_revived():
    dead = simulate_growth(mlp(40, 1), 50).alive
    assert not dead[:, -1].all()
    assert np.all(dead[:, 1:] <= dead[:, :-1])
    revived = simulate_growth(mlp(40, 1, bias=0.1), 200).alive
    assert revived[:, -2].all() and not revived[:, -1].all()


@METHODS
def test_a_bias_revives_a_network_that_died_when_it_was_huge(method):
    """Width 2, gain 1e4, 200 layers: it dies at e^thousands; the next layer is its bias, of size 0.1, and no more."""
    net = mlp(200, 2, init=initialization("he_normal", gain=1e4), bias=0.1)
    samples = simulate_growth(net, 40, method=method)
    before, after = samples.alive[:, 2:-2:2], samples.log_second_moment[:, 3::2]
    assert (~before).sum() > 1000
    assert samples.alive[:, 1::2].all()
    # (b₁² + b₂²)/2 = 0.1 χ²₂/2 is exponential with mean 0.1
    mean, error = mean_with_error(np.exp(after[~before]))
    assert abs(mean - 0.1) < tolerance(error, 1e-5)


# --- refused ---------------------------------------------------------------------------------------------------------

ONE_LAYER = Sequential((Dense(40),), (6,))
BAD = {
    "no trials": ({"trials": 0}, "trials must be at least 1, got 0"),
    "half a trial": ({"trials": 1.5}, "trials must be an integer"),
    "no batch": ({"batch": 0}, "batch must be at least 1, got 0"),
    "a batch that is no number": ({"batch": "4"}, "batch must be an integer"),
    "inputs and batch": ({"inputs": np.eye(6), "batch": 6}, "give inputs or batch, not both; got batch=6"),
    "wrong shape": ({"inputs": np.eye(5)}, r"inputs must have shape \(batch, 6\), got \(5, 5\)"),
    "no batch axis": ({"inputs": np.arange(6.0)}, "inputs must have shape"),
    "empty": ({"inputs": np.ones((0, 6))}, "at least one example"),
    "NaN": ({"inputs": np.eye(6) * np.nan}, "finite, got 36 of 36"),
    "zero": ({"inputs": np.zeros((2, 6))}, "must not be all zero"),
    "complex": ({"inputs": np.eye(6) * 1j}, "real numbers"),
    "unknown method": ({"method": "conditionnal"}, "did you mean conditional?"),
    "negative seed": ({"seed": -1}, "seed must be at least 0, got -1"),
    "no workers": ({"workers": 0}, "workers must be at least 1, got 0"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        simulate_growth(ONE_LAYER, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("init", ["he_uniform", "orthogonal", "torch_default"])
def test_conditional_needs_gaussian_weights(init):
    with pytest.raises(ValueError, match=rf"row 0: method 'conditional' needs Gaussian.*{init}.*method='weights'"):
        simulate_growth(mlp(2, 64, init=init), method="conditional")


def test_layers_without_an_engine_are_named():
    with pytest.raises(ValueError, match=r"row 0: no engine simulates Conv\(16, 3×3, xavier_normal\)"):
        simulate_growth(resnet(20), 1)
    with pytest.raises(ValueError, match="row 1: BatchNorm needs a batch of at least 2, got 1"):
        simulate_growth(mlp(2, 8, batch_norm=True), 1)
    with pytest.raises(ValueError, match="a network needs an input shape"):
        simulate_growth(Sequential((Dense(4),)))


def test_images_are_flattened():
    net = Sequential((Flatten(), Dense(20), RELU), (2, 3, 3))
    assert simulate_growth(net, 3).shape == ((2, 3, 3), (18,), (20,), (20,))
