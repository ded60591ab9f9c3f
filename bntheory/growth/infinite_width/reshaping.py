"""Infinite width: layers of positions, Flatten, pooling, zeros around a map and the zero-padded shortcut."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from bntheory.growth.infinite_width import population, positions, sizes
from bntheory.growth.infinite_width.population import Population
from bntheory.growth.infinite_width.state import State, inexact, log_mean, two
from bntheory.layers import Flatten, Pad, Pool, Shape, ZeroPad


def flatten(layer: Flatten, state: State, shape: Shape) -> State:
    """Units of the vector are channels at positions: means over positions, of points and of images at one place."""
    if len(shape) == 1:
        return state
    roots = state.sizes
    if roots is not None:
        roots = sizes.roots(np.mean(roots**2 * positions.linear(state.log_q)[0], axis=1, keepdims=True))
    state = state.folded()
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
        population=None if alike and state.gaussian and not state.apart else functools.cache(sampled),
        flattened=state.flattened or not alike,
        values=None,
    ).unfolded(roots)


def pool(layer: Pool, state: State, shape: Shape) -> State | None:
    """Means over windows, from all distances within them, or the maximum of sampled units; None without distances."""
    if state.log_d is None:
        return None
    if layer.kind == "max":
        return _maximum(layer, state, shape)
    matrix = positions.averaging(layer, shape)
    roots = None if state.sizes is None else sizes.averaged(matrix, state.sizes, _covariances(state))
    state = state.folded()
    log_q, blocks = positions.averaged(matrix, state)
    log_d, log_cross = two(blocks)

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        assert fields is not None
        pooled = fields @ matrix.T
        return population.matched(Population(population.quantiles_of(pooled, len(particles)), pooled, scale), log_q)

    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        method=inexact(state.method),
        channel_method=inexact(state.channel_method),
        population=None if state.gaussian and not state.apart else functools.cache(sampled),
        values=None,
    ).unfolded(roots)


def _covariances(state: State) -> np.ndarray:
    assert state.log_d is not None
    q, top = positions.linear(state.log_q)
    return (q[:, None] + q - np.exp(state.log_d - top)) / 2


def _maximum(layer: Pool, state: State, shape: Shape) -> State | None:
    places = positions.windows(layer, shape)

    def maximum(units: Population) -> Population:
        assert units.fields is not None
        fields = positions.read(units.fields, places, -math.inf).max(axis=-1)
        return Population(population.quantiles_of(fields, len(units.particles)), fields, units.log_scale)

    alike = dataclasses.replace(state, sizes=None)  # what maxima make of unequal images has no rule
    return population.sampled_state(alike, maximum)


def pad(layer: Pad, state: State, shape: Shape) -> State:
    """Points of zeros around the map."""
    log_q, blocks = positions.padded(state, shape[1:], layer.sides)
    log_d, log_cross = two(blocks)
    index = positions.within(shape[1:], layer.sides)

    def around(values: np.ndarray) -> np.ndarray:
        full = np.zeros((*values.shape[:-1], len(log_q)), values.dtype)
        full[..., index] = values
        return full

    def sampled() -> Population:
        particles, fields, scale, _ = population.drawn(state)
        return Population(around(particles), None if fields is None else around(fields), scale)

    return dataclasses.replace(
        state,
        log_q=log_q,
        log_d=log_d,
        log_cross=log_cross,
        sizes=None if state.sizes is None else around(state.sizes - 1) + 1,
        population=None if state.population is None else functools.cache(sampled),
        values=None,
    )


def zero_pad(layer: ZeroPad, state: State, shape: Shape) -> State:
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
        sizes=None if state.sizes is None else state.sizes[:, index],
        gaussian=state.gaussian and log_share == 0,
        population=None if state.gaussian and log_share == 0 and not state.apart else functools.cache(sampled),
        unlike=state.unlike or log_share < 0,
        parts=(),
        values=None,
    )


def _with_zeros(units: np.ndarray, factor: float) -> np.ndarray:
    return np.concatenate([units, np.zeros((round(len(units) * (factor - 1)), *units.shape[1:]))])


def on_positions(layer: Pool | Pad | ZeroPad, values: np.ndarray) -> np.ndarray:
    """Means, maxima or a selection of the positions of given images."""
    shape = layer.output_shape(values.shape[1:])
    if isinstance(layer, Pad):
        return np.pad(values, ((0, 0), (0, 0), *layer.sides))
    if isinstance(layer, Pool):
        places, outside = positions.windows(layer, values.shape[1:]), 0.0 if layer.kind == "average" else -math.inf
        read = positions.read(values.reshape(*values.shape[:2], -1), places, outside)
        return (read.mean(axis=-1) if layer.kind == "average" else read.max(axis=-1)).reshape(len(values), *shape)
    output, before = np.zeros((len(values), *shape)), (layer.channels - values.shape[1]) // 2
    output[:, before : before + values.shape[1]] = values[:, :, :: layer.stride, :: layer.stride]
    return output
