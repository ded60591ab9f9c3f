"""Infinite width: second moments of points and squared distances between them, layer by layer.

With q_p and d_pp' as in `state`, over units and in logarithms:

    Dense, Conv  q' = σ_w² mean q + σ_b²       d' = σ_w² mean d       over the kernel (`positions`); the bias cancels
    Activation   q' = E φ(u)²                  d' = E (φ(u) − φ(v))²  (u, v) Gaussian: variances q, q', distance d
    BatchNorm    q' = (q_p − |mean|²)/(s + ε)  d' = d/(s + ε)         s = ½ mean d over all points of the batch
    LayerNorm    q' = q_i/s_i²                 d' = [d − (s_i − s_j)² (1 + ε/(s_i s_j))]/(s_i s_j)    s_i² = q_i + ε
    GroupNorm    the same about the mean of a group of channels, which keeps 1/channels of a group of a channel's mean
    Dropout      q' = q/(1 − p)                d' = d + (q + q') p/(1 − p)    independent masks, p the rate
    Pool         means over windows (`positions`); the maximum of sampled units (`population`)
    sum          q' = q_1 + α² q_2             d' = d_1 + α² d_2      independent parts, one of them of zero mean

Where units are not Gaussian and no rule of this list applies, the row's units are sampled (`population`).
Given inputs are carried as they are until the first random layer.
Poole et al. 2016, equations 3 to 5; Schoenholz et al. 2017; Xiao et al. 2018 (convolutions); for BatchNorm, Yang et al.
2019 at large batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.activations import Activation
from bntheory.growth.infinite_width import batch_modes, batch_norm, hermite, population, positions
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import State, log_mean, of_values
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool, Shape, ZeroPad
from bntheory.networks import Residual

ALONE = "BatchNorm needs a batch of at least 2, got 1: every activation would become 0"
PARALLEL = 1e-13  # LayerNorm leaves less of the distance of two parallel inputs: what rounding leaves of zero
SMALL_BATCH = 16  # below, BatchNorm's outputs over a batch lie on a sphere too small to be taken for Gaussian
MANY = 32  # points on vectors from which pairs are taken by Hermite series, as on images
STEP = 1e-4  # of ln q, for slopes
SMALL_ANGLE = 0.01  # below, sin θ − θ cos θ is taken from its series, to 1e-12


def through(layer: Any, state: State, shape: Shape, row: int) -> State | None:
    """Moments after a leaf, given those before it and its input shape; None if there is no rule.

    Parameters
    ----------
    layer : a leaf of the description
    state : State
    shape : tuple
        Of the input.
    row : int
        Of the leaf, by which its weights are told from those of other rows.
    """
    if isinstance(layer, (Dense, Conv)):
        return _weights(layer, state, shape, row)
    if isinstance(layer, Dropout):
        return _dropout(layer, state, row)
    if state.values is not None:
        return _known(layer, state)
    return RULES[type(layer)](layer, state, shape)


def _known(layer: Any, state: State) -> State:
    """Apply a layer without random weights to the given inputs themselves."""
    values, covariances = state.values, state.log_d is not None
    assert values is not None
    if isinstance(layer, Activation):
        return of_values(np.asarray(layer.phi(values)), covariances)
    if isinstance(layer, Flatten):
        return of_values(values.reshape(len(values), -1), covariances)
    if isinstance(layer, (Pool, ZeroPad)):
        return of_values(_on_positions(layer, values), covariances)
    if isinstance(layer, BatchNorm) and not layer.training:
        return of_values(values * (layer.gamma / math.sqrt(1 + layer.epsilon)), covariances)
    if isinstance(layer, BatchNorm) and values[:, 0].size == 1:
        raise ValueError(ALONE)
    groups = {BatchNorm: 0, LayerNorm: 1}.get(type(layer), getattr(layer, "groups", 1))
    grouped = values.reshape(len(values), groups, -1) if groups else values
    axes = (2,) if groups else (0, *range(2, values.ndim))
    variance = grouped.var(axis=axes, keepdims=True)
    if np.any(variance + layer.epsilon == 0):
        what = {BatchNorm: "a channel", LayerNorm: "one"}.get(type(layer), "a group")
        raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: {what} of the inputs is constant")
    unit = (grouped - grouped.mean(axis=axes, keepdims=True)) / np.sqrt(variance + layer.epsilon)
    return of_values(unit.reshape(values.shape) * getattr(layer, "gamma", 1.0), covariances)


def _on_positions(layer: Pool | ZeroPad, values: np.ndarray) -> np.ndarray:
    """Means, maxima or a selection of the positions of given images."""
    shape = layer.output_shape(values.shape[1:])
    if isinstance(layer, Pool):
        read = values.reshape(*values.shape[:2], -1)[..., positions.windows(layer, values.shape[1:])]
        return (read.mean(axis=-1) if layer.kind == "average" else read.max(axis=-1)).reshape(len(values), *shape)
    output, before = np.zeros((len(values), *shape)), (layer.channels - values.shape[1]) // 2
    output[:, before : before + values.shape[1]] = values[:, :, :: layer.stride, :: layer.stride]
    return output


def _weights(layer: Dense | Conv, state: State, shape: Shape, row: int) -> State:
    bias = layer.bias_variance(shape)
    log_bias = math.log(bias) if bias else -math.inf
    log_variance = math.log(layer.weight_variance(shape))
    if isinstance(layer, Dense):
        log_q, blocks = state.log_q, state.blocks
        log_gain = log_variance + math.log(shape[0])
    else:
        log_q, blocks = positions.convolved(layer, state, shape)
        log_gain = log_variance + math.log(shape[0] // layer.groups)
    log_d, log_cross = _two([block + log_gain for block in blocks])
    log_q = np.logaddexp(log_q + log_gain, log_bias)
    spread = state.spread * (1 - math.exp(log_bias - log_mean(log_q))) ** 2 if bias else state.spread
    words = state.method, state.channel_method
    return State(log_q, log_d, log_cross, state.copies, spread, *words, symmetric=True, lineage=frozenset((row,)))


def _two(blocks: list[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    within, cross, *_ = *blocks, None, None
    return within, cross


def _activation(phi: Activation, state: State, shape: Shape) -> State | None:
    if str(phi) == "linear":
        return state
    homogeneous = phi.homogeneous_slopes is not None
    if not state.gaussian or state.mixed:
        return _sampled(state, functools.partial(population.activated, phi))
    if math.isfinite(state.sphere) and not homogeneous:
        return _on_the_sphere(phi, state)
    log_q, blocks = _mapped(phi, state, image=len(shape) == 3)
    log_d, log_cross = _two(blocks)
    exact = state.method == "exact" and state.symmetric and homogeneous
    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        spread=state.spread and state.spread * log_slope(phi, state.log_second_moment) ** 2,
        method=state.method if exact else _inexact(state.method),
        channel_method=_inexact(state.channel_method),
        symmetric=False,
        gaussian=False,
        centred=False,
        population=functools.cache(lambda: _matched(population.activated(phi, population.drawn(state)), log_q)),
    )


def log_slope(phi: Activation, log_q: Any) -> Any:
    """d ln E φ²/d ln q, 1 for a homogeneous φ."""
    if phi.homogeneous_slopes is not None:
        return np.ones_like(log_q)[()]
    safe = np.where(np.isfinite(log_q), log_q, 0.0)
    rise = phi.log_moments(safe + STEP).log_second - phi.log_moments(safe - STEP).log_second
    return np.where(np.isfinite(log_q), rise / (2 * STEP), 0.0)[()]


def _inexact(method: str) -> str:
    return "mean-field" if method == "exact" else method


def _mapped(phi: Activation, state: State, image: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """ln E φ² of every point and ln E (φ(u) − φ(v))² of every pair, each matrix symmetric."""
    log_q = phi.log_moments(state.log_q).log_second
    if not state.blocks:
        return log_q, []
    if (image or state.points > MANY) and phi.homogeneous_slopes is None:
        return log_q, [hermite.log_distances(phi, state.log_q, block) for block in state.blocks]
    if image and state.points > MANY and phi.homogeneous_slopes is not None:
        return log_q, [_homogeneous(phi.homogeneous_slopes, state.log_q, block) for block in state.blocks]
    if state.points <= MANY:
        key = state.log_q.tobytes(), *(block.tobytes() for block in state.blocks)
        return log_q, [block.copy() for block in _remembered(phi, *key)]
    return log_q, [_pairs(phi, state.log_q, block) for block in state.blocks]


@functools.lru_cache(maxsize=256)
def _remembered(phi: Activation, log_q: bytes, *blocks: bytes) -> list[np.ndarray]:
    """Deep networks come to rest at a fixed point."""
    before = np.frombuffer(log_q)
    return [_pairs(phi, before, np.frombuffer(block).reshape(len(before), -1)) for block in blocks]


def _pairs(phi: Activation, log_q: np.ndarray, block: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(len(log_q))
    values = phi.log_distance(log_q[first], log_q[second], block[first, second])
    result = np.empty_like(block)
    result[first, second] = values
    result[second, first] = values
    return result


def _homogeneous(slopes: tuple[float, float], log_q: np.ndarray, block: np.ndarray) -> np.ndarray:
    """d (a² + b²)/2 − (a − b)² √(qq') (sin θ − θ cos θ)/π for a whole matrix, θ the angle between two points.

    As `Activation.log_distance` has it, in a third of the time, for numbers of one scale.
    """
    a, b = slopes
    q, top = positions.linear(log_q)
    root, d = np.sqrt(q), np.exp(block - top)
    product = root[:, None] * root
    theta = d - (root[:, None] - root) ** 2
    np.divide(theta, product, out=theta, where=product > 0)
    theta *= 0.25
    np.clip(theta, 0, 1, out=theta)
    np.arcsin(np.sqrt(theta, out=theta), out=theta)
    theta *= 2
    bend = np.sin(theta) - theta * np.cos(theta)
    small = theta < SMALL_ANGLE
    bend[small] = theta[small] ** 3 * (1 / 3 - theta[small] ** 2 / 30)
    d *= (a**2 + b**2) / 2
    d -= (a - b) ** 2 / math.pi * product * bend
    return positions.log(np.maximum(d, 0, out=d)) + top


def _on_the_sphere(phi: Activation, state: State) -> State | None:
    """A smooth activation after BatchNorm over few inputs: exact if they are alike, else from sampled units."""
    if state.points > 1:
        return _sampled(state, functools.partial(population.activated, phi))
    moments = batch_norm.sphere_moments(phi, state.sphere, state.log_second_moment)
    return dataclasses.replace(
        state,
        log_q=np.array([moments.log_second]),
        log_cross=np.array([[moments.log_distance]]),
        method=_inexact(state.method),
        channel_method=_inexact(state.channel_method),
        gaussian=False,
        centred=False,
        population=functools.cache(lambda: population.activated(phi, population.drawn(state))),
    )


def _sampled(state: State, change: Callable[[Population], Population]) -> State | None:
    """A row whose units are sampled and changed."""
    log_q, log_d, log_cross, after = population.moments(change(population.drawn(state)))
    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        method="population",
        channel_method="population",
        symmetric=False,
        gaussian=False,
        centred=False,
        sphere=math.inf,
        mixed=False,
        population=lambda: after,
        values=None,
    )


def _matched(sampled: Population, log_q: np.ndarray) -> Population:
    """A population with the second moments that are known of its row."""
    particles, fields, scale, _ = sampled
    with np.errstate(divide="ignore", invalid="ignore"):  # a point at which every unit is 0
        log_factor = log_q / 2 - np.log(np.mean(particles**2, axis=0)) / 2 - scale
    log_factor = np.where(np.isfinite(log_factor), log_factor, -math.inf)
    factor, top = positions.linear(log_factor)
    changed = Population(particles * factor, fields, scale + top)
    return population.moments(changed)[3] if fields is not None else changed


def _batch_norm(layer: BatchNorm, state: State, shape: Shape) -> State | None:
    log_gamma = 2 * math.log(layer.gamma) if layer.gamma else -math.inf
    if not layer.training:
        return _scaled(state, log_gamma - math.log1p(layer.epsilon))
    if state.batch == 1:
        raise ValueError(ALONE)
    if state.log_d is None:
        return None
    if not state.gaussian:
        return _normalized_sample(layer, state, axes=(1, 2))
    state = state.folded()
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    log_variance = state.log_channel_variance
    log_scale = np.logaddexp(log_variance, log_epsilon) - log_gamma
    if np.logaddexp(log_variance, log_epsilon) == -math.inf:
        raise ValueError("BatchNorm with epsilon=0 divides by zero: all inputs of the batch look the same here")
    small = len(shape) == 1 and state.batch < (SMALL_BATCH if state.points > 1 else math.inf)
    mixed = state.mixed and state.copies == 1 and not math.isinf(log_scale)
    if mixed or (small and state.batch <= population.KEPT_POINTS and not math.isinf(log_scale)):
        sampled = functools.cache(lambda: _normalized(layer, population.drawn(state), (1, 2)))
    else:
        sampled = None
    few = len(shape) == 3 and state.points <= batch_modes.MOST_POINTS and layer.gamma > 0
    if few and log_epsilon - log_variance < math.log(batch_modes.DOMINANT):
        log_q, blocks = _by_modes(state, math.exp(log_epsilon - log_variance))
        log_d, log_cross = _two([block + log_gamma for block in blocks])
        normalized = dataclasses.replace(state, log_q=log_q + log_gamma, log_d=log_d, log_cross=log_cross)
    else:
        log_q = _centred(state.log_row_means(), log_variance) - log_scale
        normalized = dataclasses.replace(state.mapped(lambda block: block - log_scale), log_q=log_q)
    return dataclasses.replace(
        normalized,
        method=_inexact(state.method),
        channel_method=_inexact(state.channel_method),
        symmetric=False,
        centred=True,
        sphere=state.batch if small else math.inf,
        mixed=mixed,
        population=sampled,
        values=None,
    )


def _by_modes(state: State, epsilon: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Second moments and distances after BatchNorm over few points, from their covariances."""
    blocks, _ = batch_modes.normalized(batch_modes.centred(state), state.copies, epsilon)
    q = np.diagonal(blocks[0])
    logs = [positions.log(np.maximum(q[:, None] + q - 2 * block, 0)) for block in blocks if block is not None]
    np.fill_diagonal(logs[0], -math.inf)
    return positions.log(q), logs


def _centred(log_row_means: np.ndarray, log_variance: float) -> np.ndarray:
    """|h_p − mean|² = mean_p' d_pp' − ½ mean d, with ½ mean d the variance."""
    if log_variance == -math.inf:
        return np.full_like(log_row_means, -math.inf)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(np.exp(log_row_means - log_variance) - 1, 0)) + log_variance


def _scaled(state: State, log_factor: float) -> State:
    """h times exp(log_factor / 2)."""

    def sampled() -> Population:
        units = population.drawn(state)
        return units._replace(log_scale=units.log_scale + log_factor / 2)

    return dataclasses.replace(
        state.mapped(lambda block: block + log_factor),
        log_q=state.log_q + log_factor,
        population=None if state.population is None else sampled,
        values=None,
    )


def _normalized_sample(layer: BatchNorm | LayerNorm | GroupNorm, state: State, axes: tuple[int, ...]) -> State | None:
    return _sampled(state, lambda units: _normalized(layer, units, axes))


def _normalized(layer: Any, units: Population, axes: tuple[int, ...]) -> Population:
    """Subtract the mean of fields along axes and divide by their standard deviation; particles by quantiles."""
    fields = units.fields
    assert fields is not None
    centred = fields - fields.mean(axis=axes, keepdims=True)
    variance = np.mean(centred**2, axis=axes, keepdims=True, dtype=float)
    epsilon = layer.epsilon * math.exp(min(-2 * units.log_scale, 700.0))
    if np.any(variance + epsilon == 0):
        raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: a unit is the same for all inputs")
    fields = (centred / np.sqrt(variance + epsilon) * getattr(layer, "gamma", 1.0)).astype(np.float32)
    return Population(population.quantiles_of(fields, len(units.particles)), fields, 0.0)


def _layer_norm(layer: LayerNorm, state: State, shape: Shape) -> State | None:
    """At infinite width h ↦ h/s_i. In logarithms: (s_i − s_j)²/(s_i s_j) = r (1 − 1/r)² with r = s_i/s_j ≥ 1."""
    image = len(shape) == 3
    if not state.centred:
        return None if state.log_d is None else _normalized_sample(layer, state, (0, 2) if image else (0,))
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    if image:
        return _divided(state, np.logaddexp(state.log_second_moment, log_epsilon), layer)
    log_s = np.logaddexp(state.log_q, log_epsilon) / 2
    if np.any(log_s == -math.inf):
        raise ValueError("LayerNorm with epsilon=0 divides by zero: every unit is 0 here for one of the inputs")

    def divided(block: np.ndarray) -> np.ndarray:
        log_product, ratio = log_s[:, None] + log_s, np.abs(log_s[:, None] - log_s)
        log_d = block - log_product
        with np.errstate(all="ignore"):  # equal sizes, equal inputs
            lost = ratio + 2 * np.log(-np.expm1(-ratio)) + np.log1p(np.exp(log_epsilon - log_product))
            kept = -np.expm1(np.where(ratio > 0, lost - log_d, -math.inf))
            log_d = log_d + np.log(np.where(kept > PARALLEL, kept, 0))
            least = 2 * np.maximum(root[:, None], root) + 2 * np.log(-np.expm1(-np.abs(root[:, None] - root)))
            return np.clip(log_d, least, 2 * np.logaddexp(root[:, None], root))  # the rounding of very unequal inputs

    root = state.log_q / 2 - log_s
    return dataclasses.replace(
        state.mapped(divided),
        log_q=2 * root,
        method=_inexact(state.method),
        channel_method=_inexact(state.channel_method),
        population=None,
        values=None,
    )


def _divided(state: State, log_square: float, layer: Any) -> State:
    """h/s with one s for all points, in mean field."""
    if log_square == -math.inf:
        raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: every unit is 0 here")
    return dataclasses.replace(
        _scaled(state, -log_square),
        spread=0.0,
        method=_inexact(state.method),
        channel_method=_inexact(state.channel_method),
    )


def _group_norm(layer: GroupNorm, state: State, shape: Shape) -> State | None:
    """A channel's mean over positions counts 1/n in the mean of its group of n channels.

    |h_p − M|² = q_p − (2/n) K_p + (1/n) K and, between two images, the difference of the two means M is lost as well.
    """
    members = shape[0] // layer.groups
    if len(shape) == 1:
        return _layer_norm(LayerNorm(layer.epsilon), state, shape) if members > 1 else None
    if not state.centred or state.log_d is None:
        return None
    q, scale = positions.linear(state.log_q)
    d = np.exp(state.log_d - scale)
    rows = d.mean(axis=1)
    kernel = (q + q.mean() - rows) / 2 + 0.0  # K_p: mean over p' of E h_p h_p'
    total = float(np.mean((q.mean() + q) / 2 - rows / 2))
    centred = np.maximum(q - 2 * kernel / members + total / members, 0)
    log_q = positions.log(centred) + scale
    log_cross = state.log_cross
    if log_cross is not None:
        cross = np.exp(log_cross - scale)
        other = cross.mean(axis=1)
        mean_gap = other[:, None] + other - rows[:, None] - rows  # 2 E (h_p − h_p')(M − M') less the positions' part
        means = cross.mean() - d.mean()
        log_cross = positions.log(np.maximum(cross - (mean_gap - means) / members, 0)) + scale
    changed = dataclasses.replace(state, log_q=log_q, log_cross=log_cross, population=None, values=None)
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    return _divided(changed, np.logaddexp(log_mean(log_q), log_epsilon), layer)


def _dropout(layer: Dropout, state: State, row: int) -> State:
    if layer.rate == 0:
        return state
    log_kept, odds = math.log1p(-layer.rate), math.log(layer.rate) - math.log1p(-layer.rate)
    masked = np.logaddexp(state.log_q[:, None], state.log_q) + odds

    def spread(block: np.ndarray) -> np.ndarray:
        apart = np.logaddexp(block, masked)
        if block is state.log_d:
            np.fill_diagonal(apart, -math.inf)
        return apart

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        rng = np.random.default_rng((row, len(particles)))
        kept = [None if part is None else (rng.random(part.shape) >= layer.rate) for part in (particles, fields)]
        changed = particles * kept[0], None if fields is None else fields * kept[1]
        return Population(*changed, scale - log_kept)

    return dataclasses.replace(
        state.mapped(spread),
        log_q=state.log_q - log_kept,
        gaussian=False,
        sphere=math.inf,
        population=functools.cache(sampled),
        values=None,
    )


def _flatten(layer: Flatten, state: State, shape: Shape) -> State:
    """Units of the vector are channels at positions: means over positions, of points and of images at one place."""
    if len(shape) == 1:
        return state
    log_d = None if state.log_d is None else np.full((1, 1), -math.inf)
    log_cross = None if state.log_cross is None else np.full((1, 1), log_mean(np.diagonal(state.log_cross)))

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        if fields is not None:
            fields = np.moveaxis(fields, 2, 1).reshape(-1, fields.shape[1], 1)
        count = len(particles)
        pooled = np.sort(particles.ravel())[particles.shape[1] // 2 :: particles.shape[1]]
        return Population(pooled[:count, None], fields, scale)

    alike = state.points == 1
    return dataclasses.replace(
        state,
        log_q=np.array([state.log_second_moment]),
        log_d=log_d,
        log_cross=log_cross,
        gaussian=state.gaussian and alike,
        population=None if alike and state.gaussian else functools.cache(sampled),
        values=None,
    )


def _pool(layer: Pool, state: State, shape: Shape) -> State | None:
    if state.log_d is None:
        return None
    if layer.kind == "max":
        return _maximum(layer, state, shape)
    matrix = positions.averaging(layer, shape)
    log_q, blocks = positions.averaged(matrix, state)
    log_d, log_cross = _two(blocks)

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        assert fields is not None
        pooled = fields @ matrix.T
        return _matched(Population(population.quantiles_of(pooled, len(particles)), pooled, scale), log_q)

    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        method=_inexact(state.method),
        channel_method=_inexact(state.channel_method),
        population=None if state.gaussian else functools.cache(sampled),
        values=None,
    )


def _maximum(layer: Pool, state: State, shape: Shape) -> State | None:
    places = positions.windows(layer, shape)

    def maximum(units: Population) -> Population:
        assert units.fields is not None
        fields = units.fields[..., places].max(axis=-1)
        return Population(population.quantiles_of(fields, len(units.particles)), fields, units.log_scale)

    return _sampled(state, maximum)


def _zero_pad(layer: ZeroPad, state: State, shape: Shape) -> State:
    """Every stride-th position; of the channels a share is zero."""
    index = np.arange(state.points).reshape(shape[1:])[:: layer.stride, :: layer.stride].ravel()
    log_share = math.log(shape[0] / layer.channels)
    blocks = [None if b is None else b[np.ix_(index, index)] + log_share for b in (state.log_d, state.log_cross)]

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        fields = None if fields is None else _with_zeros(fields[..., index], layer.channels / shape[0])
        return Population(_with_zeros(particles[:, index], layer.channels / shape[0]), fields, scale)

    return dataclasses.replace(
        state,
        log_q=state.log_q[index] + log_share,
        log_d=blocks[0],
        log_cross=blocks[1],
        gaussian=state.gaussian and log_share == 0,
        population=None if state.gaussian and log_share == 0 else functools.cache(sampled),
        values=None,
    )


def _with_zeros(units: np.ndarray, factor: float) -> np.ndarray:
    return np.concatenate([units, np.zeros((round(len(units) * (factor - 1)), *units.shape[1:]))])


def added(block: Residual, shortcut: State, branch: State) -> State | None:
    """Moments after the sum; None if branch and shortcut share weights but are not functions of the same units."""
    if shortcut.values is not None and branch.values is not None:
        return of_values(shortcut.values + block.scale * branch.values, shortcut.log_d is not None)
    independent = not (shortcut.lineage & branch.lineage) and bool(branch.lineage or shortcut.lineage)
    if not independent and shortcut.lineage != branch.lineage:
        return None
    lineage = shortcut.lineage | branch.lineage

    def sampled() -> Population:
        first = population.drawn(shortcut)
        second = population.drawn(branch, like=first)
        return population.added(first, second, block.scale, max(branch.lineage, default=0) if independent else None)

    if not (independent and (shortcut.centred or branch.centred)):
        summed = _sampled(shortcut, lambda _: sampled())
        return None if summed is None else dataclasses.replace(summed, lineage=lineage)
    log_scale = 2 * math.log(block.scale)
    blocks = [
        None if first is None or second is None else np.logaddexp(first, second + log_scale)
        for first, second in ((shortcut.log_d, branch.log_d), (shortcut.log_cross, branch.log_cross))
    ]
    gaussian = shortcut.gaussian and branch.gaussian and math.isinf(min(shortcut.sphere, branch.sphere))
    parts = (shortcut, branch)
    mixed = gaussian and any(part.mixed or part.values is not None for part in parts)
    return dataclasses.replace(
        shortcut,
        log_q=np.logaddexp(shortcut.log_q, branch.log_q + log_scale),
        log_d=blocks[0],
        log_cross=blocks[1],
        spread=_spread(shortcut, branch),
        method=_worse(shortcut.method, branch.method),
        channel_method=_worse(shortcut.channel_method, branch.channel_method),
        symmetric=False,
        gaussian=gaussian,
        centred=shortcut.centred and branch.centred,
        sphere=math.inf,
        lineage=lineage,
        mixed=mixed,
        population=None if gaussian and not mixed else functools.cache(sampled),
        values=None,
    )


def _spread(first: State, second: State) -> float:
    if first.spread == second.spread:
        return first.spread
    share = 1 / (1 + math.exp(min(max(first.log_second_moment - second.log_second_moment, -700.0), 700.0)))
    return first.spread + share * (second.spread - first.spread)


def _worse(first: str, second: str) -> str:
    order = ("exact", "mean-field", "population")
    return max(first, second, key=order.index)


RULES: dict[type, Callable[[Any, State, Shape], State | None]] = {
    Activation: _activation,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    Pool: _pool,
    Flatten: _flatten,
    ZeroPad: _zero_pad,
}
