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
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.by_rows import by_rows
from bntheory.growth.finite_width import given_images
from bntheory.growth.finite_width.given_images import Unevenness
from bntheory.growth.infinite_width import hermite, population, positions
from bntheory.growth.infinite_width.moments import log_slope
from bntheory.growth.infinite_width.state import State
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, GroupNorm, LayerNorm, Pool, Shape, ZeroPad
from bntheory.networks import Residual

CURVATURE_STEP = 0.05  # of ln q
SILENT = 1e-30  # share of the largest second moment below which points count alike, within single precision
SAMPLED = 256  # units from which covariances of squares are taken

Blocks = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Noise:
    """Cov(δ_p, δ_p') within a copy and between two.

    within, cross : (points, points), of the second moments of which the row's units are drawn;
    own : the same shape, what sampling the row's channels adds;
    shift : (points,), of ln E q from infinite width;
    uneven : what pairs of given images add that are not alike;
    linked : covariance of something outside, (its points, points), with this row;
    parts : at a sum that is not Gaussian, the noise of shortcut and branch and their covariance.
    """

    within: np.ndarray
    cross: np.ndarray | None
    shift: np.ndarray
    own: Blocks | None = None
    uneven: Unevenness = given_images.ALIKE
    linked: Blocks | None = None
    parts: tuple[Noise, Noise, Blocks] | None = None

    def mean_shift(self, state: State) -> float:
        """Of ln of the mean of q over points."""
        q, _ = positions.linear(state.log_q)
        return float(q @ self.shift / q.sum()) if q.sum() > 0 else 0.0

    def variance(self, state: State, of_batch: bool) -> float:
        """Var of the logarithm of the row's mean square, over all points of the batch or of one copy."""
        q, _ = positions.linear(state.log_q)
        shares = q / q.sum() if q.sum() > 0 else np.full_like(q, 1 / len(q))
        own = self.own or (np.zeros((1, 1)), np.zeros((1, 1)))
        within = _weighted(self.within, shares) + _weighted(own[0], shares)
        if self.cross is None or own[1] is None or not of_batch:
            return max(0.0, float(within))
        cross = _weighted(self.cross, shares) + _weighted(own[1], shares)
        return max(0.0, float(cross + (within - cross) / state.copies))


def _weighted(block: np.ndarray, shares: np.ndarray) -> float:
    return float(shares @ (block @ shares.astype(np.float32))) if block.shape[0] == len(shares) else 0.0


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
        channels = layer.features if isinstance(layer, Dense) else layer.channels
        uneven = noise.uneven if before.values is None else _unevenness(layer, before.values, after)
        own = _raised(_gaussian_own(after, channels), 2 * uneven.squares / channels)
        return dataclasses.replace(_read(layer, sampled_row(noise), before, after, shape), own=own, uneven=uneven)
    if isinstance(layer, Activation):
        return _activation(layer, noise, before, after, shape)
    if isinstance(layer, BatchNorm) and layer.training:
        return _projected(noise, before, together=True)
    if isinstance(layer, (LayerNorm, GroupNorm)) and len(shape) == 3:
        return _projected(noise, before, together=False)
    if isinstance(layer, Pool) and layer.kind == "average" and before.gaussian:
        pooled = _mixed(noise, _shares(positions.averaging(layer, shape), before))
        return dataclasses.replace(pooled, own=_gaussian_own(after, shape[0]))
    if isinstance(layer, Pool):
        return _mixed(sampled_row(noise), _shares(positions.averaging(layer, shape), before))
    if isinstance(layer, Flatten) and len(shape) == 3:
        return _mixed(sampled_row(noise), _shares(np.ones((1, before.points)), before))
    if isinstance(layer, ZeroPad):
        index = np.arange(before.points).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()
        return _mixed(sampled_row(noise), np.eye(before.points, dtype=np.float32)[index])
    if isinstance(layer, (BatchNorm, Flatten)):
        return noise
    return None


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
    link = _map(np.transpose, shortcut.linked)
    share = np.exp(second.log_q + 2 * math.log(block.scale) - np.where(np.isfinite(total.log_q), total.log_q, 0.0))
    share = share.astype(np.float32)
    blocks = _combined(share, shortcut, branch, link)
    shift = shortcut.shift + share * (branch.shift - shortcut.shift)
    if total.gaussian:
        return Noise(*blocks, shift, own=_gaussian_own(total, channels), uneven=shortcut.uneven)
    parts = dataclasses.replace(shortcut, linked=None, parts=None), dataclasses.replace(branch, parts=None), link
    return Noise(*blocks, shift, own=_sum_own(first, total, channels), parts=parts)


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

        def row_means(rows: slice, log_d: np.ndarray = log_d, covariance: np.ndarray = covariance) -> np.ndarray:
            distance = np.exp((log_d[rows] - top).astype(np.float32))
            product = np.maximum(q[rows, None] + q - distance, 0)
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
        return _after_sum(phi, noise, before, after, channels)
    if not before.gaussian:
        return None
    slope = np.asarray(log_slope(phi, before.log_q))
    changed = _scaled(dataclasses.replace(noise, own=None), slope)
    normalized = math.isfinite(before.sphere) or noise.own is None  # the mean of u² does not vary
    curvature = np.asarray(_log_curvature(phi, before.log_q)) + slope**2 - slope
    shift = changed.shift + np.diagonal(noise.within) / 2 * curvature
    rho = _mean_correlation(before)
    even = 0.0 if normalized else 2 * float(np.mean(slope)) ** 2  # φ² ≈ E φ² + slope · (u² − q) E φ²/q + …
    extra = noise.uneven.signed_excess(rho) * _signed_share(phi) + even * noise.uneven.squares
    own = _raised(_activation_own(phi, before, after, channels, normalized), extra / channels)
    uneven = noise.uneven.faded(_correlation_slope(phi, before, rho))
    return dataclasses.replace(changed, shift=shift, own=own, uneven=uneven)


def _log_curvature(phi: Activation, log_q: np.ndarray) -> np.ndarray:
    """d² ln E φ²/(d ln q)², 0 for a homogeneous φ."""
    if phi.homogeneous_slopes is not None:
        return np.zeros_like(log_q)
    return (log_slope(phi, log_q + CURVATURE_STEP) - log_slope(phi, log_q - CURVATURE_STEP)) / (2 * CURVATURE_STEP)


def _raised(blocks: Blocks, by: np.ndarray) -> Blocks:
    return blocks[0] + np.float32(by[0]), None if blocks[1] is None else blocks[1] + np.float32(by[1])


def _signed_share(phi: Activation) -> float:
    """What the covariance of u|u| counts in that of φ(u)²: 1 for ReLU, 0 for even or odd φ, taken as 0 for smooth φ."""
    if phi.homogeneous_slopes is None:
        return 0.0
    a, b = phi.homogeneous_slopes
    return ((a**2 - b**2) / (a**2 + b**2)) ** 2


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


def _unevenness(layer: Dense | Conv, values: np.ndarray, after: State) -> Unevenness:
    """Of given inputs, after the first weights."""
    q, _ = positions.linear(after.log_q)
    if q.sum() == 0:
        return given_images.ALIKE
    shares, rows = q / q.sum(), []
    for rho in correlations(after):
        known = np.zeros((1, 1)) if rho is None else rho
        weights = shares if rho is not None else np.ones(1)
        signed = given_images.relu_covariance(known) - 2 * known**2
        rows.append((weights @ known**2 @ weights, weights @ signed @ weights))
    unit = values / (np.abs(values).max() or 1.0)  # its square stays in float64
    return given_images.measured(layer, unit, np.array(rows))


def _after_sum(phi: Activation, noise: Noise, before: State, after: State, channels: int) -> Noise:
    """After φ(x + f): shares of the branch's variance in E φ², and innovations from sampled units."""
    assert noise.parts is not None and before.population is not None
    units = before.population()
    shortcut, branch, link = noise.parts
    response, innovations = _responses(phi, units, after)
    blocks = _combined(response, shortcut, branch, link)
    share, rho = float(response.mean()), _mean_correlation(before)
    uneven = given_images.mixed(shortcut.uneven, branch.uneven, share)
    extra = share * (uneven.signed_excess(rho) * _signed_share(phi) + 2 * uneven.squares)
    own = _raised(_map(lambda block: block / np.float32(channels), innovations), extra / channels)
    shift = shortcut.shift + response * (branch.shift - shortcut.shift)
    return Noise(*blocks, shift, own=own, uneven=uneven.faded(_correlation_slope(phi, before, rho)))


def _responses(phi: Activation, units: population.Population, after: State) -> tuple[np.ndarray, Blocks]:
    """b of every point, and Cov(e, e') of one channel, from two draws of the branch: its own, and a neighbour's."""
    assert units.parts is not None
    x, f = units.parts
    scales = [math.exp(part.log_scale - units.log_scale) for part in (x, f)]
    total = x.particles * scales[0] + f.particles * scales[1]
    factor = 1.0 if phi.homogeneous_slopes is not None else math.exp(min(max(units.log_scale, -80), 80))
    value = phi.phi(total * factor)
    moved = value * phi.dphi(total * factor) * f.particles * (scales[1] * factor)
    square = np.mean(value**2, axis=0)
    response = np.divide(np.mean(moved, axis=0), square, out=np.zeros_like(square), where=square > 0)
    if x.fields is None or f.fields is None:
        return response.astype(np.float32), (np.zeros((1, 1)), None)
    ratio, other = (np.float32(scale * factor) for scale in scales)
    some = slice(0, SAMPLED)
    first = phi.phi(x.fields[some] * ratio + f.fields[some] * other) ** 2
    second = phi.phi(x.fields[some] * ratio + np.roll(f.fields[some], 1, axis=0) * other) ** 2
    mean = np.mean((first + second) / 2, axis=(0, 1))
    change = (first - second) / np.where(mean > 0, mean, 1) / np.float32(math.sqrt(2))
    return response.astype(np.float32), population.products(change)


def _combined(share: np.ndarray, shortcut: Noise, branch: Noise, link: Blocks) -> Blocks:
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


def _mixed(noise: Noise, matrix: np.ndarray) -> Noise:
    """A R Aᵀ, and R Aᵀ for what is linked."""
    within, cross = _map(lambda block: matrix @ block @ matrix.T, (noise.within, noise.cross))
    linked = noise.linked and _map(lambda block: block @ matrix.T, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=matrix @ noise.shift, linked=linked)


def _scaled(noise: Noise, factor: np.ndarray) -> Noise:
    """The same for a diagonal A."""
    single = factor.astype(np.float32)
    within, cross = _map(lambda block: block * single[:, None] * single, (noise.within, noise.cross))
    linked = noise.linked and _map(lambda block: block * single, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=factor * noise.shift, linked=linked)


def _map(function: Any, blocks: Blocks) -> Blocks:
    return function(blocks[0]), None if blocks[1] is None else function(blocks[1])


def sampled_row(noise: Noise) -> Noise:
    """The row's own channels drawn."""
    if noise.own is None or noise.own[0].shape != noise.within.shape:
        return dataclasses.replace(noise, own=None, parts=None)
    within = noise.within + noise.own[0]
    cross = None if noise.cross is None or noise.own[1] is None else noise.cross + noise.own[1]
    return dataclasses.replace(noise, within=within, cross=cross, own=None, parts=None)


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


def _read(layer: Dense | Conv, noise: Noise, before: State, after: State, shape: Shape) -> Noise:
    """The same for the shares in q'_P of the points that are read; what is missing to one is the bias."""
    bias = layer.bias_variance(shape)
    kept = 1 - np.exp((math.log(bias) if bias else -math.inf) - after.log_q) if bias else np.ones(after.points)
    if isinstance(layer, Dense):
        return _scaled(noise, kept)
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

    within, cross = _map(twice, (noise.within, noise.cross))
    linked = noise.linked and _map(once, noise.linked)
    return dataclasses.replace(noise, within=within, cross=cross, shift=read(noise.shift), linked=linked)


def correlations(state: State) -> Blocks:
    """Uncentred correlations of points, within a copy and between two, in single precision."""
    assert state.log_d is not None
    root = state.log_q / 2
    top = float(root.max()) if np.isfinite(root.max()) else 0.0
    size = np.exp(root - top).astype(np.float32)

    def correlation(log_d: np.ndarray) -> np.ndarray:
        def cosines(rows: slice) -> np.ndarray:
            apart, own = np.exp((log_d[rows] - 2 * top).astype(np.float32)), size[rows, None]
            return np.clip((own**2 + size**2 - apart) / np.maximum(2 * own * size, np.float32(1e-30)), -1, 1)

        return by_rows(cosines, len(size))

    return _map(correlation, (state.log_d, state.log_cross))


def _gaussian_own(state: State, channels: int) -> Blocks:
    """Cov(u², v²)/(E u² E v²) = 2ρ², over channels."""
    assert state.log_d is not None
    return _map(lambda rho: 2 * rho**2 / np.float32(channels), correlations(state))


def _sum_own(first: State, total: State, channels: int) -> Blocks | None:
    """Cov(h², h'²) of a sum h = x + f given x: 4 E xx' E ff' + 2 (E ff')² = 2 (E hh')² − 2 (E xx')²."""
    if total.log_d is None:
        return None
    share = np.exp(first.log_q - np.where(np.isfinite(total.log_q), total.log_q, 0.0)).astype(np.float32)
    whole, fixed = _map(np.square, correlations(total)), _map(np.square, correlations(first))
    within, cross = (
        None if one is None or other is None else (one - other * share[:, None] * share) * np.float32(2 / channels)
        for one, other in zip(whole, fixed, strict=True)
    )
    assert within is not None
    return within, cross


def _activation_own(phi: Activation, before: State, after: State, channels: int, normalized: bool) -> Blocks:
    """Cov(φ(u)², φ(v)²)/(C E φ² E φ²); after a normalization without the part of u², whose mean does not vary."""
    if before.log_d is None:
        return np.zeros((before.points,) * 2, np.float32), None
    if phi.homogeneous_slopes is not None:
        ratio = np.float32(_signed_share(phi))

        def covariance(rho: np.ndarray) -> np.ndarray:
            signed = given_images.relu_covariance(rho) - 2 * rho**2  # of u|u| alone
            return (signed * ratio + (0 if normalized else 2 * rho**2)) / np.float32(channels)

        return _map(covariance, correlations(before))
    assert after.population is not None
    fields = after.population().fields
    assert fields is not None
    squares = fields[: 4 * SAMPLED] ** 2
    mean = squares.mean(axis=(0, 1))
    covariances = population.products(squares / np.where(mean > 0, mean, 1) - 1)
    return _map(lambda block: block / np.float32(channels), covariances)
