"""The block QR: any rank, any shape, any number of blocks. Small cases also run without compilation."""

import mpmath
import numpy as np
import pytest

from simulations.kernels import blocks, orthogonal

SHAPES = [(5, 1), (5, 3), (3, 3), (2, 5), (40, 20), (7, 19), (1200, 3), (1300, 200)]  # (units, batch)


def as_row(h):
    """(units, batch) in the kernels' order."""
    units, batch = h.shape
    row = np.empty(h.size)
    for index in range(blocks.blocks(units, batch)):
        part = blocks.block(row, index, units, batch)
        start = index * blocks.block_units(batch)
        part[:] = h[start : start + part.shape[1]].T
    return row


def as_matrix(row, units, batch):
    parts = [blocks.block(row, index, units, batch).T for index in range(blocks.blocks(units, batch))]
    return np.concatenate(parts)


def factor(h):
    units, batch = h.shape
    r, v = np.empty((batch, batch)), np.empty(h.size)
    t = np.empty((blocks.blocks(units, batch), batch, batch))
    orthogonal.triangle(as_row(h), units, batch, r, v, t)
    return r, v, t


def rotated(v, t, top, x):
    row = as_row(x)
    head = top.copy()
    orthogonal.rotate(v, t, *x.shape, head, row)
    return as_matrix(row, *x.shape), head


def matrices(units, batch):
    rng = np.random.default_rng(units + batch)
    full = rng.standard_normal((units, batch))
    rank_one = np.outer(full[:, 0], rng.standard_normal(batch))
    twins = full.copy()
    twins[:, batch // 2 :] = full[:, : batch - batch // 2]
    holes = full.copy()
    holes[:, ::2] = 0
    return {"full": full, "rank one": rank_one, "twins": twins, "zero columns": holes, "zero": 0 * full}


@pytest.mark.parametrize("kind", ["full", "rank one", "twins", "zero columns", "zero"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_a_factorization(shape, kind):
    """R upper triangular, RᵀR = HᵀH, and Q [R; 0] = [0; H]."""
    h = matrices(*shape)[kind]
    r, v, t = factor(h)
    np.testing.assert_array_equal(np.tril(r, -1), 0)
    np.testing.assert_allclose(r.T @ r, h.T @ h, atol=1e-13 * shape[0])
    back, head = rotated(v, t, r, np.zeros_like(h))
    np.testing.assert_allclose(back, h, atol=1e-13 * np.sqrt(shape[0]))
    np.testing.assert_allclose(head, 0, atol=1e-13 * np.sqrt(shape[0]))


@pytest.mark.parametrize("kind", ["full", "rank one", "zero columns", "zero"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 5), (7, 19), (1200, 3)], ids=str)
def test_q_is_orthogonal_at_any_rank(shape, kind):
    """‖Q x‖ = ‖x‖, and angles are kept."""
    _, v, t = factor(matrices(*shape)[kind])
    rng = np.random.default_rng(0)
    top, x = rng.standard_normal((shape[1],) * 2), rng.standard_normal(shape)
    below, head = rotated(v, t, top, x)
    np.testing.assert_allclose(head.T @ head + below.T @ below, top.T @ top + x.T @ x, rtol=1e-11, atol=1e-11)


def test_scratch_gives_the_same_triangle():
    h = matrices(1300, 200)["full"]
    r = np.empty((200, 200))
    scratch = np.empty(200 * blocks.block_units(200))
    orthogonal.triangle(as_row(h), *h.shape, r, scratch, np.empty((1, 200, 200)))
    np.testing.assert_array_equal(r, factor(h)[0])


@pytest.mark.parametrize("exponent", [-120, 0, 120])
def test_nearly_equal_columns(exponent):
    """A relative distance of 1e-8: the last entry of R against 60-digit arithmetic; HᵀH would lose it altogether."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(30)
    h = np.stack([x, x + 1e-8 * rng.standard_normal(30)], axis=1) * 10.0**exponent
    with mpmath.workdps(60):
        a, b = (mpmath.matrix(column.tolist()) for column in h.T)
        dot, square = (sum(p * q for p, q in zip(a, other, strict=True)) for other in (b, a))
        distance = mpmath.sqrt(sum((q - dot / square * p) ** 2 for p, q in zip(a, b, strict=True)))
        expected = float(distance / mpmath.mpf(10) ** exponent)
    assert abs(factor(h)[0][1, 1]) / 10.0**exponent == pytest.approx(expected, rel=1e-7)


def test_float32():
    h = matrices(40, 20)["full"].astype(np.float32)
    r, v, t = np.empty((20, 20), np.float32), np.empty(800, np.float32), np.empty((1, 20, 20), np.float32)
    orthogonal.triangle(as_row(h).astype(np.float32), 40, 20, r, v, t)
    np.testing.assert_allclose(r.T @ r, h.T @ h, atol=1e-4)
