"""Smooth activations as compiled functions: φ and φ′ of one number, by their index in SMOOTH.

Their formulas are those of `bntheory.activations`, which the tests hold them against.
"""

import math

from simulations.kernels.compilation import kernel

SMOOTH = ("tanh", "erf", "sigmoid", "gelu", "silu", "elu", "selu", "softplus")
TANH, ERF, SIGMOID, GELU, SILU, ELU, SELU, SOFTPLUS = range(8)
MODERATE = 30.0  # |ln scale| up to which they are evaluated as they are
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848
ROOT_HALF = math.sqrt(0.5)


@kernel()
def logistic(x):
    """1/(1 + e^−x)."""
    decay = math.exp(-abs(x))
    return 1 / (1 + decay) if x >= 0 else decay / (1 + decay)


@kernel()
def logistic_slope(x):
    """e^−x/(1 + e^−x)²."""
    decay = math.exp(-abs(x))
    return decay / (1 + decay) ** 2


@kernel()
def phi(kind, x):
    """φ(x)."""
    if kind == TANH:
        return math.tanh(x)
    if kind == ERF:
        return math.erf(x)
    if kind == SIGMOID:
        return logistic(x)
    if kind == GELU:
        return 0.5 * x * math.erfc(-x * ROOT_HALF)
    if kind == SILU:
        return x * logistic(x)
    if kind == ELU:
        return x if x > 0 else math.expm1(x)
    if kind == SELU:
        return SELU_SCALE * (x if x > 0 else SELU_ALPHA * math.expm1(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@kernel()
def dphi(kind, x):
    """φ′(x)."""
    if kind == TANH:
        return 4 * logistic_slope(2 * x)
    if kind == ERF:
        return 2 / math.sqrt(math.pi) * math.exp(-x * x)
    if kind == SIGMOID:
        return logistic_slope(x)
    if kind == GELU:
        return 0.5 * math.erfc(-x * ROOT_HALF) + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    if kind == SILU:
        return logistic(x) + x * logistic_slope(x)
    if kind == ELU:
        return math.exp(min(x, 0.0))
    if kind == SELU:
        return SELU_SCALE * (1.0 if x > 0 else SELU_ALPHA * math.exp(x))
    return logistic(x)


@kernel()
def smooth(kind, x, log_scale, y, slopes, keep):
    """y = φ(e^log_scale x), and φ′ into `slopes` if it is kept; both as they are, with scale 0."""
    factor = math.exp(log_scale)
    for i in range(x.size):
        y[i] = phi(kind, x[i] * factor)
        if keep:
            slopes[i] = dphi(kind, x[i] * factor)
