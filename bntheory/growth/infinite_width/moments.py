"""Infinite width: second moments of points and squared distances between them, layer by layer.

With q_p and d_pp' as in `state`, over units and in logarithms:

    Dense, Conv  q' = σ_w² mean q + σ_b²       d' = σ_w² mean d       over the kernel (`positions`); the bias cancels
    Activation   q' = E φ(u)²                  d' = E (φ(u) − φ(v))²  (u, v) Gaussian: variances q, q', distance d
    BatchNorm    q' = (q_p − |mean|²)/(s + ε)  d' = d/(s + ε)         s = ½ mean d over all points of the batch
                 by weights that it has divided, of few (`kernels`); over given vectors, and with the
                 activation behind it, by the law of the variance (`given_vectors`)
    LayerNorm    over vectors, or the channels of a position; over images one s for all their points
                 q' = q_i/s_i²                 d' = [d − (s_i − s_j)² (1 + ε/(s_i s_j))]/(s_i s_j)    s_i² = q_i + ε
    GroupNorm    the same about the mean of a group of channels, which keeps 1/channels of a group of a channel's mean
    Affine       q' = E γ² q + 2 E γβ E h + E β²       d' = E γ² d      over units; sampled from there on unless γ h
    Dropout      q' = q/(1 − p)                d' = d + (q + q') p/(1 − p)    independent masks, p the rate
    Pool         means over windows (`positions`); the maximum of sampled units (`population`)
    Pad          points of q = 0, as far from others as these are large
    sum          q' = q_1 + α² q_2             d' = d_1 + α² d_2      independent parts, one of them of zero mean
    concatenate, product                       `joins`
    Unflatten, Unroll, Channels, Upsample      `rearranged`
    ConvTranspose                              `transposed`
    Mix                                        `mixing`
    Offset       q' = q + v               d' = d + 2 v between positions, d at one position of two inputs

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
from bntheory.growth.by_rows import by_rows
from bntheory.growth.infinite_width import (
    affine,
    batch_norm,
    given_pairs,
    hermite,
    joins,
    kernels,
    mixing,
    mixtures,
    normalizations,
    population,
    positions,
    rearranged,
    reshaping,
    sizes,
    transposed,
)
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import State, inexact, rows_of, two, worse
from bntheory.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    Pad,
    Pool,
    Shape,
    Unknown,
    ZeroPad,
)
from bntheory.networks import Join, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Unflatten, Unroll, Upsample

MANY = 32  # points on vectors from which pairs are taken by Hermite series, as on images
STEP = 1e-4  # of ln q, for slopes


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
    if isinstance(layer, Unknown):
        return None
    if isinstance(layer, ConvTranspose):
        conv, read = layer.convolution(shape), transposed.spread(layer, state, shape)
        return _weights(conv, read, layer.spread_shape(shape), row)
    if isinstance(layer, Mix):
        return mixing.mix(layer, state, shape, row)
    if isinstance(layer, Offset):
        return _offset(layer, state, shape, row)
    if state.features is not None and not isinstance(layer, Activation):
        state = dataclasses.replace(state, features=None)
    if state.source is not None and not isinstance(layer, BatchNorm):
        state = dataclasses.replace(state, source=None)
    if state.divided is not None and not isinstance(layer, (Activation, Affine, BatchNorm)):
        state = dataclasses.replace(state, divided=None)
    if state.parts and by_channels(layer):
        return _by_parts(layer, state, shape, row)
    if isinstance(layer, (Dense, Conv)):
        return _weights(layer, state, shape, row)
    if isinstance(layer, Dropout):
        return _dropout(layer, state, row)
    if state.values is not None:
        return _known(layer, state)
    made = RULES[type(layer)](layer, state, shape)
    if isinstance(layer, Pool) and made is not None:
        return dataclasses.replace(made, windows=made.windows | {row})
    return made


def by_channels(layer: Any) -> bool:
    """Whether a layer acts on channels one by one, or on groups of them."""
    kinds = Activation, Affine, BatchNorm, Dropout, Flatten, GroupNorm, Pad, Pool, Unflatten, Unroll, Upsample
    return isinstance(layer, kinds) or getattr(layer, "groups", 1) > 1


def _by_parts(layer: Any, state: State, shape: Shape, row: int) -> State | None:
    """Every part of a concatenation by itself; None where groups of channels do not end with the parts."""
    if isinstance(layer, GroupNorm):
        return None
    if isinstance(layer, Unflatten):
        return _by_parts_of_maps(layer, state, row)
    if not isinstance(layer, Conv):
        starts = iter([0, *joins.cuts(state)])

        def of_part(part: State, channels: int) -> State | None:
            start = next(starts)
            own = layer.of(start, start + channels) if isinstance(layer, Affine) else layer
            return through(own, part, (channels, *shape[1:]), row)

        flattened = math.prod(shape[1:]) if isinstance(layer, Flatten) else 1
        return joins.by_parts(of_part, state, state.lineage, flattened, 1)
    if any(end % (shape[0] // layer.groups) for end in joins.cuts(state)):
        return None

    def convolved(part: State, channels: int) -> State:
        return _weights(layer, part, shape, row)

    return joins.by_parts(convolved, state, frozenset((row,)), layer.channels, shape[0])


def _by_parts_of_maps(layer: Unflatten, state: State, row: int) -> State | None:
    """None where a part does not end with a channel."""
    if any(end % layer.positions for end in joins.cuts(state)):
        return None

    def of_part(part: State, units: int) -> State | None:
        return through(layer.of(units), part, (units,), row)

    return joins.by_parts(of_part, state, state.lineage, 1, layer.positions)


def _known(layer: Any, state: State) -> State:
    """Apply a layer without random weights to the given inputs themselves."""
    assert state.values is not None
    return joins.known(_applied(layer, state.values), [state])


def _applied(layer: Any, values: np.ndarray) -> np.ndarray:
    if isinstance(layer, Activation):
        return np.asarray(layer.phi(values))
    if isinstance(layer, Affine):
        return affine.applied(layer, values)
    if type(layer) in rearranged.RULES:
        return rearranged.applied(layer, values)
    if isinstance(layer, Flatten):
        return values.reshape(len(values), -1)
    if isinstance(layer, (Pool, Pad, ZeroPad)):
        return reshaping.on_positions(layer, values)
    if isinstance(layer, BatchNorm) and not layer.training:
        return values * (layer.gamma / math.sqrt(1 + layer.epsilon))
    if isinstance(layer, BatchNorm) and values[:, 0].size == 1:
        raise ValueError(normalizations.ALONE)
    return normalizations.applied(layer, values)


def _weights(layer: Dense | Conv, state: State, shape: Shape, row: int) -> State:
    bias = layer.bias_variance(shape)
    log_bias = math.log(bias) if bias else -math.inf
    log_variance = math.log(layer.weight_variance(shape))
    log_gain = log_variance + math.log(shape[0] // (layer.groups if isinstance(layer, Conv) else 1))
    features = None
    if isinstance(layer, Conv):
        log_q, blocks, roots = positions.convolved(layer, state, shape, log_bias - log_gain)
        if state.values is not None and state.log_d is not None:
            features = given_pairs.features(layer, state.values)
    else:
        log_q, roots = state.log_q, sizes.added((state.sizes, state.log_q), (None, log_bias - log_gain))
        blocks = (
            dataclasses.replace(state.folded(), log_q=np.logaddexp(log_q, log_bias - log_gain)).unfolded(roots).blocks
        )
    log_d, log_cross = two([block + log_gain for block in blocks])
    log_q = np.logaddexp(log_q + log_gain, log_bias)
    words = state.method, state.channel_method
    after = State(log_q, log_d, log_cross, state.copies, roots, *words, symmetric=True, lineage=frozenset((row,)))
    if not isinstance(layer, Conv):
        return after
    source, units = kernels.Convolution(layer, state, shape, row), None
    if apart := kernels.few(layer, state, shape):
        units = functools.cache(lambda: kernels.sampled(source, log_q))
    return dataclasses.replace(after, features=features, apart=apart, source=source, population=units)


def _activation(phi: Activation, state: State, shape: Shape) -> State | None:
    if str(phi) == "linear":
        return state
    homogeneous = phi.homogeneous_slopes is not None
    if not state.gaussian or state.mixed:
        return population.activated_state(phi, state)
    if state.apart:
        return _apart(phi, state, shape)
    if math.isfinite(state.sphere) and not homogeneous:
        return _on_the_sphere(phi, state)
    if state.divided is not None and phi.homogeneous_slopes is not None:
        log_q, *blocks = state.divided.activated(phi.homogeneous_slopes)
    else:
        log_q, blocks = _mapped(phi, state, image=len(shape) == 3)
    if state.features is not None and phi.homogeneous_slopes is not None:
        pairs = given_pairs.activated(phi.homogeneous_slopes, state.features)
        blocks = (
            dataclasses.replace(state, log_q=log_q, log_d=pairs[0], log_cross=pairs[1]).unfolded(state.sizes).blocks
        )
    log_d, log_cross = two(blocks)
    exact = state.method == "exact" and state.symmetric and homogeneous
    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        sizes=state.sizes if homogeneous else sizes.powered(state.sizes, log_slope(phi, state.log_q)),
        features=None,
        divided=None,
        method=state.method if exact else inexact(state.method),
        channel_method=inexact(state.channel_method),
        symmetric=False,
        gaussian=False,
        centred=False,
        population=functools.cache(
            lambda: population.matched(population.activated(phi, population.drawn(state)), log_q)
        ),
    )


def _apart(phi: Activation, state: State, shape: Shape) -> State | None:
    """φ of units that are Gaussian given a kernel of their own: by its covariances, φ not being linear in them.

    The rule for Gaussian units all alike, and what sampled units have beyond that rule for their mean covariances.
    """
    image, units = len(shape) == 3, population.drawn(state)
    plain = _activation(phi, dataclasses.replace(state, apart=False, population=None), shape)
    assert plain is not None
    log_q, log_d, log_cross, changed = population.moments(population.activated(phi, units))
    q, within, cross, _ = population.moments(units)
    expected_q, expected = _mapped(phi, dataclasses.replace(state, log_q=q, log_d=within, log_cross=cross), image)
    top = float(np.max(plain.log_q))

    def corrected(known: np.ndarray, found: np.ndarray, alike: np.ndarray) -> np.ndarray:
        parts = (np.exp(logs - top) for logs in (known, found, alike))
        return positions.log(np.maximum(next(parts) + next(parts) - next(parts), 0)) + top

    blocks = [block for block in (log_d, log_cross) if block is not None]
    log_d, log_cross = two([corrected(*each) for each in zip(plain.blocks, blocks, expected, strict=True)])
    homogeneous = phi.homogeneous_slopes is not None
    log_q = plain.log_q if homogeneous else corrected(plain.log_q, log_q, expected_q)
    return dataclasses.replace(
        plain,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        method=plain.method if homogeneous else worse(plain.method, "population"),
        channel_method=worse(plain.channel_method, "population"),
        population=functools.cache(lambda: population.matched(changed, log_q)),
    )


def log_slope(phi: Activation, log_q: Any) -> Any:
    """d ln E φ²/d ln q, 1 for a homogeneous φ."""
    if phi.homogeneous_slopes is not None:
        return np.ones_like(log_q)[()]
    safe = np.where(np.isfinite(log_q), log_q, 0.0)
    rise = phi.log_moments(safe + STEP).log_second - phi.log_moments(safe - STEP).log_second
    return np.where(np.isfinite(log_q), rise / (2 * STEP), 0.0)[()]


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
    """As `Activation.log_distance` has it for a whole matrix, in a tenth of the time, for numbers of one scale."""
    q, top = positions.linear(log_q)
    root = np.sqrt(q)

    def distances(rows: slice) -> np.ndarray:
        d = np.exp(block[rows] - top)
        return positions.log(given_pairs.mapped(slopes, d, root[rows, None], root)) + top

    return by_rows(distances, len(block))


def _on_the_sphere(phi: Activation, state: State) -> State | None:
    """A smooth activation after BatchNorm over few inputs: exact if they are alike, else from sampled units."""
    if state.points > 1:
        return population.activated_state(phi, state)
    moments = batch_norm.sphere_moments(phi, state.sphere, state.log_second_moment)
    return dataclasses.replace(
        state,
        log_q=np.array([moments.log_second]),
        log_cross=np.array([[moments.log_distance]]),
        method=inexact(state.method),
        channel_method=inexact(state.channel_method),
        gaussian=False,
        centred=False,
        population=functools.cache(lambda: population.activated(phi, population.drawn(state))),
    )


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


def _offset(layer: Offset, state: State, shape: Shape, row: int) -> State | None:
    """A sum with Gaussian numbers that differ between positions and agree between inputs."""
    if layer.variance == 0:
        return state
    log_variance = math.log(layer.variance)
    apart = np.full((state.points,) * 2, log_variance + math.log(2) if len(shape) == 3 else -math.inf)
    np.fill_diagonal(apart, -math.inf)
    log_d, log_cross = (None if block is None else apart.copy() for block in (state.log_d, state.log_cross))
    log_q, own = np.full(state.points, log_variance), frozenset((row,))
    constants = State(log_q, log_d, log_cross, state.copies, symmetric=True, lineage=own)
    return added(Residual(Sequential(())), state, constants)


def added(block: Residual, shortcut: State, branch: State) -> State | None:
    """Moments after the sum; None if branch and shortcut share weights but are not functions of the same units.

    Units of two pools, or of a pool and what it reads, are functions of several positions of the same units.
    """
    if not joins.alike(shortcut, branch):
        return None
    if shortcut.values is not None and branch.values is not None:
        return joins.known(shortcut.values + block.scale * branch.values, [shortcut, branch])
    independent = joins.independent(shortcut, branch)
    if not independent and (shortcut.lineage, shortcut.windows) != (branch.lineage, branch.windows):
        return None
    if shortcut.parts or branch.parts:
        return joins.pairwise(functools.partial(added, block), shortcut, branch)
    lineage, unlike = shortcut.lineage | branch.lineage, shortcut.unlike or branch.unlike
    beside = shortcut.beside | branch.beside
    given = any(part.mixed or part.values is not None for part in (shortcut, branch))

    def sampled() -> Population:
        parts = (shortcut.folded(), branch.folded()) if given else (shortcut, branch)  # given numbers have their sizes
        first = population.drawn(parts[0])
        second = population.drawn(parts[1], like=first)
        return population.added(first, second, block.scale, max(rows_of(branch.lineage)) if independent else None)

    log_scale = 2 * math.log(block.scale)
    if not (independent and (shortcut.centred or branch.centred)):
        summed = population.sampled_state(shortcut, lambda _: sampled())
        roots = sizes.added((shortcut.sizes, shortcut.log_q), (branch.sizes, branch.log_q + log_scale))
        return dataclasses.replace(
            summed,
            sizes=None if given else roots,
            method=worse(summed.method, branch.method),
            channel_method=worse(summed.channel_method, branch.channel_method),
            lineage=lineage,
            beside=beside,
            unlike=unlike,
        )
    gaussian = shortcut.gaussian and branch.gaussian and math.isinf(min(shortcut.sphere, branch.sphere))
    mixed, apart = gaussian and given, gaussian and (shortcut.apart or branch.apart)
    return dataclasses.replace(
        shortcut,
        **mixtures.summed((shortcut, branch), (0.0, log_scale))._asdict(),
        features=None,
        divided=None,
        method=worse(shortcut.method, branch.method),
        channel_method=worse(shortcut.channel_method, branch.channel_method),
        symmetric=False,
        gaussian=gaussian,
        centred=shortcut.centred and branch.centred,
        apart=apart,
        source=None,
        sphere=math.inf,
        lineage=lineage,
        beside=beside,
        unlike=unlike,
        mixed=mixed,
        population=None if gaussian and not (mixed or apart) else functools.cache(sampled),
        values=None,
    )


def joined(block: Join, states: list[State], channels: list[int], row: int) -> State | None:
    """Moments of what a block makes of its branches; None if there is no rule."""
    if block.operation == "concatenate":
        return joins.concatenated(channels, states, row)
    if block.operation == "product":
        first, second = states
        return joins.product(first, second, row)
    return None


RULES: dict[type, Callable[[Any, State, Shape], State | None]] = {
    Activation: _activation,
    BatchNorm: normalizations.batch_norm,
    LayerNorm: normalizations.layer_norm,
    GroupNorm: normalizations.group_norm,
    Affine: affine.affine,
    Pool: reshaping.pool,
    Pad: reshaping.pad,
    Flatten: reshaping.flatten,
    ZeroPad: reshaping.zero_pad,
    **rearranged.RULES,
}
