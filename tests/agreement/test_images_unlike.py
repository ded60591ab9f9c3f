"""Why outputs of given images with BatchNorm are not as alike as predicted: these images are not alike in law.

Units of a version-1 network with BatchNorm are sampled at infinite width with the covariances of all points of all
images, which theory carries as one mean over images and one over pairs.
"""

import math

import numpy as np
import pytest

from bntheory import BatchNorm, Residual, Sequential, activation, predict_growth
from bntheory.layers import Conv, Pool

SIDE, BLOCKS, IMAGES, UNITS = 6, 4, 6, 4000
POINTS = SIDE**2
RELU = activation("relu")


def images():
    """Noise, four images of it dark and two bright."""
    noise = np.random.default_rng(0).standard_normal((IMAGES, 3, SIDE, SIDE))
    return np.array([-1.0, -1, -1, -1, 2, 2])[:, None, None, None] + 0.5 * noise


def covariances(values):
    """Of all points, (images, points, images, points)."""
    flat = values.reshape(IMAGES, -1, POINTS)
    return np.einsum("bcp,dcq->bpdq", flat, flat)


def alike(matrix):
    """The mean over images in the place of every image's own, and the mean over pairs for all pairs."""
    own = np.einsum("bpbq->pq", matrix) / IMAGES
    pairs = (matrix.sum(axis=(0, 2)) - IMAGES * own) / (IMAGES * (IMAGES - 1))
    result = np.tile(pairs[None, :, None, :], (IMAGES, 1, IMAGES, 1))
    for image in range(IMAGES):
        result[image, :, image] = own
    return result


def convolved(matrix):
    """Sums over the nine offsets of a 3×3 kernel, with zeros around."""
    maps = np.pad(matrix.reshape(IMAGES, SIDE, SIDE, IMAGES, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)) * 2)
    total = 0.0
    for down in range(3):
        for across in range(3):
            rows, columns = slice(down, down + SIDE), slice(across, across + SIDE)
            total = total + maps[:, rows, columns, :, rows, columns]
    return total.reshape(IMAGES * POINTS, -1)


def pooled_distance(matrix, seed):
    """1 − mean cosine of two images' averages over positions after the last block, of sampled units."""
    rng = np.random.default_rng(seed)

    def normalized(covariance):
        values, vectors = np.linalg.eigh(covariance)
        units = rng.standard_normal((UNITS, len(values))) @ (vectors * np.sqrt(np.maximum(values, 0))).T
        units -= units.mean(axis=1, keepdims=True)
        return units / units.std(axis=1, keepdims=True)

    def products(units):
        return convolved(units.T @ units)

    x = np.maximum(normalized(convolved(matrix)), 0)
    for _ in range(BLOCKS):
        inside = np.maximum(normalized(products(x)), 0)
        x = np.maximum(x + normalized(products(inside)), 0)
    means = x.reshape(UNITS, IMAGES, POINTS).mean(axis=2)
    directions = means / np.linalg.norm(means, axis=0)
    return 1 - ((directions.T @ directions).sum() - IMAGES) / (IMAGES * (IMAGES - 1))


def predicted(inputs):
    def conv():
        return Conv(16, 3, bias=0.0), BatchNorm()

    block = (Residual(Sequential((*conv(), RELU, *conv()))), RELU)
    net = Sequential((*conv(), RELU, *block * BLOCKS, Pool("average")), (3, SIDE, SIDE))
    return math.exp(predict_growth(net, inputs).log_cosine_distance[-1])


def test_theory_is_of_images_alike_in_law():
    """Within 10% of units sampled with the mean covariances, and far from those with the images' own: 0.16, 0.09.

    Sampled distances differ by 2% from seed to seed.
    """
    inputs = images()
    own, theory = covariances(inputs), predicted(inputs)
    assert theory == pytest.approx(np.mean([pooled_distance(alike(own), seed) for seed in range(2)]), rel=0.1)
    assert max(pooled_distance(own, seed) for seed in range(2)) < 0.7 * theory
