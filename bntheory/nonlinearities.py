"""The formulas of the named nonlinearities: φ, φ′, and φ(x) + φ(−x) free of cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bntheory.gaussian import erf_distance

Floats = NDArray[np.float64]
Function = Callable[[Any], Any]

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848  # Klambauer et al. 2017


@dataclass(frozen=True)
class Rule:
    """A smooth nonlinearity: φ, φ′, φ(x) + φ(−x) for x > 0 without cancellation, and E (φ(u) − φ(v))² where closed."""

    phi: Function
    dphi: Function
    even: Function
    distance: Callable[[float, float, float], float] | None = None
    kinks: tuple[float, ...] = ()


def _sigmoid_slope(x: Floats) -> Floats:
    decay = np.exp(-np.abs(x))
    return decay / (1 + decay) ** 2


def _gelu_slope(x: Floats) -> Floats:
    return special.ndtr(x) + x * np.exp(-0.5 * np.clip(x, -40, 40) ** 2) / math.sqrt(2 * math.pi)


def _silu_slope(x: Floats) -> Floats:
    rising = special.expit(x)
    return rising + x * rising * special.expit(-x)


def _elu(x: Floats) -> Floats:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_even(x: Floats) -> Floats:
    near = np.minimum(x, 0.5)  # x + expm1(−x) by its series
    series = np.zeros_like(x)
    for k in range(15, 1, -1):
        series = 1 / math.factorial(k) - near * series
    return np.where(x < 0.5, near**2 * series, x + np.expm1(-x))


def _selu(x: Floats) -> Floats:
    return _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def _selu_slope(x: Floats) -> Floats:
    return _SELU_SCALE * np.where(x > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(x, 0)))


def _selu_even(x: Floats) -> Floats:
    return _SELU_SCALE * ((1 - _SELU_ALPHA) * x + _SELU_ALPHA * _elu_even(x))


def elu(alpha: float) -> Rule:
    """Elu with the slope α at 0 from the left."""
    return Rule(
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, np.ones_like(x), alpha * np.exp(np.minimum(x, 0))),
        lambda x: (1 - alpha) * x + alpha * _elu_even(x),
    )


def _mish_parts(x: Floats) -> tuple[Floats, Floats]:
    """T = tanh ln(1 + e^x) = (a² − 1)/(a² + 1) with a = 1 + e^x, and 1 − T², from e^−|x|."""
    t = np.exp(-np.abs(x))
    right, left = 1 + 2 * t * (1 + t), 2 + t * (2 + t)  # (a² + 1) e^−2x for x > 0, a² + 1 for x < 0
    tanh = np.where(x > 0, (1 + 2 * t) / right, t * (2 + t) / left)
    return tanh, 4 * ((1 + t) * np.where(x > 0, t / right, 1 / left)) ** 2


def _mish_slope(x: Floats) -> Floats:
    tanh, rest = _mish_parts(x)
    return tanh + x * rest * special.expit(x)


def _mish_even(x: Floats) -> Floats:
    t = np.exp(-x)
    return -2 * x * np.expm1(-2 * x) * (1 + t) ** 2 / ((1 + 2 * t * (1 + t)) * (2 + t * (2 + t)))


def _gelu_argument(x: Floats) -> Floats:
    """√(2/π) (x + 0.044715 x³)."""
    inside = np.clip(x, -50, 50)
    return math.sqrt(2 / math.pi) * inside * (1 + 0.044715 * inside**2)


def _gelu_tanh_slope(x: Floats) -> Floats:
    inside, rising = np.clip(x, -50, 50), special.expit(2 * _gelu_argument(x))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * inside**2)
    return rising + 2 * inside * inner * rising * special.expit(-2 * _gelu_argument(x))


def _tanhshrink(x: Floats) -> Floats:
    square = np.clip(x, -0.15, 0.15) ** 2  # nearer to 0 by its series
    series = np.zeros_like(x)
    for coefficient in _TANHSHRINK[::-1]:
        series = coefficient - square * series
    return np.where(np.abs(x) < 0.15, x * square * series, x - np.tanh(x))


_TANHSHRINK = (1 / 3, 2 / 15, 17 / 315, 62 / 2835, 1382 / 155925, 21844 / 6081075, 929569 / 638512875)


def _between(low: float, high: float, slope: float = 1.0) -> Function:
    """A slope on (low, high], 0 elsewhere."""
    return lambda x: ((x > low) & (x <= high)).astype(x.dtype) * slope


def _hardswish_slope(x: Floats) -> Floats:
    return np.where(x > 3, np.ones_like(x), np.where(x > -3, np.clip(x, -3, 3) / 3 + 0.5, np.zeros_like(x)))


RULES: dict[str, Rule] = {
    "tanh": Rule(np.tanh, lambda x: 4 * _sigmoid_slope(2 * x), np.zeros_like),
    "erf": Rule(
        special.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(np.clip(x, -30, 30) ** 2)), np.zeros_like, erf_distance
    ),
    "sigmoid": Rule(special.expit, _sigmoid_slope, np.ones_like),
    "gelu": Rule(lambda x: x * special.ndtr(x), _gelu_slope, lambda x: x * special.erf(x / math.sqrt(2))),
    "silu": Rule(lambda x: x * special.expit(x), _silu_slope, lambda x: x * np.tanh(x / 2)),
    "elu": Rule(_elu, lambda x: np.exp(np.minimum(x, 0)), _elu_even),
    "selu": Rule(_selu, _selu_slope, _selu_even),
    "softplus": Rule(lambda x: np.logaddexp(0, x), special.expit, lambda x: x + 2 * np.log1p(np.exp(-x))),
    "softsign": Rule(lambda x: x / (1 + np.abs(x)), lambda x: (1 / (1 + np.abs(x))) ** 2, np.zeros_like),
    "mish": Rule(lambda x: x * _mish_parts(x)[0], _mish_slope, _mish_even),
    "gelu_tanh": Rule(
        lambda x: x * special.expit(2 * _gelu_argument(x)), _gelu_tanh_slope, lambda x: x * np.tanh(_gelu_argument(x))
    ),
    "logsigmoid": Rule(
        lambda x: -np.logaddexp(0, -x), lambda x: special.expit(-x), lambda x: -x - 2 * np.log1p(np.exp(-x))
    ),
    "tanhshrink": Rule(_tanhshrink, lambda x: np.tanh(x) ** 2, np.zeros_like),
    "relu6": Rule(lambda x: np.clip(x, 0, 6), _between(0, 6), lambda x: np.minimum(x, 6), kinks=(6.0,)),
    "hardtanh": Rule(lambda x: np.clip(x, -1, 1), _between(-1, 1), np.zeros_like, kinks=(-1.0, 1.0)),
    "hardsigmoid": Rule(lambda x: np.clip(x + 3, 0, 6) / 6, _between(-3, 3, 1 / 6), np.ones_like, kinks=(-3.0, 3.0)),
    "hardswish": Rule(
        lambda x: x * (np.clip(x + 3, 0, 6) / 6),
        _hardswish_slope,
        lambda x: np.where(x < 3, np.minimum(x, 3) ** 2 / 3, x),
        kinks=(-3.0, 3.0),
    ),
}
