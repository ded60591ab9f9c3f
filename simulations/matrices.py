"""Matrices that are given: checked, and brought to float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulations.graded import Floats

MOST_BITS = 1000  # between the sizes of rows and columns of one matrix: products of two such numbers stay in float64


def checked_matrices(matrices: Sequence[ArrayLike]) -> list[Floats]:
    """Return matrices as float arrays that chain; ValueError otherwise."""
    try:
        given = list(matrices)
    except TypeError:
        raise ValueError(f"a Sequential or a list of matrices is needed, got {matrices!r:.80}") from None
    if not given:
        raise ValueError("at least one matrix is needed, got an empty list")
    checked = [_matrix(index, matrix) for index, matrix in enumerate(given)]
    for index, (first, second) in enumerate(pairwise(checked)):
        if first.shape[0] != second.shape[1]:
            raise ValueError(
                f"matrix {index + 1} must have as many columns as matrix {index} has rows, got shapes {second.shape} "
                f"and {first.shape}; the first of the list is applied first"
            )
    return checked


def _matrix(index: int, value: ArrayLike) -> Floats:
    try:
        matrix = _array(value)
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        shown = " ".join(repr(value).split())  # in one line
        raise ValueError(f"matrix {index} must be a dense array of numbers, got {shown:.80}") from None
    if np.iscomplexobj(matrix):
        doubled = "[[Re, −Im], [Im, Re]] is real and has every singular value twice"
        raise ValueError(f"matrix {index} must be real, got complex numbers; {doubled}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        needed = "two-dimensional and not empty (one matrix goes into a list)"
        raise ValueError(f"matrix {index} must be {needed}, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"matrix {index} must be finite, got {matrix[~np.isfinite(matrix)][0]}")
    if _grading(matrix) > MOST_BITS:
        sizes = np.abs(matrix[matrix != 0])
        raise ValueError(
            f"matrix {index} must have rows and columns of sizes within a factor 2^{MOST_BITS}, got entries from "
            f"{sizes.min():.3g} to {sizes.max():.3g}; give it as a product of two, in order of application"
        )
    return matrix


def _grading(matrix: Floats) -> int:
    """Bits between the sizes of columns, and between those of rows once columns have one size."""
    matrix = matrix[np.ix_(matrix.any(axis=1), matrix.any(axis=0))]
    if not matrix.size:
        return 0
    exponents = np.where(matrix != 0, np.frexp(matrix)[1], -MOST_BITS * MOST_BITS)
    columns = exponents.max(axis=0)
    return int(np.ptp(columns) + np.ptp((exponents - columns).max(axis=1)))


def _array(value: Any) -> np.ndarray:
    """A float array, or a complex one, of what may also be a parameter of a torch module."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value  # NumPy has no bfloat16
    matrix = np.asarray(value)
    if matrix.dtype.kind not in "biufcO":
        raise TypeError(f"{matrix.dtype} is no number")
    with np.errstate(over="ignore"):  # what leaves float64 is not finite
        return matrix if np.iscomplexobj(matrix) else matrix.astype(float)
