"""Wide, deep, or between: which limit the singular values of a network's Jacobian are near, and its condition number.

J Jᵀ has the nonzero eigenvalues of a product of Gaussian blocks k_l × k_{l−1} of variance v_l, k_l = n_l or, after a
relu, a draw of Binomial(n_l, ½). With r = k_m the smallest size, two limits are known. Wide, from free probability:

    x(T) = (Π v_l) Π_{l=0..L} (k_l + T) / T,     eigenvalues above x:  [Σ k_l arg(k_l + T) − L Im T] / π

where x(T) is real, Im T > 0; the upper edge is x at Σ T/(k_l + T) = 1, T > 0. Deep, from `lyapunov`:

    E ln σ_i = ½ Σ ln v_l + Σ_{l≠m} E ln χ_{k_l−i+1} + ½ [ψ((r−i+1)/2) − ψ(i/2)].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bntheory.networks import Sequential
from bntheory.spectra.gaussian_chain import GaussianLayer, gaussian_chain
from bntheory.spectra.lyapunov import corner_moments, volume_moments

Floats = NDArray[np.float64]

WIDE_STD = 0.25  # of ln|Ju|, up to which the limit of infinite width is used
DEEP_SEPARATION = 1.0  # from which the limit of infinite depth is used: levels as far apart as they spread
SMALLEST = math.exp(-np.euler_gamma) / 2  # place of the smallest eigenvalue, in eigenvalues from below
DRAWS = 200  # of the masks of relu; the seed is fixed


class Ends(NamedTuple):
    """Numbers of the logarithms of σ_1, σ_r and κ = σ_1/σ_r."""

    largest: float
    smallest: float
    condition: float


UNKNOWN = Ends(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Regime:
    """What limit a network is near, and its condition number κ = σ_1/σ_r; σ_r the smallest singular value above 0.

    Attributes
    ----------
    name : str
        "wide": the limiting laws hold, up to `growth_std`. "deep": singular values are e^(normal variables) that have
        separated. "between": neither holds. "dead": relu leaves no path in most draws, J = 0.
    rank : int
        r, the number of singular values above 0; the median over draws.
    growth_std : float
        Given the masks, standard deviation of ln|Ju| for a given vector u, from the narrowest layer through the others:
        √(Σ_{l≠m} ψ′(k_l/2)/4) ≈ √(Σ 1/(2 k_l)). "wide" up to 0.25.
    separation : float
        Distance between ln σ_1 and ln σ_2 over their joint spread, ≈ √(Σ 1/(4 k_l)). "deep" from 1 on; inf if r = 1.
    log_condition_bound : float
        E ln κ is not above it, in any regime and at any size; they agree in the limit of infinite depth.
    log_mean : Ends
        E ln σ_1 (``largest``), E ln σ_r (``smallest``) and E ln κ (``condition``), given J ≠ 0; NaN between.
    log_std : Ends
        Their standard deviations over draws; deep only. A covariance of σ_1 and σ_r that stays bounded is left out.
    """

    name: str
    rank: int
    growth_std: float = math.nan
    separation: float = math.nan
    log_condition_bound: float = math.nan
    log_mean: Ends = UNKNOWN
    log_std: Ends = UNKNOWN

    def __str__(self) -> str:
        mean, std = self.log_mean, self.log_std
        if self.name == "dead":
            return "dead: relu leaves no path through most draws of this network, where J = 0"
        if self.rank == 1:
            return f"deep: one singular value, ln σ₁ is {mean.largest:.4g} ± {std.largest:.3g}"
        numbers = f"ln|Ju| spreads by {self.growth_std:.3g}; ln σ₁ − ln σ₂ is {self.separation:.3g} spreads"
        if self.name == "between":
            return f"between: {numbers}; neither limit holds, E ln κ is at most {self.log_condition_bound:.4g}"
        if self.name == "wide":
            return f"wide: {numbers}; the limiting law holds, E ln κ is about {mean.condition:.4g}"
        return f"deep: {numbers}; ln σ are nearly normal, ln κ is {mean.condition:.4g} ± {std.condition:.3g}"


def regime(net_or_width: Sequential | int, factors: int | None = None) -> Regime:
    """Say whether the limit of infinite width, of infinite depth or neither describes the spectrum of a Jacobian.

    What decides is Σ 1/k_l, M/N for M square N×N factors: wide up to M ≈ N/8, deep from M ≈ 4N on. Deep products have

        E ln κ = (M + 2)/2 · [ψ(N/2) − ψ(½)],

    an upper bound for every M. Wide ones have σ_1 at the upper edge of the limiting law, and σ_r where that law expects
    e^−γ/2 = 0.281 eigenvalues below: there it meets the exponent ½[ψ(½) + ln(2/N)] of the smallest singular value of
    many factors. At M = 1 and N → ∞ that is ln κ = ln N + ln(8/π) + γ = ln N + 1.512, where ln N + 1.537 is exact.

    Parameters
    ----------
    net_or_width : Sequential or int
        A network of Dense layers with normal weights, each followed by relu, linear or nothing, of any widths. Or the
        width N of a product of square real Gaussian matrices.
    factors : int, optional
        The number M of these matrices; only with a width.

    Returns
    -------
    Regime

    Raises
    ------
    ValueError
        If width or factors is below 1, or for another network; the row is named.

    Notes
    -----
    Against simulation of square products: wide, E ln σ_1 is too large by about M/N, at most 0.16, and E ln σ_N right
    to 0.12; deep, at M = 4N, E ln σ_1 is too large by 0.1 and its standard deviation too small by a sixth, errors that
    vanish exponentially with depth. Networks with relu: means over 200 draws of k_1, …, k_L from a fixed seed; the
    bound is then such a mean too. Their ranks fall with depth until J = 0.

    References
    ----------
    Akemann, Burda, Kieburg, J. Phys. A 47, 395202 (2014), and EPL 126, 40001 (2019) (M/N decides). Edelman, SIAM J.
    Matrix Anal. Appl. 9, 543 (1988) (ln N + 1.537). Hanin, Nica, Commun. Math. Phys. 376, 287 (2020) (Σ 1/n_l).

    Examples
    --------
    >>> print(regime(64, factors=4))
    wide: ln|Ju| spreads by 0.178; ln σ₁ − ln σ₂ is 0.126 spreads; the limiting law holds, E ln κ is about 14.66
    >>> print(regime(64, factors=64))
    between: ln|Ju| spreads by 0.713; ln σ₁ − ln σ₂ is 0.506 spreads; neither limit holds, E ln κ is at most 178.6
    >>> print(regime(16, factors=1000))
    deep: ln|Ju| spreads by 5.77; ln σ₁ − ln σ₂ is 4.15 spreads; ln σ are nearly normal, ln κ is 1994 ± 35.6
    """
    layers = gaussian_chain(net_or_width, factors, "regime")
    if tilted := next((layer.activation for layer in layers if abs(layer.slope) not in (0, 1)), None):
        raise ValueError(f"regime is not available because of {tilted}: it takes relu, linear or nothing after Dense")
    draws = _draw_sizes(layers)
    rank = int(np.median(draws.min(axis=1)))
    if rank == 0:
        return Regime("dead", 0)
    alive = [_counted(sizes) for sizes in draws if sizes.min() > 0]
    deep = [_deep(sizes) for sizes in alive]
    growth_std = math.sqrt(np.mean([draw.growth_variance for draw in deep]))
    separation = float(np.median([draw.separation for draw in deep]))
    means = np.array([draw.means for draw in deep])
    found = rank, growth_std, separation, float(means[:, 2].mean())
    shift = math.fsum(layer.log_variance for layer in layers) / 2
    shifts = np.array([shift, shift, 0.0])
    if separation >= DEEP_SEPARATION:
        stds = np.sqrt(np.mean([draw.variances for draw in deep], axis=0) + means.var(axis=0))
        return Regime("deep", *found, Ends(*(means.mean(axis=0) + shifts).tolist()), Ends(*stds.tolist()))
    if growth_std <= WIDE_STD:
        wide = np.mean([_wide(sizes) for sizes in alive], axis=0)
        return Regime("wide", *found, Ends(*(wide + shifts).tolist()))
    return Regime("between", *found)


class Sizes(NamedTuple):
    """Distinct sizes, increasing, and how often each occurs."""

    k: NDArray[np.int64]
    times: NDArray[np.int64]


class Deep(NamedTuple):
    """The limit of infinite depth for given sizes, without Σ ln v_l / 2; arrays are of Ends."""

    growth_variance: float
    separation: float
    means: Floats
    variances: Floats


def _draw_sizes(layers: list[GaussianLayer]) -> NDArray[np.int64]:
    """k_0, …, k_L of every draw: one, or DRAWS with relu."""
    units = np.array([layers[0].inputs, *(layer.outputs for layer in layers)])
    masked = np.array([False, *(layer.slope == 0 for layer in layers)])
    draws = np.tile(units, (DRAWS if masked.any() else 1, 1))
    draws[:, masked] = np.random.default_rng(0).binomial(draws[:, masked], 0.5)
    return draws


def _counted(sizes: NDArray[np.int64]) -> Sizes:
    return Sizes(*np.unique(sizes, return_counts=True))


def _deep(sizes: Sizes) -> Deep:
    rank, others = int(sizes.k[0]), sizes.times.copy()
    others[0] -= 1
    index = np.array([1, min(2, rank), rank])
    mean, variance = volume_moments(sizes.k, others, index)
    offset, deficit = corner_moments(rank, index)
    separation = float(mean[0] - mean[1]) / math.sqrt(variance[0] + variance[1]) if rank > 1 else math.inf
    largest, _, smallest = mean + offset
    first, _, last = np.maximum(variance - deficit, 0)  # negative only where this limit does not apply
    both = first + last if rank > 1 else 0.0
    means = np.array([largest, smallest, largest - smallest])
    return Deep(float(variance[0]), separation, means, np.array([first, last, both]))


def _wide(sizes: Sizes) -> Ends:
    """Of the limiting law for given sizes, without Σ ln v_l / 2.

    On the curve where x is real, T = ρ e^{it} with Σ arg(k_l + T) = t, from t = 0 at the upper edge to π at the lower.
    With δ = π − t, [r δ − Σ (k_l − r) arg(k_l + T) + L Im T] / π eigenvalues lie below.
    """
    unit, factors = int(sizes.k[-1]), int(sizes.times.sum()) - 1
    k, count = sizes.k / unit, sizes.times.astype(float)  # so that ln ρ is near 0, and sharp, where T is near −k
    rank = k[0]
    lowest = math.log(rank / (2 * factors + 2))  # of ρ; the highest is 1

    def point(delta: float) -> complex:
        turn = complex(-math.cos(delta), math.sin(delta))

        def angle(log_rho: float) -> float:
            return float(count @ np.angle(k + math.exp(log_rho) * turn)) - (math.pi - delta)

        return math.exp(optimize.brentq(angle, lowest, 1e-9, xtol=1e-16)) * turn

    def below(log_delta: float) -> float:
        at = point(math.exp(log_delta))
        angles = rank * math.exp(log_delta) - (count * (k - rank)) @ np.angle(k + at) + factors * at.imag
        return float(angles) * unit / math.pi

    def log_singular(at: complex) -> float:
        return float(count @ np.log(np.abs(k + at)) - math.log(abs(at)) + factors * math.log(unit)) / 2

    log_top = optimize.brentq(lambda y: count @ (math.exp(y) / (k + math.exp(y))) - 1, lowest, 1e-9)
    earliest = math.log(math.pi * SMALLEST / (unit * (rank + factors))) - 1
    log_delta = optimize.brentq(lambda y: below(y) - SMALLEST, earliest, math.log(3.0), xtol=1e-8)
    largest, smallest = log_singular(complex(math.exp(log_top))), log_singular(point(math.exp(log_delta)))
    return Ends(largest, smallest, largest - smallest)
