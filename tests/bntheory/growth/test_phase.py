"""Fixed points, slopes and the edge of chaos against plain iteration of the maps with other quadratures."""

import itertools
import json
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from bntheory import critical_gain, edge_of_chaos, phase
from bntheory.activations import KNOWN, activation

# (activation, σ_w², σ_b²): ordered and chaotic points whose variance comes to rest
POINTS = [
    ("tanh", 1.5, 0.05),
    ("tanh", 4.0, 0.0),
    ("tanh", 100.0, 0.1),
    ("erf", 2.0, 0.3),
    ("sigmoid", 4.0, 0.5),
    ("sigmoid", 100.0, 0.01),
    ("gelu", 1.2, 0.1),
    ("silu", 1.5, 0.2),
    ("elu", 0.9, 0.1),
    ("selu", 0.7, 0.2),
    ("softplus", 0.8, 0.1),
    ("relu", 1.5, 0.1),
    ("leaky_relu(0.2)", 1.7, 0.3),
    ("linear", 0.6, 0.2),
]
points = pytest.mark.parametrize(("name", "weight", "bias"), POINTS)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
SIDE = 6.5 * (NODES + 1)  # one side of the Gaussian, up to 13 standard deviations
SIDE_WEIGHTS = 6.5 * WEIGHTS * stats.norm.pdf(SIDE)


def second_moment(phi, q):
    """E φ(√q g)², each side of the kink by itself."""
    return float(SIDE_WEIGHTS @ (phi(math.sqrt(q) * SIDE) ** 2 + phi(-math.sqrt(q) * SIDE) ** 2))


def iterated(step, start, most=4000):
    """Plain iteration to rest, and the last ratio of successive steps."""
    x, previous, ratio = start, None, math.nan
    for _ in range(most):
        new = step(x)
        if previous and 1e-9 < abs(new - x):
            ratio = (new - x) / previous
        if abs(new - x) < 1e-13 * max(1.0, abs(x)):
            break
        previous, x = new - x, new
    return x, ratio


def product_moment(phi, q, c):
    """E φ(u)φ(v) for two Gaussians of variance q and correlation c, on a grid of angles and radii in the plane.

    In polar coordinates the kinks of φ are rays, so that panels between them see a smooth function.
    """
    angle = math.acos(c)
    rays = np.sort(np.mod([math.pi / 2, 3 * math.pi / 2, angle + math.pi / 2, angle + 3 * math.pi / 2], 2 * math.pi))
    edges = np.concatenate([rays, [rays[0] + 2 * math.pi]])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    radius_nodes, radius_weights = np.polynomial.legendre.leggauss(200)
    radius, radius_weights = 6 * (radius_nodes + 1), 6 * radius_weights
    total = 0.0
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        theta = first + (last - first) * (nodes + 1) / 2
        u = math.sqrt(q) * np.outer(np.cos(theta), radius)
        v = math.sqrt(q) * np.outer(np.cos(theta - angle), radius)
        values = phi(u) * phi(v) * (radius * np.exp(-(radius**2) / 2))
        total += (last - first) / 2 * weights @ values @ radius_weights / (2 * math.pi)
    return total


@points
def test_fixed_point_of_the_variance(name, weight, bias):
    phi, found = activation(name).phi, phase(name, weight, bias)
    q, ratio = iterated(lambda q: weight * second_moment(phi, q) + bias, 1.0, most=400)
    assert found.q == pytest.approx(q, rel=1e-8)
    if abs(found.chi_q) > 0.05:
        assert found.chi_q == pytest.approx(ratio, rel=0.02)
    assert found.depth_q == pytest.approx(-1 / math.log(found.chi_q)) if found.chi_q > 0 else found.depth_q == 0


@points
def test_chi_against_mpmath(name, weight, bias):
    found = phase(name, weight, bias)
    dphi = activation(name).dphi

    def integrand(g):
        return float(dphi(math.sqrt(found.q) * float(g))) ** 2 * mpmath.npdf(g)

    chi = weight * mpmath.quad(integrand, [-12, -6, -3, -1, -0.1, 0, 0.1, 1, 3, 6, 12])
    assert found.chi == pytest.approx(float(chi), rel=1e-8)
    assert found.regime == ("ordered" if chi < 1 else "chaotic")


@points
def test_fixed_point_of_the_correlation(name, weight, bias):
    """c ↦ (σ_w² E φ(u)φ(v) + σ_b²)/q* rests at c*, with slope χ_c, and drives every c from 0 to 1 towards it."""
    phi, found = activation(name).phi, phase(name, weight, bias)

    def move(c):
        return (weight * product_moment(phi, found.q, c) + bias) / found.q

    assert move(found.c) == pytest.approx(found.c, abs=1e-8)
    for c in np.linspace(0.001, 0.999, 12):
        assert (move(c) - c) * (found.c - c) > 0
    if found.chi < 1:
        assert found.c == 1.0
        assert found.chi_c == pytest.approx(found.chi, rel=1e-12)
    else:
        assert found.c < 1
        slope = (move(found.c + 1e-3) - move(found.c - 1e-3)) / 2e-3
        assert found.chi_c == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("name", "weight", "bias"), [("tanh", 1.5, 0.05), ("tanh", 3.0, 0.1), ("gelu", 1.2, 0.1)])
def test_depth_scale_is_the_measured_exponential_approach(name, weight, bias):
    """Schoenholz et al. 2017, equation 8: |c_l − c*| falls as exp(−l/depth); from a distance of 1e-3 at once."""
    phi, found = activation(name).phi, phase(name, weight, bias)
    c, distances = found.c - 1e-3, []
    for _ in range(10):
        distances.append(abs(c - found.c))
        c = (weight * product_moment(phi, found.q, c) + bias) / found.q
    slope = np.polyfit(np.arange(10), np.log(distances), 1)[0]
    assert found.depth_c == pytest.approx(-1 / slope, rel=0.02)
    q, distances = found.q * 1.001, []
    for _ in range(4):
        distances.append(abs(q - found.q))
        q = weight * second_moment(phi, q) + bias
    slope = np.polyfit(np.arange(4), np.log(distances), 1)[0]
    assert found.depth_q == pytest.approx(-1 / slope, rel=0.02)


@pytest.mark.parametrize("bias", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize(("name", "gain"), [("relu", math.sqrt(2)), ("linear", 1.0), ("leaky_relu(0.5)", 1.6**0.5)])
def test_homogeneous_activations_have_one_critical_gain(name, gain, bias):
    assert critical_gain(name, bias) == pytest.approx(gain, rel=1e-14)


@pytest.mark.parametrize(("name", "gain"), [("tanh", 1.0), ("erf", math.sqrt(math.pi) / 2)])
def test_odd_sigmoids_without_bias_are_critical_at_the_slope_of_the_origin(name, gain):
    assert critical_gain(name) == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("bias", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid", "gelu", "silu", "elu", "selu"])
def test_critical_gain_lies_on_the_edge(name, bias):
    """χ = 1 at a fixed point of the variance; where that point is reached from 1, `phase` finds the same.

    For gelu and silu with a small bias it is an unstable point, and a variance of 1 comes to rest elsewhere.
    """
    try:
        gain = critical_gain(name, bias)
    except ValueError as error:
        assert "diverges" in str(error)
        return
    phi = activation(name)
    log_q = np.linspace(-20, 20, 20_001)
    moments = phi.log_moments(log_q)
    chi = np.log(gain**2) + moments.log_derivative
    excess = np.logaddexp(2 * math.log(gain) + moments.log_second, math.log(bias)) - log_q
    distance = np.hypot(chi, excess)
    assert distance.min() < 2e-3  # the grid's spacing
    found, critical_q = phase(name, gain**2, bias), math.exp(log_q[distance.argmin()])
    assert found.q == pytest.approx(critical_q, rel=0.02) or name in ("gelu", "silu")
    if found.q == pytest.approx(critical_q, rel=0.02):
        assert found.chi == pytest.approx(1, abs=1e-6)
        assert found.regime == "critical"
        assert phase(name, (gain * 0.99) ** 2, bias).regime == "ordered"


def test_known_edge_of_tanh():
    """Poole et al. 2016, figure 1: at σ_b = 0.3 the edge lies near σ_w = 1.4; the line starts at (1, 0) and rises."""
    edge = edge_of_chaos("tanh", [0.0, 0.01, 0.09, 0.3, 1.0])
    assert edge[0] == pytest.approx(1)
    assert np.all(np.diff(edge) > 0)
    for weight, bias in zip(edge[1:], (0.01, 0.09, 0.3, 1.0), strict=True):
        q, _ = iterated(lambda q, w=weight, b=bias: w * second_moment(np.tanh, q) + b, 1.0, most=3000)
        slope = 2 * SIDE_WEIGHTS @ np.cosh(math.sqrt(q) * SIDE) ** -4.0
        assert weight * slope == pytest.approx(1, abs=1e-6)


def test_softplus_has_no_critical_gain():
    with pytest.raises(ValueError, match=r"softplus has no critical gain at bias_variance=0.*diverges"):
        critical_gain("softplus")
    assert np.isnan(edge_of_chaos("softplus", [0.0, 0.1])).all()


@pytest.mark.parametrize(
    ("weight", "q", "regime"), [(1.9, 0.0, "ordered"), (2.0, 1.0, "critical"), (2.1, math.inf, "chaotic")]
)
def test_relu_without_bias(weight, q, regime):
    found = phase("relu", weight)
    assert (found.q, found.regime) == (q, regime)
    assert found.chi == pytest.approx(weight / 2)
    assert found.c == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", [*KNOWN, "leaky_relu(-1.0)"])
def test_everywhere_sane(name):
    for weight, bias in itertools.product([1e-8, 1.0, 2.0, 1e4], [0.0, 1e-8, 1e4]):
        found = phase(name, weight, bias)
        assert found.q >= 0 and found.chi >= 0 and -1e-9 <= found.c <= 1, (weight, bias)
        assert found.regime in ("ordered", "critical", "chaotic"), (weight, bias)
        assert min(found.depth_q, found.depth_c) >= 0, (weight, bias)
        numbers = (found.q, found.c, found.chi, found.chi_q, found.chi_c)
        assert not any(math.isnan(v) for v in numbers), (weight, bias)
        json.dumps(found.to_dict(), allow_nan=False)
        assert "nan" not in str(found) and "-0 " not in str(found), (weight, bias)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relux", 1.0), "unknown activation 'relux'.*relu"),
        (("relu", 0.0), "weight_variance must be finite and above 0, got 0"),
        (("relu", -1.0), "weight_variance"),
        (("relu", math.nan), "weight_variance"),
        (("relu", "1"), "weight_variance must be a number"),
        (("relu", 1.0, -0.1), "bias_variance must be finite and at least 0, got -0.1"),
        (("relu", 1.0, math.inf), "bias_variance"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        phase(*arguments)
    if "weight" not in message:
        with pytest.raises(ValueError, match=message):
            critical_gain(arguments[0], *arguments[2:])
