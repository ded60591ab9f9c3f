"""Given images that are not alike, one pair of images at a time, as far as the first activation.

Units of a convolution of given images are Gaussian with covariances v Σ x_i x_j' + σ_b² over the patches that two
points read: products of *features*. Their distances after an activation that is linear on either side of 0 are averaged
over all pairs of images; those of the mean pair, by a map that is not linear, would be wrong, and most of all in what
tells images from each other once positions are averaged: there they may be off by a factor of 3.
"""

from __future__ import annotations

import math

import numpy as np

from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import positions
from bntheory.layers import Conv

MOST_DISTANCES = 2**26  # in all pairs of images; of more, the mean pair has to do
SMALL_ANGLE = 0.01  # below, sin θ − θ cos θ is taken from its series, to 1e-12


def features(layer: Conv, values: np.ndarray) -> np.ndarray | None:
    """(images, points, features) of a given batch (B, channels, height, width); None if that takes too long."""
    shape, copies = values.shape[1:], len(values)
    sides, windows = layer.output_shape(shape)[1:], layer.windows(shape)
    if layer.groups > 1 or copies * (copies + 1) // 2 * math.prod(sides) ** 2 > MOST_DISTANCES:
        return None
    scale = float(np.abs(values).max()) or 1.0
    pads = [(window.padding, window.padding) for window in windows]
    padded = np.pad(values / scale, [(0, 0), (0, 0), *pads])
    places = positions.offsets(windows, sides)
    read = [padded[(slice(None), slice(None), *place)].reshape(*values.shape[:2], -1) for place in places]
    patches = np.moveaxis(np.concatenate(read, axis=1), 1, 2) * (scale * math.sqrt(layer.weight_variance(shape)))
    bias = np.full((copies, patches.shape[1], 1), math.sqrt(layer.bias_variance(shape)))
    return np.concatenate([patches, bias], axis=2)


def activated(slopes: tuple[float, float], features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """ln of the mean distances after an activation with these slopes, within images and between two."""
    scale = float(np.abs(features).max()) or 1.0
    unit, copies = features / scale, len(features)
    root = np.sqrt(np.sum(unit**2, axis=2))
    within, between = (np.zeros((unit.shape[1],) * 2) for _ in range(2))
    for first in range(copies):
        for second in range(first, copies):

            def distances(rows: slice, i: int = first, j: int = second) -> np.ndarray:
                own = root[i, rows, None]
                apart = own**2 + root[j] ** 2 - 2 * (unit[i, rows] @ unit[j].T)
                return mapped(slopes, np.maximum(apart, 0), own, root[j])

            found = by_rows(distances, unit.shape[1])
            if first == second:
                within += found / copies
            else:
                between += (found + found.T) / (copies * (copies - 1))
    np.fill_diagonal(within, 0)
    log_d, log_cross = (positions.log(block) + 2 * math.log(scale) for block in (within, between))
    return log_d, log_cross if copies > 1 else None


def mapped(slopes: tuple[float, float], d: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """d (a² + b²)/2 − (a − b)² √(qq') (sin θ − θ cos θ)/π, with θ the angle between two points of roots √q, √q'."""
    a, b = slopes
    return np.maximum(d * ((a**2 + b**2) / 2) - (a - b) ** 2 / math.pi * bend(d, own, other), 0)


def bend(d: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """√(qq') (sin θ − θ cos θ)."""
    product = own * other
    square = d - (own - other) ** 2
    np.divide(square, product, out=square, where=product > 0)
    square = np.clip(square / 4, 0, 1)  # sin² θ/2
    sine, cosine = np.sqrt(square), np.sqrt(1 - square)
    theta = 2 * np.arctan2(sine, cosine)  # not an arcsine, whose argument rounds to 1 before π is reached
    result = 2 * sine * cosine - theta * (1 - 2 * square)
    small = theta < SMALL_ANGLE
    result[small] = theta[small] ** 3 * (1 / 3 - theta[small] ** 2 / 30)
    return product * result
