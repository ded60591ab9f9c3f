"""Layers without weights, there and back: each rule returns a layer's output and its pullback.

A pullback maps the gradient of any loss with respect to the output to that with respect to the input, Jᵀ g. Values have
shape (batch, units) or (batch, channels, height, width). Those of activations, Dropout and normalizations of single
inputs take any number of gradients if the batch is a single input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import Affine, BatchNorm, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, Shape, ZeroPad, both
from bntheory.networks import Join, Normalization, Residual
from bntheory.positional import Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations.convolution import offsets
from simulations.signal import Axes, Signal, activated, added, at_scale, scaled, standardized, weighted

Pullback = Callable[[Signal], Signal]


def activation(phi: Activation, h: Signal) -> tuple[Signal, Pullback]:
    """φ(h); back: φ′(h) g, at a kink with the slope on the left."""

    def pullback(gradient: Signal) -> Signal:
        homogeneous = phi.homogeneous_slopes is not None
        slopes = Signal(phi.dphi(h.values), 0.0) if homogeneous else at_scale(phi.dphi, h)
        return scaled(gradient.values * slopes.values, gradient.log_scale + slopes.log_scale)

    return activated(phi, h), pullback


def normalization(layer: Normalization, h: Signal) -> tuple[Signal, Pullback]:
    """γ √τ u, u = (h − mean)/s, τ = s²/(s² + ε); back: γ (g − mean(g) − τ u mean(u g)) / √(s² + ε).

    Means and the population variance s² are those of a channel over batch and positions (BatchNorm), of all entries of
    one input or the channels of a position (LayerNorm), or of a group of its channels (GroupNorm), and are
    differentiated too. In evaluation mode BatchNorm has mean 0 and s² = 1, whatever h is: γ h/√(1 + ε).
    """
    log_gamma = _log_gamma(layer)
    if isinstance(layer, BatchNorm) and not layer.training:
        multiplied = _multiplied(log_gamma - 0.5 * math.log1p(layer.epsilon))
        return multiplied(h), multiplied
    shape, axes = _groups(layer, h.values.shape)
    unit, log_share, log_total = standardized(_reshaped(h, shape), layer.epsilon, axes)
    output = weighted(Signal(unit, 0.0), log_gamma + log_share / 2, axes)
    share = np.exp(log_share).astype(unit.dtype)

    def pullback(gradient: Signal) -> Signal:
        values = gradient.values.reshape(-1, *shape[1:])
        values = values - values.mean(axis=axes, keepdims=True)
        values -= share * unit * np.mean(values * unit, axis=axes, keepdims=True)
        back = weighted(Signal(values, gradient.log_scale), log_gamma - log_total / 2, axes)
        return _reshaped(back, gradient.values.shape)

    return _reshaped(output, h.values.shape), pullback


def affine(layer: Affine, h: Signal) -> tuple[Signal, Pullback]:
    """γ h + β; back: γ g."""
    gamma, beta = (np.array(part).reshape(-1, *(1,) * (h.values.ndim - 2)) for part in layer.pairs)

    def weighed(signal: Signal) -> Signal:
        return scaled(signal.values * gamma.astype(signal.values.dtype), signal.log_scale)

    output = weighed(h)
    if beta.any():
        shift = scaled(beta)
        output = added(
            output, Signal(np.broadcast_to(shift.values, h.values.shape).astype(h.values.dtype), shift.log_scale)
        )
    return output, weighed


def _groups(layer: Normalization, shape: Shape) -> tuple[Shape, Axes]:
    """How to shape a batch, and along which axes lie the entries that are normalized together."""
    if isinstance(layer, BatchNorm):
        return shape, (0, *range(2, len(shape)))
    if isinstance(layer, LayerNorm) and layer.by_position(shape[1:]):
        return shape, (1,)
    groups = layer.groups if isinstance(layer, GroupNorm) else 1
    return (shape[0], groups, math.prod(shape[1:]) // groups), (2,)


def _log_gamma(layer: Normalization) -> float:
    gamma = layer.gamma if isinstance(layer, BatchNorm) else 1.0
    return math.log(gamma) if gamma else -math.inf


def _multiplied(log_factor: float) -> Pullback:
    """h ↦ exp(log_factor) h, which is its own pullback."""

    def multiplied(signal: Signal) -> Signal:
        if log_factor == -math.inf:
            return Signal(np.zeros_like(signal.values), 0.0)
        return signal._replace(log_scale=signal.log_scale + log_factor)

    return multiplied


def _reshaped(h: Signal, shape: Shape) -> Signal:
    return h._replace(values=h.values.reshape(shape))


def dropout(layer: Dropout, h: Signal, rng: np.random.Generator) -> tuple[Signal, Pullback]:
    """Mask m h, an entry of m being 1/(1 − rate) with probability 1 − rate, else 0; back: m g."""
    kept = rng.random(h.values.shape) >= layer.rate
    log_factor = -math.log1p(-layer.rate)

    def masked(signal: Signal) -> Signal:
        return scaled(np.where(kept, signal.values, 0), signal.log_scale + log_factor)

    return masked(h), masked


def offset(layer: Offset, h: Signal, rng: np.random.Generator) -> tuple[Signal, Pullback]:
    """h + c, entries of c being independent N(0, variance), the same for all inputs; back: g."""
    constants = rng.standard_normal(h.values.shape[1:]) * math.sqrt(layer.variance)
    shift = scaled(np.broadcast_to(constants, h.values.shape).astype(h.values.dtype))
    return added(h, shift), lambda gradient: gradient


def reshaped(layer: Flatten | Unflatten | Unroll, h: Signal) -> tuple[Signal, Pullback]:
    """The entries in another shape; back: in their places."""
    shape = h.values.shape[1:]

    def pullback(gradient: Signal) -> Signal:
        return _reshaped(gradient, (len(gradient.values), *shape))

    return _reshaped(h, (len(h.values), *layer.output_shape(shape))), pullback


def channels(layer: Channels, h: Signal) -> tuple[Signal, Pullback]:
    """Some of the channels; back: the gradient in their places, zeros elsewhere."""

    def pullback(gradient: Signal) -> Signal:
        values = np.zeros_like(h.values)
        values[:, layer.start : layer.stop] = gradient.values
        return scaled(values, gradient.log_scale)

    return scaled(h.values[:, layer.start : layer.stop], h.log_scale), pullback


def upsample(layer: Upsample, h: Signal) -> tuple[Signal, Pullback]:
    """Every position repeated; back: the sum over its repetitions."""
    down, across = both(layer.factor)
    shape = h.values.shape[1:]

    def pullback(gradient: Signal) -> Signal:
        split = gradient.values.reshape(-1, shape[0], shape[1], down, shape[2], across)
        return scaled(split.sum(axis=(3, 5)), gradient.log_scale)

    return h._replace(values=h.values.repeat(down, axis=2).repeat(across, axis=3)), pullback


def zero_pad(layer: ZeroPad, h: Signal) -> tuple[Signal, Pullback]:
    """Every stride-th position, between channels of zeros; back: the gradient at those positions, zeros elsewhere."""
    channels = h.values.shape[1]
    before = (layer.channels - channels) // 2
    old, sampled = slice(before, before + channels), slice(None, None, layer.stride)
    output = np.zeros((len(h.values), *layer.output_shape(h.values.shape[1:])), h.values.dtype)
    output[:, old] = h.values[:, :, sampled, sampled]

    def pullback(gradient: Signal) -> Signal:
        values = np.zeros_like(h.values)
        values[:, :, sampled, sampled] = gradient.values[:, old]
        return scaled(values, gradient.log_scale)

    return scaled(output, h.log_scale), pullback


def pool(layer: Pool, h: Signal) -> tuple[Signal, Pullback]:
    """Mean or maximum over each window; back: a share of g to every entry, or g to the first largest of the window."""
    return (_average if layer.kind == "average" else _maximum)(layer, h)


def pad(layer: Pad, h: Signal) -> tuple[Signal, Pullback]:
    """Zeros around the map; back: the gradient inside."""
    sides = h.values.shape[2:]
    inside = tuple(slice(before, before + side) for (before, _), side in zip(layer.sides, sides, strict=True))

    def pullback(gradient: Signal) -> Signal:
        return scaled(gradient.values[..., *inside], gradient.log_scale)

    return h._replace(values=np.pad(h.values, ((0, 0), (0, 0), *layer.sides))), pullback


def windows(layer: Pool, values: np.ndarray) -> np.ndarray:
    """The windows: (batch, channels, windows down, windows across, height, width)."""
    down, across = layer.windows(values.shape[1:])
    if down.padding or across.padding:
        outside = 0.0 if layer.kind == "average" else -np.inf
        values = np.pad(
            values, ((0, 0), (0, 0), *((side.padding,) * 2 for side in (down, across))), constant_values=outside
        )
    every = np.lib.stride_tricks.sliding_window_view(values, (down.kernel, across.kernel), axis=(2, 3))
    return every[:, :, :: down.stride, :: across.stride]


def _average(layer: Pool, h: Signal) -> tuple[Signal, Pullback]:
    sides = layer.windows(h.values.shape[1:])
    spans = [(side.padding, length) for side, length in zip(sides, h.values.shape[2:], strict=True)]
    inside = tuple(slice(padding, padding + length) for padding, length in spans)

    def pullback(gradient: Signal) -> Signal:
        values = np.zeros((*h.values.shape[:2], *(length + 2 * padding for padding, length in spans)), h.values.dtype)
        share = gradient.values / math.prod(side.kernel for side in sides)
        for _, _, place in offsets(sides, share.shape[2:]):
            values[place] += share
        return scaled(values[..., *inside], gradient.log_scale)

    return scaled(windows(layer, h.values).mean(axis=(-2, -1)), h.log_scale), pullback


def _maximum(layer: Pool, h: Signal) -> tuple[Signal, Pullback]:
    entries = windows(layer, h.values)
    *outer, height, width = entries.shape
    entries = entries.reshape(*outer, height * width)
    first = entries.argmax(axis=-1)
    largest = np.take_along_axis(entries, first[..., None], axis=-1)[..., 0]
    sides = layer.windows(h.values.shape[1:])
    starts = [side.stride * np.arange(count) - side.padding for side, count in zip(sides, outer[2:], strict=True)]
    rows, columns = np.ix_(*starts)
    map_width = h.values.shape[3]
    chosen = (rows + first // width) * map_width + columns + first % width  # places in the flattened map

    def pullback(gradient: Signal) -> Signal:
        values = np.zeros((outer[0] * outer[1], h.values.shape[2] * map_width), h.values.dtype)
        flat = (len(values), -1)
        np.add.at(values, (np.arange(len(values))[:, None], chosen.reshape(flat)), gradient.values.reshape(flat))
        return scaled(values.reshape(h.values.shape), gradient.log_scale)

    return scaled(largest, h.log_scale), pullback


def residual(layer: Residual, branch: Signal, shortcut: Signal) -> tuple[Signal, Callable[[Signal], Any]]:
    """shortcut + scale · branch; back: the gradients (scale · g, g) with respect to branch and shortcut."""
    weighed = _multiplied(math.log(layer.scale))

    def pullback(gradient: Signal) -> tuple[Signal, Signal]:
        return weighed(gradient), gradient

    return added(weighed(branch), shortcut), pullback


def join(layer: Join, *branches: Signal) -> tuple[Signal, Callable[[Signal], Any]]:
    """Channels one after another, or the product of two; back: their own channels, or g times the other factor."""
    return _product(*branches) if layer.operation == "product" else _concatenated(*branches)


def _concatenated(*branches: Signal) -> tuple[Signal, Callable[[Signal], Any]]:
    ends = np.cumsum([branch.values.shape[1] for branch in branches])
    alive = [branch.log_scale for branch in branches if branch.values.any()]  # the scale of zeros says nothing
    top = max(alive, default=0.0)
    values = [branch.values * math.exp(min(branch.log_scale - top, 0.0)) for branch in branches]

    def pullback(gradient: Signal) -> tuple[Signal, ...]:
        return tuple(scaled(part, gradient.log_scale) for part in np.split(gradient.values, ends[:-1], axis=1))

    return scaled(np.concatenate(values, axis=1), top), pullback


def _product(first: Signal, second: Signal) -> tuple[Signal, Callable[[Signal], Any]]:
    def pullback(gradient: Signal) -> tuple[Signal, ...]:
        return tuple(
            scaled(_summed(gradient.values * other.values, own.values.shape), gradient.log_scale + other.log_scale)
            for own, other in ((first, second), (second, first))
        )

    return scaled(first.values * second.values, first.log_scale + second.log_scale), pullback


def _summed(values: np.ndarray, shape: Shape) -> np.ndarray:
    """Over the positions, if there is only one in that shape."""
    return values if values.shape == shape else values.sum(axis=(2, 3), keepdims=True)


#: Rules by type of layer, called as rule(layer, *what the layer reads); `dropout` and `offset` need a generator too.
RULES: dict[type, Callable[..., tuple[Signal, Callable[[Signal], Any]]]] = {
    Activation: activation,
    BatchNorm: normalization,
    LayerNorm: normalization,
    GroupNorm: normalization,
    Affine: affine,
    Flatten: reshaped,
    Unflatten: reshaped,
    Unroll: reshaped,
    Channels: channels,
    Upsample: upsample,
    ZeroPad: zero_pad,
    Pool: pool,
    Pad: pad,
    Residual: residual,
    Join: join,
}
