"""Log singular values of products of independent Gaussian matrices, from a chain of triangles.

A k_l × k_{l−1} matrix of N(0, 1) entries times an orthogonal one is again such a matrix. Hence, with r = k_m the
smallest of k_0, …, k_L, the singular values of the product other than exact zeros are distributed as those of
Π_{l ≠ m} R_l, R_l upper triangular r × r: χ with k_l, k_l − 1, …, k_l − r + 1 degrees of freedom on the diagonal,
N(0, 1) above it, all independent.
"""

from __future__ import annotations

import math

import numpy as np

from simulations.graded import Floats, Integers, graded, multiply
from simulations.kernels import triangles

BLOCK = 64  # rows handled together: numpy's overhead is small beside the work, the zeros below the diagonal are few
SAFE = 1e120  # a plain product of triangles has its diagonal in (1/SAFE, SAFE): squares stay in float64
STACK = 2**18  # entries of the triangles that wait for one call of LAPACK


def together(width: int) -> int:
    """How many trials of that smallest width one call of `draws` should take."""
    return max(1, min(64, STACK // width**2))


def draws(rngs: list[np.random.Generator], sizes: list[list[int]]) -> list[Floats]:
    """Log singular values other than exact zeros, of N(0, 1) entries; one array a trial.

    Parameters
    ----------
    rngs : list of numpy.random.Generator
        One a trial.
    sizes : list of lists of int
        k_0, …, k_L of each trial; zeros are allowed.

    Returns
    -------
    list of ndarray
        Descending, min(k_0, …, k_L) of them.

    Examples
    --------
    >>> [len(logs) for logs in draws([np.random.default_rng(0)] * 2, [[4, 3, 5], [4, 0]])]
    [3, 0]
    """
    found: list[Floats] = [np.empty(0)] * len(sizes)
    plain: dict[int, list[tuple[int, Floats]]] = {}
    for trial, (rng, counts) in enumerate(zip(rngs, sizes, strict=True)):
        rank = min(counts)
        if not rank:
            continue
        smallest = counts.index(rank)
        heights = [*counts[:smallest], *counts[smallest + 1 :]]
        exponents, rows = (_small_chain if rank < BLOCK else _chain)(rng, heights, rank)
        if exponents.any():
            found[trial] = graded(exponents, rows)
        else:
            plain.setdefault(rank, []).append((trial, rows))
    for alike in plain.values():
        logs = np.log(np.linalg.svd(np.stack([rows for _, rows in alike]), compute_uv=False))
        for (trial, _), values in zip(alike, logs, strict=True):
            found[trial] = values
    shifts = (0.5 * (len(counts) - 1) * math.log(max(1, min(counts))) for counts in sizes)
    return [logs + shift for logs, shift in zip(found, shifts, strict=True)]


def triangle(rng: np.random.Generator, height: int, rank: int) -> Floats:
    """R / √rank, R of the QR factorization of a height × rank matrix of N(0, 1) entries."""
    made = np.zeros((rank, rank))
    if rank < BLOCK:
        triangles.draw(rng, height, made)
        return made
    scale = 1 / math.sqrt(rank)
    for i in range(0, rank, BLOCK):
        rows = made[i : i + BLOCK, i:]
        np.multiply(rng.standard_normal(rows.shape), scale, out=rows)
        rows[:, :BLOCK] = np.triu(rows[:, :BLOCK])
    np.fill_diagonal(made, scale * np.sqrt(rng.chisquare(height - np.arange(rank))))
    return made


def _small_chain(rng: np.random.Generator, heights: list[int], rank: int) -> tuple[Integers, Floats]:
    """What `_chain` does, compiled, for matrices that fit into the cache."""
    return triangles.chain(rng, np.array(heights, dtype=np.int64), rank)


def _chain(rng: np.random.Generator, heights: list[int], rank: int) -> tuple[Integers, Floats]:
    """Π R_l / √rank as diag(2^exponents) rows."""
    done = start = np.zeros(rank, dtype=np.int64), np.eye(rank)
    product = None
    for height in heights:
        factor = triangle(rng, height, rank)
        product = factor if product is None else _triangular_product(factor, product)
        diagonal = np.diagonal(product)
        if diagonal.min() < 1 / SAFE or diagonal.max() > SAFE:
            done, product = multiply(product, *done), None
    if product is None:
        return done
    return (start[0], product) if done is start else multiply(product, *done)


def _triangular_product(left: Floats, right: Floats) -> Floats:
    """Product of two upper triangles in n³/6 multiplications: a third of BLAS's trmm, a sixth of gemm."""
    product = np.zeros_like(right)
    for i in range(0, len(left), BLOCK):
        for j in range(i, len(left), BLOCK):
            end = j + BLOCK
            product[i : i + BLOCK, j:end] = left[i : i + BLOCK, i:end] @ right[i:end, j:end]
    return product
