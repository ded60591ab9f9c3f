"""Which initializations let signals through a deep network: fixed points, depth scales and the edge of chaos.

    q' = σ_w² E φ(√q g)² + σ_b²        variance of a pre-activation
    d' = σ_w² E (φ(u) − φ(v))²          squared distance of two inputs, c = 1 − d/(2q)
    χ  = σ_w² E φ′(√q* g)²              slope of the map of d at d = 0, and of the squared gradient

Poole et al. 2016; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein 2017, equations 3 to 9.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize

from bntheory import activations, arguments
from bntheory.activations import Activation

LOG_Q = np.linspace(-60, 60, 481)  # beyond, moments are powers of q
ROUNDING = 1e-9


@dataclass(frozen=True)
class Phase:
    """Where an initialization lies.

    Attributes
    ----------
    activation : str
    weight_variance, bias_variance : float
        σ_w² (fan_in times the variance of a weight) and σ_b².
    q : float
        Fixed point q* that the variance reaches from 1, between e^−60 and e^60; 0 or inf if it leaves that range;
        1 if every q is fixed.
    c : float
        Stable fixed point c* of the correlation of two inputs.
    chi : float
        χ at q* and c = 1: below 1 ordered, above 1 chaotic.
    chi_q, chi_c : float
        Slopes of the variance map at q* and of the correlation map at c* (of d/q, if q has no fixed point).
    depth_q, depth_c : float
        Layers over which variance and correlation approach their fixed points, −1/ln of the slopes; inf at slope 1.
    regime : {"ordered", "critical", "chaotic"}
    """

    activation: str
    weight_variance: float
    bias_variance: float
    q: float
    c: float
    chi: float
    chi_q: float
    chi_c: float
    depth_q: float
    depth_c: float
    regime: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, infinities as None, ready for JSON."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    def __str__(self) -> str:
        return (
            f"{self.activation}, σ_w² = {self.weight_variance:.6g}, σ_b² = {self.bias_variance:.6g}: {self.regime}\n"
            f"  q* = {self.q:.6g}   c* = {self.c:.6g}   χ = {self.chi:.6g}\n"
            f"  depth scales: {self.depth_q:.4g} layers (variance), {self.depth_c:.4g} layers (correlation)"
        )


def phase(activation: str | Activation, weight_variance: float, bias_variance: float = 0.0) -> Phase:
    """Find the fixed points of the variance and correlation maps and the depths over which they are reached.

    Parameters
    ----------
    activation : str or Activation
    weight_variance : float
        σ_w² = fan_in · Var w, above 0: 2 for He, 1 for LeCun and for Xavier with equal fans.
    bias_variance : float
        σ_b², at least 0.

    Returns
    -------
    Phase

    Raises
    ------
    ValueError
        For an unknown activation or a variance out of range.

    Notes
    -----
    Infinite width. Where the variance vanishes or diverges, χ and the slopes are the limits along the way.

    References
    ----------
    Schoenholz et al. 2017, section 3.

    Examples
    --------
    >>> print(phase("tanh", weight_variance=1.5, bias_variance=0.05).regime)
    ordered
    """
    phi = activations.activation(activation)
    weight_variance = arguments.number("weight_variance", weight_variance, above=0)
    bias_variance = arguments.number("bias_variance", bias_variance, at_least=0)
    log_gain, log_bias = math.log(weight_variance), math.log(bias_variance) if bias_variance else -math.inf

    def excess(log_q: Any) -> Any:
        """ln q' − ln q."""
        return np.logaddexp(log_gain + phi.log_moments(log_q).log_second, log_bias) - log_q

    log_q = _attractor(excess, np.logaddexp(log_gain + _log_second(phi), log_bias) - LOG_Q)
    log_rate = float(excess(log_q))  # 0 at a fixed point
    chi_q = math.exp(log_rate) * (1 + _slope(excess, log_q))
    log_chi = log_gain + float(phi.log_moments(log_q).log_derivative)
    chi = math.exp(log_chi)
    c, chi_c = _correlation(phi, log_gain - log_rate, log_q, log_chi - log_rate)
    regime = "critical" if abs(chi - 1) < 1e-6 else "ordered" if chi < 1 else "chaotic"
    q = 0.0 if log_q == LOG_Q[0] else math.inf if log_q == LOG_Q[-1] else math.exp(log_q)
    depths = _depth_scale(chi_q), _depth_scale(chi_c)
    return Phase(str(phi), weight_variance, bias_variance, q, c, chi, chi_q, chi_c, *depths, regime)


def critical_gain(activation: str | Activation, bias_variance: float = 0.0) -> float:
    """Return σ_w on the edge of chaos: the gain at which χ = 1 at the fixed point of the variance.

    χ = 1 and q = σ_w² E φ² + σ_b² give E φ²/E φ′² + σ_b² = q, which is solved for q; then σ_w² = 1/E φ′².

    Parameters
    ----------
    activation : str or Activation
    bias_variance : float
        σ_b², at least 0.

    Returns
    -------
    float
        √2 for ReLU; 1 for tanh without biases (there q* = 0).

    Raises
    ------
    ValueError
        If the activation has no critical point (softplus: the variance diverges before χ reaches 1), or an argument is
        out of range.

    Notes
    -----
    Infinite width. For φ that are linear on either side of 0 the gain does not depend on q or on σ_b². Without biases
    and with φ(0) = 0 the critical point may lie at q* → 0, where only the slopes at 0 count; `phase` says whether a
    variance of 1 comes to rest there.

    References
    ----------
    Schoenholz et al. 2017; Hayou, Doucet, Rousseau 2019, section 3.

    Examples
    --------
    >>> print(f"{critical_gain('relu'):.6f} {critical_gain('tanh'):.6f} {critical_gain('tanh', 0.05):.6f}")
    1.414214 1.000000 1.327010
    """
    phi = activations.activation(activation)
    bias_variance = arguments.number("bias_variance", bias_variance, at_least=0)
    log_bias = math.log(bias_variance) if bias_variance else -math.inf

    def excess(log_q: Any) -> Any:
        moments = phi.log_moments(log_q)
        return np.logaddexp(moments.log_second - moments.log_derivative, log_bias) - log_q

    if not np.isfinite(phi.log_moments(LOG_Q).log_derivative).all():
        raise ValueError(f"{phi} has no critical gain: its derivative vanishes")
    values = excess(LOG_Q)
    significant = np.flatnonzero(np.abs(values) > ROUNDING)
    if phi.homogeneous_slopes is not None or not len(significant) or values[significant[0]] < 0:
        log_q = LOG_Q[0]
        if abs(_slope(lambda log_q: phi.log_moments(log_q).log_derivative, log_q)) > 0.1:
            raise ValueError(f"{phi} has no critical gain without biases: its slope at 0 is 0 or infinite")
    else:
        falling = [k for k in significant[significant > 0] if values[k] < 0]
        if not falling:
            raise ValueError(
                f"{phi} has no critical gain at bias_variance={bias_variance:g}: "
                "its variance diverges before χ reaches 1"
            )
        log_q = optimize.brentq(excess, LOG_Q[falling[0] - 1], LOG_Q[falling[0]], xtol=1e-13)
    return math.exp(-0.5 * float(phi.log_moments(log_q).log_derivative))


def edge_of_chaos(activation: str | Activation, bias_variances: Any) -> np.ndarray:
    """Return σ_w² on the edge of chaos for each σ_b²; NaN where there is none.

    Parameters
    ----------
    activation : str or Activation
    bias_variances : array_like
        Values of σ_b², at least 0.

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> edge_of_chaos("relu", [0.0, 0.1]).round(6)
    array([2., 2.])
    """
    phi = activations.activation(activation)
    values = np.asarray(bias_variances, dtype=float)
    edge = np.empty(values.shape)
    for index, value in np.ndenumerate(values):
        value = arguments.number("bias_variance", float(value), at_least=0)
        try:
            edge[index] = critical_gain(phi, value) ** 2
        except ValueError:
            edge[index] = np.nan
    return edge


@functools.lru_cache(maxsize=32)
def _log_second(phi: Activation) -> np.ndarray:
    return phi.log_moments(LOG_Q).log_second


def _attractor(excess: Callable[[Any], Any], values: np.ndarray) -> float:
    """ln of the variance that the map reaches from 1: the next crossing in the direction in which it moves.

    `values` is the excess on the grid `LOG_Q`.
    """
    middle = len(LOG_Q) // 2
    direction = values[middle]
    if abs(direction) < ROUNDING:
        return 0.0
    beyond = range(middle + 1, len(LOG_Q)) if direction > 0 else range(middle - 1, -1, -1)
    for k in beyond:
        if values[k] * direction < 0 and abs(values[k]) > 1e-13:
            before = k - 1 if direction > 0 else k + 1
            return float(optimize.brentq(excess, *sorted((LOG_Q[k], LOG_Q[before])), xtol=1e-13))
    return float(LOG_Q[-1] if direction > 0 else LOG_Q[0])


def _slope(function: Callable[[Any], Any], x: float, step: float = 0.02) -> float:
    """Derivative by central differences of sixth order."""
    values = function(x + step * np.arange(-3, 4))
    return float(values @ np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * step))


def _correlation(phi: Activation, log_gain: float, log_q: float, log_slope: float) -> tuple[float, float]:
    """Stable fixed point c* of d/q and the slope of its map there; `log_slope` is ln of the slope at c = 1."""
    if log_slope <= ROUNDING:
        return 1.0, math.exp(log_slope)

    def excess(log_d: Any) -> Any:
        """ln d' − ln d, in units of q."""
        log_d = np.asarray(log_d, dtype=float)
        return log_gain + phi.log_distance(log_q, log_q, log_d) - log_d

    most = log_q + math.log(2)  # uncorrelated inputs: c = 0, and biases and E φ only raise it
    log_d = most
    if excess(most) < -1e-12:
        reach = 0.5
        while excess(most - reach) < 0 and reach < 60:
            reach *= 2
        log_d = float(optimize.brentq(excess, most - reach, most, xtol=1e-11))
    return 0.0 - math.expm1(log_d - most), 1 + _slope(excess, log_d)


def _depth_scale(slope: float) -> float:
    if slope <= 0:
        return 0.0
    return -1 / math.log(slope) if slope < 1 - ROUNDING else math.inf
