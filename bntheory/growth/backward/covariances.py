"""Gradients at different points of a batch: their covariances, and what layers make of them on the way back.

Blocks are a pair of matrices (points, points) in single precision, the first within one copy of the points, the second
between two, summed over the copies − 1 others, or None if there is one copy. Of a gradient g with γ_p = E g_p²

    links     E g_p g_p'/√(γ_p γ_p'), ones on the first diagonal

With u, v Gaussian units of the row before, of variances q, q' and correlation ρ:

    Activation   links × E φ′(u)φ′(v)/√(E φ′(u)² E φ′(v)²);   for slopes a, b:  (a − b)² (π − arccos ρ)/2π + a b
    Conv         E g_a g_b = n v Σ E g_P g_P' over the outputs and offsets that read a and b
    Pool         E g gᵀ ↦ Aᵀ E g gᵀ A, A the shares;  by the positions of the maxima of sampled units
    BatchNorm    E 1/s² [E g_i g_j − its means over rows and columns − (r_i/C_ii + r_j/C_jj − mean r) C_ij], over all
                 points of the batch, of which there are m;  with y = (u − mean)/s, C_ij = E y_i y_j, g the gradient
                 of y and r_i = Σ_k E g_i g_k y_i y_k/m

The last is E (g − mean − y ⟨y, g⟩/m)(…)ᵀ/s²: exact in its trace if s is independent of y and the y are Gaussian, and
otherwise with y_j replaced by its regression on y_i, (C_ij/C_ii) y_i, in E g_i ⟨y, g⟩ y_j.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.by_rows import by_rows
from bntheory.growth.finite_width import innovations
from bntheory.growth.infinite_width import hermite, population, positions
from bntheory.growth.infinite_width.sizes import Lost, of_blocks
from bntheory.growth.infinite_width.state import State, log_mean
from bntheory.layers import Conv, Shape

Blocks = tuple[np.ndarray, np.ndarray | None]
SAMPLED = 256  # sampled units for means over pairs of points


class Field(NamedTuple):
    """Gaussian units of a row over its points."""

    log_q: np.ndarray
    correlation: Blocks  # of one pair of copies, not summed over the others; of images, at equal sizes
    sizes: np.ndarray | None = None  # of images that differ in size

    def resized(self, block: Blocks) -> Blocks:
        """Means over pairs of images of what grows with the sizes of both."""
        lost = of_blocks(self.sizes)

        def kept(matrix: np.ndarray, lost: Lost | None) -> np.ndarray:
            return matrix if lost is None else by_rows(lambda rows: (1 - lost(rows)) * matrix[rows], len(matrix))

        return kept(block[0], lost[0]), None if block[1] is None else kept(block[1], lost[1])


def field(state: State) -> Field:
    """What the rules need of a row of Gaussian units whose distances are carried."""
    return Field(state.log_q, innovations.correlations(state), state.sizes)


def single(blocks: Blocks) -> Blocks:
    """In single precision."""
    return each(lambda block: block.astype(np.float32, copy=False), blocks)


def each(function: Callable[..., np.ndarray], *blocks: Blocks) -> Blocks:
    """Apply a function to both matrices."""
    second = [block[1] for block in blocks]
    known = [matrix for matrix in second if matrix is not None]
    return function(*(block[0] for block in blocks)), function(*known) if len(known) == len(second) else None


def diagonal(points: int) -> Blocks:
    """Links of uncorrelated gradients."""
    return np.eye(points, dtype=np.float32), None


def zero_sum(points: int, copies: float) -> Blocks:
    """Links of gradients whose sum over the batch is zero, at points that are alike."""
    if points == 1:
        return np.ones((1, 1), np.float32), np.full((1, 1), -1, np.float32) if copies > 1 else None
    return shared((np.ones((points, points), np.float32), None), -1 / (points - 1))


def shared(links: Blocks, share: float) -> Blocks:
    """Links times a number, but of a point with itself."""
    within = links[0] * np.float32(share)
    np.fill_diagonal(within, 1)
    return within, None if links[1] is None else links[1] * np.float32(share)


def spread(links: Blocks, index: np.ndarray, points: int) -> Blocks:
    """The links of some of the points; nothing at the others."""

    def placed(block: np.ndarray) -> np.ndarray:
        result = np.zeros((points, points), np.float32)
        result[np.ix_(index, index)] = block
        return result

    return each(placed, links)


def added(first: Blocks, second: Blocks, factor: float, other: float) -> Blocks:
    """Their weighted sum, where None is zero."""
    within = first[0] * np.float32(factor) + second[0] * np.float32(other)
    crosses = [block * np.float32(by) for block, by in ((first[1], factor), (second[1], other)) if block is not None]
    return within, sum(crosses[1:], crosses[0]) if crosses else None


def times(blocks: Blocks, root: np.ndarray) -> Blocks:
    """Every entry times √γ √γ'."""
    root = root.astype(np.float32)
    return each(lambda block: block * root[:, None] * root, blocks)


def normalized(blocks: Blocks) -> tuple[np.ndarray, Blocks]:
    """The diagonal γ, and the links."""
    gamma = np.diagonal(blocks[0]).astype(float)
    root = np.sqrt(np.maximum(gamma, 0))
    return gamma, times(blocks, inverse(root))


def inverse(values: np.ndarray) -> np.ndarray:
    """1/x, 0 for 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)


def ratio(first: Blocks, second: Blocks) -> Blocks:
    """First over second, 0 where the second is not positive."""
    return each(lambda one, other: one * inverse(other), first, second)


# --- activations -----------------------------------------------------------------------------------------------------


def slopes(phi: Activation, row: Field) -> Blocks:
    """E φ′(u)φ′(v)/√(E φ′(u)² E φ′(v)²)."""
    if (pair := phi.homogeneous_slopes) is not None:
        a, b = (np.float32(slope * math.sqrt(2 / (pair[0] ** 2 + pair[1] ** 2))) for slope in pair)
        return each(lambda rho: (a - b) ** 2 * _orthant(rho) + a * b, row.correlation)
    table, tail, size = _slope_series(phi, row.log_q)
    return each(lambda rho: _series(table, tail, rho) * _product(1 / size), row.correlation)


def radial(phi: Activation, row: Field) -> Blocks:
    """E φ′(u)φ′(v)uv/√(E φ′(u)² E φ′(v)²), over the mean of q."""
    mean = log_mean(row.log_q)
    size = np.exp((row.log_q - (mean if math.isfinite(mean) else 0.0)) / 2).astype(np.float32)
    if (pair := phi.homogeneous_slopes) is not None:
        a, b = (np.float32(slope * math.sqrt(2 / (pair[0] ** 2 + pair[1] ** 2))) for slope in pair)

        def product(rho: np.ndarray) -> np.ndarray:
            root = np.sqrt(np.maximum(1 - rho**2, 0)) / np.float32(2 * math.pi)
            return ((a - b) ** 2 * (rho * _orthant(rho) + root) + a * b * rho) * _product(size)

        return row.resized(each(product, row.correlation))
    table, tail, norm = _radial_series(phi, row.log_q)
    return row.resized(each(lambda rho: _series(table, tail, rho) * _product(size / norm), row.correlation))


def _orthant(rho: np.ndarray) -> np.ndarray:
    """Probability that both are positive."""
    return (np.float32(math.pi) - np.arccos(rho)) / np.float32(2 * math.pi)


def _product(size: np.ndarray) -> np.ndarray:
    size = size.astype(np.float32)
    return size[:, None] * size


def _series(table: np.ndarray, tail: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Σ_k b_k b'_k ρ^k, with what the last terms leave of the diagonal as one more."""
    total, power = np.zeros_like(rho), np.ones_like(rho)
    for column in table.T:
        total += _product(column) * power
        power = power * rho
    return total + _product(np.sqrt(tail)) * power


def _slope_series(phi: Activation, log_q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hermite coefficients of φ′(√q g), what they leave of E φ′², and its root."""
    log_q = _alive(log_q)
    a, both = hermite.coefficients(phi, log_q)
    degrees = np.arange(1, hermite.DEGREE)
    table = a[:, 1:] * np.sqrt(degrees) * np.exp(-log_q / 2)[:, None]
    square = both[1] * np.exp(-log_q)
    return table, np.maximum(square - np.sum(table**2, axis=1), 0), np.sqrt(square)


def _radial_series(phi: Activation, log_q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hermite coefficients of φ′(u)u/√q, what they leave of its mean square, and the root of E φ′²."""
    log_q = _alive(log_q)
    a, both = hermite.coefficients(phi, log_q)
    k = np.arange(hermite.DEGREE - 2)
    size = np.exp(log_q / 2)
    table = (k * a[:, :-2] + np.sqrt((k + 1.0) * (k + 2)) * a[:, 2:]) / size[:, None]
    g = population.normal_quantiles(population.FEWEST)
    square = np.array([np.mean((phi.dphi(root * g) * g) ** 2) for root in size])
    return table, np.maximum(square - np.sum(table**2, axis=1), 0), np.sqrt(both[1]) / size


def _alive(log_q: np.ndarray) -> np.ndarray:
    """Without dead points, and within the range beyond which nothing changes any more, since only ratios are asked."""
    finite = np.isfinite(log_q)
    alive = np.where(finite, log_q, log_q[finite].min() if finite.any() else 0.0)
    return np.clip(alive, -hermite.LIMIT, hermite.LIMIT)


# --- sampled units ---------------------------------------------------------------------------------------------------


def maxima(blocks: Blocks, places: np.ndarray, fields: np.ndarray) -> Blocks:
    """The covariances of gradients that go to the maxima of windows, chosen by sampled units."""
    chosen, points = positions.read(fields, places, -math.inf).argmax(axis=-1), fields.shape[-1]
    where = [(chosen == k).astype(np.float32) for k in range(places.shape[1])]
    size = points + 1  # the last, which is never chosen, for places of the padding
    results = [None if block is None else np.zeros((size, size), np.float32) for block in blocks]
    for one, other in itertools.product(range(len(where)), repeat=2):
        shares = population.products(where[one], where[other])
        for result, block, share in zip(results, blocks, shares, strict=True):
            if result is not None and block is not None and share is not None:
                result[np.ix_(places[:, one], places[:, other])] += block * share
    assert results[0] is not None
    return each(lambda result: result[:points, :points], (results[0], results[1]))


# --- windows ---------------------------------------------------------------------------------------------------------


def convolved(layer: Conv, shape: Shape, block: np.ndarray) -> np.ndarray:
    """Σ over offsets of a block of outputs, at the two points that they read: along one side, then the other."""
    outputs = layer.output_shape(shape)[1:]
    for axis, (side, count, window) in enumerate(zip(shape[1:], outputs, layer.windows(shape), strict=True)):
        pad = window.padding
        before = math.prod(shape[1 : 1 + axis])
        after = math.prod(outputs[axis + 1 :])
        block = block.reshape(before, count, after, before, count, after)
        full = np.zeros((before, side + 2 * pad, after, before, side + 2 * pad, after), np.float32)
        for span in positions.spans(window, count):
            full[:, span, :, :, span] += block
        block = full[:, pad : pad + side, :, :, pad : pad + side]
    return np.ascontiguousarray(block).reshape(math.prod(shape[1:]), -1)


# --- batch normalization ---------------------------------------------------------------------------------------------


def projected(moments: Blocks, radials: Blocks, y: Blocks, copies: float) -> Blocks:
    """What BatchNorm leaves of E g g', 1/s² apart; `radials` are E g g' y y', `y` the covariances of its output."""
    points = len(moments[0])
    mean, inner = (_row_sums(blocks) / np.float32(points) for blocks in (moments, radials))
    own = np.diagonal(y[0])
    slope = np.divide(inner, own, out=np.zeros_like(inner), where=own > 0)
    share = np.float32(1 / copies)

    def left(given: np.ndarray | None, output: np.ndarray, share: np.floating) -> np.ndarray:
        def of_rows(rows: slice) -> np.ndarray:
            removed = mean[rows, None] + mean - mean.mean()
            along = slope[rows, None] + slope - inner.mean()
            return (0 if given is None else given[rows]) - share * (removed + along * output[rows])

        return by_rows(of_rows, points)

    return left(moments[0], y[0], share), None if y[1] is None else left(moments[1], y[1], 1 - share)


def _row_sums(blocks: Blocks) -> np.ndarray:
    return blocks[0].sum(axis=1) + (0 if blocks[1] is None else blocks[1].sum(axis=1))
