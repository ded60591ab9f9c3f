"""Symbolic maps of variances and correlations against the numeric moments, direct integrals and known kernels."""

import math

import numpy as np
import pytest
import sympy

import bntheory as bn
from bntheory.symbolic import (
    correlation_map,
    covariance,
    critical_weight_variance,
    expectation,
    homogeneous,
    nonlinearity,
    slope,
    variance_map,
)
from bntheory.symbolic.maps import h, q, rho

NAMES = ["linear", "relu", "leaky_relu(-0.5)", "erf"]
VARIANCES = [1e-6, 0.3, 1.0, 40.0]


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_the_numeric_activations(name):
    second, square = sympy.lambdify(q, variance_map(name)), sympy.lambdify(q, slope(name))
    for variance in VARIANCES:
        numeric = bn.activation(name).log_moments(math.log(variance))
        assert second(variance) == pytest.approx(math.exp(numeric.log_second), rel=1e-11)
        assert square(variance) == pytest.approx(math.exp(numeric.log_derivative), rel=1e-11)
    mean = sympy.lambdify(q, expectation(nonlinearity(name)))
    numeric = bn.activation(name).log_moments(0.0)
    assert mean(1.0) == pytest.approx(numeric.mean_sign * math.exp(numeric.log_mean), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_distances_of_the_numeric_activations(name):
    """E (φ(u) − φ(v))² is twice the drop of the covariance from ρ = 1."""
    kernel = covariance(name)
    distance = sympy.lambdify((q, rho), 2 * (kernel.subs(rho, 1) - kernel))
    for variance in VARIANCES:
        for correlation in (-0.9, 0.0, 0.5, 0.99):
            log_q, log_d = math.log(variance), math.log(2 * variance * (1 - correlation))
            numeric = math.exp(bn.activation(name).log_distance(log_q, log_q, log_d))
            assert distance(variance, correlation) == pytest.approx(numeric, rel=1e-9)


@pytest.mark.parametrize("phi", [homogeneous(1, sympy.Symbol("alpha", real=True)), h**2, h**3 - 3 * h], ids=str)
def test_variances_by_one_integral(phi):
    """Price's theorem up to ρ = 1 and the integral of φ² itself."""
    assert sympy.simplify(variance_map(phi) - expectation(phi**2)) == 0


def test_known_kernels():
    assert sympy.expand(covariance(h**3 - 3 * h).subs(q, 1) - 6 * rho**3) == 0  # Mehler: 3! ρ³
    arc_cosine = (sympy.sqrt(1 - rho**2) + rho * (sympy.pi - sympy.acos(rho))) / sympy.pi
    assert sympy.simplify((correlation_map("relu") - arc_cosine).rewrite(sympy.asin)) == 0
    assert correlation_map("linear", 3, 0) == rho


@pytest.mark.parametrize("name", NAMES)
def test_nearby_inputs_separate_at_the_slope(name):
    """d/dρ E φ(u) φ(v) at ρ = 1 is q χ, compared by squares."""
    rate = sympy.limit(sympy.diff(covariance(name), rho), rho, 1, "-")
    assert sympy.simplify(rate**2 - (q * slope(name)) ** 2) == 0


def test_biases_and_gains():
    weight, bias = sympy.symbols("weight bias", positive=True)
    assert sympy.expand(variance_map("relu", weight, bias) - weight * q / 2 - bias) == 0
    mapped = correlation_map("erf", weight, bias)
    assert sympy.simplify(mapped.subs(rho, 1)) == 1
    at_zero = sympy.lambdify((q, weight, bias), mapped.subs(rho, 0))
    assert at_zero(1.0, 2.0, 0.5) == pytest.approx(0.5 / (2 * 2 / np.pi * np.arcsin(2 / 3) + 0.5), rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_critical_gains(name):
    expected = {"linear": 1, "relu": 2, "erf": sympy.pi / 4}
    if name in expected:
        assert critical_weight_variance(name) == expected[name]
    assert float(critical_weight_variance(name)) == pytest.approx(bn.critical_gain(name) ** 2, rel=1e-9)


def test_activations_without_closed_form_are_refused():
    with pytest.raises(
        ValueError, match="no closed form is known for tanh: use linear, relu, leaky_relu, erf or an exp"
    ):
        variance_map("tanh")
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        slope("rleu")
    hard_tanh = sympy.Piecewise((-1, h < -1), (h, h < 1), (1, True))
    with pytest.raises(ValueError, match="φ with a kink must come from homogeneous"):
        covariance(hard_tanh)
