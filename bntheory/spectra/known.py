"""Laws that are those of their one factor: densities as they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np

from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.factors import summed
from bntheory.spectra.law import Array, SpectralLaw, solve_monotone

NEAREST = 1e-8  # depth, above which the law is a power of the depth to as many digits
SMALLEST = 1e-300  # of logarithms' arguments
UNIFORM = 0.95  # ratio of successive changes of ln λ from which nodes do not approach a limit


@dataclass(frozen=True)
class KnownLaw(SpectralLaw):
    """The law of the squared entries of a diagonal matrix that have a density, by the poles of its rule.

    The density of ln x is Σ W/|d ln λ/dκ| over the places where λ = x, the rule's error at a real u.
    """

    factor: Diagonal

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """At zero, and the single values of the density's law."""
        zero = 1 - float(self.factor.rank)
        return (*([(0.0, zero)] if zero > 0 else []), *self.factor.points)

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """ln of the lowest and the highest λ: of nodes, where dλ = 0, and where stretches end."""
        values = [np.log(self.factor.values[[0, -1]])]
        for found, _ in self.factor.poles.stretches if self.factor.poles else ():
            log_values = np.log(found)
            for inwards in (log_values[:3], log_values[::-1][:3]):
                change = -np.diff(inwards)
                if len(change) == 2 and 0 < (ratio := change[0] / (change[1] or math.inf)) < UNIFORM:
                    values.append(inwards[:1] + change[0] * ratio / (1 - ratio))
        values.append(self.factor.poles.turning if self.factor.poles else np.empty(0))
        found = np.concatenate(values)
        return float(found.min()), float(found.max())

    @property
    def _zero_exponent(self) -> float:
        return 1 / self.factor.zero_order if self.factor.reaches_zero else math.inf  # of a light tail

    def _log_support(self) -> tuple[Decimal, Decimal]:
        low, high = self._limits
        to_zero = self.factor.reaches_zero or self.factor.tail
        return Decimal("-Infinity") if to_zero else Decimal(low), Decimal(high)

    def _continuous(self, depth: Array) -> tuple[Array, Array, Array]:
        logs = self._resolved(np.maximum(depth, NEAREST))
        further = np.log(np.minimum(depth / NEAREST, 1))
        logs[0] += further * self._edge_exponent
        logs[2] += further * self._edge_exponent
        logs[1] = np.where(depth < NEAREST, np.log1p(-np.exp(logs[2])), logs[1])
        return logs[0] - np.minimum(further, 0), logs[1], logs[2]

    @cached_property
    def _edge_exponent(self) -> float:
        """The e in sf ~ depth^e at the upper edge."""
        log_density, _, log_above = self._resolved(np.array([NEAREST]))
        return float(np.exp(log_density - log_above)[0] * NEAREST)

    def _resolved(self, depth: Array) -> Array:
        factor, log_x = self.factor, self._limits[1] - depth
        density, moved = factor.poles.on_axis(log_x) if factor.poles else np.zeros((2, len(log_x)))
        under = log_x[:, None] >= np.log(factor.values)
        below, above = summed(under, factor.weights) + moved, summed(~under, factor.weights) - moved
        for location, mass in factor.points:
            below, above = below - mass * (log_x >= math.log(location)), above - mass * (log_x < math.log(location))
        parts = np.array([density, below, above])
        return np.log(np.maximum(parts, SMALLEST) / self._mass)

    def _depth(self, below: Array, above: Array) -> Array:
        def odds(log_depth: Array) -> tuple[Array, Array]:
            depth = np.exp(log_depth)
            log_density, log_below, log_above = self._continuous(depth)
            slope = np.exp(log_density - log_below) + np.exp(log_density - log_above)
            return log_below - log_above, -slope * depth

        nodes, values = self._table
        target = np.log(below) - np.log(above)
        guess = np.interp(-target, -values, nodes)
        bracket = np.concatenate([[nodes[0] - 80], nodes, nodes[-1:]])
        after = np.searchsorted(-values, -target)
        place = solve_monotone(odds, target, guess, bracket[after + 1], bracket[after])
        return np.exp(np.clip(place, bracket[0], bracket[-1]))  # beyond the last node a step leaves the bracket

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """ln depth and the log-odds of the cdf at and between nodes."""
        depth = np.unique(self._limits[1] - np.log(self.factor.values))
        depth = depth[depth > NEAREST]
        nodes = np.log(np.sort(np.concatenate([depth, (depth[1:] + depth[:-1]) / 2])))
        _, log_below, log_above = self._continuous(np.exp(nodes))
        values = np.minimum.accumulate(log_below - log_above)
        fresh = np.flatnonzero(np.diff(values, prepend=np.inf) < 0)
        return nodes[fresh], values[fresh]
