"""Finite width: the law of ln mean square for every row of a linear or ReLU MLP (mean, std, quantiles, survival)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bntheory.activations import Activation
from bntheory.growth import density_evolution, fluctuations
from bntheory.growth.fluctuations import LogChi2, Step
from bntheory.layers import Dense
from bntheory.networks import Leaf


@dataclass(frozen=True)
class Chain:
    """Rows of a linear or ReLU MLP as ends of a chain: row r is step `ends[r][0]` taken with the law `ends[r][1]`.

    start : ln of the input's mean square;  width : units of the input;  gaussian : whether all weights and biases are.
    """

    start: float
    width: int
    steps: tuple[Step, ...]
    ends: tuple[tuple[int, LogChi2], ...]
    gaussian: bool

    @property
    def biased(self) -> bool:
        """Whether any layer has a bias."""
        return any(step.log_bias_variance > -math.inf for step in self.steps)


def chain(rows: Sequence[Leaf], start: float) -> Chain:
    """Read off the leading rows that are Dense layers, linear activations or ReLU with independent random weights.

    Parameters
    ----------
    rows : sequence of Leaf
        The first is the input.
    start : float
        ln of the input's mean square.
    """
    steps: list[Step] = []
    ends: list[tuple[int, LogChi2]] = []
    gaussian, shape = True, rows[0].shape
    for row in rows[1:]:
        layer = row.layer
        if "." in row.name:  # inside a residual block or a nested sequence
            break
        if isinstance(layer, Dense) and layer.init.distribution != "orthogonal":
            bias = layer.bias_variance(shape)
            law = LogChi2(layer.features, halved=False)
            steps.append(Step(math.log(layer.weight_variance(shape)), math.log(bias) if bias else -math.inf, law))
            gaussian = gaussian and layer.init.distribution == "normal" and (layer.bias is not None or not bias)
        elif isinstance(layer, Activation) and steps and layer.name == "relu":
            steps[-1] = steps[-1]._replace(law=LogChi2(row.shape[0], halved=True))
        elif not (isinstance(layer, Activation) and steps and layer.name == "linear"):
            break
        ends.append((len(steps) - 1, steps[-1].law))
        shape = row.shape
    return Chain(start, rows[0].shape[0], tuple(steps), tuple(ends), gaussian)


def mean_std_dead(chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of ln mean square given alive, and the probability of being dead, for every end.

    Without biases the terms are independent: means and variances add, and a layer is alive with probability
    Π (1 − 2^−n). With biases the density is carried along (`density_evolution`).
    """
    before = list(_before(chain))
    table = np.empty((len(chain.ends), 3))
    for row, (step, law) in enumerate(chain.ends):
        mean, variance, dead = before[step]
        term_mean, term_variance = fluctuations.mean_and_variance(law)
        dead = 0.0 - math.expm1(math.log1p(-dead) + fluctuations.log_alive(law)) if dead < 1 else 1.0
        table[row] = mean + term_mean - math.log(law.units), math.sqrt(variance + term_variance), dead
    return table[:, 0], table[:, 1], table[:, 2]


def _before(chain: Chain) -> list[tuple[float, float, float]]:
    """Mean, variance and dead probability of ln(v‖h‖² + v_b), for every step."""
    log_norm = chain.start + math.log(chain.width)
    if chain.biased:
        evolution = density_evolution.evolve(log_norm, chain.steps)
        return [(source.mean, source.variance, source.dead) for source, _ in evolution]
    terms = np.array([fluctuations.mean_and_variance(step.law) for step in chain.steps])
    log_weights = np.cumsum([step.log_weight_variance for step in chain.steps])
    log_alive = np.cumsum([0.0, *(fluctuations.log_alive(step.law) for step in chain.steps[:-1])])
    mean = log_norm + log_weights + np.concatenate([[0.0], np.cumsum(terms[:-1, 0])])
    variance = np.concatenate([[0.0], np.cumsum(terms[:-1, 1])])
    return list(zip(mean.tolist(), variance.tolist(), (-np.expm1(log_alive)).tolist(), strict=True))


def quantiles(chain: Chain, levels: np.ndarray) -> np.ndarray:
    """Quantiles of ln mean square given alive, for every end: array (rows, levels)."""
    units = np.log([[law.units] for _, law in chain.ends])
    if not chain.biased:
        means, _, _ = mean_std_dead(chain)
        centred = fluctuations.sum_quantiles([step.law for step in chain.steps], chain.ends, levels)
        return centred + means[:, None]
    rows: list[np.ndarray] = []
    ends = iter([*chain.ends, (len(chain.steps), chain.ends[-1][1])])
    end = next(ends)
    for step, (source, _) in enumerate(density_evolution.evolve(chain.start + math.log(chain.width), chain.steps)):
        while end[0] == step:
            rows.append(density_evolution.quantiles(source, end[1], levels))
            end = next(ends)
    return np.array(rows) - units
