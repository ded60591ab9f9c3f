"""Log singular values of products of matrices: Jacobians of random networks at initialization, or matrices you have.

The product itself is never formed: floating point would lose its small singular values. QR steps turn it into a product
of triangles T = R_M … R_1 with decreasing rows, kept as T = diag(2^e) B with integer exponents e, so that no size
overflows, no scaling rounds, and every singular value keeps its relative accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.layers import Dense, Flatten
from bntheory.networks import Sequential, leaves
from simulations import streams
from simulations.ensemble import run_trials

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 64  # rows handled together: numpy's overhead is small beside the work, the zeros below the diagonal are few
SAFE = 1e120  # a plain product of triangles has its diagonal in (1/SAFE, SAFE): squares stay in float64
LAPACK_BITS = 700  # range of scales in one LAPACK call: centred, entries and their squares stay in float64
NOTHING = -(2**40)  # stands for the exponent of zero


def log_singular_values(
    net_or_matrices: Sequential | Sequence[ArrayLike],
    trials: int = 10,
    seed: int | np.random.Generator = 0,
    workers: int | None = None,
) -> Floats:
    """Return the natural logarithms of the singular values of random Jacobians, or of a product of given matrices.

    A network of n_l × n_{l−1} Gaussian weights of variance v_l has J = D_L W_L … D_1 W_1, where D_l = 1 without ReLU
    and otherwise acts as independent fair coins on the diagonal. Hence, with k_l ~ Binomial(n_l, ½) after a ReLU and
    k_l = n_l elsewhere, and r = k_m the smallest of k_0, …, k_L, the singular values of J other than exact zeros are
    distributed as those of

        Π_{l ≠ m} R_l √v,   R_l upper triangular r × r: χ with k_l, k_l − 1, …, k_l − r + 1 degrees of freedom on the
                            diagonal, N(0, 1) above it, all independent; v the variances v_1, …, v_L.

    Given matrices go through X_k Q_{k−1} = Q_k R_k from the first to the last, with pivoting.

    Parameters
    ----------
    net_or_matrices : Sequential or sequence of array_like
        A network of Dense layers with normal weights, each followed by ReLU or nothing (linear), of any widths. Biases
        do not matter, whether zero or independent and symmetric. The law is that of the Jacobian at one input other
        than zero. Or matrices X_1, …, X_M in order of application: the product is X_M … X_1. Real, two-dimensional.
    trials : int
        Draws of the network, at least 1. Given matrices have nothing to draw: ``trials`` and ``seed`` are then unused.
    seed : int or numpy.random.Generator
        Trial t depends on the seed and t only.
    workers : int, optional
        Threads; None: as many as cores, but one for widths below 64. The numbers do not depend on it.

    Returns
    -------
    ndarray
        (trials, min(n_0, …, n_L)), or (smallest dimension of the matrices,); descending, −inf for exact zeros.

    Raises
    ------
    ValueError
        For a network with anything else in it (the layer is named); for matrices that are not real, finite and
        two-dimensional or do not chain (they are named).

    Notes
    -----
    Measured against exact arithmetic, errors of every logarithm, the smallest included: 3e-12 for products of 200
    Gaussian 20×20 matrices (e^400 between largest and smallest), 1e-11 for 1000 of 24×24 (e^2200). In general about
    ε times the sum of the matrices' condition numbers; less where these come from the scales of rows. Given matrices:
    what is lost to working precision (a direction in which X_k Q_{k−1} is below 8 max(shape) ε of its terms) counts
    as an exact zero; entries of one matrix should not spread over more than 300 decades.

    References
    ----------
    Bartlett 1933 (QR of a Gaussian matrix). Ipsen, Kieburg, Phys. Rev. E 89, 032106 (2014) (the order of the sizes is
    free). Hanin, Nica, Commun. Math. Phys. 376, 287 (2020), section 2 (coins). Stewart, ETNA 3, 39 (1995), and Golub,
    Sølna, Van Dooren, SIAM J. Matrix Anal. Appl. 22, 1 (2000) (graded QR of products).

    Examples
    --------
    >>> from bntheory.networks import mlp
    >>> log_singular_values(mlp(depth=1000, width=3, activation="linear", init="lecun_normal"), trials=2).shape
    (2, 3)
    >>> log_singular_values([[[0.0, 1e-200]], [[1e-200], [0.0]]]).round(3).tolist()  # 1e-400 has left float64
    [-921.034]
    """
    arguments.integer("trials", trials)
    root = streams.root(seed)
    if not isinstance(net_or_matrices, Sequential):
        return _given(_checked(net_or_matrices))
    widths, layers = _described(net_or_matrices)
    if workers is None and min(widths) < BLOCK:
        workers = 1  # small matrices hold Python's lock: threads would only wait for one another
    return np.stack(run_trials(lambda trial: _draw(streams.stream(root, trial), widths, layers), trials, workers))


def dense_log_singular_values(
    net_or_matrices: Sequential | Sequence[ArrayLike],
    trials: int = 10,
    seed: int | np.random.Generator = 0,
    workers: int | None = None,
) -> Floats:
    """Return what `log_singular_values` does by explicit weights, masks, product and SVD: the reference.

    Of a network, a Gaussian input is propagated and sets the masks. Singular values below about 1e-16 of the largest
    are rounding, exact zeros among them.

    Parameters
    ----------
    net_or_matrices, trials, seed, workers
        As in `log_singular_values`; the same seed does not give the same draws.

    Returns
    -------
    ndarray
        As in `log_singular_values`.

    Raises
    ------
    ValueError
        As in `log_singular_values`, and if the product leaves float64.

    Examples
    --------
    >>> dense_log_singular_values([[[1.0, 0.0], [0.0, 2.0]]] * 3).round(6).tolist()
    [2.079442, 0.0]
    """
    arguments.integer("trials", trials)
    root = streams.root(seed)
    if not isinstance(net_or_matrices, Sequential):
        matrices = _checked(net_or_matrices)
        with np.errstate(over="ignore", invalid="ignore"):  # refused in one line below
            product = reduce(lambda product, matrix: matrix @ product, matrices)
        return _logarithms(product)[: _smallest(matrices)]
    widths, layers = _described(net_or_matrices)

    def trial(index: int) -> Floats:
        return _logarithms(_jacobian(streams.stream(root, index), widths[0], layers))[: min(widths)]

    return np.stack(run_trials(trial, trials, workers))


class _Layer(NamedTuple):
    """A Dense layer as this module sees it."""

    width: int
    deviation: float  # of a weight
    bias_deviation: float
    masked: bool


def _described(net: Sequential) -> tuple[list[int], list[_Layer]]:
    """Widths n_0, …, n_L and layers 1, …, L of a description."""
    rows = list(leaves(net))
    layers: list[_Layer] = []
    shape = rows[0].shape
    for leaf in rows[1:]:
        layer = leaf.layer
        slopes = layer.homogeneous_slopes if isinstance(layer, Activation) else None
        if isinstance(layer, Dense) and layer.init.distribution == "normal":
            deviations = math.sqrt(layer.weight_variance(shape)), math.sqrt(layer.bias_variance(shape))
            layers.append(_Layer(layer.features, *deviations, False))
        elif slopes == (1.0, 0.0) and layers:
            layers[-1] = layers[-1]._replace(masked=True)
        elif slopes != (1.0, 1.0) and not isinstance(layer, Flatten):
            raise ValueError(
                f"layer {leaf.name} ({leaf.operation}) is not supported: log_singular_values takes Dense layers with "
                "normal weights, each followed by relu, linear or nothing"
            )
        shape = leaf.shape
    return [math.prod(rows[0].shape), *(layer.width for layer in layers)], layers


def _draw(rng: np.random.Generator, widths: list[int], layers: list[_Layer]) -> Floats:
    """One draw of a network's log singular values by the triangular chain."""
    sizes = [widths[0]]
    sizes += [int(rng.binomial(layer.width, 0.5)) if layer.masked else layer.width for layer in layers]
    rank = min(sizes)
    values = np.full(min(widths), -np.inf)
    if rank:
        sizes.remove(rank)
        shift = sum(math.log(layer.deviation) + 0.5 * math.log(rank) for layer in layers)
        values[:rank] = _graded(*_chain(rng, sizes, rank)) + shift
    return values


def _chain(rng: np.random.Generator, sizes: list[int], rank: int) -> tuple[Integers, Floats]:
    """Π R_l / √rank as diag(2^exponents) rows."""
    done = start = np.zeros(rank, dtype=np.int64), np.eye(rank)
    product = None
    for size in sizes:
        factor = _triangle(rng, size, rank)
        product = factor if product is None else _triangular_product(factor, product)
        diagonal = np.diagonal(product)
        if diagonal.min() < 1 / SAFE or diagonal.max() > SAFE:
            done, product = _multiply(product, *done), None
    if product is None:
        return done
    return (start[0], product) if done is start else _multiply(product, *done)


def _triangle(rng: np.random.Generator, height: int, rank: int) -> Floats:
    """R / √rank, R of the QR factorization of a height × rank matrix of N(0, 1) entries."""
    triangle, scale = np.zeros((rank, rank)), 1 / math.sqrt(rank)
    for i in range(0, rank, BLOCK):
        rows = triangle[i : i + BLOCK, i:]
        np.multiply(rng.standard_normal(rows.shape), scale, out=rows)
        rows[:, :BLOCK] = np.triu(rows[:, :BLOCK])
    np.fill_diagonal(triangle, scale * np.sqrt(rng.chisquare(height - np.arange(rank))))
    return triangle


def _triangular_product(left: Floats, right: Floats) -> Floats:
    """Product of two upper triangles in n³/6 multiplications: a third of BLAS's trmm, a sixth of gemm."""
    product = np.zeros_like(right)
    for i in range(0, len(left), BLOCK):
        for j in range(i, len(left), BLOCK):
            end = j + BLOCK
            product[i : i + BLOCK, j:end] = left[i : i + BLOCK, i:end] @ right[i:end, j:end]
    return product


def _row_scaled(matrix: Floats, exponents: Integers) -> tuple[Integers, Floats]:
    """Move scales from columns to rows: A diag(2^exponents) = diag(2^e) A′, the largest of a row of A′ in [½, 1)."""
    sizes = np.where(matrix != 0, np.frexp(matrix)[1] + exponents, NOTHING)
    rows = sizes.max(axis=1)
    return rows, np.ldexp(matrix, exponents - rows[:, None])


def _multiply(factor: Floats, exponents: Integers, rows: Floats) -> tuple[Integers, Floats]:
    """Multiply diag(2^exponents) rows by a factor from the left."""
    scales, factor = _row_scaled(factor, exponents)
    rows = factor @ rows
    shifts = np.frexp(np.abs(rows).max(axis=1))[1]
    return scales + shifts, np.ldexp(rows, -shifts[:, None])


def _graded(exponents: Integers, rows: Floats, sweeps: int = 0) -> Floats:
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
            parts = [_graded(exponents[a:b], rows[a:b, a:b], sweeps) for a, b in pairwise(edges)]
            return np.sort(np.concatenate(parts))[::-1]
    middle = (int(exponents.max()) + int(exponents.min())) // 2
    return _logarithms(np.ldexp(rows, (exponents - middle)[:, None])) + middle * math.log(2)


def _given(matrices: list[Floats]) -> Floats:
    """Log singular values of X_M … X_1 by the pivoted QR chain."""
    values = np.full(_smallest(matrices), -np.inf)
    if matrices[-1].shape[0] < matrices[0].shape[1]:  # start from the shorter side: its length is the number of columns
        matrices = [matrix.T for matrix in reversed(matrices)]
    basis = rows = np.eye(matrices[0].shape[1])
    exponents, total = np.zeros(len(rows), dtype=np.int64), 0
    for matrix in matrices:
        if not matrix.any():
            return values
        sizes = np.frexp(matrix[matrix != 0])[1]
        centre = (int(sizes.max()) + int(sizes.min())) // 2
        total += centre
        basis, factor, pivots = _qr_step(np.ldexp(matrix, -centre), basis, exponents)
        if not len(factor):
            return values
        exponents, rows = _multiply(factor, exponents[pivots], rows[pivots])
    # two sweeps: rows come out graded, but LAPACK wants the columns to be so as well
    values[: len(rows)] = _graded(exponents, rows, sweeps=2) + total * math.log(2)
    return values


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


def _jacobian(rng: np.random.Generator, inputs: int, layers: list[_Layer]) -> Floats:
    """One draw of a network's Jacobian, with explicit weights."""
    signal, jacobian = rng.standard_normal(inputs), np.eye(inputs)
    for index, layer in enumerate(layers):
        weights = layer.deviation * rng.standard_normal((layer.width, len(signal)))
        signal = weights @ signal + layer.bias_deviation * rng.standard_normal(layer.width)
        jacobian = weights @ jacobian if index else weights
        if layer.masked:
            jacobian[signal <= 0] = 0
            signal = np.maximum(signal, 0)
    return jacobian


def _logarithms(matrix: Floats) -> Floats:
    """Logarithms of the singular values of one matrix."""
    if not np.isfinite(matrix).all():
        raise ValueError("the product has left float64: use log_singular_values, which never forms it")
    with np.errstate(divide="ignore"):  # ln 0 is the answer for an exact zero
        return np.log(np.linalg.svd(matrix, compute_uv=False))


def _smallest(matrices: list[Floats]) -> int:
    return min(min(matrix.shape) for matrix in matrices)


def _checked(matrices: Sequence[ArrayLike]) -> list[Floats]:
    """Matrices as float arrays that chain; ValueError otherwise."""
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
        matrix = np.asarray(value)
        real = None if np.iscomplexobj(matrix) else matrix.astype(float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"matrix {index} must be an array of numbers, got {value!r:.80}") from None
    if real is None:
        doubled = "[[Re, −Im], [Im, Re]] is real and has every singular value twice"
        raise ValueError(f"matrix {index} must be real, got complex numbers; {doubled}")
    if real.ndim != 2 or 0 in real.shape:
        needed = "two-dimensional and not empty (one matrix goes into a list)"
        raise ValueError(f"matrix {index} must be {needed}, got shape {real.shape}")
    if not np.isfinite(real).all():
        raise ValueError(f"matrix {index} must be finite, got {real[~np.isfinite(real)][0]}")
    return real
