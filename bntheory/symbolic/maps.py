"""Maps of variances and correlations from layer to layer at infinite width, by integration in closed form.

Symbols: h a pre-activation, of variance q > 0; ρ the correlation of two. A nonlinearity φ is a name, or an
expression in h: from `homogeneous`, a polynomial, or erf(h); others sympy may not integrate. E φ(u) φ(v) is found by
Price's theorem, d/dρ E φ(u) φ(v) = q E φ′(u) φ′(v), from ρ = 0, where it is (E φ)²: once if φ is smooth, twice if it
has a kink, where φ″ is a multiple of δ. Variances are covariances at ρ = 1.

References
----------
R. Price, A useful theorem for nonlinear devices having Gaussian inputs, IRE Trans. Inf. Theory 4, 69 (1958).
B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, arXiv:1606.05340 (2016).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sympy
from sympy.integrals.manualintegrate import manualintegrate

from bntheory import activations

h, q, rho = sympy.Symbol("h", real=True), sympy.Symbol("q", positive=True), sympy.Symbol("rho", real=True)


def homogeneous(right: Any, left: Any) -> Any:
    """φ(h) = right·h for h > 0 and left·h for h < 0: relu is (1, 0), leaky_relu (1, slope).

    >>> homogeneous(1, 0)
    Piecewise((h, h > 0), (0, True))
    """
    above, below = (sympy.nsimplify(side, rational=True) * h for side in (right, left))
    return sympy.Piecewise((above, h > 0), (below, True))


def nonlinearity(name: str) -> Any:
    """The nonlinearity of that name: linear, relu, leaky_relu, leaky_relu(0.2), erf.

    Raises
    ------
    ValueError
        If there is none of that name, or no closed form is known for its moments.

    >>> nonlinearity("leaky_relu(0.2)")
    Piecewise((h, h > 0), (h/5, True))
    """
    known = activations.activation(name)
    if known.homogeneous_slopes is not None:
        return homogeneous(*known.homogeneous_slopes)
    if known.name != "erf":
        raise ValueError(f"no closed form is known for {name}: use linear, relu, leaky_relu, erf or an expression in h")
    return sympy.erf(h)


def expectation(function: Any) -> Any:
    """E f(h) for h ~ N(0, q).

    >>> expectation(h**4)
    3*q**2
    """
    return sympy.simplify(_mean(function, h, q))


@cache
def covariance(phi: Any) -> Any:
    """E φ(u) φ(v) for u, v of variance q and correlation ρ; the arc-cosine kernel for relu.

    >>> covariance("erf")
    2*asin(2*q*rho/(2*q + 1))/pi
    """
    phi = _expression(phi)
    derivative = sympy.diff(phi, h)
    if not phi.has(sympy.Piecewise):
        return sympy.simplify(_from_zero(q * _product(derivative)) + expectation(phi) ** 2)
    right, left = phi.subs(h, 1), -phi.subs(h, -1)
    if phi != homogeneous(right, left):
        raise ValueError(f"φ with a kink must come from homogeneous, got {phi}")
    second = (right - left) ** 2 / (2 * sympy.pi * q * sympy.sqrt(1 - rho**2))  # δ(u) δ(v) sees the density at (0, 0)
    first = _from_zero(q * second) + expectation(derivative) ** 2
    return sympy.simplify(_from_zero(q * first) + expectation(phi) ** 2)


def variance_map(phi: Any, weight_variance: Any = 1, bias_variance: Any = 0) -> Any:
    """Variance q' = σ_w² E φ(h)² + σ_b² of a pre-activation of the next layer.

    >>> variance_map("relu", 2), variance_map("erf")
    (q, 2*asin(2*q/(2*q + 1))/pi)
    """
    return sympy.simplify(weight_variance * covariance(phi).subs(rho, 1) + bias_variance)


def correlation_map(phi: Any, weight_variance: Any = 1, bias_variance: Any = 0) -> Any:
    """Correlation in the next layer of two pre-activations of variance q and correlation ρ.

    >>> correlation_map("relu")
    (rho*asin(rho) + pi*rho/2 + sqrt(1 - rho**2))/pi
    """
    joint = weight_variance * covariance(phi) + bias_variance
    return sympy.simplify(joint / joint.subs(rho, 1))


def slope(phi: Any, weight_variance: Any = 1) -> Any:
    """χ = σ_w² E φ′(h)², by which small distances of two inputs and squared gradients are multiplied.

    >>> slope("relu", 2), slope("erf")
    (1, 4/(pi*sqrt(4*q + 1)))
    """
    return sympy.simplify(weight_variance * expectation(sympy.diff(_expression(phi), h) ** 2))


def critical_weight_variance(phi: Any) -> Any:
    """σ_w² at which χ = 1 as q → 0, critical without biases if φ(0) = 0 and E φ′² falls with q or is constant.

    >>> critical_weight_variance("relu"), critical_weight_variance("erf")
    (2, pi/4)
    """
    return 1 / sympy.limit(slope(phi), q, 0, "+")


def _expression(phi: Any) -> Any:
    return nonlinearity(phi) if isinstance(phi, str) else phi


def _mean(function: Any, over: Any, variance: Any) -> Any:
    density = sympy.exp(-(over**2) / (2 * variance)) / sympy.sqrt(2 * sympy.pi * variance)
    return sympy.integrate(sympy.powsimp(function * density), (over, -sympy.oo, sympy.oo))


def _product(function: Any) -> Any:
    """E f(u) f(v) of a smooth f, with u = a + b and v = a − b of independent a, b of variances q(1 ± ρ)/2."""
    a, b = sympy.symbols("a b", real=True)
    plus, minus = sympy.symbols("plus minus", positive=True)
    both = sympy.powsimp(sympy.expand(function.subs(h, a + b) * function.subs(h, a - b)))
    mean = sympy.simplify(_mean(sympy.factor(_mean(both, b, q * minus / 2)), a, q * plus / 2))
    mean = mean.subs({plus: 1 + rho, minus: 1 - rho})
    roots = [part for part in sympy.Mul.make_args(mean) if part.is_Pow and part.exp == -sympy.S.Half]
    return mean / sympy.Mul(*roots) / sympy.sqrt(sympy.expand(sympy.Mul(*(root**-2 for root in roots))))


def _from_zero(function: Any) -> Any:
    """∫ f dρ from 0 to ρ."""
    whole = sympy.factor(manualintegrate(function, rho), deep=True)
    return whole - whole.subs(rho, 0)
