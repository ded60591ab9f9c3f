"""The noise of a row's second moments: covariances of their relative deviations δ, and how linear maps take them on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bntheory.growth.by_rows import by_rows
from bntheory.growth.finite_width import given_images
from bntheory.growth.finite_width.given_images import Unevenness
from bntheory.growth.finite_width.innovations import Blocks, each
from bntheory.growth.infinite_width import positions
from bntheory.growth.infinite_width.state import State

DOUBTFUL = 0.3  # share of a variance that may be known roughly: what a BatchNorm before lets through, and a blur


@dataclass(frozen=True)
class Noise:
    """Cov(δ_p, δ_p') within a copy and between two.

    within, cross : (points, points), of the second moments of which the row's units are drawn;
    own : the same shape, what sampling the row's channels adds;
    held : at a Gaussian sum, what of that is in `within` and `cross` already, as the shortcut's channels persist;
    shift : (points,), of ln E q from infinite width;
    uneven : what pairs of given images add that are not alike;
    linked : covariance of something outside, (its points, points), with this row;
    parts : at a sum that is not Gaussian, the noise of shortcut and branch and their covariance;
    norm : "batch" or "image" where the row's mean square has just been fixed, over the batch or image by image, "rest"
    where that of every point has;
    fixed : of the last two, (points,) each: Var of δ_p less the image's mean, Cov of u_p² with the mean of u² taken;
    unknown : whether the row's own variance has no rule, though those after it have;
    batch_norm : whether there is a BatchNorm before;
    blur : square of how far the mean of the logarithm may be off since then.
    """

    within: np.ndarray
    cross: np.ndarray | None
    shift: np.ndarray
    own: Blocks | None = None
    held: Blocks | None = None
    uneven: Unevenness = given_images.ALIKE
    linked: Blocks | None = None
    parts: tuple[Noise, Noise, Blocks] | None = None
    norm: str = ""
    fixed: tuple[np.ndarray, np.ndarray] | None = None
    unknown: bool = False
    batch_norm: bool = False
    blur: float = 0.0

    def mean_shift(self, state: State) -> float:
        """Of ln of the mean of q over points."""
        q, _ = positions.linear(state.log_q)
        if self.norm or q.sum() == 0:
            return 0.0
        return math.log1p(float(q @ np.expm1(self.without_pairs(state).shift) / q.sum()))

    def without_pairs(self, state: State) -> Noise:
        """Where pairs of given images are not carried any further."""
        if self.uneven.pairs is None:
            return self
        shift = self.shift + self.uneven.pairs.shift(state.log_q)
        return dataclasses.replace(self, shift=shift, uneven=Unevenness(self.uneven.squares))

    @property
    def sampling(self) -> Blocks | None:
        """What sampling the row's channels adds, that of the shortcut of a sum included."""
        return self.own if self.own is None or self.held is None else each(np.add, self.own, self.held)

    def without_held(self, own: Blocks, change: Callable[[np.ndarray], np.ndarray]) -> Blocks:
        """What sampling channels adds after a linear map of the noise, less what has been counted before it."""
        return own if self.held is None else each(lambda block, held: block - change(held), own, self.held)

    def times(self, factor: float) -> Noise:
        """Of the row times a number, under which relative deviations remain."""
        if (pairs := self.uneven.pairs) is None:
            return self
        pairs = pairs._replace(log_scale=pairs.log_scale + 2 * math.log(abs(factor)))
        return dataclasses.replace(self, uneven=self.uneven._replace(pairs=pairs))

    def variance(self, state: State, of_batch: bool) -> float:
        """Var of the logarithm of the row's mean square, over all points of the batch or of one copy.

        NaN where most of it is not known well enough: after a BatchNorm, except by weights of the row's own.
        """
        if self.norm:
            return 0.0
        inherited = self._of_mean((self.within, self.cross), state, of_batch)
        own = 0.0 if self.own is None else self._of_mean(self.own, state, of_batch)
        rough = self.blur + (inherited if self.batch_norm else 0.0)
        if self.unknown or rough > DOUBTFUL * (inherited + own):
            return math.nan
        return max(0.0, inherited + own)

    def _of_mean(self, blocks: Blocks, state: State, of_batch: bool) -> float:
        shares = in_the_mean(state)
        within = float(shares @ blocks[0] @ shares) if len(blocks[0]) == len(shares) else 0.0
        if blocks[1] is None or self.cross is None or not of_batch:
            return within
        cross = float(shares @ blocks[1] @ shares)
        return cross + (within - cross) / state.copies


def sampled_row(noise: Noise) -> Noise:
    """The noise of a row whose own channels are drawn."""
    if noise.own is None or noise.own[0].shape != noise.within.shape:
        return dataclasses.replace(noise, own=None, held=None, parts=None, norm="", fixed=None)
    within = noise.within + noise.own[0]
    cross = None if noise.cross is None or noise.own[1] is None else noise.cross + noise.own[1]
    changed = dataclasses.replace(noise, within=within, cross=cross, own=None, held=None)
    return dataclasses.replace(changed, parts=None, norm="", fixed=None)


def combined(share: np.ndarray, shortcut: Noise, branch: Noise, link: Blocks) -> Blocks:
    """(1 − b) of the shortcut's noise and b of the branch's."""
    rest = 1 - share

    def both(first: np.ndarray, second: np.ndarray, between: np.ndarray) -> np.ndarray:
        def of_rows(rows: slice) -> np.ndarray:
            kept = rest[rows, None] * (first[rows] * rest + between[rows] * share)
            return kept + share[rows, None] * (second[rows] * share + between[:, rows].T * rest)

        return by_rows(of_rows, len(share))

    blocks: list[np.ndarray | None] = []
    for first, second, between in zip(_blocks(shortcut), _blocks(branch), link, strict=True):
        if first is None or second is None or between is None:
            blocks.append(None)
            continue
        blocks.append(both(first, second, between))
    assert blocks[0] is not None
    return blocks[0], blocks[1]


def _blocks(noise: Noise) -> Blocks:
    return noise.within, noise.cross


def mixed(noise: Noise, matrix: np.ndarray) -> Noise:
    """A R Aᵀ, and R Aᵀ for what is linked."""
    within, cross = each(lambda block: matrix @ block @ matrix.T, (noise.within, noise.cross))
    linked = noise.linked and each(lambda block: block @ matrix.T, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=matrix @ noise.shift, linked=linked)


def scaled(noise: Noise, factor: np.ndarray) -> Noise:
    """The same for a diagonal A."""
    single = factor.astype(np.float32)
    within, cross = each(lambda block: block * single[:, None] * single, (noise.within, noise.cross))
    linked = noise.linked and each(lambda block: block * single, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=factor * noise.shift, linked=linked)


def projected(noise: Noise, state: State, together: bool) -> Noise:
    """δ less its mean, weighted by q, over the batch or over the positions of one image."""
    shares = in_the_mean(state)
    within, cross = _centred((noise.within, noise.cross), shares, state.copies if together else 1, both=True)
    linked = noise.linked and _centred(noise.linked, shares, state.copies if together else 1, both=False)
    shift = noise.shift - float(shares @ noise.shift)
    return dataclasses.replace(noise, within=within, cross=cross, shift=shift, own=None, held=None, linked=linked)


def in_the_mean(state: State) -> np.ndarray:
    """Of every point in the mean square of an image."""
    q, _ = positions.linear(state.log_q)
    return (q / q.sum()).astype(np.float32) if q.sum() > 0 else np.full(len(q), 1 / len(q), np.float32)


def _centred(blocks: Blocks, shares: np.ndarray, copies: float, both: bool) -> Blocks:
    """Less the means over the second index, of one copy or of all, and, if `both`, over the first."""
    within, cross = blocks
    means = [None if block is None else block @ shares for block in blocks]
    if cross is not None and copies > 1:
        assert means[0] is not None and means[1] is not None
        means = [means[0] / copies + means[1] * (1 - 1 / copies)] * 2

    def centred(block: np.ndarray, mean: np.ndarray) -> np.ndarray:
        if not both:
            return block - mean[:, None]
        return block - mean[:, None] - mean + float(mean @ shares)

    assert means[0] is not None
    return centred(within, means[0]), None if cross is None or means[1] is None else centred(cross, means[1])
