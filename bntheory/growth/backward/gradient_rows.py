"""The squared gradient of a row at infinite width, as it is carried back: sizes, and links between points."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.backward import covariances
from bntheory.growth.backward.covariances import Blocks
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.kernels import Weighed
from bntheory.growth.infinite_width.state import State
from bntheory.networks import Residual


class Above(NamedTuple):
    """What a BatchNorm must know of the reader of its output: an activation, and the gradient past it.

    radial : E g_p g_p' y_p y_p'/√(γ_p γ_p') of the gradient g and the units y of mean variance 1; for a sum,
    of its branch, and `shortcut` of its shortcut; larger : of a sum of which the row is only a part;
    rough : without what activations further on depend on the row, through identity shortcuts.
    factor : of an `Affine` between the BatchNorm and φ.
    slopes : φ′ of sampled units, and these units, where they are sampled; `links` of the gradient past φ.
    """

    radial: Callable[[], Blocks]
    shortcut: Callable[[], Blocks] | None = None
    phi: Activation | None = None
    given: Gradient | None = None
    larger: bool = False
    rough: bool = False
    factor: float = 1.0
    slopes: Callable[[], tuple[np.ndarray, np.ndarray, Blocks]] | None = None


@dataclass(frozen=True)
class Gradient:
    """exp(log_scale) times: values (points,), of sampled units (n, points) or (m, kept, points).

    links : of different points, None if uncorrelated;  above : of the row's reader, and of a sum's branch;
    evenness : E|g| over √(2γ/π), less than 1 where slopes differ from unit to unit;
    parts : channels and their gradients, where they differ, in order; the rest is then of all of them together;
    tangled : whether it depends on the row's units through later activations, in a way that is not carried;
    weights : of a convolution, as a BatchNorm has divided them;
    units : of sampled ones with weights of their own, (units, points), for what these have read;
    rough : whether it is an estimate, good enough for a small share of another.
    """

    values: np.ndarray
    log_scale: float
    links: Blocks | None = None
    above: Above | None = None
    evenness: float = 1.0
    parts: tuple[tuple[int, Gradient], ...] = ()
    tangled: bool = False
    weights: Weighed | None = None
    units: np.ndarray | None = None
    rough: bool = False

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
    return dataclasses.replace(gradient, **{"above": None, "parts": (), **changes}, values=values, log_scale=log_scale)


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
    if first.parts or second.parts:
        ends = sorted({*_ends(first), *_ends(second)})
        sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
        return together(zip(sizes, map(added, cut(first, sizes), cut(second, sizes)), strict=True))
    scale = max(first.log_scale, second.log_scale)
    parts = [math.exp(part.log_scale - scale) for part in (first, second)]
    values = [first.values, second.values]
    if {values[0].ndim, values[1].ndim} == {2, 3} or (
        values[0].ndim == values[1].ndim and len(values[0]) != len(values[1])
    ):
        values = [first.points, second.points]
    tangled = any(part.tangled or part.above is not None for part in (first, second))
    total = Gradient(values[0] * parts[0] + values[1] * parts[1], scale, tangled=tangled)
    if first.links is None and second.links is None:
        return total
    summed = covariances.added(first.moments(), second.moments(), *parts)
    return dataclasses.replace(total, links=covariances.normalized(summed)[1])


def together(parts: Iterable[tuple[int, Gradient]]) -> Gradient:
    """Gradients of channels side by side."""
    parts = tuple(parts)
    if len(parts) == 1:
        return parts[0][1]
    total, scale = sum(channels for channels, _ in parts), max(part.log_scale for _, part in parts)
    shares = [channels / total * math.exp(part.log_scale - scale) for channels, part in parts]
    values = np.sum([share * part.points for share, (_, part) in zip(shares, parts, strict=True)], axis=0)
    # E|g| is the mean over channels of √E g² times its evenness
    roots = [math.sqrt(share * float(part.points.mean())) for share, (_, part) in zip(shares, parts, strict=True)]
    means = [root * math.sqrt(size / total) * part.evenness for root, (size, part) in zip(roots, parts, strict=True)]
    root, links = math.sqrt(sum(root**2 for root in roots)), None
    if any(part.links is not None for _, part in parts):
        moments: Blocks = np.zeros((len(values),) * 2, np.float32), None
        for share, (_, part) in zip(shares, parts, strict=True):
            moments = covariances.added(moments, part.moments(), 1.0, share)
        links = covariances.normalized(moments)[1]
    return Gradient(values, scale, links, evenness=sum(means) / root if root > 0 else 1.0, parts=parts)


def cut(gradient: Gradient, sizes: Sequence[int]) -> list[Gradient]:
    """The gradients of channels, so many at a time."""
    if not gradient.parts:
        return [gradient] * len(sizes)
    made = []
    for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        inside = []
        for stop, (channels, part) in zip(_ends(gradient), gradient.parts, strict=True):
            common = min(end, stop) - max(end - size, stop - channels)
            if common > 0:
                inside.append((common, part))
        made.append(together(inside))
    return made


def _ends(gradient: Gradient) -> list[int]:
    """Channels up to the end of every part."""
    return list(itertools.accumulate(channels for channels, _ in gradient.parts))


def to_branch(block: Residual, gradient: Gradient) -> Gradient:
    """What goes into the branch of a sum: the same for all units, since its weights mix them."""
    if gradient.parts:
        return together((channels, to_branch(block, part)) for channels, part in gradient.parts)
    above = gradient.above and gradient.above._replace(larger=gradient.above.shortcut is None)
    unit = float(np.mean(np.sqrt(gradient.points)))
    evenness = gradient.evenness * (float(np.mean(np.sqrt(gradient.values))) / unit if unit > 0 else 1.0)
    return averaged(gradient, 1.0, 2 * math.log(block.scale), above=above, evenness=evenness)


def to_shortcut(gradient: Gradient) -> Gradient:
    """What goes into the shortcut of a sum."""
    if gradient.parts:
        return together((channels, to_shortcut(part)) for channels, part in gradient.parts)
    radial = gradient.above and gradient.above.shortcut
    rough = gradient.above is not None and gradient.above.rough
    return dataclasses.replace(gradient, above=Above(radial, rough=rough) if radial else None)
