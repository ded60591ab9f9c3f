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
    """Upper triangle times upper triangle: four rows of the product in one pass, by two of the right factor."""
    rank = len(left)
    for i in range(0, rank - 3, 4):
        four_rows(left[i : i + 4], right, product[i : i + 4], i)
    for i in range(rank - rank % 4, rank):
        for k in range(i, rank):
            total = 0.0
            for j in range(i, k + 1):
                total += left[i, j] * right[j, k]
            product[i, k] = total


@fast_kernel()
def four_rows(left, right, product, start):
    """Four rows of a product from column `start` on, before which all is zero."""
    rank = len(right)
    one, two, three, four = product[0], product[1], product[2], product[3]
    product[:, start:] = 0.0
    j = start
    while j + 1 < rank:
        a, b, c, d = left[0, j], left[1, j], left[2, j], left[3, j]
        e, f, g, h = left[0, j + 1], left[1, j + 1], left[2, j + 1], left[3, j + 1]
        upper, lower = right[j], right[j + 1]
        for k in range(j, rank):
            x, y = upper[k], lower[k]
            one[k] += a * x + e * y
            two[k] += b * x + f * y
            three[k] += c * x + g * y
            four[k] += d * x + h * y
        j += 2
    for i in range(4):
        for k in range(j, rank):
            product[i, k] += left[i, j] * right[j, k]
