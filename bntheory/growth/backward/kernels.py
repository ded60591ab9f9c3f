"""Gradients behind weights of one unit alone: those of a depthwise kernel go with what its unit does further on.

With g the gradient of the unit, past its activation, L its covariances and s the size that a BatchNorm divides by,

    E g_a g_a' = Σ E[w_β w_β' φ′(u_P) φ′(u_P')/s²] L_PP'

over the outputs P, P' and offsets β, β' that read a and a'. Kernels of one sign at two offsets make neighbours alike,
and so are their slopes: more than E[w_β w_β'/s²] E[φ′ φ′] says, by what sampled units have of one and the other.
"""

from __future__ import annotations

import numpy as np

from bntheory.growth.backward.covariances import convolved
from bntheory.growth.backward.gradient_rows import Gradient
from bntheory.growth.infinite_width import kernels, population, positions
from bntheory.growth.infinite_width.kernels import Convolution, Weighed
from bntheory.layers import Conv, Shape


def read(layer: Conv, shape: Shape, weights: Weighed | None, block: np.ndarray) -> np.ndarray:
    """Through a kernel back to what it has read, by products of weights at two offsets if they are not independent."""
    if weights is None:
        return convolved(layer, shape, block)
    most, maps = kernels.along(layer, shape, weights.products)
    total = convolved(layer, shape, block) * np.float32(most)
    for factor, each in maps:
        total += np.float32(factor) * (each.T @ (each.T @ block).T)[:-1, :-1].astype(np.float32)
    return total


def sampled(gradient: Gradient, source: Convolution, epsilon: float | None = None) -> np.ndarray | None:
    """Gradients of sampled units, (units, points), with their φ′ and, given ε of a BatchNorm, its 1/s; up to scale.

    None if nothing has been sampled.
    """
    above = gradient.above
    if above is None or above.slopes is None or above.given is None:
        return None
    slopes = above.slopes()[0][:, 0]
    root = population.root(above.given.moments()[0], (1e-6, 1e-5, 1e-4))
    white = np.random.default_rng(slopes.shape).standard_normal((len(slopes), root.shape[1]), dtype=np.float32)
    units = slopes * (white @ root.T)
    return units if epsilon is None else units / kernels.drawn_sizes(source, len(units), epsilon)[:, None]


def excess(units: np.ndarray, source: Convolution, weights: Weighed | None) -> np.ndarray:
    """What sampled units have more than the rule for independent weights, over the mean of what that rule has.

    Of covariances within an image: those between images hardly change.
    """
    layer, _, shape, _ = source
    drawn = kernels.drawn_weights(source, len(units))[:, 0]
    windows = layer.windows(shape)
    pads = [window.padding for window in windows]
    sides = layer.output_shape(shape)[1:]
    maps = np.zeros((len(units), *(side + 2 * pad for side, pad in zip(shape[1:], pads, strict=True))), np.float32)
    outputs = units.reshape(-1, *sides)
    for place, weight in zip(positions.offsets(windows, sides), drawn.T, strict=True):
        maps[(slice(None), *place)] += weight[:, None, None] * outputs
    inside = tuple(slice(pad, pad + side) for pad, side in zip(pads, shape[1:], strict=True))
    read_units = maps[(slice(None), *inside)].reshape(len(units), -1)
    plain = read(layer, shape, weights, units.T @ units)
    own = read_units.T @ read_units
    total = float(np.trace(plain))
    return (own - plain) / np.float32(total) if total > 0 else np.zeros_like(plain)
