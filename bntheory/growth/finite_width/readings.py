"""What weights see of few channels: the products of these vary from the covariances that theory knows.

Given what it reads, a unit is Gaussian with the covariance K̂_PP' = mean over the n channels that it reads, and over
the kernel, of products h_a h_a'. Squares of such units covary as 2 K̂², and with K = E K̂

    E K̂²/(K_PP K_P'P') = ρ² + V/n,   V = Var(Σ_a h_a h_a')/(K_PP K_P'P') of one channel

ρ² alone is the order that counts, unless n is 1 or little more, as in depthwise convolutions, or ρ small and the row's
mean square fixed by a normalization, so that little else varies. Under a kernel of one position V is

    1 + ρ²                 of Gaussian units
    (1 − ρ²)(1 − 2ρ²)      where the mean square of every point has been fixed
    1 − ρ² + n Cov(e, e')  of others, e what sampling them adds to relative deviations

and under others it comes from sampled units. Channels count as independent: what reads an expansion of fewer channels
with no activation in between sees products of these few, and varies by up to a third more.
"""

from __future__ import annotations

import numpy as np

from bntheory.growth.finite_width import innovations
from bntheory.growth.finite_width.innovations import Blocks, each
from bntheory.growth.finite_width.noise import Noise
from bntheory.growth.infinite_width import population, positions
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Conv, Shape

NUMBERS = 2**28  # products of points of all sampled units together, over the kernel
FEWEST, MOST = 16, 2048  # sampled units, which are as many samples as there are places far apart
TOGETHER = 2**22  # products at a time


def matter(layer: Conv, noise: Noise) -> bool:
    """Whether V/n is more than the next order of a larger term."""
    return layer.groups > 1 or noise.norm != "" or (noise.batch_norm and layer.area == 1)


def spread(layer: Conv, before: State, share: np.ndarray, shape: Shape, noise: Noise) -> Blocks:
    """V/n of all pairs of points of the output, within a copy and between two.

    Parameters
    ----------
    layer : Conv
    before : State
        Of what it reads, with distances.
    share : array (points of the output,)
        Of the weights in a unit's second moment, the rest being the bias.
    shape : tuple
        Of what it reads.
    noise : Noise
        Of what it reads.
    """
    n, kept = np.float32(shape[0] // layer.groups), share.astype(np.float32)
    products = _by_themselves(layer, before, shape, noise, n) or each(lambda v: v / n, _sampled(layer, before, shape))
    return each(lambda block: block * kept[:, None] * kept, products)


def _by_themselves(layer: Conv, before: State, shape: Shape, noise: Noise, n: np.float32) -> Blocks | None:
    """V/n of units that are read position by position, as far as there is a formula."""
    if layer.area > 1 or layer.output_shape(shape)[1:] != shape[1:] or before.values is not None:
        return None
    if noise.norm == "rest" and before.gaussian:
        return each(lambda rho: (1 - rho**2) * (1 - 2 * rho**2) / n, innovations.correlations(before))
    if before.gaussian:
        return each(lambda rho: (1 + rho**2) / n, innovations.correlations(before))
    if noise.own is None or layer.groups > 1:
        return None
    return each(lambda rho, own: (1 - rho**2) / n + own, innovations.correlations(before), noise.own)


def _sampled(layer: Conv, before: State, shape: Shape) -> Blocks:
    """V of sampled units."""
    units = population.drawn(before).fields
    assert units is not None
    points = layer.output_shape(shape)[1] * layer.output_shape(shape)[2]
    units = units[: min(MOST, max(FEWEST, NUMBERS // (points**2 * layer.area))), :2]
    read = _windows(layer, units, shape)
    square = np.mean(np.einsum("mkpa,mkpa->mkp", read, read), axis=(0, 1))
    size = np.sqrt(np.where(square > 0, square, 1)).astype(np.float32)
    read = read / size[:, None]
    within = _variance(read[:, 0], read[:, 0])
    return within, _variance(read[:, 0], read[:, 1]) if before.log_cross is not None else None


def _windows(layer: Conv, units: np.ndarray, shape: Shape) -> np.ndarray:
    """What every output point reads of sampled units: (m, kept, points, kernel)."""
    windows = layer.windows(shape)
    maps = units.reshape(*units.shape[:2], *shape[1:])
    maps = np.pad(maps, ((0, 0), (0, 0), *((window.padding, window.padding) for window in windows)))
    places = positions.offsets(windows, layer.output_shape(shape)[1:])
    return np.stack([maps[(..., *place)].reshape(*units.shape[:2], -1) for place in places], axis=-1)


def _variance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Over units, of their products summed over the kernel, for all pairs of points."""
    many, points, _ = first.shape
    total, squares = np.zeros((2, points, points), np.float32)
    for start in range(0, many, max(1, TOGETHER // points**2)):
        some = slice(start, start + max(1, TOGETHER // points**2))
        product = first[some] @ second[some].swapaxes(1, 2)
        total += product.sum(axis=0)
        squares += np.einsum("mpq,mpq->pq", product, product)
    return squares / many - (total / many) ** 2
