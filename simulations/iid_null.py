"""Log singular values of products of matrices with iid entries: drawn, and how far others are from them.

Singular values repel one another: the ordered values of a random matrix are far more rigid than independent draws from
its limiting law, so that tests for independent samples (Kolmogorov–Smirnov) are wrong here. The null is sampled.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from bntheory.initializations import initialization
from bntheory.networks import Dense, Sequential
from simulations.graded import Floats
from simulations.products import log_singular_values

STATISTICS = ("largest", "extreme", "bulk")
TAIL = 0.025  # of each ordered value, on either side: where deviations count as 1
LARGEST_KURTOSIS = 6.0  # beyond it the first order in κ/n is poor, and one large entry would excuse its own spike


class Null(NamedTuple):
    """What iid Gaussian factors do: of every y_i, over draws, and of the statistics, for each draw."""

    median: Floats  # (r,)
    below: Floats  # (r,), from the median down to the quantile TAIL
    above: Floats  # (r,), and up to the quantile 1 − TAIL
    bend: Floats  # (r,), ½ T_i
    statistics: Floats  # (trials, 3)
    ranks: Floats  # (trials, 3), 1 for the largest statistic

    def edge(self, level: float) -> float:
        """Largest |d_i| of the null, exceeded with at most that probability."""
        ordered = np.sort(self.statistics[:, 1])
        return float(ordered[math.ceil((1 - level) * (len(ordered) + 1)) - 1])


@lru_cache(maxsize=64)  # of 50 kB each: all shapes of a network
def null_of(widths: tuple[int, ...], trials: int, seed: int, workers: int | None = None) -> Null:
    """Draw products of Gaussian matrices of these widths n_0, …, n_M; kept for the next call.

    The units of the deviations come from half as many draws again, so that data and draws are measured alike.
    """
    net = Sequential(tuple(Dense(width, initialization("lecun_normal")) for width in widths[1:]), (widths[0],))
    logs = log_singular_values(net, trials + trials // 2, seed, workers)
    values = centred(logs)
    low, median, high = np.quantile(values[trials:], [TAIL, 0.5, 1 - TAIL], axis=0)  # of draws that serve nothing else
    found = statistics(deviations(values[:trials], median, median - low, high - median))
    ranks = stats.rankdata(-found, method="max", axis=0)
    null = Null(median, median - low, high - median, _bend(np.median(logs, axis=0)), found, ranks)
    for array in null:
        array.flags.writeable = False
    return null


def _bend(logs: Floats) -> Floats:
    """½ T_i = ½ Σ_{j≠i} 1 / (x_i/x_j − 1), x = exp(2 logs)."""
    terms = [1 / np.expm1(np.clip(2 * (log - np.delete(logs, i)), -700, 700)) for i, log in enumerate(logs)]
    return np.array([0.5 * term.sum() for term in terms])


def excess_kurtosis(matrix: Floats) -> float:
    """κ = ⟨w⁴⟩ / ⟨w²⟩² − 3 of the entries w, whose mean counts as zero; at most LARGEST_KURTOSIS.

    >>> excess_kurtosis(np.array([[1e200, -1e200], [1e200, 1e200]]))
    -2.0
    """
    squares = (matrix / np.abs(matrix).max()) ** 2
    return min(LARGEST_KURTOSIS, float(np.mean(squares**2) / np.mean(squares) ** 2) - 3)


def centred(logs: Floats) -> Floats:
    """Logarithms (…, r) less their median: one odd value moves no other."""
    return logs - np.median(logs, axis=-1, keepdims=True)


def deviations(values: Floats, median: Floats, below: Floats, above: Floats) -> Floats:
    """The d_i, (…, r)."""
    differences = values - median
    units = np.where(differences > 0, above, below)
    return differences / np.where(units > 0, units, 1.0)  # the median of an odd number is 0 always


def statistics(deviations: Floats) -> Floats:
    """The three statistics, (…, 3)."""
    extreme, bulk = np.abs(deviations).max(axis=-1), np.mean(deviations**2, axis=-1)
    return np.stack([deviations[..., 0], extreme, bulk], axis=-1)


def p_values(found: Floats, null: Null) -> list[float]:
    """Of each statistic, and of the smallest of these, with the data counted among the draws."""
    draws = len(null.ranks)
    ours = 1 + (null.statistics >= found).sum(axis=0)
    smallest = (null.ranks + (null.statistics <= found)).min(axis=1)
    together = 1 + int((smallest <= ours.min()).sum())
    return [*(ours / (1 + draws)).tolist(), together / (1 + draws)]
