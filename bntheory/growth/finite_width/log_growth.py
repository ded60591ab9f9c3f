"""Finite width: the law of ln mean square for every row of a linear or ReLU MLP (mean, std, quantiles, survival)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.finite_width import density_evolution, fluctuations
from bntheory.growth.finite_width.fluctuations import LogChi2, Step
from bntheory.layers import Affine, Dense
from bntheory.networks import Leaf, Sequential


@dataclass(frozen=True)
class Chain:
    """Rows of a linear or ReLU MLP as ends of a chain: row r is step `ends[r][0]` taken with the law `ends[r][1]`.

    shifts : what factors since then have added to the logarithm of row r;
    start : ln of the input's mean square;  width : units of the input;  gaussian : whether all weights and biases are.
    """

    start: float
    width: int
    steps: tuple[Step, ...]
    ends: tuple[tuple[int, LogChi2], ...]
    shifts: tuple[float, ...]
    gaussian: bool

    @property
    def log_norm(self) -> float:
        """ln‖h_0‖² of the input."""
        return self.start + math.log(self.width)

    @property
    def biased(self) -> bool:
        """Whether any layer has a bias."""
        return any(step.log_bias_variance > -math.inf for step in self.steps)


def chain(net: Sequential, rows: Sequence[Leaf], start: float) -> Chain:
    """Read off the leading rows that are Dense layers, linear activations, factors or ReLU with independent weights.

    Parameters
    ----------
    net : Sequential
        Rows in its blocks and nested sequences do not count.
    rows : sequence of Leaf
        The first is the input.
    start : float
        ln of the input's mean square.
    """
    steps: list[Step] = []
    ends: list[tuple[int, LogChi2]] = []
    shifts: list[float] = []
    gaussian, shape, shift = True, rows[0].shape, 0.0
    for layer, row in zip(net.layers, rows[1:], strict=False):
        if isinstance(layer, Dense) and layer.init.distribution != "orthogonal":
            bias = layer.bias_variance(shape)
            law = LogChi2(layer.features, halved=False)
            uniform = bias > 0 and layer.bias is None  # the initialization's own biases
            log_variances = math.log(layer.weight_variance(shape)) + shift, math.log(bias) if bias else -math.inf
            steps.append(Step(*log_variances, law, -1.2 if uniform else 0.0))
            gaussian = gaussian and layer.init.distribution == "normal" and not uniform
            shift = 0.0
        elif isinstance(layer, Affine) and steps and layer.factor:
            shift += 2 * math.log(abs(layer.factor))
        elif isinstance(layer, Activation) and steps and layer.homogeneous_slopes == (1, 0):
            if steps[-1].law.halved:  # ReLU of ReLU: as for the moments, no rule after another activation
                break
            steps[-1] = steps[-1]._replace(law=LogChi2(row.shape[0], halved=True))
        elif not (isinstance(layer, Activation) and steps and layer.homogeneous_slopes == (1, 1)):
            break
        ends.append((len(steps) - 1, steps[-1].law))
        shifts.append(shift)
        shape = row.shape
    return Chain(start, rows[0].shape[0], tuple(steps), tuple(ends), tuple(shifts), gaussian)


def mean_std_dead(chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of ln mean square given alive, and the probability of being dead, for every end.

    Without biases the terms are independent: means and variances add, and a layer is alive with probability
    Π (1 − 2^−n). With biases the density is carried along (`density_evolution`).
    """
    table = np.array(list(_with_biases(chain) if chain.biased else _without_biases(chain)))
    units = np.log([law.units for _, law in chain.ends])
    return table[:, 0] - units + chain.shifts, np.sqrt(table[:, 1]), table[:, 2]


def _with_biases(chain: Chain) -> Iterator[tuple[float, float, float]]:
    """Mean and variance of ln‖h‖² and the dead probability, for every end."""
    for step, laws, source in _sources(chain):
        for law in laws:
            yield *density_evolution.mean_and_variance(source, step, law), _dead(source.dead, law)


def _without_biases(chain: Chain) -> Iterator[tuple[float, float, float]]:
    """The same, where all terms are independent."""
    terms = np.array([fluctuations.mean_and_variance(step.law) for step in chain.steps])
    log_weights = np.cumsum([step.log_weight_variance for step in chain.steps])
    log_alive = np.cumsum([0.0, *(fluctuations.log_alive(step.law) for step in chain.steps[:-1])])
    mean = chain.log_norm + log_weights + np.concatenate([[0.0], np.cumsum(terms[:-1, 0])])
    variance = np.concatenate([[0.0], np.cumsum(terms[:-1, 1])])
    for step, law in chain.ends:
        own_mean, own_variance = fluctuations.mean_and_variance(law)
        dead = _dead(-math.expm1(log_alive[step]), law)
        yield mean[step] + own_mean, variance[step] + own_variance, dead


def _dead(before: float, law: LogChi2) -> float:
    return 0.0 - math.expm1(math.log1p(-before) + fluctuations.log_alive(law)) if before < 1 else 1.0


def _sources(chain: Chain) -> Iterator[tuple[Step, list[LogChi2], density_evolution.Density]]:
    """For every step, the laws of its ends and that of ln(v‖h‖² + v_b) before them."""
    laws: list[list[LogChi2]] = [[] for _ in chain.steps]
    for index, law in chain.ends:
        laws[index].append(law)
    evolution = density_evolution.evolve(chain.log_norm, chain.steps)
    for step, own, (source, _) in zip(chain.steps, laws, evolution, strict=True):
        yield step, own, source


def quantiles(chain: Chain, levels: np.ndarray) -> np.ndarray:
    """Quantiles of ln mean square given alive, for every end: array (rows, levels)."""
    if not chain.biased:
        means, _, _ = mean_std_dead(chain)
        centred = fluctuations.sum_quantiles([step.law for step in chain.steps], chain.ends, levels)
        return centred + means[:, None]
    rows = [
        density_evolution.quantiles(source, step, law, levels) for step, laws, source in _sources(chain) for law in laws
    ]
    return np.array(rows) + (np.array(chain.shifts) - np.log([law.units for _, law in chain.ends]))[:, None]
