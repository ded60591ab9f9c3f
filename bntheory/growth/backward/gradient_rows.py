"""The squared gradient of a row at infinite width, as it is carried back: sizes, and links between points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.backward import covariances
from bntheory.growth.backward.covariances import Blocks
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.state import State
from bntheory.networks import Residual


class Above(NamedTuple):
    """What a BatchNorm must know of the reader of its output: an activation, and the gradient past it.

    radial : E g_p g_p' y_p y_p'/√(γ_p γ_p') of the gradient g and the units y of mean variance 1; for a sum,
    of its branch, and `shortcut` of its shortcut.
    """

    radial: Callable[[], Blocks]
    shortcut: Callable[[], Blocks] | None = None
    phi: Activation | None = None
    given: Gradient | None = None


@dataclass(frozen=True)
class Gradient:
    """exp(log_scale) times: values (points,), of sampled units (n, points) or (m, kept, points).

    links : of different points, None if uncorrelated;  above : of the row's reader, and of a sum's branch;
    evenness : E|g| over √(2γ/π), less than 1 where slopes differ from unit to unit.
    """

    values: np.ndarray
    log_scale: float
    links: Blocks | None = None
    above: Above | None = None
    evenness: float = 1.0

    @property
    def points(self) -> np.ndarray:
        """Means over units, (points,)."""
        return self.values.reshape(-1, self.values.shape[-1]).mean(axis=0)

    @property
    def mean_part(self) -> float:
        """ν, the squared part along the constant direction of a batch: n γ if all are equal, γ if uncorrelated."""
        gamma = self.points
        if self.links is None:
            return float(gamma.mean())
        moments = covariances.times(self.links, np.sqrt(gamma))
        return float(sum(block.sum(dtype=float) for block in moments if block is not None)) / len(gamma)

    def moments(self) -> Blocks:
        """E g g' over exp(log_scale), as `gradient_covariances` has them."""
        gamma = self.points
        return covariances.times(self.links or covariances.diagonal(len(gamma)), np.sqrt(gamma))

    def log_total(self, units: int) -> float:
        """ln of the sum over units and points of one copy."""
        return float(positions.log(np.array(self.points.sum()))) + math.log(units) + self.log_scale


def white(state: State) -> Gradient:
    """Independent numbers of variance 1 at every unit and point."""
    return Gradient(np.ones(state.points), 0.0)


def scaled(gradient: Gradient, factor: float | np.ndarray, log_factor: float = 0.0, **changes: Any) -> Gradient:
    """All times a number, or γ times one a point; what reads the row is forgotten."""
    values, log_scale = gradient.values * factor, gradient.log_scale + log_factor
    top = float(np.max(values, initial=0.0))
    if top > 0 and math.isfinite(top):
        values, log_scale = values / top, log_scale + math.log(top)
    return dataclasses.replace(gradient, **{"above": None, **changes}, values=values, log_scale=log_scale)


def averaged(gradient: Gradient, factor: float | np.ndarray = 1.0, log_factor: float = 0.0, **changes: Any) -> Gradient:
    """The same for all units, times a number."""
    return scaled(dataclasses.replace(gradient, values=gradient.points), factor, log_factor, **changes)


def of_moments(moments: Blocks, log_scale: float, evenness: float = 1.0) -> Gradient:
    """A gradient of known covariances."""
    gamma, links = covariances.normalized(moments)
    gamma = np.maximum(gamma, 0)  # rounding may leave less than zero
    return scaled(Gradient(gamma, log_scale, links, evenness=evenness), 1.0)


def added(first: Gradient, second: Gradient) -> Gradient:
    """The gradient of a row that is read twice; the parts are independent."""
    scale = max(first.log_scale, second.log_scale)
    parts = [math.exp(part.log_scale - scale) for part in (first, second)]
    values = [first.values, second.values]
    if values[0].ndim == 3 or values[1].ndim == 3:
        values = [first.points, second.points]
    total = Gradient(values[0] * parts[0] + values[1] * parts[1], scale)
    if first.links is None and second.links is None:
        return total
    summed = covariances.added(first.moments(), second.moments(), *parts)
    return dataclasses.replace(total, links=covariances.normalized(summed)[1])


def to_branch(block: Residual, gradient: Gradient) -> Gradient:
    """What goes into the branch of a sum: the same for all units, since its weights mix them."""
    unit = float(np.mean(np.sqrt(gradient.points)))
    evenness = gradient.evenness * (float(np.mean(np.sqrt(gradient.values))) / unit if unit > 0 else 1.0)
    return averaged(gradient, 1.0, 2 * math.log(block.scale), above=gradient.above, evenness=evenness)


def to_shortcut(gradient: Gradient) -> Gradient:
    """What goes into the shortcut of a sum."""
    radial = gradient.above and gradient.above.shortcut
    return dataclasses.replace(gradient, above=Above(radial) if radial else None)
