"""Given images are not alike: what the spread of their pairs adds to the fluctuations of the first layers.

The theory of images knows the mean second moments and the mean covariances of a batch. Fluctuations need means of
squares of correlations, which exceed squares of means as long as images differ: here they are measured on the inputs
themselves, after the first weights, and fade as layers bring all pairs together, with the slope of the map of
correlations, q E φ′(u)φ′(v)/E φ².
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bntheory.growth.infinite_width import positions
from bntheory.layers import Conv, Dense

PAIRS = 20_000  # sampled: their error is far below the first order in 1/channels


class Unevenness(NamedTuple):
    """Excess over the mean pair, within an image and between two: of E ρ², and of E (G(ρ) − 2ρ²).

    The second is None where it is to be had from the first by the curvature of G.
    """

    squares: np.ndarray
    signed: np.ndarray | None = None

    def faded(self, slope: float) -> Unevenness:
        """After an activation that maps correlations with that slope."""
        return Unevenness(self.squares * slope**2)

    def signed_excess(self, rho: float) -> np.ndarray:
        """Of E (G(ρ) − 2ρ²); ½ G″(ρ) = 4 (π − arccos ρ)/π."""
        return self.squares * (2 - 4 * math.acos(rho) / math.pi) if self.signed is None else self.signed


ALIKE = Unevenness(np.zeros(2))


def mixed(first: Unevenness, second: Unevenness, share: float) -> Unevenness:
    """Of a sum, to whose second moment the second part contributes that share."""
    return Unevenness(first.squares + share * (second.squares - first.squares))


def relu_covariance(rho: np.ndarray) -> np.ndarray:
    """G(ρ) = Cov(u₊², v₊²)/(E u₊² E v₊²) of Gaussian u, v with correlation ρ.

    >>> relu_covariance(np.array([0.0, 1.0])).round(12).tolist()
    [0.0, 5.0]
    """
    root = np.sqrt(np.maximum(1 - rho**2, 0))
    return 2 / np.pi * (3 * rho * root + (np.pi - np.arccos(rho)) * (1 + 2 * rho**2)) - 1


def measured(layer: Dense | Conv, values: np.ndarray, mean_pair: np.ndarray) -> Unevenness:
    """Unevenness after the first weights.

    Parameters
    ----------
    layer : Dense or Conv
        That reads the given inputs.
    values : array (B, *shape)
        The inputs.
    mean_pair : array (2, 2)
        E ρ² and E (G(ρ) − 2ρ²) according to the mean covariances, within an image and between two.
    """
    patches = _patches(layer, values)
    batch, points = patches.shape[:2]
    rng = np.random.default_rng(0)
    first, second = rng.integers(points, size=(2, PAIRS))
    image = rng.integers(batch, size=PAIRS)
    other = (image + rng.integers(1, max(batch, 2), size=PAIRS)) % batch
    mean = np.mean(patches**2) * patches.shape[2]
    excess = []
    for partner in (image, other):
        left, right = patches[image, first], patches[partner, second]
        product = np.sum(left**2, axis=1) * np.sum(right**2, axis=1)
        rho = np.sum(left * right, axis=1) / np.sqrt(np.where(product > 0, product, 1))
        weight = product / mean**2
        signed = relu_covariance(np.clip(rho, -1, 1)) - 2 * rho**2
        excess.append((np.mean(weight * rho**2), np.mean(weight * signed)))
    squares, angular = (np.array(excess) - mean_pair).T
    return Unevenness(squares, angular)


def _patches(layer: Dense | Conv, values: np.ndarray) -> np.ndarray:
    """(B, points, numbers that a unit reads there)."""
    if isinstance(layer, Dense):
        return values.reshape(len(values), 1, -1)
    pad = layer.padding or 0
    padded = np.pad(values, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    outputs = layer.output_shape(values.shape[1:])[1:]
    window = positions.offsets(layer.kernel, outputs, layer.stride, layer.dilation)
    read = np.stack([padded[(..., *place)].reshape(*values.shape[:2], -1) for place in window], axis=2)
    return np.moveaxis(read.reshape(len(values), -1, read.shape[-1]), 1, 2)
