"""Infinite width: BatchNorm, LayerNorm and GroupNorm of moments and distances; see `moments` for the rules."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bntheory.growth.infinite_width import (
    affine,
    batch_modes,
    given_vectors,
    joins,
    kernels,
    population,
    positions,
    sizes,
)
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import State, inexact, log_mean, two
from bntheory.layers import BatchNorm, GroupNorm, LayerNorm, Shape

ALONE = "BatchNorm needs a batch of at least 2, got 1: every activation would become 0"
PARALLEL = 1e-13  # LayerNorm leaves less of the distance of two parallel inputs: what rounding leaves of zero
SMALL_BATCH = 16  # below, BatchNorm's outputs over a batch lie on a sphere too small to be taken for Gaussian


def batch_norm(layer: BatchNorm, state: State, shape: Shape) -> State | None:
    """(h − mean)/√(s² + ε) over the batch, times γ; in evaluation mode h γ/√(1 + ε).

    With the mean of s² over units, at large batch; over given vectors pair by pair, and on maps of few positions by the
    modes of the covariances; units that are not Gaussian are sampled. ValueError over a single number, or where ε and
    s² are both 0.
    """
    log_gamma = 2 * math.log(layer.gamma) if layer.gamma else -math.inf
    if not layer.training:
        return affine.scaled(state, log_gamma - math.log1p(layer.epsilon))
    if state.batch == 1:
        raise ValueError(ALONE)
    if state.log_d is None:
        return None
    if not state.gaussian:
        return dataclasses.replace(_normalized_sample(layer, state, axes=(1, 2)), sizes=None)
    state = state.folded()
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    log_variance = state.log_channel_variance
    if state.apart and state.source is not None:
        state = kernels.normalized_apart(state, layer.epsilon)
    log_scale = np.logaddexp(log_variance, log_epsilon) - log_gamma
    if np.logaddexp(log_variance, log_epsilon) == -math.inf:
        raise ValueError("BatchNorm with epsilon=0 divides by zero: all inputs of the batch look the same here")
    small = len(shape) == 1 and state.batch < (SMALL_BATCH if state.points > 1 else math.inf)
    mixed = state.mixed and state.copies == 1 and not math.isinf(log_scale)
    if mixed or state.apart or (small and state.batch <= population.KEPT_POINTS and not math.isinf(log_scale)):
        sampled = functools.cache(lambda: _normalized(layer, population.drawn(state), (1, 2)))
    else:
        sampled = None
    divided = given_vectors.divided(layer, state, shape)
    few = len(shape) == 3 and state.points <= batch_modes.MOST_POINTS and layer.gamma > 0
    if few and log_epsilon - log_variance < math.log(batch_modes.DOMINANT):
        log_q, blocks = _by_modes(state, math.exp(log_epsilon - log_variance))
        log_d, log_cross = two([block + log_gamma for block in blocks])
        normalized = dataclasses.replace(state, log_q=log_q + log_gamma, log_d=log_d, log_cross=log_cross)
    elif divided is not None:
        log_q, log_d = divided.activated((1.0, 1.0))
        normalized = dataclasses.replace(state, log_q=log_q, log_d=log_d)
    else:
        log_q = _centred(state.log_row_means, log_variance) - log_scale
        normalized = dataclasses.replace(state.mapped(lambda block: block - log_scale), log_q=log_q)
    return dataclasses.replace(
        normalized,
        method=inexact(state.method),
        channel_method=inexact(state.channel_method),
        symmetric=False,
        centred=True,
        sphere=state.batch if small else math.inf,
        mixed=mixed,
        source=None,
        divided=divided,
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


def _normalized_sample(layer: BatchNorm | LayerNorm | GroupNorm, state: State, axes: tuple[int, ...]) -> State:
    return population.sampled_state(state, lambda units: _normalized(layer, units, axes))


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


def applied(layer: BatchNorm | LayerNorm | GroupNorm, values: np.ndarray) -> np.ndarray:
    """Given values normalized; ValueError where that divides by zero."""
    grouped, axes, what = values, (0, *range(2, values.ndim)), "a channel"
    if isinstance(layer, LayerNorm) and layer.by_position(values.shape[1:]):
        axes, what = (1,), "a position"
    elif isinstance(layer, (LayerNorm, GroupNorm)):
        groups, what = (layer.groups, "a group") if isinstance(layer, GroupNorm) else (1, "one")
        grouped, axes = values.reshape(len(values), groups, -1), (2,)
    variance = grouped.var(axis=axes, keepdims=True)
    if np.any(variance + layer.epsilon == 0):
        raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: {what} of the inputs is constant")
    unit = (grouped - grouped.mean(axis=axes, keepdims=True)) / np.sqrt(variance + layer.epsilon)
    return unit.reshape(values.shape) * getattr(layer, "gamma", 1.0)


def layer_norm(layer: LayerNorm, state: State, shape: Shape) -> State | None:
    """At infinite width h ↦ h/s_i. In logarithms: (s_i − s_j)²/(s_i s_j) = r (1 − 1/r)² with r = s_i/s_j ≥ 1."""
    image = len(shape) == 3 and not layer.by_position(shape)
    log_epsilon, log_own = math.log(layer.epsilon) if layer.epsilon else -math.inf, _log_own(state)
    log_square = np.logaddexp(log_mean(log_own, axis=1)[:, None] if image else log_own, log_epsilon)
    if not state.centred:
        if state.log_d is None:
            return None
        after = _normalized_sample(layer, state, (0, 2) if image else (0,))
        return after if after.sizes is None else dataclasses.replace(after, sizes=_sizes(log_own - log_square))
    if state.parts:
        return joins.by_parts(lambda part, _: _divided(part, log_square, layer), state, state.lineage)
    if image or state.sizes is not None:
        return _divided(state, log_square, layer)
    log_s = log_square[0] / 2
    if np.any(log_s == -math.inf):
        raise ValueError("LayerNorm with epsilon=0 divides by zero: every unit is 0 here for one of the points")

    def divided(block: np.ndarray) -> np.ndarray:
        log_product, ratio = log_s[:, None] + log_s, np.abs(log_s[:, None] - log_s)
        log_d = block - log_product
        with np.errstate(all="ignore"):  # equal sizes, equal inputs
            lost = ratio + 2 * np.log(-np.expm1(-ratio)) + np.log1p(np.exp(log_epsilon - log_product))
            kept = -np.expm1(np.where(ratio > 0, lost - log_d, -math.inf))
            log_d = log_d + np.log(np.where(kept > PARALLEL, kept, 0))
            least = 2 * np.maximum(root[:, None], root) + 2 * np.log(-np.expm1(-np.abs(root[:, None] - root)))
            log_d = np.clip(log_d, least, 2 * np.logaddexp(root[:, None], root))  # the rounding of very unequal inputs
            return np.where(np.isneginf(block), -math.inf, log_d)

    root = state.log_q / 2 - log_s
    return dataclasses.replace(
        state.mapped(divided),
        log_q=2 * root,
        method=inexact(state.method),
        channel_method=inexact(state.channel_method),
        population=_rescaled(state, 2 * root),
        values=None,
    )


def _rescaled(state: State, log_q: np.ndarray) -> Callable[[], Population] | None:
    """Sampled units with other second moments."""
    if state.population is None:
        return None
    return functools.cache(lambda: population.matched(population.drawn(state), log_q))


def _divided(state: State, log_square: np.ndarray, layer: Any) -> State:
    """h/s in mean field, s² of every image, or one for all, and of every point, or one for all."""
    if np.any(log_square == -math.inf):
        raise ValueError(f"{type(layer).__name__} with epsilon=0 divides by zero: every unit is 0 here")
    state = dataclasses.replace(state, method=inexact(state.method), channel_method=inexact(state.channel_method))
    if log_square.size == 1:
        return affine.scaled(state, -log_square.item())
    log_own = _log_own(state) - log_square
    with np.errstate(invalid="ignore"):  # points at which every unit is 0
        log_factor = (log_mean(log_own, axis=0) - state.log_q) / 2
    log_factor = np.where(np.isfinite(log_factor), log_factor, 0.0)
    return affine.at_points(state, log_factor, sizes=_sizes(log_own))


def _log_own(state: State) -> np.ndarray:
    """ln q of every image, (images, points), in one row if all are alike."""
    return state.log_q + (np.zeros((1, 1)) if state.sizes is None else 2 * positions.log(state.sizes))


def _sizes(log_own: np.ndarray) -> np.ndarray | None:
    return None if len(log_own) == 1 else sizes.roots(positions.linear(log_own)[0])


def group_norm(layer: GroupNorm, state: State, shape: Shape) -> State | None:
    """A channel's mean over positions counts 1/n in the mean of its group of n channels.

    |h_p − M|² = q_p − (2/n) K_p + (1/n) K and, between two images, the difference of the two means M is lost as well.
    """
    members = shape[0] // layer.groups
    if len(shape) == 1:
        return layer_norm(LayerNorm(layer.epsilon), state, shape) if members > 1 else None
    if not state.centred or state.log_d is None:
        return None
    q, scale = positions.linear(state.log_q)
    roots, state = state.sizes, state.folded()
    assert state.log_d is not None
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
    sampled = _rescaled(state, log_q)
    changed = dataclasses.replace(state, log_q=log_q, log_cross=log_cross, population=sampled, values=None)
    changed = changed.unfolded(roots)
    log_epsilon = math.log(layer.epsilon) if layer.epsilon else -math.inf
    return _divided(changed, np.logaddexp(log_mean(_log_own(changed), axis=1)[:, None], log_epsilon), layer)
