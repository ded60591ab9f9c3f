"""Fluctuations of a stream of units, to first order in 1/n: means, variances and what they correlate with.

A stream is n units that are Gaussian of variance e^u given everything drawn before. Along a residual network the same
units go on and on, h' = h + fresh Gaussian increments, so that what the layers read from them is correlated. With
X_k = mean over units of He_k(h e^{−u/2})/√k! all of it is Gaussian at first order, and Markov:

    X_k' = r^k X_k + fresh,   r² = e^{u − u'},   Var X_k = ω_k/n,   ω_k' = 1 − r^{2k} (1 − ω_k)

because the covariance of f(h) and f'(h') is Σ_k b_k b_k' r^k (Mehler). ω = 1 for fresh units, 0 for a fixed input. A
reading ln(mean f) is L(u) + Σ b_k(u) X_k (see `first_order_tables`). A unit takes part in what sets the variance of its
own later increments; by this E X_k = −(k/2) Cov(u, X_k), k the eigenvalue of the Ornstein–Uhlenbeck generator.

Arrays have one entry for each component of a mixture: the law of u may be broad, its local part is nearly Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from bntheory.growth.finite_width.first_order_tables import ORDERS, Table

_K = np.arange(1, ORDERS + 1)
_ROOT2 = math.sqrt(2)


@dataclass(frozen=True)
class Base:
    """Units of a stream: number, and per component the weight, mean and variance of u, Cov(u, X_k), n Var X_k."""

    units: float
    weights: np.ndarray  # (J,)
    mean: np.ndarray  # (J,)
    variance: np.ndarray  # (J,)
    covariance: np.ndarray  # (J, ORDERS)
    omega: np.ndarray  # (J, ORDERS)

    @property
    def drift(self) -> np.ndarray:
        """E X_k."""
        return -0.5 * _K * self.covariance


def fresh(units: float, weights: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Base:
    """Units drawn independently given u."""
    nothing = np.zeros((len(mean), ORDERS))
    return Base(units, weights, mean, variance, nothing, nothing + 1)


def fixed(units: float, log_start: float) -> Base:
    """An input: its units count as Gaussian of that second moment, and are the same in every draw."""
    nothing = np.zeros((1, ORDERS))
    return Base(units, np.ones(1), np.full(1, log_start), np.zeros(1), nothing, nothing)


class Scalar(NamedTuple):
    """A quantity whose fluctuation is of_u δu + Σ of_x X_k + an independent rest, over the base of a stream."""

    mean: np.ndarray
    of_u: np.ndarray
    of_x: np.ndarray
    rest: np.ndarray

    def variance(self, base: Base) -> np.ndarray:
        """Its variance."""
        with_x = np.sum(self.of_x * (2 * self.of_u[:, None] * base.covariance + self.of_x * base.omega / base.units), 1)
        return self.of_u**2 * base.variance + with_x + self.rest

    def with_x(self, base: Base) -> np.ndarray:
        """Its covariance with X_k."""
        return self.of_u[:, None] * base.covariance + self.of_x * base.omega / base.units

    def mapped(self, base: Base, value: np.ndarray, slope: np.ndarray, curvature: np.ndarray) -> Scalar:
        """A function of it, given by its value and derivatives at the mean."""
        mean = value + 0.5 * curvature * self.variance(base)
        return Scalar(mean, slope * self.of_u, slope[:, None] * self.of_x, slope**2 * self.rest)

    def noisy(self, spread: np.ndarray, units: int) -> Scalar:
        """Plus ln(mean over units of independent f) − ln E f, f of relative variance `spread`.

        As if mean f had a Gamma law, which is exact for f = h²: mean ψ(a) − ln a, variance ψ′(a) at a = n/spread.
        """
        share = spread / units
        mean, variance = -share / 2 - share**2 / 12, share + share**2 / 2
        return self._replace(mean=self.mean + mean, rest=self.rest + variance)


def itself(base: Base) -> Scalar:
    """The scalar u."""
    nothing = np.zeros_like(base.covariance)
    return Scalar(base.mean, np.ones_like(base.mean), nothing, np.zeros_like(base.mean))


def dense(y: Scalar, base: Base, log_gain: float, log_bias: float) -> Scalar:
    """The ln variance of z = W h + b, given y = ln mean square of h: ln(gain e^y + σ_b²)."""
    value = np.logaddexp(y.mean + log_gain, log_bias)
    share = np.exp(y.mean + log_gain - value)
    return y.mapped(base, value, share, share * (1 - share))


def total(shortcut: Scalar, branch: Scalar, base: Base, log_scale2: float) -> Scalar:
    """The ln of e^shortcut + α² e^branch."""
    mean = np.logaddexp(shortcut.mean, branch.mean + log_scale2)
    p = np.exp(branch.mean + log_scale2 - mean)
    gap = Scalar(
        branch.mean,
        branch.of_u - shortcut.of_u,
        branch.of_x - shortcut.of_x,
        branch.rest + shortcut.rest,
    )
    q = 1 - p
    return Scalar(
        mean + 0.5 * p * q * gap.variance(base),
        q * shortcut.of_u + p * branch.of_u,
        q[:, None] * shortcut.of_x + p[:, None] * branch.of_x,
        q**2 * shortcut.rest + p**2 * branch.rest,
    )


def continued(base: Base, u: Scalar, log_ratio: np.ndarray) -> Base:
    """The same units after increments that make ln variance `u`; `log_ratio` is ln r²."""
    kept = decay(log_ratio)
    omega = 1 - kept**2 * (1 - base.omega)
    return Base(base.units, base.weights, u.mean, u.variance(base), kept * u.with_x(base), omega)


def decay(log_ratio: np.ndarray) -> np.ndarray:
    """r^k for ln r² = `log_ratio`."""
    return np.exp(0.5 * np.minimum(log_ratio, 0.0)[:, None] * _K)


def added(one: Scalar, other: Scalar) -> Scalar:
    """Their sum; the rests are independent."""
    return Scalar(*(x + y for x, y in zip(one, other, strict=True)))


def square(base: Base) -> Scalar:
    """The reading ln(mean h²)."""
    of_x = np.zeros_like(base.covariance)
    of_x[:, 1] = _ROOT2
    mean = base.mean + _ROOT2 * base.drift[:, 1] - base.omega[:, 1] / base.units
    return Scalar(mean, np.ones_like(mean), of_x, np.zeros_like(mean))


def read(base: Base, table: Table) -> Scalar:
    """The reading ln(mean f(h))."""
    at, (b, slope) = table.size(base.mean), table.hermite(base.mean)
    own = np.sum(b * base.drift + slope * base.covariance - 0.5 * b**2 * base.omega / base.units, axis=1)
    return Scalar(at.value + 0.5 * at.curvature * base.variance + own, at.slope, b, np.zeros_like(own))


def normalized(base: Base, epsilon: float) -> Scalar:
    """The reading ln(mean ĥ²) of ĥ = (h − mean h)/√(v + ε), v the variance over units: −ln(1 + ε/v)."""
    y = square(base)
    y = y._replace(mean=y.mean - base.omega[:, 0] / base.units)  # the mean takes its share
    log_kept = special.log_expit(y.mean - _log(epsilon))
    kept = np.exp(log_kept)
    return y.mapped(base, log_kept, 1 - kept, -kept * (1 - kept))


def read_normalized(base: Base, epsilon: float, table: Table) -> Scalar:
    """The reading ln(mean f(ĥ)), ĥ as in `normalized`.

    ĥ = e^{λ/2} h e^{−u/2} with λ = −ln(1 + η + ε e^{−u}), η = √2 X_2, to second order. The first Hermite order, removed
    with the mean, does not fluctuate, nor does the second if ε = 0.
    """
    log_kept = special.log_expit(base.mean - _log(epsilon))
    kept = np.exp(log_kept)
    lost = 1 - kept
    at, (b, slope) = table.size(log_kept), table.hermite(log_kept)
    b, slope = b.copy(), slope.copy()
    b[:, 0], slope[:, 0] = 0.0, 0.0
    one, two = base.omega[:, 0] / base.units, base.omega[:, 1] / base.units
    eta_u, eta_eta = _ROOT2 * base.covariance[:, 1], 2 * two
    of_x = np.zeros_like(b)
    of_x[:, 1] = -kept * _ROOT2
    shift = Scalar(log_kept, lost, of_x, np.zeros_like(kept))
    mean = -kept * (_ROOT2 * base.drift[:, 1] + lost * (eta_u + 0.5 * base.variance)) + 0.5 * kept**2 * eta_eta
    own = np.sum(b * base.drift + slope * shift.with_x(base) - 0.5 * b**2 * base.omega / base.units, axis=1)
    own += at.slope * (mean - lost * one) + 0.5 * at.curvature * shift.variance(base)
    return Scalar(at.value + own, at.slope * lost, b + at.slope[:, None] * of_x, np.zeros_like(own))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
