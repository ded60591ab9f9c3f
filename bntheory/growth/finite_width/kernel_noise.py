"""Finite width of convolutional networks: how second moments of points vary from one draw of the weights to another.

With δ_p = the relative deviation of q_p from its expectation, and C channels, to first order in 1/C:

    Conv, Dense  δ'_P = Σ_a w_Pa δ_a, w the shares of the points read, and of the bias, in q'_P
    Activation   δ'_p = s_p δ_p + e_p,  s = d ln E φ²/d ln q,  Cov(e_p, e_p') = Cov(φ(u)², φ(v)²)/(C E φ² E φ²)
    sum, φ       δ'_p = (1 − b_p) δ_p(shortcut) + b_p δ_p(branch) + e_p,  b = E[φ φ′ f]/E φ² for φ = φ(x + f)
    BatchNorm    δ'_p = δ_p less its mean over the batch, weighted by q: the scale is lost

For ReLU the covariance is G(ρ)/C, G(ρ) = (2/π)[3ρ√(1−ρ²) + (π − arccos ρ)(1 + 2ρ²)] − 1, 5 at ρ = 1 and 0 at 0.
After a sum that is not Gaussian, e is what a unit's φ² varies over draws of the branch, from sampled units.
Where E φ² is not linear in q, fluctuations move its mean: with f = E φ², the shift ε of ln E q from infinite width is

    Activation   ε'_p = s_p ε_p + ½ Var(δ_p) q² f″/f,   q² f″/f = d s/d ln q + s² − s

Two points whose second moments vary independently are further apart than at infinite width: to the same order their
covariance is smaller by exp(−w/8), w = Var(δ_p − δ_p').
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from bntheory.activations import Activation
from bntheory.growth.finite_width import given_images, innovations
from bntheory.growth.finite_width.given_images import Unevenness
from bntheory.growth.finite_width.innovations import Blocks, each
from bntheory.growth.infinite_width import hermite, positions
from bntheory.growth.infinite_width.moments import log_slope
from bntheory.growth.infinite_width.state import State
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pool, Shape, ZeroPad
from bntheory.networks import Residual

CURVATURE_STEP = 0.05  # of ln q
DOUBTFUL = 0.3  # share of a variance that may be known roughly: what a BatchNorm before lets through, and a blur
MAXIMUM = 0.07  # how far the logarithm of a maximum's mean square may be off where given images differ


@dataclass(frozen=True)
class Noise:
    """Cov(δ_p, δ_p') within a copy and between two.

    within, cross : (points, points), of the second moments of which the row's units are drawn;
    own : the same shape, what sampling the row's channels adds;
    shift : (points,), of ln E q from infinite width;
    uneven : what pairs of given images add that are not alike;
    linked : covariance of something outside, (its points, points), with this row;
    parts : at a sum that is not Gaussian, the noise of shortcut and branch and their covariance;
    norm : "batch" or "image" where the row's mean square has just been fixed, over the batch or image by image;
    weights : whether the row's channels are sampled by weights of its own;
    batch_norm : whether there is a BatchNorm before;
    blur : square of how far the mean of the logarithm may be off since then.
    """

    within: np.ndarray
    cross: np.ndarray | None
    shift: np.ndarray
    own: Blocks | None = None
    uneven: Unevenness = given_images.ALIKE
    linked: Blocks | None = None
    parts: tuple[Noise, Noise, Blocks] | None = None
    norm: str = ""
    weights: bool = False
    batch_norm: bool = False
    blur: float = 0.0

    def mean_shift(self, state: State) -> float:
        """Of ln of the mean of q over points."""
        q, _ = positions.linear(state.log_q)
        return float(q @ self.shift / q.sum()) if q.sum() > 0 else 0.0

    def variance(self, state: State, of_batch: bool) -> float:
        """Var of the logarithm of the row's mean square, over all points of the batch or of one copy.

        NaN where most of it is not known well enough: after a BatchNorm, except by weights of the row's own.
        """
        if self.norm:
            return 0.0
        inherited = self._of_mean((self.within, self.cross), state, of_batch)
        own = 0.0 if self.own is None else self._of_mean(self.own, state, of_batch)
        rough = self.blur + (inherited if self.batch_norm else 0.0)
        if rough > DOUBTFUL * (inherited + own) or (self.batch_norm and not self.weights):
            return math.nan
        return max(0.0, inherited + own)

    def _of_mean(self, blocks: Blocks, state: State, of_batch: bool) -> float:
        q, _ = positions.linear(state.log_q)
        shares = q / q.sum() if q.sum() > 0 else np.full_like(q, 1 / len(q))
        within = float(shares @ blocks[0] @ shares) if len(blocks[0]) == len(shares) else 0.0
        if blocks[1] is None or self.cross is None or not of_batch:
            return within
        cross = float(shares @ blocks[1] @ shares)
        return cross + (within - cross) / state.copies


def start(state: State) -> Noise:
    """Given inputs do not vary."""
    shape = (state.points, state.points)
    cross = None if state.log_cross is None else np.zeros(shape, np.float32)
    return Noise(np.zeros(shape, np.float32), cross, np.zeros(state.points))


def through(layer: Any, noise: Noise, before: State, after: State, shape: Shape) -> Noise | None:
    """Noise after a leaf; None where there is no rule.

    Parameters
    ----------
    layer : a leaf of the description
    noise : Noise
    before, after : State
        Of its input and output.
    shape : tuple
        Of its input.
    """
    if before.values is not None and after.values is not None:
        return start(after)
    if isinstance(layer, (Dense, Conv)):
        return _weights(layer, noise, before, after, shape)
    if isinstance(layer, Activation):
        return _activation(layer, noise, before, after, shape)
    noise = dataclasses.replace(noise, uneven=noise.uneven.without_pairs())
    if isinstance(layer, BatchNorm) and layer.training:
        return dataclasses.replace(_projected(noise, before, together=True), norm="batch", batch_norm=True, blur=0.0)
    if isinstance(layer, (LayerNorm, GroupNorm)) and len(shape) == 3:
        return dataclasses.replace(_projected(sampled_row(noise), before, together=False), norm="image")
    if isinstance(layer, Pool):
        return _pooled(layer, noise, before, after, shape)
    if isinstance(layer, Flatten) and len(shape) == 3:
        return _mixed(sampled_row(noise), _shares(np.ones((1, before.points)), before))
    if isinstance(layer, ZeroPad):
        index = np.arange(before.points).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()
        return _mixed(sampled_row(noise), np.eye(before.points, dtype=np.float32)[index])
    if isinstance(layer, (BatchNorm, Flatten)):
        return noise
    return None


def _weights(layer: Dense | Conv, noise: Noise, before: State, after: State, shape: Shape) -> Noise:
    channels = layer.features if isinstance(layer, Dense) else layer.channels
    uneven, known = noise.uneven, innovations.of_weights(after)
    pairs = uneven.pairs if before.values is None else given_images.start(before.values)
    pairs = pairs and pairs.weighted(layer, shape)
    if pairs is not None:
        uneven = Unevenness(
            pairs.excess(pairs.correlation() ** 2, each(lambda block: block / 2, known), after.log_q), pairs
        )
    own = _raised(known, 2 * uneven.squares, channels)
    mixed = _mixed(sampled_row(noise), _reading(layer, before, after, shape))
    return dataclasses.replace(mixed, own=own, uneven=uneven, weights=True)


def _raised(blocks: Blocks, by: np.ndarray, channels: int) -> Blocks:
    """What one channel gives, and what is to be added within a copy and between two, over the channels."""
    within, cross = blocks
    raised = (within + np.float32(by[0])) / np.float32(channels)
    return raised, None if cross is None else (cross + np.float32(by[1])) / np.float32(channels)


def _pooled(layer: Pool, noise: Noise, before: State, after: State, shape: Shape) -> Noise:
    """Means of the noise over windows, and what the squares of pooled units vary beyond means of squares."""
    shares = _shares(positions.averaging(layer, shape), before)
    if layer.kind == "average" and before.gaussian:
        own = _raised(innovations.of_weights(after), np.zeros(2), shape[0])
        return dataclasses.replace(_mixed(noise, shares), own=own)
    own = _raised(innovations.of_pool(before, after, shares), np.zeros(2), shape[0])
    blur = noise.blur if layer.kind == "average" else noise.blur + MAXIMUM**2
    return dataclasses.replace(_mixed(sampled_row(noise), shares), own=own, blur=blur)


def added(
    block: Residual, shortcut: Noise, branch: Noise, states: tuple[State, State, State], channels: int
) -> Noise | None:
    """Noise after a sum; `branch.linked` is not used, `shortcut.linked` is the covariance of branch and shortcut.

    None where that covariance is not known, as with a block inside a part.
    """
    first, second, total = states
    if total.values is not None:
        return start(total)
    if shortcut.linked is None:
        return None
    link = each(np.transpose, shortcut.linked)
    uneven = shortcut.uneven.without_pairs()
    batch_norm, blur = shortcut.batch_norm or branch.batch_norm, max(shortcut.blur, branch.blur)
    share = np.exp(second.log_q + 2 * math.log(block.scale) - np.where(np.isfinite(total.log_q), total.log_q, 0.0))
    share = share.astype(np.float32)
    blocks = _combined(share, shortcut, branch, link)
    shift = shortcut.shift + share * (branch.shift - shortcut.shift)
    if total.gaussian:
        own = _raised(innovations.of_weights(total), np.zeros(2), channels)
        return Noise(*blocks, shift, own=own, uneven=uneven, batch_norm=batch_norm, blur=blur)
    parts = dataclasses.replace(shortcut, linked=None, parts=None), dataclasses.replace(branch, parts=None), link
    known = innovations.of_sum(first, second, total)
    sampled = None if known is None else _raised(known, np.zeros(2), channels)
    return Noise(*blocks, shift, own=sampled, parts=parts, batch_norm=batch_norm, blur=blur)


def log_channel_variance(state: State, noise: Noise | None) -> float:
    """ln of the mean variance of a channel over batch and positions, with what finite width adds to it.

    It is ½ mean d; a pair whose second moments vary apart, w = Var(δ_p − δ_p'), has d + 2 E h h' (1 − e^{−w/8}).
    """
    state = state.folded()
    if noise is None or state.log_d is None or state.values is not None:
        return state.log_channel_variance
    q, top = positions.linear(state.log_q)
    q, diagonal = q.astype(np.float32), np.diagonal(noise.within)
    means = []
    for log_d, covariance in ((state.log_d, noise.within), (state.log_cross, noise.cross)):
        if log_d is None or covariance is None:
            break
        distance = np.exp((log_d - top).astype(np.float32))
        product = np.maximum(q[:, None] + q - distance, 0)
        apart = np.maximum(diagonal[:, None] + diagonal - 2 * covariance, 0)
        means.append(float(np.mean(distance - product * np.expm1(apart / -8), dtype=float)))
    mean = means[0] if len(means) == 1 else means[0] / state.copies + means[1] * (1 - 1 / state.copies)
    return float(positions.log(np.array(mean / 2))) + top


def _activation(phi: Activation, noise: Noise, before: State, after: State, shape: Shape) -> Noise | None:
    if str(phi) == "linear":
        return noise
    channels = shape[0]
    if noise.parts is not None:
        return _after_sum(phi, noise, before, channels)
    if not before.gaussian:
        return None
    slope = np.asarray(log_slope(phi, before.log_q))
    changed = _mixed(dataclasses.replace(noise, own=None), sparse.diags_array(slope.astype(np.float32)))
    curvature = np.asarray(_log_curvature(phi, before.log_q)) + slope**2 - slope
    shift = changed.shift + np.diagonal(noise.within) / 2 * curvature
    known = innovations.of_activation(phi, before, noise.norm)
    extra, uneven = _unevenness(phi, noise, known, before, after, float(np.mean(slope)))
    own = _raised(known, extra, channels)
    return dataclasses.replace(changed, shift=shift, own=own, uneven=uneven, norm="", weights=False)


def _unevenness(
    phi: Activation, noise: Noise, known: Blocks, before: State, after: State, slope: float
) -> tuple[np.ndarray, Unevenness]:
    """What pairs of images add to innovations, and what is left of their unevenness."""
    rho = _mean_correlation(before)
    uneven = noise.uneven.faded(_correlation_slope(phi, before, rho))
    if (pairs := noise.uneven.pairs) is not None and not noise.norm:
        activated = pairs.activated(phi)
        extra = activated.excess(given_images.square_covariance(phi, pairs), known, after.log_q)
        return extra, uneven._replace(pairs=activated)
    even = 0.0 if noise.norm else 2 * slope**2  # φ² ≈ E φ² + slope · (u² − q) E φ²/q + …
    return noise.uneven.signed_excess(rho) * _signed_share(phi) + even * noise.uneven.squares, uneven


def _signed_share(phi: Activation) -> float:
    """What the covariance of u|u| counts in that of φ(u)²: taken as 0 for smooth φ."""
    return 0.0 if phi.homogeneous_slopes is None else innovations.odd_share(phi)


def _log_curvature(phi: Activation, log_q: np.ndarray) -> np.ndarray:
    """d² ln E φ²/(d ln q)², 0 for a homogeneous φ."""
    if phi.homogeneous_slopes is not None:
        return np.zeros_like(log_q)
    return (log_slope(phi, log_q + CURVATURE_STEP) - log_slope(phi, log_q - CURVATURE_STEP)) / (2 * CURVATURE_STEP)


def _correlation_slope(phi: Activation, state: State, rho: float) -> float:
    """q E φ′(u) φ′(v)/E φ² at the mean second moment and correlation."""
    log_q = state.log_second_moment
    if not math.isfinite(log_q):
        return 0.0
    log_ratio = log_q - float(phi.log_moments(log_q).log_second)
    return hermite.slope_product(phi, log_q, rho) * math.exp(min(log_ratio, 300.0))


def _mean_correlation(state: State) -> float:
    if state.log_d is None or state.log_second_moment == -math.inf:
        return 0.0
    apart = math.exp(min(float(state.log_channel_variance - state.log_second_moment), 0.0))
    return 1 - apart


def _after_sum(phi: Activation, noise: Noise, before: State, channels: int) -> Noise:
    """After φ(x + f): shares of the branch's variance in E φ², and innovations from sampled units."""
    assert noise.parts is not None and before.population is not None
    units = before.population()
    shortcut, branch, link = noise.parts
    response, known = innovations.of_response(phi, units)
    blocks = _combined(response, shortcut, branch, link)
    share, rho = float(response.mean()), _mean_correlation(before)
    uneven = given_images.mixed(shortcut.uneven, branch.uneven, share)
    extra = share * (uneven.signed_excess(rho) * _signed_share(phi) + 2 * uneven.squares)
    own = _raised(known, extra, channels)
    shift = shortcut.shift + response * (branch.shift - shortcut.shift)
    faded = uneven.faded(_correlation_slope(phi, before, rho))
    return Noise(*blocks, shift, own=own, uneven=faded, batch_norm=noise.batch_norm, blur=noise.blur)


def _combined(share: np.ndarray, shortcut: Noise, branch: Noise, link: Blocks) -> Blocks:
    """(1 − b) of the shortcut's noise and b of the branch's."""
    rest = 1 - share
    blocks: list[np.ndarray | None] = []
    for first, second, between in zip(_blocks(shortcut), _blocks(branch), link, strict=True):
        if first is None or second is None or between is None:
            blocks.append(None)
            continue
        mixed = rest[:, None] * between * share
        blocks.append(rest[:, None] * first * rest + share[:, None] * second * share + mixed + mixed.T)
    assert blocks[0] is not None
    return blocks[0], blocks[1]


def _blocks(noise: Noise) -> Blocks:
    return noise.within, noise.cross


def _mixed(noise: Noise, matrix: Any) -> Noise:
    """A R Aᵀ, and R Aᵀ for what is linked."""

    def both(block: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((matrix @ (matrix @ block).T).T)

    within, cross = each(both, (noise.within, noise.cross))
    linked = None if noise.linked is None else each(lambda block: (matrix @ block.T).T, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=matrix @ noise.shift, linked=linked)


def sampled_row(noise: Noise) -> Noise:
    """The row's own channels drawn."""
    if noise.own is None or noise.own[0].shape != noise.within.shape:
        return dataclasses.replace(noise, own=None, parts=None, norm="", weights=False)
    within = noise.within + noise.own[0]
    cross = None if noise.cross is None or noise.own[1] is None else noise.cross + noise.own[1]
    return dataclasses.replace(noise, within=within, cross=cross, own=None, parts=None, norm="", weights=False)


def _projected(noise: Noise, state: State, together: bool) -> Noise:
    """δ less its mean, weighted by q, over the batch or over the positions of one image."""
    q, _ = positions.linear(state.log_q)
    shares = (q / q.sum()).astype(np.float32) if q.sum() > 0 else np.full(len(q), 1 / len(q), np.float32)
    within, cross = _centred((noise.within, noise.cross), shares, state.copies if together else 1, both=True)
    linked = noise.linked and _centred(noise.linked, shares, state.copies if together else 1, both=False)
    shift = noise.shift - float(shares @ noise.shift)
    return dataclasses.replace(noise, within=within, cross=cross, shift=shift, own=None, linked=linked)


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


def _shares(matrix: np.ndarray, state: State) -> np.ndarray:
    """Rows of weights, times q, summing to one."""
    q, _ = positions.linear(state.log_q)
    weighted = matrix * q
    total = weighted.sum(axis=1, keepdims=True)
    return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0).astype(np.float32)


def _reading(layer: Dense | Conv, before: State, after: State, shape: Shape) -> Any:
    """Shares in q'_P of the points that are read; what is missing to one is the bias."""
    bias = layer.bias_variance(shape)
    kept = 1 - np.exp((math.log(bias) if bias else -math.inf) - after.log_q) if bias else np.ones(after.points)
    if isinstance(layer, Dense):
        return sparse.diags_array(kept.astype(np.float32))
    geometry = layer.kernel, layer.stride, layer.padding or 0, layer.dilation
    counts = _counts(geometry, shape[1:], layer.output_shape(shape)[1:])
    q, _ = positions.linear(before.log_q)
    total = counts @ q
    scale = np.divide(kept, total, out=np.zeros_like(total), where=total > 0)
    return (sparse.diags_array(scale) @ counts @ sparse.diags_array(q)).tocsr().astype(np.float32)


@functools.lru_cache(maxsize=32)
def _counts(geometry: tuple[int, int, int, int], sides: Shape, outputs: Shape) -> Any:
    kernel, stride, padding, dilation = geometry
    index = np.pad(np.arange(math.prod(sides)).reshape(sides), padding, constant_values=-1)
    read = np.stack([index[place].ravel() for place in positions.offsets(kernel, outputs, stride, dilation)], axis=1)
    row, column = np.nonzero(read >= 0)
    return sparse.csr_array((np.ones(len(row)), (row, read[row, column])), (len(read), math.prod(sides)))
