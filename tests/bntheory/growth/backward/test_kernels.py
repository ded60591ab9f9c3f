"""Gradients through weights of few units, against sums over explicit kernels."""

import numpy as np
import pytest

from bntheory.growth.backward import kernels as backward
from bntheory.growth.infinite_width import kernels
from bntheory.growth.infinite_width.kernels import Convolution, Weighed
from bntheory.growth.infinite_width.state import start
from bntheory.layers import Conv

SHAPE = (6, 5, 4)
RNG = np.random.default_rng(0)


def transposed(layer, weights, gradient):
    """One kernel, (area,), as the matrix from outputs to what it reads, times (outputs, any)."""
    down, across = layer.windows(SHAPE)
    places = layer.output_shape(SHAPE)[1:]
    matrix = np.zeros((SHAPE[1], SHAPE[2], *places))
    for y, x, i, j in np.ndindex(*places, down.kernel, across.kernel):
        a, b = (y * down.stride + i - down.padding, x * across.stride + j - across.padding)
        if 0 <= a < SHAPE[1] and 0 <= b < SHAPE[2]:
            matrix[a, b, y, x] += weights[i * across.kernel + j]
    return matrix.reshape(SHAPE[1] * SHAPE[2], -1) @ gradient


@pytest.mark.parametrize("layer", [Conv(6, groups=6), Conv(6, (3, 1), 2, (1, 0), groups=6), Conv(6, 1, groups=6)])
def test_products_of_weights_back_to_what_they_read(layer):
    """A mean over a few kernels of Wᵀ M W, and the excess of units that go with their kernels."""
    points = int(np.prod(layer.output_shape(SHAPE)[1:]))
    drawn = RNG.standard_normal((7, layer.area))
    root = RNG.standard_normal((points, points)).astype(np.float32)
    moments = root @ root.T
    weights = Weighed(0.0, drawn.T @ drawn / 7, 0.0)
    expected = np.mean([transposed(layer, w, transposed(layer, w, moments).T) for w in drawn], axis=0)
    found = backward.read(layer, SHAPE, weights, moments)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.02 * np.abs(expected).max())  # small parts left out

    source = Convolution(layer, start(None, SHAPE, 2), SHAPE, 3)
    own = kernels.drawn_weights(source, 40)[:, 0]
    units = (own.sum(axis=1)[:, None] * RNG.standard_normal((40, points))).astype(np.float32)
    exact = sum(np.outer(g, g) for g in (transposed(layer, w, unit) for w, unit in zip(own, units, strict=True)))
    plain = backward.read(layer, SHAPE, None, units.T @ units)
    excess = backward.excess(units, source, None)
    np.testing.assert_allclose(excess * np.trace(plain), exact - plain, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
