"""Small triangles: products against NumPy, scales far beyond float64. Also run without compilation."""

import numpy as np
import pytest

from simulations.kernels import triangles


def upper(rng, rank):
    return np.triu(rng.standard_normal((rank, rank)))


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 6, 7, 8, 13, 31])
def test_product(rank):
    rng = np.random.default_rng(rank)
    left, right, product = upper(rng, rank), upper(rng, rank), np.zeros((rank, rank))
    triangles.multiply(left, right, product)
    np.testing.assert_allclose(product, left @ right, rtol=0, atol=1e-14 * rank)
    assert (np.tril(product, -1) == 0).all()


@pytest.mark.parametrize("rank", [1, 5, 6])
def test_chain_is_the_product_of_its_draws(rank):
    heights = rank + np.array([0, 3, 1, 2])
    exponents, rows = triangles.chain(np.random.default_rng(0), heights, rank)
    rng, expected = np.random.default_rng(0), np.eye(rank)
    for height in heights:
        triangle = np.zeros((rank, rank))
        triangles.draw(rng, height, triangle)
        expected = triangle @ expected
    np.testing.assert_array_equal(exponents, 0)
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-14)


def test_scales_move_from_columns_to_rows():
    rng = np.random.default_rng(1)
    triangle, exponents = np.triu(rng.uniform(1, 2, (4, 4))), np.array([50, -5000, 7, 3000])
    before, old = triangle.copy(), exponents.copy()
    triangles.move_scales(triangle, exponents)
    np.testing.assert_array_equal(exponents, 3000)
    np.testing.assert_array_equal(np.triu(triangle), np.ldexp(before, np.maximum(old - 3000, -2000)))
    triangle, exponents = before.copy(), np.array([10, -5, -5, -6000])
    triangles.move_scales(triangle, exponents)
    np.testing.assert_array_equal(exponents, [10, -5, -5, -6000])
    np.testing.assert_array_equal(triangle[0], np.ldexp(before[0], [0, -15, -15, -2000]))


def test_rows_out_of_range():
    rows = np.diag([1.5, 2.0**400, 2.0**-400])
    rows[1, 2] = 2.0**500
    exponents = np.array([0, 10, 0])
    triangles.rescale(exponents, rows, triangles.FAR)
    np.testing.assert_array_equal(exponents, [0, 511, -399])
    np.testing.assert_array_equal(rows, [[1.5, 0, 0], [0, 2.0**-101, 0.5], [0, 0, 0.5]])


def test_diagonal_far_below_float64():
    """Depth 4000 at rank 2: diagonals from independent χ² draws, e^−2000 and less, come through."""
    depth = 400
    exponents, rows = triangles.chain(np.random.default_rng(2), np.full(depth, 2), 2)
    rng, logs = np.random.default_rng(2), np.zeros(2)
    for _ in range(depth):
        triangle = np.zeros((2, 2))
        triangles.draw(rng, 2, triangle)
        logs += np.log(np.diag(triangle))
    found = np.log(np.diag(rows)) + exponents * np.log(2)
    np.testing.assert_allclose(found, logs, rtol=1e-12)
