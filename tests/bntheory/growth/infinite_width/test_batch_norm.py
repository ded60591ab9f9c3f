"""Batch normalization at finite batch: closed forms, other quadratures, and units drawn one by one."""

import itertools
import json
import math
import pathlib

import numpy as np
import pytest
from scipy import integrate, special, stats

from bntheory import activation
from bntheory.activations import KNOWN, Activation
from bntheory.growth.infinite_width import batch_norm
from bntheory.growth.infinite_width.batch_norm import growth_rate, normalized_moments, pullback, sphere_moments
from bntheory.layers import BatchNorm
from simulations import pullbacks
from simulations.signal import Signal
from simulations.statistics import mean_with_error, tolerance

RELU, LINEAR, TANH, GELU = (activation(name) for name in ("relu", "linear", "tanh", "gelu"))
LEAKY = activation("leaky_relu(0.3)")
SMOOTH = [activation(name) for name in KNOWN[:11] if activation(name).homogeneous_slopes is None]
BATCHES = [2, 3, 4, 5, 8, 50, 1000, 10**6, math.inf]
STUDY = json.loads((pathlib.Path(__file__).parents[3] / "benchmarks/batch_norm_gradients.json").read_text())


def plain(moments):
    """The six expectations themselves."""
    return np.array([math.exp(moments.log_second), math.exp(moments.log_distance), *moments[2:]])


def six(phi, root, x1, x2, weight):
    """The six expectations as sums over nodes of a law that is symmetric in x_1 and x_2."""
    h1, h2, f1, f2 = phi.phi(root * x1), phi.phi(root * x2), phi.dphi(root * x1), phi.dphi(root * x2)
    values = [h1**2, (h1 - h2) ** 2, f1**2, f1 * f2, f1**2 * x1**2, f1 * f2 * x1 * x2]
    return np.array([np.sum(weight * value) for value in values])


def on_total(back):
    """The coefficient of t itself."""
    return math.exp(back.log_scale) * back.on_total


def test_growth_rates():
    """Yang et al. 2019 for relu, with the angle of two inputs in closed form; linear and the infinite batch by hand."""
    known = {4: 3.08406, 8: 1.78819, 16: 1.58995, 32: 1.52195, 64: 1.49306, 128: 1.47968, 256: 1.47323}
    for batch, rate in known.items():
        assert growth_rate(RELU, batch) == pytest.approx(rate, abs=5.1e-6)
        assert growth_rate(LINEAR, batch) == pytest.approx((batch - 2) / (batch - 3), rel=1e-13)
    assert growth_rate(RELU, math.inf) == pytest.approx(math.pi / (math.pi - 1), rel=1e-13)
    for phi in (RELU, LINEAR, TANH, GELU):
        assert growth_rate(phi, 2) == 0.0
        assert growth_rate(phi, 3) == math.inf
        assert growth_rate(phi, 10**7) == pytest.approx(growth_rate(phi, math.inf), rel=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("phi", [RELU, activation("leaky_relu(-0.5)"), LINEAR], ids=str)
def test_homogeneous_activations_by_quadrature(phi, batch):
    for log_scale in (-20.0, 0.0, 5.0):
        numbers = plain(batch_norm._by_quadrature(phi, batch, log_scale))
        np.testing.assert_allclose(numbers, plain(sphere_moments(phi, batch, log_scale)), rtol=2e-12, atol=1e-15)


@pytest.mark.parametrize("batch", [4, 5, 8, 64])
@pytest.mark.parametrize("phi", SMOOTH, ids=str)
def test_one_input_by_its_marginal_law(phi, batch):
    """x = √(B−1) w, w with density (1 − w²)^{(B−4)/2}: the Beta law of a coordinate of a random direction."""
    log_scale = 1.0
    moments, a, b = sphere_moments(phi, batch, log_scale), math.sqrt(batch - 1), batch / 2 - 1

    def expectation(f):  # over w = cos θ, where the density has no singular ends
        def integrand(theta):
            return f(a * math.cos(theta)) * math.sin(theta) ** (batch - 3)

        edges = (0, 1.3, math.pi / 2, math.pi - 1.3, math.pi)
        parts = [integrate.quad(integrand, *pair, epsabs=1e-14, epsrel=1e-13)[0] for pair in itertools.pairwise(edges)]
        return sum(parts) / special.beta(0.5, b)

    root = math.exp(log_scale / 2)
    assert math.exp(moments.log_second) == pytest.approx(expectation(lambda x: phi.phi(root * x) ** 2), rel=1e-11)
    assert moments.slope == pytest.approx(expectation(lambda x: phi.dphi(root * x) ** 2), rel=1e-11)
    assert moments.radial == pytest.approx(expectation(lambda x: (phi.dphi(root * x) * x) ** 2), rel=1e-11)


@pytest.mark.parametrize("batch", [4, 5, 8, 64, math.inf])
@pytest.mark.parametrize("phi", [TANH, GELU, activation("softplus")], ids=str)
def test_two_inputs_one_after_the_other(phi, batch):
    """Given the first entry, the second is a coordinate of a random direction in one dimension less."""
    if batch == math.inf:
        node = np.arange(-9, 9.1, 0.2)  # the trapezoid rule errs by e^{−π²/0.2}, for poles at ±iπ/2
        weight = 0.2 * np.exp(-(node**2) / 2)
        x1, x2, weights = node[:, None], node, np.outer(weight, weight) / (2 * math.pi)
    else:
        power, cosine = (batch - 4) / 2, -1 / (batch - 1)
        (w, first), (v, second) = (special.roots_jacobi(100, p, p) for p in (power, power - 0.5))
        x1 = math.sqrt(batch - 1) * w[:, None]
        x2 = cosine * x1 + math.sqrt((batch - 1) * (1 - cosine**2)) * np.sqrt(1 - w[:, None] ** 2) * v
        weights = np.outer(first / first.sum(), second / second.sum())
    for log_scale in (-8.0, 0.0):
        expected = six(phi, math.exp(log_scale / 2), x1 + 0 * x2, x2 + 0 * x1, weights)
        np.testing.assert_allclose(plain(sphere_moments(phi, batch, log_scale)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("phi", SMOOTH, ids=str)
def test_smallest_batches(phi):
    """B = 2: x = ±(1, −1). B = 3: a circle, in twelve arcs, which end where an entry is 0."""
    node, weight = np.polynomial.legendre.leggauss(40)
    theta = (math.pi / 6 * (np.arange(12)[:, None] + (node + 1) / 2)).ravel()
    entries = (math.sqrt(2) * np.cos(theta - shift) for shift in (0, 2 * math.pi / 3))
    circle = (*entries, np.tile(weight / 24, 12))
    pair = np.array([1.0, -1.0]), np.array([-1.0, 1.0]), np.full(2, 0.5)
    for log_scale in (-5.0, 0.0, 3.0):
        root = math.exp(log_scale / 2)
        np.testing.assert_allclose(plain(sphere_moments(phi, 2, log_scale)), six(phi, root, *pair), rtol=1e-13)
        expected = six(phi, root, *circle)
        np.testing.assert_allclose(plain(sphere_moments(phi, 3, log_scale)), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("phi", SMOOTH, ids=str)
def test_infinite_batch_is_gaussian(phi):
    for log_scale in (-20.0, 0.0, 10.0):
        moments, gaussian = sphere_moments(phi, math.inf, log_scale), phi.log_moments(log_scale)
        assert moments.log_second == pytest.approx(float(gaussian.log_second), rel=1e-11, abs=1e-11)
        assert math.log(moments.slope) == pytest.approx(float(gaussian.log_derivative), abs=1e-11)
        distance = float(phi.log_distance(log_scale, log_scale, log_scale + math.log(2)))
        assert moments.log_distance == pytest.approx(distance, abs=1e-9)
        near = plain(sphere_moments(phi, 10**8, log_scale))
        np.testing.assert_allclose(near, plain(moments), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("phi", SMOOTH, ids=str)
def test_finer_panels_change_nothing(phi, monkeypatch):
    """From tiny to huge γ; all numbers relative, but that of the sixth moment, which passes through 0, to the fifth."""
    cases = [*itertools.product((4, 64, math.inf), (-59.0, -13.5, 2.0, 10.0)), (8, 27.6)]
    coarse = np.array([plain(batch_norm._by_quadrature(phi, *case)) for case in cases])
    batch_norm._pairs.cache_clear()
    monkeypatch.setattr(batch_norm, "_NODES", np.polynomial.legendre.leggauss(19)[0])
    monkeypatch.setattr(batch_norm, "_WEIGHTS", np.polynomial.legendre.leggauss(19)[1])
    fine = np.array([plain(batch_norm._by_quadrature(phi, *case)) for case in cases])
    batch_norm._pairs.cache_clear()
    scale = np.abs(fine)
    scale[:, 5] = scale[:, 4]
    assert np.max(np.abs(coarse - fine) / scale) < 1e-10


def test_approximations_join():
    for phi, batch in itertools.product(SMOOTH, (2, 5, math.inf)):
        for limit in (batch_norm.LOW, batch_norm._SMALL):
            below, above = (plain(sphere_moments(phi, batch, limit + step)) for step in (-1e-13, 1e-13))
            np.testing.assert_allclose(below, above, rtol=1e-11, atol=1e-15)
        nothing = sphere_moments(phi, batch, -math.inf)
        assert nothing.log_distance == -math.inf
        assert nothing.log_second == (2 * math.log(phi.phi(0.0)) if phi.phi(0.0) else -math.inf)


RATIOS = [(LEAKY, batch, ratio) for batch in (2, 3, 4, 5, 8, 64) for ratio in (-20.0, -3.0, 0.0, 4.0, 12.0)]


@pytest.mark.parametrize(("phi", "batch", "log_ratio"), [*RATIOS, (TANH, 3, 1.0), (TANH, 5, 0.0)], ids=str)
def test_mean_over_the_variance_by_adaptive_quadrature(phi, batch, log_ratio):
    """d/2ε from e^−20 to e^12, over ln χ²; γ = 1.3."""
    epsilon, gamma = 0.01, 1.3
    law = stats.chi2(batch - 1)

    def agrees(value, f):
        """Whether `value` is E f(τ, moments at γ² τ)."""

        def integrand(log_chi):
            tau = special.expit(log_ratio + log_chi - math.log(batch))
            moments = sphere_moments(phi, batch, 2 * math.log(gamma) + math.log(tau))
            return f(tau, moments) * law.pdf(math.exp(log_chi)) * math.exp(log_chi)

        middle = math.log(batch)
        edges = {-90.0, -20.0, -8.0, -2.0, middle - 1, middle + 1, 6.5}
        edges |= {middle - log_ratio + shift for shift in (-4, 0, 4) if abs(log_ratio) > 3}
        size = {"epsabs": 1e-10 * abs(value), "epsrel": 1e-10, "limit": 200}
        expected = sum(integrate.quad(integrand, *pair, **size)[0] for pair in itertools.pairwise(sorted(edges)))
        return value == pytest.approx(expected, rel=1e-8, abs=1e-15)

    def total(tau, at):
        inner = (2 * tau - tau**2) * (at.radial - at.radial_pair)
        return gamma**2 * (1 - tau) / epsilon * (at.slope - (at.slope - at.slope_pair + inner) / batch)

    def mean(tau, at):
        return -(gamma**2) * (1 - tau) / epsilon * (at.slope_pair + (2 * tau - tau**2) * at.radial_pair)

    log_distance = math.log(2 * epsilon) + log_ratio
    after = normalized_moments(phi, log_distance, batch, epsilon, gamma)
    back = pullback(phi, log_distance, batch, epsilon, gamma)
    assert agrees(math.exp(after.log_second), lambda _, at: math.exp(at.log_second))
    assert agrees(math.exp(after.log_distance), lambda _, at: math.exp(at.log_distance))
    assert agrees(back.activation[0, 0], lambda _, at: at.slope)
    assert agrees(back.activation[1, 1], lambda _, at: at.slope_pair)
    assert agrees(on_total(back), total)
    assert agrees(math.exp(back.log_scale) * back.on_mean, mean)


CASES = [(8, 1e-5, 2.0), (8, 0.3, 0.5), (4, 0.4, 0.5), (2, 0.5, 1.0), (32, 0.0, 2.0), (64, 1e-5, 1e-4)]


@pytest.mark.parametrize(("batch", "epsilon", "distance"), CASES)
@pytest.mark.parametrize("phi", [RELU, LINEAR, TANH, GELU], ids=str)
def test_against_units_drawn_one_by_one(phi, batch, epsilon, distance):
    """Independent units are the infinite width: z ~ N, g ~ N, pulled back by code that takes no means.

    5 comparisons in each of 24 cases, false alarm 1e-4 in all.
    """
    units, t, m = 30_000, 1.0, 0.4
    rng = np.random.default_rng(batch)
    z = 3 * rng.standard_normal(units) + math.sqrt(distance / 2) * rng.standard_normal((batch, units))
    noise = rng.standard_normal((batch, units))
    mean = noise.mean(axis=0)
    g = (noise - mean) * math.sqrt((t - m) / (batch - 1)) + mean * math.sqrt(m)
    y, through_norm = pullbacks.normalization(BatchNorm(epsilon), Signal(z, 0.0))
    h, through_phi = pullbacks.activation(phi, y)
    values = h.values * math.exp(h.log_scale)
    at_y = through_phi(Signal(g, 0.0))
    at_z = through_norm(at_y)
    g_y, g_z = (at.values * math.exp(at.log_scale) for at in (at_y, at_z))
    back, after = (f(phi, math.log(distance), batch, epsilon) for f in (pullback, normalized_moments))
    predicted = [
        (np.mean(values**2, axis=0), math.exp(after.log_second)),
        (2 * np.var(values, axis=0, ddof=1), math.exp(after.log_distance)),
        (np.sum(g_y**2, axis=0), back.activation[0] @ (t, m)),
        (g_y.sum(axis=0) ** 2 / batch, back.activation[1] @ (t, m)),
        (np.sum(g_z**2, axis=0), math.exp(back.log_scale) * (back.on_total * t + back.on_mean * m)),
    ]
    assert np.abs(g_z.sum(axis=0)).max() < 1e-9 * np.abs(g_z).max()
    for sample, expected in predicted:
        estimate, error = mean_with_error(sample)
        assert abs(estimate - expected) < tolerance(error, 1e-4, comparisons=120) + 1e-9 * abs(expected)


def test_a_gradient_that_points_one_way():
    """t = m: the same g for every input. Without φ nothing of it passes BN; at B = ∞ only what φ′ spreads does."""
    for batch in BATCHES:
        back = pullback(LINEAR, 0.7, batch, 0.1)
        assert back.on_total + back.on_mean == pytest.approx(0, abs=1e-12)
    back, at = pullback(TANH, math.log(2), math.inf), sphere_moments(TANH, math.inf)
    assert math.exp(back.log_scale) * (back.on_total + back.on_mean) == pytest.approx(at.slope - at.slope_pair)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("phi", [RELU, TANH, GELU], ids=str)
def test_parts_of_a_gradient_stay_parts(phi, batch):
    """0 ≤ m ≤ t on every row."""
    back = pullback(phi, 0.0, batch, 1e-3, 2.0)
    for m in (0.0, 0.3, 1.0):
        total, mean = back.activation @ (1.0, m)
        assert -1e-15 <= mean <= total * (1 + 1e-14)
        assert back.on_total + m * back.on_mean >= -1e-12 * abs(back.on_mean)


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 1000, math.inf])
@pytest.mark.parametrize("phi", [RELU, TANH], ids=str)
def test_any_size(phi, batch):
    """Far below ε, BN is a factor 1/√ε; far above, ε does not matter, but for the rare units of a batch below 4."""
    small, smaller = (pullback(phi, log_d, batch, 1e-5) for log_d in (-1000.0, -10_000.0))
    assert on_total(small) == pytest.approx(on_total(smaller), rel=1e-12)
    low, lower = (normalized_moments(phi, log_d, batch, 1e-5) for log_d in (-1000.0, -10_000.0))
    np.testing.assert_allclose(np.subtract(low, lower), 9000.0, rtol=1e-12)
    huge, exact = (pullback(phi, 10_000.0, batch, epsilon) for epsilon in (1e-5, 0.0))
    if batch > 3:
        logs = [back.log_scale + math.log(back.on_total) for back in (huge, exact)]
        assert logs[0] == pytest.approx(logs[1], abs=1e-9)
    assert math.isfinite(huge.log_scale)
    np.testing.assert_allclose(
        normalized_moments(phi, 10_000.0, batch, 1e-5), normalized_moments(phi, 0.0, batch), atol=1e-9
    )


def test_nothing_passes():
    for back in (pullback(TANH, 0.0, 2), pullback(TANH, 0.0, 3, gamma=0.0), pullback(TANH, 0.0, 8, 1e-5, gamma=0.0)):
        assert back.log_scale == -math.inf
    equal = pullback(TANH, -math.inf, 8, 0.25)
    assert on_total(equal) == pytest.approx(4.0)
    after = normalized_moments(activation("sigmoid"), -math.inf, 8, 0.25)
    assert after.log_second == pytest.approx(math.log(0.25))
    assert after.log_distance == -math.inf


@pytest.mark.parametrize("batch", [1, 0, 2.5, "8", True, math.nan])
def test_refused_batch(batch):
    for call in (lambda: growth_rate(RELU, batch), lambda: normalized_moments(RELU, 0.0, batch)):
        with pytest.raises(ValueError, match="batch must be"):
            call()


def test_refused_arguments():
    with pytest.raises(ValueError, match="epsilon must be"):
        pullback(RELU, 0.0, 8, -1.0)
    with pytest.raises(ValueError, match="gamma must be finite and at least 0"):
        pullback(RELU, 0.0, 8, 0.1, -1.0)
    with pytest.raises(ValueError, match=r"gamma must be at most 1e\+06 with tanh, got 2e\+06"):
        pullback(TANH, 0.0, 8, gamma=2e6)
    with pytest.raises(ValueError, match="divides by zero"):
        normalized_moments(RELU, -math.inf, 8)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="log_distance must be"):
            pullback(RELU, wrong, 8)


def test_an_activation_of_the_users_own():
    own = Activation.from_function("own tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    np.testing.assert_allclose(sphere_moments(own, 8), sphere_moments(TANH, 8), rtol=1e-12)


@pytest.mark.parametrize("run", STUDY["runs"], ids=lambda run: f"{run['activation']}-{run['batch']}")
def test_gradients_of_wide_networks(run):
    """The committed study, 4096 units: growth per layer within 0.2%, every row within 2%, both beside 1% a layer."""
    assert run["simulated_rate"] == pytest.approx(run["predicted_rate"], rel=2e-3)
    assert run["predicted_rate"] == pytest.approx(growth_rate(activation(run["activation"]), run["batch"]), rel=2e-3)
    np.testing.assert_allclose(run["log_gradient_simulated"], run["log_gradient_predicted"], atol=0.02)


def test_what_is_left_falls_as_one_over_the_width():
    """The committed study, linear networks, where it is largest: width · deviation is the same; false alarm 1e-3."""
    runs = STUDY["widths"]
    scaled = np.array([run["width"] * run["deviation"] for run in runs])
    errors = np.array([run["width"] * run["standard_error"] for run in runs])
    assert np.all(scaled > 4 * errors)
    common = np.sum(scaled / errors**2) / np.sum(1 / errors**2)
    assert np.sum(((scaled - common) / errors) ** 2) < stats.chi2(len(runs) - 1).isf(1e-3)


def test_the_study_is_complete():
    cases = {(run["activation"], run["batch"]) for run in STUDY["runs"]}
    assert cases == set(itertools.product(("relu", "linear", "tanh", "gelu"), (8, 32, 128)))
    assert STUDY["width"] >= 4096
    assert len(STUDY["widths"]) >= 3


@pytest.mark.parametrize("name", ["relu6", "hardtanh", "hardsigmoid", "hardswish"])
@pytest.mark.parametrize("batch", [5, 8, 40])
@pytest.mark.parametrize("log_scale", [0.0, 2.0])
def test_kinks_on_the_sphere(name, batch, log_scale):
    """One entry x has density ∝ (1 − x²/(B − 1))^{(B − 4)/2}: E φ² and the slopes to the documented 1e-5 and 1e-3."""
    phi, radius, root = activation(name), math.sqrt(batch - 1), math.exp(log_scale / 2)
    ends = sorted({0.0, radius, -radius, *(kink / root for kink in phi.kinks if abs(kink / root) < radius)})

    def mean(function):
        pieces = (
            integrate.quad(lambda x: function(x) * (1 - (x / radius) ** 2) ** ((batch - 4) / 2), *piece, epsrel=1e-10)[
                0
            ]
            for piece in itertools.pairwise(ends)
        )
        return sum(pieces)

    found = batch_norm.sphere_moments(phi, batch, log_scale)
    size = mean(lambda x: 1.0)
    second = mean(lambda x: float(phi.phi(root * x)) ** 2) / size
    slope, radial = (mean(lambda x, k=k: float(phi.dphi(root * x)) ** 2 * x**k) / size for k in (0, 2))
    assert found.log_second == pytest.approx(math.log(second), abs=1e-5)
    assert found.slope == pytest.approx(slope, rel=1e-3) and found.radial == pytest.approx(radial, rel=1e-3)
