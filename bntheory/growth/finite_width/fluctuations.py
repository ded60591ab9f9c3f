"""Finite width: the exact law of the log growth of linear and ReLU networks, one input at a time.

With Gaussian weights of variance v and biases of variance v_b, given ‖h_{l−1}‖²,

    ‖z_l‖² = (v ‖h_{l−1}‖² + v_b) χ²_n          before the activation
    ‖h_l‖² = (v ‖h_{l−1}‖² + v_b) χ²_K          after it: K = n if linear, K ~ Binomial(n, ½) if ReLU

and the χ² are independent of everything before (Hanin and Nica 2018). u = ln‖h‖² is a Markov chain on the line; without
biases it is a sum of independent terms, and this file has its law. With biases see `density_evolution`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


class LogChi2(NamedTuple):
    """Law of ln χ²_K given K ≥ 1: K = units if not halved, K ~ Binomial(units, ½) if halved (ReLU)."""

    units: int
    halved: bool

    def __str__(self) -> str:
        return f"ln χ²_K, K {'~ Binomial' if self.halved else '='} {self.units}"


class Step(NamedTuple):
    """One dense layer and its activation: variances of a weight and of a bias, and the law of ln χ²_K.

    `bias_excess` is the excess kurtosis of the biases: 0 if Gaussian, −6/5 if uniform.
    """

    log_weight_variance: float
    log_bias_variance: float
    law: LogChi2
    bias_excess: float = 0.0


@functools.cache
def degrees(law: LogChi2) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of K ≥ 1 that matter and their probabilities given K ≥ 1; the others sum to under 1e-16."""
    if not law.halved:
        return np.array([float(law.units)]), np.array([1.0])
    reach = 4.4 * math.sqrt(law.units) + 40  # Hoeffding: P(|K − n/2| > 4.4 √n) < 2 exp(−38)
    first, last = max(1, math.floor(law.units / 2 - reach)), min(law.units, math.ceil(law.units / 2 + reach))
    k = np.arange(first, last + 1, dtype=float)
    weights = special.gammaln(law.units + 1) - special.gammaln(k + 1) - special.gammaln(law.units - k + 1)
    weights = np.exp(weights - weights.max())
    return k, weights / weights.sum()


@functools.cache
def mean_and_variance(law: LogChi2) -> tuple[float, float]:
    """Mean and variance of ln χ²_K given K ≥ 1.

    Examples
    --------
    >>> mean, variance = mean_and_variance(LogChi2(1000, halved=True))
    >>> print(f"{100 * (mean + math.log(2 / 1000)):.6f} {100 * variance:.6f}")  # He, depth 100
    -0.250410 0.501859
    """
    k, weights = degrees(law)
    log_k = special.digamma(k / 2) + math.log(2)
    mean = float(weights @ log_k)
    return mean, float(weights @ (special.polygamma(1, k / 2) + (log_k - mean) ** 2))


def log_alive(law: LogChi2) -> float:
    """ln P(K ≥ 1): −2^−n for ReLU, to first order."""
    return math.log1p(-(2.0**-law.units)) if law.halved else 0.0


def least_degree(law: LogChi2) -> float:
    """Smallest K that matters: ln χ²_K has the left tail exp(K x / 2)."""
    return float(degrees(law)[0][0])


def log_characteristic_function(law: LogChi2, t: np.ndarray) -> np.ndarray:
    """ln E exp(i t (X − E X)) for X = ln χ²_K, on an array of real t."""
    k, weights = degrees(law)
    mean, _ = mean_and_variance(law)
    total = np.zeros(t.shape, complex)
    for block in np.array_split(np.arange(len(k)), max(1, len(k) * len(t) // 2_000_000)):
        half = k[block, None] / 2
        total += weights[block] @ np.exp(special.loggamma(half + 1j * t) - special.gammaln(half))
    with np.errstate(divide="ignore"):  # a frequency at which nothing is left
        return np.log(total) + 1j * t * (math.log(2) - mean)


def sum_quantiles(laws: Sequence[LogChi2], ends: Sequence[tuple[int, LogChi2]], levels: np.ndarray) -> np.ndarray:
    """Quantiles of the centred sums X_1 + … + X_k + Y, one for each of several ends (k, law of Y).

    Parameters
    ----------
    laws : sequence of LogChi2
        Laws of the independent terms X_1, X_2, …
    ends : sequence of (int, LogChi2)
        For each sum, how many of the X it has (in increasing order), and the law of its last term Y.
    levels : array (k,)
        In (0, 1).

    Returns
    -------
    array (ends, k)
        By inversion of the characteristic function (Gil-Pelaez 1951) with the midpoint rule, whose error is the mass
        beyond half its period; the frequencies reach to where the characteristic function is below 1e-16.
    """
    distinct = {*laws, *(law for _, law in ends)}
    variance = {law: mean_and_variance(law)[1] for law in distinct}
    total_variance = sum(variance[law] for law in laws) + max(variance.values())
    reach = 12 * math.sqrt(total_variance) + 80 / min(map(least_degree, distinct))
    spacing = math.pi / reach
    t = spacing * (np.arange(_frequencies(distinct, spacing)) + 0.5)
    table = {law: log_characteristic_function(law, t) for law in distinct}
    quantiles = np.empty((len(ends), len(levels)))
    log_phi, summed, terms = np.zeros(len(t), complex), 0.0, 0
    for row, (count, last) in enumerate(ends):
        for law in laws[terms:count]:
            log_phi, summed = log_phi + table[law], summed + variance[law]
        terms = count
        total = log_phi + table[last]
        used = int(np.flatnonzero(total.real > -37)[-1]) + 1
        scale = math.sqrt(summed + variance[last])
        quantiles[row] = _invert(t[:used], np.exp(total[:used]), levels, scale, reach)
    return quantiles


def _frequencies(laws: set[LogChi2], spacing: float) -> int:
    """How many frequencies until every characteristic function is below 1e-16."""
    count = 64
    while max(log_characteristic_function(law, np.array([spacing * count])).real[0] for law in laws) > -37:
        count *= 2
    return count


def _invert(t: np.ndarray, phi: np.ndarray, levels: np.ndarray, scale: float, reach: float) -> np.ndarray:
    """Solve F(x) = level by safeguarded Newton steps; F and its density are sums over the frequencies."""
    lower, upper = np.full(len(levels), -reach), np.full(len(levels), reach)
    x = np.clip(special.ndtri(levels) * scale, lower, upper)
    for _ in range(60):
        wave = phi * np.exp(-1j * np.multiply.outer(x, t))
        excess = 0.5 - (wave.imag / t).sum(-1) * (t[1] - t[0]) / math.pi - levels
        density = wave.real.sum(-1) * (t[1] - t[0]) / math.pi
        lower, upper = np.where(excess < 0, x, lower), np.where(excess > 0, x, upper)
        newton = x - excess / np.maximum(density, 1e-300)
        new = np.where((newton > lower) & (newton < upper), newton, (lower + upper) / 2)
        if np.all(np.abs(new - x) <= 1e-13 * scale):
            break
        x = new
    return new
