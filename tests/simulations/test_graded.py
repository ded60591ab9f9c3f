"""Log singular values of products of given matrices, against exact arithmetic and closed forms."""

import functools

import mpmath
import numpy as np
import pytest

from simulations.products import dense_log_singular_values, log_singular_values


def gaussian(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) / np.sqrt(shape[1]) for shape in shapes]


def test_oracle_agrees_with_mpmath(exact):
    (matrix,) = gaussian(0, (6, 6))
    with mpmath.workdps(40):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        expected = [float(mpmath.log(value)) for value in values]
    np.testing.assert_allclose(exact([matrix], 10), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("size", "factors", "rate"), [(24, 50, 3.6), (20, 200, 3.5), (8, 700, 2.8)])
def test_every_value_of_given_matrices(exact, size, factors, rate):
    matrices = gaussian(1, *[(size, size)] * factors)
    expected = exact(matrices, rate)
    np.testing.assert_allclose(log_singular_values(matrices), expected, rtol=0, atol=2e-11)
    if factors == 200:
        lost = np.abs(dense_log_singular_values(matrices) - expected) > 0.1
        assert expected[0] - expected[-1] > 350 and lost.sum() > 10 and not lost[0]


def test_every_value_of_five_hundred_given_matrices(exact):
    matrices = gaussian(1, *[(24, 24)] * 500)
    expected = exact(matrices, 3.3, point=59)
    assert expected[0] - expected[-1] > 1000
    np.testing.assert_allclose(log_singular_values(matrices), expected, rtol=0, atol=1e-10)


def awkward():
    """Products whose triangles come in the wrong order or whose rows differ vastly in size; the oracle's options."""
    rng = np.random.default_rng(2)
    integers = functools.partial(rng.integers, -9, 10)
    scales = functools.partial(rng.permutation, 2.0 ** np.arange(-20, 20, 5))
    monomial = [np.diag(10.0 ** rng.uniform(-20, 20, 8))[rng.permutation(8)] for _ in range(2)]
    growing = [np.triu(rng.standard_normal((8, 8)), 1) + np.diag(np.arange(1.0, 9)) for _ in range(40)]
    return {
        "increasing triangles": (growing, 30),
        "one matrix again and again": ([integers((8, 8)) / 8.0] * 100, 10),
        "monomial": (monomial * 5, 300, 300),
        "scales on both sides": ([monomial[0], rng.standard_normal((8, 8)), monomial[1]], 300, 300),
        "graded": ([scales()[:, None] * rng.standard_normal((8, 8)) for _ in range(20)], 60),
        "back and forth": ([matrix := rng.standard_normal((8, 8)), np.linalg.inv(matrix)] * 20, 10),
        "near the identity": ([np.eye(8) + rng.standard_normal((8, 8)) / 20 for _ in range(200)], 2),
        "bottleneck": (gaussian(3, (9, 4), (7, 9), (3, 7), (8, 3), (5, 8)), 10),
    }


@pytest.mark.parametrize("name", awkward())
def test_awkward_matrices(exact, name):
    matrices, *precision = awkward()[name]
    expected = exact(matrices, *precision)
    np.testing.assert_allclose(log_singular_values(matrices), expected, rtol=0, atol=1e-10)


def test_order_and_transposition():
    first, second, third = gaussian(4, (7, 4), (5, 7), (6, 5))
    expected = np.log(np.linalg.svd(third @ second @ first, compute_uv=False))
    np.testing.assert_allclose(log_singular_values([first, second, third]), expected, atol=1e-13)
    np.testing.assert_allclose(log_singular_values([third.T, second.T, first.T]), expected, atol=1e-13)


def test_determinant():
    matrices = gaussian(5, *[(100, 100)] * 60)
    expected = sum(np.linalg.slogdet(matrix).logabsdet for matrix in matrices)
    np.testing.assert_allclose(log_singular_values(matrices).sum(), expected, rtol=1e-12)


def test_scales_and_invariances():
    matrices = gaussian(6, *[(5, 5)] * 8)
    logs = log_singular_values(matrices)
    powers = (-200, 200, -250, -250, 0, 90, -7, 300)
    scaled = [matrix * 10.0**power for matrix, power in zip(matrices, powers, strict=True)]
    np.testing.assert_allclose(log_singular_values(scaled), logs - 117 * np.log(10), atol=1e-12)
    rotations = [np.linalg.qr(matrix)[0] for matrix in matrices]
    np.testing.assert_allclose(log_singular_values(rotations * 50), 0, atol=1e-12)
    np.testing.assert_allclose(log_singular_values([*rotations, *matrices, *rotations]), logs, atol=1e-13)
    tiny = np.diag([1e-150, 1e150])
    np.testing.assert_allclose(log_singular_values([tiny]), np.log([1e150, 1e-150]), atol=1e-13)
    np.testing.assert_allclose(log_singular_values([tiny] * 9), 9 * np.log([1e150, 1e-150]), rtol=1e-14)
    np.testing.assert_allclose(log_singular_values([tiny, 3 * np.eye(2)[::-1], tiny]), np.log([3.0, 3.0]), atol=1e-13)


def test_entries_that_are_small_beside_their_row_and_column_do_not_matter():
    matrix = np.random.default_rng(3).standard_normal((5, 5))
    matrix[0, 0], matrix[3, 1] = 1e-310, 5e-324
    np.testing.assert_allclose(log_singular_values([matrix] * 2), dense_log_singular_values([matrix] * 2), atol=1e-12)


def test_exact_zeros():
    assert log_singular_values([np.zeros((3, 2))]).tolist() == [-np.inf] * 2
    nilpotent = np.diag([1.0, 2.0], 1)
    assert log_singular_values([nilpotent] * 2).tolist() == [np.log(2), -np.inf, -np.inf]
    assert log_singular_values([nilpotent] * 3).tolist() == [-np.inf] * 3
    rng = np.random.default_rng(7)
    for _ in range(100):  # exact integers of known rank, then the same between Gaussian matrices
        (n, m), k = rng.integers(1, 30, 2), rng.integers(1, 30)
        matrix = (rng.integers(-9, 10, (n, k)) @ rng.integers(-9, 10, (k, m))).astype(float)
        rank = np.linalg.matrix_rank(matrix)
        between = [rng.standard_normal((m, m)), matrix, rng.standard_normal((n, n))]
        for matrices in ([matrix], between):
            assert np.isfinite(log_singular_values(matrices)).sum() == rank


def test_masked_matrices():
    """ReLU Jacobians with their zero rows left in: the zeros are exact, the rest as of the blocks."""
    rng = np.random.default_rng(8)
    masks = [rng.random(30) < 0.5 for _ in range(5)]
    weights = [rng.standard_normal((30, 30)) for _ in range(5)]
    logs = log_singular_values([mask[:, None] * weight for mask, weight in zip(masks, weights, strict=True)])
    kept = [np.ones(30, dtype=bool), *masks]
    blocks = log_singular_values([weight[np.ix_(kept[i + 1], kept[i])] for i, weight in enumerate(weights)])
    rank = min(mask.sum() for mask in masks)
    assert np.isfinite(logs).sum() == rank and len(logs) == 30
    np.testing.assert_allclose(logs[:rank], blocks, atol=1e-12)
