"""One input through Gaussian Dense layers and positively homogeneous activations: a few numbers a layer, at any width.

Symbols: h enters a Dense layer of weight variance s² and bias variance s_b², z = W h + b leaves it, h′ = φ(z) with
slopes α for z > 0 and β for z < 0, g the gradient by the row in its index. The n units of z are independent N(0, v),
v = s² |h|² + s_b², so that with K ~ Binomial(n, ½) positive ones

    |z|² = v (P + N),   |h′|² = v (p + m),   p = α² P, m = β² N,   P ~ χ²_K and N ~ χ²_{n−K} independent given K.

Backward, Wᵀ g_z = s |g_z| (c ĥ + ξ), ĥ = h/|h|, ξ standard Gaussian orthogonal to ĥ. Along h the weights are known
from z up to the biases' share of v: with w = s² |h|²/v and t = (z/√v) · g_z/|g_z|,

    c ~ N(√w t, 1 − w).

The same c and ξ, for the h′ that enters the layer above, give t below. Along its positive and its other units, in units
of s |g_z| of the layer above and up to signs that change no law, h′ ∝ √p e₊ + √m e₋ and with y ~ N(0, 1)

    |g₊|² = (c √p + y √m)²/(p + m) + χ²_{K−1},   |g₋|² = (c √m − y √p)²/(p + m) + χ²_{n−K−1},
    |g_h′|² = |g₊|² + |g₋|²,   |g_z|² = α² |g₊|² + β² |g₋|²,   t = c √(p + m)/|g_z|  as  z · g_z = h′ · g_h′.

At the output c ~ N(0, 1): a white gradient. If h = 0, w = 0 and no direction is special; z = 0 takes the slope β.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import Dense, Flatten
from simulations.kernels.blocks import log
from simulations.kernels.compilation import kernel
from simulations.signal import Signal
from simulations.steps import Step

MEAN_SQUARES, GRADIENT, WEIGHT_GRADIENT = (0, 1), 4, 5  # columns of a trial; the two mean squares agree at batch 1


class Chain(NamedTuple):
    """What a trial needs; of arrays one entry a Dense layer, but for two."""

    log_input: float  # ln |h|² of the input
    width: np.ndarray  # the input's first
    log_weight_variance: np.ndarray
    log_bias_variance: np.ndarray
    squared_slopes: np.ndarray  # (layers, 2), of z > 0 and of z < 0; ones where no activation follows
    dense: np.ndarray  # the row of z; at last the number of rows
    activated: np.ndarray  # the first row of φ(z), or of what follows if there is none


def applies(steps: Sequence[Step], batch: int) -> bool:
    """Say whether this law is a network's: one input, a chain of Gaussian Dense layers, homogeneous φ between them.

    One relu or leaky_relu may follow a Dense layer; linear and Flatten change nothing and may stand anywhere.

    Examples
    --------
    >>> from bntheory import mlp
    >>> from simulations.steps import steps
    >>> applies(steps(mlp(3, 8)), batch=1), applies(steps(mlp(3, 8, "tanh")), batch=1)
    (True, False)
    """
    dense, split = False, True  # φ of the input itself, or φ of φ, is not in this law
    for step in steps:
        if isinstance(step.layer, Dense):
            own_bias = step.layer.bias is None and step.layer.bias_variance(step.input_shape) > 0
            if step.layer.init.distribution != "normal" or own_bias:
                return False
            dense, split = True, False
        elif isinstance(step.layer, Activation):
            if _changes(step) and (split or not _squarable(step.layer.homogeneous_slopes)):
                return False
            split |= _changes(step)
        elif not isinstance(step.layer, Flatten):
            return False
    return dense and batch == 1


def prepare(steps: Sequence[Step], inputs: Signal, gradients: bool) -> Callable[[np.random.Generator], np.ndarray]:
    """Return the function that draws one network.

    Parameters
    ----------
    steps : sequence of Step
    inputs : Signal
        One input, values of shape (1, units).
    gradients : bool
        Whether to go back too; the forward numbers are the same.

    Returns
    -------
    callable
        Takes a Generator; returns (rows, 6): the natural logarithms of the second moment, the channel mean square and
        the channel variance; NaN for the cosine distance of one input; ln |g_row|² and, at Dense rows, ln |g_W|² (NaN
        at others, and everywhere without gradients), both less ln |g|² of the last row.

    Raises
    ------
    ValueError
        If the law is not this network's.

    Examples
    --------
    >>> from bntheory import mlp
    >>> from simulations.steps import steps
    >>> draw = prepare(steps(mlp(100, 1000)), Signal(np.ones((1, 1000)), 0.0), gradients=True)
    >>> draw(np.random.default_rng(0)).shape
    (201, 6)
    """
    if not applies(steps, len(inputs.values)):
        raise ValueError(
            f"this law is that of one input and a chain of Gaussian Dense layers with relu or leaky_relu, got a batch "
            f"of {len(inputs.values)} and {', '.join(str(step.layer) for step in steps)!s:.60}: take another engine"
        )
    chain, template = _chain(steps, inputs), _template(steps, inputs)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return _draw(rng, chain, template, gradients)

    return draw


def _changes(step: Step) -> bool:
    return isinstance(step.layer, Activation) and step.layer.homogeneous_slopes != (1.0, 1.0)


def _squarable(slopes: tuple[float, float] | None) -> bool:
    return slopes is not None and (slopes[1] == 0 or 1e-100 <= abs(slopes[1]) <= 1e100)


def _chain(steps: Sequence[Step], inputs: Signal) -> Chain:
    layers = [step for step in steps if isinstance(step.layer, Dense)]
    dense = np.array([*(step.row for step in layers), len(steps) + 1])
    activated, slopes = dense[1:].copy(), np.ones((len(layers), 2))
    for step in filter(_changes, steps):
        k = np.searchsorted(dense, step.row) - 1
        activated[k], slopes[k] = step.row, np.square(step.layer.homogeneous_slopes)
    size = inputs.values.size
    bias = [step.layer.bias_variance(step.input_shape) for step in layers]
    return Chain(
        inputs.log_moments()[0] + math.log(size),
        np.array([size, *(step.layer.features for step in layers)]),
        np.log([step.layer.weight_variance(step.input_shape) for step in layers]),
        np.array([math.log(variance) if variance else -math.inf for variance in bias]),
        slopes,
        dense,
        activated,
    )


def _template(steps: Sequence[Step], inputs: Signal) -> np.ndarray:
    """The rows before the first Dense layer, the columns that are constant at batch 1, and NaN elsewhere."""
    rows = np.full((len(steps) + 1, 6), np.nan)
    rows[:, 2] = -np.inf
    for row, shape in enumerate([steps[0].input_shape, *(step.shape for step in steps)]):
        if row and isinstance(steps[row - 1].layer, Dense):
            break
        rows[row, :3] = Signal(inputs.values.reshape(1, *shape), inputs.log_scale).log_moments()
    return rows


@kernel()
def _draw(rng, chain, template, gradients):
    rows = template.copy()
    drawn = np.empty((len(chain.activated), 4))
    _forward(rng, chain, rows, drawn)
    if gradients:
        _backward(rng, chain, rows, drawn)
    return rows


@kernel()
def _forward(rng, chain, rows, drawn):
    """Fill the sizes; keep K, p, m and w of every layer."""
    log_h = chain.log_input
    for k in range(len(chain.activated)):
        n, log_n = chain.width[k + 1], math.log(chain.width[k + 1])
        alpha2, beta2 = chain.squared_slopes[k, 0], chain.squared_slopes[k, 1]
        log_v, w = _variance(log_h + chain.log_weight_variance[k], chain.log_bias_variance[k])
        positive = n if alpha2 == beta2 else rng.binomial(n, 0.5)
        if log_v == -math.inf:
            positive = 0  # what is drawn below is multiplied by v = 0, and by w = 0 on the way back
        plus, minus = _chi_square(rng, positive), _chi_square(rng, n - positive)
        p, m = alpha2 * plus, beta2 * minus
        log_h = log_v + log(p + m)
        for column in MEAN_SQUARES:
            _fill(rows, chain.dense[k], chain.activated[k], column, log_v + log(plus + minus) - log_n)
            _fill(rows, chain.activated[k], chain.dense[k + 1], column, log_h - log_n)
        drawn[k, 0], drawn[k, 1], drawn[k, 2], drawn[k, 3] = positive, p, m, w


@kernel()
def _backward(rng, chain, rows, drawn):
    """Fill the gradients; log_g is ln of the squared factor that c and ξ carry."""
    log_g, c, last = 0.0, rng.standard_normal(), len(chain.activated) - 1
    for k in range(last, -1, -1):
        positive, p, m, w = drawn[k]
        plus, minus = _split(rng, c, int(positive), chain.width[k + 1] - int(positive), p, m)
        if k == last:
            log_g = -log(plus + minus)
        _fill(rows, chain.activated[k], chain.dense[k + 1], GRADIENT, log_g + log(plus + minus))
        squared = chain.squared_slopes[k, 0] * plus + chain.squared_slopes[k, 1] * minus
        t = c * math.sqrt((p + m) / squared) if squared > 0 else 0.0
        log_g += log(squared)
        log_h = rows[chain.dense[k] - 1, 0] + math.log(chain.width[k])
        _fill(rows, chain.dense[k], chain.activated[k], GRADIENT, log_g)
        rows[chain.dense[k], WEIGHT_GRADIENT] = log_g + log_h
        log_g += chain.log_weight_variance[k]
        c = math.sqrt(w) * t + math.sqrt(1 - w) * rng.standard_normal()
    _fill(rows, 0, chain.dense[0], GRADIENT, log_g + log(c * c + _chi_square(rng, chain.width[0] - 1)))


@kernel()
def _variance(log_weights, log_bias):
    """ln v and the share w of the weights in v; 0 if v = 0."""
    if log_bias == -math.inf:
        return log_weights, 1.0 if log_weights > -math.inf else 0.0
    top = max(log_weights, log_bias)
    weights, bias = math.exp(log_weights - top), math.exp(log_bias - top)
    return top + math.log(weights + bias), weights / (weights + bias)


@kernel()
def _split(rng, c, positive, others, p, m):
    """|g₊|² and |g₋|² of the gradient whose component along h′ is c."""
    if positive == 0 or others == 0:
        squared = c * c + _chi_square(rng, positive + others - 1)
        return (squared, 0.0) if others == 0 else (0.0, squared)
    y, cosine, sine = rng.standard_normal(), math.sqrt(p / (p + m)), math.sqrt(m / (p + m))
    along_plus, along_minus = c * cosine + y * sine, c * sine - y * cosine
    return along_plus**2 + _chi_square(rng, positive - 1), along_minus**2 + _chi_square(rng, others - 1)


@kernel()
def _fill(rows, first, end, column, value):
    for row in range(first, end):
        rows[row, column] = value


@kernel()
def _chi_square(rng, k):
    return 2 * rng.standard_gamma(k / 2) if k > 0 else 0.0
