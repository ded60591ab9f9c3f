"""Brute force: explicit weights, drawn anew for every layer of every trial, there and back. The reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bntheory.initializations import Initialization
from bntheory.layers import Conv, Dense, Dropout, Shape, both
from bntheory.networks import parts
from bntheory.positional import ConvTranspose, Mix, Offset
from simulations import pullbacks
from simulations.convolution import convolved
from simulations.samples import log_cosine_distance
from simulations.signal import Signal, added, log_square_norm, scaled
from simulations.steps import Step

Pullback = Callable[[Signal], Any]
WEIGHTED = Dense, Conv, Mix, ConvTranspose


def prepare(
    steps: list[Step], inputs: Signal, gradients: bool, dtype: DTypeLike = np.float64
) -> Callable[[np.random.Generator], np.ndarray]:
    """Return the function that draws one network and measures every row of it.

    Draws, in this order: weights and biases (and the masks of Dropout) in the order of the rows, as
    `simulations.training.modules.build` draws them; then the gradient with respect to the output, independent N(0, 1).

    Parameters
    ----------
    steps : list of Step
    inputs : Signal
        (batch, *input shape).
    gradients : bool
        Also go back; this keeps all weights of one network in memory at a time, going forth one layer's.
    dtype : float64 or float32
        Of the arithmetic. Numbers are drawn in float64 and rounded, and sums of squares taken in float64.

    Returns
    -------
    callable
        Generator ↦ array (rows, 6): log_second_moment, log_channel_mean_square, log_channel_variance,
        log_cosine_distance, log_gradient, log_weight_gradient, see `forward` and `backward`; the last two are NaN
        without gradients. Safe to call from several threads, each with its own generator.

    Examples
    --------
    >>> from bntheory import mlp
    >>> from simulations.steps import steps
    >>> trial = prepare(steps(mlp(2, 4)), scaled(np.ones((1, 4))), gradients=True)
    >>> trial(np.random.default_rng(0)).shape
    (5, 6)
    """
    start = scaled(inputs.values, inputs.log_scale)
    start = start._replace(values=start.values.astype(dtype))

    def trial(rng: np.random.Generator) -> np.ndarray:
        with np.errstate(all="ignore"):  # 0/0 of a normalization with ε = 0 is reported as +inf
            sizes, ways_back = forward(steps, start, rng, keep=gradients)
            norms = np.full((len(sizes), 2), np.nan)
            if gradients:
                shape = steps[-1].shape if steps else start.values.shape[1:]
                white = rng.standard_normal((len(start.values), *shape))
                norms = backward(steps, ways_back, Signal(white.astype(dtype), 0.0))
        return np.concatenate([sizes, norms], axis=1)

    return trial


def forward(
    steps: list[Step], inputs: Signal, rng: np.random.Generator, keep: bool
) -> tuple[np.ndarray, list[Pullback]]:
    """Draw a network and go through it.

    Parameters
    ----------
    steps : list of Step
    inputs : Signal
        (batch, *input shape).
    rng : numpy.random.Generator
    keep : bool
        Whether to return the way back; otherwise a row is forgotten once it has been read.

    Returns
    -------
    array (rows, 4)
        `samples.moments` and `samples.log_cosine_distance` of every row, the input first.
    list of callables
        The pullback of every step, or nothing.
    """
    readers = Counter(source for step in steps for source in step.sources)
    rows, ways_back, sizes = {0: inputs}, [], [_sizes(inputs)]
    for step in steps:
        output, pullback = _through(step, [rows[source] for source in step.sources], rng)
        sizes.append(_sizes(output))
        rows[step.row] = output
        if keep:
            ways_back.append(pullback)
        del output, pullback
        readers.subtract(step.sources)
        for source in set(step.sources):
            if not readers[source]:
                del rows[source]
    return np.array(sizes), ways_back


def backward(steps: list[Step], ways_back: list[Pullback], gradient: Signal) -> np.ndarray:
    """Take a gradient with respect to the last row, given as (batch, *shape), back to the input.

    Parameters
    ----------
    steps : list of Step
    ways_back : list of callables
        From `forward`; emptied on the way, so that memory is free as early as possible.
    gradient : Signal
        ∂ℓ/∂h_L of the last row L.

    Returns
    -------
    array (rows, 2)
        ln ‖∂ℓ/∂h_l‖² − ln ‖∂ℓ/∂h_L‖² of every row, and ln ‖∂ℓ/∂W‖² − ln ‖∂ℓ/∂h_L‖² of rows with weights, NaN of the
        others. Sums over the batch and all entries; −inf for zeros, +inf if an entry is infinite or NaN.
    """
    norms = np.full((len(steps) + 1, 2), np.nan)
    gradients = {len(steps): gradient}
    for step in reversed(steps):
        given = gradients.pop(step.row)
        norms[step.row, 0] = given.log_square_norm()
        back = ways_back.pop()(given)
        if isinstance(step.layer, WEIGHTED):
            back, norms[step.row, 1] = back
        shares = back if parts(step.layer) else (back,)
        for source, part in zip(step.sources, shares, strict=True):
            gradients[source] = added(gradients[source], part) if source in gradients else part
    norms[0, 0] = gradients[0].log_square_norm()
    return norms - gradient.log_square_norm()


def memory(steps: list[Step], batch: int, gradients: bool) -> int:
    """How many numbers one thread keeps, about: one layer's weights and two rows, or all of them to go back."""
    weights = [_weight_count(step) for step in steps]
    orthogonal = any(
        getattr(step.layer, "init", None) and step.layer.init.distribution == "orthogonal" for step in steps
    )
    drawing = (5 if orthogonal else 2) * max(weights, default=0)
    rows = [batch * math.prod(step.shape) for step in steps]
    if gradients:
        return sum(weights) + drawing + 3 * sum(rows)
    return drawing + 3 * max(rows, default=0)


def _weight_count(step: Step) -> int:
    layer, inputs = step.layer, step.input_shape[0]
    if isinstance(layer, Dense):
        return inputs * layer.features
    if isinstance(layer, ConvTranspose):
        return inputs * layer.area * layer.channels
    if isinstance(layer, Mix):
        return step.input_shape[1] * layer.features
    return inputs // layer.groups * layer.area * layer.channels if isinstance(layer, Conv) else 0


def linear(layer: Dense | Conv, h: Signal, rng: np.random.Generator) -> tuple[Signal, Pullback]:
    """W h + b with W and b drawn from the layer's law; back: Wᵀ g, and ln ‖∂ℓ/∂W‖²."""
    shape = h.values.shape[1:]
    z, pullback = _multiplied(layer, h, drawn(layer, shape, rng))
    return biased(layer, z, shape, rng), pullback


def _multiplied(layer: Dense | Conv, h: Signal, given: np.ndarray) -> tuple[Signal, Pullback]:
    """The same with these weights, and no bias."""
    weights, log_size = _rounded(given, h.values.dtype)
    z, pullback = (_product if isinstance(layer, Dense) else convolved)(layer, h, weights)

    def sized(gradient: Signal) -> tuple[Signal, float]:
        back, log_weight_gradient = pullback(gradient)
        return back._replace(log_scale=back.log_scale + log_size), log_weight_gradient

    return z._replace(log_scale=z.log_scale + log_size), sized


def transposed(layer: ConvTranspose, h: Signal, rng: np.random.Generator) -> tuple[Signal, Pullback]:
    """The same of a transposed convolution: a convolution of the map with zeros between its positions."""
    shape, place = h.values.shape[1:], (..., *layer.places(h.values.shape[1:]))
    z, pullback = _multiplied(layer.convolution(shape), spread(layer, h), flipped(layer, shape, rng))

    def back(gradient: Signal) -> tuple[Signal, float]:
        read, log_weight_gradient = pullback(gradient)
        return scaled(read.values[place], read.log_scale), log_weight_gradient

    return biased(layer, z, shape, rng), back


def spread(layer: ConvTranspose, h: Signal) -> Signal:
    """A map with zeros between its positions."""
    shape = h.values.shape[1:]
    values = np.zeros((len(h.values), *layer.spread_shape(shape)), h.values.dtype)
    values[(..., *layer.places(shape))] = h.values
    return h._replace(values=values)


def flipped(layer: ConvTranspose, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Draw the weights of a transposed convolution as those of the convolution: (fan_in, outputs)."""
    drawn = draw_weights(layer.init, layer.weight_variance(shape), (layer.channels * layer.area, shape[0]), rng)
    kernel = drawn.reshape(layer.channels, *both(layer.kernel), shape[0])[:, ::-1, ::-1]
    return np.ascontiguousarray(kernel.transpose(3, 1, 2, 0).reshape(-1, layer.channels))


def mixed(layer: Mix, h: Signal, rng: np.random.Generator) -> tuple[Signal, Pullback]:
    """The same of weights over positions: every channel of every input is a vector of its positions."""
    inputs, channels, count, _ = h.values.shape
    z, pullback = linear(layer.dense, h._replace(values=h.values.reshape(-1, count)), rng)

    def back(gradient: Signal) -> tuple[Signal, float]:
        vectors = gradient._replace(values=gradient.values.reshape(-1, layer.features))
        read, log_weight_gradient = pullback(vectors)
        return read._replace(values=read.values.reshape(h.values.shape)), log_weight_gradient

    return z._replace(values=z.values.reshape(inputs, channels, layer.features, 1)), back


def drawn(layer: Dense | Conv, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return the weights of a layer that reads that shape: (fan_in, outputs)."""
    if isinstance(layer, Dense):
        fans = shape[0], layer.features
    else:
        fans = shape[0] // layer.groups * layer.area, layer.channels
    return draw_weights(layer.init, layer.weight_variance(shape), fans, rng)


def biased(layer: Dense | Conv | ConvTranspose, z: Signal, shape: Shape, rng: np.random.Generator) -> Signal:
    """Return z + b, b drawn from the law of a layer that reads that shape."""
    if layer.bias_variance(shape) == 0:
        return z
    bias = scaled(draw_bias(layer, shape, rng))
    values = bias.values.astype(z.values.dtype).reshape(-1, *(1,) * (len(shape) - 1))
    return added(z, Signal(np.broadcast_to(values, z.values.shape), bias.log_scale))


def draw_weights(law: Initialization, variance: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a matrix (inputs, outputs) of independent entries, or with orthonormal rows or columns up to a factor."""
    if law.distribution == "orthogonal":
        tall = rng.standard_normal((max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        q *= law.gain * np.sign(np.diag(r))  # makes Q Haar distributed (Mezzadri 2007)
        return q if shape[0] >= shape[1] else q.T
    if law.distribution == "uniform":
        return _unit_uniform(shape, rng) * math.sqrt(variance)
    weights = rng.standard_normal(shape)
    weights *= math.sqrt(variance)
    return weights


def draw_bias(layer: Dense | Conv | ConvTranspose, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return the biases of a layer: Gaussian if the layer states their variance, uniform if the initialization does."""
    outputs = layer.features if isinstance(layer, Dense) else layer.channels
    draws = _unit_uniform(outputs, rng) if layer.bias is None else rng.standard_normal(outputs)
    return draws * math.sqrt(layer.bias_variance(shape))


def _unit_uniform(shape: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


def _rounded(weights: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float]:
    """Weights in that type, divided by a power of two so that any gain fits, and its logarithm; changes them."""
    if weights.dtype == dtype:
        return weights, 0.0
    exponent = math.frexp(max(weights.max(), -weights.min()))[1]
    weights *= 2.0**-exponent
    return weights.astype(dtype), exponent * math.log(2)


def _product(layer: Dense, h: Signal, weights: np.ndarray) -> tuple[Signal, Pullback]:
    def pullback(gradient: Signal) -> tuple[Signal, float]:
        # ‖hᵀg‖ = ‖R g‖ with hᵀ = QR: batch instead of fan_in rows, and unlike tr(ggᵀhhᵀ) without cancellation
        r = np.linalg.qr(h.values.T.astype(np.float64), mode="r")
        log_weight_gradient = log_square_norm(r @ gradient.values) + 2 * (h.log_scale + gradient.log_scale)
        return scaled(gradient.values @ weights.T, gradient.log_scale), log_weight_gradient

    return scaled(h.values @ weights, h.log_scale), pullback


def _through(step: Step, sources: list[Signal], rng: np.random.Generator) -> tuple[Signal, Pullback]:
    if isinstance(step.layer, (Dense, Conv)):
        return linear(step.layer, *sources, rng)
    if isinstance(step.layer, ConvTranspose):
        return transposed(step.layer, *sources, rng)
    if isinstance(step.layer, Mix):
        return mixed(step.layer, *sources, rng)
    if isinstance(step.layer, Dropout):
        return pullbacks.dropout(step.layer, *sources, rng)
    if isinstance(step.layer, Offset):
        return pullbacks.offset(step.layer, *sources, rng)
    return pullbacks.RULES[type(step.layer)](step.layer, *sources)


def _sizes(h: Signal) -> tuple[float, ...]:
    return *h.log_moments(), log_cosine_distance(h.values)
