"""BatchNorm over images at infinite width: covariances of its output, and E 1/s², from the modes of its input.

Units are Gaussian over all points of the batch. About their mean over the batch, and over E s², they have covariances
C_pp' within an image and C'_pp' between two, of B images alike, and

    s² = Σ λ_k χ_k²,   λ the eigenvalues of C/B + (1 − 1/B) C', once, and of (C − C')/B, B − 1 times, over the points

with independent χ_k² of one degree of freedom. By 1/(s² + ε) = ∫ e^{−(s² + ε)t} dt, with L(t) = Π (1 + 2λ_k t)^{−1/2},

    E 1/(s² + ε) = ∫ e^{−εt} L(t) dt,      E y y' has the modes  λ_k ∫ e^{−εt} L(t)/(1 + 2λ_k t) dt

for y = (h − mean)/√(s² + ε): a mode that is large makes s² large, and gains less than C/(E s² + ε) says. Exact for any
batch; for very many points by the first two moments of s², and E y y' to leading order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.state import State, log_mean

MOST_POINTS = 256
DOMINANT = 1e12  # ε over the mean variance, from which s² does not matter
STEP = 0.4
TIMES = np.exp(np.arange(-30.0, 100.0, STEP))  # t of the integrals over ln t

Blocks = tuple[np.ndarray, np.ndarray | None]


class Normalized(NamedTuple):
    """E y y' within an image and between two, and ln E 1/(s² + ε), all for E s² = 1."""

    covariances: Blocks
    log_inverse: float


def centred(state: State) -> Blocks:
    """C and C', from the distances of a state: covariances about the mean over the batch, of mean variance 1.

    Zero where all points are the same.
    """
    state = state.folded()
    assert state.log_d is not None
    scale = log_mean(state.log_row_means)
    if scale == -math.inf:
        return np.zeros_like(state.log_d), None if state.log_cross is None else np.zeros_like(state.log_cross)
    log_d, log_cross = state.log_d, state.log_cross
    mean = np.exp(state.log_row_means - scale).astype(log_d.dtype)

    def about_mean(block: np.ndarray) -> np.ndarray:
        return by_rows(lambda rows: mean[rows, None] + mean - 1 - np.exp(block[rows] - scale), len(block))

    return about_mean(log_d), None if log_cross is None else about_mean(log_cross)


def normalized(given: Blocks, copies: float, epsilon: float = 0.0) -> Normalized:
    """Covariances of BatchNorm's output and the mean of its squared factor.

    Parameters
    ----------
    given : pair of arrays (points, points), the second None with one image
        C and C' as `centred` gives them.
    copies : float
        B, may be infinite.
    epsilon : float
        Of BatchNorm, over the mean variance of its input.

    Returns
    -------
    Normalized
        log_inverse is infinite where fewer than three modes are left and epsilon is 0.

    Examples
    --------
    >>> alone = np.array([[1.0]]), np.array([[-1 / 7]])  # eight numbers: s² is χ² of seven degrees of freedom over 7
    >>> print(round(math.exp(normalized(alone, copies=8).log_inverse), 6))
    1.4
    """
    within, cross = given
    points, share = len(within), 1 / copies
    if points > MOST_POINTS or epsilon > DOMINANT:
        squares = [float(np.vdot(block, block)) / points**2 for block in given if block is not None]
        total = squares[0] if len(squares) == 1 else squares[0] * share + squares[1] * (1 - share)
        log_inverse = math.inf if total >= 0.5 else -math.log(1 - 2 * total + epsilon)
        scale = 1 / (1 + epsilon)
        return Normalized((within * scale, None if cross is None else cross * scale), log_inverse)
    other = np.zeros_like(within) if cross is None else cross
    common, common_axes = np.linalg.eigh(within * share + other * (1 - share))
    single, single_axes = np.linalg.eigh(within - other)
    common, single = (np.maximum(modes, 0) / points for modes in (common, single))
    terms = _log_laplace(common, 1, 1) + _log_laplace(single, copies - 1, share) - epsilon * TIMES + np.log(TIMES)
    if terms[-1] > terms.max() - 3:  # the integral does not end
        return Normalized(given, math.inf)
    weight = np.exp(terms) * STEP
    total = (common_axes * _gained(common, 1, weight)) @ common_axes.T * points
    apart = (single_axes * _gained(single, share, weight)) @ single_axes.T * points
    between = None if cross is None else total - apart * share
    return Normalized((total + apart * (1 - share), between), math.log(weight.sum()))


def _log_laplace(modes: np.ndarray, count: float, share: float) -> np.ndarray:
    """ln E e^{−t s²} of `count` times these modes, each times `share`; of infinitely many: s² is certain."""
    modes = np.where(modes > 1e-12 * modes.max(initial=0), modes, 0)
    if math.isinf(count):
        return -TIMES * modes.sum()
    return -0.5 * count * np.log1p(2 * share * np.multiply.outer(TIMES, modes)).sum(axis=1)


def _gained(modes: np.ndarray, share: float, weight: np.ndarray) -> np.ndarray:
    return modes * (weight @ (1 / (1 + 2 * share * np.multiply.outer(TIMES, modes))))


def log_inverse_of_group(state: State, members: int, epsilon: float = 0.0) -> float:
    """ln E 1/(s² + ε) of GroupNorm, E s² = 1: s² over the positions of an image and a group of channels, all alike.

    λ are the eigenvalues of C over its points: members − 1 times those of the covariances of a channel, each over
    members, and once those about the mean over positions, which the group's mean takes away.
    """
    state = state.folded()
    assert state.log_d is not None
    q, scale = positions.linear(state.log_q)
    own = (q[:, None] + q - np.exp(state.log_d - scale)) / 2
    rows = own.mean(axis=1)
    inside = own - rows[:, None] - rows + rows.mean()
    total = (members - 1) * float(np.trace(own)) + float(np.trace(inside))
    if not total > 0:
        return math.inf
    terms = np.log(TIMES) - epsilon * TIMES
    for block, count in ((own, members - 1), (inside, 1)):
        terms = terms + _log_laplace(np.maximum(np.linalg.eigvalsh(block), 0) / total, count, 1)
    ended = terms[-1] <= terms.max() - 3
    return math.log(float(np.exp(terms).sum()) * STEP) if ended else math.inf
