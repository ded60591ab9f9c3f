"""Hermite series of distances, against the two-point integrals of the activations and far outside their range."""

import math

import numpy as np
import pytest
from scipy import integrate

from bntheory import activation
from bntheory.activations import KNOWN
from bntheory.growth.infinite_width import hermite

SMOOTH = [name for name in KNOWN if activation(name).homogeneous_slopes is None]


def log_d(first, second, rho):
    """ln of the distance of points with second moments e^first and e^second and correlation ρ."""
    return math.log(math.exp(first) + math.exp(second) - 2 * rho * math.exp((first + second) / 2))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.5, 0.9, 1 - 1e-6])
def test_the_series_is_the_integral(name, rho):
    """Within 1e-3 of the second moment's size at q of 0.05, 1 and 3; 6% of nearly parallel inputs at kinks."""
    phi, log_q = activation(name), np.log([0.05, 1.0, 3.0])
    first, second = np.triu_indices(3)
    distances = np.array([log_d(log_q[i], log_q[j], rho) for i, j in zip(first, second, strict=True)])
    series = hermite.log_distance(phi, log_q, first, second, distances)
    integral = phi.log_distance(log_q[first], log_q[second], distances)
    np.testing.assert_allclose(series, integral, atol=0.06 if phi.kinks and rho > 0.99 else 2e-3)


@pytest.mark.parametrize("name", ["tanh", "gelu", "sigmoid", "softplus"])
@pytest.mark.parametrize("shift", [-700.0, -150.0, 150.0, 3000.0])
def test_power_laws_of_extreme_sizes(name, shift):
    phi, log_q = activation(name), np.array([shift, shift + 0.5])
    pair = np.array([0]), np.array([1])
    distance = np.array([shift + log_d(0.0, 0.5, 0.3)])
    assert hermite.log_distance(phi, log_q, *pair, distance) == pytest.approx(
        phi.log_distance(log_q[:1], log_q[1:], distance), abs=0.03
    )


def test_points_at_which_all_units_are_zero():
    """φ(0) is known there: the distance to another point is E (φ(v) − φ(0))²; two of them coincide."""
    sigmoid = activation("sigmoid")
    series = hermite.log_distances(
        sigmoid,
        np.array([-np.inf, 0.0, -np.inf]),
        np.array([[-np.inf, 0, -np.inf], [0, -np.inf, 0], [-np.inf, 0, -np.inf]]),
    )
    expected, _ = integrate.quad(
        lambda v: (sigmoid.phi(v) - 0.5) ** 2 * math.exp(-v * v / 2) / math.sqrt(2 * math.pi), -12, 12
    )
    assert series[0, 1] == pytest.approx(math.log(expected), abs=1e-6)
    assert series[0, 2] == -np.inf


def test_a_wide_range_of_sizes_is_interpolated_densely():
    """400 points over 30 units of ln q: coefficients as at single points."""
    tanh, log_q = activation("tanh"), np.linspace(-25.0, 5.0, 400)
    table, moments = hermite.coefficients(tanh, log_q)
    for row in (3, 150, 397):
        single, own = hermite.coefficients(tanh, log_q[row : row + 1])
        np.testing.assert_allclose(table[row], single[0], atol=1e-8)
        np.testing.assert_allclose(moments[:, row], own[:, 0], atol=1e-8)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_products_of_slopes(name):
    """E φ′(u)φ′(v) by quadrature over both."""
    phi, rho = activation(name), 0.4
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u, weights = 8 * nodes, 8 * weights * np.exp(-((8 * nodes) ** 2) / 2) / math.sqrt(2 * math.pi)
    inner = [weights @ phi.dphi(rho * x + math.sqrt(1 - rho**2) * u) for x in u]
    assert hermite.slope_product(phi, 0.0, rho) == pytest.approx(weights @ (phi.dphi(u) * inner), abs=5e-3)
    assert math.isfinite(hermite.slope_product(phi, 5000.0, rho)) and hermite.slope_product(phi, -5000.0, rho) > 0
