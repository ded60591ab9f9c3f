"""Finite width of convolutional networks: how second moments of points vary from one draw of the weights to another.

With δ_p = the relative deviation of q_p from its expectation, and C channels, to first order in 1/C:

    Conv, Dense  δ'_P = Σ_a w_Pa δ_a, w the shares of the points read, and of the bias, in q'_P
    Activation   δ'_p = s_p δ_p + e_p,  s = d ln E φ²/d ln q,  Cov(e_p, e_p') = Cov(φ(u)², φ(v)²)/(C E φ² E φ²)
    sum, φ       δ'_p = (1 − b_p) δ_p(shortcut) + b_p δ_p(branch) + e_p,  b = E[φ φ′ f]/E φ² for φ = φ(x + f)
    BatchNorm    δ'_p = δ_p less its mean over the batch, weighted by q: the scale is lost
    Layer-, GroupNorm    the same of δ_p + e_p and over the positions of one image, e_p of the channels normalized;
                 δ'_p = 0 where positions are normalized by themselves
    Affine       δ' = δ under one factor for all channels; no rule for others
    Pool         δ'_P = Σ_a w_Pa (δ_a + e_a) + e'_P, w the shares of the points of a window, e' beyond means of squares

e is what sampling the row's channels adds (`innovations`); images that are given differ, which adds to its covariances
and moves means (`given_images`). Where E φ² is not linear in q, fluctuations move its mean: with f = E φ², the shift ε
of ln E q from infinite width is

    Activation   ε'_p = s_p ε_p + ½ Var(δ_p) (k_p − s_p),   k = q² f″/f + s = d s/d ln q + s²

and after a Layer- or GroupNorm, with v_p = Cov(e_p, mean e) over the positions of an image and the channels of a group,

    ε'_p = s_p ε_p + ½ Var(δ_p − mean δ) (k_p − s_p) + ½ (k_p + s_p) mean v − k_p v_p

(v_p for mean v, where positions are normalized by themselves).
Two points whose second moments vary independently are further apart than at infinite width: to the same order their
covariance is smaller by exp(−w/8), w = Var(δ_p − δ_p').

Domain of validity. The next order is b/C of a variance, b about 4 for ReLU: 8% of a standard deviation at 24 channels
a layer. Groups of GroupNorm of fewer than 8 channels: up to 30% too wide where given images differ much. No variance
(NaN) where the rule would be wrong: after a BatchNorm, whose outputs' mean square is fixed up to odd moments over the
batch that need the covariances of all images, except where weights of the row's own make most of it; where a maximum
may be further off in the mean than draws vary; and at means over windows of Gaussian units of given images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.by_rows import by_rows
from bntheory.growth.finite_width import given_images, innovations, readings
from bntheory.growth.finite_width.given_images import Unevenness
from bntheory.growth.finite_width.innovations import Blocks, each
from bntheory.growth.finite_width.noise import Noise, combined, in_the_mean, mixed, projected, sampled_row, scaled
from bntheory.growth.infinite_width import hermite, positions, rearranged, transposed
from bntheory.growth.infinite_width.moments import log_slope
from bntheory.growth.infinite_width.sizes import Lost, of_blocks
from bntheory.growth.infinite_width.state import State
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pad, Pool, Shape, ZeroPad
from bntheory.networks import Residual
from bntheory.positional import ConvTranspose, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample

CURVATURE_STEP = 0.05  # of ln q
SILENT = 1e-30  # share of the largest second moment below which points count alike, within single precision
FADED = 1e-3  # of E ρ², what images add to it when their pairs need not be carried any longer
MEMBERS = 8  # channels of a group, from which what its mean takes from pairs may be that of mean images
MAXIMUM = 0.07  # how far the logarithm of a maximum's mean square may be off where given images differ


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
    if isinstance(layer, ConvTranspose):
        return _transposed(layer, noise, before, after, shape)
    if isinstance(layer, Activation):
        return _activation(layer, noise, before, after, shape)
    if isinstance(layer, Unroll):
        return noise.without_pairs(before)
    if isinstance(layer, Offset):
        return _offset(layer, noise, before, after, shape)
    if isinstance(layer, Channels):
        return _of_channels(layer, noise, shape)
    if isinstance(layer, Affine):
        return noise.times(layer.factor) if layer.factor else None
    if isinstance(layer, (LayerNorm, GroupNorm)) and len(shape) == 3:
        return _normalized(layer, noise, before, shape)
    noise = dataclasses.replace(noise.without_pairs(before), unknown=noise.batch_norm)
    if isinstance(layer, BatchNorm) and layer.training:
        return dataclasses.replace(
            projected(noise, before, together=True), norm="batch", unknown=False, batch_norm=True, blur=0.0
        )
    if isinstance(layer, Pool):
        return _pooled(layer, noise, before, after, shape)
    if isinstance(layer, Flatten) and len(shape) == 3:
        return mixed(sampled_row(noise), _shares(np.ones((1, before.points)), before))
    if isinstance(layer, Upsample):
        return _repeated(noise, rearranged.repeated(layer, shape))
    if isinstance(layer, Unflatten):
        return _unflattened(layer, noise)
    if isinstance(layer, Pad):
        return _padded(noise, np.eye(after.points, dtype=np.float32)[:, positions.within(shape[1:], layer.sides)])
    if isinstance(layer, ZeroPad):
        index = np.arange(before.points).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()
        return mixed(sampled_row(noise), np.eye(before.points, dtype=np.float32)[index])
    if isinstance(layer, (BatchNorm, Flatten)):
        return noise
    return None


def _weights(layer: Dense | Conv, noise: Noise, before: State, after: State, shape: Shape) -> Noise:
    channels = layer.features if isinstance(layer, Dense) else layer.channels
    known, pairs = innovations.of_weights(after), None  # given vectors count one by one
    if isinstance(layer, Conv):
        pairs = noise.uneven.pairs if before.values is None else given_images.start(before.values)
        pairs = pairs and pairs.convolved(layer, shape)
    if pairs is None:
        noise = noise.without_pairs(before)
        uneven = noise.uneven
    else:
        excess = pairs.excess(2 * pairs.correlation() ** 2, known, after.log_q)
        uneven = Unevenness(excess / 2, pairs)
    extra = 2 * uneven.squares
    if isinstance(layer, Conv) and readings.matter(layer, noise):
        spread = readings.spread(layer, before, _kept(layer, after, shape), shape, noise)
        known = each(lambda block, more: block + 2 * more, known, spread)
        extra = extra if before.values is None else np.zeros(2)  # samples of given images are of all that differ
    own = _raised(known, extra, channels)
    read = _read(layer, sampled_row(noise), before, after, shape)
    result = dataclasses.replace(read, own=own, uneven=uneven, norm="", fixed=None, unknown=False)
    return result.without_pairs(after) if np.abs(uneven.squares).max() < FADED else result


def _normalized(layer: LayerNorm | GroupNorm, noise: Noise, before: State, shape: Shape) -> Noise:
    if isinstance(layer, LayerNorm) and layer.by_position(shape):
        return _fixed(noise.without_pairs(before))
    groups = layer.groups if isinstance(layer, GroupNorm) else 1
    noise = _with_normalized_pairs(layer, noise, before, shape[0] // groups)
    kernel = np.diagonal(projected(noise, before, together=False).within)
    sampled = np.zeros_like(kernel) if noise.sampling is None else noise.sampling[0] @ in_the_mean(before)
    after = projected(sampled_row(noise), before, together=False)
    return dataclasses.replace(after, norm="image", fixed=(kernel, sampled * groups), unknown=False)


def _fixed(noise: Noise) -> Noise:
    """Where the second moment of every point is the same in all draws."""
    within, cross = each(np.zeros_like, (noise.within, noise.cross))
    sampled = np.zeros(len(within)) if noise.sampling is None else np.diagonal(noise.sampling[0])
    linked = noise.linked and each(np.zeros_like, noise.linked)
    after = dataclasses.replace(sampled_row(noise), within=within, cross=cross, linked=linked)
    fixed = np.zeros(len(within)), sampled
    return dataclasses.replace(after, shift=np.zeros(len(within)), norm="rest", fixed=fixed, unknown=False)


def _with_normalized_pairs(layer: LayerNorm | GroupNorm, noise: Noise, before: State, members: int) -> Noise:
    pairs = noise.uneven.pairs
    if pairs is None or not before.centred or members < MEMBERS:
        return noise.without_pairs(before)
    if isinstance(layer, GroupNorm):
        lost = each(lambda block: block / members, innovations.shared(before))
        pairs = pairs.less(lost, before.log_q)
    return dataclasses.replace(noise, uneven=noise.uneven._replace(pairs=pairs.normalized(layer.epsilon)))


def _raised(blocks: Blocks, by: np.ndarray, channels: int) -> Blocks:
    """What one channel gives, and what is to be added within a copy and between two, over the channels."""
    within, cross = blocks
    raised = (within + np.float32(by[0])) / np.float32(channels)
    return raised, None if cross is None else (cross + np.float32(by[1])) / np.float32(channels)


def _pooled(layer: Pool, noise: Noise, before: State, after: State, shape: Shape) -> Noise | None:
    """Means of the noise over windows, and what the squares of pooled units vary beyond means of squares."""
    if noise.norm == "rest":
        return None
    shares = _shares(positions.averaging(layer, shape), before)
    if layer.kind == "average" and before.gaussian:
        own = _raised(innovations.of_weights(after), np.zeros(2), shape[0])
        own = noise.without_held(own, lambda block: shares @ block @ shares.T)
        noise = dataclasses.replace(noise, held=None, norm="", fixed=None)
        return dataclasses.replace(mixed(noise, shares), own=own, unknown=bool(noise.uneven.squares.any()))
    own = _raised(innovations.of_pool(before, after, shares), np.zeros(2), shape[0])
    blur = noise.blur if layer.kind == "average" else noise.blur + MAXIMUM**2
    return dataclasses.replace(mixed(sampled_row(noise), shares), own=own, blur=blur)


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
    shortcut, branch = shortcut.without_pairs(first), branch.without_pairs(second)
    batch_norm, blur = shortcut.batch_norm or branch.batch_norm, max(shortcut.blur, branch.blur)
    share = np.exp(second.log_q + 2 * math.log(block.scale) - np.where(np.isfinite(total.log_q), total.log_q, 0.0))
    share = share.astype(np.float32)
    blocks = combined(share, shortcut, branch, link)
    shift = shortcut.shift + share * (branch.shift - shortcut.shift)
    known = innovations.of_sum(first, total)
    sampled = None if known is None else _raised(known, np.zeros(2), channels)
    if total.gaussian and sampled is not None:
        excess = 2 * shortcut.uneven.squares * float(1 - share.mean()) ** 2
        held = each(np.subtract, _raised(innovations.of_weights(total), excess, channels), sampled)
        after = Noise(*blocks, shift, own=sampled, held=held, uneven=shortcut.uneven)
        return dataclasses.replace(after, unknown=batch_norm, batch_norm=batch_norm, blur=blur)
    parts = dataclasses.replace(shortcut, linked=None, parts=None), dataclasses.replace(branch, parts=None), link
    return Noise(*blocks, shift, own=sampled, parts=parts, unknown=batch_norm, batch_norm=batch_norm, blur=blur)


def log_channel_variance(state: State, noise: Noise | None) -> float:
    """ln of the mean variance of a channel over batch and positions, with what finite width adds to it.

    It is ½ mean d; a pair whose second moments vary apart, w = Var(δ_p − δ_p'), has d + 2 E h h' (1 − e^{−w/8}).
    """
    if noise is None or state.log_d is None or state.values is not None:
        return state.folded().log_channel_variance
    q, top = positions.linear(state.log_q)
    q, diagonal = q.astype(np.float32), np.diagonal(noise.within)
    means = []
    noises = [block for block in (noise.within, noise.cross) if block is not None]
    for log_d, covariance, lost in zip(state.blocks, noises, of_blocks(state.sizes), strict=False):

        def row_means(
            rows: slice, log_d: np.ndarray = log_d, covariance: np.ndarray = covariance, lost: Lost | None = lost
        ) -> np.ndarray:
            distance, both = np.exp((log_d[rows] - top).astype(np.float32)), q[rows, None] + q
            if lost is not None:
                distance = lost.add(distance, both, rows)
            product = np.maximum(both - distance, 0)
            apart = np.maximum(diagonal[rows, None] + diagonal - 2 * covariance[rows], 0)
            return np.mean(distance - product * np.expm1(apart / -8), axis=1, dtype=float)

        means.append(float(by_rows(row_means, len(q)).mean()))
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
    changed = scaled(dataclasses.replace(noise, own=None), slope)
    shift = changed.shift + _bent(phi, noise, before, slope)
    known = innovations.of_activation(phi, before, noise.norm)
    extra, uneven = _unevenness(phi, noise, known, before, after, float(np.mean(slope)))
    own = _raised(known, extra, channels)
    single = slope.astype(np.float32)
    own = noise.without_held(own, lambda block: block * single[:, None] * single)
    return dataclasses.replace(
        changed, shift=shift, own=own, held=None, uneven=uneven, norm="", fixed=None, unknown=noise.batch_norm
    )


def _bent(phi: Activation, noise: Noise, before: State, slope: np.ndarray) -> np.ndarray:
    """What fluctuations move the mean of φ² by, where E φ² is not linear in q."""
    curvature = np.asarray(_log_curvature(phi, before.log_q)) + slope**2
    if noise.fixed is None:
        return np.diagonal(noise.within) / 2 * (curvature - slope)
    kernel, sampled = noise.fixed
    mean = sampled if noise.norm == "rest" else float(in_the_mean(before) @ sampled)
    return kernel / 2 * (curvature - slope) + mean / 2 * (curvature + slope) - sampled * curvature


def _unevenness(
    phi: Activation, noise: Noise, known: Blocks, before: State, after: State, slope: float
) -> tuple[np.ndarray, Unevenness]:
    """What pairs of images add to innovations, and what is left of their unevenness."""
    rho = _mean_correlation(before)
    uneven = noise.uneven.faded(_correlation_slope(phi, before, rho))
    if (pairs := noise.uneven.pairs) is not None:
        activated = pairs.activated(phi)
        if noise.norm:
            known = innovations.of_activation(phi, before, "rest")  # nothing is left of the other terms in the mean
        covariance = pairs.square_covariance(phi, rest=bool(noise.norm))
        return activated.excess(covariance, known, after.log_q), uneven._replace(pairs=activated)
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
    blocks = combined(response, shortcut, branch, link)
    share, rho = float(response.mean()), _mean_correlation(before)
    uneven = given_images.mixed(shortcut.uneven, branch.uneven, share)
    extra = share * (uneven.signed_excess(rho) * _signed_share(phi) + 2 * uneven.squares)
    own = _raised(known, extra, channels)
    shift = shortcut.shift + response * (branch.shift - shortcut.shift)
    faded = uneven.faded(_correlation_slope(phi, before, rho))
    known_roughly = noise.batch_norm
    return Noise(
        *blocks, shift, own=own, uneven=faded, unknown=known_roughly, batch_norm=known_roughly, blur=noise.blur
    )


def _offset(layer: Offset, noise: Noise, before: State, after: State, shape: Shape) -> Noise | None:
    """As of a sum with a branch whose weights do not vary; None unless both parts are Gaussian."""
    if layer.variance == 0:
        return noise
    if not after.gaussian or after.mixed:
        return None
    share = np.exp(before.log_q - after.log_q)
    own = _raised(innovations.of_weights(after), np.zeros(2), shape[0])
    held = noise.held and each(lambda block: block * share[:, None] * share, noise.held)
    less = dataclasses.replace(scaled(noise.without_pairs(before), share), held=held)
    own = less.without_held(own, lambda block: block)
    return dataclasses.replace(less, own=own, norm="", fixed=None, parts=None, unknown=noise.batch_norm)


def _transposed(layer: ConvTranspose, noise: Noise, before: State, after: State, shape: Shape) -> Noise | None:
    """As of the convolution of a map with zeros; None of given images, whose pairs are not carried through it."""
    if before.values is not None and before.copies > 1:
        return None
    read, inside = transposed.spread(layer, before, shape), transposed.inside(layer, shape)
    spread = mixed(sampled_row(noise.without_pairs(before)), np.eye(read.points, dtype=np.float32)[:, inside])
    return _weights(layer.convolution(shape), spread, read, after, layer.spread_shape(shape))


def _repeated(noise: Noise, index: np.ndarray) -> Noise:
    """Of points several times."""
    if noise.parts is not None:
        noise = sampled_row(noise)
    copied = mixed(noise, np.eye(len(noise.within), dtype=np.float32)[index])
    own, held = (part and each(lambda block: block[np.ix_(index, index)], part) for part in (noise.own, noise.held))
    fixed = None if noise.fixed is None else (noise.fixed[0][index], noise.fixed[1][index])
    return dataclasses.replace(copied, own=own, held=held, fixed=fixed)


def _padded(noise: Noise, matrix: np.ndarray) -> Noise:
    """Zeros do not vary; what sampling units adds stays apart, for activations and means to replace it by theirs."""
    if noise.parts is not None or noise.norm:
        noise = sampled_row(noise)
    own = noise.own and each(lambda block: matrix @ block @ matrix.T, noise.own)
    return dataclasses.replace(mixed(noise, matrix), own=own)


def _unflattened(layer: Unflatten, noise: Noise) -> Noise | None:
    """What sampling units adds is independent at every position, and of the channels of one position only."""
    if noise.parts is not None and layer.positions > 1:
        return None
    share = np.eye(layer.positions, dtype=np.float32) * np.float32(layer.positions)
    own = noise.own and each(lambda block: block * share, noise.own)
    return dataclasses.replace(mixed(noise, np.ones((layer.positions, 1), np.float32)), own=own)


def _of_channels(layer: Channels, noise: Noise, shape: Shape) -> Noise | None:
    """Fewer channels are sampled; None where they have been, or are normalized together with others."""
    if noise.own is None or noise.parts is not None or noise.held is not None or noise.norm == "image":
        return None
    fewer = np.float32(shape[0] / (layer.stop - layer.start))
    return dataclasses.replace(noise, own=each(lambda block: block * fewer, noise.own))


def _shares(matrix: np.ndarray, state: State) -> np.ndarray:
    """Rows of weights, times q, summing to one."""
    q, _ = positions.linear(state.log_q)
    weighted = matrix * q
    total = weighted.sum(axis=1, keepdims=True)
    return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0).astype(np.float32)


def _kept(layer: Dense | Conv, after: State, shape: Shape) -> np.ndarray:
    """Of the weights in every second moment; the rest is the bias."""
    bias = layer.bias_variance(shape)
    return 1 - np.exp(math.log(bias) - after.log_q) if bias else np.ones(after.points)


def _read(layer: Dense | Conv, noise: Noise, before: State, after: State, shape: Shape) -> Noise:
    """The same for the shares in q'_P of the points that are read; what is missing to one is the bias."""
    kept = _kept(layer, after, shape)
    if isinstance(layer, Dense):
        return scaled(noise, kept)
    q = np.maximum(positions.linear(before.log_q)[0], SILENT).astype(np.float32)
    total = positions.window_sums(layer, shape, q)
    share = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0).astype(np.float32)

    def read(values: np.ndarray) -> np.ndarray:
        return positions.window_sums(layer, shape, values * q) * share

    def once(block: np.ndarray) -> np.ndarray:
        return by_rows(lambda rows: read(block[rows]), len(block))

    def twice(block: np.ndarray) -> np.ndarray:
        half = once(block)
        return by_rows(lambda rows: read(half[:, rows].T), after.points)

    within, cross = each(twice, (noise.within, noise.cross))
    linked = noise.linked and each(once, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=read(noise.shift), linked=linked)
