"""`simulate_growth`: reproducible whatever the workers, the same law by either method, nothing that overflows."""

import json
import math

import numpy as np
import pytest

from bntheory import activation, initialization, leaves, mlp, resnet
from bntheory.activations import KNOWN
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool, Unknown
from bntheory.networks import Join, Residual, Sequential
from simulations import growth, log_singular_values, simulate_growth
from simulations.samples import COLUMNS, QUANTITIES
from simulations.statistics import mean_with_error, tolerance

RELU = activation("relu")
METHODS = pytest.mark.parametrize("method", ["conditional", "weights"])


def same(one, other, trials=None, start=0, quantities=COLUMNS):
    """The first samples are, bit by bit, the others from trial `start` on."""
    for quantity in quantities:
        np.testing.assert_array_equal(getattr(one, quantity)[:trials], getattr(other, quantity)[start:][:trials])


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
def test_a_run_is_continued(method):
    whole = simulate_growth(NET, 30, batch=3, seed=4, method=method)
    same(simulate_growth(NET, 5, batch=3, seed=4, method=method, first=12), whole, trials=5, start=12)


@METHODS
def test_activations_are_the_same_without_gradients(method):
    one = simulate_growth(NET, 5, batch=3, method=method)
    other = simulate_growth(NET, 5, batch=3, method=method, gradients=False)
    same(other, one, quantities=(*QUANTITIES, "log_cosine_distance"))
    assert other.log_gradient is None and other.log_weight_gradient is None
    assert "gradient" in one.table() and "gradient" not in other.table()


@METHODS
def test_gradients_refer_to_the_last_row(method):
    samples = simulate_growth(NET, 5, batch=3, method=method)
    np.testing.assert_allclose(samples.log_gradient[:, -1], 0, atol=1e-14)
    assert np.isfinite(samples.log_gradient).all()
    dense = np.array([operation.startswith("Dense") for operation in samples.operation])
    assert np.isfinite(samples.log_weight_gradient[:, dense]).all()
    assert np.isnan(samples.log_weight_gradient[:, ~dense]).all()


def test_cosines():
    """Orthogonal inputs stay so through no layer; deep ReLU networks turn them to one direction."""
    cosine = simulate_growth(mlp(40, 256), 5, batch=4).cosine
    np.testing.assert_allclose(cosine[:, 0], 0, atol=1e-12)
    assert np.all(cosine[:, -1] > 0.9)
    assert np.isnan(simulate_growth(mlp(2, 64), 2).cosine).all()


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
    others = (Residual(Sequential((BatchNorm(), RELU, Dense(64))), scale=0.5), LayerNorm(), GroupNorm(4), Dropout(0.1))
    assert simulate_growth(Sequential(others, (64,)), 1, batch=2).method == "conditional"
    assert simulate_growth(resnet(8, image=(3, 8, 8)), 1).method == "weights"
    assert simulate_growth(Sequential((RELU,), (4,)), 1).method == "weights"


# --- the law ---------------------------------------------------------------------------------------------------------


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


def test_torchs_own_initialization():
    """Second moment after one Dense layer by torch's default, uniform weights and biases: q/3 + 1/(3 fan_in)."""
    samples = simulate_growth(Sequential((Dense(30, "torch_default"),), (16,)), 4000, seed=1, gradients=False)
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
    """200 layers of width 64: h² up to e^900, where float64 ends at e^709."""
    net = mlp(200, 64, name, initialization("lecun_normal", gain=10), **options)
    samples = simulate_growth(net, 1, batch=2, method="conditional")
    assert np.isfinite(samples.log_second_moment).all()
    assert not np.isposinf(samples.log_gradient).any() and not np.isnan(samples.log_gradient).any()


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


def test_dead_networks_stay_dead_or_are_revived():
    dead = simulate_growth(mlp(5, 1), 50).alive
    assert not dead[:, -1].all() and dead[:, -1].any()
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
    "a negative first trial": ({"first": -1}, "first must be at least 0, got -1"),
    "an unknown type": ({"dtype": "float16"}, "dtype must be one of float64, float32; got 'float16'"),
    "gradients that are no flag": ({"gradients": 1}, "gradients must be True or False, got 1"),
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


def test_layers_that_an_engine_lacks_are_named():
    for net, words in (
        (resnet(20), r"row 0: method 'conditional' has no Conv\(16, 3×3, xavier_normal\); use method='weights'"),
        (Sequential((Pool(), Flatten(), Dense(4)), (2, 4, 4)), "row 0: method 'conditional' has no Pool"),
        (Sequential((BatchNorm(), Flatten()), (2, 4, 4)), "row 0: .* BatchNorm on vectors only, got shape"),
        (Sequential((GroupNorm(2), Flatten()), (2, 4, 4)), r"row 0: .* GroupNorm\(2\) on vectors only, got shape"),
        (Sequential((Join(((), (Dense(4),))),), (4,)), r"row 0.concatenate: .* has no Join\(concatenate: \[identity\]"),
        (Sequential((), (4,)), "needs a network with layers, got none"),
    ):
        with pytest.raises(ValueError, match=words):
            simulate_growth(net, 1, batch=2, method="conditional")
        assert simulate_growth(net, 1, batch=2, gradients=False).method == "weights"
    with pytest.raises(ValueError, match="a network needs an input shape"):
        simulate_growth(Sequential((Dense(4),)))


def test_unknown_operations_are_refused_by_name():
    sort, attention = Unknown("sort", (4,)), Join(((), (Dense(4),)), Unknown("attention", (4,)))
    for layer, name in ((sort, r"1 \(sort\)"), (attention, r"1.unknown \(attention\)")):
        net = Sequential((Dense(4), layer), (4,))
        for method in (None, "weights", "conditional"):
            with pytest.raises(
                ValueError, match=f"row {name} cannot be simulated: only the shape of its output is known"
            ):
                simulate_growth(net, 1, method=method)
        with pytest.raises(ValueError, match=f"row {name} cannot be simulated"):
            log_singular_values(net, 1)


def test_batch_norm_of_one_number():
    with pytest.raises(ValueError, match="row 1: BatchNorm needs a batch of at least 2, got 1"):
        simulate_growth(mlp(2, 8, batch_norm=True), 1)
    maps = Sequential((Conv(4), BatchNorm(), RELU), (1, 4, 4))
    assert np.isfinite(simulate_growth(maps, 1).log_second_moment).all()  # over 16 positions
    with pytest.raises(ValueError, match="row 1: BatchNorm needs a batch of at least 2, got 1"):
        simulate_growth(Sequential((Dense(8), BatchNorm(gamma=0)), (4,)), 1)


@METHODS
def test_an_evaluated_batch_norm_takes_one_input(method):
    """h ↦ γ h/√(1 + ε) multiplies activations and, on the way back, gradients."""
    net = Sequential((Dense(8), BatchNorm(0.5, 3.0, training=False), Dense(8)), (4,))
    samples = simulate_growth(net, 20, method=method)
    for quantity, rows in ((samples.log_second_moment, (2, 1)), (samples.log_gradient, (1, 2))):
        np.testing.assert_allclose(quantity[:, rows[0]] - quantity[:, rows[1]], math.log(9 / 1.5), rtol=1e-12)


@METHODS
@pytest.mark.parametrize("training", [True, False])
def test_branches_that_start_at_zero(method, training):
    """γ = 0 ends the branch: its last row and its gradients are exact zeros, and the block is its shortcut."""
    branch = Sequential((Dense(8), BatchNorm(), RELU, Dense(8, bias=0.1), BatchNorm(gamma=0, training=training)))
    net = Sequential((Dense(8), Residual(branch), Dense(3)), (4,))
    samples = simulate_growth(net, 30, batch=5, method=method)
    values, back = samples.log_second_moment, samples.log_gradient
    assert np.all(values[:, 6] == -np.inf) and np.isfinite(values[:, [0, 1, 2, 3, 4, 5, 7, 8]]).all()
    assert np.all(back[:, 2:6] == -np.inf) and np.isfinite(back[:, [0, 1, 6, 7, 8]]).all()
    assert np.all(samples.log_weight_gradient[:, [2, 5]] == -np.inf)
    np.testing.assert_array_equal(values[:, 7], values[:, 1])
    np.testing.assert_allclose(back[:, 7], back[:, 1], rtol=1e-12)
    assert "-inf" in samples.table() or "dead" in samples.table()
    json.dumps(samples.to_dict(), allow_nan=False)


def test_float32_shows_its_error():
    samples = simulate_growth(mlp(20, 64), 10, batch=2, dtype="float32", method="conditional")
    assert samples.dtype == "float32" and samples.rounding.shape == (41, len(COLUMNS))
    assert 1e-9 < samples.rounding[:, 0].max() < 1e-4 and samples.rounding[:, 4].max() < 1e-3
    assert "float32 (off by at most" in samples.table() and "in ln gradient²" in samples.table()
    exact = simulate_growth(mlp(20, 64), 10, batch=2, method="conditional")
    assert exact.rounding is None and "float32" not in exact.table()
    difference = np.abs(samples.log_second_moment - exact.log_second_moment)[: growth.REPEATED].max(axis=0)
    np.testing.assert_array_equal(difference, samples.rounding[:, 0])


def test_a_network_dead_in_every_trial_is_said():
    with pytest.warns(
        RuntimeWarning, match=r"dead in every one of 50 trials: row \d+ \(relu\).* p_dead .* is 1 by the law"
    ):
        samples = simulate_growth(mlp(40, 1), 50)
    assert samples.p_dead[-1] == 1 and samples.p_dead[1] == 0
    with pytest.warns(RuntimeWarning, match="p_dead of the last row is at least 0.905 with 95% confidence"):
        simulate_growth(mlp(40, 1), 30, batch=2)


@pytest.mark.parametrize(("method", "gradients"), [("conditional", True), ("weights", True), ("weights", False)])
def test_more_memory_than_there_is(monkeypatch, method, gradients):
    monkeypatch.setattr(growth.memory.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(ValueError, match=r"the network needs .* GB of the machine's 0.0041 GB: use gradients=False"):
        simulate_growth(mlp(40, 2000), 1, batch=8, method=method, gradients=gradients)
    simulate_growth(mlp(40, 2000), 1, batch=8, method="conditional", gradients=False)
    with pytest.raises(ValueError, match=r"the batch of inputs needs .* GB: use a narrower input"):
        simulate_growth(mlp(1, 10**9), 1)
    with pytest.raises(ValueError, match=r"the record needs .* GB: use fewer trials a run, continued by first="):
        simulate_growth(mlp(1, 8), 10**6)


def test_images_are_flattened():
    net = Sequential((Flatten(), Dense(20), RELU), (2, 3, 3))
    assert simulate_growth(net, 3).shape == ((2, 3, 3), (18,), (20,), (20,))
