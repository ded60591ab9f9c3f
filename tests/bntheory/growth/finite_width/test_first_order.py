"""Fluctuations to first order in 1/width: against exact laws, closed forms and simulated networks.

False alarms: a band of 90% is to hold 90 ± 3% of 2000 networks (4.5 standard errors, 1e-5 each); means and standard
deviations get 4.5 standard errors (1e-5 each) and what is of second order. Below 1e-3 in all; the seeds are fixed.
"""

import json
import math
import pathlib
import time

import numpy as np
import pytest
from scipy import optimize, stats

from bntheory import activation, initialization, mlp, predict_growth, resnet
from bntheory.activations import Activation
from bntheory.growth.finite_width import first_order_kernel, first_order_mixtures, first_order_tables
from bntheory.growth.finite_width.first_order import fluctuations
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, LayerNorm
from bntheory.networks import Residual, Sequential
from simulations import simulate_growth

STUDY = pathlib.Path(__file__).parents[3] / "benchmarks" / "width_study.json"
SIGMAS = 4.5


def blocks(phi, depth=50, width=128, norm=(), scale=1.0, init="he_normal"):
    """A Dense layer and pre-activation blocks."""
    branch = Sequential((*norm, activation(phi), Dense(width, init)))
    return Sequential((Dense(width, "lecun_normal"), *(Residual(branch, scale=scale),) * depth), (width,))


def judge(net, rows=(-1,), trials=2000, batch=1, seed=0, share=0.03, method="conditional"):
    """Coverage within 3%, mean and standard deviation within 4.5 standard errors and `share` of the deviation."""
    law = fluctuations(net, 0.0, batch if batch > 1 else math.inf)
    drawn = simulate_growth(net, trials, batch=batch, seed=seed, method=method, gradients=False)
    lower, upper = law.band(0.9)
    for row in rows:
        x = drawn.log_second_moment[:, row]
        assert abs(np.mean((lower[row] <= x) & (x <= upper[row])) - 0.9) < 0.03
        std, squares = x.std(), (x - x.mean()) ** 2
        assert abs(x.mean() - law.mean[row]) < SIGMAS * std / math.sqrt(trials) + share * std
        assert abs(std - law.std[row]) < SIGMAS * squares.std() / math.sqrt(trials) / (2 * std) + share * std


# --- plain networks --------------------------------------------------------------------------------------------------

WIDTHS = np.array([64, 128, 256, 512, 1024])


def exponent(errors):
    """Power of 1/n in errors at WIDTHS."""
    return -np.polyfit(np.log(WIDTHS), np.log(np.abs(errors)), 1)[0]


def test_error_of_mean_and_variance_is_of_second_order():
    """Against the exact law of ReLU networks: both errors fall as n^-2; with biases, to what the grids leave."""
    for bias in (None, 0.1):
        nets = [mlp(20, int(width), bias=bias) for width in WIDTHS]
        exact, ours = [predict_growth(net) for net in nets], [fluctuations(net, 0.0) for net in nets]
        mean = np.array([a.mean[-1] - b.log_growth_mean[-1] for a, b in zip(ours, exact, strict=True)])
        variance = np.array([a.std[-1] ** 2 - b.log_growth_std[-1] ** 2 for a, b in zip(ours, exact, strict=True)])
        if bias is None:
            assert exponent(mean) == pytest.approx(2, abs=0.1)
            assert exponent(variance) == pytest.approx(2, abs=0.1)
        assert np.abs(mean * WIDTHS**2).max() < 50 and np.abs(variance * WIDTHS**2).max() < 160


def one_layer(phi, width):
    """Exact mean and variance of y = ln(mean φ(g)²) over n units, from L(t) = (E exp(−t φ²/n))^n.

    E y = ∫ (e^−t − L) dt/t and E y² = 2 ∫ (L − e^−t) (ln t + γ) dt/t, γ Euler's constant.
    """
    g = np.exp(np.arange(-25.0, 2.3, 1 / 32))
    weights = g * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi) / 32
    f = np.concatenate([phi.phi(g), phi.phi(-g)]) ** 2 / width
    weights = np.concatenate([weights, weights])
    log_t = np.arange(-36.0, 30.0, 1 / 32)
    lost = -np.expm1(-np.exp(log_t)[:, None] * f) @ weights
    gap = np.exp(width * np.log1p(-np.minimum(lost, 1 - 1e-15))) - np.exp(-np.exp(log_t))
    mean = -float(gap.sum()) / 32
    return mean, 2 * float(gap @ (log_t + np.euler_gamma)) / 32 - mean**2


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus", "leaky_relu(0.3)"])
def test_one_layer_against_laplace_transforms(name):
    """An exact oracle for every φ: the units of the first layer are independent."""
    errors = []
    for width in WIDTHS:
        law = fluctuations(mlp(1, int(width), name, "lecun_normal"), 0.0)
        mean, variance = one_layer(activation(name), int(width))
        errors.append((law.mean[-1] - mean, law.std[-1] ** 2 - variance))
    for column in np.transpose(errors):
        assert abs(column[0]) < 40 / 64**2
        assert exponent(column) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("name, init", [("tanh", "lecun_normal"), ("gelu", "he_normal"), ("erf", "lecun_normal")])
def test_deep_networks_against_simulation(name, init):
    """Depth 50, width 128; gelu runs away from a size that is no fixed point, with a standard deviation of 4.5."""
    judge(mlp(50, 128, name, init), seed=3)


def test_biases_uniform_weights_and_changing_widths():
    layers = [part for n in (40, 200, 60) for part in (Dense(n, "he_uniform", 0.1), activation("elu"))]
    judge(Sequential(tuple(layers), (30,)), seed=4, method="weights")
    # biases of PyTorch's own, uniform, are most of the variance in this decaying network
    judge(mlp(10, 40, "tanh", "torch_default"), rows=(-2,), seed=5, method="weights")


def test_dropout():
    layers = (Dense(100), activation("relu"), Dropout(0.3)) * 10 + (Dropout(0.2), Dense(50))
    judge(Sequential(layers, (100,)), rows=(-1, -3), seed=6)


# --- residual networks and normalizations ----------------------------------------------------------------------------


@pytest.mark.parametrize("phi, scale, norm", [("relu", 1, ()), ("tanh", 1, ()), ("gelu", 0.3, ()), ("relu", 1, 1e-5)])
def test_residual_networks_against_simulation(phi, scale, norm):
    net = blocks(phi, scale=scale, norm=(LayerNorm(norm),) if norm else ())
    judge(net, rows=(-1, -3), seed=8, share=0.05)


def test_residual_network_with_explicit_weights():
    """The input itself on the shortcut, Dense shortcuts, two Dense layers in a branch, plain layers in between."""
    deep = Residual((activation("tanh"), Dense(48), activation("relu"), Dense(48)), scale=0.7)
    wide = Residual((LayerNorm(0.3), activation("silu"), Dense(64)), (Dense(64, "lecun_normal"),))
    plain = Residual((activation("relu"), Dense(64)))
    net = Sequential((Dense(48), deep, deep, wide, activation("elu"), Dense(64, bias=0.2), plain, plain), (48,))
    judge(net, seed=10, method="weights", share=0.06)
    judge(Sequential((wide, plain), (64,)), seed=11, method="weights", share=0.06)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_layer_norm_against_simulation(name):
    net = Sequential((Dense(128), LayerNorm(), activation(name)) * 50, (128,))
    judge(net, seed=12)
    eps = Sequential((Dense(64, "lecun_normal"), LayerNorm(0.5), activation(name)) * 6, (64,))
    judge(eps, rows=(-1, -2), seed=13)


def test_identity_shortcut_keeps_the_input():
    """A block that adds next to nothing leaves the size of the given input, which does not fluctuate."""
    law = fluctuations(mlp(3, 50, "tanh", initialization("he_normal", gain=1e-6), residual=True), 0.3)
    assert law.mean[-1] == pytest.approx(0.3, abs=1e-9)
    assert law.std[-1] < 1e-5


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_batch_norm_against_simulation(name):
    """The kernel of a batch forgets the input in a few layers: what 50 of them show, 20 do."""
    net = mlp(20, 128, name, batch_norm=True)
    drawn = simulate_growth(net, 1000, batch=32, seed=15, method="conditional", gradients=False).log_second_moment
    law = fluctuations(net, 0.0, batch=32)
    lower, upper = law.band(0.9)
    for row in (1, 2, 3, -3, -1):
        x = drawn[:, row]
        assert abs(np.mean((lower[row] <= x) & (x <= upper[row])) - 0.9) < 0.043  # 4.5 standard errors
        assert x.std() == pytest.approx(law.std[row], rel=0.12)
        assert abs(x.mean() - law.mean[row]) < SIGMAS * x.std() / math.sqrt(1000) + 0.15 * x.std()


def test_batch_norm_small_batches_and_blocks():
    judge(mlp(20, 128, "relu", batch_norm=True), batch=4, trials=1500, seed=16, share=0.05)
    judge(mlp(20, 128, "gelu", batch_norm=True), rows=(-3,), batch=8, trials=1500, seed=17, share=0.05)
    judge(blocks("relu", depth=10, norm=(BatchNorm(),)), batch=8, trials=1500, seed=18, share=0.08)


def test_kernel_gains_of_a_linear_network():
    """λ = (B − 1)/(B + 1) for scales and angles, as E ĥ_a² ∝ e_a (1 − 2 (e_a − mean)/(B + 1) …) has it."""
    for batch in (4, 9, 100):
        law = first_order_kernel.sphere(activation("linear"), batch, 0.0)
        expected = (batch - 1) / (batch + 1)
        assert (law.scale_gain, law.angle_gain) == pytest.approx((expected, expected), rel=1e-9)
        assert law.cosine == pytest.approx(-1 / (batch - 1), rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_kernel_gains_by_finite_differences(name):
    """Two perturbed kernels with the same 400,000 draws: their difference, projected on what was added."""
    batch, phi, step = 6, activation(name), 0.15
    g = np.random.default_rng(19).standard_normal((400_000, batch))
    centre = np.eye(batch) - 1 / batch
    law = first_order_kernel.sphere(phi, batch, 0.0)
    scales = centre @ np.diag(np.arange(batch) - 2.5) @ centre
    signs = np.array([1, -1, 0, 0, 0, 0.0])
    angles = np.outer(signs, np.roll(signs, 2))
    for pattern, gain in ((scales, law.scale_gain), (angles + angles.T, law.angle_gain)):
        pattern = pattern / np.linalg.norm(pattern)
        after = []
        for sign in (1, -1):
            values, vectors = np.linalg.eigh(centre + sign * step * pattern)
            h = g @ (vectors * np.sqrt(np.maximum(values, 0))).T
            h *= np.sqrt(batch / np.sum(h**2, axis=1, keepdims=True))
            f = phi.phi(h)
            f -= f.mean(axis=1, keepdims=True)
            after.append(f.T @ f / len(f))
        size = np.trace(after[0] + after[1]) / 2 / (batch - 1)
        assert np.sum((after[0] - after[1]) * pattern) / (2 * step) / size == pytest.approx(gain, abs=0.015)


# --- tables and mixtures ---------------------------------------------------------------------------------------------


def test_hermite_coefficients_of_relu():
    """Σ b_k² ρ^k is the closed covariance G(ρ) of squared ReLUs; the last order stands for all beyond."""
    b, slopes = first_order_tables.squares(activation("relu")).hermite(np.zeros(1))
    assert np.abs(slopes).max() < 1e-9
    for rho in (0.0, 0.3, 0.7, 0.9, 1.0):
        angle = math.pi - math.acos(rho)
        closed = 2 / math.pi * (3 * rho * math.sqrt(1 - rho**2) + angle * (1 + 2 * rho**2)) - 1
        assert float(np.sum(b[0] ** 2 * rho ** np.arange(1, b.shape[1] + 1))) == pytest.approx(closed, abs=2e-4)


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus"])
def test_tables_against_quadrature(name):
    table, phi = first_order_tables.squares(activation(name)), activation(name)
    g, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    for u in (-3.0, 0.13, 1.4):
        f = phi.phi(math.exp(u / 2) * g) ** 2
        size, b = table.size(np.array([u])), table.hermite(np.array([u]))[0][0]
        assert size.value[0] == pytest.approx(math.log(weights @ f), abs=1e-7)
        assert size.spread[0] == pytest.approx(weights @ f**2 / (weights @ f) ** 2 - 1, rel=1e-5)
        assert b[1] == pytest.approx(math.sqrt(2) * size.slope[0], abs=1e-5)  # Stein: E f (g² − 1) = 2 dE f/du
        assert b[2] == pytest.approx(weights @ (f * (g**3 - 3 * g)) / math.sqrt(6) / (weights @ f), abs=1e-6)
    ends = table.size(np.array([-500.0, 500.0]))
    assert ends.value == pytest.approx(phi.log_moments(np.array([-500.0, 500.0])).log_second, rel=1e-6, abs=1e-4)


def test_regridding_keeps_the_law():
    wide = first_order_mixtures.Mixture(np.array([0.3, 0.7]), np.array([-2.0, 1.3]), np.array([0.5, 0.0004]))
    after = first_order_mixtures.regridded(wide)
    assert (after.mean, after.std) == pytest.approx((wide.mean, wide.std), rel=1e-6)
    assert len(after.weights) > 20 and after.weights.sum() == pytest.approx(1)
    alone = first_order_mixtures.regridded(first_order_mixtures.Mixture(np.ones(1), np.zeros(1), np.full(1, 2.0)))
    for level in (0.01, 0.3, 0.9):
        assert alone.quantile(level) == pytest.approx(stats.norm.ppf(level, scale=math.sqrt(2)), abs=1e-5)


# --- what there is a rule for ----------------------------------------------------------------------------------------


def test_rows_without_a_rule():
    law = fluctuations(resnet(8), 0.0)
    assert law.method == ("first-order", *("unsupported",) * (len(law.rows) - 1))
    assert np.isnan(law.mean[1:]).all() and np.isnan(law.band()[0][1:]).all()
    known = [
        (Sequential((Dense(5), activation("tanh"), activation("relu"), Dense(5)), (4,)), 3),
        (Sequential((Dense(5, "orthogonal"),), (4,)), 1),
        (Sequential((Dense(5), activation("tanh"), LayerNorm()), (4,)), 3),
        (Sequential((Dense(4), Residual((Dense(4), activation("tanh")))), (4,)), 4),
        (Sequential((Dense(4), BatchNorm(), activation("tanh"), BatchNorm()), (4,)), 4),
        (Sequential((Conv(2),), (3, 4, 4)), 1),
    ]
    for net, rows in known:
        law = fluctuations(net, 0.0, batch=8)
        assert [method == "unsupported" for method in law.method].index(True) == rows
        assert np.isfinite(law.mean[:rows]).all() and np.isnan(law.std[rows:]).all()
    assert fluctuations(mlp(2, 4, batch_norm=True), 0.0, batch=2).method[1] == "unsupported"
    assert fluctuations(mlp(60, 16, "gelu", batch_norm=True), 0.0, batch=512).method[-1] == "unsupported"


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="batch must be at least 1, or infinite, got 0"):
        fluctuations(mlp(1, 2), 0.0, batch=0)
    with pytest.raises(ValueError, match="log_start must be a number"):
        fluctuations(mlp(1, 2), None)
    with pytest.raises(ValueError, match="level must be in"):
        fluctuations(mlp(1, 2), 0.0).band(1.0)


def test_a_users_own_activation():
    own = Activation.from_function("own", np.tanh, lambda x: np.cosh(np.clip(x, -300, 300)) ** -2.0)
    ours, tanh = (fluctuations(mlp(5, 30, phi, "lecun_normal"), 0.4) for phi in (own, "tanh"))
    assert ours.std == pytest.approx(tanh.std, rel=1e-6)


def test_ten_thousand_layers():
    start = time.process_time()
    for net in (mlp(10_000, 64, "tanh", "lecun_normal"), blocks("relu", 2_000)):
        law = fluctuations(net, 0.0)
        assert np.isfinite(law.mean).all() and law.std[-1] > 0
    assert time.process_time() - start < 40


# --- the recorded study ----------------------------------------------------------------------------------------------


def test_recorded_study_of_widths():
    """Mean squares at finite width are off infinite width's by C/n, and first order accounts for it."""
    study = json.loads(STUDY.read_text())
    assert set(study["results"]) == {"tanh", "erf", "gelu", "selu", "silu", "softplus"} and study["trials"] >= 10_000
    for name, cases in study["results"].items():
        n, error, deviation = (
            np.array([case[key] for case in cases], float)
            for key in ("width", "log_mean_error", "log_mean_standard_error")
        )
        assert n.tolist() == [64, 128, 256, 512, 1024]
        (constant, power), covariance = optimize.curve_fit(
            lambda n, c, p: c * (n / 64) ** -p, n, error, (error[0], 1.0), deviation, absolute_sigma=True
        )
        assert abs(power - 1) < max(0.1, 3 * math.sqrt(covariance[1, 1])), name
        assert np.all(np.abs(error) < 4 * deviation + 1.2 * abs(constant) * 64 / n), name
        for case in cases:
            second_order = 40 / case["width"] ** 2
            assert abs(case["mean"] - case["mean_first_order"]) < 4 * case["mean_standard_error"] + second_order
            assert case["std"] == pytest.approx(case["std_first_order"], rel=0.02 + 5 / case["width"])
            net = mlp(
                50,
                case["width"],
                name,
                initialization("lecun_normal", gain=study["settings"][name]["gain"]),
                study["settings"][name]["bias"] or None,
            )
            assert float(predict_growth(net).log_second_moment[-1]) == pytest.approx(case["infinite_width"], abs=1e-9)
            assert fluctuations(net, 0.0).mean[-1] == pytest.approx(case["mean_first_order"], abs=1e-3)


def test_layer_norm_of_a_vanishing_row_is_linear_in_it():
    """v ≪ ε: ĥ = (h − mean h)/√ε, and gelu(ĥ) = ĥ/2 + …, so that only ln v fluctuates, down to any size."""
    norm = LayerNorm(epsilon=1e-5)
    net = Sequential((Dense(8, initialization("he_normal", gain=1e-50)), norm, activation("gelu")), (8,))
    law, small = fluctuations(net, 0.0), fluctuations(net, -500.0)
    assert np.isfinite(law.mean).all() and np.isfinite(law.std).all()
    np.testing.assert_allclose(small.mean[2:] - law.mean[2:], -500.0, rtol=1e-9)
    np.testing.assert_allclose(small.std[2:], law.std[2:], rtol=1e-9)
    assert law.mean[3] - law.mean[2] == pytest.approx(-math.log(4), abs=0.01)
