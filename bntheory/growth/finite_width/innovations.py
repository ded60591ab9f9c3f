"""What sampling a row's channels adds to the fluctuations of its second moments, for one channel.

With ρ the correlation of u and v at two points, Cov(φ(u)², φ(v)²)/(E φ(u)² E φ(v)²) is

    weights      2ρ²
    ReLU         G(ρ) = (2/π)[3ρ√(1−ρ²) + (π − arccos ρ)(1 + 2ρ²)] − 1 = 2ρ² + an odd part
    smooth φ     Σ_k r_k(q) r_k(q') ρ^k,   r_k = E φ(√q g)² He_k(g)/(√k! E φ²)
    sum, φ       of what φ(x + f)² varies over draws of the branch f, from sampled units
    maximum      of the squares of sampled units

A normalization keeps the mean of u² over channels and points, and LayerNorm and GroupNorm that of u as well: the term
of k = 2, and of k = 1 the part that all points of an image share, are lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bntheory.activations import Activation
from bntheory.gaussian import LIMIT
from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import hermite, population
from bntheory.growth.infinite_width.state import State

SAMPLED = 256  # units from which covariances of squares are taken
TERMS = 10  # of the series for smooth φ; the rest is added as one term of the next degree

Blocks = tuple[np.ndarray, np.ndarray | None]  # within a copy, and between two


def each(function: Callable[..., np.ndarray], *blocks: Blocks) -> Blocks:
    """Apply a function to the matrices within a copy, and to those between two where there are any."""
    within = function(*(first for first, _ in blocks))
    others = [second for _, second in blocks if second is not None]
    return within, function(*others) if len(others) == len(blocks) else None


def correlations(state: State) -> Blocks:
    """Uncentred correlations of points, within a copy and between two, in single precision."""
    assert state.log_d is not None
    size, top = _sizes(state)

    def correlation(log_d: np.ndarray) -> np.ndarray:
        def cosines(rows: slice) -> np.ndarray:
            apart, own = np.exp((log_d[rows] - 2 * top).astype(np.float32)), size[rows, None]
            return np.clip((own**2 + size**2 - apart) / np.maximum(2 * own * size, np.float32(1e-30)), -1, 1)

        return by_rows(cosines, len(size))

    return each(correlation, (state.log_d, state.log_cross))


def _sizes(state: State) -> tuple[np.ndarray, float]:
    root = state.log_q / 2
    top = float(root.max()) if np.isfinite(root.max()) else 0.0
    return np.exp(root - top).astype(np.float32), top


def of_weights(state: State) -> Blocks:
    """Cov(u², v²)/(E u² E v²) = 2ρ²."""
    return each(lambda rho: 2 * rho**2, correlations(state))


def of_activation(phi: Activation, before: State, norm: str = "") -> Blocks:
    """Cov(φ(u)², φ(v)²)/(E φ² E φ²) of Gaussian units.

    Parameters
    ----------
    phi : Activation
    before : State
        Of the row that φ is applied to.
    norm : {"", "batch", "image", "rest"}
        Over what these units have just been normalized; "rest" leaves out the terms of k = 1 and 2 altogether.
    """
    if before.log_d is None:
        return np.zeros((before.points,) * 2, np.float32), None
    rho = correlations(before)
    lost = {"image": shared, "rest": correlations}.get(norm)
    parts = (rho,) if lost is None else (rho, lost(before))
    if phi.homogeneous_slopes is not None:
        return each(lambda r, linear=None: homogeneous_covariance(phi, r, not norm, linear), *parts)
    table = square_series(phi, before.log_q).astype(np.float32)

    def covariance(r: np.ndarray, linear: np.ndarray | None = None) -> np.ndarray:
        total = np.zeros_like(r)
        for k in range(TERMS, 0, -1):
            if not (norm and k == 2):
                total += table[:, k, None] * table[:, k]
            total *= r
        return total if linear is None else total - table[:, 1, None] * table[:, 1] * linear

    return each(covariance, *parts)


def homogeneous_covariance(
    phi: Activation, rho: np.ndarray, even: bool = True, lost: np.ndarray | None = None
) -> np.ndarray:
    """The same of given correlations for a φ that is linear on either side of 0.

    The odd part of G, which is the covariance of u|u|, counts in full for ReLU and not for |u|.

    Parameters
    ----------
    phi : Activation
    rho : array
    even : bool
        Whether the mean of u² varies.
    lost : array, optional
        Of ρ in the linear term of the odd part.
    """
    share = np.float32(odd_share(phi))
    odd = 2 / np.pi * (3 * rho * np.sqrt(np.maximum(1 - rho**2, 0)) + np.arcsin(rho) * (1 + 2 * rho**2))
    if lost is not None:
        odd -= np.float32(8 / np.pi) * lost
    covariance = share * odd
    return covariance + 2 * rho**2 if even else covariance


def odd_share(phi: Activation) -> float:
    """What the covariance of u|u| counts in that of φ(u)²: 1 for ReLU, 0 for even or odd φ."""
    assert phi.homogeneous_slopes is not None
    a, b = phi.homogeneous_slopes
    return ((a**2 - b**2) / (a**2 + b**2)) ** 2


def square_series(phi: Activation, log_q: np.ndarray) -> np.ndarray:
    """r_k(q) for k < TERMS, and the root of what they leave of E φ⁴/(E φ²)²: (points, TERMS + 1).

    Examples
    --------
    >>> from bntheory import activation
    >>> square_series(activation("tanh"), np.array([-40.0]))[0, :4].round(6).tolist()  # φ² = u²: 1 + √2 He_2/√2!
    [1.0, 0.0, 1.414214, 0.0]
    """
    inside = np.clip(np.where(np.isfinite(log_q), log_q, -LIMIT), -LIMIT, LIMIT)
    nodes, weights = hermite.interpolation(inside)
    table = np.empty((len(nodes), TERMS + 1))
    for row, node in zip(table, nodes, strict=True):
        terms = hermite.series(lambda x: phi.phi(x) ** 2, node, phi.kinks)
        fourth = hermite.series(lambda x: phi.phi(x) ** 4, node, phi.kinks)[0]
        row[:TERMS] = terms[:TERMS]
        row[TERMS] = math.sqrt(max(0.0, fourth - float(terms[:TERMS] @ terms[:TERMS])))
        row /= terms[0] or 1.0
    return weights @ table


def shared(state: State) -> Blocks:
    """(K_p + K_p' − K)/√(qq'), K_p the mean over points of the covariance with p: of ρ, what all points share."""
    size, _ = _sizes(state)
    product = size[:, None] * size
    safe = np.maximum(product, np.float32(1e-30))

    def relative(r: np.ndarray) -> np.ndarray:
        row = (r * product).mean(axis=1)
        return (row[:, None] + row - row.mean()) / safe

    return each(relative, correlations(state))


def of_sum(first: State, total: State) -> Blocks | None:
    """Cov(h², h'²) of a sum h = x + f given x: 4 E xx' E ff' + 2 (E ff')² = 2 (E hh')² − 2 (E xx')²."""
    if total.log_d is None or first.log_d is None:
        return None
    share = np.exp(first.log_q - np.where(np.isfinite(total.log_q), total.log_q, 0.0)).astype(np.float32)

    def relative(whole: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        return 2 * (whole**2 - fixed**2 * share[:, None] * share)

    return each(relative, correlations(total), correlations(first))


def of_response(phi: Activation, units: population.Population) -> tuple[np.ndarray, Blocks]:
    """The branch's share b = E φ φ′ f/E φ² at every point of φ(x + f), and Cov(e, e') from two draws of the branch.

    The second draw is a neighbour's.
    """
    assert units.parts is not None
    x, f = units.parts
    scales = [math.exp(part.log_scale - units.log_scale) for part in (x, f)]
    total = x.particles * scales[0] + f.particles * scales[1]
    factor = 1.0 if phi.homogeneous_slopes is not None else math.exp(min(max(units.log_scale, -80), 80))
    value = phi.phi(total * factor)
    moved = value * phi.dphi(total * factor) * f.particles * (scales[1] * factor)
    square = np.mean(value**2, axis=0)
    response = np.divide(np.mean(moved, axis=0), square, out=np.zeros_like(square), where=square > 0)
    if x.fields is None or f.fields is None:
        return response.astype(np.float32), (np.zeros((1, 1)), None)
    ratio, other = (np.float32(scale * factor) for scale in scales)
    some = slice(0, SAMPLED)
    first = phi.phi(x.fields[some] * ratio + f.fields[some] * other) ** 2
    second = phi.phi(x.fields[some] * ratio + np.roll(f.fields[some], 1, axis=0) * other) ** 2
    mean = np.mean((first + second) / 2, axis=(0, 1))
    change = (first - second) / np.where(mean > 0, mean, 1) / np.float32(math.sqrt(2))
    return response.astype(np.float32), population.products(change)


def of_pool(before: State, after: State, shares: np.ndarray) -> Blocks:
    """What squares of pooled units covary beyond means of their squares, `shares` the points' (windows, points)."""
    averaged = _relative_squares(population.drawn(before)) @ shares.T
    return each(
        np.subtract, population.products(_relative_squares(population.drawn(after))), population.products(averaged)
    )


def _relative_squares(units: population.Population) -> np.ndarray:
    assert units.fields is not None
    squares = units.fields[: 4 * SAMPLED] ** 2
    mean = squares.mean(axis=(0, 1))
    return np.divide(squares, mean, out=np.ones_like(squares), where=mean > 0) - 1
