"""Log singular values of T = diag(2^e) B, and of products that QR steps bring into this form.

The product itself is never formed: floating point would lose its small singular values. It becomes a product of
triangles with decreasing rows, kept with one integer exponent a row, so that no size overflows, no scaling rounds, and
every singular value keeps its relative accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LAPACK_BITS = 700  # range of scales in one LAPACK call: centred, entries and their squares stay in float64
NOTHING = -(2**40)  # stands for the exponent of zero


class Factor(NamedTuple):
    """exp(log_scale) · matrix."""

    matrix: Floats
    log_scale: float = 0.0


def _row_scaled(matrix: Floats, exponents: Integers) -> tuple[Integers, Floats]:
    """Move scales from columns to rows: A diag(2^exponents) = diag(2^e) A′, the largest of a row of A′ in [½, 1)."""
    sizes = np.where(matrix != 0, np.frexp(matrix)[1] + exponents, NOTHING)
    rows = sizes.max(axis=1)
    return rows, np.ldexp(matrix, exponents - rows[:, None])


def multiply(factor: Floats, exponents: Integers, rows: Floats) -> tuple[Integers, Floats]:
    """Multiply diag(2^exponents) rows by a factor from the left.

    Examples
    --------
    >>> multiply(np.array([[0.0, 1.0], [4.0, 0.0]]), np.array([2000, -3000]), np.eye(2))  # exponents, rows
    (array([-2999,  2003]), array([[0. , 0.5],
           [0.5, 0. ]]))
    """
    scales, factor = _row_scaled(factor, exponents)
    rows = factor @ rows
    shifts = np.frexp(np.abs(rows).max(axis=1))[1]
    return scales + shifts, np.ldexp(rows, -shifts[:, None])


def graded(exponents: Integers, rows: Floats, sweeps: int = 0) -> Floats:
    """Log singular values of diag(2^exponents) rows, descending, every one to high relative accuracy.

    A QR sweep takes T to the R of Tᵀ, which has the same singular values; B's QR does it, since scaling of columns
    commutes with QR. Each sweep weakens the coupling of rows i < j by about σ_j/σ_i. Where nothing above 2^−60 of a
    row couples it across a cut, the parts are independent; those that fit into float64 go to LAPACK.
    """
    order = np.argsort(-exponents, kind="stable")
    exponents, rows = exponents[order], rows[order]
    while sweeps > 0 or np.ptp(exponents) > LAPACK_BITS:
        triangle = linalg.qr(rows.T, mode="r", check_finite=False)[0][: len(exponents)]
        exponents, rows = _row_scaled(triangle, exponents)
        sweeps -= 1
        # largest entry above and to the right of each place; the first superdiagonal is what couples across a cut
        reach = np.maximum.accumulate(np.abs(rows), axis=0)[:, ::-1]
        reach = np.maximum.accumulate(reach, axis=1)[:, ::-1]
        cuts = 1 + np.flatnonzero(np.diagonal(reach, 1) < 2.0**-60)
        if len(cuts):
            edges = [0, *cuts.tolist(), len(exponents)]
            parts = [graded(exponents[a:b], rows[a:b, a:b], sweeps) for a, b in pairwise(edges)]
            return np.sort(np.concatenate(parts))[::-1]
    middle = (int(exponents.max()) + int(exponents.min())) // 2
    return logarithms(np.ldexp(rows, (exponents - middle)[:, None])) + middle * math.log(2)


def chained(factors: Iterable[Factor], columns: int) -> Floats:
    """Log singular values other than exact zeros of F_M … F_1, by X_k Q_{k−1} = Q_k R_k with pivoting.

    Parameters
    ----------
    factors : iterable of Factor
        F_1, F_2, … in order of application, finite; each is read once.
    columns : int
        Of F_1.

    Returns
    -------
    ndarray
        As many as the rank, descending. A direction in which X_k Q_{k−1} is below 8 max(shape) ε of its terms is lost.

    Examples
    --------
    >>> chained([Factor(np.array([[3.0, 0.0], [0.0, 0.0]]), log_scale=1e6)], columns=2) - 1e6
    array([1.09861229])
    """
    basis = rows = np.eye(columns)
    exponents, total, log_scale = np.zeros(columns, dtype=np.int64), 0, 0.0
    for matrix, log_factor in factors:
        if not matrix.any():
            return np.empty(0)
        sizes = np.frexp(matrix[matrix != 0])[1]
        centre = (int(sizes.max()) + int(sizes.min())) // 2
        total, log_scale = total + centre, log_scale + log_factor
        basis, triangle, pivots = _qr_step(np.ldexp(matrix, -centre), basis, exponents)
        if not len(triangle):
            return np.empty(0)
        exponents, rows = multiply(triangle, exponents[pivots], rows[pivots])
    # two sweeps: rows come out graded, but LAPACK wants the columns to be so as well
    return graded(exponents, rows, sweeps=2) + (total * math.log(2) + log_scale)


def _qr_step(matrix: Floats, basis: Floats, exponents: Integers) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """X Q P = Q′ R: returns Q′, R with as many rows as the rank, and the pivots.

    Columns are pivoted by their size times that of the row of T they meet, so that the new rows decrease. Rows in
    decreasing order make Householder's QR accurate row by row (Cox, Higham 1998), so that rows of any sizes are kept.
    """
    bounds = np.abs(matrix) @ np.abs(basis)
    order = np.argsort(-bounds.max(axis=1), kind="stable")
    weights = exponents - exponents.max()
    if weights.min() < -400:  # keeps the weighted columns in float64; only the choice of pivots depends on it
        weights = -(weights * 400 // weights.min())
    weighted = np.ldexp((matrix @ basis)[order], weights)
    unitary, factor, pivots = linalg.qr(weighted, mode="economic", pivoting=True, check_finite=False)
    factor, bounds = np.ldexp(factor, -weights[pivots]), bounds[order][:, pivots]
    noise = 8 * max(matrix.shape) * np.finfo(float).eps
    noise = noise * np.minimum.outer(bounds.max(axis=1)[: len(factor)], bounds.max(axis=0))
    rank = 1 + int(np.max(np.flatnonzero((np.abs(factor) > noise).any(axis=1)), initial=-1))
    new_basis = np.empty((len(matrix), rank))
    new_basis[order] = unitary[:, :rank]
    return new_basis, factor[:rank], pivots


def logarithms(matrix: Floats) -> Floats:
    """Logarithms of the singular values of one matrix."""
    if not np.isfinite(matrix).all():
        raise ValueError("the product has left float64: use log_singular_values, which never forms it")
    with np.errstate(divide="ignore"):  # ln 0 is the answer for an exact zero
        return np.log(np.linalg.svd(matrix, compute_uv=False))
