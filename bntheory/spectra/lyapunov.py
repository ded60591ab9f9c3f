"""Deep products: singular values that separate exponentially, and the limits of their logarithms.

A Gaussian k × r matrix is an orthogonal one times a triangle with independent χ_k, χ_{k−1}, …, χ_{k−r+1} on its
diagonal. A product J of such matrices therefore multiplies volumes in a given j-dimensional space by products of
independent χ's; and, once σ_{j+1} ≪ σ_j, by σ_1 ⋯ σ_j times the corner det(V_j) of a Haar orthogonal matrix. With

    det(V_j)² / det(V_{j−1})² = B / B′ independent,   B ~ Beta(½, (r−j)/2),   B′ ~ Beta(½, (j−1)/2),

this gives mean and variance of ln σ_j, with errors that vanish exponentially with depth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import polygamma, psi

from bntheory import arguments

Floats = NDArray[np.float64]
ASYMPTOTIC = 30.0  # from where the next term, 5/(66 x¹¹), is below rounding
MOST_EXPONENTS = 10_000_000  # what fits into memory


class LyapunovExponents(NamedTuple):
    """Of products of M square matrices, in decreasing order: E ln σ_i → M λ_i + b_i and Var ln σ_i → M v_i − w_i."""

    exponents: Floats  # λ
    variances: Floats  # v
    offsets: Floats  # b
    deficits: Floats  # w

    def mean(self, factors: int) -> Floats:
        """M λ_i + b_i."""
        return arguments.integer("factors", factors) * self.exponents + self.offsets

    def variance(self, factors: int) -> Floats:
        """M v_i − w_i; meaningless, even negative, before the singular values have separated."""
        return arguments.integer("factors", factors) * self.variances - self.deficits


def lyapunov_exponents(width: int) -> LyapunovExponents:
    """Return the Lyapunov exponents of products of real Gaussian N×N matrices with entries of variance 1/N.

    For the singular values σ_1 > … > σ_N of the product of M → ∞ of them, with digamma ψ,

        E ln σ_i   = M λ_i + b_i,    λ_i = ½ [ψ((N−i+1)/2) + ln(2/N)],   b_i = ½ [ψ((N−i+1)/2) − ψ(i/2)],
        Var ln σ_i = M v_i − w_i,    v_i = ¼ ψ′((N−i+1)/2),              w_i = ¼ [2ψ′(½) − ψ′(i/2) − ψ′((N−i+1)/2)].

    Entries of variance σ²/N add ln σ to every λ_i.

    Parameters
    ----------
    width : int
        N, from 1 to 10⁷.

    Returns
    -------
    LyapunovExponents
        Arrays (N,).

    Raises
    ------
    ValueError
        If width is out of range.

    Notes
    -----
    With λ_i − λ_{i+1} ≈ 1/(2(N−i+1)) and v_i ≈ 1/(2(N−i+1)), neighbours are as far apart as they spread together at
    M ≈ 4(N−i+1): the smallest singular values after a few factors, the largest at M ≈ 4N (see `regime`).
    For all M, E ln σ_1 ≤ M λ_1 + b_1 and E ln σ_N ≥ M λ_N + b_N.

    References
    ----------
    Newman, Commun. Math. Phys. 103, 121 (1986) (λ). Forrester, J. Phys. A 48, 215205 (2015) (v). Akemann, Burda,
    Kieburg, J. Phys. A 47, 395202 (2014) (complex matrices). b and w follow from the volumes named in this module.

    Examples
    --------
    >>> found = lyapunov_exponents(64)
    >>> print(f"{found.exponents[0] - found.exponents[-1]:.3f}")  # ln κ a factor
    2.707
    >>> (found.mean(1000) / 1000).round(2)[[0, 31, 63]].tolist()
    [-0.01, -0.35, -2.72]
    """
    width = arguments.integer("width", width, at_most=MOST_EXPONENTS)
    half = np.arange(1, width + 1) / 2
    mean, spread = psi(half), trigamma(half)
    return LyapunovExponents(
        (mean[::-1] + math.log(2) - math.log(width)) / 2,
        spread[::-1] / 4,
        (mean[::-1] - mean) / 2,
        (math.pi**2 - spread - spread[::-1]) / 4,  # 2ψ′(½) = π²
    )


def trigamma(x: Floats) -> Floats:
    """ψ′ of increasing positive x; its asymptotic series where that is right to rounding.

    >>> trigamma(np.array([0.5, 40.0])).round(9).tolist()
    [4.934802201, 0.025315104]
    """
    few = int(np.searchsorted(x, ASYMPTOTIC))
    inverse = 1 / x[few:]
    square = inverse**2
    series = 1 + inverse / 2 + square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30)))
    return np.concatenate([polygamma(1, x[:few]), inverse * series])


def volume_moments(sizes: ArrayLike, counts: ArrayLike, index: ArrayLike) -> tuple[Floats, Floats]:
    """Mean and variance of Σ ln χ_{k−i+1} over sizes k, each as often as its count, for indices i ≤ min(sizes).

    >>> mean, variance = volume_moments([2, 3], [1, 1], [1])
    >>> print(round(float(mean[0]), 6))  # ½ [ψ(1) + ψ(3/2)] + ln 2
    0.422784
    """
    freedoms = np.asarray(sizes)[:, None] - np.asarray(index) + 1.0
    counts = np.asarray(counts, dtype=float)
    return counts @ (psi(freedoms / 2) + math.log(2)) / 2, counts @ polygamma(1, freedoms / 2) / 4


def corner_moments(rank: int, index: ArrayLike) -> tuple[Floats, Floats]:
    """Mean of −½ ln(B/B′) and its variance, for indices i ≤ rank.

    >>> mean, variance = corner_moments(1, 1)
    >>> print(float(mean), float(variance))
    0.0 0.0
    """
    i = np.asarray(index)
    j = rank + 1.0 - i
    return (psi(j / 2) - psi(i / 2)) / 2, (2 * polygamma(1, 0.5) - polygamma(1, i / 2) - polygamma(1, j / 2)) / 4
