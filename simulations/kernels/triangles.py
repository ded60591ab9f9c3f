"""Products of random upper triangles that fit into the cache, kept as T = diag(2^exponents) rows."""

import math

import numpy as np

from simulations.kernels.compilation import fast_kernel, kernel

FAR = 2.0**300  # once a row's diagonal entry leaves (1/FAR, FAR), the row's size goes to its exponent


@kernel()
def draw(rng, height, triangle):
    """R/√r of the QR factorization of a height × r matrix of N(0, 1) entries, into the upper part of an (r, r) array.

    Independent: χ with height, height − 1, … degrees of freedom on the diagonal, N(0, 1) above it.
    """
    rank = len(triangle)
    scale = 1 / math.sqrt(rank)
    for i in range(rank):
        triangle[i, i] = scale * math.sqrt(rng.chisquare(height - i))
        for j in range(i + 1, rank):
            triangle[i, j] = scale * rng.standard_normal()


@kernel()
def chain(rng, heights, rank):
    """Exponents and rows of Π R_l/√r for a list of heights, drawn in that order and multiplied from the left."""
    exponents, rows, done = np.zeros(rank, np.int64), np.eye(rank), np.zeros((rank, rank))
    triangle = np.zeros((rank, rank))
    for height in heights:
        draw(rng, height, triangle)
        move_scales(triangle, exponents)
        multiply(triangle, rows, done)
        rows, done = done, rows
        rescale(exponents, rows, FAR)
    if np.any(exponents != 0):
        rescale(exponents, rows, 1.0)
    return exponents, rows


@kernel()
def move_scales(triangle, exponents):
    """R diag(2^exponents) = diag(2^e) R′: R is replaced by R′, the exponents by the largest that a row meets."""
    if exponents.min() == exponents.max():
        return
    for i in range(len(exponents)):
        top = exponents[i:].max()
        for j in range(i, len(exponents)):
            if exponents[j] != top:
                triangle[i, j] = math.ldexp(triangle[i, j], int(max(exponents[j] - top, -2000)))
        exponents[i] = top


@kernel()
def rescale(exponents, rows, far):
    """Bring the largest entry of a row into [½, 1) where its diagonal entry has left (1/far, far)."""
    for i in range(len(exponents)):
        if not 1 / far < rows[i, i] < far:
            shift = math.frexp(np.abs(rows[i, i:]).max())[1]
            exponents[i] += shift
            for k in range(i, len(exponents)):
                rows[i, k] = math.ldexp(rows[i, k], -shift)


@fast_kernel()
def multiply(left, right, product):
    """Upper triangle times upper triangle: two rows of the product, four of the right factor in one pass."""
    rank = len(left)
    for i in range(0, rank - 1, 2):
        two_rows(left[i], left[i + 1], right, product[i], product[i + 1], i)
    if rank % 2:
        product[rank - 1, rank - 1] = left[rank - 1, rank - 1] * right[rank - 1, rank - 1]


@fast_kernel()
def two_rows(first, second, right, one, two, i):
    """Rows i and i + 1 of a product, from column i on."""
    rank = len(right)
    one[i] = first[i] * right[i, i]
    for k in range(i + 1, rank):
        one[k] = first[i] * right[i, k] + first[i + 1] * right[i + 1, k]
        two[k] = second[i + 1] * right[i + 1, k]
    j = i + 2
    while j + 3 < rank:
        a, b, c, d = first[j], first[j + 1], first[j + 2], first[j + 3]
        e, f, g, h = second[j], second[j + 1], second[j + 2], second[j + 3]
        for k in range(j, rank):
            p, q, r, s = right[j, k], right[j + 1, k], right[j + 2, k], right[j + 3, k]
            one[k] += a * p + b * q + c * r + d * s
            two[k] += e * p + f * q + g * r + h * s
        j += 4
    for last in range(j, rank):
        for k in range(last, rank):
            one[k] += first[last] * right[last, k]
            two[k] += second[last] * right[last, k]
